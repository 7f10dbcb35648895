//! A replacement of main is given up: the old one is main again, with what was written meanwhile, or it is said why not.

use crate::common::{freezes_before, more_cuts};
use crate::replace::{
    check_kept, interrupted, is_bad, is_free, on_copy, on_main, refused, replaced, Drives, LOAD,
    MAIN, PATH,
};
use remap_harness::{Drive, Ledger, Machine};
use std::time::Duration;

/// Begins a replacement, and leaves it when something has been copied.
fn begin(machine: &Machine, drives: &Drives) {
    drives.new.slow_down(0..MAIN, Duration::from_millis(20));
    interrupted(machine, "dmremap replace-main disk /dev/vdc --yes");
    drives.new.heal(0..MAIN);
}

#[test]
fn the_old_main_is_main_again_under_load_and_has_all_that_was_written() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = drives.set(&machine);
    let mut ledger = Ledger::new(8, LOAD);
    let load = ledger.start(&machine, PATH, "threads=2 largest=64");
    begin(&machine, &drives);
    // What the old main does not take goes to the spare.
    machine.ok(&format!("guest io write {PATH} 62000 24 meanwhile"));
    drives.old.fail_writes(62_008..62_016);
    let plan = machine.ok("dmremap replace-main --abort disk --dry-run");
    assert!(plan.contains("/dev/vda is to be main again"), "{plan}");
    on_copy(&machine);
    assert!(machine.ok("cat /etc/dmremap.conf && dmremap hides /dev/vdc").contains("SET "));
    let out = machine.ok("dmremap replace-main --abort disk --hold 600 --yes --json");
    assert!(out.contains("\"main\": \"/dev/vda\""), "{out}");
    on_main(&machine, "vda");
    is_free(&machine, "/dev/vdc");
    std::thread::sleep(Duration::from_millis(500));
    drop(load);
    check_kept(&machine, false);
    machine.ok(&format!("guest io check {PATH} 62000 24 meanwhile"));
    assert!(remap.place_of(62_008).is_some() && remap.place_of(62_000).is_none());
    assert_eq!(machine.ok("dmsetup ls | grep -c replace || true"), "0");
    assert!(machine.ok("blkid -p /dev/vdc || true").is_empty());
    drives.new.set_gone(true);
    let events = machine.power_cut(3);
    ledger.enter(&events);
    assert_eq!(ledger.write_errors, 0);

    drives.new.set_gone(false);
    let machine = drives.boot();
    machine.ok(&format!("dmsetup create disk --table '0 {MAIN} remap /dev/vda /dev/vdb'"));
    let found = ledger.scan(&machine, PATH);
    ledger.compare(&found, is_bad);
    check_kept(&machine, false);
    machine.ok(&format!("guest io check {PATH} 62000 24 meanwhile"));
    machine.ok("dmsetup message disk 0 check forensic");
    let failed = machine.fails("dmremap replace-main --abort disk --yes");
    assert!(failed.contains("nothing is being replaced"), "{failed}");
    // Nor is there anything to go back from.
    refused(&machine, "/dev/vda /dev/vdb 1 old_main", "in use by dm-");
    machine.ok("dmsetup remove disk");
    refused(&machine, "/dev/vda /dev/vdb 1 old_main", "leave out 'old_main'");
    machine.shutdown();
}

#[test]
fn there_is_no_way_back_that_loses_something_or_holds_what_waits_for_too_long() {
    let drives = Drives::new();
    let machine = drives.boot();
    drop(drives.set(&machine));
    begin(&machine, &drives);
    machine.ok(&format!("guest io write {PATH} 20000 16 meanwhile"));
    {
        let open = machine.start(&format!("exec 3<{PATH}; sleep 1000"));
        std::thread::sleep(Duration::from_secs(1));
        let failed = machine.fails("dmremap replace-main --abort disk --hold 0 --yes");
        assert!(failed.contains("--hold") && failed.contains("--continue"), "{failed}");
        on_copy(&machine);
        open.kill();
        open.wait();
    }
    // What only the new one has, and does not give.
    drives.new.fail_reads(20_008..20_016);
    let failed = machine.fails("dmremap replace-main --abort disk --hold 600 --yes");
    assert!(failed.contains("cannot be read there, from 20008 on"), "{failed}");
    on_copy(&machine);
    machine.ok(&format!("guest io check {PATH} 20000 8 meanwhile"));
    machine.fails(&format!("guest io read {PATH} 20008 8"));
    // Written, it is on a spare, and nothing keeps it any more.
    machine.ok(&format!("guest io write {PATH} 20008 8 written"));
    machine.ok("dmremap replace-main --abort disk --hold 600 --yes");
    on_main(&machine, "vda");
    machine.ok(&format!("guest io check {PATH} 20000 8 meanwhile"));
    machine.ok(&format!("guest io check {PATH} 20008 8 written"));
    check_kept(&machine, false);
    machine.ok("dmsetup remove disk");
    machine.shutdown();
}

/// Gives a replacement up, and cuts the power when a drive has taken that many requests. Gives whether the old one was main then.
fn cut_when(after: u64, which: impl Fn(&Drives) -> &Drive, seed: u64) -> bool {
    let drives = Drives::new();
    let machine = drives.boot();
    drop(drives.set(&machine));
    let mut ledger = Ledger::new(seed, "8192+8192");
    let load = ledger.start(&machine, PATH, "threads=1 largest=32");
    begin(&machine, &drives);
    which(&drives).freeze_after(after);
    let mut back = machine.start("dmremap replace-main --abort disk --hold 600 --yes");
    freezes_before(which(&drives), &mut back);
    drop((back, load));
    let events = machine.power_cut(seed);
    ledger.enter(&events);

    let machine = drives.boot();
    // The new one is none to go back to, whichever holds.
    refused(&machine, "/dev/vdc /dev/vdb 1 old_main", "");
    let again = machine.run("dmremap replace-main --abort disk --yes");
    let was_back = again.status != 0;
    if was_back {
        assert!(again.stderr.contains("is not being replaced"), "{again:?}");
        machine.ok(&format!("dmsetup create disk --table '0 {MAIN} remap /dev/vda /dev/vdb'"));
        machine.run("dmremap replace-main --continue disk");
    }
    on_main(&machine, "vda");
    assert!(machine.ok("blkid -p /dev/vdc || true").is_empty());
    let found = ledger.scan(&machine, PATH);
    ledger.compare(&found, is_bad);
    check_kept(&machine, false);
    machine.ok("dmsetup message disk 0 check forensic");
    machine.ok("dmsetup remove disk");
    machine.shutdown();
    eprintln!("cut after {after}: {was_back}");
    was_back
}

#[test]
fn the_power_may_be_cut_on_the_way_back() {
    cut_when(30, |drives| &drives.old, 51);
    for after in more_cuts() {
        cut_when(after, |drives| &drives.old, 6000 + after);
        cut_when(after, |drives| &drives.spare, 7000 + after);
    }
}

/// The block of the label behind dm-clone's metadata, on a device that has nothing else.
const LABEL_AT: u64 = 1027;
/// The last block of the new main.
const LAST: u64 = MAIN / 8 + 2047;

#[test]
fn what_was_given_another_use_since_an_attempt_is_left_alone() {
    let drives = Drives::new();
    let meta = Drive::blank("meta", 16 * 2048);
    let machine = [&drives.old, &drives.spare, &drives.new, &meta]
        .into_iter()
        .fold(Machine::builder(), |builder, drive| builder.drive(drive))
        .module()
        .boot();
    machine.start_udev();
    machine.ok("modprobe dm-clone");
    let remap = drives.set(&machine);
    drives.new.slow_down(0..MAIN, Duration::from_millis(20));
    interrupted(&machine, "dmremap replace-main disk /dev/vdc --metadata /dev/vdd --yes");
    drives.new.heal(0..MAIN);
    let block = "bs=4096 count=1 status=none";
    machine.ok(&format!(
        "dd if=/dev/vdd of=/tmp/label skip={LABEL_AT} iflag=direct {block} && \
         dd if=/dev/vdc of=/tmp/last skip={LAST} iflag=direct {block} && cmp /tmp/label /tmp/last"
    ));
    machine.ok("dmremap replace-main --abort disk --hold 600 --yes");
    machine.ok("dd if=/dev/zero of=/tmp/zero bs=4096 count=1 status=none");
    let is = |at: u64, what: &str| {
        machine.ok(&format!(
            "dd if=/dev/vdd of=/tmp/is skip={at} iflag=direct {block} && cmp /tmp/is {what}"
        ));
    };
    // Nothing of it is left there.
    is(0, "/tmp/zero");
    is(LABEL_AT, "/tmp/zero");

    // What blkid does not know, in front of a label that is still there.
    let other = format!(
        "dd if=/dev/urandom of=/dev/vdd oflag=direct {block} && \
         dd if=/tmp/label of=/dev/vdd seek={LABEL_AT} oflag=direct {block} && \
         dd if=/dev/vdd of=/tmp/first iflag=direct {block}"
    );
    let same = || {
        is(0, "/tmp/first");
        is(LABEL_AT, "/tmp/zero");
    };
    machine.ok(&other);
    machine.ok(&format!(
        "mkfs.ext4 -q -F /dev/vdc && dd if=/tmp/last of=/dev/vdc seek={LAST} oflag=direct conv=notrunc {block}"
    ));
    let out = machine.run("dmremap replace-main --continue disk 2>&1");
    assert!(out.stdout.contains("carries a filesystem of ext4"), "{out:?}");
    assert!(machine.ok("blockdev --flushbufs /dev/vdc && blkid -p /dev/vdc").contains("ext4"));
    same();
    machine.ok(&other);
    replaced(&machine, "dmremap replace-main disk /dev/vdc --overwrite /dev/vdc --yes");
    on_main(&machine, "vdc");
    same();
    check_kept(&machine, true);
    remap.remove();
    machine.shutdown();
}
