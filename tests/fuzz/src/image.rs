//! The spares of a set, damaged or forged in places, and all that is done with them: looking, activation, what comes after.

use crate::disks::{lives, Disks, Life, MAIN, SPARE};
use crate::patch::{crc, seal_block, seal_header, Patch};
use crate::table;
use remap_pure::commit::CommitError;
use remap_pure::create::{check_create, inspect};
use remap_pure::digest::digest;
use remap_pure::entry::{BlockIndex, Mapping, RETIRED_LIMIT, SECTOR_LIMIT};
use remap_pure::format::block::check_block;
use remap_pure::format::header::Header;
use remap_pure::format::layout::{CopyId, COPIES, SLOTS, SLOT_SECTORS};
use remap_pure::format::{CommitKind, SetUuid};
use remap_pure::places::PlaceError;
use remap_pure::recovery::{recover, RebuildError, Recovered};
use remap_pure::store::SpareSet;
use remap_pure::units::{Extent, MainSector, Sectors, SpareId};
use remap_pure::validate::{validate, Level, What};

/// The most changes of one image; more only take time.
const CHANGES: usize = 64;

/// The spares that `data` spells, if it is long enough to spell any, and the life that they are from.
pub fn spelled(data: &[u8]) -> Option<(&'static Life, Disks)> {
    let [which, moment, patches @ ..] = data else { return None };
    let life = &lives()[usize::from(*which) % lives().len()];
    let mut disks = life.moments[usize::from(*moment & 0x7f) % life.moments.len()].clone();
    for patch in Patch::all(patches).take(CHANGES) {
        apply(life, &mut disks, patch);
    }
    Some((life, disks))
}

pub(crate) fn run(data: &[u8]) {
    let Some((life, mut disks)) = spelled(data) else { return };
    // Everything with every image would only be slow.
    if data[1] & 0x80 != 0 {
        return look(life, &mut disks);
    }
    let report = validate(&mut disks, Level::Complete, crc).unwrap();
    let fatal = |what: fn(&What) -> bool| report.findings().iter().any(|f| what(&f.what));
    let refused = fatal(|what| matches!(what, What::Refused(_)));
    let twice = fatal(|what| matches!(what, What::Place(_, PlaceError::Taken(_))));
    let outside = fatal(|what| matches!(what, What::Place(_, PlaceError::Outside(_))));
    match recover(&mut disks, crc) {
        Err(refusal) => {
            assert!(refused, "{refusal}, which a check does not say");
            assert!(!refusal.to_string().is_empty());
        }
        Ok(found) => {
            assert!(!refused, "a check says that it is refused");
            table::accepted(found.table());
            assert!(!outside, "a place is not for data");
            if !twice {
                activate(disks, found);
            }
        }
    }
}

/// Only looks, in every other way there is.
fn look(life: &Life, disks: &mut Disks) {
    for spare in (0..disks.count() as u8).map(SpareId) {
        inspect(disks, spare, crc).unwrap();
    }
    // Whether it may is for other tests; here it must only say so.
    let _ = check_create(disks, &life.layout, SpareSet::NONE, crc);
    let reports = Level::ALL.map(|level| validate(disks, level, crc).unwrap());
    for pair in reports.windows(2) {
        // A closer look finds no less. (What is not one set is said on the first level already.)
        assert!(pair[0].worst() <= pair[1].worst());
    }
}

/// Goes on as the module does, and expects what anybody would.
fn activate(mut disks: Disks, found: Recovered) {
    let header = found.header();
    for entry in found.table().iter() {
        let retired = matches!(entry.mapping, Mapping::Retired { .. });
        assert!(retired || entry.extent.end().0 <= header.raw().set.main_sectors.get());
        if let Mapping::Retired { spare, at: to }
        | Mapping::Suspect { spare, to }
        | Mapping::Remapped { spare, to } = entry.mapping
        {
            assert!(usize::from(spare.0) < header.spares() && (to + entry.extent.len).0 <= SPARE);
            assert!(!header.layout().is_metadata(to, entry.extent.len));
        }
    }
    let read_only = header.read_only();
    let clean = found.is_clean();
    let before: Vec<_> = found.table().iter().collect();
    let (version, highest) = (header.version(), found.highest());
    let untouched = read_only.then(|| disks.clone());
    let mut meta = match found.rebuild(&mut disks, 3, 3) {
        Ok(meta) => meta,
        Err(RebuildError::Commit(CommitError::ReadOnly)) if read_only => {
            assert!(same(&disks, &untouched.unwrap()), "a set that must only be read was changed");
            return;
        }
        Err(RebuildError::Commit(CommitError::Versions)) if highest >= u64::MAX - 1 => return,
        Err(RebuildError::Commit(CommitError::TooFewCopies { .. })) => return,
        Err(e) => panic!("{e}"),
    };
    assert!(!clean || meta.version() == version);
    assert!(meta.version() >= version && (meta.version() == version || meta.version() > highest));
    assert!(before.iter().eq(meta.table().iter().collect::<Vec<_>>().iter()));
    let again = recover(&mut disks, crc).unwrap_or_else(|e| panic!("after a rebuild: {e}"));
    // What is not in use and cannot be read stays so, and counts as tried each time.
    assert!(again.is_clean() || !disks.unreadable.is_empty());
    assert!(again.header().same_content(meta.header()));
    assert!(again.table().iter().eq(meta.table().iter()));

    let mut edit = meta.table().edit().unwrap();
    let extent = Extent { start: MainSector(MAIN / 2), len: Sectors(8) };
    if extent.end().0 > meta.header().raw().set.main_sectors.get()
        || edit.set(extent, Mapping::Pending).is_err()
    {
        return;
    }
    let Ok(begun) = meta.begin(CommitKind::Auto, 4, Some(edit), |_| {}) else { return };
    begun.write_group_a(&mut disks).unwrap().write_group_b(&mut disks);
    let last = recover(&mut disks, crc).unwrap_or_else(|e| panic!("after a commit: {e}"));
    assert!(last.header().same_content(meta.header()));
    assert!(last.table().iter().eq(meta.table().iter()));
}

fn same(a: &Disks, b: &Disks) -> bool {
    (0..a.count()).all(|spare| (0..SPARE / 8).all(|at| a.block(spare, at) == b.block(spare, at)))
}

fn apply(life: &Life, disks: &mut Disks, patch: Patch) {
    let (spare, copy, block) = patch.place();
    // A change of several copies is what gets past those that are whole.
    let copies =
        if patch.what() & 0x80 != 0 { 0..COPIES } else { copy % COPIES..copy % COPIES + 1 };
    let count = disks.count();
    let spares = if patch.what() & 0x40 != 0 { 0..count } else { spare % count..spare % count + 1 };
    for spare in spares {
        for copy in copies.clone() {
            change(life, disks, patch, (spare, copy, block));
        }
    }
}

fn change(life: &Life, disks: &mut Disks, patch: Patch, place: (usize, usize, u64)) {
    let (spare, copy, block) = place;
    let position = |block: u64| match block.checked_sub(1) {
        None => Some(SLOTS[copy].0 / 8),
        Some(index) => Some(life.layout.block(copy as u8, BlockIndex(index as u32))?.0 / 8),
    };
    let Some(at) = position(block % u64::from(life.layout.capacity() + 1)) else { return };
    let other = &life.moments[usize::from(patch.number()) % life.moments.len()];
    let mut bytes = disks.block(spare, at);
    let seal = if at == SLOTS[copy].0 / 8 { seal_header } else { seal_block };
    match patch.what() % 0x40 % 10 {
        0 => patch.bytes(&mut bytes),
        1 => {
            patch.bytes(&mut bytes);
            seal(&mut bytes);
        }
        2 => {
            patch.large(&mut bytes);
            seal(&mut bytes);
        }
        3 => bytes = other.block(spare, at),
        4 => {
            for block in 0..=8 {
                let Some(at) = position(block) else { continue };
                disks.put(spare, at, other.block(spare, at));
            }
            return;
        }
        5 => bytes = [0; 4096],
        6 => {
            disks.unreadable.insert((spare, at));
            return;
        }
        7 => return agree(life, disks, (spare, copy)),
        8 => bytes = disks.block(usize::from(patch.number()) % disks.count(), at),
        _ if at == SLOTS[copy].0 / 8 => return,
        _ => {
            patch.entry(&mut bytes, &edges(life));
            seal_block(&mut bytes);
            disks.put(spare, at, bytes);
            return agree(life, disks, (spare, copy));
        }
    }
    disks.put(spare, at, bytes);
}

/// Sectors of a spare at which something else begins.
fn edges(life: &Life) -> Vec<u64> {
    let slots = SLOTS.iter().flat_map(|slot| [slot.0, slot.0 + SLOT_SECTORS.0]);
    slots.chain([life.layout.end().0, SPARE, RETIRED_LIMIT, SECTOR_LIMIT]).collect()
}

/// Makes a header speak of the blocks that stand in its copy.
fn agree(life: &Life, disks: &mut Disks, (spare, copy): (usize, usize)) {
    let at = SLOTS[copy].0 / 8;
    let mut header = disks.block(spare, at);
    let id = CopyId { spare: SpareId(spare as u8), copy: copy as u8 };
    let Ok(decoded) = Header::decode(&header, id, crc) else { return };
    let set: SetUuid = decoded.uuid();
    let mut stamps = Vec::new();
    for index in (0..decoded.raw().shape.blocks.get()).map(BlockIndex) {
        let Some(at) = life.layout.block(copy as u8, index) else { return };
        let Ok(stamp) = check_block(&disks.block(spare, at.0 / 8), &set, index, crc) else {
            return;
        };
        stamps.push((index, stamp));
    }
    // `shape.digest`, as docs/format.md has it.
    header[0x1d0..0x1d8].copy_from_slice(&digest(stamps).to_le_bytes());
    seal_header(&mut header);
    disks.put(spare, at, header);
}
