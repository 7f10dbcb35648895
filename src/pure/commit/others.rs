// SPDX-License-Identifier: GPL-2.0

//! What stands on the spares of a set in use where no state could be taken from them: damage, or what
//! somebody else has written.

use super::super::copies::{CopySet, CopyState};
use super::super::format::header::HeaderError;
use super::super::mem::AllocError;
use super::super::recovery::{Found, Refusal, Slot, Survey, UNSEEN};
use super::super::store::{SpareSet, Store};
use super::{Metadata, Relation};

/// Whose what stands in the places of the headers is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Left {
    /// Nothing but what the set in use has left there, whole or damaged, or what could not be read.
    Own,
    /// Something that is not of dm-remap. Damage can look like it.
    Unknown,
    /// Something newer than what is in use, another set's, or of another format.
    Others,
}

impl Metadata {
    /// After a [recovery](super::super::recovery) of the set in use was refused for `why`: looks whose
    /// what stands there is, and notes what follows for the copies. Only what somebody else has written
    /// makes them [overwritten](Self::copies_overwritten); and where a spare could not be read, there is
    /// nothing to note: the next commit finds out what it takes.
    ///
    /// # Errors
    ///
    /// Without memory, now or for the recovery; nothing is noted then.
    pub fn refused(&mut self, store: &mut dyn Store, why: &Refusal) -> Result<Left, AllocError> {
        if *why == Refusal::Memory {
            return Err(AllocError);
        }
        let survey = Survey::take(store, self.crc)?;
        let slots = survey.slots();
        let left = slots.iter().map(|slot| self.left_in(slot)).max().unwrap_or(Left::Own);
        match (left, why) {
            (Left::Own, Refusal::Unreadable(_) | Refusal::Missing(..)) => {}
            // Written anew it would look as if its data were what it was.
            (Left::Own, Refusal::Older { spare, .. }) => {
                self.written_over(CopySet::all(self.active().and(SpareSet::one(*spare))), 0);
            }
            (Left::Own, _) => self.copies_damaged(),
            _ => self.copies_overwritten(self.highest_in(slots)),
        }
        Ok(left)
    }

    /// Looks for copies in the place of whose header something stands that is not this set's, or newer, and
    /// notes that they were written over.
    ///
    /// # Errors
    ///
    /// Without memory; nothing is noted then.
    pub fn look_for_others(&mut self, store: &mut dyn Store) -> Result<(), AllocError> {
        let survey = Survey::take(store, self.crc)?;
        let slots = survey.slots();
        let others = slots.iter().filter(|slot| self.left_in(slot) != Left::Own);
        let mut copies = CopySet::NONE;
        others.for_each(|slot| copies.add(slot.id));
        if !copies.is_empty() {
            self.written_over(copies, self.highest_in(slots));
        }
        Ok(())
    }

    /// The highest version of this set that may stand there.
    fn highest_in(&self, slots: &[Slot]) -> u64 {
        let own = slots.iter().filter(|slot| slot.set == Some(self.header.uuid()));
        let highest = own.filter_map(|slot| slot.version).max().unwrap_or(0);
        // Nobody has looked at the blocks.
        highest.saturating_add(UNSEEN)
    }

    /// No copy counts as good until it is [repaired](Self::repair).
    pub fn copies_damaged(&mut self) {
        self.copies.note_all(self.copies.present(), CopyState::Stale);
    }

    fn left_in(&self, slot: &Slot) -> Left {
        let set = self.header.uuid();
        match &slot.found {
            Found::Unreadable(_) => Left::Own,
            // It may be the commit that is in doubt.
            Found::Header(header)
                if self.in_doubt && header.uuid() == set && header.version() <= self.highest =>
            {
                Left::Own
            }
            Found::Header(header) => match self.relation(header) {
                Relation::Same | Relation::Ancestor => Left::Own,
                Relation::Descendant | Relation::Conflict | Relation::OtherSet => Left::Others,
            },
            Found::Mark(of, _) if *of == set => Left::Own,
            Found::Mark(..) | Found::Not(HeaderError::V3) => Left::Others,
            Found::Not(HeaderError::Magic) => Left::Unknown,
            Found::Not(error) => {
                let other = slot.set.is_some_and(|of| of != set);
                let known = self.highest.max(self.version());
                let newer = slot.version.is_some_and(|version| version > known);
                match other || newer || error.is_newer() {
                    true => Left::Others,
                    false => Left::Own,
                }
            }
        }
    }
}
