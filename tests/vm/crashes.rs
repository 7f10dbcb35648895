//! A share of `make crashes`: the power fails at every moment of what a machine did.

use remap_harness::Crashes;

#[test]
fn all_that_was_flushed_is_there_at_every_moment() {
    let report = Crashes::of_seed(301, 6).check(90);
    println!("{report}");
    assert!(report.moments >= 45 && report.marked > 0, "little to look at: {report}");
}

#[test]
#[should_panic(expected = "things are wrong")]
fn a_main_that_flushes_nothing_is_found_out() {
    Crashes::of_seed(302, 6).without_flushes_of(0).check(30);
}

#[test]
#[should_panic(expected = "the power fails before request")]
fn a_spare_that_flushes_nothing_is_found_out() {
    Crashes::of_seed(303, 6).without_flushes_of(1).check(30);
}
