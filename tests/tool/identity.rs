//! What `dmremap` knows of devices, and which of them it takes for whose.

use crate::{Spare, MAIN, SPARE};
use dmremap::devices::{members, Known, Member};
use remap_harness::image::{crc, Image};
use remap_pure::format::CommitKind;
use remap_pure::identity::{set_serial, HardwareId, Mapped, SerialHash};
use remap_pure::recovery::recover;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A folder with files as the kernel and udev have them.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("dmremap-tree-{}-{name}", std::process::id())))
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // One that is left behind does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_partition_is_known_by_its_uuid_and_its_disk_by_what_that_gives() {
    let tree = Tree::new("scsi");
    let disk = "sys/devices/pci/host0/block/sda";
    tree.file(&format!("{disk}/dev"), "8:0\n");
    // A name, an identifier of the port, and two of the unit.
    let page = b"\0\x83\0\x28\x02\x01\0\x08VENDOR12\x01\x13\0\x08PORTPORT\x01\x03\0\x08\x51\x01\x02\x03\x04\x05\x06\x07\x01\x03\0\x08\x50\x01\x02\x03\x04\x05\x06\x07\x01\x03\0\x10cut";
    tree.file(&format!("{disk}/device/vpd_pg83"), page);
    tree.file(&format!("{disk}/device/vpd_pg80"), b"\0\x80\0\x08  WD-12 3");
    tree.file(&format!("{disk}/sda1/partition"), "1\n");
    tree.file(&format!("{disk}/sda1/uevent"), "DEVTYPE=partition\nPARTUUID=0a1b2c3d-01\n");
    tree.file("run/udev/data/b8:0", "E:ID_SERIAL_SHORT=something else\n");
    tree.link("sys/dev/block/1:3", "../../devices/pci/host0/block/sda/sda1");
    tree.link("sys/dev/block/8:0", "../../devices/pci/host0/block/sda");
    // Any device that is there, 1:3, stands for the partition.
    tree.link("dev/disk/by-id/ata-B-part1", "/dev/null");
    tree.link("dev/disk/by-id/ata-A part1", "/dev/null");
    tree.link("dev/disk/by-id/ata-A", "/dev/zero");
    let bytes = *b"\x50\x01\x02\x03\x04\x05\x06\x07\0\0\0\0\0\0\0\0";
    let known = Known {
        partition_uuid: Some("0a1b2c3d-01".into()),
        hardware_id: Some(HardwareId { kind: 3, len: 8, bytes }),
        serial: Some("WD12".into()),
        path: Some(tree.0.join("dev/disk/by-id/ata-B-part1").display().to_string()),
        mapped: Mapped::No,
    };
    assert_eq!(Known::of(&tree.0, 1, 3), known);
    let whole = Known { partition_uuid: None, path: None, ..known };
    assert_eq!(Known::of(&tree.0, 8, 0), whole);
}

#[test]
fn other_disks_are_known_by_what_they_have() {
    let tree = Tree::new("others");
    tree.file("sys/dev/block/254:0/serial", "virtio-1\n");
    assert_eq!(Known::of(&tree.0, 254, 0).serial.as_deref(), Some("virtio1"));
    tree.file("sys/dev/block/259:0/device/serial", "S4EV   \n");
    tree.file("sys/dev/block/259:0/nguid", "00000000-0000-0000-0000-000000000000\n");
    tree.file("sys/dev/block/259:0/eui", "00 25 38 5a 01 02 03 04\n");
    let nvme = Known::of(&tree.0, 259, 0);
    let bytes = *b"\x00\x25\x38\x5a\x01\x02\x03\x04\0\0\0\0\0\0\0\0";
    assert_eq!(nvme.hardware_id, Some(HardwareId { kind: 2, len: 8, bytes }));
    assert_eq!(nvme.serial.as_deref(), Some("S4EV"));
    tree.file("sys/dev/block/8:16/dev", "8:16\n");
    tree.file("sys/dev/block/8:16/device/vpd_pg80", b"\0\x80\0\xff");
    tree.file("run/udev/data/b8:16", "E:ID_SERIAL=Some_USB_42\nE:ID_SERIAL_SHORT=42\n");
    assert_eq!(Known::of(&tree.0, 8, 16).serial.as_deref(), Some("42"));
    assert_eq!(Known::of(Path::new("/nowhere"), 8, 16), Known::default());
}

#[test]
fn the_devices_of_a_live_set_are_read_from_what_it_says() {
    let line = "254:0 254:16 2 spare 254:32";
    let status =
        "set x\nspare 0 254:16 0+65536 active u\ncopy 0.0 sector 0 good\nspare 1 - away v\n";
    let member = |word: &str, minor| Member { word: word.into(), device: (254, minor) };
    let all = [member("main", 0), member("0", 16)];
    assert_eq!(members(line, status).unwrap(), all);
    members("254 254:16", "").unwrap_err();
    members("", "").unwrap_err();
}

#[test]
fn a_set_says_which_device_is_its_main() {
    let made =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/images/filesystems/ext4"))
            .unwrap();
    let main = |name: &str, sectors, changed: u8| {
        let main = Spare::of(name, &Image::blank(sectors));
        let mut bytes = made.clone();
        bytes[1024 + 0x68] ^= changed;
        main.write(0, 0, &bytes[..4096]);
        main
    };
    let (right, wrong, short) =
        (main("main", MAIN, 0), main("other", MAIN, 1), main("short", 8, 0));
    let mut image = Image::blank(SPARE);
    image.create(MAIN, [(4096, 8)].into_iter());
    let mut change = |kept: u8| {
        let mut uuid: [u8; 16] = made[1024 + 0x68..1024 + 0x78].try_into().unwrap();
        uuid[0] ^= kept;
        let mut meta = recover(&mut image, crc).unwrap().into_metadata();
        let prepared = meta.begin(CommitKind::Identity, 2, None, |header| {
            let print = &mut header.raw_mut().main;
            print.filesystem_uuid = uuid;
            print.known.set(print.known.get() | 16);
            set_serial(print, SerialHash::of("WD123").unwrap());
        });
        prepared.unwrap().write_group_a(&mut image).unwrap().write_group_b(&mut image);
        Spare::of("spare", &image)
    };
    let among = |devices: &[&Spare]| {
        devices
            .iter()
            .fold("inspect".to_owned(), |line, device| format!("{line} --among {}", device.path()))
    };
    let spare = change(0);
    spare.run("inspect").is(
        0,
        &[
            "blocks of 512 and 512 bytes",
            "serial number's hash 9cc9dd9423e70a52",
            "filesystem 5f0c2b1a-7d3e-4c68-9a57-1e2d3c4b5a69",
        ],
    );
    let is = format!("main        is {}, match filesystem-uuid 70", right.path());
    spare.run(&among(&[&wrong, &right, &short, &spare])).is(
        0,
        &[&is, &format!("spare 0     may be {}, match size 40; 70 is asked for", spare.path())],
    );
    spare.run(&among(&[&right, &wrong])).is(0, &[&is, "spare 0     is none of them"]);
    spare.run(&among(&[&wrong, &short])).is(
        0,
        &[
            "main        is none of them",
            "its filesystem is 5e0c2b1a-7d3e-4c68-9a57-1e2d3c4b5a69, and was 5f0c",
            "it has 8 sectors, and had 1048576",
        ],
    );
    // Both have another one now: neither is main.
    let spare = change(2);
    let run = spare.run(&among(&[&right, &wrong])).is(0, &["main        is none of them"]);
    assert_eq!(run.text.matches("its filesystem is").count(), 2, "{}", run.text);
}
