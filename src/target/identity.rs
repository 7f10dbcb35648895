// SPDX-License-Identifier: GPL-2.0

//! By what main is recognised. What stands on it of the filesystem is read here; what that means is
//! for [`crate::pure::identity`].
//!
//! A filesystem can be made anew through the set. So its UUID in main's fingerprint is that of when the
//! set was last let go, activated or saved, and may be older than what is on main after a crash. It is
//! renewed only with main flushed: else a crash could leave main with the older one.

use super::{
    construct::{facts, Said, Takes},
    given::Unfit,
    spare::{Main, SpareList},
    Remap,
};
use crate::{
    dm::{
        bio::BioPool,
        io::{self, Io, Span, What},
    },
    pure::{
        commit::{Metadata, Persist},
        entry::{Entry, Mapping},
        format::{header::Header, raw::RawFingerprint},
        identity::{
            filesystem::{filesystem, PIECES},
            renewed,
            replaced::{may_replace, may_return, recognise_main},
            with_filesystem, Facts, Filesystem, Match,
        },
        mem::Block,
        store::SpareSet,
        table::Table,
        units::{Extent, MainSector, Sectors},
    },
};

/// What is known of the main that the table names.
#[derive(Default)]
pub(crate) struct Identity {
    /// By what it was recognised when the set was activated last.
    pub(crate) by: Option<Match>,
    /// It is the one that the set has had live on this device, so no filesystem on it is another's.
    pub(super) vouched: bool,
}

/// The filesystems that are seen on main.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// The one whose superblock is on it.
    on_main: Filesystem,
    /// The one that the set has, where everything is read where it lives.
    pub(super) of_the_set: Filesystem,
}

/// Where blocks live that are not on main.
#[derive(Clone, Copy)]
pub(super) struct Elsewhere<'a> {
    pub(super) table: &'a Table,
    pub(super) spares: &'a dyn SpareList,
    /// Those that the set does not go on without: the others are not read.
    pub(super) active: SpareSet,
}

/// Reads a piece of main; `None` where that is not possible. What lies behind its end is zero.
fn read(
    piece: Extent,
    main: &Main,
    elsewhere: Option<Elsewhere<'_>>,
    pool: &BioPool,
) -> Option<Block> {
    let mut block = Block::zeroed().ok()?;
    let end = piece.end().0.min(main.len.0);
    let mut at = piece.start.0;
    while at < end {
        let rest = Extent::new(MainSector(at), Sectors(end - at))?;
        let entry = elsewhere
            .and_then(|elsewhere| elsewhere.table.lookup(rest.start, rest.len))
            .and_then(|entry| entry.clip(&rest));
        let (stop, place) = match entry {
            Some(entry) if entry.extent.start > rest.start => (entry.extent.start.0, None),
            // What main has there is not the filesystem's.
            Some(Entry { mapping: Mapping::Lost, .. }) => return None,
            Some(entry) => (entry.extent.end().0, entry.mapping.place()),
            None => (end, None),
        };
        let (device, sector) = match (place, elsewhere) {
            (Some((id, to)), Some(Elsewhere { spares, active, .. })) => {
                let spare = spares.at(id).filter(|_| active.has(id))?;
                (spare.block(), spare.sector(to))
            }
            _ => (main.device.block(), main.start + at),
        };
        let span = Span { from: Sectors(at - piece.start.0), len: Sectors(stop - at) };
        let blocks = core::slice::from_mut(&mut block);
        let mut ios = [Io::new(device, sector, What::Peek(blocks, span))];
        io::run(pool, &mut ios);
        let [io] = &ios;
        if !io.status().is_ok() {
            return None;
        }
        at = stop;
    }
    Some(block)
}

fn look(main: &Main, elsewhere: Option<Elsewhere<'_>>, pool: &BioPool) -> Filesystem {
    let [first, second] = PIECES.map(|piece| read(piece, main, elsewhere, pool));
    filesystem([first.as_ref(), second.as_ref()])
}

/// Looks for a filesystem on main. What cannot be read is not known, and no error.
pub(super) fn see(main: &Main, elsewhere: Elsewhere<'_>, pool: &BioPool) -> Seen {
    let on_main = look(main, None, pool);
    if PIECES.iter().all(|piece| elsewhere.table.lookup(piece.start, piece.len).is_none()) {
        return Seen { on_main, of_the_set: on_main };
    }
    Seen { on_main: on_main.maybe_older(), of_the_set: look(main, Some(elsewhere), pool) }
}

/// By what main is recognised, if it is the set's; nothing where a person says that it is to take the
/// place of that, and may.
pub(super) fn recognise(
    header: &Header,
    main: &Main,
    seen: Filesystem,
    said: Said,
) -> Result<Option<Match>, Unfit> {
    let filesystem = match (seen, said.filesystem) {
        (Filesystem::Is(is), Some(said)) if is != said => return Err(Unfit::Said { is, said }),
        (seen, Some(_)) => seen.maybe_older(),
        (seen, None) => seen,
    };
    let facts = Facts { filesystem, ..facts(main.device.block(), "") };
    let was = Sectors(header.raw().main.sectors.get());
    // The size that it had is no proof against one that has grown.
    let sectors = if said.grow { was.min(facts.sectors) } else { facts.sectors };
    let facts = Facts { sectors, ..facts };
    let known = match said.takes {
        Takes::New => may_replace(header, &facts).map(|()| None),
        Takes::Back => may_return(header, &facts).map(|()| None),
        Takes::No => recognise_main(header, &facts).map(Some),
    };
    known.map_err(Unfit::Main)
}

impl Seen {
    /// What tells the main of the set from another one.
    pub(super) fn tells(self, vouched: bool) -> Filesystem {
        if vouched {
            self.on_main.maybe_older()
        } else {
            self.on_main
        }
    }
}

impl Remap {
    /// [`see`], with this table.
    pub(super) fn see(&self, table: &Table, active: SpareSet) -> Seen {
        see(&self.main, Elsewhere { table, spares: &self.spares, active }, &self.pool)
    }

    /// The filesystem that main has when a set is made of it.
    pub(super) fn filesystem_of_main(&self) -> Filesystem {
        let seen = look(&self.main, None, &self.pool);
        match seen {
            Filesystem::Is(_) if self.flush_main().is_err() => Filesystem::Unknown,
            seen => seen,
        }
    }

    /// Main's fingerprint as it is now, where that is not what `header` has; main is flushed then.
    pub(super) fn renewed_main(
        &self,
        header: &Header,
        of_the_set: Filesystem,
    ) -> Option<RawFingerprint> {
        if !self.writable || header.read_only() {
            return None;
        }
        // While main is being replaced, the fingerprint is that of the old one.
        let print = &header.raw().main;
        let print = match header.is_replacing() {
            true => with_filesystem(print, of_the_set),
            false => renewed(print, &facts(self.main.device.block(), ""), of_the_set),
        }?;
        self.flush_main().ok()?;
        Some(print)
    }

    /// The same, with main looked at again. `meta` is held, so that no block comes to live elsewhere.
    pub(crate) fn main_anew(&self, meta: &Metadata) -> Option<RawFingerprint> {
        if !self.writable || meta.persist() == Persist::Failed {
            return None;
        }
        let seen = self.see(meta.table(), meta.active());
        self.renewed_main(meta.header(), seen.of_the_set)
    }

    /// Says how main was recognised, and keeps it for who asks.
    pub(super) fn recognised(&self, by: Match) {
        *self.identity.lock() = Identity { by: Some(by), vouched: true };
        let device = &self.main.device;
        log_info!(
            "{self}: main ({device}) is recognised by {}, {} % certain",
            by.kind.name(),
            by.kind.percent()
        );
        if let Some(missing) = by.missing {
            log_warn!(
                "{self}: main ({device}) has no {}, by which the set knows its main: if it is another device, remove this one before anything is written to it, and check the name",
                missing.name()
            );
        }
        if let Some(had) = by.had {
            log_warn!(
                "{self}: main ({device}) has another filesystem than {had}, which it had when that was last kept; if it was made without the set, what is remapped is not of it: do not use it through this set, make a new one"
            );
        }
    }
}
