// SPDX-License-Identifier: GPL-2.0

//! What differs between the kernels that the module is built for, and differs nowhere else: the rest of it is written for the newest of them.
//!
//! Kbuild says which one it is (`kernel_7_2`).

use super::bindings;

#[cfg(not(kernel_7_2))]
pub(crate) use kernel::{
    error::code::{ENODATA, EOPNOTSUPP, EREMOTEIO, ESTALE, EUCLEAN},
    sync::rcu::synchronize_rcu,
};

#[cfg(not(any(kernel_7_2, all(CONFIG_X86_64, CONFIG_SMP))))]
pub(crate) use kernel::sync::barrier::smp_mb;

#[cfg(kernel_7_2)]
pub(crate) use kernel_7_2::*;

/// Where in the piece of its vector that it has come to an iterator stands, in bytes.
#[inline(always)]
pub(super) fn offset(iter: &bindings::bvec_iter) -> u32 {
    #[cfg(not(kernel_7_2))]
    return iter.bi_offset;
    #[cfg(kernel_7_2)]
    return iter.bi_bvec_done;
}

/// Moves it there.
#[inline(always)]
pub(super) fn set_offset(iter: &mut bindings::bvec_iter, offset: u32) {
    #[cfg(not(kernel_7_2))]
    let of_iter = &mut iter.bi_offset;
    #[cfg(kernel_7_2)]
    let of_iter = &mut iter.bi_bvec_done;
    *of_iter = offset;
}

/// What the kernel crate of Linux 7.2 lacks.
#[cfg(kernel_7_2)]
mod kernel_7_2 {
    use super::bindings;
    use core::num::NonZeroI32;
    use kernel::{error::Error, sync::atomic::Full};

    pub(crate) const ENODATA: Error = error(bindings::ENODATA);
    pub(crate) const EOPNOTSUPP: Error = error(bindings::EOPNOTSUPP);
    pub(crate) const EREMOTEIO: Error = error(bindings::EREMOTEIO);
    pub(crate) const ESTALE: Error = error(bindings::ESTALE);
    pub(crate) const EUCLEAN: Error = error(bindings::EUCLEAN);

    /// `Error::from_errno`, which is not for constants there.
    const fn error(errno: u32) -> Error {
        assert!(0 < errno && errno <= bindings::MAX_ERRNO);
        match NonZeroI32::new(-(errno as i32)) {
            // SAFETY: In that series of kernels an `Error` is a `NonZeroI32` and nothing else, which is negative and not below `-MAX_ERRNO`.
            Some(errno) => unsafe { core::mem::transmute::<NonZeroI32, Error>(errno) },
            None => unreachable!(),
        }
    }

    /// A full barrier between processors.
    #[cfg(not(all(CONFIG_X86_64, CONFIG_SMP)))]
    #[inline]
    pub(crate) fn smp_mb(_: Full) {
        kernel::sync::barrier::smp_mb();
    }

    /// Waits until all who read now have ended that. May sleep.
    #[inline]
    pub(crate) fn synchronize_rcu() {
        // SAFETY: An FFI call without requirements but for a context that may sleep.
        unsafe { bindings::synchronize_rcu() };
    }
}
