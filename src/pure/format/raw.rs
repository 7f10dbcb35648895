// SPDX-License-Identifier: GPL-2.0

//! The bytes of a header and of a table block, as they stand on a disk.
//!
//! Everything is little endian and without alignment, so a block's bytes can be looked at in place.
//! `docs/format.md` says what each field means, `include/dm-remap-v4-metadata.h` says the same in C;
//! a test holds the three together. Fields named `reserved` are zero and are kept as they are found.

use core::mem::size_of;

use zerocopy::little_endian::{U16, U32, U64};

use super::super::bytes::{FromBytes, Immutable, IntoBytes, KnownLayout};
use super::super::entry::BLOCK_HEADER_SIZE;
use super::super::mem::BLOCK_SIZE;
use super::super::units::MAX_SPARES;

/// How many ended histories a header remembers.
pub const PAST_HISTORIES: usize = 8;
/// How many settings a header has room for.
pub const SETTING_SLOTS: usize = 24;
/// Bytes of a set's name, padded with zeroes.
pub const NAME_BYTES: usize = 64;
/// Bytes of the table line that a header keeps.
pub const LINE_BYTES: usize = 504;
/// Bytes of a path that a fingerprint keeps as a hint.
pub const PATH_BYTES: usize = 32;
/// Bytes of a hardware identifier that a fingerprint keeps.
pub const HARDWARE_ID_BYTES: usize = 32;
/// Groups of structures, each with a checksum of its own.
pub const GROUPS: usize = 6;
/// Bytes of a table block before its entries.
pub const BLOCK_HEADER_BYTES: usize = BLOCK_HEADER_SIZE;

/// What this is and where it belongs. Differs between the copies of one commit.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawIdentification {
    /// `DMREMAP4`.
    pub magic: [u8; 8],
    /// The fixed sixteen bytes of this format.
    pub signature: [u8; 16],
    /// 4.
    pub format: U32,
    /// Bytes of the header, 4096.
    pub size: U32,
    /// Which copy on its spare this is, 0 to 4.
    pub copy: U16,
    /// On which member of the set it stands.
    pub spare: U16,
    /// Bit 0: a creation that has not got further than its marks.
    pub state: U32,
    /// The newest version known to be durable on every member when this copy was written.
    pub durable_version: U64,
    /// The same number, where whoever wrote it has seen that version stand in one place on each active member before. Otherwise another one.
    pub stood_version: U64,
    /// Zero.
    pub reserved: [u8; 4],
    /// Over the bytes before it.
    pub crc: U32,
}

/// A history that was left, and its last version.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawPast {
    /// Its random number.
    pub history: U64,
    /// The last version that belongs to it.
    pub ended: U64,
}

/// Which state of the set this is, and where it comes from.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawVersion {
    /// Raised by every commit.
    pub version: U64,
    /// The history that the version belongs to.
    pub history: U64,
    /// When the set was created, in seconds since 1970.
    pub created: U64,
    /// When this version was committed, in seconds since 1970.
    pub committed: U64,
    /// What the commit did.
    pub kind: U32,
    /// How many of `past` are used.
    pub past_count: U32,
    /// The histories before this one, the last one first.
    pub past: [RawPast; PAST_HISTORIES],
    /// For each of `past`, bit per member that was active in it and went on from its end.
    pub carried: [u8; PAST_HISTORIES],
    /// Zero.
    pub reserved: [u8; 12],
    /// Over the bytes before it.
    pub crc: U32,
}

/// Which set this is.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawSet {
    /// Drawn when the set is created, never changed.
    pub uuid: [u8; 16],
    /// The name that people gave it, UTF-8, padded with zeroes.
    pub name: [u8; NAME_BYTES],
    /// Sectors of main that the target maps.
    pub main_sectors: U64,
    /// The first of them on the main device.
    pub main_start: U64,
    /// How many of the fingerprints and spares are used, those that left included.
    pub spares: U32,
    /// Zero.
    pub flags: U32,
    /// Zero.
    pub reserved: [u8; 20],
    /// Over the bytes before it.
    pub crc: U32,
}

/// What a reader must understand.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawFeatures {
    /// A reader that does not know one of these goes on.
    pub compatible: U64,
    /// A reader that does not know one of these changes nothing.
    pub read_only_compatible: U64,
    /// A reader that does not know one of these refuses.
    pub incompatible: U64,
    /// Zero.
    pub reserved: [u8; 36],
    /// Over the bytes before it.
    pub crc: U32,
}

/// The shape of the table and what holds its blocks together.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawShape {
    /// Table blocks in use: those with an index below this.
    pub blocks: U32,
    /// Table blocks that each copy has room for.
    pub capacity: U32,
    /// Entries in all table blocks.
    pub entries: U64,
    /// The digest over (index, version, checksum) of all table blocks in use.
    pub digest: U64,
    /// Sectors of main that are remapped.
    pub remapped: U64,
    /// Sectors of main that are pending.
    pub pending: U64,
    /// Sectors of spares that are retired.
    pub retired: U64,
    /// Zero.
    pub reserved0: U32,
    /// Zero.
    pub reserved: [u8; 8],
    /// Over the bytes before it.
    pub crc: U32,
}

/// What a device is recognised by.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawFingerprint {
    /// Of the partition that the device is; zero when not known.
    pub partition_uuid: [u8; 16],
    /// What kind of identifier `hardware_id` is; 0 none.
    pub hardware_kind: u8,
    /// Bytes of it that count.
    pub hardware_len: u8,
    /// Which of the fields were known when it was taken.
    pub known: U16,
    /// The device's own identifier.
    pub hardware_id: [u8; HARDWARE_ID_BYTES],
    /// A hash of its serial number.
    pub serial_hash: U64,
    /// Its size in sectors.
    pub sectors: U64,
    /// Of the filesystem found on it.
    pub filesystem_uuid: [u8; 16],
    /// Bytes of its logical block.
    pub logical_block: U32,
    /// Bytes of its physical block.
    pub physical_block: U32,
    /// The end of the path it had, UTF-8, padded with zeroes: a hint.
    pub path: [u8; PATH_BYTES],
    /// Over the bytes before it.
    pub crc: U32,
}

impl RawFingerprint {
    /// Of a device of which nothing is known.
    pub fn unknown() -> Self {
        <Self as zerocopy::FromZeros>::new_zeroed()
    }
}

/// What the set knows about one of its spares.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawSpare {
    /// Drawn when it joined the set.
    pub uuid: [u8; 16],
    /// Its place in the order in which spares are filled; 0 is the primary.
    pub order: u8,
    /// Its state; 0 for a place in the list that is not used.
    pub state: u8,
    /// 0 not known, 1 good, 2 worrying, 3 bad.
    pub health: u8,
    /// Bit per copy on it that was left out of this commit.
    pub copies_out: u8,
    /// Of one that is away: the low half of the newest version that was known to be durable on it when it went; 0 for not known.
    pub had_version: U32,
    /// When its health was last looked at, in seconds since 1970.
    pub last_checked: U64,
    /// The first sector of the device that the set uses.
    pub used_start: U64,
    /// How many sectors of it the set uses.
    pub used_sectors: U64,
    /// The version in which it took on its state.
    pub since_version: U64,
    /// Of the member that took its place; zero when there is none.
    pub successor: [u8; 16],
    /// Zero.
    pub reserved1: U32,
    /// Over the bytes before it.
    pub crc: U32,
}

impl RawSpare {
    /// A place in the list that is not used.
    pub fn unused() -> Self {
        <Self as zerocopy::FromZeros>::new_zeroed()
    }
}

/// The table line, as people gave it.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawLine {
    /// Bytes of the text that count.
    pub len: U16,
    /// Bit 0: the text was longer and has been cut.
    pub flags: U16,
    /// The part of the line behind the target's name, UTF-8.
    pub text: [u8; LINE_BYTES],
    /// Over the bytes before it.
    pub crc: U32,
}

/// Every setting, and every setting as it was before the last change.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawSettings {
    /// Bit per slot: whether the setting was set; otherwise its default holds.
    pub present: U32,
    /// The same, before the last change.
    pub present_before: U32,
    /// By slot.
    pub value: [U64; SETTING_SLOTS],
    /// By slot, before the last change.
    pub value_before: [U64; SETTING_SLOTS],
    /// Zero.
    pub reserved: U32,
    /// Over the bytes before it.
    pub crc: U32,
}

/// What assembly goes by.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawAssembly {
    /// Bit per spare without which the set must not be assembled unless told so.
    pub required: U32,
    /// Which spare is the primary.
    pub primary: U32,
    /// Bit 0: ask before acting. Bit 1: without members that are known to be away too.
    pub flags: U32,
    /// The least confidence of a match, in percent.
    pub min_match: U32,
    /// Zero.
    pub reserved: [u8; 44],
    /// Over the bytes before it.
    pub crc: U32,
}

/// Counts that outlive a reboot.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawStatistics {
    /// Commits.
    pub commits: U64,
    /// Remaps that nobody asked for.
    pub auto_remaps: U64,
    /// Remaps made because a person asked.
    pub manual_remaps: U64,
    /// Extents brought back to main.
    pub unremaps: U64,
    /// Extents marked pending.
    pub pending_marks: U64,
    /// Places retired.
    pub retired_places: U64,
    /// Read errors of main.
    pub main_read_errors: U64,
    /// Write errors of main.
    pub main_write_errors: U64,
    /// Read errors of spares.
    pub spare_read_errors: U64,
    /// Write errors of spares.
    pub spare_write_errors: U64,
    /// Activations after which something was committed.
    pub activations: U64,
    /// Copies that an activation had to rebuild.
    pub copies_rebuilt: U64,
    /// Scans that came to their end.
    pub scans: U64,
    /// Migrations.
    pub migrations: U64,
    /// Zero.
    pub reserved: [u8; 12],
    /// Over the bytes before it.
    pub crc: U32,
}

/// How far the scan is. All zero, its checksum too, where nothing has ever been scanned.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawScan {
    /// 0 none is under way, 1 one is, 2 one is paused.
    pub state: U32,
    /// The device that is being read: 0 main, 1 and more a spare, by its number and one.
    pub device: U32,
    /// The first sector of it that has not been read.
    pub position: U64,
    /// When the run that is under way, or the last one, began, in seconds since 1970.
    pub started: U64,
    /// When the last run came to its end, in seconds since 1970; 0 for never.
    pub ended: U64,
    /// Sectors that could not be read in that run.
    pub unreadable: U64,
    /// Sectors that were read only with effort in that run.
    pub slow: U64,
    /// Zero.
    pub reserved: [u8; 12],
    /// Over the bytes before it.
    pub crc: U32,
}

/// What has been counted of one device lately, in parts of 256: 256 is one.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawDeviceHealth {
    /// Errors; half of them are forgotten in a day.
    pub recent: U32,
    /// Errors; half of them are forgotten in 16 days.
    pub longer: U32,
    /// Blocks that were read only with effort; half of them are forgotten in 16 days.
    pub slow: U32,
    /// Bit 0: people have been told that it is in a bad way.
    pub flags: U32,
}

/// What the health of the devices is reckoned from. All zero, its checksum too, where there has never
/// been anything to count.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawHealth {
    /// The moment that the counts `recent` are of, in seconds since 1970.
    pub recent_at: U64,
    /// The moment that the other counts are of.
    pub longer_at: U64,
    /// Sectors of spares that came into use, in parts of 256; half are forgotten in 16 days.
    pub filled: U64,
    /// Main, then the spares by their numbers.
    pub devices: [RawDeviceHealth; 1 + MAX_SPARES],
    /// Zero.
    pub reserved: [u8; 20],
    /// Over the bytes before it.
    pub crc: U32,
}

/// The replacement of main that is under way. All zero, its checksum too, where there has never been one.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawReplacement {
    /// Which attempt it is, drawn at random; zero where none is under way.
    pub attempt: [u8; 16],
    /// Zero.
    pub reserved: [u8; 12],
    /// Over the bytes before it.
    pub crc: U32,
}

/// The checksums over more than one structure.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawChecksums {
    /// Over the checksums of each group's structures.
    pub group: [U32; GROUPS],
    /// Zero.
    pub reserved: [u8; 4],
    /// Over the whole header before it.
    pub whole: U32,
}

/// A header: the first block of every copy.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawHeader {
    /// What this is.
    pub identification: RawIdentification,
    /// Which state.
    pub version: RawVersion,
    /// Which set.
    pub set: RawSet,
    /// What a reader must understand.
    pub features: RawFeatures,
    /// The shape of the table.
    pub shape: RawShape,
    /// Of main.
    pub main: RawFingerprint,
    /// Of the spares.
    pub fingerprints: [RawFingerprint; MAX_SPARES],
    /// State of the spares.
    pub spares: [RawSpare; MAX_SPARES],
    /// The table line.
    pub line: RawLine,
    /// The settings.
    pub settings: RawSettings,
    /// What assembly goes by.
    pub assembly: RawAssembly,
    /// Lifetime counts.
    pub statistics: RawStatistics,
    /// How far the scan is.
    pub scan: RawScan,
    /// What the health of the devices is reckoned from.
    pub health: RawHealth,
    /// The replacement of main that is under way.
    pub replacement: RawReplacement,
    /// Of the device that is to be main; zero where none is, or nothing is known of it.
    pub new_main: RawFingerprint,
    /// Of the device that was main before; zero where there was none.
    pub old_main: RawFingerprint,
    /// Zero.
    pub reserved: [u8; 112],
    /// Checksums over groups and the whole.
    pub checksums: RawChecksums,
}

/// The first 64 bytes of a table block.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RawBlockHeader {
    /// Over the 4092 bytes behind it.
    pub crc: U32,
    /// `DR4B`.
    pub magic: [u8; 4],
    /// Of the set.
    pub set_uuid: [u8; 16],
    /// Which block of the table this is.
    pub index: U32,
    /// Entries in use.
    pub count: U16,
    /// What the entries are: 0, which is what the table has.
    pub kind: U16,
    /// The version whose commit wrote it.
    pub version: U64,
    /// Zero.
    pub reserved: [u8; 24],
}

const _: () = {
    assert!(size_of::<RawIdentification>() == 64);
    assert!(size_of::<RawVersion>() == 192);
    assert!(size_of::<RawSet>() == 128);
    assert!(size_of::<RawFeatures>() == 64);
    assert!(size_of::<RawShape>() == 64);
    assert!(size_of::<RawFingerprint>() == 128);
    assert!(size_of::<RawSpare>() == 80);
    assert!(size_of::<RawLine>() == 512);
    assert!(size_of::<RawSettings>() == 400);
    assert!(size_of::<RawAssembly>() == 64);
    assert!(size_of::<RawStatistics>() == 128);
    assert!(size_of::<RawScan>() == 64);
    assert!(size_of::<RawDeviceHealth>() == 16);
    assert!(size_of::<RawHealth>() == 192);
    assert!(size_of::<RawReplacement>() == 32);
    assert!(size_of::<RawChecksums>() == 32);
    assert!(size_of::<RawHeader>() == BLOCK_SIZE);
    assert!(size_of::<RawBlockHeader>() == BLOCK_HEADER_BYTES);
    assert!(core::mem::align_of::<RawHeader>() == 1);
};
