//! Spares that die, and what those who wrote to them, and who put the set to use again, are told.

use super::common::{boot, flush, holds, write, PATH};
use super::several::{by_spare, cannot_be_read, create, main_drive, small, told, SMALL_ROOM};
use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Job, Machine, Remap};
use remap_pure::format::layout::Layout;
use std::time::Duration;

/// The sectors of the headers on a spare.
fn headers() -> [u64; 5] {
    [0, 1, 2, 3, 4].map(|copy| Layout::header(copy).0)
}

/// A set of two spares, of which the first has data that was written and not flushed when it died, and was missed without a flush of anybody.
fn lost_unflushed<'m>(machine: &'m Machine, one: &Drive) -> Remap<'m> {
    let remap = create(machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    assert_eq!((write(machine, 0, 64, "new"), flush(machine)), (0, 0));
    assert_eq!(write(machine, 8, 8, "newer"), 0);
    one.set_gone(true);
    cannot_be_read(machine, 0, 8);
    remap.wait_until(|status| status.keys["persist"] == "degraded");
    remap
}

#[test]
fn a_spare_that_dies_with_what_was_not_flushed_is_noticed_and_told_of() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    assert_eq!((write(&machine, 0, 64, "new"), flush(&machine)), (0, 0));
    assert_eq!(write(&machine, 8, 8, "newer"), 0);
    one.set_gone(true);
    // A journal's commit, to a block of main: what it comes after is lost.
    let commit = "--rw=write --bs=4k --size=4k --offset=1m --direct=1 --sync=sync";
    let commit = || machine.run(&format!("fio --name=commit --filename={PATH} {commit}")).status;
    assert_ne!(commit(), 0);
    // Nothing has to be moved for that.
    machine.wait_for_log("spare 0 (", Duration::from_secs(5));
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    // The next flush may be the first that hears of it.
    flush(&machine);
    assert_eq!((flush(&machine), commit()), (0, 0));
    assert_eq!((write(&machine, 8, 8, "newest"), flush(&machine)), (0, 0));
    holds(&machine, 8, 8, "newest");
    cannot_be_read(&machine, 0, 8);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_nobody_writes_to_is_missed_by_who_reads_it() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    one.set_gone(true);
    cannot_be_read(&machine, 0, 8);
    machine.wait_for_log("spare 0 (", Duration::from_secs(5));
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    assert_eq!(remap.status().pending.0, 0);
    assert_eq!(write(&machine, 0, 64, "new"), 0);
    holds(&machine, 0, 64, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_set_resumes_without_a_spare_that_has_died_unnoticed() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    assert_eq!((write(&machine, 0, 64, "new"), flush(&machine)), (0, 0));
    one.set_gone(true);
    machine.ok("dmsetup suspend r && dmsetup resume r");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    cannot_be_read(&machine, 0, 8);
    holds(&machine, 64, 8, "old");
    one.set_gone(false);
    remap.message("repair");
    holds(&machine, 0, 64, "new");
    // By another table, and the other spare.
    two.set_gone(true);
    remap.reload();
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    holds(&machine, 0, 64, "new");
    remap.remove();
    // Nobody has said that it is to be done without, here.
    two.set_gone(false);
    Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 spare /dev/vdc").remove();
    one.set_gone(true);
    let line = "0 65536 remap /dev/vda /dev/vdc";
    machine.fails(&format!("dmsetup create r --table '{line}'"));
    machine.shutdown();
}

#[test]
fn a_spare_that_dies_in_use_is_done_without_until_it_is_back() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    assert_eq!(write(&machine, 0, 64, "new"), 0);
    assert_eq!(flush(&machine), 0);
    assert_eq!(by_spare(&remap), [64, 0, 0]);
    one.set_gone(true);
    main.fail_writes(1000..1001);
    // The next change finds out, and comes about all the same.
    assert_eq!(write(&machine, 996, 8, "new"), 0, "{}", machine.kernel_log());
    holds(&machine, 996, 8, "new");
    machine.wait_for_log("spare 0 (", Duration::from_secs(1));
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    assert_eq!(by_spare(&remap), [64, 1, 0]);
    cannot_be_read(&machine, 0, 8);
    assert_eq!(write(&machine, 8, 8, "newer"), 0, "{}", machine.kernel_log());
    holds(&machine, 8, 8, "newer");
    assert_eq!(by_spare(&remap), [56, 9, 0]);
    remap.message_fails("unremap 0 8");
    remap.message("unremap 8 8");
    holds(&machine, 8, 8, "newer");
    // A flush may say once that something was lost; then it needs the spare no more.
    flush(&machine);
    assert_eq!(flush(&machine), 0);
    remap.message_fails("repair");
    let line = remap.table();
    assert!(line.contains("degraded"), "{line}");
    machine.ok("dmsetup suspend r && dmsetup resume r");
    cannot_be_read(&machine, 0, 8);
    // Nobody has written to it through the new table.
    remap.reload();
    let commit = "--rw=write --bs=4k --size=4k --offset=1m --direct=1 --sync=sync";
    machine.ok(&format!("fio --name=commit --filename={PATH} {commit}"));
    assert_eq!(flush(&machine), 0);

    one.set_gone(false);
    remap.message("repair");
    assert_eq!(told(&remap, ["persist", "away", "copies"]), ["enabled", "0", "10/10"]);
    holds(&machine, 0, 8, "new");
    holds(&machine, 8, 8, "newer");
    holds(&machine, 16, 48, "new");
    remap.message("check forensic");
    remap.message("remap 5000 8");
    assert_eq!(by_spare(&remap), [64, 1, 0]);
    machine.power_cut(5);

    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 spare /dev/vdc");
    holds(&machine, 0, 8, "new");
    holds(&machine, 8, 8, "newer");
    holds(&machine, 996, 8, "new");
    assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"]);
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_was_lost_with_a_spare_is_told_by_the_next_table_and_when_it_is_back() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = lost_unflushed(&machine, &one);
    remap.reload();
    assert_ne!(flush(&machine), 0);
    assert_eq!((flush(&machine), flush(&machine)), (0, 0));
    remap.remove();
    one.set_gone(false);
    machine.ok("dd if=/dev/zero of=/dev/vdb bs=1M count=8 oflag=direct && dd if=/dev/zero of=/dev/vdc bs=1M count=8 oflag=direct");
    let remap = lost_unflushed(&machine, &one);
    one.set_gone(false);
    remap.message("repair");
    assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"]);
    assert_ne!(flush(&machine), 0);
    assert_eq!((flush(&machine), flush(&machine)), (0, 0));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_was_away_comes_back_when_somebody_says_so_and_not_by_a_setting() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    one.set_gone(true);
    remap.message("remap 100 8");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    one.set_gone(false);
    // It has been used for something else, which begins like this.
    one.scribble(0, &[0x55; 4096]);
    remap.message("set alert_threshold 60");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    assert_eq!(one.durable(0..8), [0x55; 4096]);
    remap.message("save");
    assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"]);
    holds(&machine, 0, 64, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_table_that_was_loaded_before_a_spare_died_is_put_to_use() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    machine.ok("dmsetup load r --table '0 65536 remap /dev/vda /dev/vdb 2 spare /dev/vdc'");
    one.set_gone(true);
    cannot_be_read(&machine, 0, 8);
    machine.wait_for_log("spare 0 (", Duration::from_secs(5));
    machine.ok("dmsetup resume r");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    cannot_be_read(&machine, 0, 8);
    holds(&machine, 64, 8, "old");
    one.set_gone(false);
    remap.message("repair");
    holds(&machine, 0, 64, "old");
    // Read-only, it is left as it is: nothing could be written that says so.
    let load = "dmsetup load -r r --table '0 65536 remap /dev/vda /dev/vdb 2 spare /dev/vdc' && dmsetup resume r";
    machine.ok(load);
    one.set_gone(true);
    machine.ok("dmsetup suspend r && dmsetup resume r");
    cannot_be_read(&machine, 0, 8);
    holds(&machine, 64, 8, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_answers_again_while_a_set_is_resumed_is_not_given_up() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    machine.ok("dmsetup suspend r");
    for first in headers() {
        one.ail(first..first + 8, Ill { reads: true, times: 1, ..Ill::default() });
    }
    machine.ok("dmsetup resume r");
    let log = machine.kernel_log();
    assert!(
        log.lines()
            .any(|line| line.contains("spare 0 (254:16") && line.ends_with(") answers again")),
        "{log}"
    );
    assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"]);
    holds(&machine, 0, 64, "old");
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_a_spare_lost_that_leaves_is_told_by_who_stays() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("remap 0 64");
    assert_eq!((write(&machine, 0, 64, "new"), flush(&machine)), (0, 0));
    assert_eq!(write(&machine, 8, 8, "newer"), 0);
    one.set_fail_flushes(true);
    remap.message_fails("save");
    one.set_fail_flushes(false);
    remap.message("save");
    remap.message("migrate /dev/vdc");
    assert_ne!(flush(&machine), 0);
    assert_eq!((flush(&machine), flush(&machine)), (0, 0));
    remap.remove();
    machine.shutdown();
}

#[test]
fn copies_that_a_suspect_lost_are_told_of_although_it_stays() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 8");
    let at = remap.place_of(0).unwrap();
    one.fail_reads(at..at + 8);
    for (copy, first) in headers().into_iter().enumerate() {
        let writes = copy > 0;
        one.ail(first..first + 8, Ill { reads: true, writes, ..Ill::default() });
    }
    cannot_be_read(&machine, 0, 8);
    remap.wait_until(|status| status.keys["persist"] == "degraded");
    assert_eq!(told(&remap, ["copies", "away"]), ["6/10", "0"]);
    remap.remove();
    machine.shutdown();
}

/// Begins a write that is held while a restore reads slow copies, so that it is sent in parts, if its data has several places. It is over or
/// under way when this is, and the restore is over.
fn write_in_parts<'m>(machine: &'m Machine, spare: &Drive, first: u64, count: u64) -> Job<'m> {
    spare.slow_down(0..8, Duration::from_secs(3));
    let mut restore = machine.start("dmsetup message r 0 restore");
    std::thread::sleep(Duration::from_secs(1));
    let write = machine.start(&format!("guest io write {PATH} {first} {count} parts"));
    std::thread::sleep(Duration::from_secs(1));
    spare.heal(0..8);
    assert_eq!(restore.poll(Duration::from_secs(60)).unwrap().status, 0);
    write
}

#[test]
fn a_write_to_several_devices_is_told_of_when_one_of_them_dies_before_the_last_has_answered() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 64 64");
    assert_eq!(flush(&machine), 0);
    main.slow_down(130..131, Duration::from_secs(25));
    let mut write = write_in_parts(&machine, &one, 32, 128);
    // The spare's part is there, main's is not.
    std::thread::sleep(Duration::from_secs(2));
    one.set_gone(true);
    // A commit that waits for no bio.
    remap.message("set alert_threshold 60");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    assert!(write.poll(Duration::from_millis(1)).is_none());
    assert_eq!(flush(&machine), 0);
    assert_eq!(write.poll(Duration::from_secs(60)).unwrap().status, 0);
    assert_ne!(flush(&machine), 0);
    assert_eq!((flush(&machine), flush(&machine)), (0, 0));
    // One that has no part of it there says nothing of it.
    main.heal(130..131);
    remap.message("remap 1000 8");
    one.set_gone(false);
    remap.message("repair");
    remap.message("unremap 64 64");
    one.set_gone(true);
    remap.message("set alert_threshold 61");
    let mut write = write_in_parts(&machine, &two, 990, 32);
    assert_eq!(write.poll(Duration::from_secs(60)).unwrap().status, 0);
    assert_eq!((flush(&machine), flush(&machine)), (0, 0));
    holds(&machine, 990, 32, "parts");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_write_that_a_spare_acknowledges_after_it_was_put_away_is_told_of() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    let at = remap.place_of(0).unwrap();
    assert_eq!((write(&machine, 32, 8, "new"), flush(&machine)), (0, 0));
    assert_eq!(write(&machine, 32, 8, "newer"), 0);
    one.slow_down(at..at + 8, Duration::from_secs(8));
    let mut late = machine.start(&format!("guest io write {PATH} 0 8 late"));
    std::thread::sleep(Duration::from_secs(1));
    one.set_gone(true);
    remap.message("set alert_threshold 60");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    assert_ne!(flush(&machine), 0);
    one.set_gone(false);
    assert_eq!(late.poll(Duration::from_secs(60)).unwrap().status, 0);
    assert_ne!(flush(&machine), 0);
    assert_eq!((flush(&machine), flush(&machine)), (0, 0));
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_a_flush_of_our_own_loses_is_told_while_another_spare_takes_its_time() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    machine.ok("dmsetup create slow --table \"0 $(blockdev --getsz /dev/vdc) linear /dev/vdc 0\"");
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/mapper/slow");
    remap.message("remap 0 64");
    assert_eq!((write(&machine, 0, 64, "new"), flush(&machine)), (0, 0));
    assert_eq!(write(&machine, 8, 8, "newer"), 0);
    machine.ok("dmsetup suspend --nolockfs slow");
    one.set_fail_flushes(true);
    let mut sync = machine.start("dmsetup message r 0 sync");
    std::thread::sleep(Duration::from_secs(2));
    one.set_fail_flushes(false);
    assert!(sync.poll(Duration::from_millis(1)).is_none());
    assert_ne!(flush(&machine), 0);
    assert_eq!((flush(&machine), flush(&machine)), (0, 0));
    machine.ok("dmsetup resume slow");
    assert_ne!(sync.poll(Duration::from_secs(60)).unwrap().status, 0);
    assert_eq!(flush(&machine), 0);
    remap.remove();
    machine.ok("dmsetup remove slow");
    machine.shutdown();
}

#[test]
fn what_lived_on_a_spare_that_is_away_fills_no_room() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message(&format!("remap 0 {}", SMALL_ROOM / 80 * 64));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    let [on_one, on_two, _] = by_spare(&remap);
    assert!(on_one > SMALL_ROOM * 7 / 10 && on_two < SMALL_ROOM / 10, "{on_one} {on_two}");
    one.set_gone(true);
    remap.message("set alert_threshold 70");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    let log = machine.kernel_log();
    assert!(!log.contains("of the spare room is in use"), "{log}");
    remap.remove();
    machine.shutdown();
}
