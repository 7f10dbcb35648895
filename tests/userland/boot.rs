//! What happens when a machine boots: sets are found, and their mains are not mounted without them.

use crate::{come_up, node, on_a_set};
use remap_harness::{Drive, Machine, Remap, System};
use std::time::Duration;

const MIB: u64 = 2048;
const FILESYSTEM: &str = "1f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f";

/// Waits until a link of udev's leads there, or, if that is nothing, is gone: udev hears of a write when it is over.
#[track_caller]
fn leads(machine: &Machine, link: &str, to: &str) {
    let now = format!("$([ ! -e {link} ] || readlink -f {link})");
    let there = if to.is_empty() { String::new() } else { format!("$(readlink -f {to})") };
    let wait = format!(
        "for i in $(seq 100); do udevadm settle --timeout=600; [ \"{now}\" = \"{there}\" ] && exit; sleep 0.3; done; echo \"{link} leads to {now}\" >&2; exit 1"
    );
    machine.ok(&wait);
}

#[test]
fn main_is_hidden_and_mounted_only_through_its_set() {
    let system = System::installed();
    let main = Drive::blank("main", 96 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().system(&system).drive(&main).drive(&spare).boot();
    come_up(&machine);
    assert_eq!(machine.ok("systemctl --failed --plain --no-legend"), "");
    let (raw, on) = (node(&machine, &main), node(&machine, &spare));
    // What udev has not finished looking at it does not hear written to.
    machine.ok(&format!(
        "udevadm settle --timeout=600 && mkfs.ext4 -q -U {FILESYSTEM} -L things {raw} && udevadm settle --timeout=600"
    ));
    let by_uuid = format!("/dev/disk/by-uuid/{FILESYSTEM}");
    leads(&machine, &by_uuid, &raw);
    assert!(machine.fails(&format!("dmremap hides {raw}")).contains("of no set"));

    // A set: its UUID is drawn when it is made.
    machine.ok("modprobe dm-remap");
    Remap::create(&machine, "things", &raw, &format!("{on} 3 create name things")).remove();
    let says = machine.ok(&format!("dmremap inspect {on}"));
    let uuid = says.lines().find_map(|line| line.strip_prefix("set ")).unwrap().trim().to_owned();
    let create = format!(
        "dmsetup create things --uuid REMAP-{uuid} --table \"0 {} remap {raw} {on}\"",
        main.sectors()
    );
    machine.ok(&create);
    let set = machine.ok("readlink -f /dev/mapper/things");
    for path in [
        &by_uuid,
        "/dev/disk/by-label/things",
        &format!("/dev/disk/by-id/dm-uuid-REMAP-{uuid}"),
        &format!("/dev/dm-remap/by-uuid/{uuid}"),
        "/dev/dm-remap/by-name/things",
    ] {
        leads(&machine, path, &set);
    }
    assert_eq!(
        machine.ok(&format!("dmremap hides {raw}")),
        format!("DMREMAP_MAIN_OF={uuid}\nDMREMAP_AUTO=1")
    );
    assert_eq!(
        machine.ok(&format!("dmremap hides {on}")),
        format!("DMREMAP_SPARE_OF={uuid}\nDMREMAP_AUTO=1")
    );
    machine.ok("mount /dev/mapper/things /mnt && echo kept >/mnt/file && umount /mnt");

    // The configuration knows main, whatever else is there.
    let line = machine.ok("dmremap config");
    assert!(line.contains(&format!("uuid={uuid}")) && line.contains("serial=main"), "{line}");
    machine.ok("dmremap config >>/etc/dmremap.conf && mkdir /things");
    machine.ok(&format!(
        "echo UUID={FILESYSTEM} /things ext4 nofail,x-systemd.device-timeout=15s 0 2 >>/etc/fstab"
    ));
    machine.ok("dmsetup remove things && udevadm settle --timeout=600");
    for path in [&by_uuid, "/dev/disk/by-label/things"] {
        leads(&machine, path, "");
    }
    for tag in [format!("UUID={FILESYSTEM}"), "LABEL=things".into()] {
        machine.fails(&format!("mount {tag} /mnt"));
    }
    // With nofail nothing is said.
    machine.run("mount /things");
    machine.fails("findmnt /things");
    assert!(machine.ok(&format!("udevadm info {raw}")).contains("SYSTEMD_READY=0"));
    machine.ok(&create);
    machine.ok("mount /things && grep kept /things/file && umount /things");
    machine.shutdown();

    // A boot in which the set cannot be assembled.
    let machine = Machine::builder().system(&system).drive(&main).boot();
    come_up(&machine);
    let raw = node(&machine, &main);
    machine.fails("findmnt /things");
    machine.fails(&format!("mount UUID={FILESYSTEM} /mnt"));
    leads(&machine, &by_uuid, "");
    assert_eq!(
        machine.ok(&format!("dmremap hides {raw}")),
        format!("DMREMAP_MAIN_OF={uuid}\nDMREMAP_AUTO=1\nDMREMAP_LISTED=1\nDMREMAP_NAME=things")
    );
    assert_eq!(main.counters().writes, 0, "main was written to without its set");
    machine.ok("sed -i s/device-timeout=15s/device-timeout=infinity/ /etc/fstab");
    machine.shutdown();

    // One in which it can, with other names for its devices, and a spare that is slow to appear.
    spare.slow_down(0..8, Duration::from_secs(2));
    let machine = Machine::builder().system(&system).drive(&spare).drive(&main).boot();
    come_up(&machine);
    let set = machine.ok("readlink -f /dev/mapper/things");
    leads(&machine, &format!("/dev/dm-remap/by-uuid/{uuid}"), &set);
    leads(&machine, &by_uuid, &set);
    assert_eq!(machine.ok("findmnt -n -o SOURCE /things"), "/dev/mapper/things");
    machine.ok("grep kept /things/file");
    let log = machine.kernel_log();
    let raw = |line: &&str| line.contains("EXT4-fs (vd") && line.contains(FILESYSTEM);
    assert_eq!(log.lines().find(raw), None, "main was mounted before its set was there");
    // Stopped by a person, it stays so.
    machine.ok("umount /things && dmremap stop things && udevadm settle --timeout=600");
    machine.ok(&format!("udevadm trigger --action=change --settle {}", node(&machine, &main)));
    machine.ok(&format!("udevadm trigger --action=change --settle {}", node(&machine, &spare)));
    machine.fails("dmsetup info things");
    machine.ok(&format!("dmremap assemble {uuid} && mount /things && grep kept /things/file"));
    machine.shutdown();
}

#[test]
fn sets_that_have_moved_to_another_machine_are_found_whatever_their_devices_are_called() {
    let drives: Vec<Drive> =
        ["main-a", "spare-a", "main-b", "spare-b"].map(|name| Drive::blank(name, 32 * MIB)).into();
    let [main_a, spare_a, main_b, spare_b] = &drives[..] else { unreachable!() };
    let machine = Machine::builder().drive(main_a).drive(spare_a).drive(main_b).drive(spare_b);
    let machine = machine.module().boot();
    machine.start_udev();
    for (name, main, spare) in [("a", "vda", "vdb"), ("b", "vdc", "vdd")] {
        machine.ok(&format!("dmremap create --yes --name {name} /dev/{main} /dev/{spare}"));
        machine.ok(&format!("dmremap remap {name} 4096 8"));
        machine.ok(&format!("guest io write /dev/mapper/{name} 4096 64 {name}"));
    }
    machine.shutdown();

    // Nothing there knows of them, and every name leads to another drive than before.
    let other = Drive::blank("other", 32 * MIB);
    let machine = Machine::builder().system(&System::installed()).drive(&other);
    let machine = machine.drive(spare_b).drive(main_b).drive(spare_a).drive(main_a).boot();
    come_up(&machine);
    for (name, main) in [("a", main_a), ("b", main_b)] {
        leads(&machine, &format!("/dev/dm-remap/by-name/{name}"), &format!("/dev/mapper/{name}"));
        let below = machine.ok(&format!("lsblk -n -s -l -o PATH /dev/mapper/{name}"));
        assert!(below.contains(&node(&machine, main)), "{below}");
        machine.ok(&format!("guest io check /dev/mapper/{name} 4096 64 {name}"));
    }
    machine.ok("dmremap stop --all");
    let said = machine.ok("dmremap assemble --all");
    assert_eq!(said.matches("is ready, main by").count(), 2, "{said}");
    for name in ["a", "b"] {
        machine.ok(&format!("guest io check /dev/mapper/{name} 4096 64 {name}"));
    }
    machine.shutdown();
}

/// What the machine says when it gives up looking for its root filesystem.
const GIVES_UP: &str = "Dropping to a shell!";

#[test]
fn the_root_filesystem_lives_on_a_set_and_is_not_mounted_without_it() {
    let (system, main) = System::installed().onto_drive("main");
    let spare = Drive::blank("spare", 32 * MIB);
    let system = on_a_set(system, &main, &spare);
    let machine = Machine::builder().system(&system).drive(&spare).drive(&main).boot();
    come_up(&machine);
    let root = machine.ok("readlink -f $(findmnt -n -o SOURCE /)");
    assert_eq!(root, machine.ok("readlink -f /dev/mapper/root"));
    assert_eq!(machine.ok("cat /etc/motd"), "through the set");
    machine.ok("echo kept >/etc/kept && sync");
    machine.shutdown();

    // Its spare is not there: main is there, and is not taken.
    let machine = Machine::builder().system(&system).drive(&main).boot_until(GIVES_UP);
    assert!(!machine.kernel_log().contains("EXT4-fs (vd"), "main was mounted without its set");
    assert_eq!(main.counters().writes, 0);
    machine.power_cut(1);

    let machine = Machine::builder().system(&system).drive(&main).drive(&spare).boot();
    assert_eq!(machine.ok("cat /etc/kept"), "kept");
    machine.shutdown();
}
