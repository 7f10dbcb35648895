//! `make bench`: what a read costs through `remap`, beside `linear`, in instructions.
//!
//! The machine has one processor and a clock that counts its instructions, a nanosecond each. All devices are there at the same time,
//! and are measured in turn: what disturbs, and what changes while the machine runs, meets them alike. A difference is the median of
//! the differences to `linear` in the same round.

use remap_harness::{Image, Machine, Remap};
use std::process::ExitCode;

const MIB: u64 = 1024;
const SPARE_MIB: u64 = 512;
const READS: u64 = 10_000;
const ROUNDS: usize = 7;

/// The first block of each 64 KiB is remapped; this one is not.
const MISS: u64 = 5;
const HIT: u64 = 0;

struct Row {
    name: &'static str,
    path: String,
    phase: u64,
    /// How many instructions more than `linear` there may be.
    most: Option<f64>,
    seen: Vec<f64>,
}

/// A device on `main` whose spare has `extents` remaps, evenly over all of main.
fn device(machine: &Machine, name: &str, index: u32, main: &str, extents: u64) -> String {
    let spare = machine.null_blk(index, SPARE_MIB, &[("memory_backed", "1"), ("irqmode", "0")]);
    let sectors = MIB * 2048;
    let mut image = Image::blank(SPARE_MIB * 2048);
    // As many as there are groups of 64 KiB, and more beside them, where nothing is read.
    let groups = sectors / 128;
    let runs = (0..extents.min(groups)).map(|i| (i * groups / extents.min(groups) * 128, 8));
    let more = (groups..extents).map(|i| ((i - groups) * 128 + 64, 8));
    image.create(sectors, runs.chain(more));
    machine.put("/tmp/image", image.metadata());
    machine.ok(&format!("dd if=/tmp/image of={spare} bs=1M conv=fsync 2>&1 && rm /tmp/image"));
    Remap::create(machine, name, main, &spare).path()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let machine = Machine::builder().count_instructions().memory(2048).module().boot();
    let main = machine.null_blk(0, MIB, &[("completion_nsec", "0"), ("irqmode", "0")]);
    machine.ok(&format!(
        "dmsetup create linear --table \"0 $(blockdev --getsz {main}) linear {main} 0\""
    ));
    let row = |name, path: &str, phase, most| Row {
        name,
        path: path.into(),
        phase,
        most,
        seen: Vec::new(),
    };
    // A main can be in one live set only, so each has its own; they are alike.
    let mains: Vec<String> = (0..3)
        .map(|i| machine.null_blk(10 + i, MIB, &[("completion_nsec", "0"), ("irqmode", "0")]))
        .collect();
    let empty = device(&machine, "empty", 1, &mains[0], 0);
    let thousand = device(&machine, "thousand", 2, &mains[1], 1000);
    let full = device(&machine, "full", 3, &mains[2], 32_000);
    let mut rows = [
        row("linear", "/dev/mapper/linear", MISS, None),
        row("remap, nothing remapped", &empty, MISS, Some(100.0)),
        row("remap, 1,000 extents, a miss", &thousand, MISS, Some(150.0)),
        row("remap, a full slot of 32,000 extents, a miss", &full, MISS, Some(150.0)),
        row("remap, a full slot of 32,000 extents, a hit", &full, HIT, Some(150.0)),
    ];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let command = format!("guest bench {} {MIB} {READS} {}", row.path, row.phase);
            let printed = machine.ok(&command);
            row.seen.push(printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}")));
        }
    }
    println!("Instructions for a 4 KiB read at depth 1 over null_blk ({ROUNDS} rounds of {READS} reads):\n");
    let mut status = ExitCode::SUCCESS;
    let linear = rows[0].seen.clone();
    for row in &rows {
        let more = median(row.seen.iter().zip(&linear).map(|(a, b)| a - b).collect());
        print!("  {:8.0}", median(row.seen.clone()));
        match row.most {
            None => println!("         {}", row.name),
            Some(most) => {
                let verdict = if more <= most { "" } else { ": TOO MANY" };
                println!("  {more:+5.0}  {} (at most +{most:.0}{verdict})", row.name);
                if more > most {
                    status = ExitCode::FAILURE;
                }
            }
        }
    }
    machine.shutdown();
    status
}
