// SPDX-License-Identifier: GPL-2.0

//! Activation: from what stands on the spares to the newest state that is whole, and from there to
//! copies that all carry it.
//!
//! [`recover`] only reads. It takes the newest header for which blocks can be found, in whichever
//! copies, that add up to its digest. [`Recovered::rebuild`] then writes to every copy what it
//! lacks, before any other I/O: pieces of the state that was taken are never overwritten, so a
//! crash in between leaves at least as much of it as there was.
//!
//! **What was read may stand in a cache only**, where a machine or a device has come up again without losing
//! power. While that is so it is no reason to write over anything else: a power cut would take both. So
//! each member is flushed before the first write, also where nothing is to be rebuilt, as the next commit
//! writes over group A and counts on what stands in B. Where the flush fails nothing counts as read.
//!
//! **A spare alone.** On each spare the copies that are whole by themselves are written last, of a member that
//! comes back too: should the others die meanwhile, it has what it had. That goes by headers and blocks; a
//! header of a commit that was cut short may stand there without its blocks.
//!
//! **Never an older state for a newer one.** A header says which version was known to be durable
//! when it was written. When a header is there that says so of a version newer than what can be put
//! together, activation is refused.
//!
//! **What was tried and is not taken** (a version of which only parts are left) is superseded: the
//! rebuilt state is committed again under a version higher than any that was seen, before it is
//! used. So what lies in a copy that could not be read this time can never be taken later for
//! something newer.
//!
//! **Members.** Which are needed, and which may be missing, is for [`members`]: the state that was
//! taken says who is in the set, the caller says whom a person does without. One that is there and
//! [older](Refusal::Older) than it was is none of them.

mod join;
pub mod members;
mod older;
pub mod side;
mod survey;

use core::fmt;

pub(crate) use older::{older, Older};
pub use survey::{Found, Slot, Survey};

use super::commit::{ChangeError, CommitError, Content, MemberChange, Metadata};
use super::copies::{Copies, CopySet, CopyState};
use super::entry::{BlockIndex, Mapping};
use super::format::block::{check_block, entries};
use super::format::header::{Header, HeaderError};
use super::format::layout::CopyId;
use super::format::{CommitKind, Crc32, MemberUuid, SetUuid, SpareState};
use super::mem::{AllocError, KVVec, KVec, GFP_KERNEL};
use super::store::{Read, SpareSet, Store};
use super::table::{BuildError, Table, TableBuilder};
use super::units::{MainSector, Sectors, SpareId};
use join::{Choice, Stamps};
use members::{Members, Without};

/// Versions that are left out when a copy could not be read, or its member is not there: what it may
/// hold counts as tried. A [rebuild](Recovered::rebuild) that fails has tried fewer.
pub const UNSEEN: u64 = 64;

/// A copy's place in the history of its set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stand {
    /// Which copy.
    pub id: CopyId,
    /// Its history.
    pub history: u64,
    /// Its version.
    pub version: u64,
    /// When it was committed, in seconds since 1970.
    pub committed: u64,
}

impl Stand {
    pub(super) fn of(id: CopyId, header: &Header) -> Self {
        let version = &header.raw().version;
        Self {
            id,
            history: version.history.get(),
            version: version.version.get(),
            committed: version.committed.get(),
        }
    }
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, history, version, committed } = self;
        write!(f, "{id}: version {version} of history {history:016x}, committed at {committed}")
    }
}

/// Why a set is not activated. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There was no memory.
    Memory,
    /// No header of this spare could be read.
    Unreadable(SpareId),
    /// Nothing of dm-remap is on this spare, and its headers' places read as zeroes.
    Empty(SpareId),
    /// Something else is on this spare.
    Foreign(SpareId),
    /// This spare is in the v3 format.
    V3(SpareId),
    /// A set was to be created on this spare and that was cut short.
    CreationCutShort(SpareId, SetUuid),
    /// There are traces of a set, and no header that is whole.
    Damaged {
        /// The first header that is damaged.
        id: CopyId,
        /// What is wrong with it.
        error: HeaderError,
        /// The highest version of which there is a trace; 0 for none.
        highest: u64,
    },
    /// There are whole headers, and for none of them all table blocks.
    Incomplete {
        /// The newest header.
        newest: Stand,
        /// The first block that no copy has, or `None` if all are there but do not add up.
        block: Option<BlockIndex>,
    },
    /// What can be put together is older than what was acknowledged.
    Outdated {
        /// The version that can be put together.
        found: u64,
        /// The version that is known to have been durable.
        durable: u64,
    },
    /// This copy is of another set than the others.
    OtherSet(CopyId, SetUuid),
    /// Neither state is an ancestor of the other, or they are the same version and differ.
    Conflict(Stand, Stand),
    /// This spare is an older image of the member: all that stands on it is older than what it is known to
    /// have had.
    Older {
        /// Which spare.
        spare: SpareId,
        /// The member.
        uuid: MemberUuid,
        /// The newest version on it.
        found: u64,
        /// The version that it had.
        durable: u64,
        /// Whether the set goes on without it already.
        away: bool,
    },
    /// This spare is active in the set and is not there.
    Missing(SpareId, MemberUuid),
    /// This spare is known to be away, and is not there.
    Away(SpareId, MemberUuid),
    /// A person does without this member, and it is there.
    NotAbsent(SpareId, MemberUuid),
    /// A person does without a member that the set does not have.
    NoMember(MemberUuid),
    /// This spare has left the set; what took its place, or zeroes.
    Left(SpareId, MemberUuid),
    /// This spare is there and does not belong to the set, or not any more.
    NotMember(SpareId, SpareState),
    /// The part of this spare that is used is smaller than it was.
    Shrunk {
        /// Which spare.
        spare: SpareId,
        /// Sectors that it has.
        is: Sectors,
        /// Sectors that it had.
        was: Sectors,
    },
    /// The blocks are whole, but are no table.
    Table(BuildError),
    /// The entry for this sector of main lies outside of main, or of the data space of its spare.
    Entry(MainSector),
}

impl From<AllocError> for Refusal {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<BuildError> for Refusal {
    fn from(e: BuildError) -> Self {
        match e {
            BuildError::NoMemory => Self::Memory,
            e => Self::Table(e),
        }
    }
}

impl Refusal {
    /// The spare that is refused for what it holds, where it says nothing of a set. It has the number that it was given in.
    #[must_use]
    pub fn of_spare(&self) -> Option<SpareId> {
        match self {
            Self::Unreadable(s)
            | Self::Empty(s)
            | Self::Foreign(s)
            | Self::V3(s)
            | Self::CreationCutShort(s, _) => Some(*s),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("no memory for the metadata"),
            Self::Unreadable(s) => {
                write!(f, "no copy of the metadata on spare {s} can be read; check the device")
            }
            Self::Empty(s) => write!(
                f,
                "spare {s} is not a spare of a set: it holds no metadata; check the device's name (`create` makes a new set, empty, which knows of no remap)"
            ),
            Self::Foreign(s) => write!(
                f,
                "spare {s} holds something that is not ours; check the device's name (`create overwrite <spare>` gives up all that is on it, a set with its remaps too)"
            ),
            Self::V3(s) => write!(f, "spare {s} is in the v3 format; run `dmremap upgrade`"),
            Self::CreationCutShort(s, set) => write!(
                f,
                "the creation of set {set} on spare {s} was cut short; load the line with `create` again"
            ),
            Self::Damaged { id, error, .. } if error.is_newer() => write!(f, "{id} {error}"),
            Self::Damaged { id, error, highest } => write!(
                f,
                "all copies of the metadata are damaged ({id}: {error}; highest version seen {highest}); run `dmremap check --level forensic`"
            ),
            Self::Incomplete { newest, block: Some(block) } => write!(
                f,
                "no copy has table block {block} any more ({newest}); run `dmremap check --level forensic`"
            ),
            Self::Incomplete { newest, block: None } => write!(
                f,
                "the table blocks do not add up to the header's digest ({newest}); run `dmremap check --level forensic`"
            ),
            Self::Outdated { found, durable } => write!(
                f,
                "only version {found} of the metadata is whole, but version {durable} was in use; run `dmremap check --level forensic`"
            ),
            Self::OtherSet(id, set) => {
                write!(f, "{id} belongs to another set, {set}; check the devices' names")
            }
            Self::Conflict(a, b) => write!(
                f,
                "conflict: {a}, but {b}; choose with `dmremap repair --use` after a dump"
            ),
            Self::Older { spare: s, uuid, found, durable, away } => {
                write!(
                    f,
                    "spare {s} of the set ({uuid}) is an older image of itself, a clone or a snapshot perhaps: it has version {found} of the metadata and had version {durable}, so its data is old too; give the device that was in use, or leave this one out and go on without it with "
                )?;
                match away {
                    true => f.write_str("`degraded`"),
                    false => write!(f, "`absent {uuid}`"),
                }?;
                f.write_str("; wiped, it may become a new spare")
            }
            Self::Missing(s, uuid) => write!(
                f,
                "spare {s} of the set ({uuid}) is missing; give its device with `spare`, or go on without it with `absent {uuid}`"
            ),
            Self::Away(s, uuid) => write!(
                f,
                "spare {s} of the set ({uuid}) is away; give its device with `spare` to bring it back, or go on without it with `degraded`"
            ),
            Self::NotAbsent(s, uuid) => write!(
                f,
                "spare {s} of the set ({uuid}) is there; leave out `absent {uuid}`, or its device"
            ),
            Self::NoMember(uuid) => write!(
                f,
                "the set has no spare {uuid}; leave out `absent {uuid}`"
            ),
            Self::Left(s, successor) if *successor == MemberUuid::default() => write!(
                f,
                "spare {s} has left the set; leave it out"
            ),
            Self::Left(s, successor) => write!(
                f,
                "spare {s} has left the set, spare {successor} took its place; give that instead"
            ),
            Self::NotMember(s, state) => write!(
                f,
                "spare {s} is not a member of the set ({}); check the device's name",
                state.name()
            ),
            Self::Shrunk { spare, is, was } => write!(
                f,
                "spare {spare} has {is} sectors, the set uses {was}; give the same part of it again"
            ),
            Self::Table(e) => write!(f, "{e}; run `dmremap check --level complete`"),
            Self::Entry(at) => write!(
                f,
                "the entry for sector {at} of main is out of bounds; run `dmremap check --level complete`"
            ),
        }
    }
}

/// The newest state that is whole, and what each copy lacks of it.
pub struct Recovered {
    header: Header,
    table: Table,
    copies: Copies,
    highest: u64,
    superseded: bool,
    members: Members,
    /// The copies on each spare that are of the newest version there that is whole.
    newest: CopySet,
    doubt: KVVec<BlockIndex>,
    lacking: Lacking,
    crc: Crc32,
}

/// Which copies lack which parts of the state.
struct Lacking {
    blocks: KVVec<CopySet>,
    header: CopySet,
}

impl Lacking {
    fn lacks(&self, id: CopyId, part: Option<BlockIndex>) -> bool {
        match part {
            None => self.header.has(id),
            Some(index) => self.blocks.get(index.0 as usize).is_none_or(|ids| ids.has(id)),
        }
    }

    fn count(&self, id: CopyId) -> usize {
        usize::from(self.header.has(id)) + self.blocks.iter().filter(|ids| ids.has(id)).count()
    }
}

/// Reads all copies on all spares and takes the newest state that is whole, of a set all of whose
/// members are there.
///
/// # Errors
///
/// See [`Refusal`].
pub fn recover(store: &mut dyn Store, crc: Crc32) -> Result<Recovered, Refusal> {
    recover_without(store, &Without::default(), crc)
}

/// Reads all copies on all spares and takes the newest state that is whole, doing without the
/// members that `without` says.
///
/// # Errors
///
/// See [`Refusal`].
pub fn recover_without(
    store: &mut dyn Store,
    without: &Without<'_>,
    crc: Crc32,
) -> Result<Recovered, Refusal> {
    recover_knowing(store, without, None, crc)
}

/// What a recovery has found, for the next one.
pub struct Known {
    header: Header,
    table: Table,
}

/// The same, for who has done it before: a table that is still what stands on the spares, block by
/// block, is not made anew, and not looked at again if the header is the same too.
///
/// # Errors
///
/// See [`Refusal`].
pub fn recover_knowing(
    store: &mut dyn Store,
    without: &Without<'_>,
    known: Option<&Known>,
    crc: Crc32,
) -> Result<Recovered, Refusal> {
    let (survey, stamps, id, choice) = choose(store, crc)?;
    let header = survey.header(id).ok_or(Refusal::Memory)?;
    let layout = header.layout();
    let members = Members::of(store, &survey, header, without)?;

    let highest = stamps.highest().max(survey.highest());
    let unreadable = stamps.unreadable() || survey.unreadable();
    let mut lacking = Lacking { blocks: KVVec::new(), header: CopySet::NONE };
    let mut doubt = KVVec::new();
    for (i, stamp) in choice.stamps.iter().enumerate() {
        let mut without = CopySet::NONE;
        let mut newer = false;
        for (row, &id) in stamps.ids().iter().enumerate() {
            let has = stamps.at(row, i);
            if has != *stamp {
                without.add(id);
            }
            newer |= has.version > stamp.version;
        }
        lacking.blocks.push(without, GFP_KERNEL)?;
        if newer {
            doubt.push(BlockIndex(i as u32), GFP_KERNEL)?;
        }
    }
    let mut copies = Copies::default();
    for slot in survey.slots() {
        let same = matches!(&slot.found, Found::Header(h) if h.same_content(header));
        if !same {
            lacking.header.add(slot.id);
        }
        let whole = same && lacking.blocks.iter().all(|ids| !ids.has(slot.id));
        if members.here.has(slot.id.spare) {
            copies.note(slot.id, if whole { CopyState::Good } else { CopyState::Stale });
        }
    }
    let known = known
        .filter(|known| known.header.same_content(header) && choice.is_of(&known.table, &layout));
    let table = match known {
        Some(known) => known.table.clone(),
        None => {
            let table = build(store, &stamps, &choice, (id, header), crc)?;
            check_entries(header, &table)?;
            table
        }
    };
    let same = || survey.headers().filter(|(_, other)| other.same_content(header));
    let durable = same().map(|(_, other)| other.raw().identification.durable_version.get()).max();
    let stood = same().map(|(_, other)| other.stood()).max();
    let mut header = header.try_clone()?;
    header.raw_mut().identification.durable_version.set(durable.unwrap_or(0));
    header.raw_mut().identification.stood_version.set(stood.unwrap_or(0));
    let superseded = highest > header.version() || unreadable;
    let unseen = unreadable || members.unseen;
    let highest = if unseen { highest.saturating_add(UNSEEN) } else { highest };
    let newest = stamps.newest_on_each(&survey);
    Ok(Recovered {
        header,
        table,
        copies,
        highest,
        superseded,
        members,
        newest,
        doubt,
        lacking,
        crc,
    })
}

/// The header of the state that a recovery takes, whoever its members are. Only reads.
///
/// # Errors
///
/// See [`Refusal`]; nobody is missing, and nobody no member.
pub fn taken(store: &mut dyn Store, crc: Crc32) -> Result<Header, Refusal> {
    let (survey, _, id, _) = choose(store, crc)?;
    Ok(survey.header(id).ok_or(Refusal::Memory)?.try_clone()?)
}

/// The copies on each spare of `survey` that are of the newest version that is whole there; by the header,
/// where nothing is.
///
/// # Errors
///
/// Without memory.
pub(crate) fn newest_on_each(
    store: &mut dyn Store,
    survey: &Survey,
    of: &Header,
    crc: Crc32,
) -> Result<CopySet, AllocError> {
    let stamps = Stamps::read(store, survey, &of.layout(), &of.uuid(), crc)?;
    Ok(stamps.newest_on_each(survey))
}

/// Where the header of the newest state stands that is whole, and what that is made of.
fn choose(store: &mut dyn Store, crc: Crc32) -> Result<(Survey, Stamps, CopyId, Choice), Refusal> {
    let survey = Survey::take(store, crc)?;
    let uuid = survey.set()?;
    let newest = survey.newest().ok_or(Refusal::Memory)?;
    let layout = newest.1.layout();
    for spare in survey.spares().iter() {
        if !layout.fits(store.sectors(spare)) {
            let was = newest.1.raw().spares[spare.0 as usize].used_sectors.get();
            return Err(Refusal::Shrunk { spare, is: store.sectors(spare), was: Sectors(was) });
        }
    }
    let stamps = Stamps::read(store, &survey, &layout, &uuid, crc)?;
    let (id, choice) = join::choose(&survey, &stamps)?;
    Ok((survey, stamps, id, choice))
}

/// Whether every entry lies on main, and its data in the data space of a spare.
///
/// # Errors
///
/// [`Refusal::Entry`] for the first that does not.
pub fn check_entries(header: &Header, table: &Table) -> Result<(), Refusal> {
    let raw = header.raw();
    let layout = header.layout();
    for entry in table.iter() {
        let retired = matches!(entry.mapping, Mapping::Retired { .. });
        let on_main = retired || entry.extent.end().0 <= raw.set.main_sectors.get();
        let on_spare = match entry.mapping {
            Mapping::Pending | Mapping::Lost => true,
            Mapping::Remapped { spare, to }
            | Mapping::Suspect { spare, to }
            | Mapping::Retired { spare, at: to } => {
                let used = raw.spares[spare.0 as usize].used_sectors.get();
                header.spare_state(spare) != SpareState::Unused
                    && (to + entry.extent.len).0 <= used
                    && !layout.is_metadata(to, entry.extent.len)
            }
        };
        if !(on_main && on_spare) {
            return Err(Refusal::Entry(entry.extent.start));
        }
    }
    Ok(())
}

/// Reads the blocks that were chosen for the header in that place, each from a copy that has it.
fn build(
    store: &mut dyn Store,
    stamps: &Stamps,
    choice: &Choice,
    (at, header): (CopyId, &Header),
    crc: Crc32,
) -> Result<Table, Refusal> {
    let (layout, uuid) = (header.layout(), header.uuid());
    let blocks = choice.stamps.len();
    let mut builder = TableBuilder::new(layout.capacity(), blocks as u32)?;
    let mut batch: KVec<Read> = KVec::new();
    let mut first = 0;
    while first < blocks {
        let n = join::READ_AT_ONCE.min(blocks - first);
        // What one copy fails to give again, another may.
        let mut missing = KVec::from_elem(true, n, GFP_KERNEL)?;
        for row in 0..stamps.ids().len() {
            let mut wanted = 0;
            let mut which = KVec::with_capacity(n, GFP_KERNEL)?;
            for i in (0..n).filter(|&i| missing[i]) {
                if stamps.at(row, first + i) == choice.stamps[first + i] {
                    let id = stamps.ids()[row];
                    let at = layout.block(id.copy, BlockIndex((first + i) as u32));
                    let at = at.ok_or(Refusal::Memory)?;
                    // The blocks of the batch before are used again.
                    match batch.get_mut(wanted) {
                        Some(read) => (read.spare, read.at) = (id.spare, at),
                        None => batch.push(Read::new(id.spare, at)?, GFP_KERNEL)?,
                    }
                    wanted += 1;
                    which.push(i, GFP_KERNEL)?;
                }
            }
            let Some(batch) = batch.get_mut(..wanted).filter(|batch| !batch.is_empty()) else {
                continue;
            };
            store.read(batch);
            for (read, &i) in batch.iter().zip(which.iter()) {
                let index = BlockIndex((first + i) as u32);
                let stamp = choice.stamps[first + i];
                if read.result.is_ok() && check_block(&read.block, &uuid, index, crc) == Ok(stamp) {
                    builder.add(index, stamp, entries(&read.block))?;
                    missing[i] = false;
                }
            }
        }
        if let Some(i) = missing.iter().position(|&m| m) {
            let newest = Stand::of(at, header);
            let block = Some(BlockIndex((first + i) as u32));
            return Err(Refusal::Incomplete { newest, block });
        }
        first += n;
    }
    Ok(builder.finish()?)
}

/// Why copies could not be rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RebuildError {
    /// No copy is whole and none could be made so.
    NoCopy,
    /// The state could not be committed anew, although what was tried before has to be superseded.
    InDoubt,
    /// Something else.
    Commit(CommitError),
}

impl fmt::Display for RebuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCopy => f.write_str(
                "no copy of the metadata could be completed; check the spares (a read-only table reads the set as it is)",
            ),
            Self::InDoubt => f.write_str(
                "an unfinished commit of the metadata could not be superseded; check the spares",
            ),
            Self::Commit(e) => e.fmt(f),
        }
    }
}

impl Recovered {
    /// The header that was taken.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The table that was taken.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What a later recovery is quicker with.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn known(&self) -> Result<Known, AllocError> {
        Ok(Known { header: self.header.try_clone()?, table: self.table.clone() })
    }

    /// What each copy is: good, or stale when it lacks something of the state taken.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// The highest version of which a trace was seen, or may be where nothing could be read.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// The [highest](Self::highest) version of the set `set`; 0 if what was found is another set's.
    pub fn highest_of(&self, set: SetUuid) -> u64 {
        if self.header.uuid() == set {
            self.highest
        } else {
            0
        }
    }

    /// The active members that are not there, and are put away by a rebuild.
    pub fn gone(&self) -> SpareSet {
        self.members.gone
    }

    /// The members that were away and are there, and are brought up to date by a rebuild.
    pub fn back(&self) -> SpareSet {
        self.members.back
    }

    /// Whether everything stands as it should, so that a rebuild would write nothing.
    pub fn is_clean(&self) -> bool {
        !self.superseded
            && self.members.are_as_they_were()
            && self.copies.in_state(CopyState::Good) == self.copies.present()
    }

    /// Members that were away and are there stay away, untouched.
    pub fn leave_away(&mut self) {
        self.copies.note_all(CopySet::all(self.members.back), CopyState::Absent);
        self.members.back = SpareSet::NONE;
    }

    /// The state as it was found, for a set that is only read. Copies that lack something stay so,
    /// members that have come back stay away, and what was tried and has not come about is left as it is.
    pub fn into_metadata(self) -> Metadata {
        let mut metadata = self.metadata();
        metadata.in_doubt = false;
        metadata.away_again();
        metadata
    }

    fn metadata(self) -> Metadata {
        Metadata {
            header: self.header,
            table: self.table,
            copies: self.copies,
            highest: self.highest,
            doubt: self.doubt,
            in_doubt: self.superseded,
            overwritten: CopySet::NONE,
            unkept: KVec::new(),
            crc: self.crc,
        }
    }

    /// Brings every copy to the state that was taken. To be done before any other I/O of the set;
    /// cut short at any point, it can be begun again with [`recover`].
    ///
    /// First each member is flushed; if nothing is to be written that is all, and copies on one that fails
    /// it do not count as good. Then one copy is completed by what it lacks, and flushed; then group by group. Where
    /// something newer was seen that did not come about, or might have been, the state is committed
    /// anew at `time` (seconds since 1970) under a higher version. Copies that cannot be written
    /// are left out.
    ///
    /// A commit that begins the history `history`, drawn at random, puts active members away that are
    /// not there, or that take nothing, and makes those active that have come back.
    ///
    /// # Errors
    ///
    /// The set must not be used then; it can be activated again. One with features that forbid to
    /// change anything is left alone if there is anything to do; it can be used
    /// [as it is](Self::into_metadata), to be read.
    pub fn rebuild(
        mut self,
        store: &mut dyn Store,
        time: u64,
        history: u64,
    ) -> Result<Metadata, RebuildError> {
        let is_clean = self.is_clean();
        if self.header.read_only() {
            return match is_clean {
                true => Ok(self.metadata()),
                false => Err(RebuildError::Commit(CommitError::ReadOnly)),
            };
        }
        let (superseded, members, keep) = (self.superseded, self.members, self.newest);
        let crc = self.crc;
        let none = Lacking { blocks: KVVec::new(), header: CopySet::NONE };
        let lacking = core::mem::replace(&mut self.lacking, none);
        let mut metadata = self.metadata();
        // What a flush that fails has lost nobody knows.
        let read = metadata.copies.present();
        let mut lost = CopySet::NONE;
        for spare in store.flush(read.spares()).iter() {
            lost = lost.with(read.on(spare));
        }
        metadata.copies.note_all(lost, CopyState::Stale);
        if is_clean && lost.is_empty() {
            return Ok(metadata);
        }
        let lacks = |id, part| lost.has(id) || lacking.lacks(id, part);
        // What was taken may be a commit that is on its way still: until it stands with every member,
        // no copy says that it does.
        let known = metadata.header.raw().identification.durable_version.get();
        let version = metadata.header.version();
        // Of a spare that fails a flush no more is touched than was: what was read there may be all that there is of it.
        let mut untouched = metadata.copies.in_state(CopyState::Stale);
        let mut fill = |metadata: &mut Metadata, store: &mut dyn Store, ids: CopySet, durable| {
            let ids = ids.and(untouched);
            untouched = untouched.without(ids);
            if ids.is_empty() {
                return Ok(untouched);
            }
            let content =
                Content { header: &metadata.header, table: &metadata.table, durable, crc };
            let outcome =
                content.fill(store, ids, &lacks).map_err(|e| RebuildError::Commit(e.into()))?;
            metadata.copies.note_all(outcome.bad, CopyState::Bad);
            metadata.copies.note_all(outcome.stood, CopyState::Good);
            untouched = untouched.without(CopySet::all(outcome.unflushed.spares()));
            Ok(untouched)
        };
        let mut left = metadata.copies.in_state(CopyState::Stale);
        while metadata.copies.in_state(CopyState::Good).is_empty() {
            let next = left.iter().min_by_key(|&id| (lost.and(keep).has(id), lacking.count(id)));
            let id = next.ok_or(RebuildError::NoCopy)?;
            left = fill(&mut metadata, store, CopySet::one(id), known)?;
        }
        // Nor has a spare that could not be flushed more than one copy touched before one stands.
        let good = metadata.copies.in_state(CopyState::Good).spares();
        let unsure = lost.spares().without(good);
        let firsts = left.without(keep).on_each(unsure);
        let firsts = firsts.with(left.on_each(unsure.without(firsts.spares())));
        left = fill(&mut metadata, store, firsts, known)?;
        let last = left.to_keep(keep);
        fill(&mut metadata, store, left.without(last), known)?;
        let standing = metadata.copies.in_state(CopyState::Good).spares();
        let everywhere = match metadata.active().without(standing).is_empty() {
            true => version,
            false => known,
        };
        fill(&mut metadata, store, last, everywhere)?;

        let standing = metadata.copies.in_state(CopyState::Good).spares();
        let active = metadata.active().without(members.gone);
        let mut change = MemberChange {
            away: members.gone.with(active.without(standing)),
            back: members.back.and(standing),
            history,
        };
        metadata.copies.note_all(CopySet::all(members.back.without(standing)), CopyState::Absent);
        if superseded && change.is_none() {
            let commit = metadata.begin(CommitKind::Recover, time, None, |_| {});
            let prepared = commit.map_err(RebuildError::Commit)?;
            match prepared.write_group_a(store) {
                Ok(in_a) => _ = in_a.write_group_b(store),
                Err(in_doubt) if in_doubt.is_of_memory() => {
                    return Err(RebuildError::Commit(CommitError::Memory));
                }
                Err(in_doubt) => {
                    let lost = in_doubt.lost;
                    change.away = metadata.still_out(store, lost).map_err(RebuildError::Commit)?;
                    if change.is_none() {
                        return Err(RebuildError::InDoubt);
                    }
                }
            }
        }
        if !change.is_none() {
            metadata.change_members(store, time, change, |_| {}).map_err(|e| match e {
                ChangeError::Commit(e) => RebuildError::Commit(e),
                ChangeError::InDoubt | ChangeError::Foreign(_) | ChangeError::Older { .. } => {
                    RebuildError::InDoubt
                }
            })?;
        }
        Ok(metadata)
    }
}
