// SPDX-License-Identifier: GPL-2.0

//! Reads that fail together are read again, each alone.
//!
//! What is read beside each other at the same time becomes one request on its way, in the block layer or in the
//! drive, and all of it fails for one block that cannot be read. Who has asked for no such block is
//! owed the data.
//!
//! ```text
//! failed -> kept, GATHER -> nothing else failed meanwhile: answered with its error
//!                        -> something did: sent again, unmerged, where it lives now -> answered with what comes
//! ```
//!
//! - A read is sent again once, which its end knows by `REQ_NOMERGE`. Read-ahead, which nobody waits
//!   for, is not.
//! - One is sent when the one before has ended, or has taken [`PATIENCE`]: a drive that makes one of
//!   several requests would do so again. After [`SLOW`] of those the others are answered with their
//!   errors: nobody waits without end for a drive that is dying.
//! - One that is kept is not counted as on its way. It needs no lock, no memory and no commit of anybody
//!   to be answered, so that a suspend can wait for it.
//! - Blocks that are known to fail are sent unmerged from the first.

use super::Remap;
use crate::dm::{
    bio::HeldBio,
    held::{HeldList, HeldPile},
    system::MemScope,
};
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
const PATIENCE: i64 = 20;

/// How many may take longer than that.
const SLOW: u32 = 16;

/// Reads that failed and have not been answered.
pub(super) struct Unread {
    kept: HeldPile<Remap>,
    /// Reads that have failed since somebody last looked, those too that were not kept.
    failed: Atomic<u32>,
    /// Reads sent alone that have ended; wraps around.
    ended: Atomic<u32>,
}

impl Unread {
    pub(super) const fn new() -> Self {
        Self { kept: HeldPile::new(), failed: Atomic::new(0), ended: Atomic::new(0) }
    }

    /// A read that was sent alone has ended, well or not. In any context.
    pub(super) fn ended_alone(&self, well: bool) {
        self.failed.fetch_add(u32::from(!well), Relaxed);
        self.ended.fetch_add(1u32, Relaxed);
    }
}

impl Remap {
    /// A read has failed, perhaps for what was read together with it. In any context.
    pub(super) fn read_again(this: ArcBorrow<'_, Self>, bio: HeldBio<Self>) {
        // As in `rescue_later`.
        let _reading = rcu::read_lock();
        this.unread.failed.fetch_add(1u32, Relaxed);
        this.unread.kept.push(bio);
        // When it is queued already, it will run.
        let _ = this.queue.enqueue::<Arc<Self>, 3>(this.into());
    }

    fn read_each_alone(this: &Arc<Self>) {
        let _scope = MemScope::without_io();
        fsleep(Delta::from_millis(GATHER));
        let mut kept: HeldList<Self> = this.unread.kept.take();
        let together = this.unread.failed.xchg(0, Relaxed) > 1;
        let mut slow = 0;
        while let Some(bio) = kept.pop() {
            if !together || slow >= SLOW {
                Self::not_read(this.as_arc_borrow(), bio);
                continue;
            }
            let before = this.unread.ended.load(Relaxed);
            this.send_alone(bio);
            let mut waited = 0;
            while this.unread.ended.load(Relaxed) == before && waited < PATIENCE {
                fsleep(Delta::from_millis(1));
                waited += 1;
            }
            slow += u32::from(waited == PATIENCE);
        }
    }
}

impl WorkItem<3> for Remap {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        Self::read_each_alone(&this);
    }
}
