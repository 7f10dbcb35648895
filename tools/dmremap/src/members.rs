//! `spare add|remove|replace` and `migrate`: who is in a set in use.
//!
//! The module does the work, and this looks at the new device before and loads the table anew afterwards, so that the table names
//! who is in the set, and who has left is let go.

use crate::candidate::{candidate, number_of, Candidate};
use crate::follow::{follow, Followed};
use crate::live::{Live, Mapper};
use crate::returning::Back;
use crate::sets::find;
use crate::{identify, text, world, Failure, Outcome};
use dmremap::state::{Member, State};
use std::path::Path;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Makes a device one more spare, or takes a spare back that was away
    Add(Add),
    /// Moves what lives on a spare to the others, and lets it go
    Remove(Remove),
    /// Brings what lives on a spare to a new device, which takes its place
    Replace(Replace),
}

#[derive(clap::Args)]
pub struct How {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    how: How,
    /// What this device carries may be lost
    #[arg(long, value_name = "DEVICE")]
    overwrite: Option<String>,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The new spare, all of which is used; or one of the set's that is away
    device: String,
}

#[derive(clap::Args)]
struct Remove {
    #[command(flatten)]
    how: How,
    /// Give up what cannot be read on it
    #[arg(long)]
    lost: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The spare: its device, its number or its UUID
    spare: String,
}

#[derive(clap::Args)]
struct Replace {
    #[command(flatten)]
    how: How,
    /// What this device carries may be lost
    #[arg(long, value_name = "DEVICE")]
    overwrite: Option<String>,
    /// Give up what cannot be read on the old spare
    #[arg(long)]
    lost: bool,
    /// Begin, and do not wait for the end; 'dmremap migrate --attach NAME' does what is left to do then
    #[arg(long)]
    detach: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The spare that leaves: its device, its number or its UUID
    old: String,
    /// The device that takes its place; all of it is used
    new: String,
}

#[derive(clap::Args)]
pub struct Migrate {
    #[command(flatten)]
    how: How,
    /// What this device carries may be lost
    #[arg(long, value_name = "DEVICE")]
    overwrite: Option<String>,
    /// Give up what cannot be read on the old spare
    #[arg(long)]
    lost: bool,
    /// Begin, and do not wait for the end; --attach does what is left to do then
    #[arg(long, conflicts_with = "attach")]
    detach: bool,
    /// Follow what was begun with --detach, and do what is left to do when it has ended
    #[arg(long, conflicts_with_all = ["overwrite", "lost", "dry_run"])]
    attach: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The spare that leaves (its device, its number or its UUID; need not be given if it is the only one), and the device that
    /// takes its place; all of that is used
    #[arg(required_unless_present = "attach", conflicts_with = "attach", num_args = 1..=2, value_names = ["FROM", "TO"])]
    devices: Vec<String>,
}

/// A change of who is in the set.
struct Change<'a> {
    name: &'a str,
    how: &'a How,
    /// Who joins, and what of it may be overwritten.
    joins: Option<&'a str>,
    overwrite: Option<&'a str>,
    /// Who leaves; the only one when nobody is named.
    leaves: Option<Option<&'a str>>,
    lost: bool,
    detach: bool,
}

/// Adds, removes or replaces a spare.
pub fn spare(arguments: &Arguments) -> Result<Outcome, Failure> {
    match &arguments.verb {
        Verb::Add(add) => Change {
            name: &add.name,
            how: &add.how,
            joins: Some(&add.device),
            overwrite: add.overwrite.as_deref(),
            leaves: None,
            lost: false,
            detach: false,
        },
        Verb::Remove(remove) => Change {
            name: &remove.name,
            how: &remove.how,
            joins: None,
            overwrite: None,
            leaves: Some(Some(&remove.spare)),
            lost: remove.lost,
            detach: false,
        },
        Verb::Replace(replace) => Change {
            name: &replace.name,
            how: &replace.how,
            joins: Some(&replace.new),
            overwrite: replace.overwrite.as_deref(),
            leaves: Some(Some(&replace.old)),
            lost: replace.lost,
            detach: replace.detach,
        },
    }
    .carry_out()
}

/// Migrates.
pub fn migrate(arguments: &Migrate) -> Result<Outcome, Failure> {
    if arguments.attach {
        return attach(&arguments.name);
    }
    let (old, new) = match &arguments.devices[..] {
        [new] => (None, new),
        [old, new] => (Some(old.as_str()), new),
        _ => return Err("give the spare that leaves and the device that takes its place".into()),
    };
    Change {
        name: &arguments.name,
        how: &arguments.how,
        joins: Some(new),
        overwrite: arguments.overwrite.as_deref(),
        leaves: Some(old),
        lost: arguments.lost,
        detach: arguments.detach,
    }
    .carry_out()
}

/// What the kernel calls such a change while it runs.
const NAMES: [&str; 3] = ["migrate", "spare-add", "spare-remove"];

/// The error that such a change runs, if one does.
pub fn none_runs(live: &Live, state: &State) -> Result<(), Failure> {
    let name = &live.name;
    match state.running.iter().find(|run| NAMES.contains(&&*run.what)) {
        Some(runs) => Err(format!(
            "{name}: a {} is running; 'dmremap migrate --attach {name}' follows it, 'dmsetup message {name} 0 stop' ends it",
            runs.what
        )),
        None => Ok(()),
    }
}

impl Change<'_> {
    fn carry_out(&self) -> Result<Outcome, Failure> {
        let mapper = &Mapper::open()?;
        let live = &mapper.find(self.name)?;
        let state = State::parse(&mapper.message(live, "metadata_status")?);
        if live.read_only {
            return Err(format!(
                "{}: its table is read-only; load it for writing first",
                live.name
            ));
        }
        none_runs(live, &state)?;
        if let (Some(path), None) = (self.joins, self.leaves) {
            if let Some(back) = Back::look(&state, path)? {
                return back.carry_out(mapper, live, &state, self.how);
            }
        }
        let leaves = match self.leaves {
            Some(Some(word)) => Some(member(live, &state, word)?),
            Some(None) => Some(only(live, &state)?),
            None => None,
        };
        let joins =
            self.joins.map(|path| self.candidate(mapper, live, &state, path)).transpose()?;
        text::print(|out| {
            self.describe(live, leaves, joins.as_ref())
                .iter()
                .try_for_each(|l| writeln!(out, "{l}"))
        })?;
        let message = self.message(leaves, joins.as_ref());
        if self.how.dry_run {
            return Ok(Outcome::Well);
        }
        world::agree(self.how.yes)?;
        joins.as_ref().map_or(Ok(()), |new| new.device.is_still_there())?;
        if self.detach {
            mapper.message(live, &message)?;
            return text::print(|out| {
                writeln!(
                    out,
                    "it runs; 'dmremap migrate --attach {}' follows it to its end",
                    live.name
                )
            })
            .map(|()| Outcome::Well);
        }
        let word = message.split(' ').next().unwrap_or_default();
        let what = if self.joins.is_some() && self.leaves.is_some() { "migrate" } else { word };
        let followed =
            follow(mapper, live, Some(&message), what, |run| NAMES.contains(&&*run.what))?;
        let Followed { message, stopped, state } = followed;
        let is_done = leaves.is_none_or(|old| state.members.iter().all(|m| m.uuid != old.uuid))
            && joins.as_ref().is_none_or(|new| {
                state.members.iter().any(|m| m.device == Some(new.device.number) && !m.away)
            });
        if is_done {
            return afterwards(mapper, live);
        }
        let name = &live.name;
        // The module keeps who was to join until another table is there.
        if joins.is_some() {
            reload(mapper, name).map_err(|e| {
                format!("{name}: the set has the spares that it had, and its table could not be loaded anew: {e}")
            })?;
        }
        if stopped {
            return Err(format!("{name}: stopped; the set has the spares that it had"));
        }
        message?;
        let ended = state.ended.iter().rev().find(|ended| NAMES.contains(&&*ended.what));
        let why = state.last_error.clone().or(ended.map(|ended| ended.result.clone()));
        Err(format!(
            "{name}: it did not come to its end, and the set has the spares that it had: {}",
            why.unwrap_or_else(|| "the kernel log says why".into())
        ))
    }

    /// The message for it. It has the number of the device that was looked at: its name may lead to another one by then.
    fn message(&self, leaves: Option<&Member>, joins: Option<&Candidate>) -> String {
        let to = joins.map(|new| new.device.word());
        let overwrite =
            if joins.is_some_and(|new| !new.foreign.is_empty()) || self.overwrite.is_some() {
                " overwrite"
            } else {
                ""
            };
        let lost = if self.lost { " lost" } else { "" };
        match (leaves, to) {
            (Some(old), Some(to)) => format!("migrate {} {to}{overwrite}{lost}", old.number),
            (None, Some(to)) => format!("spare add {to}{overwrite}"),
            (Some(old), None) => format!("spare remove {}{lost}", old.number),
            (None, None) => String::new(),
        }
    }

    /// Whether the new device can be one. One that is in the set is no new one.
    fn candidate(
        &self,
        mapper: &Mapper,
        live: &Live,
        state: &State,
        path: &str,
    ) -> Result<Candidate, Failure> {
        let number = number_of(path)?;
        if let Some(same) = state.members.iter().find(|m| m.device == Some(number)) {
            let name = &live.name;
            return Err(match self.leaves {
                Some(Some(old)) => format!(
                    "{path} is spare {} of {name} already; 'dmremap spare remove {name} {old}' brings what lives there to the other spares",
                    same.number
                ),
                _ => format!("{path} is spare {} of {name} already", same.number),
            });
        }
        // One that the module was to take in before, and has not: it is let go with another table.
        let holder =
            format!("/sys/dev/block/{}:{}/holders/dm-{}", number.0, number.1, live.device.1);
        if Path::new(&holder).exists()
            && !live.line.starts_with(&format!("{}:{} ", number.0, number.1))
        {
            if self.how.dry_run {
                return Err(format!(
                    "{path} is held by {} since a change that has failed; it is let go when this is not only tried",
                    live.name
                ));
            }
            reload(mapper, &live.name)?;
        }
        find(Some(mapper), &[])?.is_no_main(path)?;
        candidate(path, self.overwrite)
    }

    fn describe(
        &self,
        live: &Live,
        leaves: Option<&Member>,
        joins: Option<&Candidate>,
    ) -> Vec<String> {
        let name = &live.name;
        let mut lines = Vec::new();
        if let (Some(path), Some(new)) = (self.joins, joins) {
            let size = text::size(new.sectors);
            lines.push(match leaves {
                Some(old) => {
                    format!("{path} ({size}) takes the place of spare {} of {name}", old.number)
                }
                None => format!("{path} ({size}) becomes a spare of {name}"),
            });
            lines.extend(new.foreign.iter().map(|what| format!("what is on it is lost: {what}")));
        } else if let Some(old) = leaves {
            lines.push(format!(
                "spare {} leaves {name}; what lives there moves to the others",
                old.number
            ));
        }
        if self.lost {
            lines.push("what cannot be read on the old spare is given up".into());
        }
        lines
    }
}

/// The member that a person means.
fn member<'a>(live: &Live, state: &'a State, word: &str) -> Result<&'a Member, Failure> {
    let members = &state.members;
    let by_name =
        members.iter().find(|m| m.number.to_string() == word || m.uuid.eq_ignore_ascii_case(word));
    if let Some(member) = by_name {
        return Ok(member);
    }
    let number = number_of(word).ok();
    let found = members.iter().find(|m| number.is_some() && m.device == number);
    found.ok_or_else(|| {
        format!(
            "'{word}' is no spare of {}; 'dmremap status {}' shows those that it has",
            live.name, live.name
        )
    })
}

/// The only member, if there is one alone.
fn only<'a>(live: &Live, state: &'a State) -> Result<&'a Member, Failure> {
    match &state.members[..] {
        [only] => Ok(only),
        members => Err(format!(
            "{} has {} spares; say which one leaves: its device, its number or its UUID",
            live.name,
            members.len()
        )),
    }
}

/// Who is in the set has changed: the table is loaded anew, which names the members and lets go who has left, and what is known of
/// the devices is sent.
pub fn afterwards(mapper: &Mapper, live: &Live) -> Result<Outcome, Failure> {
    let name = &live.name;
    let left = |what: &str, e: Failure| {
        format!("{name}: the set is changed, but {what}: {e}\n'dmremap migrate --attach {name}' tries that again")
    };
    reload(mapper, name).map_err(|e| left("its table could not be loaded anew", e))?;
    let now = mapper.find(name).map_err(|e| left("it cannot be looked at", e))?;
    identify::tell(mapper, &now, None)
        .map_err(|e| left("what its devices are recognised by was not kept", e))?;
    let state = State::parse(&mapper.message(&now, "metadata_status")?);
    text::print(|out| {
        let spares = state.members.len();
        writeln!(out, "{name}: done; it has {spares} spare{}", if spares == 1 { "" } else { "s" })?;
        match state.number("lost") {
            0 => Ok(()),
            lost => writeln!(out, "{lost} sectors are lost: reading them is an error until they are written; 'dmremap files {name}' says whose they are"),
        }
    })?;
    Ok(if state.number("lost") > 0 { Outcome::Damaged } else { Outcome::Well })
}

/// Loads the table of now anew: it names who is in the set, and lets go who is not.
fn reload(mapper: &Mapper, name: &str) -> Result<(), Failure> {
    let _turn = world::take_turn_of(mapper, &mapper.find(name)?);
    // Whose turn it was before may have loaded another.
    let now = mapper.find(name)?;
    mapper.reload(&now, now.sectors, &now.line)
}

/// Follows a change that runs to its end.
fn attach(name: &str) -> Result<Outcome, Failure> {
    let mapper = &Mapper::open()?;
    let live = &mapper.find(name)?;
    let followed = follow(mapper, live, None, "migrate", |run| NAMES.contains(&&*run.what))?;
    let ended = followed.state.ended.iter().rev().find(|ended| NAMES.contains(&&*ended.what));
    if let Some(ended) = ended.filter(|ended| !ended.is_ok()) {
        reload(mapper, &live.name)?;
        if followed.stopped {
            return Err(format!("{}: stopped; the set has the spares that it had", live.name));
        }
        let why = followed.state.last_error.as_deref().unwrap_or(&ended.result);
        return Err(format!("{}: the {} did not come to its end: {why}", live.name, ended.what));
    }
    afterwards(mapper, live)
}
