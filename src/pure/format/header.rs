// SPDX-License-Identifier: GPL-2.0

//! A header: taken apart, checked, changed and put together again.

use core::fmt;
use core::mem::{offset_of, size_of};

use super::super::bytes::{FromBytes, IntoBytes};
use super::super::mem::{is_zero, AllocError, Block, BLOCK_SIZE};
use super::super::store::SpareSet;
use super::super::units::{Sectors, SpareId, MAX_SPARES};
use super::layout::{CopyId, Layout, COPIES, MAX_BLOCKS};
use super::raw::*;
use super::{
    Attempt, CommitKind, Crc32, MemberUuid, SetUuid, SpareState, FEATURE_REPLACING, FORMAT,
    KNOWN_INCOMPATIBLE, KNOWN_READ_ONLY, MAGIC, MAGIC_V3, SIGNATURE, STATE_CREATING,
};

/// A structure of the header: its name, its first byte, its length. Its checksum is its last four
/// bytes, over the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Structure {
    /// What people call it.
    pub name: &'static str,
    /// Its first byte in the header.
    pub start: usize,
    /// Its length in bytes.
    pub len: usize,
}

/// A group of neighbouring structures. Its checksum is that over the checksums of its structures, in
/// their order.
///
/// Not over their bytes: what ends in its own CRC-32 always takes a CRC-32 to the same value, so one
/// over the bytes of several structures would be the same number whatever they say, and a header
/// torn between two versions would pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// What people call it.
    pub name: &'static str,
    /// Its first byte in the header.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

const fn structure(name: &'static str, start: usize, len: usize) -> Structure {
    Structure { name, start, len }
}

const FP: usize = size_of::<RawFingerprint>();
const FPS: usize = offset_of!(RawHeader, fingerprints);
const SP: usize = size_of::<RawSpare>();
const SPS: usize = offset_of!(RawHeader, spares);

/// Every structure of the header, in the order in which they stand.
pub static STRUCTURES: [Structure; 31] = [
    structure("identification", 0, size_of::<RawIdentification>()),
    structure("version control", offset_of!(RawHeader, version), size_of::<RawVersion>()),
    structure("set", offset_of!(RawHeader, set), size_of::<RawSet>()),
    structure("features", offset_of!(RawHeader, features), size_of::<RawFeatures>()),
    structure("table shape", offset_of!(RawHeader, shape), size_of::<RawShape>()),
    structure("fingerprint of main", offset_of!(RawHeader, main), FP),
    structure("fingerprint of spare 0", FPS, FP),
    structure("fingerprint of spare 1", FPS + FP, FP),
    structure("fingerprint of spare 2", FPS + 2 * FP, FP),
    structure("fingerprint of spare 3", FPS + 3 * FP, FP),
    structure("fingerprint of spare 4", FPS + 4 * FP, FP),
    structure("fingerprint of spare 5", FPS + 5 * FP, FP),
    structure("fingerprint of spare 6", FPS + 6 * FP, FP),
    structure("fingerprint of spare 7", FPS + 7 * FP, FP),
    structure("spare 0", SPS, SP),
    structure("spare 1", SPS + SP, SP),
    structure("spare 2", SPS + 2 * SP, SP),
    structure("spare 3", SPS + 3 * SP, SP),
    structure("spare 4", SPS + 4 * SP, SP),
    structure("spare 5", SPS + 5 * SP, SP),
    structure("spare 6", SPS + 6 * SP, SP),
    structure("spare 7", SPS + 7 * SP, SP),
    structure("table line", offset_of!(RawHeader, line), size_of::<RawLine>()),
    structure("settings", offset_of!(RawHeader, settings), size_of::<RawSettings>()),
    structure("assembly", offset_of!(RawHeader, assembly), size_of::<RawAssembly>()),
    structure("statistics", offset_of!(RawHeader, statistics), size_of::<RawStatistics>()),
    structure("scan", offset_of!(RawHeader, scan), size_of::<RawScan>()),
    structure("health", offset_of!(RawHeader, health), size_of::<RawHealth>()),
    structure("replacement", offset_of!(RawHeader, replacement), size_of::<RawReplacement>()),
    structure("fingerprint of the new main", offset_of!(RawHeader, new_main), FP),
    structure("fingerprint of the old main", offset_of!(RawHeader, old_main), FP),
];

/// The groups of structures, in the order of their checksums.
pub static STRUCTURE_GROUPS: [Group; GROUPS] = [
    Group { name: "core", start: 0, end: offset_of!(RawHeader, main) },
    Group { name: "members", start: offset_of!(RawHeader, main), end: offset_of!(RawHeader, line) },
    Group {
        name: "setup",
        start: offset_of!(RawHeader, line),
        end: offset_of!(RawHeader, statistics),
    },
    Group {
        name: "statistics",
        start: offset_of!(RawHeader, statistics),
        end: offset_of!(RawHeader, scan),
    },
    Group {
        name: "monitor",
        start: offset_of!(RawHeader, scan),
        end: offset_of!(RawHeader, replacement),
    },
    Group {
        name: "replacement",
        start: offset_of!(RawHeader, replacement),
        end: offset_of!(RawHeader, reserved),
    },
];

/// What starts here was all zero, checksums too, before writers knew of it; and is whole then.
const LATER: usize = offset_of!(RawHeader, scan);

const WHOLE: usize = BLOCK_SIZE - 4;
const CHECKSUMS: usize = offset_of!(RawHeader, checksums);

/// Why a block is not a header that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// It is all zeroes: never written.
    Zero,
    /// It does not start as a header does: something foreign.
    Magic,
    /// A header of the format before this one.
    V3,
    /// A format number that is not known here.
    Format(u32),
    /// The signature or the size is not that of a header.
    Signature,
    /// The mark of a creation that did not get further.
    Creating,
    /// The checksum of this structure does not fit.
    Structure(&'static str),
    /// The checksum of this group of structures does not fit.
    Group(&'static str),
    /// The checksum of the whole does not fit.
    Whole,
    /// It says that it is another copy, or that of another member.
    Misplaced(CopyId),
    /// It has features that a reader must know, and these are not known here.
    Features(u64),
    /// This field says something that cannot be.
    Field(&'static str),
}

impl HeaderError {
    /// Whether a newer writer has made it so, and nothing is damaged.
    pub const fn is_newer(&self) -> bool {
        matches!(self, Self::Format(_) | Self::Features(_))
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("never written"),
            Self::Magic => f.write_str("not a header of dm-remap"),
            Self::V3 => f.write_str("in the v3 format; run `dmremap upgrade`"),
            Self::Format(n) => write!(f, "is of format {n}, not known; use a newer dm-remap"),
            Self::Signature => f.write_str("signature or size is damaged"),
            Self::Creating => {
                f.write_str("a creation that was cut short; load the line with `create` again")
            }
            Self::Structure(name) => write!(f, "checksum of structure \"{name}\" does not fit"),
            Self::Group(name) => write!(f, "checksum of group \"{name}\" does not fit"),
            Self::Whole => f.write_str("checksum of the whole header does not fit"),
            Self::Misplaced(is) => write!(f, "says that it is {is}"),
            Self::Features(bits) => {
                write!(f, "has unknown features {bits:#x}; use a newer dm-remap")
            }
            Self::Field(name) => write!(f, "field \"{name}\" says what cannot be"),
        }
    }
}

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
        header.seal(crc);
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
        mark.seal(crc);
        let end = STRUCTURE_GROUPS[0].end;
        mark.0[end..].fill(0);
        Ok(mark.0)
    }

    fn seal(&mut self, crc: Crc32) {
        let bytes = &mut self.0[..];
        for s in &STRUCTURES {
            let end = s.start + s.len;
            let sum = crc(&bytes[s.start..end - 4]);
            bytes[end - 4..end].copy_from_slice(&sum.to_le_bytes());
        }
        for (i, group) in STRUCTURE_GROUPS.iter().enumerate() {
            let sum = group_sum(bytes, group, crc);
            let at = CHECKSUMS + 4 * i;
            bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = crc(&bytes[..WHOLE]);
        bytes[WHOLE..].copy_from_slice(&sum.to_le_bytes());
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

fn view(bytes: &[u8; BLOCK_SIZE]) -> &RawHeader {
    match RawHeader::ref_from_bytes(bytes) {
        Ok(raw) => raw,
        Err(_) => unreachable!(),
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn structure_fits(bytes: &[u8], s: &Structure, crc: Crc32) -> bool {
    let end = s.start + s.len;
    crc(&bytes[s.start..end - 4]) == le32(bytes, end - 4)
        || s.start >= LATER && is_zero(&bytes[s.start..end])
}

fn group_fits(bytes: &[u8], i: usize, group: &Group, crc: Crc32) -> bool {
    let sum = le32(bytes, CHECKSUMS + 4 * i);
    group_sum(bytes, group, crc) == sum
        || group.start >= LATER && sum == 0 && is_zero(&bytes[group.start..group.end])
}

/// The name of every structure whose checksum does not fit.
pub fn damaged_structures(
    bytes: &[u8; BLOCK_SIZE],
    crc: Crc32,
) -> impl Iterator<Item = &'static str> + '_ {
    STRUCTURES.iter().filter(move |s| !structure_fits(bytes, s, crc)).map(|s| s.name)
}

/// The checksum over the checksums of a group's structures.
fn group_sum(bytes: &[u8], group: &Group, crc: Crc32) -> u32 {
    let mut sums = [0; 4 * STRUCTURES.len()];
    let mut len = 0;
    for s in STRUCTURES.iter().filter(|s| (group.start..group.end).contains(&s.start)) {
        let end = s.start + s.len;
        sums[len..len + 4].copy_from_slice(&bytes[end - 4..end]);
        len += 4;
    }
    crc(&sums[..len])
}

/// Checks a header as far as it can be checked by itself: that it is one, every checksum, that it
/// stands where it says, that nothing in it is unknown or impossible.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn check(bytes: &[u8; BLOCK_SIZE], copy: CopyId, crc: Crc32) -> Result<(), HeaderError> {
    let raw = view(bytes);
    let id = &raw.identification;
    if id.magic != MAGIC {
        return Err(if id.magic == MAGIC_V3 {
            HeaderError::V3
        } else if is_zero(bytes) {
            HeaderError::Zero
        } else {
            HeaderError::Magic
        });
    }
    if id.signature != SIGNATURE || id.size.get() as usize != BLOCK_SIZE {
        return Err(HeaderError::Signature);
    }
    if id.format.get() != FORMAT {
        let s = &STRUCTURES[0];
        return Err(if structure_fits(bytes, s, crc) {
            HeaderError::Format(id.format.get())
        } else {
            HeaderError::Structure(s.name)
        });
    }
    if creation_mark_of(bytes, crc).is_some() {
        return Err(HeaderError::Creating);
    }
    if let Some(s) = STRUCTURES.iter().find(|s| !structure_fits(bytes, s, crc)) {
        return Err(HeaderError::Structure(s.name));
    }
    for (i, group) in STRUCTURE_GROUPS.iter().enumerate() {
        if !group_fits(bytes, i, group, crc) {
            return Err(HeaderError::Group(group.name));
        }
    }
    if crc(&bytes[..WHOLE]) != raw.checksums.whole.get() {
        return Err(HeaderError::Whole);
    }
    check_fields(raw)?;
    let is = CopyId { spare: SpareId(id.spare.get() as u8), copy: id.copy.get() as u8 };
    if is != copy {
        return Err(HeaderError::Misplaced(is));
    }
    Ok(())
}

fn check_fields(raw: &RawHeader) -> Result<(), HeaderError> {
    let bad = |name| Err(HeaderError::Field(name));
    let unknown = raw.features.incompatible.get() & !KNOWN_INCOMPATIBLE;
    if unknown != 0 {
        return Err(HeaderError::Features(unknown));
    }
    let version = raw.version.version.get();
    if version == 0 || version == u64::MAX {
        return bad("version");
    }
    if raw.identification.durable_version.get() > version {
        return bad("durable version");
    }
    if raw.identification.state.get() != 0 {
        return bad("state");
    }
    if raw.version.past_count.get() as usize > PAST_HISTORIES {
        return bad("past histories");
    }
    let spares = raw.set.spares.get() as usize;
    if !(1..=MAX_SPARES).contains(&spares) {
        return bad("number of spares");
    }
    if raw.identification.spare.get() as usize >= spares {
        return bad("spare");
    }
    if raw.identification.copy.get() as usize >= COPIES {
        return bad("copy");
    }
    let main = raw.set.main_sectors.get();
    if main == 0 || raw.set.main_start.get().checked_add(main).is_none() {
        return bad("range of main");
    }
    let capacity = raw.shape.capacity.get();
    if capacity > MAX_BLOCKS || Layout::new(capacity).map(|l| l.capacity()) != Some(capacity) {
        return bad("room for table blocks");
    }
    if raw.shape.blocks.get() > capacity {
        return bad("number of table blocks");
    }
    let layout = Layout::new(capacity).unwrap_or(Layout::STANDARD);
    for (i, spare) in raw.spares.iter().enumerate() {
        let Some(state) = SpareState::from_raw(spare.state) else { return bad("state of a spare") };
        if (state == SpareState::Unused) != (i >= spares) {
            return bad("state of a spare");
        }
        let sectors = spare.used_sectors.get();
        if i < spares
            && (!layout.fits(Sectors(sectors))
                || spare.used_start.get().checked_add(sectors).is_none())
        {
            return bad("used part of a spare");
        }
        if raw.fingerprints[i].hardware_len as usize > HARDWARE_ID_BYTES {
            return bad("hardware identifier of a spare");
        }
    }
    if [&raw.main, &raw.new_main, &raw.old_main]
        .iter()
        .any(|print| print.hardware_len as usize > HARDWARE_ID_BYTES)
    {
        return bad("hardware identifier of main");
    }
    if raw.line.len.get() as usize > LINE_BYTES {
        return bad("length of the table line");
    }
    Ok(())
}

/// The set whose creation `bytes` mark, and the history that begins with it, if they start with such a mark. Only the first sector is
/// looked at.
pub fn creation_mark_of(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<(SetUuid, u64)> {
    let raw = view(bytes);
    let id = &raw.identification;
    let is_mark = id.magic == MAGIC
        && id.signature == SIGNATURE
        && id.state.get() & STATE_CREATING != 0
        && STRUCTURES[..3].iter().all(|s| structure_fits(bytes, s, crc))
        && raw.version.version.get() == 0;
    is_mark.then_some((SetUuid(raw.set.uuid), raw.version.history.get()))
}

/// The set that a header, or the mark of a creation, belongs to and the copy that it says it is, if
/// as much of it is whole.
pub fn place_of(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<(SetUuid, CopyId)> {
    let raw = view(bytes);
    let id = &raw.identification;
    let whole = [&STRUCTURES[0], &STRUCTURES[2]].iter().all(|s| structure_fits(bytes, s, crc));
    let known = (id.spare.get() as usize) < MAX_SPARES && (id.copy.get() as usize) < COPIES;
    let place = CopyId { spare: SpareId(id.spare.get() as u8), copy: id.copy.get() as u8 };
    (id.magic == MAGIC && whole && known).then_some((SetUuid(raw.set.uuid), place))
}

/// The set and the version that a header speaks of, each if its structure is whole, even where
/// other parts are not.
pub fn traces(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> (Option<SetUuid>, Option<u64>) {
    let raw = view(bytes);
    if raw.identification.magic != MAGIC {
        return (None, None);
    }
    let set = structure_fits(bytes, &STRUCTURES[2], crc).then_some(SetUuid(raw.set.uuid));
    let version = raw.version.version.get();
    let whole = structure_fits(bytes, &STRUCTURES[1], crc) && version != u64::MAX;
    (set, whole.then_some(version))
}

/// The history that a header speaks of, if that structure is whole, even where other parts are not.
pub fn history_of(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<u64> {
    let raw = view(bytes);
    let whole = raw.identification.magic == MAGIC && structure_fits(bytes, &STRUCTURES[1], crc);
    whole.then_some(raw.version.history.get())
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
