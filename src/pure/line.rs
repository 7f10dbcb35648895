// SPDX-License-Identifier: GPL-2.0

//! The table line of the `remap` target, taken apart.
//!
//! ```text
//! <start> <length> remap <main> <spare> [<spare_start> <spare_length>] [<#opts> <opt> ...]
//! ```
//!
//! What follows the spare is a part of it when the second word is a number, because no option
//! starts with one; a number of options otherwise.

use core::fmt;

use super::identity::FilesystemUuid;
use super::mem::{AllocError, KVec, GFP_KERNEL};
use super::settings::{self, Setting};
use super::units::{Sectors, MAX_SPARES};

/// The longest name of a set, in bytes.
pub const NAME_MAX: usize = 63;

/// The arguments of a table line. Values are checked as far as they can be without the devices.
#[derive(Debug, Default)]
pub struct Line<'a> {
    /// Path of main.
    pub main: &'a str,
    /// Path of the first spare.
    pub spare: &'a str,
    /// The part of the first spare that the set uses: first sector and length. All of it if `None`.
    pub part: Option<(u64, Sectors)>,
    /// Makes a new set.
    pub create: bool,
    /// Spares that may carry something foreign.
    pub overwrite: KVec<&'a str>,
    /// The first sector of main that is mapped.
    pub main_start: u64,
    /// Paths of further spares.
    pub more_spares: KVec<&'a str>,
    /// Members to do without, by UUID.
    pub absent: KVec<&'a str>,
    /// Whether to do without members that the set lists as away.
    pub degraded: bool,
    /// Main takes the place of the one that the set has.
    pub new_main: bool,
    /// Main is the one that was being replaced, and is so no more.
    pub old_main: bool,
    /// Whether main has grown, so that the set takes the length of the table.
    pub grow: bool,
    /// The filesystem on main that is the set's, as a person says.
    pub filesystem: Option<FilesystemUuid>,
    /// Name of a new set.
    pub name: Option<&'a str>,
    /// Remaps that a new set has room for.
    pub max_remaps: Option<u64>,
    /// Settings with their values, still text: their limits depend on the devices.
    pub settings: KVec<(&'static Setting, &'a str)>,
}

/// What is wrong with a table line.
#[derive(Debug, PartialEq, Eq)]
pub enum LineError<'a> {
    /// Main or the spare is not named.
    Missing,
    /// A word is no number where one has to be.
    Number(&'static str, &'a str),
    /// The part of the spare has no sector.
    EmptyPart,
    /// Fewer or more words than the number of options says.
    Count(u64, usize),
    /// There is no such option.
    Unknown(&'a str),
    /// The option's value is missing.
    Value(&'a str),
    /// The option stands there twice.
    Twice(&'a str),
    /// The options contradict each other.
    Both(&'static str, &'static str),
    /// The option is for a new set only.
    OnlyCreate(&'static str),
    /// The option is not for a new set.
    NotCreate(&'static str),
    /// The word is no UUID of a filesystem.
    Filesystem(&'a str),
    /// More spares than a set can have.
    TooManySpares,
    /// The name is empty, too long, or has something else than letters, digits and `+-._`.
    Name(&'a str),
    /// No memory.
    Memory,
}

impl From<AllocError> for LineError<'_> {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

impl fmt::Display for LineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "main and spare are wanted: remap <main> <spare> [<spare_start> <spare_length>] \
                 [<#opts> <opt> ...]",
            ),
            Self::Number(what, word) => write!(f, "{what} must be a number, not '{word}'"),
            Self::EmptyPart => f.write_str("spare_length must not be 0"),
            Self::Count(said, words) => {
                write!(f, "#opts says that {said} words of options follow, but there are {words}")
            }
            Self::Unknown(word) => write!(f, "unknown option '{word}'"),
            Self::Value(option) => write!(f, "option '{option}' needs a value"),
            Self::Twice(option) => write!(f, "option '{option}' is given twice"),
            Self::Both(one, other) => {
                write!(f, "options '{one}' and '{other}' do not go together")
            }
            Self::OnlyCreate(option) => {
                write!(f, "option '{option}' is for a new set; it goes with 'create' only")
            }
            Self::NotCreate(option) => {
                write!(
                    f,
                    "option '{option}' is about a set that is there; it goes without 'create' only"
                )
            }
            Self::Filesystem(word) => {
                write!(f, "filesystem must be the UUID of one, not '{word}'")
            }
            Self::TooManySpares => write!(f, "a set has at most {MAX_SPARES} spares"),
            Self::Name(name) => write!(
                f,
                "name '{name}' must have 1 to {NAME_MAX} letters, digits, or characters of +-._"
            ),
            Self::Memory => f.write_str("out of memory"),
        }
    }
}

fn number<'a>(what: &'static str, word: &'a str) -> Result<u64, LineError<'a>> {
    // `parse` takes a sign too.
    if word.bytes().all(|b| b.is_ascii_digit()) {
        word.parse().map_err(|_| LineError::Number(what, word))
    } else {
        Err(LineError::Number(what, word))
    }
}

fn once<'a, T>(slot: &mut Option<T>, value: T, option: &'a str) -> Result<(), LineError<'a>> {
    if slot.replace(value).is_some() {
        return Err(LineError::Twice(option));
    }
    Ok(())
}

fn flag<'a>(slot: &mut bool, option: &'a str) -> Result<(), LineError<'a>> {
    if core::mem::replace(slot, true) {
        return Err(LineError::Twice(option));
    }
    Ok(())
}

/// Whether people may call a set `name`.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

impl<'a> Line<'a> {
    /// The spares in their order, each with the part of it that the set uses, if not all.
    pub fn spares(&self) -> impl Iterator<Item = (&'a str, Option<(u64, Sectors)>)> + '_ {
        let more = self.more_spares.iter().map(|&path| (path, None));
        Iterator::chain(core::iter::once((self.spare, self.part)), more)
    }

    /// Takes the words behind `remap` apart.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn parse(words: &[&'a str]) -> Result<Self, LineError<'a>> {
        let (&[main, spare], mut rest) =
            words.split_first_chunk::<2>().ok_or(LineError::Missing)?;
        let mut line = Self { main, spare, ..Self::default() };
        if let [start, length, behind @ ..] = rest {
            if number("", length).is_ok() {
                let start = number("spare_start", start)?;
                let length = number("spare_length", length)?;
                if length == 0 {
                    return Err(LineError::EmptyPart);
                }
                line.part = Some((start, Sectors(length)));
                rest = behind;
            }
        }
        if let [count, options @ ..] = rest {
            let count = number("#opts", count)?;
            if count != options.len() as u64 {
                return Err(LineError::Count(count, options.len()));
            }
            line.options(options)?;
        }
        Ok(line)
    }

    fn options(&mut self, words: &[&'a str]) -> Result<(), LineError<'a>> {
        let mut main_start = None;
        let mut words = words.iter().copied();
        while let Some(option) = words.next() {
            let mut value = || words.next().ok_or(LineError::Value(option));
            match option {
                "create" => flag(&mut self.create, option)?,
                "degraded" => flag(&mut self.degraded, option)?,
                "new_main" => flag(&mut self.new_main, option)?,
                "old_main" => flag(&mut self.old_main, option)?,
                "grow" => flag(&mut self.grow, option)?,
                "overwrite" => self.overwrite.push(value()?, GFP_KERNEL)?,
                "spare" => self.more_spares.push(value()?, GFP_KERNEL)?,
                "absent" => self.absent.push(value()?, GFP_KERNEL)?,
                "main_start" => {
                    once(&mut main_start, number("main_start", value()?)?, option)?;
                }
                "filesystem" => {
                    let word = value()?;
                    let uuid = FilesystemUuid::parse(word).ok_or(LineError::Filesystem(word))?;
                    once(&mut self.filesystem, uuid, option)?;
                }
                "max_remaps" => {
                    once(&mut self.max_remaps, number("max_remaps", value()?)?, option)?;
                }
                "name" => {
                    let name = value()?;
                    if !is_name(name) {
                        return Err(LineError::Name(name));
                    }
                    once(&mut self.name, name, option)?;
                }
                _ => {
                    let setting = settings::find(option).ok_or(LineError::Unknown(option))?;
                    if self.settings.iter().any(|(s, _)| s.slot == setting.slot) {
                        return Err(LineError::Twice(option));
                    }
                    self.settings.push((setting, value()?), GFP_KERNEL)?;
                }
            }
        }
        self.main_start = main_start.unwrap_or(0);
        if self.more_spares.len() >= MAX_SPARES {
            return Err(LineError::TooManySpares);
        }
        if self.new_main && self.old_main {
            return Err(LineError::Both("new_main", "old_main"));
        }
        for (given, option) in [
            (self.filesystem.is_some(), "filesystem"),
            (self.new_main, "new_main"),
            (self.old_main, "old_main"),
        ] {
            if self.create && given {
                return Err(LineError::NotCreate(option));
            }
        }
        if self.create && self.grow {
            return Err(LineError::NotCreate("grow"));
        }
        if !self.create {
            for (given, option) in [
                (!self.overwrite.is_empty(), "overwrite"),
                (self.name.is_some(), "name"),
                (self.max_remaps.is_some(), "max_remaps"),
            ] {
                if given {
                    return Err(LineError::OnlyCreate(option));
                }
            }
        }
        Ok(())
    }
}
