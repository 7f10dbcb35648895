// SPDX-License-Identifier: GPL-2.0

//! The way of a bio: `map`, `end_io`, and the bios that had to wait.
//!
//! A bio is counted ([`Domains`](super::domains::Domains)) before the published view is read and
//! until a device has answered it. A bio that touches a held range is not sent: it goes on the list
//! of held bios and is counted no more. It is put there under the list's lock after the view has
//! been looked at again under that lock, and a view with fewer holds is published under the same
//! lock, so none is left behind.

use super::{
    domains::Counted,
    view::{Mode, View},
    Remap,
};
use crate::{
    dm::{
        bio::{EndedBio, HeldBio, HeldList, MapBio, Mapped, Op, Status},
        device::BlockDevice,
        published::{Reading, Retired},
    },
    pure::{
        entry::{Entry, Mapping},
        store::SpareSet,
        units::{MainSector, Sectors, SpareId},
    },
};
use kernel::{
    prelude::*,
    sync::lock::{spinlock::SpinLockBackend, Guard},
};

/// What goes with a bio.
#[derive(Clone, Copy, Default)]
pub(crate) struct Route {
    counted: Option<Counted>,
    /// For a flush: what the cache's count was before.
    written: u64,
    errand: Errand,
}

/// Where a bio went, as far as its end has to know.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Errand {
    /// Nowhere, or to main and nobody needs to know.
    #[default]
    None,
    /// A read of a spare.
    SpareRead,
    /// Writes of some kind to these spares.
    SpareWrites(SpareSet),
    /// A flush of main.
    FlushMain,
    /// A flush of a spare.
    FlushSpare(u8),
}

impl Errand {
    /// Adds what another part of the same bio does.
    fn also(&mut self, other: Self) {
        match (&mut *self, other) {
            (_, Self::None) => {}
            (Self::SpareWrites(spares), Self::SpareWrites(more)) => spares.0 |= more.0,
            _ => *self = other,
        }
    }
}

/// A part of a bio and where it goes.
struct Leg<'a> {
    device: &'a BlockDevice,
    sector: u64,
    len: Sectors,
    errand: Errand,
    /// Nothing is sent: what is asked for is done by doing nothing.
    skip: bool,
}

type HeldGuard<'a> = Guard<'a, HeldList<Remap>, SpinLockBackend>;

impl Remap {
    /// `map` of the target.
    #[inline]
    pub(super) fn route(&self, mut bio: MapBio<'_, Self>) -> Mapped {
        let op = bio.op();
        if matches!(op, Op::Flush | Op::Other) {
            return self.route_special(op, bio);
        }
        let start = MainSector(bio.sector());
        let len = bio.sectors();
        let reading = Reading::begin();
        let counted = self.domains.enter(start, len);
        let view = self.published.read(&reading);
        if !view.holds.is_empty() {
            return self.route_around_holds(op, bio, counted, &reading);
        }
        bio.data().counted = Some(counted);
        match view.table.lookup(start, len) {
            None if !bio.is_fua() => {
                bio.send(self.main.device.block(), self.main.start + start.0)
            }
            entry => self.route_by_entry(op, bio, entry),
        }
    }

    /// Sends as much of the bio as goes to one place; `entry` is the first that touches it.
    fn route_by_entry(&self, op: Op, mut bio: MapBio<'_, Self>, entry: Option<Entry>) -> Mapped {
        let leg = self.leg(op, MainSector(bio.sector()), bio.sectors(), entry);
        bio.accept_partial(leg.len);
        if leg.skip || (bio.is_fua() && self.flush_failed(leg.errand)) {
            let status = if leg.skip { Status::OK } else { Status::IOERR };
            return bio.complete(status);
        }
        bio.data().errand = leg.errand;
        bio.send(leg.device, leg.sector)
    }

    /// Where the sectors from `start` on go, and how many of `len` go there.
    fn leg(&self, op: Op, start: MainSector, len: Sectors, entry: Option<Entry>) -> Leg<'_> {
        let main = |len| Leg {
            device: self.main.device.block(),
            sector: self.main.start + start.0,
            len,
            errand: Errand::None,
            skip: false,
        };
        let Some(entry) = entry else { return main(len) };
        if entry.extent.start > start {
            return main(len.min(entry.extent.start - start));
        }
        let len = len.min(entry.extent.end() - start);
        match entry.mapping.advance(start - entry.extent.start) {
            Mapping::Pending => main(len),
            Mapping::Remapped { spare, to } => match self.spare(spare) {
                Some(device) => Leg {
                    device: device.block(),
                    sector: device.sector(to),
                    len,
                    errand: if op == Op::Read {
                        Errand::SpareRead
                    } else {
                        Errand::SpareWrites(SpareSet(1 << (spare.0 & 7)))
                    },
                    skip: op == Op::Discard && device.block().max_discard_sectors() == 0,
                },
                // Activation does not let a table name a spare that is not there.
                None => main(len),
            },
        }
    }

    fn flush_failed(&self, errand: Errand) -> bool {
        match errand {
            Errand::SpareWrites(spares) => self.spares_of(spares).any(|s| s.cache.flush_failed()),
            _ => self.main.cache.flush_failed(),
        }
    }

    #[cold]
    fn route_around_holds(
        &self,
        op: Op,
        mut bio: MapBio<'_, Self>,
        counted: Counted,
        reading: &Reading,
    ) -> Mapped {
        let start = MainSector(bio.sector());
        let mut held: Option<HeldGuard<'_>> = None;
        let view = loop {
            let view = self.published.read(reading);
            let Some(hold) = view.first_hold(start, bio.sectors()) else { break view };
            if hold.extent.start > start {
                // What is in front of the held range goes its way; the rest comes as another bio.
                bio.accept_partial(hold.extent.start - start);
                break view;
            }
            bio.accept_partial(hold.extent.end() - start);
            if hold.mode.lets_pass(op) {
                break view;
            }
            let refused = match hold.mode {
                Mode::Failing => Some(Status::IOERR),
                _ if bio.is_nowait() => Some(Status::AGAIN),
                _ => None,
            };
            if let Some(status) = refused {
                self.domains.leave(counted);
                return bio.complete(status);
            }
            let Some(list) = &mut held else {
                held = Some(self.held.lock());
                continue;
            };
            // Looked at again under the lock, and still held.
            self.domains.leave(counted);
            return bio.keep(|bio| list.push(bio));
        };
        drop(held);
        bio.data().counted = Some(counted);
        let entry = view.table.lookup(start, bio.sectors());
        self.route_by_entry(op, bio, entry)
    }

    #[cold]
    fn route_special(&self, op: Op, mut bio: MapBio<'_, Self>) -> Mapped {
        if op != Op::Flush {
            return bio.complete(Status::NOTSUPP);
        }
        let number = bio.flush_number();
        if number == 0 {
            bio.data().errand = Errand::FlushMain;
            return bio.send(self.main.device.block(), 0);
        }
        let spare = SpareId((number - 1) as u8);
        match self.spare(spare).and_then(|s| Some((s, s.cache.needs_flush()?))) {
            Some((device, written)) => {
                bio.data().errand = Errand::FlushSpare(spare.0);
                bio.data().written = written;
                bio.send(device.block(), 0)
            }
            None => bio.complete(Status::OK),
        }
    }

    /// `end_io` of the target.
    #[inline]
    pub(super) fn ended(&self, mut bio: EndedBio<'_, Self>, status: Status) -> Status {
        let route = *bio.data();
        if route.errand != Errand::None {
            self.ended_errand(&route, status);
        }
        if let Some(counted) = route.counted {
            self.domains.leave(counted);
        }
        if !status.is_ok() {
            let on_main = matches!(route.errand, Errand::None | Errand::FlushMain);
            self.counters.error(!on_main, bio.is_read());
        }
        status
    }

    fn ended_errand(&self, route: &Route, status: Status) {
        match route.errand {
            Errand::None | Errand::SpareRead => {}
            Errand::SpareWrites(spares) => self.spares_of(spares).for_each(|s| s.cache.wrote()),
            Errand::FlushMain => self.main.cache.flushed(0, status.is_ok()),
            Errand::FlushSpare(n) => {
                if let Some(spare) = self.spare(SpareId(n)) {
                    spare.cache.flushed(route.written, status.is_ok());
                }
            }
        }
    }

    /// Publishes `view`, and gives the one of before and the bios that were held. Those are to be
    /// [sent on](Self::send_on) once no lock is held.
    #[must_use]
    pub(super) fn publish(&self, view: KBox<View>) -> (Retired<View>, HeldList<Self>) {
        let mut held = self.held.lock();
        let retired = self.published.replace(view);
        (retired, held.take())
    }

    /// Maps bios again that were held. Sleeps.
    pub(super) fn send_on(&self, mut waiting: HeldList<Self>) {
        while let Some(bio) = waiting.pop() {
            self.send_on_one(bio);
        }
    }

    /// Maps a bio that was held. Its parts may go to several places now.
    fn send_on_one(&self, mut bio: HeldBio<Self>) {
        let op = bio.op();
        let (mut start, mut len) = (MainSector(bio.sector()), bio.sectors());
        let reading = Reading::begin();
        let counted = self.domains.enter(start, len);
        let mut list = self.held.lock();
        let view = self.published.read(&reading);
        let failing = match view.first_hold(start, len) {
            Some(hold) if hold.mode == Mode::Failing => true,
            Some(hold) if !hold.mode.lets_pass(op) => {
                self.domains.leave(counted);
                list.push(bio);
                return;
            }
            _ => false,
        };
        // All parts are sent by this table, even if another is published meanwhile: who holds the
        // range next waits for the whole bio.
        let table = view.table.clone();
        drop(list);
        drop(reading);
        bio.data().counted = Some(counted);
        if failing {
            return bio.complete(Status::IOERR);
        }
        loop {
            let leg = self.leg(op, start, len, table.lookup(start, len));
            let last = leg.len >= len;
            if !leg.skip && bio.is_fua() && self.flush_failed(leg.errand) {
                return bio.complete(Status::IOERR);
            }
            bio.data().errand.also(leg.errand);
            match (leg.skip, last) {
                (true, true) => return bio.complete(Status::OK),
                (true, false) => bio.skip_front(leg.len),
                (false, true) => return bio.send(leg.device, leg.sector),
                (false, false) => {
                    if bio.send_front(leg.len, leg.device, leg.sector, &self.pool).is_err() {
                        return bio.complete(Status::IOERR);
                    }
                }
            }
            start = start + leg.len;
            len = len - leg.len;
        }
    }
}
