// SPDX-License-Identifier: GPL-2.0

//! Putting a state into the place of all that stands on the spares, because a person has said so:
//! one that comes from a dump, or one of two that are in conflict.
//!
//! Its version is above every one that is found in any header or table block, and what is given up
//! is in its past: a copy of that which could not be overwritten, or turns up later, is old, and not
//! another truth.
//!
//! The copies are written in two groups, the second when the first has been flushed. Cut short, it
//! can be begun again; until then activation finds the new state, whole, or refuses, or finds what
//! stood there before.

use core::fmt;

use super::commit::{describe, write_anew, CommitError, Content, Metadata};
use super::copies::{Copies, CopySet, CopyState};
use super::entry::BlockIndex;
use super::format::block::{block_of, encode_block};
use super::format::header::{traces, Header};
use super::format::layout::{CopyId, Layout, BLOCK_SECTORS, COPIES, SLOTS};
use super::format::{CommitKind, Crc32, SetUuid, SpareState};
use super::mem::{Block, KVVec, KVec, GFP_KERNEL};
use super::store::{Read, SpareSet, Store};
use super::table::{Edit, EditError, Table};
use super::units::{SpareId, SpareSector};

/// Blocks that are read at once.
const BATCH: usize = 32;

/// How far above what was seen a version is where something could not be read.
const UNSEEN: u64 = 64;

/// Traces of sets where metadata may stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// The highest version in any of them; 0 for none.
    pub highest: u64,
    /// Whether something could not be read.
    pub unreadable: bool,
    /// Whether one of them is of the set that was looked for.
    pub ours: bool,
    /// The first that is of another set, and where.
    pub other: Option<(SpareSector, SetUuid)>,
}

impl Seen {
    /// What was seen here and there.
    pub fn and(self, there: Self) -> Self {
        Self {
            highest: self.highest.max(there.highest),
            unreadable: self.unreadable || there.unreadable,
            ours: self.ours || there.ours,
            other: self.other.or(there.other),
        }
    }

    fn note(&mut self, at: SpareSector, found: Option<SetUuid>, version: u64, set: &SetUuid) {
        match found {
            Some(found) if found == *set => {
                self.ours = true;
                self.highest = self.highest.max(version);
            }
            Some(found) if self.other.is_none() => self.other = Some((at, found)),
            _ => {}
        }
    }
}

/// Looks for traces of `set`, and of others, in all headers and table blocks that stand on a spare
/// in `layout`.
///
/// # Errors
///
/// Without memory.
pub fn look(
    store: &mut dyn Store,
    spare: SpareId,
    layout: &Layout,
    set: &SetUuid,
    crc: Crc32,
) -> Result<Seen, CommitError> {
    let mut seen = Seen::default();
    let end = store.sectors(spare).0;
    let mut places = (0..COPIES as u8)
        .flat_map(|copy| {
            let header = core::iter::once(Layout::header(copy));
            header.chain(
                (0..layout.capacity()).filter_map(move |i| layout.block(copy, BlockIndex(i))),
            )
        })
        .filter(|at| at.0 + BLOCK_SECTORS.0 <= end);
    let mut batch: KVec<Read> = KVec::with_capacity(BATCH, GFP_KERNEL)?;
    loop {
        // The blocks of the batch before are used again.
        let mut n = 0;
        for at in places.by_ref().take(BATCH) {
            match batch.get_mut(n) {
                Some(read) => read.at = at,
                None => batch.push(Read::new(spare, at)?, GFP_KERNEL)?,
            }
            n += 1;
        }
        if n == 0 {
            break;
        }
        batch.truncate(n);
        store.read(&mut batch);
        for read in batch.iter() {
            if read.result.is_err() {
                seen.unreadable = true;
            } else if SLOTS.contains(&read.at) {
                let (found, version) = traces(&read.block, crc);
                seen.note(read.at, found, version.unwrap_or(0), set);
            } else if let Some((found, stamp)) = block_of(&read.block, crc) {
                seen.note(read.at, Some(found), stamp.version, set);
            }
        }
    }
    Ok(seen)
}

/// Makes `header` the successor of itself and of all that is given up: its version is above every
/// one that was seen, the histories in `given_up` and its own are past, and `history`, drawn at
/// random, begins at `time` (seconds since 1970).
///
/// # Errors
///
/// [`CommitError::Versions`] when there are no more.
pub fn supersede(
    header: &mut Header,
    seen: &Seen,
    given_up: impl Iterator<Item = u64>,
    history: u64,
    time: u64,
) -> Result<(), CommitError> {
    let gap = if seen.unreadable { UNSEEN } else { 0 };
    let before = seen.highest.max(header.version()).checked_add(gap);
    let version = before.and_then(|v| v.checked_add(1)).filter(|&v| v < u64::MAX);
    let (Some(before), Some(version)) = (before, version) else {
        return Err(CommitError::Versions);
    };
    let own = header.history();
    header.raw_mut().version.version.set(before);
    for other in given_up {
        // Once is enough: there is room for few.
        if !header.descends_from(other, before) {
            header.raw_mut().version.history.set(other);
            header.begin_history(own, SpareSet::NONE);
        }
    }
    header.begin_history(history, SpareSet::NONE);
    let raw = &mut header.raw_mut().version;
    raw.version.set(version);
    raw.committed.set(time);
    raw.kind.set(CommitKind::Recover as u32);
    Ok(())
}

/// The table that an edit makes, its changed blocks as of `version`.
///
/// # Errors
///
/// See [`EditError`].
pub fn finish(edit: Edit, set: &SetUuid, version: u64, crc: Crc32) -> Result<Table, EditError> {
    let changed = edit.finish(version, |index, entries| {
        Ok(encode_block(&mut Block::zeroed()?, set, index, version, entries, crc).crc)
    })?;
    Ok(changed.table)
}

/// Why a state was not put into the place of what stood there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RewriteError {
    /// Nothing was written.
    Commit(CommitError),
    /// No copy could be written of those that are to be first; the others are as they were.
    NoCopy,
}

impl From<CommitError> for RewriteError {
    fn from(e: CommitError) -> Self {
        Self::Commit(e)
    }
}

impl fmt::Display for RewriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit(e) => e.fmt(f),
            Self::NoCopy => {
                f.write_str("no copy of the metadata could be written; check the spares")
            }
        }
    }
}

/// Writes the state that `header` and `table` make to every copy on the active members that are
/// there, those in `last` when the others stand: they hold what is not to be lost before. Where that
/// says nothing, being none of them or all, some wait for the rest all the same.
///
/// # Errors
///
/// See [`RewriteError`]. It can be begun again.
pub fn rewrite(
    store: &mut dyn Store,
    mut header: Header,
    table: &Table,
    last: CopySet,
    crc: Crc32,
) -> Result<Metadata, RewriteError> {
    let (uuid, version) = (header.uuid(), header.version());
    let mut all = KVVec::new();
    for (index, ..) in table.blocks() {
        all.push(index, GFP_KERNEL).map_err(CommitError::from)?;
    }
    let mut encode = |index, entries: &[_]| {
        Ok(encode_block(&mut Block::zeroed()?, &uuid, index, version, entries, crc).crc)
    };
    let table = write_anew(table, &all, version, &mut encode)?;
    describe(header.raw_mut(), &table);
    header.raw_mut().spares.iter_mut().for_each(|spare| spare.copies_out = 0);

    let mut there = SpareSet::NONE;
    let active = |&spare: &SpareId| header.spare_state(spare) == SpareState::Active;
    store.spares().iter().filter(active).for_each(|spare| there.add(spare));
    let targets = CopySet::all(there);
    let mut copies = Copies::default();
    copies.note_all(targets, CopyState::Stale);
    let last = match targets.and(last) {
        last if last.is_empty() || last == targets => targets.odd(),
        last => last,
    };
    let active = header.in_state(SpareState::Active);
    let mut write = |group, durable, lacks: &dyn Fn(CopyId, Option<BlockIndex>) -> bool| {
        let content = Content { header: &header, table: &table, durable, crc };
        let outcome = content.fill(store, group, lacks).map_err(CommitError::from)?;
        copies.note_all(outcome.bad, CopyState::Bad);
        copies.note_all(outcome.stood, CopyState::Good);
        match copies.in_state(CopyState::Good) {
            good if good.is_empty() => Err(RewriteError::NoCopy),
            good => Ok(good),
        }
    };
    let stands = |good: CopySet| active.without(good.spares()).is_empty();
    // Nobody must take it for durable before it is, on every member.
    let first = write(targets.without(last), 0, &|_, _| true)?;
    let early = stands(first);
    let all = write(last, if early { version } else { 0 }, &|_, _| true)?;
    if stands(all) && !early {
        // On some members all copies were among the last: now it is known of the others too.
        write(first, version, &|_, part| part.is_none())?;
    }
    let doubt = KVVec::new();
    Ok(Metadata {
        header,
        table,
        copies,
        highest: version,
        doubt,
        in_doubt: false,
        overwritten: CopySet::NONE,
        unkept: KVec::new(),
        crc,
    })
}
