//! What finding out that a block is well takes, beside `dm-dust`, which keeps a list of those that are not.
//!
//! `dm-dust` is in no kernel of Debian's, so both are measured in one boot of the kernel that looks for faults. That one looks at each access
//! to memory and at each lock, so its figures compare with each other and with nothing else.

use crate::devices::{self, counted, heads, Place, Spread, MAIN, MIB};
use crate::turns::{self, number, Row};
use remap_harness::report::{Report, Table};
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
    let row = |what: String, path: &str, spread| Row::new(what, path, spread, Place::Miss);
    let mut rows = vec![row("linear".into(), &linear, Spread::of(0))];
    for (n, blocks) in [10, 1_000].into_iter().enumerate() {
        let (spread, index) = (Spread::of(blocks), n as u32);
        let peer = dust(&machine, &format!("d{blocks}"), 120 + index, spread);
        rows.push(row(format!("dm-dust, {} bad blocks", counted(blocks)), &peer, spread));
        let set = devices::active(&machine, &format!("r{blocks}"), 1 + index, spread).path();
        let what = format!("remap, {} extents, a miss", counted(blocks));
        rows.push(row(what, &set, spread));
        rows[2 + 2 * n].peer = Some(1 + 2 * n);
    }
    turns::read(&machine, &mut rows, ROUNDS, READS);
    machine.shutdown();

    let mut report = Report::default();
    let mut table = Table {
        name: "dust",
        title: format!(
            "Instructions for a 4 KiB read on the kernel that looks for faults ({ROUNDS} rounds of {READS} reads)"
        ),
        heads: heads(&["", "in all", "more than linear", "more than dm-dust"]),
        rows: Vec::new(),
    };
    for row in &rows {
        let by_dust = row.more_than_peer(&rows);
        report.bounds.extend(by_dust.map(|is| row.at_most("dm-dust", is, 0.0)));
        let figures = vec![row.all(), number(Some(row.more_than(&rows[0]))), number(by_dust)];
        table.rows.push((row.what.clone(), figures));
    }
    report.tables.push(table);
    report
}
