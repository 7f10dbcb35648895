//! What is done when another device is main: what is known of it is kept, what is lost is said, the old one no longer shows what the set has.

use super::places::{Held, Place};
use super::ranges::Range;
use super::Arguments;
use crate::live::{Live, Mapper};
use crate::safety::signatures;
use crate::spares::{Access, Device};
use crate::{config, identify, text, Failure, Outcome};
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::SetUuid;
use remap_pure::identity::compare;

/// The ranges of a set in use of which its table says this.
pub fn listed(mapper: &Mapper, live: &Live, word: &str) -> Result<Vec<Range>, Failure> {
    let mut all = Vec::new();
    let mut from = Some(0u64);
    while let Some(sector) = from.take() {
        for line in mapper.message(live, &format!("table {sector}"))?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["more", sector] => from = sector.parse().ok(),
                [start, sectors, what] if what == word => {
                    if let (Ok(start), Ok(sectors)) = (start.parse(), sectors.parse()) {
                        all.push(Range { start, sectors });
                    }
                }
                _ => {}
            }
        }
    }
    Ok(all)
}

/// What a person may want done when it is over. One thing that fails keeps nothing else from being done.
pub fn run(
    arguments: &Arguments,
    mapper: &Mapper,
    live: &Live,
    set: SetUuid,
    old: Option<(Place, RawFingerprint)>,
) -> Result<Outcome, Failure> {
    let name = &live.name;
    let mut failed = Vec::new();
    let lost = listed(mapper, live, "lost")?;
    // Without it the old main may be taken for this one, where both show the same filesystem.
    let known = mapper.find(name).and_then(|live| identify::tell(mapper, &live, None));
    failed.extend(known.err());
    if arguments.clear {
        // It is not waited for: what does not go back stays where it is.
        failed.extend(mapper.clear(live).err());
    }
    match &old {
        Some((old, print)) if arguments.wipe_old => match wipe(old, print) {
            Ok(()) => {
                if let Some(what) = config::forget(set, Some(&old.path)) {
                    eprintln!("dmremap: {}: {what}", old.path);
                }
            }
            Err(failure) => failed.push(failure),
        },
        None if arguments.wipe_old => {
            failed.push("the old main is not found for certain; name it with --old, or 'wipefs -a' it".into());
        }
        Some((old, _)) if signatures(&old.path).is_ok_and(|found| !found.is_empty()) => eprintln!(
            "dmremap: {} still shows the filesystem that is on {name} now, with the same UUID, and older content: detach it, or 'wipefs -a {}'",
            old.path, old.path
        ),
        _ => {}
    }
    eprintln!(
        "dmremap: if the machine boots from {name}: update-initramfs -u -k all, or dracut --force --regenerate-all"
    );
    if !lost.is_empty() {
        let sectors = lost.iter().map(|range| range.sectors).sum();
        eprintln!(
            "dmremap: {} of {name} are lost; 'dmremap files {name}' says whose they are",
            text::sectors(sectors)
        );
    }
    match failed.is_empty() {
        true if lost.is_empty() => Ok(Outcome::Well),
        true => Ok(Outcome::Damaged),
        false => Err(format!("main of {name} is replaced, but\n{}", failed.join("\n"))),
    }
}

/// Takes the signatures from the old main, which nobody may be using, and which must be that still.
fn wipe(old: &Place, print: &RawFingerprint) -> Result<(), Failure> {
    let held = Held::of(old.clone())?;
    let device = Device::open(&old.path, Access::Read)?;
    compare(print, &device.facts())
        .map_err(|e| format!("{} is not wiped, as it is not the old main: {e}", old.path))?;
    held.wipe()
}
