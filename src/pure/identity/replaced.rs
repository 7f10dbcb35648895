// SPDX-License-Identifier: GPL-2.0

//! Which device will do for main while main is being replaced, and which one may take its place.
//!
//! Meanwhile the set is on a mapped device that has what has been copied from the new main and the rest
//! from the old one. The old one alone is older than the set from the first write on, and yet looks as
//! before. So a set says that it is being replaced, and then only a device with the name of a copy of its
//! main will do; and such a device does for no other set, and not once it is over.

use core::fmt;

use super::super::bytes::IntoBytes;
use super::super::entry::Mapping;
use super::super::format::header::Header;
use super::super::format::raw::RawFingerprint;
use super::super::format::{Attempt, SetUuid};
use super::super::table::{Edit, EditError, Table};
use super::{compare, filesystem_of, Differs, Facts, Filesystem, Match, MatchKind, PRINT_BYTES};

/// What a copy's UUID to device mapper begins with; [`CopyOf`] follows.
pub const COPY_PREFIX: &str = "REMAP-CLONE-";

/// Whose main is copied, and in which attempt. As text the set's UUID, then, where it is known, a hyphen and the attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CopyOf {
    /// The set.
    pub set: SetUuid,
    /// The attempt to replace its main.
    pub attempt: Attempt,
}

/// Letters of a UUID, with its hyphens.
const UUID_LETTERS: usize = 36;

impl CopyOf {
    /// What a text says.
    pub fn parse(text: &str) -> Option<Self> {
        let set = SetUuid::parse(text.get(..UUID_LETTERS)?)?;
        let attempt = match text.get(UUID_LETTERS..)? {
            "" => Attempt::UNKNOWN,
            rest => Attempt::parse(rest.strip_prefix('-')?)?,
        };
        Some(Self { set, attempt })
    }
}

impl fmt::Display for CopyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.set)?;
        if self.attempt == Attempt::UNKNOWN {
            return Ok(());
        }
        write!(f, "-{}", self.attempt)
    }
}

/// What a device is to device mapper.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mapped {
    /// None of its own.
    #[default]
    No,
    /// A mapped device.
    Yes,
    /// The one that copies the main of a set to another device.
    Copy(CopyOf),
}

impl Mapped {
    /// What the mapped device of that UUID is.
    pub fn of(uuid: &str) -> Self {
        uuid.strip_prefix(COPY_PREFIX).and_then(CopyOf::parse).map_or(Self::Yes, Self::Copy)
    }
}

/// How well a device fits what a set says of its main.
///
/// # Errors
///
/// Those of [`compare`]; that the set's main is being replaced and this is not the copy of this attempt; that
/// it is a copy, and the set's main is not being replaced; that it was main before another one took its place.
///
/// Where nothing tells the main that was from the one that is, a match says no more than the size.
pub fn recognise_main(header: &Header, facts: &Facts<'_>) -> Result<Match, Differs> {
    match (header.is_replacing(), facts.mapped) {
        (true, Mapped::Copy(of)) if of.set == header.uuid() => match of.attempt == header.attempt()
        {
            true => Ok(Match { kind: MatchKind::Copy, same_path: false, had: None, missing: None }),
            false => Err(Differs::Attempt),
        },
        (true, _) => Err(Differs::Replacing),
        (false, Mapped::Copy(_)) => Err(Differs::Copy),
        (false, _) => {
            let by = compare(&header.raw().main, facts)?;
            match was_main(header, facts) {
                Some(_) if by.kind.is_of_the_device() => Ok(by),
                Some(was) if was.kind.is_of_the_device() => Err(Differs::Replaced),
                Some(_) if by.kind == MatchKind::Filesystem => {
                    Ok(Match { kind: MatchKind::Size, ..by })
                }
                _ => Ok(by),
            }
        }
    }
}

/// How well a device fits what the set says of the main that it had before, if it had one.
pub fn was_main(header: &Header, facts: &Facts<'_>) -> Option<Match> {
    let was = &header.raw().old_main;
    compare(was, facts).ok().filter(|_| was.sectors.get() != 0)
}

/// Whether a device is certainly the one that is to be main of a set whose main is being replaced.
pub fn is_new_main(header: &Header, facts: &Facts<'_>) -> bool {
    let new = &header.raw().new_main;
    let is = header.is_replacing() && new.sectors.get() != 0;
    is && compare(new, facts).is_ok_and(|by| by.kind.is_of_the_device())
}

/// Whether a device may take main's place, because a person says so: nothing may show that it is not what
/// main was copied to.
///
/// # Errors
///
/// It is the copy of another set; it is certainly the main that the set has; it does not show the
/// filesystem that the set has there.
pub fn may_replace(header: &Header, facts: &Facts<'_>) -> Result<(), Differs> {
    match facts.mapped {
        Mapped::Copy(of) if of.set == header.uuid() => {
            // What another attempt has copied is not all there.
            return match header.is_replacing() && of.attempt != header.attempt() {
                true => Err(Differs::Attempt),
                false => Ok(()),
            };
        }
        Mapped::Copy(_) => return Err(Differs::Copy),
        // What it is on says nothing of a mapped device: there may be several on the same disk.
        Mapped::Yes => {}
        Mapped::No => {
            let same = compare(&header.raw().main, facts);
            if same.is_ok_and(|by| by.kind.is_of_the_device()) {
                return Err(Differs::Same);
            }
        }
    }
    let had = filesystem_of(&header.raw().main);
    match (facts.filesystem, had) {
        (Filesystem::Is(is), Some(had)) if is != had => Err(Differs::Filesystem(is, had)),
        (Filesystem::None, Some(had)) => Err(Differs::NotCopied(had)),
        _ => Ok(()),
    }
}

/// Whether a device may be main again, because a person says that it has all that the copy has.
///
/// # Errors
///
/// The set's main is not being replaced, or it is another one.
pub fn may_return(header: &Header, facts: &Facts<'_>) -> Result<(), Differs> {
    match (header.is_replacing(), facts.mapped) {
        (false, _) => Err(Differs::NotReplacing),
        (true, Mapped::Copy(_)) => Err(Differs::Copy),
        (true, _) => compare(&header.raw().main, facts).map(|_| ()),
    }
}

/// Whether another device has taken main's place since `before` was the fingerprint of main. For who had that
/// kept, and could not find out whether it was: kept once more, it would say that the old main is the new one too.
pub fn has_taken_over(header: &Header, before: &RawFingerprint) -> bool {
    let raw = header.raw();
    let [main, old, before] =
        [&raw.main, &raw.old_main, before].map(|print| print.as_bytes().get(..PRINT_BYTES));
    main != before && old == before
}

/// The fingerprint of main in the set when this device has taken its place: while it is being replaced,
/// that of the old one stays.
pub fn print_of(header: &Header, facts: &Facts<'_>) -> RawFingerprint {
    match facts.mapped {
        Mapped::Copy(_) => header.raw().main,
        _ => super::fingerprint(facts),
    }
}

/// What is pending on the old main is lost: what stands there on the new one is none of the set's.
///
/// # Errors
///
/// No memory.
pub fn pending_is_lost(table: &Table) -> Result<Edit, EditError> {
    let mut edit = table.edit()?;
    for entry in table.iter().filter(|entry| entry.mapping == Mapping::Pending) {
        edit.set(entry.extent, Mapping::Lost)?;
    }
    Ok(edit)
}
