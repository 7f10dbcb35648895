// SPDX-License-Identifier: GPL-2.0

//! Writing blocks and headers to several copies, and flushing them.

use super::super::copies::CopySet;
use super::super::entry::BlockIndex;
use super::super::format::block::encode_block;
use super::super::format::header::Header;
use super::super::format::layout::{CopyId, Layout};
use super::super::format::Crc32;
use super::super::mem::{AllocError, Block, KVVec, KVec, GFP_KERNEL};
use super::super::store::{Store, Write};
use super::super::table::Table;

/// The most blocks that are handed to the store at once.
const BATCH: usize = 256;

/// What became of the copies that were written.
#[derive(Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Everything was written and flushed.
    pub stood: CopySet,
    /// A write failed there.
    pub bad: CopySet,
    /// The flush failed: what was written may be there or not.
    pub unflushed: CopySet,
}

/// Writes to copies, and keeps count of those that failed.
pub(crate) struct Writer<'a> {
    batch: KVec<Write<'a>>,
    owner: KVec<CopyId>,
    room: usize,
    targets: CopySet,
    bad: CopySet,
}

impl<'a> Writer<'a> {
    /// For `targets`. All memory is taken here.
    pub(crate) fn new(targets: CopySet, blocks: usize) -> Result<Self, AllocError> {
        let room = BATCH.min(targets.count() * (blocks + 1)).max(1);
        Ok(Self {
            batch: KVec::with_capacity(room, GFP_KERNEL)?,
            owner: KVec::with_capacity(room, GFP_KERNEL)?,
            room,
            targets,
            bad: CopySet::NONE,
        })
    }

    fn put(&mut self, store: &mut dyn Store, id: CopyId, write: Option<Write<'a>>) {
        // A block that has no place cannot come from a table that was made for the layout.
        let Some(write) = write else { return self.bad.add(id) };
        if self.batch.len() == self.room {
            self.send(store);
        }
        // There is room: the batch has just been sent.
        if self.batch.push(write, GFP_KERNEL).is_err() || self.owner.push(id, GFP_KERNEL).is_err() {
            self.bad.add(id);
        }
    }

    /// Writes table block `index` to `ids`, those left out that have failed.
    pub(crate) fn block(
        &mut self,
        store: &mut dyn Store,
        layout: &Layout,
        ids: CopySet,
        index: BlockIndex,
        block: &'a Block,
    ) {
        for id in ids.and(self.targets).without(self.bad).iter() {
            let at = layout.block(id.copy, index);
            self.put(store, id, at.map(|at| Write::new(id.spare, at, block)));
        }
    }

    /// Writes a header.
    pub(crate) fn header(&mut self, store: &mut dyn Store, id: CopyId, block: &'a Block) {
        if self.targets.has(id) && !self.bad.has(id) {
            self.put(store, id, Some(Write::new(id.spare, Layout::header(id.copy), block)));
        }
    }

    /// Hands over what has gathered and waits for it.
    pub(crate) fn send(&mut self, store: &mut dyn Store) {
        if self.batch.is_empty() {
            return;
        }
        store.write(&mut self.batch);
        for (write, &id) in self.batch.iter().zip(self.owner.iter()) {
            if write.result.is_err() {
                self.bad.add(id);
            }
        }
        self.batch.clear();
        self.owner.clear();
    }

    /// Waits for what is left, and says where a write failed.
    pub(crate) fn done(mut self, store: &mut dyn Store) -> CopySet {
        self.send(store);
        self.bad
    }

    /// Waits for what is left, flushes, and says what became of each copy.
    pub(crate) fn finish(mut self, store: &mut dyn Store) -> Outcome {
        self.send(store);
        let written = self.targets.without(self.bad);
        let mut outcome = Outcome { stood: written, bad: self.bad, unflushed: CopySet::NONE };
        if !written.is_empty() {
            for spare in store.flush(written.spares()).iter() {
                let lost = written.on(spare);
                outcome.stood = outcome.stood.without(lost);
                lost.iter().for_each(|id| outcome.unflushed.add(id));
            }
        }
        outcome
    }
}

/// Why copies could not be written from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FillError {
    /// There was no memory.
    Memory,
    /// This block is not in memory what it was on disk.
    Corrupt(BlockIndex),
}

impl From<AllocError> for FillError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// Blocks that are encoded at a time when copies are filled.
const CHUNK: usize = 32;

/// What copies are filled with.
pub(crate) struct Content<'a> {
    pub(crate) header: &'a Header,
    pub(crate) table: &'a Table,
    pub(crate) durable: u64,
    pub(crate) crc: Crc32,
}

impl Content<'_> {
    /// Writes to each of `targets` what it `lacks`, its header after its blocks, and flushes. Where the flush fails, that is written
    /// and flushed once more. `None` asks for the header.
    ///
    /// # Errors
    ///
    /// Without memory, or with memory that has changed by itself; some copies may have been written
    /// in part.
    pub(crate) fn fill(
        &self,
        store: &mut dyn Store,
        targets: CopySet,
        lacks: &dyn Fn(CopyId, Option<BlockIndex>) -> bool,
    ) -> Result<Outcome, FillError> {
        let outcome = self.fill_once(store, targets, lacks)?;
        if outcome.unflushed.is_empty() {
            return Ok(outcome);
        }
        let again = self.fill_once(store, outcome.unflushed, lacks)?;
        Ok(Outcome {
            stood: outcome.stood.with(again.stood),
            bad: outcome.bad.with(again.bad),
            unflushed: again.unflushed,
        })
    }

    fn fill_once(
        &self,
        store: &mut dyn Store,
        targets: CopySet,
        lacks: &dyn Fn(CopyId, Option<BlockIndex>) -> bool,
    ) -> Result<Outcome, FillError> {
        let (layout, uuid) = (self.header.layout(), self.header.uuid());
        let mut bad = CopySet::NONE;
        let mut blocks: KVec<(BlockIndex, CopySet, Block)> = KVec::new();
        let mut left = self.table.blocks().peekable();
        while left.peek().is_some() {
            blocks.clear();
            while blocks.len() < CHUNK {
                let Some((index, stamp, entries)) = left.next() else { break };
                let mut ids = CopySet::NONE;
                for id in targets.without(bad).iter().filter(|&id| lacks(id, Some(index))) {
                    ids.add(id);
                }
                if ids.is_empty() {
                    continue;
                }
                let mut block = Block::zeroed()?;
                if encode_block(&mut block, &uuid, index, stamp.version, entries, self.crc) != stamp
                {
                    return Err(FillError::Corrupt(index));
                }
                blocks.push((index, ids, block), GFP_KERNEL)?;
            }
            let mut writer = Writer::new(targets.without(bad), blocks.len())?;
            for (index, ids, block) in blocks.iter() {
                writer.block(store, &layout, *ids, *index, block);
            }
            writer.done(store).iter().for_each(|id| bad.add(id));
        }
        let targets = targets.without(bad);
        let mut headers = Headers::new();
        for id in targets.iter().filter(|&id| lacks(id, None)) {
            headers.push((id, self.header.encode(id, self.durable, self.crc)?), GFP_KERNEL)?;
        }
        let mut writer = Writer::new(targets, 0)?;
        for (id, block) in headers.iter() {
            writer.header(store, *id, block);
        }
        let mut outcome = writer.finish(store);
        bad.iter().for_each(|id| outcome.bad.add(id));
        Ok(outcome)
    }
}

/// The headers of several copies.
pub(crate) type Headers = KVec<(CopyId, Block)>;

/// Writes `blocks` and `headers` to the copies of the headers, then flushes.
///
/// Blocks and headers go out together: recovery takes a header only with the blocks that its digest
/// names, each certified by its own checksum, so the order in which they arrive says nothing.
///
/// # Errors
///
/// Without memory, before anything is written.
pub(crate) fn write_group(
    store: &mut dyn Store,
    layout: &Layout,
    blocks: &KVVec<(BlockIndex, Block)>,
    headers: &Headers,
) -> Result<Outcome, AllocError> {
    let mut ids = CopySet::NONE;
    headers.iter().for_each(|(id, _)| ids.add(*id));
    let mut writer = Writer::new(ids, blocks.len())?;
    for (index, block) in blocks.iter() {
        writer.block(store, layout, ids, *index, block);
    }
    for (id, block) in headers.iter() {
        writer.header(store, *id, block);
    }
    Ok(writer.finish(store))
}
