// SPDX-License-Identifier: GPL-2.0

//! The commit: one atomic, durable change of the metadata.
//!
//! [`Metadata`] is what a set that is in use knows about itself. A commit goes through types, each
//! of which allows only what may come next:
//!
//! ```text
//! Metadata::begin -> Prepared::write_group_a -> InGroupA::write_group_b -> Persist
//!                                  |                (durable: may be published and acknowledged)
//!                                  `-> InDoubt      (neither done nor undone)
//! ```
//!
//! **Why it is atomic.** A group is overwritten in place, so while it is being written each of its
//! copies may hold the state before, the one after, or a mixture that is torn at any sector. The
//! other group holds the state before, whole, and is not touched until the first has been flushed.
//! Recovery takes a header only if blocks can be found, in whichever copies, that add up to its
//! digest: either the new state stands somewhere, in parts, or the old one does.
//!
//! **In doubt.** When the writes of group A fail, some of them may yet have reached a disk. The
//! commit may be found by the next activation, or not, until a later one is durable. Nothing is
//! undone: the next commit has a higher version, says what is to hold, and writes every block anew
//! that a commit in doubt may have left somewhere, so that none of them is newer than its own.
//! A version number is used once.
//!
//! **Members.** Group A has to stand on every active member. One that takes nothing any more
//! is put away ([`Metadata::go_on_without`]), and one that has come back is made active again
//! ([`Metadata::take_back`]), by a commit that changes nothing else and begins a
//! history: that is how what a member has, and what it might be used for without the others, can be
//! told from what they have gone on to, and what such a commit has left on it alone from later ones.

mod members;
mod others;
mod succession;
mod write;

use core::fmt;

pub use members::{ChangeError, MemberChange};
pub use others::Left;
pub use succession::{JoinError, Succeeded, Succession};
use write::{write_group, Headers};
pub(crate) use write::{Content, FillError};

use super::copies::{draw_groups, Copies, CopySet, CopyState};
use super::digest::Stamp;
use super::entry::{BlockIndex, PackedEntry};
use super::format::block::encode_block;
use super::format::header::Header;
use super::format::layout::{CopyId, COPIES};
use super::format::raw::RawHeader;
use super::format::{CommitKind, Crc32, SpareState, FEATURE_BAD_PLACES, FEATURE_LOST};
use super::mem::{AllocError, Block, KVVec, KVec, GFP_KERNEL};
use super::settings::{
    Setting, Settings, ASSEMBLE_CONFIRM, ASSEMBLE_DEGRADED, ASSEMBLE_MIN_MATCH, MIN_COPIES, PRIMARY,
};
use super::store::{SpareSet, Store};
use super::table::{BuildError, Edit, EditError, Table, TableBuilder};
use super::units::SpareId;

/// How well the metadata is kept, as `persist=` says in the status line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist {
    /// Every copy is good and carries the newest version.
    Enabled,
    /// Some copies do not, those of a member that is away perhaps, but enough do to go on.
    Degraded,
    /// A commit is in doubt, or too few copies are good to change anything.
    Failed,
}

impl Persist {
    /// The word in the status line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// Why a commit could not begin, or copies not be written. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitError {
    /// Fewer copies are good than `min_copies` asks for, or there is no second group.
    TooFewCopies {
        /// Good copies.
        good: usize,
        /// How many are needed.
        needed: usize,
    },
    /// This active spare has no good copy.
    NoCopyOn(SpareId),
    /// The metadata has features that are not known here and forbid to change anything.
    ReadOnly,
    /// The version numbers are used up.
    Versions,
    /// There was no memory.
    Memory,
    /// The change of the table did not come about.
    Edit(EditError),
    /// The table in memory is not what it was: this block of it.
    Corrupt(BlockIndex),
}

impl From<AllocError> for CommitError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<FillError> for CommitError {
    fn from(e: FillError) -> Self {
        match e {
            FillError::Memory => Self::Memory,
            FillError::Corrupt(index) => Self::Corrupt(index),
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewCopies { good, needed } => write!(
                f,
                "{good} good copies of the metadata, {needed} are needed for a change; try `repair`"
            ),
            Self::NoCopyOn(spare) => {
                write!(f, "no good copy of the metadata on spare {spare}; try `repair`")
            }
            Self::ReadOnly => f.write_str("the set has features of a newer dm-remap; use that"),
            Self::Versions => f.write_str("the version numbers of the metadata are used up"),
            Self::Memory => f.write_str("no memory for the metadata"),
            Self::Edit(e) => e.fmt(f),
            Self::Corrupt(index) => {
                write!(f, "table block {index} has changed in memory; check the machine's memory")
            }
        }
    }
}

/// What a set that is in use knows about itself: the newest durable state, and what is known about
/// the copies of it.
///
/// # Invariants
///
/// - `header` and `table` are the newest durable state; they belong together.
/// - Every [`Good`](CopyState::Good) copy carries exactly that state, whole and flushed.
/// - Copies of members that are away are [`Absent`](CopyState::Absent), unless they are being
///   brought up to date.
/// - `highest` is not below any version that was ever found on a copy or tried.
/// - `doubt` has every block of which a copy may hold a newer version than `table` says.
pub struct Metadata {
    pub(crate) header: Header,
    pub(crate) table: Table,
    pub(crate) copies: Copies,
    pub(crate) highest: u64,
    pub(crate) doubt: KVVec<BlockIndex>,
    pub(crate) in_doubt: bool,
    pub(crate) crc: Crc32,
    /// Somebody else has written over these copies since; they stay so until a person asks for a
    /// [repair](Metadata::repair).
    pub(crate) overwritten: CopySet,
    /// Settings that are in force and that no commit has kept yet.
    pub(crate) unkept: KVec<(&'static Setting, u64)>,
}

impl Metadata {
    /// The header of the newest durable state.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The table of the newest durable state.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The settings in force: those of the newest durable state, and [what is still to be
    /// kept](Self::put_settings).
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::from_raw(&self.header.raw().settings);
        settings.put_all(&self.unkept);
        settings
    }

    /// Puts settings in force that [`Setting::parse`] has accepted. The next commit that comes about
    /// keeps them, whatever it is for. Until then `min_copies`, which says whether one may, is what was
    /// kept. `false`: they are what holds already.
    pub fn put_settings(&mut self, settings: KVec<(&'static Setting, u64)>) -> bool {
        let before = self.settings();
        self.unkept = settings;
        if self.settings() == before {
            self.unkept.clear();
        }
        self.has_unkept()
    }

    /// Whether there are settings in force that no commit has kept yet.
    pub fn has_unkept(&self) -> bool {
        !self.unkept.is_empty()
    }

    /// Takes those out of force.
    pub fn take_unkept(&mut self) -> KVec<(&'static Setting, u64)> {
        core::mem::take(&mut self.unkept)
    }

    /// The newest durable version.
    pub fn version(&self) -> u64 {
        self.header.version()
    }

    /// What is known about each copy.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Whether a commit was begun that may or may not be found by the next activation.
    pub fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// How many good copies a change needs: never more than there are, nor fewer than two.
    pub fn min_copies(&self) -> usize {
        let wanted = Settings::get_raw(&self.header.raw().settings, &MIN_COPIES);
        (wanted as usize).min(self.copies.present().count().max(2))
    }

    /// How well the metadata is kept.
    pub fn persist(&self) -> Persist {
        let good = self.copies.in_state(CopyState::Good);
        if self.in_doubt || self.groups(&self.header).is_err() {
            Persist::Failed
        } else if good == self.copies.present() && self.away().is_empty() {
            Persist::Enabled
        } else {
            Persist::Degraded
        }
    }

    /// The members that every commit has to reach.
    pub fn active(&self) -> SpareSet {
        self.header.in_state(SpareState::Active)
    }

    /// The members that are away.
    pub fn away(&self) -> SpareSet {
        self.header.in_state(SpareState::Away)
    }

    /// The groups for a commit of `header`.
    fn groups(&self, header: &Header) -> Result<(CopySet, CopySet), CommitError> {
        let active = header.in_state(SpareState::Active);
        let good = self.copies.in_state(CopyState::Good).and(CopySet::all(active));
        if let Some(spare) = active.iter().find(|&s| good.on(s).is_empty()) {
            return Err(CommitError::NoCopyOn(spare));
        }
        let (good_count, needed) = (good.count(), self.min_copies());
        match draw_groups(good) {
            Some(groups) if good_count >= needed => Ok(groups),
            _ => Err(CommitError::TooFewCopies { good: good_count, needed }),
        }
    }

    /// Begins a commit of kind `kind` at `time` (seconds since 1970): `edit` is a change of
    /// [`table`](Self::table), if any; `update` changes whatever else it likes in the header. All
    /// blocks and headers are encoded here, once; nothing is written.
    ///
    /// What it costs in writes is the header and the blocks that the edit touched, per copy.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, no version is used up.
    pub fn begin(
        &mut self,
        kind: CommitKind,
        time: u64,
        edit: Option<Edit>,
        update: impl FnOnce(&mut Header),
    ) -> Result<Prepared<'_>, CommitError> {
        let mut header = self.next_header()?;
        update(&mut header);
        self.prepare(header, kind, time, edit)
    }

    /// The header for a commit, before what it is for is put into it.
    fn next_header(&self) -> Result<Header, AllocError> {
        let mut header = self.header.try_clone()?;
        if self.has_unkept() {
            self.settings().to_raw(&mut header.raw_mut().settings);
        }
        Ok(header)
    }

    fn prepare(
        &mut self,
        mut header: Header,
        kind: CommitKind,
        time: u64,
        edit: Option<Edit>,
    ) -> Result<Prepared<'_>, CommitError> {
        if self.header.read_only() {
            return Err(CommitError::ReadOnly);
        }
        let version = self.highest.max(self.version()).checked_add(1);
        let version = version.filter(|&v| v < u64::MAX).ok_or(CommitError::Versions)?;
        let (group_a, group_b) = self.groups(&header)?;
        let mut blocks = KVVec::new();
        let (uuid, crc) = (header.uuid(), self.crc);
        let mut encode = |index: BlockIndex, entries: &[PackedEntry]| {
            let mut block = Block::zeroed()?;
            let stamp = encode_block(&mut block, &uuid, index, version, entries, crc);
            blocks.push((index, block), GFP_KERNEL)?;
            Ok::<u32, AllocError>(stamp.crc)
        };
        let mut table = match edit {
            Some(edit) => edit.finish(version, &mut encode).map_err(CommitError::Edit)?.table,
            None => self.table.clone(),
        };
        if !self.doubt.is_empty() {
            table = write_anew(&table, &self.doubt, version, &mut encode)?;
        }

        let active = CopySet::all(header.in_state(SpareState::Active));
        // Every member that is active now has it.
        let known = self.header.stood();
        let raw = header.raw_mut();
        raw.version.version.set(version);
        raw.version.committed.set(time);
        raw.version.kind.set(kind as u32);
        describe(raw, &table);
        instruct(raw, active.spares());
        raw.statistics.commits.set(raw.statistics.commits.get().saturating_add(1));
        let out = self.copies.present().and(active).without(group_a).without(group_b);
        for (i, spare) in raw.spares.iter_mut().enumerate() {
            let id = |copy| CopyId { spare: SpareId(i as u8), copy };
            spare.copies_out = (0..COPIES as u8).filter(|&c| out.has(id(c))).map(|c| 1 << c).sum();
            if SpareState::from_raw(spare.state) != Some(self.header.spare_state(SpareId(i as u8)))
            {
                spare.since_version.set(version);
                let away = spare.state == SpareState::Away as u8;
                spare.had_version.set(if away { known as u32 } else { 0 });
            }
        }

        let headers = |group: CopySet, durable| {
            let mut headers = Headers::with_capacity(group.count(), GFP_KERNEL)?;
            for id in group.iter() {
                headers.push((id, header.encode(id, durable, crc)?), GFP_KERNEL)?;
            }
            Ok::<Headers, AllocError>(headers)
        };
        let headers_a = headers(group_a, self.version())?;
        let headers_b = headers(group_b, version)?;
        // What has to be noted when the commit gets into doubt must not need memory then.
        self.doubt.reserve(blocks.len(), GFP_KERNEL)?;
        Ok(Prepared {
            group_a,
            group_b,
            headers_a,
            headers_b,
            blocks,
            header,
            table,
            metadata: self,
        })
    }

    /// Writes every copy anew, whole, that is there and not good, those too whose place was bad, and
    /// takes back those that stand. Returns how many.
    ///
    /// # Errors
    ///
    /// See [`CommitError`].
    pub fn repair(&mut self, store: &mut dyn Store) -> Result<usize, CommitError> {
        if self.header.read_only() {
            return Err(CommitError::ReadOnly);
        }
        let stood = self.write_anew(store, CopySet::NONE)?;
        self.overwritten = CopySet::NONE;
        Ok(stood)
    }

    /// Writes every copy anew that is there and neither good nor one of `but`.
    fn write_anew(&mut self, store: &mut dyn Store, but: CopySet) -> Result<usize, CommitError> {
        let good = self.copies.in_state(CopyState::Good);
        let targets = self.copies.present().without(good).without(but);
        if targets.is_empty() {
            return Ok(0);
        }
        // Until it is whole it is not what it was either.
        self.copies.note_all(targets, CopyState::Stale);
        Ok(self.fill(store, targets, CopySet::NONE)?.count())
    }

    /// A [repair](Self::repair) that nobody has asked for: what somebody else has written there stays, and `None` says that nothing was tried.
    ///
    /// # Errors
    ///
    /// As of [`repair`](Self::repair).
    pub fn mend(&mut self, store: &mut dyn Store) -> Result<Option<usize>, CommitError> {
        let bad = self.copies.in_state(CopyState::Bad).with(self.copies.in_state(CopyState::Stale));
        if !self.overwritten.is_empty() && bad.without(self.overwritten).is_empty() {
            return Ok(None);
        }
        if self.header.read_only() {
            return Err(CommitError::ReadOnly);
        }
        self.write_anew(store, self.overwritten).map(Some)
    }

    /// Writes copies anew, whole, and notes what became of them. Returns those that stand.
    ///
    /// On a spare that has no good copy, some are left alone until the others stand: what they have
    /// may be all that it has. `keep` says which; where it says nothing, any. They stay as they are if the flush of the others fails.
    fn fill(
        &mut self,
        store: &mut dyn Store,
        copies: CopySet,
        keep: CopySet,
    ) -> Result<CopySet, CommitError> {
        let good = CopySet::all(self.copies.in_state(CopyState::Good).spares());
        let mut last = copies.without(good).to_keep(keep);
        let mut all = CopySet::NONE;
        let mut group = copies.without(last);
        loop {
            let content = Content {
                header: &self.header,
                table: &self.table,
                durable: self.header.version(),
                crc: self.crc,
            };
            let outcome = content.fill(store, group, &|_, _| true)?;
            self.copies.note_all(outcome.bad, CopyState::Bad);
            self.copies.note_all(outcome.stood, CopyState::Good);
            self.overwritten = self.overwritten.without(outcome.stood);
            all = all.with(outcome.stood);
            last = last.without(CopySet::all(outcome.unflushed.spares()));
            if last.is_empty() {
                return Ok(all);
            }
            // Where nothing of the others stands, one by one.
            let stand = CopySet::all(all.spares());
            group = last.and(stand).with(last.without(stand).on_each(last.spares()));
            last = last.without(group);
        }
    }

    /// Takes over what reading the same state again has found of its copies: those that are not whole
    /// do not count as good until they are [repaired](Self::repair).
    pub fn copies_read(&mut self, found: &Copies) {
        let good = found.in_state(CopyState::Good);
        let lost = self.copies.in_state(CopyState::Good).without(good);
        self.copies.note_all(lost, CopyState::Stale);
    }

    /// Notes that somebody else has written to the spares, versions of this set up to `highest` perhaps (0
    /// for none): no copy counts as good until it is [repaired](Self::repair), and none of these versions is
    /// used again.
    pub fn copies_overwritten(&mut self, highest: u64) {
        self.written_over(self.copies.present(), highest);
    }

    fn written_over(&mut self, copies: CopySet, highest: u64) {
        self.copies.note_all(copies, CopyState::Stale);
        self.overwritten = self.overwritten.with(copies);
        self.highest = self.highest.max(highest);
    }

    /// Whether somebody else has written over copies, and nobody has asked for a
    /// [repair](Self::repair) since.
    pub fn is_overwritten(&self) -> bool {
        !self.overwritten.is_empty()
    }

    /// What the state on the spares is to the one in memory.
    pub fn relation(&self, on_disk: &Header) -> Relation {
        let mine = &self.header;
        let same_line = on_disk.history() == mine.history();
        if same_line && on_disk.version() == mine.version() {
            if on_disk.same_content(mine) {
                Relation::Same
            } else {
                Relation::Conflict
            }
        } else if on_disk.uuid() != mine.uuid() {
            Relation::OtherSet
        } else if on_disk.descends_from(mine.history(), mine.version()) {
            Relation::Descendant
        } else if mine.descends_from(on_disk.history(), on_disk.version()) {
            Relation::Ancestor
        } else {
            Relation::Conflict
        }
    }
}

/// What the state found on the spares is to the one in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// The same state.
    Same,
    /// It came from the one in memory.
    Descendant,
    /// The one in memory came from it.
    Ancestor,
    /// Neither came from the other.
    Conflict,
    /// It is another set's.
    OtherSet,
}

/// Makes a header say what it has to about its table.
pub(super) fn describe(raw: &mut RawHeader, table: &Table) {
    let (shape, totals) = (&mut raw.shape, table.totals());
    shape.blocks.set(table.block_count());
    shape.entries.set(totals.extents);
    shape.digest.set(table.digest());
    shape.remapped.set(totals.remapped.0);
    shape.pending.set(totals.pending.0);
    shape.retired.set(totals.retired.0);
    let mut features = raw.features.incompatible.get();
    if totals.retired.0 > 0 || totals.suspect().0 > 0 {
        features |= FEATURE_BAD_PLACES;
    }
    if totals.lost.0 > 0 {
        features |= FEATURE_LOST;
    }
    raw.features.incompatible.set(features);
}

/// Makes a header say what assembly goes by to a reader who does not know the settings: they are what
/// holds.
fn instruct(raw: &mut RawHeader, active: SpareSet) {
    let get = |setting| Settings::get_raw(&raw.settings, setting);
    let (confirm, degraded) = (get(&ASSEMBLE_CONFIRM), get(&ASSEMBLE_DEGRADED));
    let (least, wanted) = (get(&ASSEMBLE_MIN_MATCH), SpareId(get(&PRIMARY) as u8));
    let order = |id: &SpareId| raw.spares.get(usize::from(id.0)).map(|spare| spare.order);
    let primary = active.iter().min_by_key(|id| (*id != wanted, order(id)));
    raw.assembly.required.set(u32::from(active.0));
    raw.assembly.primary.set(primary.map_or(0, |id| u32::from(id.0)));
    raw.assembly.flags.set((confirm | (degraded << 1)) as u32);
    raw.assembly.min_match.set(least as u32);
}

/// `table` with the blocks of `which` as of `version`, the content unchanged. Those that are of that
/// version already are left alone.
pub(super) fn write_anew(
    table: &Table,
    which: &[BlockIndex],
    version: u64,
    encode: &mut impl FnMut(BlockIndex, &[PackedEntry]) -> Result<u32, AllocError>,
) -> Result<Table, CommitError> {
    let built = |e| match e {
        BuildError::NoMemory => CommitError::Memory,
        BuildError::Index(b)
        | BuildError::Twice(b)
        | BuildError::Missing(b)
        | BuildError::Long(b)
        | BuildError::Entry { block: b, .. }
        | BuildError::Order { block: b, .. }
        | BuildError::Overlap { block: b, .. } => CommitError::Corrupt(b),
        BuildError::Capacity { .. } => CommitError::Corrupt(BlockIndex(0)),
    };
    let mut builder =
        TableBuilder::new(table.capacity_blocks(), table.block_count()).map_err(built)?;
    for (index, stamp, entries) in table.blocks() {
        let stamp = if stamp.version < version && which.contains(&index) {
            Stamp { version, crc: encode(index, entries)? }
        } else {
            stamp
        };
        builder.add(index, stamp, entries).map_err(built)?;
    }
    builder.finish().map_err(built)
}

/// A commit that is encoded and not yet written. Dropped, it never was.
#[must_use = "a commit that is not written never was"]
pub struct Prepared<'a> {
    metadata: &'a mut Metadata,
    header: Header,
    table: Table,
    blocks: KVVec<(BlockIndex, Block)>,
    group_a: CopySet,
    group_b: CopySet,
    headers_a: Headers,
    headers_b: Headers,
}

impl<'a> Prepared<'a> {
    /// The version that it makes.
    pub fn version(&self) -> u64 {
        self.header.version()
    }

    /// The table that it makes. It must not be published yet.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// How many table blocks it writes to each copy, besides the header.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Writes and flushes group A. Everything that the commit depends on has been flushed before.
    ///
    /// # Errors
    ///
    /// [`InDoubt`] when it did not reach every active spare: the state in memory is as before, but
    /// the next activation may find the commit. What it concerns must be answered with errors until
    /// a later commit is durable.
    pub fn write_group_a(self, store: &mut dyn Store) -> Result<InGroupA<'a>, InDoubt> {
        let Self { metadata, header, table, blocks, group_a, group_b, headers_a, headers_b } = self;
        let version = header.version();
        let was_in_doubt = metadata.in_doubt;
        let known = metadata.doubt.len();
        let lost = SpareSet::NONE;
        metadata.highest = version;
        metadata.in_doubt = true;
        metadata.copies.note_all(group_a, CopyState::Stale);
        for (index, _) in blocks.iter() {
            // There is room for it: `begin` has seen to that.
            if metadata.doubt.push(*index, GFP_KERNEL).is_err() {
                return Err(InDoubt { version, lost, bad: CopySet::NONE, unflushed: group_a });
            }
        }
        let layout = header.layout();
        let Ok(outcome) = write_group(store, &layout, &blocks, &headers_a) else {
            // Nothing was written.
            metadata.doubt.truncate(known);
            metadata.in_doubt = was_in_doubt;
            metadata.copies.note_all(group_a, CopyState::Good);
            let none = CopySet::NONE;
            return Err(InDoubt { version, lost, bad: none, unflushed: none });
        };
        metadata.copies.note_all(outcome.bad, CopyState::Bad);
        let lost = header.in_state(SpareState::Active).without(outcome.stood.spares());
        if !lost.is_empty() {
            let (bad, unflushed) = (outcome.bad, outcome.unflushed);
            return Err(InDoubt { version, lost, bad, unflushed });
        }
        metadata.header = header;
        metadata.header.set_durable(version);
        metadata.table = table;
        metadata.unkept.clear();
        metadata.doubt.clear();
        metadata.in_doubt = false;
        metadata.copies.note_all(outcome.stood, CopyState::Good);
        metadata.copies.note_all(group_b, CopyState::Stale);
        metadata.away_again();
        Ok(InGroupA { metadata, blocks, headers_b })
    }
}

/// A commit that stands in group A: it has happened. It may be published and acknowledged. Group B
/// is to be written at once; when that does not happen its copies are left out until they are
/// [repaired](Metadata::repair).
#[must_use = "group B is to be written at once"]
pub struct InGroupA<'a> {
    metadata: &'a mut Metadata,
    blocks: KVVec<(BlockIndex, Block)>,
    headers_b: Headers,
}

impl InGroupA<'_> {
    /// The table that holds now.
    pub fn table(&self) -> &Table {
        &self.metadata.table
    }

    /// The version that holds now.
    pub fn version(&self) -> u64 {
        self.metadata.version()
    }

    fn group_b(&self) -> CopySet {
        let mut group = CopySet::NONE;
        self.headers_b.iter().for_each(|(id, _)| group.add(*id));
        group
    }

    /// Writes and flushes group B, and says how well the metadata is kept then. Copies that fail are
    /// left out.
    pub fn write_group_b(mut self, store: &mut dyn Store) -> Persist {
        // Without memory the group stays stale.
        let _ = self.try_write_group_b(store);
        self.metadata.persist()
    }

    /// The same, for who has to know that there was no memory.
    pub(super) fn try_write_group_b(&mut self, store: &mut dyn Store) -> Result<(), AllocError> {
        let Self { metadata, blocks, headers_b } = self;
        let layout = metadata.header.layout();
        let outcome = write_group(store, &layout, blocks, headers_b)?;
        metadata.copies.note_all(outcome.bad, CopyState::Bad);
        metadata.copies.note_all(outcome.stood, CopyState::Good);
        Ok(())
    }
}

/// A commit that did not reach every active spare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InDoubt {
    /// Its version.
    pub version: u64,
    /// The active members that it did not reach.
    pub lost: SpareSet,
    /// Copies whose writes failed.
    pub bad: CopySet,
    /// Copies that were written but not flushed.
    pub unflushed: CopySet,
}

impl InDoubt {
    /// Whether nothing was written, as there was no memory for it: nothing is in doubt that was not before.
    pub fn is_of_memory(&self) -> bool {
        self.bad.is_empty() && self.unflushed.is_empty()
    }
}

impl fmt::Display for InDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "commit {} of the metadata is in doubt:", self.version)?;
        if self.is_of_memory() {
            return f.write_str(" no memory, nothing was written");
        }
        for id in self.bad.iter() {
            write!(f, " {id} could not be written;")?;
        }
        for id in self.unflushed.iter() {
            write!(f, " {id} could not be flushed;")?;
        }
        f.write_str(" try `repair`")
    }
}
