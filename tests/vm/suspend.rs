//! Suspending, resuming, loading another table, removing, unloading, with load and moves under way.

use super::common::{boot, MIB};
use remap_harness::{Drive, Remap};
use std::time::Duration;

/// A load that checks what it reads, until it is told to stop.
const LOAD: &str = "fio --name=load --filename=/dev/mapper/r --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw \
     --bsrange=4k-128k --size=24m --verify=crc32c --verify_backlog=64 --time_based --runtime=600 --randrepeat=0 \
     --output=/tmp/fio.log --exitall_on_error";

fn drives() -> (Drive, Drive) {
    (Drive::blank("main", 32 * MIB), Drive::blank("spare", 32 * MIB))
}

/// Moves ranges to the spare and back, until it is stopped.
const MOVES: &str = "i=0; while :; do i=$((i + 1)); s=$((i * 7919 % 45000 / 8 * 8)); \
     dmsetup message r 0 remap $s 64 2>/dev/null; \
     s=$((i * 104729 % 45000 / 8 * 8)); dmsetup message r 0 unremap $s 512 2>/dev/null; done";

#[test]
fn moves_under_load_change_nothing() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let moves = machine.start(MOVES);
    let load = LOAD.replace("--time_based --runtime=600", "--loops=3");
    let output = machine.run_for(&load, Duration::from_secs(300));
    assert_eq!(output.status, 0, "{}\n{}", output.stderr, machine.ok("tail -n 30 /tmp/fio.log"));
    moves.kill();
    let status = remap.wait_until(|status| status.keys["jobs"] == "0");
    assert!(status.keys["manual_remaps"].parse::<u64>().unwrap() > 10, "{}", status.line);
    remap.message("clear");
    remap.wait_until(|status| status.keys["jobs"] == "0" && status.remapped.0 == 0);
    remap.remove();
    machine.shutdown();
}

#[test]
fn suspends_and_reloads_under_load_change_nothing() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let moves = machine.start(MOVES);
    let mut load = machine.start(LOAD);
    let line = remap.table();
    for i in 0..12 {
        match i % 4 {
            0 => machine.ok("dmsetup suspend r && dmsetup resume r"),
            1 => machine.ok("dmsetup suspend --noflush --nolockfs r && dmsetup resume r"),
            2 => machine.ok(&format!("dmsetup load r --table '{line}' && dmsetup resume r")),
            // dmstats suspends the device internally, which calls no target.
            _ => machine.ok(
                "dmsetup message r 0 @stats_create - /100 && dmsetup message r 0 @stats_delete 0",
            ),
        };
        std::thread::sleep(Duration::from_millis(300));
        assert!(
            load.poll(Duration::from_millis(1)).is_none(),
            "{}",
            machine.ok("cat /tmp/fio.log")
        );
    }
    moves.kill();
    machine.ok("kill -INT $(pidof fio)");
    let output = load.wait();
    let log = machine.ok("cat /tmp/fio.log");
    assert!(!log.contains("verify:"), "{}\n{log}", output.stderr);
    let status = remap.status();
    assert_eq!(status.keys["persist"], "enabled", "{}", status.line);
    remap.remove();
    machine.ok("rmmod dm-remap");
    machine.shutdown();
}

#[test]
fn a_suspended_device_moves_nothing_and_a_long_move_is_stopped() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok("guest io write /dev/mapper/r 0 65536 data");
    remap.message("remap 0 40000");
    machine.ok("dmsetup suspend r");
    assert_eq!(remap.status().keys["health"], "1");
    machine.ok("dmsetup resume r");
    let status = remap.status();
    assert_eq!(status.keys["jobs"], "0");
    assert!(status.remapped.0 < 40000, "the move was over before it was stopped: {}", status.line);
    assert!(remap.message("metadata_status").contains("ended remap 0+40000"));
    machine.ok("guest io check /dev/mapper/r 0 65536 data");
    remap.message("remap 0 40000");
    remap.message("stop");
    let status = remap.wait_until(|status| status.keys["jobs"] == "0");
    assert!(status.remapped.0 < 40000, "{}", status.line);
    // Two moves of the same sectors do not run side by side; others do.
    remap.message("remap 0 30000");
    let said = remap.message_fails("unremap 16 8");
    assert!(said.contains("busy"), "{said}");
    remap.message("remap 60000 8");
    remap.message("stop");
    remap.wait_until(|status| status.keys["jobs"] == "0");
    machine.ok("guest io check /dev/mapper/r 0 65536 data");
    remap.remove();
    machine.shutdown();
}

#[test]
fn removal_in_the_middle_of_moves_is_clean() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    for round in 0..3 {
        let create = if round == 0 { " 1 create" } else { "" };
        let remap = Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb{create}"));
        let (there, back) =
            if round % 2 == 0 { ("remap", "unremap") } else { ("unremap", "remap") };
        machine.run(&format!("dmsetup message r 0 {there} 0 20000"));
        machine.run(&format!("dmsetup message r 0 {back} 30000 20000"));
        let load = machine
            .start("dd if=/dev/zero of=/dev/mapper/r bs=64k oflag=direct count=200 2>/dev/null");
        std::thread::sleep(Duration::from_millis(50 * round));
        load.kill();
        load.wait();
        remap.remove();
    }
    machine.ok("rmmod dm-remap && insmod /dm-remap.ko");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().keys["persist"], "enabled");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_setting_that_takes_its_time_does_not_keep_a_device_from_going() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.remove();
    // The commit takes a while, and the worker has to wait for it, as it has something to see to. Who comes first when
    // it is over is a matter of luck.
    for round in 0..3 {
        let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
        spare.slow_down(0..8, Duration::from_secs(2));
        let setting = machine.start(&format!("dmsetup message r 0 set scan_rate {}", round + 1));
        std::thread::sleep(Duration::from_secs(1));
        main.fail_writes_times(1003..1005, 1);
        machine.ok("guest io write /dev/mapper/r 1000 8 data");
        remap.remove();
        assert_eq!(setting.wait().status, 0);
        spare.heal(0..8);
    }
    machine.ok("rmmod dm-remap");
    machine.shutdown();
}

#[test]
fn a_spare_that_cannot_be_written_leaves_everything_where_it_was() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok("guest io write /dev/mapper/r 0 8192 data");
    remap.message("remap 64 8");
    // Two copies cannot be written: they are left out, and the rest carries on.
    spare.fail_writes(0..8);
    spare.fail_writes(1024..1032);
    remap.message("remap 128 8");
    let status = remap.status();
    assert_eq!(status.keys["persist"], "degraded", "{}", status.line);
    // Now none: a move is in doubt, what it is about is answered with errors until that is over.
    spare.fail_writes(0..65536);
    let said = remap.message_fails("remap 256 8");
    assert!(said.contains("Input/output error"), "{said}");
    machine.ok("guest io check /dev/mapper/r 0 8192 data");
    assert_eq!(remap.status().remapped.0, 16);
    spare.heal(0..65536);
    remap.message("save");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["persist"].as_str()), (16, "enabled"));
    remap.message("remap 256 8");
    machine.ok("guest io check /dev/mapper/r 0 8192 data");
    machine.ok("guest io flush /dev/mapper/r");
    machine.power_cut(5);
    let machine = self::boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().remapped.0, 24);
    machine.ok("guest io check /dev/mapper/r 0 8192 data");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_commit_in_doubt_is_answered_with_errors_and_ended() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok("guest io write /dev/mapper/r 0 8192 data");
    // The data can be written, no copy of the metadata can.
    for slot in [0, 1024, 2048, 4096, 8192] {
        spare.fail_writes(slot..slot + 1024);
    }
    let mut waiting = machine.start("dmsetup message r 0 remap 256 8");
    machine.wait_for_log("is in doubt", Duration::from_secs(20));
    assert_eq!(machine.run("guest io read /dev/mapper/r 256 8").status, 5);
    assert_eq!(machine.run("guest io write /dev/mapper/r 256 8 x").status, 5);
    machine
        .ok("guest io check /dev/mapper/r 0 256 data && guest io check /dev/mapper/r 264 512 data");
    assert!(waiting.poll(Duration::from_millis(1)).is_none());
    assert!(remap.message("metadata_status").contains("in_doubt yes"));
    spare.heal(0..65536);
    assert_ne!(waiting.wait_for(Duration::from_secs(30)).status, 0);
    let status = remap.wait_until(|status| status.keys["persist"] == "enabled");
    assert_eq!(status.remapped.0, 0, "{}", status.line);
    machine.ok("guest io check /dev/mapper/r 0 8192 data");
    remap.message("remap 256 8");
    machine.ok("guest io check /dev/mapper/r 0 8192 data");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_doubt_that_does_not_end_holds_nothing_up() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok("guest io write /dev/mapper/r 0 8192 data && guest io flush /dev/mapper/r");
    let break_metadata = || {
        for slot in [0, 1024, 2048, 4096, 8192] {
            spare.fail_writes(slot..slot + 1024);
        }
    };
    break_metadata();
    let first = machine.start("dmsetup message r 0 remap 256 8");
    let second = machine.start("dmsetup message r 0 remap 512 8");
    machine.wait_for_log("is in doubt", Duration::from_secs(20));
    // What is not in the commit is not held for long, and nothing new begins.
    machine.ok("guest io write /dev/mapper/r 1024 8 data");
    let said = remap.message_fails("remap 768 8");
    assert!(said.contains("Input/output error"), "{said}");
    machine.ok("dmsetup suspend r");
    assert_ne!(first.wait_for(Duration::from_secs(30)).status, 0);
    assert_ne!(second.wait_for(Duration::from_secs(30)).status, 0);
    spare.heal(0..65536);
    machine.ok("dmsetup resume r");
    let status = remap.wait_until(|status| status.keys["persist"] == "enabled");
    assert!(status.remapped.0 <= 16, "{}", status.line);
    machine.ok("guest io check /dev/mapper/r 0 8192 data");

    // A person's `save` ends the doubt as well as the worker does.
    break_metadata();
    let third = machine.start("dmsetup message r 0 remap 2048 8");
    remap.wait_until(|status| status.keys["persist"] == "failed");
    spare.heal(0..65536);
    machine.run("dmsetup message r 0 save");
    assert_ne!(third.wait_for(Duration::from_secs(30)).status, 0);
    remap.wait_until(|status| status.keys["persist"] == "enabled" && status.keys["jobs"] == "0");
    machine.ok("guest io check /dev/mapper/r 0 8192 data");
    remap.message("save");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_set_that_could_not_grow_grows_when_it_is_resumed_again() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let (all, half) = (32 * MIB, 16 * MIB);
    machine.ok(&format!("dmsetup create r --table '0 {half} remap /dev/vda /dev/vdb 1 create'"));
    machine.ok(&format!(
        "dmsetup load r --table '0 {all} remap /dev/vda /dev/vdb 1 grow' && dmsetup suspend r"
    ));
    spare.fail_writes(0..65536);
    machine.fails("dmsetup resume r");
    spare.heal(0..65536);
    machine.ok("dmsetup resume r");
    let remap = Remap::existing(&machine, "r");
    let end = all - 8;
    remap.message(&format!("remap {end} 8"));
    assert_eq!(remap.status().keys["persist"], "enabled");
    // It is not asked for any more.
    machine.ok("dmsetup suspend r && dmsetup resume r");
    remap.remove();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().remapped.0, 8);
    remap.remove();
    machine.shutdown();
}
