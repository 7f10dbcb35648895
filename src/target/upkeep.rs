// SPDX-License-Identifier: GPL-2.0

//! Looking after the copies of a set in use: checking them, and writing damaged ones anew.

use super::Remap;
use crate::{
    dm::{
        compat::{ESTALE, EUCLEAN},
        system,
    },
    pure::{
        commit::{CommitError, Left, Persist, Relation},
        copies::CopyState,
        recovery::{members::KNOWN_AWAY, recover_without, Refusal},
        validate::{validate_without, At, Level, Severity},
    },
};
use kernel::prelude::*;

/// How often a check may find that the metadata has been changed under it.
const TRIES: u32 = 3;

/// Findings that the kernel log gets; the others are counted.
const NAMED: usize = 16;

impl Remap {
    /// Looks for damage in the copies on the spares, as closely as `level` says. Callers may wait for a
    /// commit, and spares may be slow: so commits go on meanwhile, and what one has changed under the
    /// check is looked at again; only after [`TRIES`] of these does it keep them waiting.
    ///
    /// # Errors
    ///
    /// `EUCLEAN` where something is damaged; each finding is in the kernel log.
    pub(super) fn check(&self, level: Level) -> Result {
        let look = || validate_without(&mut self.store(), level, &KNOWN_AWAY, system::crc32);
        let mut tries = 0;
        let (mut guard, report) = loop {
            let before = self.state.lock().info.version;
            let early = if tries < TRIES { Some(look()?) } else { None };
            let guard = self.meta.lock();
            let meta = (*guard).as_ref().ok_or(EBUSY)?;
            match early {
                Some(report) if meta.version() == before && !meta.in_doubt() => {
                    break (guard, report);
                }
                Some(_) => tries += 1,
                None => break (guard, look()?),
            }
        };
        let meta = (*guard).as_mut().ok_or(EBUSY)?;
        let mut count = 0usize;
        let mut copies = *meta.copies();
        for finding in report.findings().iter().filter(|f| f.severity() != Severity::Note) {
            if let At::Copy(id) | At::Structure(id, _) | At::Block(id, _) = finding.at {
                copies.note(id, CopyState::Stale);
            }
            count += 1;
            if count <= NAMED {
                log_warn!("{self}: {} check: {finding}", level.name());
            }
        }
        if count == 0 {
            return Ok(());
        }
        // So that no commit builds on them, and the status says what is so.
        meta.copies_read(&copies);
        // What is not damage but somebody else's is left to who asks for a repair.
        let looked = meta.look_for_others(&mut self.store());
        self.note(meta);
        looked?;
        let name = level.name();
        self.say_error(format_args!(
            "{name} check: {count} findings in the copies of the metadata; 'repair' writes damaged ones anew"
        ));
        Err(EUCLEAN)
    }

    /// Writes anew what is damaged of the copies, from what is in use.
    ///
    /// # Errors
    ///
    /// `ESTALE` where the spares have something newer than what is in use, or another set's, which
    /// is not overwritten; `ENOMEM` without memory to find that out; `EIO` where not all copies could be
    /// written.
    pub(crate) fn repair(&self) -> Result {
        let mut guard = self.meta.lock();
        let Some(meta) = (*guard).as_mut() else {
            self.say_error(format_args!("the device is suspended; resume it first"));
            return Err(EBUSY);
        };
        if meta.in_doubt() {
            self.say_error(format_args!(
                "a commit of the metadata is in doubt; check the spare, then try 'save'"
            ));
            return Err(EIO);
        }
        let mut store = self.store();
        let newer = match recover_without(&mut store, &KNOWN_AWAY, system::crc32) {
            Ok(found) => {
                let highest = found.highest_of(meta.header().uuid());
                match meta.relation(found.header()) {
                    Relation::Same => {
                        meta.copies_read(found.copies());
                        false
                    }
                    Relation::Ancestor => {
                        meta.copies_overwritten(highest);
                        false
                    }
                    Relation::Descendant | Relation::Conflict | Relation::OtherSet => {
                        meta.copies_overwritten(highest);
                        true
                    }
                }
            }
            Err(e) => {
                let left = meta.refused(&mut store, &e).map_err(|_| {
                    self.say_error(format_args!("{}", Refusal::Memory));
                    ENOMEM
                })?;
                if matches!(e, Refusal::Older { spare, .. } if meta.active().has(spare)) {
                    self.note(meta);
                    self.say_error(format_args!("{e}; 'save' writes what is in use over it"));
                    return Err(ESTALE);
                }
                if left != Left::Others {
                    // Nothing there is whole, but memory is.
                    meta.copies_damaged();
                }
                left == Left::Others
            }
        };
        if newer {
            self.note(meta);
            self.say_error(format_args!(
                "the spares have not what is in use, but something newer or foreign; 'restore' takes over what came from it, 'save' overwrites it"
            ));
            return Err(ESTALE);
        }
        let stood = meta.repair(&mut store);
        self.note(meta);
        self.take_back(meta)?;
        match stood {
            Ok(n) if meta.persist() == Persist::Enabled => {
                log_info!("{self}: repair: {n} copies of the metadata were written anew");
                Ok(())
            }
            Ok(_) => {
                self.say_error(format_args!(
                    "not all copies of the metadata could be written, or a spare is away; 'metadata_status' names them"
                ));
                Err(EIO)
            }
            Err(e) => {
                self.say_error(format_args!("{e}"));
                Err(if e == CommitError::Memory { ENOMEM } else { EIO })
            }
        }
    }
}
