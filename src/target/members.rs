// SPDX-License-Identifier: GPL-2.0

//! Members that join and leave while the set is in use: adding a spare, removing one, and replacing one
//! by another (migration).
//!
//! Each is a job ([`Kind::Members`]). One that takes a spare away first brings to another place what
//! lives there, part by part, each held and drained; then it holds all of main for the commit that
//! changes who is in the set ([`Metadata::succeed`]).
//!
//! # A migration is invisible until its one commit
//!
//! What is copied is kept in a [`Shadow`], not in the table. From the first copied block on
//!
//! - what is written to a copied block of the old spare goes to both ([`Remap::mirror_later`]); the
//!   caller is answered when both have, with what the old spare has said;
//! - the new spare is in every flush;
//! - what changes an extent in another way (a rescue, a commit of any job) has it forgotten before the
//!   change is acknowledged, so it is copied again.
//!
//! When all that lives on the old spare has been copied, all of main is held: no bio is under way, no
//! rescue is, so the copies are what is there. Then the new spare is flushed, the commit made, the new
//! table published. An error of the new spare at any time before ends it; nothing has changed then.
//!
//! While the commit is in doubt, the next activation may find the new spare or the old one: the hold
//! gives way to a mirror that is *frozen*, which answers writes to what lives on the old spare with
//! errors, until the doubt is over. That ends the migration: the set is the old one.

use super::{
    commits::CommitFailure,
    construct::facts,
    engine::{random_number, random_uuid, State},
    job::PART,
    looks::Noted,
    moves::{Buffers, Change, Progress, Source},
    roster::Roster,
    view::Mirror,
    Remap,
};
use crate::{
    dm::{
        bio::{HeldBio, Status},
        compat::{ENODATA, EUCLEAN},
        io::Span,
        system::{self, MemScope},
    },
    metadata::{self, SpareStore},
    pure::{
        commit::{ChangeError, Metadata, Succession},
        entry::Entry,
        format::{
            header::{Header, NewSpare},
            raw::RawStatistics,
            CommitKind,
        },
        health::Member,
        identity::fingerprint,
        mem::KVec,
        places::{Place, Places},
        shadow::Shadow,
        shortage::Shortage,
        store::SpareSet,
        table::Edit,
        units::{Extent, MainSector, Sectors, SpareId, SpareSector},
    },
};
use kernel::{
    prelude::*,
    str::CString,
    sync::{atomic::Relaxed, rcu, Arc, ArcBorrow},
};

/// Extents that the kernel log names when they are lost; the table lists all.
const NAMED: usize = 16;

/// A spare whose data is being brought away.
pub(crate) struct Migration {
    /// What has been copied to who joins; or, where nobody does, what cannot be read.
    shadow: Shadow,
    /// Those of who joins.
    places: Places,
    /// That of who joins.
    generation: u8,
    /// What could not be read has been tried again.
    tried_again: bool,
    /// It is over, and nobody knows how.
    pub(super) frozen: bool,
}

impl Migration {
    /// Whether there is something to be tried again: what could not be read, once, if its spare answers.
    fn try_again(&mut self, answers: bool) -> Result<bool> {
        let lost = self.shadow.lost()?;
        if lost.is_empty() || !answers || core::mem::replace(&mut self.tried_again, true) {
            return Ok(false);
        }
        for extent in lost {
            self.shadow.forget(extent).map_err(|_| ENOMEM)?;
        }
        Ok(true)
    }

    /// What I/O sees of it.
    pub(super) fn mirror(&self) -> Mirror {
        let copied = self.shadow.table().clone();
        let generation = self.generation;
        Mirror { from: self.shadow.from, copied, generation, frozen: self.frozen }
    }
}

/// Where a bio's next part goes, for who sends it to two.
pub(super) enum Both {
    /// This many sectors also go there.
    Also(Sectors, SpareId, SpareSector),
    /// This many go only where they live.
    Only(Sectors),
    /// They are on their way to be given up, and are written now.
    Lost(Sectors),
    /// Nothing is written there.
    Refused,
}

impl Mirror {
    /// What becomes of the `len` sectors from `start` on, which live where `entry` says.
    pub(super) fn both(&self, start: MainSector, len: Sectors, entry: Option<Entry>) -> Both {
        let place = entry.filter(|entry| entry.extent.start <= start);
        let place = place.and_then(|entry| entry.mapping.place());
        if place.is_none_or(|(spare, _)| spare != self.from) {
            return Both::Only(len);
        }
        if self.frozen {
            return Both::Refused;
        }
        match self.copied.lookup(start, len) {
            None => Both::Only(len),
            Some(copied) if copied.extent.start > start => Both::Only(copied.extent.start - start),
            Some(copied) => {
                let len = len.min(copied.extent.end() - start);
                match copied.mapping.advance(start - copied.extent.start).place() {
                    Some((spare, at)) => Both::Also(len, spare, at),
                    None => Both::Lost(len),
                }
            }
        }
    }
}

impl State {
    /// What was copied of an extent counts no more, from when what is published says so. `false`: there is
    /// no memory for that.
    pub(super) fn forget_copied(&mut self, extent: Extent) -> bool {
        match &mut self.migration {
            Some(migration) if !migration.frozen => migration.shadow.forget(extent).is_ok(),
            _ => true,
        }
    }
}

impl Remap {
    /// A write that goes to two spares is to be sent, where memory can be waited for. In any context.
    pub(super) fn mirror_later(this: ArcBorrow<'_, Self>, bio: HeldBio<Self>) {
        // As in `rescue_later`.
        let _reading = rcu::read_lock();
        this.mirrored.push(bio);
        Self::kick(&this.into());
    }

    /// Sends the writes that go to two spares.
    pub(super) fn send_mirrored(&self) {
        self.send_on(self.mirrored.take());
    }

    /// What was written to a second spare has been answered.
    pub(super) fn mirrored(&self, spare: SpareId, status: Status) {
        match self.spare(spare) {
            Some(device) if status.is_ok() => device.cache.acknowledge(),
            _ => {
                self.counters.error(Some(Member::Spare(spare)), false);
                self.mirror_broke.store(true, Relaxed);
            }
        }
    }

    /// What was copied of an extent counts no more; the change of it may be acknowledged after this.
    pub(super) fn forget_copied(&self, extent: Extent) {
        // Rescues wait for this lock.
        let _scope = MemScope::from_reserves();
        let mut state = self.state.lock();
        let Some(migration) = &state.migration else { return };
        if migration.frozen || migration.shadow.table().lookup(extent.start, extent.len).is_none() {
            return;
        }
        let forgotten = state.forget_copied(extent);
        match state.view(None) {
            Ok(view) if forgotten => {
                let retired = self.front.replace(view, &state.drawn);
                state.retire(retired);
            }
            // What is kept is not what is there: it ends.
            _ => self.mirror_broke.store(true, Relaxed),
        }
    }

    /// Whether nothing is written to that spare, as nobody knows whether it is a member.
    pub(super) fn is_frozen(&self, spare: SpareId) -> bool {
        let state = self.state.lock();
        state.migration.as_ref().is_some_and(|m| m.frozen && m.shadow.from == spare)
    }

    /// What a change of the members begins with.
    ///
    /// # Errors
    ///
    /// What is in the way has been said; nothing has changed.
    pub(super) fn begin_members(&self, roster: &Roster) -> Result {
        let mut guard = self.meta.lock();
        let meta = (*guard).as_mut().ok_or(EBUSY)?;
        if let Some(id) = roster.joins {
            let mut store = self.store_of(roster);
            meta.may_join(&mut store, id, roster.overwrite).map_err(|e| {
                self.say_error(format_args!("{}: {e}", self.device_of(id)));
                EINVAL
            })?;
        }
        self.mirror_broke.store(false, Relaxed);
        let Some(leaves) = roster.leaves else { return Ok(()) };
        let needed = meta.table().totals().on_spare.get(usize::from(leaves.0)).copied();
        let needed = needed.unwrap_or_default();
        let others = meta.active().without(SpareSet::one(leaves));
        let (places, room) = match roster.joins {
            None => (Places::new(&[], self.block_sectors())?, self.state.lock().free_on(others)),
            Some(to) => {
                let places = self.empty_places(meta, to)?;
                let room = places.room();
                (places, room)
            }
        };
        if room < needed {
            self.say_error(format_args!(
                "there is room for {room} sectors, and {needed} have to move; give a larger device"
            ));
            return Err(ENOSPC);
        }
        let shadow = Shadow::new(leaves, meta.table().capacity_blocks())?;
        drop(guard);
        let mut state = self.state.lock();
        state.leaving.add(leaves);
        let joins = roster.joins.and_then(|id| self.spare(id));
        let generation = joins.map_or(0, |spare| spare.generation);
        state.migration =
            Some(Migration { shadow, places, generation, tried_again: false, frozen: false });
        let view = state.view(None)?;
        let retired = self.front.replace(view, &state.drawn);
        state.retire(retired);
        Ok(())
    }

    /// The metadata on the members, and on who joins or leaves.
    fn store_of(&self, roster: &Roster) -> SpareStore<'_> {
        let mut all = self.usable_spares();
        [roster.joins, roster.leaves].into_iter().flatten().for_each(|id| all.add(id));
        SpareStore::new(&self.spares, all, &self.pool).may_write(self.writable)
    }

    /// All places on a device that is to become a member.
    fn empty_places(&self, meta: &Metadata, id: SpareId) -> Result<Places> {
        let mut regions = KVec::new();
        let len = self.spare(id).map_or(Sectors(0), |spare| spare.len);
        for (start, len) in meta.header().layout().data_space(len).filter(|_| len.0 > 0) {
            regions.push(Place { start, len }, GFP_KERNEL)?;
        }
        Ok(Places::new(&regions, self.block_sectors())?)
    }

    /// It has not come about: nothing of it is left.
    pub(super) fn abandon_members(&self, roster: &Roster) {
        let mut state = self.state.lock();
        if let Some(leaves) = roster.leaves {
            state.leaving = state.leaving.without(SpareSet::one(leaves));
        }
        // What is frozen is for the worker to end.
        if state.migration.take_if(|migration| !migration.frozen).is_none() {
            return;
        }
        if let Ok(view) = state.view(None) {
            let retired = self.front.replace(view, &state.drawn);
            state.retire(retired);
        }
        // Without memory the view of before stays for now: what is written goes to both still.
    }

    /// The next part that has to move, from `at` on; `None` when there is none behind it.
    pub(super) fn next_to_bring(&self, at: MainSector, most: Sectors) -> Option<Extent> {
        let state = self.state.lock();
        let shadow = &state.migration.as_ref()?.shadow;
        shadow.next(&state.table, at, most).map(|(extent, _)| extent)
    }

    /// Brings what of `part` lives on who leaves to another place. The part is held and drained.
    pub(super) fn bring_away(
        &self,
        roster: &Roster,
        part: Extent,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        if self.mirror_broke.load(Relaxed) {
            return Err(self.broken(roster));
        }
        let leaves = roster.leaves.ok_or(EINVAL)?;
        let table = self.state.lock().table.clone();
        for entry in table.iter_in(part).filter_map(|entry| entry.clip(&part)) {
            let Some((_, at)) = entry.mapping.place().filter(|(id, _)| *id == leaves) else {
                continue;
            };
            if progress.leaves(entry.extent.start) {
                break;
            }
            self.bring_run(roster, entry.extent, at, buffers, progress)?;
        }
        Ok(())
    }

    /// Brings a run away that lives on who leaves, at `at`; block by block if it cannot be read as a
    /// whole.
    fn bring_run(
        &self,
        roster: &Roster,
        run: Extent,
        at: SpareSector,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let leaves = roster.leaves.ok_or(EINVAL)?;
        let Some(spare) = self.usable(leaves) else {
            progress.unreadable += run.len.0;
            return self.unreadable(run);
        };
        // `false`: it cannot be read. An error that says nothing of the medium is one of all of it.
        let read = |run: Extent, at, buffers: &mut Buffers| {
            let sector = spare.sector(at);
            let status = self.try_read(spare.block(), sector, &mut buffers.data, run.len);
            match status.is_ok() || status.counts() {
                true => Ok(status.is_ok()),
                false => status.to_result().map(|()| true),
            }
        };
        if read(run, at, buffers)? {
            return self.put_elsewhere(roster, run, at, buffers, progress);
        }
        self.counters.error(Some(Member::Spare(leaves)), true);
        for one in self.blocks(run) {
            if progress.leaves(one.start) {
                break;
            }
            let place = at + (one.start - run.start);
            if read(one, place, buffers)? {
                self.put_elsewhere(roster, one, place, buffers, progress)?;
            } else {
                progress.unreadable += one.len.0;
                self.unreadable(one)?;
            }
        }
        Ok(())
    }

    /// Notes what cannot be read.
    fn unreadable(&self, run: Extent) -> Result {
        let mut state = self.state.lock();
        let shadow = &mut state.migration.as_mut().ok_or(EINVAL)?.shadow;
        shadow.copied(run, None).map_err(|_| ENOMEM)
    }

    /// Writes what has been read of a run to another place.
    fn put_elsewhere(
        &self,
        roster: &Roster,
        run: Extent,
        at: SpareSector,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let Some((from, to)) = roster.migration() else {
            let leaves = roster.leaves.ok_or(EINVAL)?;
            progress.avoid = SpareSet::one(leaves);
            self.write_run(run, Source::Blocks(&buffers.data), progress)?;
            let done = progress.reached.map_or(run.end(), |reached| reached.max(run.start));
            return match done.since(run.start).filter(|len| len.0 > 0) {
                Some(len) => progress.change(Change::Free(leaves, at, len)),
                None => Ok(()),
            };
        };
        let spare = self.spare(to).ok_or(EINVAL)?;
        let mut start = run.start;
        while let Some(left) = run.end().since(start).filter(|left| left.0 > 0) {
            let mut state = self.state.lock();
            let unit = state.info.settings.remap_block(&self.limits());
            let migration = state.migration.as_mut().ok_or(EINVAL)?;
            let place = migration.places.allocate_up_to(unit, start, left);
            drop(state);
            let Ok(Some(place)) = place else {
                self.say_error(format_args!(
                    "{} has no room for all that lives on {}; give a larger device",
                    self.device_of(to),
                    self.device_of(from)
                ));
                return Err(ENOSPC);
            };
            let span = Span { from: start - run.start, len: place.len };
            let sector = spare.sector(place.start);
            let status = self.write(spare.block(), sector, Source::Blocks(&buffers.data), span);
            if !status.is_ok() {
                self.counters.error(Some(Member::Spare(to)), false);
                self.say_error(format_args!(
                    "{} failed to write sector {sector}; use another device",
                    self.device_of(to)
                ));
                return status.to_result();
            }
            spare.cache.wrote();
            let mut state = self.state.lock();
            let migration = state.migration.as_mut().ok_or(EINVAL)?;
            let copied = Extent { start, len: place.len };
            let place = Some((to, place.start));
            migration.shadow.copied(copied, place).map_err(|_| ENOMEM)?;
            drop(state);
            progress.moved += copied.len.0;
            start = copied.end();
        }
        Ok(())
    }

    fn broken(&self, roster: &Roster) -> Error {
        if let Some(to) = roster.joins {
            self.say_error(format_args!(
                "{} has failed a write or a flush; the set is as it was, use another device",
                self.device_of(to)
            ));
        }
        EIO
    }

    /// Says what of who leaves cannot be read; whether that is given up.
    fn gives_up(&self, roster: &Roster, lost: &[Extent]) -> Result {
        let sectors: u64 = lost.iter().map(|extent| extent.len.0).sum();
        let Some(leaves) = roster.leaves.filter(|_| sectors > 0) else { return Ok(()) };
        for extent in lost.iter().take(NAMED) {
            log_warn!(
                "{self}: sectors {}+{} cannot be read from {}",
                extent.start,
                extent.len,
                self.device_of(leaves)
            );
        }
        if roster.lost {
            log_warn!("{self}: {sectors} sectors are lost; the message 'table' lists them");
            return Ok(());
        }
        self.say_error(format_args!(
            "{sectors} sectors cannot be read from {}, the first at {}; write them anew, or add 'lost' to go on without them",
            self.device_of(leaves),
            lost.first().map_or(MainSector(0), |extent| extent.start)
        ));
        // So that what is written there goes elsewhere.
        for extent in lost.iter().take(NAMED) {
            let len = extent.len.min(PART);
            self.notes.add(Extent { start: extent.start, len }, Noted::Failed);
        }
        Err(ENODATA)
    }

    /// The commit that changes who is in the set; all of main is held for writes and drained. `false`:
    /// something has come to live on who leaves since.
    ///
    /// # Errors
    ///
    /// It has not come about.
    pub(super) fn finish_members(this: &Arc<Self>, roster: &Roster, whole: Extent) -> Result<bool> {
        let mut guard = this.meta.lock();
        let meta = (*guard).as_mut().ok_or(EBUSY)?;
        if meta.in_doubt() {
            return Err(EIO);
        }
        if this.mirror_broke.load(Relaxed) {
            return Err(this.broken(roster));
        }
        let mut edit = None;
        let mut newcomer = None;
        let mut leaver = None;
        // What has failed on who leaves, and is not tried again yet: nothing is on its way that could join it.
        this.take_in_failed(&mut this.rescues.lock());
        Self::kick(this);
        // Other work of the kind may forget more from here on; what lives where is as of one moment.
        let mut copied = None;
        if let Some(leaves) = roster.leaves {
            let mut state = this.state.lock();
            let migration = state.migration.as_mut().ok_or(EINVAL)?;
            if migration.try_again(this.usable(leaves).is_some())? {
                return Ok(false);
            }
            let shadow = &migration.shadow;
            let made = shadow.edit(meta.table()).map_err(|e| {
                this.say_trouble(format_args!("{e}"));
                ENOSPC
            })?;
            if made.is_none() {
                return Ok(false);
            }
            edit = made;
            copied = Some(shadow.table().clone());
            this.gives_up(roster, &shadow.lost()?)?;
            leaver = Some((leaves, Places::new(&[], this.block_sectors())?));
        }
        if let Some(to) = roster.joins {
            let mut places = this.empty_places(meta, to)?;
            // Places of what was copied more than once hold nothing.
            let copied = copied.iter().flat_map(|table| table.iter());
            for Entry { extent, mapping } in copied {
                if let Some((_, start)) = mapping.place() {
                    places.mark_used(Place { start, len: extent.len }).map_err(|_| EUCLEAN)?;
                }
            }
            newcomer = Some((to, places));
        }
        let joins = roster.joins.map_or(SpareSet::NONE, SpareSet::one);
        // What stands there has to be durable before anything says so.
        let unflushed = metadata::flush(&this.spares, joins, &this.pool);
        // A flush of somebody else's may have failed meanwhile.
        if !unflushed.is_empty() || this.mirror_broke.load(Relaxed) {
            return Err(this.broken(roster));
        }
        let result = this.succeed(meta, roster, edit);
        let told = match result {
            Ok(told) => told,
            Err(e) => {
                this.note(meta);
                if let Some(migration) = &mut this.state.lock().migration {
                    // Published when what is held is let go; the worker ends it.
                    migration.frozen = meta.in_doubt();
                }
                return Err(e);
            }
        };
        this.take_over_members(meta, [newcomer, leaver], whole);
        this.note(meta);
        if meta.in_doubt() {
            Self::wake_worker(this);
        }
        drop(guard);
        if let Some(leaves) = roster.leaves.filter(|_| told == 0) {
            this.say_error(format_args!(
                "{} could not be told that it has left: never use it with this main again, and wipe it if it answers",
                this.device_of(leaves)
            ));
        }
        Ok(true)
    }

    fn succeed(&self, meta: &mut Metadata, roster: &Roster, edit: Option<Edit>) -> Result<usize> {
        let mut store = self.store_of(roster);
        let history = random_number();
        let mut member = None;
        if let (Some(id), Some(spare)) = (roster.joins, roster.joins.and_then(|id| self.spare(id)))
        {
            meta.lay_ground(&mut store, id, history).map_err(|e| {
                self.say_error(format_args!("{}: {e}", self.device_of(id)));
                EIO
            })?;
            member = Some(NewSpare {
                uuid: random_uuid(),
                fingerprint: fingerprint(&facts(spare.block(), "")),
                used_start: Sectors(spare.start),
                used_sectors: spare.len,
            });
        }
        let change =
            Succession { joins: roster.joins.zip(member.as_ref()), leaves: roster.leaves, history };
        let joins = roster.joins.map_or(SpareSet::NONE, SpareSet::one);
        let leaves = roster.leaves.map_or(SpareSet::NONE, SpareSet::one);
        let members = meta.active().with(meta.away()).with(joins).without(leaves);
        let line = crate::controls::Line::of(self, members);
        let line = CString::try_from_fmt(format_args!("{line}"))?;
        let errors = self.counters.errors();
        let migrations = u64::from(roster.migration().is_some());
        let update = |header: &mut Header| {
            errors.add_to(header);
            header.set_line(line.to_str().unwrap_or_default());
            let RawStatistics { migrations: count, .. } = &mut header.raw_mut().statistics;
            count.set(count.get().saturating_add(migrations));
        };
        match meta.succeed(&mut store, system::real_seconds(), change, edit, update) {
            Ok(done) => {
                self.counters.taken(&errors);
                Ok(done.told)
            }
            Err(e) => {
                self.say_error(format_args!("{e}"));
                if matches!(e, ChangeError::InDoubt) {
                    // What failed has been said; if this does, the worker tries again.
                    let _: Result<(), CommitFailure> =
                        self.commit_or_repair(meta, CommitKind::Recover, |_| {});
                }
                Err(EIO)
            }
        }
    }

    /// The commit has happened: it is made visible. These are the places on who has come and gone.
    fn take_over_members(
        &self,
        meta: &Metadata,
        changed: [Option<(SpareId, Places)>; 2],
        whole: Extent,
    ) {
        let mut state = self.state.lock();
        state.table = meta.table().clone();
        state.migration = None;
        for (id, places) in changed.into_iter().flatten() {
            state.leaving = state.leaving.without(SpareSet::one(id));
            state.limbo.retain(|(spare, _)| *spare != id);
            if let Some(of) = state.places.get_mut(usize::from(id.0)) {
                *of = places;
            }
        }
        state.spares_full = Shortage::default();
        state.remove_hold(whole);
        self.mark_roles(meta.active(), meta.away());
        let waiting = self.publish_reserved(&mut state);
        drop(state);
        self.send_on(waiting);
    }
}
