//! Which devices the members of a set are, by the fingerprints in its metadata.

use crate::spares::Device;
use crate::Failure;
use remap_pure::format::header::Header;
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::SpareState;
use remap_pure::identity::choose::{choose, Choice};
use remap_pure::identity::filesystem::PIECES;
use remap_pure::identity::replaced::recognise_main;
use remap_pure::identity::{compare, Differs, Facts};
use remap_pure::store::SpareSet;
use remap_pure::table::Table;
use remap_pure::units::{Sectors, SpareId};

/// A member of a set: main, or a spare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Member {
    /// Main.
    Main,
    /// The spare of that number.
    Spare(SpareId),
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Main => f.pad("main"),
            Self::Spare(id) => f.pad(&format!("spare {id}")),
        }
    }
}

/// A member, what it is recognised by, and the device that it is.
pub struct Matched {
    /// Which member.
    pub member: Member,
    /// What it is recognised by.
    pub print: RawFingerprint,
    /// Which of the devices it is.
    pub choice: Choice,
}

/// The fingerprint of a member.
pub fn print_of(header: &Header, member: Member) -> RawFingerprint {
    match member {
        Member::Main => header.raw().main,
        Member::Spare(id) => header.raw().fingerprints[usize::from(id.0)],
    }
}

/// What tells each device from others: with the filesystem on it where main would begin, if the device may be main at all.
///
/// Without a table nobody knows whether a part of the superblock lives on a spare, so what main shows may be older.
pub fn facts<'a>(header: &Header, table: Option<&Table>, among: &'a [Device]) -> Vec<Facts<'a>> {
    let moved = table.is_none_or(|table| {
        PIECES.iter().any(|piece| table.lookup(piece.start, piece.len).is_some())
    });
    let of = |device: &'a Device| {
        let facts = device.facts();
        // The filesystem refuses more, and never less.
        if compare(&header.raw().main, &facts).is_err() {
            return facts;
        }
        let seen = device.filesystem(header.raw().set.main_start.get());
        let facts = Facts { filesystem: if moved { seen.maybe_older() } else { seen }, ..facts };
        // The main that was looks like the one that is.
        match recognise_main(header, &facts) {
            Err(Differs::Replaced) => Facts { sectors: Sectors(0), ..facts },
            _ => facts,
        }
    };
    among.iter().map(of).collect()
}

/// The device of main and of each spare in `spares` that the set has.
///
/// # Errors
///
/// No memory.
pub fn matched(
    header: &Header,
    facts: &[Facts<'_>],
    spares: SpareSet,
) -> Result<Vec<Matched>, Failure> {
    let in_use = header.in_state(SpareState::Active).with(header.in_state(SpareState::Away));
    let mut members = vec![Member::Main];
    members.extend(in_use.and(spares).iter().map(Member::Spare));
    let prints: Vec<RawFingerprint> = members.iter().map(|m| print_of(header, *m)).collect();
    let choices = choose(&prints, facts).map_err(|_| "no memory")?;
    let all = members.into_iter().zip(prints).zip(choices.iter());
    Ok(all.map(|((member, print), &choice)| Matched { member, print, choice }).collect())
}
