//! Reads and writes of several devices, counted in instructions. All are there at the same time and have their turns: what disturbs, and what
//! changes while the machine runs, meets them alike. A difference is the median of the differences in the same round.

use crate::devices::{Place, Spread};
use remap_harness::report::{median, Bound, Figure};
use remap_harness::Machine;

/// A device that is read.
pub struct Row {
    /// What it is called.
    pub what: String,
    path: String,
    /// What is remapped there, or else treated as something special.
    pub spread: Spread,
    /// Where it is read.
    pub place: Place,
    /// Whether it is written instead.
    pub write: bool,
    /// The row of whom this is compared with, beside `linear`.
    pub peer: Option<usize>,
    seen: Vec<f64>,
}

impl Row {
    /// One that has not been read.
    pub fn new(what: String, path: &str, spread: Spread, place: Place) -> Self {
        Self { what, path: path.into(), spread, place, write: false, peer: None, seen: Vec::new() }
    }

    /// The same, written.
    pub fn written(&self) -> Self {
        Self { write: true, ..Self::new(self.what.clone(), &self.path, self.spread, self.place) }
    }

    /// Instructions for a read.
    pub fn all(&self) -> Figure {
        Figure::Number(median(self.seen.clone()), 0)
    }

    /// How many more these are than those of `other`.
    pub fn more_than(&self, other: &Self) -> f64 {
        median(self.seen.iter().zip(&other.seen).map(|(own, other)| own - other).collect())
    }

    /// The same for the peer, if there is one.
    pub fn more_than_peer(&self, rows: &[Self]) -> Option<f64> {
        self.peer.map(|peer| self.more_than(&rows[peer]))
    }

    /// The bound that there are at most so many more.
    pub fn at_most(&self, than: &str, is: f64, most: f64) -> Bound {
        let written = if self.write { ", written" } else { "" };
        let what = format!("{}{written}: instructions more than {than}", self.what);
        // One that costs less than nothing was measured wrong; a few differ from run to run.
        Bound { what, is, least: -20.0, most }
    }
}

/// A figure, where there is one.
pub fn number(value: Option<f64>) -> Figure {
    value.map_or(Figure::None, |value| Figure::Number(value, 0))
}

/// Reads so often from each, so many rounds.
pub fn read(machine: &Machine, rows: &mut [Row], rounds: usize, reads: u64) {
    for _ in 0..rounds {
        for row in rows.iter_mut() {
            let arguments = row.spread.reads(reads, row.place);
            let how = if row.write { " write" } else { "" };
            let printed = machine.ok(&format!("guest bench {} {arguments}{how}", row.path));
            row.seen.push(printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}")));
        }
    }
}
