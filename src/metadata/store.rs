// SPDX-License-Identifier: GPL-2.0

//! The spares as the pure code's [`Store`].

use crate::{
    dm::{
        bio::BioPool,
        io::{self, Io, Span, What},
    },
    pure::{
        mem::{Block, BLOCK_SIZE},
        store::{IoError, Read, SpareSet, Store, Write},
        units::{Sectors, SpareId, MAX_SPARES, SECTOR_SIZE},
    },
    target::spare::{Spare, SpareList},
};
use kernel::prelude::*;

const SECTORS: Sectors = Sectors((BLOCK_SIZE / SECTOR_SIZE) as u64);

/// How many blocks are under way at once.
const AT_ONCE: usize = 64;

/// The spares of a set that is in use, or about to be.
pub(crate) struct SpareStore<'a> {
    spares: &'a dyn SpareList,
    shown: SpareSet,
    pool: &'a BioPool,
}

/// A block to be read or written, as the batches of the pure code have it.
trait Item {
    fn io<'a>(&'a mut self, spare: &'a Spare) -> Io<'a>;
    fn spare(&self) -> SpareId;
    fn set(&mut self, result: core::result::Result<(), IoError>);
}

impl Item for Read {
    fn io<'a>(&'a mut self, spare: &'a Spare) -> Io<'a> {
        let blocks = core::slice::from_mut(&mut self.block);
        Io::new(spare.block(), spare.sector(self.at), What::Read(blocks, Span::first(SECTORS)))
    }

    fn spare(&self) -> SpareId {
        self.spare
    }

    fn set(&mut self, result: core::result::Result<(), IoError>) {
        self.result = result;
    }
}

impl Item for Write<'_> {
    fn io<'a>(&'a mut self, spare: &'a Spare) -> Io<'a> {
        let blocks: &[Block] = core::slice::from_ref(self.block);
        Io::new(spare.block(), spare.sector(self.at), What::Write(blocks, Span::first(SECTORS)))
    }

    fn spare(&self) -> SpareId {
        self.spare
    }

    fn set(&mut self, result: core::result::Result<(), IoError>) {
        self.result = result;
    }
}

impl<'a> SpareStore<'a> {
    /// The store of those of `spares` that `shown` names; by their numbers.
    pub(crate) fn new(spares: &'a dyn SpareList, shown: SpareSet, pool: &'a BioPool) -> Self {
        Self { spares, shown, pool }
    }

    /// What its bios come from.
    pub(crate) fn pool(&self) -> &'a BioPool {
        self.pool
    }

    fn spare(&self, spare: SpareId) -> Option<&'a Spare> {
        self.spares.at(spare).filter(|_| self.shown.has(spare))
    }

    fn run<T: Item>(&self, batch: &mut [T]) {
        for part in batch.chunks_mut(AT_ONCE) {
            let Ok(mut ios) = KVec::with_capacity(part.len(), GFP_KERNEL) else {
                // Without memory for many, one after the other.
                part.iter_mut().for_each(|item| self.run_one(item));
                continue;
            };
            let mut results = [IoResult::Absent; AT_ONCE];
            for (item, result) in part.iter_mut().zip(&mut results) {
                if let Some(spare) = self.spare(item.spare()) {
                    *result = IoResult::Sent;
                    // There is room, so this cannot fail.
                    let _ = ios.push(item.io(spare), GFP_KERNEL);
                }
            }
            io::run(self.pool, &mut ios);
            let sent = results.iter_mut().filter(|result| **result == IoResult::Sent);
            for (io, result) in ios.iter().zip(sent) {
                *result = IoResult::of(io);
            }
            drop(ios);
            for (item, result) in part.iter_mut().zip(results) {
                item.set(result.into());
            }
        }
    }

    fn run_one<T: Item>(&self, item: &mut T) {
        let Some(spare) = self.spare(item.spare()) else {
            return item.set(IoResult::Absent.into());
        };
        let mut ios = [item.io(spare)];
        io::run(self.pool, &mut ios);
        let result = IoResult::of(&ios[0]);
        item.set(result.into());
    }
}

/// What became of an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IoResult {
    Absent,
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
            IoResult::Absent | IoResult::Sent => Err(IoError::EIO),
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

    fn read(&mut self, batch: &mut [Read]) {
        self.run(batch);
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        self.run(batch);
    }

    fn flush(&mut self, spares: SpareSet) -> SpareSet {
        flush(self.spares, spares, self.pool)
    }
}

/// Flushes those of `spares` that `which` names, in parallel, and says of which that failed.
pub(crate) fn flush(spares: &dyn SpareList, which: SpareSet, pool: &BioPool) -> SpareSet {
    let mut failed = SpareSet::NONE;
    let mut written = [0; MAX_SPARES];
    let Ok(mut ios) = KVec::with_capacity(MAX_SPARES, GFP_KERNEL) else {
        return which;
    };
    for (id, written) in (0..).map(SpareId).zip(&mut written).filter(|(id, _)| which.has(*id)) {
        let Some(spare) = spares.at(id) else {
            failed.add(id);
            continue;
        };
        *written = spare.cache.count();
        // There is room, so this cannot fail.
        let _ = ios.push(Io::new(spare.block(), 0, What::Flush), GFP_KERNEL);
    }
    io::run(pool, &mut ios);
    let known = (0..).map(SpareId).zip(written).filter(|(id, _)| which.has(*id));
    let known = known.filter_map(|(id, written)| Some((id, written, spares.at(id)?)));
    for (io, (id, written, spare)) in ios.iter().zip(known) {
        let ok = io.status().is_ok();
        spare.cache.flushed(written, ok);
        if !ok {
            failed.add(id);
        }
    }
    failed
}
