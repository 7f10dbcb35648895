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
    /// The row to compare with, and how many instructions more there may be.
    most: Option<(usize, f64)>,
    seen: Vec<f64>,
}

/// A drive without a memory, so that all of them cost the same to read.
fn null(machine: &Machine, index: u32, mib: u64) -> String {
    machine.null_blk(index, mib, &[("completion_nsec", "0"), ("irqmode", "0")])
}

/// A spare: only where its metadata is it remembers what is written. It is made of two pieces by device mapper, and so is what a read
/// of it is compared with.
fn spare(machine: &Machine, name: &str, index: u32) -> String {
    let memory = machine.null_blk(index, 8, &[("memory_backed", "1"), ("irqmode", "0")]);
    let rest = null(machine, index + 100, SPARE_MIB);
    let (metadata, all) = (Image::METADATA_SECTORS, SPARE_MIB * 2048);
    machine.ok(&format!(
        "printf '0 {metadata} linear {memory} 0\n{metadata} {} linear {rest} 0\n' | dmsetup create {name}",
        all - metadata
    ));
    format!("/dev/mapper/{name}")
}

/// A device on a main of its own, as a main can be in one live set only. Its spare has `extents` remaps, evenly over all of main.
fn device(machine: &Machine, name: &str, index: u32, extents: u64) -> String {
    let main = null(machine, 10 + index, MIB);
    let spare = spare(machine, &format!("{name}-spare"), 20 + index);
    let sectors = MIB * 2048;
    let mut image = Image::blank(SPARE_MIB * 2048);
    // As many as there are groups of 64 KiB, and more beside them, where nothing is read.
    let groups = sectors / 128;
    let runs = (0..extents.min(groups)).map(|i| (i * groups / extents.min(groups) * 128, 8));
    let more = (groups..extents).map(|i| ((i - groups) * 128 + 64, 8));
    image.create(sectors, runs.chain(more));
    machine.put("/tmp/image", image.metadata());
    machine.ok(&format!("dd if=/tmp/image of={spare} bs=1M conv=fsync 2>&1"));
    Remap::create(machine, name, &main, &spare).path()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let machine = Machine::builder().count_instructions().memory(2048).module().boot();
    let linear = |name: &str, over: &str| {
        machine.ok(&format!(
            "dmsetup create {name} --table \"0 $(blockdev --getsz {over}) linear {over} 0\""
        ));
        format!("/dev/mapper/{name}")
    };
    let linear_main = linear("linear", &null(&machine, 1, MIB));
    let linear_spare = linear("linear-spare", &spare(&machine, "spare", 2));
    let row = |name, path: &str, phase, most| Row {
        name,
        path: path.into(),
        phase,
        most,
        seen: Vec::new(),
    };
    let empty = device(&machine, "empty", 1, 0);
    let thousand = device(&machine, "thousand", 2, 1000);
    let full = device(&machine, "full", 3, 32_000);
    let mut rows = [
        row("linear, over such a main", &linear_main, MISS, None),
        row("linear, over such a spare", &linear_spare, MISS, None),
        row("remap, nothing remapped", &empty, MISS, Some((0, 100.0))),
        row("remap, 1,000 extents, a miss", &thousand, MISS, Some((0, 150.0))),
        row("remap, a full slot of 32,000 extents, a miss", &full, MISS, Some((0, 150.0))),
        row("remap, a full slot of 32,000 extents, a hit", &full, HIT, Some((1, 150.0))),
    ];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let mib = if row.path.ends_with("spare") { SPARE_MIB } else { MIB };
            let command = format!("guest bench {} {mib} {READS} {}", row.path, row.phase);
            let printed = machine.ok(&command);
            row.seen.push(printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}")));
        }
    }
    println!("Instructions for a 4 KiB read at depth 1 over null_blk ({ROUNDS} rounds of {READS} reads):\n");
    let mut status = ExitCode::SUCCESS;
    for row in &rows {
        print!("  {:8.0}", median(row.seen.clone()));
        match row.most {
            None => println!("         {}", row.name),
            Some((peer, most)) => {
                let pairs = row.seen.iter().zip(&rows[peer].seen);
                let more = median(pairs.map(|(a, b)| a - b).collect());
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
