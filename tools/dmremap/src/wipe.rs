//! `wipe`: takes our metadata off a spare, and leaves everything else alone.

use crate::spares::{part_of, Access, Spares, Which};
use crate::{safety, text, world, Failure, Outcome};
use dmremap::crc;
use remap_pure::create::{inspect, Content};
use remap_pure::entry::BlockIndex;
use remap_pure::format::block::{block_of, set_of};
use remap_pure::format::header::Header;
use remap_pure::format::layout::{Layout, BLOCK_SECTORS, COPIES, SLOTS, SLOT_BLOCKS};
use remap_pure::format::{MemberUuid, SetUuid, SpareState};
use remap_pure::format::{MAGIC, MAGIC_V3};
use remap_pure::mem::Block;
use remap_pure::recovery::members::Without;
use remap_pure::recovery::{recover_without, Refusal, Survey};
use remap_pure::store::{Read, SpareSet, Store, Write};
use remap_pure::units::{Sectors, SpareId, SpareSector, MAX_SPARES};

/// What has to be blank at the end of a spare for a new set.
const TAIL: u64 = 2048;

/// The number under which a spare is looked at that nothing is known of.
const ALONE: SpareId = SpareId(0);

/// Blocks that are read at once.
const AT_ONCE: usize = 256;

#[derive(clap::Args)]
pub struct Arguments {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Give up what lives on this spare, or what nobody can tell any more
    #[arg(long, value_name = "SPARE")]
    lost: Option<String>,
    /// The spare. DEVICE@START+LENGTH is a part of a device
    spare: String,
}

/// Wipes. Cut short, it can be run again.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let name = &arguments.spare;
    if arguments.lost.as_ref().is_some_and(|lost| lost != name) {
        return Err("--lost names another device than the one that is to be wiped".into());
    }
    safety::unused(part_of(name).0)?;
    let access = if arguments.dry_run { Access::Hold } else { Access::Write };
    let mut spare = Spares::open_one(name, access)?;
    let held = held(name)?;
    let plan = plan(&mut spare, ALONE, &held.layout, held.used)?;
    if plan.v3 {
        return Err(format!(
            "{name} is a spare in the v3 format, on which data may live; 'dmremap upgrade' makes a set of it"
        ));
    }
    if plan.ours.is_empty() {
        text::print(|out| {
            writeln!(out, "{name} carries nothing of dm-remap; it is left as it is")
        })?;
        return Ok(Outcome::Well);
    }
    text::print(|out| writeln!(out, "{name}: {}", held.what))?;
    if let Some(data) = held.data.filter(|_| arguments.lost.is_none()) {
        return Err(format!("{name} is not wiped: {data}; '--lost {name}' gives that up"));
    }
    if arguments.dry_run {
        text::print(|out| writeln!(out, "{} blocks would be wiped", plan.ours.len()))?;
        return Ok(Outcome::Well);
    }
    world::agree(arguments.yes)?;
    clear(&mut spare, ALONE, plan)?;
    Ok(Outcome::Well)
}

/// Wipes the spares of the set `set`, called `title`, which was let go and held nothing when somebody looked last. That is looked at again, with
/// the spares held: it may have been in use since. `lost` says that what cannot be read is given up.
///
/// # Errors
///
/// What is in the way; nothing was wiped if it is what the set holds.
pub fn blank(title: &str, set: SetUuid, names: &[String], lost: bool) -> Result<(), Failure> {
    let mut spares = Spares::open(&Which::of(names.to_vec()), Access::Write)?;
    let unknown = |why: Refusal| {
        format!("{title}: nobody can tell any more what lives on its spares, so they are not wiped ({why}); 'dmremap wipe' gives up each")
    };
    let survey = Survey::take(&mut spares, crc).map_err(|_| "no memory")?;
    let newest =
        survey.newest().ok_or_else(|| unknown(survey.set().err().unwrap_or(Refusal::Memory)));
    let (_, newest) = newest?;
    if newest.uuid() != set {
        return Err(format!(
            "{title}: its spares belong to set {} by now, so nothing is wiped; see 'dmremap scan'",
            newest.uuid()
        ));
    }
    let here = spares.spares();
    let absent = newest.in_state(SpareState::Active).without(here);
    let absent: Vec<MemberUuid> = absent.iter().map(|id| newest.member(id)).collect();
    let found = recover_without(&mut spares, &Without { absent: &absent, away: true }, crc);
    let state = found.map_err(unknown)?;
    let totals = state.table().totals();
    let readable = totals.remapped.0 - totals.suspect().0;
    let given_up = if lost { 0 } else { totals.suspect().0 + totals.pending.0 };
    if state.header().is_replacing() {
        return Err(format!(
            "{title}: its main is being replaced by now, so nothing is wiped; 'dmremap replace-main --continue {}' brings that to its end",
            newest.uuid()
        ));
    }
    if readable + given_up > 0 {
        return Err(format!(
            "{title} was in use meanwhile: {} of main live on its spares by now, or cannot be read, so nothing is wiped; assemble it, and dissolve it again",
            text::sectors(readable + given_up)
        ));
    }
    let layout = state.header().layout();
    for id in here.iter() {
        let plan = plan(&mut spares, id, &layout, used_by(state.header(), id))?;
        if !plan.ours.is_empty() {
            clear(&mut spares, id, plan)?;
        }
    }
    Ok(())
}

/// Whether nothing is on a device where a spare has something.
pub fn is_blank(name: &str) -> bool {
    let spare = Spares::open_one(name, Access::Read);
    spare.is_ok_and(|mut spare| inspect(&mut spare, ALONE, crc) == Ok(Content::Blank))
}

/// What a set has on a spare.
struct Held {
    /// Whose it is, for a person.
    what: String,
    /// Why it should not be given up.
    data: Option<String>,
    /// Where its table blocks are.
    layout: Layout,
    /// How much of it the set uses, from its beginning; nothing where no header says so.
    used: Sectors,
}

/// How much of a spare its set uses, from its beginning.
fn used_by(header: &Header, spare: SpareId) -> Sectors {
    let place = header.raw().spares.get(usize::from(spare.0));
    Sectors(place.map_or(0, |place| place.used_sectors.get()))
}

/// What the metadata on a spare says of it, whoever else is in its set.
fn held(name: &str) -> Result<Held, Failure> {
    let mut spares = Spares::open(&Which::of(vec![name.into()]), Access::Read)?;
    let survey = Survey::take(&mut spares, crc).map_err(|_| "no memory")?;
    let Some((at, newest)) = survey.newest() else {
        let begun = survey.has_marks();
        let (what, data) = match begun {
            true => ("the creation of a set that was cut short", None),
            false => ("damaged metadata", Some("nobody can tell what lives there".into())),
        };
        let (layout, used) = (Layout::STANDARD, Sectors(0));
        return Ok(Held { what: what.into(), data, layout, used });
    };
    let title = |header: &Header| match header.name() {
        "" => format!("a spare of set {}", header.uuid()),
        name => format!("a spare of set {name} ({})", header.uuid()),
    };
    let (what, layout, used) = (title(newest), newest.layout(), used_by(newest, at.spare));
    let here = (0..MAX_SPARES as u8).map(SpareId).filter(|&id| spares.is_recognised(id));
    let here = here.fold(SpareSet::NONE, |set, id| set.with(SpareSet::one(id)));
    let others = newest.in_state(SpareState::Active).without(here);
    let absent: Vec<MemberUuid> = others.iter().map(|id| newest.member(id)).collect();
    let without = Without { absent: &absent, away: true };
    Ok(match recover_without(&mut spares, &without, crc) {
        Ok(state) => {
            let totals = state.table().totals();
            let (remapped, lost) = (totals.remapped.0, totals.lost.0);
            let data = match (remapped, lost) {
                _ if state.header().is_replacing() => Some(format!(
                    "main of its set is being replaced, and it knows that neither the old one nor the new one has all of it; 'dmremap replace-main --continue {}' brings that to its end",
                    newest.uuid()
                )),
                (0, 0) => None,
                (0, lost) => Some(format!("it alone knows that {} of main are lost", text::sectors(lost))),
                (remapped, _) => Some(format!(
                    "{} of main live on the spares of its set; 'dmremap dissolve' brings them back, 'dmremap spare remove' moves them to other spares",
                    text::sectors(remapped)
                )),
            };
            Held { what, data, layout, used }
        }
        Err(Refusal::Left(..)) => {
            Held { what: format!("{what}, which it has left"), data: None, layout, used }
        }
        Err(refusal) => {
            let data = Some(format!("its metadata cannot be used ({refusal})"));
            Held { what, data, layout, used }
        }
    })
}

/// What is to be wiped.
struct Plan {
    /// Blocks of ours, headers last.
    ours: Vec<SpareSector>,
    /// Whether there is a header, whole or not.
    headers: bool,
    /// How much of the spare the set uses.
    used: Sectors,
    /// Whether the spare is in the v3 format.
    v3: bool,
}

fn plan(spare: &mut Spares, id: SpareId, layout: &Layout, used: Sectors) -> Result<Plan, Failure> {
    let mut places: Vec<SpareSector> = Vec::new();
    for copy in 0..COPIES as u8 {
        let blocks = (0..layout.capacity().max(SLOT_BLOCKS)).map(BlockIndex);
        places.extend(blocks.filter_map(|index| layout.block(copy, index)));
    }
    places.extend(SLOTS);
    let end = spare.sectors(id);
    places.retain(|at| (*at + BLOCK_SECTORS).0 <= end.0);
    let mut plan = Plan { ours: Vec::new(), headers: false, used, v3: false };
    let mut doubtful = Vec::new();
    for places in places.chunks(AT_ONCE) {
        let mut batch = Vec::new();
        for &at in places {
            batch.push(Read::new(id, at).map_err(|_| "no memory")?);
        }
        spare.read(&mut batch);
        for read in &batch {
            let block = &read.block;
            let in_slot = SLOTS.contains(&read.at);
            let header = in_slot && read.result.is_ok() && block.starts_with(&MAGIC);
            plan.headers |= header;
            plan.v3 |= read.at == SLOTS[0] && block.starts_with(&MAGIC_V3);
            if read.result.is_ok() && (header || block_of(block, crc).is_some()) {
                plan.ours.push(read.at);
            } else if read.result.is_err() || set_of(block).is_some() {
                doubtful.push(read.at);
            }
        }
    }
    // What is damaged, or cannot be read, is ours where a header says that this is a spare.
    plan.ours.extend(doubtful.into_iter().filter(|_| plan.headers));
    Ok(plan)
}

/// Writes zeroes where our blocks are. The headers go last: until then everybody can tell whose the blocks are.
fn clear(spare: &mut Spares, id: SpareId, plan: Plan) -> Result<(), Failure> {
    let name = &*spare.name(id).to_owned();
    let zero = Block::zeroed().map_err(|_| "no memory")?;
    let has_headers = plan.headers;
    let (headers, blocks): (Vec<SpareSector>, Vec<SpareSector>) =
        plan.ours.into_iter().partition(|at| SLOTS.contains(at));
    let mut tail = Vec::new();
    // Data of the set may be left at the end of what it uses; what another program has signed there is left alone. What is behind that is not ours.
    if has_headers && safety::signatures(name)?.is_empty() {
        let end = spare.sectors(id).min(plan.used).0 & !(BLOCK_SECTORS.0 - 1);
        tail.extend(
            (end.saturating_sub(TAIL)..end).step_by(BLOCK_SECTORS.0 as usize).map(SpareSector),
        );
    }
    for places in [tail, blocks, headers] {
        for places in places.chunks(AT_ONCE) {
            let mut batch: Vec<Write<'_>> =
                places.iter().map(|&at| Write::new(id, at, &zero)).collect();
            spare.write(&mut batch);
            if let Some(failed) = batch.iter().find(|write| write.result.is_err()) {
                return Err(format!(
                    "{name}: sector {} cannot be written; what is left of the metadata stays",
                    failed.at
                ));
            }
        }
        if !spare.flush(SpareSet::one(id)).is_empty() {
            return Err(format!("{name} cannot be flushed; run it again"));
        }
    }
    let content = inspect(spare, id, crc).map_err(|_| "no memory")?;
    text::print(|out| match content {
        Content::Blank => writeln!(out, "{name} is blank"),
        Content::Foreign(at) => writeln!(
            out,
            "{name} carries nothing of dm-remap any more; what is not ours stays, at sector {at}"
        ),
        _ => writeln!(out, "{name} carries nothing of dm-remap any more, as far as it can be read"),
    })
}
