//! A share of `make crashes`: the power fails at every moment of what a machine did.

use remap_harness::Crashes;

#[test]
fn all_that_was_flushed_is_there_at_every_moment() {
    let report = Crashes::of_seed(301, 6).check(90);
    println!("{report}");
    assert!(report.moments >= 45 && report.marked > 0, "little to look at: {report}");
    assert!(report.changes > 0 && report.moves > 0 && report.settings > 0, "{report}");
}
