// SPDX-License-Identifier: GPL-2.0

//! From the v3 format to v4, on a spare that holds data all over the places where v4 keeps its copies.
//!
//! The steps, each durable before the next:
//!
//! 1. **Copy.** Sectors that lie where metadata is to stand are copied to places that nothing uses. What
//!    is to come, a v4 header and its table, is written to such a place too. Nothing that v3 speaks
//!    of is overwritten.
//! 2. **Turn.** The first sector gets a [`Record`] of where that stands. From here on it is what
//!    holds, and v3's entries are not. One sector is written whole or not at all.
//! 3. **Write.** Copies 1 to 4 are written, over what was copied away in step 1.
//! 4. **End.** Copy 0 is written, over v3's header with the record.
//!
//! | cut short in | what is found | what goes on |
//! |---|---|---|
//! | 1 | v3, as it was | from the beginning |
//! | 2 | either of both | as it says |
//! | 3 | the record, and perhaps a copy that is whole | step 3; or activation, which rebuilds the others |
//! | 4 | copies 1 to 4 | activation, or `repair` |
//!
//! A record is followed only as long as the set is of its first version: once it has been in use, the
//! copies say what holds.

use core::fmt;

use super::commit::{describe, Metadata};
use super::copies::CopySet;
use super::digest::Stamp;
use super::entry::{BlockIndex, Mapping};
use super::format::block::{check_block, encode_block, entries};
use super::format::header::{Header, HeaderDecodeError, NewSet, NewSpare};
use super::format::layout::{CopyId, Layout, BLOCK_SECTORS, MIN_SPARE};
use super::format::v3::{
    checksum_fits, entry, header, is_v3, put_record, record, Header3, Record, ENTRY_BYTES,
};
use super::format::{Crc32, SetUuid};
use super::mem::{AllocError, Block, KVVec, KVec, BLOCK_SIZE, GFP_KERNEL};
use super::places::{Place, PlaceError, Places};
use super::recovery::Survey;
use super::rewrite::{finish, rewrite, RewriteError};
use super::store::{Read, SpareSet, Store, Write};
use super::table::{BuildError, EditError, Table, TableBuilder};
use super::units::{Extent, MainSector, Sectors, SpareId, SpareSector, SECTOR_SIZE};

/// A v3 set has one spare.
const SPARE: SpareId = SpareId(0);
/// Where the header of v3 stands.
const START: SpareSector = SpareSector(0);
/// Copy 0, which stands where v3's header did.
const FIRST: CopyId = CopyId { spare: SPARE, copy: 0 };

/// Why a spare is not upgraded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpgradeError {
    /// There was no memory.
    Memory,
    /// It is not in the v3 format.
    NotV3,
    /// It is in the v3 format, but not for a main and a spare of these sizes, or no drawing of the
    /// format makes sense of it.
    Header,
    /// It is in the v3 format, and this copy of a v4 set is there too.
    Both(CopyId, SetUuid),
    /// The spare has fewer sectors than are needed.
    TooSmall(Sectors, Sectors),
    /// This sector cannot be read.
    Unreadable(SpareSector),
    /// This sector, or what was written before it, could not be written.
    Write(SpareSector),
    /// This sector of main has two entries, or is none of it.
    Main(MainSector),
    /// This sector of the spare is in two entries, or in one and not for data.
    Place(SpareSector),
    /// The entries for the logical block at this sector of main are not all there.
    Block(MainSector),
    /// There is no room: sectors that would have to be free in one piece.
    Room(Sectors),
    /// There are more entries than fit.
    Entries,
    /// What an upgrade that was cut short has set down cannot be read any more.
    Record(SpareSector),
    /// An upgrade was cut short, and the set has been in use since.
    InUse(SetUuid),
    /// The copies could not be written.
    Rewrite(RewriteError),
}

impl From<AllocError> for UpgradeError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl From<PlaceError> for UpgradeError {
    fn from(e: PlaceError) -> Self {
        match e {
            PlaceError::NoMemory | PlaceError::Unaligned => Self::Memory,
            PlaceError::Outside(at) | PlaceError::Taken(at) | PlaceError::Free(at) => {
                Self::Place(at)
            }
        }
    }
}

impl From<EditError> for UpgradeError {
    fn from(e: EditError) -> Self {
        match e {
            EditError::NoMemory => Self::Memory,
            _ => Self::Entries,
        }
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("no memory"),
            Self::NotV3 => f.write_str("is not in the v3 format; `dmremap inspect` says what it is"),
            Self::Header => f.write_str(
                "its v3 header makes no sense with this main; check that it is the main of this spare",
            ),
            Self::Both(id, set) => write!(
                f,
                "is in the v3 format, but has {id} of the v4 set {set} too; `dmremap inspect` says more"
            ),
            Self::TooSmall(is, needed) => {
                write!(f, "has {is} sectors and needs {needed}; copy it to a larger device first")
            }
            Self::Unreadable(at) => write!(
                f,
                "cannot be read at sector {at}; copy it to another device, with what can be read, first"
            ),
            Self::Write(at) => {
                write!(f, "cannot be written at sector {at}; copy it to another device first")
            }
            Self::Main(at) => {
                write!(f, "sector {at} of main is remapped twice, or main does not have it")
            }
            Self::Place(at) => {
                write!(f, "the data of two sectors is in its sector {at}, or none can be there")
            }
            Self::Block(at) => {
                write!(f, "only a part of the logical block at sector {at} of main is remapped")
            }
            Self::Room(sectors) => write!(
                f,
                "has no {sectors} free sectors in one piece; copy it to a larger device first"
            ),
            Self::Entries => f.write_str("has more entries than fit, or such as v4 cannot have"),
            Self::Record(at) => write!(
                f,
                "an upgrade was cut short, and what it has set down at sector {at} cannot be read any more; run `dmremap check --level forensic`"
            ),
            Self::InUse(set) => write!(
                f,
                "has been upgraded and in use since, as set {set}; run `dmremap repair`"
            ),
            Self::Rewrite(e) => e.fmt(f),
        }
    }
}

/// What is found on a spare that is to be upgraded.
pub enum Found {
    /// A set in the v3 format.
    V3(Old),
    /// An upgrade that was cut short: it only has to be [ended](New::end).
    CutShort(New),
}

/// A set in the v3 format.
pub struct Old {
    /// What its header says.
    pub header: Header3,
    /// Whether the checksum fits.
    pub checksum_fits: bool,
    /// Its entries, by sector of main.
    pub entries: KVVec<(MainSector, SpareSector)>,
    /// Where the metadata of the set that comes out of it is to stand.
    pub layout: Layout,
}

/// The set that comes out of it.
pub struct New {
    /// Its header, of version 1.
    pub header: Header,
    /// Its table.
    pub table: Table,
}

/// What has to be done to get there.
pub struct Plan {
    /// What comes out.
    pub new: New,
    /// The blocks that are made of sectors that are in the way: where, and for each of its sectors
    /// where that is now.
    pub moves: KVVec<(SpareSector, [Option<SpareSector>; 8])>,
    /// Where the header and the table stand meanwhile.
    pub at: SpareSector,
}

impl Plan {
    /// How many sectors are in the way.
    pub fn sectors(&self) -> usize {
        self.moves.iter().map(|(_, from)| from.iter().flatten().count()).sum()
    }
}

fn read_block(store: &mut dyn Store, at: SpareSector) -> Result<Block, UpgradeError> {
    let mut batch = KVec::with_capacity(1, GFP_KERNEL)?;
    batch.push(Read::new(SPARE, at)?, GFP_KERNEL)?;
    store.read(&mut batch);
    match batch.pop() {
        Some(Read { block, result: Ok(()), .. }) => Ok(block),
        _ => Err(UpgradeError::Unreadable(at)),
    }
}

fn write_block(store: &mut dyn Store, at: SpareSector, block: &Block) -> Result<(), UpgradeError> {
    let mut batch = [Write::new(SPARE, at, block)];
    store.write(&mut batch);
    batch[0].result.map_err(|_| UpgradeError::Write(at))
}

fn flush(store: &mut dyn Store, last: SpareSector) -> Result<(), UpgradeError> {
    let mut spare = SpareSet::NONE;
    spare.add(SPARE);
    if store.flush(spare).is_empty() {
        Ok(())
    } else {
        Err(UpgradeError::Write(last))
    }
}

/// Looks at a spare, the only one of `store`, whose main has `main` sectors.
///
/// # Errors
///
/// See [`UpgradeError`].
pub fn look(store: &mut dyn Store, main: Sectors, crc: Crc32) -> Result<Found, UpgradeError> {
    let first = read_block(store, START)?;
    if !is_v3(&first) {
        return Err(UpgradeError::NotV3);
    }
    if let Some(record) = record(&first, crc) {
        return resume(store, &record, crc).map(Found::CutShort);
    }
    let spare = store.sectors(SPARE);
    if spare < MIN_SPARE {
        return Err(UpgradeError::TooSmall(spare, MIN_SPARE));
    }
    if let Some((id, header)) = Survey::take(store, crc)?.newest() {
        return Err(UpgradeError::Both(id, header.uuid()));
    }
    let header = header(&first, main, spare).ok_or(UpgradeError::Header)?;
    let layout = layout_for(&header).ok_or(UpgradeError::Entries)?;
    let mut list: KVVec<(MainSector, SpareSector)> = KVVec::new();
    let per_block = (BLOCK_SIZE / ENTRY_BYTES) as u64;
    let mut left = u64::from(header.entries);
    let mut at = START + BLOCK_SECTORS;
    while left > 0 {
        let block = read_block(store, at)?;
        for bytes in block.chunks_exact(ENTRY_BYTES).take(left.min(per_block) as usize) {
            list.push(entry(bytes), GFP_KERNEL)?;
        }
        left = left.saturating_sub(per_block);
        at = at + BLOCK_SECTORS;
    }
    list.sort_unstable();
    let twice = |pair: &[(MainSector, SpareSector)]| pair[0].0 == pair[1].0;
    if let Some(pair) = list.windows(2).find(|pair| twice(pair)) {
        return Err(UpgradeError::Main(pair[0].0));
    }
    let used = header.sectors();
    for &(start, place) in list.iter() {
        if start.0 >= main.0 {
            return Err(UpgradeError::Main(start));
        }
        if place.0 < used.0 || place.0 >= spare.0 {
            return Err(UpgradeError::Place(place));
        }
    }
    let checksum_fits = checksum_fits(&first, crc);
    Ok(Found::V3(Old { header, checksum_fits, entries: list, layout }))
}

/// Room for twice as many entries as there are, and never less than what the slots have anyway.
fn layout_for(header: &Header3) -> Option<Layout> {
    Layout::for_max_remaps(2 * u64::from(header.entries))
}

/// What an upgrade that was cut short has set down.
fn resume(store: &mut dyn Store, record: &Record, crc: Crc32) -> Result<New, UpgradeError> {
    let survey = Survey::take(store, crc)?;
    let used = |header: &Header| header.uuid() == record.set && header.version() > 1;
    if survey.headers().any(|(_, header)| used(header)) {
        return Err(UpgradeError::InUse(record.set));
    }
    let lost = |at| UpgradeError::Record(at);
    // Without memory nothing is known of what is there.
    let read = |store: &mut dyn Store, at| {
        read_block(store, at).map_err(|e| if e == UpgradeError::Memory { e } else { lost(at) })
    };
    let no_table = |at| {
        move |e| match e {
            BuildError::NoMemory => UpgradeError::Memory,
            _ => lost(at),
        }
    };
    let end = store.sectors(SPARE).0;
    if record.at.0 % BLOCK_SECTORS.0 != 0 || record.at.0.saturating_add(BLOCK_SECTORS.0) > end {
        return Err(lost(record.at));
    }
    let block = read(store, record.at)?;
    let header = Header::decode(&block, FIRST, crc).map_err(|e| match e {
        HeaderDecodeError::Memory => UpgradeError::Memory,
        HeaderDecodeError::Header(_) => lost(record.at),
    })?;
    let blocks = header.raw().shape.blocks.get();
    let capacity = header.layout().capacity();
    let mut builder = TableBuilder::new(capacity, blocks).map_err(no_table(record.at))?;
    let mut at = record.at;
    for index in (0..blocks).map(BlockIndex) {
        at = at + BLOCK_SECTORS;
        if at.0 + BLOCK_SECTORS.0 > end {
            return Err(lost(at));
        }
        let block = read(store, at)?;
        let stamp: Stamp = check_block(&block, &record.set, index, crc).map_err(|_| lost(at))?;
        builder.add(index, stamp, entries(&block)).map_err(no_table(at))?;
    }
    let table = builder.finish().map_err(no_table(record.at))?;
    if header.uuid() != record.set || table.digest() != header.raw().shape.digest.get() {
        return Err(lost(record.at));
    }
    Ok(New { header, table })
}

impl Old {
    /// What has to be done to make a v4 set of it. Both devices have logical blocks of `logical`
    /// sectors, or one has them and the other smaller ones. `update` fills in what else the header is
    /// to say. `set` has the layout that was [found](Self::layout). Nothing is written.
    ///
    /// # Errors
    ///
    /// See [`UpgradeError`].
    pub fn plan(
        &self,
        store: &dyn Store,
        set: &NewSet<'_>,
        spare: &NewSpare,
        logical: Sectors,
        crc: Crc32,
        update: impl FnOnce(&mut Header),
    ) -> Result<Plan, UpgradeError> {
        let layout = set.layout;
        let sectors = store.sectors(SPARE);
        if !layout.fits(sectors) {
            let needed = Sectors(MIN_SPARE.0.max(layout.end().0 + 1));
            return Err(UpgradeError::TooSmall(sectors, needed));
        }
        let mut places = self.free(&layout, sectors)?;
        let mut moves = KVVec::new();
        let mut edit = Table::empty(layout.capacity())?.edit()?;
        let mut rest = &self.entries[..];
        while let Some(&(start, _)) = rest.first() {
            // All that is in one block of eight sectors of main.
            let block = MainSector(start.0 - start.0 % BLOCK_SECTORS.0);
            let n = rest.partition_point(|(start, _)| *start < block + BLOCK_SECTORS);
            let (these, others) = rest.split_at(n);
            rest = others;
            let mut from = [None; 8];
            for &(start, place) in these {
                from[(start - block).0 as usize] = Some(place);
            }
            let moving = moving(block, &from, &layout, logical)?;
            if moving.iter().any(Option::is_some) {
                let to = places.allocate(BLOCK_SECTORS, block, BLOCK_SECTORS)?;
                let to = to.ok_or(UpgradeError::Room(BLOCK_SECTORS))?;
                for (i, place) in from.iter_mut().enumerate().filter(|(i, _)| moving[*i].is_some())
                {
                    *place = Some(to + Sectors(i as u64));
                }
                moves.push((to, moving), GFP_KERNEL)?;
            }
            for (i, place) in from.iter().enumerate() {
                let Some(to) = *place else { continue };
                let extent = Extent { start: block + Sectors(i as u64), len: Sectors(1) };
                edit.set(extent, Mapping::Remapped { spare: SPARE, to })?;
            }
        }
        let mut header = Header::new(set)?;
        header.add_spare(spare).ok_or(UpgradeError::Entries)?;
        update(&mut header);
        let raw = header.raw_mut();
        raw.version.version.set(1);
        raw.version.created.set(self.header.created);
        raw.statistics.manual_remaps.set(self.header.lifetime);
        let table = finish(edit, &set.uuid, 1, crc)?;
        describe(raw, &table);
        let len = Sectors((u64::from(table.block_count()) + 1) * BLOCK_SECTORS.0);
        let at = places.allocate(BLOCK_SECTORS, MainSector(0), len)?;
        let at = at.ok_or(UpgradeError::Room(len))?;
        Ok(Plan { new: New { header, table }, moves, at })
    }

    /// What is for data in both formats and used by neither.
    fn free(&self, layout: &Layout, sectors: Sectors) -> Result<Places, UpgradeError> {
        let mut regions = KVec::new();
        for (start, len) in layout.data_space(sectors) {
            regions.push(Place { start, len }, GFP_KERNEL)?;
        }
        let mut each = Places::new(&regions, Sectors(1))?;
        let mut places = Places::new(&regions, BLOCK_SECTORS)?;
        // Blocks of eight, of which one sector or several are in use.
        let take = |places: &mut Places, at: SpareSector| {
            let start = SpareSector(at.0 - at.0 % BLOCK_SECTORS.0);
            match places.mark_used(Place { start, len: BLOCK_SECTORS }) {
                Err(PlaceError::NoMemory) => Err(UpgradeError::Memory),
                _ => Ok(()),
            }
        };
        let used = self.header.sectors().0;
        for at in (0..used).step_by(BLOCK_SECTORS.0 as usize) {
            take(&mut places, SpareSector(at))?;
        }
        let mut in_the_way: KVVec<SpareSector> = KVVec::new();
        for &(_, at) in self.entries.iter() {
            take(&mut places, at)?;
            if layout.is_metadata(at, Sectors(1)) {
                in_the_way.push(at, GFP_KERNEL)?;
            } else {
                each.mark_used(Place { start: at, len: Sectors(1) })?;
            }
        }
        in_the_way.sort_unstable();
        match in_the_way.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(UpgradeError::Place(pair[0])),
            None => Ok(places),
        }
    }
}

/// Which of the sectors of a block of main, whose data is in `from`, have to be moved.
fn moving(
    block: MainSector,
    from: &[Option<SpareSector>; 8],
    layout: &Layout,
    logical: Sectors,
) -> Result<[Option<SpareSector>; 8], UpgradeError> {
    let in_the_way = |place: SpareSector| layout.is_metadata(place, Sectors(1));
    let mut moving = from.map(|place| place.filter(|&place| in_the_way(place)));
    let size = (logical.0 as usize).clamp(1, 8);
    for (i, part) in
        from.chunks(size).enumerate().filter(|(_, part)| part.iter().any(Option::is_some))
    {
        let Some(first) = part[0].filter(|_| part.iter().all(Option::is_some)) else {
            return Err(UpgradeError::Block(block + Sectors((i * size) as u64)));
        };
        // A logical block is in one piece, at a place for one.
        let whole = first.0 % size as u64 == 0
            && (0..).zip(part).all(|(n, place)| *place == Some(first + Sectors(n)));
        let here = i * size..(i + 1) * size;
        if !whole || moving[here.clone()].iter().any(Option::is_some) {
            moving[here.clone()].copy_from_slice(&from[here]);
        }
    }
    Ok(moving)
}

impl Plan {
    /// Copies what is in the way, and makes the plan what holds (steps 1 and 2).
    ///
    /// # Errors
    ///
    /// See [`UpgradeError`]. The spare is as it was, as far as v3 speaks of it, unless the last write
    /// was answered with an error; [`look`] then says what it is.
    pub fn begin(self, store: &mut dyn Store, crc: Crc32) -> Result<New, UpgradeError> {
        for (to, from) in self.moves.iter() {
            let mut block = Block::zeroed()?;
            for (i, place) in from.iter().enumerate() {
                let Some(place) = *place else { continue };
                let start = SpareSector(place.0 - place.0 % BLOCK_SECTORS.0);
                let source = read_block(store, start)?;
                let (source_at, at) = ((place - start).0 as usize * SECTOR_SIZE, i * SECTOR_SIZE);
                block[at..at + SECTOR_SIZE]
                    .copy_from_slice(&source[source_at..source_at + SECTOR_SIZE]);
            }
            write_block(store, *to, &block)?;
        }
        let New { header, table } = &self.new;
        write_block(store, self.at, &header.encode(FIRST, 0, crc)?)?;
        for (index, stamp, entries) in table.blocks() {
            let mut block = Block::zeroed()?;
            encode_block(&mut block, &header.uuid(), index, stamp.version, entries, crc);
            let behind = Sectors((u64::from(index.0) + 1) * BLOCK_SECTORS.0);
            write_block(store, self.at + behind, &block)?;
        }
        flush(store, self.at)?;

        let mut first = read_block(store, START)?;
        put_record(&mut first, &Record { set: header.uuid(), at: self.at }, crc);
        write_block(store, START, &first)?;
        flush(store, START)?;
        Ok(self.new)
    }
}

impl New {
    /// Writes the copies (steps 3 and 4).
    ///
    /// # Errors
    ///
    /// See [`UpgradeError`]. It can be done again, after another [`look`].
    pub fn end(self, store: &mut dyn Store, crc: Crc32) -> Result<Metadata, UpgradeError> {
        let mut first = CopySet::NONE;
        first.add(FIRST);
        rewrite(store, self.header, &self.table, first, crc).map_err(UpgradeError::Rewrite)
    }
}
