// SPDX-License-Identifier: GPL-2.0

//! Making a new set on spares that hold nothing, so that a creation that is cut short can be told
//! from everything else and be finished.
//!
//! First every copy gets a mark: one sector, which a crash leaves whole or not at all, with the
//! set's UUID and a bit that says that a creation has got no further. Only when all marks are
//! durable do headers take their place, as in any commit: group A, then group B. So after a crash
//! there is a header that is whole (the set exists), or there is a mark (it does not, and what else
//! is found in the slots is blank or was given up), or nothing was written.
//!
//! Who finishes what has no set yet begins anew, with another UUID, as nobody knows which of the spares stay together; but under the history of
//! the attempt before. So when that is cut short too, what stands on the spares then is still told to be of one creation.

use core::fmt;

use super::commit::{CommitError, Metadata};
use super::copies::{Copies, CopySet, CopyState};
use super::format::block::block_of;
use super::format::header::{creation_mark_of, history_of, traces, Header, NewSet, NewSpare};
use super::format::layout::{CopyId, Layout, BLOCK_SECTORS, MIN_SPARE, SLOTS, SLOT_BLOCKS};
use super::format::{CommitKind, Crc32, SetUuid, MAGIC, MAGIC_V3};
use super::mem::{is_zero, AllocError, KVVec, KVec, GFP_KERNEL};
use super::recovery::{recover, RebuildError, Refusal, Survey};
use super::store::{Read, SpareSet, Store, Write};
use super::table::Table;
use super::units::{Sectors, SpareId, SpareSector};

/// How much at the end of a spare has to be blank too: other formats sign there.
const TAIL: Sectors = Sectors(2048);

/// Blocks that are read at once.
const BATCH: u64 = 32;

/// What is on a device that is to become a spare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// All slots and the last MiB are zeroes, up to the end of the device.
    Blank,
    /// The beginning of a creation, and what else is there, if anything: its first sector.
    CutShort(Attempt, Option<SpareSector>),
    /// Metadata of ours, whole or damaged.
    Ours(SpareSector),
    /// Metadata in the v3 format.
    V3,
    /// Something else; the first sector of it.
    Foreign(SpareSector),
    /// This cannot be read.
    Unreadable(SpareSector),
}

/// An attempt to create a set, or to have a spare join one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// The set.
    pub set: SetUuid,
    /// The history that was to begin. Attempts at the same creation, one after the other, have the same.
    pub history: u64,
}

/// Looks at all that [`Content`] speaks of.
///
/// # Errors
///
/// Without memory.
pub fn inspect(store: &mut dyn Store, spare: SpareId, crc: Crc32) -> Result<Content, AllocError> {
    let sectors = store.sectors(spare);
    let tail = SpareSector(sectors.0.saturating_sub(TAIL.0));
    let slots = SLOTS.iter().map(|&slot| (slot, u64::from(SLOT_BLOCKS) + 1));
    // What is less than a block lies in the last block of the device, whatever that begins at.
    let whole = store.whole(spare);
    let rest = (whole > sectors).then(|| (SpareSector(whole.0 - BLOCK_SECTORS.0), 1));
    let runs = slots.chain([(tail, TAIL.0 / BLOCK_SECTORS.0)]).chain(rest);
    let (mut mark, mut foreign, mut v3) = (None, None, false);
    // Sectors with headers that are torn or whole, and the sets and histories that they name.
    let mut headers: KVec<(SpareSector, Option<SetUuid>, Option<u64>)> = KVec::new();
    let mut batch: KVec<Read> = KVec::with_capacity(BATCH as usize, GFP_KERNEL)?;
    for (start, blocks) in runs {
        for first in (0..blocks).step_by(BATCH as usize) {
            let n = BATCH.min(blocks - first);
            for k in 0..n {
                let at = start + Sectors((first + k) * BLOCK_SECTORS.0);
                match batch.get_mut(k as usize) {
                    Some(read) => (read.spare, read.at) = (spare, at),
                    None => batch.push(Read::new(spare, at)?, GFP_KERNEL)?,
                }
            }
            batch.truncate(n as usize);
            store.read(&mut batch);
            for read in batch.iter() {
                let block = &read.block;
                if read.result.is_err() {
                    return Ok(Content::Unreadable(read.at));
                }
                if is_zero(&block[..]) {
                    continue;
                }
                if SLOTS.contains(&read.at) && block.starts_with(&MAGIC) {
                    // What follows the mark in its block may be the rest of a torn header.
                    match creation_mark_of(block, crc) {
                        Some((set, history)) => mark = Some(Attempt { set, history }),
                        None => {
                            let (set, history) = (traces(block, crc).0, history_of(block, crc));
                            headers.push((read.at, set, history), GFP_KERNEL)?;
                        }
                    }
                    continue;
                }
                v3 |= read.at == SLOTS[0] && block.starts_with(&MAGIC_V3);
                if block_of(block, crc).is_some() {
                    return Ok(Content::Ours(read.at));
                }
                foreign.get_or_insert(read.at);
            }
        }
    }
    let of_mark = |set: Option<SetUuid>, history: Option<u64>| {
        mark.is_some_and(|mark| set == Some(mark.set) || history == Some(mark.history))
    };
    let other = headers.iter().find(|(_, set, history)| !of_mark(*set, *history));
    Ok(match (other, mark, foreign) {
        (Some((at, ..)), _, _) => Content::Ours(*at),
        (None, Some(mark), foreign) => Content::CutShort(mark, foreign),
        (None, None, _) if v3 => Content::V3,
        (None, None, Some(at)) => Content::Foreign(at),
        (None, None, None) => Content::Blank,
    })
}

/// Why no set was created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateError {
    /// There was no memory.
    Memory,
    /// No spare, or more than fit.
    Spares,
    /// This spare is too small: the sectors that it has, and those that it needs.
    TooSmall(SpareId, Sectors, Sectors),
    /// There is a set on this spare.
    Exists(SpareId, SetUuid),
    /// There is metadata of ours on this spare, damaged: there.
    Damaged(SpareId, SpareSector),
    /// This spare is in the v3 format.
    V3(SpareId),
    /// Something else is on this spare, there.
    Foreign(SpareId, SpareSector),
    /// This spare cannot be read there.
    Unreadable(SpareId, SpareSector),
    /// Another creation was cut short on this spare than on the ones before it.
    OtherCreation(SpareId, SetUuid),
    /// This copy could not be written or flushed.
    Write(CopyId),
    /// The first commit did not come about.
    Commit(CommitError),
    /// What was left of a creation that was cut short could not be read.
    Recover(Refusal),
    /// What was left of a creation that was cut short could not be finished.
    Rebuild(RebuildError),
}

impl From<AllocError> for CreateError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl CreateError {
    /// The spare that no set was created on, if it is for what that is or holds.
    #[must_use]
    pub fn of_spare(&self) -> Option<SpareId> {
        match self {
            Self::TooSmall(s, ..)
            | Self::Exists(s, _)
            | Self::Damaged(s, _)
            | Self::V3(s)
            | Self::Foreign(s, _)
            | Self::Unreadable(s, _)
            | Self::OtherCreation(s, _) => Some(*s),
            _ => None,
        }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("no memory to create the set"),
            Self::Spares => f.write_str("a set has 1 to 8 spares"),
            Self::TooSmall(s, is, needed) => {
                write!(f, "spare {s} has {is} sectors and needs {needed}; give a larger one")
            }
            Self::Exists(s, set) => write!(
                f,
                "spare {s} carries set {set} already; load the line without `create` if that is the set you mean, otherwise check the device's name"
            ),
            Self::Damaged(s, at) => write!(
                f,
                "spare {s} carries damaged metadata of ours at sector {at}; run `dmremap check`, or `dmremap wipe` to give it up"
            ),
            Self::V3(s) => write!(f, "spare {s} is in the v3 format; run `dmremap upgrade`"),
            Self::Foreign(s, at) => write!(
                f,
                "spare {s} is not blank at sector {at}; check the device's name, or add `overwrite <spare>` to give up what is on it"
            ),
            Self::Unreadable(s, at) => {
                write!(f, "spare {s} cannot be read at sector {at}; use another device")
            }
            Self::OtherCreation(s, set) => write!(
                f,
                "another creation, of set {set}, was cut short on spare {s}; finish that one first"
            ),
            Self::Write(id) => write!(f, "{id} could not be written; use another device"),
            Self::Commit(e) => e.fmt(f),
            Self::Recover(e) => e.fmt(f),
            Self::Rebuild(e) => e.fmt(f),
        }
    }
}

/// What a creation has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Creation {
    /// All of it; under this history, where an attempt was cut short before a set existed.
    Fresh(Option<u64>),
    /// Only the end: this set exists, but its creation was cut short.
    Finish(SetUuid),
}

/// Whether a set may be created on the spares of `store`; `overwrite` may carry something foreign.
/// Only reads.
///
/// # Errors
///
/// What is in the way.
pub fn check_create(
    store: &mut dyn Store,
    layout: &Layout,
    overwrite: SpareSet,
    crc: Crc32,
) -> Result<Creation, CreateError> {
    let spares = store.spares();
    if spares.is_empty() {
        return Err(CreateError::Spares);
    }
    for spare in spares.iter() {
        let is = store.sectors(spare);
        if !layout.fits(is) {
            let needed = Sectors(MIN_SPARE.0.max(layout.end().0 + 1));
            return Err(CreateError::TooSmall(spare, is, needed));
        }
    }
    let survey = Survey::take(store, crc)?;
    if let Some((id, header)) = survey.newest() {
        let first =
            header.version() == 1 && header.raw().version.kind.get() == CommitKind::Create as u32;
        return if first && survey.has_marks() {
            Ok(Creation::Finish(header.uuid()))
        } else {
            Err(CreateError::Exists(id.spare, header.uuid()))
        };
    }
    let mut begun = None;
    for spare in spares.iter() {
        match inspect(store, spare, crc)? {
            Content::Blank => {}
            Content::CutShort(Attempt { set, history }, foreign) => {
                if *begun.get_or_insert(history) != history {
                    return Err(CreateError::OtherCreation(spare, set));
                }
                if let Some(at) = foreign.filter(|_| !overwrite.has(spare)) {
                    return Err(CreateError::Foreign(spare, at));
                }
            }
            Content::Ours(at) => return Err(CreateError::Damaged(spare, at)),
            Content::V3 => return Err(CreateError::V3(spare)),
            Content::Foreign(_) if overwrite.has(spare) => {}
            Content::Foreign(at) => return Err(CreateError::Foreign(spare, at)),
            Content::Unreadable(at) => return Err(CreateError::Unreadable(spare, at)),
        }
    }
    Ok(Creation::Fresh(begun))
}

/// Creates a set on all spares of `store`, in their order; `members` says what is known about each.
/// `update` fills in what else the header is to say: main's fingerprint, the settings. Afterwards
/// the set stands in all copies as version 1.
///
/// Where that of an attempt before was cut short too early for that, the set gets its history rather than the one of `set`.
/// Where the creation of a set was cut short late enough for the set to exist, that set is
/// finished and returned, with the UUID that it has: the caller compares its header with what it
/// asked for.
///
/// # Errors
///
/// What is in the way, or could not be written. A creation that failed half-way can be tried again.
pub fn create(
    store: &mut dyn Store,
    set: &NewSet<'_>,
    members: &[NewSpare],
    overwrite: SpareSet,
    crc: Crc32,
    update: impl FnOnce(&mut Header),
) -> Result<Metadata, CreateError> {
    let begun = match check_create(store, &set.layout, overwrite, crc)? {
        Creation::Fresh(begun) => begun,
        Creation::Finish(_) => {
            let found = recover(store, crc).map_err(CreateError::Recover)?;
            let rebuilt = found.rebuild(store, set.time, set.history);
            return rebuilt.map_err(CreateError::Rebuild);
        }
    };
    let mut header = Header::new(&NewSet { history: begun.unwrap_or(set.history), ..*set })?;
    for member in members {
        header.add_spare(member).ok_or(CreateError::Spares)?;
    }
    if header.spares() != store.spares().iter().count() {
        return Err(CreateError::Spares);
    }
    let all = CopySet::all(store.spares());

    let mut marks = KVec::new();
    for id in all.iter() {
        marks.push(header.creation_mark(id, header.history(), crc)?, GFP_KERNEL)?;
    }
    let mut batch = KVec::with_capacity(marks.len(), GFP_KERNEL)?;
    for (id, mark) in all.iter().zip(marks.iter()) {
        batch.push(Write::new(id.spare, Layout::header(id.copy), mark), GFP_KERNEL)?;
    }
    store.write(&mut batch);
    if let Some((id, _)) = all.iter().zip(batch.iter()).find(|(_, w)| w.result.is_err()) {
        return Err(CreateError::Write(id));
    }
    if let Some(spare) = store.flush(store.spares()).iter().next() {
        return Err(CreateError::Write(CopyId { spare, copy: 0 }));
    }

    let mut copies = Copies::default();
    copies.note_all(all, CopyState::Good);
    let table = Table::empty(set.layout.capacity())?;
    let doubt = KVVec::new();
    let mut metadata = Metadata {
        header,
        table,
        copies,
        highest: 0,
        doubt,
        in_doubt: false,
        overwritten: CopySet::NONE,
        unkept: KVec::new(),
        crc,
    };
    let commit =
        metadata.begin(CommitKind::Create, set.time, None, update).map_err(CreateError::Commit)?;
    let mut in_a = commit.write_group_a(store).map_err(|e| {
        let failed = e.bad.iter().chain(e.unflushed.iter()).next();
        failed.map_or(CreateError::Memory, CreateError::Write)
    })?;
    in_a.try_write_group_b(store)?;
    let left_out = all.without(metadata.copies().in_state(CopyState::Good));
    match left_out.iter().next() {
        Some(id) => Err(CreateError::Write(id)),
        None => Ok(metadata),
    }
}
