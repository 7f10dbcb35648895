// SPDX-License-Identifier: GPL-2.0

//! Which device is taken for which.

use remap_pure::identity::{compare, fingerprint, Differs, Facts, HardwareId};
use remap_pure::units::Sectors;

const GPT: &str = "01234567-89ab-cdef-0123-456789abcdef";

const NAA: HardwareId =
    HardwareId { kind: 3, len: 8, bytes: *b"\x50\x01\x02\x03\x04\x05\x06\x07\0\0\0\0\0\0\0\0" };

fn facts() -> Facts<'static> {
    Facts {
        partition_uuid: Some(GPT),
        hardware_id: Some(NAA),
        sectors: Sectors(1000),
        logical_block: 512,
        physical_block: 4096,
        path: "/dev/disk/by-id/ata-something-with-a-very-long-name-of-its-own-and-a-serial-part1",
    }
}

#[test]
fn a_device_is_recognised() {
    assert_eq!(compare(&fingerprint(&facts()), &facts()), Ok(()));
    let nameless = Facts { partition_uuid: None, path: "", ..facts() };
    assert_eq!(compare(&fingerprint(&nameless), &nameless), Ok(()));
    // Who had no identifier when it was taken is known by its size.
    assert_eq!(compare(&fingerprint(&nameless), &facts()), Ok(()));
}

#[test]
fn another_identifier_refuses_whatever_else_agrees() {
    for other in ["01234567-89ab-cdef-0123-456789abcdee", "abcd1234-01"] {
        let other = Facts { partition_uuid: Some(other), ..facts() };
        assert_eq!(compare(&fingerprint(&facts()), &other), Err(Differs::Partition));
        assert_eq!(compare(&fingerprint(&other), &facts()), Err(Differs::Partition));
        assert_eq!(compare(&fingerprint(&other), &other), Ok(()));
    }
}

#[test]
fn another_disk_of_the_same_size_is_refused() {
    let whole = Facts { partition_uuid: None, ..facts() };
    let mut bytes = NAA.bytes;
    bytes[7] ^= 1;
    let other = Facts { hardware_id: Some(HardwareId { bytes, ..NAA }), ..whole };
    assert_eq!(compare(&fingerprint(&whole), &whole), Ok(()));
    assert_eq!(compare(&fingerprint(&whole), &other), Err(Differs::Hardware));
    // Identifiers of different kinds say nothing about each other; nor does one that is not there.
    let kind = Facts { hardware_id: Some(HardwareId { kind: 2, bytes, ..NAA }), ..whole };
    assert_eq!(compare(&fingerprint(&whole), &kind), Ok(()));
    let none = Facts { hardware_id: None, ..whole };
    assert_eq!(compare(&fingerprint(&whole), &none), Ok(()));
    assert_eq!(compare(&fingerprint(&none), &whole), Ok(()));
}

#[test]
fn a_device_that_has_grown_needs_an_identifier() {
    let grown = Facts { sectors: Sectors(1001), ..facts() };
    assert_eq!(compare(&fingerprint(&facts()), &grown), Ok(()));
    let nameless = Facts { partition_uuid: None, ..facts() };
    let grown = Facts { partition_uuid: None, ..grown };
    let size = Differs::Size(Sectors(1001), Sectors(1000));
    assert_eq!(compare(&fingerprint(&nameless), &grown), Err(size));
    assert_eq!(compare(&fingerprint(&facts()), &grown), Err(size));
}

#[test]
fn a_smaller_device_or_another_block_refuses() {
    let smaller = Facts { sectors: Sectors(999), ..facts() };
    let said = Differs::Smaller(Sectors(999), Sectors(1000));
    assert_eq!(compare(&fingerprint(&facts()), &smaller), Err(said));
    let block = Facts { logical_block: 4096, ..facts() };
    assert_eq!(compare(&fingerprint(&facts()), &block), Err(Differs::LogicalBlock(4096, 512)));
}
