//! What is done to a set in use: how long its user waits for that.
//!
//! The machine has one processor and a clock that counts its instructions, a nanosecond each, so times differ little from run to run.

use crate::devices::{self, counted, heads, seconds, Spread, MAIN};
use remap_harness::report::{median, Figure, Report, Table};
use remap_harness::Machine;

/// All of it.
pub fn measure() -> Report {
    let (image, million) = devices::million();
    let machine =
        Machine::builder().drive(&image).count_instructions().memory(3072).module().boot();
    let spreads = [Spread::of(10), Spread::of(1_000), Spread::of(100_000), million];
    let mut sets = Vec::new();
    for (n, spread) in spreads.into_iter().enumerate() {
        let name = format!("r{}", spread.extents);
        devices::active(&machine, &name, 1 + n as u32, spread);
        sets.push((name, spread));
    }
    let table = work(&machine, &sets);
    machine.shutdown();
    Report { tables: vec![table], bounds: Vec::new() }
}

/// What is done to a set in use.
fn work(machine: &Machine, sets: &[(String, Spread)]) -> Table {
    let mut rows = Vec::new();
    for (n, (name, spread)) in sets.iter().enumerate() {
        let message = |message: String| {
            devices::time(machine, &format!("dmsetup message {name} 0 {message}"))
        };
        // Where nothing is remapped, one in each of some parts of main.
        let free = |i: u64| (i * spread.extents.max(64) / 64) * spread.step + spread.step / 2;
        let moves = median((0..9).map(|i| message(format!("remap {} 8", free(i)))).collect());
        let back = median((0..9).map(|i| message(format!("unremap {} 8", free(i)))).collect());
        let saves = median((0..9).map(|_| message("save".into())).collect());
        let until = |begin: &str, end: &str| {
            machine.ok(&format!(
                "printf '#!/bin/sh\\ndmsetup message {name} 0 {begin} || exit 1\\nuntil dmsetup status {name} | grep -q \"{end}\"; do sleep 0.01; done\\n' \
                 >/tmp/until; chmod +x /tmp/until"
            ));
            seconds(devices::time(machine, "/tmp/until"))
        };
        let has = |value: &str, command: &str| {
            let says = machine.ok(&format!("dmsetup {command} {name}"));
            assert!(says.contains(value), "it did not come about: {says}");
        };
        let scan = match spread.main {
            MAIN => {
                let scan = until("scan start", "scan_state=idle");
                has(" scan=100% ", "status");
                scan
            }
            _ => Figure::None,
        };
        // Scattered extents are migrated one by one, which takes long.
        let migrate = if spread.extents > 1_000 {
            Figure::None
        } else {
            let to = format!("{name}-next");
            devices::spare(machine, &to, 110 + n as u32, 1024, spread.metadata(), 0);
            let migrate = until(&format!("migrate /dev/mapper/{to}"), " jobs=0 ");
            has(&machine.ok(&format!("lsblk -dnro MAJ:MIN /dev/mapper/{to}")), "table");
            migrate
        };
        let figures = vec![seconds(moves), seconds(back), seconds(saves), scan, migrate];
        rows.push((counted(spread.extents), figures));
    }
    Table {
        name: "work",
        title: "Seconds, of a processor that does an instruction in a nanosecond: to move 4 KiB to a spare and commit that, to move it back, to commit nothing new, \
                to scan a GiB, to migrate the spare"
            .into(),
        heads: heads(&["remaps", "remap", "unremap", "save", "scan", "migrate"]),
        rows,
    }
}
