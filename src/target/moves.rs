// SPDX-License-Identifier: GPL-2.0

//! Copying a part of main to a spare, and back. The part is held and drained.

use super::{
    job::{Job, Kind, PART},
    spare::Failures,
    Remap,
};
use crate::{
    dm::{
        bio::{Payload, Status},
        compat::{ENODATA, EREMOTEIO},
        device::BlockDevice,
        io::{self, Io, Span, What},
    },
    pure::{
        entry::{Entry, Mapping},
        health::Member,
        mem::{Block, BLOCK_SIZE},
        store::SpareSet,
        units::{Extent, MainSector, Sectors, SpareId, SpareSector, SECTOR_SIZE},
    },
};
use kernel::{
    alloc::Flags,
    prelude::*,
    time::{Instant, Monotonic},
};

/// A change of the table that a move has prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// The data has been written there.
    To(Extent, SpareId, SpareSector),
    /// It cannot be read.
    Pending(Extent),
    /// It lives on a spare and cannot be read there; or can be written there all the same.
    Suspect(Extent, SpareId, SpareSector, bool),
    /// The data is on main, where it was before is free: a place on a spare, or nothing.
    Back(Extent, Option<(SpareId, SpareSector)>),
    /// This place on a spare has failed; whether an extent lived there until now.
    Retire(SpareId, SpareSector, Sectors, bool),
    /// What lived in this place on a spare lives elsewhere.
    Free(SpareId, SpareSector, Sectors),
}

impl Change {
    /// The extent of main that it is about.
    pub(super) fn extent(&self) -> Option<Extent> {
        match *self {
            Self::To(extent, ..)
            | Self::Pending(extent)
            | Self::Suspect(extent, ..)
            | Self::Back(extent, _) => Some(extent),
            Self::Retire(..) | Self::Free(..) => None,
        }
    }
}

/// Blocks on a spare that may fail one after the other before a place far from them is tried.
const PLACES: usize = 16;

/// How often one is, before the spare is given up.
const STEPS: usize = 5;

/// Sectors that are passed over the first time; then sixteen times as many, and so on.
const STEP: u64 = 256;

/// How long a part may take that does not go in one, in seconds: I/O to it waits.
const PATIENCE: i64 = 10;

/// What a part of a move has come to.
pub(crate) struct Progress<'a> {
    /// The job.
    job: &'a Job,
    /// Where the part begins.
    first: MainSector,
    began: Instant<Monotonic>,
    /// The sector before which all is done, if that is not all of the part.
    pub(crate) reached: Option<MainSector>,
    /// What is to be committed.
    pub(crate) changes: KVec<Change>,
    /// What has to be durable before the changes are.
    pub(crate) written: Written,
    /// Spares on which no place is taken.
    pub(super) avoid: SpareSet,
    /// Sectors that change their place.
    pub(crate) moved: u64,
    /// Sectors that cannot be read.
    pub(crate) unreadable: u64,
}

/// Why an extent was not brought back to main.
enum Stays {
    /// It stays on its spare for this; others need not.
    This(Error),
    /// So do those behind it.
    All(Error),
}

/// What has been written and is not durable yet.
#[derive(Clone, Copy)]
pub(crate) struct Written {
    /// The spares that it was written to.
    pub(crate) spares: SpareSet,
    /// How often flushes had failed before.
    on_spares: Failures,
    on_main: u64,
}

impl Written {
    /// Nothing, before anything is.
    fn nothing(remap: &Remap) -> Self {
        let on_spares = Failures::of(&remap.spares);
        Self { spares: SpareSet::NONE, on_spares, on_main: remap.main.cache.failures() }
    }

    /// Those of `which` on which it may be lost although a flush has succeeded.
    pub(super) fn lost_on(&self, remap: &Remap, which: SpareSet) -> SpareSet {
        self.on_spares.since(&remap.spares, which)
    }

    /// Whether that is so of what was written to main.
    pub(super) fn lost_on_main(&self, remap: &Remap) -> bool {
        self.on_main != remap.main.cache.failures()
    }
}

impl<'a> Progress<'a> {
    /// Nothing of `part` so far.
    pub(crate) fn new(job: &'a Job, part: Extent) -> Self {
        Self {
            job,
            first: part.start,
            began: Instant::now(),
            reached: None,
            changes: KVec::new(),
            written: Written::nothing(&job.remap),
            avoid: SpareSet::NONE,
            moved: 0,
            unreadable: 0,
        }
    }

    /// Whether what is left from `at` on is for another part: it had no place, or I/O to this part
    /// has waited long enough. What was done until then is committed.
    pub(super) fn leaves(&mut self, at: MainSector) -> bool {
        let late = self.job.is_stopped() || self.is_late();
        if self.reached.is_none() && at > self.first && late {
            self.reached = Some(at);
        }
        self.reached.is_some()
    }

    /// Whether I/O to this part has waited long enough.
    pub(super) fn is_late(&self) -> bool {
        self.began.elapsed().as_nanos() > PATIENCE * 1_000_000_000
    }

    pub(super) fn change(&mut self, change: Change) -> Result {
        Ok(self.changes.push(change, GFP_KERNEL)?)
    }

    /// Gives up what has found a place since there were `before` changes.
    pub(super) fn take_back(&mut self, before: usize, remap: &Remap) -> Result {
        let mut others = KVec::with_capacity(self.changes.len() - before, GFP_KERNEL)?;
        while self.changes.len() > before {
            match self.changes.pop() {
                Some(change @ Change::To(extent, ..)) => {
                    self.moved -= extent.len.0;
                    remap.give_back(&[change]);
                }
                Some(change) => others.push(change, GFP_KERNEL)?,
                None => break,
            }
        }
        while let Some(change) = others.pop() {
            self.change(change)?;
        }
        Ok(())
    }
}

/// The search for places that take a run.
#[derive(Default)]
struct Search {
    /// What has no place yet.
    left: KVec<Extent>,
    /// Blocks of places that have failed since one was good.
    failed: KVec<(SpareId, SpareSector)>,
    /// Places that were passed over without a try.
    passed: KVec<(SpareId, SpareSector, Sectors)>,
    /// How often some were.
    steps: usize,
    /// Spares that took nothing.
    avoid: SpareSet,
}

impl Search {
    /// Whether so many have failed that the next is to be far from them.
    fn has_failed(&self) -> bool {
        self.failed.len() >= PLACES + self.steps
    }
}

/// Where the data of a run is that is to be written.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// In memory, from the first byte on.
    Blocks(&'a [Block]),
    /// In a bio, from this sector of its data on.
    Bio(Payload<'a>, Sectors),
    /// Zeroes, taken from a block of them.
    Zeroes(&'a Block),
}

impl<'a> Source<'a> {
    /// To write the sectors of `span`.
    fn write(self, span: Span) -> What<'a> {
        match self {
            Self::Blocks(blocks) => What::Write(blocks, span),
            Self::Bio(payload, first) => {
                What::Part(payload, Span { from: first + span.from, len: span.len })
            }
            Self::Zeroes(block) => What::Zeroes(block, span.len),
        }
    }
}

/// Memory for the data of a part.
pub(crate) struct Buffers {
    pub(super) data: KVec<Block>,
    /// To read back what was written.
    proof: KVec<Block>,
}

impl Buffers {
    /// Memory for a job of that kind, on a main with blocks of `block`.
    pub(crate) fn new(kind: Kind, range: Extent, block: Sectors, flags: Flags) -> Result<Self> {
        let part = match kind {
            // Its data is in its bio; a block is for the probe.
            Kind::Rescue => block.0 as usize,
            _ => range.len.min(PART).0 as usize,
        };
        let blocks = (part * SECTOR_SIZE).div_ceil(BLOCK_SIZE).max(1);
        let make = |n| {
            let mut v = KVec::with_capacity(n, flags)?;
            for _ in 0..n {
                v.push(Block::zeroed_from(flags)?, flags)?;
            }
            Ok::<_, Error>(v)
        };
        let (data, proof) = match kind {
            Kind::Remap
            | Kind::Rescue
            | Kind::Members(_)
            | Kind::Look
            | Kind::Place(_)
            | Kind::Early(_) => (blocks, 0),
            Kind::Unremap => (blocks, blocks),
            Kind::Restore | Kind::Check(_) => (0, 0),
        };
        Ok(Self { data: make(data)?, proof: make(proof)? })
    }
}

impl Remap {
    /// The next part of a job's range, or `None` when nothing is left to do in it.
    pub(crate) fn next_part(&self, kind: Kind, left: Extent) -> Option<Extent> {
        let table = self.state.lock().table.clone();
        let start = match kind {
            Kind::Restore | Kind::Rescue => return Some(left),
            Kind::Look | Kind::Place(_) | Kind::Early(_) => left.start,
            Kind::Check(_) | Kind::Members(_) => return None,
            Kind::Unremap => table.lookup(left.start, left.len)?.extent.start.max(left.start),
            Kind::Remap => {
                let mut at = left.start;
                for entry in table.iter_in(left) {
                    if entry.extent.start > at || entry.mapping == Mapping::Pending {
                        break;
                    }
                    at = entry.extent.end();
                }
                at
            }
        };
        Extent::new(start, left.end().since(start)?.min(PART))
    }

    /// Reads `len` sectors; says how it went.
    pub(super) fn try_read(
        &self,
        device: &BlockDevice,
        sector: u64,
        to: &mut [Block],
        len: Sectors,
    ) -> Status {
        let mut ios = [Io::new(device, sector, What::Read(to, Span::first(len)))];
        io::run(&self.pool, &mut ios);
        ios[0].status()
    }

    pub(super) fn read(
        &self,
        device: &BlockDevice,
        sector: u64,
        to: &mut [Block],
        len: Sectors,
    ) -> Result {
        self.try_read(device, sector, to, len).to_result()
    }

    /// Writes the sectors of `span` of what `from` gives; says how it went.
    pub(super) fn write(
        &self,
        device: &BlockDevice,
        sector: u64,
        from: Source<'_>,
        span: Span,
    ) -> Status {
        let mut ios = [Io::new(device, sector, from.write(span))];
        io::run(&self.pool, &mut ios);
        ios[0].status()
    }

    /// Reads from main; says how it went.
    pub(super) fn try_read_main(&self, extent: Extent, to: &mut [Block]) -> Status {
        let sector = self.main.start + extent.start.0;
        self.try_read(self.main.device.block(), sector, to, extent.len)
    }

    pub(super) fn read_main(&self, extent: Extent, to: &mut [Block]) -> Result {
        let status = self.try_read_main(extent, to);
        status.to_result().inspect_err(|_| self.counters.error(Some(Member::Main), true))
    }

    /// Makes durable what main has acknowledged.
    pub(crate) fn flush_main(&self) -> Result {
        io::flush(self.main.device.block(), &self.main.cache, &self.pool).to_result()
    }

    /// Copies what of `part` is not on a spare to one. What cannot be read becomes pending.
    pub(crate) fn copy_to_spare(
        &self,
        part: Extent,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let table = self.state.lock().table.clone();
        let mut at = part.start;
        for entry in table.iter_in(part) {
            if progress.reached.is_some() {
                return Ok(());
            }
            self.copy_run(at, entry.extent.start, false, buffers, progress)?;
            let end = entry.extent.end().min(part.end());
            if entry.mapping == Mapping::Pending {
                self.copy_run(at.max(entry.extent.start), end, true, buffers, progress)?;
            }
            at = end;
        }
        self.copy_run(at, part.end(), false, buffers, progress)
    }

    /// Copies the sectors from `from` to before `to`, if there are any; all of them are alike
    /// `pending` or not.
    fn copy_run(
        &self,
        from: MainSector,
        to: MainSector,
        pending: bool,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        if from >= to || progress.reached.is_some() {
            return Ok(());
        }
        let run = Extent { start: from, len: to - from };
        if self.read_main(run, &mut buffers.data).is_ok() {
            return self.write_run(run, Source::Blocks(&buffers.data), progress);
        }
        // Something in it cannot be read: block by block, what can be read is moved.
        let before = progress.unreadable;
        for one in self.blocks(run) {
            if progress.leaves(one.start) {
                break;
            }
            match self.read_main(one, &mut buffers.data) {
                Ok(()) => self.write_run(one, Source::Blocks(&buffers.data), progress)?,
                // The medium, or the device's general error. Anything else says nothing of the block.
                Err(e) if [EIO, ENODATA, EREMOTEIO].contains(&e) => {
                    progress.unreadable += one.len.0;
                    if !pending {
                        progress.change(Change::Pending(one))?;
                    }
                }
                Err(e) => {
                    self.say_trouble(format_args!(
                        "main ({}) is not there: {e:?}",
                        self.main.device
                    ));
                    return Err(e);
                }
            }
        }
        // A drive that answers nowhere says nothing of these blocks. One that copies another has nothing else to say of what it
        // lacks when that one is gone; who replaces main knows whether it is.
        let blind = !pending && progress.unreadable > before && !self.main.copies;
        if blind && !self.reads_elsewhere(run, buffers) {
            progress.unreadable = before;
            self.say_trouble(format_args!(
                "main ({}) cannot be read anywhere, and nothing was marked at sector {}; check the drive and its cable",
                self.main.device, run.start
            ));
            return Err(EIO);
        }
        Ok(())
    }

    /// The logical blocks of a run, in their order.
    pub(super) fn blocks(&self, run: Extent) -> impl Iterator<Item = Extent> {
        let block = self.block_sectors();
        let mut at = run.start;
        core::iter::from_fn(move || {
            let left = run.end().since(at).filter(|left| left.0 > 0)?;
            let one = Extent { start: at, len: block.min(left) };
            at = one.end();
            Some(one)
        })
    }

    /// Writes a run whose data is in `from` to places on spares. Blocks of a place that fail, and
    /// fail again, are retired, and others taken.
    pub(super) fn write_run(
        &self,
        run: Extent,
        from: Source<'_>,
        progress: &mut Progress<'_>,
    ) -> Result {
        let mut search = Search { avoid: progress.avoid, ..Search::default() };
        search.left.push(run, GFP_KERNEL)?;
        let result = self.search(run, from, progress, &mut search);
        self.give_back_unused(&mut search);
        match result {
            Err(e) if e == ENOSPC && !progress.changes.is_empty() => {
                // What has found a place is committed; who comes back for the rest is told.
                let first = search.left.iter().map(|extent| extent.start).min();
                progress.reached = Some(first.unwrap_or(run.start));
                Ok(())
            }
            Err(e) if e == ENOSPC => {
                self.say_trouble(format_args!(
                    "no room on the spare for sector {} of main; 'unremap' what main can hold again",
                    run.start
                ));
                Err(e)
            }
            result => result,
        }
    }

    fn search(
        &self,
        run: Extent,
        from: Source<'_>,
        progress: &mut Progress<'_>,
        search: &mut Search,
    ) -> Result {
        while let Some(&now) = search.left.last() {
            if search.has_failed() {
                if search.steps == STEPS {
                    self.try_another(search)?;
                    continue;
                }
                search.passed.reserve(1, GFP_KERNEL)?;
                let step = Sectors(STEP << (4 * search.steps));
                search.steps += 1;
                let passed = self.take_place(now.start, step, search.avoid).map_err(|_| EIO)?;
                search.passed.push(passed, GFP_KERNEL)?;
            }
            match self.place(run, from, progress, search) {
                Err(e) if e == EIO => self.try_another(search)?,
                // There is room, on what cannot be written, or was passed over.
                Err(e) if e == ENOSPC && !search.failed.is_empty() => self.try_another(search)?,
                Err(e) if e == ENOSPC && search.avoid != progress.avoid => return Err(EIO),
                result => result?,
            }
        }
        Ok(())
    }

    /// Frees the places that hold nothing, and gives their spares: nothing shows that those which have
    /// failed are bad, as the spare may be gone.
    fn give_back_unused(&self, search: &mut Search) -> SpareSet {
        let mut of = SpareSet::NONE;
        while let Some((id, to)) = search.failed.pop() {
            self.give_back(&[Change::Retire(id, to, self.block_sectors(), false)]);
            of.add(id);
        }
        while let Some((id, to, len)) = search.passed.pop() {
            self.give_back(&[Change::Retire(id, to, len, false)]);
            of.add(id);
        }
        of
    }

    /// Goes on without the spares that have taken nothing: nothing shows that they answer, and that
    /// their places are bad.
    fn try_another(&self, search: &mut Search) -> Result {
        let tried = self.give_back_unused(search);
        search.avoid = search.avoid.with(tried);
        search.steps = 0;
        match self.usable_spares().without(search.avoid).is_empty() {
            true => Err(EIO),
            false => Ok(()),
        }
    }

    /// Writes the last of what is left of a `run`, whose data is in `from`, or the first of it, to a
    /// place on a spare.
    fn place(
        &self,
        run: Extent,
        from: Source<'_>,
        progress: &mut Progress<'_>,
        search: &mut Search,
    ) -> Result {
        let Some(&now) = search.left.last() else { return Ok(()) };
        // So that nothing fails between taking a place and noting it.
        let blocks = now.len.0 as usize + 2;
        search.left.reserve(blocks, GFP_KERNEL)?;
        search.failed.reserve(blocks, GFP_KERNEL)?;
        search.passed.reserve(1, GFP_KERNEL)?;
        progress.changes.reserve(blocks + search.failed.len(), GFP_KERNEL)?;
        let (id, to, len) = self.take_place(now.start, now.len, search.avoid)?;
        let whole = Extent { start: now.start, len };
        let Some(spare) = self.spare(id) else {
            self.give_back(&[Change::To(whole, id, to)]);
            return Err(EINVAL);
        };
        search.left.pop();
        if len < now.len {
            let rest = Extent { start: now.start + len, len: now.len - len };
            search.left.push(rest, GFP_KERNEL)?;
        }
        let place = |at: MainSector| to + (at - whole.start);
        let write = |part: Extent| {
            let span = Span { from: part.start - run.start, len: part.len };
            self.write(spare.block(), spare.sector(place(part.start)), from, span)
        };
        let status = write(whole);
        if status.is_ok() {
            return self.placed(Change::To(whole, id, to), progress, search);
        }
        self.counters.error(Some(Member::Spare(id)), false);
        let mut status = Some(status);
        for one in self.blocks(whole) {
            // What came back for a single block counts for it.
            let status = match status.take().filter(|_| whole.len <= one.len) {
                Some(status) => status,
                None => write(one),
            };
            if status.is_ok() {
                self.placed(Change::To(one, id, place(one.start)), progress, search)?;
                continue;
            }
            let counts = status.counts();
            if counts {
                self.say_trouble(format_args!(
                    "spare {id} ({}) failed to write sector {}",
                    spare.device,
                    spare.sector(place(one.start))
                ));
                search.failed.push((id, place(one.start)), GFP_KERNEL)?;
                search.left.push(one, GFP_KERNEL)?;
            }
            let next = if counts { one.end() } else { one.start };
            if !counts || search.has_failed() || progress.is_late() {
                // The rest of it is not tried.
                if let Some(rest) = whole.end().since(next).and_then(|len| Extent::new(next, len)) {
                    search.passed.push((id, place(next), rest.len), GFP_KERNEL)?;
                    search.left.push(rest, GFP_KERNEL)?;
                }
                let gone = !counts || progress.is_late();
                return if gone { Err(EIO) } else { Ok(()) };
            }
        }
        Ok(())
    }

    /// A place has taken what was written there; the spare answers, so those of it that have failed are
    /// bad. Of others nothing is known.
    fn placed(&self, change: Change, progress: &mut Progress<'_>, search: &mut Search) -> Result {
        let Change::To(extent, id, _) = change else { return Ok(()) };
        if let Some(spare) = self.spare(id) {
            spare.cache.wrote();
        }
        progress.written.spares.add(id);
        progress.moved += extent.len.0;
        progress.change(change)?;
        while let Some((other, at)) = search.failed.pop() {
            let retire = Change::Retire(other, at, self.block_sectors(), false);
            match other == id {
                true => progress.change(retire)?,
                false => self.give_back(&[retire]),
            }
        }
        Ok(())
    }

    /// Copies what of `part` is on spares back to main, makes sure that it is there, and clears the
    /// mark of pending blocks that can be read.
    pub(crate) fn copy_to_main(
        &self,
        part: Extent,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let table = self.state.lock().table.clone();
        for entry in table.iter_in(part).filter_map(|entry| entry.clip(&part)) {
            if progress.leaves(entry.extent.start) {
                break;
            }
            match entry.mapping {
                Mapping::Pending => self.read_pending(entry.extent, buffers, progress)?,
                Mapping::Remapped { .. } | Mapping::Suspect { .. } => {
                    match self.bring_back(entry, buffers, progress) {
                        Ok(()) => {}
                        Err(Stays::This(e)) => progress.job.stays(e),
                        Err(Stays::All(e)) => return Err(e),
                    }
                }
                Mapping::Lost => progress.unreadable += entry.extent.len.0,
                // Stands behind all of main.
                Mapping::Retired { .. } => {}
            }
        }
        Ok(())
    }

    fn read_pending(
        &self,
        extent: Extent,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        for one in self.blocks(extent) {
            if progress.leaves(one.start) {
                break;
            }
            if self.read_main(one, &mut buffers.data).is_ok() {
                progress.change(Change::Back(one, None))?;
            } else {
                progress.unreadable += one.len.0;
            }
        }
        Ok(())
    }

    fn bring_back(
        &self,
        entry: Entry,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result<(), Stays> {
        let Some((id, to)) = entry.mapping.place() else { return Ok(()) };
        let (extent, span) = (entry.extent, Span::first(entry.extent.len));
        let Some(spare) = self.usable(id) else {
            self.say_trouble(format_args!(
                "{}, where sector {} lives, is away",
                self.device_of(id),
                extent.start
            ));
            return Err(Stays::This(EIO));
        };
        let at = spare.sector(to);
        self.read(spare.block(), at, &mut buffers.data, extent.len).map_err(|e| {
            self.say_trouble(format_args!(
                "spare {id} ({}) failed to read sector {at}",
                spare.device
            ));
            Stays::This(e)
        })?;
        let main = self.main.device.block();
        let sector = self.main.start + extent.start.0;
        let stays = |what: &str, e: Error| {
            self.say_trouble(format_args!(
                "main ({}) failed to {what} sector {sector} and {} behind it; the remap stays",
                self.main.device,
                extent.len.0 - 1
            ));
            e
        };
        let written = self.write(main, sector, Source::Blocks(&buffers.data), span);
        written.to_result().map_err(|e| {
            self.counters.error(Some(Member::Main), false);
            let e = stays("write", e);
            // Where it is not the medium, main has nothing better to say of the others.
            if written.counts() {
                Stays::This(e)
            } else {
                Stays::All(e)
            }
        })?;
        self.flush_main().map_err(|e| Stays::All(stays("flush", e)))?;
        // What a flush of a caller has lost may still be read back, from a cache.
        if progress.written.lost_on_main(self) {
            return Err(Stays::All(stays("flush", EIO)));
        }
        self.read_main(extent, &mut buffers.proof)
            .map_err(|e| Stays::This(stays("read back", e)))?;
        let bytes = extent.len.0 as usize * SECTOR_SIZE;
        let blocks = bytes.div_ceil(BLOCK_SIZE);
        let same = (0..blocks).all(|i| {
            let n = (bytes - i * BLOCK_SIZE).min(BLOCK_SIZE);
            buffers.data[i][..n] == buffers.proof[i][..n]
        });
        if !same {
            return Err(Stays::This(stays("keep what was written to", EIO)));
        }
        progress.moved += extent.len.0;
        progress.change(Change::Back(extent, Some((id, to)))).map_err(Stays::All)
    }
}
