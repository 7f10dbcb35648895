// SPDX-License-Identifier: GPL-2.0

//! Reads that fail together are read again, each alone.
//!
//! What is read beside each other at the same time becomes one request on its way, in the block layer or in the
//! drive, and all of it fails for one block that cannot be read. Who has asked for no such block is
//! owed the data.
//!
//! ```text
//! failed -> kept -> taken -> GATHER, grace period -> nothing else failed meanwhile: answered with its error
//!                                                 -> something did: sent again, unmerged, where it lives now
//!                                                    -> answered with what comes
//! ```
//!
//! - Who ends a request ends its bios one after the other (`blk_update_request`), in an interrupt or with soft
//!   interrupts off, which a grace period waits for, however slow it is. So when one has passed since a read was
//!   taken, all that failed with it has been kept or counted: it was taken too, or is there now.
//!   What is there now may have failed with what was taken, and is told so (`others`).
//! - [`GATHER`] is for those that fail together in several requests, and for who ends bios in a thread, as the error
//!   handling of SATA drives does.
//! - A read is sent again once, which is noted with it. Read-ahead, which nobody waits for, is not; that
//!   it failed counts.
//! - One is sent when the one before has ended, or has taken [`PATIENCE`]: a drive that makes one of
//!   several requests would do so again. After [`SLOW`] of those the others are sent without waiting:
//!   all are answered when the drive has given up each of them once more, at the latest.
//! - One that is kept is not counted as on its way. It needs no lock, no memory and no commit of anybody
//!   to be answered, so that a suspend can wait for it.
//! - Blocks that are known to fail are sent unmerged from the first.

use super::Remap;
use crate::dm::{bio::HeldBio, compat::synchronize_rcu, held::HeldPile, system::MemScope};
use kernel::{
    sync::{
        atomic::{Atomic, Relaxed},
        rcu, Arc, ArcBorrow,
    },
    time::{delay::fsleep, Delta},
    workqueue::WorkItem,
};

/// How long others that fail together with a read are waited for, in milliseconds.
const GATHER: i64 = 2;

/// How long one that is read alone holds up the next, in milliseconds.
const PATIENCE: i64 = 200;

/// How many may take longer than that.
const SLOW: u32 = 16;

/// Reads that failed and have not been answered.
pub(super) struct Unread {
    kept: HeldPile<Remap>,
    /// Others that failed, and may have taken along what is kept.
    others: Atomic<u32>,
    /// Reads sent again that have ended; wraps around.
    ended: Atomic<u32>,
}

impl Unread {
    pub(super) const fn new() -> Self {
        Self { kept: HeldPile::new(), others: Atomic::new(0), ended: Atomic::new(0) }
    }

    /// A read that was sent again has ended, well or not. In any context.
    pub(super) fn ended_again(&self) {
        self.ended.fetch_add(1u32, Relaxed);
    }
}

impl Remap {
    /// A read has failed, perhaps for what was read together with it. In any context.
    pub(super) fn read_again(this: ArcBorrow<'_, Self>, bio: HeldBio<Self>) {
        // As in `rescue_later`.
        let _reading = rcu::read_lock();
        this.unread.kept.push(bio);
        // When it is queued already, it will run.
        let _ = this.queue.enqueue::<Arc<Self>, 3>(this.into());
    }

    /// A read has failed that is not kept. In any context.
    pub(super) fn failed_too(this: ArcBorrow<'_, Self>) {
        let _reading = rcu::read_lock();
        this.unread.others.fetch_add(1u32, Relaxed);
        // It is forgotten in time.
        let _ = this.queue.enqueue::<Arc<Self>, 3>(this.into());
    }

    fn read_each_alone(this: &Arc<Self>) {
        let _scope = MemScope::without_io();
        let others = this.unread.others.xchg(0, Relaxed);
        let mut kept = this.unread.kept.take();
        fsleep(Delta::from_millis(GATHER));
        synchronize_rcu();
        let unread = &this.unread;
        let more = !unread.kept.is_empty() || unread.others.load(Relaxed) != 0;
        if more {
            // Those that failed with what is there now may be in our hands.
            unread.others.fetch_add(1u32, Relaxed);
        }
        let first = kept.pop();
        let mut next = kept.pop();
        match first {
            Some(bio) if others == 0 && !more && next.is_none() => {
                Self::not_read(this.as_arc_borrow(), bio);
            }
            Some(bio) => {
                let mut slow = 0;
                this.send_and_wait(bio, &mut slow);
                while let Some(bio) = next {
                    this.send_and_wait(bio, &mut slow);
                    next = kept.pop();
                }
            }
            None => {}
        }
    }

    /// Sends one again, and waits for its end as long as that may hold up others.
    fn send_and_wait(&self, bio: HeldBio<Self>, slow: &mut u32) {
        let before = self.unread.ended.load(Relaxed);
        self.send_again(bio);
        let mut waited = 0;
        while *slow < SLOW && self.unread.ended.load(Relaxed) == before {
            if waited == PATIENCE {
                *slow += 1;
                break;
            }
            fsleep(Delta::from_millis(1));
            waited += 1;
        }
    }
}

impl WorkItem<3> for Remap {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::read_each_alone(&this);
    }
}
