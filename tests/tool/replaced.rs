//! Sets whose main is being replaced, on images: what is found of that, and what is not done to them.

use super::{run, Spare, MAIN, SPARE};
use remap_harness::image::{crc, Image};
use remap_pure::create::create;
use remap_pure::format::header::{Header, NewSet, NewSpare};
use remap_pure::format::layout::Layout;
use remap_pure::format::{Attempt, SetUuid};
use remap_pure::identity::{fingerprint, Facts};
use remap_pure::store::SpareSet;
use remap_pure::units::Sectors;

/// The spare of a set that has nothing remapped, whose main is being replaced.
fn replacing(name: &str) -> Spare {
    let mut image = Image::blank(SPARE);
    let facts = |sectors| Facts::of_size(Sectors(sectors), 512, 512);
    let set = NewSet {
        uuid: SetUuid(*b"a replaced main."),
        history: 1,
        name: "home",
        time: 1,
        layout: Layout::STANDARD,
        main_sectors: Sectors(MAIN),
        main_start: Sectors(0),
        line: "",
    };
    let member = NewSpare {
        uuid: *b"its spare's uuid",
        fingerprint: fingerprint(&facts(SPARE)),
        used_start: Sectors(0),
        used_sectors: Sectors(SPARE),
    };
    let put = |header: &mut Header| {
        header.raw_mut().main = fingerprint(&facts(MAIN));
        header.begin_replacement(Attempt([9; 16]));
    };
    create(&mut image, &set, &[member], SpareSet::NONE, crc, put).unwrap_or_else(|e| panic!("{e}"));
    Spare::of(name, &image)
}

#[test]
fn the_spare_of_a_set_whose_main_is_being_replaced_is_not_wiped_unasked() {
    let spare = replacing("replaced-wipe");
    let before = spare.bytes();
    let says = ["is not wiped", "being replaced", "replace-main --continue", "--lost"];
    spare.run("wipe --yes").is(1, &says);
    spare.run("wipe --dry-run").is(1, &says);
    assert!(spare.bytes() == before, "something was written");
    run("scan --only", &[&spare]).is(5, &["replace-main --continue home"]);
    spare.run(&format!("wipe --yes --lost {}", spare.path())).is(0, &["is blank"]);
}
