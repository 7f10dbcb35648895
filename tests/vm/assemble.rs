//! `dmremap create`, `scan`, `assemble` and `stop` on real devices.

use remap_harness::{Drive, Machine, Output, Remap};
use serde_json::Value;

const MIB: u64 = 2048;
const LENGTH: u64 = 64 * MIB;
const SPARE: u64 = 32 * MIB;

/// What `scan --json` says.
#[track_caller]
fn scan(machine: &Machine) -> Value {
    let output = machine.run("dmremap scan --json");
    serde_json::from_str(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}:\n{}{}", output.stdout, output.stderr))
}

/// The only set that is found.
#[track_caller]
fn only(machine: &Machine) -> Value {
    let all = scan(machine);
    assert_eq!(all["sets"].as_array().map(Vec::len), Some(1), "{all:#}");
    all["sets"][0].clone()
}

/// Runs a command that has to end with this status and say all of this, on whichever of its outputs.
#[track_caller]
fn says(machine: &Machine, status: i32, command: &str, words: &[&str]) -> Output {
    let output = machine.run(command);
    let all = format!("{}{}", output.stdout, output.stderr);
    assert_eq!(output.status, status, "{command}:\n{all}");
    for word in words {
        assert!(all.contains(word), "{command} does not say '{word}':\n{all}");
    }
    output
}

#[test]
fn a_set_is_created_found_let_go_and_assembled_whatever_its_drives_are_called() {
    let main = Drive::blank("main", LENGTH);
    let spare = Drive::blank("spare", SPARE);
    let other = Drive::blank("other", LENGTH);
    let machine = Machine::builder().drive(&main).drive(&spare).drive(&other).module().boot();
    machine.start_udev();
    machine.ok("modprobe ext4 && mkfs.ext4 -q -L data /dev/vda && mount -t ext4 /dev/vda /mnt && cp /bin/guest /mnt/file && umount /mnt");
    machine.ok("sha256sum </bin/guest >/tmp/sum");

    // Nothing is done without a person's word.
    let said = "a filesystem of ext4 'data'";
    says(
        &machine,
        0,
        "dmremap create --dry-run --name disk /dev/vda /dev/vdb",
        &[said, "stays as it is", "blank"],
    );
    says(
        &machine,
        1,
        "dmremap create --name disk /dev/vda /dev/vdb </dev/null",
        &["nothing was changed", "--yes"],
    );
    assert_eq!(spare.counters().writes, 0);
    assert_eq!(machine.ok("dmremap scan"), "no set is on any device of this machine");

    let create = "dmremap create --yes --name disk --set alert_threshold=70 /dev/vda /dev/vdb";
    says(&machine, 0, create, &["/dev/mapper/disk is ready"]);
    let remap = Remap::existing(&machine, "disk");
    let set = only(&machine);
    assert_eq!((&set["state"], &set["mapped_device"]), (&"in use".into(), &"disk".into()));
    let uuid = set["uuid"].as_str().unwrap().to_owned();
    let of_mapper = machine.ok("dmsetup info -c --noheadings -o uuid disk");
    assert_eq!(of_mapper, format!("REMAP-{uuid}"));
    assert_eq!(remap.message("get alert_threshold"), "70");
    machine.ok("mount -t ext4 /dev/mapper/disk /mnt && sha256sum </mnt/file | cmp - /tmp/sum");
    remap.message("remap 4096 64");

    // Whoever has it open is named.
    says(&machine, 1, "dmremap stop disk", &["mounted on /mnt", "umount /mnt"]);
    machine.ok("umount /mnt");
    let mut holder = machine.start("exec 3</dev/mapper/disk; echo open; exec sleep 1000");
    while !holder.stdout_so_far().contains("open") {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    says(&machine, 1, "dmremap stop disk", &["process", "has it open"]);
    holder.kill();
    holder.wait();
    says(&machine, 0, "dmremap stop --dry-run disk", &["would be stopped"]);
    says(&machine, 0, &format!("dmremap stop {uuid}"), &["is stopped"]);
    says(&machine, 0, "dmremap stop disk", &["is not in use"]);
    assert_eq!(only(&machine)["state"], "complete");
    machine.shutdown();

    // The drives come in another order, and one of the same size is there.
    let machine = Machine::builder().drive(&other).drive(&main).drive(&spare).module().boot();
    machine.start_udev();
    let set = only(&machine);
    assert_eq!(set["main"]["device"], "/dev/vdb");
    assert_eq!(set["main"]["match"]["by"], "serial");
    let written = spare.counters().writes;
    says(&machine, 0, "dmremap assemble --all --dry-run", &["would be assembled", "/dev/vdb"]);
    assert_eq!(spare.counters().writes, written);
    says(&machine, 0, "dmremap assemble --all", &["/dev/mapper/disk is ready, main by"]);
    says(&machine, 0, "dmremap assemble disk", &["in use as /dev/mapper/disk"]);
    says(&machine, 0, "dmremap assemble --all", &["in use as /dev/mapper/disk"]);
    assert_eq!(Remap::existing(&machine, "disk").status().remapped.0, 64);
    machine.ok("modprobe ext4 && mount -t ext4 -r /dev/mapper/disk /mnt && cat /mnt/file >/dev/null && umount /mnt");
    says(&machine, 0, "dmremap stop --all", &["disk is stopped"]);
    says(&machine, 0, "dmremap assemble --readonly /dev/vdc", &["for reading only"]);
    assert!(Remap::existing(&machine, "disk").status().line.contains("persist=readonly"));
    says(&machine, 0, "dmremap stop disk", &["is stopped"]);
    machine.shutdown();
}
