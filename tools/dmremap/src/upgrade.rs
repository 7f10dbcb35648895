//! `upgrade`: a spare in the v3 format becomes one of a v4 set.

use crate::candidate::number_of;
use crate::spares::{Access, Device, Spares};
use crate::{config, text, world, Failure, Outcome};
use dmremap::crc;
use remap_pure::format::header::{Header, NewSet, NewSpare};
use remap_pure::format::SetUuid;
use remap_pure::identity::{compare, fingerprint};
use remap_pure::recovery::recover;
use remap_pure::units::{Sectors, SpareId, SECTOR_SIZE};
use remap_pure::upgrade::{look, Found, Old, Plan, UpgradeError};
use remap_pure::validate::{validate, Level, Severity};

/// A v3 set has one spare.
const SPARE: SpareId = SpareId(0);

#[derive(clap::Args)]
pub struct Arguments {
    /// The device whose sectors are remapped. Only its size is looked at
    #[arg(long, value_name = "DEVICE")]
    main: String,
    /// The name that the set is to have
    #[arg(long, default_value = "")]
    name: String,
    /// Go on although the checksum does not fit: programs have computed it in several ways
    #[arg(long)]
    ignore_checksum: bool,
    /// Leave /etc/dmremap.conf as it is. Otherwise it is told which device main is, so that main is hidden from the first moment of a boot
    #[arg(long)]
    no_config: bool,
    /// Show what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The spare, or an image of it; DEVICE@START+LENGTH names a part
    spare: String,
}

/// Makes a v4 set of it. Cut short at any point, it can be run again.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let access = if arguments.dry_run { Access::Read } else { Access::Write };
    let name = &arguments.spare;
    if !arguments.name.is_empty() {
        text::check_name(&arguments.name)?;
    }
    let failed = |e: UpgradeError| format!("{name}: {e}");
    let mut spares = Spares::open_one(name, access)?;
    let main =
        Device::open(&arguments.main, if arguments.dry_run { access } else { Access::Hold })?;
    let found = match look(&mut spares, main.sectors, crc) {
        Err(UpgradeError::NotV3) => return ended(arguments, &mut spares, &main),
        found => found.map_err(failed)?,
    };
    let new = match found {
        Found::CutShort(new) => {
            is_main_of(&new.header, &main, name)?;
            text::print(|out| {
                writeln!(out, "an upgrade was cut short; its copies are still to be written")
            })?;
            if arguments.dry_run {
                return Ok(Outcome::Unusable);
            }
            world::agree(arguments.yes)?;
            new
        }
        Found::V3(old) => {
            let plan = plan(arguments, &old, &spares, &main)?;
            tell(&old, &plan)?;
            if !old.checksum_fits && !arguments.ignore_checksum {
                return Err(format!(
                    "{name}: the checksum of its v3 header does not fit. It was computed in several ways, so this may mean nothing; when the numbers above are right, go on with --ignore-checksum"
                ));
            }
            if arguments.dry_run {
                return Ok(Outcome::Unusable);
            }
            world::agree(arguments.yes)?;
            plan.begin(&mut spares, crc).map_err(failed)?
        }
    };
    let (set, line) = (new.header.uuid(), new.header.line().to_owned());
    let sectors = Sectors(new.header.raw().set.main_sectors.get());
    new.end(&mut spares, crc).map_err(failed)?;
    let report = validate(&mut spares, Level::Complete, crc).map_err(|_| "no memory")?;
    let outcome = match report.worst() {
        Severity::Note => Outcome::Well,
        Severity::Damage => Outcome::Damaged,
        Severity::Fatal => Outcome::Unusable,
    };
    text::print(|out| {
        report
            .findings()
            .iter()
            .filter(|finding| finding.severity() > Severity::Note)
            .try_for_each(|finding| writeln!(out, "{finding}"))?;
        writeln!(out, "upgraded; the table line is 0 {sectors} remap {line}")
    })?;
    tell_of_main(arguments, set)?;
    Ok(outcome)
}

/// Whether an upgrade that was cut short was of a set with this main.
fn is_main_of(header: &Header, main: &Device, spare: &str) -> Result<(), Failure> {
    let other = |why: String| {
        format!("{spare}: the upgrade that was cut short was for another main than {} ({why}); give that one", main.path)
    };
    compare(&header.raw().main, &main.facts()).map_err(|e| other(e.to_string()))?;
    let sectors = Sectors(header.raw().set.main_sectors.get());
    if main.sectors < sectors {
        return Err(other(format!(
            "it has {}, the set {}",
            text::sectors(main.sectors.0),
            text::sectors(sectors.0)
        )));
    }
    Ok(())
}

/// Has main hidden from now on. An image is never.
fn tell_of_main(arguments: &Arguments, set: SetUuid) -> Result<(), Failure> {
    let main = number_of(&arguments.main).ok().filter(|_| !arguments.no_config);
    let Some(main) = main else { return Ok(()) };
    let known = config::add(set, &arguments.main);
    config::look_again(main);
    text::print(|out| writeln!(out, "{known}"))
}

/// What is in the v4 format is upgraded already; the end of that may be missing.
fn ended(arguments: &Arguments, spares: &mut Spares, main: &Device) -> Result<Outcome, Failure> {
    let name = &arguments.spare;
    let found = recover(spares, crc).map_err(|_| format!("{name}: {}", UpgradeError::NotV3))?;
    let set = found.header().uuid();
    if found.is_clean() || found.header().version() > 1 {
        return Err(format!("{name}: is in the v4 format, of set {set}, already"));
    }
    is_main_of(found.header(), main, name)?;
    text::print(|out| writeln!(out, "the upgrade to set {set} lacks its end"))?;
    if arguments.dry_run {
        return Ok(Outcome::Damaged);
    }
    world::agree(arguments.yes)?;
    let history = u64::from_le_bytes(world::random()?);
    found.rebuild(spares, world::now(), history).map_err(|e| e.to_string())?;
    text::print(|out| writeln!(out, "upgraded"))?;
    tell_of_main(arguments, set)?;
    Ok(Outcome::Well)
}

fn plan(arguments: &Arguments, old: &Old, spares: &Spares, main: &Device) -> Result<Plan, Failure> {
    let failed = |e: UpgradeError| format!("{}: {e}", arguments.spare);
    let spare = spares.device(SPARE)?;
    // Of a whole spare the table line has whole blocks; where data lies behind them, that is said as a part.
    let whole = Sectors(spare.sectors.0 & !7);
    let behind = old.entries.iter().any(|(_, place)| place.0 >= whole.0);
    let part = spares.part(SPARE).or(behind.then_some((0, spare.sectors.0)));
    let set = NewSet {
        uuid: SetUuid(world::random()?),
        history: u64::from_le_bytes(world::random()?),
        name: &arguments.name,
        time: world::now(),
        layout: old.layout,
        main_sectors: main.sectors,
        main_start: Sectors(0),
        line: &match part {
            Some((start, len)) => format!("{} {} {start} {len}", main.path, spare.path),
            None => format!("{} {}", main.path, spare.path),
        },
    };
    let (used_start, used_sectors) = part.unwrap_or((0, whole.0));
    let member = NewSpare {
        uuid: world::random()?,
        fingerprint: fingerprint(&spare.facts()),
        used_start: Sectors(used_start),
        used_sectors: Sectors(used_sectors),
    };
    let logical = main.logical_block.max(spare.logical_block) / SECTOR_SIZE as u32;
    let print = fingerprint(&main.facts());
    let update = |header: &mut remap_pure::format::header::Header| header.raw_mut().main = print;
    old.plan(spares, &set, &member, Sectors(logical.into()), crc, update).map_err(failed)
}

fn tell(old: &Old, plan: &Plan) -> Result<(), Failure> {
    let (from, new) = (&old.header, &plan.new);
    text::print(|out| {
        writeln!(
            out,
            "v3 set of {} in the {} drawing, {} entries, {} ever made; its checksum {}",
            text::time(from.created),
            if from.drawing == 1 { "first" } else { "second" },
            from.entries,
            from.lifetime,
            if old.checksum_fits { "fits" } else { "does not fit" }
        )?;
        for entry in new.table.iter().take(8) {
            let extent = entry.extent;
            writeln!(out, "  {} sectors of main from {} on", extent.len, extent.start)?;
        }
        let extents = new.table.totals().extents;
        if extents > 8 {
            writeln!(out, "  and {} more extents", extents - 8)?;
        }
        writeln!(
            out,
            "{} sectors on the spare are in the way of the five copies and are to be moved",
            plan.sectors()
        )?;
        let name = if new.header.name().is_empty() { "without a name" } else { new.header.name() };
        writeln!(out, "the set is to be {}, {name}", new.header.uuid())
    })
}
