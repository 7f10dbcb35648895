//! Table blocks whose entries are what the fuzzer likes.

use crate::disks::UUID;
use crate::patch::{crc, seal_block, Bytes};
use remap_pure::digest::digest;
use remap_pure::entry::{
    retired_start, BlockIndex, Mapping, PackedEntry, ENTRIES_PER_BLOCK, RETIRED_LIMIT, SECTOR_LIMIT,
};
use remap_pure::format::block::{check_block, encode_block, entries};
use remap_pure::mem::Block;
use remap_pure::table::{Table, TableBuilder};
use remap_pure::units::Sectors;

/// The first byte says how many blocks, a part of the rest is each one's: four bytes of its header, then entries.
pub fn run(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let count = u32::from(first % 4) + 1;
    let mut builder = TableBuilder::new(127, count).unwrap();
    let mut stamps = Vec::new();
    let mut given = 0;
    for (index, part) in
        (0..count).map(BlockIndex).zip(rest.chunks(rest.len() / count as usize + 1))
    {
        let block = block(index, part);
        let Ok(stamp) = check_block(&block, &UUID, index, crc) else { return };
        let list = entries(&block);
        assert!(list.len() <= ENTRIES_PER_BLOCK);
        for packed in list {
            if let Ok(entry) = packed.unpack() {
                let again = PackedEntry::pack(&entry).unwrap();
                assert_eq!(again.unpack(), Ok(entry));
            }
        }
        if builder.add(index, stamp, list).is_err() {
            return;
        }
        given += list.len();
        stamps.push((index, stamp));
    }
    let Ok(table) = builder.finish() else { return };
    assert_eq!(table.iter().count(), given);
    assert_eq!(table.digest(), digest(stamps));
    accepted(&table);
}

fn block(index: BlockIndex, part: &[u8]) -> Bytes {
    let mut bytes = [0; 4096];
    let mut encoded = Block::zeroed().unwrap();
    encode_block(&mut encoded, &UUID, index, 1, &[], crc);
    bytes.copy_from_slice(&encoded[..]);
    let (head, body) = part.split_at(part.len().min(4));
    let body = &body[..body.len().min(ENTRIES_PER_BLOCK * 16)];
    bytes[64..][..body.len()].copy_from_slice(body);
    // As many as there are, give or take what the fuzzer wants; and the version.
    let more = head.first().copied().unwrap_or(0);
    let count = (body.len() / 16) as u16;
    let count =
        if more < 128 { count.saturating_sub(u16::from(more)) } else { u16::from(more) * 2 };
    bytes[28..30].copy_from_slice(&count.to_le_bytes());
    bytes[30] = u8::from(head.get(1).is_some_and(|&kind| kind == 1));
    bytes[32] = head.get(2).copied().unwrap_or(1);
    seal_block(&mut bytes);
    bytes
}

/// What holds of every table.
pub fn accepted(table: &Table) {
    let (mut behind, mut extents) = (0, 0);
    let (mut remapped, mut suspect, mut pending, mut retired) = (0, 0, 0, 0);
    for entry in table.iter() {
        let (start, len) = (entry.extent.start, entry.extent.len);
        assert!(len.0 > 0 && start.0 >= behind, "two entries for sector {start}");
        behind = entry.extent.end().0;
        extents += 1;
        if let Mapping::Retired { spare, at } = entry.mapping {
            assert!(at.0 + len.0 <= RETIRED_LIMIT && start == retired_start(spare, at));
            retired += len.0;
            continue;
        }
        assert!(behind <= SECTOR_LIMIT);
        assert_eq!(table.lookup(start, Sectors(1)), Some(entry));
        let Some((_, to)) = entry.mapping.place() else {
            pending += len.0;
            continue;
        };
        assert!(to.0 + len.0 <= SECTOR_LIMIT);
        remapped += len.0;
        if entry.mapping.is_bad() {
            suspect += len.0;
        }
    }
    let totals = table.totals();
    assert_eq!((extents, remapped), (totals.extents, totals.remapped.0));
    assert_eq!((pending, retired), (totals.pending.0, totals.retired.0));
    assert_eq!(suspect, totals.suspect().0);
    assert!(table.block_count() <= table.capacity_blocks());
}
