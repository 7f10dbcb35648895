//! Sets that are taken apart again, or put together and let go at once: with the power cut in between, or with damage that shows late.

use crate::common::{freezes_before, more_cuts};
use remap_harness::{Drive, Machine, Remap};
use std::time::Duration;

const MIB: u64 = 2048;
/// What is remapped, with what is written there.
const MOVED: [(u64, u64, &str); 3] = [(4096, 64, "one"), (8192, 256, "two"), (30_000, 8, "three")];

struct Drives {
    main: Drive,
    one: Drive,
    two: Drive,
}

impl Drives {
    fn new() -> Self {
        Self {
            main: Drive::blank("main", 32 * MIB),
            one: Drive::blank("one", 16 * MIB),
            two: Drive::blank("two", 16 * MIB),
        }
    }

    fn boot(&self) -> Machine {
        let builder = Machine::builder().drive(&self.main).drive(&self.one).drive(&self.two);
        let machine = builder.module().boot();
        machine.start_udev();
        machine
    }

    /// A set on which blocks live on both spares; main has something older there.
    fn set(&self, machine: &Machine) {
        machine.ok("dmremap create --yes --name disk --set spare_policy=round_robin /dev/vda /dev/vdb /dev/vdc");
        for (start, len, what) in MOVED {
            machine.ok(&format!("guest io write /dev/mapper/disk {start} {len} older"));
            machine.ok(&format!("dmremap remap --yes disk {start} {len}"));
            machine.ok(&format!("guest io write /dev/mapper/disk {start} {len} {what}"));
        }
        machine.ok("guest io write /dev/mapper/disk 50000 64 unmoved");
        machine.ok("guest io flush /dev/mapper/disk");
    }
}

#[track_caller]
fn holds(machine: &Machine, path: &str) {
    for (start, len, what) in MOVED.into_iter().chain([(50_000, 64, "unmoved")]) {
        machine.ok(&format!("guest io check {path} {start} {len} {what}"));
    }
}

/// Dissolves a set, and cuts the power when a drive has taken that many writes and flushes. Gives what was found then.
fn cut_when(after: u64, which: impl Fn(&Drives) -> &Drive, seed: u64) -> &'static str {
    let drives = Drives::new();
    let machine = drives.boot();
    drives.set(&machine);
    let drive = which(&drives);
    drive.freeze_after(after);
    let mut dissolve = machine.start("dmremap dissolve --yes disk");
    let frozen = freezes_before(drive, &mut dissolve);
    drop(dissolve);
    machine.power_cut(seed);

    let machine = drives.boot();
    let all = machine.run("dmremap assemble --all");
    let found = match (machine.run("dmsetup info disk").status, all.status) {
        // Still a set, which has all of it.
        (0, _) => {
            holds(&machine, "/dev/mapper/disk");
            machine.ok("dmsetup message disk 0 check forensic");
            machine.ok("dmremap dissolve --yes disk");
            "a set"
        }
        // One of its spares is wiped: nothing lives on the other one.
        (_, 5) => {
            holds(&machine, "/dev/vda");
            machine.ok("dmremap dissolve --yes disk");
            "a part"
        }
        _ => {
            assert!(all.stdout.contains("no set is on any device"), "{all:?}");
            "nothing"
        }
    };
    holds(&machine, "/dev/vda");
    assert_eq!(machine.ok("dmremap scan"), "no set is on any device of this machine");
    machine.ok("dmremap create --yes --name again --dry-run /dev/vda /dev/vdb /dev/vdc");
    machine.shutdown();
    eprintln!("cut after {after} ({frozen}): {found}");
    found
}

#[test]
fn the_power_may_be_cut_while_a_set_is_dissolved() {
    // What brings back, and what wipes.
    assert_eq!(cut_when(3, |drives| &drives.one, 61), "a set");
    cut_when(16, |drives| &drives.one, 62);
    for after in more_cuts() {
        cut_when(after, |drives| &drives.main, 2000 + after);
        cut_when(after, |drives| &drives.one, 3000 + after);
        cut_when(after, |drives| &drives.two, 4000 + after);
    }
}

fn wipe_cut_when(after: u64, seed: u64) {
    let drives = Drives::new();
    let machine = drives.boot();
    drives.set(&machine);
    // While something lives there, nothing is wiped.
    machine.ok("dmremap stop disk");
    let writes = drives.one.counters().writes;
    machine.fails("dmremap wipe --yes /dev/vdb");
    assert_eq!(drives.one.counters().writes, writes);
    drives.one.freeze_after(after);
    let mut wipe = machine.start("dmremap wipe --yes --lost /dev/vdb /dev/vdb");
    let frozen = freezes_before(&drives.one, &mut wipe);
    drop(wipe);
    machine.power_cut(seed);
    let machine = drives.boot();
    // What is left says whose it is, or there is nothing left; the other spare and main are as they were.
    machine.ok("dmremap wipe --yes --lost /dev/vdb /dev/vdb");
    let says = machine.ok("dmremap wipe --yes /dev/vdb");
    assert!(says.contains("carries nothing of dm-remap"), "{says}");
    assert!(machine.run("dmremap inspect /dev/vdc").stdout.contains("set "));
    machine.ok("guest io check /dev/vda 50000 64 unmoved");
    machine.shutdown();
    eprintln!("cut after {after} ({frozen})");
}

#[test]
fn the_power_may_be_cut_while_a_spare_is_wiped() {
    wipe_cut_when(3, 71);
    more_cuts().for_each(|after| wipe_cut_when(after, 5000 + after));
}

#[test]
fn a_set_whose_metadata_go_bad_while_it_is_assembled_is_let_go_again() {
    let drives = Drives::new();
    let machine = drives.boot();
    machine.ok("dmremap create --yes --name disk /dev/vda /dev/vdb");
    let remap = Remap::existing(&machine, "disk");
    remap.message("remap 4096 64");
    remap.remove();
    // From the first to the last, each look at the headers takes a while; the last look is the check after the set is there.
    let slots = [0, 1024, 2048, 4096, 8192];
    let good: Vec<Vec<u8>> = slots.iter().map(|&at| drives.one.durable(at..at + 8)).collect();
    let mut undone = None;
    for _ in 0..10 {
        for at in slots {
            drives.one.slow_down(at..at + 8, Duration::from_secs(2));
        }
        let assemble = machine.start("dmremap assemble disk");
        machine.ok("for i in $(seq 600); do dmsetup table disk 2>/dev/null | grep -q remap && dmsetup info disk | grep -q ACTIVE && exit; sleep 0.05; done; exit 1");
        slots.iter().for_each(|&at| drives.one.scribble(at, &[0xa5; 4096]));
        let output = assemble.wait();
        slots.iter().for_each(|&at| drives.one.heal(at..at + 8));
        if output.status != 0 {
            undone = Some(output);
            break;
        }
        // The check was faster. Memory is whole.
        machine.ok("dmsetup message disk 0 repair && dmremap stop disk");
    }
    let undone = undone.expect("damage was never seen by the check");
    assert_eq!(undone.status, 1, "{undone:?}");
    assert!(undone.stderr.contains("so it was let go again"), "{undone:?}");
    machine.fails("dmsetup info disk");
    // What was there can be put back, and is a set.
    for (at, bytes) in slots.iter().zip(&good) {
        drives.one.scribble(*at, bytes);
    }
    machine.ok("dmremap assemble disk && dmremap status disk");
    machine.ok("dmremap stop disk");
    machine.shutdown();
}
