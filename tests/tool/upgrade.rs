//! `dmremap upgrade`: a spare in the v3 format becomes one of a v4 set, with all that is on it.

use super::{run, Run, Spare};
use remap_harness::image::Image;
use remap_images::sim::{Rng, MAIN, SECTORS};
use remap_images::v3::{data, some_entries, v3};
use serde_json::Value;

struct V3 {
    spare: Spare,
    main: Spare,
}

impl V3 {
    fn new(name: &str, image: &str) -> Self {
        let spare = Spare::kept(name, image).remove(0);
        Self { spare, main: Spare::of(&format!("{name}-main"), &Image::blank(MAIN)) }
    }

    fn upgrade(&self, options: &str) -> Run {
        run(&format!("upgrade --main {} {options}", self.main.path()), &[&self.spare])
    }
}

#[test]
fn a_kept_spare_of_each_drawing_has_all_its_data_afterwards() {
    for (drawing, seed, word) in [("first", 1, "first drawing"), ("second", 2, "second drawing")] {
        let set = V3::new(&format!("upgrade-{drawing}"), &format!("v3-{drawing}-drawing"));
        let before = set.spare.bytes();
        set.spare.run("check").is(4, &["run `dmremap upgrade`"]);
        set.upgrade("--dry-run").is(4, &[word, "20 entries, 25 ever made", "its checksum fits"]);
        set.upgrade("").is(1, &["--yes"]);
        assert!(set.spare.bytes() == before, "something was written");
        set.upgrade("--yes --name old").is(0, &["upgraded; the table line is 0 16777216 remap"]);
        set.spare.run("check --level forensic").is(0, &["nothing wrong"]);

        let dump: Value = serde_json::from_str(&set.spare.run("dump").is(0, &[]).text).unwrap();
        assert_eq!(
            (&dump["name"], &dump["lifetime"]["manual_remaps"]),
            (&"old".into(), &25.into())
        );
        let bytes = set.spare.bytes();
        let mut left = some_entries(20, 9216, &mut Rng::new(seed));
        for extent in dump["extents"].as_array().unwrap() {
            let number = |key: &str| extent[key].as_u64().unwrap();
            for i in 0..number("len") {
                let at = (number("to") + i) as usize * 512;
                assert!(bytes[at..at + 512] == data(number("start") + i));
                left.remove(&(number("start") + i)).unwrap();
            }
        }
        assert!(left.is_empty());
        set.upgrade("--yes").is(1, &["is in the v4 format", "already"]);
    }
}

#[test]
fn a_name_that_no_set_can_have_is_refused_before_anything_is_written() {
    let set = V3::new("upgrade-name", "v3-first-drawing");
    let before = set.spare.bytes();
    let long = "n".repeat(64);
    for name in ["a/b", "caf\u{e9}", &long] {
        set.upgrade(&format!("--yes --name {name}")).is(1, &["1 to 63 letters", name]);
    }
    assert!(set.spare.bytes() == before, "something was written");
}

#[test]
fn an_upgrade_that_was_cut_short_is_taken_up_where_it_was() {
    let set = V3::new("upgrade-cut", "v3-first-drawing");
    let before = set.spare.bytes();
    set.upgrade("--yes").is(0, &[]);
    let done = set.spare.bytes();
    // The end is missing: copy 0 is not written yet, and another copy neither.
    set.spare.write(0, 0, &before[..1024 * 512]);
    set.upgrade("--yes").is(1, &["on spare 0 of the v4 set"]);
    let small = Spare::of("upgrade-cut-small", &Image::blank(MAIN - 8));
    let other = || run(&format!("upgrade --main {} --yes", small.path()), &[&set.spare]);
    set.spare.write(0, 0, &[0; 1024 * 512]);
    set.spare.write(2048, 0, &before[2048 * 512..3072 * 512]);
    other().is(1, &["was for another main than", "give that one"]);
    set.upgrade("--dry-run").is(3, &["lacks its end"]);
    set.upgrade("--yes").is(0, &["upgraded"]);
    set.spare.run("check").is(0, &["nothing wrong"]);
    assert!(set.spare.bytes()[3072 * 512..4096 * 512] == done[3072 * 512..4096 * 512]);
}

#[test]
fn a_spare_is_used_in_whole_blocks_as_the_table_line_has_it() {
    let odd = SECTORS + 5;
    // The second has data behind the last whole block, so the line has to name that too.
    for (name, place, part) in [("whole", 9300, ""), ("behind", SECTORS + 3, " 0 32773")] {
        let old = v3(SECTORS + 8, 1, &[(4096, 9216), (5000, place)].into());
        let spare = Spare::of(&format!("upgrade-odd-{name}"), &Image::blank(SECTORS + 8));
        old.disks[0].written().for_each(|(at, block)| spare.write(at * 8, 0, block));
        // What its header says of the size.
        spare.write(0, 40, &(odd * 512).to_le_bytes());
        let file = std::fs::File::options().write(true).open(&spare.0).unwrap();
        file.set_len(odd * 512).unwrap();
        let main = Spare::of(&format!("upgrade-odd-{name}-main"), &Image::blank(MAIN));
        let set = V3 { spare, main };
        let said = set.upgrade("--yes --ignore-checksum");
        let line = format!("remap {} {}{part}\n", set.main.path(), set.spare.path());
        said.is(0, &[&line]);
        let dump: Value = serde_json::from_str(&set.spare.run("dump").is(0, &[]).text).unwrap();
        let used = if part.is_empty() { SECTORS } else { odd };
        assert_eq!(dump["spares"][0]["device"]["sectors"], used, "{:#}", dump["spares"]);
        let to = dump["extents"][1]["to"].as_u64().unwrap();
        assert_eq!(set.spare.bytes()[to as usize * 512..][..512], data(5000));
    }
}

#[test]
fn what_is_not_as_it_should_be_is_named() {
    let set = V3::new("upgrade-wrong", "v3-second-drawing");
    set.spare.write(0, 12, &[1, 2, 3, 4]);
    let before = set.spare.bytes();
    set.upgrade("--yes").is(1, &["its checksum does not fit", "--ignore-checksum"]);
    assert!(set.spare.bytes() == before, "something was written");
    let other = V3 {
        spare: Spare::of("upgrade-blank", &Image::blank(SECTORS)),
        main: Spare::of("upgrade-small", &Image::blank(MAIN - 8)),
    };
    other.upgrade("--yes").is(1, &["is not in the v3 format"]);
    run(&format!("upgrade --main {} --yes", other.main.path()), &[&set.spare])
        .is(1, &["makes no sense with this main"]);
    run("upgrade --main /nowhere --yes", &[&set.spare]).is(1, &["/nowhere: cannot be looked at"]);
    set.upgrade("--yes --ignore-checksum").is(0, &["upgraded"]);
    set.spare.run("check --level forensic").is(0, &["nothing wrong"]);
}
