//! Lists of bad blocks that other programs wrote: what they are taken to say, and what garbage is.

use dmremap::lists::entries::{parse, without, Entry, State};
use dmremap::lists::write::{badblocks, ddrescue};
use dmremap::lists::{detect, read, Found, Frame, Kind, Options, Plan, Position};

const MAIN: u64 = 1 << 20;
const FRAME: Frame = Frame { sectors: MAIN, logical: 512, physical: 4096 };

const OPTIONS: Options<'_> = Options { block: None, states: "-*/" };

/// All of main is the set.
fn all(name: Option<&str>) -> Option<Position> {
    let known = name.is_none_or(|name| name == "sda");
    known.then_some(Position { offset: 0, bytes: MAIN * 512 })
}

fn plan(kind: Kind, text: &str) -> Plan {
    assert_eq!(detect(text), Ok(kind), "{text}");
    FRAME.place(&read(kind, text, &OPTIONS).unwrap(), all).unwrap()
}

#[track_caller]
fn refused(kind: Kind, text: &str, says: &str) {
    let error = read(kind, text, &OPTIONS).unwrap_err();
    assert!(error.contains(says), "{error}");
}

#[test]
fn blocks_of_badblocks_have_the_size_that_it_was_given() {
    let runs = plan(Kind::Badblocks, "10\n11\n\n500\n").runs;
    assert_eq!(runs, [(20, 4), (1000, 2)]);
    let large = Options { block: Some(4096), ..OPTIONS };
    let found = read(Kind::Badblocks, "10\n9\n131071\n131072\n", &large).unwrap();
    let plan = FRAME.place(&found, all).unwrap();
    assert_eq!(plan.runs, [(72, 16), (MAIN - 8, 8)]);
    // What is beyond the end is told, also where it is told in one run with what is not.
    assert_eq!(plan.outside.len(), 1, "{plan:?}");
    assert!(plan.outside[0].contains("beyond its end"), "{plan:?}");
    refused(Kind::Badblocks, "10\nten\n", "line 2: 'ten' is no number of a block");
    refused(Kind::Badblocks, "-5\n", "line 1");
    refused(Kind::Badblocks, "18446744073709551615\n", "beyond the end of any device");
    refused(Kind::Badblocks, "99999999999999999999999\n", "is no number");
    assert_eq!(self::plan(Kind::Badblocks, "").runs, []);
}

const MAP: &str = "# Mapfile. Created by GNU ddrescue version 1.27\n# Command line: ddrescue -d /dev/sda image map\n\
# current_pos  current_status  current_pass\n0x00001400     ?               1\n#      pos        size  status\n\
0x00000000  0x00000400  +\n0x00000400  0x00000200  -\n0x00000600  0x00000200  /\n0x00000800  0x00000400  +\n\
0x00000C00  0x00000800  *\n0x00001400  0x1FFFEC00  ?\n";

#[test]
fn a_map_of_ddrescue_has_what_failed_and_not_what_was_not_tried() {
    assert_eq!(plan(Kind::Ddrescue, MAP).runs, [(2, 2), (6, 4)]);
    let only = |states| {
        let found = read(Kind::Ddrescue, MAP, &Options { states, ..OPTIONS }).unwrap();
        FRAME.place(&found, all).unwrap().runs
    };
    assert_eq!(only("-"), [(2, 1)]);
    assert_eq!(only("?"), [(10, MAIN - 10)]);
    let notes = read(Kind::Ddrescue, MAP, &OPTIONS).unwrap().notes;
    assert!(
        notes.iter().any(|note| note.contains("'?' (not tried): 536865792 bytes, left alone")),
        "{notes:?}"
    );
    // An older map counts in decimal and has no pass.
    assert_eq!(plan(Kind::Ddrescue, "1024 +\n0 1024 +\n1024 512 -\n").runs, [(2, 1)]);
    // The disk's map, for a set that begins within it: what lies before is not on the set.
    let found = read(Kind::Ddrescue, "0 +\n0 1024 -\n1024 1024 -\n", &OPTIONS).unwrap();
    let part = |_: Option<&str>| Some(Position { offset: -1536, bytes: MAIN * 512 });
    let plan = FRAME.place(&found, part).unwrap();
    assert_eq!((plan.runs, plan.outside.len()), (vec![(0, 1)], 1));
    for (bad, says) in [
        ("0 +\n0 512 -\n0 512 -\n", "line 3: '0 512 -' overlaps"),
        ("0 +\n0 0 -\n", "overlaps what is in front of it, or is empty"),
        ("0 +\n0 512 x\n", "has no state that is known"),
        ("0 +\n0 512\n", "is not position, size and state"),
        ("0 +\n0xzz 512 -\n", "has no position and size"),
        ("0 +\n0xFFFFFFFFFFFFFFFF 512 -\n", "overlaps"),
        ("0 512 -\n0 512 -\n", "line 1"),
        ("# Mapfile\n", "the map is empty"),
    ] {
        refused(Kind::Ddrescue, bad, says);
    }
    let states = Options { states: "-x", ..OPTIONS };
    assert!(read(Kind::Ddrescue, MAP, &states).unwrap_err().contains("'x' is no state"));
}

#[test]
fn the_kernel_names_sectors_of_the_disk_and_blocks_of_its_buffers() {
    let log = "[  1.0] EXT4-fs (sda1): mounted filesystem\n\
        [ 99.1] blk_update_request: critical medium error, dev sda, sector 1003 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0\n\
        Nov 21 host kernel: I/O error, dev sda, sector 20001 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2\n\
        end_request: I/O error, dev sda, sector 20001\n\
        Buffer I/O error on dev sda1, logical block 5, async page read\n\
        Buffer I/O error on device sda1, logical block 6\n\
        [ 99.2] timeout error, dev sda, sector 7777 op 0x0:(READ)\n\
        [ 99.3] I/O error, dev sdb, sector 5000 op 0x1:(WRITE)\n\
        I/O error, dev sda, sector 99999999999999999999999\n\
        I/O error, dev sda, sector 18446744073709551615\n";
    assert_eq!(detect(log), Ok(Kind::KernelLog));
    let found = read(Kind::KernelLog, log, &OPTIONS).unwrap();
    // The partition begins at sector 2048 of the disk.
    let where_is = |name: Option<&str>| match name {
        Some("sda1") => Some(Position { offset: 2048 * 512, bytes: 4096 * 1000 }),
        name => all(name),
    };
    let plan = FRAME.place(&found, where_is).unwrap();
    assert_eq!(plan.runs, [(1000, 8), (2088, 16), (20000, 8)]);
    assert_eq!(plan.outside.len(), 1, "{plan:?}");
    assert!(plan.outside[0].contains("byte 2560000 of sdb: that is neither main"), "{plan:?}");
    let said = found.skipped.join("\n");
    assert!(said.contains("sector 7777 op 0x0:(READ)' says nothing of the medium"), "{said}");
    assert!(said.contains("18446744073709551615' is beyond the end"), "{said}");
    // A filesystem with blocks of 1 KiB was mounted.
    let small = Options { block: Some(1024), ..OPTIONS };
    let buffer =
        read(Kind::KernelLog, "Buffer I/O error on dev sda, logical block 5", &small).unwrap();
    assert_eq!(FRAME.place(&buffer, all).unwrap().runs, [(10, 2)]);
    assert_eq!(read(Kind::KernelLog, "nothing of the kind\n", &OPTIONS).unwrap().places, []);
}

const SELF_TESTS: &str = "smartctl 7.4 2023-08-01 r5530\nSerial Number:    WD-ABC 123\n\
Sector Sizes:     512 bytes logical, 4096 bytes physical\n\n\
SMART Extended Self-test Log Version: 1 (1 sectors)\n\
Num  Test_Description    Status                  Remaining  LifeTime(hours)  LBA_of_first_error\n\
# 1  Extended offline    Completed: read failure       90%     12345         1003\n\
# 2  Short offline       Completed without error       00%     12340         -\n\
# 3  Short offline       Completed: read failure       60%     12339         20001\n\n\
Error 12 [11] occurred at disk power-on lifetime: 12338 hours\n  40 -- 51 00 08  Error: UNC 8 sectors at LBA = 0x00007531 = 30001\n\
Pending Defects log (GP Log 0x0c)\nIndex                LBA    Hours\n    0              40001    12345\n    1              40002        -\n";

#[test]
fn a_drive_names_the_first_bad_block_of_each_self_test() {
    let found = read(Kind::Smartctl, SELF_TESTS, &OPTIONS).unwrap();
    assert_eq!(detect(SELF_TESTS), Ok(Kind::Smartctl));
    assert_eq!(found.serial.as_deref(), Some("WD-ABC 123"));
    let plan = FRAME.place(&found, all).unwrap();
    assert_eq!(plan.runs, [(1000, 8), (20000, 8), (30000, 8), (40000, 8)]);
    let scsi = "SMART Self-test log\nNum  Test              Status                 segment  LifeTime  LBA_first_err [SK ASC ASQ]\n\
        # 1  Background long   Failed in segment -->       -    1234         1003 [0x3 0x11 0x0]\n\
        # 2  Background short  Completed                   -    1230            - [-   -    -]\n";
    assert_eq!(self::plan(Kind::Smartctl, scsi).runs, [(1000, 8)]);
    refused(Kind::Smartctl, "10\n11\n", "has no list of self-tests");
}

#[test]
fn the_same_is_read_of_json_in_the_blocks_of_the_drive() {
    let json = r#"{"smartctl":{"version":[7,4]},"serial_number":"X1","logical_block_size":4096,
        "ata_smart_self_test_log":{"extended":{"table":[
            {"status":{"value":121,"passed":false},"lba":100},{"status":{"value":0,"passed":true},"lba":7}]}},
        "ata_pending_defects_log":{"table":[{"lba":200},{"lba":-1},{"lba":18446744073709551615}]}}"#;
    assert_eq!(detect(json), Ok(Kind::Smartctl));
    let found = read(Kind::Smartctl, json, &OPTIONS).unwrap();
    assert_eq!(found.serial.as_deref(), Some("X1"));
    assert_eq!(FRAME.place(&found, all).unwrap().runs, [(800, 8), (1600, 8)]);
    assert_eq!(found.skipped.len(), 1, "{:?}", found.skipped);
    refused(Kind::Smartctl, "{", "is no whole JSON");
    refused(Kind::Smartctl, "{}", "not of smartctl");
}

#[test]
fn garbage_is_no_list_and_does_no_harm() {
    for text in ["hello\nworld\n", "10 20\n", "1.5\n", "0x10\n", "<html>", "\u{0}\u{ffff}"] {
        assert!(detect(text).unwrap_err().contains("--format"), "{text}");
    }
    let garbage = [
        "",
        "\n\n",
        "#",
        "# 1 fail",
        "error, dev ,",
        "I/O error, dev sda, sector ",
        "0 +\n",
        "[",
        "{\"smartctl\":{}}",
    ];
    for kind in [Kind::Badblocks, Kind::Ddrescue, Kind::KernelLog, Kind::Smartctl] {
        for text in garbage {
            if let Ok(found) = read(kind, text, &OPTIONS) {
                assert_eq!(FRAME.place(&found, all).unwrap().runs, [], "{kind:?} {text}");
            }
        }
    }
    assert_eq!(FRAME.place(&Found::default(), all), Ok(Plan::default()));
}

#[test]
fn what_is_remapped_already_is_not_asked_for_again() {
    let answer = "8 8 remapped 0 9216\n40 4 suspect 1 9216\n50 2 pending\n60 1 lost\n- 8 retired 0 9300\nmore 61\n";
    let (entries, more) = parse(answer).unwrap();
    assert_eq!((entries.len(), more), (4, Some(61)));
    assert_eq!(entries[2], Entry { start: 50, len: 2, state: State::Pending });
    assert!(parse("8 8 eaten\n").is_err() && parse("8 8\n").is_err());
    let left = without(&[(0, 12), (15, 3), (30, 20), (52, 100)], &entries);
    assert_eq!(left, [(0, 8), (16, 2), (30, 10), (44, 6), (52, 8), (61, 91)]);
    assert_eq!(without(&[(5, 100)], &[]), [(5, 100)]);
    // Two runs within one entry.
    let one = [Entry { start: 0, len: 100, state: State::Remapped }];
    assert_eq!(without(&[(5, 10), (20, 90)], &one), [(100, 10)]);
}

#[test]
fn what_is_written_is_read_again() {
    let entry = |start, len| Entry { start, len, state: State::Pending };
    let entries = [entry(5, 1), entry(6, 3), entry(100, 8), entry(MAIN - 1, 1)];
    let text = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    };
    // Main's sectors, for a set that begins at sector 4 of it.
    let list = text(&|out| badblocks(out, &entries[..3], 4 * 512, 1024).unwrap());
    assert_eq!(list, "4\n5\n6\n52\n53\n54\n55\n");
    let map = text(&|out| ddrescue(out, &entries, 0, MAIN * 512).unwrap());
    assert_eq!(plan(Kind::Ddrescue, &map).runs, [(5, 4), (100, 8), (MAIN - 1, 1)]);
    assert!(map.contains("\n0x00000000  0x00000A00  +\n0x00000A00  0x00000800  -\n"), "{map}");
    let none = text(&|out| ddrescue(out, &[], 0, 4096).unwrap());
    assert!(none.ends_with("0x00000000  0x00001000  +\n"), "{none}");
}
