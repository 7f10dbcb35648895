//! Ranges that are held: what becomes of I/O that may not wait, and whose turn is next.

use super::common::{MIB, PATH};
use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Machine, Remap};
use std::time::{Duration, Instant};

#[test]
fn who_may_not_wait_is_told_to_come_back_where_a_range_is_held() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok(&format!("guest io write {PATH} 0 8192 old"));
    remap.message("remap 1000 8");
    remap.message("remap 3000 8");
    let place = remap.place_of(1000).unwrap();
    let at_once = |what: &str, first: u64| {
        machine.run(&format!("guest io {what}-nowait {PATH} {first} 8")).status
    };
    const EAGAIN: i32 = 11;
    for sector in [1000, 3000, 5000] {
        assert_eq!((at_once("read", sector), at_once("write", sector)), (0, 0), "{sector}");
    }
    machine.ok(&format!("guest io write {PATH} 0 8192 old"));
    // Bringing it back holds the range for all, and reading it takes a while.
    let slow = Ill { delay: Duration::from_secs(8), ..Ill::default() };
    spare.ail(place..place + 8, slow);
    let moving = machine.start("dmsetup message r 0 unremap 1000 8");
    let deadline = Instant::now() + Duration::from_secs(60);
    while at_once("read", 1000) != EAGAIN {
        assert!(Instant::now() < deadline, "never held");
    }
    let waiting = machine.start(&format!("guest io check {PATH} 1000 8 old"));
    assert_eq!(at_once("write", 1000), EAGAIN);
    assert_eq!(at_once("read", 1004), EAGAIN);
    // Only there.
    assert_eq!((at_once("read", 3000), at_once("read", 5000)), (0, 0));
    assert_eq!(remap.status().keys["jobs"], "1", "no more held");
    assert_eq!((moving.wait().status, waiting.wait().status), (0, 0));
    assert_eq!((at_once("read", 1000), at_once("write", 1000)), (0, 0));
    // A write that would have to move first is one that would have to wait.
    main.fail_reads(2000..2008);
    machine.fails(&format!("guest io read {PATH} 2000 8"));
    remap.wait_until(|status| status.pending.0 == 8);
    assert_eq!(at_once("write", 2000), EAGAIN);
    assert_eq!(remap.status().pending.0, 8);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_stream_of_rescues_does_not_keep_what_needs_all_of_main_from_its_turn() {
    let main = Drive::blank("main", 128 * MIB);
    let (spare, other) = (Drive::blank("spare", 8 * MIB), Drive::blank("other", 8 * MIB));
    let machine = Machine::builder().drive(&main).drive(&spare).drive(&other).module().boot();
    let options = "/dev/vdb 5 create alert_threshold 0 error_rate_limit 4294967296";
    let remap = Remap::create(&machine, "r", "/dev/vda", options);
    // No place is left, so a block that fails does so again each time, and is held each time.
    remap.message(&format!("remap {} {}", 64 * MIB, 16 * MIB));
    remap.wait_until(|status| status.keys["jobs"] == "0" && status.keys["full"] == "spares");
    main.fail_writes(0..64 * MIB);
    let mut stream = machine.start(&format!(
        "fio --name=stream --filename={PATH} --direct=1 --ioengine=libaio --iodepth=64 --rw=randwrite --bs=4k --size=64m \
         --time_based --runtime=600 --randrepeat=0 --continue_on_error=all --output=/tmp/fio.log"
    ));
    let writes = main.counters().writes;
    while main.counters().writes < writes + 500 {
        std::thread::sleep(Duration::from_millis(50));
    }
    // Holds all of main once.
    let began = Instant::now();
    remap.message("restore");
    println!("all of main was held after {:?}", began.elapsed());
    // Twice.
    remap.message("spare add /dev/vdc");
    remap.wait_until(|status| status.keys["spares"] == "2");
    assert!(stream.poll(Duration::from_millis(1)).is_none(), "the stream was over");
    assert_eq!(remap.status().keys["auto"], "on");
    machine.ok("kill -KILL $(pidof fio)");
    stream.wait();
    remap.remove();
    machine.shutdown();
}
