// SPDX-License-Identifier: GPL-2.0

//! The v4 metadata format: what stands where on a spare, byte by byte.
//!
//! [`layout`] says where on a spare, [`raw`] what the bytes are, [`header`] and [`block`] check and
//! make them. What a commit writes when is not said here: see `commit` and `recovery`.

use core::fmt;

pub mod block;
pub mod header;
pub mod layout;
pub mod raw;
pub mod v3;

/// The CRC-32 of IEEE 802.3 as zlib and gzip have it: start value and final exclusive-or all ones.
pub type Crc32 = fn(&[u8]) -> u32;

/// What every header starts with.
pub const MAGIC: [u8; 8] = *b"DMREMAP4";
/// What a header of the format before this one starts with.
pub const MAGIC_V3: [u8; 8] = *b"DMREMAP3";
/// What the checksum of every table block is followed by.
pub const BLOCK_MAGIC: [u8; 4] = *b"DR4B";
/// The sixteen bytes behind the magic: chance does not make them, and what takes bytes for text
/// (line ends, the eighth bit, an end of file) damages them.
pub const SIGNATURE: [u8; 16] = [
    0x89, b'd', b'm', b'r', 0x0d, 0x0a, 0x1a, 0x0a, 0x3e, 0x91, 0xc7, 0x5b, 0x62, 0xf4, 0xa8, 0xd0,
];
/// The format's version number.
pub const FORMAT: u32 = 4;

/// In [`raw::RawIdentification::state`]: the set was to be created here and nothing is in it yet.
pub const STATE_CREATING: u32 = 1;

/// Incompatible feature: there are entries for retired places.
pub const FEATURE_BAD_PLACES: u64 = 1;
/// Incompatible feature: there are entries for extents whose data is lost.
pub const FEATURE_LOST: u64 = 2;
/// Incompatible feature: main is being replaced, and only the device that copies it will do for it.
pub const FEATURE_REPLACING: u64 = 4;
/// The incompatible features that this code knows how to read.
pub const KNOWN_INCOMPATIBLE: u64 = FEATURE_BAD_PLACES | FEATURE_LOST | FEATURE_REPLACING;
/// The read-only-compatible features that this code knows how to keep.
pub const KNOWN_READ_ONLY: u64 = 0;

/// What names a set for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetUuid(pub [u8; 16]);

impl SetUuid {
    /// The one that `text` is, 32 digits with or without hyphens.
    pub fn parse(text: &str) -> Option<Self> {
        MemberUuid::parse(text).map(|uuid| Self(uuid.0))
    }
}

impl fmt::Display for SetUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(&self.0, f)
    }
}

/// What names a member of a set for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemberUuid(pub [u8; 16]);

impl MemberUuid {
    /// The one that `text` is, 32 digits with or without hyphens.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let mut digits = text.bytes().filter(|&b| b != b'-');
        for byte in &mut bytes {
            let mut digit = || char::from(digits.next()?).to_digit(16);
            *byte = ((digit()? << 4) | digit()?) as u8;
        }
        digits.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for MemberUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(&self.0, f)
    }
}

/// One attempt to replace main, told from all others by a random number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attempt(pub [u8; 16]);

impl Attempt {
    /// What one has that was begun by a writer that gave it none.
    pub const UNKNOWN: Self = Self([0; 16]);

    /// The one that `text` is, as that of a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        MemberUuid::parse(text).map(|uuid| Self(uuid.0))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(&self.0, f)
    }
}

fn write_uuid(uuid: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// What a commit did, for people who look at it later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum CommitKind {
    /// Created the set.
    Create = 1,
    /// Remapped extents because a person asked.
    Remap = 2,
    /// Brought extents back to main.
    Unremap = 3,
    /// Remapped extents, or marked them pending, because the device failed.
    Auto = 4,
    /// Changed settings, or whether main is scanned.
    Settings = 5,
    /// Changed nothing: a person asked for it, or the set was let go.
    Save = 6,
    /// Took the place of commits that were begun and not finished.
    Recover = 7,
    /// Changed the members of the set.
    Members = 8,
    /// Took in what a device is recognised by.
    Identity = 9,
    /// Took another device for main.
    NewMain = 10,
    /// Gave the set another name.
    Rename = 11,
    /// Took in that main has grown.
    Resize = 12,
}

impl CommitKind {
    /// The kind of that number; `None` for one that a later version may have brought.
    pub const fn from_raw(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Create,
            2 => Self::Remap,
            3 => Self::Unremap,
            4 => Self::Auto,
            5 => Self::Settings,
            6 => Self::Save,
            7 => Self::Recover,
            8 => Self::Members,
            9 => Self::Identity,
            10 => Self::NewMain,
            11 => Self::Rename,
            12 => Self::Resize,
            _ => return None,
        })
    }

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Remap => "remap",
            Self::Unremap => "unremap",
            Self::Auto => "auto",
            Self::Settings => "settings",
            Self::Save => "save",
            Self::Recover => "recover",
            Self::Members => "members",
            Self::Identity => "identity",
            Self::NewMain => "new-main",
            Self::Rename => "rename",
            Self::Resize => "resize",
        }
    }
}

/// The state of a spare in its set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SpareState {
    /// The place in the list is not used.
    Unused = 0,
    /// In use.
    Active = 1,
    /// Missing, or it takes no writes; its extents give errors.
    Away = 2,
    /// Let go; it holds nothing of the set any more.
    Left = 3,
    /// Given up.
    Failed = 4,
    /// Being filled, to take the place of another.
    Joining = 5,
}

impl SpareState {
    /// The state of that number.
    pub const fn from_raw(state: u8) -> Option<Self> {
        Some(match state {
            0 => Self::Unused,
            1 => Self::Active,
            2 => Self::Away,
            3 => Self::Left,
            4 => Self::Failed,
            5 => Self::Joining,
            _ => return None,
        })
    }

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Active => "active",
            Self::Away => "away",
            Self::Left => "left",
            Self::Failed => "failed",
            Self::Joining => "joining",
        }
    }
}
