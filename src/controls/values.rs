// SPDX-License-Identifier: GPL-2.0

//! What there is to know of a set in use that is a single value: each has a name, a line in
//! `metadata_status`, and a file in sysfs.

use crate::{
    pure::{
        commit::Persist,
        copies::CopyState,
        format::{header::text, layout::COPIES},
        store::SpareSet,
    },
    target::{Errors, Remap, Scores, State},
};
use core::fmt::{self, Write};

/// A set in use at one moment.
pub(super) struct Now<'a> {
    pub(super) remap: &'a Remap,
    pub(super) state: &'a State,
    pub(super) auto: &'static str,
    pub(super) errors: Errors,
    pub(super) scores: Scores,
}

/// Calls `f` with the state of now, which does not change meanwhile.
pub(super) fn now<R>(remap: &Remap, f: impl FnOnce(&Now<'_>) -> R) -> R {
    let auto = remap.auto_word();
    let state = remap.state.lock();
    let errors = state.info.statistics.errors(&remap.counters.errors());
    let scores = remap.scores(&state);
    f(&Now { remap, state: &state, auto, errors, scores })
}

impl Now<'_> {
    /// The spares of the set, those that it goes on without too.
    pub(super) fn members(&self) -> SpareSet {
        self.state.info.active.with(self.state.info.away)
    }

    pub(super) fn spares(&self) -> usize {
        self.members().iter().count()
    }

    pub(super) fn copies(&self) -> usize {
        COPIES * self.spares()
    }

    pub(super) fn good_copies(&self) -> usize {
        self.state.info.copies.in_state(CopyState::Good).count()
    }

    pub(super) fn persist(&self) -> &'static str {
        if self.remap.writable {
            self.state.info.persist.name()
        } else {
            "readonly"
        }
    }

    /// When the spares will be full at the present pace.
    pub(super) fn full_in(&self) -> FullIn {
        FullIn(self.scores.full_in)
    }

    /// What has run out.
    pub(super) fn full(&self) -> &'static str {
        match (self.state.spares_full.lasts(), self.state.table_full.lasts()) {
            (false, false) => "no",
            (true, false) => "spares",
            (false, true) => "table",
            (true, true) => "both",
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        // In use, or suspended and in order.
        self.state.info.version != 0
            && self.state.table.totals().pending.0 == 0
            && self.state.info.persist == Persist::Enabled
            && self.auto != "halted"
            && !self.remap.has_bad_device()
    }
}

/// Days until the spares are full, or `never`.
pub(super) struct FullIn(Option<u64>);

impl fmt::Display for FullIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(days) => write!(f, "{days}"),
            None => f.write_str("never"),
        }
    }
}

/// A value.
pub(super) struct Value {
    /// Its name, the same everywhere.
    pub(super) name: &'static str,
    /// Writes it.
    pub(super) write: fn(&Now<'_>, &mut dyn Write) -> fmt::Result,
}

macro_rules! values {
    ($($name:ident = |$now:ident| $value:expr;)*) => {
        [$(Value {
            name: stringify!($name),
            write: |$now: &Now<'_>, out: &mut dyn Write| write!(out, "{}", $value),
        },)*]
    };
}

/// Every value, in the order of `metadata_status`. What is counted in sectors, and since when, is in
/// docs/remap.rst.
#[rustfmt::skip]
pub(super) static VALUES: &[Value] = &values! {
    set = |now| now.state.info.uuid;
    name = |now| text(&now.state.info.name);
    version = |now| now.state.info.version;
    history = |now| format_args!("{:016x}", now.state.info.history);
    persist = |now| now.persist();
    in_doubt = |now| if now.state.info.in_doubt { "yes" } else { "no" };
    last_save = |now| now.state.info.last_save;
    health = |now| u8::from(now.is_healthy());
    auto = |now| now.auto;
    copies = |now| now.copies();
    good_copies = |now| now.good_copies();
    spares = |now| now.spares();
    away = |now| now.state.info.away.iter().count();
    jobs = |now| now.state.jobs.len();
    scan = |now| format_args!("{}%", now.remap.scan_percent());
    scan_state = |now| now.remap.scan_state().name();
    scans = |now| now.state.info.statistics.scans;
    main_health = |now| now.scores.main;
    full_in = |now| now.full_in();
    full = |now| now.full();
    remapped = |now| now.state.table.totals().remapped;
    pending = |now| now.state.table.totals().pending;
    lost = |now| now.state.table.totals().lost;
    suspect = |now| now.state.table.totals().suspect();
    retired = |now| now.state.table.totals().retired;
    used = |now| now.state.used();
    room = |now| now.state.room();
    extents = |now| now.state.table.totals().extents;
    extents_left = |now| now.state.table.entries_left();
    table_blocks = |now| now.state.table.block_count();
    commits = |now| now.state.info.statistics.commits;
    auto_remaps = |now| now.state.info.statistics.auto_remaps;
    manual_remaps = |now| now.state.info.statistics.manual_remaps;
    unremaps = |now| now.state.info.statistics.unremaps;
    pending_marks = |now| now.state.info.statistics.pending_marks;
    retired_places = |now| now.state.info.statistics.retired_places;
    write_errors = |now| now.errors.main[0].saturating_add(now.errors.spare[0]);
    read_errors = |now| now.errors.main[1].saturating_add(now.errors.spare[1]);
    main_write_errors = |now| now.errors.main[0];
    main_read_errors = |now| now.errors.main[1];
    spare_write_errors = |now| now.errors.spare[0];
    spare_read_errors = |now| now.errors.spare[1];
};
