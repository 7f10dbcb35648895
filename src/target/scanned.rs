// SPDX-License-Identifier: GPL-2.0

//! The reads of a scan, and what is done about what fails or was slow.
//!
//! ```text
//! piece -> read -> well, and as fast as its neighbours: on
//!            |--> slow: put by, read again later by units, slow again -> by blocks -> early move
//!            '--> failed: read again by units --> none fails: put by, as what was slow
//!                                             '-> those that fail: look; nothing found -> early move
//! ```
//!
//! A look is what a read that failed leads to in any case: it holds the range, tries again, narrows
//! down, and marks. When it can read everything, that has taken effort, and the unit is moved before it
//! is lost.

use super::{
    job::Kind,
    looks::Noted,
    moves::{Buffers, Change, Progress, Source},
    scan::Rules,
    Remap,
};
use crate::{
    dm::{
        bio::Status,
        device::BlockDevice,
        io::{self, Io, Span, What},
    },
    pure::{
        entry::{Entry, Mapping},
        health::Member,
        mem::{Block, BLOCK_SIZE},
        places::Place,
        scan::{
            living_at, next_on_main, next_on_spare, Neighbours, Next, Pace, Piece, Run, Suspects,
            AT_ONCE, PIECE,
        },
        units::{Extent, MainSector, Sectors, SpareId, SpareSector, MAX_SPARES, SECTOR_SIZE},
    },
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Instant, Monotonic},
};

/// How long it waits where nothing could be read, for want of memory, in nanoseconds.
const PAUSE: u64 = 1_000_000_000;

/// What a step of a scan has come to.
pub(super) enum Step {
    /// So many nanoseconds are to be waited first.
    Wait(u64),
    /// It has come so far.
    Reached(Run),
    /// Everything is read.
    Over,
}

/// What a scan has in its hands while it runs.
pub(super) struct Reader {
    /// The order that it runs by.
    pub(super) order: u64,
    began: Instant<Monotonic>,
    buffers: [KVec<Block>; AT_ONCE],
    pace: Pace,
    neighbours: Neighbours,
    suspects: Suspects,
    /// The device that others are looked for on, what its disk had done when that was last asked, and
    /// what the scan has read there since.
    seen: Option<(Member, u64)>,
    own: u64,
}

impl Reader {
    /// With memory for what is read at once.
    pub(super) fn new(order: u64) -> Result<Self> {
        let make = || {
            let blocks = PIECE.0 as usize * SECTOR_SIZE / BLOCK_SIZE;
            let mut buffer = KVec::with_capacity(blocks, GFP_KERNEL)?;
            for _ in 0..blocks {
                buffer.push(Block::zeroed()?, GFP_KERNEL)?;
            }
            Ok::<_, Error>(buffer)
        };
        Ok(Self {
            order,
            began: Instant::now(),
            buffers: [make()?, make()?],
            pace: Pace::default(),
            neighbours: Neighbours::default(),
            suspects: Suspects::default(),
            seen: None,
            own: 0,
        })
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Whether somebody else has used the disk since this was last asked, or uses it now.
    fn sees_others(&mut self, on: Member, device: &BlockDevice) -> bool {
        let done = device.disk_sectors_done();
        let own = core::mem::take(&mut self.own);
        let before = self.seen.replace((on, done)).filter(|(of, _)| *of == on);
        let others = before.is_some_and(|(_, before)| done.wrapping_sub(before) > own);
        others || device.disk_in_flight() > 0
    }
}

/// How a single read went.
struct Look {
    status: Status,
    took: u64,
    /// Nobody else was there.
    alone: bool,
}

impl Remap {
    /// Where a piece is read, and from which sector on.
    fn place_of(&self, on: Member, start: u64) -> Option<(&BlockDevice, u64)> {
        match on {
            Member::Main => Some((self.main.device.block(), self.main.start + start)),
            Member::Spare(id) => {
                let spare = self.usable(id)?;
                Some((spare.block(), spare.sector(SpareSector(start))))
            }
        }
    }

    /// The next piece of a run, of up to `most`.
    fn next_piece(&self, on: Member, from: u64, most: Sectors) -> Option<Piece> {
        let state = self.state.lock();
        match on {
            Member::Main => {
                let table = state.table.clone();
                drop(state);
                next_on_main(&table, from, self.main.len, most)
            }
            Member::Spare(id) => {
                let places = state.places.get(usize::from(id.0))?;
                self.usable(id).and_then(|_| next_on_spare(places, id, from, most))
            }
        }
    }

    /// The next step of a run: the pieces that are next, once it is their time.
    pub(super) fn scan_step(
        self: &Arc<Self>,
        reader: &mut Reader,
        run: &Run,
        order: u64,
        rules: &Rules,
    ) -> Step {
        let member = Member::of_index(run.device);
        let Some(on) = member.filter(|on| on.index() <= MAX_SPARES) else {
            return Step::Over;
        };
        let mut next = *run;
        let others = match self.place_of(on, 0) {
            Some((device, _)) => reader.sees_others(on, device),
            None => false,
        };
        let (count, len) = match reader.pace.next(reader.now(), others, rules.rate) {
            Next::Read(count, len) => (count, len),
            Next::Wait(ns) => return Step::Wait(ns),
        };
        if let Some(piece) = reader.suspects.take(false) {
            return self.read_suspect(reader, piece, next, order, rules);
        }
        let mut pieces = [None; AT_ONCE];
        let mut at = run.position;
        for slot in pieces.iter_mut().take(count) {
            *slot = self.next_piece(on, at, len);
            at = slot.map_or(at, |piece| piece.end());
        }
        if pieces[0].is_none() {
            if let Some(piece) = reader.suspects.take(true) {
                return self.read_suspect(reader, piece, next, order, rules);
            }
            next.device += 1;
            next.position = 0;
            reader.neighbours = Neighbours::default();
            return Step::Reached(next);
        }
        let looks = self.read_pieces(reader, &pieces, rules);
        if looks[0].is_none() {
            return Step::Wait(PAUSE);
        }
        for (piece, look) in pieces.iter().flatten().zip(looks.iter().flatten()) {
            if look.status.is_ok() {
                if piece.pending {
                    let extent = Extent { start: MainSector(piece.start), len: piece.len };
                    Self::look_later(self.as_arc_borrow(), extent, Noted::Worked);
                } else if piece.len == len {
                    if look.alone && reader.neighbours.may_be_outdone(look.took, rules.threshold) {
                        reader.suspects.add(*piece);
                    }
                    reader.neighbours.add(look.took);
                }
            } else if !look.status.counts() {
                return self.leave(on, look.status, next, order);
            } else if !piece.pending
                && self.read_by_units(reader, *piece, &mut next, order, rules).is_none()
            {
                return Step::Reached(next);
            }
            next.position = piece.end();
        }
        Step::Reached(next)
    }

    /// A device does not answer: that says nothing of what is on it.
    fn leave(self: &Arc<Self>, on: Member, status: Status, mut next: Run, order: u64) -> Step {
        let e = status.to_result().err().unwrap_or(EIO);
        match on {
            Member::Main => {
                self.say_trouble(format_args!(
                    "main ({}) is not there: {e:?}; the scan is paused",
                    self.main.device
                ));
                self.pause_scan(order);
            }
            Member::Spare(id) => {
                let spare = self.device_of(id);
                self.say_trouble(format_args!("{spare} is not there: {e:?}; the scan goes on"));
                next.device += 1;
                next.position = 0;
            }
        }
        Step::Reached(next)
    }

    /// Reads pieces of one device at once.
    fn read_pieces(
        &self,
        reader: &mut Reader,
        pieces: &[Option<Piece>],
        rules: &Rules,
    ) -> [Option<Look>; AT_ONCE] {
        let began = reader.now();
        let alone = reader.pace.is_alone();
        let mut read = 0;
        let mut looks = [None, None];
        let mut ios = KVec::new();
        if ios.reserve(AT_ONCE, GFP_KERNEL).is_err() {
            return looks;
        }
        for (piece, buffer) in pieces.iter().flatten().zip(&mut reader.buffers) {
            // A spare that has gone away meanwhile is left with the next step.
            let Some((device, sector)) = self.place_of(piece.on, piece.start) else { break };
            let io = Io::new(device, sector, What::Read(buffer, Span::first(piece.len))).idle();
            if ios.push_within_capacity(io).is_ok() {
                read += piece.len.0;
            }
        }
        io::run(&self.pool, &mut ios);
        for (look, io) in looks.iter_mut().zip(&ios) {
            *look = Some(Look { status: io.status(), took: io.took(), alone });
        }
        drop(ios);
        reader.own += read;
        let read = Sectors(read);
        reader.suspects.has_read(read);
        reader.pace.has_read(began, reader.now(), read, rules.rate);
        looks
    }

    /// Reads one piece, and sees whether anybody else was there; `None` without memory, or without the
    /// device.
    fn read_one(&self, reader: &mut Reader, piece: Piece, rules: &Rules) -> Option<Look> {
        let (device, _) = self.place_of(piece.on, piece.start)?;
        reader.sees_others(piece.on, device);
        let [look, _] = self.read_pieces(reader, &[Some(piece)], rules);
        let alone = !reader.sees_others(piece.on, device);
        look.map(|look| Look { alone, ..look })
    }

    /// Reads a piece that has failed again, in units, and sees to those that fail again. `None`: it was
    /// called off, or the device does not answer; `next` is where to go on.
    fn read_by_units(
        self: &Arc<Self>,
        reader: &mut Reader,
        piece: Piece,
        next: &mut Run,
        order: u64,
        rules: &Rules,
    ) -> Option<()> {
        self.counters.error(Some(piece.on), true);
        let mut failed = false;
        for unit in piece.units() {
            next.position = unit.start;
            if self.scan_is_called_off(order) {
                return None;
            }
            let look = self.read_one(reader, unit, rules)?;
            if !look.status.is_ok() && look.status.counts() {
                self.counters.error(Some(piece.on), true);
                failed = true;
                self.see_to(unit, next)?;
            } else if look.alone && reader.neighbours.may_be_outdone(look.took, rules.threshold) {
                reader.suspects.add(unit);
            }
        }
        if !failed {
            reader.suspects.add(piece);
        }
        Some(())
    }

    /// Has a unit looked at that has failed twice; if all of it can be read after all, it is moved.
    /// `None`: it was called off.
    fn see_to(self: &Arc<Self>, unit: Piece, next: &mut Run) -> Option<()> {
        let (mut unreadable, mut all_looked_at) = (0, true);
        // Whether it was not called off.
        let mut look = |kind, range| {
            let Some(job) = self.look_now(kind, range) else {
                all_looked_at = false;
                return true;
            };
            unreadable += job.unreadable.load(kernel::sync::atomic::Relaxed);
            all_looked_at &= job.outcome() == Some(Ok(()));
            job.outcome() != Some(Err(EINTR))
        };
        let mut whole = true;
        if let Member::Spare(id) = unit.on {
            let (start, len) = (SpareSector(unit.start), unit.len);
            whole &= look(Kind::Place(id), Entry::retired(id, start, len).extent);
        }
        let (extents, bad) = self.extents_of(unit).ok()?;
        for &extent in &extents {
            whole &= look(Kind::Look, extent);
        }
        if !whole {
            return None;
        }
        next.unreadable += unreadable;
        // What was known to fail there says nothing of the rest; nor does what nobody has looked at.
        if unreadable == 0 && !bad && all_looked_at {
            self.counters.slow(unit.on, 1);
            self.move_away(unit, next);
        }
        Some(())
    }

    /// The extents of main that live in a piece, and whether one of them is known to have failed there.
    fn extents_of(&self, piece: Piece) -> Result<(KVec<Extent>, bool)> {
        let (mut extents, mut any_bad) = (KVec::new(), false);
        match piece.on {
            Member::Main => {
                let extent = Extent { start: MainSector(piece.start), len: piece.len };
                extents.push(extent, GFP_KERNEL)?;
            }
            Member::Spare(id) => {
                let table = self.state.lock().table.clone();
                for (extent, bad) in living_at(&table, id, piece.start, piece.len) {
                    extents.push(extent, GFP_KERNEL)?;
                    any_bad |= bad;
                }
            }
        }
        Ok((extents, any_bad))
    }

    /// Moves what lives in a piece to other places.
    fn move_away(self: &Arc<Self>, piece: Piece, next: &mut Run) {
        let Ok((extents, _)) = self.extents_of(piece) else { return };
        next.slow += piece.len.0;
        for &extent in &extents {
            // What fails has been said, and is found again by the next run.
            let _ = self.look_now(Kind::Early(piece.on), extent);
        }
    }

    /// Reads a piece again that was slow, or failed once, and moves what is so again.
    fn read_suspect(
        self: &Arc<Self>,
        reader: &mut Reader,
        piece: Piece,
        mut next: Run,
        order: u64,
        rules: &Rules,
    ) -> Step {
        let position = next.position;
        for unit in piece.units() {
            if self.scan_is_called_off(order) {
                break;
            }
            let Some(look) = self.read_one(reader, unit, rules) else { break };
            if !look.status.is_ok() {
                if look.status.counts() {
                    self.counters.error(Some(piece.on), true);
                    if self.see_to(unit, &mut next).is_none() {
                        break;
                    }
                }
            } else if look.alone && reader.neighbours.are_outdone(look.took, rules.threshold) {
                self.move_slow_blocks(reader, unit, &mut next, order, rules);
            }
        }
        next.position = position;
        Step::Reached(next)
    }

    /// A unit was slow twice: moves those of its blocks that are slow by themselves, or all of it if
    /// none is any more.
    fn move_slow_blocks(
        self: &Arc<Self>,
        reader: &mut Reader,
        unit: Piece,
        next: &mut Run,
        order: u64,
        rules: &Rules,
    ) {
        /// 4 KiB, the largest logical block.
        const BLOCK: Sectors = Sectors(8);
        let (mut found, mut at) = (false, unit.start);
        while at < unit.end() && !self.scan_is_called_off(order) {
            let end = (at & !(BLOCK.0 - 1)).saturating_add(BLOCK.0).min(unit.end());
            let block = Piece { start: at, len: Sectors(end - at), ..unit };
            let Some(look) = self.read_one(reader, block, rules) else { return };
            let slow = look.alone && reader.neighbours.are_outdone(look.took, rules.threshold);
            if look.status.is_ok() && slow {
                found = true;
                self.counters.slow(unit.on, 1);
                self.move_away(block, next);
            }
            at = end;
        }
        if !found && at >= unit.end() {
            self.counters.slow(unit.on, 1);
            self.move_away(unit, next);
        }
    }

    /// Reads places on a spare that have failed; those that fail, and that nothing lives at, are
    /// retired. The part is what entries for that would cover.
    pub(super) fn look_at_place(
        &self,
        part: Extent,
        id: SpareId,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let first = Entry::retired(id, SpareSector(0), part.len).extent.start;
        let place = |now: Extent| SpareSector((now.start - first).0);
        let failed = self.fail_on_spare(part, id, place(part), buffers, progress)?;
        let table = self.state.lock().table.clone();
        let spare = self.usable(id).ok_or(EIO)?;
        for one in failed {
            let sector = spare.sector(place(one));
            if self.has_no_room(&table, progress, &spare.device, sector) {
                break;
            }
            progress.changes.reserve(1, GFP_KERNEL)?;
            // Nobody is to take it meanwhile; who has it finds out by reading.
            let (start, len) = (place(one), one.len);
            let mut state = self.state.lock();
            if state.jobs.iter().any(|job| job.kind == Kind::Restore) {
                return Err(EBUSY);
            }
            let taken = state.places.get_mut(usize::from(id.0));
            if taken.is_none_or(|places| places.mark_used(Place { start, len }).is_err()) {
                continue;
            }
            drop(state);
            progress.unreadable += len.0;
            progress.change(Change::Retire(id, start, len, false))?;
        }
        Ok(())
    }

    /// Moves to other places what of `part` lives on the device `from`. The part is held for writes,
    /// and drained.
    pub(super) fn move_early(
        &self,
        part: Extent,
        from: Member,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let table = self.state.lock().table.clone();
        let mut at = part.start;
        for entry in table.iter_in(part).filter_map(|entry| entry.clip(&part)) {
            self.move_from_main(at, entry.extent.start, from, buffers, progress)?;
            at = entry.extent.end();
            let Mapping::Remapped { spare: id, to } = entry.mapping else { continue };
            if from != Member::Spare(id) || progress.leaves(entry.extent.start) {
                continue;
            }
            let spare = self.usable(id).ok_or(EIO)?;
            let (run, data) = (entry.extent, &mut buffers.data);
            if !self.try_read(spare.block(), spare.sector(to), data, run.len).is_ok() {
                self.notes.add(run, Noted::Failed);
                continue;
            }
            self.write_run(run, Source::Blocks(&buffers.data), progress)?;
            if progress.reached.is_some() {
                // There was no place for all of it.
                return Ok(());
            }
            progress.change(Change::Retire(id, to, run.len, true))?;
        }
        self.move_from_main(at, part.end(), from, buffers, progress)
    }

    /// Moves what lives on main from `at` to before `to`, if that is what is to be moved.
    fn move_from_main(
        &self,
        at: MainSector,
        to: MainSector,
        from: Member,
        buffers: &mut Buffers,
        progress: &mut Progress<'_>,
    ) -> Result {
        let run = to.since(at).and_then(|len| Extent::new(at, len));
        let Some(run) = run.filter(|_| from == Member::Main && !progress.leaves(at)) else {
            return Ok(());
        };
        if self.try_read_main(run, &mut buffers.data).is_ok() {
            return self.write_run(run, Source::Blocks(&buffers.data), progress);
        }
        self.notes.add(run, Noted::Failed);
        Ok(())
    }
}
