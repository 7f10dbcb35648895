//! A spare of the v3 format, changed here and there, and its upgrade.

use crate::disks::Disks;
use crate::patch::{crc, Patch};
use remap_pure::entry::Mapping;
use remap_pure::format::header::{NewSet, NewSpare};
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::SetUuid;
use remap_pure::recovery::recover;
use remap_pure::units::Sectors;
use remap_pure::upgrade::{look, Found, Old};
use std::collections::BTreeMap;

const MAIN: u64 = 1 << 20;

/// The first bytes say which drawing it is, how many entries it has and which logical block; after two of each entry's place the
/// rest are changes of the first blocks.
pub fn run(data: &[u8]) {
    let [kind, count, rest @ ..] = data else { return };
    let count = usize::from(*count).min(rest.len() / 2);
    let (places, patches) = rest.split_at(count * 2);
    let mut disks = spare(1 + (kind & 1), places);
    for patch in Patch::all(patches).take(16) {
        let at = patch.place().2;
        let mut bytes = disks.block(0, at);
        match patch.what() % 2 {
            0 => patch.bytes(&mut bytes),
            _ => patch.large(&mut bytes),
        }
        disks.put(0, at, bytes);
    }
    let old = match look(&mut disks, Sectors(MAIN), crc) {
        Ok(Found::V3(old)) => old,
        Ok(Found::CutShort(_)) => return,
        Err(e) => return assert!(!e.to_string().is_empty()),
    };
    upgrade(disks, &old, if kind & 2 != 0 { 8 } else { 1 });
}

fn upgrade(mut disks: Disks, old: &Old, logical: u64) {
    let set = NewSet {
        uuid: SetUuid(*b"an older set's !"),
        history: 1,
        name: "",
        time: 1,
        layout: old.layout,
        main_sectors: Sectors(MAIN),
        main_start: Sectors(0),
        line: "",
    };
    let member = NewSpare {
        uuid: [1; 16],
        fingerprint: RawFingerprint::unknown(),
        used_start: Sectors(0),
        used_sectors: Sectors(crate::disks::SPARE),
    };
    let before = disks.clone();
    let Ok(plan) = old.plan(&disks, &set, &member, Sectors(logical), crc, |_| {}) else { return };
    plan.begin(&mut disks, crc).unwrap().end(&mut disks, crc).unwrap();
    let found = recover(&mut disks, crc).unwrap_or_else(|e| panic!("after an upgrade: {e}"));
    assert!(found.is_clean());
    let mut left: BTreeMap<u64, u64> =
        old.entries.iter().map(|(start, to)| (start.0, to.0)).collect();
    for entry in found.table().iter() {
        let Mapping::Remapped { to, .. } = entry.mapping else { panic!("{entry:?}") };
        assert!(entry.extent.start.0 % logical == 0 && entry.extent.len.0 % logical == 0);
        for i in 0..entry.extent.len.0 {
            let was = left.remove(&(entry.extent.start.0 + i)).expect("an entry of the old table");
            assert!(sector(&disks, to.0 + i) == sector(&before, was), "the data is another");
        }
    }
    assert!(left.is_empty(), "entries are lost");
}

fn sector(disks: &Disks, at: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    bytes.copy_from_slice(&disks.block(0, at / 8)[(at % 8) as usize * 512..][..512]);
    bytes
}

/// A spare whose entries are for neighbouring sectors of main, in these places.
fn spare(drawing: u8, places: &[u8]) -> Disks {
    let count = (places.len() / 2) as u32;
    let mut bytes = b"DMREMAP3\x01\0\0\0\0\0\0\0".to_vec();
    bytes.resize(if drawing == 1 { 24 } else { 32 }, 0);
    for number in [count, 1000] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [MAIN, crate::disks::SPARE] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize(4096, 0);
    let mut data = BTreeMap::new();
    for (start, place) in (0u64..).zip(places.chunks_exact(2)) {
        let place = u64::from(u16::from_le_bytes([place[0], place[1]]));
        bytes.extend((start + 80).to_le_bytes());
        bytes.extend(place.to_le_bytes());
        data.insert(place, start as u8 + 1);
    }
    let mut disks = Disks::blank(1);
    for (at, part) in (0..).zip(bytes.chunks(4096)) {
        let mut block = [0; 4096];
        block[..part.len()].copy_from_slice(part);
        disks.put(0, at, block);
    }
    for (place, byte) in data.into_iter().filter(|(place, _)| *place >= 64) {
        let mut block = disks.block(0, place / 8);
        block[(place % 8) as usize * 512..][..512].fill(byte);
        disks.put(0, place / 8, block);
    }
    disks
}
