// SPDX-License-Identifier: GPL-2.0

//! Members that join the set, and members that leave it.
//!
//! ```text
//! may_join    only reads: whether what is on the device may be given up
//! lay_ground  its slots get marks that a creation was cut short here, then the table's blocks
//! succeed     group A, group B on who is active then; last, every copy on who leaves says so
//! ```
//!
//! **Cut short** before group A stands, the set is what it was: nothing on the members has changed, and
//! the marks on the device say that it may be given up. Cut short later, both states can be activated:
//! the old one without who joins, as nothing has been published that only the new one has; the new one
//! without who leaves. Whoever is told last, who leaves, was up to date until then.
//!
//! **Told** that it has left, a device is refused as a member ever after, and names its successor. One
//! that cannot be told is too broken to be written: [`Succeeded::told`] says so.
//!
//! The caller publishes nothing, and acknowledges no write that only the new state has, before
//! [`succeed`](Metadata::succeed) has returned. When it gets into doubt, either state may be found: what
//! lives with who leaves must not change until the doubt is over.

use core::fmt;

use super::super::copies::{CopySet, CopyState};
use super::super::create::{inspect, Content as Found};
use super::super::entry::BlockIndex;
use super::super::format::header::{place_of, Header, HeaderError, NewSpare};
use super::super::format::layout::{CopyId, Layout, MIN_SPARE};
use super::super::format::raw::RawSpare;
use super::super::format::{CommitKind, MemberUuid, SetUuid, SpareState};
use super::super::mem::{KVVec, KVec, GFP_KERNEL};
use super::super::recovery::{self, Survey};
use super::super::rewrite::look;
use super::super::store::{Read, SpareSet, Store, Write};
use super::super::table::Edit;
use super::super::units::{Sectors, SpareId, SpareSector, MAX_SPARES};
use super::{ChangeError, CommitError, Content, Metadata};

/// Why a device does not become a member. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// There was no memory, or nothing can be changed.
    Commit(CommitError),
    /// It has too few sectors: those that it has, and those that it needs.
    TooSmall(Sectors, Sectors),
    /// It carries this set, which is another one.
    OtherSet(SetUuid),
    /// It is a member of this set, or a copy of one.
    Member(MemberUuid),
    /// It was a member of this set, and the set does not descend from what it says.
    Apart(MemberUuid),
    /// It carries metadata of ours that is damaged: there.
    Damaged(SpareSector),
    /// It is in the v3 format.
    V3,
    /// It is not blank: there.
    Foreign(SpareSector),
    /// It cannot be read there.
    Unreadable(SpareSector),
    /// A slot could not be written or flushed.
    Write(CopyId),
    /// The set has room for no more members.
    Full,
}

impl<E: Into<CommitError>> From<E> for JoinError {
    fn from(e: E) -> Self {
        Self::Commit(e.into())
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit(e) => e.fmt(f),
            Self::TooSmall(is, needed) => {
                write!(f, "it has {is} sectors and needs {needed}; give a larger one")
            }
            Self::OtherSet(set) => {
                write!(f, "it belongs to set {set}; check the device's name, or wipe it first")
            }
            Self::Member(uuid) => write!(
                f,
                "it is spare {uuid} of this set; 'repair' takes back a spare that was away"
            ),
            Self::Apart(uuid) => write!(
                f,
                "it was spare {uuid} of this set longer ago than the set remembers, or was used apart from it; look at it with `dmremap check`, or wipe it to give that up"
            ),
            Self::Damaged(at) => write!(
                f,
                "it carries damaged metadata of ours at sector {at}; run `dmremap check`, or wipe it to give that up"
            ),
            Self::V3 => f.write_str("it is in the v3 format; run `dmremap upgrade`"),
            Self::Foreign(at) => write!(
                f,
                "it is not blank at sector {at}; check the device's name, or add 'overwrite' to give up what is on it"
            ),
            Self::Unreadable(at) => {
                write!(f, "it cannot be read at sector {at}; use another device")
            }
            Self::Write(id) => {
                write!(f, "{id} of the metadata could not be written to it; use another device")
            }
            Self::Full => write!(
                f,
                "the set has {MAX_SPARES} spares, or had them since its table was loaded; remove one, or load the table anew"
            ),
        }
    }
}

/// Who joins, and who leaves.
#[derive(Clone, Copy)]
pub struct Succession<'a> {
    /// For whom [`Metadata::lay_ground`] was the last that was done.
    pub joins: Option<(SpareId, &'a NewSpare)>,
    /// On whom nothing lives any more in the table that the edit makes.
    pub leaves: Option<SpareId>,
    /// The history that begins with it, drawn at random.
    pub history: u64,
}

/// What a succession has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Succeeded {
    /// Copies on who has left that say so.
    pub told: usize,
}

impl Metadata {
    /// The number for one more member, none of `taken`: a new one, or that of who left first.
    pub fn number_for_new(&self, taken: SpareSet) -> Option<SpareId> {
        let next = SpareId(self.header.spares() as u8);
        if usize::from(next.0) < MAX_SPARES && !taken.has(next) {
            return Some(next);
        }
        let left = self.header.in_state(SpareState::Left).without(taken);
        let since = |id: SpareId| {
            let raw = self.header.raw().spares.get(usize::from(id.0));
            raw.map(|spare| spare.since_version.get())
        };
        left.iter().min_by_key(|&id| since(id))
    }

    /// Whether what is at the place `id` of `store` may become a member: it is blank, or foreign and that
    /// is given up, or all that stands on it is of this set's past. Only reads. Versions found there
    /// will not be used again.
    ///
    /// # Errors
    ///
    /// What is in the way.
    pub fn may_join(
        &mut self,
        store: &mut dyn Store,
        id: SpareId,
        overwrite: bool,
    ) -> Result<(), JoinError> {
        let layout = self.header.layout();
        let is = store.sectors(id);
        if !layout.fits(is) {
            return Err(JoinError::TooSmall(is, Sectors(MIN_SPARE.0.max(layout.end().0 + 1))));
        }
        let ours = self.header.uuid();
        match inspect(store, id, self.crc)? {
            Found::Blank => return Ok(()),
            Found::V3 => return Err(JoinError::V3),
            Found::Unreadable(at) => return Err(JoinError::Unreadable(at)),
            Found::Foreign(_) if overwrite => return Ok(()),
            Found::Foreign(at) => return Err(JoinError::Foreign(at)),
            Found::CutShort(_, Some(at)) if !overwrite => return Err(JoinError::Foreign(at)),
            Found::CutShort(..) | Found::Ours(_) => {}
        }
        // Whoever uses the device after it has left need not have written over all five places.
        let mut foreign = None;
        let survey = Survey::of(store, SpareSet::one(id), self.crc)?;
        for slot in survey.slots() {
            let place = Layout::header(slot.id.copy);
            match &slot.found {
                recovery::Found::Unreadable(_) => return Err(JoinError::Unreadable(place)),
                recovery::Found::Mark(set, _) if *set != ours => {
                    return Err(JoinError::OtherSet(*set));
                }
                recovery::Found::Mark(..) => {}
                recovery::Found::Header(header) => self.is_past(header)?,
                recovery::Found::Not(HeaderError::Zero) => {}
                recovery::Found::Not(HeaderError::Magic) => {
                    foreign.get_or_insert(place);
                }
                // The header of another member's place says who it is all the same.
                recovery::Found::Not(_) => match slot.set {
                    Some(set) if set != ours => return Err(JoinError::OtherSet(set)),
                    _ => self.is_past_elsewhere(store, id, slot.id)?,
                },
            }
        }
        let seen = look(store, id, &layout, &ours, self.crc)?;
        match (seen.other, foreign.filter(|_| !overwrite)) {
            (Some((_, set)), _) => Err(JoinError::OtherSet(set)),
            (None, Some(at)) => Err(JoinError::Foreign(at)),
            (None, None) => {
                self.highest = self.highest.max(seen.highest);
                Ok(())
            }
        }
    }

    /// Whether what a header says is over, and who it is of is no member now.
    fn is_past(&self, header: &Header) -> Result<(), JoinError> {
        if header.uuid() != self.header.uuid() {
            return Err(JoinError::OtherSet(header.uuid()));
        }
        let of = SpareId(header.raw().identification.spare.get() as u8);
        let who = header.member(of);
        let members = self.active().with(self.away());
        if members.iter().any(|id| self.header.member(id) == who) {
            return Err(JoinError::Member(who));
        }
        match self.header.supersedes(header) {
            true => Ok(()),
            false => Err(JoinError::Apart(who)),
        }
    }

    /// [`is_past`](Self::is_past) for a header that says that it belongs to another number than the one
    /// that it is looked at under.
    fn is_past_elsewhere(
        &self,
        store: &mut dyn Store,
        id: SpareId,
        slot: CopyId,
    ) -> Result<(), JoinError> {
        let at = Layout::header(slot.copy);
        let mut batch = KVec::new();
        batch.push(Read::new(id, at)?, GFP_KERNEL)?;
        store.read(&mut batch);
        let block = match batch.pop() {
            Some(read) if read.result.is_ok() => read.block,
            _ => return Err(JoinError::Unreadable(at)),
        };
        let Some((_, place)) = place_of(&block, self.crc) else {
            return Err(JoinError::Damaged(at));
        };
        match Header::decode(&block, place, self.crc) {
            Ok(header) => self.is_past(&header),
            Err(_) => Err(JoinError::Damaged(at)),
        }
    }

    /// Prepares a device that [may join](Self::may_join): marks in its slots, and all table blocks of
    /// now. `history` is the one that begins when it joins. What was on it is given up with that.
    ///
    /// # Errors
    ///
    /// It takes not all of it.
    pub fn lay_ground(
        &mut self,
        store: &mut dyn Store,
        id: SpareId,
        history: u64,
    ) -> Result<(), JoinError> {
        self.mark(store, id, history)?;
        let copies = CopySet::all(SpareSet::one(id));
        let content =
            Content { header: &self.header, table: &self.table, durable: 0, crc: self.crc };
        let outcome = content.fill(store, copies, &|_, part| part.is_some())?;
        match copies.without(outcome.stood).iter().next() {
            Some(copy) => Err(JoinError::Write(copy)),
            None => Ok(()),
        }
    }

    /// Marks in all slots of a device, durable.
    fn mark(&self, store: &mut dyn Store, id: SpareId, history: u64) -> Result<(), JoinError> {
        let copies = CopySet::all(SpareSet::one(id));
        let mut marks = KVec::new();
        for copy in copies.iter() {
            marks.push(self.header.creation_mark(copy, history, self.crc)?, GFP_KERNEL)?;
        }
        let mut batch = KVec::with_capacity(marks.len(), GFP_KERNEL)?;
        for (copy, mark) in copies.iter().zip(marks.iter()) {
            batch.push(Write::new(id, Layout::header(copy.copy), mark), GFP_KERNEL)?;
        }
        store.write(&mut batch);
        let failed = copies.iter().zip(batch.iter()).find(|(_, write)| write.result.is_err());
        match failed {
            Some((copy, _)) => Err(JoinError::Write(copy)),
            None if !store.flush(SpareSet::one(id)).is_empty() => {
                Err(JoinError::Write(CopyId { spare: id, copy: 0 }))
            }
            None => Ok(()),
        }
    }

    /// Commits that members join and leave, with `edit`, which moves what lived with who leaves. All data
    /// that the new table speaks of is durable.
    ///
    /// # Errors
    ///
    /// Nothing has changed, or the set is in doubt.
    pub fn succeed(
        &mut self,
        store: &mut dyn Store,
        time: u64,
        change: Succession<'_>,
        edit: Option<Edit>,
        update: impl Fn(&mut Header),
    ) -> Result<Succeeded, ChangeError> {
        let mut header = self.next_header().map_err(CommitError::from)?;
        update(&mut header);
        let leaves = change.leaves.map_or(SpareSet::NONE, SpareSet::one);
        let version = self.highest.max(self.version()).saturating_add(1);
        header.begin_history(change.history, self.active().without(leaves));
        let mut joins = CopySet::NONE;
        if let Some((id, member)) = change.joins {
            header.put_spare(id, member, version).ok_or(CommitError::Memory)?;
            joins = CopySet::all(SpareSet::one(id));
        }
        if let Some(spare) = change.leaves.and_then(|id| spare_of(&mut header, id)) {
            spare.state = SpareState::Left as u8;
            spare.successor = change.joins.map_or([0; 16], |(_, member)| member.uuid);
        }
        // What group B has there is not what was before, but nothing that could be taken for it either;
        // and what was before stands with who leaves, or the others.
        self.copies.note_all(joins, CopyState::Good);
        let stale = self.copies.present().without(self.copies.in_state(CopyState::Good));
        let begun = self.prepare(header, CommitKind::Members, time, edit);
        let written = match begun {
            Ok(prepared) => prepared.write_group_a(store),
            Err(e) => {
                self.copies.note_all(joins, CopyState::Absent);
                return Err(e.into());
            }
        };
        let group_b = match written {
            Ok(in_a) => {
                let group_b = in_a.group_b();
                in_a.write_group_b(store);
                group_b
            }
            Err(in_doubt) => {
                self.copies.note_all(joins, CopyState::Absent);
                if let Some((id, _)) = change.joins {
                    // So that nobody takes for a member what is none; without that it is refused as one
                    // of another history.
                    let _ = self.mark(store, id, change.history);
                }
                return Err(in_doubt.into());
            }
        };
        // As long as not all know that the history has begun, nothing may come after it; if this fails,
        // nothing does before the doubt is over.
        let _ = self.make_known(store, time, group_b);
        let told = match change.leaves {
            Some(id) => self.tell(store, id, stale, version),
            None => 0,
        };
        self.copies.note_all(CopySet::all(leaves), CopyState::Absent);
        Ok(Succeeded { told })
    }

    /// Writes all that has changed `since` that version to who has left, and everything to those of its copies that were
    /// `stale`: some copies first, so that what was there stands until what is new does. Gives how many
    /// copies stand. All of main may be held meanwhile, so one that does not answer is not asked often.
    fn tell(&self, store: &mut dyn Store, left: SpareId, stale: CopySet, since: u64) -> usize {
        let survey = Survey::of(store, SpareSet::one(left), self.crc);
        if !survey.is_ok_and(|survey| survey.can_read(left)) {
            return 0;
        }
        let version = self.version();
        let mut changed: KVVec<bool> = KVVec::new();
        for (index, stamp, _) in self.table.blocks() {
            while changed.len() <= index.0 as usize {
                if changed.push(false, GFP_KERNEL).is_err() {
                    return 0;
                }
            }
            changed[index.0 as usize] = stamp.version >= since;
        }
        let is_new = |index: BlockIndex| changed.get(index.0 as usize).copied().unwrap_or(true);
        let lacks = |id: CopyId, part: Option<BlockIndex>| {
            part.is_none_or(|index| stale.has(id) || is_new(index))
        };
        let copies = CopySet::all(SpareSet::one(left));
        let last = copies.odd();
        let groups = [(copies.without(last), version.saturating_sub(1)), (last, version)];
        let mut stood = 0;
        for (group, durable) in groups {
            let content =
                Content { header: &self.header, table: &self.table, durable, crc: self.crc };
            stood += content.fill(store, group, &lacks).map_or(0, |outcome| outcome.stood.count());
            if stood == 0 {
                // It takes nothing, which it may take its time to say.
                break;
            }
        }
        stood
    }
}

fn spare_of(header: &mut Header, id: SpareId) -> Option<&mut RawSpare> {
    header.raw_mut().spares.get_mut(usize::from(id.0))
}
