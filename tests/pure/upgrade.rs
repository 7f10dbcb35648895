// SPDX-License-Identifier: GPL-2.0

//! From v3 to v4: every remapped sector is where the new table says, wherever it was before, and
//! whenever the power is cut.

mod sim;
mod starve;
mod v3;

use remap_pure::commit::CommitError;
use remap_pure::entry::Mapping;
use remap_pure::format::header::NewSpare;
use remap_pure::format::layout::{Layout, SLOTS};
use remap_pure::format::v3::{put_record, Record};
use remap_pure::recovery::{recover, Refusal};
use remap_pure::rewrite::RewriteError;
use remap_pure::store::Store;
use remap_pure::units::{MainSector, Sectors, SpareId, SpareSector};
use remap_pure::upgrade::{look, Found, Old, Plan, UpgradeError};
use remap_pure::validate::{validate, Level, Severity};
use sim::*;
use v3::{data, some_entries, v3, Entries};

fn plan(old: &Old, sim: &Sim, logical: u64) -> Result<Plan, UpgradeError> {
    let sectors = sim.sectors(SpareId(0));
    let spare = NewSpare { used_sectors: sectors, ..new_spare(0) };
    old.plan(sim, &new_set(old.layout), &spare, Sectors(logical), crc, |_| {})
}

/// What the program does with a spare that is still in the old format.
fn upgrade_once(sim: &mut Sim) -> Result<(), UpgradeError> {
    let new = match look(sim, Sectors(MAIN), crc)? {
        Found::V3(old) => plan(&old, sim, 1)?.begin(sim, crc)?,
        Found::CutShort(new) => new,
    };
    new.end(sim, crc).map(|_| ())
}

/// What the program does, until there is nothing left to do.
fn upgrade(sim: &mut Sim) -> Result<(), UpgradeError> {
    match upgrade_once(sim) {
        Err(UpgradeError::NotV3) => {
            recover(sim, crc).unwrap().rebuild(sim, 1, 1).unwrap();
            Ok(())
        }
        result => result,
    }
}

/// Whether the set that is found has exactly these sectors, and their data.
fn check_data(sim: &mut Sim, entries: &Entries, why: &str) {
    let found = recover(sim, crc).unwrap_or_else(|e| panic!("{why}: {e}"));
    let mut left = entries.clone();
    for entry in found.table().iter() {
        let Mapping::Remapped { to, .. } = entry.mapping else { panic!("{why}") };
        for i in 0..entry.extent.len.0 {
            let (start, at) = (entry.extent.start.0 + i, to.0 + i);
            let block = sim.disks[0].block(at / 8);
            let bytes = &block[(at % 8) as usize * 512..][..512];
            assert!(bytes == data(start), "{why}: sector {start}");
            assert!(left.remove(&start).is_some(), "{why}: sector {start}");
        }
    }
    assert!(left.is_empty(), "{why}: {} sectors are lost", left.len());
}

fn check_done(sim: &mut Sim, entries: &Entries, why: &str) {
    check_data(sim, entries, why);
    let report = validate(sim, Level::Forensic, crc).unwrap();
    assert!(report.worst() < Severity::Damage, "{why}");
}

#[test]
fn both_drawings_come_out_whole() {
    let mut rng = Rng::new(1);
    for (drawing, count) in [(1, 0), (2, 0), (1, 1), (2, 50), (1, 700), (2, 3000)] {
        let entries = some_entries(count, 30_000, &mut rng);
        let mut sim = v3(SECTORS, drawing, &entries);
        let Ok(Found::V3(old)) = look(&mut sim, Sectors(MAIN), crc) else { panic!() };
        assert_eq!((old.header.drawing, old.checksum_fits), (drawing, true));
        assert_eq!((old.header.created, old.header.lifetime), (1_600_000_000, count + 5));
        let in_the_way = entries
            .values()
            .filter(|&&to| Layout::STANDARD.is_metadata(SpareSector(to), Sectors(1)));
        assert_eq!(plan(&old, &sim, 1).unwrap().sectors(), in_the_way.count());
        assert_eq!(recover(&mut sim, crc).err(), Some(Refusal::V3(SpareId(0))));
        upgrade(&mut sim).unwrap();
        check_done(&mut sim, &entries, "done");
        let found = recover(&mut sim, crc).unwrap();
        let raw = found.header().raw();
        assert_eq!(raw.version.created.get(), 1_600_000_000);
        assert_eq!(raw.statistics.manual_remaps.get(), count + 5);
    }
}

#[test]
fn wherever_it_is_cut_short_it_can_be_run_again() {
    let mut rng = Rng::new(2);
    for (count, times) in [(3, 20), (60, 6), (900, 1)] {
        let entries = some_entries(count, 12_000, &mut rng);
        let sim = v3(SECTORS, 1 + (count % 2) as u8, &entries);
        let mut whole = sim.clone();
        upgrade(&mut whole).unwrap();
        let steps = whole.disks[0].steps();
        let (mut old, mut between, mut new) = (0, 0, 0);
        for step in (0..=steps).flat_map(|step| std::iter::repeat_n(step, times)) {
            // Of many steps that are alike, some.
            if count > 100 && step + 60 < steps && !rng.chance(3) {
                continue;
            }
            let mut cut = whole.clone();
            cut.disks[0] = whole.disks[0].cut(step, &mut rng);
            let why = format!("{count} entries, step {step} of {steps}");
            // What is taken for a set at any time is the whole of it.
            if recover(&mut cut, crc).is_ok() {
                check_data(&mut cut, &entries, &why);
                new += 1;
            }
            match look(&mut cut, Sectors(MAIN), crc) {
                Ok(Found::V3(_)) => {
                    // All that v3 speaks of is as it was.
                    for (&start, &to) in &entries {
                        let block = cut.disks[0].block(to / 8);
                        assert!(block[(to % 8) as usize * 512..][..512] == data(start), "{why}");
                    }
                    old += 1;
                }
                Ok(Found::CutShort(_)) => between += 1,
                Err(UpgradeError::NotV3) => {}
                Err(e) => panic!("{why}: {e}"),
            }
            // Cut short once more, and then not.
            let mut again = cut.clone();
            again.settle();
            upgrade(&mut again).unwrap_or_else(|e| panic!("{why}: {e}"));
            let steps = again.disks[0].steps() as u64;
            cut.disks[0] = again.disks[0].cut(rng.below(steps + 1) as usize, &mut rng);
            upgrade(&mut cut).unwrap_or_else(|e| panic!("{why}: {e}"));
            check_done(&mut cut, &entries, &why);
        }
        assert!(old > 0 && between > 0 && new > 0, "{old}, {between}, {new}");
    }
}

#[test]
fn a_set_that_activation_finds_before_the_end_may_be_used() {
    let mut rng = Rng::new(3);
    let entries = some_entries(100, 12_000, &mut rng);
    let mut whole = v3(SECTORS, 1, &entries);
    upgrade(&mut whole).unwrap();
    let (mut used, mut rebuilt) = (0, 0);
    for step in 0..=whole.disks[0].steps() {
        let mut cut = whole.clone();
        cut.disks[0] = whole.disks[0].cut(step, &mut rng);
        // The place of copy 0 takes no writes, so that the record stays.
        cut.disks[0].no_write.extend(0..128);
        cut.disks[0].rng = Rng::new(0);
        let Ok(found) = recover(&mut cut, crc) else { continue };
        let Ok(mut meta) = found.rebuild(&mut cut, 1, 1) else { continue };
        rebuilt += 1;
        let mut edit = meta.table().edit().unwrap();
        edit.clear(extent(0, MAIN)).unwrap();
        let kind = remap_pure::format::CommitKind::Unremap;
        let begun = meta.begin(kind, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(&mut cut).unwrap().write_group_b(&mut cut);
        // What was done since does not go away by another upgrade.
        match look(&mut cut, Sectors(MAIN), crc).err() {
            Some(UpgradeError::InUse(set)) => assert_eq!(set, UUID),
            Some(UpgradeError::NotV3) => continue,
            other => panic!("{other:?}"),
        }
        used += 1;
    }
    assert!(used > 0 && rebuilt > used, "{used} of {rebuilt}");
}

#[test]
fn a_table_that_is_longer_than_a_slot_goes_too() {
    let mut rng = Rng::new(5);
    let entries = some_entries(40_000, 180_000, &mut rng);
    let mut sim = v3(200_000, 2, &entries);
    let Ok(Found::V3(old)) = look(&mut sim, Sectors(MAIN), crc) else { panic!() };
    assert!(old.header.sectors().0 > 1024 + SLOTS[1].0 / 8);
    upgrade(&mut sim).unwrap();
    let steps = sim.disks[0].steps();
    check_done(&mut sim, &entries, "done");
    for step in [steps / 2, steps - 700, steps - 300, steps - 3] {
        let mut cut = sim.clone();
        cut.disks[0] = sim.disks[0].cut(step, &mut rng);
        upgrade(&mut cut).unwrap();
        check_done(&mut cut, &entries, &format!("step {step} of {steps}"));
    }
}

#[test]
fn what_cannot_be_upgraded_is_named_and_left_as_it_is() {
    let refused = |sim: &mut Sim, main: u64, logical: u64| {
        let before: Vec<_> = sim.disks[0].written().map(|(at, block)| (at, *block)).collect();
        let result = match look(sim, Sectors(main), crc) {
            Ok(Found::V3(old)) => plan(&old, sim, logical).map(|_| ()),
            Ok(Found::CutShort(_)) => panic!(),
            Err(e) => Err(e),
        };
        assert!(sim.disks[0].written().map(|(at, block)| (at, *block)).eq(before));
        result.unwrap_err()
    };
    let entries: Entries = [(5, 1000), (6, 1001), (100, 20_000)].into();
    let good = v3(SECTORS, 1, &entries);
    assert_eq!(refused(&mut Sim::new(1, SECTORS, 1), MAIN, 1), UpgradeError::NotV3);
    assert_eq!(refused(&mut good.clone(), MAIN - 8, 1), UpgradeError::Header);
    let mut unreadable = good.clone();
    unreadable.disks[0].no_read.insert(1);
    assert_eq!(refused(&mut unreadable, MAIN, 1), UpgradeError::Unreadable(SpareSector(8)));
    assert_eq!(
        refused(&mut v3(8192, 1, &[(5, 99)].into()), MAIN, 1).to_string(),
        "has 8192 sectors and needs 16384; copy it to a larger device first"
    );
    assert_eq!(refused(&mut good.clone(), MAIN, 8), UpgradeError::Block(MainSector(0)));
    let with = |changes: &[(u64, u64)]| {
        let mut sim = good.clone();
        for (i, (start, to)) in changes.iter().enumerate() {
            let bytes = [start.to_le_bytes(), to.to_le_bytes()].concat();
            let mut block = sim.disks[0].block(1);
            block[16 * i..16 * i + 16].copy_from_slice(&bytes);
            sim.disks[0].set_block(1, block);
        }
        refused(&mut sim, MAIN, 1)
    };
    assert_eq!(with(&[(5, 1000), (5, 1001)]), UpgradeError::Main(MainSector(5)));
    assert_eq!(with(&[(MAIN, 1000)]), UpgradeError::Main(MainSector(MAIN)));
    assert_eq!(with(&[(7, 3500), (8, 3500)]), UpgradeError::Place(SpareSector(3500)));
    assert_eq!(with(&[(7, 1500), (8, 1500)]), UpgradeError::Place(SpareSector(1500)));
    assert_eq!(with(&[(7, 8)]), UpgradeError::Place(SpareSector(8)));
    assert_eq!(with(&[(7, SECTORS)]), UpgradeError::Place(SpareSector(SECTORS)));

    // Every place that v4 has for data is taken.
    let full = (3072..4096).chain(5120..8192).chain(9216..16384).step_by(8);
    let full: Entries = full.chain([1000]).enumerate().map(|(i, to)| (i as u64 * 8, to)).collect();
    let full = v3(16384, 1, &full);
    assert_eq!(refused(&mut full.clone(), MAIN, 1), UpgradeError::Room(Sectors(8)));

    let mut both = Sim::new(1, SECTORS, 1);
    create_on(&mut both);
    for at in 0..2 {
        both.disks[0].set_block(at, good.disks[0].block(at));
    }
    let is = refused(&mut both, MAIN, 1);
    assert!(matches!(is, UpgradeError::Both(_, UUID)), "{is:?}");
    // A source that cannot be read is not left behind.
    let mut lost = good.clone();
    lost.disks[0].no_read.insert(125);
    let before = lost.disks[0].block(0);
    assert_eq!(upgrade(&mut lost), Err(UpgradeError::Unreadable(SpareSector(1000))));
    assert!(lost.disks[0].block(0) == before);
}

#[test]
fn without_memory_it_is_not_done_and_can_be_later() {
    let entries = some_entries(60, 12_000, &mut Rng::new(6));
    let old = v3(SECTORS, 1, &entries);
    // Also of one that is cut short: the record is there, and no copy.
    let mut whole = old.clone();
    upgrade(&mut whole).unwrap();
    let mut rng = Rng::new(1);
    let cut_short = (0..=whole.steps())
        .map(|step| whole.cut(step, &mut rng))
        .find(|cut| {
            let found = look(&mut cut.clone(), Sectors(MAIN), crc);
            matches!(found, Ok(Found::CutShort(_)))
        })
        .expect("one that is cut short");
    for sim in [old, cut_short] {
        starve::with_each_allocation_failing(50, |memory| {
            let mut sim = sim.clone();
            match memory.short(|| upgrade_once(&mut sim)) {
                Ok(()) => {}
                Err(UpgradeError::Rewrite(RewriteError::Commit(CommitError::Memory))) => {}
                Err(e) => assert_eq!(e, UpgradeError::Memory),
            }
            upgrade(&mut sim).unwrap();
            check_data(&mut sim, &entries, "again");
        });
    }
}

#[test]
fn a_spare_that_fails_is_named_and_nothing_is_lost() {
    let entries = some_entries(60, 12_000, &mut Rng::new(7));
    let sim = v3(SECTORS, 1, &entries);
    let mut whole = sim.clone();
    upgrade(&mut whole).unwrap();
    let mut failed = 0;
    let places: Vec<u64> = whole.disks[0].written().map(|(at, _)| at).collect();
    let attempts = places.into_iter().map(|at| (Some(at), 0)).chain((0..4).map(|n| (None, 1 << n)));
    for (bad, flushes) in attempts {
        let mut hurt = sim.clone();
        hurt.disks[0].no_write.extend(bad);
        hurt.disks[0].failing_flushes = flushes;
        match upgrade(&mut hurt) {
            // Copies may be left out.
            Ok(()) => {}
            Err(UpgradeError::Write(at)) => {
                assert!(bad.is_none_or(|bad| at.0 / 8 == bad), "{bad:?}: {at}");
                failed += 1;
            }
            Err(e) => assert_eq!(e, UpgradeError::Rewrite(RewriteError::NoCopy)),
        }
        hurt.heal();
        upgrade(&mut hurt).unwrap_or_else(|e| panic!("{bad:?}, {flushes:b}: {e}"));
        check_data(&mut hurt, &entries, "again");
    }
    assert!(failed > 10, "{failed}");
}

#[test]
fn a_record_that_leads_nowhere_is_named() {
    let entries = some_entries(600, 12_000, &mut Rng::new(8));
    let sim = v3(SECTORS, 1, &entries);
    let mut begun = sim.clone();
    let Ok(Found::V3(old)) = look(&mut begun, Sectors(MAIN), crc) else { panic!() };
    let plan = plan(&old, &begun, 1).unwrap();
    let at = plan.at;
    plan.begin(&mut begun, crc).unwrap();
    begun.settle();
    let refused = |sim: &mut Sim| look(sim, Sectors(MAIN), crc).err();
    let elsewhere = |to: u64| {
        let mut sim = begun.clone();
        let mut first = sim.disks[0].block(0);
        put_record(&mut first, &Record { set: UUID, at: SpareSector(to) }, crc);
        sim.disks[0].set_block(0, first);
        refused(&mut sim)
    };
    assert!(elsewhere(at.0).is_none());
    for to in [at.0 + 1, SECTORS, u64::MAX - 7, at.0 + 8] {
        assert_eq!(elsewhere(to), Some(UpgradeError::Record(SpareSector(to))));
    }
    // Its first block, and one of the table: damaged, unreadable; behind the end.
    for block in [at.0 / 8, at.0 / 8 + 2] {
        let lost = Some(UpgradeError::Record(SpareSector(block * 8)));
        let mut hurt = begun.clone();
        hurt.disks[0].no_read.insert(block);
        assert_eq!(refused(&mut hurt), lost);
        hurt.heal();
        hurt.disks[0].set_block(block, [7; 4096]);
        assert_eq!(refused(&mut hurt), lost);
    }
    let first = begun.disks[0].block(at.0 / 8);
    begun.disks[0].set_block(SECTORS / 8 - 1, first);
    let mut record = begun.disks[0].block(0);
    put_record(&mut record, &Record { set: UUID, at: SpareSector(SECTORS - 8) }, crc);
    begun.disks[0].set_block(0, record);
    assert_eq!(refused(&mut begun), Some(UpgradeError::Record(SpareSector(SECTORS))));
}

#[test]
fn logical_blocks_stay_in_one_piece() {
    // One block is scattered, one in place, one in the way.
    let mut entries = Entries::new();
    entries.extend((0..8).map(|i| (64 + i, 20_000 + i * 3)));
    entries.extend((0..8).map(|i| (128 + i, 24_000 + i)));
    entries.extend((0..8).map(|i| (256 + i, 8200 + i)));
    let mut sim = v3(SECTORS, 1, &entries);
    let Ok(Found::V3(old)) = look(&mut sim, Sectors(MAIN), crc) else { panic!() };
    let plan = plan(&old, &sim, 8).unwrap();
    assert_eq!(plan.sectors(), 16);
    for entry in plan.new.table.iter() {
        let Mapping::Remapped { to, .. } = entry.mapping else { panic!() };
        assert!(entry.extent.len.0 % 8 == 0 && to.0 % 8 == 0);
    }
    plan.begin(&mut sim, crc).unwrap().end(&mut sim, crc).unwrap();
    check_done(&mut sim, &entries, "done");
}
