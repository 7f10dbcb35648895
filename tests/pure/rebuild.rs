// SPDX-License-Identifier: GPL-2.0

//! What a rebuild writes: what copies lack and nothing else, and where something newer may have been, what it touched under a version above.

mod sim;

use remap_pure::commit::Metadata;
use remap_pure::create::create;
use remap_pure::entry::{BlockIndex, Mapping};
use remap_pure::format::block::encode_block;
use remap_pure::format::header::NewSpare;
use remap_pure::format::layout::{Layout, SLOTS};
use remap_pure::format::CommitKind;
use remap_pure::mem::Block;
use remap_pure::recovery::{recover, UNSEEN};
use remap_pure::store::{Read, SpareSet, Store, Write};
use remap_pure::units::{Sectors, SpareId};
use sim::*;

/// Block `block` of a copy on the first spare, 0 for its header.
fn at(copy: usize, block: u64) -> u64 {
    SLOTS[copy].0 / 8 + block
}

/// A set of one spare whose table has some blocks, all of them of the second version, and one commit after that which changes nothing.
fn set() -> (Sim, Metadata) {
    let mut sim = Sim::new(1, SECTORS, 7);
    let mut metadata = create_on(&mut sim);
    let mut edit = metadata.table().edit().unwrap();
    (0..600).for_each(|i| edit.set(extent(i * 16, 8), Mapping::Pending).unwrap());
    for edit in [Some(edit), None] {
        let begun = metadata.begin(CommitKind::Remap, 1, edit, |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    }
    sim.settle();
    assert!(metadata.table().block_count() > 2);
    (sim, metadata)
}

/// Blocks that are of this version.
fn of_version(metadata: &Metadata, version: u64) -> Vec<u32> {
    let blocks = metadata.table().blocks();
    blocks.filter(|(_, stamp, _)| stamp.version == version).map(|(index, ..)| index.0).collect()
}

#[test]
fn what_copies_lack_is_written_and_nothing_else() {
    let (mut sim, metadata) = set();
    let before = metadata.version();
    // A block each of two copies, and the header of a third.
    for (copy, block) in [(1, 1), (2, 3), (4, 0)] {
        let mut damaged = sim.disks[0].block(at(copy, block));
        damaged[4000] ^= 1;
        sim.disks[0].set_block(at(copy, block), damaged);
    }
    let written = sim.blocks_written;
    let rebuilt = recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 1).unwrap();
    assert_eq!((sim.blocks_written - written, rebuilt.version()), (3, before));
    assert!(recover(&mut sim, crc).unwrap().is_clean());
    assert!(content(&rebuilt) == content(&metadata));
}

#[test]
fn a_block_that_is_newer_than_what_holds_is_written_anew_under_a_version_above() {
    // One copy of a commit that came no further, or two.
    for copies in [&[3][..], &[1, 3]] {
        let (mut sim, metadata) = set();
        let newer = metadata.version() + 1;
        for &copy in copies {
            let mut block = Block::zeroed().unwrap();
            encode_block(&mut block, &UUID, BlockIndex(1), newer, &[], crc);
            sim.disks[0].set_block(at(copy, 2), *block);
        }
        let rebuilt = recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 1).unwrap();
        assert_eq!(rebuilt.version(), newer + 1);
        assert_eq!(of_version(&rebuilt, newer + 1), [1]);
        assert!(content(&rebuilt) == content(&metadata));
    }
}

#[test]
fn where_something_could_not_be_read_the_version_is_above_all_that_may_be_there() {
    // The header of a copy, or a block of its table.
    for block in [0, 2] {
        let (mut sim, metadata) = set();
        sim.disks[0].no_read.insert(at(3, block));
        let rebuilt = recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 1).unwrap();
        assert_eq!(rebuilt.version(), metadata.version() + UNSEEN + 1, "block {block}");
        assert!(content(&rebuilt) == content(&metadata));
    }
}

/// Gives zeroes for a block of the first spare when it is read again.
struct Forgetful<'a> {
    sim: &'a mut Sim,
    at: u64,
    reads: usize,
}

impl Store for Forgetful<'_> {
    fn spares(&self) -> SpareSet {
        self.sim.spares()
    }

    fn sectors(&self, spare: SpareId) -> Sectors {
        self.sim.sectors(spare)
    }

    fn read(&mut self, batch: &mut [Read]) {
        self.sim.read(batch);
        for read in batch.iter_mut().filter(|read| read.at.0 / 8 == self.at) {
            self.reads += 1;
            if self.reads > 1 {
                read.block.fill(0);
            }
        }
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        self.sim.write(batch);
    }

    fn flush(&mut self, spares: SpareSet) -> SpareSet {
        self.sim.flush(spares)
    }
}

#[test]
fn a_block_that_is_another_when_it_is_read_again_is_taken_from_another_copy() {
    let (mut sim, metadata) = set();
    let mut read_again = 0;
    for copy in 0..SLOTS.len() {
        let mut store = Forgetful { sim: &mut sim, at: at(copy, 2), reads: 0 };
        let found = recover(&mut store, crc).unwrap();
        read_again += usize::from(store.reads > 1);
        assert!(found.table().iter().eq(content(&metadata)), "copy {copy}");
    }
    assert!(read_again > 0);
}

#[test]
fn a_table_of_more_blocks_than_are_read_at_once_is_built_whole() {
    let mut sim = Sim::new(1, 4 * SECTORS, 7);
    let spare = NewSpare { used_sectors: Sectors(4 * SECTORS), ..new_spare(0) };
    let set = new_set(Layout::for_max_remaps(100_000).unwrap());
    let mut metadata = create(&mut sim, &set, &[spare], SpareSet::NONE, crc, |_| {}).unwrap();
    let mut edit = metadata.table().edit().unwrap();
    (0..100_000).for_each(|i| edit.set(extent(i * 16, 8), Mapping::Pending).unwrap());
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    assert!(metadata.table().block_count() > 330);
    let found = recover(&mut sim, crc).unwrap();
    assert!(found.is_clean() && found.table().iter().eq(content(&metadata)));
}
