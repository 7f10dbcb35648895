// SPDX-License-Identifier: GPL-2.0

//! Commits of a set in use: what is staged, what people ask for, and what follows from a commit for
//! the members, the places and the doubts. All of it with `meta` held.

use super::{
    changes::{edit_of, Tally},
    counters::Errors,
    engine::{random_number, Doubt, Info, Staged, Told},
    job::Kind,
    live,
    moves::Change,
    view::Mode,
    Remap,
};
use crate::{
    dm::{compat::ESTALE, system},
    metadata,
    pure::{
        commit::{ChangeError, CommitError, Metadata, Persist},
        copies::CopyState,
        format::{header::Header, CommitKind},
        mem::KVec,
        places::Place,
        settings,
        store::SpareSet,
        table::{Edit, EditError, Table},
        units::Extent,
    },
};
use kernel::{prelude::*, sync::atomic::Relaxed};

/// How long copies that could not be written anew are left alone by those that nobody waits for, in seconds.
const MEND_PAUSE: u64 = 10;

/// Longer, where trying took long: so many times what it took, but no more than an hour.
const SHARE: u64 = 10;
const MOST_PAUSE: u64 = 3600;

impl Remap {
    /// Commits parts that are staged.
    pub(super) fn commit_batch(
        &self,
        meta: &mut Metadata,
        mut batch: KVec<Staged>,
        told: &mut Told,
    ) {
        if self.in_maintenance() {
            // It was begun before, and nobody has asked for it.
            batch.retain(|staged| {
                let own = staged.job.kind.is_own();
                if own {
                    self.fail(staged, EIO, told);
                }
                !own
            });
        }
        let needed = |batch: &KVec<Staged>| {
            let mut needed = SpareSet::NONE;
            batch.iter().for_each(|staged| needed.0 |= staged.written.spares.0);
            needed
        };
        // What was put away since the data was written there takes no part in this.
        let away = needed(&batch).without(meta.active());
        self.fail_those_on(&mut batch, away, EAGAIN, told);
        let needed = needed(&batch);
        let unflushed = metadata::flush(&self.spares, needed, &self.pool);
        if let Some(id) = unflushed.iter().next() {
            self.say_trouble(format_args!(
                "{} failed to flush; what was to move there is written once more",
                self.device_of(id)
            ));
            // If it takes nothing any more, another one will.
            self.go_on_without(meta, unflushed);
            self.fail_those_on(&mut batch, unflushed, EAGAIN, told);
        }
        // One that was put away and is back has lost what it had; a flush of somebody else that has failed meanwhile may have taken the data along: it is written once more.
        batch.retain(|staged| {
            let lost = !staged.written.lost_on(self, staged.written.spares).is_empty();
            if lost {
                self.fail(staged, EAGAIN, told);
            }
            !lost
        });
        if batch.is_empty() {
            return;
        }
        let gone = match self.try_batch(meta, batch, told) {
            Ok(()) => return,
            Err((e, again)) => {
                batch = again;
                let gone = self.go_on_without(meta, e.lost());
                if gone.is_empty() && !self.mend_for(meta, &e) {
                    return self.give_up_batch(meta, batch, e, told);
                }
                gone
            }
        };
        self.fail_those_on(&mut batch, gone, EAGAIN, told);
        if batch.is_empty() {
            return;
        }
        if let Err((e, batch)) = self.try_batch(meta, batch, told) {
            self.give_up_batch(meta, batch, e, told);
        }
    }

    /// Copies that failed to be written once, each at another time perhaps, may take it now. So where a commit was not
    /// begun for too few that are good, they are written anew, unless they are what somebody else has written; or were
    /// just now, in vain. `true`: it may be tried again.
    fn mend_for(&self, meta: &mut Metadata, why: &CommitFailure) -> bool {
        let few = matches!(
            why,
            CommitFailure::NotBegun(CommitError::TooFewCopies { .. } | CommitError::NoCopyOn(_))
        );
        if !few || self.too_few_copies.lasts() {
            return false;
        }
        let mended = meta.mend(&mut self.store());
        if mended == Ok(None) {
            return false;
        }
        let enough = mended.is_ok() && meta.persist() != Persist::Failed;
        if !enough {
            // Nor is it tried again after this.
            self.too_few_copies.begin(MEND_PAUSE);
            self.bad_copies.begin(MEND_PAUSE);
        }
        enough
    }

    /// After a commit: copies that missed it are written anew, and those that could not be written, as that may have been so
    /// once only; where it is not, they are left alone for a while. So copies that fail one after the other, each once, are never
    /// all lost.
    pub(super) fn mend_after(&self, meta: &mut Metadata) {
        if meta.in_doubt() || self.in_maintenance() {
            return;
        }
        let any = |meta: &Metadata, state| !meta.copies().in_state(state).is_empty();
        let rest = self.bad_copies.lasts();
        if !any(meta, CopyState::Stale) && (rest || !any(meta, CopyState::Bad)) {
            return;
        }
        let began = system::real_seconds();
        if meta.mend(&mut self.store()) == Ok(None) {
            return;
        }
        if any(meta, CopyState::Bad) {
            // Writes that are to move wait meanwhile.
            let took = system::real_seconds().abs_diff(began);
            self.bad_copies.begin(took.saturating_mul(SHARE).clamp(MEND_PAUSE, MOST_PAUSE));
        }
        self.note(meta);
    }

    /// The same, once those whose commit it was have been told, and nobody waits for another, nor for the device to be suspended.
    pub(super) fn mend_when_done(&self) {
        let mut guard = self.meta.lock();
        let Some(meta) = (*guard).as_mut() else { return };
        let state = self.state.lock();
        let waited_for = state.stopping || !state.staged.is_empty();
        drop(state);
        if !waited_for {
            self.mend_after(meta);
        }
    }

    /// Gives up those parts whose data is on one of `spares`.
    fn fail_those_on(
        &self,
        batch: &mut KVec<Staged>,
        spares: SpareSet,
        error: Error,
        told: &mut Told,
    ) {
        batch.retain(|staged| {
            let lost = !staged.written.spares.and(spares).is_empty();
            if lost {
                self.fail(staged, error, told);
            }
            !lost
        });
    }

    /// The commit of these parts has not come about.
    fn give_up_batch(
        &self,
        meta: &mut Metadata,
        batch: KVec<Staged>,
        e: CommitFailure,
        told: &mut Told,
    ) {
        let full = matches!(e, CommitFailure::NotBegun(CommitError::Edit(EditError::Full)));
        if full && batch.len() > 1 {
            // Some of it may fit.
            for staged in batch {
                let mut one = KVec::new();
                if one.reserve(1, GFP_KERNEL).is_err() {
                    self.fail(&staged, ENOMEM, told);
                } else if one.push_within_capacity(staged).is_ok() {
                    self.commit_batch(meta, one, told);
                }
            }
            return;
        }
        if matches!(e, CommitFailure::InDoubt(_)) && meta.in_doubt() {
            return self.doubt(batch, told);
        }
        let e = Error::from(e);
        batch.iter().for_each(|staged| self.fail(staged, e, told));
    }

    /// Commits parts whose data is durable; gives them back with the reason if that fails.
    fn try_batch(
        &self,
        meta: &mut Metadata,
        batch: KVec<Staged>,
        told: &mut Told,
    ) -> core::result::Result<(), (CommitFailure, KVec<Staged>)> {
        let kind = match batch[0].job.kind {
            Kind::Unremap => CommitKind::Unremap,
            _ => CommitKind::Remap,
        };
        let edit = match edit_of(meta.table(), &batch, meta.active()) {
            Ok(edit) => edit,
            Err(e) => {
                if e != EditError::Full || batch.len() == 1 {
                    if e == EditError::Full {
                        self.table_is_full();
                    }
                    self.say_trouble(format_args!(
                        "{e}; a new set has room for more with max_remaps"
                    ));
                }
                return Err((CommitFailure::NotBegun(CommitError::Edit(e)), batch));
            }
        };
        let tally = Tally::of(&batch);
        let result = self.commit(
            meta,
            kind,
            Some(edit),
            |header| tally.add_to(header),
            |table| self.publish_batch(table, &batch),
        );
        match result {
            Ok(()) => {
                self.state.lock().untold.add(&tally);
                for staged in batch {
                    let _ = told.push((staged.job, Ok(())), GFP_KERNEL);
                }
                Ok(())
            }
            Err(e) => Err((e, batch)),
        }
    }

    /// After a commit or a flush that did not reach `lost`: the set goes on without those of them that
    /// take nothing any more. Gives those.
    pub(super) fn go_on_without(&self, meta: &mut Metadata, lost: SpareSet) -> SpareSet {
        let errors = self.counters.errors();
        let (time, history) = (system::real_seconds(), random_number());
        let add = |header: &mut Header| errors.add_to(header);
        let gone = match meta.go_on_without(&mut self.store(), time, lost, history, add) {
            Ok(gone) => gone,
            Err(e) => {
                self.say_trouble(format_args!("{e}"));
                self.note(meta);
                return SpareSet::NONE;
            }
        };
        if !gone.is_empty() {
            self.note_with(meta, &errors);
        }
        gone
    }

    /// Finds out whether the spares that have failed in a way that leaves no place to blame take anything; the set goes on without
    /// those that do not. Those that do are left alone for a while.
    pub(super) fn look_at_suspects(&self, meta: &mut Metadata) {
        if meta.in_doubt() || self.suspicions.lasts() || !self.writable || self.in_maintenance() {
            return;
        }
        let mut suspects = SpareSet::NONE;
        let members =
            self.each_spare().filter(|(_, spare)| spare.was_suspected() && spare.is_member());
        members.for_each(|(id, _)| suspects.add(id));
        if !suspects.is_empty() && self.go_on_without(meta, suspects).is_empty() {
            self.suspicions.begin(MEND_PAUSE);
            // Some of its copies may have failed.
            self.note(meta);
        }
    }

    /// Takes back the spares that are away and answer.
    ///
    /// # Errors
    ///
    /// `ESTALE` where something stands on one that did not come from what is in use, or that is older than it was.
    pub(super) fn take_back(&self, meta: &mut Metadata) -> Result {
        if meta.away().is_empty() || meta.in_doubt() {
            return Ok(());
        }
        let errors = self.counters.errors();
        let (time, history) = (system::real_seconds(), random_number());
        let add = |header: &mut Header| errors.add_to(header);
        let result = meta.take_back(&mut self.whole_store(), time, history, add);
        match result {
            Ok(back) if back.is_empty() => Ok(()),
            Ok(_) => {
                self.note_with(meta, &errors);
                Ok(())
            }
            Err(e) => {
                self.say_error(format_args!("{e}"));
                self.note(meta);
                let stale = matches!(e, ChangeError::Foreign(_) | ChangeError::Older { .. });
                Err(if stale { ESTALE } else { EIO })
            }
        }
    }

    /// The commit of these parts has happened.
    fn publish_batch(&self, table: &Table, batch: &[Staged]) {
        let mut state = self.state.lock();
        state.table = table.clone();
        for staged in batch {
            state.remove_hold(staged.part);
            for change in &staged.changes {
                // A mark alone does not change what stands there.
                let marks = matches!(change, Change::Suspect(_, _, _, true));
                if let Some(extent) = change.extent().filter(|_| !marks) {
                    if !state.forget_copied(extent) {
                        self.mirror_broke.store(true, Relaxed);
                    }
                }
                match *change {
                    Change::Free(spare, start, len)
                    | Change::Back(Extent { len, .. }, Some((spare, start))) => {
                        // Without memory the room is lost until the set is activated again.
                        let _ = state.limbo.push((spare, Place { start, len }), GFP_KERNEL);
                    }
                    Change::Retire(spare, start, len, _) => {
                        state.retire_place(spare, Place { start, len });
                    }
                    _ => {}
                }
            }
        }
        let waiting = self.publish_reserved(&mut state);
        drop(state);
        self.send_on(waiting);
    }

    /// Lets go of a part that will not be committed.
    pub(super) fn fail(&self, staged: &Staged, error: Error, told: &mut Told) {
        self.give_back(&staged.changes);
        self.let_go(staged.part);
        let _ = told.push((staged.job.clone(), Err(error)), GFP_KERNEL);
    }

    /// Answers I/O to these parts with errors, until the doubt is over.
    fn doubt(&self, batch: KVec<Staged>, told: &mut Told) {
        let mut state = self.state.lock();
        for Staged { job, part, changes, .. } in batch {
            let mut job = Some(job);
            if let Some(own) = job.take_if(|job| job.kind.is_own()) {
                // A caller waits for it, and may be what a suspend waits for.
                let _ = told.push((own, Err(EIO)), GFP_KERNEL);
            }
            for hold in state.holds.iter_mut().filter(|hold| hold.extent == part) {
                hold.mode = Mode::Failing;
            }
            // There is room for every hold.
            let _ = state.doubtful.push(Doubt { job, part, changes }, GFP_KERNEL);
        }
        // They are not to wait for that.
        state.wake_waiters();
        let waiting = self.publish_reserved(&mut state);
        drop(state);
        self.send_on(waiting);
    }

    /// A commit of the table as it is. If it does not come about, copies that can be written again are
    /// written anew, to commit to more of them; not those that somebody else has written.
    pub(super) fn commit_or_repair(
        &self,
        meta: &mut Metadata,
        kind: CommitKind,
        update: impl Fn(&mut Header),
    ) -> core::result::Result<(), CommitFailure> {
        self.commit(meta, kind, None, &update, |_| ()).or_else(|e| {
            let alone = self.go_on_without(meta, e.lost()).is_empty();
            if alone && meta.mend(&mut self.store()) == Ok(None) {
                return Err(e);
            }
            self.commit(meta, kind, None, &update, |_| ())
        })
    }

    /// One commit, with both groups. `durable` is called when it has happened, before group B is
    /// written; what it gives is given back.
    pub(super) fn commit<R>(
        &self,
        meta: &mut Metadata,
        kind: CommitKind,
        edit: Option<Edit>,
        update: impl FnOnce(&mut Header),
        durable: impl FnOnce(&Table) -> R,
    ) -> core::result::Result<R, CommitFailure> {
        let mut store = self.store();
        let errors = self.counters.errors();
        let prepared = meta.begin(kind, system::real_seconds(), edit, |header| {
            errors.add_to(header);
            self.add_monitor(header);
            update(header);
        });
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(e) => {
                self.say_trouble(format_args!("{e}"));
                self.note(meta);
                return Err(CommitFailure::NotBegun(e));
            }
        };
        let durable = match prepared.write_group_a(&mut store) {
            Ok(in_a) => {
                let given = durable(in_a.table());
                in_a.write_group_b(&mut store);
                given
            }
            Err(e) => {
                self.say_trouble(format_args!("{e}"));
                self.note(meta);
                // Without memory for it, nothing is written.
                return Err(match e.is_of_memory() {
                    true => CommitFailure::NotBegun(CommitError::Memory),
                    false => CommitFailure::InDoubt(e.lost),
                });
            }
        };
        self.note_with(meta, &errors);
        Ok(durable)
    }

    /// A commit for a person, who is told that all is well only if every good copy has it, and enough copies
    /// are good. Copies that are not are written anew first, those whose place was bad too.
    ///
    /// # Errors
    ///
    /// It has not come about, or is in doubt; or it has, in too few copies: `last_error` says which.
    pub(crate) fn commit_for_person(
        &self,
        meta: &mut Metadata,
        kind: CommitKind,
        update: impl Fn(&mut Header),
    ) -> Result {
        // What a person asks for is the commit; a `save` says that it does more.
        let save = kind == CommitKind::Save;
        let mend = save || !self.in_maintenance();
        // A commit would find nothing to write to where somebody else has written over all copies.
        let doubt = meta.in_doubt() && !(save && meta.is_overwritten());
        if mend && meta.persist() != Persist::Enabled && !doubt {
            // What cannot be written is left out, and says so in the status. What somebody else has written goes only by a `save`, also on a
            // spare that was away, and may have been used for something else meanwhile.
            if save {
                let _ = meta.repair(&mut self.store());
                // What stays away has been said.
                let _ = self.take_back(meta);
            } else {
                let _ = meta.mend(&mut self.store());
            }
        }
        self.commit_or_repair(meta, kind, update)?;
        // It has happened. What did not take it a moment ago may take it now.
        if mend && meta.persist() == Persist::Failed {
            let _ = meta.mend(&mut self.store());
            self.note(meta);
        }
        if meta.persist() == Persist::Failed {
            self.say_error(format_args!(
                "done and in force as version {}, but in too few copies of the metadata: nothing can be changed any more, and the loss of one more may lose it; check the spares, then `repair`",
                meta.version()
            ));
            return Err(EIO);
        }
        Ok(())
    }

    /// Takes over what is known of the metadata, frees what both groups say is free, and tells
    /// people what has changed.
    pub(super) fn note(&self, meta: &Metadata) {
        self.note_with(meta, &Errors::default());
    }

    /// [`note`](Self::note), after a commit that has taken these errors along.
    fn note_with(&self, meta: &Metadata, errors: &Errors) {
        let mut state = self.state.lock();
        let before = state.info.persist;
        let who = |info: &Info| (info.members, info.active.with(info.away));
        let (was_away, were) = (state.info.away, who(&state.info));
        state.know(meta);
        let others = who(&state.info) != were;
        let (members, active, away) = (state.info.members, state.info.active, state.info.away);
        let set = state.info.uuid;
        self.mark_roles(active, away);
        self.counters.taken(errors);
        let now = state.info.persist;
        // A copy that is stale still says that the places are in use, and may be all that is left.
        if !meta.in_doubt() && meta.copies().in_state(CopyState::Stale).is_empty() {
            let limbo = core::mem::take(&mut state.limbo);
            let freed = !limbo.is_empty();
            for (spare, place) in limbo {
                state.free_place(spare, place);
            }
            if freed {
                let left = state.free_on(active).0;
                state.spares_full.see(left);
            }
        }
        let left = state.table.entries_left();
        state.table_full.see(left);
        let maintenance = self.note_settings(&state.info.settings);
        let threshold = state.info.settings.get(&settings::ALERT_THRESHOLD);
        let room = state.room().0.max(1);
        let percent = state.used().0.saturating_mul(100) / room;
        let alert = threshold > 0 && percent >= threshold;
        let alert_now = alert && !state.alerted;
        state.alerted = alert;
        drop(state);
        live::members(self.number(), set, members, active, away);
        if others {
            self.refresh_folders();
        }
        if was_away != away {
            self.tell_of_members(meta, was_away);
        }
        if maintenance {
            self.tell_of_maintenance();
        }
        if now != before {
            match now {
                Persist::Enabled => log_info!("{self}: all copies of the metadata are current"),
                _ => log_warn!("{self}: metadata is {}; try the message 'save'", now.name()),
            }
            self.tell("persist");
        }
        if alert_now {
            log_warn!("{self}: {percent} % of the spare room is in use");
            self.tell("spare-room");
        }
        self.tell_of_health();
    }
}

impl Remap {
    /// Tells people which spares have gone, and which have come back.
    pub(super) fn tell_of_members(&self, meta: &Metadata, was_away: SpareSet) {
        let away = meta.away();
        let changed = away.without(was_away).with(was_away.without(away));
        for id in changed.iter() {
            let uuid = meta.header().member(id);
            match self.spare(id) {
                Some(spare) if away.has(id) => log_warn!(
                    "{self}: spare {id} ({}, {uuid}) is away; what lives there gives errors until it is back, then try 'repair'",
                    spare.device
                ),
                None if away.has(id) => log_warn!("{self}: spare {id} ({uuid}) is away"),
                _ => log_info!("{self}: spare {id} ({uuid}) is back and up to date"),
            }
            self.tell(if away.has(id) { "spare-away" } else { "spare-back" });
        }
    }
}

/// Why a commit did not come about.
pub(crate) enum CommitFailure {
    /// Nothing was written.
    NotBegun(CommitError),
    /// Something may have been; it did not reach these.
    InDoubt(SpareSet),
}

impl CommitFailure {
    /// The active members that it did not reach.
    fn lost(&self) -> SpareSet {
        match *self {
            Self::NotBegun(CommitError::NoCopyOn(spare)) => SpareSet::one(spare),
            Self::NotBegun(_) => SpareSet::NONE,
            Self::InDoubt(lost) => lost,
        }
    }
}

impl From<CommitFailure> for Error {
    fn from(failure: CommitFailure) -> Self {
        match failure {
            CommitFailure::NotBegun(CommitError::Memory) => ENOMEM,
            CommitFailure::NotBegun(CommitError::ReadOnly) => EROFS,
            CommitFailure::NotBegun(CommitError::Edit(EditError::Full)) => ENOSPC,
            CommitFailure::NotBegun(CommitError::Edit(_)) => ENOMEM,
            _ => EIO,
        }
    }
}
