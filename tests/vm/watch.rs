//! `dmremap monitor` in a machine: who is told what, of which sets.

use remap_harness::{Drive, Machine, Remap};
use std::time::{Duration, Instant};

const MIB: u64 = 2048;
const PATH: &str = "/dev/mapper/r";

/// What smartctl would say of a drive with so many pending sectors.
fn smart(pending: u64) -> String {
    format!(
        r#"{{"smartctl":{{"exit_status":0}},"device":{{"protocol":"ATA"}},"ata_smart_attributes":{{"table":[
        {{"id":5,"raw":{{"value":1}}}},{{"id":197,"raw":{{"value":{pending}}}}}]}}}}"#
    )
}

/// Puts scripts in the places of those who are told: each writes down what it was told.
fn listeners(machine: &Machine) {
    let put = |path: &str, script: &str| {
        machine.ok(&format!("rm -f {path}"));
        machine.put(path, format!("#!/bin/sh\n{script}\n").as_bytes());
        machine.ok(&format!("chmod +x {path}"));
    };
    machine.ok("mkdir -p /tmp/mails");
    put("/bin/hook", r#"echo "$1|$2|$3|$DMREMAP_PENDING|$DMREMAP_MAPPED_NAME" >>/tmp/hooked"#);
    put("/bin/sendmail", r#"n=$(ls /tmp/mails | wc -l); { echo "to $*"; cat; } >/tmp/mails/$n"#);
    put("/bin/smartctl", "cat /tmp/smart");
    machine.put("/tmp/smart", smart(3).as_bytes());
    machine.ok("touch /tmp/hooked");
}

/// Waits until a command prints a line with this in it, and returns that.
#[track_caller]
fn says(machine: &Machine, command: &str, part: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let text = machine.run(command).stdout;
        if let Some(line) = text.lines().find(|line| line.contains(part)) {
            return line.into();
        }
        assert!(Instant::now() < deadline, "{command}: no '{part}' in\n{text}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_program_a_mailbox_and_prometheus_are_told_of_what_happens_to_every_set() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    machine.start_udev();
    listeners(&machine);
    machine.put(
        "/etc/dmremap.conf",
        b"# who is told\nMAILADDR admin@example.org\nPROGRAM /bin/hook\n",
    );
    let monitor = machine.start(
        "exec dmremap monitor --mail-delay 15 --prometheus /tmp/sets.prom --interval 1 --smart-interval 2",
    );
    let hooked = |part: &str| says(&machine, "cat /tmp/hooked", part);
    let counts = |part: &str| says(&machine, "cat /tmp/sets.prom", part);

    // A set that comes is noticed.
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    assert!(hooked("found|").starts_with("found|/dev/mapper/r|nothing pending"));
    let set = remap.message("metadata_status");
    let set = set.lines().find_map(|line| line.strip_prefix("set ")).unwrap().to_owned();
    let label = format!("{{name=\"r\",set=\"{set}\"}}");
    counts(&format!("dmremap_healthy{label} 1"));
    counts(&format!("dmremap_drive_pending_sectors{{name=\"r\",set=\"{set}\",drive=\"vda\"}} 3"));

    // A drive fails: two events, one mail.
    main.fail_reads(2003..2005);
    assert_ne!(machine.run(&format!("guest io read {PATH} 2000 8")).status, 0);
    assert_eq!(hooked("pending|/dev"), "pending|/dev/mapper/r|pending 2 sectors (was 0), health 0 (was 1), main_health 92 (was 100)|2|r".replace("main_health 92", &main_health(&remap)));
    main.fail_writes(1003..1004);
    machine.ok(&format!("guest io write {PATH} 1000 8 new"));
    let moved = hooked("remapped|/dev");
    assert!(moved.contains("remapped 1 sectors"), "{moved}");
    machine.put("/tmp/smart", smart(5).as_bytes());
    hooked("smart-pending|/dev/mapper/r|vda counts 5, 3 before");
    counts(&format!("dmremap_pending_bytes{label} 1024"));
    counts(&format!("dmremap_remapped_bytes{label} 512"));
    counts(&format!("dmremap_events_total{{name=\"r\",set=\"{set}\",event=\"pending\"}} 1"));
    says(&machine, "cat /tmp/mails/0", "blocks cannot be read on main: pending 2 sectors");
    let mail = machine.ok("cat /tmp/mails/0");
    assert!(
        mail.starts_with("to -i admin@example.org\nTo: admin@example.org\nSubject: dm-remap on "),
        "{mail}"
    );
    assert!(mail.contains("r: blocks that failed have been moved to a spare: "), "{mail}");
    assert_eq!(machine.ok("ls /tmp/mails"), "0");
    let kinds = machine.ok("grep -c '^# TYPE' /tmp/sets.prom");
    assert_eq!(machine.ok("grep -c '^# HELP' /tmp/sets.prom"), kinds);
    assert_eq!(machine.run("ls -a /tmp | grep partial").stdout, "");

    // A set that goes and comes again is followed.
    remap.remove();
    hooked("gone|/dev/mapper/r");
    machine.ok("! grep -q remapped_bytes /tmp/sets.prom || sleep 2");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert!(hooked("unwell|").contains("pending 2 sectors"));
    remap.message("set alert_threshold 60");
    hooked("settings|/dev/mapper/r");
    assert_eq!(machine.ok("grep -c ^pending /tmp/hooked"), "1");

    // The end is asked for, and what was not mailed yet is.
    machine.ok("kill -TERM $(pidof dmremap)");
    let output = monitor.wait();
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(output.stderr.contains("r: set is in use and not healthy"), "{}", output.stderr);
    says(&machine, "cat /tmp/mails/1", "set is in use and not healthy");

    // Once, for who runs it from time to time; it says how the sets are.
    let once = machine.run("dmremap monitor --once --prometheus /tmp/once.prom");
    assert_eq!(once.status, 3, "{}", once.stderr);
    machine.ok(&format!("grep -qF 'dmremap_pending_bytes{label} 1024' /tmp/once.prom"));

    // Whether anybody hears it can be tried.
    let test = machine.run("dmremap monitor --test --prometheus /tmp/test.prom");
    let said =
        "program /bin/hook: done\nmail to admin@example.org: done\nfile /tmp/test.prom: done\n";
    assert_eq!((test.status, &*test.stdout), (0, said), "{}", test.stderr);
    hooked("test||");
    let test = machine.run("dmremap monitor --test --program /bin/false");
    assert_eq!(test.status, 1, "{}", test.stdout);
    assert!(
        test.stdout.contains("program /bin/false: failed: /bin/false: failed with status 1"),
        "{}",
        test.stdout
    );
    remap.remove();
    machine.shutdown();
}

/// How the monitor writes what the set says of main's health.
fn main_health(remap: &Remap<'_>) -> String {
    let status = remap.message("metadata_status");
    let health = status.lines().find_map(|line| line.strip_prefix("main_health ")).unwrap();
    format!("main_health {health}")
}
