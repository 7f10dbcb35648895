// SPDX-License-Identifier: GPL-2.0

//! When errors come too fast to be bad blocks: an avalanche is not remapped.

/// Seconds over which errors are counted.
const WINDOW: u64 = 60;

/// Counts errors by the minute. Shut from the moment a minute has more than it may, until a whole
/// one has not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate {
    minute: u64,
    count: u64,
    shut: bool,
}

/// What an error has done to a [`Gate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passage {
    /// It is open.
    Open,
    /// It is open since this error.
    Opens,
    /// It is shut since this error.
    Shuts,
    /// It is shut.
    Shut,
}

impl Gate {
    /// An error came, `now` seconds after some moment; up to `limit` a minute are let through.
    pub fn count(&mut self, now: u64, limit: u64) -> Passage {
        let (minute, was) = (now / WINDOW, self.shut);
        if minute != self.minute {
            // A minute without an error is not over its limit.
            self.shut &= minute == self.minute + 1 && self.count > limit;
            (self.minute, self.count) = (minute, 0);
        }
        self.count = self.count.saturating_add(1);
        self.shut |= self.count > limit;
        match (was, self.shut) {
            (false, false) => Passage::Open,
            (true, false) => Passage::Opens,
            (false, true) => Passage::Shuts,
            (true, true) => Passage::Shut,
        }
    }

    /// Whether it is shut at `now`; an error then may open it.
    pub fn is_shut(&self, now: u64, limit: u64) -> bool {
        let mut then = *self;
        then.count = then.count.saturating_sub(1);
        self.shut && then.count(now, limit) == Passage::Shut
    }
}
