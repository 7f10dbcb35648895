//! Which of the devices that say they are of a set are its spares.
//!
//! A device may say so and be none. It was to become one, and did not: it has the marks of that, or headers of a commit that came to
//! nothing. Or it was one and has left, and another one may have its number by now. The kernel looks only at those that the table line
//! names; here nobody has named any, and such a device must not keep the others from being found.
//!
//! Nor may anybody be left out who could know what the others do not. So these rules hold:
//!
//! 1. What the set is, is what a recovery takes of those that can be looked at together, whoever its members are. Two with
//!    one number cannot: then the one is looked at that the newest header names, or that has the marks of what the set has become.
//! 2. A device is left out when it is no member in that state, and either was among those that were looked at, so that the state was
//!    taken in spite of what it says; or each of its headers is superseded by that state.
//! 3. It must be clear what it says. At most one of its five places is damaged or cannot be read. Or both places of the group
//!    that is written last still have a mark: nothing that it takes part in is used before these have a header. Or a header on it is of
//!    a member that has left, as that header says or the state does: had it come again, each place would have got a mark first.
//!    None of this is asked of one that recovery refuses as an older image of a spare: it knows less than the state that was taken.
//! 4. Without it, the others come to the same state.
//! 5. One that has nothing but marks, of what no header of the set has become, is left out whatever the others come to. No other is:
//!    where they come to no state at all, or not to that one, the set is refused with all that say they are of it.

use crate::sets::Holder;
use crate::spares::{Access, Spares, Which};
use crate::Failure;
use dmremap::crc;
use remap_pure::copies::CopySet;
use remap_pure::format::header::{Header, HeaderDecodeError, HeaderError};
use remap_pure::format::layout::{CopyId, Layout};
use remap_pure::format::{MemberUuid, SetUuid, SpareState};
use remap_pure::recovery::members::Without;
use remap_pure::recovery::{recover_without, taken, Found, Recovered, Refusal, Survey};
use remap_pure::store::{Read, SpareSet, Store};
use remap_pure::units::{SpareId, MAX_SPARES};

/// A device that says that it is of a set, and what it says.
pub struct Claim {
    /// It, and the number that it says it has.
    pub holder: Holder,
    /// Its headers that are whole, each with the number that it names.
    headers: Vec<(SpareId, Header)>,
    /// The histories that its marks name.
    marks: Vec<u64>,
    /// Whether it is clear what its places say.
    clear: bool,
}

/// A device that is none of the set's spares.
pub struct LeftOut {
    /// Its path.
    pub name: String,
    /// Why it is none.
    pub what: Not,
}

/// Why a device is none of a set's spares.
#[derive(Clone, Copy)]
pub enum Not {
    /// It was one, and has left.
    Left,
    /// It was to become one, and did not.
    Joined,
    /// It is an [older](Refusal::Older) image of one.
    Current {
        /// Of which spare.
        spare: SpareId,
        /// The newest version on it.
        found: u64,
        /// The version that the spare had.
        durable: u64,
    },
}

/// What a set comes to.
pub struct Settled {
    /// Those that are its spares, or all that may be.
    pub holders: Vec<Holder>,
    /// Those that are not.
    pub left_out: Vec<LeftOut>,
    /// Its newest header that is whole, or that of the state that was taken.
    pub header: Option<Header>,
    /// The state, or why there is none, and whether that is a conflict.
    pub state: Result<Box<Recovered>, (String, bool)>,
}

fn memory<E>(_: E) -> &'static str {
    "no memory"
}

/// The members of the set of a header, whether or not they are away.
fn members(header: &Header) -> SpareSet {
    header.in_state(SpareState::Active).with(header.in_state(SpareState::Away))
}

impl Claim {
    /// What a device says of `set`; `spare` and `survey` are of it alone, as spare 0.
    ///
    /// # Errors
    ///
    /// Without memory.
    pub fn read(
        holder: Holder,
        set: SetUuid,
        spare: &mut Spares,
        survey: &Survey,
    ) -> Result<Self, Failure> {
        let mut claim = Self { holder, headers: Vec::new(), marks: Vec::new(), clear: false };
        let (mut marked, mut unclear) = (CopySet::NONE, 0);
        for slot in survey.slots() {
            match &slot.found {
                Found::Header(header) if header.uuid() == set => {
                    claim.headers.push((slot.id.spare, header.try_clone().map_err(memory)?));
                }
                Found::Mark(of, history) if *of == set => {
                    claim.marks.push(*history);
                    marked.add(slot.id);
                }
                // It was looked at under a number that need not be its own.
                Found::Not(HeaderError::Misplaced(is)) if is.copy == slot.id.copy => {
                    match elsewhere(spare, slot.id, *is)?.filter(|header| header.uuid() == set) {
                        Some(header) => claim.headers.push((is.spare, header)),
                        None => unclear += 1,
                    }
                }
                Found::Not(
                    HeaderError::Misplaced(_)
                    | HeaderError::Zero
                    | HeaderError::Magic
                    | HeaderError::V3,
                ) => {}
                _ => unclear += 1,
            }
        }
        let last = CopySet::all(survey.spares()).odd();
        claim.clear = unclear <= 1 || last.without(marked).is_empty();
        Ok(claim)
    }

    /// Whether there is a header on it that is whole.
    pub fn has_header(&self) -> bool {
        !self.headers.is_empty()
    }

    /// What it says under the number that it has.
    fn own(&self) -> impl Iterator<Item = &Header> {
        let own = |(number, _): &&(SpareId, Header)| Some(*number) == self.holder.number;
        self.headers.iter().filter(own).map(|(_, header)| header)
    }

    /// Whether its marks are of what the set of that header has become.
    fn is_meant_by(&self, header: &Header) -> bool {
        self.marks.iter().all(|&history| header.is_meant_by(history))
    }

    /// Whether that header has it as the member of its number.
    fn is_named_by(&self, header: &Header) -> bool {
        self.holder.number.is_some_and(|number| {
            members(header).has(number)
                && self.own().next().is_some()
                && self.own().all(|own| own.member(number) == header.member(number))
        })
    }

    /// Whether it may be left out of the set in the state `taken`, by the second and the third rule; `seen` says that it was
    /// looked at when that was taken.
    fn is_over(&self, taken: &Header, seen: bool) -> bool {
        let is_member = |uuid: MemberUuid| members(taken).iter().any(|id| taken.member(id) == uuid);
        let has_left = |(number, header): &(SpareId, Header)| {
            header.spare_state(*number) == SpareState::Left
                || taken.spare_state(*number) == SpareState::Left
                    && taken.member(*number) == header.member(*number)
        };
        (self.clear || self.headers.iter().any(has_left))
            && self.headers.iter().all(|(number, header)| {
                let seen = seen && self.holder.number == Some(*number);
                !is_member(header.member(*number)) && (seen || taken.supersedes(header))
            })
    }

    /// It, as none of the spares of the set in the state `taken`. What it says was of the set once, if it was one.
    fn left_out(&self, taken: &Header) -> LeftOut {
        let of_it =
            |(_, header): &(_, Header)| taken.descends_from(header.history(), header.version());
        let what = if self.headers.iter().any(of_it) { Not::Left } else { Not::Joined };
        LeftOut { name: self.holder.name.clone(), what }
    }
}

/// The header at the place `at`, which says that it is that of `is`.
fn elsewhere(spare: &mut Spares, at: CopyId, is: CopyId) -> Result<Option<Header>, Failure> {
    let place = Layout::header(at.copy);
    let mut batch = [Read::new(at.spare, place).map_err(memory)?];
    spare.read(&mut batch);
    if batch[0].result.is_err() {
        return Ok(None);
    }
    match Header::decode(&batch[0].block, is, crc) {
        Ok(header) => Ok(Some(header)),
        Err(HeaderDecodeError::Memory) => Err("no memory".into()),
        Err(HeaderDecodeError::Header(_)) => Ok(None),
    }
}

/// Who is looked at, and who is not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// With the others.
    Together,
    /// Another one has its number.
    Apart,
    /// It has nothing but marks, of what came to nothing.
    Never,
}

/// Sorts them by the first and the fifth rule.
fn sort(claims: &[Claim]) -> Vec<Place> {
    let headers = || claims.iter().flat_map(|claim| &claim.headers).map(|(_, header)| header);
    let Some(newest) = headers().max_by_key(|header| header.version()) else {
        return vec![Place::Together; claims.len()];
    };
    let never = |claim: &Claim| {
        let marks_only = !claim.has_header() && !claim.marks.is_empty();
        marks_only && claim.clear && !headers().any(|header| claim.is_meant_by(header))
    };
    let mut places: Vec<Place> = claims
        .iter()
        .map(|claim| if never(claim) { Place::Never } else { Place::Together })
        .collect();
    for number in (0..MAX_SPARES as u8).map(SpareId) {
        let same: Vec<usize> = (0..claims.len())
            .filter(|&i| places[i] == Place::Together && claims[i].holder.number == Some(number))
            .collect();
        if same.len() < 2 {
            continue;
        }
        let only_marks = same.iter().all(|&i| !claims[i].has_header());
        let stays = |claim: &Claim| match only_marks {
            true => claim.is_meant_by(newest),
            false => claim.is_named_by(newest),
        };
        // Which of two that both are the one, only a person knows.
        if same.iter().filter(|&&i| stays(&claims[i])).count() < 2 {
            same.iter().filter(|&&i| !stays(&claims[i])).for_each(|&i| places[i] = Place::Apart);
        }
    }
    let has_one = claims.iter().zip(&places).any(|(c, &p)| p == Place::Together && c.has_header());
    if !has_one {
        places.iter_mut().filter(|p| **p == Place::Apart).for_each(|p| *p = Place::Together);
    }
    places
}

fn open(claims: &[&Claim]) -> Result<Spares, Failure> {
    let names = claims.iter().map(|claim| claim.holder.name.clone()).collect();
    Spares::open(&Which::of(names), Access::Read)
}

/// The state that these come to. Who is not there, by `header`, is no reason not to look at what the others have.
fn come_to(spares: &mut Spares, claims: &[&Claim], header: &Header) -> Result<Recovered, Refusal> {
    let here = claims.iter().filter_map(|claim| claim.holder.number);
    let here = here.fold(SpareSet::NONE, |set, id| set.with(SpareSet::one(id)));
    let gone = header.in_state(SpareState::Active).without(here);
    let absent: Vec<MemberUuid> = gone.iter().map(|id| header.member(id)).collect();
    recover_without(spares, &Without { absent: &absent, away: true }, crc)
}

/// What a set comes to, of all devices that say they are of it.
///
/// # Errors
///
/// Without memory.
pub fn settle(claims: Vec<Claim>) -> Result<Settled, Failure> {
    let places = sort(&claims);
    let at = |place: Place| -> Vec<&Claim> {
        claims.iter().zip(&places).filter(|(_, p)| **p == place).map(|(claim, _)| claim).collect()
    };
    let mut kept = at(Place::Together);
    // Each with whether it was looked at.
    let mut out: Vec<(&Claim, bool)> =
        at(Place::Apart).into_iter().map(|claim| (claim, false)).collect();
    let mut old = Vec::new();
    let refused = |header: Option<Header>, why: String, conflict| {
        let all = claims.iter().zip(&places).filter(|(_, place)| **place != Place::Never);
        let holders: Vec<Holder> = all.map(|(claim, _)| claim.holder.clone()).collect();
        let never = at(Place::Never).into_iter().map(|claim| claim.holder.name.clone());
        let left_out = never.map(|name| LeftOut { name, what: Not::Joined }).collect();
        Ok(Settled { holders, left_out, header, state: Err((why, conflict)) })
    };
    let mut spares = match open(&kept) {
        Ok(spares) => spares,
        Err(why) => return refused(None, why, false),
    };
    let survey = Survey::take(&mut spares, crc).map_err(memory)?;
    let Some((_, newest)) = survey.newest() else {
        let why = survey.set().err().unwrap_or(Refusal::Memory);
        return refused(None, why.to_string(), false);
    };
    let newest = newest.try_clone().map_err(memory)?;
    let mut state = come_to(&mut spares, &kept, &newest);
    let taken = match &state {
        Ok(state) => Ok(state.header().try_clone().map_err(memory)?),
        // Its members may be other ones than those of the newest header.
        Err(_) => taken(&mut spares, crc),
    };
    let taken = match taken {
        Ok(taken) => taken,
        Err(refusal) => {
            let conflict = matches!(refusal, Refusal::Conflict(..));
            return refused(Some(newest), refusal.to_string(), conflict);
        }
    };
    if state.is_err() && !taken.same_content(&newest) {
        state = come_to(&mut spares, &kept, &taken);
    }
    let mut first = None;
    let state = loop {
        let refusal = match state {
            Ok(state) => break state,
            Err(refusal) => refusal,
        };
        let (number, image) = match refusal {
            Refusal::Left(number, _) | Refusal::NotMember(number, _) => (number, None),
            Refusal::Older { spare, found, durable, .. } => {
                (spare, Some(Not::Current { spare, found, durable }))
            }
            _ => return refused(Some(newest), refusal.to_string(), false),
        };
        first.get_or_insert(refusal);
        let at = kept.iter().position(|claim| claim.holder.number == Some(number));
        let Some(i) = at.filter(|_| kept.len() > 1) else {
            return refused(Some(newest), first.unwrap_or(refusal).to_string(), false);
        };
        let claim = kept.remove(i);
        match image {
            Some(what) => old.push(LeftOut { name: claim.holder.name.clone(), what }),
            None => out.push((claim, true)),
        }
        spares = match open(&kept) {
            Ok(spares) => spares,
            Err(why) => return refused(Some(newest), why, false),
        };
        state = come_to(&mut spares, &kept, &taken);
    };
    let header = state.header().try_clone().map_err(memory)?;
    let is_same = (header.history(), header.version()) == (taken.history(), taken.version());
    if !is_same || !out.iter().all(|(claim, seen)| claim.is_over(&taken, *seen)) {
        let both: Vec<&Claim> = [at(Place::Together), at(Place::Apart)].concat();
        let why = match first {
            Some(refusal) => refusal.to_string(),
            None => open(&both).err().unwrap_or_else(|| "its spares have changed".into()),
        };
        return refused(Some(newest), why, false);
    }
    let left_out = out.iter().map(|(claim, _)| *claim).chain(at(Place::Never));
    let left_out = left_out.map(|claim| claim.left_out(&taken)).chain(old).collect();
    let holders = kept.iter().map(|claim| claim.holder.clone()).collect();
    Ok(Settled { holders, left_out, header: Some(header), state: Ok(Box::new(state)) })
}
