//! The life of a set: made, used, moved, let go, found again.

use remap_harness::{Drive, Machine, Remap};

const MIB: u64 = 2048;

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
