//! Runs of sectors of a set.

use dmremap::extents;
use remap_pure::table::Table;
use remap_pure::units::{Extent, MainSector, Sectors};
use serde::Serialize;

/// A range of the set, in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Range {
    pub start: u64,
    pub sectors: u64,
}

/// Ranges in pieces of at most so many sectors, none across a multiple of that.
pub fn pieces(ranges: &[Range], most: u64) -> Vec<Range> {
    let mut all = Vec::new();
    for range in ranges {
        let (mut at, end) = (range.start, range.start + range.sectors);
        while at < end {
            let next = end.min((at / most + 1) * most);
            all.push(Range { start: at, sectors: next - at });
            at = next;
        }
    }
    all
}

/// Neighbouring ranges as one.
pub fn joined(ranges: &[Range]) -> Vec<Range> {
    let mut all: Vec<Range> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.start + last.sectors == range.start => last.sectors += range.sectors,
            _ => all.push(*range),
        }
    }
    all
}

/// What of a range has no entry in the table.
pub fn uncovered(table: &Table, range: Range) -> Vec<Range> {
    let mut left = Vec::new();
    let Some(window) = Extent::new(MainSector(range.start), Sectors(range.sectors)) else {
        return left;
    };
    let mut at = range.start;
    for entry in table.iter_in(window) {
        let start = entry.extent.start.0;
        if start > at {
            left.push(Range { start: at, sectors: start - at });
        }
        at = at.max(entry.extent.end().0);
    }
    let end = range.start + range.sectors;
    if at < end {
        left.push(Range { start: at, sectors: end - at });
    }
    left
}

/// Whether all of a range is in these extents, which are in order.
pub fn cover(all: &[extents::Extent], range: Range) -> bool {
    let first = all.partition_point(|extent| extent.end() <= range.start);
    let behind = all.partition_point(|extent| extent.start < range.start + range.sectors);
    let within = extents::within(&all[first..behind], range.start, range.sectors);
    within.iter().map(|extent| extent.len).sum::<u64>() == range.sectors
}
