//! `make bench`: what a read costs through `remap`, beside `linear`, in instructions; and what a table of a million extents costs.
//!
//! The machine has one processor and a clock that counts its instructions, a nanosecond each. All devices are there at the same time,
//! and are measured in turn: what disturbs, and what changes while the machine runs, meets them alike. A difference is the median of
//! the differences to `linear` in the same round.

use remap_harness::{Drive, Image, Machine, Remap};
use remap_pure::format::layout::{Layout, COPIES, SLOT_SECTORS};
use std::process::ExitCode;

const MIB: u64 = 1024;
const SPARE_MIB: u64 = 512;
const READS: u64 = 10_000;
const ROUNDS: usize = 7;

/// Many extents: one for each 64 KiB of the first part of main, and one far behind them: so far, that the table keeps one bit for each
/// 32 KiB of main.
const MANY: u64 = 1_000_000;
const MANY_MIB: u64 = MANY / 16;
const MANY_MAIN_MIB: u64 = 1 << 20;
const MANY_LAST_MIB: u64 = 1 << 18;
const MANY_SPARE_MIB: u64 = 4096;

/// How many MB a second the metadata of these is read at: a hard disk that gives 150, beside a processor that does three instructions
/// in a nanosecond, where this one does one.
const MBPS: u64 = 50;

/// The first block of each 64 KiB is remapped; this one is not,
const MISS: u64 = 5;
/// nor this one, which shares no bit with it where there are many, as that one does.
const APART: u64 = 9;
const HIT: u64 = 0;

struct Row {
    name: &'static str,
    path: String,
    mib: u64,
    phase: u64,
    /// The row to compare with, and how many instructions more there may be.
    most: Option<(usize, f64)>,
    seen: Vec<f64>,
}

/// A drive without a memory, so that all of them cost the same to read.
fn null(machine: &Machine, index: u32, mib: u64) -> String {
    machine.null_blk(index, mib, &[("completion_nsec", "0"), ("irqmode", "0")])
}

/// A spare: only in its first `metadata` sectors it remembers what is written. It is made of two pieces by device mapper, and so is
/// what a read of it is compared with. There it gives `mbps` MB a second; at 0 as many as the processor can take.
fn spare(
    machine: &Machine,
    name: &str,
    index: u32,
    mib: u64,
    (metadata, mbps): (u64, u64),
) -> String {
    let mbps = mbps.to_string();
    let settings = [("memory_backed", "1"), ("irqmode", "0"), ("mbps", &mbps)];
    let memory = machine.null_blk(index, metadata.div_ceil(2048), &settings);
    let rest = null(machine, index + 100, mib);
    let all = mib * 2048;
    machine.ok(&format!(
        "printf '0 {metadata} linear {memory} 0\n{metadata} {} linear {rest} 0\n' | dmsetup create {name}",
        all - metadata
    ));
    format!("/dev/mapper/{name}")
}

/// A device on a main of its own, as a main can be in one live set only. Its spare has `extents` remaps, evenly over all of main.
fn device(machine: &Machine, name: &str, index: u32, extents: u64) -> String {
    let main = null(machine, 10 + index, MIB);
    let spare = spare(
        machine,
        &format!("{name}-spare"),
        20 + index,
        SPARE_MIB,
        (Image::METADATA_SECTORS, 0),
    );
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

/// A drive with the metadata of a set of [`MANY`] extents, and where that ends.
fn many() -> (Drive, u64) {
    let layout = Layout::for_max_remaps(MANY + 100).expect("a layout");
    let mut image = Image::blank(MANY_SPARE_MIB * 2048);
    let last = MANY_LAST_MIB * 2048 - 8;
    let runs = (0..MANY - 1).map(|i| (i * 128, 8)).chain([(last, 8)]);
    image.create_large(layout, MANY_MAIN_MIB * 2048, runs);
    let drive = Drive::blank("image", layout.end().0);
    drive.scribble(0, image.metadata());
    (drive, layout.end().0)
}

/// What was measured, and how much it may be.
struct Cost {
    what: &'static str,
    is: f64,
    most: f64,
}

/// Activates a set of [`MANY`] extents, and tells what that costs, and how many sectors of each copy there are to be read.
fn activate_many(machine: &Machine, end: u64) -> (Remap<'_>, Vec<Cost>) {
    let main = null(machine, 15, MANY_MAIN_MIB);
    let spare = spare(machine, "many-spare", 25, MANY_SPARE_MIB, (end, MBPS));
    machine.ok(&format!("dd if=/dev/vda of={spare} bs=1M conv=fsync 2>&1"));
    let time = |command: &str| -> f64 {
        let printed = machine.ok(&format!("guest time {command}"));
        printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}"))
    };
    let used = || -> f64 {
        machine.ok("sync; echo 3 >/proc/sys/vm/drop_caches; sleep 1");
        let printed = machine.ok(
            "awk '/^kmalloc-/ { sum += $2 * $4 } /^VmallocUsed/ { sum += $2 * 1024 } END { print sum }' OFMT=%.0f \
             /proc/slabinfo /proc/meminfo",
        );
        printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}"))
    };
    // Five copies, which are as long as this but for the data between them.
    let bytes = (5 * SLOT_SECTORS.0 + end - Image::METADATA_SECTORS) * 512;
    assert_eq!(COPIES, 5);
    let blocks = bytes / 4096;
    let read = format!(
        "dd if={spare} of=/dev/null bs=1M iflag=direct,count_bytes count={}",
        blocks * 4096
    );
    let table = format!("0 {} remap {main} {spare}", MANY_MAIN_MIB * 2048);
    machine.ok(&format!("echo '{table}' >/tmp/table"));
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let reading = time(&read);
        let activation = time("dmsetup create many /tmp/table");
        ratios.push(activation / reading);
        machine.ok("dmsetup remove many");
    }
    let before = used();
    machine.ok("dmsetup create many /tmp/table");
    let memory = (used() - before) / MANY as f64;
    let costs = vec![
        Cost {
            what: "times as long as reading the five copies does activation take",
            is: median(ratios),
            most: 3.0,
        },
        Cost { what: "bytes of memory for an extent", is: memory, most: 32.0 },
    ];
    (Remap::existing(machine, "many"), costs)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let (image, end) = many();
    let machine =
        Machine::builder().drive(&image).count_instructions().memory(2048).module().boot();
    let (many, costs) = activate_many(&machine, end);
    let linear = |name: &str, over: &str| {
        machine.ok(&format!(
            "dmsetup create {name} --table \"0 $(blockdev --getsz {over}) linear {over} 0\""
        ));
        format!("/dev/mapper/{name}")
    };
    let linear_main = linear("linear", &null(&machine, 1, MIB));
    let linear_spare = linear(
        "linear-spare",
        &spare(&machine, "spare", 2, SPARE_MIB, (Image::METADATA_SECTORS, 0)),
    );
    let row = |name, (path, mib): (&str, u64), phase, most| Row {
        name,
        path: path.into(),
        mib,
        phase,
        most,
        seen: Vec::new(),
    };
    let empty = device(&machine, "empty", 1, 0);
    let thousand = device(&machine, "thousand", 2, 1000);
    let full = device(&machine, "full", 3, 32_000);
    let mut rows = [
        row("linear, over such a main", (&linear_main, MIB), MISS, None),
        row("linear, over such a spare", (&linear_spare, SPARE_MIB), MISS, None),
        row("remap, nothing remapped", (&empty, MIB), MISS, Some((0, 75.0))),
        row("remap, 1,000 extents, a miss", (&thousand, MIB), MISS, Some((0, 75.0))),
        row("remap, a full slot of 32,000 extents, a miss", (&full, MIB), MISS, Some((0, 120.0))),
        row("remap, a full slot of 32,000 extents, a hit", (&full, MIB), HIT, Some((1, 150.0))),
        row("remap, a million extents, a miss", (&many.path(), MANY_MIB), APART, Some((0, 120.0))),
        row(
            "remap, a million extents, a miss close to one",
            (&many.path(), MANY_MIB),
            MISS,
            Some((0, f64::INFINITY)),
        ),
        row("remap, a million extents, a hit", (&many.path(), MANY_MIB), HIT, Some((1, 150.0))),
    ];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let command = format!("guest bench {} {} {READS} {}", row.path, row.mib, row.phase);
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
                let bound = match (most.is_finite(), more <= most) {
                    (false, _) => String::new(),
                    (true, true) => format!(" (at most +{most:.0})"),
                    (true, false) => format!(" (at most +{most:.0}: TOO MANY)"),
                };
                println!("  {more:+5.0}  {}{bound}", row.name);
                if more > most {
                    status = ExitCode::FAILURE;
                }
            }
        }
    }
    println!("\nA table of a million extents:\n");
    for Cost { what, is, most } in costs {
        let verdict = if is <= most { "" } else { ": TOO MANY" };
        println!("  {is:8.1}  {what} (at most {most:.0}{verdict})");
        if is > most {
            status = ExitCode::FAILURE;
        }
    }
    machine.shutdown();
    status
}
