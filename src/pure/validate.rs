// SPDX-License-Identifier: GPL-2.0

//! Validation: what is wrong with the metadata on the spares, finding by finding.
//!
//! [`validate`] only reads, and goes on where activation would stop: it names every spare, copy,
//! structure and block that is not as it should be. Whether the set can be used in spite of it is
//! what [`recover`](super::recovery::recover) says, which has the last word from
//! [`Level::Complete`] on.

use core::fmt;

use super::digest::{digest, Stamp};
use super::entry::{BlockIndex, Mapping};
use super::format::block::{check_block, set_of, BlockError};
use super::format::header::{damaged_structures, Header, HeaderError};
use super::format::layout::{CopyId, Layout};
use super::format::{Crc32, SetUuid, SpareState};
use super::mem::{AllocError, KVVec, KVec, GFP_KERNEL};
use super::places::{Place, PlaceError, Places};
use super::recovery::members::Without;
use super::recovery::{recover_without, Found, Recovered, Refusal, Survey};
use super::store::{IoError, Read, Store};
use super::units::{MainSector, Sectors, SpareId};

/// Blocks that are read at a time.
const READ_AT_ONCE: u32 = 128;

/// How closely to look. Each level has what those before it have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Magic, format, size and version of every header.
    Basic,
    /// Every checksum, and that the table blocks of a copy add up to its header's digest.
    Integrity,
    /// That the entries are in bounds and do not overlap, no place on a spare is given out twice,
    /// and the counts in the header are those of the table.
    Complete,
    /// Every copy against the state that would be taken, block by block, those with a damaged
    /// header too.
    Forensic,
}

impl Level {
    /// Every level, the quickest first.
    pub const ALL: [Self; 4] = [Self::Basic, Self::Integrity, Self::Complete, Self::Forensic];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Integrity => "integrity",
            Self::Complete => "complete",
            Self::Forensic => "forensic",
        }
    }

    /// The level on which this kind of damage to a header is found.
    fn of(error: &HeaderError) -> Self {
        match error {
            HeaderError::Structure(_) | HeaderError::Group(_) | HeaderError::Whole => {
                Self::Integrity
            }
            HeaderError::Misplaced(_) | HeaderError::Field(_) => Self::Complete,
            _ => Self::Basic,
        }
    }
}

/// What a finding means for the set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing is wrong; it says what there is.
    Note,
    /// Something is damaged that stands elsewhere too: activation or a repair writes it anew.
    Damage,
    /// The set cannot be used as it is.
    Fatal,
}

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// The set as a whole.
    Set,
    /// A copy.
    Copy(CopyId),
    /// A structure of a copy's header.
    Structure(CopyId, &'static str),
    /// A table block of a copy.
    Block(CopyId, BlockIndex),
    /// The entry that begins at this sector of main.
    Entry(MainSector),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set => f.write_str("the set"),
            Self::Copy(id) => id.fmt(f),
            Self::Structure(id, name) => write!(f, "{id}, structure \"{name}\""),
            Self::Block(id, index) => write!(f, "{id}, table block {index}"),
            Self::Entry(at) => write!(f, "the entry at sector {at} of main"),
        }
    }
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It could not be read.
    Unreadable(IoError),
    /// The header is not good.
    Header(HeaderError),
    /// The structure's checksum does not fit.
    Checksum,
    /// The table block is not good.
    Block(BlockError),
    /// The table blocks of the copy are good and do not add up to its header's digest.
    Digest,
    /// The copy is whole and older than the newest.
    Behind {
        /// Its version.
        version: u64,
        /// That of the newest header.
        newest: u64,
    },
    /// The set would not be activated.
    Refused(Refusal),
    /// The place of an entry is not one that it may have, or another entry has it too.
    Place(SpareId, PlaceError),
    /// A count in the header is not that of the table.
    Count {
        /// Which.
        name: &'static str,
        /// What the header says.
        says: u64,
        /// What the table has.
        is: u64,
    },
    /// The table block is good, and not the one that would be taken.
    OtherVersion {
        /// Its version.
        version: u64,
        /// The version of the one that would be taken.
        taken: u64,
    },
    /// How much of the copy is there.
    Has {
        /// Table blocks that are those of the state that would be taken, or, without one, that are
        /// good by themselves.
        blocks: u32,
        /// Of how many that were looked for.
        of: u32,
        /// Whether its header is whole.
        header: bool,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(e) => write!(f, "cannot be read ({e})"),
            Self::Header(e) => e.fmt(f),
            Self::Checksum => f.write_str("checksum does not fit"),
            Self::Block(e) => e.fmt(f),
            Self::Digest => f.write_str(
                "its table blocks do not add up to its header's digest: a commit to it was cut short",
            ),
            Self::Behind { version, newest } => {
                write!(f, "is of version {version}, the newest is {newest}")
            }
            Self::Refused(refusal) => write!(f, "would not be activated: {refusal}"),
            Self::Place(spare, e) => write!(f, "is given a wrong place on spare {spare}: {e}"),
            Self::Count { name, says, is } => {
                write!(f, "the header says {says} {name}, the table has {is}")
            }
            Self::OtherVersion { version, taken } => {
                write!(f, "is whole, of version {version} instead of {taken}")
            }
            Self::Has { blocks, of, header } => {
                let header = if *header { "its header" } else { "no whole header" };
                write!(f, "has {header} and {blocks} of {of} table blocks")
            }
        }
    }
}

/// Something that validation has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The level on which it is found.
    pub level: Level,
    /// What it is about.
    pub at: At,
    /// What was found.
    pub what: What,
}

impl Finding {
    /// What it means for the set.
    pub fn severity(&self) -> Severity {
        match self.what {
            What::Has { .. } => Severity::Note,
            What::Refused(_) | What::Place(..) => Severity::Fatal,
            _ => Severity::Damage,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// All that validation has found.
pub struct Report {
    level: Level,
    findings: KVVec<Finding>,
}

impl Report {
    /// Each finding, by level.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The worst that a finding means; `Note` where nothing is wrong.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(Finding::severity).max().unwrap_or(Severity::Note)
    }

    fn add(&mut self, level: Level, at: At, what: What) -> Result<(), AllocError> {
        if level <= self.level {
            self.findings.push(Finding { level, at, what }, GFP_KERNEL)?;
        }
        Ok(())
    }
}

/// Looks at the metadata on the spares as closely as `level` says; all members are there.
///
/// # Errors
///
/// Without memory. Everything else is a finding.
pub fn validate(store: &mut dyn Store, level: Level, crc: Crc32) -> Result<Report, AllocError> {
    validate_without(store, level, &Without::default(), crc)
}

/// Looks at the metadata on the spares as closely as `level` says, doing without the members that
/// `without` says.
///
/// # Errors
///
/// Without memory. Everything else is a finding.
pub fn validate_without(
    store: &mut dyn Store,
    level: Level,
    without: &Without<'_>,
    crc: Crc32,
) -> Result<Report, AllocError> {
    let mut report = Report { level, findings: KVVec::new() };
    let survey = Survey::take(store, crc)?;
    headers(store, &survey, &mut report, crc)?;
    if level >= Level::Integrity {
        for (id, header) in survey.headers() {
            copy_blocks(store, id, header, &mut report, crc)?;
        }
    }
    if level >= Level::Complete {
        let recovered = match recover_without(store, without, crc) {
            Ok(recovered) => Some(recovered),
            Err(Refusal::Memory) => return Err(AllocError),
            Err(refusal) => {
                report.add(Level::Complete, At::Set, What::Refused(refusal))?;
                None
            }
        };
        if let Some(recovered) = &recovered {
            counts(recovered, &mut report)?;
            places(store, recovered, &mut report)?;
        }
        if level >= Level::Forensic {
            for slot in survey.slots() {
                compare_copy(store, &survey, slot.id, recovered.as_ref(), &mut report, crc)?;
            }
        }
    } else if let Err(refusal) = survey.set() {
        // What is not one set needs no closer look.
        report.add(Level::Basic, At::Set, What::Refused(refusal))?;
    }
    Ok(report)
}

fn headers(
    store: &mut dyn Store,
    survey: &Survey,
    report: &mut Report,
    crc: Crc32,
) -> Result<(), AllocError> {
    let newest = survey.newest().map_or(0, |(_, header)| header.version());
    for slot in survey.slots() {
        let (id, at) = (slot.id, At::Copy(slot.id));
        match &slot.found {
            Found::Header(header) if header.version() < newest => {
                let version = header.version();
                report.add(Level::Basic, at, What::Behind { version, newest })?;
            }
            Found::Header(_) => {}
            Found::Unreadable(e) => report.add(Level::Basic, at, What::Unreadable(*e))?,
            Found::Mark(..) => {
                report.add(Level::Basic, at, What::Header(HeaderError::Creating))?;
            }
            Found::Not(HeaderError::Structure(_)) => {
                let mut batch = [Read::new(id.spare, Layout::header(id.copy))?];
                store.read(&mut batch);
                for name in damaged_structures(&batch[0].block, crc) {
                    report.add(Level::Integrity, At::Structure(id, name), What::Checksum)?;
                }
            }
            Found::Not(e) => report.add(Level::of(e), at, What::Header(*e))?,
        }
    }
    Ok(())
}

/// Reads the first `count` table blocks of a copy and gives each, with what is wrong with it, to
/// `look`.
fn each_block(
    store: &mut dyn Store,
    id: CopyId,
    layout: &Layout,
    count: u32,
    mut look: impl FnMut(BlockIndex, &Read) -> Result<(), AllocError>,
) -> Result<(), AllocError> {
    let mut first = 0;
    let mut batch: KVec<Read> = KVec::new();
    while first < count {
        let behind = count.min(first.saturating_add(READ_AT_ONCE));
        for (k, index) in (first..behind).enumerate() {
            let at = layout.block(id.copy, BlockIndex(index)).ok_or(AllocError)?;
            // The blocks of the batch before are used again.
            match batch.get_mut(k) {
                Some(read) => read.at = at,
                None => batch.push(Read::new(id.spare, at)?, GFP_KERNEL)?,
            }
        }
        batch.truncate((behind - first) as usize);
        store.read(&mut batch);
        for (index, read) in (first..behind).zip(batch.iter()) {
            look(BlockIndex(index), read)?;
        }
        first = behind;
    }
    Ok(())
}

/// What is wrong with a block, as a finding has it.
fn block_of(read: &Read, set: &SetUuid, index: BlockIndex, crc: Crc32) -> Result<Stamp, What> {
    read.result.map_err(What::Unreadable)?;
    check_block(&read.block, set, index, crc).map_err(What::Block)
}

fn copy_blocks(
    store: &mut dyn Store,
    id: CopyId,
    header: &Header,
    report: &mut Report,
    crc: Crc32,
) -> Result<(), AllocError> {
    let (layout, set) = (header.layout(), header.uuid());
    if !layout.fits(store.sectors(id.spare)) {
        // Complete says that the spare is too small.
        return Ok(());
    }
    let mut stamps = KVVec::new();
    let count = header.raw().shape.blocks.get();
    each_block(store, id, &layout, count, |index, read| {
        match block_of(read, &set, index, crc) {
            Ok(stamp) => stamps.push((index, stamp), GFP_KERNEL)?,
            Err(what) => report.add(Level::Integrity, At::Block(id, index), what)?,
        }
        Ok(())
    })?;
    let whole = stamps.len() == count as usize;
    if whole && digest(stamps.iter().copied()) != header.raw().shape.digest.get() {
        report.add(Level::Integrity, At::Copy(id), What::Digest)?;
    }
    Ok(())
}

fn counts(recovered: &Recovered, report: &mut Report) -> Result<(), AllocError> {
    let shape = &recovered.header().raw().shape;
    let totals = recovered.table().totals();
    for (name, says, is) in [
        ("entries", shape.entries.get(), totals.extents),
        ("remapped sectors", shape.remapped.get(), totals.remapped.0),
        ("pending sectors", shape.pending.get(), totals.pending.0),
        ("retired sectors", shape.retired.get(), totals.retired.0),
    ] {
        if says != is {
            report.add(Level::Complete, At::Set, What::Count { name, says, is })?;
        }
    }
    Ok(())
}

/// Marks the place of every entry; one that is marked already belongs to two.
fn places(store: &dyn Store, recovered: &Recovered, report: &mut Report) -> Result<(), AllocError> {
    let header = recovered.header();
    for id in (0..header.spares() as u8).map(SpareId) {
        if header.spare_state(id) != SpareState::Active || !store.spares().has(id) {
            continue;
        }
        let mut regions = KVec::new();
        for (start, len) in header.layout().data_space(store.sectors(id)) {
            regions.push(Place { start, len }, GFP_KERNEL)?;
        }
        let mut places = Places::new(&regions, Sectors(1))?;
        for entry in recovered.table().iter() {
            let to = match entry.mapping {
                Mapping::Remapped { spare, to }
                | Mapping::Suspect { spare, to }
                | Mapping::Retired { spare, at: to }
                    if spare == id =>
                {
                    to
                }
                _ => continue,
            };
            match places.mark_used(Place { start: to, len: entry.extent.len }) {
                Ok(()) => {}
                Err(PlaceError::NoMemory) => return Err(AllocError),
                Err(e) => {
                    let at = At::Entry(entry.extent.start);
                    report.add(Level::Complete, at, What::Place(id, e))?;
                }
            }
        }
    }
    Ok(())
}

/// Compares a copy with the state that would be taken, or, without one, says what of it is good.
fn compare_copy(
    store: &mut dyn Store,
    survey: &Survey,
    id: CopyId,
    taken: Option<&Recovered>,
    report: &mut Report,
    crc: Crc32,
) -> Result<(), AllocError> {
    let slot = survey.slots().iter().find(|slot| slot.id == id);
    let whole = slot.is_some_and(|slot| matches!(slot.found, Found::Header(_)));
    let newest = survey.newest().map(|(_, header)| header);
    let named = newest.map(Header::uuid);
    let named = named.or_else(|| survey.slots().iter().find_map(|slot| slot.set));
    let layout = newest.map_or(Layout::STANDARD, Header::layout);
    if !layout.fits(store.sectors(id.spare)) {
        return Ok(());
    }
    let count = taken.map_or(layout.capacity(), |taken| taken.header().raw().shape.blocks.get());
    let mut wanted = KVVec::from_elem(None, count as usize, GFP_KERNEL)?;
    for (index, stamp, _) in taken.iter().flat_map(|taken| taken.table().blocks()) {
        if let Some(place) = wanted.get_mut(index.0 as usize) {
            *place = Some(stamp);
        }
    }
    let mut has = 0;
    each_block(store, id, &layout, count, |index, read| {
        let at = At::Block(id, index);
        let wanted = wanted.get(index.0 as usize).copied().flatten();
        // Where no header says which set it is, each block speaks for itself.
        let Some(set) = named.or_else(|| set_of(&read.block)) else { return Ok(()) };
        match (block_of(read, &set, index, crc), wanted) {
            (Ok(stamp), Some(wanted)) if stamp != wanted => {
                let what = What::OtherVersion { version: stamp.version, taken: wanted.version };
                report.add(Level::Forensic, at, what)?;
            }
            (Ok(_), _) => has += 1,
            // Those of a copy with a whole header have been named; of places that may never have
            // been written, what is not there says nothing.
            (Err(what), Some(_)) if !whole => report.add(Level::Forensic, at, what)?,
            (Err(_), _) => {}
        }
        Ok(())
    })?;
    report.add(Level::Forensic, At::Copy(id), What::Has { blocks: has, of: count, header: whole })
}
