// SPDX-License-Identifier: GPL-2.0

//! Blocks that cannot be read are found out.
//!
//! A read that failed is answered. Its range is noted, and a job ([`Kind::Look`]) reads it again, narrows it down, and
//! marks what cannot be read as pending if main can be read elsewhere. A pending block that was read
//! after all is noted in the same way, and is moved if it can be read again.

use super::{
    job::{Job, Kind},
    moves::{Buffers, Change, Progress, Source},
    rescue::{Rescues, PROBES},
    route::{Word, MAIN_LIMIT},
    spare::Spare,
    Remap,
};
use crate::{
    dm::{bio::Status, device::Device},
    pure::{
        entry::Mapping,
        format::layout::{RESERVED_ENTRIES, SLOTS},
        mem::KVec,
        table::Table,
        units::{Extent, MainSector, SpareId, SpareSector},
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        rcu, Arc, ArcBorrow,
    },
    time::msecs_to_jiffies,
};

/// Looks at a time.
pub(super) const LOOKS: usize = 8;

/// Ranges that are noted to be looked at; more are forgotten until they are read again. More than there are reads at a time in all likelihood.
const NOTES: usize = 256;

/// Ranges of main to be looked at. Written to in any context.
pub(super) struct Notes([Atomic<u64>; NOTES]);

/// Why a range is noted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// Reading it failed.
    Failed,
    /// It had failed, and could be read.
    Worked,
}

impl Notes {
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| Atomic::new(0)))
    }

    /// The lowest bit of a range is free: it says [`Noted::Worked`].
    const WORKED: u64 = 1;

    /// Notes a range, unless it is there or there is no room. A range is never 0.
    pub(super) fn add(&self, extent: Extent, why: Noted) {
        if extent.end().0 > MAIN_LIMIT.0 {
            // A place on a spare. Whoever reads it again finds it again.
            return;
        }
        let worked = if why == Noted::Worked { Self::WORKED } else { 0 };
        let range = Word::range(extent.start, extent.len) | worked;
        for slot in &self.0 {
            if !matches!(slot.load(Relaxed), there if there == 0 || there == range) {
                continue;
            }
            match slot.cmpxchg(0, range, Full) {
                Ok(_) => return,
                Err(there) if there == range => return,
                Err(_) => {}
            }
        }
    }

    fn take_from(slot: &Atomic<u64>) -> u64 {
        match slot.load(Relaxed) {
            0 => 0,
            _ => slot.xchg(0, Full),
        }
    }

    fn take(&self) -> Option<(Extent, Noted)> {
        let range = self.0.iter().map(Self::take_from).find(|&range| range != 0)?;
        let why = if range & Self::WORKED != 0 { Noted::Worked } else { Noted::Failed };
        Some((Word::extent(range)?, why))
    }
}

impl Remap {
    /// A range of main is to be looked at. In any context.
    pub(super) fn look_later(this: ArcBorrow<'_, Self>, extent: Extent, why: Noted) {
        if this.may_remap.load(Relaxed) {
            let _reading = rcu::read_lock();
            this.notes.add(extent, why);
            Self::kick(&this.into());
        }
    }

    pub(super) fn begin_looks(self: &Arc<Self>) {
        loop {
            let mut rescues = self.rescues.lock();
            if rescues.looks.len() >= LOOKS {
                return;
            }
            let Some((range, why)) = self.notes.take() else { return };
            if why == Noted::Worked || self.passes(&mut rescues) {
                self.begin_look(&mut rescues, Kind::Look, range);
            }
        }
    }

    /// Begins a look, or what counts as one, if anything may be changed without being asked for.
    fn begin_look(
        self: &Arc<Self>,
        rescues: &mut Rescues,
        kind: Kind,
        range: Extent,
    ) -> Option<Arc<Job>> {
        if !self.may_remap.load(Relaxed) {
            return None;
        }
        let state = self.state.lock();
        if !state.live || state.stopping || state.info.in_doubt {
            return None;
        }
        drop(state);
        let job = Job::new(self.clone(), kind, range, None).ok()?;
        rescues.looks.push_within_capacity(job.clone()).ok()?;
        Job::queue(&job);
        Some(job)
    }

    /// Has a range looked at, or moved, that failed or was slow, and waits for the end of that. Gives
    /// the job; `None` if nothing is to be changed now.
    pub(super) fn look_now(self: &Arc<Self>, kind: Kind, range: Extent) -> Option<Arc<Job>> {
        let mut rescues = self.rescues.lock();
        let passes = match kind {
            Kind::Look | Kind::Place(_) => self.passes(&mut rescues),
            // Nothing has failed.
            _ => !rescues.is_halted(self.error_limit.load(Relaxed)),
        };
        if !passes {
            return None;
        }
        let job = self.begin_look(&mut rescues, kind, range)?;
        drop(rescues);
        let mut state = self.state.lock();
        while job.outcome().is_none() {
            // Looked at again now and then: looks do not end under this lock.
            let _ = self.job_ended.wait_interruptible_timeout(&mut state, msecs_to_jiffies(20));
        }
        drop(state);
        Some(job)
    }

    /// Reads what is to be looked at again; marks what fails, and moves what had failed and can be
    /// read. The part is held for writes, and drained.
    pub(super) fn look(
        &self,
        part: Extent,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let table = self.state.lock().table.clone();
        let mut at = part.start;
        for entry in table.iter_in(part).filter_map(|entry| entry.clip(&part)) {
            self.look_at_main(at, entry.extent.start, &table, buffers, progress)?;
            at = entry.extent.end();
            match entry.mapping {
                Mapping::Remapped { spare, to } => {
                    self.look_at_spare(entry.extent, spare, to, &table, buffers, progress)?;
                }
                Mapping::Pending => {
                    for one in self.blocks(entry.extent) {
                        if progress.leaves(one.start) {
                            return Ok(());
                        }
                        if self.read_main(one, &mut buffers.data).is_ok() {
                            self.write_run(one, Source::Blocks(&buffers.data), progress)?;
                        }
                    }
                }
                Mapping::Suspect { spare: id, to } => {
                    let spare = self.usable(id).ok_or(EIO)?;
                    for one in self.blocks(entry.extent) {
                        if progress.leaves(one.start) {
                            return Ok(());
                        }
                        let place = to + (one.start - entry.extent.start);
                        let sector = spare.sector(place);
                        if self.read(spare.block(), sector, &mut buffers.data, one.len).is_ok() {
                            self.write_run(one, Source::Blocks(&buffers.data), progress)?;
                            if progress.reached.is_some() {
                                // There was no place for it.
                                return Ok(());
                            }
                            progress.change(Change::Retire(id, place, one.len, true))?;
                        }
                    }
                }
                // Nothing there to be read; or it stands behind all of main.
                Mapping::Lost | Mapping::Retired { .. } => {}
            }
        }
        self.look_at_main(at, part.end(), &table, buffers, progress)
    }

    /// Reads what lives on main from `from` to before `to`; what fails becomes pending.
    fn look_at_main(
        &self,
        from: MainSector,
        to: MainSector,
        table: &Table,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let Some(run) = to.since(from).and_then(|len| Extent::new(from, len)) else {
            return Ok(());
        };
        let read = |now: Extent| self.try_read_main(now, &mut buffers.data);
        let failed = self.narrow(run, progress, read)?;
        if failed.is_empty() {
            return Ok(());
        }
        if !self.reads_elsewhere(run, buffers) {
            return Err(EIO);
        }
        for one in failed {
            let sector = self.main.start + one.start.0;
            if self.has_no_room(table, progress, &self.main.device, sector) {
                break;
            }
            progress.unreadable += one.len.0;
            progress.change(Change::Pending(one))?;
        }
        Ok(())
    }

    /// Reads what lives on a spare; what fails becomes suspect.
    fn look_at_spare(
        &self,
        run: Extent,
        id: SpareId,
        to: SpareSector,
        table: &Table,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let place = |now: Extent| to + (now.start - run.start);
        let spare = self.usable(id).ok_or(EIO)?;
        for one in self.fail_on_spare(run, id, to, buffers, progress)? {
            let sector = spare.sector(place(one));
            if self.has_no_room(table, progress, &spare.device, sector) {
                break;
            }
            progress.unreadable += one.len.0;
            progress.change(Change::Suspect(one, id, place(one), true))?;
        }
        Ok(())
    }

    /// Whether a spare can be read somewhere: the copies of the metadata are far from each other.
    pub(super) fn spare_answers(&self, spare: &Spare, buffers: &mut Buffers) -> bool {
        let block = self.block_sectors();
        SLOTS.iter().any(|&slot| {
            self.try_read(spare.block(), spare.sector(slot), &mut buffers.data, block).is_ok()
        })
    }

    /// The blocks of `run` that cannot be read on a spare, where it begins at `to`.
    ///
    /// # Errors
    ///
    /// The spare cannot be read elsewhere either, or has given a status that says nothing of the medium.
    pub(super) fn fail_on_spare(
        &self,
        run: Extent,
        id: SpareId,
        to: SpareSector,
        buffers: &mut Buffers,
        progress: &Progress<'_>,
    ) -> Result<KVec<Extent>> {
        let spare = self.usable(id).ok_or(EIO)?;
        let failed = self.narrow(run, progress, |now: Extent| {
            let sector = spare.sector(to + (now.start - run.start));
            self.try_read(spare.block(), sector, &mut buffers.data, now.len)
        })?;
        match failed.is_empty() || self.spare_answers(spare, buffers) {
            true => Ok(failed),
            false => {
                // The worker is woken when this is over.
                spare.suspect();
                Err(EIO)
            }
        }
    }

    /// The blocks of `run` that `read` fails for, also when it is asked for them alone: by halves.
    /// What is not done when patience ends is noted, to be looked at again; each time that is less.
    ///
    /// # Errors
    ///
    /// A status that says nothing of the medium.
    pub(super) fn narrow(
        &self,
        run: Extent,
        progress: &Progress<'_>,
        mut read: impl FnMut(Extent) -> Status,
    ) -> Result<KVec<Extent>> {
        let mut failed = KVec::new();
        let mut left = KVec::new();
        left.push(run, GFP_KERNEL)?;
        while let Some(now) = left.pop() {
            if progress.is_late() {
                if now != run {
                    self.notes.add(now, Noted::Failed);
                }
                continue;
            }
            let status = read(now);
            if status.is_ok() {
                continue;
            }
            if !status.counts() {
                return Err(status.to_result().err().unwrap_or(EIO));
            }
            match self.halves(now) {
                Some((first, second)) => {
                    left.push(second, GFP_KERNEL)?;
                    left.push(first, GFP_KERNEL)?;
                }
                None => failed.push(now, GFP_KERNEL)?,
            }
        }
        Ok(failed)
    }

    /// Whether no mark can be added to the table, for a sector of a device that cannot be read: the last
    /// entries are left to moves.
    pub(super) fn has_no_room(
        &self,
        table: &Table,
        progress: &Progress<'_>,
        device: &Device,
        sector: u64,
    ) -> bool {
        let full = table.entries_left() <= RESERVED_ENTRIES + progress.changes.len() as u64;
        if full {
            self.say_trouble(format_args!(
                "no room in the table to keep that sector {sector} of {device} cannot be read; a new set has room for more with max_remaps"
            ));
            self.table_is_full();
        }
        full
    }

    /// Whether main can be read at some place far from `extent`.
    pub(super) fn reads_elsewhere(&self, extent: Extent, buffers: &mut Buffers) -> bool {
        (1..=PROBES).any(|n| {
            self.far_block(extent, n)
                .is_some_and(|probe| self.try_read_main(probe, &mut buffers.data).is_ok())
        })
    }
}
