// SPDX-License-Identifier: GPL-2.0

//! Whether the devices that a table line gives are those of a set: of the live one that the table is to go on with, or of what stands on
//! the spares. Only reads.

use super::{
    construct::{Complain, Said},
    identity::{recognise, see, Elsewhere},
    live::LiveSet,
    spare::{Main, Role, Spare, SpareList},
};
use crate::{
    controls::active_on,
    dm::{
        bio::BioPool,
        system::{self, MemScope},
    },
    metadata::SpareStore,
    pure::{
        commit::Metadata,
        format::{header::Header, MemberUuid, SpareState},
        identity::{self, Filesystem, FilesystemUuid, Match},
        line::Line,
        mem::KVec,
        recovery::{
            members::{identify, Without},
            recover_without, Known, Refusal, Survey,
        },
        settings::ASSEMBLE_DEGRADED,
        store::SpareSet,
        units::{Sectors, SpareId, MAX_SPARES},
    },
};
use core::fmt::Display;
use kernel::prelude::*;

/// Puts each spare at its number in the set: as the live set has it, or else as its metadata says.
/// Where no spare says anything, they keep the order of the line.
pub(super) fn number(
    mut listed: KVec<Option<Spare>>,
    live: Option<&LiveSet>,
    line: &Line<'_>,
    pool: &BioPool,
    complain: &Complain<'_>,
) -> Result<KVec<Option<Spare>>> {
    let mut numbers = [None; MAX_SPARES];
    let mut set = live.map(|live| live.set);
    for ((n, (path, _)), number) in (0..).zip(line.spares()).zip(&mut numbers) {
        let part = listed.get(usize::from(n)).and_then(|spare| Some(spare.as_ref()?.as_part()));
        if let (Some(live), Some(part)) = (live, part) {
            *number = live.number_of(&part);
        }
        if number.is_some() {
            continue;
        }
        let mut store = SpareStore::new(&listed, SpareSet::one(SpareId(n)), pool);
        let Some((of, id)) = identify(&mut store, SpareId(n), system::crc32)? else { continue };
        let first = *set.get_or_insert(of);
        if of != first {
            return Err(complain.say(
                format_args!("spare '{path}' belongs to set {of}, another one to {first}; check the devices' names"),
                EINVAL,
            ));
        }
        *number = Some(id);
    }
    if live.is_none() && numbers.iter().all(Option::is_none) {
        return Ok(listed);
    }
    for ((id, (path, _)), number) in (0..).map(SpareId).zip(line.spares()).zip(numbers) {
        if number.is_some() {
            continue;
        }
        let no = "carries no metadata of the set that can be read";
        let says = |e: &Refusal| e.of_spare().is_some() || matches!(e, Refusal::Damaged { .. });
        let e = match alone(&listed, id, pool).filter(says) {
            Some(why) => complain.say(format_args!("spare '{path}' {no}: {why}"), EINVAL),
            None => complain.say(
                format_args!("spare '{path}' {no}; leave it out, or check the device's name"),
                EINVAL,
            ),
        };
        return Err(e);
    }
    let mut spares = KVec::with_capacity(MAX_SPARES, GFP_KERNEL)?;
    for ((spare, (path, _)), number) in listed.iter_mut().zip(line.spares()).zip(numbers) {
        let number = number.ok_or(EINVAL)?;
        while spares.len() <= usize::from(number.0) {
            spares.push(None, GFP_KERNEL)?;
        }
        if let Some(slot) = spares.get_mut(usize::from(number.0)) {
            if slot.is_some() {
                return Err(complain.say(
                    format_args!("spare '{path}' says that it is spare {number} of the set, and so does another one; give one of them"),
                    EINVAL,
                ));
            }
            *slot = spare.take();
        }
    }
    Ok(spares)
}

/// Why a spare cannot be used, as far as it says so by itself. It is read with a good part of the stack, as in [`check`].
#[inline(never)]
fn alone(spares: &dyn SpareList, id: SpareId, pool: &BioPool) -> Option<Refusal> {
    let mut store = SpareStore::new(spares, SpareSet::one(id), pool);
    recover_without(&mut store, &Without::default(), system::crc32).err()
}

/// Whether the spares are those that the live set has, as far as a person does not do without them.
pub(super) fn check_live(
    live: &LiveSet,
    spares: &KVec<Option<Spare>>,
    without: &Without<'_>,
    pool: &BioPool,
    complain: &Complain<'_>,
) -> Result {
    let given = |id: SpareId| spares.get(usize::from(id.0)).is_some_and(Option::is_some);
    let answers = |id| !matches!(alone(spares, id, pool), Some(Refusal::Unreadable(_)));
    let has = live.active.with(live.away);
    for &uuid in without.absent {
        let mut members = (0..).map(SpareId).zip(&live.uuids);
        match members.find(|&(id, member)| has.has(id) && *member == uuid) {
            None => return Err(complain.say(Refusal::NoMember(uuid), EINVAL)),
            Some((id, _)) if given(id) && answers(id) => {
                return Err(complain.say(Refusal::NotAbsent(id, uuid), EINVAL));
            }
            Some(_) => {}
        }
    }
    for (id, &uuid) in (0..).map(SpareId).zip(&live.uuids) {
        if given(id) && !has.has(id) {
            // It has been told, and nobody writes to it any more: it says who took its place.
            let told = alone(spares, id, pool)
                .filter(|e| matches!(e, Refusal::Left(left, _) if *left == id));
            let left = told.unwrap_or(Refusal::Left(id, MemberUuid::default()));
            return Err(complain.say(left, EINVAL));
        }
        if given(id) || without.absent.contains(&uuid) {
            continue;
        }
        if live.active.has(id) {
            return Err(complain.say(Refusal::Missing(id, uuid), EINVAL));
        }
        let agreed = || {
            let settings = of_live(live, Metadata::settings);
            settings.is_some_and(|settings| settings.get(&ASSEMBLE_DEGRADED) != 0)
        };
        if live.away.has(id) && !without.away && !agreed() {
            return Err(complain.say(Refusal::Away(id, uuid), EINVAL));
        }
    }
    Ok(())
}

/// Whether what is given for spares is what the live set can use, as far as that is there to be asked: it has the part that the set uses, where it
/// is another device than the set has; and it is what went away, for one that the set goes on without. To those nobody writes who does not take them back.
#[inline(never)]
pub(super) fn check_others(
    live: &LiveSet,
    spares: &mut KVec<Option<Spare>>,
    pool: &BioPool,
    complain: &Complain<'_>,
) -> Result {
    let mut others = SpareSet::NONE;
    // Read before the live set is asked: others wait for that.
    let mut away = KVec::with_capacity(MAX_SPARES, GFP_KERNEL)?;
    for (id, spare) in (0..).map(SpareId).zip(spares.iter()) {
        let Some(spare) = spare else { continue };
        if live.number_of(&spare.as_part()).is_none() {
            others.add(id);
        }
        if live.away.has(id) {
            let mut store = SpareStore::new(&*spares, SpareSet::one(id), pool);
            away.push((id, Survey::take(&mut store, system::crc32)?), GFP_KERNEL)?;
        }
    }
    if others.is_empty() && away.is_empty() {
        return Ok(());
    }
    let checked = of_live(live, |meta| {
        for id in others.iter() {
            if let Some(Some(spare)) = spares.get_mut(usize::from(id.0)) {
                fit(spare, meta.header(), id).map_err(|what| complain.say(what, EINVAL))?;
            }
        }
        away.iter().try_for_each(|(id, survey)| check_away(meta, *id, survey, &*spares, complain))
    });
    checked.unwrap_or(Ok(()))
}

fn check_away(
    meta: &Metadata,
    id: SpareId,
    survey: &Survey,
    spares: &dyn SpareList,
    complain: &Complain<'_>,
) -> Result {
    let Some(spare) = spares.at(id).filter(|_| meta.away().has(id)) else { return Ok(()) };
    let set = meta.header().uuid();
    let is_ours = || survey.slots().iter().any(|slot| slot.set == Some(set));
    match meta.is_what_went_away(survey, id) {
        Err(e) => Err(complain.say(format_args!("{}: {e}", spare.device), EINVAL)),
        Ok(false) if survey.can_read(id) && !is_ours() => {
            let e = Refusal::NotMember(id, SpareState::Away);
            Err(complain.say(format_args!("{}: {e}", spare.device), EINVAL))
        }
        Ok(_) => Ok(()),
    }
}

/// Whether the live set may have this device for main, as a person says.
#[inline(never)]
pub(super) fn check_new_main(
    live: &LiveSet,
    main: &Main,
    spares: &dyn SpareList,
    said: Said,
    pool: &BioPool,
    complain: &Complain<'_>,
) -> Result {
    let checked = of_live(live, |meta| {
        let elsewhere = Elsewhere { table: meta.table(), spares, active: meta.active() };
        let seen = see(main, elsewhere, pool).tells(true);
        check_set(meta.header(), main, spares, seen, said).map(|_| ())
    });
    checked.unwrap_or(Ok(())).map_err(|what| complain.say(what, EINVAL))
}

/// Asks the live set, if it is there to be asked.
fn of_live<T>(live: &LiveSet, what: impl FnOnce(&Metadata) -> T) -> Option<T> {
    let remap = active_on(live.owner)?;
    // Who suspends that device may wait for the lock, and memory for I/O to it.
    let _scope = MemScope::without_io();
    let meta = remap.meta.lock();
    meta.as_ref().map(what)
}

/// Makes the part of the spare what the set uses of it, where the line names none.
///
/// # Errors
///
/// The set uses another part.
fn fit(spare: &mut Spare, header: &Header, id: SpareId) -> Result<(), Unfit> {
    let Some(member) = header.raw().spares.get(usize::from(id.0)) else { return Ok(()) };
    let (start, len) = (member.used_start.get(), member.used_sectors.get());
    spare.fit((start, Sectors(len)));
    match (spare.start, spare.len.0) == (start, len) {
        true => Ok(()),
        false => Err(Unfit::Part { start, len }),
    }
}

/// What is on the spares, if it can be used, and is made for these devices.
pub(super) fn check_found(
    spares: &mut KVec<Option<Spare>>,
    without: &Without<'_>,
    said: Said,
    main: &Main,
    pool: &BioPool,
    line: &Line<'_>,
    complain: &Complain<'_>,
) -> Result<Known> {
    let mut store = SpareStore::new(&*spares, SpareSet(u8::MAX), pool);
    let found = recover_without(&mut store, without, system::crc32);
    // Where none of them says which spare it is, they have the numbers of the line.
    let found = found.map_err(|e| complain.say_of(line, e.of_spare(), e, EINVAL))?;
    let members = (0..).map(SpareId).zip(spares.iter_mut());
    for (id, spare) in members.filter_map(|(id, spare)| Some((id, spare.as_mut()?))) {
        fit(spare, found.header(), id).map_err(|what| complain.say(what, EINVAL))?;
    }
    let active = found.header().in_state(SpareState::Active);
    let elsewhere = Elsewhere { table: found.table(), spares: &*spares, active };
    let seen = see(main, elsewhere, pool).tells(false);
    let checked = check_set(found.header(), main, &*spares, seen, said).map(|_| ());
    checked.map_err(|what| complain.say(what, EINVAL))?;
    Ok(found.known()?)
}

/// Whether a set that was found is made for this main and these parts of the spares, and by what main
/// is recognised; nothing where it is a new one.
pub(super) fn check_set(
    header: &Header,
    main: &Main,
    spares: &dyn SpareList,
    seen: Filesystem,
    said: Said,
) -> Result<Option<Match>, Unfit> {
    let raw = header.raw();
    let len = raw.set.main_sectors.get();
    let fits = len == main.len.0 || said.grow && len < main.len.0;
    if !fits || raw.set.main_start.get() != main.start {
        return Err(Unfit::Mapped { start: raw.set.main_start.get(), len });
    }
    let by = recognise(header, main, seen, said)?;
    for (id, member) in (0..).map(SpareId).zip(&raw.spares) {
        let spare = spares.at(id).filter(|spare| matches!(spare.role(), Role::Member | Role::Away));
        let (start, len) = (member.used_start.get(), member.used_sectors.get());
        if spare.is_some_and(|spare| (spare.start, spare.len.0) != (start, len)) {
            return Err(Unfit::Part { start, len });
        }
    }
    Ok(by)
}

/// Why a set is not for these devices.
pub(super) enum Unfit {
    /// It maps another part of main.
    Mapped { start: u64, len: u64 },
    /// It was made for another main.
    Main(identity::Differs),
    /// It has another filesystem than a person says.
    Said { is: FilesystemUuid, said: FilesystemUuid },
    /// It uses another part of the spare.
    Part { start: u64, len: u64 },
}

impl Display for Unfit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Mapped { start, len } => write!(
                f,
                "the set maps {len} sectors of main from {start}; give the table that length, and main_start {start}; or 'grow', if main has grown; or check the device's name: this may not be the set's main"
            ),
            Self::Main(differs) => {
                write!(f, "the set was made for another main ({differs}); check the device's name")
            }
            Self::Said { is, said } => write!(
                f,
                "main's filesystem is {is}, and the table line says {said}; check the device's name"
            ),
            Self::Part { start, len } => write!(
                f,
                "the set uses {len} sectors of the spare from {start}; give <spare_start> {start} <spare_length> {len}"
            ),
        }
    }
}
