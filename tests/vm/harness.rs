//! The harness itself: what every other test here stands on.

use super::common::MIB;
use remap_harness::{Drive, Ledger, Machine};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[test]
fn commands_run_and_say_how_they_ended() {
    let machine = Machine::builder().boot();
    let output = machine.run("echo out; echo err >&2; exit 7");
    assert_eq!(
        (output.status, output.stdout.as_str(), output.stderr.as_str()),
        (7, "out\n", "err\n")
    );

    let mut job = machine.start("echo begun; sleep 1000");
    assert!(job.poll(Duration::from_millis(300)).is_none());
    assert_eq!(machine.ok("echo side by side"), "side by side");
    job.kill();
    assert_eq!(job.wait().status, -9);

    let content: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    machine.put("/tmp/file", &content);
    assert_eq!(machine.ok("stat -c %s /tmp/file"), content.len().to_string());
    assert!(machine.get("/tmp/file") == content);
    machine.shutdown();
}

#[test]
fn machines_that_were_thawed_have_clocks_and_random_numbers_of_their_own() {
    let small = Drive::blank("small", MIB);
    let large = Drive::blank("large", 2 * MIB);
    let about = |machine: &Machine| {
        let told = machine
            .ok("cat /proc/sys/kernel/random/uuid; blockdev --getsz /dev/vda /dev/vdb; date +%s");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let lines: Vec<String> = told.lines().map(str::to_string).collect();
        let clock: u64 = lines[3].parse().unwrap();
        assert!(clock.abs_diff(now.as_secs()) < 60, "{clock}, and {} here", now.as_secs());
        lines
    };
    let one = Machine::builder().drive(&small).drive(&large).boot();
    let first = about(&one);
    one.shutdown();
    let other = Machine::builder().drive(&large).drive(&small).boot();
    let second = about(&other);
    other.shutdown();
    assert_ne!(first[0], second[0]);
    assert_eq!((&first[1], &first[2]), (&second[2], &second[1]));
    assert_eq!(first[1], MIB.to_string());
}

#[test]
fn a_complaint_of_the_kernel_is_found() {
    let machine = Machine::builder().boot();
    assert_eq!(machine.complaints(), Vec::<String>::new());
    machine.ok("echo 'WARNING: CPU: 0 PID: 1 at nowhere' >/dev/kmsg");
    machine.wait_for_log("at nowhere", Duration::from_secs(10));
    assert_eq!(machine.complaints().len(), 1);
    machine.ok("echo 'INFO: task x:1 blocked in I/O wait for more than 90 seconds.' >/dev/kmsg");
    machine.wait_for_log("in I/O wait", Duration::from_secs(10));
    assert_eq!(machine.complaints().len(), 2);
    machine.allow("in I/O wait");
    machine.allow("at nowhere");
    assert_eq!(machine.complaints(), Vec::<String>::new());
    machine.shutdown();
}

#[test]
#[should_panic(expected = "the kernel complained")]
fn a_complaint_of_the_kernel_fails_its_test() {
    let machine = Machine::builder().boot();
    machine.ok("echo 'BUG: this is a test' >/dev/kmsg");
    machine.wait_for_log("this is a test", Duration::from_secs(10));
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn the_kernel_that_looks_for_faults_finds_some() {
    for (fault, says) in [
        ("SLAB_LINEAR_OVERFLOW", "KASAN: slab-out-of-bounds"),
        ("READ_AFTER_FREE", "KASAN: slab-use-after-free"),
        ("SLAB_FREE_DOUBLE", "KASAN: double-free"),
        ("CORRUPT_LIST_ADD", "list_add"),
        ("ARRAY_BOUNDS", "UBSAN: array-index-out-of-bounds"),
        ("SPINLOCKUP", "lock held when returning to user space"),
        ("HUNG_TASK", "INFO: task "),
    ] {
        let machine = Machine::builder().boot();
        machine.ok("echo 5 >/proc/sys/kernel/hung_task_timeout_secs");
        // Who does that may not come back.
        machine.ok(&format!(
            "modprobe lkdtm; (echo {fault} >/sys/kernel/debug/provoke-crash/DIRECT) >/dev/null 2>&1 &"
        ));
        machine.wait_for_log(says, Duration::from_secs(60));
        let complaints = machine.complaints();
        assert!(complaints.iter().any(|line| line.contains(says)), "{fault}: {complaints:#?}");
        machine.allow("");
        machine.power_cut(0);
    }
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
#[should_panic(expected = "sleeping function called from invalid context")]
fn who_sleeps_where_that_is_not_allowed_fails_its_test() {
    let machine = Machine::builder().boot();
    machine.ok("insmod /provoke.ko fault=sleep");
    machine.shutdown();
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
#[should_panic(expected = "pagealloc: ")]
fn who_writes_to_a_page_that_is_free_fails_its_test() {
    let machine = Machine::builder().boot();
    machine.ok("insmod /provoke.ko fault=page");
    machine.shutdown();
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
#[should_panic(expected = "leaks, of the module")]
fn memory_that_a_module_leaves_behind_fails_its_test() {
    let machine = Machine::builder().boot();
    // Only the module that is tested is told from others by its name; what has been unloaded has none.
    machine.ok("insmod /provoke.ko fault=leak && rmmod provoke");
    machine.shutdown();
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn the_suite_in_the_module_passes() {
    let machine = Machine::builder().module().boot();
    machine.wait_for_log("# dm_remap: pass:", Duration::from_secs(60));
    let log = machine.kernel_log();
    let sum = log.split("# dm_remap: pass:").nth(1).unwrap_or_else(|| panic!("no sum: {log}"));
    assert!(sum.starts_with("4 fail:0 skip:0 total:4"), "{sum}");
    assert!(!log.contains("not ok "), "{log}");
    machine.shutdown();
}

#[test]
fn what_was_flushed_outlives_a_power_cut() {
    let drive = Drive::with_blocks("disk", 16 * MIB, 512, 4096);
    let mut lost = false;
    for seed in 0..3 {
        let machine = Machine::builder().drive(&drive).boot();
        assert_eq!(
            machine.ok(
                "cat /sys/block/vda/queue/physical_block_size /sys/block/vda/queue/write_cache"
            ),
            "4096\nwrite back"
        );
        machine
            .ok(&format!("guest io write /dev/vda 0 64 flushed{seed} && guest io flush /dev/vda"));
        machine.ok(&format!("guest io write /dev/vda 1024 8192 unflushed{seed}"));
        machine.ok(&format!("guest io check /dev/vda 1024 8192 unflushed{seed}"));
        machine.power_cut(seed);

        let machine = Machine::builder().drive(&drive).boot();
        machine.ok(&format!("guest io check /dev/vda 0 64 flushed{seed}"));
        lost |=
            machine.run(&format!("guest io check /dev/vda 1024 8192 unflushed{seed}")).status != 0;
    }
    assert!(lost, "three power cuts in a row lost nothing");
}

#[test]
fn a_drive_fails_where_it_is_told_to() {
    const EIO: i32 = 5;
    let drive = Drive::blank("disk", 16 * MIB);
    let machine = Machine::builder().drive(&drive).boot();
    machine.ok("guest io write /dev/vda 0 2048 before");
    drive.fail_reads(100..101);
    drive.fail_writes(200..201);
    assert_eq!(machine.run("guest io read /dev/vda 96 8").status, EIO);
    machine.ok("guest io write /dev/vda 96 8 after");
    machine.ok("guest io check /dev/vda 200 8 before");
    assert_eq!(machine.run("guest io write /dev/vda 200 8 after").status, EIO);
    drive.heal(0..2048);
    machine.ok("guest io check /dev/vda 96 8 after");

    drive.slow_down(300..301, Duration::from_secs(5));
    let mut slow = machine.start("guest io read /dev/vda 300 1");
    machine.ok("guest io read /dev/vda 301 8");
    assert!(slow.poll(Duration::from_millis(1)).is_none());
    assert_eq!(slow.wait().status, 0);

    drive.set_fail_flushes(true);
    machine.ok("guest io write /dev/vda 400 8 unflushed");
    assert_eq!(machine.run("guest io flush /dev/vda").status, EIO);
    drive.set_fail_flushes(false);
    drive.set_gone(true);
    assert_eq!(machine.run("guest io read /dev/vda 0 8").status, EIO);
    drive.set_gone(false);
    machine.ok("guest io check /dev/vda 0 8 before && guest io flush /dev/vda");
    assert!(drive.durable(0..1).starts_with(b"before 0\n"));

    let before = drive.counters();
    machine.ok("guest io read /dev/vda 0 8 && blkdiscard -o 1048576 -l 1048576 /dev/vda");
    let after = drive.counters();
    assert!(after.reads > before.reads && after.discards > before.discards);
    machine.shutdown();
}

#[test]
fn a_drive_can_stop_at_any_write() {
    let drive = Drive::blank("disk", 16 * MIB);
    let machine = Machine::builder().drive(&drive).boot();
    drive.freeze_after(3);
    let _job = machine.start(
        "for s in 0 8 16 24; do guest io write /dev/vda $s 8 x && guest io flush /dev/vda; done",
    );
    assert!(drive.wait_frozen(Duration::from_secs(60)));
    machine.power_cut(0);
    assert!(drive.durable(0..1).starts_with(b"x 0\n"), "the first write was flushed");
    assert!(drive.durable(8..9).iter().all(|b| *b == 0), "the second was what it stopped at");
}

#[test]
fn a_load_is_kept_over_power_cuts_by_a_drive_without_remap() {
    let drive = Drive::blank("disk", 64 * MIB);
    let mut ledger = Ledger::new(7, "0+16384,32768+4096");
    for seed in 0..3 {
        let machine = Machine::builder().drive(&drive).boot();
        ledger.check(&machine, "/dev/vda");
        let mut load = ledger.start(&machine, "/dev/vda", "");
        assert_eq!(
            load.poll(Duration::from_millis(1500 + 700 * seed)),
            None,
            "the load ended by itself"
        );
        ledger.enter(&machine.power_cut(seed));
    }
    let machine = Machine::builder().drive(&drive).boot();
    ledger.check(&machine, "/dev/vda");
    assert!(
        ledger.writes > 300 && ledger.flushes > 10,
        "{} writes, {} flushes",
        ledger.writes,
        ledger.flushes
    );
    eprintln!("{} writes, {} flushes", ledger.writes, ledger.flushes);
    machine.shutdown();
}

#[test]
fn the_kernels_own_failing_drives_are_there() {
    const EIO: i32 = 5;
    let machine = Machine::builder().boot();
    let path = machine.null_blk(0, 16, &[("memory_backed", "1"), ("badblocks", "+80-87")]);
    machine.ok(&format!("guest io write {path} 0 80 x && guest io check {path} 0 80 x"));
    assert_eq!(machine.run(&format!("guest io read {path} 80 8")).status, EIO);
    machine.shutdown();
}
