// SPDX-License-Identifier: GPL-2.0

//! Bios as a bio-based target sees them.
//!
//! A target's `map` gets a [`MapBio`] and gives back a [`Mapped`]; the only way to make a `Mapped`
//! is to say what becomes of the bio, so that none is lost or answered twice. A bio that the target
//! keeps for later is a [`HeldBio`]; dropping it answers it with an I/O error.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

use super::{bindings, compat, device::BlockDevice, published::Reading, target::Target};
use crate::pure::units::Sectors;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{error::to_result, prelude::*, types::Opaque};

/// What a bio asks for (`enum req_op`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// `REQ_OP_READ`.
    Read,
    /// `REQ_OP_WRITE` with data.
    Write,
    /// An empty write with `REQ_PREFLUSH`, which is how device mapper sends a flush.
    Flush,
    /// `REQ_OP_DISCARD`.
    Discard,
    /// `REQ_OP_WRITE_ZEROES`.
    WriteZeroes,
    /// Anything that the target did not say it can do.
    Other,
}

/// How I/O ended (`blk_status_t`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct Status(pub(super) bindings::blk_status_t);

impl Status {
    /// `BLK_STS_OK`.
    pub(crate) const OK: Self = Self(0);
    /// `BLK_STS_IOERR`.
    pub(crate) const IOERR: Self = Self(bindings::REMAP_STS_IOERR);
    /// `BLK_STS_AGAIN`: a `REQ_NOWAIT` bio would have to wait.
    pub(crate) const AGAIN: Self = Self(bindings::REMAP_STS_AGAIN);
    /// `BLK_STS_NOTSUPP`.
    pub(crate) const NOTSUPP: Self = Self(bindings::REMAP_STS_NOTSUPP);

    /// Whether it may say something about the medium: a media error, the general one, or one that
    /// the device gives without saying more. Timeouts, a lost connection and their like say nothing.
    pub(crate) fn counts(self) -> bool {
        const TARGET: bindings::blk_status_t = bindings::REMAP_STS_TARGET;
        matches!(self.0, bindings::REMAP_STS_IOERR | TARGET) || self.is_of_the_medium()
    }

    /// Whether it says that the blocks themselves failed: not what a failed flush is answered with.
    pub(crate) fn is_of_the_medium(self) -> bool {
        self.0 == bindings::REMAP_STS_MEDIUM
    }

    /// Whether it is an error of the device, rather than a no to how it was asked.
    pub(crate) fn is_an_error(self) -> bool {
        ![Self::OK, Self::AGAIN, Self::NOTSUPP].contains(&self)
    }

    /// Whether it went well.
    #[inline]
    pub(crate) fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// As a [`Result`], by the kernel's own translation (`blk_status_to_errno`).
    pub(crate) fn to_result(self) -> Result {
        // SAFETY: An FFI call on a plain number.
        to_result(unsafe { bindings::blk_status_to_errno(self.0) })
    }
}

const fn flag(bit: bindings::req_flag_bits) -> bindings::blk_opf_t {
    1 << bit
}

/// The operation is in the low eight bits (`REQ_OP_MASK`).
const OP_MASK: bindings::blk_opf_t = 0xff;
const PREFLUSH: bindings::blk_opf_t = flag(bindings::req_flag_bits___REQ_PREFLUSH);
const FUA: bindings::blk_opf_t = flag(bindings::req_flag_bits___REQ_FUA);
const NOWAIT: bindings::blk_opf_t = flag(bindings::req_flag_bits___REQ_NOWAIT);
const POLLED: bindings::blk_opf_t = flag(bindings::req_flag_bits___REQ_POLLED);
const RAHEAD: bindings::blk_opf_t = flag(bindings::req_flag_bits___REQ_RAHEAD);
/// What a second try does without. That it is durable is seen to when all of it stands.
const HASTE: bindings::blk_opf_t = NOWAIT
    | RAHEAD
    | FUA
    | PREFLUSH
    | POLLED
    | flag(bindings::req_flag_bits___REQ_FAILFAST_DEV)
    | flag(bindings::req_flag_bits___REQ_FAILFAST_TRANSPORT)
    | flag(bindings::req_flag_bits___REQ_FAILFAST_DRIVER);

/// Sectors of the longest bio that is sent as it is when it is [plain](MapBio::is_plain).
pub(crate) const PLAIN: Sectors = Sectors(4095);

/// The operation of the bio behind `bio`.
///
/// # Safety
///
/// `bio` points to a valid bio.
#[inline]
unsafe fn op_of(bio: NonNull<bindings::bio>) -> Op {
    // SAFETY: By the safety requirement.
    let (opf, size) = unsafe { ((*bio.as_ptr()).bi_opf, (*bio.as_ptr()).bi_iter.bi_size) };
    match opf & OP_MASK {
        bindings::req_op_REQ_OP_READ => Op::Read,
        bindings::req_op_REQ_OP_WRITE if size == 0 && opf & PREFLUSH != 0 => Op::Flush,
        bindings::req_op_REQ_OP_WRITE => Op::Write,
        bindings::req_op_REQ_OP_DISCARD => Op::Discard,
        bindings::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes,
        _ => Op::Other,
    }
}

macro_rules! accessors {
    () => {
        /// What it asks for.
        #[inline]
        pub(crate) fn op(&self) -> Op {
            // SAFETY: By the type invariant.
            unsafe { op_of(self.bio) }
        }

        /// The sector where it starts, counted from the start of the target.
        #[inline]
        pub(crate) fn sector(&self) -> u64 {
            // SAFETY: By the type invariant. The target starts at sector 0 of its device, see
            // `target::ctr_callback`.
            unsafe { (*self.bio.as_ptr()).bi_iter.bi_sector }
        }

        /// How many sectors it is about.
        #[inline]
        pub(crate) fn sectors(&self) -> Sectors {
            // SAFETY: By the type invariant.
            Sectors(u64::from(unsafe { (*self.bio.as_ptr()).bi_iter.bi_size } >> 9))
        }

        #[inline]
        fn opf(&self) -> bindings::blk_opf_t {
            // SAFETY: By the type invariant.
            unsafe { (*self.bio.as_ptr()).bi_opf }
        }

        /// Whether it has to be durable when it is answered.
        #[inline]
        pub(crate) fn is_fua(&self) -> bool {
            self.opf() & FUA != 0
        }

        /// Keeps a word with the bio, for the target's `end_io`. It stands in `bi_private`, which is
        /// the submitter's; the submitter of what device mapper hands to a target is the target.
        #[inline]
        pub(crate) fn keep_word(&mut self, word: u64) {
            // SAFETY: By the type invariant.
            unsafe { (*self.bio.as_ptr()).bi_private = word as *mut kernel::ffi::c_void };
        }

        /// Notes where its data starts, for who may want to send it again; not where it starts as
        /// its vector does, as most does. Says whether it has.
        #[inline]
        pub(crate) fn note_start(&mut self) -> bool {
            // SAFETY: By the type invariant.
            let iter = unsafe { &(*self.bio.as_ptr()).bi_iter };
            let start = Start::at(iter);
            if start.index | start.offset == 0 {
                return false;
            }
            // SAFETY: By the type invariant the bio is device mapper's.
            unsafe { start.keep(self.bio) };
            true
        }
    };
}

/// Where the data of a bio starts, and what else its end is to know.
#[derive(Clone, Copy, Default)]
struct Start {
    /// Which piece of its vector; and from [`TAGS`](Self::TAGS) on, for a read, whether it has failed before, and for what else there is, a bit for
    /// each who has a part of it, by the tag that the target has given. A vector of so many pieces would take more memory than there is to
    /// be had at once: 256 MiB (`bio_iov_iter_set` takes those of its caller, however many).
    index: u32,
    /// Which byte of that piece.
    offset: u32,
}

impl Start {
    const TAGS: u32 = 24;
    const AGAIN: u8 = 1;

    fn at(iter: &bindings::bvec_iter) -> Self {
        Self { index: iter.bi_idx, offset: compat::offset(iter) }
    }

    fn piece(self) -> u32 {
        self.index & ((1 << Self::TAGS) - 1)
    }

    fn tags(self) -> u8 {
        (self.index >> Self::TAGS) as u8
    }

    fn with(self, tags: u8) -> Self {
        Self { index: self.index | u32::from(tags) << Self::TAGS, ..self }
    }

    /// What was kept with a bio.
    ///
    /// # Safety
    ///
    /// As for [`keep`](Self::keep), which was called for it.
    unsafe fn of(bio: NonNull<bindings::bio>) -> Self {
        // SAFETY: By the safety requirement.
        unsafe { bindings::dm_per_bio_data(bio.as_ptr(), PER_BIO).cast::<Self>().read() }
    }

    /// Keeps it with a bio.
    ///
    /// # Safety
    ///
    /// `bio` is one that device mapper has handed to a target and that nobody has answered.
    #[cold]
    #[inline(never)]
    unsafe fn keep(self, bio: NonNull<bindings::bio>) {
        // SAFETY: Device mapper has set aside memory of that size with the bio (`target::ctr_callback`),
        // fit for any data.
        unsafe { bindings::dm_per_bio_data(bio.as_ptr(), PER_BIO).cast::<Self>().write(self) };
    }
}

/// Bytes that device mapper sets aside with each bio for the target.
pub(super) const PER_BIO: usize = core::mem::size_of::<Start>();

/// A bio in the hands of a target's `map`.
///
/// # Invariants
///
/// `bio` is the bio that device mapper just passed to the target's `map`, not yet answered.
pub(crate) struct MapBio<'a, T: Target> {
    bio: NonNull<bindings::bio>,
    _target: PhantomData<&'a T>,
}

/// What became of a bio; the value that `map` returns to device mapper.
#[must_use]
pub(crate) struct Mapped(pub(super) kernel::ffi::c_int);

impl<'a, T: Target> MapBio<'a, T> {
    accessors!();

    /// # Safety
    ///
    /// `bio` is a bio that device mapper passes to `map` of a `T`.
    #[inline]
    pub(super) unsafe fn new(bio: NonNull<bindings::bio>) -> Self {
        // INVARIANT: By the safety requirement.
        Self { bio, _target: PhantomData }
    }

    /// The word that was kept with the bio, or 0.
    pub(crate) fn word(&self) -> u64 {
        // SAFETY: By the type invariant. A new bio has a null pointer there (`bio_init`).
        unsafe { (*self.bio.as_ptr()).bi_private as u64 }
    }

    /// Whether it is a read, or a write with data that need not be durable at once, whose data starts
    /// where its vector does.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        const WRITE: bindings::blk_opf_t = bindings::req_op_REQ_OP_WRITE;
        // A flush is a write with `REQ_PREFLUSH`.
        const { assert!(bindings::req_op_REQ_OP_READ == 0 && WRITE == 1) };
        // SAFETY: By the type invariant.
        let iter = unsafe { &(*self.bio.as_ptr()).bi_iter };
        let (index, offset) = (iter.bi_idx, compat::offset(iter));
        self.opf() & (OP_MASK & !WRITE | FUA | PREFLUSH) == 0
            && u64::from(index) | u64::from(offset) << 32 == 0
    }

    /// 1 for a write, 0 for a read, where it is one of both.
    #[inline]
    pub(crate) fn is_write_bit(&self) -> u64 {
        const { assert!(bindings::req_op_REQ_OP_READ == 0 && bindings::req_op_REQ_OP_WRITE == 1) };
        u64::from(self.opf() & bindings::req_op_REQ_OP_WRITE)
    }

    /// Whether it rather fails than waits.
    #[inline]
    pub(crate) fn is_nowait(&self) -> bool {
        self.opf() & NOWAIT != 0
    }

    /// Which of the target's flush bios this is, from 0 to `num_flush_bios - 1`.
    pub(crate) fn flush_number(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::dm_bio_get_target_bio_nr(self.bio.as_ptr()) }
    }

    /// Cuts the bio down to its first `n` sectors; device mapper sends the rest as another one.
    /// For a bio that is not a flush, and `n` less than it has.
    #[inline]
    pub(crate) fn accept_partial(&mut self, n: Sectors) {
        if n >= self.sectors() || n.0 == 0 {
            return;
        }
        // SAFETY: By the type invariant we are in `map`; the bio is longer than `n`, so it is no
        // flush, and the target has the core send no other operation in several copies
        // (`target::ctr_callback` sets one bio each).
        unsafe { bindings::dm_accept_partial_bio(self.bio.as_ptr(), n.0 as u32) };
    }

    /// The block layer sends it alone: what it would have put into one request with it fails with it.
    pub(crate) fn alone(&mut self) {
        // SAFETY: By the type invariant the bio is ours to change.
        unsafe { (*self.bio.as_ptr()).bi_opf |= bindings::REMAP_REQ_NOMERGE };
    }

    /// Sends it to `sector` of `device`.
    #[inline]
    pub(crate) fn send(self, device: &BlockDevice, sector: u64) -> Mapped {
        // SAFETY: By the type invariant the bio is ours to change.
        unsafe {
            (*self.bio.as_ptr()).bi_iter.bi_sector = sector;
            // The value comes from there, and the bio stands where it stood in `map`, so that this is a jump.
            Mapped(bindings::remap_bio_set_dev_remapped(device.as_ptr(), self.bio.as_ptr()))
        }
    }

    /// Ends `reading`, and [sends](Self::send) it.
    #[inline(always)]
    pub(crate) fn end_and_send(
        self,
        reading: Reading,
        device: &BlockDevice,
        sector: u64,
    ) -> Mapped {
        // What it does when dropped is done by the function called here, which takes fewer instructions.
        core::mem::forget(reading);
        // SAFETY: As in `send`.
        unsafe {
            (*self.bio.as_ptr()).bi_iter.bi_sector = sector;
            Mapped(bindings::remap_bio_set_dev_unlock(device.as_ptr(), self.bio.as_ptr()))
        }
    }

    /// Answers it now.
    pub(crate) fn complete(self, status: Status) -> Mapped {
        self.hold().complete(status);
        Mapped(bindings::DM_MAPIO_SUBMITTED as kernel::ffi::c_int)
    }

    /// Keeps it: `keep` says where.
    pub(crate) fn keep(self, keep: impl FnOnce(HeldBio<T>)) -> Mapped {
        keep(self.hold());
        Mapped(bindings::DM_MAPIO_SUBMITTED as kernel::ffi::c_int)
    }

    fn hold(self) -> HeldBio<T> {
        // INVARIANT: The caller returns `DM_MAPIO_SUBMITTED`, so the bio is the target's.
        HeldBio { bio: self.bio, _target: PhantomData }
    }
}

/// A bio that the target has taken over (`DM_MAPIO_SUBMITTED`) and that nobody has answered.
///
/// # Invariants
///
/// `bio` came from device mapper, is owned by this value, and is on no list.
pub(crate) struct HeldBio<T: Target> {
    bio: NonNull<bindings::bio>,
    _target: PhantomData<fn() -> T>,
}

// SAFETY: A bio may be handed from one thread to another.
unsafe impl<T: Target> Send for HeldBio<T> {}

impl<T: Target> HeldBio<T> {
    accessors!();

    /// The bio, which nobody answers now.
    pub(super) fn into_raw(self) -> *mut bindings::bio {
        let bio = self.bio.as_ptr();
        core::mem::forget(self);
        bio
    }

    /// What [`into_raw`](Self::into_raw) has given.
    ///
    /// # Safety
    ///
    /// Nobody else uses it, and it is on no list.
    pub(super) unsafe fn from_raw(bio: NonNull<bindings::bio>) -> Self {
        // INVARIANT: By the contract.
        Self { bio, _target: PhantomData }
    }

    /// Answers it. `Status::OK` leaves the error of a part that was sent before.
    pub(crate) fn complete(self, status: Status) {
        let bio = self.into_raw();
        // SAFETY: By the type invariant the bio is ours, and is given up here.
        unsafe {
            if !status.is_ok() {
                (*bio).bi_status = status.0;
            }
            bindings::bio_endio(bio);
        }
    }

    /// Answers it, whatever was said of it or of its parts before.
    pub(crate) fn complete_anew(self, status: Status) {
        let bio = self.into_raw();
        // SAFETY: By the type invariant the bio is ours, and is given up here.
        unsafe {
            (*bio).bi_status = status.0;
            bindings::bio_endio(bio);
        }
    }

    /// What a device has answered.
    pub(crate) fn status(&self) -> Status {
        // SAFETY: By the type invariant.
        Status(unsafe { (*self.bio.as_ptr()).bi_status })
    }

    /// The word that the target has kept with it; 0 if it has kept none.
    pub(crate) fn word(&self) -> u64 {
        // SAFETY: By the type invariant. A new bio has a null pointer there (`bio_init`).
        unsafe { (*self.bio.as_ptr()).bi_private as u64 }
    }

    /// Makes it again what it was when it was sent, with `len` sectors, its start
    /// [noted](Self::note_start) or not: a device that has answered it, or a part of it, has left
    /// its iterator anywhere (`bio_advance`).
    pub(crate) fn rewind(&mut self, len: Sectors, noted: bool) {
        let start = match noted {
            // SAFETY: By the type invariant the bio is device mapper's; `note_start` or `note_again` was called.
            true => unsafe { Start::of(self.bio) },
            false => Start::default(),
        };
        // SAFETY: By the type invariant the bio is ours.
        let iter = unsafe { &mut (*self.bio.as_ptr()).bi_iter };
        iter.bi_idx = start.piece();
        compat::set_offset(iter, start.offset);
        iter.bi_size = (len.0 << 9) as u32;
    }

    /// Makes one that has failed ready to be sent once more, with patience, and alone: what the block layer would make one request of with
    /// it fails with it. It starts at `sector` again, after a [`rewind`](Self::rewind).
    pub(crate) fn again_alone(&mut self, sector: u64) {
        const ALONE: bindings::blk_opf_t = bindings::REMAP_REQ_NOMERGE;
        // SAFETY: By the type invariant the bio is ours, and has been answered by whom it was sent to: nothing counts as a part of it. What
        // that one has left in it is taken away (as `dm_bio_restore` and `blk_steal_bios` do).
        unsafe {
            bindings::remap_bio_rearm(self.bio.as_ptr());
            let bio = &mut *self.bio.as_ptr();
            bio.bi_iter.bi_sector = sector;
            bio.bi_status = Status::OK.0;
            bio.bi_opf = bio.bi_opf & !(HASTE | bindings::REMAP_REQ_DRV) | ALONE;
        }
    }

    /// Notes with it that it has failed before, as its end is to know, and where its data starts, see [`note_start`](Self::note_start).
    pub(crate) fn note_again(&mut self) {
        // SAFETY: By the type invariant.
        let iter = unsafe { &(*self.bio.as_ptr()).bi_iter };
        let start = Start::at(iter).with(Start::AGAIN);
        // SAFETY: By the type invariant the bio is device mapper's.
        unsafe { start.keep(self.bio) };
    }

    /// Notes with it where its data starts, wherever that is, and that nobody has a [part](Self::note_part) of it yet.
    pub(crate) fn note_whole(&mut self) {
        // SAFETY: By the type invariant.
        let start = Start::at(unsafe { &(*self.bio.as_ptr()).bi_iter });
        // SAFETY: By the type invariant the bio is device mapper's.
        unsafe { start.keep(self.bio) };
    }

    /// Notes with it, which is no read, after [`note_whole`](Self::note_whole), that the one with that tag, of eight, has a part of it.
    pub(crate) fn note_part(&mut self, tag: u8) {
        // SAFETY: By the type invariant the bio is device mapper's; it has been noted where it starts.
        unsafe {
            Start::of(self.bio).with(1 << (tag & 7)).keep(self.bio);
        }
    }

    /// The data that it writes, or `None` if it writes zeroes that come without data; for a write.
    pub(crate) fn payload(&self) -> Option<Payload<'_>> {
        let data = self.opf() & OP_MASK == bindings::req_op_REQ_OP_WRITE;
        data.then_some(Payload { bio: self.bio, _bio: PhantomData })
    }

    /// Leaves out its first `n` sectors, as done. For a bio without data that is longer than `n`.
    pub(crate) fn skip_front(&mut self, n: Sectors) {
        // SAFETY: By the type invariant the bio is ours; without data there is nothing else in
        // its iterator to move on (`bio_advance_iter`).
        unsafe {
            let iter = &mut (*self.bio.as_ptr()).bi_iter;
            iter.bi_sector += n.0;
            iter.bi_size -= (n.0 << 9) as u32;
        }
    }

    /// Sends it to `sector` of `device`.
    pub(crate) fn send(mut self, device: &BlockDevice, sector: u64) {
        self.is_not_polled();
        let bio = self.into_raw();
        // SAFETY: By the type invariant the bio is ours, and is given up here. The target has set
        // `accounts_remapped_io`, as `dm_submit_bio_remap` wants.
        unsafe {
            goes_to(bio, device);
            (*bio).bi_iter.bi_sector = sector;
            bindings::dm_submit_bio_remap(bio, core::ptr::null_mut());
        }
    }

    /// It goes where it is answered without being asked. Whoever polls it asks the device of the bio, and may do so since it was held:
    /// while it is being sent, which the core does not expect (`dm_poll_bio`), or for a part on the queue of another device, which he
    /// would never see (as `bio_clear_polled` where the kernel cuts bios itself).
    fn is_not_polled(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { (*self.bio.as_ptr()).bi_opf &= !POLLED };
    }

    /// Sends its first `n` sectors to `sector` of `device` too, while it stays what it is. It is answered
    /// only when that has been; how it went is for [`Target::also_ended`] of `target`, which has the bio,
    /// alone, with `tag`. May sleep.
    ///
    /// # Errors
    ///
    /// Without memory; nothing was sent then.
    pub(crate) fn send_also(
        &mut self,
        n: Sectors,
        device: &BlockDevice,
        sector: u64,
        pool: &BioPool,
        target: &T,
        tag: u8,
    ) -> Result {
        let bio = self.bio.as_ptr();
        let also = Also { bio, target: NonNull::from(target), tag };
        let also = KBox::into_raw(KBox::new(also, GFP_KERNEL)?);
        // SAFETY: The bio is ours, is at least as long as `n`, and stays as it is until the clone has been
        // answered, as it counts as a part of it then; the pool's other bios are under way. `also` is
        // given to the clone, which gives it back when it has been answered.
        unsafe {
            let clone = bindings::bio_alloc_clone(
                device.as_ptr(),
                bio,
                bindings::REMAP_GFP_NOIO,
                pool.as_ptr(),
            );
            goes_to(clone, device);
            bindings::bio_trim(clone, 0, n.0);
            (*clone).bi_opf &= !HASTE | FUA | PREFLUSH;
            (*clone).bi_iter.bi_sector = sector;
            (*clone).bi_private = also.cast();
            (*clone).bi_end_io = Some(Also::<T>::ended);
            bindings::remap_bio_inc_remaining(bio);
            bindings::submit_bio_noacct(clone);
        }
        Ok(())
    }

    /// Sends its first `n` sectors to `sector` of `device`; what is left stays in `self`, and is
    /// answered only when both are. `n` is less than the bio has. May sleep.
    ///
    /// # Errors
    ///
    /// What `bio_split` says; the bio is unchanged then.
    pub(crate) fn send_front(
        &mut self,
        n: Sectors,
        device: &BlockDevice,
        sector: u64,
        pool: &BioPool,
    ) -> Result {
        self.is_not_polled();
        let bio = self.bio.as_ptr();
        // SAFETY: The bio is ours and longer than `n`; the pool is initialised and its bios are
        // submitted before another is asked for, which its reserve needs to make progress.
        let front = unsafe {
            kernel::error::from_err_ptr(bindings::bio_split(
                bio,
                n.0 as kernel::ffi::c_int,
                bindings::REMAP_GFP_NOIO,
                pool.set.get(),
            ))?
        };
        // SAFETY: `front` is a new bio of ours; chained, it counts as a part of `bio`, which has
        // not been answered. `dm_submit_bio_remap` takes `front` over.
        unsafe {
            bindings::bio_chain(front, bio);
            goes_to(front, device);
            (*front).bi_iter.bi_sector = sector;
            bindings::dm_submit_bio_remap(bio, front);
        }
        Ok(())
    }
}

/// Has a bio go to a device, where its sector is still to be set. One that has been at a partition before was moved there by the core and
/// is marked so, its clones too (`__bio_clone`): they would be taken for moved already, and go to the disk's sector of that number.
///
/// # Safety
///
/// `bio` is ours, and not under way.
unsafe fn goes_to(bio: *mut bindings::bio, device: &BlockDevice) {
    // SAFETY: By the safety requirement.
    unsafe { bindings::remap_bio_set_dev(bio, device.as_ptr()) };
}

/// What goes with a bio that was sent as well as another.
struct Also<T: Target> {
    bio: *mut bindings::bio,
    target: NonNull<T>,
    tag: u8,
}

impl<T: Target> Also<T> {
    /// # Safety
    ///
    /// `clone` is a bio made by [`HeldBio::send_also`] that has been answered.
    unsafe extern "C" fn ended(clone: *mut bindings::bio) {
        // SAFETY: By the safety requirement `send_also` has put a box there, and `bio` waits for this: as
        // long as it has not been answered, device mapper keeps the target that it was handed to.
        unsafe {
            let also = KBox::<Self>::from_raw((*clone).bi_private.cast());
            let status = Status((*clone).bi_status);
            bindings::bio_put(clone);
            also.target.as_ref().also_ended(also.tag, status);
            let bio = also.bio;
            drop(also);
            bindings::bio_endio(bio);
        }
    }
}

/// The data that a bio writes.
///
/// # Invariants
///
/// `bio` is owned by a `HeldBio` that outlives `'a`, and is a write with data.
#[derive(Clone, Copy)]
pub(crate) struct Payload<'a> {
    bio: NonNull<bindings::bio>,
    _bio: PhantomData<&'a ()>,
}

impl Payload<'_> {
    /// A new bio from `pool` that writes `len` sectors of it, from the sector `from` of the data on,
    /// to `device`, with priority and hints as they were, and patience. May sleep, but always gives
    /// one, if those that came from the pool are under way.
    pub(super) fn part(
        self,
        from: Sectors,
        len: Sectors,
        device: &BlockDevice,
        pool: &BioPool,
    ) -> *mut bindings::bio {
        let source = self.bio.as_ptr();
        // SAFETY: By the type invariant the source stays as it is until what is made of it here has
        // been answered; the part lies within it (`bio_trim` looks after that).
        unsafe {
            let bio = bindings::bio_alloc_clone(
                device.as_ptr(),
                source,
                bindings::REMAP_GFP_NOIO,
                pool.as_ptr(),
            );
            goes_to(bio, device);
            bindings::bio_trim(bio, from.0, len.0);
            (*bio).bi_opf &= !HASTE;
            bio
        }
    }
}

impl<T: Target> Drop for HeldBio<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the bio is ours, and is given up here.
        unsafe {
            (*self.bio.as_ptr()).bi_status = Status::IOERR.0;
            bindings::bio_endio(self.bio.as_ptr());
        }
    }
}

/// What the caller of a bio that a device has answered sees; the value of a target's `end_io`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Ended(pub(super) bindings::blk_status_t);

impl Ended {
    /// The caller sees nothing yet: the target has kept the bio. No status has that number.
    pub(super) const KEPT: Self = Self(bindings::blk_status_t::MAX);

    /// That it ended so.
    #[inline]
    pub(crate) fn with(status: Status) -> Self {
        Self(status.0)
    }
}

/// A bio that a device has answered, in the hands of the target's `end_io`.
///
/// # Invariants
///
/// `bio` is the bio that device mapper just passed to the target's `end_io`.
pub(crate) struct EndedBio<'a, T: Target> {
    bio: NonNull<bindings::bio>,
    _target: PhantomData<&'a T>,
}

impl<T: Target> EndedBio<'_, T> {
    /// # Safety
    ///
    /// `bio` is a bio that device mapper passes to `end_io` of a `T`.
    #[inline]
    pub(super) unsafe fn new(bio: NonNull<bindings::bio>) -> Self {
        // INVARIANT: By the safety requirement.
        Self { bio, _target: PhantomData }
    }

    fn opf(&self) -> bindings::blk_opf_t {
        // SAFETY: By the type invariant; a device leaves the operation as it is.
        unsafe { (*self.bio.as_ptr()).bi_opf }
    }

    /// Whether it asked for data.
    pub(crate) fn is_read(&self) -> bool {
        self.opf() & OP_MASK == bindings::req_op_REQ_OP_READ
    }

    /// Whether it was to change what the device has: such operations have odd numbers (`op_is_write`).
    #[inline]
    pub(crate) fn changes(&self) -> bool {
        self.opf() & 1 != 0
    }

    /// Whether it was to change what is read from then on.
    pub(crate) fn is_write(&self) -> bool {
        let op = self.opf() & OP_MASK;
        op == bindings::req_op_REQ_OP_WRITE || op == bindings::req_op_REQ_OP_WRITE_ZEROES
    }

    /// Whether it had failed before; for a read whose start was noted.
    pub(crate) fn had_failed(&self) -> bool {
        // SAFETY: By the type invariant the bio is device mapper's; `note_start` or `note_again` was called.
        unsafe { Start::of(self.bio) }.tags() & Start::AGAIN != 0
    }

    /// Who has had a part of it, a bit for each tag; for what is no read and was [noted as a whole](HeldBio::note_whole).
    pub(crate) fn parts(&self) -> u8 {
        // SAFETY: By the type invariant the bio is device mapper's; `note_whole` was called.
        unsafe { Start::of(self.bio) }.tags()
    }

    /// Whether it was to be durable by now.
    pub(crate) fn is_fua(&self) -> bool {
        self.opf() & FUA != 0
    }

    /// Whether it asked for data that nobody may ever want.
    pub(crate) fn is_read_ahead(&self) -> bool {
        self.opf() & RAHEAD != 0
    }

    /// Keeps it, not answered, with what the device has said: `keep` says where.
    pub(crate) fn keep(self, status: Status, keep: impl FnOnce(HeldBio<T>)) -> Ended {
        // SAFETY: By the type invariant. The core has taken the status out, and puts it back only
        // when it is answered for good (`clone_endio`). The device's queue has been told that this
        // bio is done, and must not be again when it is (`rq_qos_done_bio`).
        unsafe {
            (*self.bio.as_ptr()).bi_status = status.0;
            (*self.bio.as_ptr()).bi_flags &= !bindings::REMAP_BIO_QOS;
        }
        // INVARIANT: The caller returns `DM_ENDIO_INCOMPLETE`, so the bio is the target's.
        keep(HeldBio { bio: self.bio, _target: PhantomData });
        Ended::KEPT
    }

    /// The word that the target has kept with it; 0 if it has kept none.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        // SAFETY: By the type invariant. A new bio has a null pointer there (`bio_init`).
        unsafe { (*self.bio.as_ptr()).bi_private as u64 }
    }
}

/// A reserve of bios (`struct bio_set`), so that work which frees memory never waits for memory.
///
/// # Invariants
///
/// Initialised by `bioset_init`, and pinned.
#[pin_data(PinnedDrop)]
pub(crate) struct BioPool {
    #[pin]
    set: Opaque<bindings::bio_set>,
}

// SAFETY: A `bio_set` may be used from any thread.
unsafe impl Send for BioPool {}
// SAFETY: A `bio_set` has its own locking.
unsafe impl Sync for BioPool {}

impl BioPool {
    /// A pool with `reserve` bios set aside.
    pub(crate) fn new(reserve: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: Initialised here, on success.
            set <- Opaque::try_ffi_init(move |set: *mut bindings::bio_set| {
                // SAFETY: `set` is valid memory for a `bio_set`; `bioset_init` wants it zeroed.
                unsafe {
                    set.write_bytes(0, 1);
                    to_result(bindings::bioset_init(
                        set,
                        reserve,
                        0,
                        bindings::BIOSET_NEED_BVECS as kernel::ffi::c_int,
                    ))
                }
            }),
        })
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::bio_set {
        self.set.get()
    }
}

#[pinned_drop]
impl PinnedDrop for BioPool {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::bioset_exit(self.set.get()) };
    }
}
