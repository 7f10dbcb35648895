//! What a read takes, counted in instructions, beside `linear`, linear pieces and RAID1.
//!
//! The machine has one processor and a clock that counts its instructions, a nanosecond each. All devices are there at the same time, and are
//! measured in turn: what disturbs, and what changes while the machine runs, meets them alike. A difference is the median of the differences in
//! the same round.

use crate::devices::{self, counted, heads, Place, Spread, MAIN, MIB};
use remap_harness::report::{median, Bound, Figure, Report, Table};
use remap_harness::{Image, Machine};

const READS: u64 = 10_000;
const ROUNDS: usize = 7;

/// A device that is read.
struct Row {
    what: String,
    path: String,
    spread: Spread,
    place: Place,
    seen: Vec<f64>,
    /// How many more instructions than `linear` it may take.
    most: f64,
    /// Where the same is done by hand.
    peer: Option<usize>,
}

/// All of it.
pub fn measure() -> Report {
    let (image, million) = devices::million();
    let machine =
        Machine::builder().drive(&image).count_instructions().memory(3072).module().boot();
    let linear_main = devices::linear(&machine, "linear", &devices::null(&machine, 1, MAIN / MIB));
    let under = devices::spare(&machine, "spare", 2, 1024, Image::METADATA_SECTORS, 0);
    let linear_spare = devices::linear(&machine, "linear-spare", &under);
    let none = Spread::of(0);
    let mut rows = Vec::new();
    let mut row = |what: String, path: &str, spread, place, most| {
        let (path, seen) = (path.into(), Vec::new());
        rows.push(Row { what, path, spread, place, seen, most, peer: None });
        rows.len() - 1
    };
    let any = f64::INFINITY;
    row("linear, over such a main".into(), &linear_main, none, Place::Miss, any);
    row("linear, over such a spare".into(), &linear_spare, none, Place::Hit, any);
    let raid = devices::mirror(&machine, 0);
    row("md RAID1, over two such mains".into(), &raid, none, Place::Miss, any);
    let empty = devices::active(&machine, "none", 0, none);
    row("remap, nothing remapped".into(), &empty.path(), none, Place::Miss, 75.0);

    let mut peers = Vec::new();
    for (n, extents) in [10, 1_000, 32_000, 100_000].into_iter().enumerate() {
        let spread = Spread::of(extents);
        let set = devices::active(&machine, &format!("r{extents}"), 1 + n as u32, spread).path();
        let most = if extents <= 1_000 { 75.0 } else { 120.0 };
        let what = |what| format!("remap, {} extents, a {what}", counted(extents));
        let miss = row(what("miss"), &set, spread, Place::Miss, most);
        let hit = row(what("hit"), &set, spread, Place::Hit, 150.0);
        // The count of a full slot is for the bound.
        if extents == 32_000 {
            continue;
        }
        let path = format!("/dev/mapper/l{extents}");
        let loaded = devices::pieces(&machine, &format!("l{extents}"), n as u32, spread);
        loaded.unwrap_or_else(|why| panic!("a table of linear pieces: {why}"));
        let what = |what| format!("linear pieces, {} remaps, a {what}", counted(extents));
        let misses = row(what("miss"), &path, spread, Place::Miss, any);
        let hits = row(what("hit"), &path, spread, Place::Hit, any);
        peers.extend([(miss, misses), (hit, hits)]);
    }
    let many = devices::active(&machine, "million", 5, million).path();
    let more = [
        ("a miss", Place::Miss, 120.0),
        ("a miss right behind one", Place::Behind, any),
        ("a hit", Place::Hit, 150.0),
    ];
    for (what, place, most) in more {
        row(format!("remap, a million extents, {what}"), &many, million, place, most);
    }
    for (own, peer) in peers {
        rows[own].peer = Some(peer);
    }
    let report = read(&machine, &mut rows);
    machine.shutdown();
    report
}

/// Reads from all devices in turn.
fn read(machine: &Machine, rows: &mut [Row]) -> Report {
    let mut report = Report::default();
    for _ in 0..ROUNDS {
        for row in rows.iter_mut() {
            let arguments = row.spread.reads(READS, row.place);
            let printed = machine.ok(&format!("guest bench {} {arguments}", row.path));
            row.seen.push(printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}")));
        }
    }
    let more = |row: &Row, peer: &Row| {
        median(row.seen.iter().zip(&peer.seen).map(|(a, b)| a - b).collect())
    };
    let mut table = Table {
        name: "reads",
        title: format!("Instructions for a 4 KiB read over drives that answer at once ({ROUNDS} rounds of {READS} reads)"),
        heads: heads(&["", "in all", "more than linear", "at most", "more than linear pieces"]),
        rows: Vec::new(),
    };
    for row in rows.iter() {
        let base = &rows[usize::from(row.place == Place::Hit)];
        let own = more(row, base);
        let most = if row.most.is_finite() { Figure::Number(row.most, 0) } else { Figure::None };
        let by_hand = row.peer.map(|peer| more(row, &rows[peer]));
        let number = |value| Figure::Number(value, 0);
        let figures = vec![
            number(median(row.seen.clone())),
            number(own),
            most,
            by_hand.map_or(Figure::None, number),
        ];
        table.rows.push((row.what.clone(), figures));
        if row.most.is_finite() {
            let what = format!("{}: instructions more than linear", row.what);
            report.bounds.push(Bound { what, is: own, least: f64::NEG_INFINITY, most: row.most });
        }
        if let Some(is) = by_hand.filter(|_| row.spread.extents >= 1_000) {
            let what = format!("{}: instructions more than by linear pieces", row.what);
            report.bounds.push(Bound { what, is, least: f64::NEG_INFINITY, most: 0.0 });
        }
    }
    report.tables.push(table);
    report
}
