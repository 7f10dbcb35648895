// SPDX-License-Identifier: GPL-2.0

//! Who is to join the set and who is to leave it: what a person has named, and whether it can be. The
//! change itself is in [`members`](super::members).

use super::{
    construct::{check_spare, Complain},
    live,
    spare::{Role, Spare},
    Remap,
};
use crate::{
    dm::device::{self, BlockDevice},
    pure::{
        commit::JoinError,
        format::MemberUuid,
        store::SpareSet,
        units::{Sectors, SpareId},
    },
};
use core::fmt::Display;
use kernel::{
    prelude::*,
    str::CString,
    sync::atomic::{Full, Relaxed},
};

/// Who joins and who leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Roster {
    /// A device in a place of its own.
    pub(crate) joins: Option<SpareId>,
    /// A member.
    pub(crate) leaves: Option<SpareId>,
    /// Something foreign on who joins may be given up.
    pub(crate) overwrite: bool,
    /// What cannot be read on who leaves is given up.
    pub(crate) lost: bool,
}

impl Roster {
    /// A word for it.
    pub(crate) fn name(self) -> &'static str {
        match (self.joins, self.leaves) {
            (Some(_), Some(_)) => "migrate",
            (Some(_), None) => "spare-add",
            _ => "spare-remove",
        }
    }

    /// The spares whose data comes and goes.
    pub(super) fn migration(self) -> Option<(SpareId, SpareId)> {
        Some((self.leaves?, self.joins?))
    }
}

impl Remap {
    /// Begins a change of the members, unless one is under way; to be ended with
    /// [`members_changed`](Self::members_changed).
    pub(crate) fn change_members(&self) -> Result {
        self.changing.cmpxchg(0, 1, Full).map(|_| ()).map_err(|_| {
            self.say_error(format_args!(
                "spares are being added, removed or replaced; wait for that, or stop it with 'stop'"
            ));
            EBUSY
        })
    }

    /// It is over. Who has not become a member is none of the set's.
    pub(crate) fn members_changed(&self) {
        for (n, spare) in self.spares.iter() {
            if spare.role() == Role::Candidate {
                self.spares.set_role(SpareId(n as u8), Role::Refused);
            }
        }
        self.changing.store(0, Relaxed);
    }

    /// The device at `path` is to become a member: it is opened, if it can be one, and put in a place.
    /// A change of the members has begun.
    ///
    /// # Errors
    ///
    /// What is in the way has been said.
    pub(crate) fn open_candidate(&self, path: &str) -> Result<SpareId> {
        let name = CString::try_from_fmt(format_args!("{path}"))?;
        let number = device::number_of(&name).inspect_err(|e| {
            self.say_error(format_args!("'{path}' is no block device: {e:?}"));
        })?;
        if self.main.device.block().number() == number {
            self.say_error(format_args!("'{path}' is main; give another device"));
            return Err(EINVAL);
        }
        let mut taken = SpareSet::NONE;
        let mut known = None;
        for (n, spare) in self.spares.iter() {
            let (id, same) = (SpareId(n as u8), spare.block().number() == number);
            match spare.role() {
                Role::Member | Role::Away if same => {
                    self.say_error(format_args!(
                        "'{path}' is spare {id} of the set already; 'spare remove' empties another one into those that stay"
                    ));
                    return Err(EEXIST);
                }
                Role::Left if same => {
                    self.say_error(format_args!(
                        "'{path}' has left the set since its table was loaded; load the table anew first"
                    ));
                    return Err(EBUSY);
                }
                Role::Refused if same => known = Some(id),
                Role::Candidate | Role::Refused => {}
                _ => taken.add(id),
            }
        }
        let guard = self.meta.lock();
        let id = match guard.as_ref() {
            Some(meta) => meta.number_for_new(taken).ok_or(JoinError::Full),
            None => {
                drop(guard);
                self.say_error(format_args!("the device is suspended; resume it first"));
                return Err(EBUSY);
            }
        };
        drop(guard);
        let id = id.map_err(|e| {
            self.say_error(format_args!("{e}"));
            EBUSY
        })?;
        if let Some(spare) = self.spare(id).filter(|_| known == Some(id)) {
            live::join(self.number(), id, spare.as_part())?;
            // It was refused before it had anything that is not elsewhere.
            spare.cache.begin_anew();
            self.spares.set_role(id, Role::Candidate);
            return Ok(id);
        }
        let device = self.mapped.open(number, true, &self.main.device).inspect_err(|&e| {
            let hint = if e == EBUSY { "; is it mounted, or in use?" } else { "" };
            self.say_error(format_args!("'{path}' cannot be opened: {e:?}{hint}"));
        })?;
        let len = Sectors(device.block().sectors() & !7);
        let mut spare = Spare::new(device, 0, len, false).with_role(Role::Candidate);
        let complain = Complain::of(self);
        check_spare(&self.main, &spare, path, true, &complain)?;
        self.must_take_what_is_sent(&spare, path)?;
        live::join(self.number(), id, spare.as_part()).inspect_err(|_| {
            self.say_error(format_args!("'{path}' is in use by a remap device"));
        })?;
        spare.generation = self.spare(id).map_or(0, |before| before.generation.wrapping_add(1));
        spare.put(id, &self.spares)?;
        Ok(id)
    }

    /// Bios are cut to what main and the first spares take.
    fn must_take_what_is_sent(&self, spare: &Spare, path: &str) -> Result {
        let (main, new) = (self.main.device.block(), spare.block());
        let others = || self.each_spare().map(|(_, spare)| spare.block());
        let zeroes = main.max_write_zeroes_sectors() > 0
            && others().all(|spare| spare.max_write_zeroes_sectors() > 0);
        let aligned = others().map(|spare| spare.dma_alignment()).max().unwrap_or(0);
        let aligned = aligned.max(main.dma_alignment());
        let what = if zeroes && new.max_write_zeroes_sectors() == 0 {
            "write zeroes by itself"
        } else if new.dma_alignment() > aligned {
            "take data from memory aligned as for the others"
        } else if !new.has_nowait() && main.has_nowait() && others().all(BlockDevice::has_nowait) {
            "answer at once where it would have to wait"
        } else if new.needs_stable_writes()
            && !main.needs_stable_writes()
            && !others().any(BlockDevice::needs_stable_writes)
        {
            "take data that may change while it is written"
        } else {
            return Ok(());
        };
        self.say_error(format_args!(
            "'{path}' cannot {what}, as the others can; use another device (what helps is told in docs/remap.rst, spare add)"
        ));
        Err(EINVAL)
    }

    /// The member that a person names: by its number, its UUID, or a path of its device.
    pub(crate) fn member_named(&self, name: &str) -> Result<SpareId> {
        let state = self.state.lock();
        let members = state.info.active.with(state.info.away);
        let number = name.parse().ok().filter(|_| name.len() == 1).map(SpareId);
        let uuid = MemberUuid::parse(name);
        let by_uuid = |id: &SpareId| state.info.members.get(usize::from(id.0)).copied() == uuid;
        let found = members.iter().find(|id| Some(*id) == number);
        let found = found.or_else(|| uuid.and_then(|_| members.iter().find(by_uuid)));
        drop(state);
        if let Some(found) = found {
            return Ok(found);
        }
        let path = CString::try_from_fmt(format_args!("{name}"))?;
        let device = device::number_of(&path).ok();
        let is = |spare: &Spare| Some(spare.block().number()) == device;
        self.each_spare().find(|(_, spare)| is(spare)).map(|(id, _)| id).ok_or_else(|| {
            self.say_error(format_args!(
                "'{name}' is no spare of the set; give its device, its number or its UUID"
            ));
            ENOENT
        })
    }

    /// Whether a member may leave with nobody in its place.
    pub(crate) fn can_do_without(&self, leaves: SpareId) -> Result {
        let others = self.state.lock().info.active.without(SpareSet::one(leaves));
        if others.is_empty() {
            self.say_error(format_args!(
                "{} is the only spare; 'migrate' replaces it by another device",
                self.device_of(leaves)
            ));
            return Err(EINVAL);
        }
        Ok(())
    }

    /// The only member that there is.
    pub(crate) fn only_member(&self) -> Result<SpareId> {
        let state = self.state.lock();
        let mut members = state.info.active.with(state.info.away).iter();
        let first = members.next().ok_or(ENOENT)?;
        if members.next().is_some() {
            drop(members);
            drop(state);
            self.say_error(format_args!("there are several spares; say which one is to leave"));
            return Err(EINVAL);
        }
        Ok(first)
    }

    /// A spare in words: its number, and its device if the table has that.
    pub(crate) fn device_of(&self, id: SpareId) -> impl Display + '_ {
        struct Named<'a>(SpareId, Option<&'a Spare>);
        impl Display for Named<'_> {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.1 {
                    Some(spare) => write!(f, "spare {} ({})", self.0, spare.device),
                    None => write!(f, "spare {}", self.0),
                }
            }
        }
        Named(id, self.spare(id))
    }
}
