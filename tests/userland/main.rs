//! Tests in machines that run Debian, with its stock systemd and udev, and dm-remap installed as on any other.

mod boot;
mod dracut;
mod journeys;
mod package;

use remap_harness::{Drive, Machine};
use std::time::Duration;

/// Waits until systemd has started all that it is going to start.
fn come_up(machine: &Machine) {
    machine.run_for("systemctl is-system-running --wait", Duration::from_secs(600));
}

/// The kernel's name of a drive, which need not be the same at each boot.
fn node(machine: &Machine, drive: &Drive) -> String {
    machine.ok(&format!("readlink -f /dev/disk/by-id/virtio-{}", drive.name()))
}
