// SPDX-License-Identifier: GPL-2.0

//! Who has to be there: the members of a set against the devices that are given.
//!
//! # States
//!
//! A member is *active*: every commit reaches it. Or it is *away*: the others have gone on without
//! it, in a history that began when it went; what it has is an ancestor of theirs, and what lives on
//! it gives errors. Or it has *left*, and holds nothing of the set any more.
//!
//! ```text
//!            not there, and a person says `absent`; or takes no writes
//!   active ------------------------------------------------------------> away
//!     ^                                                                   |
//!     '---- there, its copies brought up to date; a commit says so -------'
//! ```
//!
//! Both arrows are commits of the members that go on; they change nothing else, and begin a history,
//! so that two parts of a set that were used apart have histories that neither part knows of the
//! other: a conflict, which is refused. A member that is away is never used for
//! anything but to be brought up to date, and only if what it has is an ancestor.
//!
//! A member that is there has to be the one that was used, and not an [older](super::older) image of it.
//!
//! A member that is not there has to be known to be away, or be named by a person; nobody else knows
//! whether it is used elsewhere. But for those in whose hands the set was until now: to them it has died in use.

use super::super::format::header::{place_of, Header};
use super::super::format::layout::{Layout, COPIES};
use super::super::format::{Crc32, MemberUuid, SetUuid, SpareState};
use super::super::mem::{AllocError, KVec, GFP_KERNEL};
use super::super::settings::{Settings, ASSEMBLE_DEGRADED};
use super::super::store::{Read, SpareSet, Store};
use super::super::units::{Sectors, SpareId};
use super::survey::{Found, Survey};
use super::{older, Older, Refusal};

/// The members that an activation does without, as a person has said.
#[derive(Clone, Copy, Default)]
pub struct Without<'a> {
    /// Those that the set does not yet know to be away.
    pub absent: &'a [MemberUuid],
    /// Those that it lists as away; also without this if the set's own settings say so.
    pub away: bool,
}

/// Those that the set lists as away.
pub const KNOWN_AWAY: Without<'static> = Without { absent: &[], away: true };

/// What is to become of the members.
#[derive(Clone, Copy)]
pub(super) struct Members {
    /// Take part, or can be brought to it.
    pub(super) here: SpareSet,
    /// Are active and not there.
    pub(super) gone: SpareSet,
    /// Were away and are there.
    pub(super) back: SpareSet,
    /// Somebody is not there, who may have been reached by a commit that reached nobody else.
    pub(super) unseen: bool,
}

impl Members {
    /// Whether nobody has gone or come back.
    pub(super) const fn are_as_they_were(&self) -> bool {
        self.gone.is_empty() && self.back.is_empty()
    }

    pub(super) fn of(
        store: &dyn Store,
        survey: &Survey,
        header: &Header,
        without: &Without<'_>,
    ) -> Result<Self, Refusal> {
        let (active, away) =
            (header.in_state(SpareState::Active), header.in_state(SpareState::Away));
        // A device of which nothing can be read is as good as none.
        let mut here = survey.spares();
        for spare in survey.spares().iter().filter(|&spare| !survey.can_read(spare)) {
            here = here.without(SpareSet::one(spare));
        }
        // Who names a member that has left names none that took its place.
        if let Some(left) = here.and(header.in_state(SpareState::Left)).iter().next() {
            let successor = header.raw().spares[left.0 as usize].successor;
            return Err(Refusal::Left(left, MemberUuid(successor)));
        }
        let mut absent = SpareSet::NONE;
        for &uuid in without.absent {
            let spare = active.with(away).iter().find(|&spare| header.member(spare) == uuid);
            let spare = spare.ok_or(Refusal::NoMember(uuid))?;
            if here.has(spare) {
                return Err(Refusal::NotAbsent(spare, uuid));
            }
            absent.add(spare);
        }
        let gone = active.without(here);
        if let Some(spare) = gone.without(absent).iter().next() {
            return Err(Refusal::Missing(spare, header.member(spare)));
        }
        let still_away = away.without(here).without(absent);
        let agreed = Settings::get_raw(&header.raw().settings, &ASSEMBLE_DEGRADED) != 0;
        if let Some(spare) = still_away.iter().next().filter(|_| !without.away && !agreed) {
            return Err(Refusal::Away(spare, header.member(spare)));
        }
        for spare in here.iter() {
            let state = header.spare_state(spare);
            // A number is no proof: it is the member only if its copies name the same one.
            let mut on_it = survey.headers().filter(|(id, _)| id.spare == spare);
            let same = on_it.all(|(_, other)| other.member(spare) == header.member(spare));
            // Without one, a mark is, if it was made for what this set has become.
            let has_header = survey.headers().any(|(id, _)| id.spare == spare);
            let mut slots = survey.slots().iter().filter(|slot| slot.id.spare == spare);
            let marked = slots.all(|slot| match slot.found {
                Found::Mark(_, history) => header.is_meant_by(history),
                _ => true,
            });
            let same = same && (has_header || marked);
            if !active.with(away).has(spare) || !survey.has_traces_on(spare) || !same {
                return Err(Refusal::NotMember(spare, state));
            }
            let was = Sectors(header.raw().spares[spare.0 as usize].used_sectors.get());
            if store.sectors(spare) < was {
                return Err(Refusal::Shrunk { spare, is: store.sectors(spare), was });
            }
            if let Some(Older { found, durable }) = older(survey, header, spare) {
                let (uuid, away) = (header.member(spare), away.has(spare));
                return Err(Refusal::Older { spare, uuid, found, durable, away });
            }
        }
        let unseen = !active.with(away).without(here).is_empty();
        Ok(Self { here, gone, back: away.and(here), unseen })
    }
}

impl Survey {
    /// Whether the place of some header on that spare could be read.
    pub fn can_read(&self, spare: SpareId) -> bool {
        self.slots()
            .iter()
            .any(|slot| slot.id.spare == spare && !matches!(slot.found, Found::Unreadable(_)))
    }
}

/// The set, and the member of it, that a device says it is; `at` is where `store` has it. A device
/// that says several things is taken at its first word; recovery finds what contradicts it. What says
/// that it is another copy than the one of its place is not the device's: a disk shows the copies of a
/// spare that is a partition on it, beginning where the disk would have a copy of its own.
///
/// # Errors
///
/// Without memory.
pub fn identify(
    store: &mut dyn Store,
    at: SpareId,
    crc: Crc32,
) -> Result<Option<(SetUuid, SpareId)>, AllocError> {
    let mut batch = KVec::new();
    for copy in 0..COPIES as u8 {
        batch.push(Read::new(at, Layout::header(copy))?, GFP_KERNEL)?;
    }
    store.read(&mut batch);
    let mut read = batch.iter().enumerate().filter(|(_, read)| read.result.is_ok());
    Ok(read.find_map(|(copy, read)| {
        let (set, id) = place_of(&read.block, crc)?;
        (usize::from(id.copy) == copy).then_some((set, id.spare))
    }))
}
