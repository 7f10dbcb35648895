//! Drives that fail everywhere, or altogether: what is no matter of blocks moves nothing, and what is goes on, however much there is.

use super::common::{boot, drives, flush, holds, number, read, write, MIB, PATH};
use super::failing::{activate, all_fail, create, pending, remapped, told, write_until_it_works};
use remap_harness::{Drive, Image, Ledger, Machine, Output, Remap, Rng};
use std::time::{Duration, Instant};

/// What has to be true after a drive that was away as a whole works again.
fn is_as_before(machine: &Machine, main: &Drive, remap: &Remap<'_>) {
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    holds(machine, 0, 8192, "old");
    // And what fails now moves.
    assert_eq!(write(machine, 64, 8, "old"), 0);
    main.fail_writes(1003..1004);
    write_until_it_works(machine, 1000, 8, "old");
    assert_eq!(remapped(&remap.places()), [(1003, 1)]);
    assert_eq!(remap.status().keys["auto"], "on");
    holds(machine, 0, 8192, "old");
}

#[test]
fn a_drive_that_turns_read_only_moves_nothing() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.fail_writes(0..32 * MIB);
    all_fail(&machine, &["write"]);
    holds(&machine, 0, 8192, "old");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    assert!(Image::of(&spare).places().is_empty());
    main.heal(0..32 * MIB);
    is_as_before(&machine, &main, &remap);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_drive_that_is_gone_moves_nothing() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.set_gone(true);
    all_fail(&machine, &["read", "write"]);
    std::thread::sleep(Duration::from_secs(2));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    assert!(Image::of(&spare).places().is_empty());
    main.set_gone(false);
    is_as_before(&machine, &main, &remap);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_move_on_a_drive_that_answers_no_read_marks_nothing() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.fail_reads(0..32 * MIB);
    for range in ["1000 8", "0 2048"] {
        let said = remap.message_fails(&format!("remap {range}"));
        assert!(said.contains("Input/output error"), "{said}");
    }
    let said = remap.message("metadata_status");
    assert!(said.contains("main (") && said.contains("cannot be read anywhere"), "{said}");
    assert_eq!(remap.message("table"), "");
    main.heal(0..32 * MIB);
    main.fail_reads(1003..1005);
    remap.message("remap 1000 8");
    let places = remap.places();
    assert_eq!(remapped(&places), [(1000, 3), (1005, 3)]);
    assert_eq!(pending(&places), [(1003, 2)]);
    holds(&machine, 0, 1003, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn errors_that_come_too_fast_stop_remapping() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("set error_rate_limit 20");
    main.fail_writes(4000..8000);
    // Others succeed in between, so this is no drive gone read-only.
    let mut failed = 0;
    for sector in (4000..4400).step_by(8) {
        assert_eq!(write(&machine, sector - 4000, 8, "old"), 0);
        failed += u64::from(write(&machine, sector, 8, "new") != 0);
    }
    let status = remap.status();
    assert!(failed > 0 && status.remapped.0 < 400, "{failed} failed: {}", status.line);
    assert_eq!(status.keys["auto"], "halted", "{}", status.line);
    assert_eq!(status.remapped.0, (50 - failed) * 8, "{}", status.line);
    holds(&machine, 0, 4000, "old");
    assert_eq!(flush(&machine), 0);
    machine.power_cut(8);
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    assert_eq!(remap.message("get error_rate_limit"), "20");
    assert_eq!(remap.status().remapped.0, (50 - failed) * 8);
    remap.remove();
    machine.shutdown();
}

#[test]
fn swap_on_a_failing_drive_keeps_what_is_swapped_out() {
    let main = Drive::blank("main", 768 * MIB);
    let spare = Drive::blank("spare", 64 * MIB);
    let mut rng = Rng::new(18);
    for _ in 0..1500 {
        // Not in its first block, where it says what it is.
        let sector = 8 + rng.below(main.sectors() - 8);
        main.fail_writes(sector..sector + 1 + rng.below(8));
    }
    let machine = Machine::builder().memory(512).drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok(&format!("mkswap {PATH} >/dev/null && swapon {PATH}"));
    // More than there is memory, so that what fails to be swapped out is what memory is waited for. Not faster than the drive is: the kernel
    // ends programs when memory does not come for long.
    machine.ok("mkdir -p /tmp/much && mount -t tmpfs -o size=640m tmpfs /tmp/much");
    let patience = Duration::from_secs(400);
    let output = machine.run_for(
        "for i in 1 2 3 4 5 6; do for part in 1 2 3 4 5 6 7 8 9 10 11 12; do \
         dd if=/dev/urandom bs=64k count=125 2>/dev/null >>/tmp/much/$i || exit 1; \
         while [ $(awk '/^Writeback:/ { print $2 }' /proc/meminfo) -gt 8192 ]; do sleep 0.1; done; done; \
         md5sum /tmp/much/$i >>/tmp/sums; done; md5sum -c -s /tmp/sums && dmesg | grep -c 'Write-error on swap'",
        patience,
    );
    // 1 is what grep says when it has found none.
    assert_eq!((output.status, output.stdout.trim()), (1, "0"), "{}", output.stderr);
    let status = remap.status();
    assert!(status.remapped.0 > 20, "{}", status.line);
    assert_eq!(status.keys["persist"], "enabled");
    machine.ok(&format!("umount /tmp/much && swapoff {PATH}"));
    remap.remove();
    machine.shutdown();
}

/// Something writes and reads at random until its device is gone.
const LOAD: &str = "fio --name=load --filename=/dev/mapper/r --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=4k-64k \
     --size=24m --time_based --runtime=600 --randrepeat=0 --output=/tmp/fio.log";

/// Takes main away from a set under load. `main` is its path in the machine.
fn unplug(machine: &Machine, main: &str, unplug: &str) {
    let remap = Remap::create(machine, "r", main, "/dev/vda 1 create");
    let mut load = machine.start(LOAD);
    std::thread::sleep(Duration::from_secs(3));
    assert!(load.poll(Duration::from_millis(1)).is_none(), "{}", machine.ok("cat /tmp/fio.log"));
    machine.ok(unplug);
    let ended = load.poll(Duration::from_secs(60)).unwrap_or_else(|| {
        let stacks = machine
            .run("for p in $(pidof fio); do cat /proc/$p/task/*/stack; done; dmsetup status r");
        panic!("the load hangs:\n{}{}", stacks.stdout, stacks.stderr);
    });
    assert_ne!(ended.status, 0, "a load without a device succeeds");
    assert_ne!(write(machine, 0, 8, "new"), 0);
    std::thread::sleep(Duration::from_secs(2));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    remap.remove();
    machine.ok("rmmod dm-remap");
}

#[test]
fn a_scsi_drive_that_is_unplugged_under_load_moves_nothing() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    machine.ok("modprobe sd_mod && modprobe scsi_debug dev_size_mb=32 && for i in $(seq 100); do [ -e /dev/sda ] && exit 0; sleep 0.1; done; exit 1");
    unplug(&machine, "/dev/sda", "echo 1 >/sys/block/sda/device/delete");
    machine.shutdown();
}

#[test]
fn a_drive_that_is_powered_off_under_load_moves_nothing() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    let main = machine.null_blk(0, 32, &[("memory_backed", "1")]);
    unplug(&machine, &main, "echo 0 >/sys/kernel/config/nullb/nullb0/power");
    machine.shutdown();
}

#[test]
fn a_cable_that_is_loose_moves_nothing_and_a_medium_error_does() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    machine.ok("modprobe sd_mod && modprobe scsi_debug dev_size_mb=32 && for i in $(seq 100); do [ -e /dev/sda ] && exit 0; sleep 0.1; done; exit 1");
    let remap = Remap::create(&machine, "r", "/dev/sda", "/dev/vda 1 create");
    assert_eq!(write(&machine, 0, 8192, "old"), 0);
    // Every write ends with a transport error: kind 2, for so many commands, WRITE(10), host byte "transport failfast".
    let inject = "for file in /sys/kernel/debug/scsi_debug/*/error; do echo '2 -1000 0x2a 0x0f 0 0 0 0 0' >$file; done";
    machine.ok(inject);
    assert_ne!(write(&machine, 1000, 8, "new"), 0);
    std::thread::sleep(Duration::from_secs(1));
    let status = remap.status();
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);
    machine.ok("for file in /sys/kernel/debug/scsi_debug/*/error; do echo '- 2 0x2a' >$file; done");
    write_until_it_works(&machine, 1000, 8, "old");
    // The drive's own medium error, for reads of ten sectors.
    machine.ok("cd /sys/bus/pseudo/drivers/scsi_debug && echo 2 >opts");
    let first = 0x1234;
    assert_ne!(read(&machine, first - 8, 32), 0);
    remap.wait_until(|status| status.pending.0 == 10);
    assert_eq!(pending(&remap.places()), [(first, 10)]);
    assert_eq!(write(&machine, first - 8, 32, "new"), 0);
    assert_eq!(remapped(&remap.places()), [(first, 10)]);
    holds(&machine, first - 8, 32, "new");
    remap.remove();
    machine.shutdown();
}

/// Sectors that are bad from the start: one in a thousand. None in the first block, which is written and read in parts.
fn bad_from_the_start(sectors: u64, seed: u64) -> Vec<u64> {
    let mut rng = Rng::new(seed);
    (0..sectors / 1000).map(|_| 8 + rng.below(sectors - 8)).collect()
}

#[test]
fn a_filesystem_lives_on_a_drive_with_bad_blocks_everywhere() {
    let main = Drive::blank("main", 128 * MIB);
    let spare = Drive::blank("spare", 16 * MIB);
    for sector in bad_from_the_start(main.sectors(), 1) {
        main.fail(sector..sector + 1);
    }
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let patience = Duration::from_secs(300);
    let run = |machine: &Machine, command: &str| {
        let Output { status, stdout, stderr } = machine.run_for(command, patience);
        assert_eq!(status, 0, "{command}\n{stdout}{stderr}{}", machine.ok("dmesg | tail -n 20"));
    };
    run(&machine, &format!("mkfs.ext4 -q -b 4096 {PATH}"));
    run(&machine, &format!("modprobe ext4 && mount {PATH} /mnt"));
    run(
        &machine,
        "cd /mnt && for i in $(seq 2000); do mkdir -p d$((i % 20)) && \
         dd if=/dev/urandom of=d$((i % 20))/f$i bs=512 count=$((i * 7919 % 120 + 1)) 2>/dev/null || exit 1; done && \
         sync && echo 3 >/proc/sys/vm/drop_caches && find . -type f | sort | xargs md5sum >/tmp/sums && cp /tmp/sums /mnt/sums && sync",
    );
    let status = remap.status();
    println!("{}", status.line);
    assert!(status.remapped.0 > 0, "{}", status.line);
    let log = machine.kernel_log();
    let lost: Vec<&str> =
        log.lines().filter(|l| l.contains("lost ") || l.contains("EXT4-fs error")).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    machine.power_cut(16);

    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    run(&machine, &format!("modprobe ext4 && mount {PATH} /mnt && cd /mnt && md5sum -c -s sums && cd / && umount /mnt"));
    run(&machine, &format!("e2fsck -f -n {PATH}"));
    let log = machine.kernel_log();
    assert!(!log.contains("EXT4-fs error"));
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_storm_of_errors_shares_commits_and_leaves_room_for_others() {
    let main = Drive::blank("main", 128 * MIB);
    let spare = Drive::blank("spare", 64 * MIB);
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    // The others write to a part of main that takes its time as a disk does, so that their rate is not that of the processor.
    main.slow_down(64 * MIB..96 * MIB, Duration::from_millis(20));
    let others = |seconds: u64| {
        machine.start(&format!(
            "fio --name=others --filename={PATH} --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite --bs=4k --offset=64m --size=32m \
             --time_based --runtime={seconds} --randrepeat=0 --output-format=terse --terse-version=3"
        ))
    };
    // Field 49 of fio's terse output is how many writes a second there were.
    let rate = |output: &Output| {
        let iops = output.stdout.trim().split(';').nth(48).and_then(|f| f.parse::<u64>().ok());
        iops.unwrap_or_else(|| panic!("{}{}", output.stdout, output.stderr))
    };
    let alone = rate(&others(10).wait());
    main.fail_writes(0..40 * MIB);
    let before = told(&remap, "commits");
    let start = Instant::now();
    let storm = machine.start(&format!(
        "fio --name=storm --filename={PATH} --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bs=4k --size=40000k --io_size=40000k \
         --randrepeat=0"
    ));
    let beside = rate(&others(10).wait());
    let output = storm.wait_for(Duration::from_secs(600));
    let commits = told(&remap, "commits") - before;
    println!(
        "{commits} commits, {} s, others {alone} alone and {beside} beside",
        start.elapsed().as_secs()
    );
    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    let status = remap.status();
    assert_eq!(status.remapped.0, 80_000, "{}", status.line);
    assert!(commits <= 700, "{commits} commits");
    assert!(beside * 2 >= alone, "others did {alone} a second alone, {beside} beside the storm");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_power_cut_among_automatic_remaps_loses_nothing() {
    let (main, spare) = drives();
    let mut rng = Rng::new(17);
    for _ in 0..400 {
        let sector = rng.below(4096);
        main.fail_writes(sector..sector + 1);
    }
    let mut ledger = Ledger::new(17, "0+4096");
    let mut create = " 1 create";
    // At many points of the commits and of what is written before them.
    for after in [1, 2, 5, 9, 14, 23, 60] {
        let machine = boot(&[&main, &spare]);
        let remap = Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb{create}"));
        create = "";
        ledger.check(&machine, PATH);
        spare.freeze_after(after);
        let load = ledger.start(&machine, PATH, "threads=4 largest=64");
        spare.wait_frozen(Duration::from_secs(30));
        drop((load, remap));
        ledger.enter(&machine.power_cut(after));
    }
    assert_eq!((ledger.write_errors, ledger.read_errors), (0, 0));
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    ledger.check(&machine, PATH);
    let status = remap.wait_until(|status| status.keys["persist"] == "enabled");
    assert!(number(&status, "auto_remaps") > 0, "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_main_that_has_mostly_moved_can_move_its_last_blocks() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 48 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("remap 0 62000");
    remap.wait_until(|status| status.keys["jobs"] == "0");
    main.fail_writes(0..62000);
    main.fail_writes(63001..63003);
    assert_eq!(write(&machine, 63001, 2, "new"), 0);
    holds(&machine, 63001, 2, "new");
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["auto"].as_str()), (62002, "on"), "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn without_room_for_marks_a_few_lines_say_so() {
    let main = Drive::blank("large", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let mut image = Image::blank(spare.sectors());
    image.create(main.sectors(), (0..31975).map(|i| (i * 2, 1)));
    spare.scribble(0, image.metadata());
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 alert_threshold 0");
    for i in 0..60 {
        main.fail_reads(100_000 + 16 * i..100_001 + 16 * i);
    }
    machine.ok(&format!(
        "for i in $(seq 0 179); do guest io read {PATH} $((100000 + i % 60 * 16)) 1 2>/dev/null && exit 1; done; exit 0"
    ));
    std::thread::sleep(Duration::from_secs(1));
    let status = remap.status();
    assert_eq!(status.keys["full"], "table", "{}", status.line);
    assert!(status.pending.0 < 60, "{}", status.line);
    let log = machine.kernel_log();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("no room in the table")).collect();
    assert!((1..=40).contains(&lines.len()), "{lines:#?}");
    for line in lines {
        assert!(line.contains("sector 10") && line.contains(" of 254:0 "), "{line}");
    }
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_bad_area_on_the_spare_is_passed_over() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    // The first places that there are, and many behind them.
    spare.fail_writes(3072..4096);
    spare.fail_writes(5120..6500);
    main.fail_writes(1003..1011);
    assert_eq!(write(&machine, 1000, 16, "new"), 0);
    holds(&machine, 1000, 16, "new");
    let status = remap.status();
    assert_eq!(status.remapped.0, 8, "{}", status.line);
    assert!((1..64).contains(&number(&status, "retired")), "{}", status.line);
    assert_eq!(flush(&machine), 0);
    machine.power_cut(20);

    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    holds(&machine, 1000, 16, "new");
    assert_eq!(remap.status().used.0, 8 + number(&remap.status(), "retired"));
    remap.remove();
    machine.shutdown();
}
