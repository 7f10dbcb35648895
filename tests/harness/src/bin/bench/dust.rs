//! What finding out that a block is well takes, beside `dm-dust`, which keeps a list of those that are not.
//!
//! `dm-dust` is in no kernel of Debian's, so both are measured in one boot of the kernel that looks for faults. That one looks at each access
//! to memory and at each lock, so its figures compare with each other and with nothing else.

use crate::devices::{self, counted, heads, Place, Spread, MAIN, MIB};
use remap_harness::report::{median, Bound, Figure, Report, Table};
use remap_harness::Machine;

const READS: u64 = 2_000;
const ROUNDS: usize = 5;

/// Sectors of a block of `dm-dust`.
const BLOCK: u64 = 8;

/// A device of `dm-dust` on which these blocks are bad.
fn dust(machine: &Machine, name: &str, index: u32, spread: Spread) -> String {
    let under = devices::null(machine, index, MAIN / MIB);
    machine.ok(&format!(
        "modprobe dm-dust && dmsetup create {name} --table '0 {MAIN} dust {under} 0 {}'",
        BLOCK * 512
    ));
    for n in 0..spread.extents {
        machine.take(&format!("message {name} addbadblock {}", n * spread.step / BLOCK));
    }
    machine.take(&format!("message {name} enable"));
    format!("/dev/mapper/{name}")
}

/// All of it.
pub fn measure() -> Report {
    let machine = Machine::builder().count_instructions().memory(2048).module().boot();
    let under = devices::null(&machine, 1, MAIN / MIB);
    let linear = devices::linear(&machine, "linear", &under);
    let mut rows = vec![("linear".to_string(), linear, Spread::of(0), None)];
    for (n, blocks) in [10, 1_000].into_iter().enumerate() {
        let (spread, index) = (Spread::of(blocks), n as u32);
        let peer = dust(&machine, &format!("d{blocks}"), 120 + index, spread);
        rows.push((format!("dm-dust, {} bad blocks", counted(blocks)), peer, spread, None));
        let set = devices::active(&machine, &format!("r{blocks}"), 1 + index, spread).path();
        let what = format!("remap, {} extents, a miss", counted(blocks));
        rows.push((what, set, spread, Some(rows.len() - 1)));
    }
    let mut seen = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        for ((_, path, spread, _), seen) in rows.iter().zip(&mut seen) {
            let arguments = spread.reads(READS, Place::Miss);
            let printed = machine.ok(&format!("guest bench {path} {arguments}"));
            seen.push(printed.parse::<f64>().expect("a number"));
        }
    }
    machine.shutdown();
    let more = |own: &[f64], peer: &[f64]| {
        median(own.iter().zip(peer).map(|(own, peer)| own - peer).collect())
    };
    let mut report = Report::default();
    let mut table = Table {
        name: "dust",
        title: format!(
            "Instructions for a 4 KiB read on the kernel that looks for faults ({ROUNDS} rounds of {READS} reads)"
        ),
        heads: heads(&["", "in all", "more than linear", "more than dm-dust"]),
        rows: Vec::new(),
    };
    for ((what, _, _, peer), own) in rows.into_iter().zip(&seen) {
        let by_dust = peer.map(|peer: usize| more(own, &seen[peer]));
        let number = |value| Figure::Number(value, 0);
        let figures = vec![
            number(median(own.clone())),
            number(more(own, &seen[0])),
            by_dust.map_or(Figure::None, number),
        ];
        if let Some(is) = by_dust {
            let what = format!("{what}: instructions more than dm-dust");
            report.bounds.push(Bound { what, is, least: f64::NEG_INFINITY, most: 0.0 });
        }
        table.rows.push((what, figures));
    }
    report.tables.push(table);
    report
}
