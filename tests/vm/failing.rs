//! Drives that fail: what the caller sees, what is on the devices after, and what is there after a power cut.

use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Image, Ledger, Machine, Output, Place, Remap, Rng, Status};
use std::time::{Duration, Instant};

const MIB: u64 = 2048;
const EIO: i32 = 5;
const PATH: &str = "/dev/mapper/r";

fn drives() -> (Drive, Drive) {
    (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB))
}

fn boot(main: &Drive, spare: &Drive) -> Machine {
    Machine::builder().drive(main).drive(spare).module().boot()
}

/// A new set, with data that says `old` on its first 8192 sectors.
fn create(machine: &Machine) -> Remap<'_> {
    machine.ok("guest io write /dev/vda 0 8192 old && guest io flush /dev/vda");
    Remap::create(machine, "r", "/dev/vda", "/dev/vdb 1 create")
}

fn activate(machine: &Machine) -> Remap<'_> {
    Remap::create(machine, "r", "/dev/vda", "/dev/vdb")
}

fn write(machine: &Machine, first: u64, count: u64, pattern: &str) -> i32 {
    machine.run(&format!("guest io write {PATH} {first} {count} {pattern}")).status
}

fn read(machine: &Machine, first: u64, count: u64) -> i32 {
    machine.run(&format!("guest io read {PATH} {first} {count}")).status
}

#[track_caller]
fn holds(machine: &Machine, first: u64, count: u64, pattern: &str) {
    machine.ok(&format!("guest io check {PATH} {first} {count} {pattern}"));
}

#[track_caller]
fn main_holds(machine: &Machine, first: u64, count: u64, pattern: &str) {
    machine.ok(&format!("guest io check /dev/vda {first} {count} {pattern}"));
}

fn flush(machine: &Machine) {
    machine.ok(&format!("guest io flush {PATH}"));
}

/// Runs of sectors of main, joined where they touch.
fn runs(places: &[Place], wanted: impl Fn(&Place) -> bool) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for place in places.iter().filter(|place| wanted(place)) {
        match runs.last_mut() {
            Some((start, len)) if *start + *len == place.start => *len += place.len,
            _ => runs.push((place.start, place.len)),
        }
    }
    runs
}

fn remapped(places: &[Place]) -> Vec<(u64, u64)> {
    runs(places, |place| place.at.is_some())
}

fn pending(places: &[Place]) -> Vec<(u64, u64)> {
    runs(places, |place| place.at.is_none())
}

fn number(status: &Status, key: &str) -> u64 {
    status
        .keys
        .get(key)
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no {key}: {}", status.line))
}

/// A value of `metadata_status`.
fn told(remap: &Remap<'_>, key: &str) -> u64 {
    let text = remap.message("metadata_status");
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {key}:\n{text}"))
}

/// Writes a block until that succeeds, as someone does who has plugged the cable in again.
#[track_caller]
fn write_until_it_works(machine: &Machine, first: u64, count: u64, pattern: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while write(machine, first, count, pattern) != 0 {
        assert!(Instant::now() < deadline, "writes to sector {first} keep failing");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_write_that_main_refuses_moves_exactly_what_fails() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_writes(1003..1005);
    main.fail_writes(1040..1041);
    assert_eq!(write(&machine, 992, 64, "new"), 0, "{}", machine.kernel_log());
    holds(&machine, 992, 64, "new");
    assert_eq!(remapped(&remap.places()), [(1003, 2), (1040, 1)]);
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (3, 0), "{}", status.line);
    assert_eq!(number(&status, "auto_remaps"), 2, "{}", status.line);
    assert!(!status.keys["errors"].starts_with("W0:"), "{}", status.line);
    // What moved is as it was on main, all around it is new.
    main_holds(&machine, 992, 11, "new");
    main_holds(&machine, 1003, 2, "old");
    main_holds(&machine, 1005, 35, "new");
    main_holds(&machine, 1040, 1, "old");
    // The next write of them has nothing to move.
    let errors = main.counters().errors;
    assert_eq!(write(&machine, 992, 64, "newer"), 0);
    assert_eq!((main.counters().errors, remap.status().remapped.0), (errors, 3));
    flush(&machine);
    machine.power_cut(1);

    assert_eq!(remapped(&Image::of(&spare).places()), [(1003, 2), (1040, 1)]);
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 0, 992, "old");
    holds(&machine, 992, 64, "newer");
    holds(&machine, 1056, 8192 - 1056, "old");
    let status = remap.status();
    assert_eq!((status.remapped.0, number(&status, "auto_remaps")), (3, 2), "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_write_that_works_at_the_second_try_moves_nothing() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_writes_times(1003..1005, 1);
    assert_eq!(write(&machine, 992, 64, "new"), 0, "{}", machine.kernel_log());
    holds(&machine, 992, 64, "new");
    main_holds(&machine, 992, 64, "new");
    let status = remap.status();
    assert_eq!((status.remapped.0, number(&status, "auto_remaps")), (0, 0), "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn without_auto_remap_errors_are_passed_on() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message("set auto_remap 0");
    main.fail_writes(1003..1005);
    assert_eq!(write(&machine, 992, 64, "new"), EIO);
    let status = remap.status();
    assert_eq!((status.remapped.0, number(&status, "auto_remaps")), (0, 0), "{}", status.line);
    assert_eq!(status.keys["auto"], "off", "{}", status.line);
    machine.power_cut(1);

    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    assert_eq!(remap.message("get auto_remap"), "0");
    assert_eq!(write(&machine, 992, 64, "new"), EIO);
    remap.message("set auto_remap 1");
    assert_eq!(remap.status().keys["auto"], "on");
    assert_eq!(write(&machine, 992, 64, "newer"), 0);
    assert_eq!(remapped(&remap.places()), [(1003, 2)]);
    holds(&machine, 992, 64, "newer");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_read_that_fails_marks_exactly_what_cannot_be_read() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_reads(1003..1005);
    main.fail_reads(1100..1101);
    assert_eq!(read(&machine, 992, 120), EIO);
    let status = remap.wait_until(|status| status.pending.0 == 3);
    assert_eq!(status.remapped.0, 0, "{}", status.line);
    assert!(!status.keys["errors"].ends_with(":R0"), "{}", status.line);
    assert_eq!(pending(&remap.places()), [(1003, 2), (1100, 1)]);
    for (first, count) in [(992, 11), (1005, 95), (1101, 11)] {
        holds(&machine, first, count, "old");
    }
    assert_eq!(read(&machine, 1004, 1), EIO);
    assert_eq!(remap.status().pending.0, 3);
    machine.power_cut(2);

    assert_eq!(pending(&Image::of(&spare).places()), [(1003, 2), (1100, 1)]);
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    assert_eq!(remap.status().pending.0, 3);
    assert_eq!(read(&machine, 1003, 1), EIO);
    holds(&machine, 0, 1003, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_write_to_a_pending_block_moves_what_it_writes() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_reads(1000..1008);
    assert_eq!(read(&machine, 1000, 8), EIO);
    remap.wait_until(|status| status.pending.0 == 8);
    // Main would take it, but what cannot be read there is not trusted.
    assert_eq!(write(&machine, 990, 12, "new"), 0);
    let places = remap.places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1000, 2)], vec![(1002, 6)]));
    holds(&machine, 990, 12, "new");
    main_holds(&machine, 990, 10, "new");
    assert_eq!(read(&machine, 1002, 1), EIO);
    // Zeroes are a write too.
    machine.ok(&format!("guest io zero {PATH} 1002 3"));
    flush(&machine);
    machine.power_cut(3);

    let places = Image::of(&spare).places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1000, 5)], vec![(1005, 3)]));
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 990, 12, "new");
    machine.ok(&format!("guest io check-zeroes {PATH} 1002 3"));
    assert_eq!(read(&machine, 1005, 3), EIO);
    main.heal(1000..1008);
    main_holds(&machine, 1000, 8, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_pending_block_that_can_be_read_again_is_saved() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_reads(1000..1004);
    assert_eq!(read(&machine, 992, 16), EIO);
    remap.wait_until(|status| status.pending.0 == 4);
    main.heal(1000..1002);
    holds(&machine, 1000, 2, "old");
    let status = remap.wait_until(|status| status.pending.0 == 2);
    assert_eq!(status.remapped.0, 2, "{}", status.line);
    assert_eq!(remapped(&remap.places()), [(1000, 2)]);
    // It lives on the spare now.
    main.fail(1000..1004);
    holds(&machine, 992, 10, "old");
    machine.power_cut(4);

    let places = Image::of(&spare).places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1000, 2)], vec![(1002, 2)]));
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 992, 10, "old");
    main.heal(1000..1004);
    holds(&machine, 992, 16, "old");
    let status = remap.wait_until(|status| status.pending.0 == 0);
    assert_eq!(status.remapped.0, 4, "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_write_that_the_spare_refuses_finds_another_place() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 8 * MIB);
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message("remap 1000 8");
    let bad = remap.place_of(1003).unwrap();
    spare.fail_writes(bad..bad + 1);
    assert_eq!(write(&machine, 992, 24, "new"), 0);
    holds(&machine, 992, 24, "new");
    assert_eq!(remapped(&remap.places()), [(1000, 8)]);
    assert_ne!(remap.place_of(1003), Some(bad));
    let retired = number(&remap.status(), "retired");
    assert!((1..=8).contains(&retired), "{}", remap.status().line);
    flush(&machine);
    machine.power_cut(5);

    let taken = |places: &[Place]| {
        places.iter().any(|p| p.at.is_some_and(|at| (at..at + p.len).contains(&bad)))
    };
    let places = Image::of(&spare).places();
    assert_eq!(remapped(&places), [(1000, 8)]);
    assert!(!taken(&places), "{places:?}");
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 992, 24, "new");
    assert_eq!(number(&remap.status(), "retired"), retired);
    // Even when nothing else is left, and the place seems well again.
    spare.heal(bad..bad + 1);
    remap.message(&format!("remap 0 {}", 16 * MIB));
    let status = remap.wait_until(|status| status.keys["jobs"] == "0");
    assert!(status.used.0 > status.used.1 * 9 / 10, "{}", status.line);
    assert!(!taken(&remap.places()));
    remap.message("clear");
    remap.wait_until(|status| status.keys["jobs"] == "0" && status.remapped.0 == 0);
    let status = remap.status();
    assert_eq!((number(&status, "retired"), status.used.0), (retired, retired), "{}", status.line);
    holds(&machine, 992, 24, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_read_that_the_spare_refuses_is_an_error_until_the_block_is_written() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message("remap 1000 8");
    let bad = remap.place_of(1003).unwrap();
    spare.fail_reads(bad..bad + 1);
    // Main's block could be read, but is not what was written last.
    assert_eq!(read(&machine, 1003, 1), EIO);
    assert_eq!(read(&machine, 992, 24), EIO);
    holds(&machine, 992, 11, "old");
    holds(&machine, 1004, 12, "old");
    assert_eq!(write(&machine, 1003, 1, "new"), 0);
    holds(&machine, 1003, 1, "new");
    assert_ne!(remap.place_of(1003), Some(bad));
    assert_eq!(remapped(&remap.places()), [(1000, 8)]);
    assert_eq!(remap.status().pending.0, 0);
    flush(&machine);
    machine.power_cut(6);

    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 992, 11, "old");
    holds(&machine, 1003, 1, "new");
    holds(&machine, 1004, 12, "old");
    main_holds(&machine, 1003, 1, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_is_gone_costs_what_lives_there_until_it_is_back() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message("remap 1000 8");
    assert_eq!(write(&machine, 1000, 8, "new"), 0);
    spare.set_gone(true);
    main.fail_writes(2000..2001);
    assert_eq!(read(&machine, 1000, 8), EIO);
    assert_eq!(write(&machine, 1000, 8, "newer"), EIO);
    assert_eq!(write(&machine, 2000, 8, "new"), EIO);
    assert_eq!(write(&machine, 3000, 8, "new"), 0);
    holds(&machine, 3000, 8, "new");
    holds(&machine, 0, 1000, "old");
    spare.set_gone(false);
    assert_eq!(read(&machine, 1000, 8), 0);
    write_until_it_works(&machine, 2000, 8, "new");
    let status = remap.wait_until(|status| status.keys["persist"] == "enabled");
    assert_eq!((number(&status, "retired"), status.pending.0), (0, 0), "{}", status.line);
    assert_eq!(remapped(&remap.places()), [(1000, 8), (2000, 1)]);
    flush(&machine);
    machine.power_cut(7);

    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 2000, 8, "new");
    holds(&machine, 3000, 8, "new");
    holds(&machine, 3008, 1000, "old");
    remap.remove();
    machine.shutdown();
}

/// Writes and reads of blocks far from each other, none of which may succeed.
fn all_fail(machine: &Machine, verbs: &[&str]) {
    for sector in (0..8192).step_by(401) {
        for verb in verbs {
            let pattern = if *verb == "write" { "lost" } else { "" };
            let command = format!("guest io {verb} {PATH} {sector} 8 {pattern}");
            assert_eq!(machine.run(&command).status, EIO, "{command}");
        }
    }
}

/// What has to be true after a drive that was away as a whole works again.
fn is_as_before(machine: &Machine, main: &Drive, remap: &Remap<'_>) {
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    holds(machine, 0, 8192, "old");
    // And what fails now moves.
    assert_eq!(write(machine, 64, 8, "old"), 0);
    main.fail_writes(1003..1004);
    write_until_it_works(machine, 1000, 8, "old");
    assert_eq!(remapped(&remap.places()), [(1003, 1)]);
    assert_eq!(remap.status().keys["auto"], "on");
    holds(machine, 0, 8192, "old");
}

#[test]
fn a_drive_that_turns_read_only_moves_nothing() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_writes(0..32 * MIB);
    all_fail(&machine, &["write"]);
    holds(&machine, 0, 8192, "old");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    assert!(Image::of(&spare).places().is_empty());
    main.heal(0..32 * MIB);
    is_as_before(&machine, &main, &remap);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_drive_that_is_gone_moves_nothing() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.set_gone(true);
    all_fail(&machine, &["read", "write"]);
    std::thread::sleep(Duration::from_secs(2));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    assert!(Image::of(&spare).places().is_empty());
    main.set_gone(false);
    is_as_before(&machine, &main, &remap);
    remap.remove();
    machine.shutdown();
}

#[test]
fn errors_that_come_too_fast_stop_remapping() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message("set error_rate_limit 20");
    main.fail_writes(4000..8000);
    // Others succeed in between, so this is no drive gone read-only.
    let mut failed = 0;
    for sector in (4000..4400).step_by(8) {
        assert_eq!(write(&machine, sector - 4000, 8, "old"), 0);
        failed += u64::from(write(&machine, sector, 8, "new") != 0);
    }
    let status = remap.status();
    assert!(failed > 0 && status.remapped.0 < 400, "{failed} failed: {}", status.line);
    assert_eq!(status.keys["auto"], "halted", "{}", status.line);
    assert_eq!(status.remapped.0, (50 - failed) * 8, "{}", status.line);
    holds(&machine, 0, 4000, "old");
    flush(&machine);
    machine.power_cut(8);
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    assert_eq!(remap.message("get error_rate_limit"), "20");
    assert_eq!(remap.status().remapped.0, (50 - failed) * 8);
    remap.remove();
    machine.shutdown();
}

#[test]
fn without_room_the_error_is_the_devices_own() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 8 * MIB);
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message(&format!("remap 8192 {}", 16 * MIB));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    // What was kept back for this is used up first.
    main.fail_writes(0..4096);
    let mut refused = None;
    for sector in (0..4096).step_by(128) {
        if write(&machine, sector, 128, "new") != 0 {
            refused = Some(sector);
            break;
        }
    }
    let refused = refused.expect("a spare without end");
    let before = remap.status();
    let places = remap.places();
    for sector in (2048..4096).step_by(128) {
        assert_eq!(write(&machine, sector.max(refused), 128, "new"), EIO);
    }
    let after = remap.status();
    assert_eq!((after.remapped, after.used), (before.remapped, before.used), "{}", after.line);
    assert_eq!(remap.places(), places);
    assert_eq!(after.keys["persist"], "enabled");
    if refused > 0 {
        holds(&machine, 0, refused, "new");
    }
    holds(&machine, 4096, 4096, "old");

    // A pending block that cannot be moved is written to main, and is well if main takes it.
    main.heal(0..4096);
    main.fail_until_written(5000..5008);
    assert_eq!(read(&machine, 5000, 8), EIO);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(write(&machine, 5000, 8, "new"), 0);
    holds(&machine, 5000, 8, "new");
    remap.wait_until(|status| status.pending.0 == 0);
    flush(&machine);
    machine.power_cut(9);

    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    assert_eq!(remap.status().remapped, before.remapped);
    holds(&machine, 5000, 8, "new");
    holds(&machine, 4096, 900, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn blocks_of_4096_bytes_move_whole() {
    let main = Drive::with_blocks("main", 32 * MIB, 4096, 4096);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_writes(1010..1011);
    main.fail_reads(2019..2020);
    assert_eq!(write(&machine, 992, 64, "new"), 0, "{}", machine.kernel_log());
    assert_eq!(read(&machine, 2000, 64), EIO);
    remap.wait_until(|status| status.pending.0 == 8);
    let places = remap.places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1008, 8)], vec![(2016, 8)]));
    assert_eq!(places[0].at.unwrap() % 8, 0);
    holds(&machine, 992, 64, "new");
    holds(&machine, 2000, 16, "old");
    assert_eq!(write(&machine, 2016, 8, "new"), 0);
    flush(&machine);
    machine.power_cut(10);

    assert_eq!(remapped(&Image::of(&spare).places()), [(1008, 8), (2016, 8)]);
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 992, 64, "new");
    holds(&machine, 2000, 16, "old");
    holds(&machine, 2016, 8, "new");
    holds(&machine, 2024, 40, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_small_write_moves_alone_when_its_neighbours_are_bad() {
    let main = Drive::with_blocks("main", 32 * MIB, 512, 4096);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    // The drive cannot read the rest of the physical block, so it cannot write a part of it.
    main.fail_until_written(1000..1008);
    assert_eq!(write(&machine, 1003, 1, "new"), 0);
    assert_eq!(remapped(&remap.places()), [(1003, 1)]);
    holds(&machine, 1003, 1, "new");
    holds(&machine, 992, 8, "old");
    assert_eq!(read(&machine, 1000, 8), EIO);
    remap.wait_until(|status| status.pending.0 == 7);
    assert_eq!(pending(&remap.places()), [(1000, 3), (1004, 4)]);
    assert_eq!(write(&machine, 1006, 4, "new"), 0);
    holds(&machine, 1006, 4, "new");
    flush(&machine);
    machine.power_cut(11);

    let places = Image::of(&spare).places();
    assert_eq!(remapped(&places), [(1003, 1), (1006, 2)]);
    assert_eq!(pending(&places), [(1000, 3), (1004, 2)]);
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 1003, 1, "new");
    holds(&machine, 1006, 4, "new");
    assert_eq!(write(&machine, 1000, 8, "newer"), 0);
    holds(&machine, 1000, 8, "newer");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (8, 0), "{}", status.line);
    // A whole block heals when it is written; nobody has to move it.
    main.fail_until_written(2000..2008);
    assert_eq!(write(&machine, 2000, 8, "new"), 0);
    assert_eq!(remap.status().remapped.0, 8);
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_is_to_be_durable_is_durable_where_it_moved_to() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    create(&machine);
    main.fail_writes(1003..1005);
    main.fail_writes(2000..2003);
    machine.ok(&format!("guest io write-durable {PATH} 1000 8 new"));
    machine.power_cut(12);

    let machine = boot(&main, &spare);
    remap_is(&machine, &[(1003, 2)]);
    holds(&machine, 1000, 8, "new");
    machine.ok(&format!("guest io zero {PATH} 1990 20"));
    flush(&machine);
    machine.power_cut(13);

    let machine = boot(&main, &spare);
    let remap = remap_is(&machine, &[(1003, 2), (2000, 3)]);
    machine.ok(&format!("guest io check-zeroes {PATH} 1990 20"));
    holds(&machine, 2010, 100, "old");
    remap.remove();
    machine.shutdown();
}

/// Activates a set on which exactly these extents have moved.
fn remap_is<'m>(machine: &'m Machine, extents: &[(u64, u64)]) -> Remap<'m> {
    let remap = activate(machine);
    assert_eq!(remapped(&remap.places()), extents);
    remap
}

#[test]
fn a_discard_that_fails_moves_nothing() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_writes(1003..1005);
    machine.fails(&format!("blkdiscard -f -o {} -l {} {PATH}", 1000 * 512, 16 * 512));
    std::thread::sleep(Duration::from_secs(1));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    holds(&machine, 1005, 100, "old");
    assert_eq!(write(&machine, 1000, 16, "new"), 0);
    assert_eq!(remapped(&remap.places()), [(1003, 2)]);
    // Now each part goes to the device that holds it.
    machine.ok(&format!("blkdiscard -f -o {} -l {} {PATH}", 1002 * 512, 2 * 512));
    main_holds(&machine, 1003, 2, "old");
    holds(&machine, 1004, 12, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_read_only_table_leaves_no_mark_of_an_error() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    create(&machine).remove();
    let before = (main.counters().writes, spare.counters().writes);
    machine.ok("dmsetup create r --readonly --table '0 65536 remap /dev/vda /dev/vdb'");
    let remap = Remap::existing(&machine, "r");
    main.fail_reads(1003..1005);
    assert_eq!(read(&machine, 992, 64), EIO);
    std::thread::sleep(Duration::from_secs(1));
    holds(&machine, 992, 11, "old");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["persist"].as_str()), (0, "readonly"));
    remap.remove();
    assert_eq!(before, (main.counters().writes, spare.counters().writes));
    machine.shutdown();
}

#[test]
fn many_writes_to_one_bad_block_move_it_once() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    main.fail_writes(1000..1008);
    let output = machine.run(&format!(
        "fio --name=same --filename={PATH} --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --norandommap --bs=4k \
         --offset={} --size=4k --io_size=1m",
        1000 * 512
    ));
    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    assert_eq!(remapped(&remap.places()), [(1000, 8)]);
    let status = remap.status();
    assert_eq!((status.remapped.0, status.used.0), (8, 8), "{}", status.line);
    assert_eq!(number(&status, "auto_remaps"), 1, "{}", status.line);
    let content = machine.ok(&format!("guest io read {PATH} 1000 8"));
    flush(&machine);
    machine.power_cut(14);
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    assert_eq!(machine.ok(&format!("guest io read {PATH} 1000 8")), content);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_block_that_takes_long_to_fail_holds_up_nothing_elsewhere() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    machine.ok("guest io write /dev/vda 0 8192 old && guest io flush /dev/vda");
    // What keeps the block is in the machine: QEMU now and then answers other requests only when it has answered one that its drive
    // takes long for. At first the block is kept until it is let go, then each answer takes this many milliseconds.
    machine.ok(
        "sysctl -qw kernel.hung_task_timeout_secs=0; modprobe dm_delay; dmsetup create slow --table '0 1 linear /dev/vda 1003' && \
         printf '0 1003 linear /dev/vda 0\n1003 1 linear /dev/mapper/slow 0\n1004 64532 linear /dev/vda 1004\n' | dmsetup create main",
    );
    let remap = Remap::create(&machine, "r", "/dev/mapper/main", "/dev/vdb 1 create");
    main.ail(1003..1004, Ill { writes: true, times: 2, ..Ill::default() });
    main.fail_writes(4000..8000);
    machine.ok("dmsetup suspend --noflush slow");
    let failures_left =
        || main.ills().into_iter().find(|(at, _)| at.start == 1003).map(|i| i.1.times);
    let slow = machine.start(&format!("guest io write {PATH} 1003 1 new"));
    let others = |from: u64| {
        assert_eq!(write(&machine, from, 8, "new"), 0);
        assert_eq!(write(&machine, from - 2000, 8, "new"), 0);
        holds(&machine, from, 8, "new");
        remap.message(&format!("remap {} 8", from - 1000));
    };
    (4000..4400).step_by(80).for_each(others);
    assert_eq!(remap.status().remapped.0, 80);
    assert_eq!(failures_left(), Some(2));
    // Again after the first try of the slow one has failed.
    machine.ok("dmsetup load slow --table '0 1 delay /dev/vda 1003 40000' && dmsetup resume slow");
    let deadline = Instant::now() + Duration::from_secs(120);
    while failures_left() != Some(1) {
        assert!(Instant::now() < deadline, "the slow block was not tried");
        std::thread::sleep(Duration::from_millis(50));
    }
    others(6000);
    assert_eq!(failures_left(), Some(1), "others waited for the slow block");
    assert_eq!(slow.wait_for(Duration::from_secs(180)).status, 0);
    assert_eq!(failures_left(), None);
    holds(&machine, 1003, 1, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_bad_place_under_a_copy_costs_that_copy_only() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    spare.fail(1024..1032);
    main.fail_writes(1003..1005);
    assert_eq!(write(&machine, 992, 64, "new"), 0, "{}", machine.kernel_log());
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["copies"].as_str()), (2, "4/5"), "{}", status.line);
    assert_eq!(status.keys["persist"], "degraded", "{}", status.line);
    flush(&machine);
    machine.power_cut(15);
    let machine = boot(&main, &spare);
    let remap = remap_is(&machine, &[(1003, 2)]);
    holds(&machine, 992, 64, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn whoever_watches_is_told() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    machine.start("uevent sh -c 'env | grep ^DM_ >>/tmp/uevents'");
    std::thread::sleep(Duration::from_secs(1));
    let happens = |reason: &str, what: &dyn Fn()| {
        let mut waiting = machine.start("dmsetup wait r");
        std::thread::sleep(Duration::from_millis(500));
        what();
        let ended = waiting.poll(Duration::from_secs(20)).map(|output| output.status);
        assert_eq!(ended, Some(0), "no event: {reason}");
        machine.ok(&format!("for i in $(seq 50); do grep -q 'DM_REMAP_EVENT={reason}' /tmp/uevents && exit 0; sleep 0.1; done; cat /tmp/uevents >&2; exit 1"));
    };
    main.fail_writes(1003..1005);
    happens("remapped", &|| assert_eq!(write(&machine, 1000, 8, "new"), 0));
    main.fail_reads(2003..2005);
    happens("pending", &|| assert_eq!(read(&machine, 2000, 8), EIO));
    let bad = remap.place_of(1003).unwrap();
    spare.fail_writes(bad..bad + 1);
    happens("retired", &|| assert_eq!(write(&machine, 1000, 8, "newer"), 0));
    main.fail_writes(0..32 * MIB);
    happens("halted", &|| all_fail(&machine, &["write"]));
    let log = machine.kernel_log();
    for sector in [1003, 2003] {
        let named = |line: &&str| line.contains("remap") && line.contains(&sector.to_string());
        let lines: Vec<&str> = log.lines().filter(named).collect();
        assert!(!lines.is_empty(), "no line in the log names sector {sector}");
    }
    remap.remove();
    machine.shutdown();
}

#[test]
fn suspect_blocks_without_room_stay_where_they_are() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 8 * MIB);
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message("remap 1000 4");
    remap.message(&format!("remap 8192 {}", 16 * MIB));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    let places: Vec<u64> = (1000..1004).map(|sector| remap.place_of(sector).unwrap()).collect();
    places.iter().for_each(|&at| spare.fail_reads(at..at + 1));
    let suspect = || remap.message("table").matches(" suspect ").count();
    assert_eq!(read(&machine, 1000, 4), EIO);
    let deadline = Instant::now() + Duration::from_secs(20);
    while suspect() == 0 {
        assert!(Instant::now() < deadline, "nothing is suspect:\n{}", remap.message("table"));
        std::thread::sleep(Duration::from_millis(100));
    }
    // Room for one of the four, which can be read again.
    remap.message("unremap 8192 1");
    places.iter().for_each(|&at| spare.heal(at..at + 1));
    holds(&machine, 1000, 4, "old");
    let status = remap.wait_until(|status| number(status, "retired") == 1);
    assert_eq!(status.used.0, status.used.1, "{}", status.line);
    std::thread::sleep(Duration::from_secs(1));
    holds(&machine, 1000, 4, "old");
    machine.power_cut(19);

    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 1000, 4, "old");
    assert_eq!(write(&machine, 1000, 4, "new"), 0);
    holds(&machine, 1000, 4, "new");
    assert_eq!(number(&remap.status(), "retired"), 1);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_main_that_has_mostly_moved_can_move_its_last_blocks() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 48 * MIB));
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    remap.message("remap 0 62000");
    remap.wait_until(|status| status.keys["jobs"] == "0");
    main.fail_writes(0..62000);
    main.fail_writes(63001..63003);
    assert_eq!(write(&machine, 63001, 2, "new"), 0);
    holds(&machine, 63001, 2, "new");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["auto"].as_str()), (62002, "on"), "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_bad_area_on_the_spare_is_passed_over() {
    let (main, spare) = drives();
    let machine = boot(&main, &spare);
    let remap = create(&machine);
    // The first places that there are, and many behind them.
    spare.fail_writes(3072..4096);
    spare.fail_writes(5120..6500);
    main.fail_writes(1003..1011);
    assert_eq!(write(&machine, 1000, 16, "new"), 0);
    holds(&machine, 1000, 16, "new");
    let status = remap.status();
    assert_eq!(status.remapped.0, 8, "{}", status.line);
    assert!((1..64).contains(&number(&status, "retired")), "{}", status.line);
    flush(&machine);
    machine.power_cut(20);

    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    holds(&machine, 1000, 16, "new");
    assert_eq!(remap.status().used.0, 8 + number(&remap.status(), "retired"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn swap_on_a_failing_drive_keeps_what_is_swapped_out() {
    let main = Drive::blank("main", 768 * MIB);
    let spare = Drive::blank("spare", 64 * MIB);
    let mut rng = Rng::new(18);
    for _ in 0..1500 {
        // Not in its first block, where it says what it is.
        let sector = 8 + rng.below(main.sectors() - 8);
        main.fail_writes(sector..sector + 1 + rng.below(8));
    }
    let machine = Machine::builder().memory(512).drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok(&format!("mkswap {PATH} >/dev/null && swapon {PATH}"));
    // More than there is memory, so that what fails to be swapped out is what memory is waited for.
    machine.ok("mkdir -p /tmp/much && mount -t tmpfs -o size=640m tmpfs /tmp/much");
    let patience = Duration::from_secs(400);
    let output = machine.run_for(
        "for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/tmp/much/$i bs=64k count=1500 2>/dev/null || exit 1; \
         md5sum /tmp/much/$i >>/tmp/sums; done; md5sum -c -s /tmp/sums && dmesg | grep -c 'Write-error on swap'",
        patience,
    );
    // 1 is what grep says when it has found none.
    assert_eq!((output.status, output.stdout.trim()), (1, "0"), "{}", output.stderr);
    let status = remap.status();
    assert!(status.remapped.0 > 20, "{}", status.line);
    assert_eq!(status.keys["persist"], "enabled");
    machine.ok(&format!("umount /tmp/much && swapoff {PATH}"));
    remap.remove();
    machine.shutdown();
}

/// Something writes and reads at random until its device is gone.
const LOAD: &str = "fio --name=load --filename=/dev/mapper/r --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=4k-64k \
     --size=24m --time_based --runtime=600 --randrepeat=0 --output=/tmp/fio.log";

/// Takes main away from a set under load. `main` is its path in the machine.
fn unplug(machine: &Machine, main: &str, unplug: &str) {
    let remap = Remap::create(machine, "r", main, "/dev/vda 1 create");
    let mut load = machine.start(LOAD);
    std::thread::sleep(Duration::from_secs(3));
    assert!(load.poll(Duration::from_millis(1)).is_none(), "{}", machine.ok("cat /tmp/fio.log"));
    machine.ok(unplug);
    let ended = load.poll(Duration::from_secs(60)).unwrap_or_else(|| {
        let stacks = machine
            .run("for p in $(pidof fio); do cat /proc/$p/task/*/stack; done; dmsetup status r");
        panic!("the load hangs:\n{}{}", stacks.stdout, stacks.stderr);
    });
    assert_ne!(ended.status, 0, "a load without a device succeeds");
    assert_ne!(write(machine, 0, 8, "new"), 0);
    std::thread::sleep(Duration::from_secs(2));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    remap.remove();
    machine.ok("rmmod dm-remap");
}

#[test]
fn a_scsi_drive_that_is_unplugged_under_load_moves_nothing() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    machine.ok("modprobe sd_mod && modprobe scsi_debug dev_size_mb=32 && for i in $(seq 100); do [ -e /dev/sda ] && exit 0; sleep 0.1; done; exit 1");
    unplug(&machine, "/dev/sda", "echo 1 >/sys/block/sda/device/delete");
    machine.shutdown();
}

#[test]
fn a_drive_that_is_powered_off_under_load_moves_nothing() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    let main = machine.null_blk(0, 32, &[("memory_backed", "1")]);
    unplug(&machine, &main, "echo 0 >/sys/kernel/config/nullb/nullb0/power");
    machine.shutdown();
}

#[test]
fn a_cable_that_is_loose_moves_nothing_and_a_medium_error_does() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    machine.ok("modprobe sd_mod && modprobe scsi_debug dev_size_mb=32 && for i in $(seq 100); do [ -e /dev/sda ] && exit 0; sleep 0.1; done; exit 1");
    let remap = Remap::create(&machine, "r", "/dev/sda", "/dev/vda 1 create");
    assert_eq!(write(&machine, 0, 8192, "old"), 0);
    // Every write ends with a transport error: kind 2, for so many commands, WRITE(10), host byte "transport failfast".
    let inject = "for file in /sys/kernel/debug/scsi_debug/*/error; do echo '2 -1000 0x2a 0x0f 0 0 0 0 0' >$file; done";
    machine.ok(inject);
    assert_ne!(write(&machine, 1000, 8, "new"), 0);
    std::thread::sleep(Duration::from_secs(1));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    machine.ok("for file in /sys/kernel/debug/scsi_debug/*/error; do echo '- 2 0x2a' >$file; done");
    write_until_it_works(&machine, 1000, 8, "old");
    // The drive's own medium error, for reads of ten sectors.
    machine.ok("cd /sys/bus/pseudo/drivers/scsi_debug && echo 2 >opts");
    let first = 0x1234;
    assert_ne!(read(&machine, first - 8, 32), 0);
    remap.wait_until(|status| status.pending.0 == 10);
    assert_eq!(pending(&remap.places()), [(first, 10)]);
    assert_eq!(write(&machine, first - 8, 32, "new"), 0);
    assert_eq!(remapped(&remap.places()), [(first, 10)]);
    holds(&machine, first - 8, 32, "new");
    remap.remove();
    machine.shutdown();
}

/// Sectors that are bad from the start: one in a thousand. None in the first block, which is written and read in parts.
fn bad_from_the_start(sectors: u64, seed: u64) -> Vec<u64> {
    let mut rng = Rng::new(seed);
    (0..sectors / 1000).map(|_| 8 + rng.below(sectors - 8)).collect()
}

#[test]
fn a_filesystem_lives_on_a_drive_with_bad_blocks_everywhere() {
    let main = Drive::blank("main", 128 * MIB);
    let spare = Drive::blank("spare", 16 * MIB);
    for sector in bad_from_the_start(main.sectors(), 1) {
        main.fail(sector..sector + 1);
    }
    let machine = boot(&main, &spare);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let patience = Duration::from_secs(300);
    let run = |machine: &Machine, command: &str| {
        let Output { status, stdout, stderr } = machine.run_for(command, patience);
        assert_eq!(status, 0, "{command}\n{stdout}{stderr}{}", machine.ok("dmesg | tail -n 20"));
    };
    run(&machine, &format!("mkfs.ext4 -q -b 4096 {PATH}"));
    run(&machine, &format!("modprobe ext4 && mount {PATH} /mnt"));
    run(
        &machine,
        "cd /mnt && for i in $(seq 2000); do mkdir -p d$((i % 20)) && \
         dd if=/dev/urandom of=d$((i % 20))/f$i bs=512 count=$((i * 7919 % 120 + 1)) 2>/dev/null || exit 1; done && \
         sync && echo 3 >/proc/sys/vm/drop_caches && find . -type f | sort | xargs md5sum >/tmp/sums && cp /tmp/sums /mnt/sums && sync",
    );
    let status = remap.status();
    println!("{}", status.line);
    assert!(status.remapped.0 > 0, "{}", status.line);
    let log = machine.kernel_log();
    let lost: Vec<&str> =
        log.lines().filter(|l| l.contains("lost ") || l.contains("EXT4-fs error")).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    machine.power_cut(16);

    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    run(&machine, &format!("modprobe ext4 && mount {PATH} /mnt && cd /mnt && md5sum -c -s sums && cd / && umount /mnt"));
    run(&machine, &format!("e2fsck -f -n {PATH}"));
    let log = machine.kernel_log();
    assert!(!log.contains("EXT4-fs error"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_storm_of_errors_shares_commits_and_leaves_room_for_others() {
    let main = Drive::blank("main", 128 * MIB);
    let spare = Drive::blank("spare", 64 * MIB);
    let machine = boot(&main, &spare);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    // The others write to a part of main that takes its time as a disk does, so that their rate is not that of the processor.
    main.slow_down(64 * MIB..96 * MIB, Duration::from_millis(20));
    let others = |seconds: u64| {
        machine.start(&format!(
            "fio --name=others --filename={PATH} --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite --bs=4k --offset=64m --size=32m \
             --time_based --runtime={seconds} --randrepeat=0 --output-format=terse --terse-version=3"
        ))
    };
    // Field 49 of fio's terse output is how many writes a second there were.
    let rate = |output: &Output| {
        let iops = output.stdout.trim().split(';').nth(48).and_then(|f| f.parse::<u64>().ok());
        iops.unwrap_or_else(|| panic!("{}{}", output.stdout, output.stderr))
    };
    let alone = rate(&others(10).wait());
    main.fail_writes(0..40 * MIB);
    let before = told(&remap, "commits");
    let start = Instant::now();
    let storm = machine.start(&format!(
        "fio --name=storm --filename={PATH} --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bs=4k --size=40000k --io_size=40000k \
         --randrepeat=0"
    ));
    let beside = rate(&others(10).wait());
    let output = storm.wait_for(Duration::from_secs(600));
    let commits = told(&remap, "commits") - before;
    println!(
        "{commits} commits, {} s, others {alone} alone and {beside} beside",
        start.elapsed().as_secs()
    );
    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    let status = remap.status();
    assert_eq!(status.remapped.0, 80_000, "{}", status.line);
    assert!(commits <= 700, "{commits} commits");
    assert!(beside * 2 >= alone, "others did {alone} a second alone, {beside} beside the storm");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_power_cut_among_automatic_remaps_loses_nothing() {
    let (main, spare) = drives();
    let mut rng = Rng::new(17);
    for _ in 0..400 {
        let sector = rng.below(4096);
        main.fail_writes(sector..sector + 1);
    }
    let mut ledger = Ledger::new(17, "0+4096");
    let mut create = " 1 create";
    // At many points of the commits and of what is written before them.
    for after in [1, 2, 5, 9, 14, 23, 60] {
        let machine = boot(&main, &spare);
        let remap = Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb{create}"));
        create = "";
        ledger.check(&machine, PATH);
        spare.freeze_after(after);
        let load = ledger.start(&machine, PATH, "threads=4 largest=64");
        spare.wait_frozen(Duration::from_secs(30));
        drop((load, remap));
        ledger.enter(&machine.power_cut(after));
    }
    assert_eq!((ledger.write_errors, ledger.read_errors), (0, 0));
    let machine = boot(&main, &spare);
    let remap = activate(&machine);
    ledger.check(&machine, PATH);
    let status = remap.wait_until(|status| status.keys["persist"] == "enabled");
    assert!(number(&status, "auto_remaps") > 0, "{}", status.line);
    remap.remove();
    machine.shutdown();
}
