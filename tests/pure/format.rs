// SPDX-License-Identifier: GPL-2.0

//! The bytes: the Rust types, the C header and `docs/format.md` say the same, and nothing that is
//! made up or damaged is taken for metadata.

mod sim;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;

use remap_pure::bytes::FromBytes;
use remap_pure::commit::Metadata;
use remap_pure::entry::{home_on, BlockIndex, Mapping, PackedEntry, HOME_LIMIT, SECTOR_LIMIT};
use remap_pure::format::block::{check_block, BlockError};
use remap_pure::format::header::{check, Header, HeaderError, STRUCTURES};
use remap_pure::format::layout::{CopyId, Layout, COPIES, MAX_BLOCKS, SLOTS};
use remap_pure::format::raw::*;
use remap_pure::format::CommitKind;
use remap_pure::recovery::{recover, Refusal};
use remap_pure::settings::{
    Limits, SetError, Settings, ALERT_THRESHOLD, MIN_COPIES, REMAP_BLOCK, SETTINGS,
};
use remap_pure::units::{Sectors, SpareId, SpareSector};
use sim::*;

const FIRST: CopyId = CopyId { spare: SpareId(0), copy: 0 };

/// A set with a few hundred entries, after several commits.
fn some_set(seed: u64) -> (Sim, Metadata) {
    let mut rng = Rng::new(seed);
    let mut sim = Sim::new(1, SECTORS, seed);
    let mut metadata = create_on(&mut sim);
    for changes in [600, 1, 1, 20] {
        let mut edit = metadata.table().edit().unwrap();
        for _ in 0..changes {
            match some_change(&mut rng, sim.here) {
                (extent, Some(mapping)) => edit.set(extent, mapping).unwrap(),
                (extent, None) => edit.clear(extent).unwrap(),
            }
        }
        let commit = metadata.begin(CommitKind::Remap, 1_700_000_100, Some(edit), |_| {}).unwrap();
        commit.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    }
    sim.settle();
    (sim, metadata)
}

#[test]
fn the_c_header_describes_the_same_bytes() {
    let mut c = String::from(
        "#include <stdio.h>\n#include <stddef.h>\n#include \"dm-remap-v4-metadata.h\"\nint main(void) {\n",
    );
    let mut rust = String::new();
    macro_rules! compare {
        ($($t:ident as $c:literal: $($f:ident),+;)+) => {$(
            writeln!(c, "printf(\"{0} %zu\\n\", sizeof(struct {0}));", $c).unwrap();
            writeln!(rust, "{} {}", $c, size_of::<$t>()).unwrap();
            $(
                let f = stringify!($f);
                writeln!(c, "printf(\"{0}.{1} %zu\\n\", offsetof(struct {0}, {1}));", $c, f).unwrap();
                writeln!(rust, "{}.{} {}", $c, f, offset_of!($t, $f)).unwrap();
            )+
        )+};
    }
    compare! {
        RawIdentification as "remap4_identification": magic, signature, format, size, copy, spare, state, durable_version, stood_version, reserved, crc;
        RawPast as "remap4_past": history, ended;
        RawVersion as "remap4_version": version, history, created, committed, kind, past_count, past, carried, reserved, crc;
        RawSet as "remap4_set": uuid, name, main_sectors, main_start, spares, flags, reserved, crc;
        RawFeatures as "remap4_features": compatible, read_only_compatible, incompatible, reserved, crc;
        RawShape as "remap4_shape": blocks, capacity, entries, digest, remapped, pending, retired, reserved0, reserved, crc;
        RawFingerprint as "remap4_fingerprint": partition_uuid, hardware_kind, hardware_len, known, hardware_id, serial_hash, sectors, filesystem_uuid, logical_block, physical_block, path, crc;
        RawSpare as "remap4_spare": uuid, order, state, health, copies_out, had_version, last_checked, used_start, used_sectors, since_version, successor, reserved1, crc;
        RawLine as "remap4_line": len, flags, text, crc;
        RawSettings as "remap4_settings": present, present_before, value, value_before, reserved, crc;
        RawAssembly as "remap4_assembly": required, primary, flags, min_match, reserved, crc;
        RawStatistics as "remap4_statistics": commits, auto_remaps, manual_remaps, unremaps, pending_marks, retired_places, main_read_errors, main_write_errors, spare_read_errors, spare_write_errors, activations, copies_rebuilt, scans, migrations, reserved, crc;
        RawScan as "remap4_scan": state, device, position, started, ended, unreadable, slow, reserved, crc;
        RawDeviceHealth as "remap4_device_health": recent, longer, slow, flags;
        RawHealth as "remap4_health": recent_at, longer_at, filled, devices, reserved, crc;
        RawReplacement as "remap4_replacement": attempt, reserved, crc;
        RawChecksums as "remap4_checksums": group, reserved, whole;
        RawHeader as "remap4_header": identification, version, set, features, shape, main, fingerprints, spares, line, settings, assembly, statistics, scan, health, replacement, new_main, old_main, reserved, checksums;
        RawBlockHeader as "remap4_block_header": crc, magic, set_uuid, index, count, kind, version, reserved;
    }
    writeln!(c, "printf(\"%zu\\n\", sizeof(struct remap4_entry));").unwrap();
    writeln!(rust, "{}", size_of::<PackedEntry>()).unwrap();
    writeln!(c, "printf(\"%zu\\n\", sizeof(struct remap4_block));\nreturn 0; }}").unwrap();
    writeln!(rust, "4096").unwrap();

    let dir = std::env::temp_dir().join(format!("dm-remap-header-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (source, program) = (dir.join("offsets.c"), dir.join("offsets"));
    std::fs::write(&source, c).unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include");
    let compiled = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-I", include, "-o"])
        .args([&program, &source])
        .status()
        .expect("a C compiler is there");
    assert!(compiled.success());
    let said = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), rust);
}

/// A field by its name in `docs/format.md`: where it starts and how long it is.
struct Page(HashMap<String, (usize, usize)>);

impl Page {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format.md");
        let text = std::fs::read_to_string(path).unwrap();
        let hex = |s: &str| usize::from_str_radix(s.trim_start_matches("0x"), 16).unwrap();
        let (mut fields, mut structure, mut base) = (HashMap::new(), String::new(), 0);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("### `") {
                let (name, rest) = rest.split_once("` at ").unwrap();
                let (at, rest) = rest.split_once(", ").unwrap();
                let len = rest.split(' ').next().unwrap().parse().unwrap();
                (structure, base) = (name.to_string(), hex(at));
                fields.insert(structure.clone(), (base, len));
            } else if line.starts_with("| 0x") {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let name = format!("{structure}.{}", cells[3].trim_matches('`'));
                fields.insert(name, (base + hex(cells[1]), cells[2].parse().unwrap()));
            }
        }
        Self(fields)
    }

    fn bytes<'a>(&self, block: &'a [u8], name: &str) -> &'a [u8] {
        let (at, len) = self.0[name];
        &block[at..at + len]
    }

    fn number(&self, block: &[u8], name: &str) -> u64 {
        self.bytes(block, name).iter().rev().fold(0, |n, &b| (n << 8) | u64::from(b))
    }
}

/// CRC-32 as the page says, bit by bit.
fn slow_crc(bytes: &[u8]) -> u64 {
    let mut state = 0xffff_ffffu32;
    for &byte in bytes {
        state ^= u32::from(byte);
        (0..8).for_each(|_| state = (state >> 1) ^ if state & 1 != 0 { 0xedb8_8320 } else { 0 });
    }
    u64::from(state ^ 0xffff_ffff)
}

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| (n << 8) | u64::from(b))
}

#[test]
fn an_image_can_be_read_with_nothing_but_the_page() {
    assert_eq!(slow_crc(b"123456789"), 0xcbf4_3926);
    let (sim, metadata) = some_set(11);
    let page = Page::read();
    for (copy, slot) in [0u64, 1024, 2048, 4096, 8192].into_iter().enumerate() {
        let header = sim.disks[0].block(slot / 8);
        assert_eq!(page.bytes(&header, "identification.magic"), b"DMREMAP4");
        assert_eq!(page.number(&header, "identification.format"), 4);
        assert_eq!(page.number(&header, "identification.size"), 4096);
        assert_eq!(page.number(&header, "identification.copy"), copy as u64);
        assert_eq!(page.number(&header, "version.version"), metadata.version());
        assert_eq!(page.bytes(&header, "set.uuid"), UUID.0);
        assert!(page.bytes(&header, "set.name").starts_with(b"test set\0"));
        assert_eq!(page.number(&header, "set.main_sectors"), MAIN);
        assert_eq!(page.number(&header, "set.spares"), 1);
        assert_eq!(page.number(&header, "spares.state"), 1);
        assert!(page.bytes(&header, "line.text").starts_with(b"/dev/main"));

        // Every checksum.
        let single = ["identification", "version", "set", "features", "shape", "main"];
        let setup = ["line", "settings", "assembly"];
        let mut sums: Vec<Vec<u8>> = vec![Vec::new(); 4];
        let mut certified = |group: usize, at: usize, len: usize| {
            let sum = &header[at + len - 4..at + len];
            assert_eq!(slow_crc(&header[at..at + len - 4]), le(sum));
            sums[group].extend_from_slice(sum);
        };
        for name in single {
            certified(usize::from(name == "main"), page.0[name].0, page.0[name].1);
        }
        for (name, each) in [("fingerprints", 128), ("spares", 80)] {
            let (at, len) = page.0[name];
            assert_eq!(len, 8 * each);
            (0..8).for_each(|i| certified(1, at + i * each, each));
        }
        setup.into_iter().for_each(|name| certified(2, page.0[name].0, page.0[name].1));
        certified(3, page.0["statistics"].0, page.0["statistics"].1);
        for (i, sums) in sums.iter().enumerate() {
            let group = page.bytes(&header, "checksums.group");
            assert_eq!(slow_crc(sums), le(&group[4 * i..4 * i + 4]), "group {i}");
        }
        assert_eq!(slow_crc(&header[..4092]), page.number(&header, "checksums.whole"));

        // The table and its digest.
        let f = |z: u64| {
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let (mut digest, mut table) = (0u64, Vec::new());
        for index in 0..page.number(&header, "shape.blocks") {
            let block = sim.disks[0].block(slot / 8 + 1 + index);
            let crc = page.number(&block, "block.crc");
            assert_eq!(page.bytes(&block, "block.magic"), b"DR4B");
            assert_eq!(page.bytes(&block, "block.set_uuid"), UUID.0);
            assert_eq!(slow_crc(&block[4..]), crc);
            assert_eq!(page.number(&block, "block.index"), index);
            let h = f(index.wrapping_add(0x9e37_79b9_7f4a_7c15));
            let h = f(h ^ page.number(&block, "block.version"));
            digest = digest.wrapping_add(f(h ^ crc));
            for i in 0..page.number(&block, "block.count") as usize {
                let (one, two) = (le(&block[64 + 16 * i..][..8]), le(&block[72 + 16 * i..][..8]));
                let len = (one & 0xffff) | ((two & 0xff) << 16);
                table.push((one >> 16, len, (two >> 8) & 15, (two >> 12) & 15, two >> 16));
            }
        }
        assert_eq!(digest, page.number(&header, "shape.digest"));
        assert_eq!(table.len() as u64, page.number(&header, "shape.entries"));
        table.sort_unstable();
        let expected: Vec<_> = metadata
            .table()
            .iter()
            .map(|entry| {
                use remap_pure::entry::Mapping::*;
                let (kind, spare, to) = match entry.mapping {
                    Remapped { spare, to } => (1, u64::from(spare.0), to.0),
                    Suspect { spare, to } => (4, u64::from(spare.0), to.0),
                    Pending => (2, 0, 0),
                    Lost => (5, 0, 0),
                    Retired { spare, at } => (3, u64::from(spare.0), at.0),
                };
                (entry.extent.start.0, entry.extent.len.0, kind, spare, to)
            })
            .collect();
        assert_eq!(table, expected);
    }
}

#[test]
fn the_page_gives_every_structure_its_place() {
    let page = Page::read();
    let (mut at, mut names) = (0, 0);
    let mut tops: Vec<_> =
        page.0.iter().filter(|(name, _)| !name.contains('.') && *name != "block").collect();
    tops.sort_by_key(|(_, place)| place.0);
    for (name, (start, len)) in tops {
        assert_eq!(*start, at, "{name} begins where the one before ends");
        let inner: usize = page
            .0
            .iter()
            .filter(|(n, _)| n.starts_with(&format!("{name}.")))
            .map(|(_, (_, len))| len)
            .sum();
        assert!(inner == *len || inner * 8 == *len || inner == 0, "{name}: {inner} of {len}");
        (at, names) = (at + len, names + 1);
    }
    assert_eq!((at, names), (4096, 19));
}

#[test]
fn any_changed_bit_of_a_header_is_noticed() {
    let (sim, _) = some_set(1);
    let good = sim.disks[0].block(0);
    assert_eq!(check(&good, FIRST, crc), Ok(()));
    for bit in 0..4096 * 8 {
        let mut bytes = good;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&bytes, FIRST, crc).is_err(), "bit {bit}");
    }
}

#[test]
fn a_header_that_is_mixed_of_two_versions_is_noticed() {
    let (sim, mut metadata) = some_set(2);
    let old = sim.disks[0].block(0);
    let mut later = sim.clone();
    let commit = metadata.begin(CommitKind::Save, 9, None, |h| h.set_line("another")).unwrap();
    commit.write_group_a(&mut later).unwrap().write_group_b(&mut later);
    let new = later.disks[0].block(0);
    for mask in 1..255u32 {
        let mut mixed = old;
        for sector in (0..8).filter(|s| (mask >> s) & 1 != 0) {
            mixed[sector * 512..][..512].copy_from_slice(&new[sector * 512..][..512]);
        }
        let whole = mixed == old || mixed == new;
        assert_eq!(check(&mixed, FIRST, crc).is_ok(), whole, "sectors {mask:08b}");
    }
}

#[test]
fn each_damaged_structure_is_named() {
    let (sim, _) = some_set(3);
    let good = sim.disks[0].block(0);
    for s in &STRUCTURES[1..] {
        let mut bytes = good;
        bytes[s.start + s.len - 6] ^= 1;
        assert_eq!(check(&bytes, FIRST, crc), Err(HeaderError::Structure(s.name)));
    }
    let mut bytes = good;
    bytes[..8].copy_from_slice(b"DMREMAP3");
    assert_eq!(check(&bytes, FIRST, crc), Err(HeaderError::V3));
    let elsewhere = CopyId { spare: SpareId(0), copy: 3 };
    assert_eq!(check(&good, elsewhere, crc), Err(HeaderError::Misplaced(FIRST)));
}

/// The header with `change` made to it and every checksum made to fit again.
fn forged(good: &[u8; 4096], change: impl FnOnce(&mut RawHeader)) -> [u8; 4096] {
    let Ok(mut header) = Header::decode(good, FIRST, crc) else { panic!("the header is good") };
    change(header.raw_mut());
    *header.encode(FIRST, 0, crc).unwrap()
}

#[test]
fn what_cannot_be_is_refused_although_its_checksums_fit() {
    let (sim, _) = some_set(4);
    let good = sim.disks[0].block(0);
    type Change = fn(&mut RawHeader);
    let refused = |change: Change| check(&forged(&good, change), FIRST, crc).unwrap_err();
    assert_eq!(refused(|h| h.version.version.set(0)), HeaderError::Field("version"));
    assert_eq!(refused(|h| h.set.spares.set(9)), HeaderError::Field("number of spares"));
    let fields: [(&str, Change); 9] = [
        ("number of spares", |h| h.set.spares.set(0)),
        ("past histories", |h| h.version.past_count.set(PAST_HISTORIES as u32 + 1)),
        ("range of main", |h| h.set.main_sectors.set(0)),
        ("range of main", |h| h.set.main_start.set(u64::MAX)),
        ("state of a spare", |h| h.spares[0].state = 9),
        ("state of a spare", |h| h.spares[1].state = 1),
        ("hardware identifier of a spare", |h| h.fingerprints[7].hardware_len = 255),
        ("hardware identifier of main", |h| h.old_main.hardware_len = 255),
        ("length of the table line", |h| h.line.len.set(u16::MAX)),
    ];
    for (name, change) in fields {
        assert_eq!(refused(change), HeaderError::Field(name));
    }
    // What differs between copies: where it is, what is durable, whether it is being made.
    let Ok(header) = Header::decode(&good, FIRST, crc) else { panic!("the header is good") };
    let as_copy = |spare, copy, durable| {
        let id = CopyId { spare: SpareId(spare), copy };
        check(&header.encode(id, durable, crc).unwrap(), id, crc)
    };
    assert_eq!(as_copy(0, 4, header.version()), Ok(()));
    assert_eq!(as_copy(1, 0, 0), Err(HeaderError::Field("spare")));
    assert_eq!(as_copy(0, 5, 0), Err(HeaderError::Field("copy")));
    let newer = header.version() + 1;
    assert_eq!(as_copy(0, 0, newer), Err(HeaderError::Field("durable version")));
    assert_eq!(
        refused(|h| h.shape.capacity.set(u32::MAX)),
        HeaderError::Field("room for table blocks")
    );
    assert_eq!(refused(|h| h.shape.blocks.set(128)), HeaderError::Field("number of table blocks"));
    assert_eq!(refused(|h| h.features.incompatible.set(8)), HeaderError::Features(8));
    assert_eq!(
        refused(|h| h.spares[0].used_start.set(u64::MAX)),
        HeaderError::Field("used part of a spare")
    );
    assert_eq!(refused(|h| h.identification.format.set(5)), HeaderError::Format(5));
    let mut damaged = good;
    damaged[0x18] ^= 1;
    let error = check(&damaged, FIRST, crc).unwrap_err();
    assert_eq!(error, HeaderError::Structure("identification"), "not a newer format");
    let newer = forged(&good, |h| h.features.compatible.set(2));
    assert_eq!(check(&newer, FIRST, crc), Ok(()));
}

#[test]
fn texts_in_a_header_end_with_a_whole_character() {
    let (_, metadata) = some_set(4);
    let mut header = metadata.header().try_clone().unwrap();
    assert_eq!((header.name(), header.line()), ("test set", "/dev/main /dev/spare"));
    header.set_name("disk-1");
    assert_eq!(header.name(), "disk-1");
    // 64 bytes: 31 letters of two each and one more.
    let long = "x".to_owned() + &"ö".repeat(40);
    header.set_name(&long);
    assert_eq!(header.name(), &long[..63]);
    header.set_line(&"ö".repeat(300));
    assert_eq!((header.line().len(), header.raw().line.flags.get()), (LINE_BYTES, 1));
    // What somebody else has put there, as far as it is text.
    header.raw_mut().set.name[..4].copy_from_slice(b"ok\xff\xff");
    header.raw_mut().line.text[..2].copy_from_slice(b"\xff\xff");
    assert_eq!((header.name(), header.line()), ("ok", ""));
}

#[test]
fn there_is_no_layout_for_more_than_the_most() {
    assert!(Layout::new(MAX_BLOCKS).is_some_and(|layout| layout.capacity() == MAX_BLOCKS));
    assert_eq!(Layout::new(MAX_BLOCKS + 1), None);
}

#[test]
fn a_table_block_that_says_more_than_its_entries_is_not_taken() {
    let (sim, metadata) = some_set(7);
    let last = BlockIndex(metadata.table().block_count() - 1);
    let at = Layout::STANDARD.block(0, last).unwrap().0 / 8;
    let good = sim.disks[0].block(at);
    assert!(check_block(&good, &UUID, last, crc).is_ok());
    let with = |at: usize, new: &[u8]| {
        let mut bytes = good;
        bytes[at..at + new.len()].copy_from_slice(new);
        let sum = crc(&bytes[4..]).to_le_bytes();
        bytes[..4].copy_from_slice(&sum);
        check_block(&bytes, &UUID, last, crc)
    };
    for byte in [offset_of!(RawBlockHeader, reserved), 4095] {
        assert_eq!(with(byte, &[1]), Err(BlockError::NotZero));
    }
    for version in [0, u64::MAX] {
        let at = offset_of!(RawBlockHeader, version);
        assert_eq!(with(at, &version.to_le_bytes()), Err(BlockError::Version));
    }
}

#[test]
fn nothing_random_or_mutated_panics() {
    let mut rng = Rng::new(99);
    let (good, _) = some_set(5);
    for round in 0..if cfg!(debug_assertions) { 300 } else { 3000 } {
        let mut sim = good.clone();
        for _ in 0..1 + rng.below(6) {
            let at = SLOTS[rng.below(5) as usize].0 / 8 + rng.below(5);
            let mut bytes = sim.disks[0].block(at);
            for _ in 0..1 + rng.below(8) {
                match rng.below(3) {
                    0 => bytes[rng.below(4096) as usize] = rng.next() as u8,
                    1 => bytes[rng.below(64) as usize] ^= 1 << rng.below(8),
                    _ => bytes[rng.below(8) as usize * 512..][..512].fill(rng.next() as u8),
                }
            }
            // Half of the time with a checksum that fits.
            if rng.chance(50) && at % 128 != 0 {
                let sum = crc(&bytes[4..]).to_le_bytes();
                bytes[..4].copy_from_slice(&sum);
            }
            let _ = check_block(&bytes, &UUID, BlockIndex(rng.below(5) as u32), crc);
            sim.disks[0].set_block(at, bytes);
        }
        if rng.chance(50) {
            let header = sim.disks[0].block(0);
            if check(&header, FIRST, crc).is_ok() {
                let n = rng.next();
                let changed = forged(&header, |h| match n % 6 {
                    0 => h.shape.blocks.set(n as u32 >> 8),
                    1 => h.shape.capacity.set(n as u32 >> 8),
                    2 => h.version.version.set(n),
                    3 => h.version.past_count.set(n as u32 >> 8),
                    4 => h.set.main_sectors.set(n >> 30),
                    _ => h.spares[0].used_sectors.set(n),
                });
                sim.disks[0].set_block(0, changed);
            }
        }
        if let Ok(found) = recover(&mut sim, crc) {
            let _ = found.rebuild(&mut sim, round, round);
        }
    }
}

#[test]
fn entries_that_lie_out_of_bounds_are_refused() {
    let (mut sim, mut metadata) = some_set(6);
    let mut edit = metadata.table().edit().unwrap();
    let to = SpareSector(4096);
    let mapping = Mapping::Remapped { spare: SpareId(0), to };
    edit.set(extent(0, 8), mapping).unwrap();
    let commit = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    commit.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    let refusal = recover(&mut sim, crc).err();
    assert!(matches!(refusal, Some(Refusal::Entry(_))), "{refusal:?}");
}

#[test]
fn a_byte_of_an_entry_tells_whether_it_is_remapped_and_to_which_spare() {
    let mut kinds = 0;
    for (start, home) in (0..16).flat_map(|n| (0..=u8::MAX).map(move |home| (n << 44, home))) {
        let start = if start == 0 { 0 } else { SECTOR_LIMIT | (start - (1 << 44)) };
        let words = [(start << 16) | 8, u64::from(home) << 8];
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        let Ok(entry) = PackedEntry::read_from_bytes(&bytes).unwrap().unpack() else { continue };
        kinds |= 1 << (home & 15);
        assert!(home < HOME_LIMIT, "{entry:?}");
        match entry.mapping {
            Mapping::Remapped { spare, .. } => assert_eq!(home_on(spare), home),
            _ => assert!((0..8).all(|n| home_on(SpareId(n)) != home), "{entry:?}"),
        }
    }
    assert_eq!(kinds, 0b11_1110, "each kind has been there");
}

#[test]
fn nothing_in_the_layout_overlaps() {
    for capacity in [0, 127, 128, 500, 8000] {
        let layout = Layout::new(capacity).unwrap();
        let sectors = Sectors(layout.end().0 + 100_000);
        let mut places: Vec<(u64, u64)> =
            layout.data_space(sectors).map(|(at, len)| (at.0, len.0)).collect();
        for copy in 0..COPIES as u8 {
            places.push((Layout::header(copy).0, 8));
            for index in (0..layout.capacity()).map(BlockIndex) {
                let at = layout.block(copy, index).unwrap();
                assert!(layout.is_metadata(at, Sectors(8)));
                places.push((at.0, 8));
            }
            assert_eq!(layout.block(copy, BlockIndex(layout.capacity())), None);
        }
        for (at, len) in layout.data_space(sectors) {
            assert!(!layout.is_metadata(at, len));
        }
        places.sort_unstable();
        let end = places.iter().fold(0, |end, (at, len)| {
            assert_eq!(*at, end, "no gap and no overlap");
            at + len
        });
        assert_eq!(end, sectors.0);
    }
    assert_eq!(Layout::for_max_remaps(31988), Some(Layout::STANDARD));
    assert_eq!(Layout::for_max_remaps(31989).unwrap().capacity(), 128);
    assert_eq!(Layout::for_max_remaps(1_000_000).unwrap().capacity(), 3969);
    assert_eq!(Layout::for_max_remaps(u64::MAX), None);
}

#[test]
fn settings_are_checked_kept_and_taken_back() {
    let limits =
        Limits { logical_block: Sectors(8), physical_block: Sectors(8), ..Limits::default() };
    let mut settings = Settings::default();
    assert_eq!(settings.remap_block(&limits), Sectors(8));
    assert_eq!(settings.undo(), Err(SetError::NothingToUndo));
    let refused = |name, text| Settings::default().set([(name, text)], &limits).unwrap_err().1;
    assert_eq!(refused("colour", "1"), SetError::Unknown);
    assert_eq!(refused("min_copies", "two"), SetError::Number(&MIN_COPIES));
    assert_eq!(refused("min_copies", "+2"), SetError::Number(&MIN_COPIES));
    assert_eq!(refused("min_copies", "6"), SetError::Range(&MIN_COPIES, 5));
    assert_eq!(refused("alert_threshold", "101"), SetError::Range(&ALERT_THRESHOLD, 100));
    assert_eq!(refused("remap_block", "24"), SetError::PowerOfTwo(&REMAP_BLOCK));
    assert_eq!(refused("remap_block", "4"), SetError::LogicalBlock(&REMAP_BLOCK, Sectors(8)));
    assert_eq!(refused("remap_block", "99999999999999999999"), SetError::Number(&REMAP_BLOCK));

    // What is written of a setting is what sets it, and what the devices decide is told.
    for setting in SETTINGS {
        let value = Settings::default().in_force(setting, &limits);
        for value in [setting.min, value, setting.max.min(5), setting.max] {
            let mut text = String::new();
            setting.write_value(value, &mut text).unwrap();
            match setting.parse(&text, &limits) {
                Ok(read) => assert_eq!(read, value, "{}", setting.name),
                Err(e) => assert!(!matches!(e, SetError::Number(_)), "{text}: {e}"),
            }
        }
    }
    assert_eq!(Settings::default().get(&REMAP_BLOCK), 0);
    assert_eq!(Settings::default().in_force(&REMAP_BLOCK, &limits), 8);

    settings.set([("remap_block", "64"), ("min_copies", "3")], &limits).unwrap();
    let before = settings.clone();
    let second = settings.set([("min_copies", "4"), ("min_copies", "1")], &limits);
    assert_eq!(second.unwrap_err().0, 1, "the second is the one that is wrong");
    assert_eq!(settings, before, "all or nothing");
    settings.set([("min_copies", "4")], &limits).unwrap();
    settings.undo().unwrap();
    assert_eq!(settings.get(&MIN_COPIES), 3);
    assert_eq!(settings.remap_block(&limits), Sectors(64));

    // Through a header and back.
    let (mut sim, mut metadata) = some_set(8);
    let commit = metadata
        .begin(CommitKind::Settings, 1, None, |h| settings.to_raw(&mut h.raw_mut().settings))
        .unwrap();
    commit.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    let found = recover(&mut sim, crc).unwrap().into_metadata();
    assert_eq!(found.settings(), settings);
    assert_eq!(found.min_copies(), 3);
}

#[test]
fn a_header_says_what_assembly_goes_by_as_the_settings_have_it() {
    let (mut sim, mut metadata) = some_set(9);
    let told = |metadata: &Metadata| {
        let raw = &metadata.header().raw().assembly;
        [raw.required.get(), raw.primary.get(), raw.flags.get(), raw.min_match.get()]
    };
    assert_eq!(told(&metadata), [1, 0, 0, 70]);
    let mut settings = metadata.settings();
    let changes = [("assemble_confirm", "1"), ("assemble_min_match", "90"), ("primary", "3")];
    settings.set(changes, &Limits::default()).unwrap();
    let commit = metadata
        .begin(CommitKind::Settings, 1, None, |h| settings.to_raw(&mut h.raw_mut().settings))
        .unwrap();
    commit.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    // There is no spare 3: the first that there is comes first.
    assert_eq!(told(&metadata), [1, 0, 1, 90]);
    settings
        .set([("assemble_confirm", "0"), ("assemble_degraded", "1")], &Limits::default())
        .unwrap();
    let commit = metadata
        .begin(CommitKind::Settings, 1, None, |h| settings.to_raw(&mut h.raw_mut().settings))
        .unwrap();
    commit.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    assert_eq!(told(&metadata), [1, 0, 2, 90]);
}
