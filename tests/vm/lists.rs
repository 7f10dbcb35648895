//! `dmremap import` and `export` in a machine: what other programs found bad on a drive that really is.

use remap_harness::{Drive, Machine, Remap};

const MIB: u64 = 2048;
/// The first sector of main that the set uses.
const START: u64 = 1000;
const PATH: &str = "/dev/mapper/r";

/// The sectors of main, of the set's places that are wanted, in runs.
fn on_main(remap: &Remap<'_>, moved: bool) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for place in remap.places().iter().filter(|place| place.at.is_some() == moved) {
        match runs.last_mut() {
            Some((start, len)) if *start + *len == place.start + START => *len += place.len,
            _ => runs.push((place.start + START, place.len)),
        }
    }
    runs
}

/// Imports a list, which says that.
#[track_caller]
fn import(machine: &Machine, options: &str, list: &str, says: &[&str]) {
    machine.put("/tmp/list", list.as_bytes());
    let output = machine.run(&format!("dmremap import {options} r /tmp/list"));
    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    for part in says {
        assert!(output.stdout.contains(part), "not said: {part}\n{}", output.stdout);
    }
}

#[test]
fn what_other_programs_have_found_bad_is_moved_or_marked() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    machine.start_udev();
    machine.ok("guest io write /dev/vda 0 65536 old");
    machine.ok(&format!(
        "dmsetup create r --table '0 {} remap /dev/vda /dev/vdb 3 create main_start {START}'",
        32 * MIB - START
    ));
    let remap = Remap::existing(&machine, "r");
    for bad in [2003..2005, 20001..20002, 30001..30002, 40001..40002] {
        main.fail_reads(bad);
    }

    // Blocks of 1 KiB: those that can be read move, the others wait.
    let list = "100\n1001\n1002\n32768\n";
    let told = [
        "remap 1002 4",
        "byte 102400: that is not on the set",
        "byte 33554432: that is beyond its end",
    ];
    import(&machine, "--dry-run", list, &told);
    assert_eq!(remap.status().remapped.0, 0);
    let refused = machine.run("dmremap import r /tmp/list </dev/null");
    assert!(refused.status == 1 && refused.stderr.contains("--yes"), "{refused:?}");
    import(&machine, "--yes", list, &["2 sectors have moved to the spares, 2 more are pending"]);
    assert_eq!(on_main(&remap, true), [(2002, 1), (2005, 1)]);
    assert_eq!(on_main(&remap, false), [(2003, 2)]);
    import(&machine, "--dry-run", list, &["4 sectors of r are named, 2 of them remapped"]);

    // For programs.
    machine.put("/tmp/list", b"100\n1001\n25000\n");
    for (options, moved) in [
        ("--dry-run", serde_json::Value::Null),
        ("--yes", serde_json::json!({"remapped": 2, "pending": 0})),
    ] {
        let json = machine.ok(&format!("dmremap import --json {options} r /tmp/list"));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json["named"].as_u64(), json["known"].as_u64()), (Some(4), Some(1)));
        assert_eq!(json["ranges"][1], serde_json::json!({"start": 50000 - START, "sectors": 2}));
        assert_eq!(json["left_out"].as_array().unwrap().len(), 1);
        assert_eq!(json["moved"], moved);
    }
    machine.ok(&format!("dmremap unremap --yes r {} 2", 50000 - START));

    // A map: what was not tried is left alone.
    let map =
        format!("0 ?\n0 {} +\n{} 512 -\n{} 1048576 ?\n", 20001 * 512, 20001 * 512, 20002 * 512);
    import(
        &machine,
        "--yes",
        &map,
        &["a map of ddrescue", "0 sectors have moved to the spares, 1 more are pending"],
    );

    // What the kernel has said of main, and of the set.
    machine.ok("dmesg -c >/dev/null");
    machine.run("dd if=/dev/vda of=/dev/null bs=4096 skip=3750 count=1");
    machine.run(&format!("dd if={PATH} of=/dev/null bs=512 skip={} count=1", 30001 - START));
    let log = machine.ok("dmesg");
    assert!(log.contains("error, dev vda, sector 3000"), "{log}");
    import(&machine, "--yes", &log, &["messages of the kernel"]);
    assert!(on_main(&remap, false).contains(&(30001, 1)), "{:?}", remap.places());

    // The first bad block of a self-test, of this drive and of another one.
    let json = |serial: &str| {
        format!(
            r#"{{"smartctl":{{}},"serial_number":"{serial}","logical_block_size":512,"ata_smart_self_test_log":{{"extended":{{"table":[
            {{"status":{{"passed":false}},"lba":40001}}]}}}}}}"#
        )
    };
    machine.put("/tmp/list", json("WD-OTHER").as_bytes());
    let other = machine.fails("dmremap import --yes r /tmp/list");
    assert!(other.contains("serial number WD-OTHER, and main's is main"), "{other}");
    import(&machine, "--yes", &json("main"), &["a drive's own logs"]);
    let bad = [(2003, 2), (20001, 1), (30001, 1), (40001, 1)];
    assert_eq!(on_main(&remap, false), bad);

    // Garbage is refused, and changes nothing.
    let version = remap.status().keys["version"].clone();
    for (list, says) in [
        ("10\nten\n", "it is not clear what kind of list"),
        ("0 +\n0 512 -\n0 512 -\n", "line 3: '0 512 -' overlaps"),
        ("{\"smartctl\":", "is no whole JSON"),
    ] {
        machine.put("/tmp/list", list.as_bytes());
        let refused = machine.fails("dmremap import --yes r /tmp/list");
        assert!(refused.contains("/tmp/list: ") && refused.contains(says), "{refused}");
    }
    assert_eq!(remap.status().keys["version"], version);

    // All of it comes out again, and what is read back is known.
    let listed = machine.ok("dmremap export -b 512 --states pending r");
    let sectors: Vec<u64> = listed.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(sectors, [2003, 2004, 20001, 30001, 40001]);
    let map = machine.ok("dmremap export --format ddrescue --states pending,remapped r");
    assert!(map.contains(&format!("0x{:08X}  0x00000800  -", 2002 * 512)), "{map}");
    import(&machine, "--dry-run", &map, &["of them remapped"]);
    let json = machine.ok("dmremap export --json --states pending --of set r");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["of"], json["sectors"].as_u64()), (&"set".into(), Some(32 * MIB - START)));
    let first = serde_json::json!({"start": 2003 - START, "sectors": 2, "state": "pending"});
    assert_eq!(json["ranges"][0], first);
    let json = machine.ok("dmremap export --json r");
    assert!(
        json.contains("\"start\": 2002,\n      \"sectors\": 1,\n      \"state\": \"remapped\""),
        "{json}"
    );
    let own = machine.ok("dmremap export -b 512 --states pending --of set r");
    assert!(own.starts_with(&format!("{}\n", 2003 - START)), "{own}");

    // Nothing is other than it was.
    for (first, count) in [(START, 1003), (2005, 15000), (20002, 9000)] {
        let through = machine.ok(&format!("guest io read {PATH} {} {count}", first - START));
        let beside = machine.ok(&format!("guest io read /dev/vda {first} {count}"));
        assert_eq!(through, beside, "from {first}");
        assert!(!through.is_empty());
    }
    remap.remove();
    machine.shutdown();
}
