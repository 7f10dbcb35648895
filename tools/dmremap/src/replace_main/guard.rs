//! While a set is suspended: nothing that is needed may live on it, and all I/O is held for a bounded time only.

use crate::live::{Live, Mapper};
use crate::Failure;
use rustix::mm::MlockAllFlags;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long all I/O may be held.
const HOLD: Duration = Duration::from_secs(60);

/// Does something with all of this program in memory: its own text may live on the set, and a page of it that has to be read would wait for
/// ever.
pub fn in_memory<T>(work: impl FnOnce() -> T) -> T {
    if let Err(e) = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        eprintln!("dmremap: this program cannot be kept in memory: {e}");
    }
    let done = work();
    // What comes now may be put out again.
    let _ = rustix::mm::munlockall();
    done
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Looking,
    Decided,
    Over,
}

/// Lets a suspended set go on by its old table when it has been looked at for too long, as a device that does not answer may have it.
pub struct Guard(Arc<(Mutex<Phase>, Condvar)>);

impl Guard {
    /// From now on. The set is about to be suspended, with another table loaded.
    ///
    /// # Errors
    ///
    /// Device mapper cannot be reached.
    pub fn over(live: &Live) -> Result<Self, Failure> {
        let shared = Arc::new((Mutex::new(Phase::Looking), Condvar::new()));
        let (mapper, live, own) = (Mapper::open()?, live.clone(), shared.clone());
        thread::spawn(move || {
            let (phase, changed) = &*own;
            let phase = phase.lock().unwrap_or_else(PoisonError::into_inner);
            let waits = |phase: &mut Phase| *phase == Phase::Looking;
            let waited = changed.wait_timeout_while(phase, HOLD, waits);
            let (mut phase, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *phase == Phase::Looking {
                *phase = Phase::Over;
                mapper.unload(&live);
                if let Err(failure) = mapper.resume(&live) {
                    eprintln!("dmremap: {failure}");
                }
            }
        });
        Ok(Self(shared))
    }

    /// What has been looked at is known: from now on the table that was loaded is for the caller to put to use, or to forget.
    ///
    /// # Errors
    ///
    /// That it took too long, and the set goes on as it was.
    pub fn decided(&self) -> Result<(), Failure> {
        let (phase, changed) = &*self.0;
        let mut phase = phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Over {
            return Err(format!(
                "all I/O was held for {} s, as a device did not answer; the set goes on as it was",
                HOLD.as_secs()
            ));
        }
        *phase = Phase::Decided;
        changed.notify_all();
        Ok(())
    }
}
