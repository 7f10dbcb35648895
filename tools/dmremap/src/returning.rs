//! A spare of a set in use that was away, and is here again: where it was, under another name, or with a device that the set's table
//! does not name at all.
//!
//! The kernel looks at everything itself when a table that names the device is put to use. What it refuses then has taken the old table's
//! place already, so an older image of a spare, and one that was used apart, are looked for here before.

use crate::assemble::line_of;
use crate::candidate::Named;
use crate::live::{Live, Mapper};
use crate::machine::Node;
use crate::members::{afterwards, How};
use crate::safety::unused;
use crate::spares::{Access, Spares, Which};
use crate::{refusal, text, world, Failure, Outcome};
use dmremap::crc;
use dmremap::state::{Member, State};
use remap_pure::format::header::Header;
use remap_pure::format::SetUuid;
use remap_pure::line::Line;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::{recover_without, Refusal, Survey};
use remap_pure::store::Store;
use remap_pure::units::SpareId;

/// A device that is such a spare.
pub struct Back {
    device: Named,
    member: Member,
    /// What of it the set uses, and whether that is all of it; nothing where the set has the device in its table.
    part: Option<(u64, u64, bool)>,
}

impl Back {
    /// Whether a device is a spare of the set that is away.
    ///
    /// # Errors
    ///
    /// That it cannot be looked at, or somebody uses it.
    pub fn look(state: &State, path: &str) -> Result<Option<Self>, Failure> {
        let device = Named::at(path)?;
        if let Some(member) = state.members.iter().find(|m| m.device == Some(device.number)) {
            let back = Self { device, member: member.clone(), part: None };
            return Ok(back.member.away.then_some(back));
        }
        let all = Spares::open_one(path, Access::Read)?.sectors(SpareId(0)).0;
        // Where the set's part begins is known of those that the table still names.
        let away = state.members.iter().filter(|member| member.away);
        let mut starts: Vec<u64> = away.map(|member| member.start).chain([0]).collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts.into_iter().filter(|start| *start < all) {
            let name = format!("{path}@{start}+{}", all - start);
            // Under the number that it says it has.
            let mut spare = Spares::open(&Which::of(vec![name]), Access::Read)?;
            let survey = Survey::take(&mut spare, crc).map_err(|_| "no memory")?;
            let newest = survey.newest();
            let is = newest.and_then(|(id, header)| away_in(state, id.spare, header));
            let Some((member, (first, sectors))) = is else { continue };
            unused(path)?;
            device.is_still_there()?;
            let part = Some((first, sectors, (first, sectors) == (0, all & !7)));
            return Ok(Some(Self { device, member, part }));
        }
        Ok(None)
    }

    /// Takes it back.
    ///
    /// # Errors
    ///
    /// Why it stays away; the set is as it was.
    pub fn carry_out(
        &self,
        mapper: &Mapper,
        live: &Live,
        state: &State,
        how: &How,
    ) -> Result<Outcome, Failure> {
        let (name, path, number) = (&live.name, &self.device.path, self.member.number);
        let line = self.part.map(|part| self.line(live, state, part)).transpose()?;
        if let Some((start, sectors, _)) = self.part {
            self.came_from_it(state, &format!("{path}@{start}+{sectors}"))?;
        }
        text::print(|out| {
            writeln!(
                out,
                "{path} is spare {number} of {name}, which was away: it is brought up to date, and is taken back"
            )
        })?;
        if how.dry_run {
            return Ok(Outcome::Well);
        }
        world::agree(how.yes)?;
        self.device.is_still_there()?;
        match line {
            Some(line) => world::exchange(mapper, live, live.sectors, &line)?,
            None => drop(mapper.message(live, "repair")?),
        }
        let is_away = |state: &State| {
            state.members.iter().any(|member| member.uuid == self.member.uuid && member.away)
        };
        let look = || Ok::<_, Failure>(State::parse(&mapper.message(live, "metadata_status")?));
        let mut now = look()?;
        if is_away(&now) && self.part.is_some() {
            // With `maintenance_mode` none is taken back but when that is asked for.
            mapper.message(live, "repair")?;
            now = look()?;
        }
        match is_away(&now) {
            true => Err(format!(
                "{name}: spare {number} stays away: {}",
                now.last_error.as_deref().unwrap_or("it does not answer; the kernel log says more")
            )),
            false => afterwards(mapper, live),
        }
    }

    /// The table line of the set with this device for the spare.
    fn line(
        &self,
        live: &Live,
        state: &State,
        (start, sectors, whole): (u64, u64, bool),
    ) -> Result<String, Failure> {
        let words: Vec<&str> = live.line.split_whitespace().collect();
        let parsed = Line::parse(&words).map_err(|e| format!("{}: {e}", live.name))?;
        let had = self.member.device.map(|(major, minor)| format!("{major}:{minor}"));
        let mut spares: Vec<_> = parsed
            .spares()
            .filter(|(spare, _)| had.as_deref() != Some(spare))
            .map(|(spare, part)| (spare.to_owned(), part.map(|(start, len)| (start, len.0))))
            .collect();
        spares.push((self.device.word(), (!whole).then_some((start, sectors))));
        let mut options = Vec::new();
        if parsed.main_start != 0 {
            options.extend(["main_start".to_owned(), parsed.main_start.to_string()]);
        }
        if state.members.iter().any(|member| member.away && member.uuid != self.member.uuid) {
            options.push("degraded".into());
        }
        line_of(parsed.main, spares, options)
    }

    /// Makes sure that what is on the device, `name`, is what the others had when it went.
    fn came_from_it(&self, state: &State, name: &str) -> Result<(), Failure> {
        let here = state.members.iter().filter(|member| !member.away).filter_map(|member| {
            let node = Node::of(member.device?)?;
            Some(format!("{}@{}+{}", node.path, member.start, member.sectors))
        });
        let names = here.chain([name.to_owned()]).collect();
        let mut spares = Spares::open(&Which::of(names), Access::Read)?;
        match recover_without(&mut spares, &KNOWN_AWAY, crc) {
            Err(refusal @ (Refusal::Older { .. } | Refusal::Conflict(..))) => {
                Err(format!("{name}: {}", refusal::told(&refusal)))
            }
            // What is committed meanwhile can look like damage. Of that the kernel is the judge.
            _ => Ok(()),
        }
    }
}

/// The member that a header speaks of under that number, and the part of its device that is used, if it is one of the set's that are away.
fn away_in(state: &State, number: SpareId, header: &Header) -> Option<(Member, (u64, u64))> {
    let raw = header.raw().spares[usize::from(number.0)];
    let uuid = SetUuid(raw.uuid).to_string();
    let is = |member: &&Member| member.away && member.uuid.eq_ignore_ascii_case(&uuid);
    let member = state.members.iter().find(is)?;
    let same = header.uuid() == SetUuid::parse(state.word("set"))?;
    same.then(|| (member.clone(), (raw.used_start.get(), raw.used_sectors.get())))
}
