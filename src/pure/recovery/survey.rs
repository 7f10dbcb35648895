// SPDX-License-Identifier: GPL-2.0

//! What stands in the places of the headers.

use super::super::copies::CopySet;
use super::super::format::header::{
    creation_mark_of, traces, Header, HeaderDecodeError, HeaderError,
};
use super::super::format::layout::{CopyId, Layout, COPIES};
use super::super::format::{Crc32, SetUuid};
use super::super::mem::{AllocError, KVec, GFP_KERNEL};
use super::super::store::{IoError, Read, SpareSet, Store};
use super::super::units::SpareId;
use super::{Refusal, Stand};

/// What was found in the place of a header.
pub enum Found {
    /// A header that is whole.
    Header(Header),
    /// The mark of a creation that did not get further, for this set, and of the history that was to begin.
    Mark(SetUuid, u64),
    /// No header that can be used.
    Not(HeaderError),
    /// It could not be read.
    Unreadable(IoError),
}

/// The place of a header, and what was found there.
pub struct Slot {
    /// Which copy.
    pub id: CopyId,
    /// What was found.
    pub found: Found,
    /// The set that it speaks of, if that much is whole.
    pub set: Option<SetUuid>,
    /// The version that it speaks of, if that much is whole.
    pub version: Option<u64>,
}

/// The places of all headers on all spares.
pub struct Survey {
    slots: KVec<Slot>,
    spares: SpareSet,
}

impl Survey {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// Without memory. What cannot be read is noted.
    pub fn take(store: &mut dyn Store, crc: Crc32) -> Result<Self, AllocError> {
        let spares = store.spares();
        Self::of(store, spares, crc)
    }

    /// Reads those on `spares`.
    ///
    /// # Errors
    ///
    /// Without memory. What cannot be read is noted.
    pub fn of(store: &mut dyn Store, spares: SpareSet, crc: Crc32) -> Result<Self, AllocError> {
        let mut batch = KVec::new();
        for spare in spares.iter() {
            for copy in 0..COPIES as u8 {
                batch.push(Read::new(spare, Layout::header(copy))?, GFP_KERNEL)?;
            }
        }
        store.read(&mut batch);
        let mut slots = KVec::with_capacity(batch.len(), GFP_KERNEL)?;
        for (i, read) in batch.iter().enumerate() {
            let id = CopyId { spare: read.spare, copy: (i % COPIES) as u8 };
            let slot = match read.result {
                Err(e) => Slot { id, found: Found::Unreadable(e), set: None, version: None },
                Ok(()) => {
                    let (set, version) = traces(&read.block, crc);
                    let found = match Header::decode(&read.block, id, crc) {
                        Ok(header) => Found::Header(header),
                        Err(HeaderDecodeError::Memory) => return Err(AllocError),
                        Err(HeaderDecodeError::Header(e)) => {
                            match creation_mark_of(&read.block, crc) {
                                Some((set, history)) => Found::Mark(set, history),
                                None => Found::Not(e),
                            }
                        }
                    };
                    Slot { id, found, set, version }
                }
            };
            slots.push(slot, GFP_KERNEL)?;
        }
        Ok(Self { slots, spares })
    }

    /// The places, by spare and copy.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The spares that were looked at.
    pub fn spares(&self) -> SpareSet {
        self.spares
    }

    /// The headers that are whole.
    pub fn headers(&self) -> impl Iterator<Item = (CopyId, &Header)> + Clone {
        self.slots.iter().filter_map(|slot| match &slot.found {
            Found::Header(header) => Some((slot.id, header)),
            _ => None,
        })
    }

    /// The whole header in that place.
    pub(super) fn header(&self, id: CopyId) -> Option<&Header> {
        self.headers().find(|(i, _)| *i == id).map(|(_, header)| header)
    }

    /// The whole header with the highest version.
    pub fn newest(&self) -> Option<(CopyId, &Header)> {
        self.headers().max_by_key(|(_, header)| header.version())
    }

    /// The copies on each spare that are of the newest version that is there.
    pub fn newest_on_each(&self) -> CopySet {
        let mut newest = CopySet::NONE;
        for (id, header) in self.headers() {
            let others = self.headers().filter(|(other, _)| other.spare == id.spare);
            if others.into_iter().all(|(_, other)| other.version() <= header.version()) {
                newest.add(id);
            }
        }
        newest
    }

    /// The highest version of which a header has a trace, whole or not.
    pub(super) fn highest(&self) -> u64 {
        let set = self.newest().map(|(_, header)| header.uuid());
        let ours = self.slots.iter().filter(|slot| set.is_none() || slot.set == set);
        ours.filter_map(|slot| slot.version).max().unwrap_or(0)
    }

    pub(super) fn unreadable(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.found, Found::Unreadable(_)))
    }

    /// Whether something of the set of the whole headers is on that spare.
    pub(super) fn has_traces_on(&self, spare: SpareId) -> bool {
        let set = self.newest().map(|(_, header)| header.uuid());
        self.slots
            .iter()
            .any(|slot| slot.id.spare == spare && slot.set.is_some() && slot.set == set)
    }

    /// Whether some place still has the mark of a creation.
    pub fn has_marks(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.found, Found::Mark(..)))
    }

    /// The set that all whole headers belong to.
    ///
    /// # Errors
    ///
    /// That there are several, or none, and what there is instead.
    pub fn set(&self) -> Result<SetUuid, Refusal> {
        if let Some((id, first)) = self.headers().next() {
            let uuid = first.uuid();
            let other = self.slots.iter().find(|slot| {
                slot.set.is_some_and(|set| set != uuid)
                    && matches!(slot.found, Found::Header(_) | Found::Mark(..))
            });
            if let Some(slot) = other {
                return Err(Refusal::OtherSet(slot.id, slot.set.unwrap_or_default()));
            }
            let wide = self.headers().find(|(_, h)| h.layout() != first.layout());
            if let Some((other, header)) = wide {
                return Err(Refusal::Conflict(Stand::of(id, first), Stand::of(other, header)));
            }
            return Ok(uuid);
        }
        Err(self.without_header())
    }

    fn without_header(&self) -> Refusal {
        for slot in self.slots.iter() {
            if let Found::Mark(set, _) = slot.found {
                return Refusal::CreationCutShort(slot.id.spare, set);
            }
        }
        // A header that is damaged says more than one that is not there, and one that is whole and
        // not for us says most.
        let by = |e: &HeaderError| match e {
            HeaderError::Zero => 0,
            HeaderError::Magic => 1,
            HeaderError::V3 => 2,
            e if e.is_newer() => 4,
            _ => 3,
        };
        let not = |slot: &Slot| match slot.found {
            Found::Not(e) => Some((slot.id, e)),
            _ => None,
        };
        let worst =
            self.slots.iter().filter_map(not).max_by_key(|(id, e)| (by(e), u8::MAX - id.copy));
        match worst {
            None => Refusal::Unreadable(self.spares.iter().next().unwrap_or_default()),
            Some((id, HeaderError::Zero)) => Refusal::Empty(id.spare),
            Some((id, HeaderError::Magic)) => Refusal::Foreign(id.spare),
            Some((id, HeaderError::V3)) => Refusal::V3(id.spare),
            Some((id, error)) => Refusal::Damaged { id, error, highest: self.highest() },
        }
    }
}
