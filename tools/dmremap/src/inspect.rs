//! `inspect`: which set this is, and what each copy of its metadata is.

use crate::matching::{facts, matched, Matched};
use crate::spares::{Access, Device, Spares, Which};
use crate::{text, Failure, Outcome};
use dmremap::crc;
use remap_pure::copies::CopyState;
use remap_pure::format::header::{text as padded, Header};
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{CommitKind, MemberUuid};
use remap_pure::identity::choose::{least_match, Choice};
use remap_pure::identity::{compare, filesystem_of, KNOWN_HARDWARE, KNOWN_PARTITION, KNOWN_SERIAL};
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::Recovered;
use remap_pure::recovery::{recover_without, Survey};
use remap_pure::store::SpareSet;
use remap_pure::units::SpareId;
use std::io::{self, Write};

#[derive(clap::Args)]
pub struct Arguments {
    /// Say which of these devices are main and the spares, by what the set recognises them by; may be given several times
    #[arg(long, value_name = "DEVICE")]
    among: Vec<String>,
    #[command(flatten)]
    which: Which,
}

/// Shows the set on the spares.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut spares = Spares::open(&arguments.which, Access::Read)?;
    let survey = Survey::take(&mut spares, crc).map_err(|_| "no memory")?;
    let recovered = recover_without(&mut spares, &KNOWN_AWAY, crc);
    let among: Vec<Device> = (arguments.among.iter())
        .map(|name| Device::open(name, Access::Read))
        .collect::<Result<_, _>>()?;
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
        if let Ok(state) = recovered.as_ref() {
            show_choices(out, state, &among)?;
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
    show_fingerprint(out, &raw.main)?;
    for spare in (0..header.spares() as u8).map(SpareId) {
        let i = usize::from(spare.0);
        writeln!(
            out,
            "spare {spare}     {}, {:?}, last seen as {}",
            text::sectors(raw.spares[i].used_sectors.get()),
            header.spare_state(spare),
            padded(&raw.fingerprints[i].path)
        )?;
        show_fingerprint(out, &raw.fingerprints[i])?;
    }
    writeln!(out, "table line  {}", header.line())
}

/// All that a device is recognised by, but for its path.
fn show_fingerprint(out: &mut dyn Write, print: &RawFingerprint) -> io::Result<()> {
    write!(out, "            ")?;
    write_fingerprint(out, print)?;
    writeln!(out)
}

/// The same, without an end of the line.
pub fn write_fingerprint(out: &mut dyn Write, print: &RawFingerprint) -> io::Result<()> {
    let known = |bit| print.known.get() & bit != 0;
    let (logical, physical) = (print.logical_block.get(), print.physical_block.get());
    write!(out, "{} sectors, blocks of {logical} and {physical} bytes", print.sectors)?;
    if known(KNOWN_PARTITION) {
        // Short ones are kept as text.
        match padded(&print.partition_uuid) {
            text if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) => {
                write!(out, ", partition {text}")?;
            }
            _ => write!(out, ", partition {}", MemberUuid(print.partition_uuid))?,
        }
    }
    if known(KNOWN_HARDWARE) {
        let kind = match print.hardware_kind {
            1 => "T10",
            2 => "EUI-64",
            3 => "NAA",
            _ => "hardware",
        };
        write!(out, ", {kind} ")?;
        let id = print.hardware_id.iter().take(print.hardware_len.into());
        id.clone().try_for_each(|byte| write!(out, "{byte:02x}"))?;
    }
    if known(KNOWN_SERIAL) {
        write!(out, ", serial number's hash {:016x}", print.serial_hash)?;
    }
    if let Some(uuid) = filesystem_of(print) {
        write!(out, ", filesystem {uuid}")?;
    }
    Ok(())
}

/// Which of the devices are which members, and why the others are not main.
fn show_choices(out: &mut dyn Write, state: &Recovered, among: &[Device]) -> io::Result<()> {
    if among.is_empty() {
        return Ok(());
    }
    let header = state.header();
    let facts = facts(header, Some(state.table()), among);
    let matched = matched(header, &facts, SpareSet(u8::MAX)).map_err(io::Error::other)?;
    let least = least_match(header);
    for Matched { member, print, choice } in &matched {
        match *choice {
            Choice::Is(device, by) if choice.unasked(least).is_some() => {
                writeln!(out, "{member:<11} is {}, match {by}", among[device].path)?;
            }
            Choice::Is(device, by) => {
                let path = &among[device].path;
                writeln!(out, "{member:<11} may be {path}, match {by}; {least} is asked for")?;
            }
            Choice::Unclear(device, by) => {
                let path = &among[device].path;
                writeln!(out, "{member:<11} may be {path} or another one, match {by}")?;
            }
            Choice::Nobody => {
                writeln!(out, "{member:<11} is none of them")?;
                for (device, facts) in among.iter().zip(&facts) {
                    if let Err(differs) = compare(print, facts) {
                        writeln!(out, "            not {}: {differs}", device.path)?;
                    }
                }
            }
        }
    }
    Ok(())
}
