// SPDX-License-Identifier: GPL-2.0

//! The background scan: main, then the spares, read from start to end. What is read next, when, and
//! how fast is for [`pure::scan`](crate::pure::scan) to say; what is done about what fails or is
//! slow, for [`scanned`](super::scanned).
//!
//! # Who has a say
//!
//! `Scan::run` is where the scan is. Orders of people and the scan itself change it, under its lock.
//! Each order raises `order`; what the scan has come to since then counts no more. So nobody waits
//! for a read, but a suspend, which waits for those that are under way (`busy`), and no longer: the
//! scan looks at `order` and `suspended` after each read.
//!
//! The scan holds nothing and is on nobody's way: it reads past the bios that are mapped, whose
//! content it does not look at. Only a range that has failed or was slow is held, by a job.
//!
//! In `maintenance_mode` no run begins by itself, and one that is under way waits for its end, unless
//! somebody has asked for it since.
//!
//! # What is kept
//!
//! Every commit takes along where the scan is, and so does letting the set go. Orders commit it,
//! the end of a run does, and else the scan every [`KEEP`] seconds, but not in `maintenance_mode`.
//!
//! # Locks
//!
//! The lock of `scan` is the innermost; `meta` and `state` are never asked for while it is held.

use super::{
    scanned::{Reader, Step},
    Remap,
};
use crate::{
    dm::system::{self, MemScope},
    pure::{
        command::ScanOrder,
        format::{header::Header, CommitKind},
        scan::{Run, State},
        settings,
    },
};
use kernel::{
    prelude::*,
    sync::{Arc, ArcBorrow, CondVarTimeoutResult},
    time::{delay::fsleep, msecs_to_jiffies, Delta, Instant, Monotonic},
    workqueue::WorkItem,
};

/// Seconds between two commits of nothing but where the scan is.
const KEEP: i64 = 300;

/// The longest that it sleeps before it looks at the clock again, in seconds.
const SLEEP: u64 = 60;

/// How long it waits for memory, in nanoseconds.
const NO_MEMORY: u64 = 1_000_000_000;

/// What the scan and those who have a say in it share.
pub(super) struct Scan {
    run: Run,
    order: u64,
    busy: bool,
    /// Somebody has asked for the run, or to have it go on, since `maintenance_mode` last changed.
    asked: bool,
    /// The set is not in use, or about to be let go.
    suspended: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self { run: Run::default(), order: 0, busy: false, asked: false, suspended: true }
    }
}

/// What of the settings and the set a scan goes by.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Sectors a second, or 0.
    pub(super) rate: u64,
    /// Times as slow, or 0.
    pub(super) threshold: u64,
    interval: u64,
    created: u64,
}

impl Remap {
    /// Where the scan is.
    pub(crate) fn scan_run(&self) -> Run {
        self.scan.lock().run
    }

    /// Whether one is under way, for people: one that waits for the end of `maintenance_mode` is paused.
    pub(crate) fn scan_state(&self) -> State {
        let scan = self.scan.lock();
        match scan.run.state {
            State::Running if self.rests(&scan) => State::Paused,
            state => state,
        }
    }

    /// Whether nothing is scanned now without being asked for.
    fn rests(&self, scan: &Scan) -> bool {
        self.in_maintenance() && !scan.asked
    }

    /// `maintenance_mode` has begun, or has ended: a run that is under way waits, or goes on.
    pub(super) fn scan_in_maintenance(&self) {
        let mut scan = self.scan.lock();
        scan.asked = false;
        scan.order += 1;
        drop(scan);
        self.scan_turn.notify_all();
    }

    pub(super) fn set_scan_run(&self, run: Run) {
        self.scan.lock().run = run;
    }

    /// How much of the run is done, in percent.
    pub(crate) fn scan_percent(&self) -> u64 {
        let mut sizes = [0; 1 + crate::pure::units::MAX_SPARES];
        sizes[0] = self.main.len.0;
        for (id, spare) in self.each_spare() {
            if let Some(size) = sizes.get_mut(1 + usize::from(id.0)) {
                *size = spare.len.0;
            }
        }
        self.scan_run().percent(&sizes)
    }

    /// `scan start`, `stop` or `pause`; for the caller to commit, and then to [wake](Self::wake_scan)
    /// the scan. Gives the run of before, for [`scan_refused`](Self::scan_refused).
    ///
    /// # Errors
    ///
    /// `EBUSY` while the set is not in use, `ENOENT` where there is nothing to pause.
    pub(crate) fn order_scan(&self, order: ScanOrder) -> Result<Run> {
        let mut scan = self.scan.lock();
        if scan.suspended {
            drop(scan);
            self.say_error(format_args!("the device is suspended; resume it first"));
            return Err(EBUSY);
        }
        let before = scan.run;
        match (order, before.state) {
            (ScanOrder::Start, State::Idle) => scan.run.begin(system::real_seconds()),
            (ScanOrder::Start, _) => scan.run.state = State::Running,
            (ScanOrder::Stop, State::Idle) => {}
            (ScanOrder::Stop, _) => scan.run.give_up(),
            (ScanOrder::Pause, State::Idle) => {
                drop(scan);
                self.say_error(format_args!("no scan is under way; begin one with 'scan start'"));
                return Err(ENOENT);
            }
            (ScanOrder::Pause, _) => scan.run.state = State::Paused,
        }
        scan.asked = order == ScanOrder::Start;
        if scan.run != before {
            scan.order += 1;
        }
        Ok(before)
    }

    /// An order could not be kept: it is as if it had not been given.
    pub(crate) fn scan_refused(&self, before: Run) {
        let mut scan = self.scan.lock();
        scan.run = before;
        scan.asked = false;
        scan.order += 1;
    }

    /// Has the scan look at what it is to do.
    pub(crate) fn wake_scan(this: ArcBorrow<'_, Self>) {
        this.scan_turn.notify_all();
        // As in `ask_worker`.
        let state = this.state.lock();
        if this.writable && !state.closing {
            // When it is queued already, it will run.
            let _ = this.scan_queue.enqueue::<Arc<Self>, 2>(this.into());
        }
    }

    /// The set is in use.
    pub(super) fn resume_scan(this: ArcBorrow<'_, Self>) {
        this.scan.lock().suspended = false;
        Self::wake_scan(this);
    }

    /// The set is about to be let go: the scan begins nothing any more.
    pub(super) fn suspend_scan(&self) {
        self.scan.lock().suspended = true;
        self.scan_turn.notify_all();
    }

    /// Waits for what the scan has begun.
    pub(super) fn await_scan(&self) {
        let mut scan = self.scan.lock();
        while scan.busy {
            let waited = self.scan_turn.wait_interruptible_timeout(&mut scan, msecs_to_jiffies(20));
            if let CondVarTimeoutResult::Signal { .. } = waited {
                // As in `stop_moves`.
                drop(scan);
                fsleep(Delta::from_millis(20));
                scan = self.scan.lock();
            }
        }
    }

    /// Whether the scan is to end what it does, begun under that order.
    pub(super) fn scan_is_called_off(&self, order: u64) -> bool {
        let scan = self.scan.lock();
        scan.suspended || scan.order != order
    }

    /// Waits, unless it is called off.
    fn scan_sleep(&self, order: u64, ns: u64) {
        let mut scan = self.scan.lock();
        if !scan.suspended && scan.order == order {
            let ms = (ns / 1_000_000).clamp(1, 1000 * SLEEP);
            let _ =
                self.scan_turn.wait_interruptible_timeout(&mut scan, msecs_to_jiffies(ms as u32));
        }
    }

    fn rules(&self) -> Rules {
        let state = self.state.lock();
        let values = &state.info.settings;
        Rules {
            rate: values.get(&settings::SCAN_RATE),
            threshold: values.get(&settings::REMAP_THRESHOLD),
            interval: values.get(&settings::SCAN_INTERVAL),
            created: state.info.created,
        }
    }

    /// Scans as long as there is something to scan.
    fn scan(this: &Arc<Self>) {
        // The set may be what memory is waited for.
        let _scope = MemScope::without_io();
        let mut reader: Option<Reader> = None;
        let mut kept = Instant::<Monotonic>::now();
        loop {
            let rules = this.rules();
            let now = system::real_seconds();
            let mut scan = this.scan.lock();
            scan.busy = false;
            if scan.suspended {
                break;
            }
            let rests = this.rests(&scan);
            if rests || scan.run.state != State::Running {
                let due = match scan.run.state {
                    State::Running => Some(SLEEP),
                    _ => scan.run.due_in(rules.interval, rules.created, now),
                };
                match due {
                    None => break,
                    Some(0) if !rests => {
                        scan.run.begin(now);
                        scan.order += 1;
                    }
                    Some(left) => {
                        // Whoever ends `maintenance_mode` wakes it.
                        let left = if rests { SLEEP } else { left.min(SLEEP) };
                        let order = scan.order;
                        drop(scan);
                        reader = None;
                        this.scan_sleep(order, left * 1_000_000_000);
                        continue;
                    }
                }
            }
            scan.busy = true;
            let (run, order) = (scan.run, scan.order);
            drop(scan);
            let step = match Self::reader_for(&mut reader, order) {
                Some(reader) => this.scan_step(reader, &run, order, &rules),
                None => Step::Wait(NO_MEMORY),
            };
            match step {
                Step::Wait(ns) => this.scan_sleep(order, ns),
                Step::Reached(next) => this.scan_reached(order, next),
                Step::Over => {
                    this.scan_over(order);
                    kept = Instant::now();
                }
            }
            // That a run comes to its end has been asked for; that it is kept on its way has not.
            if kept.elapsed().as_millis() > KEEP * 1000 && !this.in_maintenance() {
                this.keep_scan(|_| {});
                kept = Instant::now();
            }
        }
        this.scan_turn.notify_all();
    }

    /// What a run that began or went on with that order has read so far, or a new start of it.
    fn reader_for(reader: &mut Option<Reader>, order: u64) -> Option<&mut Reader> {
        if reader.as_ref().is_none_or(|reader| reader.order != order) {
            *reader = None;
            *reader = Some(Reader::new(order).ok()?);
        }
        reader.as_mut()
    }

    /// The scan has come so far, unless it has been told something else meanwhile.
    fn scan_reached(&self, order: u64, next: Run) {
        let mut scan = self.scan.lock();
        if scan.order == order {
            scan.run = next;
        }
    }

    /// The run has come to its end.
    fn scan_over(self: &Arc<Self>, order: u64) {
        let mut scan = self.scan.lock();
        if scan.order != order {
            return;
        }
        scan.run.finish(system::real_seconds());
        scan.asked = false;
        scan.order += 1;
        let run = scan.run;
        drop(scan);
        let scores = self.scores(&self.state.lock());
        self.keep_scan(|header| {
            let scans = &mut header.raw_mut().statistics.scans;
            scans.set(scans.get().saturating_add(1));
            self.note_spares(header, &scores);
        });
        let this: &Self = self;
        log_info!(
            "{this}: the scan is done: {} sectors could not be read, {} only with effort",
            run.unreadable,
            run.slow
        );
        self.tell("scan");
    }

    /// Commits where the scan is. Without it, a bit is read twice.
    fn keep_scan(self: &Arc<Self>, update: impl Fn(&mut Header)) {
        let mut guard = self.meta.lock();
        let Some(meta) = (*guard).as_mut().filter(|meta| !meta.in_doubt()) else { return };
        // What failed has been said.
        let _ = self.commit(meta, CommitKind::Save, None, update, |_| ());
        let in_doubt = meta.in_doubt();
        drop(guard);
        if in_doubt {
            Self::wake_worker(self);
        }
    }

    /// The scan cannot go on by itself.
    pub(super) fn pause_scan(self: &Arc<Self>, order: u64) {
        let mut scan = self.scan.lock();
        if scan.order == order {
            scan.run.state = State::Paused;
            scan.asked = false;
            scan.order += 1;
            drop(scan);
            if !self.in_maintenance() {
                self.keep_scan(|_| {});
            }
            self.tell("scan");
        }
    }
}

impl WorkItem<2> for Remap {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::scan(&this);
    }
}
