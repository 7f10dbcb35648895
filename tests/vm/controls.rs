//! Controls that work: settings, texts of messages, files in debugfs, several devices.

use super::common::MIB;
use remap_harness::{Drive, Image, Machine, Remap};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);
const DEBUG: &str = "/sys/kernel/debug/dm-remap";

#[test]
fn settings_are_kept_and_taken_back() {
    let main = Drive::blank("main", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create remap_block 16");
    assert_eq!(remap.message("get remap_block"), "16");
    remap.message("set remap_block 64");
    remap.message("set alert_threshold 5");
    assert_eq!(remap.message("get alert_threshold"), "5");
    remap.message("undo");
    assert_eq!(remap.message("get alert_threshold"), "80");
    machine.power_cut(1);

    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.message("get remap_block"), "64");
    assert_eq!(remap.message("get alert_threshold"), "80");
    // A place is a whole unit, and the block has its own place in it.
    remap.message("remap 130");
    assert!(
        remap.message("table").starts_with("130 1 remapped 0 3074"),
        "{}",
        remap.message("table")
    );
    let all = remap.message("get");
    assert!(all.contains("remap_block 64 sectors"), "{all}");
    let line = remap.table();
    remap.remove();
    // A setting in the line is set when the line is loaded, not again when the device is resumed.
    machine.ok(&format!("dmsetup create r --table '{line} 2 remap_block 8'"));
    let remap = Remap::existing(&machine, "r");
    assert_eq!(remap.message("get remap_block"), "8");
    remap.message("set remap_block 32");
    machine.ok("dmsetup suspend r && dmsetup resume r");
    assert_eq!(remap.message("get remap_block"), "32");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_a_line_sets_is_in_force_although_no_copy_takes_it_and_kept_by_the_next_commit() {
    let main = Drive::blank("main", 64 * MIB);
    let [spare, other] = ["spare", "other"].map(|name| Drive::blank(name, 16 * MIB));
    let boot = || Machine::builder().drive(&main).drive(&spare).drive(&other).module().boot();
    let machine = boot();
    Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create").remove();
    spare.fail_writes(0..16 * MIB);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 remap_block 64");
    assert_eq!(remap.message("get remap_block"), "64");
    assert_eq!(remap.status().keys["persist"], "failed");
    machine.ok("dmsetup suspend r && dmsetup resume r");
    assert_eq!(remap.message("get remap_block"), "64");
    spare.heal(0..16 * MIB);
    remap.message("set alert_threshold 5");
    assert_eq!(remap.message("get remap_block"), "64");
    remap.wait_until(|status| status.keys["persist"] == "enabled");
    machine.power_cut(1);

    let machine = boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(
        ["remap_block", "alert_threshold"].map(|key| remap.message(&format!("get {key}"))),
        ["64", "5"]
    );
    // A line may set what a message may, and no more.
    remap.message_fails("set primary 1");
    let line = remap.table();
    let refused = format!("dmsetup load r --table '{line} 2 primary 1'");
    machine.fails(&refused);
    remap.remove();
    machine.fails(&format!("dmsetup create r --table '{line} 2 primary 1'"));
    machine.ok("blkdiscard -z /dev/vdb");
    let two = "/dev/vdb 7 create spare /dev/vdc min_copies 6 primary 1";
    let remap = Remap::create(&machine, "r", "/dev/vda", two);
    assert_eq!(remap.message("get min_copies"), "6");
    remap.message("set min_copies 7");
    remap.remove();
    machine.shutdown();
}

#[test]
fn an_event_tells_that_the_spare_fills_up() {
    let main = Drive::blank("main", 64 * MIB);
    let spare = Drive::blank("spare", 8 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create alert_threshold 50");
    let room = remap.status().used.1;
    let mut waiting = machine.start("dmsetup wait r");
    remap.message(&format!("remap 0 {}", room / 4 / 8 * 8));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    assert_eq!(waiting.poll(WAIT).map(|o| o.status), Some(0));
    assert!(!machine.kernel_log().contains("of the spare room is in use"));
    remap.message(&format!("remap 65536 {}", room / 4 / 8 * 8 + 64));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    machine.wait_for_log("of the spare room is in use", WAIT);
    // More than there is: what fits has moved, the rest stays on main, and the error says so.
    remap.message(&format!("remap 0 {}", 16 * MIB));
    let status = remap.wait_until(|status| status.keys["jobs"] == "0");
    let said = remap.message("metadata_status");
    assert!(said.contains("last_error no room on the spare"), "{said}");
    assert!(status.used.0 <= room && status.used.0 > room * 9 / 10, "{}", status.line);
    remap.message("clear");
    let status = remap.wait_until(|status| status.keys["jobs"] == "0");
    assert_eq!(status.used.0, 0, "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn texts_of_any_length_come_whole() {
    let main = Drive::blank("main", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let mut image = Image::blank(spare.sectors());
    image.create(main.sectors(), (0..2000).map(|i| (i * 16, 8)));
    spare.scribble(0, image.metadata());
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    for message in ["help", "metadata_status", "get"] {
        assert!(remap.message(message).lines().count() >= 3, "{message}");
    }
    let mut seen = Vec::new();
    let mut from = 0;
    loop {
        let text = remap.message(&format!("table {from}"));
        let mut next = None;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["more", sector] => next = Some(sector.parse().unwrap()),
                [start, "8", "remapped", "0", _] => seen.push(start.parse::<u64>().unwrap()),
                other => panic!("{other:?}"),
            }
        }
        match next {
            Some(sector) => from = sector,
            None => break,
        }
    }
    let wanted: Vec<u64> = (0..2000).map(|i| i * 16).collect();
    assert_eq!(seen, wanted);
    assert!(
        remap.message("verify 16").contains("lives on spare 0"),
        "{}",
        remap.message("verify 16")
    );
    assert!(remap.message("verify 8").contains("lives on main"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn files_in_debugfs_do_what_the_messages_do() {
    let drives: Vec<Drive> = (0..4).map(|i| Drive::blank(&format!("drive{i}"), 32 * MIB)).collect();
    let machine = drives
        .iter()
        .fold(Machine::builder(), |builder, drive| builder.drive(drive))
        .module()
        .boot();
    let none = machine.run(&format!("echo save >{DEBUG}/metadata_control"));
    assert_ne!(none.status, 0);
    let one = Remap::create(&machine, "one", "/dev/vda", "/dev/vdb 1 create");
    let version = |remap: &Remap<'_>| remap.status().keys["version"].parse::<u64>().unwrap();
    let before = version(&one);
    machine.ok(&format!("echo save >{DEBUG}/metadata_control"));
    assert_eq!(version(&one), before + 1);
    machine.ok(&format!("echo restore >{DEBUG}/metadata_control"));
    assert_eq!(version(&one), before + 1);
    assert!(machine.ok(&format!("cat {DEBUG}/metadata_status")).contains("persist enabled"));
    machine.fails(&format!("echo nonsense >{DEBUG}/metadata_control"));
    machine.fails(&format!("head -c 5000 /dev/zero >{DEBUG}/metadata_control"));

    let two = Remap::create(&machine, "two", "/dev/vdc", "/dev/vdd 1 create");
    let (a, b) = (version(&one), version(&two));
    machine.ok(&format!("echo save >{DEBUG}/metadata_control"));
    assert_eq!((version(&one), version(&two)), (a + 1, b + 1));
    for line in ["restore", "migrate /dev/vdb", "nonsense", ""] {
        machine.fails(&format!("echo '{line}' >{DEBUG}/metadata_control"));
        let says = format!("write '{line}' to metadata_control in the folder of one of them: dm-remap/dm-0, dm-remap/dm-1");
        machine.wait_for_log(&says, WAIT);
    }
    machine.ok(&format!("echo save >{DEBUG}/dm-1/metadata_control"));
    assert_eq!((version(&one), version(&two)), (a + 1, b + 2));
    one.remove();
    machine.fails(&format!("ls {DEBUG}/dm-0"));
    two.remove();
    machine.ok("rmmod dm-remap");
    machine.fails(&format!("ls {DEBUG}"));
    machine.shutdown();
}

#[test]
fn restore_takes_over_nothing_but_what_came_from_memory() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let old = spare.durable(0..65536);
    remap.message("remap 64 8");
    remap.message("restore");
    assert_eq!(remap.status().remapped.0, 8);
    // A copy that somebody has damaged is noticed, and written anew.
    spare.scribble(1024, &[0xaa; 512]);
    assert!(!Image::of(&spare).is_clean());
    remap.message("restore");
    assert_eq!(remap.status().keys["persist"], "enabled");
    assert!(Image::of(&spare).is_clean());
    // Somebody puts an older state back under the live set.
    spare.scribble(0, &old);
    machine.ok("blockdev --flushbufs /dev/vdb");
    let said = remap.message_fails("restore");
    assert!(said.contains("Stale"), "{said}");
    machine.wait_for_log("older than what is in use", WAIT);
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["persist"].as_str()), (8, "failed"));
    remap.message("save");
    assert_eq!(remap.status().keys["persist"], "enabled");
    remap.message("restore");
    remap.remove();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().remapped.0, 8);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_restore_that_finds_a_spare_dead_leaves_the_set_able_to_go_on_without_it() {
    let main = Drive::blank("main", 32 * MIB);
    let (one, two) = (Drive::blank("one", 32 * MIB), Drive::blank("two", 32 * MIB));
    let machine = Machine::builder().drive(&main).drive(&one).drive(&two).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create spare /dev/vdc");
    two.set_gone(true);
    let said = remap.message_fails("restore");
    assert!(said.contains("Input/output"), "{said}");
    main.fail_writes(64..72);
    machine.ok(&format!("guest io write {} 64 8 moved", remap.path()));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["persist"].as_str()), (8, "degraded"));
    machine.ok(&format!("guest io check {} 64 8 moved", remap.path()));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_restore_that_fails_half_way_uses_no_version_twice() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let version = |remap: &Remap<'_>| remap.status().keys["version"].parse::<u64>().unwrap();
    let put = |bytes: &[u8]| {
        spare.scribble(0, bytes);
        machine.ok("blockdev --flushbufs /dev/vdb");
    };
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let (old, before) = (spare.durable(0..65536), version(&remap));
    remap.message("remap 64 8");
    let (new, newest) = (spare.durable(0..65536), version(&remap));
    remap.remove();
    put(&old);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(version(&remap), before);
    // Somebody else goes on with the set, and of what they have left a copy cannot be read. What it may
    // have is to be superseded, and that fails.
    put(&new);
    spare.fail_reads(8192..8200);
    [0, 2048, 8192].map(|slot| spare.fail_writes(slot..slot + 8));
    remap.message_fails("restore");
    machine.wait_for_log("could not be superseded", WAIT);
    spare.heal(0..65536);
    assert_eq!((remap.status().remapped.0, remap.status().keys["persist"].as_str()), (0, "failed"));
    remap.message_fails("name other");
    assert!(spare.durable(0..8) == new[..4096], "what is newer is overwritten unasked");
    remap.message("save");
    assert!(version(&remap) > newest);
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_save_ends_a_doubt_where_somebody_else_has_written_too() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let old = spare.durable(0..65536);
    remap.message("remap 4096 8");
    [0, 1024, 2048, 4096, 8192].map(|slot| spare.fail_writes(slot..slot + 8));
    remap.message_fails("name other");
    spare.scribble(0, &old);
    machine.ok("blockdev --flushbufs /dev/vdb");
    remap.message_fails("restore");
    machine.wait_for_log("older than what is in use", WAIT);
    spare.heal(0..65536);
    remap.message_fails("repair");
    machine.wait_for_log("a commit of the metadata is in doubt", WAIT);
    remap.message("save");
    assert_eq!(remap.status().keys["persist"], "enabled");
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_a_check_finds_to_be_somebody_elses_stays_until_a_repair() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let theirs = [0x55; 4096];
    spare.scribble(4096, &theirs);
    remap.message_fails("check basic");
    // What comes to the worker writes copies anew that are damaged.
    main.fail_writes(64..72);
    machine.ok(&format!("guest io write {} 64 8 moved", remap.path()));
    remap.message("remap 128 8");
    assert_eq!(spare.durable(4096..4104), theirs);
    assert_eq!(remap.status().keys["persist"], "degraded");
    remap.message("repair");
    remap.message("check forensic");
    assert!(Image::of(&spare).is_clean());
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_repair_leaves_what_another_set_has_put_into_one_copy() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let mut other = Image::blank(spare.sectors());
    other.create(main.sectors(), core::iter::once((128, 8)));
    let theirs = &other.metadata()[4096 * 512..][..4096];
    spare.scribble(4096, theirs);
    let said = remap.message_fails("repair");
    assert!(said.contains("Stale"), "{said}");
    remap.message_fails("name other");
    assert!(spare.durable(4096..4104) == theirs, "it is overwritten");
    remap.message("save");
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_check_names_damage_and_a_repair_mends_it_while_the_set_is_in_use() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok("guest io write /dev/mapper/r 0 8192 data");
    remap.message("remap 64 8");
    for level in ["basic", "integrity", "complete", "forensic"] {
        remap.message(&format!("check {level}"));
    }
    assert!(remap.message("metadata_status").contains("ended check forensic ok"));
    // The statistics of copy 1, the table block of copy 3.
    spare.scribble(1024 + 6, &[0xaa; 256]);
    spare.scribble(4096 + 8, &[0xaa; 512]);
    remap.message("check basic");
    let said = remap.message_fails("check integrity");
    assert!(said.contains("cleaning"), "{said}");
    machine
        .wait_for_log("copy 1 on spare 0, structure \"statistics\": checksum does not fit", WAIT);
    machine.wait_for_log("copy 3 on spare 0, table block 0: not a table block", WAIT);
    assert!(remap.message("metadata_status").contains("last_error integrity check: "));
    assert_eq!(remap.status().keys["persist"], "degraded");
    remap.message("repair");
    remap.message("check forensic");
    assert!(Image::of(&spare).is_clean());
    machine.ok("guest io check /dev/mapper/r 0 8192 data");

    // All copies are gone, but what is in use is not.
    for slot in [0, 1024, 2048, 4096, 8192] {
        spare.scribble(slot, &[0; 8192]);
    }
    remap.message_fails("check complete");
    remap.message("repair");
    remap.message("check forensic");
    // What another set has put there is not overwritten.
    let mut other = Image::blank(spare.sectors());
    other.create(main.sectors(), core::iter::once((128, 8)));
    spare.scribble(0, other.metadata());
    let said = remap.message_fails("repair");
    assert!(said.contains("Stale"), "{said}");
    assert_eq!(spare.durable(0..8), other.metadata()[..4096]);
    assert_eq!(remap.status().keys["persist"], "failed");
    // Not either for a write that would have to move.
    main.fail_writes(4096..4104);
    let refused = machine.run(&format!("guest io write {} 4096 8 lost", remap.path()));
    assert_eq!(refused.status, 5, "{refused:?}");
    assert!(spare.durable(0..8) == other.metadata()[..4096], "it is overwritten");
    main.heal(4096..4104);
    // Nor for what a person asks for without a thought of that.
    for message in ["set auto_remap 0", "name other", "scan start", "remap 8192 8", "unremap 64 8"]
    {
        remap.message_fails(message);
        assert!(spare.durable(0..8) == other.metadata()[..4096], "{message}: it is overwritten");
    }
    machine.ok("guest io check /dev/mapper/r 72 8120 data");
    remap.message("save");
    remap.message("check forensic");
    remap.message_fails("check deep");
    remap.remove();
    machine.shutdown();
}
