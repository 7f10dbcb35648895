// SPDX-License-Identifier: GPL-2.0

//! Spares as v3 leaves them.

#![allow(missing_docs)]

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::BTreeSet;

use remap_pure::mem::Block;
use remap_pure::store::{Store, Write};
use remap_pure::units::{SpareId, SpareSector};

use super::sim::{crc, Rng, Sim, MAIN};

/// What a sector of main holds.
pub fn data(sector: u64) -> [u8; 512] {
    let mut rng = Rng::new(sector);
    std::array::from_fn(|_| rng.next() as u8)
}

/// Sectors of main, and where the spare has them.
pub type Entries = BTreeMap<u64, u64>;

/// A spare as v3 leaves it.
pub fn v3(sectors: u64, drawing: u8, entries: &Entries) -> Sim {
    let mut sim = Sim::new(1, sectors, 1);
    let mut header = vec![];
    header.extend(b"DMREMAP3");
    header.extend(1u32.to_le_bytes());
    header.extend([0; 4]);
    header.extend(1_600_000_000u64.to_le_bytes());
    if drawing == 2 {
        header.extend(1_600_000_900u64.to_le_bytes());
    }
    for number in [entries.len() as u32, entries.len() as u32 + 100] {
        header.extend(number.to_le_bytes());
    }
    // One in sectors, one in bytes.
    header.extend((if drawing == 1 { MAIN } else { MAIN * 512 }).to_le_bytes());
    header.extend((sectors * 512).to_le_bytes());
    header.extend([3, 0, 0, 0, 7, 0, 0, 0]);
    header.extend((entries.len() as u64 + 5).to_le_bytes());
    header.resize(4096, 0);
    let sum = crc(&header);
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    // In the order in which they were made.
    let mut list: Vec<_> = entries.iter().collect();
    list.sort_by_key(|(start, _)| Rng::new(**start).next());
    for (start, to) in list {
        header.extend(start.to_le_bytes());
        header.extend(to.to_le_bytes());
    }
    let mut blocks: BTreeMap<u64, Block> = BTreeMap::new();
    let mut put = |sector: u64, bytes: &[u8]| {
        let block = blocks.entry(sector / 8).or_insert_with(|| Block::zeroed().unwrap());
        let at = (sector % 8) as usize * 512;
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    (0..).zip(header.chunks(512)).for_each(|(at, bytes)| put(at, bytes));
    entries.iter().for_each(|(&start, &to)| put(to, &data(start)));
    for (at, block) in &blocks {
        sim.write(&mut [Write::new(SpareId(0), SpareSector(at * 8), block)]);
    }
    sim.settle();
    sim
}

/// Entries at random: runs and single sectors of main, on places below `limit`.
pub fn some_entries(count: u64, limit: u64, rng: &mut Rng) -> Entries {
    let first = 8 + (count * 16).div_ceil(512);
    let mut free: BTreeSet<u64> = (first..limit).collect();
    let mut entries = Entries::new();
    let mut start = rng.below(MAIN / 2);
    while (entries.len() as u64) < count {
        if rng.chance(30) {
            start = rng.below(MAIN);
        }
        start = (start + 1) % MAIN;
        let from = first + rng.below(limit - first);
        let place = free.range(from..).next().or(free.first()).copied().unwrap();
        if let Entry::Vacant(entry) = entries.entry(start) {
            free.remove(&place);
            entry.insert(place);
        }
    }
    entries
}
