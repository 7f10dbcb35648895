// SPDX-License-Identifier: GPL-2.0

//! The spares as the pure code's [`Store`].

use crate::{
    dm::{
        bio::BioPool,
        io::{self, Io, Span, What},
    },
    pure::{
        mem::BLOCK_SIZE,
        store::{IoError, Read, SpareSet, Store, Write},
        units::{Sectors, SpareId, SpareSector, MAX_SPARES, SECTOR_SIZE},
    },
    target::spare::{Failures, Spare, SpareList},
};
use kernel::prelude::*;

const SECTORS: Sectors = Sectors((BLOCK_SIZE / SECTOR_SIZE) as u64);

/// How many runs of blocks are under way at once.
const AT_ONCE: usize = 64;

/// The most blocks that are read or written as one.
const RUN: usize = 64;

/// The spares of a set that is in use, or about to be.
pub(crate) struct SpareStore<'a> {
    spares: &'a dyn SpareList,
    shown: SpareSet,
    pool: &'a BioPool,
    writable: bool,
    /// As they were before what the next flush is to make durable was written.
    failures: Failures,
}

/// A block to be read or written, as the batches of the pure code have it.
trait Item: Sized {
    fn place(&self) -> (SpareId, SpareSector);
    /// The I/O for blocks that follow each other on `spare`.
    fn io<'a>(run: &'a mut [Self], spare: &'a Spare) -> Option<Io<'a>>;
    fn set(&mut self, result: core::result::Result<(), IoError>);
}

impl Item for Read {
    fn place(&self) -> (SpareId, SpareSector) {
        (self.spare, self.at)
    }

    fn io<'a>(run: &'a mut [Self], spare: &'a Spare) -> Option<Io<'a>> {
        let sector = spare.sector(run.first()?.at);
        let what = match run {
            [one] => What::Read(core::slice::from_mut(&mut one.block), Span::first(SECTORS)),
            run => {
                let mut blocks = KVec::with_capacity(run.len(), GFP_KERNEL).ok()?;
                for read in run {
                    blocks.push(&mut read.block, GFP_KERNEL).ok()?;
                }
                What::ReadEach(blocks)
            }
        };
        Some(Io::new(spare.block(), sector, what))
    }

    fn set(&mut self, result: core::result::Result<(), IoError>) {
        self.result = result;
    }
}

impl Item for Write<'_> {
    fn place(&self) -> (SpareId, SpareSector) {
        (self.spare, self.at)
    }

    fn io<'a>(run: &'a mut [Self], spare: &'a Spare) -> Option<Io<'a>> {
        let sector = spare.sector(run.first()?.at);
        let what = match run {
            [one] => What::Write(core::slice::from_ref(one.block), Span::first(SECTORS)),
            run => {
                let mut blocks = KVec::with_capacity(run.len(), GFP_KERNEL).ok()?;
                for write in run {
                    blocks.push(write.block, GFP_KERNEL).ok()?;
                }
                What::WriteEach(blocks)
            }
        };
        Some(Io::new(spare.block(), sector, what))
    }

    fn set(&mut self, result: core::result::Result<(), IoError>) {
        self.result = result;
    }
}

/// How many of the first items follow each other on one spare.
fn run_of<T: Item>(items: &[T]) -> usize {
    let follows = |pair: &&[T]| match pair {
        [a, b] => {
            let ((spare, at), (next_spare, next)) = (a.place(), b.place());
            spare == next_spare && at + SECTORS == next
        }
        _ => false,
    };
    let more = items.windows(2).take(RUN - 1).take_while(follows).count();
    items.len().min(1 + more)
}

impl<'a> SpareStore<'a> {
    /// The store of those of `spares` that `shown` names, by their numbers; it is only read.
    pub(crate) fn new(spares: &'a dyn SpareList, shown: SpareSet, pool: &'a BioPool) -> Self {
        Self { spares, shown, pool, writable: false, failures: Failures::of(spares) }
    }

    /// The same, which may be written if `writable`: the table of a set may be a read-only one.
    pub(crate) fn may_write(self, writable: bool) -> Self {
        Self { writable, ..self }
    }

    /// From now on that one is not there.
    pub(crate) fn hide(&mut self, spare: SpareId) {
        self.shown = self.shown.without(SpareSet::one(spare));
    }

    fn spare(&self, spare: SpareId) -> Option<&'a Spare> {
        self.spares.at(spare).filter(|_| self.shown.has(spare))
    }

    /// Reads or writes all of them, those that follow each other as one.
    fn run<T: Item>(&self, mut batch: &mut [T]) {
        while !batch.is_empty() {
            batch = self.run_some(batch);
        }
    }

    /// Does the first of them, and gives the others.
    fn run_some<'b, T: Item>(&self, batch: &'b mut [T]) -> &'b mut [T] {
        let mut results = [IoResult::Alone; AT_ONCE];
        if let Ok(mut ios) = KVec::with_capacity(AT_ONCE, GFP_KERNEL) {
            let mut rest = &mut *batch;
            for result in &mut results {
                let len = run_of(rest);
                let Some((run, others)) = rest.split_at_mut_checked(len) else { break };
                rest = others;
                let Some(first) = run.first() else { break };
                let Some(spare) = self.spare(first.place().0) else {
                    *result = IoResult::Absent;
                    continue;
                };
                if let Some(io) = T::io(run, spare) {
                    *result = IoResult::Sent;
                    // There is room, so this cannot fail.
                    let _ = ios.push(io, GFP_KERNEL);
                }
            }
            io::run(self.pool, &mut ios);
            let sent = results.iter_mut().filter(|result| **result == IoResult::Sent);
            for (io, result) in ios.iter().zip(sent) {
                *result = IoResult::of(io);
            }
        }
        let mut rest = batch;
        for result in results {
            let len = run_of(rest);
            let Some((run, others)) = rest.split_at_mut_checked(len) else { return &mut [] };
            rest = others;
            match result {
                // One bad block fails all of a run; and without memory for many, one at a time.
                IoResult::Failed(_) if len > 1 => {
                    run.iter_mut().for_each(|item| self.run_one(item))
                }
                IoResult::Alone => run.iter_mut().for_each(|item| self.run_one(item)),
                result => run.iter_mut().for_each(|item| item.set(result.into())),
            }
        }
        rest
    }

    fn run_one<T: Item>(&self, item: &mut T) {
        let Some(spare) = self.spare(item.place().0) else {
            return item.set(IoResult::Absent.into());
        };
        let Some(io) = T::io(core::slice::from_mut(item), spare) else { return };
        let mut ios = [io];
        io::run(self.pool, &mut ios);
        let result = IoResult::of(&ios[0]);
        drop(ios);
        item.set(result.into());
    }
}

/// What became of an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IoResult {
    Absent,
    /// Not yet tried: there was no memory for it together with others.
    Alone,
    Sent,
    Ok,
    Failed(i32),
}

impl IoResult {
    fn of(io: &Io<'_>) -> Self {
        match io.status().to_result() {
            Ok(()) => Self::Ok,
            Err(e) => Self::Failed(-e.to_errno()),
        }
    }
}

impl From<IoResult> for core::result::Result<(), IoError> {
    fn from(result: IoResult) -> Self {
        match result {
            IoResult::Ok => Ok(()),
            IoResult::Failed(errno) => Err(IoError(errno)),
            IoResult::Absent | IoResult::Alone | IoResult::Sent => Err(IoError::EIO),
        }
    }
}

impl Store for SpareStore<'_> {
    fn spares(&self) -> SpareSet {
        let mut set = SpareSet::NONE;
        let all = (0..MAX_SPARES as u8).map(SpareId);
        all.filter(|&id| self.spare(id).is_some()).for_each(|id| set.add(id));
        set
    }

    fn sectors(&self, spare: SpareId) -> Sectors {
        self.spare(spare).map_or(Sectors(0), |spare| spare.len)
    }

    fn whole(&self, spare: SpareId) -> Sectors {
        self.spare(spare).map_or(Sectors(0), |spare| match spare.part {
            true => spare.len,
            false => Sectors(spare.block().sectors()),
        })
    }

    fn read(&mut self, batch: &mut [Read]) {
        self.run(batch);
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        if !self.writable {
            batch.iter_mut().for_each(|write| write.set(Err(IoError(-EROFS.to_errno()))));
            return;
        }
        self.run(batch);
    }

    fn flush(&mut self, spares: SpareSet) -> SpareSet {
        let mut failed = flush(self.spares, spares, self.pool);
        // One of a caller may have failed meanwhile, and taken along what was written here.
        self.failures.since(self.spares, spares).iter().for_each(|id| failed.add(id));
        self.failures.renew(self.spares, spares);
        failed
    }
}

/// Flushes those of `spares` that `which` names, in parallel, and says of which that failed.
pub(crate) fn flush(spares: &dyn SpareList, which: SpareSet, pool: &BioPool) -> SpareSet {
    let mut failed = SpareSet::NONE;
    let there = |id: SpareId| Some((id, spares.at(id)?));
    which.iter().filter(|&id| there(id).is_none()).for_each(|id| failed.add(id));
    let there = || which.iter().filter_map(there);
    let Ok(mut flushes) = KVec::with_capacity(MAX_SPARES, GFP_KERNEL) else {
        // No spare has failed by that: one after the other.
        let flush = |spare: &Spare| io::flush(spare.block(), &spare.cache, pool).is_ok();
        there().filter(|(_, spare)| !flush(spare)).for_each(|(id, _)| failed.add(id));
        return failed;
    };
    let mut ids = [SpareId(0); MAX_SPARES];
    for ((id, spare), of) in there().zip(&mut ids) {
        *of = id;
        // There is room, so this cannot fail.
        let _ = flushes.push(Io::new(spare.block(), 0, What::Flush(&spare.cache)), GFP_KERNEL);
    }
    io::run(pool, &mut flushes);
    let known = flushes.iter().zip(ids);
    known.filter(|(io, _)| !io.status().is_ok()).for_each(|(_, id)| failed.add(id));
    failed
}
