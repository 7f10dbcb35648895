//! What was written for v3 and watches a device still works: its status line, its files in debugfs.

use super::common::{boot, MIB};
use remap_harness::{Drive, Remap};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);
const DEBUG: &str = "/sys/kernel/debug/dm-remap";

/// Reads the fields by their position, and takes any version.
const BY_POSITION: &str = r#"dmsetup status r | awk '
    function value(field, key) {
        n = split(field, part, "=")
        if (n != 2 || part[1] != key) { print "not " key ": " field; wrong = 1; exit }
        return part[2]
    }
    function used(field) {
        if (field !~ /^[0-9]+\/[0-9]+$/) { print "no fraction: " field; wrong = 1; exit }
        split(field, part, "/")
        return part[1]
    }
    $3 != "remap" || $4 !~ /^v[0-9]+\.[0-9]+$/ { print "not remap: " $0; wrong = 1; exit }
    {
        print "remapped", used($5); print "lost", used($6); print "spare", used($7)
        print "health", value($8, "health")
        errors = value($9, "errors")
        if (errors !~ /^W[0-9]+:R[0-9]+$/) { print "errors: " errors; wrong = 1; exit }
        split(substr(errors, 2), count, ":R")
        print "write_errors", count[1]; print "read_errors", count[2]
        print "auto", value($10, "auto_remaps"); print "manual", value($11, "manual_remaps")
        scan = value($12, "scan")
        if (scan !~ /^[0-9]+%$/) { print "scan: " scan; wrong = 1; exit }
        print "persist", value($13, "persist"); print "last_save", value($14, "last_save")
    }
    END { exit wrong }'"#;

#[test]
fn a_script_for_v3_reads_the_status_by_position() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let field = |key: &str| {
        let text = machine.ok(BY_POSITION);
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{key} ")));
        value.unwrap_or_else(|| panic!("no {key}:\n{text}")).to_string()
    };
    for (key, value) in [("remapped", "0"), ("lost", "0"), ("health", "1"), ("persist", "enabled")]
    {
        assert_eq!(field(key), value, "{key}");
    }
    remap.message("remap 64 8");
    main.fail_writes(1003..1005);
    machine.ok("guest io write /dev/mapper/r 1000 8 new");
    main.fail_reads(2003..2006);
    machine.fails("guest io read /dev/mapper/r 2000 8");
    remap.wait_until(|status| status.pending.0 == 3);
    let bad = remap.place_of(1003).unwrap();
    spare.fail_writes(bad..bad + 1);
    machine.ok("guest io write /dev/mapper/r 1000 8 newer");
    for (key, value) in [
        ("remapped", "10"),
        ("lost", "3"),
        ("spare", "11"),
        ("health", "0"),
        ("manual", "1"),
        ("persist", "enabled"),
    ] {
        assert_eq!(field(key), value, "{key}: {}", remap.status().line);
    }
    for key in ["write_errors", "read_errors", "auto"] {
        assert_ne!(field(key), "0", "{key}: {}", remap.status().line);
    }
    let now: u64 = machine.ok("date +%s").trim().parse().unwrap();
    let saved: u64 = field("last_save").parse().unwrap();
    assert!((now - 60..=now).contains(&saved), "{saved} is not about {now}");
    // Whatever else the line may say of the device.
    remap.message("set maintenance_mode 1");
    assert_eq!(field("health"), "0");
    remap.remove();
    machine.ok("dmsetup create r --readonly --table '0 65536 remap /dev/vda /dev/vdb'");
    assert_eq!(field("persist"), "readonly");
    Remap::existing(&machine, "r").remove();
    machine.shutdown();
}

#[test]
fn commands_for_v3_work_as_they_were_written() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let version = || remap.status().keys["version"].parse::<u64>().unwrap();
    let before = version();
    machine.ok("echo save > /sys/kernel/debug/dm-remap/metadata_control");
    machine.ok("echo restore > /sys/kernel/debug/dm-remap/metadata_control");
    assert_eq!(version(), before + 1);
    remap.message("remap 64 8");
    let said = machine.ok("cat /sys/kernel/debug/dm-remap/metadata_status");
    assert_eq!(said, machine.ok(&format!("cat {DEBUG}/dm-0/metadata_status")));
    assert_eq!(said.trim(), remap.message("metadata_status").trim());
    let line = |begin: &str| {
        let text = machine.ok(&format!("cat {DEBUG}/metadata_status"));
        let line = text.lines().find(|line| line.starts_with(begin));
        line.unwrap_or_else(|| panic!("no {begin}:\n{text}")).to_string()
    };
    let now = version();
    assert_eq!(line("remapped "), "remapped 8");
    assert_eq!(line("last_error "), "last_error none");
    assert_eq!(line("ended remap "), "ended remap 64+8 moved 8 unreadable 0 ok");
    for (copy, sector) in [0, 1024, 2048, 4096, 8192].into_iter().enumerate() {
        let wanted = format!("copy 0.{copy} sector {sector} good version {now}");
        assert_eq!(line(&format!("copy 0.{copy} ")), wanted);
    }
    // One that takes no writes has what it last took.
    spare.fail_writes(4096..4104);
    machine.ok("echo save > /sys/kernel/debug/dm-remap/metadata_control");
    assert_eq!(line("copy 0.3 "), format!("copy 0.3 sector 4096 bad version {now}"));
    assert_eq!(line("copy 0.4 "), format!("copy 0.4 sector 8192 good version {}", now + 1));
    assert_eq!(
        (line("persist "), line("good_copies ")),
        ("persist degraded".into(), "good_copies 4".into())
    );
    spare.heal(4096..4104);
    machine.ok("echo save > /sys/kernel/debug/dm-remap/metadata_control");
    assert_eq!(line("persist "), "persist enabled");
    // What runs, and how far it is.
    main.slow_down(0..32 * MIB, Duration::from_millis(200));
    remap.message("remap 8192 8192");
    std::thread::sleep(Duration::from_secs(1));
    let running = line("running ");
    assert!(running.starts_with("running remap 8192+8192 done "), "{running}");
    main.heal(0..32 * MIB);
    remap.wait_until(|status| status.keys["jobs"] == "0");
    // A line has to be one of those that it takes, whole and without more.
    for (text, says) in [
        ("nonsense", "metadata_control takes 'save', 'restore' or 'migrate DEV', not 'nonsense'"),
        ("clear", "metadata_control takes 'save', 'restore' or 'migrate DEV', not 'clear'"),
        ("", "metadata_control takes 'save', 'restore' or 'migrate DEV', not ''"),
        ("save all", "'save' takes no argument"),
    ] {
        let before = version();
        for file in ["metadata_control", "dm-0/metadata_control"] {
            let output = machine.run(&format!("busybox sh -c \"echo '{text}' >{DEBUG}/{file}\""));
            assert!(output.stderr.contains("Invalid argument"), "{text}: {}", output.stderr);
        }
        assert_eq!(line("last_error "), format!("last_error {says}"));
        machine.wait_for_log(says, WAIT);
        assert_eq!(version(), before);
    }
    machine.fails(&format!("head -c 300 /dev/zero >{DEBUG}/metadata_control"));
    machine.wait_for_log("metadata_control takes a line of text, of up to 256 bytes", WAIT);
    remap.remove();
    machine.shutdown();
}
