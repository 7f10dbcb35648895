//! Every kind of I/O, with remaps in the way, and what becomes of it on the devices.

use super::common::MIB;
use remap_harness::{Drive, Machine, Remap};
use remap_pure::format::layout::Layout;
use std::time::Duration;

fn two_drives(main_mib: u64, spare_mib: u64) -> (Drive, Drive) {
    (Drive::blank("main", main_mib * MIB), Drive::blank("spare", spare_mib * MIB))
}

#[test]
fn a_flush_goes_where_something_was_written() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 1000 8");
    let path = remap.path();
    let flushes = || (main.counters().flushes, spare.counters().flushes);
    let write_and_flush = |sector: u64| {
        let before = flushes();
        machine.ok(&format!("guest io write {path} {sector} 8 x && guest io flush {path}"));
        let after = flushes();
        (after.0 - before.0, after.1 - before.1)
    };
    // The first may have what the copying of the remap has left to flush.
    write_and_flush(64);
    // Its commit has other copies to write when it is answered.
    while {
        let before = spare.counters();
        std::thread::sleep(Duration::from_millis(500));
        spare.counters() != before
    } {}
    write_and_flush(64);
    assert_eq!(write_and_flush(64), (1, 0), "a write of main alone");
    assert_eq!(write_and_flush(1000), (1, 1), "a write of the spare");
    assert_eq!(write_and_flush(64), (1, 0), "the spare has been flushed");

    // What was flushed outlives a power cut, on both.
    machine.ok(&format!("guest io write {path} 992 24 kept && guest io flush {path}"));
    machine.power_cut(3);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    machine.ok(&format!("guest io check {} 992 24 kept", remap.path()));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_failed_flush_is_remembered_until_one_succeeds() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 1000 8");
    let path = remap.path();
    let fua = |sector: u64| {
        machine
            .run(&format!(
                "fio --name=fua --filename={path} --rw=write --bs=4k --size=4k --offset={} --direct=1 --sync=dsync",
                sector * 512
            ))
            .status
    };
    assert_eq!((fua(64), fua(1000)), (0, 0));
    spare.set_fail_flushes(true);
    machine.ok(&format!("guest io write {path} 1000 8 x"));
    assert_ne!(machine.run(&format!("guest io flush {path}")).status, 0);
    spare.set_fail_flushes(false);
    // Nothing more was written to it, but what was is not durable yet.
    machine.ok(&format!("guest io flush {path}"));
    assert_eq!((fua(64), fua(1000)), (0, 0));
    main.set_fail_flushes(true);
    assert_ne!(machine.run(&format!("guest io flush {path}")).status, 0);
    main.set_fail_flushes(false);
    machine.ok(&format!("guest io flush {path}"));
    assert_eq!(fua(64), 0);
    machine.allow("I/O error");
    remap.remove();
    machine.shutdown();
}

#[test]
fn callers_are_told_of_what_a_flush_of_our_own_may_have_lost() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 1000 8");
    let path = remap.path();
    let flush = || machine.run(&format!("guest io flush {path}")).status == 0;
    let fua = || {
        let job = "--rw=write --bs=4k --size=4k --offset=64k --direct=1 --sync=dsync";
        machine.run(&format!("fio --name=fua --filename={path} {job}")).status == 0
    };
    let fails_once = |drive: &Drive, message: &str| {
        drive.set_fail_flushes(true);
        remap.message_fails(message);
        drive.set_fail_flushes(false);
        remap.message(message);
    };
    assert!(flush());
    // There was nothing to be lost.
    fails_once(&spare, "save");
    assert!(fua() && flush());
    machine.ok(&format!("guest io write {path} 1000 8 x"));
    fails_once(&spare, "save");
    // The core may have lost the error of the first.
    assert!(!flush() && !fua());
    assert!(flush() && fua());
    // Main is written to all the time.
    fails_once(&main, "unremap 1000 8");
    assert!(!fua() && !flush());
    assert!(flush() && fua());
    // Callers are those of the device, whatever tables follow each other on it.
    remap.message("remap 1000 8");
    fails_once(&main, "unremap 1000 8");
    remap.reload();
    assert!(!fua() && !flush());
    assert!(flush() && fua());
    remap.reload();
    assert!(fua() && flush());
    // What is flushed when a table is let go; the same is put to use again, or another one.
    for another in [false, true] {
        remap.message("remap 1000 8");
        machine.ok(&format!("guest io write {path} 1000 8 x"));
        if another {
            machine.ok("dmsetup load r --table '0 65536 remap /dev/vda /dev/vdb'");
        }
        spare.set_fail_flushes(true);
        machine.ok("dmsetup suspend r");
        spare.set_fail_flushes(false);
        machine.ok("dmsetup resume r");
        assert!(!flush() && flush() && fua(), "another: {another}");
        remap.message("unremap 1000 8");
        assert!(flush());
    }
    remap.remove();
    machine.shutdown();
}

#[test]
fn errors_are_passed_on_and_counted() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    machine.ok(&format!("guest io write {path} 0 4096 data"));
    remap.message("set auto_remap 0");
    remap.message("remap 1000 8");
    main.fail(2000..2008);
    main.fail(1000..1008);
    const EIO: i32 = 5;
    assert_eq!(machine.run(&format!("guest io read {path} 2000 8")).status, EIO);
    assert_eq!(machine.run(&format!("guest io write {path} 2000 8 x")).status, EIO);
    machine.ok(&format!("guest io check {path} 1000 8 data"));
    // The place on the spare fails: main's old block does not cover that up.
    main.heal(1000..1008);
    let at = remap.place_of(1000).unwrap();
    spare.fail_reads(at..at + 8);
    assert_eq!(machine.run(&format!("guest io read {path} 1000 8")).status, EIO);
    spare.heal(at..at + 8);
    let status = remap.status();
    let errors = &status.keys["errors"];
    assert!(errors.starts_with('W') && !errors.starts_with("W0"), "{}", status.line);
    assert!(!errors.ends_with("R0"), "{}", status.line);
    let errors = errors.clone();
    remap.remove();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().keys["errors"], errors, "counts outlive the device");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_cannot_be_read_becomes_pending_and_the_rest_moves() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    machine.ok(&format!("guest io write {path} 0 4096 data"));
    main.fail_reads(1010..1013);
    remap.message("remap 1000 32");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (29, 3), "{}", status.line);
    assert_eq!(status.keys["health"], "0");
    assert!(remap.message("table").contains("1010 3 pending"), "{}", remap.message("table"));
    machine.ok(&format!("guest io check {path} 1000 10 data"));
    machine.ok(&format!("guest io check {path} 1013 19 data"));
    assert_eq!(machine.run(&format!("guest io read {path} 1010 1")).status, 5);
    machine.ok(&format!("guest io flush {path}"));
    machine.power_cut(9);

    // Marks outlive a power cut. When the block can be read again, it is brought back by unremap, or moved by remap.
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().pending.0, 3);
    main.heal(1010..1011);
    remap.message("unremap 1010 3");
    assert_eq!(remap.status().pending.0, 2);
    main.heal(1011..1013);
    remap.message("remap 1010 3");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (32, 0), "{}", status.line);
    machine.ok(&format!("guest io check {path} 0 4096 data"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn an_unremap_that_main_cannot_take_leaves_the_remap() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    machine.ok(&format!("guest io write {path} 0 4096 old"));
    remap.message("remap 1000 64");
    machine.ok(&format!("guest io write {path} 1000 64 new"));
    main.fail_writes(1020..1021);
    let said = remap.message_fails("unremap 1000 64");
    assert!(said.contains("Input/output error"), "{said}");
    assert!(remap.message("metadata_status").contains("failed to write sector 1000"));
    assert_eq!(remap.status().remapped.0, 64);
    machine.ok(&format!("guest io check {path} 1000 64 new"));
    main.heal(0..4096);
    remap.message("unremap 1000 64");
    assert_eq!(remap.status().remapped.0, 0);
    machine.ok(&format!("guest io check {path} 1000 64 new"));
    machine.ok("guest io check /dev/vda 1000 64 new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_slow_block_holds_up_nothing_elsewhere() {
    let (main, spare) = two_drives(64, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    main.slow_down(100..101, Duration::from_secs(20));
    let mut slow = machine.start(&format!("guest io read {path} 96 8"));
    for i in 0..5u64 {
        let at = 64 * MIB / 8 * (i + 2);
        remap.message(&format!("remap {at} 64"));
        machine
            .ok(&format!("guest io write {path} {at} 128 x && guest io check {path} {at} 128 x"));
        remap.message(&format!("unremap {at} 64"));
    }
    assert!(slow.poll(Duration::from_millis(1)).is_none(), "the slow block was not slow enough");
    assert_eq!(slow.wait().status, 0);
    remap.remove();
    machine.shutdown();
}

#[test]
fn discards_and_zeroes_go_where_the_data_is() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    machine.ok(&format!("guest io write {path} 0 8192 data"));
    remap.message("remap 2048 64");
    remap.message("remap 4096 64");
    let before = (main.counters().discards, spare.counters().discards);
    machine.ok(&format!("blkdiscard -o {} -l {} {path}", 2000 * 512, 160 * 512));
    let after = (main.counters().discards, spare.counters().discards);
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
    machine
        .ok(&format!("guest io check {path} 0 2000 data && guest io check {path} 2160 1936 data"));
    machine.ok(&format!("/bin/blkdiscard -z -o {} -l {} {path}", 4000 * 512, 200 * 512));
    machine.ok(&format!(
        "dd if={path} bs=512 skip=4000 count=200 iflag=direct 2>/dev/null | cmp -n {} - /dev/zero",
        200 * 512
    ));
    machine.ok(&format!("guest io check {path} 4200 2000 data"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_read_only_table_serves_remaps_and_writes_nothing() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok(&format!("guest io write {} 0 4096 data", remap.path()));
    remap.message("remap 1000 8");
    machine.ok(&format!("guest io write {} 1000 8 new", remap.path()));
    remap.remove();
    machine.ok("sync");
    let before = (main.counters().writes, spare.counters().writes);
    let limits = "2 error_rate_limit 7";
    machine.ok(&format!(
        "dmsetup create r --readonly --table '0 65536 remap /dev/vda /dev/vdb {limits}'"
    ));
    let remap = Remap::existing(&machine, "r");
    let path = remap.path();
    // What the line says is in force, also when it is resumed once more.
    for _ in 0..2 {
        assert_eq!(remap.message("get error_rate_limit").trim(), "7");
        machine.ok("dmsetup suspend r && dmsetup resume r");
    }
    machine.ok(&format!("guest io check {path} 1000 8 new && guest io check {path} 1008 64 data"));
    assert_eq!(remap.status().keys["persist"], "readonly");
    for message in ["remap 64 8", "unremap 1000 8", "clear", "save", "set remap_block 64", "undo"] {
        let said = remap.message_fails(message);
        assert!(said.contains("Read-only"), "{message}: {said}");
    }
    assert!(remap.message("verify 1000").contains("lives on spare 0"));
    machine.fails(&format!("guest io write {path} 64 8 x"));
    remap.remove();
    assert_eq!(before, (main.counters().writes, spare.counters().writes));
    // Nothing of it was kept.
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.message("get error_rate_limit").trim(), "50000");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_read_only_table_leaves_damage_as_it_is() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 1000 8");
    remap.remove();
    machine.ok("sync");
    // Nobody knows what was tried there, which a table that may write supersedes.
    let header = Layout::header(1).0;
    spare.fail_reads(header..header + 16);
    let before = (main.counters().writes, spare.counters().writes);
    machine.ok("dmsetup create r --readonly --table '0 65536 remap /dev/vda /dev/vdb'");
    let remap = Remap::existing(&machine, "r");
    // The worker tries again each second, where it tries anything.
    std::thread::sleep(Duration::from_secs(3));
    assert!(remap.message("verify 1000").contains("lives on spare 0"));
    assert_eq!(remap.status().keys["persist"], "readonly");
    remap.remove();
    assert_eq!(before, (main.counters().writes, spare.counters().writes));
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().keys["copies"], "5/5");
    remap.remove();
    assert_ne!(before.1, spare.counters().writes, "there was nothing to be done");
    machine.shutdown();
}

#[test]
fn limits_are_those_of_main() {
    let main = Drive::with_blocks("main", 32 * MIB, 512, 4096);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let queue =
        |device: &str, what: &str| machine.ok(&format!("cat /sys/block/{device}/queue/{what}"));
    for what in ["logical_block_size", "physical_block_size", "rotational", "discard_max_bytes"] {
        assert_eq!(queue("dm-0", what), queue("vda", what), "{what}");
    }
    // The unit in which places are given out is main's physical block: neighbours keep their places in it.
    remap.message("remap 1003 2");
    let words = remap.message("table");
    let words: Vec<u64> = words.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(words[3] % 8, 1003 % 8, "{words:?}");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_flush_after_a_reload_finds_what_was_written_before() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    remap.message("remap 1000 64");
    let line = remap.table();
    machine.ok(&format!("guest io write {path} 1000 64 kept"));
    machine
        .ok(&format!("dmsetup suspend --noflush --nolockfs r && dmsetup load r --table '{line}'"));
    machine.ok(&format!("dmsetup resume r && guest io flush {path}"));
    machine.power_cut(11);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    machine.ok(&format!("guest io check {path} 1000 64 kept"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_write_that_has_to_be_durable_does_not_outrun_a_failed_flush() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    remap.message("remap 1000 8");
    // A journal's commit: what was written before is to be durable first, and it lives on the spare.
    let commit = |sector: u64| {
        machine.ok(&format!("guest io write {path} 1000 8 journal"));
        let fua = format!(
            "fio --name=commit --filename={path} --rw=write --bs=4k --size=4k --offset={} --direct=1 --sync=sync",
            sector * 512
        );
        machine.run(&fua).status
    };
    assert_eq!(commit(64), 0);
    spare.set_fail_flushes(true);
    assert_ne!(commit(64), 0, "a write to main was acknowledged as durable");
    spare.set_fail_flushes(false);
    machine.ok(&format!("guest io flush {path}"));
    assert_eq!(commit(64), 0);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_move_waits_for_what_is_on_its_way() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    let second = Duration::from_secs(1);
    machine.ok(&format!("guest io write {path} 992 32 old"));

    // A write that main takes three seconds for; reads of it are quick again by the time of the move.
    main.slow_down(1000..1008, 3 * second);
    let writing = machine.start(&format!("guest io write {path} 1000 8 new"));
    std::thread::sleep(second);
    main.heal(1000..1008);
    remap.message("remap 1000 8");
    assert_eq!(writing.wait().status, 0);
    machine.ok(&format!("guest io check {path} 1000 8 new"));

    // The same on the way back, with a write that the spare takes its time for.
    let at = remap.place_of(1000).unwrap();
    spare.slow_down(at..at + 8, 3 * second);
    let writing = machine.start(&format!("guest io write {path} 1000 8 newer"));
    std::thread::sleep(second);
    spare.heal(at..at + 8);
    remap.message("unremap 1000 8");
    assert_eq!(writing.wait().status, 0);
    machine.ok(&format!("guest io check {path} 1000 8 newer"));
    machine.ok(&format!("guest io check {path} 992 8 old && guest io check {path} 1008 16 old"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn pending_blocks_that_fail_slowly_hold_their_neighbours_up_for_a_bounded_time() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    main.fail_reads(1000..1128);
    remap.message("remap 1000 128");
    assert_eq!(remap.status().pending.0, 128);

    // Reading all of them one by one takes four minutes; a write to the last waits for a part of that.
    main.slow_down(1000..1120, Duration::from_secs(2));
    let mut unremap = machine.start("dmsetup message r 0 unremap 1000 128");
    remap.wait_until(|status| status.keys["jobs"] == "1");
    std::thread::sleep(Duration::from_secs(1));
    let write = format!("guest io write {path} 1120 8 new");
    assert_eq!(machine.run_for(&write, Duration::from_secs(90)).status, 0);
    assert!(unremap.poll(Duration::from_millis(1)).is_none(), "the blocks were not slow enough");
    remap.message("stop");
    assert_ne!(unremap.wait_for(Duration::from_secs(60)).status, 0);
    main.heal(1000..1128);
    remap.message("unremap 1000 128");
    assert_eq!(remap.status().pending.0, 0);
    machine.ok(&format!("guest io check {path} 1120 8 new"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_moves_is_found_at_once_and_when_nothing_has_changed_for_a_while() {
    let (main, spare) = two_drives(32, 16);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let path = remap.path();
    let (mut write, mut check) = (String::new(), String::new());
    // Sixty-four extents, of which no two touch.
    for start in (0..8192u64).step_by(128) {
        remap.message(&format!("remap {} 24", start + 64));
        // Within an extent, as long as one, and beyond both of its ends.
        for (at, len) in [(start, 56), (start + 56, 16), (start + 72, 8), (start + 80, 24)] {
            write += &format!("io write {path} {at} {len} PATTERN\n");
            check += &format!("io check {path} {at} {len} PATTERN\n");
        }
    }
    // Where everything lives, looked at beneath the set.
    let beneath = |pattern: &str| {
        machine.take(&format!("io flush {path}"));
        for place in remap.places() {
            let at = place.at.expect("it has moved");
            for sector in 0..place.len {
                let bytes = spare.durable(at + sector..at + sector + 1);
                let says = format!("{pattern} {}\n", place.start + sector);
                assert!(bytes.starts_with(says.as_bytes()), "{says} is not at {}", at + sector);
            }
        }
    };
    machine.take(&write.replace("PATTERN", "first"));
    for pattern in ["second", "third", "fourth"] {
        // By now it is found by short cuts.
        std::thread::sleep(Duration::from_millis(500));
        machine.take(&write.replace("PATTERN", pattern));
        machine.take(&check.replace("PATTERN", pattern));
        beneath(pattern);
        // And now it is not: some of it lives on main again, and some elsewhere on the spare.
        machine.take("message r unremap 64 24\nmessage r unremap 320 24\nmessage r remap 64 24");
        machine.take(&check.replace("PATTERN", pattern));
        machine.take(&write.replace("PATTERN", "again"));
        machine.take(&check.replace("PATTERN", "again"));
        beneath("again");
        machine.take("message r remap 320 24");
    }
    remap.remove();
    machine.shutdown();
}
