//! What a read and a write take, counted in instructions, beside `linear`, linear pieces and RAID1.
//!
//! The machine has one processor and a clock that counts its instructions, a nanosecond each.

use crate::devices::{self, counted, heads, Place, Spread, MAIN, MIB};
use crate::turns::{self, number, Row};
use remap_harness::report::{Report, Table};
use remap_harness::{Image, Machine};

const READS: u64 = 10_000;
const ROUNDS: usize = 7;

/// All of it.
pub fn measure() -> Report {
    let (image, million) = devices::million();
    let machine =
        Machine::builder().drive(&image).count_instructions().memory(3072).module().boot();
    let linear_main = devices::linear(&machine, "linear", &devices::null(&machine, 1, MAIN / MIB));
    let under = devices::spare(&machine, "spare", 2, 1024, Image::METADATA_SECTORS, 0);
    let linear_spare = devices::linear(&machine, "linear-spare", &under);
    let none = Spread::of(0);
    // How many more instructions than `linear` each may take is kept beside the rows.
    let (mut rows, mut limits) = (Vec::new(), Vec::new());
    let mut row = |what: String, path: &str, spread, place, most| {
        rows.push(Row::new(what, path, spread, place));
        limits.push(most);
        rows.len() - 1
    };
    let any = None;
    row("linear, over such a main".into(), &linear_main, none, Place::Miss, any);
    row("linear, over such a spare".into(), &linear_spare, none, Place::Hit, any);
    let raid = devices::mirror(&machine, 0);
    row("md RAID1, over two such mains".into(), &raid, none, Place::Miss, any);
    let empty = devices::active(&machine, "none", 0, none);
    row("remap, nothing remapped".into(), &empty.path(), none, Place::Miss, Some(75.0));

    let mut peers = Vec::new();
    for (n, extents) in [10, 1_000, 32_000, 100_000].into_iter().enumerate() {
        let spread = Spread::of(extents);
        let set = devices::active(&machine, &format!("r{extents}"), 1 + n as u32, spread).path();
        let most = Some(if extents <= 1_000 { 75.0 } else { 120.0 });
        let what = |what| format!("remap, {} extents, a {what}", counted(extents));
        let miss = row(what("miss"), &set, spread, Place::Miss, most);
        let hit = row(what("hit"), &set, spread, Place::Hit, Some(150.0));
        if extents <= 1_000 {
            row(what("miss right behind one"), &set, spread, Place::Behind, most);
        }
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
    let spread = Spread::of(1_000).scattered();
    let scattered = devices::active(&machine, "scattered", 6, spread).path();
    let of = [("miss right behind one", Place::Behind, 75.0), ("hit", Place::Hit, 150.0)];
    for (what, place, most) in of {
        let what = format!("remap, 1,000 extents at random, a {what}");
        row(what, &scattered, spread, place, Some(most));
    }
    let many = devices::active(&machine, "million", 5, million).path();
    let more = [
        ("a miss", Place::Miss, Some(120.0)),
        ("a miss right behind one", Place::Behind, any),
        ("a hit", Place::Hit, Some(150.0)),
    ];
    for (what, place, most) in more {
        row(format!("remap, a million extents, {what}"), &many, million, place, most);
    }
    for (own, peer) in peers {
        rows[own].peer = Some(peer);
    }
    // Writes need not be compared with by hand.
    let written = rows.len();
    let those: Vec<(Row, Option<f64>)> = rows
        .iter()
        .zip(&limits)
        .filter(|(row, _)| !row.what.starts_with("linear pieces"))
        .map(|(row, most)| (row.written(), *most))
        .collect();
    for (row, most) in those {
        rows.push(row);
        limits.push(most);
    }
    turns::read(&machine, &mut rows, ROUNDS, READS);
    machine.shutdown();

    let mut report = Report::default();
    let what = |verb| {
        format!("Instructions for a 4 KiB {verb} over drives that answer at once ({ROUNDS} rounds of {READS})")
    };
    let heads_of_writes = heads(&["", "in all", "more than linear", "at most"]);
    let all = heads(&["", "in all", "more than linear", "at most", "more than linear pieces"]);
    let table = |name, title, heads| Table { name, title, heads, rows: Vec::new() };
    let mut reads = table("reads", what("read"), all);
    let mut writes = table("writes", what("write"), heads_of_writes);
    for (n, (row, most)) in rows.iter().zip(limits).enumerate() {
        let linear = usize::from(row.place == Place::Hit) + if n < written { 0 } else { written };
        let own = row.more_than(&rows[linear]);
        report.bounds.extend(most.map(|most| row.at_most("linear", own, most)));
        let mut figures = vec![row.all(), number(Some(own)), number(most)];
        if row.write {
            writes.rows.push((row.what.clone(), figures));
            continue;
        }
        let by_hand = row.more_than_peer(&rows);
        let is_bound = row.spread.extents >= 1_000;
        report.bounds.extend(
            by_hand.filter(|_| is_bound).map(|is| row.at_most("by linear pieces", is, 0.0)),
        );
        figures.push(number(by_hand));
        reads.rows.push((row.what.clone(), figures));
    }
    report.tables.extend([reads, writes]);
    report
}
