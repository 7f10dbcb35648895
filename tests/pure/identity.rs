// SPDX-License-Identifier: GPL-2.0

//! Which device is taken for which.

use remap_pure::bytes::IntoBytes;
use remap_pure::entry::Mapping;
use remap_pure::format::header::{Header, NewSet};
use remap_pure::format::layout::Layout;
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{Attempt, SetUuid};
use remap_pure::identity::choose::{choose, least_match, Choice};
use remap_pure::identity::filesystem::{filesystem, PIECES};
use remap_pure::identity::replaced::{
    has_taken_over, is_new_main, may_replace, may_return, pending_is_lost, print_of, recognise_main,
};
use remap_pure::identity::{
    compare, filesystem_of, fingerprint, of_digits, renewed, set_path, set_serial, with_filesystem,
    CopyOf, Differs, Digits, Facts, Filesystem, FilesystemUuid, HardwareId, Mapped, MatchKind,
    SerialHash,
};
use remap_pure::mem::Block;
use remap_pure::settings::{Limits, Settings, ASSEMBLE_MIN_MATCH};
use remap_pure::table::Table;
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

const GPT: &str = "01234567-89ab-cdef-0123-456789abcdef";

const NAA: HardwareId =
    HardwareId { kind: 3, len: 8, bytes: *b"\x50\x01\x02\x03\x04\x05\x06\x07\0\0\0\0\0\0\0\0" };

const PATH: &str =
    "/dev/disk/by-id/ata-something-with-a-very-long-name-of-its-own-and-a-serial-part1";

const EXT4: FilesystemUuid = FilesystemUuid(*b"a filesystem, A.");
const OTHER: FilesystemUuid = FilesystemUuid(*b"a filesystem, B.");

/// Of a device that has everything.
fn facts() -> Facts<'static> {
    Facts {
        partition_uuid: Some(GPT),
        hardware_id: Some(NAA),
        serial: SerialHash::of("WD-123"),
        sectors: Sectors(1000),
        logical_block: 512,
        physical_block: 4096,
        filesystem: Filesystem::Is(EXT4),
        path: PATH,
        mapped: Mapped::No,
    }
}

/// Of one that has no identifier of its own.
fn nameless() -> Facts<'static> {
    Facts::of_size(Sectors(1000), 512, 4096)
}

fn kind(print: &RawFingerprint, facts: &Facts<'_>) -> Result<MatchKind, Differs> {
    compare(print, facts).map(|by| by.kind)
}

fn other_disk() -> HardwareId {
    let mut bytes = NAA.bytes;
    bytes[7] ^= 1;
    HardwareId { bytes, ..NAA }
}

#[test]
fn what_a_device_lacks_by_which_it_could_be_known_better_is_named() {
    let missing =
        |print: &RawFingerprint, facts: &Facts<'_>| compare(print, facts).unwrap().missing;
    let all = fingerprint(&facts());
    assert_eq!(missing(&all, &facts()), None);
    let bare = Facts { filesystem: Filesystem::None, ..nameless() };
    assert_eq!(missing(&all, &bare), Some(MatchKind::Partition));
    // Nothing worse than what it is known by.
    assert_eq!(missing(&all, &Facts { hardware_id: None, ..facts() }), None);
    assert_eq!(
        missing(&all, &Facts { partition_uuid: None, ..facts() }),
        Some(MatchKind::Partition)
    );
    let whole = fingerprint(&Facts { partition_uuid: None, ..facts() });
    assert_eq!(missing(&whole, &bare), Some(MatchKind::Hardware));
    let known = Facts { filesystem: Filesystem::Is(EXT4), ..nameless() };
    let print = fingerprint(&known);
    assert_eq!(missing(&print, &known), None);
    assert_eq!(missing(&print, &bare), Some(MatchKind::Filesystem));
    // Nobody has looked, or it lives elsewhere in part.
    assert_eq!(missing(&print, &nameless()), None);
    assert_eq!(missing(&fingerprint(&nameless()), &bare), None);
}

#[test]
fn the_best_that_both_have_says_how_certain_it_is() {
    let whole = Facts { partition_uuid: None, ..facts() };
    let bare = Facts { hardware_id: None, ..whole };
    let no_serial = Facts { serial: None, ..bare };
    let adapter = Facts { physical_block: 512, ..nameless() };
    let rows = [
        (facts(), MatchKind::Partition, "partition-uuid 100"),
        (whole, MatchKind::Hardware, "hardware-id 95"),
        (bare, MatchKind::Serial, "serial 90"),
        (no_serial, MatchKind::Filesystem, "filesystem-uuid 70"),
        (nameless(), MatchKind::Size, "size 40"),
        (adapter, MatchKind::Length, "length 20"),
    ];
    for (facts, by, text) in rows {
        // What only one of both has says nothing.
        for print in [fingerprint(&self::facts()), fingerprint(&facts)] {
            if by == MatchKind::Length && print.physical_block.get() == 512 {
                continue;
            }
            let found = compare(&print, &facts).unwrap();
            assert_eq!((found.kind, found.to_string()), (by, text.into()));
        }
        if by != MatchKind::Length {
            assert_eq!(kind(&fingerprint(&facts), &self::facts()), Ok(by));
        }
    }
    let percents = MatchKind::ALL.map(MatchKind::percent);
    assert!(
        percents[1..].is_sorted_by(|a, b| a > b)
            && rows.map(|row| row.1)[..] == MatchKind::ALL[1..]
    );
}

#[test]
fn another_partition_refuses_whatever_else_agrees() {
    for other in ["01234567-89ab-cdef-0123-456789abcdee", "abcd1234-01"] {
        let other = Facts { partition_uuid: Some(other), ..facts() };
        assert_eq!(kind(&fingerprint(&facts()), &other), Err(Differs::Partition));
        assert_eq!(kind(&fingerprint(&other), &facts()), Err(Differs::Partition));
        assert_eq!(kind(&fingerprint(&other), &other), Ok(MatchKind::Partition));
    }
}

#[test]
fn another_disk_refuses_whatever_else_agrees() {
    let other = Facts { hardware_id: Some(other_disk()), ..facts() };
    assert_eq!(kind(&fingerprint(&facts()), &other), Err(Differs::Hardware));
    let shorter = Facts { hardware_id: Some(HardwareId { len: 7, ..NAA }), ..facts() };
    assert_eq!(kind(&fingerprint(&facts()), &shorter), Err(Differs::Hardware));
    // Identifiers of different kinds say nothing about each other.
    let whole = Facts { partition_uuid: None, serial: None, ..facts() };
    let id = HardwareId { kind: 2, ..other_disk() };
    let another = Facts { hardware_id: Some(id), ..whole };
    assert_eq!(kind(&fingerprint(&whole), &another), Ok(MatchKind::Filesystem));
    let other = Facts { serial: SerialHash::of("WD-124"), ..facts() };
    assert_eq!(kind(&fingerprint(&facts()), &other), Err(Differs::Serial));
}

#[test]
fn a_device_that_has_grown_needs_its_partition() {
    let grown = Facts { sectors: Sectors(1001), ..facts() };
    assert_eq!(kind(&fingerprint(&facts()), &grown), Ok(MatchKind::Partition));
    let grown = Facts { partition_uuid: None, ..grown };
    let size = Differs::Size(Sectors(1001), Sectors(1000));
    assert_eq!(kind(&fingerprint(&facts()), &grown), Err(size));
    let smaller = Facts { sectors: Sectors(999), ..facts() };
    let said = Differs::Smaller(Sectors(999), Sectors(1000));
    assert_eq!(kind(&fingerprint(&facts()), &smaller), Err(said));
    let block = Facts { logical_block: 4096, ..facts() };
    assert_eq!(kind(&fingerprint(&facts()), &block), Err(Differs::LogicalBlock(4096, 512)));
}

#[test]
fn another_filesystem_refuses_where_nothing_of_the_device_agrees() {
    let with = |filesystem| Facts { filesystem, ..nameless() };
    let print = fingerprint(&with(Filesystem::Is(EXT4)));
    assert_eq!(filesystem_of(&print), Some(EXT4));
    let differs = Differs::Filesystem(OTHER, EXT4);
    assert_eq!(kind(&print, &with(Filesystem::Is(OTHER))), Err(differs));
    assert!(differs.to_string().contains(&format!("'filesystem {OTHER}'")), "{differs}");
    // One that is there no more, could not be read, or may be an older one, says nothing.
    for seen in [Filesystem::None, Filesystem::Unknown, Filesystem::Is(OTHER).maybe_older()] {
        assert_eq!(kind(&print, &with(seen)), Ok(MatchKind::Size));
    }
    assert_eq!(kind(&print, &with(Filesystem::Was(EXT4))), Ok(MatchKind::Filesystem));
    // It was made anew through the set, and the crash came before that was kept.
    let anew = Facts { filesystem: Filesystem::Is(OTHER), ..facts() };
    for anew in [
        anew,
        Facts { partition_uuid: None, ..anew },
        Facts { partition_uuid: None, hardware_id: None, ..anew },
    ] {
        assert_eq!(compare(&fingerprint(&facts()), &anew).unwrap().had, Some(EXT4));
    }
    assert_eq!(compare(&fingerprint(&facts()), &facts()).unwrap().had, None);
}

#[test]
fn a_fingerprint_is_renewed_with_what_was_not_known_and_the_filesystem_of_the_set() {
    let old = fingerprint(&nameless());
    assert!(renewed(&old, &nameless(), Filesystem::Unknown).is_none());
    assert!(renewed(&old, &nameless(), Filesystem::None).is_none());
    let new = renewed(&old, &facts(), Filesystem::Is(OTHER)).unwrap();
    assert_eq!(filesystem_of(&new), Some(OTHER));
    let is = Facts { filesystem: Filesystem::Is(OTHER), ..facts() };
    assert_eq!(kind(&new, &is), Ok(MatchKind::Partition));
    assert!(compare(&new, &is).unwrap().same_path);
    let disk = Facts { hardware_id: Some(other_disk()), partition_uuid: None, ..is };
    assert_eq!(kind(&new, &disk), Err(Differs::Hardware));
    assert!(renewed(&new, &facts(), Filesystem::Unknown).is_none());
    assert!(renewed(&new, &facts(), Filesystem::Was(EXT4)).is_none());
    let gone = renewed(&new, &facts(), Filesystem::None).unwrap();
    assert_eq!((filesystem_of(&gone), gone.filesystem_uuid), (None, [0; 16]));
    let grown = Facts { sectors: Sectors(2000), ..facts() };
    assert_eq!(renewed(&new, &grown, Filesystem::Unknown).unwrap().sectors.get(), 2000);
    // The filesystem alone, where nothing else was looked at.
    assert!(with_filesystem(&new, Filesystem::Is(OTHER)).is_none());
    let other = with_filesystem(&new, Filesystem::Is(EXT4)).unwrap();
    assert_eq!((filesystem_of(&other), other.sectors), (Some(EXT4), new.sectors));
    // What one kind of identifier says is not replaced by another's.
    let id = Some(HardwareId { kind: 2, ..other_disk() });
    assert!(renewed(&new, &Facts { hardware_id: id, ..facts() }, Filesystem::Unknown).is_none());
}

#[test]
fn serial_numbers_are_hashed_as_documented() {
    assert_eq!(SerialHash::of(""), None);
    assert_eq!(SerialHash::of(" -_"), None);
    // The published value of FNV-1a for "foobar".
    assert_eq!(SerialHash::of("foobar"), Some(SerialHash(0x8594_4171_f739_67e8)));
    assert_eq!(SerialHash::of(" WD-12_3 "), Some(SerialHash(0x9cc9_dd94_23e7_0a52)));
    assert_ne!(SerialHash::of("WD-124"), SerialHash::of("WD-123"));
}

#[test]
fn the_end_of_a_path_is_kept_in_whole_characters() {
    let mut print = fingerprint(&nameless());
    for (path, kept) in [
        ("/dev/sda", "/dev/sda"),
        (PATH, "me-of-its-own-and-a-serial-part1"),
        (
            "/dev/disk/by-id/\u{fc}2345678901234567890123456789012",
            "2345678901234567890123456789012",
        ),
    ] {
        set_path(&mut print, path);
        let len = print.path.iter().position(|&b| b == 0).unwrap_or(32);
        assert_eq!(std::str::from_utf8(&print.path[..len]), Ok(kept));
        assert!(compare(&print, &Facts { path, ..nameless() }).unwrap().same_path);
        assert!(!compare(&print, &Facts { path: "/dev/sdb", ..nameless() }).unwrap().same_path);
    }
}

/// The pieces of a filesystem that a `mkfs` has made.
fn made(name: &str) -> [Block; 2] {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/images/filesystems/");
    let bytes = std::fs::read(format!("{folder}{name}")).unwrap();
    [0, 4096].map(|at| {
        let mut block = Block::zeroed().unwrap();
        block.copy_from_slice(&bytes[at..at + 4096]);
        block
    })
}

fn seen(pieces: &[Block; 2]) -> Filesystem {
    filesystem([Some(&pieces[0]), Some(&pieces[1])])
}

const MADE: [&str; 4] = ["ext2", "ext4", "xfs", "btrfs"];

fn made_uuid() -> FilesystemUuid {
    FilesystemUuid::parse("5f0c2b1a-7d3e-4c68-9a57-1e2d3c4b5a69").unwrap()
}

#[test]
fn filesystems_are_known_by_what_their_programs_write() {
    assert_eq!(PIECES.map(|piece| (piece.start.0, piece.len.0)), [(0, 8), (128, 8)]);
    for name in MADE {
        let pieces = made(name);
        assert_eq!(seen(&pieces), Filesystem::Is(made_uuid()), "{name}");
        // What cannot be read does not hide what can.
        let own = usize::from(name == "btrfs");
        let mut some = [Some(&pieces[0]), Some(&pieces[1])];
        some[1 - own] = None;
        assert_eq!(filesystem(some), Filesystem::Is(made_uuid()), "{name}");
        some = [Some(&pieces[0]), Some(&pieces[1])];
        some[own] = None;
        assert_eq!(filesystem(some), Filesystem::Unknown, "{name}");
    }
    let blank = [0, 1].map(|_| Block::zeroed().unwrap());
    assert_eq!(seen(&blank), Filesystem::None);
    // Two that contradict each other are none.
    let [_, second] = made("btrfs");
    let [first, _] = made("xfs");
    assert_eq!(seen(&[first, second]), Filesystem::None);
    // One without a UUID says nothing.
    let mut cleared = made("ext4");
    cleared[0][1024 + 0x68..1024 + 0x78].fill(0);
    assert_eq!(seen(&cleared), Filesystem::None);
}

#[test]
fn a_superblock_that_is_damaged_is_another_or_none_and_nothing_breaks() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for name in MADE {
        // Each bit of what makes a superblock one, apart.
        let (piece, checked): (usize, &[usize]) = match name {
            "xfs" => (0, &[0, 1, 2, 3]),
            "btrfs" => (1, &[0x40, 0x43, 0x47, 0x30, 0x32, 0x37]),
            _ => (0, &[1024 + 0x38, 1024 + 0x39]),
        };
        for &byte in checked {
            for bit in 0..8 {
                let mut pieces = made(name);
                pieces[piece][byte] ^= 1 << bit;
                assert_eq!(seen(&pieces), Filesystem::None, "{name} {byte} {bit}");
            }
        }
        for _ in 0..2000 {
            let mut pieces = made(name);
            for _ in 0..1 + draw() % 16 {
                pieces[draw() as usize % 2][draw() as usize % 4096] = draw() as u8;
            }
            assert_ne!(seen(&pieces), Filesystem::Unknown);
        }
    }
    for _ in 0..2000 {
        let mut pieces = [0, 1].map(|_| Block::zeroed().unwrap());
        pieces.iter_mut().for_each(|block| block.iter_mut().for_each(|byte| *byte = draw() as u8));
        assert_eq!(seen(&pieces), Filesystem::None);
    }
}

/// What is chosen for two members.
/// A header of a set whose main is [`facts`].
fn header_of_a_set() -> Header {
    let mut header = Header::new(&NewSet {
        uuid: SetUuid([7; 16]),
        history: 1,
        name: "",
        time: 0,
        layout: Layout::STANDARD,
        main_sectors: Sectors(1000),
        main_start: Sectors(0),
        line: "",
    })
    .unwrap();
    header.raw_mut().main = fingerprint(&facts());
    header
}

#[test]
fn while_main_is_replaced_only_what_copies_it_will_do() {
    let set = SetUuid([7; 16]);
    let of = |attempt| CopyOf { set, attempt: Attempt([attempt; 16]) };
    for each in [of(0), of(3)] {
        assert_eq!(Mapped::of(&format!("REMAP-CLONE-{each}")), Mapped::Copy(each));
    }
    assert_eq!(Mapped::of(&format!("REMAP-CLONE-{set}")), Mapped::Copy(of(0)));
    for other in [
        "LVM-x",
        "",
        "REMAP-CLONE-1",
        "REMAP-CLONEMETA-07070707070707070707070707070707",
        &format!("REMAP-CLONE-{set}-"),
        &format!("REMAP-CLONE-{set}-1"),
        &format!("REMAP-CLONE-{set}x{set}"),
    ] {
        assert_eq!(Mapped::of(other), Mapped::Yes, "{other}");
    }
    let mut header = header_of_a_set();
    // It looks as the old main does to whoever asks for identifiers.
    let copy = Facts { mapped: Mapped::Copy(of(3)), ..facts() };
    let other_attempt = Facts { mapped: Mapped::Copy(of(4)), ..facts() };
    let stranger = CopyOf { set: SetUuid([8; 16]), ..of(3) };
    let stranger = Facts { mapped: Mapped::Copy(stranger), ..facts() };
    fn kind(header: &Header, facts: &Facts<'_>) -> Result<MatchKind, Differs> {
        recognise_main(header, facts).map(|by| by.kind)
    }
    assert_eq!(kind(&header, &facts()), Ok(MatchKind::Partition));
    assert_eq!(kind(&header, &copy), Err(Differs::Copy));
    header.begin_replacement(Attempt([3; 16]));
    assert!(header.is_replacing());
    assert_eq!(kind(&header, &copy), Ok(MatchKind::Copy));
    // What an earlier attempt has copied lacks what has been written since that ended.
    assert_eq!(kind(&header, &other_attempt), Err(Differs::Attempt));
    assert_eq!(may_replace(&header, &other_attempt), Err(Differs::Attempt));
    assert_eq!(may_replace(&header, &copy), Ok(()));
    let nameless_copy = Facts { mapped: Mapped::Copy(of(0)), ..facts() };
    assert_eq!(kind(&header, &nameless_copy), Err(Differs::Attempt));
    for other in [facts(), stranger, Facts { mapped: Mapped::Yes, ..facts() }, nameless()] {
        assert_eq!(kind(&header, &other), Err(Differs::Replacing));
    }
    assert_eq!(print_of(&header, &copy).as_bytes(), fingerprint(&facts()).as_bytes());
    let new = Facts { serial: SerialHash::of("new"), ..facts() };
    assert_eq!(print_of(&header, &new).as_bytes(), fingerprint(&new).as_bytes());
    header.set_replacing(false);
    assert!(!header.is_replacing() && header.attempt() == Attempt::UNKNOWN);
    assert_eq!(kind(&header, &facts()), Ok(MatchKind::Partition));
}

#[test]
fn the_main_that_was_is_not_taken_again() {
    let size = Facts { sectors: Sectors(1000), ..nameless() };
    let with = |serial| Facts { serial: SerialHash::of(serial), ..size };
    let of_set = |facts| Facts { filesystem: Filesystem::Is(EXT4), ..facts };
    fn kind(header: &Header, facts: &Facts<'_>) -> Result<MatchKind, Differs> {
        recognise_main(header, facts).map(|by| by.kind)
    }
    // Both are as large and show the same filesystem; only the old one has told a serial number.
    let mut header = header_of_a_set();
    header.raw_mut().main = fingerprint(&of_set(with("old")));
    header.begin_replacement(Attempt([3; 16]));
    header.raw_mut().new_main = fingerprint(&with("new"));
    assert!(is_new_main(&header, &of_set(with("new"))) && !is_new_main(&header, &with("old")));
    header.end_replacement(fingerprint(&of_set(size)));
    assert_eq!(kind(&header, &of_set(with("old"))), Err(Differs::Replaced));
    assert_eq!(kind(&header, &of_set(with("new"))), Ok(MatchKind::Filesystem));
    assert!(!is_new_main(&header, &with("new")));
    // Once the new one's is known, all is clear.
    set_serial(&mut header.raw_mut().main, SerialHash::of("new").unwrap());
    assert_eq!(kind(&header, &of_set(with("old"))), Err(Differs::Serial));
    assert_eq!(kind(&header, &of_set(with("new"))), Ok(MatchKind::Serial));
    // Where nothing tells them apart, a filesystem that both have says nothing.
    header.raw_mut().main = fingerprint(&of_set(size));
    header.raw_mut().old_main = fingerprint(&of_set(size));
    assert_eq!(kind(&header, &of_set(size)), Ok(MatchKind::Size));
}

#[test]
fn it_can_be_told_whether_a_new_main_has_taken_over() {
    let mut header = header_of_a_set();
    let before = header.raw().main;
    assert!(!has_taken_over(&header, &before));
    let (new, other) = (Facts { sectors: Sectors(5000), ..nameless() }, nameless());
    // What else becomes known of main says nothing, nor does one that was given up long ago.
    header.raw_mut().main = fingerprint(&other);
    assert!(!has_taken_over(&header, &before));
    header.raw_mut().main = before;
    header.begin_replacement(Attempt([3; 16]));
    assert!(!has_taken_over(&header, &before));
    header.end_replacement(fingerprint(&new));
    // A checksum is known once it has been written.
    header.raw_mut().old_main.crc.set(7);
    assert!(has_taken_over(&header, &before));
    // The same device, or what cannot be told from it.
    header.raw_mut().main = before;
    assert!(!has_taken_over(&header, &before));
}

#[test]
fn a_fingerprint_can_be_sent_in_digits() {
    let print = fingerprint(&facts());
    let digits = Digits(&print).to_string();
    assert_eq!(digits.len(), 248);
    assert_eq!(of_digits(&digits).unwrap().as_bytes(), print.as_bytes());
    for wrong in ["", &digits[1..], &format!("{digits}0"), &digits.replace('0', "g")] {
        assert!(of_digits(wrong).is_none(), "{wrong}");
    }
}

#[test]
fn a_new_main_shows_what_was_copied_to_it_and_is_not_the_old_one() {
    let mut header = header_of_a_set();
    let new = Facts { filesystem: Filesystem::Is(EXT4), sectors: Sectors(5000), ..nameless() };
    for replacing in [false, true] {
        header.set_replacing(replacing);
        assert_eq!(may_replace(&header, &new), Ok(()));
        assert_eq!(may_replace(&header, &facts()), Err(Differs::Same));
        // Several mapped devices are on the same disk.
        assert_eq!(may_replace(&header, &Facts { mapped: Mapped::Yes, ..facts() }), Ok(()));
        let seen = |filesystem| may_replace(&header, &Facts { filesystem, ..new });
        assert_eq!(seen(Filesystem::Is(OTHER)), Err(Differs::Filesystem(OTHER, EXT4)));
        assert_eq!(seen(Filesystem::None), Err(Differs::NotCopied(EXT4)));
        assert_eq!(seen(Filesystem::Unknown), Ok(()));
        assert_eq!(seen(Filesystem::None.maybe_older()), Ok(()));
        let copy = |of| {
            let of = CopyOf { set: SetUuid([of; 16]), attempt: Attempt::UNKNOWN };
            may_replace(&header, &Facts { mapped: Mapped::Copy(of), ..facts() })
        };
        assert_eq!(copy(7), Ok(()));
        assert_eq!(copy(8), Err(Differs::Copy));
    }
}

#[test]
fn the_old_main_alone_may_be_main_again_while_it_is_being_replaced() {
    let mut header = header_of_a_set();
    assert_eq!(may_return(&header, &facts()), Err(Differs::NotReplacing));
    header.set_replacing(true);
    assert_eq!(may_return(&header, &facts()), Ok(()));
    let of = CopyOf { set: SetUuid([7; 16]), attempt: Attempt::UNKNOWN };
    let copy = Facts { mapped: Mapped::Copy(of), ..facts() };
    assert_eq!(may_return(&header, &copy), Err(Differs::Copy));
    let new = Facts { partition_uuid: None, hardware_id: Some(other_disk()), ..facts() };
    assert!(may_return(&header, &new).is_err());
}

#[test]
fn what_is_pending_is_lost_with_the_old_main() {
    let extent = |start, len| Extent::new(MainSector(start), Sectors(len)).unwrap();
    let moved = Mapping::Remapped { spare: SpareId(0), to: SpareSector(9000) };
    let suspect = Mapping::Suspect { spare: SpareId(1), to: SpareSector(9500) };
    let rows = [
        (extent(0, 8), Mapping::Pending),
        (extent(8, 8), moved),
        (extent(16, 1), Mapping::Pending),
        (extent(17, 3), Mapping::Lost),
        (extent(24, 8), suspect),
    ];
    let mut edit = Table::empty(4).unwrap().edit().unwrap();
    rows.iter().for_each(|&(extent, mapping)| edit.set(extent, mapping).unwrap());
    let table = edit.finish(1, |_, _| Ok(0)).unwrap().table;
    let table = pending_is_lost(&table).unwrap().finish(2, |_, _| Ok(0)).unwrap().table;
    let found: Vec<_> = table.iter().map(|entry| (entry.extent, entry.mapping)).collect();
    let lost = Mapping::Lost;
    let wanted = [
        (extent(0, 8), lost),
        (extent(8, 8), moved),
        (extent(16, 4), lost),
        (extent(24, 8), suspect),
    ];
    assert_eq!(found, wanted);
}

fn chosen(prints: &[RawFingerprint], candidates: &[Facts<'_>]) -> Vec<Choice> {
    choose(prints, candidates).unwrap().iter().copied().collect()
}

#[test]
fn the_members_are_found_among_many_in_any_order() {
    let disk = |serial| Facts { serial: SerialHash::of(serial), ..nameless() };
    let prints = [fingerprint(&disk("A1")), fingerprint(&disk("B2"))];
    let devices =
        [disk("C3"), disk("B2"), Facts { sectors: Sectors(999), ..disk("A1") }, disk("A1")];
    let all = chosen(&prints, &devices);
    assert_eq!(all.iter().map(|c| c.unasked(90)).collect::<Vec<_>>(), [Some(3), Some(1)]);
    assert!(all.iter().all(|choice| choice.unasked(91).is_none()));
    let reversed: Vec<_> = devices.iter().rev().copied().collect();
    let all = chosen(&prints, &reversed);
    assert_eq!(all.iter().map(|c| c.unasked(90)).collect::<Vec<_>>(), [Some(0), Some(2)]);
    assert_eq!(chosen(&prints, &devices[..1]), [Choice::Nobody; 2]);
    assert_eq!(chosen(&prints, &[]), [Choice::Nobody; 2]);
}

#[test]
fn what_is_known_better_is_not_taken_for_something_else() {
    // The first member is known by its size alone, which is that of both devices.
    let mut known = fingerprint(&nameless());
    set_serial(&mut known, SerialHash::of("B2").unwrap());
    let prints = [fingerprint(&nameless()), known];
    let devices = [Facts { serial: SerialHash::of("B2"), ..nameless() }, nameless()];
    let all = chosen(&prints, &devices);
    let [Choice::Is(1, by), Choice::Is(0, best)] = all[..] else { panic!("{all:?}") };
    assert_eq!((by.kind, best.kind), (MatchKind::Size, MatchKind::Serial));
}

#[test]
fn who_cannot_be_told_apart_is_asked_about_unless_a_path_helps() {
    let print = fingerprint(&nameless());
    let devices = [nameless(), nameless(), nameless()];
    assert!(matches!(chosen(&[print], &devices)[..], [Choice::Unclear(0, _)]));
    assert_eq!(chosen(&[print], &devices)[0].unasked(0), None);
    // Nor is what is left over of them another member's.
    let length = fingerprint(&Facts { physical_block: 512, ..nameless() });
    let all = chosen(&[print, length], &devices);
    assert!(matches!(all[..], [Choice::Unclear(..), Choice::Nobody]), "{all:?}");
    // Two members that the same device fits as well.
    assert!(matches!(
        chosen(&[print, print], &devices[..1])[..],
        [Choice::Unclear(..), Choice::Unclear(..)]
    ));
    let mut hinted = print;
    set_path(&mut hinted, PATH);
    let devices = [nameless(), Facts { path: PATH, ..nameless() }];
    let all = chosen(&[hinted], &devices);
    assert_eq!(all[0].unasked(40), Some(1));
}

#[test]
fn how_well_a_device_has_to_be_known_is_a_setting_of_the_set() {
    let mut header = header_of_a_set();
    let default = u8::try_from(ASSEMBLE_MIN_MATCH.default).expect("percent");
    let mut settings = Settings::default();
    settings.to_raw(&mut header.raw_mut().settings);
    assert_eq!(least_match(&header), default);
    settings.set([("assemble_min_match", "70")], &Limits::default()).expect("percent");
    settings.to_raw(&mut header.raw_mut().settings);
    assert_eq!(least_match(&header), 70);
}

#[test]
fn what_is_seen_of_an_older_state_is_not_said_to_be_so_now() {
    let (is, was) = (Filesystem::Is(EXT4), Filesystem::Was(EXT4));
    assert_eq!((is.maybe_older(), was.maybe_older()), (was, was));
    assert_eq!(Filesystem::None.maybe_older(), Filesystem::Unknown);
    assert_eq!(Filesystem::Unknown.maybe_older(), Filesystem::Unknown);
}
