// SPDX-License-Identifier: GPL-2.0

//! Counting bios that are on their way, and learning when those of before are all back, without a
//! cache line that CPUs share: SRCU in its fast, task-independent flavour.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h), `srcu_down_read_fast`

use super::bindings;
use kernel::{
    error::to_result,
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::Opaque,
};

/// One bio counted by an [`InFlight`]; to be given back to it by [`InFlight::leave`].
///
/// # Invariants
///
/// How many bytes the counter of it is behind the first of the two that there are.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(usize);

/// What one of the two counters takes.
const COUNTER: usize = core::mem::size_of::<bindings::srcu_ctr>();

impl Ticket {
    /// The bit of [`bits`](Self::bits).
    pub(crate) const BIT: u64 = {
        assert!(COUNTER.is_power_of_two());
        COUNTER as u64
    };

    /// As a number, to be kept in a small place: 0, or [`BIT`](Self::BIT).
    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.0 as u64
    }

    /// What [`bits`](Self::bits) were made of, whatever stands beside them.
    #[inline]
    pub(crate) fn of_bits(bits: u64) -> Self {
        // INVARIANT: One of the two.
        Self((bits & Self::BIT) as usize)
    }
}

/// A count of what is on its way.
///
/// # Invariants
///
/// Initialised by `init_srcu_struct_fast_updown`, and pinned.
#[pin_data(PinnedDrop)]
pub(crate) struct InFlight {
    #[pin]
    srcu: Opaque<bindings::srcu_struct>,
}

// SAFETY: An `srcu_struct` may be used from any thread.
unsafe impl Send for InFlight {}
// SAFETY: It has its own locking.
unsafe impl Sync for InFlight {}

/// What is told when everything of before is back.
pub(crate) trait Landed: Send + Sync + 'static {
    /// Everything that was on its way when [`InFlight::call`] was called is back. Called in softirq
    /// context; it may not sleep.
    fn landed(this: ArcBorrow<'_, Self>);
}

/// A call that waits for what is on its way.
struct Call<T: Landed> {
    head: Opaque<bindings::callback_head>,
    whom: Arc<T>,
}

impl InFlight {
    /// A count of nothing.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: Initialised here, on success.
            srcu <- Opaque::try_ffi_init(|srcu: *mut bindings::srcu_struct| {
                // SAFETY: `srcu` is valid memory for one.
                to_result(unsafe { bindings::remap_srcu_init(srcu) })
            }),
        })
    }

    /// Counts one more. What is read after this was there when [`call`](Self::call) was called, or that call waits.
    #[inline]
    pub(crate) fn enter(&self) -> Ticket {
        // SAFETY: By the type invariant.
        unsafe { by_cpu::enter(self.srcu.get()) }
    }

    /// The one counted with `ticket`, by this count, is back. May be called from any context.
    #[inline]
    pub(crate) fn leave(&self, ticket: Ticket) {
        // SAFETY: By the type invariant; there are two counters, and the ticket is one of two.
        unsafe { by_cpu::leave(self.srcu.get(), ticket) };
    }

    /// Tells `whom` when everything that is on its way now is back; does not wait for it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; then nobody will be told.
    pub(crate) fn call<T: Landed>(&self, whom: Arc<T>) -> Result {
        let call = KBox::new(Call { head: Opaque::uninit(), whom }, GFP_KERNEL)?;
        let call = KBox::into_raw(call);
        // SAFETY: The head lives until `called` takes the box back.
        unsafe {
            bindings::call_srcu(
                self.srcu.get(),
                Opaque::cast_into(core::ptr::addr_of!((*call).head)),
                Some(Self::called::<T>),
            )
        };
        Ok(())
    }

    /// Waits until everybody has been told who is to be told (`srcu_barrier`).
    pub(crate) fn barrier(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::srcu_barrier(self.srcu.get()) };
    }

    /// # Safety
    ///
    /// `head` is that of a [`Call`] of a `T`, given away by [`call`](Self::call).
    unsafe extern "C" fn called<T: Landed>(head: *mut bindings::callback_head) {
        // SAFETY: `head` is the field of a box that `call` gave away.
        let call = unsafe {
            KBox::from_raw(kernel::container_of!(Opaque::cast_from(head).cast_mut(), Call<T>, head))
        };
        T::landed(call.whom.as_arc_borrow());
    }
}

#[pinned_drop]
impl PinnedDrop for InFlight {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant. Callbacks still to come are waited for, so that none runs
        // after the module is gone; nothing is on its way any more, or the target would live.
        unsafe {
            bindings::srcu_barrier(self.srcu.get());
            bindings::cleanup_srcu_struct(self.srcu.get());
        }
    }
}

/// `srcu_down_read_fast` and `srcu_up_read_fast` as they are on x86 in a kernel that checks nothing there: one instruction each that
/// counts (`this_cpu_inc`), which is less than the call of a function takes. They stand on the way of every bio.
#[cfg(all(
    CONFIG_X86_64,
    CONFIG_SMP,
    not(any(
        CONFIG_UML,
        CONFIG_NEED_SRCU_NMI_SAFE,
        CONFIG_PROVE_RCU,
        CONFIG_DEBUG_PREEMPT,
        CONFIG_KCSAN
    ))
))]
mod by_cpu {
    use super::{bindings, Ticket};
    use core::{arch::asm, mem::offset_of};

    /// # Safety
    ///
    /// `srcu` is initialised.
    #[inline(always)]
    pub(super) unsafe fn enter(srcu: *mut bindings::srcu_struct) -> Ticket {
        const LOCKS: usize = offset_of!(bindings::srcu_ctr, srcu_locks);
        // SAFETY: By the safety requirement `srcu_ctrp` points to one of the two counters that stand at the start of `sda`
        // (`srcu_data::srcu_ctrs`), for each processor at its offset, which is the base of `gs`. It may be changed meanwhile, so it is
        // read once.
        unsafe {
            let counter = (&raw const (*srcu).srcu_ctrp).read_volatile();
            asm!("inc qword ptr gs:[{} + {}]", in(reg) counter, const LOCKS, options(nostack));
            // INVARIANT: So far is it behind the first.
            Ticket(counter.addr().wrapping_sub((*srcu).sda.addr()))
        }
    }

    /// # Safety
    ///
    /// `srcu` is initialised, and has given the ticket, which was not given back.
    #[inline(always)]
    pub(super) unsafe fn leave(srcu: *mut bindings::srcu_struct, ticket: Ticket) {
        const UNLOCKS: usize = offset_of!(bindings::srcu_data, srcu_ctrs)
            + offset_of!(bindings::srcu_ctr, srcu_unlocks);
        // SAFETY: As in `enter`.
        unsafe {
            asm!("inc qword ptr gs:[{} + {} + {}]", in(reg) (*srcu).sda, in(reg) ticket.0, const UNLOCKS, options(nostack));
        }
    }
}

/// By the kernel's own functions, in any other.
#[cfg(not(all(
    CONFIG_X86_64,
    CONFIG_SMP,
    not(any(
        CONFIG_UML,
        CONFIG_NEED_SRCU_NMI_SAFE,
        CONFIG_PROVE_RCU,
        CONFIG_DEBUG_PREEMPT,
        CONFIG_KCSAN
    ))
)))]
mod by_cpu {
    use super::{bindings, Ticket, COUNTER};

    /// # Safety
    ///
    /// `srcu` is initialised.
    pub(super) unsafe fn enter(srcu: *mut bindings::srcu_struct) -> Ticket {
        // SAFETY: By the safety requirement.
        let which = unsafe { bindings::remap_srcu_enter(srcu) };
        // INVARIANT: One of the two.
        Ticket(usize::from(which) * COUNTER)
    }

    /// # Safety
    ///
    /// `srcu` is initialised, and has given the ticket, which was not given back.
    pub(super) unsafe fn leave(srcu: *mut bindings::srcu_struct, ticket: Ticket) {
        // SAFETY: By the safety requirement.
        unsafe { bindings::remap_srcu_leave(srcu, ticket.0 != 0) };
    }
}
