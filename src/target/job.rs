// SPDX-License-Identifier: GPL-2.0

//! Moves: manual remap, unremap, reading the spares again, and what the target does by itself
//! ([`rescue`](super::rescue)). Each is a job, and so is a check of the copies, which holds nothing
//! and runs beside the others.
//!
//! A job works through its range part by part, each short and within one region of main:
//!
//! ```text
//! hold the part, publish -> (bios of before come back) -> copy -> staged for the worker
//!   ^                                                                    |
//!   '---------- next part <- let go, in what the commit publishes <------'
//! ```
//!
//! Nothing blocks while it waits for bios: SRCU calls [`Landed::landed`], which queues the job
//! again. The copying itself waits for the devices, on a thread of the job's own, so a slow block
//! holds up nobody else. A job that is told to stop does so between two parts; so nothing is ever
//! half done.
//!
//! Held ranges never overlap: who would hold what another one holds waits until that is let go, and who
//! has waited for long comes next. While a part is held and drained the job alone decides about it:
//! nothing else changes the table there, and no bio is on its way there but reads, which a remap
//! lets pass: they read main, whose content stays what it is.

use super::{
    engine::Staged,
    moves::{Buffers, Progress},
    rescue::{self, Task},
    roster::Roster,
    view::{Hold, Mode},
    Remap,
};
use crate::{
    dm::{in_flight::Landed, system::MemScope},
    pure::{
        health::Member,
        units::{Extent, MainSector, Sectors, SpareId},
        validate::Level,
    },
};
use kernel::{
    new_mutex, new_work,
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, ArcBorrow, Mutex,
    },
    time::{Instant, Monotonic},
    workqueue::{impl_has_work, Work, WorkItem},
};

/// What a job does with its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Moves it to a spare.
    Remap,
    /// Moves it back to main.
    Unremap,
    /// Holds it while the spares are read again; for all of main only.
    Restore,
    /// Checks the copies of the metadata; its range is empty.
    Check(Level),
    /// Brings a write to a place that takes it.
    Rescue,
    /// Changes who is in the set.
    Members(Roster),
    /// Reads what could not be read, or what was pending and could, and notes what it finds.
    Look,
    /// Reads places on that spare that could not be read, and retires those that are free and fail.
    /// Its range is that of entries which retire them.
    Place(SpareId),
    /// Moves away from a device what can be read there only with effort.
    Early(Member),
}

impl Kind {
    /// A word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Remap => "remap",
            Self::Unremap => "unremap",
            Self::Restore => "restore",
            Self::Check(_) => "check",
            Self::Rescue => "rescue",
            Self::Members(roster) => roster.name(),
            Self::Look | Self::Place(_) => "look",
            Self::Early(_) => "early move",
        }
    }

    fn mode(self) -> Mode {
        match self {
            Self::Members(roster) if roster.joins.is_some() => Mode::Writes,
            Self::Members(_) | Self::Unremap | Self::Restore | Self::Check(_) | Self::Rescue => {
                Mode::All
            }
            Self::Remap | Self::Look | Self::Place(_) | Self::Early(_) => Mode::Writes,
        }
    }

    /// Whether it moves data.
    pub(super) fn moves(self) -> bool {
        matches!(self, Self::Remap | Self::Unremap | Self::Members(_))
    }

    /// Whether nobody has asked for it.
    pub(super) fn is_own(self) -> bool {
        matches!(self, Self::Rescue | Self::Look | Self::Place(_) | Self::Early(_))
    }
}

/// How long a job waits for its turn before it claims it, in milliseconds.
const TURN: i64 = 1000;

/// How often a part is done again, one time after the other, whose data was lost before its commit.
const AGAIN: u8 = 8;

/// Sectors of a part: what is held and copied at once.
pub(crate) const PART: Sectors = Sectors(512);

/// What a job does when it runs next.
enum Phase {
    /// Takes the next part.
    Next,
    /// The part is held; the bios of before are back.
    Drained(Extent),
    /// The worker has the part. What is not done of the range then starts there.
    Staged(MainSector),
    /// The worker is done with the part.
    Committed(MainSector, Result),
    /// Nothing any more.
    Over,
}

struct Inner {
    phase: Phase,
    /// What is not done yet starts here.
    at: MainSector,
    buffers: Option<Buffers>,
    /// What a rescue is about.
    task: Option<Task>,
    /// How far a change of the members is.
    step: Step,
    /// How often the part was to be done again.
    again: u8,
    /// Since when it waits for others to let go of what it is to hold.
    waits_since: Option<Instant<Monotonic>>,
}

/// How far a change of the members is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// All of main is held.
    Begin,
    /// Part by part is brought away.
    Parts,
    /// All of main is held for the commit.
    Finish,
}

/// A job.
#[pin_data]
pub(crate) struct Job {
    pub(super) remap: Arc<Remap>,
    /// What it does.
    pub(crate) kind: Kind,
    /// With what.
    pub(crate) range: Extent,
    #[pin]
    work: Work<Job>,
    #[pin]
    inner: Mutex<Inner>,
    /// Answers of SRCU that are still to come, and one for the job itself.
    waits: Atomic<usize>,
    drain_failed: Atomic<bool>,
    stop: Atomic<bool>,
    /// Sectors done, for people.
    done: Atomic<u64>,
    /// Blocks that could not be read and are pending now, or that stay so.
    pub(crate) unreadable: Atomic<u64>,
    /// Sectors that changed their place.
    pub(crate) moved: Atomic<u64>,
    /// How it ended, once it is over: 0, or a negative errno; until then, why something [stays](Self::stays) as it is.
    outcome: Atomic<i32>,
    over: Atomic<bool>,
}

impl_has_work! {
    impl HasWork<Self> for Job { self.work }
}

impl Job {
    /// A job that has not begun, with `task` for a rescue. All its memory for data is taken here; for a look only if there is some at
    /// once, as rescues are begun by the same thread, and under the same lock.
    pub(crate) fn new(
        remap: Arc<Remap>,
        kind: Kind,
        range: Extent,
        task: Option<Task>,
    ) -> Result<Arc<Self>> {
        let flags = match kind {
            Kind::Look | Kind::Place(_) | Kind::Early(_) => GFP_NOWAIT,
            _ => GFP_KERNEL,
        };
        let buffers = Buffers::new(kind, range, remap.block_sectors(), flags)?;
        Arc::pin_init(
            pin_init!(Self {
                remap,
                kind,
                range,
                work <- new_work!("dm_remap::Job::work"),
                inner <- new_mutex!(Inner {
                    phase: Phase::Next,
                    at: range.start,
                    buffers: Some(buffers),
                    task,
                    step: Step::Begin,
                    again: 0,
                    waits_since: None,
                }),
                waits: Atomic::new(0),
                drain_failed: Atomic::new(false),
                stop: Atomic::new(false),
                done: Atomic::new(0),
                unreadable: Atomic::new(0),
                moved: Atomic::new(0),
                outcome: Atomic::new(0),
                over: Atomic::new(false),
            }),
            flags,
        )
    }

    /// Has it run.
    pub(crate) fn queue(this: &Arc<Self>) {
        // When it is queued already, it will run.
        let _ = this.remap.queue.enqueue(this.clone());
    }

    /// Has it end at the next part.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// A part of the range stays as it is, for this; the job goes on with the rest, and has failed when that is done.
    pub(super) fn stays(&self, e: Error) {
        if self.outcome.load(Relaxed) == 0 {
            self.outcome.store(e.to_errno(), Relaxed);
        }
    }

    /// Whether it is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// How it ended, if it has.
    pub(crate) fn outcome(&self) -> Option<Result> {
        if !self.over.load(kernel::sync::atomic::Acquire) {
            return None;
        }
        Some(kernel::error::to_result(self.outcome.load(Relaxed)))
    }

    /// Whether it keeps another of that kind from beginning in `range`. A change of the members and a move
    /// go side by side: each holds what it works on.
    pub(super) fn bars(&self, kind: Kind, range: &Extent) -> bool {
        let members = |kind: Kind| matches!(kind, Kind::Members(_));
        members(self.kind) == members(kind) && self.range.overlaps(range)
    }

    /// Sectors of the range that are done.
    pub(crate) fn sectors_done(&self) -> Sectors {
        Sectors(self.done.load(Relaxed))
    }

    /// The worker is done with the part that was staged.
    pub(crate) fn committed(this: &Arc<Self>, result: Result) {
        let mut inner = this.inner.lock();
        if let Phase::Staged(next) = inner.phase {
            inner.phase = Phase::Committed(next, result);
            drop(inner);
            Self::queue(this);
        }
    }

    fn step(this: &Arc<Self>) {
        let _scope = match this.kind {
            // It holds nothing, and reads a lot.
            Kind::Check(_) => MemScope::without_io(),
            // I/O may wait for the part that the job holds, and memory for that.
            _ => MemScope::from_reserves(),
        };
        let mut inner = this.inner.lock();
        Self::step_once(this, &mut inner);
        drop(inner);
        Remap::kick_if_needed(&this.remap);
    }

    fn step_once(this: &Arc<Self>, inner: &mut Inner) {
        match core::mem::replace(&mut inner.phase, Phase::Over) {
            Phase::Next => Self::next(this, inner),
            Phase::Drained(part) => Self::work(this, inner, part),
            // Where the data was brought to is gone, or has lost it: once more, to another place perhaps.
            Phase::Committed(_, Err(e)) if e == EAGAIN && inner.again < AGAIN => {
                inner.again += 1;
                Self::next(this, inner);
            }
            Phase::Committed(next, result) => {
                let result = result.map_err(|e| if e == EAGAIN { EIO } else { e });
                inner.again = 0;
                inner.at = next;
                this.done.store((next - this.range.start).0, Relaxed);
                match result {
                    Ok(()) => Self::next(this, inner),
                    Err(e) => this.end(inner, Err(e)),
                }
            }
            // The worker will say so when it is done.
            staged @ Phase::Staged(_) => inner.phase = staged,
            Phase::Over => {}
        }
    }

    /// Holds the next part and has the job run again when the bios of before are back.
    fn next(this: &Arc<Self>, inner: &mut Inner) {
        if let Kind::Check(level) = this.kind {
            let stopped = this.is_stopped();
            let result = if stopped { Err(EINTR) } else { this.remap.check(level) };
            return this.end(inner, result);
        }
        if let Kind::Members(_) = this.kind {
            return Self::next_of_members(this, inner);
        }
        let left = this.range.end().since(inner.at).and_then(|len| Extent::new(inner.at, len));
        let Some(part) = left.and_then(|left| this.remap.next_part(this.kind, left)) else {
            return this.end(inner, Ok(()));
        };
        if this.is_stopped() {
            return this.end(inner, Err(EINTR));
        }
        Self::hold(this, inner, part, this.kind.mode());
    }

    /// Holds a part and has the job run again when the bios of before are back.
    fn hold(this: &Arc<Self>, inner: &mut Inner, part: Extent, mode: Mode) {
        let since = *inner.waits_since.get_or_insert_with(Instant::now);
        let late = since.elapsed().as_millis() >= TURN;
        match this.remap.hold(Hold { extent: part, mode }, Some((this, late))) {
            Ok(true) => {
                inner.waits_since = None;
                inner.phase = Phase::Drained(part);
                Self::drain(this, part);
            }
            // Run again when what overlaps has been let go.
            Ok(false) => inner.phase = Phase::Next,
            Err(e) => this.end(inner, Err(e)),
        }
    }

    /// Holds what is next for a change of the members: all of main for its begin and its end, in between
    /// each part that has to move.
    fn next_of_members(this: &Arc<Self>, inner: &mut Inner) {
        if this.is_stopped() {
            return this.end(inner, Err(EINTR));
        }
        if inner.step == Step::Parts {
            let next = this.remap.next_to_bring(inner.at, PART);
            match next.or_else(|| this.remap.next_to_bring(MainSector(0), PART)) {
                Some(part) => return Self::hold(this, inner, part, this.kind.mode()),
                None => inner.step = Step::Finish,
            }
        }
        Self::hold(this, inner, this.range, Mode::Writes);
    }

    /// All of main is held and drained, for the begin of a change of the members or its end.
    /// Each lets it go.
    fn change_members(this: &Arc<Self>, inner: &mut Inner, roster: &Roster) {
        let whole = this.range;
        let step = core::mem::replace(&mut inner.step, Step::Parts);
        let drained = match this.drain_failed.load(Relaxed) {
            true => Err(ENOMEM),
            false => Ok(()),
        };
        if step == Step::Begin {
            // That nothing is on its way that a change before this one has sent is all it takes: looking
            // at who is to join may take long.
            this.remap.let_go(whole);
            return match drained.and_then(|()| this.remap.begin_members(roster)) {
                Ok(()) => Self::go_on(this, inner, MainSector(0)),
                Err(e) => this.end(inner, Err(e)),
            };
        }
        match drained.and_then(|()| Remap::finish_members(&this.remap, roster, whole)) {
            // What is held has been let go with what the commit has published.
            Ok(true) => this.end(inner, Ok(())),
            Ok(false) => {
                this.remap.let_go(whole);
                Self::go_on(this, inner, MainSector(0));
            }
            Err(e) => {
                this.remap.let_go(whole);
                // It may have left a doubt.
                Remap::wake_worker(&this.remap);
                this.end(inner, Err(e));
            }
        }
    }

    /// Has it run again, with what begins at `next`.
    fn go_on(this: &Arc<Self>, inner: &mut Inner, next: MainSector) {
        inner.phase = Phase::Committed(next, Ok(()));
        Self::queue(this);
    }

    /// Has the job run again when the bios that are on their way to `extent` are back.
    fn drain(this: &Arc<Self>, extent: Extent) {
        this.drain_failed.store(false, Relaxed);
        let answers = this.remap.domains.answers(extent);
        this.waits.store(answers, Relaxed);
        if let Err(told) = this.remap.domains.drain(extent, this) {
            this.drain_failed.store(true, Relaxed);
            this.answered(this.as_arc_borrow(), answers - told);
        }
    }

    fn answered(&self, this: ArcBorrow<'_, Self>, n: usize) {
        if self.waits.fetch_sub(n, Full) == n {
            Self::queue(&this.into());
        }
    }

    /// The part is held and drained.
    fn work(this: &Arc<Self>, inner: &mut Inner, part: Extent) {
        match this.kind {
            Kind::Members(roster) if inner.step != Step::Parts => {
                return Self::change_members(this, inner, &roster);
            }
            _ => {}
        }
        let mut progress = Progress::new(this, part);
        let result = if this.drain_failed.load(Relaxed) {
            Err(ENOMEM)
        } else if let Some(buffers) = &mut inner.buffers {
            match this.kind {
                Kind::Rescue => match inner.task.as_mut() {
                    Some(task) => match this.remap.rescue(task, buffers, &mut progress) {
                        Ok(rescue::Next::Commit) => Ok(()),
                        Ok(rescue::Next::Probe(probe)) => {
                            inner.phase = Phase::Drained(part);
                            return Self::drain(this, probe);
                        }
                        Err(e) => Err(e),
                    },
                    None => Err(EINVAL),
                },
                Kind::Look => this.remap.look(part, buffers, &mut progress),
                Kind::Place(spare) => this.remap.look_at_place(part, spare, buffers, &mut progress),
                Kind::Early(from) => this.remap.move_early(part, from, buffers, &mut progress),
                Kind::Remap => this.remap.copy_to_spare(part, buffers, &mut progress),
                Kind::Unremap => this.remap.copy_to_main(part, buffers, &mut progress),
                Kind::Members(roster) => {
                    this.remap.bring_away(&roster, part, buffers, &mut progress)
                }
                Kind::Restore => this.remap.restore_held(),
                Kind::Check(_) => Err(EINVAL),
            }
        } else {
            Err(EINVAL)
        };
        if let Some(task) = &mut inner.task {
            task.narrowed(&this.remap);
        }
        this.unreadable.fetch_add(progress.unreadable, Relaxed);
        this.moved.fetch_add(progress.moved, Relaxed);
        let next = progress.reached.unwrap_or(part.end());
        let changes = match result {
            Ok(()) if progress.changes.is_empty() => {
                this.remap.let_go(part);
                return Self::go_on(this, inner, next);
            }
            // What was copied before the failure stays where it was: its places are given back.
            Err(e) => {
                if let Some(probe) = inner.task.as_mut().and_then(Task::take_probe) {
                    this.remap.let_go(probe);
                }
                this.remap.give_back(&progress.changes);
                this.remap.let_go(part);
                if e == EAGAIN && this.kind == Kind::Rescue {
                    inner.phase = Phase::Committed(next, Err(e));
                    return Self::step_once(this, inner);
                }
                return this.end(inner, Err(e));
            }
            Ok(()) => progress.changes,
        };
        inner.phase = Phase::Staged(next);
        let staged = Staged { job: this.clone(), part, changes, written: progress.written };
        if let Err(staged) = Remap::stage(&this.remap, staged) {
            inner.phase = Phase::Over;
            this.remap.give_back(&staged.changes);
            this.remap.let_go(part);
            this.end(inner, Err(ENOMEM));
        }
    }

    fn end(&self, inner: &mut Inner, result: Result) {
        let result = result.and(kernel::error::to_result(self.outcome.load(Relaxed)));
        self.remap.unclaim(self);
        if let Kind::Members(roster) = self.kind {
            if result.is_err() {
                self.remap.abandon_members(&roster);
            }
            self.remap.members_changed();
        }
        self.outcome.store(result.map_or_else(|e| e.to_errno(), |()| 0), Relaxed);
        self.over.store(true, kernel::sync::atomic::Release);
        if let Some(task) = inner.task.take() {
            task.finish(result, &self.remap);
        }
        match self.kind.is_own() {
            true => Remap::rescue_over(self, &self.remap),
            false => self.remap.job_over(self),
        }
        Remap::wake_worker(&self.remap);
        if let Kind::Members(_) = self.kind {
            // What it could not read may have been noted.
            Remap::kick(&self.remap);
        }
    }
}

impl WorkItem for Job {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::step(&this);
    }
}

impl Landed for Job {
    fn landed(this: ArcBorrow<'_, Self>) {
        this.answered(this, 1);
    }
}
