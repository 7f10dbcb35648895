//! Tests in machines that run Debian, with its stock systemd and udev, and dm-remap installed as on any other.

mod boot;
mod dracut;
mod journeys;
mod package;

use remap_harness::{Drive, Machine, Remap, System};
use std::time::Duration;

/// Waits until systemd has started all that it is going to start.
fn come_up(machine: &Machine) {
    machine.run_for("systemctl is-system-running --wait", Duration::from_secs(600));
}

/// The kernel's name of a drive, which need not be the same at each boot.
fn node(machine: &Machine, drive: &Drive) -> String {
    machine.ok(&format!("readlink -f /dev/disk/by-id/virtio-{}", drive.name()))
}

/// Has the root filesystem on `main` live on a set that a machine of its own makes; what of it is read first while booting lives on the spare
/// then. The set is in the configuration, on the disk and in the initramfs.
fn on_a_set(system: System, main: &Drive, spare: &Drive) -> System {
    let machine = Machine::builder().drive(main).drive(spare).module().boot();
    machine.start_udev();
    machine.ok("modprobe ext4");
    let remap = Remap::create(&machine, "root", "/dev/vda", "/dev/vdb 3 create name root");
    remap.message("remap 0 64");
    machine.ok("mount /dev/mapper/root /mnt && echo 'through the set' >/mnt/etc/motd");
    let line = machine.ok("dmremap config");
    assert!(line.contains("serial=main"), "{line}");
    machine.ok(&format!("echo '{line}' >>/mnt/etc/dmremap.conf && umount /mnt"));
    remap.remove();
    machine.shutdown();

    system.with_in_initrd("etc/dmremap.conf", &format!("{line}\n"))
}
