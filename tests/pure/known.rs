// SPDX-License-Identifier: GPL-2.0

//! A recovery that knows what the one before has found: it says what stands on the spares all the
//! same, and only reads less.

mod sim;

use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::Header;
use remap_pure::format::layout::SLOTS;
use remap_pure::format::CommitKind;
use remap_pure::recovery::members::Without;
use remap_pure::recovery::{recover, recover_knowing, Known, Recovered, Refusal};
use remap_pure::store::{Read, SpareSet, Store, Write};
use remap_pure::units::{Sectors, SpareId, SpareSector};
use sim::*;

/// Counts the blocks that are read.
struct Counted<'a>(&'a mut Sim, usize);

impl Store for Counted<'_> {
    fn spares(&self) -> SpareSet {
        self.0.spares()
    }

    fn sectors(&self, spare: SpareId) -> Sectors {
        self.0.sectors(spare)
    }

    fn read(&mut self, batch: &mut [Read]) {
        self.1 += batch.len();
        self.0.read(batch);
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        self.0.write(batch);
    }

    fn flush(&mut self, spares: SpareSet) -> SpareSet {
        self.0.flush(spares)
    }
}

fn again(sim: &mut Sim, known: Option<&Known>) -> (Result<Recovered, Refusal>, usize) {
    let mut counted = Counted(sim, 0);
    (recover_knowing(&mut counted, &Without::default(), known, crc), counted.1)
}

fn entries(found: Recovered) -> Vec<Entry> {
    found.table().iter().collect()
}

#[test]
fn what_is_known_is_used_while_it_stands_and_never_instead_of_what_stands() {
    let mut sim = Sim::new(1, SECTORS, 5);
    let mut metadata = create_on(&mut sim);
    let remap = |sim: &mut Sim, metadata: &mut remap_pure::commit::Metadata, from: u64, n: u64| {
        let mut edit = metadata.table().edit().unwrap();
        for i in from..from + n {
            let to = SpareSector(9216 + i * 8);
            edit.set(extent(i * 64, 8), Mapping::Remapped { spare: SpareId(0), to }).unwrap();
        }
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(sim).unwrap().write_group_b(sim);
        sim.settle();
        content(metadata)
    };
    let before = remap(&mut sim, &mut metadata, 0, 600);
    let blocks = metadata.table().block_count() as usize;
    let known = recover(&mut sim, crc).unwrap().known().unwrap();

    let (found, all) = again(&mut sim, None);
    assert!(entries(found.unwrap()) == before);
    let (found, fewer) = again(&mut sim, Some(&known));
    assert_eq!(all - fewer, blocks);
    assert!(entries(found.unwrap()) == before);

    // A copy that has lost a block lacks it; the table is the same.
    let mut damaged = sim.clone();
    damaged.disks[0].set_block(SLOTS[1].0 / 8 + 2, [0; 4096]);
    let found = again(&mut damaged, Some(&known)).0.unwrap();
    assert!(!found.is_clean() && entries(found) == before);

    // Without the block in any copy there is no table, known or not.
    for slot in SLOTS {
        damaged.disks[0].set_block(slot.0 / 8 + 2, [0; 4096]);
    }
    let refused = again(&mut damaged, Some(&known)).0.err();
    assert!(matches!(refused, Some(Refusal::Incomplete { .. })), "{refused:?}");

    // What was committed since holds.
    let after = remap(&mut sim, &mut metadata, 300, 400);
    let found = again(&mut sim, Some(&known)).0.unwrap();
    assert!(after != before && entries(found) == after);

    // What is known to fit has to fit what the header says now.
    let known = recover(&mut sim, crc).unwrap().known().unwrap();
    let less = |header: &mut Header| header.raw_mut().set.main_sectors.set(64);
    let begun = metadata.begin(CommitKind::Save, 1, None, less).unwrap();
    begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    for known in [None, Some(&known)] {
        assert!(again(&mut sim, known).0.is_err(), "a table that goes beyond main");
    }
}
