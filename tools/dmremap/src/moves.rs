//! `remap` and `unremap`: moves a person asks for.

use crate::follow::{follow, Followed};
use crate::live::{Live, Mapper};
use crate::{text, world, Failure, Outcome};
use dmremap::extents::{count, parse, within, Extent, Kind};
use dmremap::state::State;

#[derive(clap::Args)]
pub struct Arguments {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The first sector, of 512 bytes, counted from the beginning of the mapped device
    sector: u64,
    /// How many sectors; one logical block without
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// A health of main below which nothing is brought back to it unasked.
const BAD_HEALTH: u64 = 20;

/// Every extent of a set in use that is remapped or cannot be read, of those that begin at `from` or later, or reach into it.
///
/// # Errors
///
/// With a text for a person.
pub fn extents(mapper: &Mapper, live: &Live, from: u64, end: u64) -> Result<Vec<Extent>, Failure> {
    let (mut all, mut next) = (Vec::new(), Some(from));
    while let Some(sector) = next.filter(|&sector| sector < end) {
        let (found, more) = parse(&mapper.message(live, &format!("table {sector}"))?);
        all.extend(found);
        // A list that does not go on would have no end.
        next = more.filter(|&more| more > sector);
    }
    Ok(all)
}

/// What a move is about.
struct Move<'a> {
    mapper: &'a Mapper,
    live: &'a Live,
    /// The message for it.
    word: &'static str,
    start: u64,
    len: u64,
    /// What is there of it before.
    extents: Vec<Extent>,
}

/// Moves a range to the spares.
pub fn remap(arguments: &Arguments) -> Result<Outcome, Failure> {
    with(arguments, "remap", |wish, state| {
        let there = count(&wish.extents, Kind::Remapped) + count(&wish.extents, Kind::Suspect);
        let new = wish.len - there;
        if new == 0 {
            return Ok((format!("all of {} is remapped already", wish.range()), None));
        }
        let (used, room) = (state.number("used"), state.number("room"));
        let free = room.saturating_sub(used);
        let about = format!(
            "{new} of the {} sectors from {} on would move to the spares, which have room for {free}",
            wish.len, wish.start
        );
        let ask = (new > free).then(|| format!("only {free} of {new} sectors fit on the spares"));
        Ok((about, ask))
    })
}

/// Moves a range back to main.
pub fn unremap(arguments: &Arguments) -> Result<Outcome, Failure> {
    with(arguments, "unremap", |wish, state| {
        let total = |kind| count(&wish.extents, kind);
        let back = total(Kind::Remapped) + total(Kind::Suspect);
        let tried = total(Kind::Pending) + total(Kind::Lost);
        let about = format!(
            "of the {} sectors from {} on, {back} would move back to main, and {tried} that cannot be read would be tried again",
            wish.len, wish.start
        );
        let health = state.number("main_health");
        let ask = (back > 0 && health <= BAD_HEALTH).then(|| {
            format!("main's health is {health} of 100, and {back} sectors would go back to it")
        });
        Ok((about, ask))
    })
}

/// What would be done, and what has to be asked for before.
type Plan = (String, Option<String>);

fn with(
    arguments: &Arguments,
    word: &'static str,
    plan: impl Fn(&Move<'_>, &State) -> Result<Plan, Failure>,
) -> Result<Outcome, Failure> {
    let mapper = &Mapper::open()?;
    let live = &mapper.find(&arguments.name)?;
    let block = live.logical_block()?;
    let (start, len) = (arguments.sector, arguments.count.unwrap_or(block));
    if start.checked_add(len).is_none_or(|end| end > live.sectors) {
        return Err(format!(
            "{}: {start}+{len} is not within its {} sectors",
            live.name, live.sectors
        ));
    }
    if start % block != 0 || len % block != 0 {
        return Err(format!(
            "{}: {start}+{len} is not a multiple of the logical block, {block} sectors",
            live.name
        ));
    }
    let state = State::parse(&mapper.message(live, "metadata_status")?);
    let all = extents(mapper, live, start, start + len)?;
    let wish = Move { mapper, live, word, start, len, extents: within(&all, start, len) };
    let (about, ask) = plan(&wish, &state)?;
    if arguments.dry_run {
        text::print(|out| writeln!(out, "{about}"))?;
        return Ok(Outcome::Well);
    }
    if let Some(ask) = ask {
        text::print(|out| writeln!(out, "{ask}"))?;
        world::agree(arguments.yes)?;
    }
    wish.carry_out()
}

impl Move<'_> {
    fn range(&self) -> String {
        format!("{}+{}", self.start, self.len)
    }

    fn carry_out(&self) -> Result<Outcome, Failure> {
        let (word, range) = (self.word, Some((self.start, self.len)));
        let message = format!("{word} {} {}", self.start, self.len);
        let followed = follow(self.mapper, self.live, Some(&message), word, |running| {
            running.what == word && running.range == range
        })?;
        let Followed { message, stopped, state } = followed;
        let now = extents(self.mapper, self.live, self.start, self.start + self.len)?;
        let now = within(&now, self.start, self.len);
        let (before, left) = (totals(&self.extents), totals(&now));
        let moved = match word {
            "remap" => left.0.saturating_sub(before.0),
            _ => before.0.saturating_sub(left.0),
        };
        let where_to = if word == "remap" { "to the spares" } else { "back to main" };
        let done = format!("{}: {moved} sectors moved {where_to}", self.live.name);
        if stopped {
            return Err(format!("{done}; stopped, the rest is as it was"));
        }
        let ended = state.ended.iter().rev().find(|e| e.what == word && e.range == range);
        message.map_err(|e| if moved > 0 { format!("{e}\n{done}") } else { e })?;
        if let Some(ended) = ended.filter(|ended| !ended.is_ok()) {
            let why = state.last_error.as_deref().unwrap_or(&ended.result);
            return Err(format!("{done}; then it ended: {why}"));
        }
        let unread = left.1;
        text::print(|out| {
            writeln!(out, "{done}")?;
            if unread > 0 {
                writeln!(out, "{unread} sectors there cannot be read; what is written to them goes to the spares")?;
            }
            Ok(())
        })?;
        Ok(if unread > 0 { Outcome::Damaged } else { Outcome::Well })
    }
}

/// Sectors that live on spares, and that cannot be read.
fn totals(extents: &[Extent]) -> (u64, u64) {
    let total = |kind| count(extents, kind);
    let unread = Kind::ALL.into_iter().filter(|kind| kind.is_unreadable()).map(total).sum();
    (total(Kind::Remapped) + total(Kind::Suspect), unread)
}
