//! Events: each that the documentation names is raised, for `dmsetup wait` and as a uevent.

use super::common::{MIB, PATH};
use remap_harness::{Drive, Image, Machine, Remap};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Has the uevents of this machine noted from now on.
pub fn watch(machine: &Machine) {
    machine.start("uevent sh -c 'env | grep ^DM_REMAP_ >>/tmp/uevents'");
    std::thread::sleep(Duration::from_secs(1));
}

/// Does something for which this event has to be raised, in both ways.
#[track_caller]
pub fn tells(machine: &Machine, reason: &str, what: impl FnOnce()) {
    machine.ok(": >/tmp/uevents");
    let mut waiting = machine.start("dmsetup wait r");
    std::thread::sleep(Duration::from_millis(500));
    what();
    let ended = waiting.poll(Duration::from_secs(20)).map(|output| output.status);
    assert_eq!(ended, Some(0), "no event: {reason}");
    let deadline = Instant::now() + Duration::from_secs(20);
    let wanted = format!("DM_REMAP_EVENT={reason}");
    loop {
        let seen = machine.ok("cat /tmp/uevents");
        if seen.lines().any(|line| line == wanted) {
            break;
        }
        assert!(Instant::now() < deadline, "no {wanted} in\n{seen}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The kernel log has had one line with this text.
#[track_caller]
pub fn one_line(machine: &Machine, text: &str) {
    machine.wait_for_log(text, Duration::from_secs(20));
    // Another one that followed at once would be here soon.
    std::thread::sleep(Duration::from_millis(200));
    let log = machine.kernel_log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(text)).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

/// The names of the events in the documentation.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../docs/remap.rst");
    let from = text.find("\nEvents\n======\n").expect("a section on events");
    let section = &text[from..];
    let section = &section[..section.find("\nExample\n=======\n").expect("its end")];
    let names = section.lines().filter(|line| line.starts_with("``"));
    let words = names.flat_map(|line| line.split("``").skip(1).step_by(2));
    words.map(Into::into).collect()
}

#[test]
fn each_event_of_the_documentation_is_raised() {
    let main = Drive::blank("main", 32 * MIB);
    let (one, two) = (Drive::blank("one", 8 * MIB), Drive::blank("two", 8 * MIB));
    let three = Drive::blank("three", 16 * MIB);
    let machine =
        Machine::builder().drive(&main).drive(&one).drive(&two).drive(&three).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create spare /dev/vdc");
    watch(&machine);
    let mut left = documented();
    let mut happens = |reason: &str, what: &dyn Fn()| {
        println!("{reason}");
        tells(&machine, reason, what);
        assert!(left.remove(reason), "{reason} is not documented");
    };
    let io = |what: &str| machine.run(&format!("guest io {what}")).status == 0;

    happens("settings", &|| drop(remap.message("set alert_threshold 60")));
    one_line(&machine, ": settings have changed: alert_threshold 60 (was 80)");
    // One that is what it was has not changed.
    remap.message("set alert_threshold 60");
    happens("spare-add", &|| drop(remap.message("spare add /dev/vdd")));
    happens("spare-remove", &|| drop(remap.message("spare remove 2")));
    happens("scan", &|| drop(remap.message("scan start")));
    main.fail_writes(1003..1005);
    happens("remapped", &|| assert!(io(&format!("write {PATH} 1000 8 new"))));
    let bad = remap.place_of(1003).unwrap();
    main.fail_reads(2003..2005);
    happens("pending", &|| assert!(!io(&format!("read {PATH} 2000 8"))));
    remap.message("remap 3000 1");
    let at = remap.place_of(3000).unwrap();
    one.fail_reads(at..at + 1);
    happens("suspect", &|| assert!(!io(&format!("read {PATH} 3000 1"))));
    one_line(&machine, &format!(": 1 extents cannot be read from their spare, the first of them, by main at sector 3000, from sector {at} of spare 0 (254:16"));
    one.fail_writes(bad..bad + 1);
    happens("retired", &|| assert!(io(&format!("write {PATH} 1000 8 newer"))));
    one_line(&machine, &format!(": 1 places on spares have failed and are retired, the first is sector {bad} of spare 0 (254:16"));
    happens("remap", &|| drop(remap.message("remap 4000 8")));
    happens("unremap", &|| drop(remap.message("unremap 4000 8")));
    happens("restore", &|| drop(remap.message("restore")));
    happens("check", &|| drop(remap.message("check basic")));
    happens("maintenance", &|| drop(remap.message("set maintenance_mode 1")));
    happens("maintenance-over", &|| drop(remap.message("undo")));
    one_line(&machine, ": settings have changed: maintenance_mode 0 (was 1)");
    main.fail_writes(0..32 * MIB);
    happens("halted", &|| assert!(!io(&format!("write {PATH} 5000 8 new"))));
    main.heal(0..32 * MIB);
    main.fail_writes(5003..5004);
    std::thread::sleep(Duration::from_millis(1500));
    happens("resumed", &|| assert!(io(&format!("write {PATH} 5000 8 new"))));
    two.set_gone(true);
    happens("spare-away", &|| drop(remap.message("set alert_threshold 61")));
    two.set_gone(false);
    happens("spare-back", &|| drop(remap.message("repair")));
    two.set_gone(true);
    happens("persist", &|| drop(remap.message("set alert_threshold 60")));
    two.set_gone(false);
    remap.message("repair");
    two.set_gone(true);
    happens("health", &|| drop(remap.message("set alert_threshold 61")));
    two.set_gone(false);
    remap.message("repair");
    happens("spare-room", &|| drop(remap.message("remap 8192 16384")));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    happens("spare-full", &|| drop(remap.message("remap 24576 16384")));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    one_line(&machine, ": the spares are full: no place for sector ");
    remap.reload();
    happens("migrate", &|| drop(remap.message("migrate 1 /dev/vdd")));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    remap.remove();
    machine.shutdown();

    // Alone, as it needs a table that is full.
    let main = Drive::blank("large", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let mut image = Image::blank(spare.sectors());
    image.create(main.sectors(), (0..31980).map(|i| (i * 2, 1)));
    spare.scribble(0, image.metadata());
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let io = |what: &str| machine.run(&format!("guest io {what}")).status == 0;
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 alert_threshold 0");
    let full = || remap.status().keys["full"].clone();
    let room = || remap.status().used.1 - remap.status().used.0;
    // One extent, so that there are fewer places left than entries that manual moves leave alone.
    remap.message(&format!("remap 70000 {}", room() - 14));
    remap.wait_until(|status| status.keys["jobs"] == "0");
    watch(&machine);
    let mut at = 110_000;
    tells(&machine, "table-full", || {
        while machine.run(&format!("dmsetup message r 0 remap {at} 1")).status == 0 {
            at += 2;
        }
    });
    left.remove("table-full");
    let (places, entries) = (room(), remap.message("metadata_status"));
    assert!((1..16).contains(&places), "{places} places are left; {entries}");
    // What is told of one does not hide the other: writes that fail have those entries to move with.
    assert_eq!(full(), "table");
    main.fail_writes(120_000..120_100);
    for i in 0..places {
        assert!(io(&format!("write {PATH} {} 1 new", 120_001 + 2 * i)), "{i}");
    }
    assert_eq!(full(), "table");
    let last = 120_001 + 2 * places;
    tells(&machine, "spare-full", || assert!(!io(&format!("write {PATH} {last} 1 new"))));
    assert!(!io(&format!("write {PATH} {last} 1 new")));
    let full_at = ": the spares are full: no place for sector ";
    one_line(&machine, &format!("{full_at}{last} of main (254:0"));
    one_line(&machine, full_at);
    assert_eq!(full(), "both");
    // Each is told again when there has been room.
    remap.message("unremap 0 128");
    assert_eq!(full(), "no");
    tells(&machine, "table-full", || drop(remap.message_fails("remap 40001 2047")));
    assert!(left.is_empty(), "documented, and not tested: {left:?}");
    remap.remove();
    machine.shutdown();
}

#[test]
fn the_end_of_a_long_move_is_waited_for_as_the_documentation_says() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 32 * MIB));
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 1 create");
    // Each of these is an event before the end.
    for at in (2_000..40_000).step_by(6_000) {
        main.fail(at..at + 8);
    }
    let text = include_str!("../../docs/remap.rst");
    let message = "dmsetup message disk 0 remap 2000000 100000\n";
    let script = &text[text.find(message).expect("a long move")..];
    let script =
        script[..script.find("\n\n").expect("its end")].replace("2000000 100000", "0 40000");
    let said = machine.ok(&script);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("ended remap 0+40000 "), "{said}");
    assert_eq!(remap.status().keys["jobs"], "0");
    remap.remove();
    machine.shutdown();
}
