// SPDX-License-Identifier: GPL-2.0

//! Places on spares: which spare the next one is taken from, and what becomes of those that are not
//! needed, or not good, any more.

use super::{engine::State, moves::Change, Remap};
use crate::pure::{
    health::Member,
    places::{Place, PlaceError},
    policy::{Candidate, Choice, Policy},
    settings,
    store::SpareSet,
    units::{Extent, MainSector, Sectors, SpareId, SpareSector, MAX_SPARES},
};
use kernel::prelude::*;

impl Remap {
    /// A place on a spare for up to `len` sectors from `at` on, not on one to `avoid`: on the one that the
    /// settings say, or else on the next.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where there is none.
    pub(super) fn take_place(
        &self,
        at: MainSector,
        len: Sectors,
        avoid: SpareSet,
    ) -> Result<(SpareId, SpareSector, Sectors)> {
        let mut state = self.state.lock();
        let unit = state.info.settings.remap_block(&self.limits());
        let usable = self.usable_spares().without(avoid);
        let choice = state.choice();
        let health = self.health_of_spares(&state, choice.policy);
        // Those that are to leave come last.
        for mut left in [usable.without(state.leaving), usable.and(state.leaving)] {
            while let Some(next) = choice.best(state.candidates(left, &health)) {
                left = left.without(SpareSet::one(next.id));
                let places = state.places.get_mut(usize::from(next.id.0));
                let Some(places) = places else { continue };
                match places.allocate_up_to(unit, at, len) {
                    Ok(Some(place)) => {
                        state.turn = choice.turn_of(&next);
                        return Ok((next.id, place.start, place.len));
                    }
                    Ok(None) => {}
                    Err(PlaceError::NoMemory) => return Err(ENOMEM),
                    Err(_) => return Err(EINVAL),
                }
            }
        }
        let left = state.free_on(usable).0;
        let first = avoid.is_empty() && state.spares_full.begins(left);
        let room = state.room();
        drop(state);
        if first {
            let main = &self.main.device;
            log_warn!("{self}: the spares are full: no place for sector {at} of main ({main}); {left} of {room} sectors are free");
            self.tell("spare-full");
        }
        Err(ENOSPC)
    }

    /// The table has too little room for a change.
    pub(super) fn table_is_full(&self) {
        let mut state = self.state.lock();
        let left = state.table.entries_left();
        let first = state.table_full.begins(left);
        drop(state);
        if first {
            self.tell("table-full");
        }
    }

    /// Frees the places of changes that will not be committed.
    pub(super) fn give_back(&self, changes: &[Change]) {
        let mut state = self.state.lock();
        for change in changes {
            match *change {
                Change::To(Extent { len, .. }, spare, start)
                | Change::Retire(spare, start, len, false) => {
                    state.free_place(spare, Place { start, len });
                }
                _ => {}
            }
        }
    }
}

impl Remap {
    /// How healthy each spare is, as far as the policy asks; 0 for one that is in a bad way.
    fn health_of_spares(&self, state: &State, policy: Policy) -> [u8; MAX_SPARES] {
        let scores = (policy == Policy::Healthiest).then(|| self.scores(state));
        core::array::from_fn(|n| {
            let score = scores.as_ref().and_then(|scores| *scores.spares.get(n)?);
            match self.is_bad_device(Member::Spare(SpareId(n as u8))) {
                true => 0,
                false => score.unwrap_or(100).max(1),
            }
        })
    }
}

impl State {
    /// What the choice of a spare goes by.
    fn choice(&self) -> Choice {
        let settings = &self.info.settings;
        Choice {
            policy: Policy::of(settings.get(&settings::SPARE_POLICY)),
            primary: SpareId(settings.get(&settings::PRIMARY) as u8),
            threshold: settings.get(&settings::ALERT_THRESHOLD),
            poor: 1,
            last: self.turn,
        }
    }

    /// Free sectors on these spares.
    pub(super) fn free_on(&self, spares: SpareSet) -> Sectors {
        let all = (0..).map(SpareId).zip(self.places.iter());
        let free = all.filter(|(id, _)| spares.has(*id)).map(|(_, places)| places.free_sectors().0);
        Sectors(free.sum())
    }

    /// Those of `spares` that have room, to be chosen from.
    fn candidates<'a>(
        &'a self,
        spares: SpareSet,
        health: &'a [u8; MAX_SPARES],
    ) -> impl Iterator<Item = Candidate> + 'a {
        let all = (0..).map(SpareId).zip(self.places.iter()).zip(&self.info.about).zip(health);
        let all = all.filter(move |(((id, _), _), _)| spares.has(*id));
        all.map(|(((id, places), about), &health)| Candidate {
            id,
            order: about.order,
            free: places.free_sectors().0,
            room: places.room().0,
            health,
        })
    }

    pub(super) fn free_place(&mut self, spare: SpareId, place: Place) {
        if let Some(places) = self.places.get_mut(usize::from(spare.0)) {
            if let Err(e) = places.free(place) {
                log_err!("place {}+{} on spare {spare}: {e}", place.start, place.len);
            }
        }
    }

    pub(super) fn retire_place(&mut self, spare: SpareId, place: Place) {
        if let Some(places) = self.places.get_mut(usize::from(spare.0)) {
            // Without memory it is retired when the set is activated again; until then it is in use.
            if let Err(e) = places.retire(place) {
                log_err!("place {}+{} on spare {spare}: {e}", place.start, place.len);
            }
        }
    }
}
