// SPDX-License-Identifier: GPL-2.0

//! The target `remap`: one value of [`Remap`] for each table.
//!
//! Data flows one way: [`route`] looks a bio's sectors up in the published [`view`] and sends it
//! on; what is held or moved leaves that path, for [`job`]s that copy ([`moves`]) and the worker
//! that commits and publishes ([`engine`]).

mod activate;
mod alone;
mod auto;
mod behind;
mod changes;
mod commits;
mod construct;
mod counters;
pub(crate) mod debt;
mod domains;
mod engine;
mod given;
mod health;
mod identity;
mod job;
pub(crate) mod live;
mod looks;
mod members;
mod moves;
mod places;
mod replaced;
mod rescue;
mod rest;
mod roster;
mod route;
mod scan;
mod scanned;
pub(crate) mod spare;
mod upkeep;
mod view;

use crate::{
    controls::{self, Files},
    dm::{
        bindings,
        bio::{BioPool, Ended, EndedBio, MapBio, Mapped, Status},
        device::Device,
        held::{HeldList, HeldPile},
        kobject::Parent,
        limits::QueueLimits,
        system::{self, MemScope, WorkQueue},
        target::{Args, Construct, MappedDevice, StatusKind, Target},
        text::Text,
    },
    metadata::SpareStore,
    pure::{
        cache::Flushes,
        commit::Metadata,
        format::MemberUuid,
        mem::Block,
        settings::Limits,
        store::SpareSet,
        units::{Sectors, SpareId, MAX_SPARES, SECTOR_SIZE},
    },
};
use core::fmt::{self, Write as _};
use kernel::{
    ffi,
    prelude::*,
    sync::{atomic::Atomic, Arc, ArcBorrow, CondVar, Mutex, SpinLock},
    workqueue::{impl_has_work, Work},
};

pub(crate) use construct::Wish;
pub(crate) use counters::Errors;
use engine::Info;
pub(crate) use engine::State;
pub(crate) use health::Scores;
pub(crate) use job::{Job, Kind};
pub(crate) use roster::Roster;
use spare::{Role, SpareList as _};

/// A table of the target.
#[pin_data]
pub(crate) struct Remap {
    /// What I/O sees.
    front: view::Front,
    pub(crate) main: spare::Main,
    /// The flushes of callers that are under way.
    flushes: Flushes,
    /// The devices that are there, each at its number in the set.
    pub(crate) spares: spare::Spares,
    #[pin]
    domains: domains::Domains,
    pub(crate) counters: counters::Counters,
    /// Bios that wait for a range to be let go.
    #[pin]
    held: SpinLock<HeldList<Remap>>,
    /// Writes that failed, or that go to pending blocks.
    failed: HeldPile<Remap>,
    /// Reads that failed, and have not been answered.
    unread: alone::Unread,
    /// Writes that go to two spares.
    mirrored: HeldPile<Remap>,
    /// What was written to two spares has not reached the second.
    mirror_broke: Atomic<bool>,
    /// Whether spares are being added, removed or replaced: 1, or 0.
    changing: Atomic<i32>,
    /// Ranges to be looked at.
    notes: looks::Notes,
    #[pin]
    rescues: Mutex<rescue::Rescues>,
    /// Writes that main is known to have taken while somebody wondered.
    main_writes: Atomic<u64>,
    /// Whether blocks are moved without being asked.
    may_remap: Atomic<bool>,
    /// Whether nothing at all is changed without being asked for.
    maintenance: Atomic<bool>,
    /// Errors in a minute beyond which they are not.
    error_limit: Atomic<u64>,
    /// A block of zeroes.
    zeroes: Block,
    pub(crate) pool: Pin<KBox<BioPool>>,
    /// Whether the table was loaded for writing too.
    pub(crate) writable: bool,
    /// Whether the table line says `degraded`.
    degraded: bool,
    debt: debt::Debt,
    #[pin]
    pub(crate) wish: Mutex<Wish>,
    /// By what main was recognised.
    #[pin]
    pub(crate) identity: Mutex<identity::Identity>,
    /// The metadata; there while the set is ours.
    #[pin]
    pub(crate) meta: Mutex<Option<Metadata>>,
    #[pin]
    pub(crate) state: Mutex<State>,
    /// Notified when a job has ended.
    #[pin]
    pub(crate) job_ended: CondVar,
    /// Rescues that have nothing to commit yet.
    narrowing: Atomic<usize>,
    /// Notified when there is more to commit, or no rescue left that may have something.
    #[pin]
    gathered: CondVar,
    /// After copies were written anew and were still too few.
    too_few_copies: rest::Rest,
    /// After copies that stayed bad were written anew by nobody's wish.
    bad_copies: rest::Rest,
    /// After suspects were looked at and had done nothing.
    suspicions: rest::Rest,
    /// Notified when the worker is not to wait any longer.
    #[pin]
    wake: CondVar,
    #[pin]
    scan: Mutex<scan::Scan>,
    /// Notified when the scan has something else to do, or has come to rest.
    #[pin]
    scan_turn: CondVar,
    /// The devices that are in a bad way, a bit for each, as people have been told.
    alerts: Atomic<u32>,
    #[pin]
    last_error: Mutex<LastError>,
    /// The files that control it; there while it is active.
    #[pin]
    files: Mutex<Option<Files>>,
    #[pin]
    worker: Work<Remap>,
    #[pin]
    dispatcher: Work<Remap, 1>,
    #[pin]
    scanner: Work<Remap, 2>,
    #[pin]
    reader: Work<Remap, 3>,
    queue: WorkQueue,
    /// The scan's own: it takes as long as it takes, and a queue has one thread for when there is no memory for more.
    scan_queue: WorkQueue,
    /// The last to go: its numbers may be another's then.
    mapped: MappedDevice,
}

impl_has_work! {
    impl HasWork<Self> for Remap { self.worker }
    impl HasWork<Self, 1> for Remap { self.dispatcher }
    impl HasWork<Self, 2> for Remap { self.scanner }
    impl HasWork<Self, 3> for Remap { self.reader }
}

/// The text of the last error, and how much has been said of errors lately.
pub(crate) struct LastError {
    text: [u8; 200],
    len: usize,
    /// Lines in the kernel log since that second.
    lines: (u64, u32),
}

impl Default for LastError {
    fn default() -> Self {
        Self { text: [0; 200], len: 0, lines: (0, 0) }
    }
}

impl LastError {
    fn keep(&mut self, what: fmt::Arguments<'_>) {
        self.len = 0;
        // A text that is too long is cut.
        let _ = self.write_fmt(what);
    }

    /// Whether another line may be said: ten in five seconds, as the kernel's own limit has it
    /// (`DEFAULT_RATELIMIT_BURST`, `DEFAULT_RATELIMIT_INTERVAL`).
    fn is_worth_a_line(&mut self, now: u64) -> bool {
        if now.abs_diff(self.lines.0) >= 5 {
            self.lines = (now, 0);
        }
        self.lines.1 += 1;
        self.lines.1 <= 10
    }

    /// The text, or nothing.
    pub(crate) fn as_str(&self) -> &str {
        let text = self.text.get(..self.len).unwrap_or_default();
        match core::str::from_utf8(text) {
            Ok(text) => text,
            Err(e) => core::str::from_utf8(&text[..e.valid_up_to()]).unwrap_or_default(),
        }
    }
}

impl fmt::Write for LastError {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        // A text that is cut within a character ends before it, see `as_str`.
        for (to, from) in self.text.iter_mut().skip(self.len).zip(s.bytes()) {
            *to = from;
            self.len += 1;
        }
        Ok(())
    }
}

/// The device's name in the kernel log.
impl fmt::Display for Remap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dm-{}", self.mapped.number().1)
    }
}

impl Remap {
    /// The device of that number.
    #[inline]
    pub(crate) fn spare(&self, spare: SpareId) -> Option<&spare::Spare> {
        self.spares.at(spare)
    }

    /// The spare of that number, unless the set goes on without it.
    #[inline]
    pub(crate) fn usable(&self, spare: SpareId) -> Option<&spare::Spare> {
        self.spare(spare).filter(|spare| spare.takes_bios())
    }

    /// The members that are there, those too that the set goes on without, with their numbers.
    pub(crate) fn each_spare(&self) -> impl Iterator<Item = (SpareId, &spare::Spare)> {
        let all = self.spares.iter().map(|(n, spare)| (SpareId(n as u8), spare));
        all.filter(|(_, spare)| matches!(spare.role(), Role::Member | Role::Away))
    }

    /// Those that the set does not go on without.
    pub(crate) fn usable_spares(&self) -> SpareSet {
        let mut all = SpareSet::NONE;
        let usable = self.each_spare().filter(|(_, spare)| spare.is_member());
        usable.for_each(|(id, _)| all.add(id));
        all
    }

    /// Whether the table can be loaded again only by doing without somebody.
    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded || !self.state.lock().info.away.is_empty()
    }

    /// The active members that are not there: who activated the set without them could not have it written
    /// that they are away.
    pub(crate) fn absent(&self) -> [Option<MemberUuid>; MAX_SPARES] {
        let state = self.state.lock();
        let Info { active, members, .. } = &state.info;
        core::array::from_fn(|n| {
            let id = SpareId(n as u8);
            let absent = active.has(id) && self.spare(id).is_none();
            members.get(n).copied().filter(|_| absent)
        })
    }

    /// These are the members now.
    fn mark_roles(&self, active: SpareSet, away: SpareSet) {
        for (n, spare) in self.spares.iter() {
            let id = SpareId(n as u8);
            let was = spare.role();
            match was {
                _ if active.has(id) => {
                    spare.cache.take_back();
                    self.spares.set_role(id, Role::Member);
                }
                _ if away.has(id) => {
                    if was != Role::Away {
                        spare.cache.put_away();
                    }
                    self.spares.set_role(id, Role::Away);
                }
                Role::Candidate | Role::Refused => {}
                _ => {
                    // Nobody is told by one that has left.
                    if was != Role::Left && spare.cache.has_lost() {
                        self.main.cache.owe();
                    }
                    self.spares.set_role(id, Role::Left);
                }
            }
        }
    }

    /// The metadata on them.
    pub(crate) fn store(&self) -> SpareStore<'_> {
        SpareStore::new(&self.spares, self.usable_spares(), &self.pool).may_write(self.writable)
    }

    /// The metadata on all members that are there.
    fn whole_store(&self) -> SpareStore<'_> {
        let mut all = SpareSet::NONE;
        self.each_spare().for_each(|(id, _)| all.add(id));
        SpareStore::new(&self.spares, all, &self.pool).may_write(self.writable)
    }

    fn spares_of(&self, set: SpareSet) -> impl Iterator<Item = &spare::Spare> {
        set.iter().filter_map(|spare| self.spare(spare))
    }

    /// Sectors of main's logical block, to which extents are precise.
    pub(crate) fn block_sectors(&self) -> Sectors {
        let bytes = self.main.device.block().logical_block_size() as usize;
        Sectors((bytes / SECTOR_SIZE).max(1) as u64)
    }

    /// What the devices allow.
    pub(crate) fn limits(&self) -> Limits {
        let physical = self.main.device.block().physical_block_size() as usize;
        Limits {
            logical_block: self.block_sectors(),
            physical_block: Sectors((physical / SECTOR_SIZE).max(1) as u64),
            copies: 5 * self.each_spare().count() as u64,
            spares: self.usable_spares(),
        }
    }

    /// Major and minor number of the mapped device.
    pub(crate) fn number(&self) -> (u32, u32) {
        self.mapped.number()
    }

    /// Says in the kernel log what went wrong of what a person has asked for, and keeps it for who
    /// asks.
    pub(crate) fn say_error(&self, what: fmt::Arguments<'_>) {
        log_err!("{self}: {what}");
        self.last_error.lock().keep(what);
    }

    /// [`say_error`](Self::say_error) for what may happen a thousand times in a second: not in the
    /// log if a lot has been said lately.
    pub(crate) fn say_trouble(&self, what: fmt::Arguments<'_>) {
        let mut last = self.last_error.lock();
        if last.is_worth_a_line(system::real_seconds()) {
            log_err!("{self}: {what}");
        }
        last.keep(what);
    }

    /// Writes the last error to `out`, or `none`.
    pub(crate) fn write_last_error(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let last = self.last_error.lock();
        let text = last.as_str();
        out.write_str(if text.is_empty() { "none" } else { text })
    }

    /// The folder of the mapped device in sysfs.
    pub(crate) fn folder(&self) -> Parent<'_> {
        self.mapped.folder()
    }

    /// Makes the folders in sysfs those of the spares that the set has now. To be called when a spare has
    /// come or gone, without `state`. Who reads a folder that goes is waited for; with `meta` held that
    /// ends too, as nothing in the folder of a spare is written to.
    pub(crate) fn refresh_folders(&self) {
        if let Some(files) = (*self.files.lock()).as_mut() {
            files.refresh();
        }
    }

    /// Tells who waits for events that something has changed.
    pub(crate) fn tell(&self, reason: &str) {
        self.mapped.event();
        self.mapped.uevent(reason);
    }

    /// Begins a move, reading the spares again, or a check of them.
    ///
    /// # Errors
    ///
    /// `EBUSY` where another job has the range, or the device is being suspended.
    pub(crate) fn start(
        this: ArcBorrow<'_, Self>,
        kind: Kind,
        range: crate::pure::units::Extent,
    ) -> Result<Arc<Job>> {
        let job = Job::new(this.into(), kind, range, None)?;
        let mut state = this.state.lock();
        if !state.live || state.stopping {
            drop(state);
            this.say_error(format_args!("the device is suspended; resume it first"));
            return Err(EBUSY);
        }
        if state.info.in_doubt && kind.moves() {
            drop(state);
            this.say_error(format_args!(
                "a commit of the metadata is in doubt; check the spare, then try 'save'"
            ));
            return Err(EIO);
        }
        let other = state.jobs.iter().find(|other| other.bars(kind, &range)).cloned();
        if let Some(other) = other {
            drop(state);
            this.say_error(format_args!(
                "a {} of {}+{} is running; wait for it, or stop it with 'stop'",
                other.kind.name(),
                other.range.start,
                other.range.len
            ));
            return Err(EBUSY);
        }
        if state.jobs.len() >= engine::MAX_JOBS {
            drop(state);
            this.say_error(format_args!("too many moves are running; wait for one to end"));
            return Err(EBUSY);
        }
        state.jobs.push(job.clone(), GFP_KERNEL)?;
        drop(state);
        Job::queue(&job);
        Ok(job)
    }
}

#[vtable]
impl Target for Remap {
    const NAME: &'static CStr = c"remap";
    const VERSION: [u32; 3] = [4, 0, 0];
    const FEATURES: u64 = (bindings::DM_TARGET_SINGLETON | bindings::DM_TARGET_NOWAIT) as u64;

    fn construct(ctx: &mut Construct<'_>, args: &mut Args<'_>) -> Result<Arc<Self>> {
        construct::construct(ctx, args)
    }

    fn mapped(&self) -> &MappedDevice {
        &self.mapped
    }

    fn destroy(this: ArcBorrow<'_, Self>) {
        // Whatever was told has nothing left to do, but may still be on its way out.
        this.drain_queues();
        this.domains.barrier();
    }

    #[inline]
    fn map(this: ArcBorrow<'_, Self>, bio: MapBio<'_, Self>) -> Mapped {
        Self::route(this, bio)
    }

    #[inline]
    fn ended_well(this: ArcBorrow<'_, Self>, bio: &EndedBio<'_, Self>) -> bool {
        Self::passed_well(this, bio)
    }

    fn end_io(this: ArcBorrow<'_, Self>, bio: EndedBio<'_, Self>, status: Status) -> Ended {
        Self::ended(this, bio, status)
    }

    fn also_ended(&self, tag: u8, status: Status) {
        self.mirrored(SpareId(tag), status);
    }

    fn presuspend(this: ArcBorrow<'_, Self>) {
        this.suspend_scan();
        this.stop_moves();
        this.await_scan();
    }

    fn presuspend_undo(this: ArcBorrow<'_, Self>) {
        this.state.lock().stopping = false;
        // A doubt may be left to be ended.
        Self::wake_worker(&this.into());
        Self::resume_scan(this);
    }

    fn postsuspend(this: ArcBorrow<'_, Self>) {
        this.deactivate();
    }

    fn preresume(this: ArcBorrow<'_, Self>) -> Result {
        this.activate()
    }

    fn resume(this: ArcBorrow<'_, Self>) {
        // Bios still wait for the end of this.
        let _scope = MemScope::without_io();
        let files = Files::new(this);
        *this.files.lock() = files;
        this.refresh_folders();
        Self::resume_scan(this);
        // There may be short cuts to be had.
        Self::wake_worker(&this.into());
    }

    fn status(this: ArcBorrow<'_, Self>, kind: StatusKind, out: &mut Text<'_>) {
        controls::status(&this, kind, out);
    }

    fn message(this: ArcBorrow<'_, Self>, args: &mut Args<'_>, out: &mut Text<'_>) -> Result {
        controls::message(this, args, out)
    }

    fn each_device(
        this: ArcBorrow<'_, Self>,
        f: &mut dyn FnMut(&Device, u64, u64) -> ffi::c_int,
    ) -> ffi::c_int {
        let main = &this.main;
        let mut result = f(&main.device, main.start, main.len.0);
        for (_, spare) in this.spares.iter() {
            if result == 0 {
                result = f(&spare.device, spare.start, spare.len.0);
            }
        }
        result
    }

    fn limits(this: ArcBorrow<'_, Self>, limits: &mut QueueLimits) {
        let main = this.main.device.block();
        limits.discard_as(main);
        limits.rotational_as(main);
    }
}
