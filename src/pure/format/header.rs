// SPDX-License-Identifier: GPL-2.0

//! A header: taken apart, changed and put together again. How it is checked is in `structures`.

mod structures;

use core::mem::offset_of;

pub use structures::{
    check, creation_mark_of, damaged_structures, history_of, place_of, traces, Group, HeaderError,
    Structure, STRUCTURES, STRUCTURE_GROUPS,
};
use structures::{seal, CHECKSUMS};

use super::super::bytes::{FromBytes, IntoBytes};
use super::super::mem::{AllocError, Block, BLOCK_SIZE};
use super::super::store::SpareSet;
use super::super::units::{Sectors, SpareId, MAX_SPARES};
use super::layout::{CopyId, Layout};
use super::raw::*;
use super::{
    Attempt, CommitKind, Crc32, MemberUuid, SetUuid, SpareState, FEATURE_REPLACING, FORMAT,
    KNOWN_READ_ONLY, MAGIC, SIGNATURE, STATE_CREATING,
};

/// What a set is created from.
#[derive(Clone, Copy)]
pub struct NewSet<'a> {
    /// Its UUID, drawn at random.
    pub uuid: SetUuid,
    /// Its first history, drawn at random.
    pub history: u64,
    /// Its name, at most 64 bytes of UTF-8.
    pub name: &'a str,
    /// Now, in seconds since 1970.
    pub time: u64,
    /// Room in the table.
    pub layout: Layout,
    /// Sectors of main that are mapped.
    pub main_sectors: Sectors,
    /// The first of them on main.
    pub main_start: Sectors,
    /// The table line.
    pub line: &'a str,
}

/// What a set is told about a spare that joins it.
#[derive(Clone, Copy)]
pub struct NewSpare {
    /// Its UUID, drawn at random.
    pub uuid: [u8; 16],
    /// What it is recognised by.
    pub fingerprint: RawFingerprint,
    /// The first sector of the device that the set uses.
    pub used_start: Sectors,
    /// How many sectors the set uses.
    pub used_sectors: Sectors,
}

/// A header that is well formed. Its checksums, and what differs between copies, are made when it
/// is [encoded](Self::encode).
pub struct Header(Block);

impl Header {
    /// A header for a set without spares, at version 0.
    ///
    /// # Errors
    ///
    /// Without memory. A name or a line that is too long is cut.
    pub fn new(set: &NewSet<'_>) -> Result<Self, AllocError> {
        let mut header = Self(Block::zeroed()?);
        let raw = header.raw_mut();
        raw.identification.magic = MAGIC;
        raw.identification.signature = SIGNATURE;
        raw.identification.format.set(FORMAT);
        raw.identification.size.set(BLOCK_SIZE as u32);
        raw.version.history.set(set.history);
        raw.version.created.set(set.time);
        raw.version.committed.set(set.time);
        raw.version.kind.set(CommitKind::Create as u32);
        raw.set.uuid = set.uuid.0;
        copy_text(&mut raw.set.name, set.name);
        raw.set.main_sectors.set(set.main_sectors.0);
        raw.set.main_start.set(set.main_start.0);
        raw.shape.capacity.set(set.layout.capacity());
        header.set_line(set.line);
        Ok(header)
    }

    /// Adds a spare behind those that are there, active; `None` when there is no room for one more.
    pub fn add_spare(&mut self, spare: &NewSpare) -> Option<SpareId> {
        let id = SpareId(self.raw().set.spares.get() as u8);
        self.put_spare(id, spare, 0)?;
        Some(id)
    }

    /// Makes a spare the member of that number, active since `version`: a number behind the others, or of
    /// one that has left. Its order is behind all others. `None` when it is no such number.
    pub fn put_spare(&mut self, id: SpareId, spare: &NewSpare, version: u64) -> Option<()> {
        let i = usize::from(id.0);
        let members = self.raw().spares.iter().take(self.spares());
        let order = members.map(|member| member.order.saturating_add(1)).max().unwrap_or(0);
        if i > self.spares()
            || ![SpareState::Unused, SpareState::Left].contains(&self.spare_state(id))
        {
            return None;
        }
        let raw = self.raw_mut();
        let (place, fingerprint) = (raw.spares.get_mut(i)?, raw.fingerprints.get_mut(i)?);
        *place = RawSpare::unused();
        place.uuid = spare.uuid;
        place.order = order;
        place.state = SpareState::Active as u8;
        place.used_start.set(spare.used_start.0);
        place.used_sectors.set(spare.used_sectors.0);
        place.since_version.set(version);
        *fingerprint = spare.fingerprint;
        let spares = raw.set.spares.get().max(u32::from(id.0) + 1);
        raw.set.spares.set(spares);
        Some(())
    }

    /// The bytes, as fields.
    pub fn raw(&self) -> &RawHeader {
        match RawHeader::ref_from_bytes(&self.0[..]) {
            Ok(raw) => raw,
            // The size is that of a block and no field needs alignment.
            Err(_) => unreachable!(),
        }
    }

    /// The bytes, as fields to change. Checksums need no care.
    pub fn raw_mut(&mut self) -> &mut RawHeader {
        match RawHeader::mut_from_bytes(&mut self.0[..]) {
            Ok(raw) => raw,
            Err(_) => unreachable!(),
        }
    }

    /// Another of the same content.
    pub fn try_clone(&self) -> Result<Self, AllocError> {
        let mut block = Block::zeroed()?;
        block.copy_from_slice(&self.0[..]);
        Ok(Self(block))
    }

    /// The set's UUID.
    pub fn uuid(&self) -> SetUuid {
        SetUuid(self.raw().set.uuid)
    }

    /// Whether main is being replaced.
    pub fn is_replacing(&self) -> bool {
        self.raw().features.incompatible.get() & FEATURE_REPLACING != 0
    }

    /// Says whether main is being replaced. When it is not, nothing of an attempt stays.
    pub fn set_replacing(&mut self, is: bool) {
        let raw = self.raw_mut();
        let bits = &mut raw.features.incompatible;
        bits.set(bits.get() & !FEATURE_REPLACING | if is { FEATURE_REPLACING } else { 0 });
        if !is {
            raw.replacement.attempt = Attempt::UNKNOWN.0;
            raw.new_main = RawFingerprint::unknown();
        }
    }

    /// The attempt to replace main that is under way.
    pub fn attempt(&self) -> Attempt {
        Attempt(self.raw().replacement.attempt)
    }

    /// Says that main is being replaced, in this attempt.
    pub fn begin_replacement(&mut self, attempt: Attempt) {
        if !self.is_replacing() || self.attempt() != attempt {
            self.set_replacing(false);
        }
        self.set_replacing(true);
        self.raw_mut().replacement.attempt = attempt.0;
    }

    /// Says that the main that was being replaced is main again. The one that was to be is not to be taken for it.
    pub fn abort_replacement(&mut self, main: RawFingerprint) {
        let raw = self.raw_mut();
        raw.main = main;
        if raw.new_main.sectors.get() != 0 {
            raw.old_main = raw.new_main;
        }
        self.set_replacing(false);
    }

    /// Says that another device is main now. The one that was is not to be taken for it again.
    pub fn end_replacement(&mut self, main: RawFingerprint) {
        let raw = self.raw_mut();
        (raw.old_main, raw.main) = (raw.main, main);
        self.set_replacing(false);
    }

    /// The set's name, as far as it is UTF-8.
    pub fn name(&self) -> &str {
        text(&self.raw().set.name)
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.raw().version.version.get()
    }

    /// The history that the version belongs to.
    pub fn history(&self) -> u64 {
        self.raw().version.history.get()
    }

    /// Where the set's metadata stands.
    pub fn layout(&self) -> Layout {
        Layout::new(self.raw().shape.capacity.get()).unwrap_or(Layout::STANDARD)
    }

    /// How many spares the set has or had.
    pub fn spares(&self) -> usize {
        (self.raw().set.spares.get() as usize).min(MAX_SPARES)
    }

    /// The members in that state.
    pub fn in_state(&self, state: SpareState) -> SpareSet {
        let mut set = SpareSet::NONE;
        let all = (0..self.spares() as u8).map(SpareId);
        all.filter(|&spare| self.spare_state(spare) == state).for_each(|spare| set.add(spare));
        set
    }

    /// The UUID of a member; zero for one that there is not.
    pub fn member(&self, spare: SpareId) -> MemberUuid {
        MemberUuid(self.raw().spares.get(spare.0 as usize).map_or([0; 16], |s| s.uuid))
    }

    /// The state of a spare.
    pub fn spare_state(&self, spare: SpareId) -> SpareState {
        self.raw()
            .spares
            .get(spare.0 as usize)
            .and_then(|s| SpareState::from_raw(s.state))
            .unwrap_or(SpareState::Unused)
    }

    /// Gives the set another name, as much of it as fits.
    pub fn set_name(&mut self, name: &str) {
        copy_text(&mut self.raw_mut().set.name, name);
    }

    /// The table line that was kept.
    pub fn line(&self) -> &str {
        let line = &self.raw().line;
        let len = (line.len.get() as usize).min(LINE_BYTES);
        core::str::from_utf8(&line.text[..len]).unwrap_or("")
    }

    /// Keeps `line`, as much of it as fits.
    pub fn set_line(&mut self, line: &str) {
        let raw = &mut self.raw_mut().line;
        let len = copy_text(&mut raw.text, line);
        raw.len.set(len as u16);
        raw.flags.set(u16::from(len < line.len()));
    }

    /// Whether features that are not known here forbid to change anything.
    pub fn read_only(&self) -> bool {
        self.raw().features.read_only_compatible.get() & !KNOWN_READ_ONLY != 0
    }

    /// Whether that copy was left out of this commit, its place being bad or not up to date.
    pub fn is_left_out(&self, id: CopyId) -> bool {
        let spare = self.raw().spares.get(usize::from(id.spare.0));
        spare.is_some_and(|spare| (spare.copies_out >> id.copy) & 1 != 0)
    }

    /// The newest version that is known to have been durable on that member when it went away; 0 where
    /// nothing is known, or it is not away.
    ///
    /// The low half of it is what is kept. Its value is the highest below the version at which the member
    /// went that ends in that. So one that a writer has left there who does not know of it, from an earlier
    /// absence, says too little at worst.
    pub fn had(&self, member: SpareId) -> u64 {
        let Some(spare) = self.raw().spares.get(usize::from(member.0)) else { return 0 };
        let low = u64::from(spare.had_version.get());
        let last = spare.since_version.get().saturating_sub(1);
        if self.spare_state(member) != SpareState::Away || low == 0 {
            return 0;
        }
        let same = (last & !u64::from(u32::MAX)) | low;
        if same <= last {
            same
        } else {
            same.saturating_sub(1 << 32)
        }
    }

    /// Whether a copy of `history` and `version` lies on the line that led to this header: it is
    /// the same state or an ancestor.
    pub fn descends_from(&self, history: u64, version: u64) -> bool {
        let mine = &self.raw().version;
        if mine.history.get() == history {
            return version <= mine.version.get();
        }
        mine.past
            .iter()
            .take(mine.past_count.get() as usize)
            .any(|past| past.history.get() == history && version <= past.ended.get())
    }

    /// Whether a mark of that history was made for what this set has become.
    pub fn is_meant_by(&self, history: u64) -> bool {
        // Those of a creation said nothing of a history once.
        let created = self.raw().version.kind.get() == CommitKind::Create as u32;
        self.descends_from(history, 0) || history == 0 && created
    }

    /// The newest state that this copy knows to have been durable on every member: its history and
    /// its version.
    ///
    /// Whoever begins a history changes nothing else with that commit, nor anything after it before
    /// every member has a copy that knows of it.
    pub fn known_durable(&self) -> (u64, u64) {
        let mine = &self.raw().version;
        let durable = self.raw().identification.durable_version.get();
        let mut history = mine.history.get();
        for past in mine.past.iter().take(mine.past_count.get() as usize) {
            if durable > past.ended.get() {
                break;
            }
            history = past.history.get();
        }
        (history, durable)
    }

    /// Whether nothing that `other` says has to be kept once this state is there: it is the same
    /// state, an ancestor, or has never been acknowledged beyond one. That is so
    ///
    /// - where it only begins a history: nothing came to pass in it;
    /// - where it goes further than its history did on this line, by a commit that is not known to
    ///   have been durable: if one of those that it had to reach was there when this line left that
    ///   history, and was active in it, it would have gone on from there.
    pub fn supersedes(&self, other: &Self) -> bool {
        if self.descends_from(other.history(), other.version()) {
            return true;
        }
        let (history, durable) = other.known_durable();
        if !self.descends_from(history, durable) {
            return false;
        }
        if other.history() != history {
            return true;
        }
        let mine = &self.raw().version;
        let mut past = mine.past.iter().take(mine.past_count.get() as usize);
        let Some(i) = past.position(|past| past.history.get() == history) else {
            return false;
        };
        // As long as it is not known whether this history has begun, nobody has come along.
        let begun = self.raw().identification.durable_version.get() > mine.past[i].ended.get();
        let carried = SpareSet(if i > 0 || begun { mine.carried[i] } else { 0 });
        !other.in_state(SpareState::Active).and(carried).is_empty()
    }

    /// Leaves the history for `history`, remembering the present version as its last, and the active
    /// members that go on from there.
    ///
    /// When there is no room for one more, the oldest is forgotten that no member needs which is
    /// away: the last one that had ended when it went. There are fewer members than room.
    pub fn begin_history(&mut self, history: u64, carried: SpareSet) {
        let count = (self.raw().version.past_count.get() as usize).min(PAST_HISTORIES);
        let mut needed = [false; PAST_HISTORIES];
        for spare in self.in_state(SpareState::Away).iter() {
            let since = self.raw().spares[spare.0 as usize].since_version.get();
            let past = &self.raw().version.past;
            if let Some(i) = past[..count].iter().position(|past| past.ended.get() < since) {
                needed[i] = true;
            }
        }
        let forgotten = match needed.iter().rposition(|&needed| !needed) {
            Some(oldest) if count == PAST_HISTORIES => oldest,
            _ => count.min(PAST_HISTORIES - 1),
        };
        let durable = self.raw().identification.durable_version.get();
        let raw = &mut self.raw_mut().version;
        if count > 0 && durable <= raw.past[0].ended.get() {
            // Nobody knows whether those who are left behind now had come along.
            raw.carried[0] &= carried.0;
        }
        raw.past.copy_within(..forgotten, 1);
        raw.carried.copy_within(..forgotten, 1);
        raw.carried[0] = carried.0;
        raw.past[0] = RawPast { history: raw.history, ended: raw.version };
        raw.past_count.set((count + 1).min(PAST_HISTORIES) as u32);
        raw.history.set(history);
    }

    /// Whether both say the same, apart from which copies they are, times and checksums.
    pub fn same_content(&self, other: &Self) -> bool {
        let (a, b) = (&self.raw().version, &other.raw().version);
        let gap = offset_of!(RawHeader, reserved)..CHECKSUMS;
        a.version == b.version
            && a.history == b.history
            && a.kind == b.kind
            && a.past_count == b.past_count
            && a.past.as_bytes() == b.past.as_bytes()
            && a.carried == b.carried
            && self.0[gap.clone()] == other.0[gap]
            && STRUCTURES[2..].iter().all(|s| {
                let bytes = s.start..s.start + s.len - 4;
                self.0[bytes.clone()] == other.0[bytes]
            })
    }

    /// The newest version that whoever wrote this has seen stand in one place on every active member; 0 if that is not known.
    pub fn stood(&self) -> u64 {
        let id = &self.raw().identification;
        let same = id.stood_version.get() == id.durable_version.get();
        if same {
            id.durable_version.get()
        } else {
            0
        }
    }

    /// Notes that this version stands on every active member.
    pub fn set_durable(&mut self, version: u64) {
        let id = &mut self.raw_mut().identification;
        id.durable_version.set(version);
        id.stood_version.set(version);
    }

    /// The block that stands as `copy`, written when `durable` was the newest version known to be
    /// durable on every member.
    pub fn encode(&self, copy: CopyId, durable: u64, crc: Crc32) -> Result<Block, AllocError> {
        let mut header = self.try_clone()?;
        let id = &mut header.raw_mut().identification;
        id.copy.set(u16::from(copy.copy));
        id.spare.set(u16::from(copy.spare.0));
        // What this was taken from may have said so without having looked.
        if id.durable_version.get() != durable {
            id.stood_version.set(durable);
        }
        id.durable_version.set(durable);
        id.state.set(0);
        seal(&mut header.0, crc);
        Ok(header.0)
    }

    /// The block that says that a set is to be created here: the first sector of the header with
    /// the [`STATE_CREATING`] bit and nothing else. A sector is written whole or not at all.
    ///
    /// It names the history that begins when who is marked becomes a member: a mark of an attempt that
    /// came to nothing is not taken for that of another.
    pub fn creation_mark(
        &self,
        copy: CopyId,
        history: u64,
        crc: Crc32,
    ) -> Result<Block, AllocError> {
        let mut mark = Self(Block::zeroed()?);
        let raw = mark.raw_mut();
        raw.identification = self.raw().identification;
        raw.set = self.raw().set;
        raw.identification.copy.set(u16::from(copy.copy));
        raw.identification.spare.set(u16::from(copy.spare.0));
        raw.identification.state.set(STATE_CREATING);
        raw.version.history.set(history);
        seal(&mut mark.0, crc);
        let end = STRUCTURE_GROUPS[0].end;
        mark.0[end..].fill(0);
        Ok(mark.0)
    }

    /// Takes over the header in `block` after every check that it allows by itself.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn decode(
        bytes: &[u8; BLOCK_SIZE],
        copy: CopyId,
        crc: Crc32,
    ) -> Result<Self, HeaderDecodeError> {
        check(bytes, copy, crc)?;
        let mut block = Block::zeroed()?;
        block.copy_from_slice(bytes);
        Ok(Self(block))
    }
}

/// Why a header could not be taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderDecodeError {
    /// It is not good.
    Header(HeaderError),
    /// There was no memory.
    Memory,
}

impl From<HeaderError> for HeaderDecodeError {
    fn from(e: HeaderError) -> Self {
        Self::Header(e)
    }
}

impl From<AllocError> for HeaderDecodeError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

fn copy_text(to: &mut [u8], text: &str) -> usize {
    let mut len = text.len().min(to.len());
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    to.fill(0);
    to[..len].copy_from_slice(&text.as_bytes()[..len]);
    len
}

/// Text that is padded with zeroes, as far as it is UTF-8.
pub fn text(bytes: &[u8]) -> &str {
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let bytes = &bytes[..len];
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => core::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or(""),
    }
}
