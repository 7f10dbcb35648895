//! `dmremap scan` and `dmremap wipe` on images: what is found of a set, whatever state it is in, and what is taken off a spare.

use super::{run, Spare, SLOTS, SPARE};
use remap_harness::image::Image;
use serde_json::Value;

/// What a scan of only these says.
fn scan(spares: &[&Spare]) -> (i32, Value) {
    let said = run("scan --json --only", spares);
    let json = serde_json::from_str(&said.text).unwrap_or_else(|e| panic!("{e}: {}", said.text));
    (said.status, json)
}

fn kept(test: &str, image: &str) -> Vec<Spare> {
    Spare::kept(&format!("{test}-{image}"), image)
}

#[test]
fn every_state_of_a_set_is_told_from_the_others() {
    for (image, status, state) in [
        ("fresh", 5, "incomplete"),
        ("extents", 5, "incomplete"),
        ("large-layout", 5, "incomplete"),
        ("newer-compatible", 5, "incomplete"),
        ("newer-incompatible", 4, "unusable"),
        ("used-apart", 4, "conflict"),
    ] {
        let spares = kept("scan", image);
        let before: Vec<Vec<u8>> = spares.iter().map(Spare::bytes).collect();
        let all: Vec<&Spare> = spares.iter().collect();
        let (said, json) = scan(&all);
        assert_eq!((said, &json["sets"][0]["state"]), (status, &state.into()), "{image}: {json:#}");
        assert!(json["sets"][0]["main"]["device"].is_null(), "{image}: {json:#}");
        let after: Vec<Vec<u8>> = spares.iter().map(Spare::bytes).collect();
        assert!(before == after, "{image}: something was written");
    }
    for (image, says) in [
        ("v3-first-drawing", "dmremap upgrade"),
        ("v3-second-drawing", "dmremap upgrade"),
        ("marks-only", "was cut short"),
    ] {
        let spares = kept("scan", image);
        let (_, json) = scan(&[&spares[0]]);
        assert_eq!(json["sets"], Value::Array(Vec::new()), "{image}");
        let what = json["others"][0]["what"].as_str().unwrap();
        assert!(what.contains(says), "{image}: {what}");
    }
    let blank = Spare::of("scan-blank", &Image::blank(SPARE));
    run("scan --only", &[&blank]).is(0, &["no set is on any device"]);
}

#[test]
fn a_spare_that_is_not_there_is_named_by_all_that_is_known_of_it() {
    let spares = kept("missing", "two-spares");
    let (status, json) = scan(&[&spares[0]]);
    let missing = &json["sets"][0]["missing"][0];
    assert_eq!((status, &missing["member"]), (5, &"spare 1".into()), "{json:#}");
    let uuid = missing["uuid"].as_str().unwrap();
    assert_eq!(uuid.len(), 36);
    assert!(missing["known"]["hardware_id"].is_string(), "{json:#}");
    run("scan --only", &[&spares[0]]).is(5, &["missing, UUID", uuid, "sectors, blocks of"]);
    let (_, json) = scan(&[&spares[1], &spares[0]]);
    assert_eq!(json["sets"][0]["missing"], Value::Array(Vec::new()), "{json:#}");
}

#[test]
fn a_disk_is_not_taken_for_the_spare_that_is_a_partition_on_it() {
    let spare = Spare::some("scan-partition");
    let disk = Spare::of("scan-disk", &Image::blank(SPARE + 4096));
    // Where partitions begin, and where the disk would have a copy of its own.
    disk.write(2048, 0, &spare.bytes());
    run("scan --only", &[&disk]).is(0, &["no set is on any device"]);
    let said = run(&format!("scan --json --only {}@2048+{SPARE}", disk.path()), &[&disk]);
    let json: Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!((said.status, &json["sets"][0]["state"]), (5, &"incomplete".into()), "{json:#}");
    assert_eq!(json["sets"][0]["spares"].as_array().map(Vec::len), Some(1), "{json:#}");
    assert_eq!(json["others"], Value::Array(Vec::new()), "{json:#}");
}

#[test]
fn damage_is_told_from_loss() {
    let spare = Spare::some("scan-damage");
    spare.flip(SLOTS[0], 300);
    let (_, json) = scan(&[&spare]);
    assert_eq!(json["sets"][0]["state"], "incomplete");
    for slot in SLOTS {
        spare.flip(slot, 900);
    }
    let (status, json) = scan(&[&spare]);
    assert_eq!((status, &json["sets"][0]["state"]), (4, &"unusable".into()), "{json:#}");
    assert!(json["sets"][0]["why"].as_str().unwrap().contains("damaged"), "{json:#}");
}

#[test]
fn wiping_leaves_a_blank_spare_and_gives_up_nothing_unasked() {
    for image in ["fresh", "marks-only"] {
        let spares = kept("wipe", image);
        let before = spares[0].bytes();
        spares[0].run("wipe --dry-run").is(0, &["would be wiped"]);
        spares[0].run("wipe").is(1, &["nothing was changed", "--yes"]);
        assert!(spares[0].bytes() == before, "{image}: something was written");
        spares[0].run("wipe --yes").is(0, &["is blank"]);
        assert!(spares[0].bytes().iter().all(|&byte| byte == 0), "{image}");
        spares[0].run("wipe --yes").is(0, &["nothing of dm-remap"]);
    }
    for image in ["extents", "large-layout", "lost", "suspect", "joined"] {
        let spares = kept("wipe", image);
        let before = spares[0].bytes();
        spares[0].run("wipe --yes").is(1, &["is not wiped", "--lost"]);
        run("wipe --yes --lost /dev/null", &[&spares[0]]).is(1, &["names another device"]);
        assert!(spares[0].bytes() == before, "{image}: something was written");
        let path = spares[0].path();
        spares[0].run(&format!("wipe --yes --lost {path}")).is(0, &["is blank"]);
        run("scan --only", &[&spares[0]]).is(0, &["no set"]);
    }
}

#[test]
fn wiping_never_touches_what_is_not_ours() {
    // A device that never was a spare, and one in the old format.
    let foreign = Spare::of("wipe-foreign", &Image::blank(SPARE));
    foreign.write(2, 0, b"something");
    foreign.write(SPARE - 1, 0, b"at the end");
    let v3 = &kept("wipe", "v3-second-drawing")[0];
    for (spare, status, says) in [(&foreign, 0, "nothing of dm-remap"), (v3, 1, "v3 format")] {
        let before = spare.bytes();
        spare.run(&format!("wipe --yes --lost {}", spare.path())).is(status, &[says]);
        assert!(spare.bytes() == before, "something was written");
    }
    // What stands between the copies of a set.
    let spare = &kept("wipe", "fresh")[0];
    spare.write(SLOTS[1] + 512, 0, b"something");
    spare.run("wipe --yes").is(0, &["what is not ours stays"]);
    assert_eq!(&spare.bytes()[(SLOTS[1] as usize + 512) * 512..][..9], b"something");
    // All headers are damaged: nobody can tell what lives there.
    let spare = Spare::some("wipe-damaged");
    SLOTS.iter().for_each(|&slot| spare.flip(slot, 900));
    spare.run("wipe --yes").is(1, &["nobody can tell what lives there", "--lost"]);
    spare.run(&format!("wipe --yes --lost {}", spare.path())).is(0, &["is blank"]);
}
