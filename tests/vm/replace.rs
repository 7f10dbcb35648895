//! Main is replaced while the set is in use, with blocks that fail, and with the power cut at any step.

use crate::common::{freezes_before, more_cuts};
use remap_harness::env::patience;
use remap_harness::{Drive, Ledger, Machine, Remap};
use std::time::{Duration, Instant};

const MIB: u64 = 2048;
pub const MAIN: u64 = 32 * MIB;
pub const PATH: &str = "/dev/mapper/disk";
/// What can be read nowhere: within the load, beside a block that is read all the same, and outside of it.
pub const BAD: [std::ops::Range<u64>; 3] = [3001..3003, 40_000..40_008, 50_004..50_005];
pub const LOAD: &str = "0+16384";

pub struct Drives {
    pub old: Drive,
    pub spare: Drive,
    pub new: Drive,
}

impl Drives {
    /// The new one is large enough for dm-clone's metadata, and not blank.
    pub fn new() -> Self {
        Self {
            old: Drive::blank("old-main", MAIN),
            spare: Drive::blank("spare", 16 * MIB),
            new: Drive::blank("new-main", MAIN + 8 * MIB),
        }
    }

    pub fn boot(&self) -> Machine {
        let builder = Machine::builder().drive(&self.old).drive(&self.spare).drive(&self.new);
        let machine = builder.module().boot();
        machine.start_udev();
        machine.ok("modprobe dm-clone");
        machine
    }

    /// A set with blocks that are remapped, pending and suspect.
    pub fn set<'m>(&self, machine: &'m Machine) -> Remap<'m> {
        machine.ok("dd if=/dev/urandom of=/dev/vdc bs=1M count=40 oflag=direct status=none");
        machine.ok("guest io write /dev/vda 60000 64 kept");
        let remap = Remap::create(machine, "disk", "/dev/vda", "/dev/vdb 3 create name disk");
        remap.message("remap 4096 64");
        machine.ok(&format!("guest io write {PATH} 61000 8 moved"));
        remap.message("remap 61000 8");
        for bad in BAD {
            self.old.fail_reads(bad);
        }
        machine.fails(&format!("guest io read {PATH} 40000 8"));
        remap.wait_until(|status| status.pending.0 == 8);
        remap
    }
}

/// The exit status when blocks are lost.
const LOST: i32 = 3;

/// Replaces main; what could be read nowhere is lost, which the exit status says.
#[track_caller]
pub fn replaced(machine: &Machine, command: &str) -> String {
    let output = machine.run(command);
    assert_eq!(output.status, LOST, "{command}\n{}{}", output.stdout, output.stderr);
    output.stdout
}

/// What the set says that reading it is an error.
pub fn is_bad(sector: u64) -> bool {
    BAD.iter().any(|bad| bad.contains(&sector))
}

/// Waits until the table has an entry that begins so.
#[track_caller]
pub fn in_table(machine: &Machine, begins: &str) {
    machine.ok(&format!(
        "for i in $(seq 300); do dmsetup message disk 0 table | grep -q '^{begins}' && exit; sleep 0.1; done; exit 1"
    ));
}

#[track_caller]
pub fn check_kept(machine: &Machine, lost: bool) {
    machine.ok(&format!("guest io check {PATH} 60000 64 kept"));
    machine.ok(&format!("guest io check {PATH} 61000 8 moved"));
    for bad in &BAD[1..] {
        let len = bad.end - bad.start;
        machine.fails(&format!("guest io read {PATH} {} {len}", bad.start));
        // A drive may take a read for one with the worker's beside it, which fails.
        in_table(machine, &format!("{} ", bad.start));
        let block = bad.start / 8 * 8;
        if block != bad.start {
            machine.ok(&format!("guest io read {PATH} {block} {}", bad.start - block));
        }
    }
    let table = machine.ok("dmsetup message disk 0 table");
    assert_eq!(table.contains(" lost"), lost, "{table}");
    assert_eq!(table.contains(" pending"), !lost, "{table}");
}

/// Tries to activate, which has to fail with these words in the kernel log.
#[track_caller]
pub fn refused(machine: &Machine, arguments: &str, says: &str) {
    machine.ok("dmesg -c >/dev/null");
    let output = machine.run(&format!("dmsetup create bad --table '0 {MAIN} remap {arguments}'"));
    machine.run("dmsetup remove bad");
    let log = machine.ok("dmesg");
    assert_ne!(output.status, 0, "{arguments} was accepted:\n{log}");
    assert!(log.contains(says), "{arguments}: the log does not say '{says}':\n{log}");
}

#[track_caller]
pub fn on_main(machine: &Machine, drive: &str) {
    let number = machine.ok(&format!("cat /sys/class/block/{drive}/dev"));
    let table = machine.ok("dmsetup table disk");
    assert!(table.contains(&format!("remap {number} ")), "{table}");
    assert!(!table.contains("new_main"), "{table}");
}

#[test]
fn a_main_with_blocks_that_fail_is_replaced_under_load() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = drives.set(&machine);
    let mut ledger = Ledger::new(5, LOAD);
    let load = ledger.start(&machine, PATH, "threads=2 largest=64");
    std::thread::sleep(Duration::from_millis(500));
    let out = replaced(&machine, "dmremap replace-main disk /dev/vdc --yes --json");
    assert!(out.contains("\"new\": \"/dev/vdc\"") && out.contains("\"start\": 40000"), "{out}");
    assert!(out.contains("\"start\": 50004,\n      \"sectors\": 1\n"), "{out}");
    on_main(&machine, "vdc");
    std::thread::sleep(Duration::from_millis(500));
    drop(load);
    check_kept(&machine, true);
    assert_eq!(machine.ok("dmsetup ls | grep -c replace || true"), "0");
    assert!(machine.ok("blkid -p /dev/vdc || true").is_empty());
    // It is on the new one alone.
    drives.old.set_gone(true);
    let status = remap.status();
    assert_eq!(status.keys["persist"], "enabled", "{}", status.line);
    let events = machine.power_cut(3);
    ledger.enter(&events);
    assert_eq!(ledger.write_errors, 0);

    drives.old.set_gone(false);
    let machine = drives.boot();
    refused(&machine, "/dev/vda /dev/vdb", "it has 65536 sectors, and had 81920");
    machine.ok(&format!("dmsetup create disk --table '0 {MAIN} remap /dev/vdc /dev/vdb'"));
    let found = ledger.scan(&machine, PATH);
    ledger.compare(&found, is_bad);
    check_kept(&machine, true);
    // What is lost is well when it has been written.
    machine.ok(&format!("guest io write {PATH} 40000 8 again"));
    machine.ok(&format!("guest io check {PATH} 40000 8 again"));
    let failed = machine.fails("dmremap replace-main --continue disk");
    assert!(failed.contains("nothing is being replaced"), "{failed}");
    machine.ok("dmsetup message disk 0 check forensic");
    machine.ok("dmsetup remove disk");
    machine.shutdown();
}

#[test]
fn a_replacement_goes_on_after_a_power_cut_and_the_old_main_is_refused_meanwhile() {
    let drives = Drives::new();
    let machine = drives.boot();
    drop(drives.set(&machine));
    let mut ledger = Ledger::new(6, LOAD);
    drives.new.slow_down(0..MAIN, Duration::from_millis(20));
    let load = ledger.start(&machine, PATH, "threads=2 largest=64");
    let replace = machine.start("dmremap replace-main disk /dev/vdc --yes");
    until_on_copy(&machine);
    // Everything else that would take the set apart waits for the end of it.
    refuses(&machine, "dmremap dissolve --yes disk");
    refuses(&machine, "dmremap replace-main --yes disk /dev/vdc");
    drop((replace, load));
    let events = machine.power_cut(11);
    ledger.enter(&events);
    drives.new.heal(0..MAIN);

    let machine = drives.boot();
    let says = "'dmremap replace-main --continue' goes on";
    refused(&machine, "/dev/vda /dev/vdb", says);
    refused(&machine, "/dev/vdc /dev/vdb", says);
    refused(&machine, "/dev/vda /dev/vdb 1 degraded", says);
    for verb in ["dissolve --yes disk", "wipe --yes /dev/vdb", "assemble --yes disk"] {
        refuses(&machine, &format!("dmremap {verb}"));
    }
    // Nobody mounts the new one by what it shows. (The old one has nothing here that it could be known by.)
    let said = machine.ok("dmremap hides /dev/vdc");
    assert!(said.contains("DMREMAP_MAIN_OF="), "{said}");
    let scan = machine.run("dmremap scan").stdout;
    assert!(scan.contains("replace-main --continue disk"), "{scan}");
    // Interrupted once more, and again.
    interrupted(&machine, "dmremap replace-main --continue disk");
    let found = ledger.scan(&machine, PATH);
    ledger.compare(&found, is_bad);
    replaced(&machine, "dmremap replace-main --continue disk");
    on_main(&machine, "vdc");
    check_kept(&machine, true);
    let found = ledger.scan(&machine, PATH);
    ledger.compare(&found, is_bad);
    machine.ok("dmsetup remove disk");
    // A copy for which there is no replacement is no main.
    machine.ok(&format!(
        "uuid=$(dmremap inspect /dev/vdb | grep -o '[0-9a-f]\\{{8\\}}-[0-9a-f-]*' | head -n 1) && \
         dmsetup create fake --uuid REMAP-CLONE-$uuid --table '0 {MAIN} linear /dev/vda 0'"
    ));
    refused(&machine, "/dev/mapper/fake /dev/vdb", "copies a main that is being replaced");
    machine.shutdown();
}

/// A verb that says that main is being replaced, and how to go on with that.
#[track_caller]
fn refuses(machine: &Machine, command: &str) {
    let failed = machine.fails(command);
    assert!(failed.contains("being replaced") && failed.contains("--continue"), "{failed}");
}

/// What was to be main, and is not, is hidden from nobody.
#[track_caller]
pub fn is_free(machine: &Machine, device: &str) {
    let failed = machine.fails(&format!("dmremap hides {device}"));
    assert!(failed.contains("is of no set that is known"), "{failed}");
    let config = machine.ok("cat /etc/dmremap.conf");
    assert!(!config.contains("SET "), "{config}");
}

#[track_caller]
pub fn on_copy(machine: &Machine) {
    let status = machine.ok(STATUS);
    assert!(status.contains(ON_COPY), "{status}");
}

const STATUS: &str = "dmsetup message disk 0 metadata_status";
const ON_COPY: &str = "match main copy 100";

/// Waits for the set to be on what copies main.
#[track_caller]
pub fn until_on_copy(machine: &Machine) {
    let end = Instant::now() + patience(Duration::from_secs(120));
    loop {
        let status = machine.run(STATUS).stdout;
        if status.contains(ON_COPY) {
            return;
        }
        assert!(Instant::now() < end, "{status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Begins or goes on to replace main, and interrupts that while main is copied.
#[track_caller]
pub fn interrupted(machine: &Machine, command: &str) {
    let replace = machine.start(command);
    until_on_copy(machine);
    // Something is to be copied.
    std::thread::sleep(Duration::from_secs(1));
    machine.ok("kill -INT $(pidof dmremap)");
    let output = replace.wait_for(patience(Duration::from_secs(120)));
    assert_ne!(output.status, 0, "{output:?}");
    on_copy(machine);
}

/// Whether the set was assembled: by going on, or with the one main that it takes.
#[track_caller]
fn assembled(machine: &Machine) -> &'static str {
    let went_on = machine.run("dmremap replace-main --continue disk");
    if went_on.status == LOST {
        return "vdc";
    }
    assert!(went_on.stderr.contains("is not being replaced"), "{went_on:?}");
    for main in ["vda", "vdc"] {
        let line = format!("0 {MAIN} remap /dev/{main} /dev/vdb");
        if machine.run(&format!("dmsetup create disk --table '{line}'")).status == 0 {
            return main;
        }
        machine.run("dmsetup remove disk");
    }
    panic!("neither main will do: {went_on:?}\n{}", machine.ok("dmesg | tail -n 20"));
}

/// Replaces main, and cuts the power when a drive has taken that many requests.
fn cut_when(after: u64, which: impl Fn(&Drives) -> &Drive, seed: u64) -> (&'static str, u64) {
    let drives = Drives::new();
    let machine = drives.boot();
    drop(drives.set(&machine));
    // Where nothing fails, so that the spare is written by commits and moves alone.
    let mut ledger = Ledger::new(seed, "8192+8192");
    let load = ledger.start(&machine, PATH, "threads=1 largest=32");
    let before = which(&drives).counters();
    which(&drives).freeze_after(after);
    let mut replace = machine.start("dmremap replace-main disk /dev/vdc --yes");
    let frozen = freezes_before(which(&drives), &mut replace);
    let counters = which(&drives).counters();
    let took = counters.writes + counters.flushes - before.writes - before.flushes;
    drop((replace, load));
    let events = machine.power_cut(seed);
    ledger.enter(&events);

    let machine = drives.boot();
    let main = assembled(&machine);
    let found = ledger.scan(&machine, PATH);
    ledger.compare(&found, is_bad);
    check_kept(&machine, main == "vdc");
    machine.ok("dmsetup message disk 0 check forensic");
    if main == "vda" {
        replaced(&machine, "dmremap replace-main disk /dev/vdc --yes");
        on_main(&machine, "vdc");
        check_kept(&machine, true);
    }
    machine.ok("dmsetup remove disk");
    machine.shutdown();
    eprintln!("cut after {after} ({frozen}, {took}): on {main}");
    (main, took)
}

#[test]
fn the_power_may_be_cut_at_any_write_to_the_spare() {
    // The commits at the beginning: the bit that main is being replaced; and those of moves and of the end.
    let mut mains = Vec::new();
    for (seed, after) in [(31, 2), (32, 6), (33, 9), (34, 12), (35, 16), (36, 40)] {
        mains.push(cut_when(after, |drives| &drives.spare, seed).0);
    }
    assert!(mains.contains(&"vda") && mains.contains(&"vdc"), "{mains:?}");
    for after in more_cuts() {
        cut_when(after, |drives| &drives.spare, 1000 + after);
    }
}

#[test]
fn the_power_may_be_cut_at_any_write_to_the_new_main() {
    for (seed, after) in [(41, 1), (42, 20), (43, 400)] {
        cut_when(after, |drives| &drives.new, seed);
    }
}

#[test]
fn what_cannot_take_mains_place_is_refused_and_nothing_changes() {
    let drives = Drives::new();
    let small = Drive::blank("small", MAIN - 8);
    let same = Drive::blank("same", MAIN);
    let coarse = Drive::with_blocks("coarse", MAIN + 16 * MIB, 4096, 4096);
    let machine = [&drives.old, &drives.spare, &drives.new, &small, &same, &coarse]
        .into_iter()
        .fold(Machine::builder(), |builder, drive| builder.drive(drive))
        .module()
        .boot();
    machine.start_udev();
    machine.ok("modprobe dm-clone");
    let remap = drives.set(&machine);
    let version = remap.status().keys["version"].clone();
    machine.ok("mkfs.ext4 -q -F /dev/vdc");
    for (new, says) in [
        ("/dev/vdd", "use a larger one"),
        ("/dev/vdf", "has logical blocks of 4096 bytes"),
        ("/dev/vde", "with --metadata"),
        ("/dev/vde --metadata /dev/vde", "is NEW itself"),
        ("/dev/vdc", "if that is to be given up, say --overwrite /dev/vdc"),
        ("/dev/vdb", "is in use"),
        ("/dev/vda", "is in use"),
        ("/dev/nowhere", "cannot be looked at"),
    ] {
        let failed = machine.fails(&format!("dmremap replace-main disk {new} --yes"));
        assert!(failed.contains(says), "{new}: {failed}");
    }
    let plan = machine.ok("dmremap replace-main disk /dev/vdc --overwrite /dev/vdc --dry-run");
    assert!(plan.contains("given up: a filesystem of ext4"), "{plan}");
    assert!(machine.ok("blkid -p /dev/vdc").contains("ext4"));
    assert_eq!(remap.status().keys["version"], version);
    // A main that says so, but is none: by another filesystem, or because it is the one that the set has.
    remap.message("save");
    // With dm-clone's metadata elsewhere, one of the same size will do.
    replaced(
        &machine,
        "dmremap replace-main disk /dev/vde --metadata /dev/vdc --overwrite /dev/vdc --yes",
    );
    on_main(&machine, "vde");
    check_kept(&machine, true);
    machine.ok("dmsetup remove disk");
    machine.shutdown();
}

#[test]
fn a_device_of_exactly_the_size_that_is_named_is_room_enough_for_dm_clones_metadata() {
    let drives = Drives::new();
    let same = Drive::blank("same", MAIN);
    let machine = Machine::builder().drive(&drives.old).drive(&drives.spare).drive(&drives.new);
    let machine = machine.drive(&same).module().boot();
    machine.start_udev();
    machine.ok("modprobe dm-clone");
    let _remap = drives.set(&machine);
    let said = machine.fails("dmremap replace-main disk /dev/vdd --yes");
    let size = said.split("logical volume of ").nth(1).unwrap();
    let size: u64 = size.split_whitespace().next().unwrap().parse().unwrap();
    let room = |sectors| format!("dmsetup create room --table '0 {sectors} linear /dev/vdc 0'");
    let replace = "dmremap replace-main disk /dev/vdd --metadata /dev/mapper/room --yes";
    machine.ok(&room(size - 8));
    assert!(machine.fails(replace).contains("is too small by 8 sectors"));
    machine.ok(&format!("dmsetup remove room && {}", room(size)));
    replaced(&machine, replace);
    on_main(&machine, "vdd");
    check_kept(&machine, true);
    machine.ok("dmsetup remove disk && dmsetup remove room");
    machine.shutdown();
}

#[test]
fn a_main_that_was_copied_offline_takes_its_place() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = drives.set(&machine);
    // What cannot be read has to be known before: on the copy nothing tells it from what can.
    for bad in BAD {
        remap.message(&format!("remap {} {}", bad.start / 8 * 8, 8));
    }
    remap.remove();
    machine.run(&format!(
        "dd if=/dev/vda of=/dev/vdc bs=4096 count={} conv=noerror,sync iflag=direct status=none",
        MAIN / 8
    ));
    // Nothing but a person's word makes it main.
    refused(&machine, "/dev/vdc /dev/vdb", "it has 81920 sectors, and had 65536");
    let line = format!("0 {MAIN} remap /dev/vdc /dev/vdb 1 new_main");
    machine.ok(&format!("dmsetup create disk --table '{line}'"));
    on_main(&machine, "vdc");
    check_kept(&machine, true);
    machine.ok("dmsetup remove disk");
    machine.ok(&format!("dmsetup create disk --table '0 {MAIN} remap /dev/vdc /dev/vdb'"));
    check_kept(&machine, true);
    machine.shutdown();
}

/// Where dm-clone's metadata and the label are on a new main, in blocks of 4 KiB.
const ROOM: &str = "bs=4096 count=1028 status=none conv=notrunc";
const ROOM_AT: u64 = MAIN / 8;

#[test]
fn what_is_left_of_an_earlier_attempt_is_not_gone_on_with() {
    let first = Drive::blank("first", MAIN + 8 * MIB);
    let old = Drive::blank("old-main", MAIN);
    let spare = Drive::blank("spare", 16 * MIB);
    let second = Drive::blank("second", MAIN + 16 * MIB);
    let boot = || {
        let drives = [&first, &old, &spare, &second];
        let builder = drives.into_iter().fold(Machine::builder(), |all, drive| all.drive(drive));
        let machine = builder.module().boot();
        machine.start_udev();
        machine.ok("modprobe dm-clone");
        machine
    };
    let machine = boot();
    let remap = Remap::create(&machine, "disk", "/dev/vdb", "/dev/vdc 3 create name disk");
    machine.ok(&format!("guest io write {PATH} 0 64 one"));
    let begin = |drive: &Drive, path: &str| {
        drive.slow_down(0..MAIN, Duration::from_millis(500));
        let replace = machine.start(&format!("dmremap replace-main disk {path} --yes"));
        machine.ok("until dmsetup message disk 0 metadata_status | grep -q 'match main copy'; do sleep 0.2; done");
        replace
    };
    // The first attempt comes to its end; what it left while it was under way is kept.
    let replace = begin(&first, "/dev/vda");
    machine.ok(&format!("dd if=/dev/vda of=/tmp/room skip={ROOM_AT} iflag=direct {ROOM}"));
    first.heal(0..MAIN);
    let ended = replace.wait();
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    on_main(&machine, "vda");
    machine.ok(&format!("guest io write {PATH} 0 64 two"));
    let replace = begin(&second, "/dev/vdd");
    machine.ok(&format!("guest io write {PATH} 5000 64 three"));
    machine.ok(&format!("dd if=/tmp/room of=/dev/vda seek={ROOM_AT} oflag=direct {ROOM}"));
    machine.ok(&format!("guest io flush {PATH}"));
    drop((replace, remap));
    machine.power_cut(51);
    second.heal(0..MAIN);

    let machine = boot();
    machine.ok("dmremap replace-main --continue disk");
    on_main(&machine, "vdd");
    machine.ok(&format!("guest io check {PATH} 0 64 two"));
    machine.ok(&format!("guest io check {PATH} 5000 64 three"));
    machine.shutdown();
}

#[test]
fn an_old_main_that_is_gone_for_good_costs_only_what_was_not_copied() {
    let drives = Drives::new();
    let machine = drives.boot();
    drop(drives.set(&machine));
    drives.new.slow_down(0..MAIN, Duration::from_millis(20));
    let replace = machine.start("dmremap replace-main disk /dev/vdc --yes");
    machine.ok("until dmsetup message disk 0 metadata_status | grep -q 'match main copy'; do sleep 0.2; done");
    machine.ok(&format!("guest io write-durable {PATH} 20000 64 new"));
    drop(replace);
    machine.power_cut(61);
    drives.new.heal(0..MAIN);

    let machine = Machine::builder().drive(&drives.spare).drive(&drives.new).module().boot();
    machine.start_udev();
    machine.ok("modprobe dm-clone");
    let failed = machine.fails("dmremap replace-main --continue disk");
    assert!(
        failed.contains("the old main is not found") && failed.contains("--old-is-gone"),
        "{failed}"
    );
    let plan = machine.ok("dmremap replace-main --continue --old-is-gone --dry-run disk");
    assert!(plan.contains("the old main is gone"), "{plan}");
    replaced(&machine, "dmremap replace-main --continue --old-is-gone --yes disk");
    on_main(&machine, "vdb");
    machine.ok(&format!("guest io check {PATH} 20000 64 new"));
    machine.ok(&format!("guest io check {PATH} 61000 8 moved"));
    machine.fails(&format!("guest io read {PATH} 40000 8"));
    assert_eq!(machine.ok("dmsetup ls | grep -c replace || true"), "0");
    machine.shutdown();
}
