// SPDX-License-Identifier: GPL-2.0

//! Commits that change who is in the set.
//!
//! A member that takes nothing any more is put away, and one that has come back is made active again, by
//! a commit that changes nothing else and begins a history: see the [commit](super).
//!
//! **A member that comes back** is brought up to date before that commit, by writing over what it has. If the
//! others die while that goes on, what it had must still be there. So it is flushed first, then read, and the
//! copies that are whole by themselves are written last, when the others stand. Both matter for one that went away in
//! the middle of a commit: it may have headers of it and not their blocks, or all of it in a cache only.

use core::fmt;

use super::super::copies::{CopySet, CopyState};
use super::super::format::header::Header;
use super::super::format::{CommitKind, SpareState};
use super::super::recovery::{newest_on_each, older, Older, Stand, Survey};
use super::super::store::{SpareSet, Store};
use super::super::units::SpareId;
use super::{CommitError, InDoubt, Metadata, Prepared};

impl Metadata {
    /// Begins a commit that changes which members are active, and nothing of the table: see
    /// [`begin`](Self::begin).
    ///
    /// # Errors
    ///
    /// Nothing has changed then. [`CommitError::TooFewCopies`] also where no member would be left.
    fn begin_members(
        &mut self,
        time: u64,
        change: &MemberChange,
        update: impl FnOnce(&mut Header),
    ) -> Result<Prepared<'_>, CommitError> {
        let mut header = self.next_header()?;
        update(&mut header);
        header.begin_history(change.history, self.active().without(change.away));
        for (i, spare) in header.raw_mut().spares.iter_mut().enumerate() {
            let id = SpareId(i as u8);
            if change.away.has(id) {
                spare.state = SpareState::Away as u8;
            } else if change.back.has(id) {
                spare.state = SpareState::Active as u8;
            }
        }
        self.prepare(header, CommitKind::Members, time, None)
    }

    /// Writes every copy on these active members anew, whole, but for those that somebody else has written over, as of the newest durable state, and
    /// gives those members that took none. The set can go on without them if they are
    /// [put away](Self::change_members). Nothing is done when that would leave no member.
    ///
    /// # Errors
    ///
    /// Without memory; see [`CommitError`].
    pub(crate) fn still_out(
        &mut self,
        store: &mut dyn Store,
        members: SpareSet,
    ) -> Result<SpareSet, CommitError> {
        // Of who has been written over everywhere nothing is found out.
        let copies = CopySet::all(members.and(self.active())).without(self.overwritten);
        let members = copies.spares();
        if members.is_empty() || members == self.active() {
            return Ok(SpareSet::NONE);
        }
        let good = self.copies.in_state(CopyState::Good).and(copies);
        self.copies.note_all(copies, CopyState::Stale);
        let stood = self.fill(store, copies, good)?;
        Ok(members.without(stood.spares()))
    }

    /// After a commit that did not reach `lost`: puts those of them away that take nothing any more,
    /// with a commit at `time` of the newest durable state, and gives those. `history`, drawn at
    /// random, begins with it; `update` changes whatever else it likes in the header. Copies that somebody else has written over stay so, and
    /// who has only such is not put away.
    ///
    /// # Errors
    ///
    /// The set cannot go on without them, or is in doubt.
    pub fn go_on_without(
        &mut self,
        store: &mut dyn Store,
        time: u64,
        lost: SpareSet,
        history: u64,
        update: impl Fn(&mut Header),
    ) -> Result<SpareSet, ChangeError> {
        let away = self.still_out(store, lost)?;
        if away.is_empty() {
            return Ok(away);
        }
        let change = MemberChange { away, back: SpareSet::NONE, history };
        let away = self.change_members(store, time, change, update)?.away;
        // What the commit has touched on the others counts again; what fails is left out.
        let stale = self.copies.in_state(CopyState::Stale).without(self.overwritten);
        let _ = self.fill(store, stale, CopySet::NONE);
        Ok(away)
    }

    /// Commits a change of the members. Those that turn out to take nothing are put away with it, or
    /// stay away. Returns what has become of it.
    ///
    /// # Errors
    ///
    /// Nothing has changed, or the set is in doubt; or the change stands, and there was no memory, or too few
    /// copies were left, to tell everybody of it: who is [active](Self::active) says which.
    pub fn change_members(
        &mut self,
        store: &mut dyn Store,
        time: u64,
        mut change: MemberChange,
        update: impl Fn(&mut Header),
    ) -> Result<MemberChange, ChangeError> {
        loop {
            let lost = match self.begin_members(time, &change, &update)?.write_group_a(store) {
                Ok(in_a) => {
                    let group_b = in_a.group_b();
                    in_a.write_group_b(store);
                    return self.make_known(store, time, group_b).map(|()| change);
                }
                Err(in_doubt) if in_doubt.is_of_memory() => return Err(in_doubt.into()),
                Err(in_doubt) => in_doubt.lost,
            };
            // Each time round there are fewer left.
            let back = change.back.and(lost);
            change.back = change.back.without(lost);
            let others = self.active().without(change.away).without(lost);
            let out = match others.is_empty() {
                true => SpareSet::NONE,
                false => self.still_out(store, lost)?,
            };
            if out.is_empty() && back.is_empty() {
                return Err(ChangeError::InDoubt);
            }
            change.away = change.away.with(out);
            // What the commit has touched on the others is to count again.
            let stale = self.copies.in_state(CopyState::Stale).without(self.overwritten);
            self.fill(store, stale, CopySet::NONE)?;
        }
    }

    /// A member without a copy of group B does not know yet that a history has begun
    /// ([`Header::known_durable`]): another commit tells it.
    pub(super) fn make_known(
        &mut self,
        store: &mut dyn Store,
        time: u64,
        group_b: CopySet,
    ) -> Result<(), ChangeError> {
        let known = group_b.and(self.copies.in_state(CopyState::Good)).spares();
        if self.active().without(known).is_empty() {
            return Ok(());
        }
        match self.begin(CommitKind::Members, time, None, |_| {})?.write_group_a(store) {
            Ok(in_a) => {
                in_a.write_group_b(store);
                Ok(())
            }
            Err(in_doubt) => Err(in_doubt.into()),
        }
    }

    /// Takes members back that are away, as far as they answer and can be flushed, with a commit at `time`,
    /// and gives those. They are brought up to date first, and only where all that stands on them is older than
    /// what is in use. `history`, drawn at random, begins with it.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Foreign`]: something else than an ancestor stands on that member, which is left
    /// alone; so is one that is [older](ChangeError::Older) than it was. Otherwise nothing has changed, or the set is in doubt.
    pub fn take_back(
        &mut self,
        store: &mut dyn Store,
        time: u64,
        history: u64,
        update: impl Fn(&mut Header),
    ) -> Result<SpareSet, ChangeError> {
        if self.header.read_only() {
            return Err(CommitError::ReadOnly.into());
        }
        let away = self.away().and(store.spares());
        // What is read there has to be what a power cut leaves: some of it is written over, some kept.
        let away = away.without(store.flush(away));
        let survey = Survey::of(store, away, self.crc).map_err(CommitError::from)?;
        let mut back = SpareSet::NONE;
        for member in away.iter() {
            if self.is_what_went_away(&survey, member)? {
                back.add(member);
            }
        }
        if back.is_empty() {
            return Ok(back);
        }
        let newest =
            newest_on_each(store, &survey, &self.header, self.crc).map_err(CommitError::from)?;
        let copies = CopySet::all(back);
        self.copies.note_all(copies, CopyState::Stale);
        let stood = self.fill(store, copies, newest);
        let result = stood.map_err(ChangeError::from).and_then(|stood| {
            let change = MemberChange { away: SpareSet::NONE, back: stood.spares(), history };
            match change.is_none() {
                true => Ok(change),
                false => self.change_members(store, time, change, update),
            }
        });
        self.away_again();
        result.map(|change| change.back)
    }

    /// Whether what stands on a member that is away is what went away: older than what is in use, all of it, and not older than what it had.
    /// `false` where no header is whole.
    ///
    /// # Errors
    ///
    /// What it is, as by [`take_back`](Self::take_back).
    pub fn is_what_went_away(&self, survey: &Survey, member: SpareId) -> Result<bool, ChangeError> {
        let mut ours = false;
        for (id, found) in survey.headers().filter(|(id, _)| id.spare == member) {
            let same = found.uuid() == self.header.uuid()
                && found.member(member) == self.header.member(member);
            if !same || !self.header.supersedes(found) {
                return Err(ChangeError::Foreign(Stand::of(id, found)));
            }
            ours = true;
        }
        match older(survey, &self.header, member) {
            Some(Older { found, durable }) => {
                Err(ChangeError::Older { spare: member, found, durable })
            }
            None => Ok(ours),
        }
    }

    /// Members that are away take part in nothing.
    pub(crate) fn away_again(&mut self) {
        self.copies.note_all(CopySet::all(self.away()), CopyState::Absent);
    }
}

/// Why the members were not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeError {
    /// The commit is in doubt.
    InDoubt,
    /// There was none.
    Commit(CommitError),
    /// This is no ancestor of what is in use.
    Foreign(Stand),
    /// This spare is an older image of the member that went away.
    Older {
        /// Which spare.
        spare: SpareId,
        /// The newest version on it.
        found: u64,
        /// The version that it had when it went.
        durable: u64,
    },
}

impl From<CommitError> for ChangeError {
    fn from(e: CommitError) -> Self {
        Self::Commit(e)
    }
}

impl From<InDoubt> for ChangeError {
    fn from(in_doubt: InDoubt) -> Self {
        match in_doubt.is_of_memory() {
            true => Self::Commit(CommitError::Memory),
            false => Self::InDoubt,
        }
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InDoubt => f.write_str("the change of the members is in doubt; try `save`"),
            Self::Commit(e) => e.fmt(f),
            Self::Older { spare, found, durable } => write!(
                f,
                "spare {spare} has come back as an older image of itself, a clone or a snapshot perhaps: it has version {found} of the metadata and had version {durable}, so its data is old too; it stays away, give the device that was in use, or wipe it to make a new spare of it"
            ),
            Self::Foreign(stand) => write!(
                f,
                "a spare has come back with what did not come from the state in use ({stand}); it stays away, choose with `dmremap repair --use` after a dump"
            ),
        }
    }
}

/// Which members become active, or cease to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemberChange {
    /// These are put away.
    pub away: SpareSet,
    /// These are active again; all that the set has stands on them.
    pub back: SpareSet,
    /// The history that begins with it, drawn at random.
    pub history: u64,
}

impl MemberChange {
    /// Whether nothing changes.
    pub const fn is_none(&self) -> bool {
        self.away.is_empty() && self.back.is_empty()
    }
}
