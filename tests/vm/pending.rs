//! Blocks that cannot be read: which of them are marked, and how they become readable again.

use super::common::{boot, drives, flush, holds, number, read, until_suspect, write, MIB, PATH};
use super::failing::{activate, create, main_holds, pending, remapped, EIO};
use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Image, Machine};
use std::time::{Duration, Instant};

#[test]
fn a_read_that_fails_marks_exactly_what_cannot_be_read() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.fail_reads(1003..1005);
    main.fail_reads(1100..1101);
    assert_eq!(read(&machine, 992, 120), EIO);
    let status = remap.wait_until(|status| status.pending.0 == 3);
    assert_eq!(status.remapped.0, 0, "{}", status.line);
    assert!(!status.keys["errors"].ends_with(":R0"), "{}", status.line);
    assert_eq!(pending(&remap.places()), [(1003, 2), (1100, 1)]);
    for (first, count) in [(992, 11), (1005, 95), (1101, 11)] {
        holds(&machine, first, count, "old");
    }
    assert_eq!(read(&machine, 1004, 1), EIO);
    assert_eq!(remap.status().pending.0, 3);
    machine.power_cut(2);

    assert_eq!(pending(&Image::of(&spare).places()), [(1003, 2), (1100, 1)]);
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    assert_eq!(remap.status().pending.0, 3);
    assert_eq!(read(&machine, 1003, 1), EIO);
    holds(&machine, 0, 1003, "old");
    remap.remove();
    machine.shutdown();
}

/// How many reads of the last fio failed.
fn errors_of(machine: &Machine) -> String {
    machine.ok("sed -n 's/.*\"total_err\" : \\([0-9]*\\).*/\\1/p' /tmp/together.json")
}

#[test]
fn a_block_that_fails_takes_no_read_beside_it_along() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    // Sixteen reads of 4 KiB that are sent together: the block layer makes one request of them, and the drive of what is left of
    // them.
    let together_from = |sector: u64| {
        machine.run(&format!(
            "fio --name=together --filename={PATH} --direct=1 --ioengine=libaio --rw=read --bs=4k --offset={} --size=64k \
             --iodepth=16 --iodepth_batch_submit=16 --continue_on_error=read --output-format=json --output=/tmp/together.json",
            sector * 512
        ));
        errors_of(&machine)
    };
    let together = || together_from(960);
    let merged = || machine.ok("awk '{print $2}' /sys/block/vda/stat").parse::<u64>().unwrap();
    assert_eq!(together(), "0");
    main.fail_reads(1000..1008);
    let before = merged();
    assert_eq!(together(), "1", "nobody knew of the block");
    assert!(merged() > before, "nothing was merged");
    remap.wait_until(|status| status.pending.0 == 8);
    assert_eq!(together(), "1", "it was known to fail");
    assert_eq!(pending(&remap.places()), [(1000, 8)]);
    // What is long is cut on its way, and comes back in parts, the second time as the first.
    machine.ok("echo 32 >/sys/block/vda/queue/max_sectors_kb");
    main.fail_reads(3000..3008);
    machine.run(&format!(
        "fio --name=long --filename={PATH} --direct=1 --ioengine=libaio --rw=read --bs=256k --size=2m --iodepth=8 --iodepth_batch_submit=8 \
         --continue_on_error=read --output-format=json --output=/tmp/together.json"
    ));
    assert_eq!(errors_of(&machine), "2");
    // With one that takes its time to fail, the others still come.
    main.slow_down(1000..1008, Duration::from_millis(400));
    assert_eq!(together(), "1", "it was slow");
    // Two bad places on the spare, read together with good ones, are found out. (What could not be read on main may be moved by itself by now.)
    main.heal(0..8192);
    remap.message("remap 8192 128");
    machine.ok(&format!("guest io flush {PATH}"));
    let at = remap.place_of(8192).unwrap();
    spare.fail_reads(at + 16..at + 24);
    spare.fail_reads(at + 80..at + 88);
    assert_eq!(together_from(8192), "2", "two on the spare");
    let deadline = Instant::now() + Duration::from_secs(60);
    while remap.message("table").matches(" suspect ").count() != 2 {
        assert!(Instant::now() < deadline, "not found out:\n{}", remap.message("table"));
        std::thread::sleep(Duration::from_millis(100));
    }
    remap.remove();
    machine.shutdown();
}

#[test]
fn many_reads_that_fail_at_once_leave_no_block_unmarked() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("set error_rate_limit 100000");
    for block in 0..200 {
        main.fail_reads(block * 128..block * 128 + 1);
    }
    machine.run(&format!(
        "fio --name=reads --filename={PATH} --direct=1 --ioengine=libaio --iodepth=256 --rw=read --bs=512 --zonemode=strided --zonesize=512 \
         --zonerange=64k --size=100k --continue_on_error=read --output=/tmp/fio.log"
    ));
    remap.wait_until(|status| status.pending.0 == 200);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_pending_block_that_answers_at_the_second_try_is_saved() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.fail_reads(1003..1004);
    main.fail_reads(1011..1012);
    assert_eq!(read(&machine, 1000, 16), EIO);
    remap.wait_until(|status| status.pending.0 == 2);
    // Both fail together, so each is read once more by itself; one of them can be read then. On a busy machine they may fail one after the other, and
    // nothing has changed.
    let both = || {
        main.heal(1003..1004);
        main.ail(1003..1004, Ill { reads: true, times: 1, ..Ill::default() });
        machine.run(&format!(
            "fio --name=both --filename={PATH} --direct=1 --ioengine=libaio --rw=read --bs=4k --offset={} --size=8k --iodepth=2 \
             --iodepth_batch_submit=2 --continue_on_error=read --output-format=json --output=/tmp/together.json",
            1000 * 512
        ));
        errors_of(&machine) == "1"
    };
    assert!((0..50).any(|_| both()), "none was saved");
    remap.wait_until(|status| status.remapped.0 == 1);
    let places = remap.places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1003, 1)], vec![(1011, 1)]));
    holds(&machine, 1000, 11, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_pending_block_that_answers_a_read_that_had_to_wait_is_saved() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.fail_reads(2003..2004);
    remap.message("remap 2000 8");
    assert_eq!(pending(&remap.places()), [(2003, 1)]);
    // What brings the others back still fails to read it; who reads all of them meanwhile does not.
    main.heal(2003..2004);
    main.ail(2003..2004, Ill { reads: true, times: 1, ..Ill::default() });
    spare.slow_down(0..16 * MIB, Duration::from_millis(500));
    let unremap = machine.start("dmsetup message r 0 unremap 2000 8");
    std::thread::sleep(Duration::from_millis(300));
    holds(&machine, 2000, 8, "old");
    assert_eq!(unremap.wait().status, 0);
    spare.heal(0..16 * MIB);
    remap.wait_until(|status| status.pending.0 == 0);
    assert_eq!(remapped(&remap.places()), [(2003, 1)]);
    holds(&machine, 2000, 8, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_write_to_a_pending_block_moves_what_it_writes() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.fail_reads(1000..1008);
    assert_eq!(read(&machine, 1000, 8), EIO);
    remap.wait_until(|status| status.pending.0 == 8);
    // Main would take it, but what cannot be read there is not trusted.
    assert_eq!(write(&machine, 990, 12, "new"), 0);
    let places = remap.places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1000, 2)], vec![(1002, 6)]));
    holds(&machine, 990, 12, "new");
    main_holds(&machine, 990, 10, "new");
    assert_eq!(read(&machine, 1002, 1), EIO);
    // Zeroes are a write too.
    machine.ok(&format!("guest io zero {PATH} 1002 3"));
    assert_eq!(flush(&machine), 0);
    machine.power_cut(3);

    let places = Image::of(&spare).places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1000, 5)], vec![(1005, 3)]));
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    holds(&machine, 990, 12, "new");
    machine.ok(&format!("guest io check-zeroes {PATH} 1002 3"));
    assert_eq!(read(&machine, 1005, 3), EIO);
    main.heal(1000..1008);
    main_holds(&machine, 1000, 8, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_pending_block_that_can_be_read_again_is_saved() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.fail_reads(1000..1004);
    assert_eq!(read(&machine, 992, 16), EIO);
    remap.wait_until(|status| status.pending.0 == 4);
    main.heal(1000..1002);
    holds(&machine, 1000, 2, "old");
    let status = remap.wait_until(|status| status.pending.0 == 2);
    assert_eq!(status.remapped.0, 2, "{}", status.line);
    assert_eq!(remapped(&remap.places()), [(1000, 2)]);
    // It lives on the spare now.
    main.fail(1000..1004);
    holds(&machine, 992, 10, "old");
    machine.power_cut(4);

    let places = Image::of(&spare).places();
    assert_eq!((remapped(&places), pending(&places)), (vec![(1000, 2)], vec![(1002, 2)]));
    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    holds(&machine, 992, 10, "old");
    main.heal(1000..1004);
    holds(&machine, 992, 16, "old");
    let status = remap.wait_until(|status| status.pending.0 == 0);
    assert_eq!(status.remapped.0, 4, "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_read_that_the_spare_refuses_is_an_error_until_the_block_is_written() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("remap 1000 8");
    let bad = remap.place_of(1003).unwrap();
    spare.fail_reads(bad..bad + 1);
    // Main's block could be read, but is not what was written last.
    assert_eq!(read(&machine, 1003, 1), EIO);
    assert_eq!(read(&machine, 992, 24), EIO);
    // The core may take a read for one with the worker's beside it, which fails.
    until_suspect(&remap, 1);
    holds(&machine, 992, 11, "old");
    holds(&machine, 1004, 12, "old");
    assert_eq!(write(&machine, 1003, 1, "new"), 0);
    holds(&machine, 1003, 1, "new");
    assert_ne!(remap.place_of(1003), Some(bad));
    assert_eq!(remapped(&remap.places()), [(1000, 8)]);
    assert_eq!(remap.status().pending.0, 0);
    assert_eq!(flush(&machine), 0);
    machine.power_cut(6);

    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    holds(&machine, 992, 11, "old");
    holds(&machine, 1003, 1, "new");
    holds(&machine, 1004, 12, "old");
    main_holds(&machine, 1003, 1, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn suspect_blocks_without_room_stay_where_they_are() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 8 * MIB);
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("remap 1000 4");
    remap.message(&format!("remap 8192 {}", 16 * MIB));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    let places: Vec<u64> = (1000..1004).map(|sector| remap.place_of(sector).unwrap()).collect();
    places.iter().for_each(|&at| spare.fail_reads(at..at + 1));
    let suspect = || remap.message("table").matches(" suspect ").count();
    assert_eq!(read(&machine, 1000, 4), EIO);
    let deadline = Instant::now() + Duration::from_secs(20);
    while suspect() == 0 {
        assert!(Instant::now() < deadline, "nothing is suspect:\n{}", remap.message("table"));
        std::thread::sleep(Duration::from_millis(100));
    }
    // Room for one of the four, which can be read again.
    remap.message("unremap 8192 1");
    places.iter().for_each(|&at| spare.heal(at..at + 1));
    holds(&machine, 1000, 4, "old");
    let status = remap.wait_until(|status| number(status, "retired") == 1);
    assert_eq!(status.used.0, status.used.1, "{}", status.line);
    std::thread::sleep(Duration::from_secs(1));
    holds(&machine, 1000, 4, "old");
    machine.power_cut(19);

    let machine = boot(&[&main, &spare]);
    let remap = activate(&machine);
    holds(&machine, 1000, 4, "old");
    assert_eq!(write(&machine, 1000, 4, "new"), 0);
    holds(&machine, 1000, 4, "new");
    assert_eq!(number(&remap.status(), "retired"), 1);
    remap.remove();
    machine.shutdown();
}
