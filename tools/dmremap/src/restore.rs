//! `restore`: a set as a dump has it, when its spares do not say any more what they said.

use crate::spares::{part_of, Access, Spares, Which};
use crate::{safety, text, world, Failure, Outcome};
use dmremap::{crc, Dump};
use remap_pure::copies::CopySet;
use remap_pure::create::{inspect, Attempt, Content};
use remap_pure::format::header::Header;
use remap_pure::format::SpareState;
use remap_pure::recovery::{check_entries, recover, Found, Survey};
use remap_pure::rewrite::{look, rewrite, supersede, Seen};
use remap_pure::store::Store;
use remap_pure::table::Table;
use remap_pure::units::{Sectors, SpareId};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Arguments {
    /// What `dump` has printed
    file: PathBuf,
    /// This spare may carry something foreign, or another set's metadata: all of that is given up
    #[arg(long, value_name = "SPARE")]
    overwrite: Vec<String>,
    /// This spare begins elsewhere than the dump says: all that the set has on it was copied to where it is named
    #[arg(long, value_name = "SPARE")]
    moved: Vec<String>,
    /// Restore although the spares hold a newer state than the dump
    #[arg(long)]
    older: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    which: Which,
}

/// Puts what the dump says into every copy. Cut short, it can be begun again.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let file = arguments.file.display();
    let bytes = std::fs::read(&arguments.file).map_err(|e| format!("{file}: {e}"))?;
    let of_file = |e: String| format!("{file}: {e}");
    let dump = Dump::parse(&bytes).map_err(of_file)?;
    let (mut header, table) = (dump.header().map_err(of_file)?, dump.table().map_err(of_file)?);
    check_entries(&header, &table).map_err(|e| of_file(e.to_string()))?;

    let access = if arguments.dry_run { Access::Read } else { Access::Write };
    let members: Vec<SpareId> = (0..header.spares() as u8)
        .map(SpareId)
        .filter(|&spare| header.spare_state(spare) == SpareState::Active)
        .collect();
    let mut spares = Spares::open_members(&arguments.which, access, header.uuid(), &members)?;
    spares.has_all("--overwrite", &arguments.overwrite)?;
    spares.has_all("--moved", &arguments.moved)?;
    let survey = Survey::take(&mut spares, crc).map_err(|_| "no memory")?;
    check_newer(arguments, &survey, &header)?;

    let mut seen = Seen::default();
    let mut plan = Vec::new();
    for &member in &members {
        let needed = Sectors(header.raw().spares[usize::from(member.0)].used_sectors.get());
        if spares.sectors(member) < needed {
            return Err(format!(
                "{} has {} sectors, and spare {member} of the set had {needed}; give a larger one, or the same part of it again",
                spares.name(member),
                spares.sectors(member)
            ));
        }
        check_start(arguments, &spares, member, &header)?;
        let found = look(&mut spares, member, &header.layout(), &header.uuid(), crc)
            .map_err(|e| e.to_string())?;
        check_carries(arguments, &mut spares, member, &found, &header)?;
        plan.push(tells(&spares, member, &found, &table));
        seen = seen.and(found);
        let start = spares.start(member);
        header.raw_mut().spares[usize::from(member.0)].used_start.set(start);
    }

    let was = (header.version(), header.raw().version.committed.get());
    let given_up: Vec<u64> = survey
        .headers()
        .filter(|(_, other)| other.uuid() == header.uuid())
        .map(|(_, other)| other.history())
        .collect();
    let history = u64::from_le_bytes(world::random()?);
    supersede(&mut header, &seen, given_up.into_iter(), history, world::now())
        .map_err(|e| e.to_string())?;
    text::print(|out| {
        let (set, totals) = (header.uuid(), table.totals());
        let (version, time) = (was.0, text::time(was.1));
        writeln!(out, "set {set} ({}), as of version {version}, {time}", header.name())?;
        writeln!(
            out,
            "{} extents, {} remapped, {} pending",
            totals.extents,
            text::sectors(totals.remapped.0),
            totals.pending
        )?;
        plan.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        if header.is_replacing() && !dump.knows_attempt() {
            writeln!(
                out,
                "main was being replaced; which attempt that was, and by which device, a dump so old does not say"
            )?;
        }
        writeln!(out, "every copy is to be written anew, as version {}", header.version())?;
        writeln!(out, "what was remapped or brought back since the dump is not in it")
    })?;
    if arguments.dry_run {
        return Ok(Outcome::Well);
    }
    world::agree(arguments.yes)?;
    rewrite(&mut spares, header, &table, CopySet::NONE, crc).map_err(|e| e.to_string())?;
    match recover(&mut spares, crc) {
        Ok(found) => {
            text::print(|out| writeln!(out, "restored, as version {}", found.header().version()))?;
            Ok(if found.is_clean() { Outcome::Well } else { Outcome::Damaged })
        }
        Err(refusal) => {
            eprintln!("dmremap: written, and yet: {refusal}");
            Ok(Outcome::Unusable)
        }
    }
}

/// A state that is newer than the dump, or that this program cannot read, is not given up unless a
/// person has said so; the latter never.
fn check_newer(arguments: &Arguments, survey: &Survey, header: &Header) -> Result<(), Failure> {
    for slot in survey.slots().iter().filter(|slot| slot.set == Some(header.uuid())) {
        match slot.found {
            Found::Not(e) if e.is_newer() => return Err(format!("{} {e}", slot.id)),
            _ => {}
        }
    }
    let newest = survey.headers().filter(|(_, other)| other.uuid() == header.uuid());
    match newest.max_by_key(|(_, other)| other.version()) {
        Some((id, newest)) if newest.version() > header.version() && !arguments.older => {
            Err(format!(
                "{id} is of version {}, and the dump of version {}; `dmremap check` says whether the newer one can be used, --older gives it up",
                newest.version(),
                header.version()
            ))
        }
        _ => Ok(()),
    }
}

/// Data is found by its place on a spare: what begins elsewhere than it did is taken only where a header that stands in its
/// place says so, or a person.
fn check_start(
    arguments: &Arguments,
    spares: &Spares,
    member: SpareId,
    header: &Header,
) -> Result<(), Failure> {
    let raw = &header.raw().spares[usize::from(member.0)];
    let (was, sectors) = (raw.used_start.get(), raw.used_sectors.get());
    let (name, is) = (spares.name(member), spares.start(member));
    if is == was || spares.is_recognised(member) || arguments.moved.iter().any(|n| n == name) {
        return Ok(());
    }
    let path = part_of(name).0;
    Err(format!(
        "{name} begins at sector {is}, and spare {member} of the set began at {was} of its device; name {path}@{was}+{sectors}, or say --moved {name} if all that the set has there was copied to where {name} begins"
    ))
}

/// What is not of the set is left alone unless a person has said so for that spare.
fn check_carries(
    arguments: &Arguments,
    spares: &mut Spares,
    member: SpareId,
    found: &Seen,
    header: &Header,
) -> Result<(), Failure> {
    let name = spares.name(member).to_owned();
    if arguments.overwrite.contains(&name) {
        return Ok(());
    }
    let cure = format!("check the device's name, or give up what is on it with --overwrite {name}");
    if let Some((at, set)) = found.other {
        return Err(format!("{name} has metadata of set {set} at sector {at}; {cure}"));
    }
    if found.ours {
        return match safety::made_since(&name)? {
            None => Ok(()),
            Some(foreign) => {
                Err(format!("{name} has metadata of the set, and carries {foreign}; {cure}"))
            }
        };
    }
    match inspect(spares, member, crc).map_err(|_| "no memory")? {
        Content::Blank => Ok(()),
        Content::CutShort(Attempt { set, .. }, None) if set == header.uuid() => Ok(()),
        Content::CutShort(Attempt { set, .. }, _) => {
            Err(format!("{name} has the creation of set {set}, cut short; {cure}"))
        }
        Content::Ours(at) => Err(format!("{name} has metadata of a set at sector {at}; {cure}")),
        Content::V3 => Err(format!("{name} is in the v3 format; {cure}")),
        Content::Foreign(at) => {
            Err(format!("{name} has something at sector {at} that is not of the set; {cure}"))
        }
        Content::Unreadable(at) => Err(format!("{name} cannot be read at sector {at}; {cure}")),
    }
}

fn tells(spares: &Spares, member: SpareId, found: &Seen, table: &Table) -> String {
    let here = table.totals().on_spare[usize::from(member.0)];
    let why = match (spares.is_recognised(member), found.ours) {
        (true, _) => "by what stands on it",
        (false, true) => "by its place on the command line; metadata of the set is on it",
        (false, false) => "by its place on the command line; nothing of the set is on it",
    };
    let data = match (here.0, found.ours) {
        (0, _) => String::new(),
        (_, true) => format!("; {here} sectors of data are on it"),
        (_, false) => format!("; {here} sectors of data have to be on it, in their places"),
    };
    format!("spare {member} is {}, {why}{data}", spares.name(member))
}
