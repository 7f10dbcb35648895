// SPDX-License-Identifier: GPL-2.0

//! I/O of the module's own: a batch of reads, writes and flushes that are under way together, and
//! waited for.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::{
    bindings,
    bio::{BioPool, Payload, Status},
    device::BlockDevice,
};
use crate::pure::{
    cache::{Cache, Sent},
    mem::{Block, BLOCK_SIZE},
    units::{Sectors, SECTOR_SIZE},
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full},
        Completion,
    },
    time::{Instant, Monotonic},
};

/// Which sectors of a run of blocks count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The first, counted from the start of the first block.
    pub(crate) from: Sectors,
    /// How many.
    pub(crate) len: Sectors,
}

impl Span {
    /// The first `len` sectors.
    pub(crate) fn first(len: Sectors) -> Self {
        Self { from: Sectors(0), len }
    }

    /// The pieces of memory, one for each block: its number, the first byte and how many.
    fn pieces(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let start = self.from.0 as usize * SECTOR_SIZE;
        let end = start + self.len.0 as usize * SECTOR_SIZE;
        (start / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE)).map(move |block| {
            let first = block * BLOCK_SIZE;
            let from = start.max(first);
            (block, from - first, end.min(first + BLOCK_SIZE) - from)
        })
    }
}

/// What to do at a place of a device. Data lies in blocks, one after the other, which are long
/// enough for the span.
pub(crate) enum What<'a> {
    /// Fills the blocks.
    Read(&'a mut [Block], Span),
    /// Fills the blocks, where that can do without. It takes no pains: a device that is suspended
    /// answers at once, with an error, and so does one that fails (`REQ_RAHEAD`).
    Peek(&'a mut [Block], Span),
    /// Writes the blocks.
    Write(&'a [Block], Span),
    /// Fills these blocks, whole.
    ReadEach(KVec<&'a mut Block>),
    /// Writes these blocks, whole.
    WriteEach(KVec<&'a Block>),
    /// Writes so many zeroes, taken from the block.
    Zeroes(&'a Block, Sectors),
    /// Writes a part of what a bio was to write.
    Part(Payload<'a>, Span),
    /// Makes durable what the device has acknowledged. The cache, which is the device's, takes in how that went when it ends.
    Flush(&'a Cache),
}

/// One piece of I/O, and how it went.
pub(crate) struct Io<'a> {
    device: &'a BlockDevice,
    sector: u64,
    what: What<'a>,
    status: Status,
    /// It makes way for everything else.
    idle: bool,
    began: Option<Instant<Monotonic>>,
    /// How long it took, in nanoseconds.
    took: u64,
    batch: *const Batch,
    /// For a flush, what the cache had counted before.
    sent: Sent,
}

impl<'a> Io<'a> {
    /// I/O to be done at `sector` of `device`; the sector means nothing for a flush.
    pub(crate) fn new(device: &'a BlockDevice, sector: u64, what: What<'a>) -> Self {
        Self {
            device,
            sector,
            what,
            status: Status::OK,
            idle: false,
            began: None,
            took: 0,
            batch: core::ptr::null(),
            sent: Sent::default(),
        }
    }

    /// The same in the class of I/O that is done when the device has nothing else to do
    /// (`IOPRIO_CLASS_IDLE`), with the time that it takes.
    pub(crate) fn idle(self) -> Self {
        Self { idle: true, ..self }
    }

    /// How long it took, in nanoseconds; for what is [`idle`](Self::idle).
    pub(crate) fn took(&self) -> u64 {
        self.took
    }

    /// How it went; for after [`run`].
    pub(crate) fn status(&self) -> Status {
        self.status
    }
}

/// What the I/O of one call of [`run`] shares.
#[pin_data]
struct Batch {
    left: Atomic<usize>,
    #[pin]
    done: Completion,
}

/// Flushes a device, whose cache that is; see [`run`].
pub(crate) fn flush(device: &BlockDevice, cache: &Cache, pool: &BioPool) -> Status {
    let mut flush = [Io::new(device, 0, What::Flush(cache))];
    run(pool, &mut flush);
    flush[0].status()
}

/// Does all of `ios` at once and waits. Sleeps; needs no memory but the pool's reserve. How each
/// went is in its [`Io::status`].
///
/// Each goes to the device by itself: were the block layer to make one request of several, one bad
/// sector would be an error for all of them.
pub(crate) fn run(pool: &BioPool, ios: &mut [Io<'_>]) {
    if ios.is_empty() {
        return;
    }
    let count = ios.len();
    pin_init::stack_pin_init!(let batch = pin_init!(Batch {
        left: Atomic::new(count),
        done <- Completion::new(),
    }));
    let batch = batch.into_ref();
    for io in ios.iter_mut() {
        io.batch = &*batch;
        submit(pool, io);
    }
    batch.done.wait_for_completion();
}

fn submit(pool: &BioPool, io: &mut Io<'_>) {
    let bio = match &mut io.what {
        What::Read(blocks, span) => {
            let memory = |block: usize, from: usize| blocks[block][from..].as_mut_ptr();
            blocks_bio(pool, io.device, bindings::req_op_REQ_OP_READ, *span, memory)
        }
        What::Peek(blocks, span) => {
            let opf = bindings::req_op_REQ_OP_READ | 1 << bindings::req_flag_bits___REQ_RAHEAD;
            let memory = |block: usize, from: usize| blocks[block][from..].as_mut_ptr();
            blocks_bio(pool, io.device, opf, *span, memory)
        }
        What::Write(blocks, span) => {
            let opf = bindings::req_op_REQ_OP_WRITE | bindings::REMAP_REQ_SYNC;
            let memory = |block: usize, from: usize| blocks[block][from..].as_ptr().cast_mut();
            blocks_bio(pool, io.device, opf, *span, memory)
        }
        What::ReadEach(blocks) => {
            let span = whole(blocks.len());
            let memory = |block: usize, from: usize| blocks[block][from..].as_mut_ptr();
            blocks_bio(pool, io.device, bindings::req_op_REQ_OP_READ, span, memory)
        }
        What::WriteEach(blocks) => {
            let opf = bindings::req_op_REQ_OP_WRITE | bindings::REMAP_REQ_SYNC;
            let memory = |block: usize, from: usize| blocks[block][from..].as_ptr().cast_mut();
            blocks_bio(pool, io.device, opf, whole(blocks.len()), memory)
        }
        What::Zeroes(block, len) => {
            let opf = bindings::req_op_REQ_OP_WRITE | bindings::REMAP_REQ_SYNC;
            let memory = |_, from: usize| block[from..].as_ptr().cast_mut();
            blocks_bio(pool, io.device, opf, Span::first(*len), memory)
        }
        What::Part(payload, span) => payload.part(span.from, span.len, io.device, pool),
        What::Flush(cache) => {
            io.sent = cache.send();
            let opf = bindings::req_op_REQ_OP_WRITE | bindings::REMAP_REQ_PREFLUSH;
            let nothing = Span::first(Sectors(0));
            blocks_bio(pool, io.device, opf, nothing, |_, _| core::ptr::null_mut())
        }
    };
    // SAFETY: The bio is ours. `io` stays borrowed until the batch is waited for, which is after
    // `ended` has used it.
    unsafe {
        (*bio).bi_opf |= bindings::REMAP_REQ_NOMERGE;
        (*bio).bi_iter.bi_sector = io.sector;
        (*bio).bi_end_io = Some(ended);
        (*bio).bi_private = core::ptr::from_mut(io).cast();
        if io.idle {
            (*bio).bi_ioprio = bindings::REMAP_IOPRIO_IDLE;
            io.began = Some(Instant::now());
        }
        bindings::submit_bio(bio);
    }
}

/// All of so many blocks.
fn whole(blocks: usize) -> Span {
    Span::first(Sectors((blocks * (BLOCK_SIZE / SECTOR_SIZE)) as u64))
}

/// A bio over the blocks that `memory` gives a byte of.
fn blocks_bio(
    pool: &BioPool,
    device: &BlockDevice,
    opf: bindings::blk_opf_t,
    span: Span,
    mut memory: impl FnMut(usize, usize) -> *mut u8,
) -> *mut bindings::bio {
    // SAFETY: The pool is initialised and may make us wait, so this always gives a bio: those of
    // before have been submitted and come back by themselves.
    let bio = unsafe {
        bindings::bio_alloc_bioset(
            device.as_ptr(),
            span.pieces().count() as u16,
            opf,
            bindings::REMAP_GFP_NOIO,
            pool.as_ptr(),
        )
    };
    for (block, from, len) in span.pieces() {
        // SAFETY: The bio has room for all pieces; the memory is of the linear map, whole blocks
        // that stay borrowed until the batch is waited for. A write only reads it.
        unsafe { bindings::bio_add_virt_nofail(bio, memory(block, from).cast(), len as u32) };
    }
    bio
}

/// # Safety
///
/// `bio` was made by `submit`.
unsafe extern "C" fn ended(bio: *mut bindings::bio) {
    // SAFETY: `submit` has stored the `Io` there; it and the batch outlive the last count.
    unsafe {
        let io = (*bio).bi_private.cast::<Io<'_>>();
        let batch = (*io).batch;
        (*io).status = Status((*bio).bi_status);
        if let What::Flush(cache) = (*io).what {
            cache.flushed((*io).sent, (*io).status.is_ok());
        }
        if let Some(began) = (*io).began {
            (*io).took = began.elapsed().as_nanos() as u64;
        }
        bindings::bio_put(bio);
        if (*batch).left.fetch_sub(1usize, Full) == 1 {
            (*batch).done.complete_all();
        }
    }
}
