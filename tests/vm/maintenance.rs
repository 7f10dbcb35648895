//! `maintenance_mode`: nothing is changed without being asked for.

use super::common::{boot, until_suspect, MIB, PATH};
use super::events::{tells, watch};
use remap_harness::{Drive, Image, Machine, Remap};
use std::time::Duration;

fn works(machine: &Machine, what: &str) -> bool {
    machine.run(&format!("guest io {what}")).status == 0
}

/// What the set is; last_save and the like change with the version only.
fn version(remap: &Remap<'_>) -> u64 {
    remap.status().keys["version"].parse().unwrap()
}

#[test]
fn in_maintenance_errors_change_nothing() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    machine.ok("guest io write /dev/vda 0 8192 old && guest io flush /dev/vda");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    watch(&machine);
    // A pending block, a remapped one, and one that is suspect.
    main.fail_reads(2000..2001);
    assert!(!works(&machine, &format!("read {PATH} 2000 1")));
    remap.message("remap 3000 2");
    let at = remap.place_of(3001).unwrap();
    spare.fail_reads(at..at + 1);
    assert!(!works(&machine, &format!("read {PATH} 3001 1")));
    remap.wait_until(|status| status.pending.0 == 1);
    until_suspect(&remap, 1);

    tells(&machine, "maintenance", || {
        machine.ok("echo 1 >/sys/block/dm-0/remap/maintenance_mode");
    });
    assert_eq!(remap.status().keys["auto"], "maintenance");
    let (before, table) = (version(&remap), remap.message("table"));
    main.fail_writes(1003..1005);
    main.fail_reads(1500..1502);
    spare.heal(at..at + 1);
    // Errors are passed on, what was marked is tried where it is, and what works is not told from
    // what does not.
    assert!(!works(&machine, &format!("write {PATH} 1000 8 new")));
    assert!(!works(&machine, &format!("read {PATH} 1496 8")));
    assert!(works(&machine, &format!("write {PATH} 2000 1 new")));
    assert!(works(&machine, &format!("write-durable {PATH} 3001 1 new")));
    assert!(works(&machine, &format!("check {PATH} 3001 1 new")));
    main.heal(2000..2001);
    assert!(works(&machine, &format!("check {PATH} 2000 1 new")));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((version(&remap), remap.message("table")), (before, table.clone()));
    // Asked for, it is done.
    remap.message("remap 4000 8");
    assert_eq!(version(&remap), before + 1);
    remap.message("unremap 4000 8");
    machine.power_cut(1);

    // And after a reboot.
    assert_eq!(Image::of(&spare).places().len(), table.lines().count());
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    watch(&machine);
    assert_eq!(remap.status().keys["auto"], "maintenance");
    let before = version(&remap);
    assert!(!works(&machine, &format!("write {PATH} 1000 8 new")));
    assert_eq!((version(&remap), remap.message("table")), (before, table));
    assert!(works(&machine, &format!("check {PATH} 2000 1 new")));
    tells(&machine, "maintenance-over", || {
        remap.message("undo");
    });
    assert_eq!(remap.status().keys["auto"], "on");
    // What was put off is done: the write moves, and what can be read again is saved.
    assert!(works(&machine, &format!("write {PATH} 1000 8 new")));
    assert!(works(&machine, &format!("check {PATH} 2000 1 new")));
    assert!(works(&machine, &format!("check {PATH} 3001 1 new")));
    remap.wait_until(|status| status.pending.0 == 0);
    until_suspect(&remap, 0);
    for (first, count, pattern) in
        [(1000, 8, "new"), (2000, 1, "new"), (3001, 1, "new"), (3000, 1, "old"), (4000, 8, "old")]
    {
        assert!(works(&machine, &format!("check {PATH} {first} {count} {pattern}")), "{first}");
    }
    remap.remove();
    machine.shutdown();
}

#[test]
fn in_maintenance_a_spare_comes_back_only_when_somebody_says_so() {
    let main = Drive::blank("main", 32 * MIB);
    let (one, two) = (Drive::blank("one", 8 * MIB), Drive::blank("two", 8 * MIB));
    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create spare /dev/vdc");
    remap.message("set maintenance_mode 1");
    // It takes no writes: the next commit has to go on without it.
    two.set_gone(true);
    remap.message("set alert_threshold 70");
    assert_eq!(remap.status().keys["away"], "1");
    two.set_gone(false);
    remap.message("set alert_threshold 71");
    assert_eq!(remap.status().keys["away"], "1");
    let line = remap.table();
    remap.remove();
    // Nor when the set is made active with it.
    let writes = two.counters().writes;
    machine.ok(&format!("dmsetup create r --table '{}'", line.trim()));
    let remap = Remap::existing(&machine, "r");
    let status = remap.status();
    assert_eq!((status.keys["away"].as_str(), status.keys["persist"].as_str()), ("1", "degraded"));
    remap.message("remap 64 8");
    assert_eq!(two.counters().writes, writes, "written to without being asked");
    remap.message("repair");
    let status = remap.status();
    assert_eq!((status.keys["away"].as_str(), status.keys["persist"].as_str()), ("0", "enabled"));
    assert_eq!(status.keys["auto"], "maintenance");
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

/// What a scan does, and how far it is.
fn scan(remap: &Remap<'_>) -> (String, u64) {
    let keys = remap.status().keys;
    (keys["scan_state"].clone(), keys["scan"].trim_end_matches('%').parse().unwrap())
}

/// For two seconds no scan reads main, and nothing is written about one.
#[track_caller]
fn no_scan_does_anything(remap: &Remap<'_>, main: &Drive, state: &str) {
    // What was being read is read by then.
    std::thread::sleep(Duration::from_millis(500));
    let before = (scan(remap), version(remap), main.counters().reads);
    assert_eq!(before.0 .0, state);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((scan(remap), version(remap), main.counters().reads), before);
}

#[test]
fn in_maintenance_a_scan_waits_unless_somebody_asks_for_it() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    // 96 MiB in all would take twenty seconds.
    remap.message("set scan_rate 5000");
    remap.message("scan start");
    remap.wait_until(|_| scan(&remap).1 >= 5);
    remap.message("set maintenance_mode 1");
    no_scan_does_anything(&remap, &main, "paused");
    let (_, reached) = scan(&remap);
    remap.message("set maintenance_mode 0");
    assert_eq!(scan(&remap).0, "running");
    remap.wait_until(|_| scan(&remap).1 >= reached + 5);
    remap.message("set maintenance_mode 1");
    let (_, reached) = scan(&remap);
    machine.power_cut(1);

    // Nor does it go on after a reboot; nor is a block marked when somebody has it go on.
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    no_scan_does_anything(&remap, &main, "paused");
    assert!(scan(&remap).1 + 2 >= reached, "{:?} after {reached}", scan(&remap));
    main.fail_reads(65000..65001);
    remap.message("scan start");
    assert_eq!(scan(&remap).0, "running");
    remap.message("set scan_rate 0");
    remap.wait_until(|_| scan(&remap) == ("idle".into(), 100));
    assert_eq!(remap.message("table"), "");
    // The next begins by itself only when maintenance is over.
    remap.message("set scan_interval 1");
    no_scan_does_anything(&remap, &main, "idle");
    remap.message("set maintenance_mode 0");
    remap.wait_until(|status| status.pending.0 == 1);
    remap.remove();
    machine.shutdown();
}

#[test]
fn in_maintenance_a_scan_that_main_leaves_writes_nothing() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    machine.ok("modprobe sd_mod && modprobe scsi_debug dev_size_mb=32 && for i in $(seq 100); do [ -e /dev/sda ] && exit 0; sleep 0.1; done; exit 1");
    let remap = Remap::create(&machine, "r", "/dev/sda", "/dev/vda 1 create");
    remap.message("set maintenance_mode 1");
    remap.message("set scan_rate 5000");
    remap.message("scan start");
    remap.wait_until(|_| scan(&remap).1 >= 2);
    let before = version(&remap);
    // Every read ends with a transport error: READ(10), as in the tests of drives that are unplugged.
    machine.ok("for file in /sys/kernel/debug/scsi_debug/*/error; do echo '2 -1000 0x28 0x0f 0 0 0 0 0' >$file; done");
    remap.wait_until(|_| scan(&remap).0 == "paused");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(version(&remap), before);
    remap.remove();
    machine.shutdown();
}
