//! `keep-images`: makes the images that are not kept yet, with the code as it is today. What is kept stays as it was made.

#![forbid(unsafe_code)]

use dmremap::Dump;
use remap_images::sim::{content, crc, create_on, extent, new_set, new_spare, Rng, Sim, SECTORS};
use remap_images::v3::{some_entries, v3};
use remap_images::{folder, read, write};
use remap_pure::commit::Metadata;
use remap_pure::create::create;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::Header;
use remap_pure::format::layout::{Layout, SLOTS};
use remap_pure::format::CommitKind;
use remap_pure::recovery::recover;
use remap_pure::settings::{Limits, Settings};
use remap_pure::store::SpareSet;
use remap_pure::units::{Sectors, SpareId, SpareSector};
use std::error::Error;
use std::fs;

/// What makes an image.
type Maker = fn() -> Sim;

/// All of them, by name.
const IMAGES: [(&str, Maker); 20] = [
    ("fresh", || set(1).0),
    ("marks-only", marks_only),
    ("extents", || lived(1).0),
    ("two-spares", || lived(2).0),
    ("retired", retired),
    ("suspect", suspect),
    ("lost", lost),
    ("two-blocks", two_blocks),
    ("large-layout", large_layout),
    ("settings", settings),
    ("past-histories", past_histories),
    ("between-groups", between_groups),
    ("in-doubt", in_doubt),
    ("joined", joined),
    ("v3-first-drawing", || v3(SECTORS, 1, &some_entries(20, 9216, &mut Rng::new(1)))),
    ("v3-second-drawing", || v3(SECTORS, 2, &some_entries(20, 9216, &mut Rng::new(2)))),
    ("used-apart", used_apart),
    ("newer-compatible", || newer(|header| header.raw_mut().features.compatible.set(1 << 40))),
    ("newer-read-only", || newer(|h| h.raw_mut().features.read_only_compatible.set(1 << 40))),
    ("newer-incompatible", || newer(|h| h.raw_mut().features.incompatible.set(1 << 40))),
];

fn main() -> Result<(), Box<dyn Error>> {
    for (name, make) in IMAGES {
        let folder = folder().join(name);
        if folder.exists() {
            println!("{name} is kept as it is");
            continue;
        }
        fs::create_dir(&folder)?;
        write(&folder, &make())?;
        match recover(&mut read(&folder)?, crc) {
            Ok(found) => {
                let dump = serde_json::to_string_pretty(&Dump::of(found.header(), found.table()))?;
                fs::write(folder.join("dump.json"), dump + "\n")?;
            }
            Err(refusal) => {
                let kind = format!("{refusal:?}");
                let kind = kind.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                fs::write(folder.join("refusal"), format!("{kind}\n"))?;
            }
        }
        println!("{name} is new");
    }
    Ok(())
}

fn set(spares: usize) -> (Sim, Metadata) {
    let mut sim = Sim::new(spares, SECTORS, 1);
    let metadata = create_on(&mut sim);
    (sim, metadata)
}

/// What becomes of an extent of main of eight sectors.
fn change(
    sim: &mut Sim,
    metadata: &mut Metadata,
    kind: CommitKind,
    changes: &[(u64, Option<Mapping>)],
) {
    let in_a = begin(sim, metadata, kind, changes);
    in_a.write_group_b(sim);
}

fn begin<'a>(
    sim: &mut Sim,
    metadata: &'a mut Metadata,
    kind: CommitKind,
    changes: &[(u64, Option<Mapping>)],
) -> remap_pure::commit::InGroupA<'a> {
    let mut edit = metadata.table().edit().expect("an edit");
    for (start, mapping) in changes {
        let extent = extent(*start, 8);
        match mapping {
            Some(mapping) => edit.set(extent, *mapping).expect("an extent that fits"),
            None => edit.clear(extent).expect("an extent that fits"),
        }
    }
    let begun = metadata.begin(kind, 1_700_000_100, Some(edit), |_| {}).expect("a commit");
    begun.write_group_a(sim).expect("group A")
}

fn moved(spare: u8, to: u64) -> Option<Mapping> {
    Some(Mapping::Remapped { spare: SpareId(spare), to: SpareSector(to) })
}

/// A set with some of everything.
fn lived(spares: usize) -> (Sim, Metadata) {
    let (mut sim, mut metadata) = set(spares);
    let last = spares as u8 - 1;
    let (sim_, meta) = (&mut sim, &mut metadata);
    change(sim_, meta, CommitKind::Remap, &[(1000, moved(0, 9216)), (5000, moved(last, 3072))]);
    change(sim_, meta, CommitKind::Auto, &[(80, Some(Mapping::Pending)), (88, moved(last, 5120))]);
    change(sim_, meta, CommitKind::Auto, &[(1 << 23, Some(Mapping::Pending))]);
    change(sim_, meta, CommitKind::Unremap, &[(5000, None)]);
    change(sim_, meta, CommitKind::Save, &[]);
    (sim, metadata)
}

/// The creation has got as far as its marks.
fn marks_only() -> Sim {
    let (mut sim, metadata) = set(1);
    for (copy, slot) in (0..).zip(SLOTS) {
        let id = remap_pure::format::layout::CopyId { spare: SpareId(0), copy };
        let mark =
            metadata.header().creation_mark(id, metadata.header().history(), crc).expect("memory");
        sim.disks[0].set_block(slot.0 / 8, *mark);
    }
    sim
}

fn retired() -> Sim {
    let (mut sim, mut metadata) = lived(1);
    let mut edit = metadata.table().edit().expect("an edit");
    for at in [9216, SECTORS - 16] {
        let entry = Entry::retired(SpareId(0), SpareSector(at), Sectors(8));
        edit.set(entry.extent, entry.mapping).expect("a place that fits");
    }
    edit.set(extent(1000, 8), Mapping::Pending).expect("an extent that fits");
    let begun = metadata.begin(CommitKind::Auto, 1_700_000_200, Some(edit), |_| {});
    begun.expect("a commit").write_group_a(&mut sim).expect("group A").write_group_b(&mut sim);
    sim
}

fn suspect() -> Sim {
    let (mut sim, mut metadata) = lived(1);
    let place = Mapping::Suspect { spare: SpareId(0), to: SpareSector(9216) };
    change(&mut sim, &mut metadata, CommitKind::Auto, &[(1000, Some(place))]);
    sim
}

fn lost() -> Sim {
    let (mut sim, mut metadata) = lived(1);
    change(&mut sim, &mut metadata, CommitKind::Members, &[(1000, Some(Mapping::Lost))]);
    sim
}

fn two_blocks() -> Sim {
    let (mut sim, mut metadata) = set(1);
    let all: Vec<_> = (0..400).map(|i| (i * 64, moved(0, 9216 + i * 8))).collect();
    change(&mut sim, &mut metadata, CommitKind::Remap, &all);
    assert!(metadata.table().block_count() > 1 && content(&metadata).len() == 400);
    sim
}

fn large_layout() -> Sim {
    let mut sim = Sim::new(1, SECTORS, 1);
    let layout = Layout::new(140).expect("a layout");
    let set = new_set(layout);
    let mut metadata =
        create(&mut sim, &set, &[new_spare(0)], SpareSet::NONE, crc, |_| {}).expect("a set");
    let to = layout.end().0;
    change(&mut sim, &mut metadata, CommitKind::Remap, &[(0, moved(0, to)), (8, moved(0, 3072))]);
    sim
}

fn settings() -> Sim {
    let (mut sim, mut metadata) = lived(1);
    for (name, value) in [("min_copies", "3"), ("alert_threshold", "70")] {
        let mut settings: Settings = metadata.settings();
        settings.set([(name, value)], &Limits::default()).expect("a setting");
        let update = |header: &mut Header| settings.to_raw(&mut header.raw_mut().settings);
        let begun = metadata.begin(CommitKind::Settings, 1_700_000_300, None, update);
        begun.expect("a commit").write_group_a(&mut sim).expect("group A").write_group_b(&mut sim);
    }
    sim
}

fn past_histories() -> Sim {
    let (mut sim, mut metadata) = lived(2);
    for history in 1..12 {
        let begun = metadata.begin(CommitKind::Members, 1_700_000_400, None, |header| {
            header.begin_history(history * 0x1111_1111_1111_1111 / 12, SpareSet::NONE);
        });
        begun.expect("a commit").write_group_a(&mut sim).expect("group A").write_group_b(&mut sim);
    }
    sim
}

/// The power was cut when a commit had happened in group A alone.
fn between_groups() -> Sim {
    let (mut sim, mut metadata) = lived(1);
    let _ = begin(&mut sim, &mut metadata, CommitKind::Remap, &[(2000, moved(0, 9232))]);
    sim
}

/// A commit of which only a table block has reached the disk, in one copy.
fn in_doubt() -> Sim {
    let (mut sim, mut metadata) = lived(1);
    let before = sim.clone();
    change(&mut sim, &mut metadata, CommitKind::Remap, &[(2000, moved(0, 9232))]);
    let at = SLOTS[0].0 / 8 + 1;
    let mut left = before;
    left.disks[0].set_block(at, sim.disks[0].block(at));
    left
}

/// Each copy has lost something else, and only together they are whole.
fn joined() -> Sim {
    let mut sim = two_blocks();
    let mut rng = Rng::new(7);
    let disk = &mut sim.disks[0];
    for (copy, slot) in SLOTS.iter().enumerate() {
        for block in 0..3 {
            // Copy 1 has the header, copies 0 and 3 a block each.
            if (copy, block) != (1, 0) && (copy, block) != (3, 1) && (copy, block) != (0, 2) {
                let mut bytes = disk.block(slot.0 / 8 + block);
                bytes[64 + rng.below(2000) as usize] ^= 1;
                disk.set_block(slot.0 / 8 + block, bytes);
            }
        }
    }
    sim
}

/// Two spares that have gone on without each other.
fn used_apart() -> Sim {
    let (sim, _) = lived(2);
    let mut apart = [2000, 3000].map(|start| {
        let mut sim = sim.clone();
        let found = recover(&mut sim, crc).expect("a set");
        let mut metadata = found.rebuild(&mut sim, 1, 1).expect("a set that is well");
        change(&mut sim, &mut metadata, CommitKind::Remap, &[(start, moved(0, 9232))]);
        sim
    });
    let [first, second] = &mut apart;
    first.disks[1] = second.disks.remove(1);
    first.clone()
}

fn newer(update: fn(&mut Header)) -> Sim {
    let (mut sim, mut metadata) = lived(1);
    let begun = metadata.begin(CommitKind::Save, 1_700_000_500, None, update);
    begun.expect("a commit").write_group_a(&mut sim).expect("group A").write_group_b(&mut sim);
    sim
}
