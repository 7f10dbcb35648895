// SPDX-License-Identifier: GPL-2.0

//! How healthy the devices are, from what the header has counted, what has come since, and what the
//! table says. The reckoning itself is in [`pure::health`](crate::pure::health).

use super::{engine::State, Remap};
use crate::{
    dm::system,
    pure::{
        format::header::Header,
        health::{bound, is_bad, Facts, Health, Member},
        scan::Run,
        settings,
        units::{Sectors, SpareId, MAX_SPARES},
    },
};
use kernel::sync::atomic::Relaxed;

/// From when on a spare's score is good, for the header.
const GOOD: u8 = 70;

/// The scores of now.
pub(crate) struct Scores {
    /// Of main.
    pub(crate) main: u8,
    /// Of the spares, by their numbers; none where there is none.
    pub(crate) spares: [Option<u8>; MAX_SPARES],
    /// Days until the spares are full at the present pace; `None` if they do not fill.
    pub(crate) full_in: Option<u64>,
}

impl Scores {
    /// Each device and its score.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Member, u8)> + '_ {
        let spares = (0..).map(SpareId).zip(&self.spares);
        let spares = spares.filter_map(|(id, score)| Some((Member::Spare(id), (*score)?)));
        Iterator::chain(core::iter::once((Member::Main, self.main)), spares)
    }
}

impl Remap {
    /// The scores of now.
    pub(crate) fn scores(&self, state: &State) -> Scores {
        let now = system::real_seconds();
        let mut health = state.info.health.at(now);
        self.counters.errors().add_to_health(&mut health);
        let totals = state.table.totals();
        let block = self.block_sectors().0;
        let blocks = |sectors: Sectors| sectors.0.checked_div(block).unwrap_or(0);
        let main = Facts {
            unreadable: blocks(totals.pending),
            remapped: blocks(totals.remapped),
            share: (totals.pending.0.saturating_add(totals.remapped.0), self.main.len.0),
            ..Facts::default()
        };
        let members = state.info.active.with(state.info.away);
        let spares = core::array::from_fn(|i| {
            let id = SpareId(i as u8);
            if !members.has(id) {
                return None;
            }
            let places = state.places.get(i);
            let of =
                |what: fn(&crate::pure::places::Places) -> Sectors| places.map_or(Sectors(0), what);
            let retired = of(|places| places.retired());
            let facts = Facts {
                away: state.info.away.has(id),
                unreadable: blocks(totals.suspect_on.get(i).copied().unwrap_or_default()),
                retired: blocks(retired),
                used: (of(|places| places.used()).0 + retired.0, of(|places| places.room()).0),
                ..Facts::default()
            };
            Some(health.score(Member::Spare(id), &facts))
        });
        let free = state.room().0.saturating_sub(state.used().0);
        Scores {
            main: health.score(Member::Main, &main),
            spares,
            full_in: health.full_in(free, now.saturating_sub(state.info.created)),
        }
    }

    /// Whether this one counts as in a bad way, and people have been told.
    pub(super) fn is_bad_device(&self, member: Member) -> bool {
        self.alerts.load(Relaxed) >> member.index() & 1 != 0
    }

    /// Whether a device counts as in a bad way, and people have been told.
    pub(crate) fn has_bad_device(&self) -> bool {
        self.alerts.load(Relaxed) != 0
    }

    /// Tells people of devices that have got into a bad way, once each.
    pub(super) fn tell_of_health(&self) {
        let state = self.state.lock();
        let bound = bound(state.info.settings.get(&settings::ALERT_THRESHOLD));
        let scores = self.scores(&state);
        drop(state);
        let was = self.alerts.load(Relaxed);
        let mut bad = 0;
        for (member, score) in scores.each() {
            let bit = 1 << member.index();
            if !is_bad(was & bit != 0, score, bound) {
                continue;
            }
            bad |= bit;
            if was & bit == 0 {
                match member {
                    Member::Main => log_warn!(
                        "{self}: main ({}) is in a bad way: health {score} of 100; think of replacing it",
                        self.main.device
                    ),
                    Member::Spare(id) => log_warn!(
                        "{self}: {} is in a bad way: health {score} of 100; think of replacing it",
                        self.device_of(id)
                    ),
                }
            }
        }
        self.alerts.store(bad, Relaxed);
        if bad & !was != 0 {
            self.tell("health");
        }
    }

    /// Puts what the scan and the health have to keep into the header of a commit.
    pub(super) fn add_monitor(&self, header: &mut Header) {
        let run = self.scan_run();
        run.put_into(&mut header.raw_mut().scan);
        let mut health = Health::from_raw(&header.raw().health);
        health.set_alerts(self.alerts.load(Relaxed));
        health.put_into(&mut header.raw_mut().health);
    }

    /// Whether there is something that a header does not say yet.
    pub(super) fn has_monitored(&self, header: &Header) -> bool {
        let alerts = Health::from_raw(&header.raw().health).alerts();
        Run::from_raw(&header.raw().scan) != self.scan_run() || alerts != self.alerts.load(Relaxed)
    }

    /// Takes over what a header says of it.
    pub(super) fn take_monitor(&self, header: &Header) {
        self.set_scan_run(Run::from_raw(&header.raw().scan));
        let alerts = Health::from_raw(&header.raw().health).alerts();
        self.alerts.store(alerts, Relaxed);
    }

    /// Notes in the header how the spares are, after a scan that has read them.
    pub(super) fn note_spares(&self, header: &mut Header, scores: &Scores) {
        let now = system::real_seconds();
        let alerts = self.alerts.load(Relaxed);
        for (member, score) in scores.each() {
            let Member::Spare(id) = member else { continue };
            let Some(spare) = header.raw_mut().spares.get_mut(usize::from(id.0)) else { continue };
            if self.usable(id).is_none() {
                continue;
            }
            spare.last_checked.set(now);
            spare.health = match alerts >> member.index() & 1 {
                0 if score >= GOOD => 1,
                0 => 2,
                _ => 3,
            };
        }
    }
}
