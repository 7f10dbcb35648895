//! Replacements of main as people have them: with a filesystem, a main that does not begin at its first sector, a spare or a new
//! main that fails, a person who does not wait.

use crate::common::one_partition;
use crate::replace::{
    check_kept, in_table, interrupted, is_free, on_copy, on_main, refused, replaced, until_on_copy,
    Drives, BAD, MAIN, PATH,
};
use remap_harness::{Drive, Image, Machine, Remap};
use std::time::Duration;

/// Where the five slots on a spare end.
const SLOTS: u64 = 9216;

#[test]
fn what_was_remapped_goes_back_to_the_new_main_and_the_old_one_shows_no_filesystem() {
    let drives = Drives::new();
    let machine = drives.boot();
    machine.ok("modprobe ext4 && mkfs.ext4 -q /dev/vda");
    let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 3 create name disk");
    machine.ok(&format!("mount {PATH} /mnt && cp /bin/guest /mnt/file && sync"));
    remap.message("remap 0 64");
    remap.message("remap 8192 128");
    machine.ok("sha256sum </bin/guest >/tmp/sum");
    // Without being asked for, the old one stays as it is, and it is said.
    let plan = machine.ok("dmremap replace-main disk /dev/vdc --clear --wipe-old --dry-run");
    assert!(plan.contains("/dev/vdc takes the place of main, /dev/vda"), "{plan}");
    let old = drives.old.counters().writes;
    machine.ok("dmremap replace-main disk /dev/vdc --clear --wipe-old --yes");
    on_main(&machine, "vdc");
    remap.wait_until(|status| status.remapped.0 == 0);
    assert!(machine.ok("blkid -p /dev/vda || true").is_empty());
    assert!(drives.old.counters().writes > old);
    // Nobody has read it again since it was held.
    assert!(machine.ok("blockdev --flushbufs /dev/vdc && blkid -p /dev/vdc").contains("ext4"));
    machine.ok("cmp /bin/guest /mnt/file && umount /mnt && e2fsck -fn /dev/mapper/disk");
    machine.ok("dmsetup message disk 0 check forensic && dmsetup remove disk");
    // All of it is on the new one: the spare is not needed any more.
    machine.ok("mount -o ro /dev/vdc /mnt && cmp /bin/guest /mnt/file && umount /mnt");
    machine.shutdown();
}

#[test]
fn a_main_that_the_set_uses_from_some_sector_on_is_replaced_whole() {
    const START: u64 = 1000;
    let drives = Drives::new();
    let machine = drives.boot();
    machine.ok("guest io write /dev/vda 0 1000 front");
    machine.ok("guest io write /dev/vda 1000 4000 old");
    let length = MAIN - START;
    machine.ok(&format!(
        "dmsetup create disk --table '0 {length} remap /dev/vda /dev/vdb 5 create name disk main_start {START}'"
    ));
    let remap = Remap::existing(&machine, "disk");
    machine.ok(&format!("guest io write {PATH} 500 100 set"));
    remap.message("remap 520 8");
    // In front of the set, astride its beginning, and on it.
    for bad in [504..505, 998..1002, START + 2003..START + 2004] {
        drives.old.fail_reads(bad);
    }
    let out = replaced(&machine, "dmremap replace-main disk /dev/vdc --yes");
    assert!(out.contains("not copied, in front of the set's part of main: 504 8"), "{out}");
    assert!(out.contains("  0 2\n") && out.contains("  2003 1\n"), "{out}");
    on_main(&machine, "vdc");
    drives.old.set_gone(true);
    machine.ok("guest io check /dev/vdc 0 500 front && guest io check /dev/vdc 512 480 front");
    machine.ok(&format!("guest io check {PATH} 500 100 set"));
    assert!(remap.place_of(520).is_some() && remap.place_of(512).is_none());
    for (lost, len) in [(0, 1), (1, 1), (2003, 1)] {
        machine.fails(&format!("guest io read {PATH} {lost} {len}"));
    }
    for (kept, len) in [(2, 6), (1996, 7), (2004, 4)] {
        machine.ok(&format!("guest io read {PATH} {kept} {len}"));
    }
    remap.remove();
    drives.old.set_gone(false);
    machine.ok(&format!(
        "dmsetup create disk --table '0 {length} remap /dev/vdc /dev/vdb 2 main_start {START}'"
    ));
    machine.ok(&format!("guest io check {PATH} 500 100 set"));
    machine.shutdown();
}

#[test]
fn what_a_spare_does_not_give_stays_on_the_spare_and_is_not_read_from_the_new_main() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = drives.set(&machine);
    machine.ok(&format!("guest io write {PATH} 4096 64 spare"));
    let place = remap.place_of(4104).unwrap();
    drives.spare.fail_reads(place..place + 8);
    machine.fails(&format!("guest io read {PATH} 4104 8"));
    in_table(&machine, "4104 8 suspect");
    let out = replaced(&machine, "dmremap replace-main disk /dev/vdc --yes --json");
    // It is not lost: the spare may give it yet.
    assert!(!out.contains("4104") && out.contains(&BAD[1].start.to_string()), "{out}");
    on_main(&machine, "vdc");
    in_table(&machine, "4104 8 suspect");
    machine.fails(&format!("guest io read {PATH} 4104 8"));
    drives.spare.heal(place..place + 8);
    machine.ok(&format!("guest io check {PATH} 4096 64 spare"));
    remap.remove();
    machine.shutdown();
}

/// A blank drive has nothing that a new main could be taken for.
#[test]
fn a_replacement_that_has_ended_leaves_nothing_to_go_on_with() {
    let drives = Drives::new();
    let other = Drive::blank("other", MAIN + 8 * 2048);
    let machine = [&drives.old, &drives.spare, &drives.new, &other]
        .into_iter()
        .fold(remap_harness::Machine::builder(), |builder, drive| builder.drive(drive))
        .module()
        .boot();
    machine.start_udev();
    machine.ok("modprobe dm-clone");
    let remap = drives.set(&machine);
    for new in ["vdc", "vdd"] {
        replaced(&machine, &format!("dmremap replace-main disk /dev/{new} --yes"));
        on_main(&machine, new);
        for what in ["--continue", "--abort"] {
            let failed = machine.fails(&format!("dmremap replace-main {what} disk --yes"));
            assert!(failed.contains("nothing is being replaced"), "{what}: {failed}");
        }
    }
    machine.ok(&format!("guest io check {PATH} 60000 64 kept"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_the_new_main_does_not_take_lives_on_the_spare() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 3 create name disk");
    machine.ok(&format!("guest io write {PATH} 30000 24 copied"));
    machine.ok(&format!("guest io write {PATH} 46000 8 old"));
    // Far from dm-clone's metadata: what is written right in front of that goes to the drive as one with it.
    for bad in [30_009, 46_001] {
        drives.new.fail_writes(bad..bad + 1);
    }
    let replace = machine.start("dmremap replace-main disk /dev/vdc --yes");
    machine.ok("until dmsetup message disk 0 metadata_status | grep -q 'match main copy'; do sleep 0.2; done");
    machine.ok(&format!("guest io write {PATH} 46001 1 user"));
    let ended = replace.wait();
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    on_main(&machine, "vdc");
    drives.old.set_gone(true);
    machine.ok(&format!("guest io check {PATH} 30000 24 copied"));
    machine.ok(&format!("guest io check {PATH} 46000 1 old"));
    machine.ok(&format!("guest io check {PATH} 46001 1 user"));
    machine.ok(&format!("guest io check {PATH} 46002 6 old"));
    // Nothing else but what dm-clone copies as one with them.
    assert_eq!(remap.status().remapped.0, 16, "{}", remap.status().line);
    remap.remove();
    machine.shutdown();
}

/// Asserts that dm-clone copies, and many blocks at once.
#[track_caller]
fn goes_on_copying(machine: &Machine) {
    on_copy(machine);
    let status = machine.ok("dmsetup status disk-replace");
    assert!(!status.contains("no_hydration"), "{status}");
    let pace = "hydration_threshold 1024 hydration_batch_size 128";
    assert!(status.contains(pace), "{status}");
}

#[test]
fn one_who_waits_no_longer_while_blocks_are_moved_leaves_the_kernel_copying() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = drives.set(&machine);
    drives.spare.slow_down(SLOTS..16 * 2048, Duration::from_secs(3));
    machine.ok(
        "dmremap replace-main disk /dev/vdc --yes 2>/tmp/said & pid=$!; \
         until dmsetup message disk 0 metadata_status | grep -q '^running remap'; do sleep 0.1; done; \
         kill -INT $pid; ! wait $pid",
    );
    let said = machine.ok("cat /tmp/said");
    assert!(said.contains("the kernel goes on copying") && !said.contains("room"), "{said}");
    goes_on_copying(&machine);
    drives.spare.heal(SLOTS..16 * 2048);
    replaced(&machine, "dmremap replace-main --continue disk");
    on_main(&machine, "vdc");
    check_kept(&machine, true);
    remap.remove();
    machine.shutdown();
}

#[test]
fn without_room_for_what_cannot_be_copied_the_kernel_goes_on_with_the_rest() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = drives.set(&machine);
    machine.ok(
        "at=0; while dmsetup message disk 0 remap $at 1024 2>/dev/null; do at=$((at + 1024)); done",
    );
    let failed = machine.fails("dmremap replace-main disk /dev/vdc --yes");
    assert!(failed.contains("give the set room"), "{failed}");
    goes_on_copying(&machine);
    remap.message("unremap 8192 1024");
    replaced(&machine, "dmremap replace-main --continue disk");
    on_main(&machine, "vdc");
    check_kept(&machine, true);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_block_that_the_page_cache_has_is_lost_when_the_old_main_does_not_give_it_any_more() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = drives.set(&machine);
    drives.new.slow_down(0..MAIN, Duration::from_millis(20));
    interrupted(&machine, "dmremap replace-main disk /dev/vdc --yes");
    machine.ok("dmsetup message disk-replace 0 disable_hydration");
    drives.new.heal(0..MAIN);
    // What dm-clone has under way would copy the block while it can be read.
    machine
        .ok("until dmsetup status disk-replace | cut -d' ' -f8 | grep -qx 0; do sleep 0.1; done");
    let bad = BAD[2].clone();
    drives.old.heal(bad.clone());
    let copy = "/dev/dm-$(dmsetup info -c --noheadings -o minor disk-replace)";
    machine.ok(&format!("dd if={copy} of=/dev/null bs=4096 skip={} count=1", bad.start / 8));
    drives.old.fail_reads(bad);
    replaced(&machine, "dmremap replace-main --continue disk");
    on_main(&machine, "vdc");
    check_kept(&machine, true);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_replacement_does_not_begin_while_spares_come_and_go() {
    let drives = Drives::new();
    let second = Drive::blank("second", 16 * 2048);
    let machine = [&drives.old, &drives.spare, &drives.new, &second]
        .into_iter()
        .fold(Machine::builder(), |builder, drive| builder.drive(drive))
        .module()
        .boot();
    machine.start_udev();
    machine.ok("modprobe dm-clone");
    let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 3 create name disk");
    machine.ok(&format!("guest io write {PATH} 0 8192 moved"));
    remap.message("remap 0 8192");
    second.slow_down(0..16 * 2048, Duration::from_millis(300));
    let migrate = machine.start("dmremap migrate disk /dev/vdd --yes");
    machine.ok("until dmsetup message disk 0 metadata_status | grep -q '^running migrate'; do sleep 0.1; done");
    for more in ["", " --dry-run"] {
        let failed = machine.fails(&format!("dmremap replace-main disk /dev/vdc --yes{more}"));
        let says = ["disk: a migrate is running", "'dmremap migrate --attach disk'"];
        assert!(says.iter().all(|says| failed.contains(says)), "{failed}");
    }
    on_main(&machine, "vda");
    second.heal(0..16 * 2048);
    let ended = migrate.wait();
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    machine.ok("dmremap replace-main disk /dev/vdc --yes");
    on_main(&machine, "vdc");
    machine.ok(&format!("guest io check {PATH} 0 8192 moved"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_is_written_when_the_set_was_taken_off_the_copy_is_not_given_up() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 3 create name disk");
    machine.ok(&format!("guest io write {PATH} 0 64 before"));
    let taken_off = || {
        drives.new.slow_down(0..MAIN, Duration::from_millis(500));
        let replace = machine.start("exec dmremap replace-main disk /dev/vdc --yes");
        until_on_copy(&machine);
        machine.ok("until grep -q '^SET' /etc/dmremap.conf; do sleep 0.1; done");
        // Somebody loads the table that the set had.
        machine.ok(&format!(
            "dmsetup load disk --table '0 {MAIN} remap /dev/vda /dev/vdb 1 old_main' && dmsetup resume disk"
        ));
        replace
    };
    let replace = taken_off();
    machine.ok(&format!("guest io write {PATH} 20000 64 meanwhile"));
    drives.new.heal(0..MAIN);
    let ended = replace.wait();
    assert_ne!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    for says in ["is on /dev/vda, and not on disk-replace", "replace-main --abort disk"] {
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    on_main(&machine, "vda");
    machine.ok(&format!("guest io check {PATH} 20000 64 meanwhile"));
    machine.ok("dmremap replace-main --abort disk --yes");
    is_free(&machine, "/dev/vdc");
    assert_eq!(machine.ok("dmsetup ls | grep -c replace || true"), "0");

    // The same, gone on with after somebody has ended the program.
    let replace = taken_off();
    machine.ok(&format!("guest io write {PATH} 30000 64 again"));
    replace.kill();
    replace.wait();
    drives.new.heal(0..MAIN);
    let out = machine.ok("dmremap replace-main --continue disk");
    assert!(out.contains("main is /dev/vda; what was left of a replacement is gone"), "{out}");
    on_main(&machine, "vda");
    machine.ok("dmremap replace-main disk /dev/vdc --yes");
    on_main(&machine, "vdc");
    for (at, what) in [(0, "before"), (20_000, "meanwhile"), (30_000, "again")] {
        machine.ok(&format!("guest io check {PATH} {at} 64 {what}"));
    }
    remap.remove();
    machine.shutdown();
}

/// The table in the inactive slot is resumed, and what it commits gets into doubt: the spare takes it, and does not say so.
fn resumed_in_doubt(machine: &Machine, spare: &Drive) {
    machine.ok("dmsetup suspend disk");
    // The first is the flush behind what was read.
    spare.freeze_after(2);
    let resume = machine.start("dmsetup resume disk");
    assert!(spare.wait_frozen(Duration::from_secs(60)));
    spare.set_fail_flushes(true);
    spare.thaw();
    assert_ne!(resume.wait().status, 0);
    machine.wait_for_log("is in doubt", Duration::from_secs(1));
    spare.set_fail_flushes(false);
}

/// Main of the set on that spare, and the one before, by their sectors.
fn mains_by(spare: &Drive) -> [u64; 2] {
    let found = Image::of(spare).recover();
    let raw = found.header().raw();
    [&raw.main, &raw.old_main].map(|print| print.sectors.get())
}

#[test]
fn a_new_main_of_which_nobody_knows_whether_it_took_over_does_when_the_table_is_resumed_again() {
    // With an identifier, and as a device of which nothing is known but its size.
    for new in ["/dev/vdc", "/dev/vdc1"] {
        let drives = Drives::new();
        let machine = drives.boot();
        let sectors = MAIN + 2 * 2048;
        one_partition(&machine, "/dev/vdc", sectors);
        let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 3 create name disk");
        machine.ok(&format!("guest io write {PATH} 0 64 kept"));
        remap.message("remap 0 64");
        let line = format!("0 {MAIN} remap {new} /dev/vdb 1 new_main");
        machine.ok(&format!("dmsetup load disk --table '{line}'"));
        resumed_in_doubt(&machine, &drives.spare);
        machine.ok("dmsetup resume disk");
        on_main(&machine, new.strip_prefix("/dev/").unwrap());
        machine.ok(&format!("guest io check {PATH} 0 64 kept"));
        machine.ok("dmsetup suspend disk && dmsetup resume disk");
        remap.message("check forensic");
        remap.remove();
        // Asked for anew it is a mistake, where that can be told.
        if new == "/dev/vdc1" {
            refused(&machine, "/dev/vdc1 /dev/vdb 1 new_main", "leave out 'new_main'");
        }
        machine.shutdown();
        let size = if new == "/dev/vdc1" { sectors } else { drives.new.sectors() };
        assert_eq!(mains_by(&drives.spare), [size, MAIN], "{new}");
    }
}

#[test]
fn an_old_main_of_which_nobody_knows_whether_it_is_main_again_is_when_the_table_is_resumed_again() {
    let drives = Drives::new();
    let machine = drives.boot();
    let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 3 create name disk");
    machine.ok(&format!("guest io write {PATH} 0 64 kept"));
    let status = remap.message("metadata_status");
    let set = status.lines().find_map(|line| line.strip_prefix("set ")).unwrap();
    machine.ok(&format!(
        "dmsetup create copy --uuid REMAP-CLONE-{set} --table '0 {MAIN} linear /dev/vda 0'"
    ));
    let load = |main: &str| {
        machine.ok(&format!("dmsetup load disk --table '0 {MAIN} remap {main}'"));
    };
    load("/dev/mapper/copy /dev/vdb 1 new_main");
    resumed_in_doubt(&machine, &drives.spare);
    machine.ok("dmsetup resume disk");
    load("/dev/vda /dev/vdb 1 old_main");
    resumed_in_doubt(&machine, &drives.spare);
    machine.ok("dmsetup resume disk");
    on_main(&machine, "vda");
    machine.ok("dmsetup suspend disk && dmsetup resume disk");
    machine.ok(&format!("guest io check {PATH} 0 64 kept"));
    remap.remove();
    refused(&machine, "/dev/vda /dev/vdb 1 old_main", "leave out 'old_main'");
    machine.shutdown();
    assert_eq!(mains_by(&drives.spare), [MAIN, 0]);
}
