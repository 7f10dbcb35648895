//! `set`, `get` and `undo`: the settings of a set in use.

use crate::live::{Live, Mapper};
use crate::spares::{Access, Spares, Which};
use crate::{text, Failure, Outcome};
use dmremap::crc;
use dmremap::label::path_of;
use dmremap::state::State;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::recover_without;
use remap_pure::settings::{find, Limits, SetError, Settings, Unit, SETTINGS};
use serde_json::{Map, Value};
use std::path::Path;

#[derive(clap::Args)]
pub struct Set {
    /// Say what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The setting; 'dmremap get NAME' lists them
    key: String,
    /// Its new value
    value: String,
}

#[derive(clap::Args)]
pub struct Get {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The setting; all of them without
    key: Option<String>,
}

#[derive(clap::Args)]
pub struct Undo {
    /// Say what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
}

/// What `get` says: each setting with its value.
fn values(mapper: &Mapper, live: &Live) -> Result<Vec<(String, String)>, Failure> {
    let text = mapper.message(live, "get")?;
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next().unwrap_or_default().to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

fn known(key: &str) -> Result<&'static remap_pure::settings::Setting, Failure> {
    find(key).ok_or_else(|| format!("'{key}': {}", SetError::Unknown))
}

/// Says what is other than before.
fn changes(before: &[(String, String)], now: &[(String, String)]) -> Result<(), Failure> {
    let changed = before.iter().zip(now).filter(|(before, now)| before != now);
    let lines: Vec<String> =
        changed.map(|((key, before), (_, now))| format!("{key}: {before} -> {now}")).collect();
    text::print(|out| match lines.is_empty() {
        true => writeln!(out, "nothing has changed"),
        false => lines.iter().try_for_each(|line| writeln!(out, "{line}")),
    })
}

/// Changes a setting.
pub fn set(arguments: &Set) -> Result<Outcome, Failure> {
    let (key, value) = (&arguments.key, &arguments.value);
    let setting = known(key)?;
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.name)?;
    let before = values(&mapper, &live)?;
    if arguments.dry_run {
        let state = State::parse(&mapper.message(&live, "metadata_status")?);
        let limits = Limits {
            copies: state.number("copies"),
            spares: state.members.iter().fold(remap_pure::store::SpareSet::NONE, |mut set, m| {
                set.add(remap_pure::units::SpareId(m.number as u8));
                set
            }),
            logical_block: remap_pure::units::Sectors(live.logical_block()?),
            ..Limits::default()
        };
        setting.parse(value, &limits).map_err(|e| e.to_string())?;
        let old = before.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value);
        text::print(|out| writeln!(out, "{key}: {old} -> {value}"))?;
        return Ok(Outcome::Well);
    }
    mapper.message(&live, &format!("set {key} {value}"))?;
    changes(&before, &values(&mapper, &live)?)?;
    Ok(Outcome::Well)
}

/// Shows settings.
pub fn get(arguments: &Get) -> Result<Outcome, Failure> {
    let only = arguments.key.as_deref().map(known).transpose()?;
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.name)?;
    let values = values(&mapper, &live)?;
    let wanted = values.iter().filter(|(key, _)| only.is_none_or(|only| only.name == key));
    if arguments.json {
        let value =
            |text: &String| text.parse::<u64>().map_or_else(|_| text.clone().into(), Value::from);
        let object: Map<String, Value> =
            wanted.map(|(key, text)| (key.clone(), value(text))).collect();
        text::json(&object)?;
    } else if only.is_some() {
        text::print(|out| wanted.into_iter().try_for_each(|(_, value)| writeln!(out, "{value}")))?;
    } else {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        for (key, value) in wanted {
            let setting = SETTINGS.iter().find(|setting| setting.name == key);
            let unit = setting.map_or_else(String::new, |setting| match setting.unit {
                Unit::Switch => String::new(),
                unit => unit.to_string(),
            });
            let help = setting.map_or("", |setting| setting.help);
            table.add_row([key.clone(), value.clone(), unit, help.to_owned()]);
        }
        text::print(|out| writeln!(out, "{}", table.trim_fmt()))?;
    }
    Ok(Outcome::Well)
}

/// Takes back the last change.
pub fn undo(arguments: &Undo) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.name)?;
    if arguments.dry_run {
        return would_undo(&mapper, &live);
    }
    let before = values(&mapper, &live)?;
    mapper.message(&live, "undo")?;
    changes(&before, &values(&mapper, &live)?)?;
    Ok(Outcome::Well)
}

/// What it was before the last change stands on the spares alone.
fn would_undo(mapper: &Mapper, live: &Live) -> Result<Outcome, Failure> {
    let state = State::parse(&mapper.message(live, "metadata_status")?);
    let there = state.members.iter().filter(|member| !member.away);
    let part = |member: &dmremap::state::Member| {
        let (major, minor) = member.device?;
        let path = path_of(Path::new("/"), major, minor)?;
        Some(format!("{path}@{}+{}", member.start, member.sectors))
    };
    let mut spares = Spares::open(&Which::of(there.filter_map(part).collect()), Access::Read)?;
    let found = recover_without(&mut spares, &KNOWN_AWAY, crc).map_err(|refusal| {
        format!("{}: what stands on its spares cannot be read: {refusal}", live.name)
    })?;
    let now = Settings::from_raw(&found.header().raw().settings);
    let mut before = now.clone();
    before.undo().map_err(|e| format!("{}: {e}", live.name))?;
    let texts = |settings: &Settings| -> Result<Vec<(String, String)>, Failure> {
        let text = |setting: &remap_pure::settings::Setting| {
            let mut text = String::new();
            setting.write_value(settings.get(setting), &mut text).map_err(|e| e.to_string())?;
            Ok((setting.name.to_owned(), text))
        };
        SETTINGS.iter().map(|setting| text(setting)).collect()
    };
    changes(&texts(&now)?, &texts(&before)?)?;
    Ok(Outcome::Well)
}
