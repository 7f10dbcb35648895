//! `dmremap restore`: what a dump says comes back, and nothing is given up that nobody gave up.

use super::{crc, run, Run, Spare, MAIN, SLOTS, SPARE};
use dmremap::Dump;
use remap_harness::image::Image;
use remap_pure::bytes::IntoBytes;
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{Attempt, CommitKind};
use remap_pure::identity::{fingerprint, Facts};
use remap_pure::recovery::recover;
use remap_pure::units::Sectors;
use serde_json::Value;
use std::fs;
use std::process::Command;

/// A file with a dump, which goes when the test is over.
fn dump_of(name: &str, spares: &[&Spare]) -> (Spare, Value) {
    let text = run("dump", spares).is(0, &[]).text;
    let file = Spare::of(&format!("{name}.json"), &Image::blank(0));
    fs::write(&file.0, &text).unwrap();
    (file, serde_json::from_str(&text).unwrap())
}

fn parsed(run: Run) -> Value {
    serde_json::from_str(&run.is(0, &[]).text).unwrap()
}

/// What a restore keeps: all but which version it is, and where that comes from.
fn lasting(mut dump: Value) -> Value {
    let object = dump.as_object_mut().unwrap();
    for of_the_commit in ["version", "history", "past_histories", "committed", "last_commit"] {
        object.remove(of_the_commit).unwrap();
    }
    dump
}

/// Takes all five headers away, and what else is said of the table in four of the copies.
fn damage(spare: &Spare) {
    for (copy, slot) in SLOTS.iter().enumerate() {
        spare.write(*slot, 0, &[0; 4096]);
        if copy != 3 {
            spare.write(slot + 8, 0, &[0x5a; 3 * 4096]);
        }
    }
}

#[test]
fn a_set_without_a_copy_is_what_its_dump_says_again() {
    let spare = Spare::some("restore");
    let whole = spare.bytes();
    let (file, dump) = dump_of("restore", &[&spare]);
    damage(&spare);
    spare.run("check").is(4, &[]);
    let damaged = spare.bytes();
    let restore = format!("restore {}", file.path());
    spare.run(&format!("{restore} --dry-run")).is(0, &["600 extents", "as version 3"]);
    spare.run(&restore).is(1, &["--yes"]);
    assert!(spare.bytes() == damaged, "something was written");
    spare.run(&format!("{restore} --yes")).is(0, &["restored, as version 3"]);
    spare.run("check --level forensic").is(0, &["nothing wrong"]);
    let now = parsed(spare.run("dump"));
    assert_eq!(now["past_histories"][0]["history"], dump["history"]);
    assert_eq!(lasting(now), lasting(dump));
    assert!(spare.bytes()[9216 * 512..] == whole[9216 * 512..], "data was written to");
}

#[test]
fn every_kept_state_comes_back() {
    for image in
        ["fresh", "extents", "two-spares", "retired", "suspect", "two-blocks", "large-layout"]
    {
        let spares = Spare::kept(&format!("restore-{image}"), image);
        let spares: Vec<&Spare> = spares.iter().collect();
        let (file, dump) = dump_of(&format!("restore-{image}"), &spares);
        spares.iter().for_each(|spare| damage(spare));
        let names: Vec<_> = spares.iter().map(|s| format!("--overwrite {}", s.path())).collect();
        let restore = format!("restore {} --yes {}", file.path(), names.join(" "));
        run(&restore, &spares).is(0, &["restored"]);
        assert_eq!(lasting(parsed(run("dump", &spares))), lasting(dump), "{image}");
        run("check --level forensic", &spares).is(0, &["nothing wrong"]);
    }
}

#[test]
fn spares_that_say_who_they_are_may_be_named_in_any_order() {
    let spares = Spare::kept("restore-order", "two-spares");
    let (file, dump) = dump_of("restore-order", &[&spares[0], &spares[1]]);
    damage(&spares[0]);
    // A copy of the other is whole in its header.
    for slot in &SLOTS[1..] {
        spares[1].write(*slot, 0, &[0; 4096]);
    }
    let restore = format!("restore {} --yes", file.path());
    run(&restore, &[&spares[1], &spares[0]])
        .is(0, &["spare 1 is", "by what stands on it", "spare 0 is", "by its place"]);
    assert_eq!(lasting(parsed(run("dump", &[&spares[0], &spares[1]]))), lasting(dump));
    run(&restore, &[&spares[0]]).is(1, &["has 2 spares in use, and 1 are given"]);
    run(&restore, &[&spares[0], &spares[0]]).is(1, &["are the same"]);
}

#[test]
fn a_spare_that_begins_elsewhere_than_the_dump_says_is_taken_only_when_that_is_said() {
    let spare = Spare::some("restore-elsewhere");
    let (file, mut dump) = dump_of("restore-elsewhere", &[&spare]);
    let (part, whole) = (spare.bytes(), Spare::some("restore-disk"));
    // The set has the part of a disk that begins at sector 2048, and nothing of its metadata is left there.
    dump["spares"][0]["device"]["start"] = 2048.into();
    fs::write(&file.0, dump.to_string()).unwrap();
    let mut disk = vec![0; 2048 * 512];
    disk.extend(&part);
    disk[2048 * 512..(2048 + 9216) * 512].fill(0);
    fs::write(&whole.0, &disk).unwrap();
    let restore = format!("restore {} --yes", file.path());
    let right = format!("{}@2048+{SPARE}", whole.path());
    whole.run(&restore).is(1, &["begins at sector 0", "at 2048", &right, "--moved"]);
    assert!(whole.bytes() == disk, "something was written");
    run(&format!("{restore} {right}"), &[]).is(0, &["restored"]);
    assert!(whole.bytes()[..2048 * 512] == disk[..2048 * 512], "written outside the part");
    run(&format!("check {right}"), &[]).is(0, &["nothing wrong"]);
    // What says itself that it stands there does; and a person may know that all of it was copied.
    spare.run(&format!("{restore} --older")).is(0, &["restored"]);
    damage(&spare);
    spare.run(&restore).is(1, &["begins at sector 0"]);
    spare.run(&format!("{restore} --moved /nowhere")).is(1, &["name a spare as it is named"]);
    spare.run(&format!("{restore} --moved {}", spare.path())).is(0, &["restored"]);
}

#[test]
fn a_replacement_of_main_that_was_under_way_comes_back() {
    let print = |sectors, path| {
        let facts = Facts { path, ..Facts::of_size(Sectors(sectors), 512, 4096) };
        fingerprint(&facts)
    };
    let mut image = Image::blank(SPARE);
    image.create(MAIN, (0..600).map(|i| (i * 100 + 8, 8)));
    let mut meta = recover(&mut image, crc).unwrap().rebuild(&mut image, 1, 1).unwrap();
    let begun = meta.begin(CommitKind::Settings, 1, None, |header| {
        header.begin_replacement(Attempt([7; 16]));
        header.raw_mut().new_main = print(MAIN + 8, "/dev/disk/by-id/new");
        header.raw_mut().old_main = print(MAIN + 16, "/dev/disk/by-id/older");
    });
    begun.unwrap().write_group_a(&mut image).unwrap().write_group_b(&mut image);
    let was = recover(&mut image, crc).unwrap();
    let spare = Spare::of("restore-replacing", &image);
    let (file, mut dump) = dump_of("restore-replacing", &[&spare]);
    let said = Dump::parse(dump.to_string().as_bytes()).unwrap().header().unwrap();
    assert_eq!((said.is_replacing(), said.attempt()), (true, Attempt([7; 16])));
    let (raw, said) = (was.header().raw(), said.raw());
    // Its checksum is made when it is written.
    let bare =
        |print: &RawFingerprint| print.as_bytes()[..size_of::<RawFingerprint>() - 4].to_vec();
    assert_eq!(bare(&said.new_main), bare(&raw.new_main));
    assert_eq!(bare(&said.old_main), bare(&raw.old_main));
    damage(&spare);
    let restore = format!("restore {} --yes", file.path());
    spare.run(&restore).is(0, &["restored"]);
    assert_eq!(lasting(parsed(spare.run("dump"))), lasting(dump.clone()));
    // A dump that was made before they said so is read all the same, and one that should say so is not whole.
    let fields = dump.as_object_mut().unwrap();
    fields.remove("replacement").unwrap();
    fs::write(&file.0, dump.to_string()).unwrap();
    spare.run(&restore).is(1, &["is not a whole dump"]);
    dump["dump_format"] = 2.into();
    fs::write(&file.0, dump.to_string()).unwrap();
    spare.run(&format!("{restore} --older")).is(0, &["which attempt", "restored"]);
}

#[test]
fn what_nobody_gave_up_is_left_alone() {
    let spare = Spare::some("restore-from");
    let (file, _) = dump_of("restore-left", &[&spare]);
    let restore = format!("restore {} --yes", file.path());
    let refused = |victim: &Spare, says: &str| {
        let before = victim.bytes();
        victim.run(&restore).is(1, &[says]);
        assert!(victim.bytes() == before, "something was written");
    };
    let blank = Spare::of("restore-blank", &Image::blank(65536));
    blank.write(1024, 3000, b"a file");
    refused(&blank, "has something at sector 1024 that is not of the set");
    blank.run(&format!("{restore} --overwrite {}", blank.path())).is(0, &["restored"]);
    let other = &Spare::kept("restore-other", "extents")[0];
    refused(other, "has 32768 sectors, and spare 0 of the set had 65536");
    fs::OpenOptions::new().write(true).open(&other.0).unwrap().set_len(65536 * 512).unwrap();
    refused(other, "has metadata of set 73697874");
    damage(other);
    refused(other, "has metadata of set 73697874");
    spare
        .run(&format!("{restore} --overwrite {}", other.path()))
        .is(1, &["name a spare as it is named"]);
    let small = Spare::of("restore-small", &Image::blank(32768));
    refused(&small, "has 32768 sectors");
    let old = Spare::of("restore-v3", &Image::blank(65536));
    old.write(0, 0, b"DMREMAP3");
    refused(&old, "is in the v3 format");
}

#[test]
fn a_filesystem_that_came_after_the_set_is_left_alone() {
    let spare = Spare::some("restore-formatted");
    let (file, _) = dump_of("restore-formatted", &[&spare]);
    let restore = format!("restore {} --yes", file.path());
    // One that does not say first that all of it is unused.
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "nodiscard", "-L", "photos"])
        .arg(&spare.0)
        .status()
        .unwrap();
    assert!(made.success());
    spare.run("check").is(3, &["the set can be used"]);
    let before = spare.bytes();
    for refused in [restore.as_str(), "repair --yes"] {
        spare.run(refused).is(1, &["a filesystem of ext4 'photos'", "--overwrite"]);
        assert!(spare.bytes() == before, "something was written");
    }
    spare.run(&format!("{restore} --overwrite {}", spare.path())).is(0, &["restored"]);
    spare.run("check").is(0, &[]);
    fs::write(&spare.0, &before).unwrap();
    spare.run(&format!("repair --yes --overwrite {}", spare.path())).is(0, &["5 good copies"]);
    spare.run("check").is(0, &[]);
}

#[test]
fn a_newer_state_is_given_up_only_when_that_is_said() {
    let spare = &Spare::kept("restore-newer", "extents")[0];
    let (file, dump) = dump_of("restore-newer", &[spare]);
    let restore = format!("restore {} --yes", file.path());
    // The same state can be written anew; then the dump is older than that.
    spare.run(&restore).is(0, &["restored"]);
    let before = spare.bytes();
    spare.run(&restore).is(1, &["and the dump of version 6", "--older"]);
    assert!(spare.bytes() == before, "something was written");
    spare.run(&format!("{restore} --older")).is(0, &["restored, as version 8"]);
    assert_eq!(lasting(parsed(spare.run("dump"))), lasting(dump));
    let newer = &Spare::kept("restore-feature", "newer-incompatible")[0];
    newer.run(&format!("{restore} --older")).is(1, &["use a newer dm-remap"]);
    let run = newer.run("check").is(4, &["has unknown features", "use a newer dm-remap"]);
    assert!(!run.text.contains("damaged"), "{}", run.text);
}

#[test]
fn a_dump_that_cannot_be_is_named() {
    let spare = &Spare::kept("restore-bad", "extents")[0];
    let (file, dump) = dump_of("restore-bad", &[spare]);
    let bad = |change: fn(&mut Value), says: &str| {
        let mut dump = dump.clone();
        change(&mut dump);
        fs::write(&file.0, dump.to_string()).unwrap();
        spare.run(&format!("restore {} --yes", file.path())).is(1, &[says]);
    };
    bad(|d| d["dump_format"] = 9.into(), "is a dump of format 9");
    bad(|d| d["extents"] = Value::Null, "is not a whole dump");
    bad(|d| d["set"] = "nothing".into(), "is not in hexadecimal digits");
    bad(|d| d["version"] = 0.into(), "its version cannot be");
    bad(|d| d["table_blocks"] = 1.into(), "its number of table blocks cannot be");
    bad(|d| d["main"]["sectors"] = 0.into(), "range of main");
    bad(|d| d["extents"][1]["len"] = 0.into(), "entry for sector 88");
    bad(|d| d["extents"][1]["start"] = u64::MAX.into(), "entry for sector 18446744073709551615");
    bad(|d| d["extents"][1]["start"] = 80.into(), "two of its extents overlap");
    bad(|d| d["extents"][1]["to"] = 9216.into(), "gives sector 9216 of spare 0 to two extents");
    bad(|d| d["extents"][1]["to"] = 1024.into(), "entry for sector 88 of main is out of bounds");
    bad(|d| d["extents"][1]["spare"] = 1.into(), "entry for sector 88 of main is out of bounds");
    let retired = |spare: u64, at: u64, len: u64| serde_json::json!({ "kind": "retired", "spare": spare, "at": at, "len": len });
    for (number, at, len) in [(0, u64::MAX, 8), (0, 9216, u64::MAX), (9, 9216, 8), (0, 1 << 44, 1)]
    {
        let mut dump = dump.clone();
        dump["extents"][3] = retired(number, at, len);
        fs::write(&file.0, dump.to_string()).unwrap();
        spare.run(&format!("restore {} --yes", file.path())).is(1, &["its entry for sector"]);
    }
    bad(|d| d["extents"][1]["len"] = u64::MAX.into(), "its entry for sector 88");
    bad(|d| d["extents"][1]["to"] = u64::MAX.into(), "its entry for sector 88");
    bad(|d| d["extents"][1]["spare"] = 8.into(), "its entry for sector 88");
    bad(|d| d["features"]["incompatible"] = 8.into(), "use that");
    fs::write(&file.0, "{").unwrap();
    spare.run(&format!("restore {} --yes", file.path())).is(1, &["is not a dump"]);
    spare.run("restore /nowhere --yes").is(1, &["/nowhere: No such file"]);
}
