// SPDX-License-Identifier: GPL-2.0

//! Counts that outlive a reboot: those that the header has, and what has come since.

use crate::{
    dm::system,
    pure::{
        format::header::Header,
        health::{Health, Member},
        units::MAX_SPARES,
    },
};
use kernel::sync::atomic::{Atomic, Relaxed};

/// Errors that devices have answered with and that no commit has taken along yet.
pub(crate) struct Counters {
    main: [Atomic<u64>; 2],
    spare: [Atomic<u64>; 2],
    /// Of `spare`, those of each, and blocks that were read only with effort, by [`Member::index`].
    each: [[Atomic<u64>; 1 + MAX_SPARES]; 2],
    /// Activations, and copies that one of them has rebuilt.
    activations: [Atomic<u64>; 2],
}

/// How many errors there were: writes, reads.
#[derive(Clone, Copy, Default)]
pub(crate) struct Errors {
    pub(crate) main: [u64; 2],
    pub(crate) spare: [u64; 2],
    each: [[u64; 1 + MAX_SPARES]; 2],
    activations: [u64; 2],
}

impl Counters {
    /// None so far.
    pub(crate) fn new() -> Self {
        let zero = |_| Atomic::new(0);
        Self {
            main: core::array::from_fn(zero),
            spare: core::array::from_fn(zero),
            each: core::array::from_fn(|_| core::array::from_fn(zero)),
            activations: core::array::from_fn(zero),
        }
    }

    /// A device has answered with an error; `None` for one of the spares.
    pub(crate) fn error(&self, of: Option<Member>, read: bool) {
        let counts = if of == Some(Member::Main) { &self.main } else { &self.spare };
        counts[usize::from(read)].fetch_add(1u64, Relaxed);
        if let Some(count) = of.and_then(|of| self.each[0].get(of.index())) {
            count.fetch_add(1u64, Relaxed);
        }
    }

    /// So many blocks of a device were read only with effort.
    pub(crate) fn slow(&self, of: Member, blocks: u64) {
        if let Some(count) = self.each[1].get(of.index()) {
            count.fetch_add(blocks, Relaxed);
        }
    }

    /// The set has been put to use; so many copies of the metadata had to be rebuilt for that.
    pub(crate) fn activated(&self, rebuilt: u64) {
        self.activations[0].fetch_add(1u64, Relaxed);
        self.activations[1].fetch_add(rebuilt, Relaxed);
    }

    /// What has come since the last commit.
    pub(crate) fn errors(&self) -> Errors {
        Errors {
            main: [self.main[0].load(Relaxed), self.main[1].load(Relaxed)],
            spare: [self.spare[0].load(Relaxed), self.spare[1].load(Relaxed)],
            each: core::array::from_fn(|kind| {
                core::array::from_fn(|i| self.each[kind][i].load(Relaxed))
            }),
            activations: core::array::from_fn(|i| self.activations[i].load(Relaxed)),
        }
    }

    /// A commit has taken these along.
    pub(crate) fn taken(&self, errors: &Errors) {
        for (count, n) in self.main.iter().zip(errors.main) {
            count.fetch_sub(n, Relaxed);
        }
        for (count, n) in self.spare.iter().zip(errors.spare) {
            count.fetch_sub(n, Relaxed);
        }
        for (count, n) in self.each.iter().flatten().zip(errors.each.iter().flatten()) {
            count.fetch_sub(*n, Relaxed);
        }
        for (count, n) in self.activations.iter().zip(errors.activations) {
            count.fetch_sub(n, Relaxed);
        }
    }
}

impl Errors {
    /// Whether there were none. That the set was activated is not worth a commit.
    pub(crate) fn is_none(&self) -> bool {
        self.main.iter().chain(&self.spare).chain(self.each.iter().flatten()).all(|&n| n == 0)
    }

    /// Adds them to what health is reckoned from.
    pub(crate) fn add_to_health(&self, health: &mut Health) {
        for (i, (&errors, &slow)) in (0..).zip(self.each[0].iter().zip(&self.each[1])) {
            if let Some(member) = Member::of_index(i) {
                health.errors(member, errors);
                health.slow(member, slow);
            }
        }
    }

    /// Adds them to what the header counts.
    pub(crate) fn add_to(&self, header: &mut Header) {
        let statistics = &mut header.raw_mut().statistics;
        for (count, n) in [
            (&mut statistics.main_write_errors, self.main[0]),
            (&mut statistics.main_read_errors, self.main[1]),
            (&mut statistics.spare_write_errors, self.spare[0]),
            (&mut statistics.spare_read_errors, self.spare[1]),
            (&mut statistics.activations, self.activations[0]),
            (&mut statistics.copies_rebuilt, self.activations[1]),
        ] {
            count.set(count.get().saturating_add(n));
        }
        let raw = &mut header.raw_mut().health;
        let mut health = Health::from_raw(raw).at(system::real_seconds());
        self.add_to_health(&mut health);
        health.put_into(raw);
    }
}

/// The counts of a header.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lifetime {
    pub(crate) auto_remaps: u64,
    pub(crate) manual_remaps: u64,
    pub(crate) unremaps: u64,
    pub(crate) commits: u64,
    pub(crate) pending_marks: u64,
    pub(crate) retired_places: u64,
    pub(crate) scans: u64,
    errors: Errors,
}

impl Lifetime {
    pub(crate) fn of(header: &Header) -> Self {
        let s = &header.raw().statistics;
        Self {
            auto_remaps: s.auto_remaps.get(),
            manual_remaps: s.manual_remaps.get(),
            unremaps: s.unremaps.get(),
            commits: s.commits.get(),
            pending_marks: s.pending_marks.get(),
            retired_places: s.retired_places.get(),
            scans: s.scans.get(),
            errors: Errors {
                main: [s.main_write_errors.get(), s.main_read_errors.get()],
                spare: [s.spare_write_errors.get(), s.spare_read_errors.get()],
                ..Errors::default()
            },
        }
    }

    /// All errors, those in `since` too.
    pub(crate) fn errors(&self, since: &Errors) -> Errors {
        let add = |one: [u64; 2], two: [u64; 2]| {
            [one[0].saturating_add(two[0]), one[1].saturating_add(two[1])]
        };
        Errors {
            main: add(self.errors.main, since.main),
            spare: add(self.errors.spare, since.spare),
            ..Errors::default()
        }
    }
}
