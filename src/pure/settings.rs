// SPDX-License-Identifier: GPL-2.0

//! The registry of settings: what each is called, where the header keeps it, what it may be.
//!
//! A setting that was never set has its default, which may depend on the devices. Only what has an
//! effect is in [`SETTINGS`]; the header's slots of the others are set aside in [`slot`].

use core::fmt;

use super::format::raw::{RawSettings, SETTING_SLOTS};
use super::policy::Policy;
use super::store::SpareSet;
use super::units::{Sectors, SpareId, SECTOR_SIZE};

/// The slots of the header. A slot never changes its meaning.
pub mod slot {
    /// `auto_remap`: 0 or 1.
    pub const AUTO_REMAP: u8 = 0;
    /// `remap_block`: sectors.
    pub const REMAP_BLOCK: u8 = 1;
    /// `spare_policy`: 0 fill, 1 round_robin, 2 most_free, 3 healthiest.
    pub const SPARE_POLICY: u8 = 2;
    /// `primary`: number of the spare.
    pub const PRIMARY: u8 = 3;
    /// `min_copies`: copies.
    pub const MIN_COPIES: u8 = 4;
    /// `error_rate_limit`: errors per minute.
    pub const ERROR_RATE_LIMIT: u8 = 5;
    /// `scan_interval`: seconds.
    pub const SCAN_INTERVAL: u8 = 6;
    /// `scan_rate`: sectors per second.
    pub const SCAN_RATE: u8 = 7;
    /// `remap_threshold`: times as slow.
    pub const REMAP_THRESHOLD: u8 = 8;
    /// `alert_threshold`: percent.
    pub const ALERT_THRESHOLD: u8 = 9;
    /// `maintenance_mode`: 0 or 1.
    pub const MAINTENANCE_MODE: u8 = 10;
    /// `assemble_confirm`: 0 or 1.
    pub const ASSEMBLE_CONFIRM: u8 = 11;
    /// `assemble_min_match`: percent.
    pub const ASSEMBLE_MIN_MATCH: u8 = 12;
    /// `assemble_degraded`: 0 or 1.
    pub const ASSEMBLE_DEGRADED: u8 = 13;
}

/// What the number of a setting counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Sectors of 512 bytes.
    Sectors,
    /// Copies of the metadata.
    Copies,
    /// Hundredths.
    Percent,
    /// Off and on.
    Switch,
    /// Errors of devices in a minute.
    ErrorsPerMinute,
    /// A word for each number.
    Words(&'static [&'static str]),
    /// The number of a spare.
    Spare,
    /// Seconds.
    Seconds,
    /// Sectors of 512 bytes in a second.
    SectorsPerSecond,
    /// How many times as much.
    Times,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sectors => "sectors",
            Self::Copies => "copies",
            Self::Percent => "percent",
            Self::Switch => "(0 off, 1 on)",
            Self::ErrorsPerMinute => "errors a minute",
            Self::Spare => "(number of a spare)",
            Self::Words(words) => {
                f.write_str("(")?;
                for (i, word) in words.iter().enumerate() {
                    write!(f, "{}{word}", if i == 0 { "" } else { ", " })?;
                }
                return f.write_str(")");
            }
            Self::Seconds => "seconds",
            Self::SectorsPerSecond => "sectors a second",
            Self::Times => "times",
        })
    }
}

/// A setting.
#[derive(PartialEq, Eq, Debug)]
pub struct Setting {
    /// What people call it, in a table line, in a message, in sysfs.
    pub name: &'static str,
    /// Its slot in the header.
    pub slot: u8,
    /// What holds while it is not set; for `remap_block`, 0 stands for main's physical block.
    pub default: u64,
    /// The least it may be.
    pub min: u64,
    /// The most it may be.
    pub max: u64,
    /// What it counts.
    pub unit: Unit,
    /// One line for people.
    pub help: &'static str,
}

/// The unit in which places on spares are given out.
pub static REMAP_BLOCK: Setting = Setting {
    name: "remap_block",
    slot: slot::REMAP_BLOCK,
    default: 0,
    min: 0,
    max: 2048,
    unit: Unit::Sectors,
    help: "unit in which places on spares are given out; 0 is main's physical block",
};

/// How many copies must be good for a change.
pub static MIN_COPIES: Setting = Setting {
    name: "min_copies",
    slot: slot::MIN_COPIES,
    default: 2,
    min: 2,
    max: 40,
    unit: Unit::Copies,
    help: "copies of the metadata that must be good for anything to be changed",
};

/// How full the spares may get before a person hears of it.
pub static ALERT_THRESHOLD: Setting = Setting {
    name: "alert_threshold",
    slot: slot::ALERT_THRESHOLD,
    default: 80,
    min: 0,
    max: 100,
    unit: Unit::Percent,
    help: "spare room in use, or health used up, that raises an event",
};

/// Whether blocks that fail are moved without being asked.
pub static AUTO_REMAP: Setting = Setting {
    name: "auto_remap",
    slot: slot::AUTO_REMAP,
    default: 1,
    min: 0,
    max: 1,
    unit: Unit::Switch,
    help: "whether blocks that fail are moved to a spare by themselves",
};

/// How fast errors may come before nothing is moved by itself any more.
pub static ERROR_RATE_LIMIT: Setting = Setting {
    name: "error_rate_limit",
    slot: slot::ERROR_RATE_LIMIT,
    default: 50_000,
    min: 1,
    max: 1 << 32,
    unit: Unit::ErrorsPerMinute,
    help: "errors of main in a minute beyond which nothing is moved by itself",
};

/// How the spare for a place is chosen: see [`Policy`].
pub static SPARE_POLICY: Setting = Setting {
    name: "spare_policy",
    slot: slot::SPARE_POLICY,
    default: 0,
    min: 0,
    max: 3,
    unit: Unit::Words(&POLICIES),
    help: "how the spare for a block is chosen",
};

/// The words for [`SPARE_POLICY`].
static POLICIES: [&str; 4] = [
    Policy::Fill.name(),
    Policy::RoundRobin.name(),
    Policy::MostFree.name(),
    Policy::Healthiest.name(),
];

/// The spare that is filled first.
pub static PRIMARY: Setting = Setting {
    name: "primary",
    slot: slot::PRIMARY,
    default: 0,
    min: 0,
    max: 7,
    unit: Unit::Spare,
    help: "the spare that is filled first",
};

/// Whether assembly always asks a person first.
pub static ASSEMBLE_CONFIRM: Setting = Setting {
    name: "assemble_confirm",
    slot: slot::ASSEMBLE_CONFIRM,
    default: 0,
    min: 0,
    max: 1,
    unit: Unit::Switch,
    help: "whether assembly asks before it acts, however certain it is",
};

/// Whether the set is activated without the members that it lists as away.
pub static ASSEMBLE_DEGRADED: Setting = Setting {
    name: "assemble_degraded",
    slot: slot::ASSEMBLE_DEGRADED,
    default: 0,
    min: 0,
    max: 1,
    unit: Unit::Switch,
    help: "whether the set is activated without spares that are known to be away",
};

/// How well a device has to be known for the set to be assembled with it unasked.
pub static ASSEMBLE_MIN_MATCH: Setting = Setting {
    name: "assemble_min_match",
    slot: slot::ASSEMBLE_MIN_MATCH,
    default: 70,
    min: 0,
    max: 100,
    unit: Unit::Percent,
    help: "confidence in a device below which assembly asks",
};

/// Whether the set is left exactly as it is until a person asks for a change.
pub static MAINTENANCE_MODE: Setting = Setting {
    name: "maintenance_mode",
    slot: slot::MAINTENANCE_MODE,
    default: 0,
    min: 0,
    max: 1,
    unit: Unit::Switch,
    help: "whether nothing at all is changed without being asked for",
};

/// How often the devices are scanned.
pub static SCAN_INTERVAL: Setting = Setting {
    name: "scan_interval",
    slot: slot::SCAN_INTERVAL,
    default: 0,
    min: 0,
    max: 1 << 32,
    unit: Unit::Seconds,
    help: "from the start of a scan to the next that starts by itself; 0 for never",
};

/// How fast the scan reads.
pub static SCAN_RATE: Setting = Setting {
    name: "scan_rate",
    slot: slot::SCAN_RATE,
    default: 0,
    min: 0,
    max: 1 << 32,
    unit: Unit::SectorsPerSecond,
    help: "how fast a scan may read; 0 for as fast as the drive allows",
};

/// What is too slow to be left where it is.
pub static REMAP_THRESHOLD: Setting = Setting {
    name: "remap_threshold",
    slot: slot::REMAP_THRESHOLD,
    default: 10,
    min: 0,
    max: 1000,
    unit: Unit::Times,
    help: "how many times as slow as its neighbours a block may be before a scan has it moved; 0 moves none",
};

/// Every setting there is, by name.
pub static SETTINGS: [&Setting; 14] = [
    &ALERT_THRESHOLD,
    &ASSEMBLE_CONFIRM,
    &ASSEMBLE_DEGRADED,
    &ASSEMBLE_MIN_MATCH,
    &AUTO_REMAP,
    &ERROR_RATE_LIMIT,
    &MAINTENANCE_MODE,
    &MIN_COPIES,
    &PRIMARY,
    &REMAP_BLOCK,
    &REMAP_THRESHOLD,
    &SCAN_INTERVAL,
    &SCAN_RATE,
    &SPARE_POLICY,
];

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().copied().find(|s| s.name == name)
}

/// What the devices allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The larger of main's and the spares' logical blocks.
    pub logical_block: Sectors,
    /// Main's physical block.
    pub physical_block: Sectors,
    /// Copies on all spares.
    pub copies: u64,
    /// The spares that are there.
    pub spares: SpareSet,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            logical_block: Sectors(1),
            physical_block: Sectors((4096 / SECTOR_SIZE) as u64),
            copies: 5,
            spares: SpareSet(u8::MAX),
        }
    }
}

/// Why a setting was not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetError {
    /// There is no setting of that name.
    Unknown,
    /// The value is not a number.
    Number(&'static Setting),
    /// The value is outside of what is allowed.
    Range(&'static Setting, u64),
    /// Only powers of two are allowed.
    PowerOfTwo(&'static Setting),
    /// Only multiples of the logical block are allowed.
    LogicalBlock(&'static Setting, Sectors),
    /// There is no word like that.
    Word(&'static Setting),
    /// There is no such spare.
    NoSpare(&'static Setting, u64),
    /// Nothing was changed since the set was created.
    NothingToUndo,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => {
                f.write_str("no such setting; there are")?;
                SETTINGS.iter().try_for_each(|s| write!(f, " {}", s.name))
            }
            Self::Number(s) => write!(f, "{} takes a number of {}", s.name, s.unit),
            Self::Range(s, max) => {
                write!(f, "{} must be {} to {} {}", s.name, s.min, max, s.unit)
            }
            Self::PowerOfTwo(s) => write!(f, "{} must be a power of two, or 0", s.name),
            Self::LogicalBlock(s, block) => {
                write!(f, "{} must be a multiple of the logical block, {block} sectors", s.name)
            }
            Self::Word(s) => write!(f, "{} takes one of {}", s.name, s.unit),
            Self::NoSpare(s, n) => write!(f, "{}: the set has no spare {n}", s.name),
            Self::NothingToUndo => f.write_str("no setting was changed that could be taken back"),
        }
    }
}

impl Setting {
    /// The value in `text`: a decimal number within what is allowed, or one of the setting's words.
    ///
    /// # Errors
    ///
    /// What is wrong with it and what would be right.
    pub fn parse(&'static self, text: &str, limits: &Limits) -> Result<u64, SetError> {
        if let Unit::Words(words) = self.unit {
            let at = words.iter().position(|&word| word == text);
            return at.map(|at| at as u64).ok_or(SetError::Word(self));
        }
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let value: u64 = match text.parse() {
            Ok(value) if digits => value,
            _ => return Err(SetError::Number(self)),
        };
        let max = match self.unit {
            Unit::Copies => self.max.min(limits.copies),
            _ => self.max,
        };
        if !(self.min..=max).contains(&value) {
            return Err(SetError::Range(self, max));
        }
        if self.unit == Unit::Spare && !limits.spares.has(SpareId(value as u8)) {
            return Err(SetError::NoSpare(self, value));
        }
        if self.slot == slot::REMAP_BLOCK && value != 0 {
            if !value.is_power_of_two() {
                return Err(SetError::PowerOfTwo(self));
            }
            // Both are powers of two.
            if value < limits.logical_block.0 {
                return Err(SetError::LogicalBlock(self, limits.logical_block));
            }
        }
        Ok(value)
    }

    /// Writes a value as people write it, so that [`parse`](Self::parse) takes it.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_value(&self, value: u64, out: &mut dyn fmt::Write) -> fmt::Result {
        match self.unit {
            Unit::Words(words) => {
                let word = usize::try_from(value).ok().and_then(|at| words.get(at));
                out.write_str(word.copied().unwrap_or_default())
            }
            _ => write!(out, "{value}"),
        }
    }
}

/// The values of all settings, and those before the last change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    now: Values,
    before: Values,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Values {
    present: u32,
    value: [u64; SETTING_SLOTS],
}

impl Values {
    fn put(&mut self, slot: u8, value: u64) {
        if let Some(v) = self.value.get_mut(slot as usize) {
            *v = value;
            self.present |= 1 << slot;
        }
    }
}

impl Settings {
    /// The settings in a header. Slots that are not known here are kept.
    pub fn from_raw(raw: &RawSettings) -> Self {
        Self {
            now: Values { present: raw.present.get(), value: raw.value.map(|v| v.get()) },
            before: Values {
                present: raw.present_before.get(),
                value: raw.value_before.map(|v| v.get()),
            },
        }
    }

    /// Puts them into a header.
    pub fn to_raw(&self, raw: &mut RawSettings) {
        raw.present.set(self.now.present);
        raw.present_before.set(self.before.present);
        for (to, from) in raw.value.iter_mut().zip(self.now.value) {
            to.set(from);
        }
        for (to, from) in raw.value_before.iter_mut().zip(self.before.value) {
            to.set(from);
        }
    }

    /// The value in force of a single setting in a header.
    pub fn get_raw(raw: &RawSettings, setting: &Setting) -> u64 {
        let set = raw.present.get() & (1 << setting.slot) != 0;
        let value = raw.value.get(setting.slot as usize).filter(|_| set);
        value.map_or(setting.default, |v| v.get()).clamp(setting.min, setting.max)
    }

    /// The value that was set, or `None` while the default holds.
    pub fn explicit(&self, setting: &Setting) -> Option<u64> {
        let set = self.now.present & (1 << setting.slot) != 0;
        self.now.value.get(setting.slot as usize).copied().filter(|_| set)
    }

    /// The value in force. What a header says and is out of range now counts as its nearest bound.
    pub fn get(&self, setting: &Setting) -> u64 {
        self.explicit(setting).unwrap_or(setting.default).clamp(setting.min, setting.max)
    }

    /// The unit in which places are given out: never 0, a power of two, a multiple of the logical
    /// block.
    pub fn remap_block(&self, limits: &Limits) -> Sectors {
        let unit = match self.get(&REMAP_BLOCK) {
            0 => limits.physical_block.0,
            n => n,
        };
        Sectors(unit.max(limits.logical_block.0).clamp(1, REMAP_BLOCK.max).next_power_of_two())
    }

    /// The value in force where the devices are known: what they decide is that number, not what stands
    /// for it.
    pub fn in_force(&self, setting: &Setting, limits: &Limits) -> u64 {
        match setting.slot {
            slot::REMAP_BLOCK => self.remap_block(limits).0,
            _ => self.get(setting),
        }
    }

    /// Sets all of `changes`, or nothing; they are one change for [`undo`](Self::undo).
    ///
    /// # Errors
    ///
    /// The first that is wrong: its place among `changes`, and what is wrong.
    pub fn set<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a str, &'a str)>,
        limits: &Limits,
    ) -> Result<(), (usize, SetError)> {
        let mut next = self.now;
        for (i, (name, text)) in changes.into_iter().enumerate() {
            let setting = find(name).ok_or((i, SetError::Unknown))?;
            next.put(setting.slot, setting.parse(text, limits).map_err(|e| (i, e))?);
        }
        if next != self.now {
            self.before = self.now;
            self.now = next;
        }
        Ok(())
    }

    /// Sets values that [`Setting::parse`] has accepted, as one change.
    pub fn put_all(&mut self, changes: &[(&'static Setting, u64)]) {
        let mut next = self.now;
        changes.iter().for_each(|(setting, value)| next.put(setting.slot, *value));
        if next != self.now {
            self.before = self.now;
            self.now = next;
        }
    }

    /// Takes the last change back; once more, and it is there again.
    ///
    /// # Errors
    ///
    /// When there was no change.
    pub fn undo(&mut self) -> Result<(), SetError> {
        if self.now == self.before {
            return Err(SetError::NothingToUndo);
        }
        core::mem::swap(&mut self.now, &mut self.before);
        Ok(())
    }
}
