//! All at once: tables are loaded, sets come and go, spares join and leave, messages, files, statistics, the module itself, each from a process of
//! its own that does what it likes (`tests/guest/src/race_verb.rs`). Most of it is refused; what has to hold is that nobody hangs, the kernel
//! has no complaint, and the data is there.
//!
//! A quarter of a minute each, two minutes on the kernel that looks for faults, or as long as `MINUTES=` says.

use remap_harness::drive::model::Ill;
use remap_harness::env::{patience, setting};
use remap_harness::{Drive, Env, Job, Ledger, Machine};
use std::time::Duration;

const MIB: u64 = 2048;

/// How long a race lasts, in seconds.
fn seconds() -> u64 {
    match setting("MINUTES", 0) {
        0 if Env::get().debug => 120,
        0 => 12,
        minutes => 60 * minutes,
    }
}

/// Main, a spare and one to replace it, and a set that comes and goes, which has been made and let go.
fn boot(drives: &[Drive; 5]) -> Machine {
    let machine = drives.iter().fold(Machine::builder(), |builder, drive| builder.drive(drive));
    let machine = machine.module().boot();
    machine.take(&format!(
        "create s {} /dev/vdd /dev/vde 1 create\nio write /dev/mapper/s 0 256 coming\nremove s",
        16 * MIB
    ));
    machine
}

fn drives() -> [Drive; 5] {
    [("main", 32), ("one", 16), ("two", 16), ("coming", 16), ("coming-spare", 16)]
        .map(|(name, mib)| Drive::blank(name, mib * MIB))
}

/// Starts those who race, for as long as that takes. Each has to come to something, but for those named: what they try may be refused each time.
fn start<'m>(machine: &'m Machine, roles: &[&str], but: &[&str]) -> Vec<Job<'m>> {
    let begun = roles.iter().enumerate().map(|(seed, role)| {
        let seconds = seconds();
        let longest = if but.contains(role) { seconds } else { seconds + 60 };
        machine.start(&format!("guest race {role} seconds={seconds} seed={seed} longest={longest}"))
    });
    begun.collect()
}

/// Waits for the end of all, of whom none may have found anything wrong.
fn finish(racers: Vec<Job<'_>>, but: &[&str]) {
    for racer in racers {
        let output = racer.wait_for(patience(Duration::from_secs(seconds() + 240)));
        assert_eq!(output.status, 0, "{output:?}");
        print!("race: {}", output.stdout);
        let role = output.stdout.split_whitespace().next().unwrap_or_default();
        let nothing = output.stdout.contains(" 0/");
        assert!(!nothing || but.contains(&role), "{role} came to nothing");
    }
}

/// The set that came and went has what it had.
fn look_at_what_came_and_went(machine: &Machine) {
    machine.take(&format!(
        "try remove s\ntry remove t\ncreate s {} /dev/vdd /dev/vde\nio check /dev/mapper/s 0 256 coming\nmessage s check forensic\nremove s",
        16 * MIB
    ));
}

#[test]
fn all_at_once_under_load_lose_nothing() {
    let drives = drives();
    let machine = boot(&drives);
    machine.take(&format!("create r {} /dev/vda /dev/vdb 1 create", 32 * MIB));
    // What fails is moved meanwhile.
    for at in (2048..16384).step_by(1024) {
        drives[0].ail(at..at + 8, Ill { writes: true, ..Ill::default() });
    }
    let mut ledger = Ledger::new(301, "0+16384,40960+4096");
    let racers = start(
        &machine,
        &[
            "tables", "messages", "messages", "members", "files", "control", "stats", "looks",
            "devices", "devices", "module",
        ],
        // With a set in use it stays.
        &["module"],
    );
    let more = format!("threads=3 seconds={}", seconds());
    let load = ledger.start(&machine, "/dev/mapper/r", &more);
    let load = load.wait_for(patience(Duration::from_secs(seconds() + 240)));
    assert_eq!(load.status, 0, "{load:?}");
    finish(racers, &["module"]);
    machine
        .take("try message r scan stop\nidle r\nmessage r save\nmessage r check forensic\nidle r");
    ledger.enter(&machine.events());
    ledger.check(&machine, "/dev/mapper/r");
    assert!(ledger.acknowledged > 0 && ledger.flushes > 0, "there was no load");
    println!("race: {} writes, {} of which failed", ledger.writes, ledger.write_errors);
    machine.take("remove r");
    look_at_what_came_and_went(&machine);
    machine.ok("rmmod dm-remap");
    machine.shutdown();
}

#[test]
fn the_module_comes_and_goes_with_its_sets() {
    let drives = drives();
    let machine = boot(&drives);
    let roles = ["devices", "devices", "module", "module", "control", "looks"];
    finish(start(&machine, &roles, &[]), &[]);
    machine.ok("lsmod | grep -q dm_remap || insmod /dm-remap.ko");
    look_at_what_came_and_went(&machine);
    machine.ok("rmmod dm-remap");
    machine.shutdown();
}
