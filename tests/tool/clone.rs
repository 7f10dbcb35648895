//! What dm-clone keeps, taken apart.

use dmremap::clone::{blocks_for, region_of, Bytes, Copied, Label, Status, BLOCK};
use remap_pure::format::{Attempt, SetUuid};
use remap_pure::identity::{fingerprint, Facts};
use remap_pure::units::Sectors;
use std::io;

fn put32(bytes: &mut Bytes, at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut Bytes, at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Words in a block of the bitmap.
const WORDS: usize = 509;

fn node(at: u64, flags: u32, children: &[(u64, u64)]) -> Bytes {
    let mut bytes = [0; BLOCK];
    put32(&mut bytes, 4, flags);
    put64(&mut bytes, 8, at);
    put32(&mut bytes, 16, children.len() as u32);
    put32(&mut bytes, 20, 252);
    put32(&mut bytes, 24, 8);
    for (i, (key, value)) in children.iter().enumerate() {
        put64(&mut bytes, 32 + 8 * i, *key);
        put64(&mut bytes, 32 + 8 * (252 + i), *value);
    }
    bytes
}

fn words(at: u64, of: &[u64]) -> Bytes {
    let mut bytes = [0; BLOCK];
    put32(&mut bytes, 4, WORDS as u32);
    put32(&mut bytes, 8, of.len() as u32);
    put32(&mut bytes, 12, 8);
    put64(&mut bytes, 16, at);
    of.iter().enumerate().for_each(|(i, word)| put64(&mut bytes, 24 + 8 * i, *word));
    bytes
}

/// Three blocks of bitmap under a tree of two levels.
fn device(sectors: u64) -> Vec<Bytes> {
    let mut superblock = [0; BLOCK];
    put64(&mut superblock, 32, 0x8af2_7f64);
    put32(&mut superblock, 40, 1);
    put64(&mut superblock, 172, 8);
    put64(&mut superblock, 180, sectors);
    put64(&mut superblock, 188, 1);
    let full = [u64::MAX; WORDS];
    let mut second = full;
    second[0] = !0b110;
    vec![
        superblock,
        node(1, 1, &[(0, 2), (2, 3)]),
        node(2, 2, &[(0, 4), (1, 5)]),
        node(3, 2, &[(2, 6)]),
        words(4, &full),
        words(5, &second),
        words(6, &[0b1]),
    ]
}

fn read(blocks: &[Bytes]) -> io::Result<Copied> {
    let found = |block: u64| blocks.get(block as usize).copied();
    Copied::read(&mut |block| found(block).ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
}

#[test]
fn what_has_not_been_copied_is_found_in_the_bitmap() {
    // Two regions more than two full blocks, the last one of three sectors.
    let full = 64 * WORDS as u64;
    let sectors = (2 * full + 1) * 8 + 3;
    let copied = read(&device(sectors)).unwrap();
    assert_eq!(copied.count(), 2 * full - 2 + 1);
    assert_eq!(copied.missing(), [((full + 1) * 8, 16), ((2 * full + 1) * 8, 3)]);
}

#[test]
fn damage_in_the_bitmap_is_no_bitmap() {
    let whole = device((2 * 64 * WORDS as u64 + 1) * 8);
    assert!(read(&whole).is_ok());
    assert!(read(&[[0; BLOCK]]).is_err());
    // Each block in turn: not the one that it says it is, more in it than fits, of no kind, leading back to itself.
    for i in 0..whole.len() {
        for (at, value) in [(8, 99), (16, 0xffff_ffff), (16, 99), (4, 7), (188, 9)] {
            // The words themselves are held against the count that the kernel has.
            if at == 188 && i > 0 {
                continue;
            }
            let mut damaged = whole.clone();
            put64(&mut damaged[i], at, value);
            let found = read(&damaged);
            let same = found.as_ref().is_ok_and(|found| *found == read(&whole).unwrap());
            assert!(found.is_err() || same, "block {i}, byte {at}");
        }
    }
    let mut circle = whole.clone();
    circle[2] = node(2, 1, &[(0, 2)]);
    assert!(read(&circle).is_err());
}

#[test]
fn a_label_says_whose_it_is_or_is_none() {
    let print = |sectors| fingerprint(&Facts::of_size(Sectors(sectors), 512, 4096));
    let label = Label {
        set: SetUuid([3; 16]),
        sectors: 1000,
        attempt: Attempt([4; 16]),
        old: print(1000),
        new: print(2000),
    };
    let bytes = label.encode();
    let again = Label::decode(&bytes).unwrap();
    assert_eq!((again.set, again.sectors, again.attempt), (label.set, 1000, label.attempt));
    assert_eq!((again.old.sectors.get(), again.new.sectors.get()), (1000, 2000));
    for at in [0, 20, 35, 45, 70, 300, 4095] {
        let mut damaged = bytes;
        damaged[at] ^= 1;
        assert!(Label::decode(&damaged).is_none(), "byte {at}");
    }
    assert!(Label::decode(&[0; BLOCK]).is_none());
}

#[test]
fn regions_are_small_and_not_too_many() {
    assert_eq!(region_of(1), 8);
    assert_eq!(region_of(1 << 31), 8);
    assert_eq!(region_of((1 << 31) + 1), 16);
    assert_eq!(blocks_for(32_001), 1030);
    let status = Status::parse(
        "8 20/1024 8 17/8192 3 1 no_hydration 4 hydration_threshold 1 hydration_batch_size 1 rw",
    );
    let status = status.unwrap();
    assert_eq!((status.copied, status.regions, status.copying, status.well), (17, 8192, 3, true));
    assert!(Status::parse("Fail").is_none());
}
