// SPDX-License-Identifier: GPL-2.0

//! The sides of a conflict: states of one set of which neither came from the other. Which of them
//! holds is for a person to say; then that one is [put into the place of all](super::super::rewrite)
//! and the others become its past.

use super::super::copies::CopySet;
use super::super::entry::{Entry, Mapping};
use super::super::format::header::Header;
use super::super::format::layout::Layout;
use super::super::format::{Crc32, SpareState};
use super::super::mem::{AllocError, KVVec, KVec, GFP_KERNEL};
use super::super::rewrite::finish;
use super::super::store::Store;
use super::super::table::{EditError, Table};
use super::super::units::{Extent, MainSector, Sectors, SpareId, SpareSector};
use super::join::{blocks_for, Short, Stamps};
use super::{build, check_entries, Refusal, Stand, Survey};

/// The newest header of a line, and the copies that have the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// Where the first of them stands, and what it is.
    pub stand: Stand,
    /// All of them.
    pub copies: CopySet,
}

/// A [`Side`] that may be none.
struct Known {
    side: Side,
    /// Whether all blocks are there.
    whole: bool,
}

/// The states that nothing else on the spares came from, by version, the newest first. More than
/// one is a conflict. What came from one of them and is not whole has not come about, and does not
/// count; nor does what one of them supersedes, which nobody was told of.
///
/// # Errors
///
/// Without memory.
pub fn sides(store: &mut dyn Store, survey: &Survey, crc: Crc32) -> Result<KVec<Side>, AllocError> {
    let mut known: KVec<Known> = KVec::new();
    let mut stamps: Option<(Layout, Stamps)> = None;
    for (id, header) in survey.headers() {
        let same = known.iter_mut().find(|known| {
            survey.header(known.side.stand.id).is_some_and(|other| other.same_content(header))
        });
        if let Some(known) = same {
            known.side.copies.add(id);
            continue;
        }
        let layout = header.layout();
        let stamps = match stamps {
            Some((of, ref stamps)) if of == layout => stamps,
            _ => {
                let read = Stamps::read(store, survey, &layout, &header.uuid(), crc)?;
                &stamps.insert((layout, read)).1
            }
        };
        let whole = match blocks_for(header, stamps) {
            Ok(_) => true,
            Err(Short::Memory) => return Err(AllocError),
            Err(_) => false,
        };
        let mut copies = CopySet::NONE;
        copies.add(id);
        known.push(
            Known { side: Side { stand: Stand::of(id, header), copies }, whole },
            GFP_KERNEL,
        )?;
    }
    let came_from = |later: &Known, earlier: &Known| {
        let (from, to) = (&earlier.side.stand, &later.side.stand);
        (from.history, from.version) != (to.history, to.version)
            && survey
                .header(to.id)
                .is_some_and(|header| header.descends_from(from.history, from.version))
    };
    let last_whole =
        |one: &Known| one.whole && !known.iter().any(|other| other.whole && came_from(other, one));
    let counts = |one: &Known| {
        last_whole(one)
            || !one.whole
                && !known.iter().any(|other| {
                    came_from(other, one) || (last_whole(other) && came_from(one, other))
                })
    };
    let headers = |one: &Known| {
        let copies = one.side.copies;
        survey.headers().filter(move |(id, _)| copies.has(*id)).map(|(_, header)| header)
    };
    // Its copies do not all know the same to be durable.
    let supersedes = |one: &Known, other: &Known| {
        one.whole && headers(other).all(|old| headers(one).any(|new| new.supersedes(old)))
    };
    let is_superseded = |one: &Known| {
        known.iter().any(|other| {
            let newer = other.side.stand.version > one.side.stand.version;
            one.side.stand.id != other.side.stand.id
                && last_whole(other)
                && supersedes(other, one)
                && (newer || !supersedes(one, other))
        })
    };
    let mut sides: KVec<Side> = KVec::new();
    for known in known.iter().filter(|known| counts(known) && !is_superseded(known)) {
        sides.push(known.side, GFP_KERNEL)?;
    }
    sides.sort_unstable_by_key(|side| u64::MAX - side.stand.version);
    Ok(sides)
}

/// What a side has to say, as a set that can be used: [what stands there of it](content_of), if that can
/// hold.
///
/// # Errors
///
/// That there is none; that it is [older](is_current) than what was durable on that line; that its members
/// are not those that are there.
pub fn state_of(
    store: &mut dyn Store,
    survey: &Survey,
    side: &Side,
    crc: Crc32,
) -> Result<(Header, Table), Refusal> {
    let newest = survey.header(side.stand.id).ok_or(Refusal::Memory)?;
    for spare in survey.spares().iter() {
        let state = newest.spare_state(spare);
        if !matches!(state, SpareState::Active | SpareState::Away) {
            return Err(Refusal::NotMember(spare, state));
        }
        let was = Sectors(newest.raw().spares[usize::from(spare.0)].used_sectors.get());
        if store.sectors(spare) < was {
            return Err(Refusal::Shrunk { spare, is: store.sectors(spare), was });
        }
    }
    let needed = (0..newest.spares() as u8).map(SpareId);
    let missing = |&spare: &SpareId| {
        newest.spare_state(spare) == SpareState::Active && !survey.spares().has(spare)
    };
    if let Some(spare) = needed.clone().find(missing) {
        return Err(Refusal::Missing(spare, newest.member(spare)));
    }
    let (header, table) = content_of(store, survey, side, crc)?;
    is_current(survey, side, &header)?;
    check_entries(&header, &table)?;
    Ok((header, table))
}

/// What stands there of a side, whoever of its members is there: the newest state on its line that is
/// whole. It is what there is to be kept of a side that is given up, and not more than that.
///
/// # Errors
///
/// That there is none.
pub fn content_of(
    store: &mut dyn Store,
    survey: &Survey,
    side: &Side,
    crc: Crc32,
) -> Result<(Header, Table), Refusal> {
    let newest = survey.header(side.stand.id).ok_or(Refusal::Memory)?;
    let (uuid, layout) = (newest.uuid(), newest.layout());
    let stamps = Stamps::read(store, survey, &layout, &uuid, crc)?;
    let line = || {
        survey.headers().filter(|(_, header)| {
            header.layout() == layout && newest.descends_from(header.history(), header.version())
        })
    };
    let mut below = u64::MAX;
    let mut first = None;
    loop {
        let next = line().filter(|(_, header)| header.version() < below);
        // Of those that are one version, the one that the side is named by.
        let next = next.max_by_key(|(id, header)| (header.version(), side.copies.has(*id)));
        let Some((id, header)) = next else { return Err(first.unwrap_or(Refusal::Memory)) };
        below = header.version();
        let choice = match blocks_for(header, &stamps) {
            Ok(choice) => choice,
            Err(Short::Memory) => return Err(Refusal::Memory),
            Err(short) => {
                first.get_or_insert(short.refusal(id, header));
                continue;
            }
        };
        let table = build(store, &stamps, &choice, (id, header), crc)?;
        return Ok((header.try_clone()?, table));
    }
}

/// Whether `content` of a side is all that was durable there.
///
/// # Errors
///
/// [`Refusal::Outdated`] where something newer was.
pub fn is_current(survey: &Survey, side: &Side, content: &Header) -> Result<(), Refusal> {
    let newest = survey.header(side.stand.id).ok_or(Refusal::Memory)?;
    // What came from it and did not come about may know of something that did.
    let durable = survey
        .headers()
        .filter(|(_, header)| {
            newest.descends_from(header.history(), header.version())
                || header.descends_from(newest.history(), newest.version())
        })
        .map(|(_, header)| header.raw().identification.durable_version.get())
        .max();
    match durable.filter(|&durable| durable > content.version()) {
        Some(durable) => Err(Refusal::Outdated { found: content.version(), durable }),
        None => Ok(()),
    }
}

/// Which copies are to be written last when `chosen` is put into the place of all: until the first
/// ones stand, each side has to be there to be chosen again, and to say what it has given away. Half
/// of the copies of each, and where that is all there are, those of `chosen`.
pub fn last(survey: &Survey, sides: &[Side], chosen: &Side) -> CopySet {
    let mut last = CopySet::NONE;
    for side in sides {
        let n = side.copies.count();
        side.copies.iter().skip(n - n.div_ceil(2)).for_each(|id| last.add(id));
    }
    if CopySet::all(survey.spares()).without(last).is_empty() {
        chosen.copies
    } else {
        last
    }
}

/// The extents of main whose data, by `table`, is in a place that `other` has given to something
/// else: whoever went on with `other` may have overwritten it.
///
/// # Errors
///
/// Without memory.
pub fn given_away(table: &Table, other: &Table) -> Result<KVVec<Extent>, AllocError> {
    // By place: what `other` says is there, `None` for a retired place.
    let mut taken: KVVec<(SpareId, SpareSector, SpareSector, Option<MainSector>)> = KVVec::new();
    for Entry { extent, mapping } in other.iter() {
        let (spare, at, start) = match mapping {
            Mapping::Pending | Mapping::Lost => continue,
            Mapping::Remapped { spare, to } | Mapping::Suspect { spare, to } => {
                (spare, to, Some(extent.start))
            }
            Mapping::Retired { spare, at } => (spare, at, None),
        };
        taken.push((spare, at, at + extent.len, start), GFP_KERNEL)?;
    }
    taken.sort_unstable();
    let mut lost = KVVec::new();
    for Entry { extent, mapping } in table.iter() {
        let Some((spare, to)) = mapping.place() else { continue };
        let end = to + extent.len;
        let first = taken.partition_point(|(on, _, behind, _)| (*on, *behind) <= (spare, to));
        let there = taken[first..].iter().take_while(|(on, at, ..)| *on == spare && *at < end);
        for &(_, at, behind, start) in there {
            let (from, until) = (at.max(to), behind.min(end));
            let begins = extent.start + (from - to);
            if start.map(|start| start + (from - at)) != Some(begins) {
                lost.push(Extent { start: begins, len: until - from }, GFP_KERNEL)?;
            }
        }
    }
    Ok(lost)
}

/// The table with `lost` marked as that: an error there, and not another block's data, nor what main
/// had before.
///
/// # Errors
///
/// There is no room for that, or no memory.
pub fn without(
    table: &Table,
    header: &Header,
    lost: &[Extent],
    crc: Crc32,
) -> Result<Table, EditError> {
    let (uuid, version) = (header.uuid(), header.version());
    let mut edit = table.edit()?;
    for extent in lost {
        edit.set(*extent, Mapping::Lost)?;
    }
    finish(edit, &uuid, version, crc)
}
