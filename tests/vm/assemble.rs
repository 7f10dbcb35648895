//! `dmremap create`, `scan`, `assemble` and `stop` on real devices.

use remap_harness::{Drive, Machine, Output, Remap};
use serde_json::Value;
use std::time::Duration;

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

/// A machine with these drives, the module, and something that answers for udev.
fn boot(drives: &[&Drive]) -> Machine {
    let builder = drives.iter().fold(Machine::builder(), |builder, drive| builder.drive(drive));
    let machine = builder.module().boot();
    machine.start_udev();
    machine
}

/// Main and two spares that are a set, which is not in use.
fn with_two_spares() -> ([Drive; 3], Machine) {
    let blank = |name: &str, len| Drive::blank(name, len);
    let drives = [blank("main", LENGTH), blank("one", SPARE), blank("two", SPARE)];
    let machine = boot(&drives.each_ref());
    let create = "dmremap create --yes --name disk /dev/vda /dev/vdb /dev/vdc";
    says(&machine, 0, create, &["is ready"]);
    machine.ok("dmremap stop disk");
    (drives, machine)
}

#[test]
fn a_set_is_created_found_let_go_and_assembled_whatever_its_drives_are_called() {
    let main = Drive::blank("main", LENGTH);
    let spare = Drive::blank("spare", SPARE);
    let other = Drive::blank("other", LENGTH);
    let machine = boot(&[&main, &spare, &other]);
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
        std::thread::sleep(Duration::from_millis(50));
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
    let machine = boot(&[&other, &main, &spare]);
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

#[test]
fn no_device_is_taken_that_is_in_use_or_carries_something_foreign() {
    let main = Drive::blank("main", LENGTH);
    let spare = Drive::blank("spare", SPARE);
    let third = Drive::blank("third", SPARE);
    let machine = boot(&[&main, &spare, &third]);
    machine.ok("modprobe ext4 && modprobe loop && mkfs.ext4 -q /dev/vda");
    let create = "dmremap create --yes --name disk /dev/vda /dev/vdb";

    // Main in use: mounted, held by another mapped device, as swap, under a loop device.
    machine.ok("mount -t ext4 /dev/vda /mnt");
    says(&machine, 1, create, &["/dev/vda is mounted on /mnt", "umount /mnt"]);
    machine.ok("umount /mnt && dmsetup create low --table '0 1000 linear /dev/vda 0'");
    says(&machine, 1, create, &["is a part of", "dmsetup remove low"]);
    machine.ok("dmsetup remove low && losetup /dev/loop0 /dev/vda");
    says(&machine, 1, create, &["is a part of /dev/loop0", "losetup -d /dev/loop0"]);
    machine.ok("losetup -d /dev/loop0");
    // And the spare.
    machine.ok("mkfs.ext4 -q -L keep /dev/vdb && mount -t ext4 /dev/vdb /mnt");
    says(&machine, 1, create, &["/dev/vdb is mounted on /mnt"]);
    machine.ok("umount /mnt");

    // Signatures of several kinds, and what none knows.
    for (make, kind) in [
        ("mkfs.ext4 -q -F -L keep /dev/vdb", "ext4 'keep'"),
        ("mkfs.xfs -q -f -L x /dev/vdb 2>/dev/null || mkfs.ext4 -q -F -O ^has_journal -L x /dev/vdb", "'x'"),
        ("mkswap /dev/vdb", "swap"),
        ("printf '\\125\\252' | dd of=/dev/vdb bs=1 seek=510 conv=notrunc; printf '\\203' | dd of=/dev/vdb bs=1 seek=450 conv=notrunc; printf '\\010' | dd of=/dev/vdb bs=1 seek=454 conv=notrunc; printf '\\010' | dd of=/dev/vdb bs=1 seek=458 conv=notrunc", "a partition table (dos)"),
        ("echo something | dd of=/dev/vdb bs=512 seek=3000 conv=notrunc", "something that is not known"),
    ] {
        machine.ok("dd if=/dev/zero of=/dev/vdb bs=1M conv=fsync 2>/dev/null; true");
        machine.ok(&format!("{{ {make}; }} >/dev/null 2>&1; sync; blockdev --rereadpt /dev/vdb 2>/dev/null; true"));
        let before = machine.ok("sha256sum </dev/vdb");
        says(&machine, 1, create, &["is not blank", kind, "--overwrite /dev/vdb"]);
        assert_eq!(machine.ok("sha256sum </dev/vdb"), before, "{kind}");
    }
    // What another one is named for is not given up here.
    says(&machine, 1, &format!("{create} --overwrite /dev/vdc"), &["names no spare"]);
    says(&machine, 0, &format!("{create} --overwrite /dev/vdb"), &["WHICH IS LOST", "is ready"]);

    // Neither of them can be taken for another set.
    says(
        &machine,
        1,
        "dmremap create --yes /dev/vda /dev/vdc",
        &["is a part of", "dmremap stop disk"],
    );
    says(&machine, 0, "dmremap stop disk", &[]);
    says(&machine, 1, "dmremap create --yes /dev/vda /dev/vdc", &["is main of set disk"]);
    says(&machine, 1, "dmremap create --yes /dev/vdb /dev/vdc", &["is a spare of set disk"]);
    says(
        &machine,
        1,
        "dmremap create --yes --name x /dev/vdc /dev/vdb",
        &["carries metadata of set", "dmremap wipe /dev/vdb"],
    );
    // Main that is mounted without the set, and then assembled.
    machine.ok("mount -t ext4 /dev/vda /mnt");
    says(&machine, 1, "dmremap assemble --all", &["/dev/vda is mounted on /mnt", "umount /mnt"]);
    machine.ok("umount /mnt");
    says(&machine, 0, "dmremap assemble --all", &["is ready"]);
    says(&machine, 0, "dmremap stop --all", &["is stopped"]);
    // Without the module there is a clear word of it.
    machine.ok("rmmod dm_remap");
    let said = says(
        &machine,
        1,
        "dmremap assemble --all",
        &["the kernel has no target 'remap'", "dm-remap-dkms"],
    );
    assert_eq!(machine.ok("dmsetup ls"), "No devices found", "{said:?}");
    machine.shutdown();
}

#[test]
fn members_that_are_missing_or_uncertain_stop_an_assembly_until_a_person_has_said_so() {
    let main = Drive::blank("main", LENGTH);
    let other = Drive::blank("other", LENGTH);
    let one = Drive::blank("one", SPARE);
    let two = Drive::blank("two", SPARE);
    let machine1 = boot(&[&main, &one, &two]);
    says(
        &machine1,
        0,
        "dmremap create --yes --name disk /dev/vda /dev/vdb /dev/vdc",
        &["is ready"],
    );
    let remap = Remap::existing(&machine1, "disk");
    remap.message("remap 4096 64");
    let status = remap.message("metadata_status");
    let second = status.lines().find_map(|line| line.strip_prefix("spare 1 ")).unwrap();
    let second = second.split_whitespace().last().unwrap().to_owned();
    machine1.ok("dmremap stop disk");
    machine1.shutdown();

    // Without main: another device of its size is none.
    let machine2 = boot(&[&other, &one, &two]);
    says(
        &machine2,
        5,
        "dmremap scan",
        &["main       missing", "not /dev/vda: its serial number is another one"],
    );
    says(&machine2, 5, "dmremap assemble --all --yes", &["main is missing"]);
    says(&machine2, 5, "dmremap assemble --wait 1 disk", &["main is missing"]);
    says(&machine2, 1, "dmremap assemble --main /dev/vda disk", &["is not main", "serial number"]);
    assert_eq!(machine2.ok("dmsetup ls"), "No devices found");
    machine2.shutdown();

    // Without a spare.
    let machine3 = boot(&[&main, &one]);
    let set = only(&machine3);
    assert_eq!(set["state"], "incomplete");
    assert_eq!(set["missing"][0]["uuid"], second.as_str());
    says(
        &machine3,
        5,
        "dmremap assemble --all",
        &["spare 1", "is missing", &format!("--absent {second}")],
    );
    says(
        &machine3,
        0,
        &format!("dmremap assemble --absent {second} disk"),
        &["left out", "is ready"],
    );
    machine3.ok("dmremap stop disk");
    // From now on the set knows.
    says(&machine3, 5, "dmremap assemble disk", &["is away", "--degraded"]);
    says(&machine3, 0, "dmremap assemble --degraded disk", &["is ready"]);
    machine3.ok("dmsetup message disk 0 set assemble_degraded 1");
    machine3.ok("dmremap stop disk");
    says(&machine3, 0, "dmremap assemble disk", &["is ready"]);
    // What the set asks for is obeyed: a person's word, or more certainty than a serial number gives.
    machine3.ok("dmsetup message disk 0 set assemble_confirm 1 && dmremap stop disk");
    says(&machine3, 1, "dmremap assemble disk </dev/null", &["asks for a person's word", "--yes"]);
    // Nobody is asked who does not see the question.
    let unseen = |arguments: &str| {
        format!("script -qefc 'dmremap assemble {arguments} >/dev/null' /tmp/said </dev/null")
    };
    let words = ["asks for a person's word", "there is no terminal to ask on", "--yes"];
    says(&machine3, 1, &unseen("disk"), &words);
    says(&machine3, 1, &unseen("--all"), &words);
    says(&machine3, 0, "dmremap assemble --yes disk", &["is ready"]);
    machine3.ok("dmsetup message disk 0 set assemble_min_match 95 && dmremap stop disk");
    says(
        &machine3,
        1,
        "dmremap assemble --yes disk",
        &["not assembled", "may be main: match serial 90, and 95 is asked for", "--main"],
    );
    says(
        &machine3,
        1,
        &unseen("--all"),
        &["not assembled", "may be main", "name main with --main"],
    );
    says(&machine3, 0, "dmremap assemble --yes --main /dev/vda disk", &["is ready"]);
    machine3.ok("dmremap stop disk");
    machine3.shutdown();

    // Who was away is taken back.
    let machine4 = boot(&[&two, &main, &one]);
    says(&machine4, 0, "dmremap assemble --yes --main /dev/vdb disk", &["is ready"]);
    assert_eq!(Remap::existing(&machine4, "disk").status().keys["away"], "0");
    machine4.ok("dmremap stop disk");
    machine4.shutdown();
}

#[test]
fn a_set_is_renamed_grows_and_is_dissolved() {
    let disk = Drive::blank("disk", LENGTH);
    let spare = Drive::blank("spare", SPARE);
    let machine = boot(&[&disk, &spare]);
    machine.ok("modprobe ext4");
    machine.ok(&format!("dmsetup create low --table '0 {} linear /dev/vda 0'", LENGTH / 2));
    machine.ok("mkfs.ext4 -q /dev/mapper/low");
    says(&machine, 0, "dmremap create --yes --name first /dev/mapper/low /dev/vdb", &["is ready"]);
    says(&machine, 0, "dmremap rename first second", &["is called second now"]);
    says(&machine, 0, "dmremap rename second second", &["is its name already"]);
    says(&machine, 1, "dmremap rename second low", &["is there already"]);
    let remap = Remap::existing(&machine, "second");
    assert!(remap.message("metadata_status").contains("\nname second\n"));

    // Main grows, and so does the set, with a filesystem mounted on it.
    machine.ok("mount -t ext4 /dev/mapper/second /mnt && cp /bin/guest /mnt/file");
    remap.message("remap 8192 64");
    says(&machine, 0, "dmremap resize --yes second", &["has all of main already"]);
    machine.ok(&format!("dmsetup suspend low && dmsetup load low --table '0 {LENGTH} linear /dev/vda 0' && dmsetup resume low"));
    says(&machine, 1, "dmremap resize --yes --sectors 4096 second", &["is not made smaller"]);
    says(&machine, 0, "dmremap resize --dry-run second", &["131072 remap", " grow"]);
    says(&machine, 0, "dmremap resize --yes second", &["has 131072 sectors"]);
    assert_eq!(machine.ok("blockdev --getsz /dev/mapper/second"), LENGTH.to_string());
    machine.ok("cmp /bin/guest /mnt/file");
    let end = LENGTH - 64;
    remap.message(&format!("remap {end} 64"));
    says(&machine, 1, "dmremap dissolve --yes second", &["is mounted on /mnt"]);
    machine.ok("umount /mnt && e2fsck -fn /dev/mapper/second");
    machine.ok("dmremap stop second");
    says(&machine, 0, "dmremap assemble second", &["is ready"]);
    assert_eq!(machine.ok("blockdev --getsz /dev/mapper/second"), LENGTH.to_string());
    assert_eq!(Remap::existing(&machine, "second").status().remapped.0, 128);

    // A spare that holds data is not wiped.
    says(&machine, 1, "dmremap wipe --yes /dev/vdb", &["is a part of"]);
    machine.ok("dmremap stop second");
    says(&machine, 1, "dmremap wipe --yes /dev/vdb", &["live on the spares", "--lost /dev/vdb"]);
    says(&machine, 0, "dmremap assemble second", &["is ready"]);

    let sum = machine.ok("sha256sum </dev/mapper/second");
    says(
        &machine,
        0,
        "dmremap dissolve --yes second",
        &["is dissolved", "/dev/vdb@0+65536 is blank"],
    );
    assert_eq!(machine.ok("sha256sum </dev/mapper/low"), sum);
    assert_eq!(machine.ok("dmremap scan"), "no set is on any device of this machine");
    says(&machine, 1, "dmremap wipe --yes /dev/vda", &["is a part of /dev/mapper/low"]);
    says(&machine, 0, "dmremap wipe --yes /dev/mapper/low", &["nothing of dm-remap"]);
    says(
        &machine,
        0,
        "dmremap create --yes --name again /dev/mapper/low /dev/vdb",
        &["blank", "is ready"],
    );
    machine.ok("dmremap stop again");
    says(&machine, 0, "dmremap wipe --yes /dev/vdb", &["is blank"]);

    // Main grows while its set is not in use.
    let low = |sectors: u64| format!("--table '0 {sectors} linear /dev/vda 0'");
    machine.ok(&format!("dmsetup remove low && dmsetup create low {}", low(LENGTH / 2)));
    machine.ok("mkfs.ext4 -q -F /dev/mapper/low");
    says(&machine, 0, "dmremap create --yes --name third /dev/mapper/low /dev/vdb", &["is ready"]);
    machine.ok("dmremap stop third && dmsetup remove low");
    machine.ok(&format!("dmsetup create low {}", low(LENGTH)));
    says(&machine, 5, "dmremap assemble --yes third", &["main is missing", "assemble --grown"]);
    let named = "--yes --main /dev/mapper/low third";
    says(&machine, 1, &format!("dmremap assemble {named}"), &["is not main", "assemble --grown"]);
    let named_at =
        |sectors: u64| format!("tail -n 1 /etc/dmremap.conf | grep -q ' sectors={sectors}$'");
    machine.ok(&named_at(LENGTH / 2));
    says(&machine, 0, &format!("dmremap assemble --grown {named}"), &["is ready"]);
    machine.ok(&named_at(LENGTH));
    assert_eq!(machine.ok("blockdev --getsz /dev/mapper/third"), LENGTH.to_string());
    machine.ok("dmremap stop third");
    says(&machine, 1, &format!("dmremap assemble --grown {named}"), &["has not grown"]);
    says(&machine, 0, &format!("dmremap assemble {named}"), &["is ready"]);
    machine.ok("dmremap stop third");
    machine.shutdown();
}

#[test]
fn a_set_with_blocks_that_cannot_be_read_is_dissolved_only_when_they_are_given_up() {
    let main = Drive::blank("main", LENGTH);
    let spare = Drive::blank("spare", SPARE);
    let machine = boot(&[&main, &spare]);
    says(&machine, 0, "dmremap create --yes --name disk /dev/vda /dev/vdb", &["is ready"]);
    let remap = Remap::existing(&machine, "disk");
    remap.message("remap 4096 64");
    // It lives on the spare, and is the first; so it is in the way of nothing.
    remap.message("remap 2048 8");
    let place = remap.place_of(2048).unwrap();
    spare.fail_until_written(place..place + 8);
    machine.run("dd if=/dev/mapper/disk of=/dev/null bs=4096 skip=256 count=1 iflag=direct");
    main.fail_until_written(20000..20008);
    machine.run("dd if=/dev/mapper/disk of=/dev/null bs=4096 skip=2500 count=1 iflag=direct");
    remap.wait_until(|status| status.pending.0 == 8);
    says(
        &machine,
        1,
        "dmremap dissolve --yes disk",
        &["20000+8: cannot be read on main", "--lost"],
    );
    assert_eq!(remap.status().remapped.0, 72);
    says(&machine, 0, "dmremap dissolve --yes --lost disk", &["is dissolved"]);
    says(&machine, 0, "dmremap scan", &["no set"]);
    machine.shutdown();
}

#[test]
fn what_has_come_to_the_spares_while_somebody_was_asked_is_not_wiped() {
    let (_drives, machine) = with_two_spares();
    // A person at a terminal, who thinks about it.
    let asked = |meanwhile: &dyn Fn()| {
        machine.ok("rm -f /tmp/said /tmp/go");
        let answer = "until [ -e /tmp/go ]; do sleep 0.1; done; echo y";
        let ask = "script -qefc 'dmremap dissolve disk' /tmp/said";
        let job = machine.start(&format!("({answer}) | {ask}"));
        machine.ok("until grep -q 'Go on?' /tmp/said; do sleep 0.1; done");
        meanwhile();
        machine.ok("touch /tmp/go");
        job.wait()
    };
    let output = asked(&|| {
        machine.ok("dmremap assemble disk && dmremap remap --yes disk 4096 64");
        machine.ok("guest io write /dev/mapper/disk 4096 64 moved && dmremap stop disk");
    });
    assert_eq!(output.status, 1, "{output:?}");
    assert!(
        output.stdout.contains("64 sectors") && output.stdout.contains("nothing is wiped"),
        "{output:?}"
    );
    says(&machine, 0, "dmremap assemble disk", &["is ready"]);
    machine.ok("guest io check /dev/mapper/disk 4096 64 moved");
    machine.ok("dmremap unremap --yes disk 4096 64 && dmremap stop disk");
    let output = asked(&|| ());
    assert_eq!(output.status, 0, "{output:?}");
    machine.ok("guest io check /dev/vda 4096 64 moved");
    // Nor does the configuration hide main any more.
    says(&machine, 0, "dmremap scan", &["no set is on any device"]);
    machine.shutdown();
}

#[test]
fn a_set_that_lacks_a_spare_is_dissolved_only_when_that_is_given_up() {
    let ([main, one, two], machine) = with_two_spares();
    machine.shutdown();
    // What is remapped there is known to nobody else.
    let machine = boot(&[&main, &two]);
    let missing = only(&machine)["missing"][0]["uuid"].as_str().unwrap().to_owned();
    machine.ok(&format!("dmremap assemble --absent {missing} disk"));
    machine.ok("dmremap remap --yes disk 4096 64");
    machine.ok("guest io write /dev/mapper/disk 4096 64 moved && dmremap stop disk");
    machine.shutdown();
    let machine = boot(&[&main, &one]);
    let missing = only(&machine)["missing"][0]["uuid"].as_str().unwrap().to_owned();
    let lacks = ["spare 1", &missing, "connect it", "--lost"];
    says(&machine, 1, "dmremap dissolve --yes disk", &lacks);
    assert_eq!(only(&machine)["missing"][0]["uuid"].as_str(), Some(&*missing));
    machine.shutdown();
    // What is as large is not what was wiped.
    let other = Drive::blank("other", SPARE);
    let machine = boot(&[&main, &one, &other]);
    says(&machine, 1, "dmremap dissolve --yes disk", &lacks);
    says(&machine, 0, "dmremap dissolve --yes --lost disk", &["is dissolved"]);
    machine.shutdown();
    // That has gone on without it.
    let machine = boot(&[&main, &one, &two]);
    says(&machine, 0, "dmremap assemble --degraded disk", &["is ready"]);
    machine.ok("guest io check /dev/mapper/disk 4096 64 moved");
    machine.ok("dmremap stop disk");
    machine.shutdown();
}

#[test]
fn a_device_of_one_set_does_not_become_something_else_of_another() {
    let (main, one) = (Drive::blank("main", LENGTH), Drive::blank("one", SPARE));
    let (two, three) = (Drive::blank("two", SPARE), Drive::blank("three", LENGTH));
    let machine = boot(&[&main, &one, &two, &three]);
    says(&machine, 0, "dmremap create --yes --name disk /dev/vda /dev/vdb", &["is ready"]);
    says(&machine, 0, "dmremap migrate --yes disk 0 /dev/vdc", &[]);
    let left = ["main /dev/vdb: ", "a spare of set", "dmremap wipe"];
    says(&machine, 1, "dmremap create --yes /dev/vdb /dev/vdd", &left);
    machine.ok("dmremap stop disk");
    let is_main = ["/dev/vda is main of set disk", "dissolve"];
    let overwrite = "dmremap create --yes --overwrite /dev/vda /dev/vdd /dev/vda";
    says(&machine, 1, overwrite, &is_main);
    says(&machine, 0, "dmremap wipe --yes /dev/vdb", &[]);
    says(&machine, 0, "dmremap create --yes --name other /dev/vdd /dev/vdb", &["is ready"]);
    let add = "dmremap spare add --yes --overwrite /dev/vda other /dev/vda";
    says(&machine, 1, add, &is_main);
    machine.ok("dmremap stop other");
    says(&machine, 0, "dmremap assemble disk", &["is ready"]);
    machine.ok("dmremap stop disk");
    machine.shutdown();
}

#[test]
fn what_lies_behind_the_part_that_a_set_uses_is_not_wiped() {
    let (main, spare) = (Drive::blank("main", LENGTH), Drive::blank("spare", SPARE));
    let machine = boot(&[&main, &spare]);
    let end = SPARE - 2048;
    for give_up in ["dissolve --yes disk", "wipe --yes /dev/vdb"] {
        let create = "dmremap create --yes --name disk /dev/vda /dev/vdb@0+32768";
        says(&machine, 0, create, &["is ready"]);
        machine.ok("dmremap stop disk");
        machine.ok(&format!("guest io write /dev/vdb {end} 2048 others"));
        machine.ok(&format!("dmremap {give_up}"));
        machine.ok(&format!("guest io check /dev/vdb {end} 2048 others"));
        assert!(machine.ok("dmremap wipe --yes /dev/vdb").contains("nothing of dm-remap"));
    }
    machine.shutdown();
}

#[test]
fn a_dissolution_that_is_interrupted_goes_on_where_it_was() {
    let main = Drive::blank("main", LENGTH);
    let spare = Drive::blank("spare", SPARE);
    let machine = boot(&[&main, &spare]);
    says(&machine, 0, "dmremap create --yes --name disk /dev/vda /dev/vdb", &["is ready"]);
    let remap = Remap::existing(&machine, "disk");
    machine.ok("dd if=/dev/urandom of=/dev/mapper/disk bs=1M count=16 conv=fsync 2>/dev/null");
    remap.message("remap 4096 8192");
    remap.wait_until(|status| status.remapped.0 == 8192 && status.keys["jobs"] == "0");
    let sum = machine.ok("sha256sum </dev/mapper/disk");
    main.slow_down(4096..12288, Duration::from_millis(300));
    let job = machine.start("echo $$ >/tmp/pid; exec dmremap dissolve --yes disk");
    remap.wait_until(|status| status.keys["jobs"] != "0");
    machine.ok("kill -INT $(cat /tmp/pid)");
    let output = job.wait();
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("'dmremap dissolve disk' goes on"), "{output:?}");
    assert!(remap.status().remapped.0 > 0);
    main.heal(4096..12288);
    says(&machine, 0, "dmremap dissolve --yes disk", &["is dissolved"]);
    assert_eq!(machine.ok("sha256sum </dev/vda"), sum);
    machine.shutdown();
}

#[test]
fn a_spare_that_goes_away_while_its_set_is_dissolved_keeps_the_set_in_use() {
    let ([main, _one, two], machine) = with_two_spares();
    says(&machine, 0, "dmremap assemble disk", &["is ready"]);
    let remap = Remap::existing(&machine, "disk");
    remap.message("remap 4096 8192");
    remap.wait_until(|status| status.remapped.0 == 8192 && status.keys["jobs"] == "0");
    main.slow_down(4096..12288, Duration::from_millis(300));
    let job = machine.start("dmremap dissolve --yes disk");
    remap.wait_until(|status| status.keys["jobs"] != "0");
    two.set_gone(true);
    main.heal(4096..12288);
    let output = job.wait();
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("a spare is away"), "{output:?}");
    assert_eq!((remap.status().remapped.0, &*remap.status().keys["away"]), (0, "1"));
    two.set_gone(false);
    remap.message("repair");
    says(&machine, 0, "dmremap dissolve --yes disk", &["is dissolved"]);
    says(&machine, 0, "dmremap scan", &["no set"]);
    machine.shutdown();
}

#[test]
fn a_set_in_use_is_dissolved_by_the_name_of_one_of_its_spares() {
    let (_drives, machine) = with_two_spares();
    says(&machine, 0, "dmremap assemble disk", &["is ready"]);
    Remap::existing(&machine, "disk").message("remap 4096 64");
    let words = ["disk: 64 sectors", "brought back to main"];
    says(&machine, 0, "dmremap dissolve --dry-run /dev/vdc", &words);
    says(&machine, 0, "dmremap dissolve --yes /dev/vdc", &["disk is dissolved"]);
    says(&machine, 0, "dmremap scan", &["no set"]);
    machine.shutdown();
}

#[test]
fn a_check_that_has_failed_is_told_although_somebody_has_the_set_open_by_then() {
    let ([_main, one, _two], machine) = with_two_spares();
    machine.ok("dmesg -c >/dev/null");
    // The check fails by a copy that can be read again when what is wrong is looked for.
    one.slow_down(0..8, Duration::from_secs(1));
    one.fail_reads(8192..9216);
    let opens =
        "until [ -b /dev/mapper/disk ]; do :; done; exec 3</dev/mapper/disk; exec sleep 1000";
    let holder = machine.start(opens);
    let job = machine.start("dmremap assemble --readonly disk");
    machine.wait_for_log("findings in the copies", Duration::from_secs(100));
    one.heal(8192..9216);
    let output = job.wait();
    assert_eq!(output.status, 1, "{output:?}");
    for word in ["the check after it was assembled failed", "check complete", "has it open"] {
        assert!(output.stderr.contains(word), "{word}: {output:?}");
    }
    holder.kill();
    holder.wait();
    one.heal(0..8);
    says(&machine, 0, "dmremap stop disk", &["is stopped"]);
    machine.shutdown();
}

#[test]
fn one_program_changes_the_configuration_at_a_time() {
    let (main, spare) = (Drive::blank("main", LENGTH), Drive::blank("spare", SPARE));
    let machine = boot(&[&main, &spare]);
    let blocked = |command: &str, done: &str, untouched: &str| {
        machine.ok("rm -f /tmp/has /tmp/go && mkdir -p /run/dmremap");
        let held = "touch /tmp/has; until [ -e /tmp/go ]; do sleep 0.1; done";
        let holder = machine.start(&format!("flock /run/dmremap/dmremap.conf.lock sh -c '{held}'"));
        machine.ok("until [ -e /tmp/has ]; do sleep 0.1; done");
        let job = machine.start(command);
        machine.ok(&format!("until {done}; do sleep 0.1; done; sleep 1; {untouched}"));
        machine.ok("touch /tmp/go");
        let output = job.wait();
        assert_eq!(output.status, 0, "{output:?}");
        holder.wait();
    };
    let is_there = "dmsetup info disk >/dev/null 2>&1";
    let no_line = "! grep -q SET /etc/dmremap.conf";
    blocked("dmremap create --yes --name disk /dev/vda /dev/vdb", is_there, no_line);
    machine.ok("grep -q SET /etc/dmremap.conf");
    blocked(
        "dmremap dissolve --yes disk",
        &format!("! {is_there}"),
        "grep -q SET /etc/dmremap.conf",
    );
    machine.ok(no_line);
    machine.shutdown();
}

#[test]
fn of_two_parts_that_were_used_apart_one_is_assembled_because_a_person_says_so() {
    let ([main, one, two], machine) = with_two_spares();
    machine.shutdown();
    for (spare, sector) in [(&one, 4096), (&two, 8192)] {
        let machine = boot(&[&main, spare]);
        let missing = only(&machine)["missing"][0]["uuid"].as_str().unwrap().to_owned();
        machine.ok(&format!("dmremap assemble --absent {missing} disk"));
        Remap::existing(&machine, "disk").message(&format!("remap {sector} 8"));
        machine.ok("dmremap stop disk");
        machine.shutdown();
    }
    let machine = boot(&[&main, &two, &one]);
    assert_eq!(only(&machine)["state"], "conflict");
    says(&machine, 4, "dmremap assemble --all", &["conflict", "cannot be used"]);
    says(&machine, 1, "dmremap assemble --use /dev/vda disk", &["that is no spare of set disk"]);
    let chosen = "dmremap assemble --use /dev/vdc --dump-to /tmp --yes disk";
    says(&machine, 0, chosen, &["given up", "is dumped to /tmp", "is ready"]);
    let remap = Remap::existing(&machine, "disk");
    assert_eq!(remap.places().iter().map(|place| place.start).collect::<Vec<_>>(), [4096]);
    machine.ok("dmremap stop disk");

    // Damaged copies are written anew, and no reason to leave the set alone.
    machine.ok("dd if=/dev/urandom of=/dev/vdb bs=512 seek=1024 count=8 conv=fsync 2>/dev/null");
    says(&machine, 3, "dmremap scan", &["damaged"]);
    says(&machine, 0, "dmremap assemble --all", &["is ready"]);
    machine.ok("dmremap stop disk");
    assert_eq!(only(&machine)["state"], "complete");
    machine.shutdown();
}

#[test]
fn a_set_is_assembled_without_a_spare_that_has_left_and_is_still_connected() {
    let main = Drive::blank("main", LENGTH);
    let (old, new) = (Drive::blank("old", SPARE), Drive::blank("new", SPARE));
    let machine = boot(&[&main, &old, &new]);
    machine.ok("dmremap create --yes --name disk /dev/vda /dev/vdb && dmremap remap disk 4096 8");
    machine.ok("guest io write /dev/mapper/disk 4096 8 moved");
    machine.ok("dmremap spare replace --yes disk /dev/vdb /dev/vdc && dmremap stop disk");
    says(
        &machine,
        0,
        "dmremap scan",
        &["spare 1    /dev/vdc", "/dev/vdb", "has left it; 'dmremap wipe'"],
    );
    assert_eq!(only(&machine)["spares"].as_array().map(Vec::len), Some(1));
    says(&machine, 0, "dmremap assemble disk", &["disk is ready"]);
    machine.ok("guest io check /dev/mapper/disk 4096 8 moved && dmremap stop disk");
    // By itself it says what there is to do.
    says(&machine, 0, "dmremap wipe --yes /dev/vdb", &["/dev/vdb"]);
    says(&machine, 0, "dmremap assemble --all", &["disk is ready"]);
    machine.ok("dmremap stop --all");
    machine.shutdown();
}

#[test]
fn a_filesystem_that_was_made_on_a_spare_stays_until_it_is_given_up() {
    let (_drives, machine) = with_two_spares();
    machine.ok("modprobe ext4 && mkfs.ext4 -q -E nodiscard -L photos /dev/vdc");
    let kept = machine.ok("md5sum /dev/vdb /dev/vdc");
    for assemble in ["disk", "--all", "--all --auto", "disk --yes"] {
        let words = ["/dev/vdc carries a filesystem of ext4 'photos'", "dmremap wipe /dev/vdc"];
        says(&machine, 1, &format!("dmremap assemble {assemble}"), &words);
    }
    assert_eq!(machine.ok("md5sum /dev/vdb /dev/vdc"), kept);
    // Both cures do what is said of them.
    machine.ok("dd if=/dev/vdc of=/tmp/photos bs=1M count=8 2>/dev/null");
    says(
        &machine,
        0,
        "dmremap repair --yes --overwrite /dev/vdc /dev/vdb /dev/vdc",
        &["10 good copies"],
    );
    says(&machine, 0, "dmremap assemble disk", &["disk is ready"]);
    machine.ok("dmremap stop disk && dd if=/tmp/photos of=/dev/vdc bs=1M 2>/dev/null");
    machine.ok("dmremap wipe --yes /dev/vdc && fsck.ext4 -fn /dev/vdc");
    let missing = only(&machine)["missing"][0]["uuid"].as_str().unwrap().to_owned();
    machine.ok(&format!("dmremap assemble --absent {missing} disk && fsck.ext4 -fn /dev/vdc"));
    machine.ok("dmremap stop disk");
    machine.shutdown();
}

#[test]
fn devices_in_the_wrong_places_are_named_before_anything_is_done() {
    let main = Drive::blank("main", LENGTH);
    let (spare, small) = (Drive::blank("spare", SPARE), Drive::blank("small", 4 * MIB));
    let machine = boot(&[&main, &spare, &small]);
    machine.ok("modprobe ext4 && mkfs.ext4 -q /dev/vda");
    let create = |devices: &str, words: &[&str]| {
        says(&machine, 1, &format!("dmremap create --yes {devices}"), words);
    };
    create("/dev/vda /dev/vda", &["/dev/vda is main; a spare is another device"]);
    create("--overwrite /dev/vda /dev/vda /dev/vda", &["/dev/vda is main"]);
    create(
        "/dev/vdb /dev/vda",
        &["/dev/vda is not blank", "main /dev/vdb is blank: main comes first"],
    );
    create(
        "/dev/vda /dev/vdc",
        &["/dev/vdc has 8192 sectors (4.0 MiB); a spare has at least 16384"],
    );
    create("/dev/vda /etc/passwd", &["/etc/passwd is no block device"]);
    create("/tmp /dev/vdb", &["/tmp is no block device"]);
    create("/dev/vdx /dev/vdb", &["/dev/vdx"]);
    assert_eq!(
        [&main, &spare, &small].map(|drive| drive.counters().writes > 0),
        [true, false, false]
    );

    // A set that is known, and of which nothing is there.
    machine.ok("dmremap create --yes --name disk /dev/vda /dev/vdb && dmremap config >/etc/dmremap.conf && dmremap stop disk");
    spare.fail_reads(0..SPARE);
    says(
        &machine,
        0,
        "dmremap scan",
        &["(disk) is in /etc/dmremap.conf, and none of its spares is here, or can be read"],
    );
    says(&machine, 5, "dmremap assemble disk", &["none of its spares is here"]);
    machine.shutdown();
}

/// What looks again for members while the root filesystem is not there, as one of the kinds of initramfs has it.
const LOOK_AGAIN: [&str; 2] = [
    include_str!("../../boot/initramfs-tools/local-block.in"),
    include_str!("../../boot/dracut/again.sh.in"),
];

#[test]
fn the_initramfs_assembles_what_the_configuration_says_and_asks_nobody() {
    let (_drives, machine) = with_two_spares();
    let uuid = only(&machine)["uuid"].as_str().unwrap().to_owned();
    let devices = |configuration: &str| {
        machine.ok(&format!("echo '{configuration}' >/etc/dmremap.conf"));
        for script in LOOK_AGAIN {
            let script = script.replace("@SBINDIR@/", "");
            machine.ok(&format!("cat >/tmp/again <<'END'\n{script}\nEND"));
            // With a terminal that nobody sits at as standard input.
            machine.run("timeout 60 script -qefc 'sh /tmp/again' /tmp/said </dev/null");
        }
        let there = machine.ok("dmsetup ls --target remap");
        machine.ok("dmremap stop --all");
        there.split_whitespace().next().unwrap().to_owned()
    };
    for (configuration, name) in [
        ("", "disk"),
        ("AUTO none", "No"),
        ("AUTO listed", "No"),
        ("SET uuid=UUID auto=no", "No"),
        ("AUTO none\nSET uuid=UUID auto=yes", "disk"),
        ("AUTO listed\nSET uuid=UUID name=other", "other"),
    ] {
        assert_eq!(devices(&configuration.replace("UUID", &uuid)), name, "{configuration}");
    }
    // One that wants a person's word waits for one who gives it.
    says(&machine, 0, "dmremap assemble disk", &["is ready"]);
    machine.ok("dmsetup message disk 0 set assemble_confirm 1 && dmremap stop disk");
    assert_eq!(devices(""), "No");
    // A person may have it assembled.
    machine.ok("echo AUTO none >/etc/dmremap.conf");
    says(&machine, 0, "dmremap assemble --all --auto", &["no set that is assembled unasked"]);
    says(&machine, 0, "dmremap assemble --all --yes", &["is ready"]);
    machine.shutdown();
}

#[test]
fn a_set_that_dmsetup_made_without_a_uuid_is_not_hidden_as_its_own_main() {
    let main = Drive::blank("main", LENGTH);
    let spare = Drive::blank("spare", SPARE);
    let machine = boot(&[&main, &spare]);
    machine.ok("modprobe ext4 && mkfs.ext4 -q /dev/vda");
    let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 1 create");
    // Every device may be a spare.
    machine.ok("rm -rf /run/udev/data");
    says(&machine, 0, "dmremap hides /dev/vda", &["DMREMAP_MAIN_OF="]);
    says(&machine, 1, &format!("dmremap hides {}", remap.path()), &["is of no set"]);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_main_that_nothing_identifies_is_said_not_to_be_hidden() {
    let spare = Drive::blank("spare", SPARE);
    let machine = boot(&[&spare]);
    let main = machine.null_blk(0, 64, &[("memory_backed", "1")]);
    let create = format!("dmremap create --yes --name disk {main} /dev/vda");
    let words = ["names the set now, but not its main", "add main= to the line"];
    let said = says(&machine, 0, &create, &words);
    assert!(!said.stdout.contains("is its main"), "{}", said.stdout);
    let line = machine.ok("cat /etc/dmremap.conf");
    assert!(line.starts_with("SET uuid=") && line.ends_with(" sectors=131072"), "{line}");
    machine.ok("dmremap stop disk");
    machine.run("rm -rf /run/udev/data && mkdir -p /run/udev/data");
    says(&machine, 1, &format!("dmremap hides {main}"), &[]);
    machine.ok(&format!("echo ' main={main}' >>/etc/dmremap.conf"));
    says(&machine, 0, &format!("dmremap hides {main}"), &[&line[9..45]]);

    // What is not UTF-8 costs its own line, and a file that cannot be read what it would have said.
    machine.ok("printf 'RAID \\374 # B\\374ro\\n' >>/etc/dmremap.conf");
    let words = [&line[9..45], "/etc/dmremap.conf: line 3: is not UTF-8"];
    says(&machine, 0, &format!("dmremap hides {main}"), &words);
    machine.ok("mv /etc/dmremap.conf /tmp/conf && mkdir /etc/dmremap.conf");
    let words = ["DMREMAP_SPARE_OF=", "/etc/dmremap.conf: Is a directory", "does not count"];
    says(&machine, 0, "dmremap hides /dev/vda", &words);
    machine.ok("rmdir /etc/dmremap.conf && mv /tmp/conf /etc/dmremap.conf");

    // Where udev does not run, what to do is said.
    machine.ok("rm /run/udev/control");
    for verb in ["list", "status", "assemble disk"] {
        let words = ["start systemd-udevd, or use dmsetup"];
        says(&machine, 1, &format!("dmremap {verb}"), &words);
    }
    machine.shutdown();
}
