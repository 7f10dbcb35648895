//! What the packages install, in a machine with the kernel that they were installed for. `make test-package` makes it and runs these.

use crate::{come_up, node};
use remap_harness::{Drive, Machine, Remap, System};

#[test]
#[ignore = "make test-package"]
fn the_module_that_dkms_built_moves_what_fails() {
    let system = System::packaged();
    let main = Drive::blank("main", 64 * 2048);
    let spare = Drive::blank("spare", 32 * 2048);
    let machine = Machine::builder().system(&system).drive(&main).drive(&spare).boot();
    come_up(&machine);
    assert_eq!(machine.ok("systemctl --failed --plain --no-legend"), "");
    assert_eq!(machine.ok("dmremap --version"), format!("dmremap {}", env!("CARGO_PKG_VERSION")));
    assert!(machine.ok("modinfo -F filename dm-remap").contains("/updates/dkms/"));
    // With the key that DKMS has for this machine, which Secure Boot is told of.
    assert!(!machine.ok("modinfo -F signer dm-remap").is_empty());
    let (raw, on) = (node(&machine, &main), node(&machine, &spare));
    machine.ok(&format!("dmremap create --yes --name r {raw} {on}"));
    let remap = Remap::existing(&machine, "r");
    main.fail_writes(4096..4104);
    machine.ok(
        "guest io write /dev/mapper/r 4096 8 moved && guest io check /dev/mapper/r 4096 8 moved",
    );
    assert_eq!(remap.status().remapped.0, 8);
    machine.ok("dmremap stop r && dmremap assemble r");
    machine.ok("guest io check /dev/mapper/r 4096 8 moved");
    machine.ok("dmremap dissolve --yes --dry-run r && dmremap stop r");
    machine.shutdown();
}
