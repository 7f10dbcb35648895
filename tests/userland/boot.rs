//! What happens when a machine boots: sets are found, and their mains are not mounted without them.

use remap_harness::{Machine, System};
use std::time::Duration;

#[test]
fn a_debian_machine_comes_up_and_goes_down() {
    let system = System::installed();
    let machine = Machine::builder().system(&system).boot();
    machine.run_for("systemctl is-system-running --wait", Duration::from_secs(240));
    eprintln!(
        "{}",
        machine.ok("systemctl --failed; systemd-analyze; systemd-analyze blame | head -30")
    );
    machine.shutdown();
}
