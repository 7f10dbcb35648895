// SPDX-License-Identifier: GPL-2.0

//! Counting bios that are on their way, and learning when those of before are all back, without a
//! cache line that CPUs share: SRCU in its fast, task-independent flavour.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h), `srcu_down_read_fast`

use super::{bindings, published::Reading};
use kernel::{
    error::to_result,
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::{NotThreadSafe, Opaque},
};

/// One bio counted by an [`InFlight`]; to be given back to it by [`InFlight::leave`].
#[derive(Clone, Copy)]
pub(crate) struct Ticket(bool);

impl Ticket {
    /// The ticket as a bit, to be kept in a small place.
    #[inline]
    pub(crate) fn bit(self) -> bool {
        self.0
    }

    /// The ticket of that bit.
    #[inline]
    pub(crate) fn of_bit(bit: bool) -> Self {
        Self(bit)
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

    /// Counts one more, and begins an RCU read-side critical section, as who is counted reads what is
    /// published.
    #[inline]
    pub(crate) fn enter(&self) -> (Ticket, Reading) {
        // SAFETY: By the type invariant.
        let which = unsafe { bindings::remap_srcu_enter(self.srcu.get()) };
        // INVARIANT: `remap_srcu_enter` has begun it.
        (Ticket(which), Reading(NotThreadSafe))
    }

    /// The one counted with `ticket`, by this count, is back. May be called from any context.
    #[inline]
    pub(crate) fn leave(&self, ticket: Ticket) {
        // SAFETY: By the type invariant; there are two counters, and the ticket is one of two.
        unsafe { bindings::remap_srcu_leave(self.srcu.get(), ticket.0) };
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
