//! The same as in `boot`, with an initramfs made by dracut: the root filesystem lives on a set.

use crate::{come_up, on_a_set};
use remap_harness::{Drive, Machine, System};

/// What dracut says when it gives up looking for the root filesystem.
const GIVES_UP: &str = "Boot has failed";

#[test]
fn dracut_finds_the_root_filesystem_on_a_set_and_does_not_mount_it_without() {
    let (system, main) = System::installed().by_dracut().onto_drive("main");
    let spare = Drive::blank("spare", 32 * 2048);
    let system = on_a_set(system, &main, &spare);
    let machine = Machine::builder().system(&system).drive(&spare).drive(&main).boot();
    come_up(&machine);
    assert_eq!(machine.ok("findmnt -n -o SOURCE /"), "/dev/mapper/root");
    assert_eq!(machine.ok("cat /etc/motd"), "through the set");
    machine.ok("echo kept >/etc/kept && sync");
    machine.shutdown();

    // Its spare is not there: main is there, and is not taken.
    let builder = Machine::builder().system(&system).drive(&main);
    let machine = builder.append("rd.retry=20 rd.timeout=30 rd.shell=0").boot_until(GIVES_UP);
    assert!(!machine.kernel_log().contains("EXT4-fs (vd"), "main was mounted without its set");
    assert_eq!(main.counters().writes, 0);
    machine.power_cut(1);
}
