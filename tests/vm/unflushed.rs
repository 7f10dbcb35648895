//! Flushes of callers that fail, and lose what the module had written and was about to rely on.

use super::common::{boot, flush, holds, runs, write, MIB, PATH};
use super::several::{by_spare, create, main_drive, small, told};
use remap_harness::{Drive, Job, Machine, Remap};
use remap_pure::format::layout::Layout;
use std::time::{Duration, Instant};

/// A commit for somebody else that has happened, but whose second group of copies takes its time: what is staged meanwhile waits for it.
fn long_commit<'m>(machine: &'m Machine, spares: &[&Drive]) -> Job<'m> {
    let second = Layout::header(1).0;
    spares.iter().for_each(|spare| spare.slow_down(second..second + 8, Duration::from_secs(8)));
    let commit = machine.start("dmsetup message r 0 set alert_threshold 60");
    std::thread::sleep(Duration::from_millis(1500));
    commit
}

/// Flushes for a caller until that goes to what is about to fail, which is when something has been written there.
#[track_caller]
fn flush_until_it_fails(machine: &Machine) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while flush(machine) == 0 {
        assert!(Instant::now() < deadline, "nothing was written there");
    }
}

#[test]
fn what_has_moved_is_written_once_more_when_a_flush_of_a_caller_has_lost_it() {
    let (main, spare) = (main_drive(), small("one"));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine, "/dev/vdb 1 create");
    main.fail_writes(2000..2008);
    let commit = long_commit(&machine, &[&spare]);
    let moved = machine.start("dmsetup message r 0 remap 0 8");
    let written = machine.start(&format!("guest io write {PATH} 2000 8 new"));
    spare.lose_flush();
    flush_until_it_fails(&machine);
    spare.heal(0..8 * MIB);
    commit.wait();
    assert_eq!((moved.wait().status, written.wait().status), (0, 0));
    assert_eq!(runs(&remap.places(), |place| place.at.is_some()), [(0, 8), (2000, 8)]);
    let is_there = |machine: &Machine| {
        holds(machine, 0, 1000, "old");
        holds(machine, 2000, 8, "new");
    };
    is_there(&machine);
    // The copies of the commit went with it, and were not taken for good.
    remap.message("repair");
    assert_eq!(flush(&machine), 0);
    machine.power_cut(3);
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    is_there(&machine);
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_has_moved_is_written_once_more_when_the_flush_before_its_commit_fails() {
    let (main, spare) = (main_drive(), small("one"));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine, "/dev/vdb 1 create");
    main.fail_writes(2000..2008);
    spare.lose_flush();
    assert_eq!(write(&machine, 2000, 8, "new"), 0);
    spare.lose_flush();
    remap.message("remap 0 8");
    machine.power_cut(6);
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(runs(&remap.places(), |place| place.at.is_some()), [(0, 8), (2000, 8)]);
    holds(&machine, 0, 1000, "old");
    holds(&machine, 2000, 8, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn who_asks_for_all_to_be_durable_hears_of_what_was_lost_before() {
    let (main, spare) = (main_drive(), small("one"));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("remap 0 8");
    assert_eq!(write(&machine, 0, 8, "new"), 0);
    spare.lose_flush();
    // Which flushes what was written besides.
    machine.run("dmsetup message r 0 save");
    let sync = || machine.run("dmsetup message r 0 sync").status;
    assert_ne!(sync(), 0);
    assert!(machine
        .kernel_log()
        .contains("a flush has failed, and none of the device has succeeded since"));
    // Who has written it hears of it as well.
    assert_ne!(flush(&machine), 0);
    assert_eq!((flush(&machine), sync()), (0, 0));
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_has_moved_is_written_once_more_when_a_flush_behind_a_durable_write_has_lost_it() {
    let (main, spare) = (main_drive(), small("one"));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("remap 4000 8");
    // Who wrote that is told, and nothing is tried again.
    remap.message("set auto_remap 0");
    let commit = long_commit(&machine, &[&spare]);
    let writes = spare.counters().writes;
    let moved = machine.start("dmsetup message r 0 remap 0 8");
    while spare.counters().writes == writes {
        std::thread::sleep(Duration::from_millis(50));
    }
    spare.lose_flush();
    assert_eq!(machine.run(&format!("guest io write-durable {PATH} 4000 8 new")).status, 5);
    spare.heal(0..8 * MIB);
    commit.wait();
    assert_eq!(moved.wait().status, 0);
    assert_eq!(runs(&remap.places(), |place| place.at.is_some()), [(0, 8), (4000, 8)]);
    holds(&machine, 0, 1000, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_durable_write_that_a_flush_of_a_caller_may_have_lost_is_written_once_more() {
    let (main, spare) = (main_drive(), small("one"));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine, "/dev/vdb 1 create");
    // It fails in one, twice; when main has taken the first half of it, the second takes its time before it is flushed.
    main.fail_writes_times(1000..1008, 2);
    main.slow_down(1008..1016, Duration::from_secs(3));
    let durable = format!("guest io write-durable {PATH} 1000 16 new");
    let before = main.counters().writes;
    let durably = machine.start(&durable);
    while main.counters().writes < before + 3 {
        std::thread::sleep(Duration::from_millis(50));
    }
    main.lose_flush();
    assert_ne!(flush(&machine), 0);
    main.heal(0..32 * MIB);
    assert_eq!(durably.wait().status, 0);
    holds(&machine, 1000, 16, "new");
    assert_eq!((flush(&machine), machine.run(&durable).status), (0, 0));
    holds(&machine, 1000, 16, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_comes_back_to_main_stays_moved_when_a_flush_of_a_caller_may_have_lost_it() {
    let (main, spare) = (main_drive(), small("one"));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("remap 0 8");
    assert_eq!((write(&machine, 0, 8, "new"), flush(&machine)), (0, 0));
    main.slow_down(0..8, Duration::from_secs(4));
    let back = machine.start("dmsetup message r 0 unremap 0 8");
    std::thread::sleep(Duration::from_secs(1));
    main.lose_flush();
    assert_ne!(flush(&machine), 0);
    main.heal(0..8);
    assert_ne!(back.wait().status, 0);
    assert!(remap.place_of(0).is_some());
    remap.message("unremap 0 8");
    assert!(remap.place_of(0).is_none());
    holds(&machine, 0, 8, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_was_to_move_to_a_spare_that_is_put_away_meanwhile_moves_to_another() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 8");
    assert_eq!(by_spare(&remap), [8, 0, 0], "the first that has room");
    main.fail_writes(2000..2008);
    let commit = long_commit(&machine, &[&one, &two]);
    let written = machine.start(&format!("guest io write {PATH} 2000 8 new"));
    std::thread::sleep(Duration::from_secs(1));
    one.set_gone(true);
    flush_until_it_fails(&machine);
    two.heal(0..8 * MIB);
    commit.wait();
    assert_eq!(written.wait().status, 0);
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    assert_eq!(by_spare(&remap), [8, 8, 0]);
    holds(&machine, 2000, 8, "new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_a_flush_behind_a_durable_write_has_lost_is_told_although_that_write_is_there() {
    let (main, spare) = (main_drive(), small("one"));
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("remap 0 8");
    assert_eq!(flush(&machine), 0);
    // The core flushes once more after such a write, for a caller.
    let durably =
        |at: u64| machine.run(&format!("guest io write-durable {PATH} {at} 8 new")).status;
    for (drive, at, other) in [(&main, 1000, 2000), (&spare, 0, 0)] {
        assert_eq!(write(&machine, at, 8, "new"), 0);
        drive.lose_flush();
        assert_eq!(durably(other), 5, "what was written before may be lost");
        holds(&machine, other, 8, "new");
        assert_eq!((flush(&machine), durably(other)), (0, 0));
    }
    // What the drive does not take is no flush that has failed.
    main.fail_writes(3000..3008);
    assert_eq!((durably(3000), flush(&machine)), (0, 0));
    assert_eq!(runs(&remap.places(), |place| place.at.is_some()), [(0, 8), (3000, 8)]);
    remap.remove();
    machine.shutdown();
}
