// SPDX-License-Identifier: GPL-2.0

//! What a set in use knows and does behind the way of its bios: the state, the holds, and the
//! worker that has what is staged committed ([`commits`](super::commits)) and publishes.
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
    changes::Tally,
    counters::Lifetime,
    job::{Job, Kind},
    looks::LOOKS,
    members::Migration,
    moves::{Change, Written},
    rescue::RESCUES,
    view::{Drawn, Hold, Mode, Regions, View},
    Remap,
};
use crate::{
    dm::{
        compat::EUCLEAN,
        held::HeldList,
        published::Retired,
        system::{self, MemScope},
    },
    pure::{
        commit::{Metadata, Persist},
        copies::{Copies, CopyState},
        format::{
            layout::{CopyId, COPIES},
            raw::NAME_BYTES,
            CommitKind, MemberUuid, SetUuid,
        },
        health::Health,
        mem::KVec,
        places::{Place, Places},
        settings::Settings,
        shortage::Shortage,
        shortcuts::Shortcuts,
        store::SpareSet,
        table::Table,
        units::{Extent, Sectors, SpareId, MAX_SPARES},
    },
};
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, Arc, ArcBorrow},
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

/// How long nothing has changed before there are short cuts to the table, in milliseconds.
const UNCHANGED: i64 = 100;

/// What happens within so many milliseconds is one event.
const BURST: i64 = 1000;

/// A part of a job whose data is copied, for the worker to commit.
pub(crate) struct Staged {
    pub(crate) job: Arc<Job>,
    pub(crate) part: Extent,
    pub(crate) changes: KVec<Change>,
    /// The data that has to be durable first.
    pub(crate) written: Written,
}

/// A part that was in a commit of which nobody knows whether it has happened.
pub(super) struct Doubt {
    /// The job that has to be told, unless it has been.
    pub(super) job: Option<Arc<Job>>,
    pub(super) part: Extent,
    pub(super) changes: KVec<Change>,
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
    pub(crate) health: Health,
    /// When the set was created, in seconds since 1970.
    pub(crate) created: u64,
    /// The members, by their numbers; zero for those that there are not.
    pub(crate) members: [MemberUuid; MAX_SPARES],
    /// What the header says of them: place in the order, when last checked.
    pub(crate) about: [About; MAX_SPARES],
    pub(crate) active: SpareSet,
    pub(crate) away: SpareSet,
}

/// What the header says of a member.
#[derive(Clone, Copy, Default)]
pub(crate) struct About {
    pub(crate) order: u8,
    /// Seconds since 1970; 0 for never.
    pub(crate) last_checked: u64,
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
            health: Health::default(),
            created: 0,
            members: [MemberUuid::default(); MAX_SPARES],
            about: [About::default(); MAX_SPARES],
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
            health: Health::from_raw(&meta.header().raw().health),
            created: meta.header().raw().version.created.get(),
            members: core::array::from_fn(|n| meta.header().member(SpareId(n as u8))),
            about: meta
                .header()
                .raw()
                .spares
                .map(|spare| About { order: spare.order, last_checked: spare.last_checked.get() }),
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
    /// Whoever waits for `meta` to change something gives up: the set is about to be let go.
    pub(crate) closing: bool,
    /// The newest durable table.
    pub(crate) table: Table,
    pub(super) holds: KVec<Hold>,
    /// Memory for views that hold less.
    reserve: KVec<KBox<View>>,
    pub(super) drawn: Drawn,
    /// Free room on each spare.
    pub(crate) places: KVec<Places>,
    pub(crate) jobs: KVec<Arc<Job>>,
    /// Jobs that would hold what another one holds.
    waiters: KVec<Arc<Job>>,
    /// One of them that has waited too long, and what it would hold: nobody else gets any of that first.
    claim: Option<(Arc<Job>, Extent)>,
    pub(super) staged: KVec<Staged>,
    /// Parts that are in doubt.
    pub(super) doubtful: KVec<Doubt>,
    /// Places that are free once both groups of copies say so.
    pub(super) limbo: KVec<(SpareId, Place)>,
    retired: KVec<Retired<View>>,
    shortcuts: Shorten,
    pub(crate) info: Info,
    /// The version that each copy was last known to have whole; 0 if none.
    versions: [[u64; COPIES]; MAX_SPARES],
    /// How the last jobs ended, newest last.
    pub(crate) ended: [Option<Ended>; 4],
    /// Room in use was above `alert_threshold` when last looked at.
    pub(super) alerted: bool,
    /// Sectors on the spares.
    pub(crate) spares_full: Shortage,
    /// Entries of the table.
    pub(crate) table_full: Shortage,
    /// What has been done without anybody's asking and nobody has been told of.
    /// A spare whose data is being brought to another.
    pub(super) migration: Option<Migration>,
    /// Spares that are to leave: no place is given out there if there is another.
    pub(super) leaving: SpareSet,
    /// The turn of the spare that a place was last taken from.
    pub(super) turn: u8,
    pub(super) untold: Tally,
    /// When people were last told of such things.
    told: Option<Instant<Monotonic>>,
}

/// The [short cuts](Shortcuts) to what is published.
#[derive(Default)]
struct Shorten {
    /// Memory for them. It goes with the view that has them, and comes back when nobody can read that any more.
    unused: Option<Shortcuts>,
    /// What is published has them, or is known not to be suited.
    done: bool,
    /// When something else was published last.
    since: Option<Instant<Monotonic>>,
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
    pub(crate) fn inactive(regions: Regions, members: [MemberUuid; MAX_SPARES]) -> Result<Self> {
        Ok(Self {
            drawn: Drawn::new(regions)?,
            live: false,
            stopping: false,
            closing: false,
            table: Table::empty(0)?,
            holds: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            reserve: KVec::with_capacity(2 * MAX_HOLDS, GFP_KERNEL)?,
            places: KVec::new(),
            jobs: KVec::with_capacity(MAX_JOBS, GFP_KERNEL)?,
            waiters: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            claim: None,
            staged: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            doubtful: KVec::with_capacity(MAX_HOLDS, GFP_KERNEL)?,
            limbo: KVec::new(),
            retired: KVec::new(),
            shortcuts: Shorten::default(),
            info: Info { members, ..Info::default() },
            versions: [[0; COPIES]; MAX_SPARES],
            ended: [None; 4],
            alerted: false,
            spares_full: Shortage::default(),
            table_full: Shortage::default(),
            migration: None,
            leaving: SpareSet::NONE,
            turn: u8::MAX,
            untold: Tally::default(),
            told: None,
        })
    }

    /// Takes over what is being activated. It is not [live](Self::live) yet: nobody moves anything before it is certain that it will be.
    pub(crate) fn activate(&mut self, meta: &Metadata, places: KVec<Places>) {
        self.stopping = false;
        self.closing = false;
        // Without memory it goes without.
        self.shortcuts = Shorten { unused: Shortcuts::new().ok(), ..Shorten::default() };
        self.take(meta, places);
    }

    /// Takes over what was read.
    pub(crate) fn take(&mut self, meta: &Metadata, places: KVec<Places>) {
        self.table = meta.table().clone();
        self.places = places;
        // What is free has just been found out anew.
        self.limbo.clear();
        self.versions = [[0; COPIES]; MAX_SPARES];
        self.know(meta);
    }

    /// Takes over what is known of the metadata.
    pub(super) fn know(&mut self, meta: &Metadata) {
        self.info = Info::of(meta);
        for id in self.info.copies.in_state(CopyState::Good).iter() {
            let of = self.versions.get_mut(usize::from(id.spare.0));
            if let Some(version) = of.and_then(|of| of.get_mut(usize::from(id.copy))) {
                *version = self.info.version;
            }
        }
    }

    /// The version that a copy was last known to have whole; 0 if none.
    pub(crate) fn version_of(&self, id: CopyId) -> u64 {
        let of = self.versions.get(usize::from(id.spare.0));
        of.and_then(|of| of.get(usize::from(id.copy))).copied().unwrap_or(0)
    }

    /// Lets go of everything but what a status line says.
    pub(crate) fn deactivate(&mut self) {
        self.live = false;
        self.holds.clear();
        self.reserve.clear();
        self.limbo.clear();
        self.retired.clear();
        self.doubtful.clear();
        self.migration = None;
        self.leaving = SpareSet::NONE;
    }

    /// Sectors that the spares have room for, without those that are away.
    pub(crate) fn room(&self) -> Sectors {
        let all = (0..).map(SpareId).zip(self.places.iter());
        let active = all.filter(|(id, _)| self.info.active.has(*id));
        Sectors(active.map(|(_, places)| places.room().0).sum())
    }

    /// Sectors of the spares that are in use, without those that are away: remapped, and retired. So much of the [room](Self::room) is filled.
    pub(crate) fn used(&self) -> Sectors {
        let on_spare = self.table.totals().on_spare;
        let all = (0..).map(SpareId).zip(self.places.iter()).zip(on_spare);
        let active = all.filter(|((id, _), _)| self.info.active.has(*id));
        Sectors(active.map(|((_, places), live)| places.retired().0 + live.0).sum())
    }

    /// A view of now, in memory that was set aside or is taken.
    pub(super) fn view(&mut self, reserved: Option<KBox<View>>) -> Result<KBox<View>> {
        let mut view = match reserved {
            Some(view) => view,
            None => View::boxed(self.table.clone(), MAX_HOLDS)?,
        };
        let mirror = self.migration.as_ref().map(Migration::mirror);
        view.set(self.table.clone(), &self.holds, mirror, &mut self.drawn)?;
        (self.shortcuts.done, self.shortcuts.since) = (false, Some(Instant::now()));
        Ok(view)
    }

    /// Whether nothing is staged, nor is anything left of a doubt.
    fn is_settled(&self) -> bool {
        let frozen = self.migration.as_ref().is_some_and(|migration| migration.frozen);
        self.staged.is_empty() && self.doubtful.is_empty() && !frozen
    }

    /// Claims a range for who is late. Whoever has claimed one and needs another now claims that instead.
    fn claim_for(&mut self, who: &Arc<Job>, late: bool, range: Extent) {
        match &mut self.claim {
            None if late => self.claim = Some((who.clone(), range)),
            Some((by, claimed)) if Arc::ptr_eq(by, who) && *claimed != range => {
                *claimed = range;
                self.wake_waiters();
            }
            _ => {}
        }
    }

    pub(super) fn remove_hold(&mut self, extent: Extent) {
        self.holds.retain(|hold| hold.extent != extent);
        self.wake_waiters();
    }

    /// Has those look again who wait for a hold to go.
    pub(super) fn wake_waiters(&mut self) {
        self.waiters.iter().for_each(Job::queue);
        self.waiters.clear();
    }
}

impl Remap {
    /// Holds a range from now on. `false`: some of it is held, or claimed; `who`, if given, is run again
    /// when that has changed. Who is `late` then claims the range: others with as much to do there, a
    /// stream of rescues for one, could have their turn before it for ever. What is held already goes on
    /// to its end, with the blocks that it has to try elsewhere: these wait for nobody.
    pub(super) fn hold(&self, hold: Hold, who: Option<(&Arc<Job>, bool)>) -> Result<bool> {
        let mut state = self.state.lock();
        if !state.live || state.holds.len() >= MAX_HOLDS {
            return Err(EBUSY);
        }
        let other = state.holds.iter().find(|other| other.extent.overlaps(&hold.extent)).copied();
        if other.is_some_and(|other| other.mode == Mode::Failing) {
            return Err(EIO);
        }
        let claimed = match (&state.claim, who) {
            (Some((by, extent)), Some((who, _))) => {
                !Arc::ptr_eq(by, who) && extent.overlaps(&hold.extent)
            }
            _ => false,
        };
        if other.is_some() || claimed {
            if let Some((who, late)) = who {
                state.claim_for(who, late, hold.extent);
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
        let retired = self.front.replace(view, &state.drawn);
        state.retire(retired);
        if let Some((who, _)) = who {
            // What it has it need not claim.
            state.claim.take_if(|(by, _)| Arc::ptr_eq(by, who));
        }
        Ok(true)
    }

    /// What a job has claimed it will not hold.
    pub(super) fn unclaim(&self, who: &Job) {
        let mut state = self.state.lock();
        if state.claim.take_if(|(by, _)| core::ptr::eq(&**by, who)).is_some() {
            state.wake_waiters();
        }
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
    pub(super) fn publish_reserved(&self, state: &mut State) -> HeldList<Self> {
        let reserved = state.reserve.pop();
        // Two views are set aside for each hold, so this is never without one; and a view has
        // capacity for all holds that there can be.
        let Ok(view) = state.view(reserved) else {
            log_err!("{self}: no memory to publish the table");
            return HeldList::new();
        };
        let (retired, waiting) = self.publish(view, &state.drawn);
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

    /// The same for a person, whose message or file may end while the set is being let go. A queue that is drained takes
    /// nothing from anybody else than its own work, and forgets who asks (`__queue_work`): he would never be dropped.
    pub(crate) fn ask_worker(this: ArcBorrow<'_, Self>) {
        let state = this.state.lock();
        if !state.closing {
            Self::wake_worker(&this.into());
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
            Self::work_staged(this);
            if !this.shorten() {
                return;
            }
        }
    }

    fn work_staged(this: &Arc<Self>) {
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
                More::Yes => this.mend_when_done(),
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

    /// Publishes short cuts to what is in the table, once nothing has changed for a moment. `false`: there is nothing
    /// more to do.
    fn shorten(&self) -> bool {
        let mut state = self.state.lock();
        let quiet = state.holds.is_empty() && state.migration.is_none();
        let suited = quiet && state.live && !state.stopping && Shortcuts::suit(&state.table);
        if !suited || state.shortcuts.done {
            return false;
        }
        if !state.staged.is_empty() {
            return true;
        }
        let since = state.shortcuts.since.map_or(UNCHANGED, |since| since.elapsed().as_millis());
        state.free_retired();
        if since < UNCHANGED || state.shortcuts.unused.is_none() && !state.retired.is_empty() {
            let left = msecs_to_jiffies((UNCHANGED - since).max(GATHER) as u32);
            let _ = self.gathered.wait_interruptible_timeout(&mut state, left);
            return true;
        }
        let Some(mut shortcuts) = state.shortcuts.unused.take() else { return false };
        if !shortcuts.fill(&state.table) {
            state.shortcuts.unused = Some(shortcuts);
            state.shortcuts.done = true;
            return false;
        }
        let Ok(mut view) = state.view(None) else {
            // When the worker runs next.
            state.shortcuts.unused = Some(shortcuts);
            return false;
        };
        view.shorten(shortcuts);
        let retired = self.front.replace(view, &state.drawn);
        state.retire(retired);
        state.shortcuts.done = true;
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
        self.look_at_suspects(meta);
        if !meta.in_doubt() && self.state.lock().is_settled() {
            return More::No;
        }
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
        if !self.settle(told) {
            return More::Later;
        }
        // The next jobs must find room, as promised to `stage`.
        let Ok(empty) = KVec::with_capacity(MAX_HOLDS, GFP_KERNEL) else { return More::Later };
        let batch = core::mem::replace(&mut self.state.lock().staged, empty);
        if batch.is_empty() {
            return More::No;
        }
        self.commit_batch(meta, batch, told);
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
    /// stands, so their places are free once every copy says so. `false`: there is no memory for that now.
    fn settle(&self, told: &mut Told) -> bool {
        let mut state = self.state.lock();
        let frozen = state.migration.as_ref().is_some_and(|migration| migration.frozen);
        if state.doubtful.is_empty() && !frozen {
            return true;
        }
        // A migration holds nothing by now, so that nothing may have been set aside.
        if state.reserve.is_empty() {
            let Ok(view) = View::boxed(state.table.clone(), MAX_HOLDS) else { return false };
            if state.reserve.push_within_capacity(view).is_err() {
                return false;
            }
        }
        // What was tried has not come about.
        state.migration.take_if(|migration| migration.frozen);
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
        true
    }
}

impl State {
    /// Keeps a view that readers may still have; those that nobody has are freed.
    pub(super) fn retire(&mut self, view: Retired<View>) {
        self.free_retired();
        match self.retired.reserve(1, GFP_KERNEL) {
            Ok(()) => drop(self.retired.push_within_capacity(view)),
            // Without memory to keep it, the readers are waited for.
            Err(_) => self.free(view),
        }
    }

    /// Frees the views that nobody has any more.
    fn free_retired(&mut self) {
        while let Some(over) = self.retired.iter().position(Retired::is_over) {
            match self.retired.remove(over) {
                Ok(view) => self.free(view),
                Err(_) => return,
            }
        }
    }

    /// Frees a view when nobody has it any more, and keeps the memory for short cuts.
    fn free(&mut self, view: Retired<View>) {
        if let Some(shortcuts) = view.into_value().and_then(|mut view| view.take_shortcuts()) {
            self.shortcuts.unused = Some(shortcuts);
        }
    }
}

/// A UUID that nobody else has drawn: version 4, variant 1, as RFC 9562 has random ones.
pub(super) fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    system::random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// A number that nobody else has drawn.
pub(super) fn random_number() -> u64 {
    let mut bytes = [0; 8];
    system::random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// What jobs are told when the metadata is let go. Has room for all of them.
pub(super) type Told = KVec<(Arc<Job>, Result)>;

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
