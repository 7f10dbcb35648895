//! What happens when a machine boots: sets are found, and their mains are not mounted without them.

use crate::{come_up, node};
use remap_harness::{Drive, Machine, Remap, System};

const MIB: u64 = 2048;
const FILESYSTEM: &str = "1f0e2d3c-4b5a-4697-8879-6a5b4c3d2e1f";

/// Waits until a link of udev's leads there, or, if that is nothing, is gone: udev hears of a write when it is over.
#[track_caller]
fn leads(machine: &Machine, link: &str, to: &str) {
    let now = format!("$([ ! -e {link} ] || readlink -f {link})");
    let wait = format!(
        "for i in $(seq 100); do udevadm settle; [ \"{now}\" = '{to}' ] && exit; sleep 0.3; done; echo \"{link} leads to {now}\" >&2; exit 1"
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
    machine.ok(&format!("mkfs.ext4 -q -U {FILESYSTEM} -L things {raw} && udevadm settle"));
    let by_uuid = format!("/dev/disk/by-uuid/{FILESYSTEM}");
    leads(&machine, &by_uuid, &raw);
    assert!(machine.fails(&format!("dmremap hides {raw}")).contains("of no set"));

    // A set: its UUID is drawn when it is made.
    machine.ok("modprobe dm-remap");
    Remap::create(&machine, "things", &raw, &format!("{on} 1 create")).remove();
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
    machine.ok("dmsetup remove things && udevadm settle");
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
        format!("DMREMAP_MAIN_OF={uuid}\nDMREMAP_AUTO=1")
    );
    assert_eq!(main.counters().writes, 0, "main was written to without its set");
    machine.shutdown();
}
