// SPDX-License-Identifier: GPL-2.0

//! Taking another device for main: while main is being replaced, and when it has been. In the activation
//! that the table line asks for it in, before any bio is let through. What may be taken is for
//! [`crate::pure::identity::replaced`].

use super::{
    construct::{facts, Takes},
    identity::Seen,
    Remap,
};
use crate::pure::{
    commit::Metadata,
    format::{header::Header, CommitKind},
    identity::{
        replaced::{pending_is_lost, print_of},
        Facts, Mapped,
    },
    table::Table,
};
use kernel::prelude::*;

impl Remap {
    /// Commits that main is what the table names, and what follows from that.
    ///
    /// # Errors
    ///
    /// The set is as it was, or in doubt: then the next activation finds the one or the other.
    pub(super) fn take_new_main(&self, meta: &mut Metadata, seen: Seen, takes: Takes) -> Result {
        let facts = Facts { filesystem: seen.of_the_set, ..facts(self.main.device.block(), "") };
        let copies = matches!(facts.mapped, Mapped::Copy(_));
        let print = print_of(meta.header(), &facts);
        // What the old one did not give it may give yet; what the new one would give is none of the set's.
        let stays = copies || takes == Takes::Back;
        let lost = if stays { 0 } else { meta.table().totals().pending.0 };
        let mut tried = false;
        loop {
            let edit = match stays {
                true => None,
                false => Some(pending_is_lost(meta.table()).map_err(|e| {
                    self.say_error(format_args!("{e}"));
                    ENOMEM
                })?),
            };
            let put = |header: &mut Header| match (facts.mapped, takes) {
                (Mapped::Copy(of), _) => header.begin_replacement(of.attempt),
                (_, Takes::Back) => header.abort_replacement(print),
                _ => header.end_replacement(print),
            };
            let keep = |table: &Table| self.state.lock().table = table.clone();
            match self.commit(meta, CommitKind::NewMain, edit, put, keep) {
                Ok(()) => break,
                Err(e) if tried => return Err(e.into()),
                // Another place may take it.
                Err(_) => {
                    let _ = meta.mend(&mut self.store());
                    tried = true;
                }
            }
        }
        let device = &self.main.device;
        match (copies, takes) {
            (true, _) => log_info!("{self}: main is being replaced; it is on {device} meanwhile"),
            (_, Takes::Back) => log_info!("{self}: main is {device} again, and is not being replaced any more"),
            _ => log_info!("{self}: {device} is main now; {lost} sectors that could not be read on the old one are lost"),
        }
        Ok(())
    }
}
