//! The life of a set: made, used, moved, let go, found again.

use super::common::MIB;
use remap_harness::{Drive, Image, Machine, Remap};
use std::time::Duration;

#[test]
fn a_set_is_made_used_and_found_again() {
    let main = Drive::blank("main", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    machine.ok("guest io write /dev/vda 0 131072 old");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let status = remap.status();
    assert_eq!(status.remapped.0, 0, "{}", status.line);
    assert_eq!(status.keys["persist"], "enabled", "{}", status.line);
    println!("{}", status.line);
    let path = remap.path();
    machine.ok(&format!("guest io check {path} 0 131072 old"));

    assert_eq!(remap.message("ping"), "pong");
    remap.message("remap 1000 8");
    remap.message("remap 5000");
    let status = remap.status();
    println!("{}", status.line);
    println!("{}", remap.message("metadata_status"));
    println!("{}", remap.message("table"));
    assert_eq!(status.remapped.0, 9, "{}", status.line);
    machine.ok(&format!("guest io check {path} 0 131072 old"));
    machine.ok(&format!("guest io write {path} 900 400 new"));
    machine.ok(&format!("guest io check {path} 900 400 new"));
    // What is remapped did not change on main, what is beside it did.
    machine.ok("guest io check /dev/vda 1000 8 old && guest io check /dev/vda 1008 292 new");
    remap.message("unremap 1000 4");
    assert_eq!(remap.status().remapped.0, 5);
    machine.ok(&format!("guest io check {path} 900 400 new"));
    machine.ok("guest io check /dev/vda 1000 4 new && guest io check /dev/vda 1004 4 old");
    remap.remove();

    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(remap.status().remapped.0, 5);
    machine.ok(&format!("guest io check {path} 900 400 new"));
    println!("{}", remap.table());
    remap.message("clear");
    assert_eq!(remap.status().remapped.0, 0);
    machine.ok(&format!("guest io check {path} 900 400 new"));
    machine.ok("guest io check /dev/vda 900 400 new");
    remap.remove();
    machine.ok("rmmod dm-remap");
    println!("{}", machine.ok("dmesg | grep -i remap"));
    machine.shutdown();
}

#[test]
fn a_creation_that_was_cut_short_is_finished_by_the_same_line_only() {
    let mut half_made = 0;
    // Marks and a flush are six requests, group A and its flush four more.
    for after in [3, 10, 11] {
        let main = Drive::blank("main", 32 * MIB);
        let other = Drive::blank("other", 16 * MIB);
        let spare = Drive::blank("spare", 16 * MIB);
        let boot = || Machine::builder().drive(&main).drive(&spare).drive(&other).module().boot();
        let machine = boot();
        spare.freeze_after(after);
        let _create =
            machine.start("dmsetup create r --table '0 65536 remap /dev/vda /dev/vdb 1 create'");
        assert!(spare.wait_frozen(Duration::from_secs(30)), "less than {after} requests");
        machine.power_cut(after);
        spare.thaw();

        let mut image = Image::of(&spare);
        let exists = image.has_set();
        half_made += u64::from(exists && !image.is_clean());
        let machine = boot();
        if exists {
            let output = Remap::try_create(&machine, "r", "/dev/vdc", "/dev/vdb 1 create");
            assert_ne!(output.status, 0, "after {after} requests");
            machine.wait_for_log("the set maps 65536 sectors of main", Duration::from_secs(10));
        }
        let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
        assert_eq!(remap.status().keys["persist"], "enabled");
        remap.message("remap 64 8");
        remap.remove();
        let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
        assert_eq!(remap.status().remapped.0, 8);
        remap.remove();
        machine.shutdown();
        assert!(Image::of(&spare).is_clean());
    }
    assert!(half_made > 0, "no creation was cut between its groups");
}
