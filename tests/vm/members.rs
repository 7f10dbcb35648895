//! Spares that are added, removed and replaced while the set is in use.

use super::common::{boot, MIB, PATH};
use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Ledger, Machine, Remap};
use std::time::Duration;

fn main_drive() -> Drive {
    Drive::blank("main", 32 * MIB)
}

fn spare(name: &str) -> Drive {
    Drive::blank(name, 16 * MIB)
}

#[track_caller]
fn io(machine: &Machine, what: &str) {
    machine.ok(&format!("guest io {what}"));
}

/// The line of `metadata_status` that begins like this, behind that.
#[track_caller]
fn lines_of(remap: &Remap<'_>, begin: &str) -> Vec<String> {
    let text = remap.message("metadata_status");
    text.lines().filter_map(|line| line.strip_prefix(begin)).map(|l| l.trim().into()).collect()
}

/// Waits until nothing is under way, and gives how the last change of the members ended.
#[track_caller]
fn ended(remap: &Remap<'_>) -> String {
    remap.wait_until(|status| status.keys["jobs"] == "0");
    let mut all = lines_of(remap, "ended ");
    all.retain(|line| line.starts_with("migrate") || line.starts_with("spare"));
    all.pop().unwrap_or_default()
}

/// Fails with each of these in the kernel log.
#[track_caller]
fn refused(machine: &Machine, remap: &Remap<'_>, message: &str, says: &str) {
    machine.ok("dmesg -c >/dev/null");
    remap.message_fails(message);
    let log = machine.ok("dmesg");
    assert!(log.contains(says), "{message}: no {says} in\n{log}");
    assert!(lines_of(remap, "last_error ")[0].contains(says), "{message}");
}

/// A table line that is refused.
#[track_caller]
fn not_loaded(machine: &Machine, spares: &str, says: &str) {
    machine.ok("dmesg -c >/dev/null");
    let output = Remap::try_create(machine, "r", "/dev/vda", spares);
    assert_ne!(output.status, 0, "{spares} was loaded");
    machine.run("dmsetup remove r");
    let log = machine.ok("dmesg");
    assert!(log.contains(says), "{spares}: no {says} in\n{log}");
}

#[test]
fn a_spare_is_added_filled_and_takes_over_when_the_first_leaves() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let machine = boot(&[&main, &one, &two]);
    io(&machine, "write /dev/vda 0 40000 old");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 0 4000");
    remap.wait_until(|status| status.remapped.0 == 4000);
    io(&machine, &format!("write {PATH} 0 4000 new"));
    let room = remap.status().remapped.1;
    refused(&machine, &remap, "spare remove 0", "is the only spare");
    remap.message("spare add /dev/vdc");
    assert_eq!(remap.status().remapped.1, 2 * room);
    assert_eq!(remap.status().keys["copies"], "10/10");
    assert!(remap.table().contains("spare 254:32"), "{}", remap.table());
    refused(&machine, &remap, "spare add /dev/vdc", "is spare 1 of the set already");
    // It is held like the others.
    machine
        .fails("dd if=/dev/zero of=/dev/vdc count=1 oflag=excl conv=notrunc 2>&1 | grep -q copied");
    assert_eq!(machine.ok("ls /sys/block/dm-0/slaves").split_whitespace().count(), 3);
    remap.message("set primary 1");
    remap.message("remap 8000 8");
    assert!(remap.message("table").contains("8000 8 remapped 1 "), "{}", remap.message("table"));
    io(&machine, &format!("write {PATH} 8000 8 new"));
    remap.message("check forensic");

    remap.message("spare remove /dev/vdb");
    assert!(ended(&remap).ends_with(" ok"), "{}", remap.message("metadata_status"));
    assert_eq!(remap.status().keys["copies"], "5/5");
    assert_eq!(remap.status().remapped, (4008, room));
    assert!(!remap.message("table").contains("remapped 0"));
    io(&machine, &format!("check {PATH} 0 4000 new"));
    io(&machine, &format!("check {PATH} 8000 8 new"));
    io(&machine, &format!("check {PATH} 4000 4000 old"));
    io(&machine, &format!("flush {PATH}"));
    // What is printed can be loaded, while it is in use; then the one that left is let go.
    let line = remap.table();
    assert!(!line.contains("254:16"), "{line}");
    remap.reload();
    assert_eq!(machine.ok("ls /sys/block/dm-0/slaves").split_whitespace().count(), 2);
    io(&machine, "write /dev/vdb 20000 8 else");
    io(&machine, &format!("check {PATH} 0 4000 new"));
    machine.power_cut(4);

    let machine = boot(&[&main, &one, &two]);
    not_loaded(&machine, "/dev/vdb", "spare 0 has left the set");
    not_loaded(&machine, "/dev/vdb 2 spare /dev/vdc", "spare 0 has left the set");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdc");
    io(&machine, &format!("check {PATH} 0 4000 new"));
    io(&machine, &format!("check {PATH} 8000 8 new"));
    // It may come again, and take over as those of old would have had it.
    machine.ok("echo 'migrate /dev/vdb' >/sys/kernel/debug/dm-remap/metadata_control");
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    io(&machine, &format!("check {PATH} 0 4000 new"));
    refused(&machine, &remap, "spare add /dev/vdc", "load the table anew first");
    remap.reload();
    remap.message("spare add /dev/vdc");
    remap.message("check forensic");
    machine.ok("dmsetup suspend r && dmsetup resume r");
    assert_eq!(remap.status().keys["copies"], "10/10");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_is_replaced_under_load_and_names_its_successor() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let mut ledger = Ledger::new(77, "0+16384");
    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    for start in (0..8192).step_by(1024) {
        remap.message(&format!("remap {start} 512"));
    }
    let mut load = ledger.start(&machine, PATH, "threads=4 largest=64");
    std::thread::sleep(Duration::from_secs(1));
    remap.message("migrate /dev/vdc");
    for line in lines_of(&remap, "running migrate done ") {
        let (done, all) = line.split_once('/').unwrap();
        assert!(done.parse::<u64>().unwrap() <= all.parse().unwrap(), "{line}");
    }
    // Meanwhile others come and go.
    for i in 0..20 {
        remap.message(&format!("remap {} 8", 10_000 + i * 64));
        remap.message(&format!("unremap {} 8", i * 1024 % 8192 + i / 8 * 8));
    }
    machine.wait_for_log("migrate of 0+65536 is done", Duration::from_secs(60));
    std::thread::sleep(Duration::from_secs(1));
    assert!(load.poll(Duration::from_millis(1)).is_none(), "the load has ended");
    // Also while the set is in use.
    machine.fails("dmsetup load r --table '0 65536 remap /dev/vda /dev/vdb'");
    machine.wait_for_log("took its place; give that instead", Duration::from_secs(1));
    let table = remap.message("table");
    assert!(table.contains("remapped 1") && !table.contains("remapped 0"), "{table}");
    drop(load);
    let events = machine.power_cut(9);
    ledger.enter(&events);
    assert_eq!((ledger.write_errors, ledger.read_errors), (0, 0));

    let machine = boot(&[&main, &one, &two]);
    not_loaded(&machine, "/dev/vdb", "took its place; give that instead");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdc");
    ledger.check(&machine, PATH);
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_device_that_cannot_do_what_the_others_can_does_not_join() {
    let (main, one, two, three) = (main_drive(), spare("one"), spare("two"), spare("three"));
    let machine = boot(&[&main, &one, &two, &three]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    // Neither writes zeroes nor is asked whether it would have to wait.
    machine.ok("modprobe dm_delay && dmsetup create slow --table \"0 $(blockdev --getsz /dev/vdc) delay /dev/vdc 0 0\"");
    refused(
        &machine,
        &remap,
        "spare add /dev/mapper/slow",
        "cannot write zeroes by itself, as the others can",
    );
    remap.remove();
    // Where main does not either, the other is in the way.
    let memory = machine.null_blk(0, 32, &[("memory_backed", "1")]);
    let remap = Remap::create(&machine, "r", &memory, "/dev/vdd 1 create");
    refused(
        &machine,
        &remap,
        "spare add /dev/mapper/slow",
        "cannot answer at once where it would have to wait, as the others can",
    );
    remap.remove();
    machine.ok("dmsetup remove slow");
    // Disks of SCSI take memory at any fourth byte, those of virtio at any 512th.
    machine.ok("modprobe sd_mod && modprobe scsi_debug dev_size_mb=32 num_tgts=2 per_host_store=1");
    machine.ok("for i in $(seq 100); do [ -e /dev/sda ] && [ -e /dev/sdb ] && exit 0; sleep 0.1; done; exit 1");
    let remap = Remap::create(&machine, "r", "/dev/sda", "/dev/sdb 1 create");
    refused(
        &machine,
        &remap,
        "spare add /dev/vdc",
        "cannot take data from memory aligned as for the others, as the others can",
    );
    assert_eq!(remap.status().keys["copies"], "5/5");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_takes_no_data_that_changes_joins_once_main_is_said_to_be_so_too() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok("echo 1 >/sys/block/vdc/queue/stable_writes");
    let cannot = "cannot take data that may change while it is written, as the others can";
    refused(&machine, &remap, "spare add /dev/vdc", cannot);
    // The same table has the same devices.
    remap.reload();
    refused(&machine, &remap, "spare add /dev/vdc", cannot);
    machine.ok("echo 1 >/sys/block/vda/queue/stable_writes");
    machine.ok("dmsetup table r | dmsetup load r && dmsetup resume r");
    assert_eq!(machine.ok("cat /sys/block/dm-0/queue/stable_writes"), "1");
    remap.message("spare add /dev/vdc");
    assert_eq!(remap.status().keys["copies"], "10/10");
    remap.remove();
    // From the beginning it is one like any other.
    machine.ok("echo 0 >/sys/block/vda/queue/stable_writes");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 spare /dev/vdc");
    assert_eq!(machine.ok("cat /sys/block/dm-0/queue/stable_writes"), "1");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_cannot_be_a_spare_is_refused_and_nothing_changes() {
    let (main, one, small) = (main_drive(), spare("one"), Drive::blank("small", 4 * MIB));
    let (foreign, coarse) = (spare("foreign"), Drive::with_blocks("coarse", 16 * MIB, 4096, 4096));
    let machine = boot(&[&main, &one, &small, &foreign, &coarse]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    io(&machine, "write /dev/vdd 8 8 theirs");
    let version = remap.status().keys["version"].clone();
    for (message, says) in [
        ("spare add /dev/nowhere", "is no block device"),
        ("spare add /dev/vda", "is main"),
        ("migrate /dev/vdb", "is spare 0 of the set already; 'spare remove'"),
        ("migrate /dev/vdc", "16384 are the least"),
        ("spare add /dev/vdd", "is not blank at sector 8"),
        ("spare add /dev/vde", "has logical blocks of 4096 bytes"),
        ("spare remove 5", "is no spare of the set"),
        ("spare remove /dev/vdd", "is no spare of the set"),
        ("migrate 1 /dev/vdd", "is no spare of the set"),
        ("spare frob /dev/vdd", "usage: spare"),
        ("spare add /dev/mapper/r", "cannot be opened"),
    ] {
        refused(&machine, &remap, message, says);
    }
    assert_eq!(remap.status().keys["version"], version);
    machine.ok("mkfs.ext4 -q /dev/vdc && modprobe ext4 && mount /dev/vdc /mnt");
    refused(&machine, &remap, "spare add /dev/vdc", "is it mounted, or in use?");
    machine.ok("umount /mnt");
    // Too small for what lives there.
    remap.message("remap 0 16000");
    remap.wait_until(|status| status.remapped.0 == 16000);
    let snug = machine.ok("echo '0 16384 linear /dev/vdd 0' | dmsetup create snug && echo ok");
    assert!(snug.contains("ok"));
    remap.message("migrate /dev/mapper/snug overwrite");
    assert!(ended(&remap).contains("ENOSPC"), "{}", ended(&remap));
    assert!(lines_of(&remap, "last_error ")[0].contains("have to move"));
    assert_eq!(remap.status().keys["copies"], "5/5");
    remap.remove();
    machine.ok("dmsetup remove snug");
    machine.shutdown();
}

#[test]
fn a_new_spare_that_fails_half_way_leaves_the_set_as_it_was() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let three = spare("three");
    let machine = boot(&[&main, &one, &two, &three]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 0 8192");
    remap.wait_until(|status| status.remapped.0 == 8192);
    io(&machine, &format!("write {PATH} 0 8192 new"));
    let before = remap.status();
    // In the data that is copied, where the metadata goes, and with the cable pulled.
    two.fail_writes(6000..6100);
    remap.message("migrate /dev/vdc");
    assert!(ended(&remap).contains("migrate"));
    assert!(!ended(&remap).ends_with(" ok"), "{}", ended(&remap));
    two.heal(0..two.sectors());
    two.fail_writes(2048..2056);
    remap.message("migrate /dev/vdc");
    assert!(!ended(&remap).ends_with(" ok"), "{}", ended(&remap));
    two.heal(0..two.sectors());
    // Told to stop, it is as if it had never begun.
    remap.message("migrate /dev/vdc");
    remap.message("stop");
    assert!(ended(&remap).contains("EINTR"), "{}", ended(&remap));
    remap.message("migrate /dev/vdc");
    two.set_gone(true);
    assert!(!ended(&remap).ends_with(" ok"), "{}", ended(&remap));
    let after = remap.status();
    assert_eq!((after.remapped, after.keys["copies"].as_str()), (before.remapped, "5/5"));
    assert_eq!(after.keys["persist"], "enabled");
    io(&machine, &format!("write {PATH} 100 100 newer"));
    io(&machine, &format!("flush {PATH}"));
    io(&machine, &format!("check {PATH} 100 100 newer"));
    // Another one does it.
    remap.message("migrate /dev/vdd");
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    io(&machine, &format!("check {PATH} 0 100 new"));
    io(&machine, &format!("check {PATH} 100 100 newer"));
    machine.power_cut(3);
    let machine = boot(&[&main, &three]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    io(&machine, &format!("check {PATH} 100 100 newer"));
    io(&machine, &format!("check {PATH} 200 7992 new"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_was_to_become_a_spare_and_fails_its_flush_is_nothing_to_callers() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let three = spare("three");
    let machine = boot(&[&main, &one, &two, &three]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 0 8192");
    remap.wait_until(|status| status.remapped.0 == 8192);
    io(&machine, &format!("write {PATH} 0 8192 new"));
    io(&machine, &format!("flush {PATH}"));
    // The last to be copied, so that the first is written to both by then.
    let last = remap.place_of(8191).unwrap();
    one.slow_down(last..last + 1, Duration::from_secs(6));
    remap.message("migrate /dev/vdc");
    std::thread::sleep(Duration::from_secs(3));
    io(&machine, &format!("write {PATH} 0 8 newer"));
    two.set_fail_flushes(true);
    assert!(!ended(&remap).ends_with(" ok"), "{}", ended(&remap));
    two.set_fail_flushes(false);
    // That was about this one, and about nobody who comes later.
    one.heal(last..last + 1);
    remap.message("spare add /dev/vdd");
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    remap.message("spare remove /dev/vdd");
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    one.slow_down(last..last + 1, Duration::from_secs(6));
    remap.message("migrate /dev/vdc");
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(500));
        io(&machine, &format!("flush {PATH}"));
    }
    one.heal(last..last + 1);
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    io(&machine, &format!("check {PATH} 0 8 newer"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn of_a_dying_spare_all_is_saved_that_can_be_read_and_the_rest_is_named() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let three = spare("three");
    let machine = boot(&[&main, &one, &two, &three]);
    io(&machine, "write /dev/vda 0 8192 old");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 0 4096");
    remap.wait_until(|status| status.remapped.0 == 4096);
    io(&machine, &format!("write {PATH} 0 4096 new"));
    let at = remap.place_of(1000).unwrap();
    one.ail(at..at + 3, Ill { reads: true, ..Ill::default() });
    remap.message("migrate /dev/vdc");
    assert!(ended(&remap).contains("ENODATA"), "{}", ended(&remap));
    assert!(lines_of(&remap, "last_error ")[0].contains("3 sectors cannot be read"));
    assert!(remap.message("table").contains("remapped 0"));
    // Those are known to be bad now, so a write brings one of them back.
    machine.wait_for_log("cannot be read from their spare", Duration::from_secs(20));
    io(&machine, &format!("write {PATH} 1001 1 newer"));
    remap.message("migrate /dev/vdc lost");
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    let table = remap.message("table");
    assert!(table.contains("1000 1 lost") && table.contains("1002 1 lost"), "{table}");
    machine.fails(&format!("guest io read {PATH} 1000 1"));
    machine.fails(&format!("guest io read {PATH} 992 16"));
    io(&machine, &format!("check {PATH} 1001 1 newer"));
    io(&machine, &format!("check {PATH} 0 1000 new"));
    io(&machine, &format!("check {PATH} 1003 3093 new"));
    assert_eq!(remap.status().pending.0, 2);
    // What is written is there again, on a spare; what main had is never seen.
    io(&machine, &format!("write {PATH} 1000 1 newest"));
    io(&machine, &format!("check {PATH} 1000 1 newest"));
    assert_eq!(remap.status().pending.0, 1);
    machine.power_cut(1);

    let machine = boot(&[&main, &two, &three]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    machine.fails(&format!("guest io read {PATH} 1002 1"));
    io(&machine, &format!("check {PATH} 1000 1 newest"));
    // One that is gone for good.
    two.set_gone(true);
    machine.run(&format!("guest io read {PATH} 0 8"));
    remap.message_fails("spare remove 1 lost");
    remap.message("migrate /dev/vdc lost");
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    assert!(lines_of(&remap, "last_error ")[0].contains("could not be told"));
    machine.fails(&format!("guest io read {PATH} 0 8"));
    io(&machine, &format!("write {PATH} 0 8192 again"));
    io(&machine, &format!("check {PATH} 0 8192 again"));
    assert_eq!(remap.status().pending.0, 0);
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_main_takes_where_a_block_was_lost_is_durable_before_the_mark_goes() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let machine = boot(&[&main, &one, &two]);
    io(&machine, "write /dev/vda 0 8192 old");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 1000 64");
    io(&machine, &format!("write {PATH} 1000 64 new"));
    let at = remap.place_of(1000).unwrap();
    one.ail(at..at + 64, Ill { reads: true, ..Ill::default() });
    remap.message("migrate /dev/vdc lost");
    assert!(ended(&remap).ends_with(" ok"), "{}", machine.kernel_log());
    assert_eq!(remap.status().pending.0, 64);
    remap.message("set auto_remap 0");
    io(&machine, &format!("write {PATH} 1000 32 newest"));
    assert_eq!(remap.status().pending.0, 32);
    machine.power_cut(7);

    let machine = boot(&[&main, &two]);
    let _remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    for sector in 1000..1064 {
        if machine.run(&format!("guest io read {PATH} {sector} 1")).status == 0 {
            io(&machine, &format!("check {PATH} {sector} 1 newest"));
        }
    }
    machine.shutdown();
}

#[test]
fn a_write_that_one_of_two_spares_refuses_is_on_neither_when_one_has_left() {
    let (main, one, two) = (main_drive(), spare("one"), spare("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 0 512");
    remap.message("remap 4096 512");
    io(&machine, &format!("write {PATH} 0 8192 before"));
    let (first, last) = (remap.place_of(0).unwrap(), remap.place_of(4096).unwrap());
    remap.message("set auto_remap 0");
    one.slow_down(last..last + 512, Duration::from_secs(3));
    let migrate = machine.start("dmsetup message r 0 migrate /dev/vdc");
    let copied =
        |remap: &Remap<'_>| lines_of(remap, "running migrate").concat().contains("done 512/");
    while !copied(&remap) {
        assert!(lines_of(&remap, "ended migrate").is_empty(), "it ended too soon");
    }
    one.fail_writes(first..first + 8);
    machine.fails(&format!("guest io write {PATH} 0 8 refused"));
    one.heal(first..first + 8);
    io(&machine, &format!("check {PATH} 0 8 before"));
    assert_eq!(migrate.wait().status, 0);
    io(&machine, &format!("check {PATH} 0 8192 before"));
    remap.remove();
    machine.shutdown();
}

/// More writes fail than are tried again at a time, while all else is copied: some wait for their turn when the new spare takes over.
#[test]
fn writes_that_wait_to_be_tried_again_while_a_spare_is_replaced_lose_no_place() {
    let (main, one, two, three) = (main_drive(), spare("one"), spare("two"), spare("three"));
    let machine = boot(&[&main, &one, &two, &three]);
    let line = "/dev/vdb 3 create spare /dev/vdc";
    let remap = Remap::create(&machine, "r", "/dev/vda", line);
    // More than come to their turn at once, and all between two of the places where the metadata stand.
    const MOVED: u64 = 1024;
    const LAST: u64 = 8192;
    remap.message(&format!("remap 0 {MOVED}"));
    remap.message(&format!("remap {LAST} 8"));
    io(&machine, &format!("write {PATH} 0 {} before", 2 * LAST));
    let (first, last) = (remap.place_of(0).unwrap(), remap.place_of(LAST).unwrap());
    one.slow_down(last..last + 8, Duration::from_secs(6));
    let migrate = machine.start("dmsetup message r 0 migrate 0 /dev/vdd");
    let done = format!("done {MOVED}/");
    while !lines_of(&remap, "running migrate").concat().contains(&done) {
        assert!(lines_of(&remap, "ended migrate").is_empty(), "it ended too soon");
    }
    one.fail_writes(first..first + MOVED);
    assert_eq!(remap.place_of(MOVED - 1), Some(first + MOVED - 1));
    one.slow_down(first..first + MOVED, Duration::from_millis(100));
    let one_write = format!("(guest io write {PATH} $i 8 newer || echo $i)");
    let many = format!("for i in $(seq 0 16 {}); do {one_write} & done; wait", MOVED - 16);
    let writes = machine.start(&many);
    one.heal(last..last + 8);
    assert_eq!(migrate.wait().status, 0, "{}", machine.kernel_log());
    let failed = writes.wait().stdout;
    assert_eq!(failed, "", "{}", machine.kernel_log());
    // Whatever place is free is given to somebody.
    remap.message(&format!("remap 16384 {}", 8 * MOVED));
    io(&machine, &format!("write {PATH} 16384 {} others", 8 * MOVED));
    let is_there = || {
        for at in (0..MOVED).step_by(16) {
            io(&machine, &format!("check {PATH} {at} 8 newer"));
            io(&machine, &format!("check {PATH} {} 8 before", at + 8));
        }
        io(&machine, &format!("check {PATH} {LAST} 8192 before"));
        io(&machine, &format!("check {PATH} 16384 {} others", 8 * MOVED));
    };
    is_there();
    remap.message("check forensic");
    remap.remove();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdc 2 spare /dev/vdd");
    is_there();
    remap.remove();
    machine.shutdown();
}

#[test]
fn places_are_given_out_as_the_policy_says() {
    let (main, one, two) = (main_drive(), Drive::blank("one", 8 * MIB), spare("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create spare /dev/vdc");
    let mut next = 0;
    let mut taken = |n: u64| -> String {
        let from = next;
        next += n;
        (from..next).for_each(|i| _ = remap.message(&format!("remap {} 8", i * 64)));
        let table = remap.message(&format!("table {}", from * 64));
        table
            .lines()
            .take(n as usize)
            .map(|line| line.split_whitespace().nth(3).unwrap_or("?"))
            .collect()
    };
    assert_eq!(taken(3), "000");
    refused(&machine, &remap, "set spare_policy best", "takes one of (fill, round_robin");
    refused(&machine, &remap, "set primary 2", "the set has no spare 2");
    assert_eq!(remap.message("get spare_policy").trim(), "fill");
    remap.message("set primary 1");
    assert_eq!(taken(3), "111");
    remap.message("set spare_policy round_robin");
    let turns = taken(4);
    assert!(["0101", "1010"].contains(&turns.as_str()), "{turns}");
    remap.message("set spare_policy most_free");
    assert_eq!(taken(2), "11");
    // One that is fuller than `alert_threshold` is left alone while there is another.
    remap.message("set spare_policy fill");
    remap.message("set primary 0");
    assert_eq!(taken(1), "0");
    remap.message("set alert_threshold 1");
    remap.message("remap 20000 200");
    remap.wait_until(|status| status.keys["jobs"] == "0");
    assert_eq!(taken(2), "11");
    remap.message("set primary 1");
    remap.remove();
    machine.shutdown();
    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 spare /dev/vdc");
    assert_eq!(remap.message("get primary").trim(), "1");
    remap.remove();
    machine.shutdown();
}
