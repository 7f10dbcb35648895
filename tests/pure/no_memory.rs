// SPDX-License-Identifier: GPL-2.0

//! What happens when memory runs out at each point of an operation: an error, and nothing else.

use remap_pure::digest::Stamp;
use remap_pure::entry::{BlockIndex, Entry, Mapping, PackedEntry};
use remap_pure::mem::fail_after;
use remap_pure::places::{Place, PlaceError, Places};
use remap_pure::table::{BuildError, Changed, EditError, Table, TableBuilder};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

fn extent(start: u64, len: u64) -> Extent {
    Extent::new(MainSector(start), Sectors(len)).unwrap()
}

/// A change that splits, joins, empties and fills blocks.
fn change(table: &Table) -> Result<Changed, EditError> {
    let mut edit = table.edit()?;
    edit.clear(extent(0, 16 * 300))?;
    edit.set(extent(100_000, 5000), Mapping::Remapped { spare: SpareId(1), to: SpareSector(8) })?;
    for i in 0..300 {
        edit.set(extent(20_008 + i * 16, 4), Mapping::Pending)?;
    }
    edit.finish(9, |index, entries| Ok(index.0 + entries.len() as u32))
}

fn build(blocks: &[(BlockIndex, Stamp, Vec<PackedEntry>)]) -> Result<Table, BuildError> {
    let mut builder = TableBuilder::new(50, blocks.len() as u32)?;
    for (index, stamp, entries) in blocks {
        builder.add(*index, *stamp, entries)?;
    }
    builder.finish()
}

#[test]
fn without_memory_nothing_changes() {
    let mut edit = Table::empty(50).unwrap().edit().unwrap();
    for i in 0..8000 {
        edit.set(extent(i * 16, 8), Mapping::Pending).unwrap();
    }
    let table = edit.finish(1, |index, _| Ok(index.0)).unwrap().table;
    let before: Vec<Entry> = table.iter().collect();
    let expected: Vec<Entry> = change(&table).unwrap().table.iter().collect();
    let blocks: Vec<_> = table.blocks().map(|(i, s, e)| (i, s, e.to_vec())).collect();

    let mut failures = 0;
    for n in 0.. {
        fail_after(n);
        let result = change(&table);
        fail_after(usize::MAX);
        assert!(table.iter().eq(before.iter().copied()));
        match result {
            Ok(changed) => {
                assert!(changed.table.iter().eq(expected));
                break;
            }
            Err(error) => assert_eq!(error, EditError::NoMemory),
        }
        failures += 1;
    }
    assert!(failures > 20, "only {failures} points to fail at");

    // An edit that lacked memory in the middle of a step cannot be finished as if it had not.
    for n in 0..60 {
        let mut edit = table.edit().unwrap();
        fail_after(n);
        let failed = edit.clear(extent(1000, 50_001)).is_err();
        fail_after(usize::MAX);
        let totals = *edit.totals();
        match edit.finish(2, |index, _| Ok(index.0)) {
            Ok(changed) => {
                let changed = changed.table;
                assert_eq!(changed.totals().extents, changed.iter().count() as u64);
                assert_eq!(*changed.totals(), totals);
                assert_eq!(failed, changed.iter().eq(before.iter().copied()));
            }
            Err(error) => assert!(failed && error == EditError::NoMemory),
        }
    }

    for n in 0.. {
        fail_after(n);
        let result = build(&blocks);
        fail_after(usize::MAX);
        match result {
            Ok(table) => {
                assert!(n > 0 && table.iter().eq(before));
                break;
            }
            Err(error) => assert_eq!(error, BuildError::NoMemory),
        }
    }

    let place = Place { start: SpareSector(4000), len: Sectors(9000) };
    let mut places = None;
    for n in 0.. {
        fail_after(n);
        let fresh =
            Places::new(&[Place { start: SpareSector(16), len: Sectors(20_000) }], Sectors(8));
        let result = fresh.map_err(PlaceError::from).and_then(|mut fresh| {
            let result = fresh.mark_used(place).and_then(|()| fresh.retire(place));
            let counts = (fresh.used().0, fresh.retired().0);
            match result {
                Ok(()) => assert_eq!(counts, (0, 9000)),
                Err(_) => assert!(counts == (0, 0) || counts == (9000, 0)),
            }
            result.map(|()| fresh)
        });
        fail_after(usize::MAX);
        match result {
            Ok(fresh) => {
                places = Some(fresh);
                break;
            }
            Err(error) => assert_eq!(error, PlaceError::NoMemory),
        }
    }
    assert_eq!(places.unwrap().retired(), Sectors(9000));
}
