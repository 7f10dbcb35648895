//! Which main a set takes for its own.

use super::common::{one_partition, MIB};
use remap_harness::image::Image;
use remap_harness::{Drive, Machine, Remap};
use remap_pure::identity::{filesystem_of, FilesystemUuid, SerialHash};

const LENGTH: u64 = 64 * MIB;

/// Some UUID of a filesystem.
fn uuid(n: u32) -> String {
    format!("5f0c2b1a-7d3e-4c68-9a57-{n:012x}")
}

#[track_caller]
fn mkfs(machine: &Machine, n: u32, device: &str) {
    machine.ok(&format!("mkfs.ext4 -q -F -U {} {device}", uuid(n)));
}

/// By what the set knows its main.
#[track_caller]
fn known_by(remap: &Remap<'_>) -> String {
    let status = remap.message("metadata_status");
    let line = status.lines().find_map(|line| line.strip_prefix("match main "));
    line.unwrap_or_else(|| panic!("no match in {status}")).into()
}

/// Tries to activate, which has to fail with these words in the kernel log.
#[track_caller]
fn refused(machine: &Machine, arguments: &str, says: &str) {
    machine.ok("dmesg -c >/dev/null");
    let output = machine.run(&format!("dmsetup create bad --table '0 {LENGTH} remap {arguments}'"));
    let log = machine.ok("dmesg");
    assert_ne!(output.status, 0, "{arguments} was accepted:\n{log}");
    assert!(log.contains(says), "{arguments}: the log does not say '{says}':\n{log}");
}

#[test]
fn another_filesystem_is_another_main_unless_it_was_made_through_the_set() {
    let main = Drive::blank("main", LENGTH);
    let other = Drive::blank("other", LENGTH);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).drive(&other).module().boot();
    mkfs(&machine, 1, "/dev/vda");
    mkfs(&machine, 99, "/dev/vdc");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    assert_eq!(known_by(&remap), "filesystem-uuid 70");
    remap.message("remap 4096 8");
    machine.shutdown();

    // The drives come in another order.
    let machine = Machine::builder().drive(&other).drive(&spare).drive(&main).module().boot();
    let written = spare.counters().writes;
    let says = format!("its filesystem is {}, and was {}", uuid(99), uuid(1));
    refused(&machine, "/dev/vda /dev/vdb", &says);
    let wrong = format!("/dev/vda /dev/vdb 2 filesystem {}", uuid(1));
    refused(&machine, &wrong, &format!("the table line says {}", uuid(1)));
    assert_eq!(spare.counters().writes, written);
    let remap = Remap::create(&machine, "r", "/dev/vdc", "/dev/vdb");
    assert_eq!(known_by(&remap), "filesystem-uuid 70");

    // Made anew through the set, and let go: that is known.
    mkfs(&machine, 2, &remap.path());
    let version = remap.status().keys["version"].clone();
    remap.remove();
    let remap = Remap::create(&machine, "r", "/dev/vdc", "/dev/vdb");
    assert_eq!(known_by(&remap), "filesystem-uuid 70");
    assert_ne!(remap.status().keys["version"], version);
    refused(&machine, "/dev/vda /dev/vdb", "in use by dm-");

    // What is as it was is not committed again.
    let version = remap.status().keys["version"].clone();
    machine.ok("dmsetup suspend r && dmsetup resume r");
    assert_eq!(remap.status().keys["version"], version);

    // The superblock lives on the spare, and main shows an older one.
    remap.message("remap 0 16");
    mkfs(&machine, 3, &remap.path());
    remap.remove();
    assert_eq!(kept_filesystem(&spare), FilesystemUuid::parse(&uuid(3)));
    assert!(machine.ok("blkid -p -o value -s UUID /dev/vdc").contains(&uuid(2)));
    let remap = Remap::create(&machine, "r", "/dev/vdc", "/dev/vdb");
    assert_eq!(known_by(&remap), "size 40");
    machine.ok(&format!("e2fsck -fn {}", remap.path()));
    remap.message("unremap 0 16");
    remap.message("save");
    machine.power_cut(7);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(known_by(&remap), "filesystem-uuid 70");

    // Power is cut before the set knows of a new one: a person has to say.
    mkfs(&machine, 4, &remap.path());
    machine
        .ok("dd if=/dev/zero of=/dev/mapper/r bs=512 seek=100000 count=1 oflag=direct conv=fsync");
    machine.power_cut(8);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let option = format!("filesystem {}", uuid(4));
    refused(&machine, "/dev/vda /dev/vdb", &format!("the option '{option}' says so"));
    let remap = Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb 2 {option}"));
    assert!(!remap.table().contains("filesystem"), "{}", remap.table());
    assert_eq!(kept_filesystem(&spare), FilesystemUuid::parse(&uuid(4)));
    machine.ok(&format!("e2fsck -fn {}", remap.path()));
    machine.power_cut(9);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(known_by(&remap), "filesystem-uuid 70");
    remap.remove();

    // It is not taken for another main while it is live, whatever is made on it and cannot be kept, because main
    // says nothing: it is suspended, which nobody waits for.
    machine.ok(&format!("dmsetup create low --table '0 {LENGTH} linear /dev/vda 0'"));
    let remap = Remap::create(&machine, "r", "/dev/mapper/low", "/dev/vdb");
    assert_eq!(known_by(&remap), "filesystem-uuid 70");
    mkfs(&machine, 5, &remap.path());
    machine.ok("dmsetup suspend --nolockfs low && dmsetup suspend --nolockfs r");
    assert_eq!(kept_filesystem(&spare), FilesystemUuid::parse(&uuid(4)));
    machine.ok("dmsetup resume low && dmsetup resume r");
    assert_eq!(known_by(&remap), "size 40");
    assert_eq!(kept_filesystem(&spare), FilesystemUuid::parse(&uuid(5)));
    // The same for a table that takes the place of another.
    mkfs(&machine, 6, &remap.path());
    let load = format!("dmsetup load r --table '0 {LENGTH} remap /dev/mapper/low /dev/vdb'");
    machine
        .ok(&format!("{load} && dmsetup suspend --nolockfs low && dmsetup suspend --nolockfs r"));
    machine.ok("dmsetup resume low && dmsetup resume r");
    assert_eq!(kept_filesystem(&spare), FilesystemUuid::parse(&uuid(6)));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_filesystem_is_kept_by_the_first_save_that_comes_about() {
    let (main, spare) = (Drive::blank("main", LENGTH), Drive::blank("spare", 32 * MIB));
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    mkfs(&machine, 1, "/dev/vda");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    spare.fail_writes(0..spare.sectors());
    remap.message_fails("save");
    assert_eq!(remap.status().keys["persist"], "failed");
    mkfs(&machine, 2, &remap.path());
    spare.heal(0..spare.sectors());
    remap.message("save");
    assert_eq!(kept_filesystem(&spare), FilesystemUuid::parse(&uuid(2)));
    remap.remove();
    machine.shutdown();
}

/// The UUID that the set has for its main's filesystem.
fn kept_filesystem(spare: &Drive) -> Option<FilesystemUuid> {
    filesystem_of(&Image::of(spare).recover().header().raw().main)
}

#[test]
fn what_identifies_the_device_holds_whatever_is_made_on_it() {
    let main = Drive::blank("main", LENGTH + 2048);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    one_partition(&machine, "/dev/vda", LENGTH);
    mkfs(&machine, 1, "/dev/vda1");
    let remap = Remap::create(&machine, "r", "/dev/vda1", "/dev/vdb 1 create");
    assert_eq!(known_by(&remap), "partition-uuid 100");
    for (message, errno, says) in [
        ("identify main serial ...", "Invalid argument", "no letter or digit"),
        ("identify 1 serial x", "No such", "the set has no spare 1"),
        ("identify 9 serial x", "Invalid argument", "neither 'main' nor the number"),
        ("identify main path vda", "Invalid argument", "must begin with '/'"),
    ] {
        let said = remap.message_fails(message);
        assert!(said.contains(errno), "{message}: {said}");
        let status = remap.message("metadata_status");
        assert!(
            status.lines().any(|l| l.starts_with("last_error") && l.contains(says)),
            "{status}"
        );
    }
    // What only user space knows.
    machine.start_udev();
    machine.ok("mkdir -p /dev/disk/by-id");
    machine.ok("ln -s /dev/vda1 /dev/disk/by-id/virtio-main-part1");
    let version = remap.status().keys["version"].clone();
    let said = "identify main serial main\nidentify main path /dev/disk/by-id/virtio-main-part1\nidentify 0 serial spare";
    assert_eq!(machine.ok("dmremap identify --dry-run r"), said);
    assert_eq!(remap.status().keys["version"], version);
    assert_eq!(machine.ok("dmremap identify r"), said);
    assert!(machine.fails("dmremap identify nothing").contains("nothing"));
    mkfs(&machine, 2, &remap.path());
    machine.power_cut(5);
    let mut image = Image::of(&spare);
    let found = image.recover();
    let raw = found.header().raw();
    let serial = |text| SerialHash::of(text).unwrap().0;
    assert_eq!(raw.main.serial_hash.get(), serial("main"));
    assert_eq!(&raw.main.path, b"dev/disk/by-id/virtio-main-part1");
    assert_eq!(raw.fingerprints[0].serial_hash.get(), serial("spare"));
    assert_eq!(filesystem_of(&raw.main), FilesystemUuid::parse(&uuid(1)));

    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda1", "/dev/vdb");
    assert_eq!(known_by(&remap), "partition-uuid 100");
    machine.wait_for_log("has another filesystem than", std::time::Duration::from_secs(10));
    assert_eq!(kept_filesystem(&spare), FilesystemUuid::parse(&uuid(2)));
    remap.remove();
    // Another partition is refused, and so is the whole disk.
    machine.ok("printf '\\377' | dd of=/dev/vda bs=1 seek=440 conv=notrunc,fsync 2>/dev/null && blockdev --rereadpt /dev/vda");
    refused(&machine, "/dev/vda1 /dev/vdb", "its partition UUID is another one");
    refused(&machine, "/dev/vda /dev/vdb", "it has 133120 sectors, and had 131072");
    machine.shutdown();
}

#[test]
fn a_device_without_what_main_is_known_by_is_warned_of() {
    let (main, blank) = (Drive::blank("main", LENGTH), Drive::blank("blank", LENGTH));
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).drive(&blank).module().boot();
    let warning = "has no filesystem-uuid, by which the set knows its main";
    mkfs(&machine, 1, "/dev/vda");
    Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create").remove();
    Remap::create(&machine, "r", "/dev/vda", "/dev/vdb").remove();
    assert!(!machine.kernel_log().contains(warning), "{}", machine.kernel_log());
    let remap = Remap::create(&machine, "r", "/dev/vdc", "/dev/vdb");
    assert_eq!(known_by(&remap), "size 40");
    assert!(machine.kernel_log().contains(warning), "{}", machine.kernel_log());
    remap.remove();
    machine.shutdown();
}
