//! `inspect`: which set this is, and what each copy of its metadata is.

use crate::spares::{Access, Spares, Which};
use crate::{text, Failure, Outcome};
use dmremap::crc;
use remap_pure::copies::CopyState;
use remap_pure::format::header::{text as padded, Header};
use remap_pure::format::CommitKind;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::{recover_without, Survey};
use remap_pure::units::SpareId;
use std::io::{self, Write};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

/// Shows the set on the spares.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut spares = Spares::open(&arguments.which, Access::Read)?;
    let survey = Survey::take(&mut spares, crc).map_err(|_| "no memory")?;
    let recovered = recover_without(&mut spares, &KNOWN_AWAY, crc);
    text::print(|out| {
        match &recovered {
            Ok(state) => {
                show_set(out, state.header())?;
                let totals = state.table().totals();
                writeln!(
                    out,
                    "table       {} extents, {} remapped, {} pending; room for {} more",
                    totals.extents,
                    text::sectors(totals.remapped.0),
                    totals.pending,
                    state.table().entries_left()
                )?;
            }
            Err(refusal) => {
                if let Some((_, header)) = survey.newest() {
                    show_set(out, header)?;
                }
                writeln!(out, "cannot be used: {refusal}")?;
            }
        }
        for slot in survey.slots() {
            let state = recovered.as_ref().ok().map(|state| state.copies().state(slot.id));
            let mark = match state {
                Some(CopyState::Good) => "good",
                Some(_) => "stale",
                None => "",
            };
            let name = spares.name(slot.id.spare);
            writeln!(out, "{:<11} copy {} {mark:<5} {}", name, slot.id.copy, text::slot(slot))?;
        }
        Ok(())
    })?;
    Ok(match recovered {
        Ok(state) if state.is_clean() => Outcome::Well,
        Ok(_) => Outcome::Damaged,
        Err(_) => Outcome::Unusable,
    })
}

fn show_set(out: &mut dyn Write, header: &Header) -> io::Result<()> {
    let raw = header.raw();
    let version = &raw.version;
    writeln!(out, "set         {}", header.uuid())?;
    writeln!(out, "name        {}", header.name())?;
    writeln!(out, "created     {}", text::time(version.created.get()))?;
    let kind = CommitKind::from_raw(version.kind.get()).map_or("unknown", CommitKind::name);
    writeln!(
        out,
        "version     {} of history {:016x}, {} ({kind})",
        header.version(),
        header.history(),
        text::time(version.committed.get())
    )?;
    writeln!(
        out,
        "main        {} from sector {} on, last seen as {}",
        text::sectors(raw.set.main_sectors.get()),
        raw.set.main_start.get(),
        padded(&raw.main.path)
    )?;
    for spare in (0..header.spares() as u8).map(SpareId) {
        let i = usize::from(spare.0);
        writeln!(
            out,
            "spare {spare}     {}, {:?}, last seen as {}",
            text::sectors(raw.spares[i].used_sectors.get()),
            header.spare_state(spare),
            padded(&raw.fingerprints[i].path)
        )?;
    }
    writeln!(out, "table line  {}", header.line())
}
