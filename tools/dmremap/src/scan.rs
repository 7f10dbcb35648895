//! `scan`: which sets are on this machine, and what is missing of them.

use crate::inspect::write_fingerprint;
use crate::live::Mapper;
use crate::matching::{print_of, Member};
use crate::sets::{absence, look, Machine, Main, Missing, Set, State};
use crate::{text, Failure, Outcome};
use remap_pure::copies::{CopySet, CopyState};
use remap_pure::format::header::text as padded;
use remap_pure::identity::Match;
use remap_pure::recovery::Recovered;
use rustix::process::geteuid;
use serde_json::{json, Value};
use std::io::{self, Write};

#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look at no others than those that are named
    #[arg(long, requires = "also")]
    only: bool,
    /// Look at these too: images in files, and parts of devices, DEVICE@START+LENGTH in sectors of 512 bytes
    #[arg(value_name = "DEVICE")]
    also: Vec<String>,
}

/// Shows every set.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    if !arguments.only && !geteuid().is_root() {
        return Err("the devices of this machine can be looked at by root only".into());
    }
    // Without device mapper no set is in use, and what stands on the spares can be read all the same.
    let mapper = Mapper::open().ok().filter(|_| !arguments.only);
    let machine = look(mapper.as_ref(), &arguments.also, arguments.only)?;
    if arguments.json {
        let all = serde_json::to_string_pretty(&as_json(&machine)).map_err(|e| e.to_string())?;
        text::print(|out| writeln!(out, "{all}"))?;
    } else {
        text::print(|out| {
            if machine.sets.is_empty() && machine.others.is_empty() && machine.awaited.is_empty() {
                return writeln!(out, "no set is on any device of this machine");
            }
            machine.sets.iter().try_for_each(|set| show(out, set))?;
            machine.others.iter().try_for_each(|o| writeln!(out, "{}: {}", o.name, o.what))?;
            machine.awaited.iter().try_for_each(|entry| writeln!(out, "{}", absence(entry)))
        })?;
    }
    Ok(machine.sets.iter().map(outcome).max().unwrap_or(Outcome::Well))
}

/// What a set comes to.
pub fn outcome(set: &Set) -> Outcome {
    match &set.state {
        State::InUse(_) => Outcome::Well,
        State::Refused(..) => Outcome::Unusable,
        State::Whole(_) if matches!(set.main, Main::Nobody(_)) => Outcome::Missing,
        State::Whole(_) if set.missing.iter().any(|missing| !missing.away) => Outcome::Missing,
        State::Whole(state) if copies_are_good(state) => Outcome::Well,
        State::Whole(_) => Outcome::Damaged,
    }
}

/// Whether nothing has to be written anew on the spares that are there.
fn copies_are_good(state: &Recovered) -> bool {
    // Who comes back is behind, and that is no damage.
    let here = state.copies().present().without(CopySet::all(state.back()));
    here.without(state.copies().in_state(CopyState::Good)).is_empty()
}

/// A word for it.
fn word(set: &Set) -> &'static str {
    match (&set.state, outcome(set)) {
        (State::InUse(_), _) => "in use",
        (State::Refused(_, true), _) => "conflict",
        (State::Refused(..), _) => "unusable",
        (_, Outcome::Missing) => "incomplete",
        _ if set.is_replacing() => "replacing",
        (_, Outcome::Damaged) => "damaged",
        _ if !set.missing.is_empty() => "degraded",
        _ if matches!(set.main, Main::MayBe(..)) => "uncertain",
        _ => "complete",
    }
}

/// Writes what there is to know of a set.
pub fn show(out: &mut dyn Write, set: &Set) -> io::Result<()> {
    writeln!(out, "{}: {}", set.title(), word(set))?;
    match &set.state {
        State::InUse(live) => writeln!(out, "  in use as  {}", live.path().display())?,
        State::Refused(why, _) => writeln!(out, "  cannot be used: {why}")?,
        State::Whole(_) => {}
    }
    if set.is_replacing() {
        writeln!(out, "  {}", set.replaced())?;
    }
    match &set.main {
        Main::Is(path, by) => writeln!(out, "  main       {path} (match {by})")?,
        Main::MayBe(path, by, true) => {
            writeln!(out, "  main       may be {path} (match {by}, {} is asked for)", set.least())?;
        }
        Main::MayBe(path, by, false) => {
            writeln!(out, "  main       may be {path} or another one (match {by})")?;
        }
        Main::Nobody(not) => {
            writeln!(out, "  main       missing{}", told(set, Member::Main))?;
            for (path, why) in not {
                writeln!(out, "             not {path}: {why}")?;
            }
        }
    }
    for holder in &set.holders {
        match holder.number {
            Some(number) => writeln!(out, "  spare {number}    {}", holder.name)?,
            None => writeln!(out, "  spare ?    {} (no header on it is whole)", holder.name)?,
        }
    }
    for Missing { member, uuid, away, looks_like } in &set.missing {
        let uuid = uuid.unwrap_or_default();
        let word = if *away { "away" } else { "missing" };
        writeln!(out, "  {member:<10} {word}, UUID {uuid}{}", told(set, *member))?;
        if let Some((path, by)) = looks_like {
            writeln!(
                out,
                "             may be {path} (match {by}), which carries nothing of the set"
            )?;
        }
    }
    Ok(())
}

/// What the set knows of a member that is not there.
fn told(set: &Set, member: Member) -> String {
    let Some(header) = &set.header else { return String::new() };
    let print = print_of(header, member);
    let mut bytes = Vec::new();
    // A list of bytes takes everything.
    let _ = write_fingerprint(&mut bytes, &print);
    let path = padded(&print.path);
    let path = if path.is_empty() { String::new() } else { format!(", last seen as {path}") };
    format!(": {}{path}", String::from_utf8_lossy(&bytes))
}

fn matched(by: &Match) -> Value {
    json!({ "by": by.kind.name(), "percent": by.kind.percent(), "same_path": by.same_path })
}

fn as_json(machine: &Machine) -> Value {
    let sets: Vec<Value> = machine.sets.iter().map(set_json).collect();
    let others: Vec<Value> =
        machine.others.iter().map(|o| json!({ "device": o.name, "what": o.what })).collect();
    let awaited: Vec<Value> = machine
        .awaited
        .iter()
        .map(|entry| json!({ "uuid": entry.uuid.to_string(), "name": entry.name }))
        .collect();
    json!({ "sets": sets, "others": others, "awaited": awaited })
}

fn set_json(set: &Set) -> Value {
    let main = match &set.main {
        Main::Is(path, by) => json!({ "device": path, "match": matched(by), "certain": true }),
        Main::MayBe(path, by, only) => {
            json!({ "device": path, "match": matched(by), "certain": false, "only": only })
        }
        Main::Nobody(not) => json!({
            "device": Value::Null,
            "known": known(set, Member::Main),
            "not": not.iter().map(|(path, why)| json!({ "device": path, "why": why })).collect::<Vec<_>>(),
        }),
    };
    let spares: Vec<Value> = set
        .holders
        .iter()
        .map(|holder| json!({ "device": holder.name, "number": holder.number.map(|n| n.0) }))
        .collect();
    let missing: Vec<Value> = set
        .missing
        .iter()
        .map(|missing| {
            json!({
                "member": missing.member.to_string(),
                "uuid": missing.uuid.map(|uuid| uuid.to_string()),
                "away": missing.away,
                "known": known(set, missing.member),
                "looks_like": missing.looks_like.as_ref().map(|(path, by)| json!({ "device": path, "match": matched(by) })),
            })
        })
        .collect();
    let (mapped, why) = match &set.state {
        State::InUse(live) => (Some(live.name.clone()), None),
        State::Refused(why, _) => (None, Some(why.clone())),
        State::Whole(_) => (None, None),
    };
    json!({
        "uuid": set.uuid.to_string(),
        "name": set.name,
        "state": word(set),
        "mapped_device": mapped,
        "why": why,
        "version": set.header.as_ref().map(remap_pure::format::header::Header::version),
        "least_match": set.least(),
        "main": main,
        "spares": spares,
        "missing": missing,
    })
}

/// What the set knows a member by.
fn known(set: &Set, member: Member) -> Value {
    let Some(header) = &set.header else { return Value::Null };
    dmremap::known(&print_of(header, member))
}
