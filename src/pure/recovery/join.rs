// SPDX-License-Identifier: GPL-2.0

//! Which blocks of which copies make up the newest state that is whole.

use super::super::copies::CopySet;
use super::super::digest::{digest, mix, Stamp};
use super::super::entry::BlockIndex;
use super::super::format::block::check_block;
use super::super::format::header::Header;
use super::super::format::layout::{CopyId, Layout, SLOT_BLOCKS};
use super::super::format::{Crc32, SetUuid};
use super::super::mem::{AllocError, KVVec, KVec, GFP_KERNEL};
use super::super::store::{Read, Store};
use super::super::table::Table;
use super::survey::Survey;
use super::{Refusal, Stand};

/// Blocks that are read at once.
pub(super) const READ_AT_ONCE: usize = 320;

/// Blocks behind those in use that are looked at for traces of commits that did not come about.
const BEHIND: u32 = 64;

/// The most combinations of blocks that are tried for one header.
const COMBINATIONS: usize = 1 << 14;

/// A block that is not there, or not whole. No block has version 0.
const NONE: Stamp = Stamp { version: 0, crc: 0 };

/// The version and checksum of every block of every copy.
pub(super) struct Stamps {
    ids: KVec<CopyId>,
    /// By copy, then by index.
    stamps: KVVec<Stamp>,
    width: usize,
    unreadable: CopySet,
}

impl Stamps {
    /// Reads all blocks.
    pub(super) fn read(
        store: &mut dyn Store,
        survey: &Survey,
        layout: &Layout,
        set: &SetUuid,
        crc: Crc32,
    ) -> Result<Self, AllocError> {
        let used = survey.headers().map(|(_, h)| h.raw().shape.blocks.get()).max().unwrap_or(0);
        let width = used.saturating_add(BEHIND).max(SLOT_BLOCKS).min(layout.capacity()) as usize;
        let mut ids = KVec::new();
        for slot in survey.slots() {
            ids.push(slot.id, GFP_KERNEL)?;
        }
        let mut stamps = KVVec::from_elem(NONE, ids.len() * width, GFP_KERNEL)?;
        let mut unreadable = CopySet::NONE;
        let rows = ids.len().max(1);
        let columns = (READ_AT_ONCE / rows).max(1);
        let mut batch: KVec<Read> = KVec::with_capacity(rows * columns, GFP_KERNEL)?;
        for first in (0..width).step_by(columns) {
            let n = columns.min(width - first);
            let wanted = ids.iter().enumerate().flat_map(|(row, id)| {
                (first..first + n).filter_map(move |i| {
                    let at = layout.block(id.copy, BlockIndex(i as u32))?;
                    Some((row, i, id.spare, at))
                })
            });
            // The blocks of the batch before are used again.
            for (k, (_, _, spare, at)) in wanted.clone().enumerate() {
                match batch.get_mut(k) {
                    Some(read) => (read.spare, read.at) = (spare, at),
                    None => batch.push(Read::new(spare, at)?, GFP_KERNEL)?,
                }
            }
            batch.truncate(wanted.clone().count());
            store.read(&mut batch);
            for (read, (row, i, _, _)) in batch.iter().zip(wanted) {
                if read.result.is_err() {
                    unreadable.add(ids[row]);
                } else if let Ok(stamp) = check_block(&read.block, set, BlockIndex(i as u32), crc) {
                    stamps[row * width + i] = stamp;
                }
            }
        }
        Ok(Self { ids, stamps, width, unreadable })
    }

    /// The copies, one to a row.
    pub(super) fn ids(&self) -> &[CopyId] {
        &self.ids
    }

    /// Block `index` of the copy in that row; version 0 when it is not whole.
    pub(super) fn at(&self, row: usize, index: usize) -> Stamp {
        self.row(row).get(index).copied().unwrap_or(NONE)
    }

    fn row(&self, row: usize) -> &[Stamp] {
        &self.stamps[row * self.width..(row + 1) * self.width]
    }

    /// Whether the copy that has `header` has all blocks for it.
    fn is_whole(&self, id: CopyId, header: &Header) -> bool {
        let row = self.ids.iter().position(|own| *own == id).map(|row| self.row(row));
        row.is_some_and(|row| own_blocks(row, header).is_some())
    }

    /// The copies on each spare that are whole by themselves, of the newest version of which there are
    /// such; where there are none, those with the newest header.
    pub(super) fn newest_on_each(&self, survey: &Survey) -> CopySet {
        let whole = |spare| {
            survey.headers().filter(move |(id, h)| id.spare == spare && self.is_whole(*id, h))
        };
        let mut newest = CopySet::NONE;
        for spare in survey.spares().iter() {
            let version = whole(spare).map(|(_, header)| header.version()).max();
            let of = whole(spare).filter(|(_, header)| Some(header.version()) == version);
            of.for_each(|(id, _)| newest.add(id));
            if version.is_none() {
                newest = newest.with(survey.newest_on_each().on(spare));
            }
        }
        newest
    }

    /// The highest version of any block.
    pub(super) fn highest(&self) -> u64 {
        self.stamps.iter().map(|s| s.version).max().unwrap_or(0)
    }

    /// Whether some block could not be read.
    pub(super) fn unreadable(&self) -> bool {
        !self.unreadable.is_empty()
    }

    /// The newest whole block `index` that is not newer than `version`.
    fn newest(&self, index: usize, version: u64) -> Option<Stamp> {
        (0..self.ids.len())
            .map(|row| self.at(row, index))
            .filter(|s| s.version != 0 && s.version <= version)
            .max_by_key(|s| s.version)
    }
}

/// The blocks that make up a state.
pub(super) struct Choice {
    /// By index.
    pub(super) stamps: KVVec<Stamp>,
}

impl Choice {
    /// Whether `table` was made of these blocks.
    pub(super) fn is_of(&self, table: &Table, layout: &Layout) -> bool {
        table.capacity_blocks() == layout.capacity()
            && table.block_count() as usize == self.stamps.len()
            && table.blocks().all(|(index, stamp, _)| {
                self.stamps.get(index.0 as usize).is_some_and(|own| *own == stamp)
            })
    }
}

/// Why there is nothing to choose for a header.
pub(super) enum Short {
    Memory,
    /// No copy has this block.
    Block(BlockIndex),
    /// All blocks are there and do not add up.
    Digest,
}

impl Short {
    /// Why a set is not activated when the newest header that is whole is this one.
    pub(super) fn refusal(self, id: CopyId, header: &Header) -> Refusal {
        let block = match self {
            Self::Memory => return Refusal::Memory,
            Self::Block(block) => Some(block),
            _ => None,
        };
        Refusal::Incomplete { newest: Stand::of(id, header), block }
    }
}

impl From<AllocError> for Short {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

fn sum(stamps: &[Stamp]) -> u64 {
    digest(stamps.iter().enumerate().map(|(i, &s)| (BlockIndex(i as u32), s)))
}

/// The blocks for `header` in one copy, if they add up.
fn own_blocks<'a>(row: &'a [Stamp], header: &Header) -> Option<&'a [Stamp]> {
    let (version, shape) = (header.version(), &header.raw().shape);
    let row = row.get(..shape.blocks.get() as usize)?;
    let whole = row.iter().all(|s| s.version != 0 && s.version <= version);
    (whole && sum(row) == shape.digest.get()).then_some(row)
}

/// The blocks for `header`, from wherever they are.
pub(super) fn blocks_for(header: &Header, stamps: &Stamps) -> Result<Choice, Short> {
    let (version, shape) = (header.version(), &header.raw().shape);
    let (n, wanted) = (shape.blocks.get() as usize, shape.digest.get());
    // A copy that is whole by itself.
    for row in 0..stamps.ids.len() {
        if let Some(row) = own_blocks(stamps.row(row), header) {
            let mut own = KVVec::with_capacity(n, GFP_KERNEL)?;
            own.extend_from_slice(row, GFP_KERNEL)?;
            return Ok(Choice { stamps: own });
        }
    }
    // The newest of each block.
    let mut chosen = KVVec::with_capacity(n, GFP_KERNEL)?;
    for i in 0..n {
        let newest = stamps.newest(i, version).ok_or(Short::Block(BlockIndex(i as u32)))?;
        chosen.push(newest, GFP_KERNEL)?;
    }
    if sum(&chosen) == wanted {
        return Ok(Choice { stamps: chosen });
    }
    combine(version, wanted, stamps, chosen)
}

/// Tries other blocks than the newest: one may be left of a commit that did not come about.
fn combine(
    version: u64,
    wanted: u64,
    stamps: &Stamps,
    mut chosen: KVVec<Stamp>,
) -> Result<Choice, Short> {
    // For each index that has several, where its choices begin, and how many there are.
    let mut places: KVec<(usize, usize, usize)> = KVec::new();
    let mut choices: KVec<Stamp> = KVec::new();
    let mut combinations = 1usize;
    for (i, &newest) in chosen.iter().enumerate() {
        let begin = choices.len();
        choices.push(newest, GFP_KERNEL)?;
        for row in 0..stamps.ids.len() {
            let s = stamps.at(row, i);
            if s.version != 0 && s.version <= version && !choices[begin..].contains(&s) {
                choices.push(s, GFP_KERNEL)?;
            }
        }
        let n = choices.len() - begin;
        if n == 1 {
            choices.truncate(begin);
            continue;
        }
        places.push((i, begin, n), GFP_KERNEL)?;
        combinations = combinations.saturating_mul(n);
        if combinations > COMBINATIONS {
            return Err(Short::Digest);
        }
    }
    let base = sum(&chosen);
    for combination in 1..combinations {
        let mut rest = combination;
        let mut total = base;
        for &(i, begin, n) in places.iter() {
            let index = BlockIndex(i as u32);
            total = total
                .wrapping_sub(mix(index, choices[begin]))
                .wrapping_add(mix(index, choices[begin + rest % n]));
            rest /= n;
        }
        if total == wanted {
            let mut rest = combination;
            for &(i, begin, n) in places.iter() {
                chosen[i] = choices[begin + rest % n];
                rest /= n;
            }
            return Ok(Choice { stamps: chosen });
        }
    }
    Err(Short::Digest)
}

/// The newest header for which all blocks are there, and its blocks. All others have come from it, or
/// it from them.
///
/// # Errors
///
/// That there is none, or only one that is older than a version that is known to have been durable,
/// or that two of them contradict each other.
pub(super) fn choose(survey: &Survey, stamps: &Stamps) -> Result<(CopyId, Choice), Refusal> {
    let durable = survey
        .headers()
        .map(|(_, h)| h.raw().identification.durable_version.get())
        .max()
        .unwrap_or(0);
    let mut first: Option<Refusal> = None;
    let mut conflict: Option<Refusal> = None;
    let mut last: Option<(u64, u64)> = None;
    loop {
        let rank = |header: &Header| (header.version(), header.history());
        let below = |rank| last.is_none_or(|last| rank < last);
        let next = survey.headers().filter(|(_, h)| below(rank(h)));
        let Some((id, header)) = next.max_by_key(|(_, h)| rank(h)) else {
            return Err(conflict.or(first).unwrap_or(Refusal::Memory));
        };
        last = Some(rank(header));
        match blocks_for(header, stamps) {
            Ok(_) if header.version() < durable => {
                let durable = Refusal::Outdated { found: header.version(), durable };
                return Err(conflict.unwrap_or(durable));
            }
            Ok(choice) => match contradiction(survey, id, header) {
                None => return Ok((id, choice)),
                Some(refusal) => _ = conflict.get_or_insert(refusal),
            },
            Err(Short::Memory) => return Err(Refusal::Memory),
            Err(short) => {
                first.get_or_insert(short.refusal(id, header));
            }
        }
    }
}

/// A whole header that neither is the same state as the one taken, nor superseded by it, nor a later
/// one of its history that did not come about. One that did not come about in a history that began
/// later is superseded: all that it knows to have been durable is in the state taken.
///
/// A place that went bad may keep what once stood there. It does not matter when another copy on the
/// same spare is newer, and says that this one was left out.
fn contradiction(survey: &Survey, id: CopyId, taken: &Header) -> Option<Refusal> {
    let same = |h: &Header| h.version() == taken.version() && h.history() == taken.history();
    let fits = |other: &Header| match same(other) {
        true => other.same_content(taken),
        false => {
            let unfinished =
                other.history() == taken.history() && other.version() > taken.version();
            // Its copies do not all know the same to be durable.
            let mut same = survey.headers().filter(|(_, h)| same(h));
            unfinished || same.any(|(_, taken)| taken.supersedes(other))
        }
    };
    let left_out = |id: CopyId, other: &Header| {
        survey.headers().any(|(beside, newer)| {
            beside.spare == id.spare
                && newer.version() > other.version()
                && fits(newer)
                && newer.is_left_out(id)
        })
    };
    let (other_id, other) = survey.headers().find(|(id, h)| !fits(h) && !left_out(*id, h))?;
    Some(Refusal::Conflict(Stand::of(id, taken), Stand::of(other_id, other)))
}
