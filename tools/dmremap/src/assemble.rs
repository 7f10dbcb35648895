//! `assemble`: puts sets to use again, their devices found by what they are recognised by.
//!
//! What a person or the set itself asks for before a doubtful device is taken is obeyed here; what cannot be right is refused by the kernel
//! as well, which looks at everything again.

use crate::choose::{self, Choice};
use crate::live::{Live, Mapper};
use crate::matching::{facts, print_of, Member};
use crate::replace_main::with_main;
use crate::scan::show;
use crate::sets::{absence, find, Machine, Main, Set, State};
use crate::spares::{part_of, Access, Device, Spares, Which};
use crate::{config, identify, safety, stop, text, world, Failure, Outcome};
use dmremap::configuration::{Configuration, Entry, PATH};
use dmremap::crc;
use remap_pure::format::header::Header;
use remap_pure::format::{MemberUuid, SpareState};
use remap_pure::identity::replaced::recognise_main;
use remap_pure::identity::Match;
use remap_pure::line::is_name;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::settings::{Settings, ASSEMBLE_CONFIRM, ASSEMBLE_DEGRADED};
use remap_pure::store::Store;
use remap_pure::units::{Sectors, SpareId, SECTOR_SIZE};
use remap_pure::validate::{validate_without, Level, Severity};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// All sets that are found
    #[arg(long, conflicts_with_all = ["set", "main", "name", "spare", "absent"])]
    all: bool,
    /// Of those, the sets that the configuration has assembled unasked, by the names that it gives them
    #[arg(long, requires = "all")]
    auto: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask whether to go on where the set only asks for that; what is uncertain is still refused
    #[arg(long)]
    yes: bool,
    /// For reading only: nothing is written, not even metadata
    #[arg(long)]
    readonly: bool,
    /// Go on without spares that the set knows to be away
    #[arg(long)]
    degraded: bool,
    /// Go on without this spare, which the set does not know to be away, by its UUID
    #[arg(long, value_name = "UUID", value_parser = member)]
    absent: Vec<MemberUuid>,
    /// Take this device for main, however uncertain it is; one that cannot be is refused
    #[arg(long, value_name = "DEVICE")]
    main: Option<String>,
    /// That device has grown since: the set takes what it has now
    #[arg(long, requires = "main", conflicts_with = "readonly")]
    grown: bool,
    /// The name of the mapped device, instead of the set's
    #[arg(long)]
    name: Option<String>,
    /// Wait so long for members that are missing
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    #[command(flatten)]
    choice: Choice,
    /// Look at these too: parts of devices, DEVICE@START+LENGTH
    #[arg(long, value_name = "DEVICE")]
    also: Vec<String>,
    /// The set: its name, its UUID, or one of its spares
    #[arg(required_unless_present = "all")]
    set: Option<String>,
}

/// The UUID of a member.
///
/// # Errors
///
/// That it is none.
pub fn member(text: &str) -> Result<MemberUuid, String> {
    MemberUuid::parse(text).ok_or_else(|| "is no UUID".into())
}

/// Assembles.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let deadline = Instant::now() + Duration::from_secs(arguments.wait);
    let mut also = arguments.also.clone();
    // A part that begins somewhere is found only where it is named.
    also.extend(arguments.set.iter().filter(|name| part_of(name).1.is_some()).cloned());
    let config = arguments.auto.then(|| config::read(Path::new(PATH)));
    loop {
        let machine = find(Some(&mapper), &also)?;
        let wanted = wanted(arguments, config.as_ref(), &machine);
        let waits = wanted.is_empty() || wanted.iter().any(|set| lacks(arguments, set).is_some());
        if waits && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(500).min(deadline - Instant::now()));
            continue;
        }
        return finish(arguments, config.as_ref(), &mapper, &wanted, &machine);
    }
}

fn finish(
    arguments: &Arguments,
    config: Option<&Configuration>,
    mapper: &Mapper,
    wanted: &[&Set],
    machine: &Machine,
) -> Result<Outcome, Failure> {
    match (&arguments.set, wanted) {
        (Some(word), []) => {
            let is = |entry: &&Entry| {
                entry.uuid.to_string().eq_ignore_ascii_case(word)
                    || entry.name.as_ref() == Some(word)
            };
            if let Some(entry) = machine.awaited.iter().find(is) {
                eprintln!("dmremap: {}", absence(entry));
                return Ok(Outcome::Missing);
            }
            let like = machine.others.iter().find(|other| other.name == *word);
            Err(match like {
                Some(other) => format!("{}: {}", other.name, other.what),
                None => format!(
                    "no set on this machine is called '{word}', or is on it; 'dmremap scan' shows those that are"
                ),
            })
        }
        (Some(_), [set]) => one(arguments, mapper, set, arguments.name.as_deref()),
        (Some(word), _) => Err(format!(
            "{} sets are called '{word}'; name the one that is meant by its UUID, see 'dmremap scan'",
            wanted.len()
        )),
        (None, sets) => {
            if sets.is_empty() {
                let which = if arguments.auto { " that is assembled unasked" } else { "" };
                text::print(|out| writeln!(out, "no set{which} is on any device of this machine"))?;
            }
            // One that fails does not keep the others from being assembled.
            let mut failed = Vec::new();
            let mut worst = Outcome::Well;
            for set in sets {
                let entry = config.and_then(|config| config.entry(&set.uuid));
                match one(arguments, mapper, set, entry.and_then(|entry| entry.name.as_deref())) {
                    Ok(outcome) => worst = worst.max(outcome),
                    Err(failure) => failed.push(format!("{}: {failure}", set.title())),
                }
            }
            match failed.is_empty() {
                true => Ok(worst),
                false => Err(failed.join("\ndmremap: ")),
            }
        }
    }
}

fn wanted<'a>(
    arguments: &Arguments,
    config: Option<&Configuration>,
    machine: &'a Machine,
) -> Vec<&'a Set> {
    let is = |set: &&Set| arguments.set.as_ref().is_none_or(|word| set.is_called(word));
    let unasked = |set: &&Set| config.is_none_or(|config| config.assembles(&set.uuid));
    machine.sets.iter().filter(is).filter(unasked).collect()
}

/// What a set lacks before it can be assembled as is asked for.
fn lacks(arguments: &Arguments, set: &Set) -> Option<String> {
    let State::Whole(state) = &set.state else { return None };
    if let Some(lacks) = lacks_spare(set, arguments.degraded, &arguments.absent) {
        return Some(lacks);
    }
    match &set.main {
        _ if state.header().is_replacing() => None,
        Main::Nobody(_) if arguments.main.is_none() => {
            Some("main is missing; connect it, or name it with --main".into())
        }
        _ => None,
    }
}

/// Which spare a set lacks before it can be put to use, and what there is to do.
pub fn lacks_spare(set: &Set, degraded: bool, absent: &[MemberUuid]) -> Option<String> {
    let State::Whole(state) = &set.state else { return None };
    let settings = &state.header().raw().settings;
    let degraded = degraded || Settings::get_raw(settings, &ASSEMBLE_DEGRADED) != 0;
    let missing = set.missing.iter().find(|missing| {
        let named = missing.uuid.is_some_and(|uuid| absent.contains(&uuid));
        !(named || missing.away && degraded)
    })?;
    let (member, uuid) = (missing.member, missing.uuid.unwrap_or_default());
    Some(match missing.away {
        true => {
            format!("{member} ({uuid}) is away; connect it, or go on without it with --degraded")
        }
        false => format!(
            "{member} ({uuid}) is missing; connect it, or go on without it with --absent {uuid}"
        ),
    })
}

/// Whether nobody has made something else of a spare of the set since.
///
/// # Errors
///
/// Of which, and what can be done.
pub fn holds_spares(set: &Set) -> Result<(), Failure> {
    for holder in &set.holders {
        let name = &holder.name;
        if let Some(foreign) = safety::made_since(name)? {
            return Err(format!(
                "spare {name} carries {foreign} where a copy of the metadata stood, which would be written over; 'dmremap repair --overwrite {name} SPARE...' of all spares gives that up, 'dmremap wipe {name}' keeps it and has the set do without this spare"
            ));
        }
    }
    Ok(())
}

/// Assembles a set, by this name if there is one to give.
fn one(
    arguments: &Arguments,
    mapper: &Mapper,
    set: &Set,
    given: Option<&str>,
) -> Result<Outcome, Failure> {
    let in_use = |live: &Live| {
        let path = live.path();
        text::print(|out| writeln!(out, "{} is in use as {}", set.title(), path.display()))?;
        Ok(Outcome::Well)
    };
    if let State::InUse(live) = &set.state {
        return in_use(live);
    }
    if let (Some(_), State::Refused(..)) = (&arguments.choice.spare, &set.state) {
        return chosen(arguments, mapper, set);
    }
    let _turn = world::take_turn(&set.uuid);
    // Since it was looked at, udev's rules may have assembled it.
    let uuid = format!("REMAP-{}", set.uuid);
    if let Some(live) = mapper.all()?.iter().find(|live| live.uuid == uuid) {
        return in_use(live);
    }
    let State::Whole(state) = &set.state else {
        text::print(|out| show(out, set))?;
        return Ok(Outcome::Unusable);
    };
    if let Some(lacks) = lacks(arguments, set) {
        text::print(|out| show(out, set))?;
        eprintln!("dmremap: {}: {lacks}", set.title());
        return Ok(Outcome::Missing);
    }
    let header = state.header();
    if set.is_replacing() {
        return Err(format!("not assembled: {}", set.replaced()));
    }
    let main = main(arguments, set, header)?;
    let name = name(given, mapper, set)?;
    let mut line = line(set, header, &main.path)?;
    let mut sectors = header.raw().set.main_sectors.get();
    if arguments.grown {
        sectors = grown(header, &main.path)?;
        let path = line.split(' ').next().unwrap_or_default().to_owned();
        line = with_main(&line, &path, "grow")?;
    }
    text::print(|out| {
        let only = if arguments.readonly { ", for reading only" } else { "" };
        let word = match main.doubt {
            _ if arguments.dry_run => "would be",
            Some(_) => "is to be",
            None => "is",
        };
        writeln!(out, "{} {word} assembled as {name}{only}", set.title())?;
        let by = main.by.map_or_else(String::new, |by| format!(" (match {by})"));
        writeln!(out, "  main       {}{by}", main.path)?;
        set.holders.iter().try_for_each(|h| {
            let number = h.number.map_or_else(|| "?".into(), |n| n.to_string());
            writeln!(out, "  spare {number}    {}", h.name)
        })?;
        set.missing.iter().try_for_each(|m| writeln!(out, "  {:<10} left out", m.member))
    })?;
    if let Some(had) = main.by.and_then(|by| by.had) {
        eprintln!(
            "dmremap: warning: {} has another filesystem than {had}, which the set knows; if main was written without the set, what is remapped is not of it",
            main.path
        );
    }
    safety::unused(&main.path).map_err(|users| {
        format!("main {users}\nwhat uses it would see old blocks; end that first")
    })?;
    for holder in &set.holders {
        safety::unused(part_of(&holder.name).0).map_err(|users| format!("spare {users}"))?;
    }
    holds_spares(set)?;
    if let Some(why) = &main.doubt {
        ask(arguments, why)?;
    } else if Settings::get_raw(&header.raw().settings, &ASSEMBLE_CONFIRM) != 0
        && !arguments.dry_run
    {
        world::agree(arguments.yes)
            .map_err(|e| format!("the set asks for a person's word before it is assembled: {e}"))?;
    }
    if arguments.dry_run {
        text::print(|out| writeln!(out, "table      0 {sectors} remap {line}"))?;
        return Ok(Outcome::Well);
    }
    mapper.need_target()?;
    let live = world::undisturbed(|| {
        let live = mapper.create(&name, Some(&uuid), sectors, &line, arguments.readonly)?;
        Ok::<_, Failure>(live)
    })?;
    let outcome = after(arguments, mapper, set, &live)?;
    let said = arguments.grown.then(|| config::renew(set.uuid, &main.path));
    if let Some(said) = said.flatten() {
        eprintln!("dmremap: {said}");
    }
    Ok(outcome)
}

/// Asks a person about a device that may be another one. `--yes` is no answer: nobody has looked.
fn ask(arguments: &Arguments, why: &str) -> Result<(), Failure> {
    text::print(|out| writeln!(out, "{why}"))?;
    if arguments.dry_run {
        return Ok(());
    }
    let cure = "name main with --main when it is certain to be the right one";
    if arguments.yes || !world::can_ask() {
        return Err(format!("not assembled: {why}; {cure}"));
    }
    world::agree(false)
}

/// Whether a set whose check has failed can be used all the same; says what is wrong with it.
fn usable(set: &Set) -> Result<bool, Failure> {
    let names = set.holders.iter().map(|holder| holder.name.clone()).collect();
    let mut spares = Spares::open(&Which::of(names), Access::Read)?;
    let report = validate_without(&mut spares, Level::Complete, &KNOWN_AWAY, crc)
        .map_err(|_| "no memory")?;
    text::print(|out| report.findings().iter().try_for_each(|f| writeln!(out, "  {f}")))?;
    // What is damaged and can be used is not taken away from who needs it.
    Ok(report.worst() != Severity::Fatal && !report.findings().is_empty())
}

/// What is done once the set is there: it is looked at once more, and told what its devices are known by.
fn after(
    arguments: &Arguments,
    mapper: &Mapper,
    set: &Set,
    live: &Live,
) -> Result<Outcome, Failure> {
    let outcome = match world::check_complete(mapper, live) {
        Ok(()) => Outcome::Well,
        Err(failure) => {
            let why = match usable(set) {
                Ok(true) => String::new(),
                Ok(false) => failure,
                Err(e) => format!("{failure}\nand it cannot be looked at more closely: {e}"),
            };
            if !why.is_empty() {
                let failed = "the check after it was assembled failed, so it";
                return Err(match stop::let_go(mapper, live) {
                    Ok(()) => format!("{failed} was let go again: {why}"),
                    Err(e) => format!("{failed} should be let go again, and cannot be: {why}\n{e}\nend that, and 'dmremap stop {}'", live.name),
                });
            }
            Outcome::Damaged
        }
    };
    if !arguments.readonly {
        // What cannot be told is told another time.
        if let Err(failure) = identify::tell(mapper, live, set.header.as_ref()) {
            eprintln!("dmremap: {failure}");
        }
    }
    let status = mapper.message(live, "metadata_status")?;
    if let Some(by) = crate::live::value(&status, "match main") {
        text::print(|out| writeln!(out, "{} is ready, main by {by}", live.path().display()))?;
    }
    Ok(outcome)
}

/// One side of a conflict, that a person has chosen.
fn chosen(arguments: &Arguments, mapper: &Mapper, set: &Set) -> Result<Outcome, Failure> {
    let word = arguments.choice.spare.clone().unwrap_or_default();
    let real = |name: &str| std::fs::canonicalize(part_of(name).0).ok();
    let is =
        |name: &&String| **name == word || real(name).is_some_and(|path| Some(path) == real(&word));
    let name = set.holders.iter().map(|holder| &holder.name).find(is);
    let name =
        name.ok_or_else(|| format!("--use {word}: that is no spare of {}", set.title()))?.clone();
    let names = set.holders.iter().map(|holder| holder.name.clone()).collect();
    let access = if arguments.dry_run { Access::Read } else { Access::Write };
    {
        let mut spares = Spares::open(&Which::of(names), access)?;
        let said = (arguments.dry_run, arguments.yes);
        let outcome = choose::run(&arguments.choice, &name, &mut spares, said)?;
        if arguments.dry_run || outcome == Outcome::Unusable {
            return Ok(outcome);
        }
    }
    let machine = find(Some(mapper), &arguments.also)?;
    let again = machine.sets.iter().find(|other| other.uuid == set.uuid);
    let again = again.ok_or_else(|| format!("{} is gone", set.title()))?;
    match &again.state {
        State::Refused(why, _) => Err(format!("chosen, and yet: {why}")),
        _ => one(arguments, mapper, again, arguments.name.as_deref()),
    }
}

/// Main, as far as it is known.
struct Found {
    path: String,
    by: Option<Match>,
    /// Why a person has to be asked.
    doubt: Option<String>,
}

fn main(arguments: &Arguments, set: &Set, header: &Header) -> Result<Found, Failure> {
    if let Some(named) = &arguments.main {
        let among = [Device::open(named, Access::Read)?];
        let table = match &set.state {
            State::Whole(state) => Some(state.table()),
            _ => None,
        };
        let mut facts = facts(header, table, &among);
        let print = print_of(header, Member::Main);
        if arguments.grown {
            // Its size is no proof against it.
            facts[0].sectors = facts[0].sectors.min(Sectors(print.sectors.get()));
        }
        let by = recognise_main(header, &facts[0])
            .map_err(|differs| format!("{named} is not main of {}: {differs}", set.title()))?;
        // A person's word is enough.
        return Ok(Found { path: named.clone(), by: Some(by), doubt: None });
    }
    let asked = set.least();
    match &set.main {
        Main::Is(path, by) => Ok(Found { path: path.clone(), by: Some(*by), doubt: None }),
        Main::MayBe(path, by, only) => {
            let why = match only {
                true => format!("{path} may be main: match {by}, and {asked} is asked for"),
                false => {
                    format!("{path} may be main, or another device that fits as well: match {by}")
                }
            };
            Ok(Found { path: path.clone(), by: Some(*by), doubt: Some(why) })
        }
        Main::Nobody(_) => Err(format!("main of {} is missing", set.title())),
    }
}

/// The sectors that a main which has grown has for its set.
fn grown(header: &Header, main: &str) -> Result<u64, Failure> {
    let device = Device::open(main, Access::Read)?;
    let block = u64::from(device.logical_block).div_ceil(SECTOR_SIZE as u64).max(1);
    let set = &header.raw().set;
    let has = device.sectors.0.saturating_sub(set.main_start.get()) / block * block;
    match has > set.main_sectors.get() {
        true => Ok(has),
        false => Err(format!("{main} has not grown; leave out --grown")),
    }
}

/// The name of the mapped device: the one given, or the set's, or one made of its UUID.
fn name(given: Option<&str>, mapper: &Mapper, set: &Set) -> Result<String, Failure> {
    if let Some(name) = given {
        if !is_name(name) {
            return Err(format!("'{name}' is no name for a mapped device"));
        }
        if mapper.has(name)? {
            return Err(format!(
                "a mapped device of the name {name} is there already; give another name"
            ));
        }
        return Ok(name.to_owned());
    }
    let short: String = set.uuid.to_string().chars().take(8).collect();
    let own = if set.name.is_empty() { format!("remap-{short}") } else { set.name.clone() };
    for name in [own.clone(), format!("{own}-{short}")] {
        if !mapper.has(&name)? {
            return Ok(name);
        }
    }
    Err(format!("a mapped device of the name {own} is there already; give another with --name"))
}

/// The table line behind the word `remap`.
///
/// # Errors
///
/// What no table line can say.
pub fn line(set: &Set, header: &Header, main: &str) -> Result<String, Failure> {
    let real = |path: &str| {
        let real = std::fs::canonicalize(path).map_err(|e| format!("{path}: {e}"))?;
        real.to_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("{path} leads to a path that is no text"))
    };
    let mut spares: Vec<(String, Option<(u64, u64)>)> = Vec::new();
    for holder in &set.holders {
        let id = holder.number.unwrap_or(SpareId(0));
        let member = &header.raw().spares[usize::from(id.0)];
        let used = (member.used_start.get(), member.used_sectors.get());
        let (path, _) = part_of(&holder.name);
        let device = Spares::open_one(path, Access::Read)?;
        let all = device.sectors(SpareId(0)).0 & !7;
        let part = (used != (0, all)).then_some(used);
        spares.push((real(path)?, part));
    }
    let mut words = Vec::new();
    let start = header.raw().set.main_start.get();
    if start != 0 {
        words.extend(["main_start".to_owned(), start.to_string()]);
    }
    for missing in &set.missing {
        let uuid = missing.uuid.unwrap_or_default();
        if !missing.away {
            words.extend(["absent".to_owned(), uuid.to_string()]);
        }
    }
    let away = header.in_state(SpareState::Away);
    if set.missing.iter().any(|missing| missing.away) && !away.is_empty() {
        words.push("degraded".into());
    }
    line_of(&real(main)?, spares, words)
}

/// The table line that names main, these spares with the part of each that is used, where that is not all of it, and these options besides.
///
/// # Errors
///
/// What no table line can say.
pub fn line_of(
    main: &str,
    mut spares: Vec<(String, Option<(u64, u64)>)>,
    options: Vec<String>,
) -> Result<String, Failure> {
    // The line has room for the part of one spare, the first that it names. What a device begins with is used by a set without that being said:
    // it may have grown since.
    let inside = |part: &Option<(u64, u64)>| part.is_some_and(|(start, _)| start != 0);
    spares.sort_by_key(|(_, part)| (!inside(part), part.is_none()));
    if spares.iter().filter(|(_, part)| inside(part)).count() > 1 {
        return Err(
            "the set uses parts of more than one spare, which a table line cannot say".into()
        );
    }
    let (first, part) = spares.first().ok_or("the set has no spare here")?;
    let part = part.map_or_else(String::new, |(start, len)| format!(" {start} {len}"));
    let more = spares.iter().skip(1).flat_map(|(spare, _)| ["spare".to_owned(), spare.clone()]);
    let words: Vec<String> = more.chain(options).collect();
    let options = match words.len() {
        0 => String::new(),
        n => format!(" {n} {}", words.join(" ")),
    };
    Ok(format!("{main} {first}{part}{options}"))
}
