//! `dmremap` on images of spares: what it shows, which damage it names, what it repairs and what it leaves alone.

mod choose;
mod clone;
mod configuration;
mod identity;
mod lists;
mod manual;
mod map;
mod owners;
mod replaced;
mod restore;
mod sets;
mod speed;
mod state;
mod upgrade;
mod watch;

use remap_harness::image::{crc, Image};
use remap_pure::entry::Mapping;
use remap_pure::format::CommitKind;
use remap_pure::recovery::recover;
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const MAIN: u64 = 1 << 20;
const SPARE: u64 = 65536;
/// Where the copies stand, as docs/format.md has it.
const SLOTS: [u64; 5] = [0, 1024, 2048, 4096, 8192];

/// A spare in a file, which goes when the test is over.
struct Spare(PathBuf);

impl Drop for Spare {
    fn drop(&mut self) {
        // One that is left behind does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

impl Spare {
    fn of(name: &str, image: &Image) -> Self {
        let path = std::env::temp_dir().join(format!("dmremap-{}-{name}", std::process::id()));
        image.write_to(&path).unwrap();
        Self(path)
    }

    /// The spare of a set with 600 extents in three table blocks.
    fn some(name: &str) -> Self {
        let mut image = Image::blank(SPARE);
        image.create(MAIN, (0..600).map(|i| (i * 100 + 8, 8)));
        Self::of(name, &image)
    }

    /// The spares of a kept image.
    fn kept(name: &str, image: &str) -> Vec<Self> {
        Self::of_sim(name, &remap_images::read(&remap_images::folder().join(image)).unwrap())
    }

    /// Simulated spares.
    fn of_sim(name: &str, sim: &remap_images::sim::Sim) -> Vec<Self> {
        let file = |(i, disk): (usize, &remap_images::sim::Disk)| {
            let spare = Self::of(&format!("{name}-{i}"), &Image::blank(remap_images::sim::SECTORS));
            disk.written().for_each(|(at, block)| spare.write(at * 8, 0, block));
            spare
        };
        sim.disks.iter().enumerate().map(file).collect()
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }

    /// Writes `bytes` at that byte of that sector.
    fn write(&self, sector: u64, byte: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.0).unwrap();
        file.write_all_at(bytes, sector * 512 + byte).unwrap();
    }

    /// Turns over a bit of that byte of that sector.
    fn flip(&self, sector: u64, byte: u64) {
        let old = self.bytes()[(sector * 512 + byte) as usize];
        self.write(sector, byte, &[old ^ 4]);
    }

    fn run(&self, arguments: &str) -> Run {
        run(arguments, &[self])
    }
}

/// Runs it on several spares.
fn run(arguments: &str, spares: &[&Spare]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmremap"));
    command.args(arguments.split_whitespace()).args(spares.iter().map(|spare| &spare.0));
    Run::of(command.stdin(Stdio::null()).output().unwrap())
}

struct Run {
    status: i32,
    text: String,
}

impl Run {
    fn of(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self { status: output.status.code().unwrap(), text: String::from_utf8(text).unwrap() }
    }

    fn is(self, status: i32, says: &[&str]) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        for part in says {
            assert!(self.text.contains(part), "not said: {part}\n{}", self.text);
        }
        self
    }
}

#[test]
fn a_set_that_is_well_is_shown_and_nothing_is_found() {
    let spare = Spare::some("well");
    let before = spare.bytes();
    spare
        .run("inspect")
        .is(0, &["name        image", "600 extents, 4800 sectors", "copy 4 good  version 2"]);
    for level in ["basic", "integrity", "complete", "forensic"] {
        let run = spare.run(&format!("check --level {level}")).is(0, &["nothing wrong"]);
        assert!(!run.text.contains("damage"), "{}", run.text);
    }
    spare
        .run("check --level forensic")
        .is(0, &["copy 3 on spare 0: has its header and 3 of 3 table blocks"]);
    spare.run("repair --yes").is(0, &["nothing to repair"]);
    assert!(spare.bytes() == before, "something was written");
}

#[test]
fn a_dump_says_everything_about_every_extent() {
    let spare = Spare::some("dump");
    let run = spare.run("dump").is(0, &[]);
    let dump: serde_json::Value = serde_json::from_str(&run.text).unwrap();
    assert_eq!(dump["dump_format"], 3);
    assert_eq!(dump["set"], "616e2069-6d61-6765-2773-20757569642e");
    assert_eq!((&dump["version"], &dump["main"]["sectors"]), (&2.into(), &MAIN.into()));
    assert_eq!(dump["spares"][0]["device"]["sectors"], SPARE);
    let extents = dump["extents"].as_array().unwrap();
    assert_eq!(extents.len(), 600);
    for (i, extent) in (0..).zip(extents) {
        assert_eq!(extent["kind"], "remapped");
        assert_eq!((&extent["start"], &extent["len"]), (&(i * 100 + 8).into(), &8.into()));
        assert_eq!((&extent["spare"], &extent["to"]), (&0.into(), &(9216 + i * 8).into()));
    }
}

#[test]
fn damage_is_named_where_it_is_and_repaired() {
    let spare = Spare::some("damage");
    let whole = spare.bytes();
    // The statistics of copy 1, the second table block of copy 3, all of copy 4's header.
    let statistics = 4096 - 32 - 656 - 128;
    spare.flip(SLOTS[1], statistics);
    spare.flip(SLOTS[3] + 16, 100);
    spare.write(SLOTS[4], 0, &[0; 4096]);
    let basic = spare.run("check --level basic").is(3, &["copy 4 on spare 0: never written"]);
    assert!(!basic.text.contains("copy 1") && !basic.text.contains("copy 3"), "{}", basic.text);
    let named = [
        "copy 1 on spare 0, structure \"statistics\": checksum does not fit",
        "copy 3 on spare 0, table block 1: checksum does not fit",
        "copy 4 on spare 0: never written",
        "the set can be used",
    ];
    for level in ["integrity", "complete", "forensic"] {
        spare.run(&format!("check --level {level}")).is(3, &named);
    }
    spare.run("check --level forensic").is(
        3,
        &[
            "copy 3 on spare 0: has its header and 2 of 3 table blocks",
            "copy 4 on spare 0: has no whole header and 3 of 3 table blocks",
        ],
    );
    spare.run("inspect").is(3, &["copy 0 good", "copy 1 stale", "copy 2 good", "copy 3 stale"]);

    let damaged = spare.bytes();
    spare.run("repair --dry-run").is(3, &["copy 1 on spare 0", "copy 3", "copy 4"]);
    spare.run("repair").is(1, &["--yes"]);
    assert!(spare.bytes() == damaged, "something was written");
    spare.run("repair --yes").is(0, &["5 good copies of version"]);
    spare.run("check --level forensic").is(0, &["nothing wrong"]);
    let repaired = spare.bytes();
    assert!(repaired[9216 * 512..] == whole[9216 * 512..], "data was written to");
    let block = |bytes: &[u8], sector: u64| bytes[sector as usize * 512..][..4096].to_vec();
    assert_eq!(block(&repaired, SLOTS[3] + 16), block(&whole, SLOTS[3] + 16));
    spare.run("inspect").is(0, &["600 extents"]);
}

#[test]
fn what_a_repair_or_a_dump_lacks_is_told_in_words_of_the_program() {
    let spares = Spare::kept("lacks", "two-spares");
    for verb in ["repair --yes", "dump"] {
        let run = spares[0].run(verb).is(4, &["spare 1", "name its device too", "--absent"]);
        assert!(!run.text.contains('`'), "{}", run.text);
    }
}

#[test]
fn a_copy_that_missed_a_commit_is_named_with_its_versions() {
    let mut image = Image::blank(SPARE);
    image.create(MAIN, (0..600).map(|i| (i * 100 + 8, 8)));
    let before = Spare::of("behind-before", &image).bytes();
    let mut meta = recover(&mut image, crc).unwrap().rebuild(&mut image, 1, 1).unwrap();
    let mut edit = meta.table().edit().unwrap();
    edit.clear(Extent { start: MainSector(8), len: Sectors(8) }).unwrap();
    let begun = meta.begin(CommitKind::Unremap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut image).unwrap().write_group_b(&mut image);
    let spare = Spare::of("behind", &image);
    let slot = SLOTS[2] as usize * 512..(SLOTS[2] as usize + 1024) * 512;
    spare.write(SLOTS[2], 0, &before[slot]);
    let run = spare
        .run("check --level forensic")
        .is(3, &["copy 2 on spare 0: is of version 2, the newest is 3"]);
    let other = "copy 2 on spare 0, table block 0: is whole, of version 2 instead of 3";
    assert!(run.text.contains(other), "{}", run.text);
    assert!(!run.text.contains("table block 1"), "{}", run.text);
    spare.run("repair --yes").is(0, &[]);
    spare.run("inspect").is(0, &["599 extents"]);
}

#[test]
fn two_entries_with_one_place_are_fatal() {
    let mut image = Image::blank(SPARE);
    image.create(MAIN, [(8, 8), (100, 8)].into_iter());
    let mut meta = recover(&mut image, crc).unwrap().rebuild(&mut image, 1, 1).unwrap();
    let mut edit = meta.table().edit().unwrap();
    let mapping = Mapping::Remapped { spare: SpareId(0), to: SpareSector(9216 + 4) };
    edit.set(Extent { start: MainSector(5000), len: Sectors(8) }, mapping).unwrap();
    let begun = meta.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut image).unwrap().write_group_b(&mut image);
    let spare = Spare::of("twice", &image);
    spare.run("check --level integrity").is(0, &["nothing wrong"]);
    spare.run("check --level complete").is(
        4,
        &["the entry at sector 5000 of main: is given a wrong place on spare 0", "cannot be used"],
    );
}

#[test]
fn what_cannot_be_used_is_refused_and_left_as_it_is() {
    let spare = Spare::some("lost");
    for slot in SLOTS {
        spare.write(slot, 0, &[0; 4096]);
    }
    let before = spare.bytes();
    spare.run("repair --yes").is(4, &["cannot be repaired"]);
    spare.run("dump").is(4, &["cannot be used"]);
    // What is left is said all the same.
    spare
        .run("check --level forensic")
        .is(4, &["would not be activated", "copy 0 on spare 0: has no whole header and 3 of 127"]);
    assert!(spare.bytes() == before, "something was written");

    let foreign = Spare::of("foreign", &Image::blank(SPARE));
    foreign.write(0, 0, b"something foreign");
    foreign.run("inspect").is(4, &["holds something that is not ours"]);
    foreign.run("repair --yes").is(4, &["holds something that is not ours"]);
    let old = Spare::of("v3", &Image::blank(SPARE));
    old.write(0, 0, b"DMREMAP3");
    old.run("check --level basic").is(4, &["is in the v3 format"]);
}

#[test]
fn bad_arguments_are_named() {
    let spare = Spare::some("arguments");
    let same = spare.0.display().to_string();
    spare.run(&format!("inspect {same}")).is(1, &["are the same; name one of them"]);
    spare.run("inspect /nowhere").is(1, &["/nowhere: cannot be looked at: No such file"]);
    spare.run(&format!("inspect {same}@8+{SPARE}")).is(1, &["it has only 65536 sectors"]);
    spare.run("check --level deep").is(1, &["invalid value 'deep'"]);
    spare.run("mend").is(1, &["unrecognized subcommand"]);
}

#[test]
fn a_part_of_a_device_is_a_spare_too() {
    let spare = Spare::some("part");
    let mut image = vec![0xa5; 2048 * 512];
    image.extend(spare.bytes());
    fs::write(&spare.0, &image).unwrap();
    let part = format!("{}@2048+{SPARE}", spare.0.display());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dmremap"));
        Run::of(command.args(arguments).arg(&part).stdin(Stdio::null()).output().unwrap())
    };
    run(&["check"]).is(0, &["nothing wrong"]);
    spare.flip(2048 + SLOTS[0], 200);
    run(&["check"]).is(3, &["copy 0 on spare 0"]);
    run(&["repair", "--yes"]).is(0, &[]);
    run(&["check"]).is(0, &["nothing wrong"]);
    assert!(spare.bytes()[..2048 * 512].iter().all(|&b| b == 0xa5), "written outside the part");
}
