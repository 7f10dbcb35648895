// SPDX-License-Identifier: GPL-2.0

//! Which spare the next place is taken from.

use super::units::SpareId;

/// How spares are chosen; the numbers are those of the setting `spare_policy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// One after the other, the primary first, then in their order.
    Fill,
    /// In turn.
    RoundRobin,
    /// The one with most free room.
    MostFree,
    /// The one in the best health.
    Healthiest,
}

impl Policy {
    /// All of them, by their numbers.
    pub const ALL: [Self; 4] = [Self::Fill, Self::RoundRobin, Self::MostFree, Self::Healthiest];

    /// The one of that number; the first where there is none.
    pub fn of(number: u64) -> Self {
        let of = |&n: &Self| n as u64 == number;
        Self::ALL.into_iter().find(of).unwrap_or(Self::Fill)
    }

    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::RoundRobin => "round_robin",
            Self::MostFree => "most_free",
            Self::Healthiest => "healthiest",
        }
    }
}

/// A spare that may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its number.
    pub id: SpareId,
    /// Its place in the order of spares.
    pub order: u8,
    /// Sectors that are free.
    pub free: u64,
    /// Sectors that it has room for.
    pub room: u64,
    /// From 0 to 100.
    pub health: u8,
}

/// What the choice goes by.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// How.
    pub policy: Policy,
    /// The one that comes first in the order, whatever its own place in it.
    pub primary: SpareId,
    /// Percent of its room in use from which on a spare is avoided; 0 for never.
    pub threshold: u64,
    /// Health below which a spare is avoided.
    pub poor: u8,
    /// The order of the one that was chosen last.
    pub last: u8,
}

impl Choice {
    /// The best of `candidates`. One that is to be avoided is chosen when there is no other.
    pub fn best(&self, candidates: impl Iterator<Item = Candidate>) -> Option<Candidate> {
        candidates.min_by_key(|candidate| self.key(candidate))
    }

    fn key(&self, candidate: &Candidate) -> (bool, u64, u8) {
        let used = candidate.room.saturating_sub(candidate.free);
        let full = self.threshold > 0
            && used.saturating_mul(100) >= candidate.room.saturating_mul(self.threshold);
        let order = self.turn_of(candidate);
        let rank = match self.policy {
            Policy::Fill => u64::from(order),
            Policy::RoundRobin => u64::from(order.wrapping_sub(self.last).wrapping_sub(1)),
            Policy::MostFree => u64::MAX - candidate.free,
            Policy::Healthiest => u64::from(u8::MAX - candidate.health),
        };
        (full || candidate.health < self.poor, rank, order)
    }

    /// Its place in the order with the primary first: what is to be handed on as [`last`](Self::last).
    pub fn turn_of(&self, candidate: &Candidate) -> u8 {
        match candidate.id == self.primary {
            true => 0,
            false => candidate.order.saturating_add(1),
        }
    }
}
