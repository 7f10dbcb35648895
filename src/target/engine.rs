// SPDX-License-Identifier: GPL-2.0

//! What a set in use knows and does behind the way of its bios: the state, the holds, and the
//! worker that commits and publishes.
//!
//! # Locks
//!
//! In this order: `meta`, held while the metadata is written; `state`, never held during I/O; the
//! list of held bios. A job's own lock comes before `state`.
//!
//! # What is published
//!
//! `state.table` is the newest durable table, and with `state.holds` what I/O sees: both change
//! together, under `state`, and are published before `state` is let go. The memory for publishing a
//! view without a hold is set aside when the hold is made, so letting go never fails.
//!
//! # A commit in doubt
//!
//! When group A could not be written, the next activation may find the new table or the old one. The
//! parts that the commit is about stay held, and are answered with errors, until a later commit of
//! the old table is durable; the worker tries that at once, and then again and again.

use super::{
    changes::{edit_of, Tally},
    counters::{Errors, Lifetime},
    job::{Job, Kind},
    live,
    moves::Change,
    rescue::{LOOKS, RESCUES},
    view::{Hold, Mode, View},
    Remap,
};
use crate::{
    dm::{
        bio::HeldList,
        published::Retired,
        system::{self, MemScope},
    },
    metadata,
    pure::{
        commit::{ChangeError, CommitError, Metadata, Persist},
        copies::{Copies, CopyState},
        format::{header::Header, raw::NAME_BYTES, CommitKind, MemberUuid, SetUuid},
        mem::KVec,
        places::{Place, PlaceError, Places},
        settings::{self, Settings},
        store::SpareSet,
        table::{Edit, EditError, Table},
        units::{Extent, MainSector, Sectors, SpareId, SpareSector, MAX_SPARES},
    },
};
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, Arc},
    time::{msecs_to_jiffies, Instant, Monotonic},
    workqueue::WorkItem,
};

/// The most jobs at a time that people ask for.
pub(crate) const MAX_JOBS: usize = 16;

/// The most holds at a time: one for each job, and one more for what a rescue may have to try.
pub(crate) const MAX_HOLDS: usize = MAX_JOBS + LOOKS + 2 * RESCUES;

/// How long the worker waits before it tries again to end a doubt, in milliseconds.
const DOUBT_PAUSE: u32 = 1000;

/// How long what is staged waits for the next to be staged, in milliseconds.
const GATHER: i64 = 50;

/// How long it waits in all, in milliseconds.
const GATHER_ALL: i64 = 250;

/// What happens within so many milliseconds is one event.
const BURST: i64 = 1000;

/// A part of a job whose data is copied, for the worker to commit.
pub(crate) struct Staged {
    pub(crate) job: Arc<Job>,
    pub(crate) part: Extent,
    pub(crate) changes: KVec<Change>,
    /// The spares on which the data has to be durable first.
    pub(crate) written: SpareSet,
}

/// A part that was in a commit of which nobody knows whether it has happened.
struct Doubt {
    /// The job that has to be told, unless it has been.
    job: Option<Arc<Job>>,
    part: Extent,
    changes: KVec<Change>,
}

/// What is known of the metadata, for whoever asks; a copy, so that nobody waits for a commit.
#[derive(Clone)]
pub(crate) struct Info {
    pub(crate) uuid: SetUuid,
    /// The name, padded with zeroes.
    pub(crate) name: [u8; NAME_BYTES],
    pub(crate) version: u64,
    pub(crate) history: u64,
    pub(crate) persist: Persist,
    /// Seconds since 1970.
    pub(crate) last_save: u64,
    pub(crate) copies: Copies,
    pub(crate) in_doubt: bool,
    pub(crate) settings: Settings,
    pub(crate) statistics: Lifetime,
    /// The members, by their numbers; zero for those that there are not.
    pub(crate) members: [MemberUuid; MAX_SPARES],
    pub(crate) active: SpareSet,
    pub(crate) away: SpareSet,
}

impl Default for Info {
    fn default() -> Self {
        Self {
            uuid: SetUuid::default(),
            name: [0; NAME_BYTES],
            version: 0,
            history: 0,
            persist: Persist::Failed,
            last_save: 0,
            copies: Copies::default(),
            in_doubt: false,
            settings: Settings::default(),
            statistics: Lifetime::default(),
            members: [MemberUuid::default(); MAX_SPARES],
            active: SpareSet::NONE,
            away: SpareSet::NONE,
        }
    }
}

impl Info {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            uuid: meta.header().uuid(),
            name: meta.header().raw().set.name,
            version: meta.version(),
            history: meta.header().history(),
            persist: meta.persist(),
            last_save: meta.header().raw().version.committed.get(),
            copies: *meta.copies(),
            in_doubt: meta.in_doubt(),
            settings: meta.settings(),
            statistics: Lifetime::of(meta.header()),
            members: core::array::from_fn(|n| meta.header().member(SpareId(n as u8))),
            active: meta.active(),
            away: meta.away(),
        }
    }
}

/// A set in use.
pub(crate) struct State {
    /// Activated, and not let go.
    pub(crate) live: bool,
    /// No move may begin: the device is being suspended.
    pub(crate) stopping: bool,
    /// The newest durable table.
    pub(crate) table: Table,
    holds: KVec<Hold>,
    /// Memory for views that hold less.
    reserve: KVec<KBox<View>>,
    /// Free room on each spare.
    pub(crate) places: KVec<Places>,
    pub(crate) jobs: KVec<Arc<Job>>,
    /// Jobs that would hold what another one holds.
    waiters: KVec<Arc<Job>>,
    staged: KVec<Staged>,
    /// Parts that are in doubt.
    doubtful: KVec<Doubt>,
    /// Places that are free once both groups of copies say so.
    limbo: KVec<(SpareId, Place)>,
    retired: KVec<Retired<View>>,
    pub(crate) info: Info,
    /// How the last jobs ended, newest last.
    pub(crate) ended: [Option<Ended>; 4],
    /// Room in use was above `alert_threshold` when last looked at.
    alerted: bool,
    /// There was no room on the spares, or in the table, and none has been freed since.
    full: bool,
    /// What has been done without anybody's asking and nobody has been told of.
    untold: Tally,
    /// When people were last told of such things.
    told: Option<Instant<Monotonic>>,
}

/// A job that is over.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) kind: Kind,
    pub(crate) range: Extent,
    pub(crate) moved: u64,
    pub(crate) unreadable: u64,
    pub(crate) result: Result,
}

impl State {
    /// The state of a set that is not active yet.
    pub(crate) fn inactive() -> Result<Self> {
        Ok(Self {
            live: false,
            stopping: false,
            table: Table::empty(0)?,
            holds: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            reserve: KVec::with_capacity(2 * MAX_HOLDS, GFP_KERNEL)?,
            places: KVec::new(),
            jobs: KVec::with_capacity(MAX_JOBS, GFP_KERNEL)?,
            waiters: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            staged: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            doubtful: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            limbo: KVec::new(),
            retired: KVec::new(),
            info: Info::default(),
            ended: [None; 4],
            alerted: false,
            full: false,
            untold: Tally::default(),
            told: None,
        })
    }

    /// Takes over what was activated.
    pub(crate) fn activate(&mut self, meta: &Metadata, places: KVec<Places>) {
        self.live = true;
        self.stopping = false;
        self.take(meta, places);
    }

    /// Takes over what was read.
    pub(crate) fn take(&mut self, meta: &Metadata, places: KVec<Places>) {
        self.table = meta.table().clone();
        self.places = places;
        // What is free has just been found out anew.
        self.limbo.clear();
        self.info = Info::of(meta);
    }

    /// Lets go of everything but what a status line says.
    pub(crate) fn deactivate(&mut self) {
        self.live = false;
        self.holds.clear();
        self.reserve.clear();
        self.limbo.clear();
        self.retired.clear();
        self.doubtful.clear();
    }

    /// Sectors that the spares have room for, without those that are away.
    pub(crate) fn room(&self) -> Sectors {
        let all = (0..).map(SpareId).zip(self.places.iter());
        let active = all.filter(|(id, _)| self.info.active.has(*id));
        Sectors(active.map(|(_, places)| places.room().0).sum())
    }

    /// Sectors of the spares that are in use: remapped, and retired.
    pub(crate) fn used(&self) -> Sectors {
        let retired = self.places.iter().map(|places| places.retired().0).sum();
        self.table.totals().remapped + Sectors(retired)
    }

    /// A view of now, in memory that was set aside or is taken.
    fn view(&mut self, reserved: Option<KBox<View>>) -> Result<KBox<View>> {
        let mut view = match reserved {
            Some(view) => view,
            None => View::boxed(self.table.clone(), MAX_HOLDS)?,
        };
        view.set(self.table.clone(), &self.holds)?;
        Ok(view)
    }

    fn remove_hold(&mut self, extent: Extent) {
        self.holds.retain(|hold| hold.extent != extent);
        self.wake_waiters();
    }

    /// Has those look again who wait for a hold to go.
    fn wake_waiters(&mut self) {
        self.waiters.iter().for_each(Job::queue);
        self.waiters.clear();
    }
}

impl Remap {
    /// Holds a range from now on. `false`: some of it is held; `who`, if given, is run again when
    /// that has changed.
    pub(super) fn hold(&self, hold: Hold, who: Option<&Arc<Job>>) -> Result<bool> {
        let mut state = self.state.lock();
        if !state.live || state.holds.len() >= MAX_HOLDS {
            return Err(EBUSY);
        }
        let other = state.holds.iter().find(|other| other.extent.overlaps(&hold.extent)).copied();
        if let Some(other) = other {
            if other.mode == Mode::Failing {
                return Err(EIO);
            }
            if let Some(who) = who {
                state.waiters.push_within_capacity(who.clone()).map_err(|_| ENOMEM)?;
            }
            return Ok(false);
        }
        // One for letting go, one for a doubt before that.
        for _ in 0..2 {
            let view = View::boxed(state.table.clone(), MAX_HOLDS)?;
            state.reserve.push(view, GFP_KERNEL)?;
        }
        state.holds.push(hold, GFP_KERNEL)?;
        let view = match state.view(None) {
            Ok(view) => view,
            Err(e) => {
                state.remove_hold(hold.extent);
                return Err(e);
            }
        };
        let retired = self.published.replace(view);
        state.retire(retired);
        Ok(true)
    }

    /// Holds a range no more, with the table as it is.
    pub(super) fn let_go(&self, extent: Extent) {
        let mut state = self.state.lock();
        state.remove_hold(extent);
        let waiting = self.publish_reserved(&mut state);
        drop(state);
        self.send_on(waiting);
    }

    /// Publishes the state of now, in memory set aside by [`hold`](Self::hold). The bios that were
    /// held are to be sent on when no lock is held.
    fn publish_reserved(&self, state: &mut State) -> HeldList<Self> {
        let reserved = state.reserve.pop();
        // Two views are set aside for each hold, so this is never without one; and a view has
        // capacity for all holds that there can be.
        let Ok(view) = state.view(reserved) else {
            log_err!("{self}: no memory to publish the table");
            return HeldList::new();
        };
        let (retired, waiting) = self.publish(view);
        state.retire(retired);
        // What is set aside for holds that are gone is not needed any more.
        let needed = 2 * state.holds.len();
        state.reserve.truncate(needed);
        waiting
    }

    /// Gives a part to the worker.
    pub(super) fn stage(this: &Arc<Self>, staged: Staged) -> core::result::Result<(), Staged> {
        let mut state = this.state.lock();
        state.staged.push_within_capacity(staged).map_err(|e| e.0)?;
        drop(state);
        this.gathered.notify_all();
        Self::wake_worker(this);
        Ok(())
    }

    /// Has the worker look for something to do.
    pub(crate) fn wake_worker(this: &Arc<Self>) {
        // When it is queued already, it will run.
        let _ = this.queue.enqueue::<_, 0>(this.clone());
    }

    /// A place on a spare for up to `len` sectors from `at` on, not on one to `avoid`. The spares are
    /// filled one after the other.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where there is none.
    pub(super) fn take_place(
        &self,
        at: MainSector,
        len: Sectors,
        avoid: SpareSet,
    ) -> Result<(SpareId, SpareSector, Sectors)> {
        let mut state = self.state.lock();
        let unit = state.info.settings.remap_block(&self.limits());
        let usable = self.usable_spares().without(avoid);
        let all = (0..).map(SpareId).zip(state.places.iter_mut());
        for (id, places) in all.filter(|(id, _)| usable.has(*id)) {
            match places.allocate_up_to(unit, at, len) {
                Ok(Some(place)) => return Ok((id, place.start, place.len)),
                Ok(None) => {}
                Err(PlaceError::NoMemory) => return Err(ENOMEM),
                Err(_) => return Err(EINVAL),
            }
        }
        let first = avoid.is_empty() && !core::mem::replace(&mut state.full, true);
        drop(state);
        if first {
            self.tell("spare-full");
        }
        Err(ENOSPC)
    }

    /// Frees the places of changes that will not be committed.
    pub(super) fn give_back(&self, changes: &[Change]) {
        let mut state = self.state.lock();
        for change in changes {
            match *change {
                Change::To(Extent { len, .. }, spare, start)
                | Change::Retire(spare, start, len, false) => {
                    state.free_place(spare, Place { start, len });
                }
                _ => {}
            }
        }
    }

    /// A job has ended.
    pub(super) fn job_over(&self, job: &Job) {
        let mut state = self.state.lock();
        let ended = Ended {
            kind: job.kind,
            range: job.range,
            moved: job.moved.load(Relaxed),
            unreadable: job.unreadable.load(Relaxed),
            result: job.outcome().unwrap_or(Ok(())),
        };
        state.ended.rotate_left(1);
        state.ended[3] = Some(ended);
        state.jobs.retain(|other| !core::ptr::eq(&**other, job));
        drop(state);
        self.job_ended.notify_all();
        let (start, len) = (job.range.start, job.range.len);
        match ended.result {
            Ok(()) if job.kind == Kind::Restore => {
                log_info!("{self}: the metadata on the spare has been read");
            }
            Ok(()) if !job.kind.moves() => log_info!("{self}: check: nothing wrong"),
            // Its findings have been said.
            Err(e) if e == EUCLEAN => {}
            Ok(()) => log_info!(
                "{self}: {} of {start}+{len} is done: {} sectors moved, {} cannot be read",
                job.kind.name(),
                ended.moved,
                ended.unreadable
            ),
            Err(e) => log_warn!("{self}: {} of {start}+{len} ended early: {e:?}", job.kind.name()),
        }
        self.tell(job.kind.name());
    }

    /// Commits what is staged, until nothing is; ends doubts.
    fn work(this: &Arc<Self>) {
        let _scope = MemScope::from_reserves();
        loop {
            this.gather();
            let mut told = Told::new();
            let more = match (*this.meta.lock()).as_mut() {
                Some(meta) => this.work_once(meta, &mut told),
                None => More::No,
            };
            // A job's lock comes before `meta`.
            told.into_iter().for_each(|(job, result)| Job::committed(&job, result));
            Self::kick_if_needed(this);
            match more {
                More::Yes => {}
                More::No if !this.linger() => return,
                More::No => {}
                More::Later => this.pause(),
            }
        }
    }

    /// Waits a moment for writes that have failed at about the same time as what is staged, so that
    /// they share a commit.
    fn gather(&self) {
        let began = Instant::<Monotonic>::now();
        let mut state = self.state.lock();
        let (mut staged, mut since) = (0, began);
        while !state.staged.is_empty() && !state.stopping && self.narrowing.load(Relaxed) > 0 {
            if state.staged.len() > staged {
                (staged, since) = (state.staged.len(), Instant::now());
            }
            let left = (GATHER - since.elapsed().as_millis())
                .min(GATHER_ALL - began.elapsed().as_millis());
            if left <= 0 {
                return;
            }
            let left = msecs_to_jiffies(left as u32);
            let _ = self.gathered.wait_interruptible_timeout(&mut state, left);
        }
    }

    /// Tells people what nobody has been told of, when the time has come; waits for it if it has not.
    /// `false`: there is nothing more to tell.
    fn linger(&self) -> bool {
        let mut state = self.state.lock();
        if state.untold.is_nothing() {
            return false;
        }
        if !state.staged.is_empty() {
            return true;
        }
        let since = state.told.map_or(BURST, |told| told.elapsed().as_millis());
        if since < BURST && state.live && !state.stopping {
            let left = msecs_to_jiffies((BURST - since) as u32);
            let _ = self.gathered.wait_interruptible_timeout(&mut state, left);
            return true;
        }
        state.told = Some(Instant::now());
        let untold = core::mem::take(&mut state.untold);
        drop(state);
        self.tell_of(&untold);
        false
    }

    /// Waits before the next attempt to end a doubt.
    fn pause(&self) {
        let mut state = self.state.lock();
        if !state.stopping {
            let _ = self.wake.wait_interruptible_timeout(&mut state, msecs_to_jiffies(DOUBT_PAUSE));
        }
    }

    fn work_once(&self, meta: &mut Metadata, told: &mut Told) -> More {
        // Every part is told at most once, whether it was staged or is in doubt; or both, one after the
        // other.
        if told.reserve(2 * MAX_HOLDS, GFP_KERNEL).is_err() {
            return More::Later;
        }
        if meta.in_doubt() {
            // What failed has been said.
            let _ = self.commit_or_repair(meta, CommitKind::Recover, |_| {});
        }
        if meta.in_doubt() {
            return self.stay_in_doubt(told);
        }
        self.settle(told);
        // The next jobs must find room, as promised to `stage`.
        let Ok(empty) = KVec::with_capacity(MAX_HOLDS, GFP_KERNEL) else { return More::Later };
        let batch = core::mem::replace(&mut self.state.lock().staged, empty);
        if batch.is_empty() {
            return More::No;
        }
        self.commit_batch(meta, batch, told);
        if !meta.in_doubt() && !meta.copies().in_state(CopyState::Stale).is_empty() {
            // A copy that missed a commit, but whose place is not known to be bad.
            let _ = meta.repair(&mut self.store());
            self.note(meta);
        }
        More::Yes
    }

    /// Nothing can be committed: what is staged is given up. When the device is to be suspended, the
    /// jobs whose parts are in doubt are told that they failed; the parts stay as they are.
    fn stay_in_doubt(&self, told: &mut Told) -> More {
        loop {
            let Some(staged) = self.state.lock().staged.pop() else { break };
            self.fail(&staged, EIO, told);
        }
        let mut state = self.state.lock();
        if !state.stopping && state.live {
            return More::Later;
        }
        for doubt in state.doubtful.iter_mut() {
            if let Some(job) = doubt.job.take() {
                let _ = told.push((job, Err(EIO)), GFP_KERNEL);
            }
        }
        More::No
    }

    /// The doubt is over, whoever has ended it: lets go of the parts that it was about. The old state
    /// stands, so their places are free once every copy says so.
    fn settle(&self, told: &mut Told) {
        let mut state = self.state.lock();
        if state.doubtful.is_empty() {
            return;
        }
        while let Some(doubt) = state.doubtful.pop() {
            state.remove_hold(doubt.part);
            for change in &doubt.changes {
                let (spare, place) = match *change {
                    Change::To(Extent { len, .. }, spare, start)
                    | Change::Retire(spare, start, len, false) => (spare, Place { start, len }),
                    _ => continue,
                };
                // Without memory the room is lost until the set is activated again.
                let _ = state.limbo.push((spare, place), GFP_KERNEL);
            }
            if let Some(job) = doubt.job {
                let _ = told.push((job, Err(EIO)), GFP_KERNEL);
            }
        }
        let waiting = self.publish_reserved(&mut state);
        drop(state);
        self.send_on(waiting);
    }

    /// Commits parts that are staged.
    fn commit_batch(&self, meta: &mut Metadata, mut batch: KVec<Staged>, told: &mut Told) {
        let mut needed = SpareSet::NONE;
        batch.iter().for_each(|staged| needed.0 |= staged.written.0);
        let unflushed = metadata::flush(&self.spares, needed, &self.pool);
        if !unflushed.is_empty() {
            self.say_trouble(format_args!("a spare failed to flush; what was to move there stays"));
            // If it takes nothing any more, another one will.
            let gone = self.go_on_without(meta, unflushed);
            self.fail_those_on(&mut batch, unflushed.without(gone), EIO, told);
            self.fail_those_on(&mut batch, gone, EAGAIN, told);
        }
        if batch.is_empty() {
            return;
        }
        let gone = match self.try_batch(meta, batch, told) {
            Ok(()) => return,
            Err((e, again)) => {
                batch = again;
                let gone = self.go_on_without(meta, e.lost());
                if gone.is_empty() {
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

    /// Gives up those parts whose data is on one of `spares`.
    fn fail_those_on(
        &self,
        batch: &mut KVec<Staged>,
        spares: SpareSet,
        error: Error,
        told: &mut Told,
    ) {
        batch.retain(|staged| {
            let lost = !staged.written.and(spares).is_empty();
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
        let edit = match edit_of(meta.table(), &batch, meta.away()) {
            Ok(edit) => edit,
            Err(e) => {
                if e != EditError::Full || batch.len() == 1 {
                    let told_of = e != EditError::Full
                        || core::mem::replace(&mut self.state.lock().full, true);
                    if !told_of {
                        self.tell("table-full");
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
    fn go_on_without(&self, meta: &mut Metadata, lost: SpareSet) -> SpareSet {
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

    /// Takes back the spares that are away and answer.
    ///
    /// # Errors
    ///
    /// `ESTALE` where something stands on one that did not come from what is in use.
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
                Err(if matches!(e, ChangeError::Foreign(_)) { ESTALE } else { EIO })
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
                match *change {
                    Change::Back(Extent { len, .. }, Some((spare, start))) => {
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
    fn fail(&self, staged: &Staged, error: Error, told: &mut Told) {
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
    /// written anew, to commit to more of them.
    pub(super) fn commit_or_repair(
        &self,
        meta: &mut Metadata,
        kind: CommitKind,
        update: impl Fn(&mut Header),
    ) -> core::result::Result<(), CommitFailure> {
        self.commit(meta, kind, None, &update, |_| ()).or_else(|e| {
            if self.go_on_without(meta, e.lost()).is_empty() {
                let _ = meta.repair(&mut self.store());
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
                return Err(match e.bad.is_empty() && e.unflushed.is_empty() {
                    true => CommitFailure::NotBegun(CommitError::Memory),
                    false => CommitFailure::InDoubt(e.lost),
                });
            }
        };
        self.note_with(meta, &errors);
        Ok(durable)
    }

    /// A commit for a person, who is told that all is well only if every good copy has it. Copies
    /// that are not good are written anew first, those whose place was bad too.
    pub(crate) fn commit_for_person(
        &self,
        meta: &mut Metadata,
        kind: CommitKind,
        update: impl Fn(&mut Header),
    ) -> Result {
        if meta.persist() != Persist::Enabled && !meta.in_doubt() {
            // What cannot be written is left out, and says so in the status.
            let _ = meta.repair(&mut self.store());
            // What stays away has been said.
            let _ = self.take_back(meta);
        }
        self.commit_or_repair(meta, kind, update)?;
        if meta.persist() == Persist::Failed {
            self.say_trouble(format_args!("too few copies of the metadata could be written"));
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
        let was_away = state.info.away;
        state.info = Info::of(meta);
        let (members, active, away) = (state.info.members, state.info.active, state.info.away);
        let set = state.info.uuid;
        self.mark_away(away);
        self.counters.taken(errors);
        let now = state.info.persist;
        // A copy that is stale still says that the places are in use, and may be all that is left.
        if !meta.in_doubt() && meta.copies().in_state(CopyState::Stale).is_empty() {
            let limbo = core::mem::take(&mut state.limbo);
            state.full &= limbo.is_empty();
            for (spare, place) in limbo {
                state.free_place(spare, place);
            }
        }
        self.note_settings(&state.info.settings);
        let threshold = state.info.settings.get(&settings::ALERT_THRESHOLD);
        let room = state.room().0.max(1);
        let percent = state.used().0.saturating_mul(100) / room;
        let alert = threshold > 0 && percent >= threshold;
        let alert_now = alert && !state.alerted;
        state.alerted = alert;
        drop(state);
        live::members(self.number(), set, members, active, away);
        if was_away != away {
            self.tell_of_members(meta, was_away);
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

impl State {
    fn free_place(&mut self, spare: SpareId, place: Place) {
        if let Some(places) = self.places.get_mut(usize::from(spare.0)) {
            if let Err(e) = places.free(place) {
                log_err!("place {}+{} on spare {spare}: {e}", place.start, place.len);
            }
        }
    }

    fn retire_place(&mut self, spare: SpareId, place: Place) {
        if let Some(places) = self.places.get_mut(usize::from(spare.0)) {
            // Without memory it is retired when the set is activated again; until then it is in use.
            if let Err(e) = places.retire(place) {
                log_err!("place {}+{} on spare {spare}: {e}", place.start, place.len);
            }
        }
    }

    /// Keeps a view that readers may still have; those that nobody has are freed.
    fn retire(&mut self, view: Retired<View>) {
        self.retired.retain(|old| !old.is_over());
        // Without memory to keep it, dropping it waits for the readers.
        let _ = self.retired.push(view, GFP_KERNEL);
    }
}

/// A number that nobody else has drawn.
pub(super) fn random_number() -> u64 {
    let mut bytes = [0; 8];
    system::random(&mut bytes);
    u64::from_le_bytes(bytes)
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

/// What jobs are told when the metadata is let go. Has room for all of them.
type Told = KVec<(Arc<Job>, Result)>;

/// Whether the worker has more to do.
enum More {
    Yes,
    No,
    Later,
}

impl WorkItem for Remap {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::work(&this);
    }
}
