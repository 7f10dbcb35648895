// SPDX-License-Identifier: GPL-2.0

//! A member that is older than it was: a clone, a snapshot or a restored image of it.
//!
//! What such a device has is an ancestor of the newest state, and looks like what a crash or a long
//! absence leaves. Taken for that it would be brought up to date, and only its metadata can be: in the
//! places where extents live there would be old data, or another extent's, without an error. So it is
//! refused where the metadata prove that it is not the device as it was left.
//!
//! # The rule
//!
//! A member is older than `durable`, a version that it is known to have had, where all whole headers on
//! it are of lower versions, and the places of all other headers can be [excused](#what-is-excused).
//!
//! What a member is known to have had, both said by the state that was taken:
//!
//! - active: the version that has [stood](Header::stood) everywhere, of any copy of that state on an active
//!   member. (What writers of before called durable had not always been seen there.) Those of the one group say which version was before,
//!   those of the other that the state itself was reached by all.
//! - away: [what it had](Header::had) when it went. What came to be durable later did so without it.
//!
//! # Why nothing else is refused
//!
//! **Invariant.** Whoever writes that a version has stood on every member has, before, seen the write and the flush
//! of that version succeed in at least one place of a header on each member that is active for the copy
//! that says so. From then on nothing but newer versions is written there. So that place has
//! this version or a higher one, or what stands there is no whole header: torn, damaged or unreadable.
//! A member on which *every* place has a whole header of a lower version is not the one that was
//! written to, or its device has lost what it had acknowledged.
//!
//! | what is found | why it is not refused |
//! |---|---|
//! | a commit cut short in group A, on some members only; in doubt | its copies say that the version before was durable, and no member has less than that |
//! | cut short between the groups, or in group B | every member has group A. Group B says so only afterwards |
//! | copies that failed and are left out; four of five damaged | one place that is newer, or not whole, is enough, unless it is excused |
//! | a copy that nobody could flush | it does not count as good, and the next commit leaves it out |
//! | a rebuild, a repair, a rewrite, an upgrade cut short | what is written is newer than what is written over, and is said to be durable only when each active member has it |
//! | a member that no commit could reach, put away | what it had is noted as it was known before; a state that may not have reached it does not count |
//! | the return of a member cut short | it is away still, and what is written to it is newer than what it had; or active, and it was brought up to date before the commit began |
//! | a creation, or a new member, cut short | it has marks, not headers |
//! | a copy that somebody else has written later, after a conflict was decided | only the state that was taken is asked |
//! | no copy of the state says anything: after a restore of which a spare took nothing | nothing is known, nothing refused |
//! | a spare alone | its own newest header cannot be newer than itself |
//!
//! # What is excused
//!
//! A place that has no whole header may be the one that was newer. It is not where the header of the state
//! says that it was left out of the commit, and the version in question is an earlier one: all places that
//! were not left out had that version when the commit was begun, as only good copies take part in
//! one. Of the version of the state itself, and of what a member that is away had, that cannot be said.
//!
//! # What it cannot tell
//!
//! An image of the same version, which differs only in what was written in place since; an older one with a
//! damaged header that nothing excuses; one of a member that went away under a program that did not note
//! what it had. And nothing at all where no other member has anything newer.

use super::super::format::header::Header;
use super::super::format::layout::CopyId;
use super::super::format::SpareState;
use super::super::units::SpareId;
use super::survey::{Found, Survey};

/// The state of a member that is older than it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Older {
    /// The newest version that stands on it.
    pub(crate) found: u64,
    /// The version that it is known to have had.
    pub(crate) durable: u64,
}

/// Whether that member is older than `taken` knows it to have been.
pub(crate) fn older(survey: &Survey, taken: &Header, member: SpareId) -> Option<Older> {
    let on_it = survey.headers().filter(|(id, _)| id.spare == member);
    let found = on_it.map(|(_, header)| header.version()).max()?;
    let is_active = |spare| taken.spare_state(spare) == SpareState::Active;
    // Who is being brought up to date, or has left, is told of what others have.
    let same = survey.headers().filter(|(id, header)| {
        is_active(member) && is_active(id.spare) && header.same_content(taken)
    });
    let said = same.map(|(_, header)| header.stood());
    let had = (!is_active(member)).then(|| taken.had(member));
    let durable = said.chain(had).filter(|&durable| {
        let excused =
            |id: CopyId| is_active(member) && durable < taken.version() && taken.is_left_out(id);
        let mut slots = survey.slots().iter().filter(|slot| slot.id.spare == member);
        found < durable
            && slots.all(|slot| matches!(slot.found, Found::Header(_)) || excused(slot.id))
    });
    durable.max().map(|durable| Older { found, durable })
}
