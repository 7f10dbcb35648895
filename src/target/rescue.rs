// SPDX-License-Identifier: GPL-2.0

//! What the target does by itself: writes that failed are brought to a place that takes them. Blocks that
//! cannot be read are found out by [`looks`](super::looks).
//!
//! # A write that failed, or that goes to a pending block
//!
//! It is kept, not answered, and leaves the count of bios on their way. A job of its own
//! ([`Kind::Rescue`]) then does this:
//!
//! ```text
//! hold its range, drain -> write it again, where it lives now; what fails is halved, down to blocks
//!    -> nothing failed: let go, answer
//!    -> main takes no write anywhere: let go, answer with the device's error
//!    -> write what failed to places on a spare -> staged: flush, commit, publish -> answer
//! ```
//!
//! The range is held for everything, so that nothing else is on its way there, and the data is the
//! bio's own, which the caller leaves alone until it is answered: whatever the devices have kept of
//! the attempts before, what stands in the end is the bio's data, whole. Writes to the same blocks
//! that were answered meanwhile were under way together with it, and may come out in either order.
//!
//! **Which errors count.** Only a status that may be about the medium, given twice; and only if main
//! has taken some write since: of another part of the same bio, of a bio elsewhere, or, if there was
//! none, of a block elsewhere that is held, drained, read and written back (a probe). A drive that
//! is gone, or takes writes no more, has nothing remapped.
//!
//! **It does not wait for others.** Neither does a rescue end a wait of another, nor need a suspend, a
//! message or a resume for its own end. When its commit gets into doubt, it is answered with an error
//! at once.

use super::{
    behind::Behind,
    job::{Job, Kind},
    looks::LOOKS,
    moves::{Buffers, Change, Progress, Source, Written},
    route::{Where, Word},
    view::{Hold, Mode},
    Remap,
};
use crate::{
    dm::{
        bio::{HeldBio, Status},
        held::HeldList,
        io::Span,
        system::{self, MemScope},
    },
    pure::{
        entry::Mapping,
        gate::{Gate, Passage},
        health::Member,
        mem::{Block, KVec},
        units::{Extent, MainSector, Sectors, SpareId, SpareSector},
    },
};
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, rcu, Arc, ArcBorrow},
    time::{Instant, Monotonic},
    workqueue::WorkItem,
};

/// Rescues at a time; what comes beyond waits.
pub(super) const RESCUES: usize = 40;

/// Places elsewhere on main that are tried before it is given up.
pub(super) const PROBES: u64 = 6;

/// Blocks and extents that are stepped over from such a place on, to find one that can be tried.
const STEPS: usize = 64;

/// How long main is left alone that took no write anywhere, in milliseconds.
const REST: i64 = 1000;

/// How long the status says so, if no write fails or is moved meanwhile, in milliseconds.
const SHOWN: i64 = 60_000;

/// Rescues and looks that are under way or wait, and whether there may be any.
pub(super) struct Rescues {
    waiting: HeldList<Remap>,
    active: usize,
    pub(super) looks: KVec<Arc<Job>>,
    gate: Gate,
    /// When main was last found to take no write anywhere.
    dead: Option<Instant<Monotonic>>,
}

impl Rescues {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            waiting: HeldList::new(),
            active: 0,
            looks: KVec::with_capacity(LOOKS, GFP_KERNEL)?,
            gate: Gate::default(),
            dead: None,
        })
    }

    /// Whether nothing is moved by itself, though it may be.
    pub(super) fn is_halted(&self, limit: u64) -> bool {
        let shown = |since: Instant<Monotonic>| since.elapsed().as_millis() < SHOWN;
        self.dead.is_some_and(shown) || self.gate.is_shut(system::real_seconds(), limit)
    }

    pub(super) fn stop_looks(&self) -> bool {
        self.looks.iter().for_each(|job| job.stop());
        self.looks.is_empty()
    }
}

/// Where a run of blocks lives that has to move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    Main,
    Pending,
    /// Nowhere any more.
    Lost,
    Spare(SpareId, SpareSector),
    /// A place that could not be read.
    Suspect(SpareId, SpareSector),
}

impl Home {
    fn advance(self, n: Sectors) -> Self {
        match self {
            Self::Spare(spare, at) => Self::Spare(spare, at + n),
            Self::Suspect(spare, at) => Self::Suspect(spare, at + n),
            other => other,
        }
    }

    /// Where on a spare that is.
    fn place(self) -> Option<(SpareId, SpareSector)> {
        match self {
            Self::Spare(spare, at) | Self::Suspect(spare, at) => Some((spare, at)),
            Self::Main | Self::Pending | Self::Lost => None,
        }
    }

    /// Whether what is written there goes elsewhere without being tried.
    fn is_bad(self) -> bool {
        matches!(self, Self::Pending | Self::Lost | Self::Suspect(..))
    }
}

/// A write that was kept.
pub(crate) struct Task {
    bio: HeldBio<Remap>,
    /// All of it, as it was sent.
    whole: Extent,
    /// What a device has said of it.
    status: Status,
    /// Writes that main had taken when this began.
    writes_before: u64,
    /// What no device took; there once that is known.
    bad: Option<KVec<(Extent, Home)>>,
    /// Whether a device of the set has taken some of it, for FUA.
    wrote: bool,
    /// Whether a flush behind it may be what failed.
    behind: Option<Behind>,
    /// Whether main has taken a block whose mark says that it is lost. Without the mark, what main had before could be read, so what it
    /// has taken is durable first.
    unmarks: bool,
    /// Whether it counts among those that have nothing to commit yet.
    narrowing: bool,
    /// Whether main did not take one of the probes.
    refused: bool,
    /// What has been changed before a probe was needed.
    paused: Option<(KVec<Change>, Written)>,
    /// Held to see whether main takes writes.
    probe: Option<Extent>,
    probes: u64,
}

/// What comes next for a rescue.
pub(super) enum Next {
    /// It is where it belongs, or will be when what has changed is committed.
    Commit,
    /// This block elsewhere is to be held and drained first.
    Probe(Extent),
}

impl Task {
    fn new(mut bio: HeldBio<Remap>, remap: &Remap) -> Option<Self> {
        let word = bio.word();
        let failed = Word::is_failed(word);
        let status = if failed { bio.status() } else { Status::IOERR };
        let behind = failed.then(|| Behind::of(&bio)).flatten();
        // What is answered from now on is not counted out again.
        bio.keep_word(Word::KEPT);
        let Some(whole) = Word::extent(word) else {
            bio.complete_anew(status);
            return None;
        };
        if failed {
            bio.rewind(whole.len, Word::is_noted(word));
        }
        remap.narrowing.fetch_add(1usize, Relaxed);
        Some(Self {
            bio,
            whole,
            status,
            writes_before: remap.main_writes.load(Relaxed),
            bad: None,
            wrote: false,
            behind,
            unmarks: false,
            narrowing: true,
            refused: false,
            paused: None,
            probe: None,
            probes: 0,
        })
    }

    /// It has something to commit now, or will have nothing.
    pub(super) fn narrowed(&mut self, remap: &Remap) {
        if core::mem::take(&mut self.narrowing) {
            remap.narrowing.fetch_sub(1usize, Relaxed);
            remap.gathered.notify_all();
        }
    }

    /// The caller hears how it ended.
    pub(super) fn finish(mut self, result: Result, remap: &Remap) {
        self.narrowed(remap);
        self.bio.complete_anew(if result.is_ok() { Status::OK } else { self.status });
    }

    /// Whether what lives in `home` was taken there once more.
    fn tried(&mut self, home: Home, took: bool) {
        if let Some(behind) = &mut self.behind {
            behind.tried(home.place().map_or(Member::Main, |(id, _)| Member::Spare(id)), took);
        }
    }

    /// The block that is held besides the range itself.
    pub(super) fn take_probe(&mut self) -> Option<Extent> {
        self.probe.take()
    }

    /// Where the data of `run` is.
    fn source<'a>(&'a self, run: Extent, zeroes: &'a Block) -> Source<'a> {
        match self.bio.payload() {
            Some(payload) => Source::Bio(payload, run.start - self.whole.start),
            None => Source::Zeroes(zeroes),
        }
    }
}

impl Remap {
    /// A write is to be brought to a place that takes it. In any context.
    pub(super) fn rescue_later(this: ArcBorrow<'_, Self>, bio: HeldBio<Self>) {
        // `deactivate` waits for who is here: once the bio is on the pile it may be answered, and
        // with it all that keeps the queue from being drained.
        let _reading = rcu::read_lock();
        this.failed.push(bio);
        Self::kick(&this.into());
    }

    pub(super) fn kick(this: &Arc<Self>) {
        // When it is queued already, it will run.
        let _ = this.queue.enqueue::<_, 1>(this.clone());
    }

    /// Sees to writes that were kept while bios were sent on.
    pub(super) fn kick_if_needed(this: &Arc<Self>) {
        if !this.failed.is_empty() {
            Self::kick(this);
        }
    }

    /// Begins as many rescues and looks as may be under way.
    fn dispatch(this: &Arc<Self>) {
        let _scope = MemScope::without_io();
        // What waits for memory comes last.
        Self::begin_rescues(this);
        this.begin_looks();
        this.send_mirrored();
        Self::kick_if_needed(this);
    }

    /// Takes in the writes that were kept. Of two spares one may have taken such a write and the other not: what was copied there counts
    /// no more, from now on, however long it waits for its turn.
    pub(super) fn take_in_failed(&self, rescues: &mut Rescues) {
        let mut failed = self.failed.take();
        while let Some(bio) = failed.pop() {
            if let Some(range) = Word::extent(bio.word()) {
                self.forget_copied(range);
            }
            rescues.waiting.push(bio);
        }
    }

    fn begin_rescues(this: &Arc<Self>) {
        let _scope = MemScope::from_reserves();
        loop {
            let mut rescues = this.rescues.lock();
            this.take_in_failed(&mut rescues);
            if rescues.active >= RESCUES {
                break;
            }
            let Some(bio) = rescues.waiting.pop() else { break };
            let mut passes = || {
                // It is main of which so many may fail.
                let on_spare = matches!(Word::place(bio.word()), Where::Spare(_));
                on_spare || this.passes(&mut rescues)
            };
            let refused =
                Word::is_failed(bio.word()) && !(this.is_rescued(bio.status()) && passes());
            let Some(task) = Task::new(bio, this) else { continue };
            if !refused {
                rescues.active += 1;
            }
            drop(rescues);
            let range = task.whole;
            // It may have been copied again meanwhile, and may be answered with an error below.
            this.forget_copied(range);
            if refused {
                task.finish(Err(EIO), this);
                continue;
            }
            // Without memory for it, the bio is answered with an error when it is dropped.
            match Job::new(this.clone(), Kind::Rescue, range, Some(task)) {
                Ok(job) => Job::queue(&job),
                Err(_) => {
                    this.narrowing.fetch_sub(1usize, Relaxed);
                    this.rescues.lock().active -= 1;
                }
            }
        }
    }

    /// Whether a write that ended so is brought to another place.
    pub(super) fn is_rescued(&self, status: Status) -> bool {
        status.counts() && self.may_remap.load(Relaxed)
    }

    /// Whether an error that has come may lead to a remap.
    pub(super) fn passes(&self, rescues: &mut Rescues) -> bool {
        let rest = |since: Instant<Monotonic>| since.elapsed().as_millis() < REST;
        if rescues.dead.is_some_and(rest) {
            return false;
        }
        let limit = self.error_limit.load(Relaxed);
        match rescues.gate.count(system::real_seconds(), limit) {
            Passage::Open => true,
            Passage::Opens => {
                log_info!("{self}: errors of main are fewer; blocks are moved by themselves again");
                self.tell("resumed");
                true
            }
            Passage::Shut => false,
            Passage::Shuts => {
                self.say_trouble(format_args!(
                    "more than {limit} errors of main in a minute; nothing is remapped by itself until there are fewer"
                ));
                self.tell("halted");
                false
            }
        }
    }

    /// A rescue or a look has ended.
    pub(super) fn rescue_over(job: &Job, this: &Arc<Self>) {
        let mut rescues = this.rescues.lock();
        match job.kind {
            Kind::Rescue => rescues.active -= 1,
            _ => rescues.looks.retain(|other| !core::ptr::eq(&**other, job)),
        }
        drop(rescues);
        this.job_ended.notify_all();
        // Others may wait for their turn.
        Self::kick(this);
        // It may have found that a spare does not answer.
        Self::wake_worker(this);
    }

    /// Main takes writes after all.
    fn revived(&self) {
        let was = self.rescues.lock().dead.take();
        if was.is_some() {
            log_info!("{self}: main ({}) takes writes again", self.main.device);
            self.tell("resumed");
        }
    }

    /// Main takes no write anywhere.
    fn halt(&self) {
        let before = self.rescues.lock().dead.replace(Instant::now());
        if before.is_none() {
            self.say_trouble(format_args!(
                "main ({}) fails writes wherever they go; nothing is remapped, check the drive and its cable",
                self.main.device
            ));
            self.tell("halted");
        }
    }

    /// The next step of a rescue; `task`'s range is held and drained, and so is its probe.
    ///
    /// # Errors
    ///
    /// Its data could not be brought to a place that takes it. [`EAGAIN`] where somebody else's flush may have lost it there: all of it is to be
    /// done once more.
    pub(super) fn rescue(
        &self,
        task: &mut Task,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result<Next> {
        // What is written here goes to one place.
        self.forget_copied(task.whole);
        if let Some((changes, written)) = task.paused.take() {
            (progress.changes, progress.written) = (changes, written);
        }
        if let Some(probe) = task.probe.take() {
            let took = self.write_back(probe, buffers);
            self.let_go(probe);
            match took {
                true => {
                    self.main_writes.fetch_add(1u64, Relaxed);
                }
                false => task.refused = true,
            }
        }
        let bad = match task.bad.take() {
            Some(bad) => bad,
            None => self.write_again(task, progress)?,
        };
        if bad.iter().any(|(_, home)| *home == Home::Main) {
            if self.main_writes.load(Relaxed) == task.writes_before {
                if let Some(probe) = self.next_probe(task) {
                    task.bad = Some(bad);
                    task.probe = Some(probe);
                    task.paused = Some((core::mem::take(&mut progress.changes), progress.written));
                    return Ok(Next::Probe(probe));
                }
                if task.refused {
                    self.halt();
                    return Err(EIO);
                }
                // All else of main lives elsewhere, or is about to: nothing is lost with this.
            } else {
                self.revived();
            }
        }
        for (extent, home) in bad {
            self.move_bad(task, extent, home, progress)?;
        }
        let durable = task.bio.is_fua() && task.wrote;
        if durable || task.unmarks {
            self.flush_main()?;
            if progress.written.lost_on_main(self) {
                return Err(EAGAIN);
            }
        }
        if durable {
            let usable = self.usable_spares();
            let failed = crate::metadata::flush(&self.spares, usable, &self.pool);
            if !failed.is_empty() {
                return Err(EIO);
            }
            if !progress.written.lost_on(self, usable).is_empty() {
                return Err(EAGAIN);
            }
        }
        if let Some(behind) = task.behind.take() {
            self.tell_of_flushes_behind(&behind);
        }
        Ok(Next::Commit)
    }

    /// Writes all of a bio again, each part to where it lives now, and gives what failed.
    fn write_again(
        &self,
        task: &mut Task,
        progress: &mut Progress<'_>,
    ) -> Result<KVec<(Extent, Home)>> {
        let table = self.state.lock().table.clone();
        let mut bad = KVec::new();
        let mut at = task.whole.start;
        let end = task.whole.end();
        while at < end {
            let entry = table.lookup(at, end - at);
            let (home, to) = match entry {
                None => (Home::Main, end),
                Some(entry) if entry.extent.start > at => (Home::Main, entry.extent.start),
                Some(entry) => {
                    let home = match entry.mapping.advance(at - entry.extent.start) {
                        Mapping::Remapped { spare, to } => Home::Spare(spare, to),
                        Mapping::Suspect { spare, to } => Home::Suspect(spare, to),
                        Mapping::Lost => Home::Lost,
                        Mapping::Pending | Mapping::Retired { .. } => Home::Pending,
                    };
                    (home, entry.extent.end().min(end))
                }
            };
            let run = Extent { start: at, len: to - at };
            let gone = |(id, _)| self.usable(id).is_none();
            let bad_home = home.is_bad() || home.place().is_some_and(gone);
            if bad_home && self.may_remap.load(Relaxed) {
                task.tried(home, false);
                bad.push((run, home), GFP_KERNEL)?;
            } else {
                self.write_run_again(task, run, home, progress, &mut bad)?;
            }
            at = to;
        }
        Ok(bad)
    }

    /// Writes `run` again to `home`, and adds what fails to `bad`: by halves, down to blocks, as long
    /// as patience lasts.
    fn write_run_again(
        &self,
        task: &mut Task,
        run: Extent,
        home: Home,
        progress: &mut Progress<'_>,
        bad: &mut KVec<(Extent, Home)>,
    ) -> Result {
        let mut left = KVec::new();
        left.push(run, GFP_KERNEL)?;
        while let Some(now) = left.pop() {
            let home = home.advance(now.start - run.start);
            if progress.is_late() {
                // What has not been tried on main can be moved as well: the data is here. A place on a
                // spare is not given up for that.
                if home.place().is_some() || !self.may_remap.load(Relaxed) {
                    return Err(ETIMEDOUT);
                }
                task.tried(home, false);
                add_bad(bad, now, home)?;
                continue;
            }
            // Without a change of its mark what is written there could not be read.
            if home == Home::Lost && self.in_maintenance() {
                return Err(EIO);
            }
            let status = self.write_home(task, now, home)?;
            task.tried(home, status.is_ok());
            if status.is_ok() {
                task.wrote = true;
                task.unmarks |= home == Home::Lost;
                match home {
                    Home::Main => {
                        self.main_writes.fetch_add(1u64, Relaxed);
                    }
                    // The mark stays; it is looked at again when the block is read after maintenance.
                    Home::Pending | Home::Suspect(..) if self.in_maintenance() => {}
                    Home::Pending | Home::Lost => progress.change(Change::Back(now, None))?,
                    Home::Suspect(spare, at) => {
                        progress.change(Change::Suspect(now, spare, at, false))?;
                        progress.written.spares.add(spare);
                    }
                    Home::Spare(..) => {}
                }
                continue;
            }
            if !status.counts() {
                return Err(status.to_result().err().unwrap_or(EIO));
            }
            if let Some((first, second)) = self.halves(now) {
                left.push(second, GFP_KERNEL)?;
                left.push(first, GFP_KERNEL)?;
            } else if self.may_remap.load(Relaxed) {
                add_bad(bad, now, home)?;
            } else {
                return Err(EIO);
            }
        }
        Ok(())
    }

    /// Writes the data of `run` to where it lives.
    fn write_home(&self, task: &Task, run: Extent, home: Home) -> Result<Status> {
        let (from, span) = (task.source(run, &self.zeroes), Span::first(run.len));
        match home {
            Home::Main | Home::Pending | Home::Lost => {
                let sector = self.main.start + run.start.0;
                Ok(self.write(self.main.device.block(), sector, from, span))
            }
            Home::Spare(id, at) | Home::Suspect(id, at) => {
                let usable = self.usable(id).filter(|_| !self.is_frozen(id));
                let Some(spare) = usable else { return Ok(Status::IOERR) };
                let status = self.write(spare.block(), spare.sector(at), from, span);
                spare.cache.acknowledge();
                Ok(status)
            }
        }
    }

    /// Moves what no device took to a place on a spare.
    fn move_bad(
        &self,
        task: &mut Task,
        extent: Extent,
        home: Home,
        progress: &mut Progress<'_>,
    ) -> Result {
        let before = progress.changes.len();
        let placed = self.write_run(extent, task.source(extent, &self.zeroes), progress);
        let whole = placed.is_ok() && progress.reached.take().is_none();
        if whole {
            if let Some((id, place)) = home.place().filter(|&(id, _)| self.usable(id).is_some()) {
                progress.change(Change::Retire(id, place, extent.len, true))?;
            }
            return Ok(());
        }
        if !home.is_bad() {
            return Err(placed.err().unwrap_or(ENOSPC));
        }
        // There is no place for it, but it may be taken where it is.
        progress.take_back(before, self)?;
        self.write_home(task, extent, home)?.to_result()?;
        task.wrote = true;
        task.unmarks |= home == Home::Lost;
        match home {
            Home::Suspect(spare, at) => {
                progress.written.spares.add(spare);
                progress.change(Change::Suspect(extent, spare, at, false))
            }
            _ => progress.change(Change::Back(extent, None)),
        }
    }

    /// Whether main takes back what it has in a block.
    fn write_back(&self, probe: Extent, buffers: &mut Buffers) -> bool {
        let (device, sector) = (self.main.device.block(), self.main.start + probe.start.0);
        self.read(device, sector, &mut buffers.data, probe.len).is_ok()
            && self
                .write(device, sector, Source::Blocks(&buffers.data), Span::first(probe.len))
                .is_ok()
    }

    /// Another block of main that is neither remapped nor held, and is held now; far from the range of
    /// the task.
    fn next_probe(&self, task: &mut Task) -> Option<Extent> {
        while task.probes < PROBES {
            task.probes += 1;
            let table = self.state.lock().table.clone();
            let mut probe = self.far_block(task.whole, task.probes);
            for _ in 0..STEPS {
                let Some(now) = probe.filter(|now| now.end().0 <= self.main.len.0) else { break };
                let next = match table.lookup(now.start, now.len) {
                    Some(entry) => entry.extent.end(),
                    None if now.overlaps(&task.whole) => task.whole.end(),
                    None => {
                        if self.hold(Hold { extent: now, mode: Mode::All }, None) == Ok(true) {
                            return Some(now);
                        }
                        now.end()
                    }
                };
                probe = Some(Extent { start: next, len: now.len });
            }
        }
        None
    }

    /// One of [`PROBES`] blocks of main far from `extent` and from each other.
    pub(super) fn far_block(&self, extent: Extent, n: u64) -> Option<Extent> {
        let (len, block) = (self.main.len.0, self.block_sectors());
        let far = extent.start.0 + len / (PROBES + 1) * n;
        let far = if far >= len { far - len } else { far } & !(block.0 - 1);
        let probe = Extent { start: MainSector(far), len: block };
        (probe.end().0 <= len && !probe.overlaps(&extent)).then_some(probe)
    }

    /// The halves of what is more than one block.
    pub(super) fn halves(&self, whole: Extent) -> Option<(Extent, Extent)> {
        let block = self.block_sectors();
        let half = Sectors((whole.len.0 / 2 & !(block.0 - 1)).max(block.0));
        let second = Extent::new(whole.start + half, whole.end().since(whole.start + half)?)?;
        Some((Extent { start: whole.start, len: half }, second))
    }
}

fn add_bad(bad: &mut KVec<(Extent, Home)>, extent: Extent, home: Home) -> Result {
    if let Some((last, before)) = bad.last_mut() {
        if last.end() == extent.start && before.advance(last.len) == home {
            last.len += extent.len;
            return Ok(());
        }
    }
    Ok(bad.push((extent, home), GFP_KERNEL)?)
}

impl WorkItem<1> for Remap {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::dispatch(&this);
    }
}
