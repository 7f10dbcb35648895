//! Every set that is on this machine: which devices carry its metadata, which main is its own, what is missing.
//!
//! Only reads. A set in use is what the kernel says of it; what stands on its spares is in motion.

use crate::claims::{settle, Claim, LeftOut, Not, Settled};
use crate::hides::{part_named, Block};
use crate::live::{value, Live, Mapper};
use crate::machine::{nodes, Node};
use crate::matching::{facts, matched, print_of, Matched, Member};
use crate::spares::{part_of, Access, Device, Spares};
use crate::Failure;
use dmremap::configuration::{Configuration, Entry, PATH};
use dmremap::crc;
use dmremap::devices::members;
use remap_pure::format::header::{Header, HeaderError};
use remap_pure::format::{MemberUuid, SetUuid, SpareState};
use remap_pure::identity::choose::{least_match, Choice};
use remap_pure::identity::replaced::recognise_main;
use remap_pure::identity::{compare, Facts, Match, MatchKind};
use remap_pure::recovery::members::identify;
use remap_pure::recovery::{Found, Recovered, Refusal, Slot, Survey};
use remap_pure::store::SpareSet;
use remap_pure::units::{Sectors, SpareId};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A device with metadata of a set on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its path, with the part that the set uses where that is not all of it.
    pub name: String,
    /// Its number in the set, where a header, or a mark, says it.
    pub number: Option<SpareId>,
}

/// What a set is, as far as its spares tell.
pub enum State {
    /// It is in use.
    InUse(Live),
    /// A state of it is whole; members may be missing.
    Whole(Box<Recovered>),
    /// It cannot be used: why, and whether that is a conflict.
    Refused(String, bool),
}

/// Which device is main.
pub enum Main {
    /// This one, certain enough for the set.
    Is(String, Match),
    /// This one, less certain than the set asks for, or not to be told from another.
    MayBe(String, Match, bool),
    /// None. What is wrong with those that look like it is said for each.
    Nobody(Vec<(String, String)>),
}

/// A member that is not there.
pub struct Missing {
    /// Which.
    pub member: Member,
    /// Its UUID in the set; main has none.
    pub uuid: Option<MemberUuid>,
    /// Whether the set knows it to be away.
    pub away: bool,
    /// A device that looks like it, without metadata of the set that can be read, and by what.
    pub looks_like: Option<(String, Match)>,
}

/// A set.
pub struct Set {
    /// Its UUID.
    pub uuid: SetUuid,
    /// The name that people gave it; empty without one.
    pub name: String,
    /// Its newest header that is whole; none of a set in use, whose header is in motion.
    pub header: Option<Header>,
    /// The devices that carry it.
    pub holders: Vec<Holder>,
    /// What it is.
    pub state: State,
    /// Its main.
    pub main: Main,
    /// Who is not there, beside main.
    pub missing: Vec<Missing>,
}

/// What is on a device that is no set that can be used.
pub struct Other {
    /// The device.
    pub name: String,
    /// What is on it, and what can be done.
    pub what: String,
}

/// All that is found on this machine.
pub struct Machine {
    /// The sets, by UUID.
    pub sets: Vec<Set>,
    /// Other traces of us.
    pub others: Vec<Other>,
    /// Sets that the configuration names and of which no spare is here: main alone says nothing.
    pub awaited: Vec<Entry>,
}

impl Machine {
    /// Refuses a device that is main of a set which is not in use: all of that would be lost.
    ///
    /// # Errors
    ///
    /// Of which set it is main.
    pub fn is_no_main(&self, name: &str) -> Result<(), Failure> {
        let path = fs::canonicalize(part_of(name).0).map_err(|e| format!("{name}: {e}"))?;
        for set in self.sets.iter().filter(|set| set.live().is_none()) {
            let Main::Is(is, by) = &set.main else { continue };
            if fs::canonicalize(is).is_ok_and(|is| is == path) {
                return Err(format!(
                    "{name} is main of {} (match {by}); if it is to be something else, dissolve that set first",
                    set.title()
                ));
            }
        }
        Ok(())
    }

    /// The set of which no spare is here, and which has that device as its main as the configuration has it.
    pub fn awaits(&self, path: &str) -> Option<&Entry> {
        let (config, _) = Configuration::read(Path::new(PATH)).ok()?;
        let set = part_named(path, &Block::of(path).ok()?, &config).ok()??;
        self.awaited.iter().find(|entry| entry.uuid == set)
    }
}

impl Set {
    /// How it is named to a person.
    pub fn title(&self) -> String {
        match &*self.name {
            "" => format!("set {}", self.uuid),
            name => format!("set {name} ({})", self.uuid),
        }
    }

    /// How certain a device must be for the set to be assembled with it unasked, in percent.
    pub fn least(&self) -> u8 {
        self.header.as_ref().map_or(100, least_match)
    }

    /// Whether its main was being replaced when it was let go.
    pub fn is_replacing(&self) -> bool {
        self.header.as_ref().is_some_and(Header::is_replacing)
    }

    /// What there is to do with one that is not in use and whose main is being replaced.
    pub fn replaced(&self) -> String {
        let uuid = self.uuid.to_string();
        let word = if self.name.is_empty() { &uuid } else { &self.name };
        format!(
            "its main is being replaced, and neither the old one nor the new one has all of it; 'dmremap replace-main --continue {word}' puts the set to use and goes on"
        )
    }

    /// The mapped device that it is in use as.
    pub fn live(&self) -> Option<&Live> {
        match &self.state {
            State::InUse(live) => Some(live),
            _ => None,
        }
    }

    /// Whether this is what a person calls it.
    pub fn is_called(&self, word: &str) -> bool {
        let part = |name: &str| std::fs::canonicalize(part_of(name).0).ok();
        let uuid = word.strip_prefix("REMAP-").unwrap_or(word);
        self.uuid.to_string().eq_ignore_ascii_case(uuid)
            || !word.is_empty() && self.name == word
            || self.live().is_some_and(|live| live.name == word)
            || self.holders.iter().any(|holder| holder.name == word)
            || part(word)
                .is_some_and(|is| self.holders.iter().any(|h| part(&h.name).as_ref() == Some(&is)))
    }
}

/// What a set in use says of itself.
struct InUse {
    live: Live,
    uuid: Option<String>,
    name: Option<String>,
    /// The numbers of its devices, main first.
    devices: Vec<(u32, u32)>,
}

fn in_use(mapper: Option<&Mapper>) -> Result<Vec<InUse>, Failure> {
    let Some(mapper) = mapper else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for live in mapper.all()? {
        // What is suspended, or goes away meanwhile, says nothing.
        let status = mapper.message(&live, "metadata_status").unwrap_or_default();
        let devices = members(&live.line, &status).unwrap_or_default();
        let uuid = value(&status, "set").map(str::to_owned);
        let uuid = uuid.or_else(|| live.uuid.strip_prefix("REMAP-").map(str::to_owned));
        let name = value(&status, "name").map(str::to_owned);
        let devices = devices.into_iter().map(|member| member.device).collect();
        all.push(InUse { live, uuid, name, devices });
    }
    Ok(all)
}

/// What a device says of itself.
enum Says {
    Nothing,
    Set(SetUuid, Claim),
    /// Only that it was to become a member.
    Begun(SetUuid, Claim),
    Other(String),
}

/// Reads the places of the headers.
fn says(name: &str) -> Result<Says, Failure> {
    let mut spare = Spares::open_one(name, Access::Read)?;
    let at = SpareId(0);
    let survey = Survey::take(&mut spare, crc).map_err(|_| "no memory")?;
    // Copies in the places of others are those of a partition on this disk.
    let is_misplaced = |slot: &Slot| {
        let other = |copy| copy != slot.id.copy;
        matches!(&slot.found, Found::Not(HeaderError::Misplaced(is)) if other(is.copy))
    };
    let is_mark = |slot: &Slot| matches!(slot.found, Found::Mark(..));
    let marks_only = survey.slots().iter().all(|slot| slot.set.is_none() || is_mark(slot));
    let number = identify(&mut spare, at, crc).map_err(|_| "no memory")?;
    let mark = survey.slots().iter().find_map(|slot| match slot.found {
        Found::Mark(set, _) => Some(set),
        _ => None,
    });
    let mut claim = |set, number| {
        Claim::read(Holder { name: name.to_owned(), number }, set, &mut spare, &survey)
    };
    match (mark.filter(|_| marks_only), number) {
        (Some(set), Some((_, number))) => return Ok(Says::Begun(set, claim(set, Some(number))?)),
        (Some(_), None) => return Ok(Says::Nothing),
        (None, Some((set, number))) => return Ok(Says::Set(set, claim(set, Some(number))?)),
        (None, None) => {}
    }
    let mut own = survey.slots().iter().filter(|slot| !is_misplaced(slot));
    if let Some(set) = own.find_map(|slot| slot.set) {
        return Ok(Says::Set(set, claim(set, None)?));
    }
    if survey.slots().iter().any(is_misplaced) {
        return Ok(Says::Nothing);
    }
    Ok(match survey.set() {
        Err(Refusal::V3(_)) => Says::Other(format!(
            "a spare in the v3 format; 'dmremap upgrade --main DEVICE {name}' makes a set of it"
        )),
        Err(refusal @ Refusal::Damaged { .. }) => Says::Other(refusal.to_string()),
        _ => Says::Nothing,
    })
}

/// Looks at every block device, and at the images, or parts of devices, in `also`; or, with `only`, at nothing else than these.
///
/// # Errors
///
/// That device mapper does not answer.
pub fn look(mapper: Option<&Mapper>, also: &[String], only: bool) -> Result<Machine, Failure> {
    let in_use = in_use(mapper)?;
    let nodes = if only { Vec::new() } else { nodes() };
    let ours = |node: &Node| in_use.iter().any(|set| set.live.device == node.number);
    let taken = |node: &Node| in_use.iter().any(|set| set.devices.contains(&node.number));
    let mut names: Vec<String> = nodes
        .iter()
        .filter(|node| !ours(node) && !taken(node) && !node.is_shown_by_another())
        .map(|n| n.path.clone())
        .collect();
    // What is named besides: images too, and parts that begin anywhere.
    names.extend(also.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());

    let mut groups: BTreeMap<[u8; 16], Vec<Claim>> = BTreeMap::new();
    let (mut others, mut begun) = (Vec::new(), Vec::new());
    for name in &names {
        match says(name) {
            Ok(Says::Set(set, claim)) => groups.entry(set.0).or_default().push(claim),
            Ok(Says::Begun(set, claim)) => begun.push((set, claim)),
            Ok(Says::Other(what)) => others.push(Other { name: name.clone(), what }),
            Ok(Says::Nothing) => {}
            // What was named has to be there; what went away has not.
            Err(failure) if also.contains(name) => return Err(failure),
            Err(_) => {}
        }
    }
    for (set, claim) in begun {
        // The first commit of a set may have reached some of its spares only.
        match groups.get_mut(&set.0).filter(|group| group.iter().any(Claim::has_header)) {
            Some(group) => group.push(claim),
            None => others.push(Other {
                name: claim.holder.name,
                what: format!(
                    "the creation of set {set} was cut short; 'dmremap create' with the same devices goes on with it, 'dmremap wipe' gives it up"
                ),
            }),
        }
    }
    let is_spare =
        |name: &String| groups.values().flatten().any(|claim| claim.holder.name == *name);
    let free = names.iter().filter(|name| !is_spare(name) && part_of(name).1.is_none());
    let among: Vec<Device> =
        free.filter_map(|name| Device::open(name, Access::Read).ok()).collect();

    let mut sets = Vec::new();
    for (uuid, claims) in groups {
        let uuid = SetUuid(uuid);
        let live = in_use.iter().find(|set| {
            set.uuid.as_deref().is_some_and(|live| live.eq_ignore_ascii_case(&uuid.to_string()))
        });
        // Devices of a set in use that the kernel does not have are away, or were left behind.
        if let Some(live) = live {
            for claim in claims {
                let what = format!(
                    "a spare of set {uuid}, which is in use as {} without it; 'dmremap spare add' takes it back, 'dmremap wipe' gives it up",
                    live.live.name
                );
                others.push(Other { name: claim.holder.name, what });
            }
            continue;
        }
        sets.push(set(uuid, claims, &among, &mut others)?);
    }
    for InUse { live, uuid, name, .. } in in_use {
        sets.push(of_live(mapper, live, uuid.as_deref(), name.as_deref())?);
    }
    share(&mut sets);
    let mut awaited = Vec::new();
    if !only {
        let (config, _) = Configuration::read(Path::new(PATH)).unwrap_or_default();
        for entry in config.sets {
            let is_here = sets.iter().any(|set| set.uuid == entry.uuid);
            // Several devices may be its main.
            let is_there = awaited.iter().any(|other: &Entry| other.uuid == entry.uuid);
            if !is_here && !is_there {
                awaited.push(entry);
            }
        }
    }
    Ok(Machine { sets, others, awaited })
}

/// The same, at every block device.
///
/// # Errors
///
/// That device mapper does not answer.
pub fn find(mapper: Option<&Mapper>, also: &[String]) -> Result<Machine, Failure> {
    look(mapper, also, false)
}

/// What there is to say of a set of which no spare is here.
pub fn absence(entry: &Entry) -> String {
    let name = entry.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    format!(
        "set {}{name} is in {PATH}, and none of its spares is here, or can be read; connect them",
        entry.uuid
    )
}

/// A set that is in use.
fn of_live(
    mapper: Option<&Mapper>,
    live: Live,
    uuid: Option<&str>,
    name: Option<&str>,
) -> Result<Set, Failure> {
    let uuid = SetUuid(uuid.and_then(MemberUuid::parse).unwrap_or_default().0);
    let status = mapper.map(|mapper| mapper.message(&live, "metadata_status").unwrap_or_default());
    let status = status.unwrap_or_default();
    let (mut holders, mut missing) = (Vec::new(), Vec::new());
    for line in status.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["spare", number, "-", _, uuid] => missing.push(Missing {
                member: Member::Spare(SpareId(number.parse().unwrap_or(0))),
                uuid: MemberUuid::parse(uuid),
                away: true,
                looks_like: None,
            }),
            ["spare", number, device, ..] => {
                let node = crate::machine::number(device).and_then(Node::of);
                let name = node.map_or_else(|| device.to_owned(), |node| node.path);
                holders.push(Holder { name, number: number.parse().ok().map(SpareId) });
            }
            _ => {}
        }
    }
    let main = live.line.split_whitespace().next().unwrap_or_default();
    let node = crate::machine::number(main).and_then(Node::of);
    let by = value(&status, "match main").and_then(match_of);
    let path = node.map_or_else(|| main.to_owned(), |node| node.path);
    let main = match by {
        Some(by) => Main::Is(path, by),
        None => Main::Nobody(vec![(path, "the set is suspended".into())]),
    };
    let name = name.unwrap_or_default().to_owned();
    Ok(Set { uuid, name, header: None, holders, state: State::InUse(live), main, missing })
}

/// `partition-uuid 100`, as `metadata_status` has it.
fn match_of(text: &str) -> Option<Match> {
    let name = text.split_whitespace().next()?;
    let kind = MatchKind::ALL.into_iter().find(|kind| kind.name() == name)?;
    Some(Match { kind, same_path: false, had: None, missing: None })
}

/// A set that is not in use.
fn set(
    uuid: SetUuid,
    claims: Vec<Claim>,
    among: &[Device],
    others: &mut Vec<Other>,
) -> Result<Set, Failure> {
    let Settled { holders, left_out, header, state } = settle(claims)?;
    let state = match state {
        Ok(state) => State::Whole(state),
        Err((why, conflict)) => State::Refused(why, conflict),
    };
    others.extend(left_out.into_iter().map(|LeftOut { name, what }| {
        let is = match what {
            Not::Left => format!("was a spare of set {uuid} and has left it"),
            Not::Joined => format!("was to become a spare of set {uuid} and did not"),
            Not::Current { spare, found, durable } => format!(
                "an older image of spare {spare} of set {uuid}, a clone or a snapshot perhaps: it has version {found} of the metadata, and the spare had version {durable}; it takes no part"
            ),
        };
        let what = match (&state, what) {
            (State::Whole(_), Not::Current { .. }) => is + "; 'dmremap wipe' gives it up",
            (State::Whole(_), _) => is + "; 'dmremap wipe' makes it free",
            _ => is + "; keep it until the set can be used",
        };
        Other { name, what }
    }));
    let (mut main, mut missing) = (Main::Nobody(Vec::new()), Vec::new());
    let Some(header) = header else {
        let name = String::new();
        return Ok(Set { uuid, name, header, holders, state, main, missing });
    };
    let here = holders.iter().filter_map(|holder| holder.number);
    let here = here.fold(SpareSet::NONE, |set, id| set.with(SpareSet::one(id)));
    let table = match &state {
        State::Whole(state) => Some(state.table()),
        _ => None,
    };
    let facts = facts(&header, table, among);
    let away = header.in_state(SpareState::Away);
    let lacking = header.in_state(SpareState::Active).with(away).without(here);
    let matched = matched(&header, &facts, lacking)?;
    for Matched { member, choice, .. } in matched {
        let path = |device: usize| among[device].path.clone();
        match member {
            Member::Main => {
                let least = least_match(&header);
                // What the main that was would be recognised by too says less.
                let known = |device: usize, by: Match| match recognise_main(&header, &facts[device])
                {
                    Ok(less) if !header.is_replacing() => less,
                    _ => by,
                };
                main = match choice {
                    Choice::Is(device, by) if known(device, by).kind.percent() >= least => {
                        Main::Is(path(device), by)
                    }
                    Choice::Is(device, by) => Main::MayBe(path(device), known(device, by), true),
                    Choice::Unclear(device, by) => Main::MayBe(path(device), by, false),
                    Choice::Nobody => Main::Nobody(why_not(&header, &facts, among)),
                };
            }
            Member::Spare(id) => missing.push(Missing {
                member,
                uuid: Some(header.member(id)),
                away: away.has(id),
                looks_like: match choice {
                    Choice::Is(device, by) => Some((path(device), by)),
                    _ => None,
                },
            }),
        }
    }
    let name = header.name().to_owned();
    Ok(Set { uuid, name, header: Some(header), holders, state, main, missing })
}

/// Devices that are not main, and why: those of its size, and one that is it but for that.
fn why_not(header: &Header, facts: &[Facts<'_>], among: &[Device]) -> Vec<(String, String)> {
    let print = print_of(header, Member::Main);
    let size = print.sectors.get();
    let has_grown = |device: &Device, facts: &Facts<'_>| {
        let filesystem = device.filesystem(header.raw().set.main_start.get());
        let facts = Facts { sectors: Sectors(size), filesystem, ..*facts };
        let by = recognise_main(header, &facts);
        by.is_ok_and(|by| by.kind.percent() >= MatchKind::Filesystem.percent())
    };
    let like = among.iter().zip(facts).filter(|(device, facts)| {
        device.sectors.0 == size || device.sectors.0 > size && has_grown(device, facts)
    });
    like.filter_map(|(device, facts)| {
        let facts = &Facts { sectors: device.sectors, ..*facts };
        let differs = match header.is_replacing() {
            true => compare(&print, facts).err()?,
            false => recognise_main(header, facts).err()?,
        };
        Some((device.path.clone(), differs.to_string()))
    })
    .collect()
}

/// A device is main of one set only: where two take it for theirs, nobody can tell whose it is.
fn share(sets: &mut [Set]) {
    let taken: Vec<Option<String>> = sets
        .iter()
        .map(|set| match &set.main {
            Main::Is(path, _) | Main::MayBe(path, ..) => Some(path.clone()),
            Main::Nobody(_) => None,
        })
        .collect();
    for (i, set) in sets.iter_mut().enumerate().filter(|(_, set)| set.live().is_none()) {
        let Main::Is(path, by) = &set.main else { continue };
        let also =
            taken.iter().enumerate().any(|(j, other)| i != j && other.as_ref() == Some(path));
        if also {
            set.main = Main::MayBe(path.clone(), *by, false);
        }
    }
}
