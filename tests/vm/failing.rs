//! Drives that fail: what the caller sees, what is on the devices after, and what is there after a power cut. What cannot be read
//! is in `pending`.

use super::common::{
    boot, drives, flush, holds, number, one_partition, read, runs, write, MIB, PARTITION, PATH,
};
use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Image, Machine, Place, Remap};
use remap_pure::format::layout::Layout;
use std::time::{Duration, Instant};

pub const EIO: i32 = 5;

/// A new set, with data that says `old` on its first 8192 sectors.
pub fn create(machine: &Machine) -> Remap<'_> {
    machine.ok("guest io write /dev/vda 0 8192 old && guest io flush /dev/vda");
    Remap::create(machine, "r", "/dev/vda", "/dev/vdb 1 create")
}

pub fn activate(machine: &Machine) -> Remap<'_> {
    Remap::create(machine, "r", "/dev/vda", "/dev/vdb")
}

#[track_caller]
pub fn main_holds(machine: &Machine, first: u64, count: u64, pattern: &str) {
    machine.ok(&format!("guest io check /dev/vda {first} {count} {pattern}"));
}

pub fn remapped(places: &[Place]) -> Vec<(u64, u64)> {
    runs(places, |place| place.at.is_some())
}

pub fn pending(places: &[Place]) -> Vec<(u64, u64)> {
    runs(places, |place| place.at.is_none())
}

/// A value of `metadata_status`.
pub fn told(remap: &Remap<'_>, key: &str) -> u64 {
    let text = remap.message("metadata_status");
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {key}:\n{text}"))
}

/// Writes a block until that succeeds, as someone does who has plugged the cable in again.
#[track_caller]
pub fn write_until_it_works(machine: &Machine, first: u64, count: u64, pattern: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while write(machine, first, count, pattern) != 0 {
        assert!(Instant::now() < deadline, "writes to sector {first} keep failing");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Writes and reads of blocks far from each other, none of which may succeed.
pub fn all_fail(machine: &Machine, verbs: &[&str]) {
    for sector in (0..8192).step_by(401) {
        for verb in verbs {
            let pattern = if *verb == "write" { "lost" } else { "" };
            let command = format!("guest io {verb} {PATH} {sector} 8 {pattern}");
            assert_eq!(machine.run(&command).status, EIO, "{command}");
        }
    }
}

#[test]
fn a_write_that_main_refuses_moves_exactly_what_fails() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
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
    assert_eq!(flush(&machine), 0);
    machine.power_cut(1);

    assert_eq!(remapped(&Image::of(&spare).places()), [(1003, 2), (1040, 1)]);
    let machine = boot(&[&main, &spare]);
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
    let machine = boot(&[&main, &spare]);
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
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("set auto_remap 0");
    main.fail_writes(1003..1005);
    assert_eq!(write(&machine, 992, 64, "new"), EIO);
    let status = remap.status();
    assert_eq!((status.remapped.0, number(&status, "auto_remaps")), (0, 0), "{}", status.line);
    assert_eq!(status.keys["auto"], "off", "{}", status.line);
    machine.power_cut(1);

    let machine = boot(&[&main, &spare]);
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
fn a_write_that_the_spare_refuses_finds_another_place() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 8 * MIB);
    let machine = boot(&[&main, &spare]);
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
    assert_eq!(flush(&machine), 0);
    machine.power_cut(5);

    let taken = |places: &[Place]| {
        places.iter().any(|p| p.at.is_some_and(|at| (at..at + p.len).contains(&bad)))
    };
    let places = Image::of(&spare).places();
    assert_eq!(remapped(&places), [(1000, 8)]);
    assert!(!taken(&places), "{places:?}");
    let machine = boot(&[&main, &spare]);
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
fn places_on_a_spare_that_fail_do_not_count_as_errors_of_main() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 8 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("set error_rate_limit 2");
    remap.message("remap 1000 64");
    let at = remap.place_of(1000).unwrap();
    spare.fail_writes(at..at + 64);
    for start in (1000..1064).step_by(8) {
        assert_eq!(write(&machine, start, 8, "new"), 0, "{}", machine.kernel_log());
    }
    holds(&machine, 1000, 64, "new");
    main.fail_writes(2000..2008);
    assert_eq!(write(&machine, 2000, 8, "new"), 0);
    assert_eq!(remap.status().keys["auto"], "on");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_is_gone_costs_what_lives_there_until_it_is_back() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
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
    assert_eq!(flush(&machine), 0);
    machine.power_cut(7);

    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    holds(&machine, 2000, 8, "new");
    holds(&machine, 3000, 8, "new");
    holds(&machine, 3008, 1000, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn without_room_the_error_is_the_devices_own() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 8 * MIB);
    let machine = boot(&[&main, &spare]);
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
    assert_eq!(flush(&machine), 0);
    machine.power_cut(9);

    let machine = boot(&[&main, &spare]);
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
    let machine = boot(&[&main, &spare]);
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
    assert_eq!(flush(&machine), 0);
    machine.power_cut(10);

    assert_eq!(remapped(&Image::of(&spare).places()), [(1008, 8), (2016, 8)]);
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    holds(&machine, 992, 64, "new");
    holds(&machine, 2000, 16, "old");
    holds(&machine, 2016, 8, "new");
    holds(&machine, 2024, 40, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn on_partitions_what_fails_is_tried_again_where_it_belongs() {
    let (main, spare) = (Drive::blank("main", 33 * MIB), Drive::blank("spare", 17 * MIB));
    let machine = boot(&[&main, &spare]);
    one_partition(&machine, "/dev/vda", 32 * MIB);
    one_partition(&machine, "/dev/vdb", 16 * MIB);
    // What stands in front of them is somebody else's.
    let others = |verb: &str| {
        for disk in ["/dev/vda", "/dev/vdb"] {
            machine.ok(&format!("guest io {verb} {disk} 64 1900 others"));
        }
    };
    others("write");
    machine.ok("guest io write /dev/vda1 0 8192 old && guest io flush /dev/vda1");
    let remap = Remap::create(&machine, "r", "/dev/vda1", "/dev/vdb1 1 create");
    let moved = || runs(&remap.places(), |place| place.at.is_some());
    main.fail_writes(PARTITION + 1003..PARTITION + 1005);
    assert_eq!(write(&machine, 992, 64, "new"), 0);
    assert_eq!(moved(), [(1003, 2)]);
    holds(&machine, 992, 64, "new");
    // A second try that works moves nothing, on main and on the spare.
    main.fail_writes_times(PARTITION + 1100..PARTITION + 1101, 1);
    assert_eq!(write(&machine, 1096, 8, "new"), 0);
    let at = PARTITION + remap.place_of(1003).unwrap();
    spare.fail_writes_times(at..at + 2, 1);
    assert_eq!(write(&machine, 1000, 8, "newer"), 0);
    assert_eq!(moved(), [(1003, 2)]);
    holds(&machine, 1096, 8, "new");
    holds(&machine, 1000, 8, "newer");
    holds(&machine, 1104, 896, "old");
    others("check");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_small_write_moves_alone_when_its_neighbours_are_bad() {
    let main = Drive::with_blocks("main", 32 * MIB, 512, 4096);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = boot(&[&main, &spare]);
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
    assert_eq!(flush(&machine), 0);
    machine.power_cut(11);

    let places = Image::of(&spare).places();
    assert_eq!(remapped(&places), [(1003, 1), (1006, 2)]);
    assert_eq!(pending(&places), [(1000, 3), (1004, 2)]);
    let machine = boot(&[&main, &spare]);
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
    let machine = boot(&[&main, &spare]);
    create(&machine);
    main.fail_writes(1003..1005);
    main.fail_writes(2000..2003);
    machine.ok(&format!("guest io write-durable {PATH} 1000 8 new"));
    machine.power_cut(12);

    let machine = boot(&[&main, &spare]);
    remap_is(&machine, &[(1003, 2)]);
    holds(&machine, 1000, 8, "new");
    machine.ok(&format!("guest io zero {PATH} 1990 20"));
    assert_eq!(flush(&machine), 0);
    machine.power_cut(13);

    let machine = boot(&[&main, &spare]);
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
    let machine = boot(&[&main, &spare]);
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
    let machine = boot(&[&main, &spare]);
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
    let machine = boot(&[&main, &spare]);
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
    assert_eq!(flush(&machine), 0);
    machine.power_cut(14);
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    assert_eq!(machine.ok(&format!("guest io read {PATH} 1000 8")), content);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_block_that_takes_long_to_fail_holds_up_nothing_elsewhere() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
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
fn copies_that_failed_once_each_do_not_keep_a_write_from_moving() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    let fails = |copy: u8, times| {
        let header = Layout::header(copy).0;
        spare.fail_writes_times(header..header + 8, times);
        remap.message(&format!("remap {} 8", 2000 + 16 * u64::from(copy)));
        while remap.status().keys["jobs"] != "0" {}
    };
    // One that takes it the second time counts again at once.
    for copy in 3..5 {
        fails(copy, 1);
        remap.wait_until(|status| status.keys["copies"] == "5/5");
    }
    remap.message("set min_copies 4");
    // After one that did not, the next is left alone for a while.
    fails(1, 2);
    fails(2, 1);
    let status = remap.status();
    assert_eq!((&*status.keys["copies"], &*status.keys["persist"]), ("3/5", "failed"));
    main.fail_writes(1003..1005);
    assert_eq!(write(&machine, 992, 64, "new"), 0, "{}", machine.kernel_log());
    holds(&machine, 992, 64, "new");
    assert_eq!(remap.status().keys["persist"], "enabled");
    machine.power_cut(1);
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    let moved = [(1003, 2), (2016, 8), (2032, 8), (2048, 8), (2064, 8)];
    assert_eq!(remapped(&remap.places()), moved);
    remap.remove();
    machine.shutdown();
}

#[test]
fn copies_that_take_long_to_fail_are_left_alone_after_that() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("set min_copies 5");
    let header = Layout::header(3).0;
    spare.fail_writes(header..header + 8);
    remap.message("remap 2000 8");
    remap.wait_until(|status| status.keys["copies"] == "4/5");
    // Longer than they are left alone for.
    let delay = Duration::from_secs(12);
    spare.heal(header..header + 8);
    spare.ail(header..header + 8, Ill { writes: true, delay, ..Ill::default() });
    main.fail_writes(1003..1005);
    let took = || {
        let began = Instant::now();
        assert_eq!(write(&machine, 992, 64, "new"), 5);
        began.elapsed()
    };
    assert!(took() >= delay, "the copy was not tried again");
    assert!(took() < delay, "it was tried again at once");
    machine.shutdown();
}

#[test]
fn no_write_waits_for_a_copy_that_is_written_anew_in_vain() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    let header = Layout::header(3).0;
    spare.fail_writes(header..header + 8);
    remap.message("remap 2000 8");
    remap.wait_until(|status| status.keys["copies"] == "4/5");
    // As long as it is left alone.
    std::thread::sleep(Duration::from_secs(12));
    let delay = Duration::from_secs(10);
    spare.heal(header..header + 8);
    spare.ail(header..header + 8, Ill { writes: true, delay, ..Ill::default() });
    main.fail_writes(1003..1005);
    let began = Instant::now();
    assert_eq!(write(&machine, 992, 64, "new"), 0);
    assert!(began.elapsed() < delay, "it waited");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_bad_place_under_a_copy_costs_that_copy_only() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    spare.fail(1024..1032);
    main.fail_writes(1003..1005);
    assert_eq!(write(&machine, 992, 64, "new"), 0, "{}", machine.kernel_log());
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["copies"].as_str()), (2, "4/5"), "{}", status.line);
    assert_eq!(status.keys["persist"], "degraded", "{}", status.line);
    assert_eq!(flush(&machine), 0);
    machine.power_cut(15);
    let machine = boot(&[&main, &spare]);
    let remap = remap_is(&machine, &[(1003, 2)]);
    holds(&machine, 992, 64, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn whoever_watches_is_told() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
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
