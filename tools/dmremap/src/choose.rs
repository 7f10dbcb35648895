//! `repair --use`: one of several states of a set of which none came from the other, because a person has said which.

use crate::spares::Spares;
use crate::{text, world, Failure, Outcome};
use dmremap::{crc, Dump};
use remap_pure::commit::Persist;
use remap_pure::format::header::Header;
use remap_pure::format::layout::COPIES;
use remap_pure::mem::KVec;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::side::{
    content_of, given_away, is_current, last, sides, state_of, without, Side,
};
use remap_pure::recovery::{recover_without, Survey};
use remap_pure::rewrite::{look, rewrite, supersede, Seen};
use remap_pure::store::Store;
use remap_pure::table::Table;
use remap_pure::units::Extent;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Choice {
    /// Where the spares are in conflict: what stands on this one is to hold
    #[arg(long = "use", value_name = "SPARE")]
    pub spare: Option<String>,
    /// With --use: what this copy on it says, where its copies differ
    #[arg(long, value_name = "N", requires = "spare", value_parser = clap::value_parser!(u8).range(0..COPIES as i64))]
    copy: Option<u8>,
    /// With --use: the folder in which each side is dumped first
    #[arg(long, value_name = "FOLDER", default_value = ".", requires = "spare")]
    dump_to: PathBuf,
    /// With --use: give up a side too of which there is no dump, or only one of an older state, as what was there cannot be put together any more
    #[arg(long, requires = "spare")]
    undumped: bool,
}

/// Says what the sides of a conflict are, if there is one.
pub fn show(spares: &mut Spares) -> Result<(), Failure> {
    let survey = Survey::take(spares, crc).map_err(|_| "no memory")?;
    let sides = sides(spares, &survey, crc).map_err(|_| "no memory")?;
    if sides.len() < 2 {
        return Ok(());
    }
    for side in sides.iter() {
        let state = state_of(spares, &survey, side, crc);
        let says = state.as_ref().map_or_else(|e| e.to_string(), |(_, table)| tells(table));
        text::print(|out| writeln!(out, "{}: {says}", stands(spares, side)))?;
    }
    text::print(|out| writeln!(out, "`dmremap repair --use SPARE` takes one, after a dump of each"))
}

/// Makes one side hold.
pub fn run(
    choice: &Choice,
    name: &str,
    spares: &mut Spares,
    (dry_run, yes): (bool, bool),
) -> Result<Outcome, Failure> {
    let memory = |_| "no memory";
    let survey = Survey::take(spares, crc).map_err(memory)?;
    let set = survey.set().map_err(|e| e.to_string())?;
    let sides = sides(spares, &survey, crc).map_err(memory)?;
    if sides.len() < 2 {
        return Err("there is no conflict; repair without --use".into());
    }
    let chosen = choose(choice, name, spares, &sides)?;
    let (mut header, mut table) =
        state_of(spares, &survey, &chosen, crc).map_err(|e| format!("{name}: {e}"))?;
    let mut dumps = vec![(chosen, Dump::of(&header, &table))];
    let mut lost: Vec<Extent> = Vec::new();
    let mut undumped = false;
    text::print(|out| writeln!(out, "to hold: {}: {}", stands(spares, &chosen), tells(&table)))?;
    for side in sides.iter().filter(|side| **side != chosen) {
        // Whether its members are all there does not matter any more.
        let says = match content_of(spares, &survey, side, crc) {
            Ok((other, other_table)) => {
                dumps.push((*side, Dump::of(&other, &other_table)));
                lost.extend(given_away(&table, &other_table).map_err(memory)?.iter());
                let older = is_current(&survey, side, &other).err();
                undumped |= older.is_some();
                let older = older.map(|e| format!("; there is a dump of that only: {e}"));
                differs(&table, &other_table) + &older.unwrap_or_default()
            }
            Err(e) => {
                undumped = true;
                format!("cannot be put together, so there will be no dump of it: {e}")
            }
        };
        text::print(|out| writeln!(out, "given up: {}: {says}", stands(spares, side)))?;
    }
    let sectors: u64 = lost.iter().map(|extent| extent.len.0).sum();
    if sectors > 0 {
        text::print(|out| {
            writeln!(
                out,
                "{sectors} sectors of what is to hold are lost: another side has given their places to other blocks"
            )
        })?;
        table = without(&table, &header, &lost, crc).map_err(|e| e.to_string())?;
    }
    if dry_run {
        return Ok(Outcome::Unusable);
    }
    if undumped && !choice.undumped {
        return Err("what is given up cannot be dumped as it was; connect what else it was on, or give it up without with --undumped".into());
    }
    world::agree(yes)?;
    for (side, dump) in &dumps {
        let file = keep(&choice.dump_to, &set.to_string(), side, dump)?;
        text::print(|out| writeln!(out, "{} is dumped to {}", side.stand.id, file.display()))?;
    }

    let mut seen = Seen::default();
    for spare in spares.spares().iter() {
        let found = look(spares, spare, &header.layout(), &set, crc);
        seen = seen.and(found.map_err(|e| e.to_string())?);
    }
    let given_up = |other: &Header| !header.descends_from(other.history(), other.version());
    let given_up: Vec<u64> =
        survey.headers().filter(|(_, h)| given_up(h)).map(|(_, h)| h.history()).collect();
    let history = u64::from_le_bytes(world::random()?);
    supersede(&mut header, &seen, given_up.into_iter(), history, world::now())
        .map_err(|e| e.to_string())?;
    rewrite(spares, header, &table, last(&survey, &sides, &chosen), crc)
        .map_err(|e| e.to_string())?;
    let found = match recover_without(spares, &KNOWN_AWAY, crc) {
        Ok(found) => found,
        Err(refusal) => {
            eprintln!("dmremap: written, and yet: {refusal}");
            return Ok(Outcome::Unusable);
        }
    };
    // Who was away for what holds now, and is here, has nothing else to hold any more.
    for spare in found.back().iter() {
        text::print(|out| writeln!(out, "{} takes part again", spares.name(spare)))?;
    }
    let history = u64::from_le_bytes(world::random()?);
    let meta = found.rebuild(spares, world::now(), history).map_err(|e| e.to_string())?;
    text::print(|out| writeln!(out, "every copy is of version {} now", meta.version()))?;
    Ok(if meta.persist() == Persist::Enabled { Outcome::Well } else { Outcome::Damaged })
}

fn choose(
    choice: &Choice,
    name: &str,
    spares: &Spares,
    sides: &KVec<Side>,
) -> Result<Side, Failure> {
    let spare = spares.spares().iter().find(|&spare| spares.name(spare) == name);
    let spare = spare.ok_or(format!("--use {name}: name a spare as it is named for the repair"))?;
    let on_it = |side: &&Side| match choice.copy {
        None => !side.copies.on(spare).is_empty(),
        Some(copy) => side.copies.on(spare).iter().any(|id| id.copy == copy),
    };
    let mut here = sides.iter().filter(on_it);
    match (here.next(), here.next()) {
        (Some(side), None) => Ok(*side),
        (Some(_), Some(_)) => {
            Err(format!("the copies on {name} differ; say with --copy which of them is to hold"))
        }
        (None, _) => Err(format!("what stands there on {name} is older than what is in conflict")),
    }
}

/// Which side it is, and where.
fn stands(spares: &Spares, side: &Side) -> String {
    let mut places = Vec::new();
    for spare in side.copies.spares().iter() {
        let copies: Vec<String> =
            side.copies.on(spare).iter().map(|id| id.copy.to_string()).collect();
        places.push(format!("{} (copies {})", spares.name(spare), copies.join(", ")));
    }
    format!(
        "version {} of history {:016x}, {}, on {}",
        side.stand.version,
        side.stand.history,
        text::time(side.stand.committed),
        places.join(" and ")
    )
}

fn tells(table: &Table) -> String {
    let totals = table.totals();
    let remapped = text::sectors(totals.remapped.0);
    format!("{} extents, {remapped} remapped, {} pending", totals.extents, totals.pending)
}

fn differs(chosen: &Table, other: &Table) -> String {
    let held: HashSet<_> = chosen.iter().collect();
    let alone = other.iter().filter(|entry| !held.contains(entry)).count();
    format!("{}; {alone} extents of it are not in what is to hold", tells(other))
}

/// Writes a dump to a file that was not there, unless there is one that says the same.
fn keep(folder: &Path, set: &str, side: &Side, dump: &Dump) -> Result<PathBuf, Failure> {
    let stand = &side.stand;
    let file = folder.join(format!(
        "{set}-version-{}-history-{:016x}-spare-{}.json",
        stand.version, stand.history, stand.id.spare
    ));
    let failed =
        |e: std::io::Error| format!("{}: {e}; nothing was changed on the spares", file.display());
    let text = serde_json::to_string_pretty(dump).map_err(|e| failed(e.into()))? + "\n";
    let there = std::fs::read(&file).is_ok_and(|there| there == text.as_bytes());
    let write = || match there {
        true => File::open(&file)?.sync_all(),
        false => {
            let mut new = OpenOptions::new().write(true).create_new(true).open(&file)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()
        }
    };
    // A name that the folder does not keep through a crash is no dump either.
    write().and_then(|()| File::open(folder)?.sync_all()).map_err(failed)?;
    Ok(file)
}
