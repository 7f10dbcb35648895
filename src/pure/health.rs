// SPDX-License-Identifier: GPL-2.0

//! How healthy the devices of a set are, in whole numbers from 0 to 100, and when the spares will be
//! full. `docs/remap.rst` has the table of what takes how many points.
//!
//! What counts are numbers of things, and what makes a difference is their size, not their last
//! digit: so points go by the binary digits of a number ([`digits`]). Errors and slow blocks are
//! forgotten by and by, so that a device that has been quiet recovers; what is pending, remapped or
//! retired is there until it is gone.

use super::format::raw::{RawDeviceHealth, RawHealth};
use super::units::{SpareId, MAX_SPARES};

/// Seconds in which half of the recent errors are forgotten.
pub const RECENT: u64 = 86_400;

/// Seconds in which half of everything else is.
pub const LONGER: u64 = 16 * RECENT;

/// Forgetting goes by steps, so many in the time in which half is forgotten.
const STEPS: u64 = 24;

/// What is left after a step, in parts of 65536: the 24th root of a half.
const LEFT: u64 = 63_670;

/// What counts as one.
const ONE: u64 = 256;

/// People have been told that the device is in a bad way.
const ALERTED: u32 = 1;

/// By how many points a score has to get better before people are told again.
pub const HYSTERESIS: u8 = 10;

/// Binary digits of a number: 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7.
pub const fn digits(n: u64) -> u64 {
    (u64::BITS - n.leading_zeros()) as u64
}

/// What is left of `count` after `steps`.
fn left(count: u64, steps: u64) -> u64 {
    let halves = steps / STEPS;
    if halves >= 64 {
        return 0;
    }
    (0..steps % STEPS).fold(count >> halves, |count, _| {
        // Both factors of a part of a count fit 64 bits; a larger one is of no use to anybody.
        count.saturating_mul(LEFT) >> 16
    })
}

/// The steps that have gone by from `at` to `now` where half is forgotten in `life` seconds, and the
/// moment of the last. A clock that was set back forgets nothing.
fn steps(at: u64, now: u64, life: u64) -> (u64, u64) {
    let step = life / STEPS;
    match now.checked_sub(at) {
        Some(since) if at != 0 => {
            let steps = since.checked_div(step).unwrap_or(0);
            (steps, at + steps * step)
        }
        _ => (0, now),
    }
}

/// A device of a set: main, or a spare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Member {
    /// Main.
    Main,
    /// A spare.
    Spare(SpareId),
}

impl Member {
    /// Its place among the devices: 0 for main, 1 and more for a spare.
    pub const fn index(self) -> usize {
        match self {
            Self::Main => 0,
            Self::Spare(spare) => 1 + spare.0 as usize,
        }
    }

    /// The one with that place, if there can be such a spare.
    pub const fn of_index(index: u64) -> Option<Self> {
        match index {
            0 => Some(Self::Main),
            n if n <= MAX_SPARES as u64 => Some(Self::Spare(SpareId(n as u8 - 1))),
            _ => None,
        }
    }
}

/// What has been counted of a device, in [`ONE`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counts {
    recent: u64,
    longer: u64,
    slow: u64,
    alerted: bool,
}

/// What has been counted of the devices of a set.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Health {
    recent_at: u64,
    longer_at: u64,
    filled: u64,
    devices: [Counts; 1 + MAX_SPARES],
}

impl Health {
    /// What a header says.
    pub fn from_raw(raw: &RawHealth) -> Self {
        let counts = |raw: &RawDeviceHealth| Counts {
            recent: raw.recent.get().into(),
            longer: raw.longer.get().into(),
            slow: raw.slow.get().into(),
            alerted: raw.flags.get() & ALERTED != 0,
        };
        Self {
            recent_at: raw.recent_at.get(),
            longer_at: raw.longer_at.get(),
            filled: raw.filled.get(),
            devices: core::array::from_fn(|i| counts(&raw.devices[i])),
        }
    }

    /// Puts it into a header. A count that is too large for its field is the largest that fits.
    pub fn put_into(&self, raw: &mut RawHealth) {
        let fit = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        raw.recent_at.set(self.recent_at);
        raw.longer_at.set(self.longer_at);
        raw.filled.set(self.filled);
        for (raw, counts) in raw.devices.iter_mut().zip(&self.devices) {
            raw.recent.set(fit(counts.recent));
            raw.longer.set(fit(counts.longer));
            raw.slow.set(fit(counts.slow));
            raw.flags.set(raw.flags.get() & !ALERTED | u32::from(counts.alerted));
        }
    }

    /// What is left of it at `now`, in seconds since 1970.
    #[must_use]
    pub fn at(mut self, now: u64) -> Self {
        let (recent, recent_at) = steps(self.recent_at, now, RECENT);
        let (longer, longer_at) = steps(self.longer_at, now, LONGER);
        (self.recent_at, self.longer_at) = (recent_at, longer_at);
        self.filled = left(self.filled, longer);
        for counts in &mut self.devices {
            counts.recent = left(counts.recent, recent);
            counts.longer = left(counts.longer, longer);
            counts.slow = left(counts.slow, longer);
        }
        self
    }

    fn counts(&mut self, of: Member) -> Option<&mut Counts> {
        self.devices.get_mut(of.index())
    }

    /// So many errors of a device have come.
    pub fn errors(&mut self, of: Member, n: u64) {
        if let Some(counts) = self.counts(of) {
            counts.recent = counts.recent.saturating_add(n.saturating_mul(ONE));
            counts.longer = counts.longer.saturating_add(n.saturating_mul(ONE));
        }
    }

    /// So many of its blocks were read only with effort.
    pub fn slow(&mut self, of: Member, n: u64) {
        if let Some(counts) = self.counts(of) {
            counts.slow = counts.slow.saturating_add(n.saturating_mul(ONE));
        }
    }

    /// So many sectors of spares have come into use.
    pub fn filled(&mut self, n: u64) {
        self.filled = self.filled.saturating_add(n.saturating_mul(ONE));
    }

    /// The score of a device.
    pub fn score(&self, of: Member, facts: &Facts) -> u8 {
        if facts.away {
            return 0;
        }
        let Some(counts) = self.devices.get(of.index()) else { return 0 };
        let whole = |count: u64| count.saturating_add(ONE / 2) / ONE;
        let taken = points(2, whole(counts.longer), 20)
            + points(3, whole(counts.recent), 24)
            + points(2, whole(counts.slow), 15)
            + facts.taken();
        100 - taken.min(100) as u8
    }

    /// The devices of which people have been told that they are in a bad way, a bit for each by its
    /// [`Member::index`].
    pub fn alerts(&self) -> u32 {
        (0..)
            .zip(&self.devices)
            .fold(0, |bits, (i, counts)| bits | (u32::from(counts.alerted) << i))
    }

    /// Keeps of which devices people have been told.
    pub fn set_alerts(&mut self, alerts: u32) {
        for (i, counts) in (0..).zip(&mut self.devices) {
            counts.alerted = (alerts >> i) & 1 != 0;
        }
    }

    /// In how many days the last `free` sectors of the spares are in use if they go on to fill up as
    /// they did lately; `None` if they do not. `age` is for how many seconds the set has existed: what
    /// is remembered of a time is, all in all, what came in about 23 days (16 over the logarithm of
    /// two), or in all its life.
    pub fn full_in(&self, free: u64, age: u64) -> Option<u64> {
        let days = (age / RECENT).clamp(1, 23);
        let filled = self.filled / ONE;
        free.saturating_mul(days).checked_div(filled)
    }
}

/// Points that are taken for `n` things: so many for each of its digits, up to `most`.
fn points(each: u64, n: u64, most: u64) -> u64 {
    (each * digits(n)).min(most)
}

/// What the table and the places say of a device, in sectors and in logical blocks.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The set goes on without it.
    pub away: bool,
    /// Blocks that cannot be read: pending ones of main, suspect ones of a spare.
    pub unreadable: u64,
    /// Blocks of main that live elsewhere.
    pub remapped: u64,
    /// Blocks of a spare that are retired.
    pub retired: u64,
    /// Sectors of main that are pending or remapped, and all that it has.
    pub share: (u64, u64),
    /// Sectors of a spare that are in use, retired ones too, and all that it has room for.
    pub used: (u64, u64),
}

impl Facts {
    fn taken(&self) -> u64 {
        let unreadable = match self.unreadable {
            0 => 0,
            n => (5 + 3 * digits(n)).min(35),
        };
        let part = |(some, all): (u64, u64), parts: u64| {
            some.saturating_mul(parts).checked_div(all).unwrap_or(0)
        };
        // One for each two hundredths beyond half.
        let full = part(self.used, 100).min(100).saturating_sub(50) / 2;
        unreadable
            + points(2, self.remapped, 16)
            + points(3, self.retired, 30)
            + part(self.share, 1000).min(15)
            + full
    }
}

/// Whether a device counts as in a bad way, as it `was` or not until now, where a score of `bound` or
/// less is bad: from then on until it is better by [`HYSTERESIS`]. People are told when it begins.
pub const fn is_bad(was: bool, score: u8, bound: Option<u8>) -> bool {
    match bound {
        None => false,
        Some(bound) if was => score < bound.saturating_add(HYSTERESIS),
        Some(bound) => score <= bound,
    }
}

/// The score at and below which people are told, where they are told when so many percent of the
/// health, or of the room, are used up; `None` for never.
pub fn bound(alert_threshold: u64) -> Option<u8> {
    (alert_threshold > 0).then(|| 100u64.saturating_sub(alert_threshold) as u8)
}
