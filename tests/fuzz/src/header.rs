//! A header that was changed here and there, its checksums made to fit or not.

use crate::disks::{lives, UUID};
use crate::patch::{crc, seal_header, Patch};
use remap_pure::format::header::{check, creation_mark_of, damaged_structures, traces, Header};
use remap_pure::format::layout::{CopyId, COPIES};
use remap_pure::identity::{compare, Facts};
use remap_pure::settings::{Settings, SETTINGS};
use remap_pure::units::{Sectors, SpareId, MAX_SPARES};

pub fn run(data: &[u8]) {
    let Some((&first, patches)) = data.split_first() else { return };
    let life = &lives()[usize::from(first & 1)];
    let mut block = life.moments[usize::from(first >> 1) % life.moments.len()].block(0, 0);
    for patch in Patch::all(patches) {
        match patch.what() % 4 {
            0 => patch.bytes(&mut block),
            1 => patch.large(&mut block),
            _ => seal_header(&mut block),
        }
    }
    traces(&block, crc);
    let damaged = damaged_structures(&block, crc).count();
    let mark = creation_mark_of(&block, crc);
    for spare in (0..MAX_SPARES as u8).map(SpareId) {
        for copy in 0..COPIES as u8 {
            let id = CopyId { spare, copy };
            let verdict = check(&block, id, crc);
            let Ok(header) = Header::decode(&block, id, crc) else {
                assert!(verdict.is_err());
                continue;
            };
            assert!(verdict.is_ok() && mark.is_none() && damaged == 0);
            accepted(&header, id);
            // What is written from it is taken back, and says the same.
            let again = header.encode(id, header.version(), crc).unwrap();
            let again = Header::decode(&again, id, crc).unwrap();
            assert!(again.same_content(&header));
        }
    }
}

fn accepted(header: &Header, id: CopyId) {
    let raw = header.raw();
    assert!(usize::from(id.spare.0) < header.spares());
    assert!((1..u64::MAX).contains(&header.version()));
    assert!(raw.shape.blocks.get() <= header.layout().capacity());
    assert_eq!(raw.shape.capacity.get(), header.layout().capacity());
    let end = raw.set.main_start.get().checked_add(raw.set.main_sectors.get());
    assert!(end.is_some_and(|end| end > 0));
    for (i, spare) in raw.spares[..header.spares()].iter().enumerate() {
        let used = Sectors(spare.used_sectors.get());
        assert!(header.layout().fits(used));
        assert!(spare.used_start.get().checked_add(used.0).is_some());
        let spaces = header.layout().data_space(used);
        assert!(spaces.clone().count() > 0);
        for (start, len) in spaces {
            assert!(!header.layout().is_metadata(start, len) && (start + len).0 <= used.0);
        }
        let facts = Facts { path: header.name(), ..Facts::of_size(used, 512, 512) };
        // Either is right; it must come to an end.
        let _ = compare(&raw.fingerprints[i], &facts);
    }
    assert!(header.line().len() <= 504 && header.name().len() <= 64);
    assert!(header.uuid() == UUID || !header.uuid().to_string().is_empty());
    let settings = Settings::from_raw(&raw.settings);
    for setting in SETTINGS {
        let value = settings.get(setting);
        assert!((setting.min..=setting.max).contains(&value));
    }
    let mut kept = raw.settings;
    settings.to_raw(&mut kept);
    assert!(Settings::from_raw(&kept) == settings);
}
