// SPDX-License-Identifier: GPL-2.0

//! Device-mapper targets: what one implements, and its registration.
//!
//! C header: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h)

use super::{
    bindings,
    bio::{Ended, EndedBio, MapBio, Mapped, Status, PER_BIO},
    device::{Anchor, Device, MINOR_BITS},
    kobject::Parent,
    limits::QueueLimits,
    text::Text,
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    error::{from_result, to_result},
    ffi,
    prelude::*,
    str::CString,
    sync::{Arc, ArcBorrow, Completion},
    types::Opaque,
};

/// What a bio-based target does. One implementor is one table line; device mapper calls these from
/// several threads, `map` and `end_io` also from atomic context.
#[vtable]
pub(crate) trait Target: Sized + Send + Sync + 'static {
    /// The name in a table line.
    const NAME: &'static CStr;
    /// Version of the interface to user space: major, minor, patch.
    const VERSION: [u32; 3];
    /// `DM_TARGET_*`.
    const FEATURES: u64;

    /// Makes a target of a table line. On an error the reason goes into [`Construct::error`].
    fn construct(ctx: &mut Construct<'_>, args: &mut Args<'_>) -> Result<Arc<Self>>;

    /// The mapped device, from [`Construct::mapped_device`].
    fn mapped(&self) -> &MappedDevice;

    /// Called when the table goes, before the last reference that device mapper holds is given up.
    fn destroy(this: ArcBorrow<'_, Self>);

    /// Says what becomes of a bio.
    fn map(this: ArcBorrow<'_, Self>, bio: MapBio<'_, Self>) -> Mapped;

    /// A device has answered a bio without an error. Whether there was nothing more to it; or else
    /// [`end_io`](Self::end_io) sees it. Two calls, for the way of every bio.
    fn ended_well(this: ArcBorrow<'_, Self>, bio: &EndedBio<'_, Self>) -> bool;

    /// A device has answered a bio that was sent on, or one that was kept has been answered. Says
    /// what the caller sees.
    fn end_io(this: ArcBorrow<'_, Self>, bio: EndedBio<'_, Self>, status: Status) -> Ended;

    /// A device has answered what was sent [as well](super::bio::HeldBio::send_also) as a bio, which is
    /// answered after this. Called in any context.
    fn also_ended(&self, tag: u8, status: Status);

    /// The device is about to be suspended; bios still come.
    fn presuspend(this: ArcBorrow<'_, Self>);

    /// The suspend has been called off.
    fn presuspend_undo(this: ArcBorrow<'_, Self>);

    /// The device is suspended: no bio is under way.
    fn postsuspend(this: ArcBorrow<'_, Self>);

    /// The device is about to become active. No bio is under way.
    fn preresume(this: ArcBorrow<'_, Self>) -> Result;

    /// The device is active.
    fn resume(this: ArcBorrow<'_, Self>);

    /// Writes what `dmsetup status` or `dmsetup table` prints.
    fn status(this: ArcBorrow<'_, Self>, kind: StatusKind, out: &mut Text<'_>);

    /// Handles `dmsetup message`. What stands in `out` is printed.
    fn message(this: ArcBorrow<'_, Self>, args: &mut Args<'_>, out: &mut Text<'_>) -> Result;

    /// Calls `f` with each device, its first sector and number of sectors in use, until one call
    /// gives something else than 0.
    fn each_device(
        this: ArcBorrow<'_, Self>,
        f: &mut dyn FnMut(&Device, u64, u64) -> ffi::c_int,
    ) -> ffi::c_int;

    /// Changes the queue limits that device mapper has put together of all devices.
    fn limits(this: ArcBorrow<'_, Self>, limits: &mut QueueLimits);
}

/// Which text is wanted of a target (`status_type_t`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StatusKind {
    /// `dmsetup status`.
    Info,
    /// `dmsetup table`.
    Table,
    /// What the integrity measurement architecture records.
    Measurement,
}

/// The arguments of a table line or a message.
pub(crate) struct Args<'a> {
    argv: &'a [*mut ffi::c_char],
}

impl<'a> Args<'a> {
    /// # Safety
    ///
    /// `argv` points to `argc` pointers to C strings, all of them valid for `'a`.
    unsafe fn new(argc: ffi::c_uint, argv: *mut *mut ffi::c_char) -> Self {
        if argc == 0 {
            return Self { argv: &[] };
        }
        // SAFETY: By the safety requirement.
        Self { argv: unsafe { core::slice::from_raw_parts(argv, argc as usize) } }
    }

    /// How many are left.
    pub(crate) fn len(&self) -> usize {
        self.argv.len()
    }

    /// Takes the next one, or `None` behind the last.
    ///
    /// # Errors
    ///
    /// `EINVAL` where it is not UTF-8.
    pub(crate) fn next(&mut self) -> Result<Option<&'a str>> {
        let Some((&first, rest)) = self.argv.split_first() else {
            return Ok(None);
        };
        self.argv = rest;
        // SAFETY: By the requirement of `new`.
        let arg = unsafe { CStr::from_char_ptr(first) };
        arg.to_str().map(Some).map_err(|_| EINVAL)
    }
}

/// A table line being made into a target.
///
/// # Invariants
///
/// `ti` is the target that device mapper is constructing.
pub(crate) struct Construct<'a> {
    ti: NonNull<bindings::dm_target>,
    anchor: Arc<Anchor>,
    _target: PhantomData<&'a ()>,
}

impl Construct<'_> {
    /// How many sectors the line maps.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { (*self.ti.as_ptr()).len }
    }

    /// Whether the table is loaded for writing too.
    pub(crate) fn writable(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::remap_dm_table_writable(self.ti.as_ptr()) }
    }

    /// The mapped device that the table is for.
    pub(crate) fn mapped_device(&self) -> MappedDevice {
        // SAFETY: By the type invariant; a table belongs to a mapped device, which outlives it.
        let md = unsafe { bindings::dm_table_get_md((*self.ti.as_ptr()).table) };
        // INVARIANT: The anchor keeps the table from going.
        MappedDevice { md, ti: self.ti, anchor: self.anchor.clone() }
    }

    /// Opens a device for the table, for reading and, if the table is writable, for writing.
    pub(crate) fn device(&self, path: &str) -> Result<Device> {
        let path = CString::try_from_fmt(format_args!("{path}"))?;
        // SAFETY: We are in the constructor of `ti`.
        unsafe { Device::get(self.ti, &path, self.writable(), self.anchor.clone()) }
    }

    /// Sets the short reason that device mapper prints with the failed load.
    pub(crate) fn error(&mut self, reason: &'static CStr) {
        // SAFETY: By the type invariant; the string is static and is not written to.
        unsafe { (*self.ti.as_ptr()).error = reason.as_char_ptr().cast_mut() };
    }

    /// Has flushes sent `n` times, each with its own number.
    pub(crate) fn flush_bios(&mut self, n: u32) {
        // SAFETY: By the type invariant.
        unsafe { (*self.ti.as_ptr()).num_flush_bios = n };
    }
}

/// The mapped device that a target's table belongs to.
///
/// # Invariants
///
/// `md` and `ti` are valid for as long as `anchor` lives.
pub(crate) struct MappedDevice {
    md: *mut bindings::mapped_device,
    ti: NonNull<bindings::dm_target>,
    anchor: Arc<Anchor>,
}

// SAFETY: The functions called on them may be called from any thread.
unsafe impl Send for MappedDevice {}
// SAFETY: As above.
unsafe impl Sync for MappedDevice {}

impl MappedDevice {
    /// Major and minor number of the mapped device.
    pub(crate) fn number(&self) -> (u32, u32) {
        // SAFETY: By the type invariant.
        let disk = unsafe { bindings::dm_disk(self.md) };
        // SAFETY: A mapped device has its disk for as long as it lives.
        unsafe { ((*disk).major as u32, (*disk).first_minor as u32) }
    }

    /// Opens the device of that number (`dev_t`), with the holder that `like` was opened with, as one more
    /// that this mapped device holds.
    ///
    /// # Errors
    ///
    /// `EBUSY` where somebody else holds it, or it is this mapped device.
    pub(crate) fn open(&self, number: u32, writable: bool, like: &Device) -> Result<Device> {
        // SAFETY: By the type invariant; a mapped device has its disk for as long as it lives.
        let disk = NonNull::new(unsafe { bindings::dm_disk(self.md) }).ok_or(ENODEV)?;
        let (major, minor) = self.number();
        if number == major << MINOR_BITS | minor {
            return Err(EBUSY);
        }
        // SAFETY: The disk is that of this mapped device, which the anchored target belongs to.
        unsafe { Device::open(number, writable, like, disk, self.anchor.clone()) }
    }

    /// Its folder in sysfs, `/sys/block/dm-<minor>`.
    pub(crate) fn folder(&self) -> Parent<'_> {
        // SAFETY: By the type invariant; the disk lives as long as the mapped device, and was added to
        // sysfs before its first table could be made active (`dm_setup_md_queue`).
        unsafe { Parent::from_raw(bindings::remap_disk_kobject(bindings::dm_disk(self.md))) }
    }

    /// Raises a device-mapper event (`dmsetup wait`).
    pub(crate) fn event(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::dm_table_event((*self.ti.as_ptr()).table) };
    }

    /// Raises a change uevent with `DM_REMAP_EVENT=reason`. May sleep.
    pub(crate) fn uevent(&self, reason: &str) {
        let Ok(line) = CString::try_from_fmt(format_args!("DM_REMAP_EVENT={reason}")) else {
            return;
        };
        let mut env = [line.as_char_ptr().cast_mut(), core::ptr::null_mut()];
        // SAFETY: The disk lives as long as the mapped device; `env` ends with a null pointer and is
        // only read.
        unsafe {
            bindings::remap_disk_change_uevent(bindings::dm_disk(self.md), env.as_mut_ptr());
        }
    }
}

/// Completed when the last user of a `dm_target` is gone.
#[pin_data]
pub(super) struct Gone {
    #[pin]
    pub(super) done: Completion,
}

/// A registered target type; unregistered when dropped.
///
/// # Invariants
///
/// Holds a `target_type` that is registered, and pinned.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Target> {
    #[pin]
    target: Opaque<bindings::target_type>,
    _target: PhantomData<T>,
}

// SAFETY: Registration and removal may be done from any thread.
unsafe impl<T: Target> Send for Registration<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Target> Sync for Registration<T> {}

impl<T: Target> Registration<T> {
    /// Registers the target with device mapper.
    pub(crate) fn new(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: Registered here, on success.
            target <- Opaque::try_ffi_init(move |slot: *mut bindings::target_type| {
                // SAFETY: `slot` is valid for writing; the type stays in place until it is
                // unregistered, because it is pinned.
                unsafe {
                    slot.write(Self::target_type(module));
                    to_result(bindings::dm_register_target(slot))
                }
            }),
            _target: PhantomData,
        })
    }

    fn target_type(module: &'static ThisModule) -> bindings::target_type {
        bindings::target_type {
            features: T::FEATURES,
            name: T::NAME.as_char_ptr(),
            module: module.as_ptr(),
            version: T::VERSION,
            ctr: Some(Self::ctr_callback),
            dtr: Some(Self::dtr_callback),
            map: Some(Self::map_callback),
            end_io: Some(Self::end_io_callback),
            presuspend: Some(Self::presuspend_callback),
            presuspend_undo: Some(Self::presuspend_undo_callback),
            postsuspend: Some(Self::postsuspend_callback),
            preresume: Some(Self::preresume_callback),
            resume: Some(Self::resume_callback),
            status: Some(Self::status_callback),
            message: Some(Self::message_callback),
            iterate_devices: Some(Self::iterate_devices_callback),
            io_hints: Some(Self::io_hints_callback),
            clone_and_map_rq: None,
            release_clone_rq: None,
            rq_end_io: None,
            prepare_ioctl: None,
            report_zones: None,
            busy: None,
            direct_access: None,
            dax_zero_page_range: None,
            dax_recovery_write: None,
            list: Default::default(),
        }
    }

    /// # Safety
    ///
    /// `ti` is a target of this type, constructed and not yet destroyed.
    #[inline]
    unsafe fn target<'a>(ti: *mut bindings::dm_target) -> ArcBorrow<'a, T> {
        // SAFETY: `ctr_callback` has stored it, and `dtr_callback` has not taken it back.
        unsafe { ArcBorrow::from_raw((*ti).private.cast::<T>()) }
    }

    /// # Safety
    ///
    /// `ti` is being constructed, and `argv` points to `argc` C strings.
    unsafe extern "C" fn ctr_callback(
        ti: *mut bindings::dm_target,
        argc: ffi::c_uint,
        argv: *mut *mut ffi::c_char,
    ) -> ffi::c_int {
        let Some(ti) = NonNull::new(ti) else {
            return EINVAL.to_errno();
        };
        from_result(|| {
            // SAFETY: Device mapper passes a valid target. `HeldBio::sector` and its like rely on
            // the target starting at 0, which the core makes sure of for a target that is alone.
            if unsafe { (*ti.as_ptr()).begin } != 0 {
                return Err(EINVAL);
            }
            let gone = Arc::pin_init(pin_init!(Gone { done <- Completion::new() }), GFP_KERNEL)?;
            let anchor = Arc::new(Anchor::new(ti, gone.clone()), GFP_KERNEL)?;
            let mut ctx = Construct { ti, anchor: anchor.clone(), _target: PhantomData };
            // SAFETY: Device mapper passes `argc` strings that live as long as this call.
            let mut args = unsafe { Args::new(argc, argv) };
            // SAFETY: Device mapper passes a valid target. One bio each for discard and write
            // zeroes is what `MapBio::accept_partial` relies on.
            unsafe {
                let ti = ti.as_ptr();
                (*ti).num_flush_bios = 1;
                (*ti).num_discard_bios = 1;
                (*ti).num_write_zeroes_bios = 1;
                (*ti).per_io_data_size = PER_BIO as u32;
                (*ti).set_flush_supported(true);
                (*ti).set_discards_supported(true);
                (*ti).set_accounts_remapped_io(true);
            }
            let result = T::construct(&mut ctx, &mut args);
            drop(ctx);
            match result {
                Ok(target) => {
                    // SAFETY: As above.
                    unsafe { (*ti.as_ptr()).private = Arc::into_raw(target).cast_mut().cast() };
                    Ok(0)
                }
                Err(e) => {
                    drop(anchor);
                    gone.done.wait_for_completion();
                    Err(e)
                }
            }
        })
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn dtr_callback(ti: *mut bindings::dm_target) {
        // SAFETY: `ctr_callback` has stored the reference, and device mapper calls this once.
        let target = unsafe { Arc::from_raw((*ti).private.cast::<T>()) };
        T::destroy(target.as_arc_borrow());
        let gone = target.mapped().anchor.gone.clone();
        drop(target);
        // Whatever still uses the devices keeps `ti` in place until it is done.
        gone.done.wait_for_completion();
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn map_callback(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
    ) -> ffi::c_int {
        // SAFETY: Device mapper passes a bio of this target.
        let bio = unsafe { MapBio::new(NonNull::new_unchecked(bio)) };
        // SAFETY: Device mapper maps only between construction and destruction.
        T::map(unsafe { Self::target(ti) }, bio).0
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn end_io_callback(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
        error: *mut bindings::blk_status_t,
    ) -> ffi::c_int {
        // SAFETY: Device mapper passes a bio of this target, which `map_callback` has seen, a live
        // target, and a valid pointer.
        unsafe {
            let ended = EndedBio::new(NonNull::new_unchecked(bio));
            if *error == 0 && T::ended_well(Self::target(ti), &ended) {
                return bindings::DM_ENDIO_DONE as ffi::c_int;
            }
            Self::ended(ti, bio, error)
        }
    }

    /// # Safety
    ///
    /// As for [`end_io_callback`](Self::end_io_callback).
    #[cold]
    #[inline(never)]
    unsafe fn ended(
        ti: *mut bindings::dm_target,
        bio: *mut bindings::bio,
        error: *mut bindings::blk_status_t,
    ) -> ffi::c_int {
        // SAFETY: As in `end_io_callback`.
        unsafe {
            let bio = EndedBio::new(NonNull::new_unchecked(bio));
            match T::end_io(Self::target(ti), bio, Status(*error)) {
                Ended::KEPT => bindings::DM_ENDIO_INCOMPLETE as ffi::c_int,
                Ended(after) => {
                    *error = after;
                    bindings::DM_ENDIO_DONE as ffi::c_int
                }
            }
        }
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn presuspend_callback(ti: *mut bindings::dm_target) {
        // SAFETY: Device mapper passes a live target; so in all callbacks below.
        T::presuspend(unsafe { Self::target(ti) });
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn presuspend_undo_callback(ti: *mut bindings::dm_target) {
        // SAFETY: As above.
        T::presuspend_undo(unsafe { Self::target(ti) });
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn postsuspend_callback(ti: *mut bindings::dm_target) {
        // SAFETY: As above.
        T::postsuspend(unsafe { Self::target(ti) });
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn preresume_callback(ti: *mut bindings::dm_target) -> ffi::c_int {
        // SAFETY: As above.
        from_result(|| T::preresume(unsafe { Self::target(ti) }).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn resume_callback(ti: *mut bindings::dm_target) {
        // SAFETY: As above.
        T::resume(unsafe { Self::target(ti) });
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn status_callback(
        ti: *mut bindings::dm_target,
        kind: bindings::status_type_t,
        _flags: ffi::c_uint,
        result: *mut ffi::c_char,
        maxlen: ffi::c_uint,
    ) {
        let kind = match kind {
            bindings::status_type_t_STATUSTYPE_INFO => StatusKind::Info,
            bindings::status_type_t_STATUSTYPE_TABLE => StatusKind::Table,
            _ => StatusKind::Measurement,
        };
        // SAFETY: Device mapper passes a buffer of `maxlen` bytes.
        let mut out = unsafe { Text::new(result, maxlen as usize) };
        // SAFETY: As above.
        T::status(unsafe { Self::target(ti) }, kind, &mut out);
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn message_callback(
        ti: *mut bindings::dm_target,
        argc: ffi::c_uint,
        argv: *mut *mut ffi::c_char,
        result: *mut ffi::c_char,
        maxlen: ffi::c_uint,
    ) -> ffi::c_int {
        // SAFETY: Device mapper passes a buffer of `maxlen` bytes.
        let mut out = unsafe { Text::new(result, maxlen as usize) };
        // SAFETY: Device mapper passes `argc` strings that live as long as this call.
        let mut args = unsafe { Args::new(argc, argv) };
        // SAFETY: As above.
        match T::message(unsafe { Self::target(ti) }, &mut args, &mut out) {
            // 1 has the core copy the text to the caller.
            Ok(()) => ffi::c_int::from(!out.is_empty()),
            Err(e) => e.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn iterate_devices_callback(
        ti: *mut bindings::dm_target,
        callout: bindings::iterate_devices_callout_fn,
        data: *mut ffi::c_void,
    ) -> ffi::c_int {
        let Some(callout) = callout else { return 0 };
        // SAFETY: As above.
        T::each_device(unsafe { Self::target(ti) }, &mut |device, start, len| {
            // The limits in force hold for what was opened later.
            let Some(device) = device.as_dm() else { return 0 };
            // SAFETY: The callout comes with its data, and takes devices of this target.
            unsafe { callout(ti, device, start, len, data) }
        })
    }

    /// # Safety
    ///
    /// Called by device mapper, with what the type of the callback says.
    unsafe extern "C" fn io_hints_callback(
        ti: *mut bindings::dm_target,
        limits: *mut bindings::queue_limits,
    ) {
        // SAFETY: Device mapper passes limits that are its own to change; `QueueLimits` is
        // transparent.
        let limits = unsafe { &mut *limits.cast::<QueueLimits>() };
        // SAFETY: As above.
        T::limits(unsafe { Self::target(ti) }, limits);
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::dm_unregister_target(self.target.get()) };
    }
}
