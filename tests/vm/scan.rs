//! The background scan, and the health of the devices: what is found and moved, what is kept, for whom it makes way.

use super::common::{boot, drives, number, runs, MIB, PATH};
use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Image, Machine, Remap, Status};
use std::time::Duration;

fn create(machine: &Machine) -> Remap<'_> {
    machine.ok("guest io write /dev/vda 0 65536 old && guest io flush /dev/vda");
    Remap::create(machine, "r", "/dev/vda", "/dev/vdb 1 create")
}

#[track_caller]
fn holds(machine: &Machine, first: u64, count: u64) {
    machine.ok(&format!("guest io check {PATH} {first} {count} old"));
}

/// Scans from start to end.
#[track_caller]
fn scan(remap: &Remap<'_>) -> Status {
    remap.message("scan start");
    let status = remap.wait_until(|status| status.keys["scan_state"] == "idle");
    assert_eq!(status.keys["scan"], "100%", "{}", status.line);
    status
}

fn percent(status: &Status) -> u64 {
    status.keys["scan"].trim_end_matches('%').parse().unwrap()
}

#[test]
fn what_cannot_be_read_is_found_before_anybody_asks_for_it() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    let reads = main.counters().reads;
    let status = scan(&remap);
    assert!(main.counters().reads > reads);
    assert_eq!((status.pending.0, status.remapped.0), (0, 0), "{}", status.line);
    assert_eq!(status.keys["errors"], "W0:R0", "{}", status.line);
    assert_eq!(number(&status, "main_health"), 100, "{}", status.line);

    main.fail_reads(1003..1005);
    main.fail_reads(40000..40001);
    let status = scan(&remap);
    assert_eq!((status.pending.0, status.remapped.0), (3, 0), "{}", status.line);
    assert_eq!(runs(&remap.places(), |place| place.at.is_none()), [(1003, 2), (40000, 1)]);
    let said = remap.message("metadata_status");
    assert!(said.contains("scan_found unreadable 3 slow 0"), "{said}");
    assert!(said.contains("scans 2"), "{said}");
    holds(&machine, 0, 1003);
    holds(&machine, 1005, 40000 - 1005);
    holds(&machine, 40001, 65536 - 40001);
    // What is pending and can be read again is saved; the rest stays as it is.
    main.heal(40000..40001);
    scan(&remap);
    let status = remap.wait_until(|status| status.remapped.0 == 1);
    assert_eq!(status.pending.0, 2, "{}", status.line);
    assert_eq!(
        (
            runs(&remap.places(), |place| place.at.is_some()),
            runs(&remap.places(), |place| place.at.is_none())
        ),
        (vec![(40000, 1)], vec![(1003, 2)])
    );
    holds(&machine, 1005, 65536 - 1005);
    machine.power_cut(1);
    let places = Image::of(&spare).places();
    assert_eq!(places.iter().map(|place| place.len).sum::<u64>(), 3);
}

#[test]
fn what_is_read_only_with_effort_is_moved_before_it_is_lost() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    main.slow_down(20000..20008, Duration::from_millis(1500));
    // Fails for the piece and for the unit around it, and can be read then.
    main.ail(51210..51211, Ill { reads: true, times: 2, ..Ill::default() });
    remap.message("set remap_threshold 0");
    remap.message("set auto_remap 0");
    let status = scan(&remap);
    assert_eq!((status.remapped.0, status.pending.0), (0, 0), "{}", status.line);

    remap.message("set auto_remap 1");
    remap.message("set remap_threshold 10");
    main.ail(51210..51211, Ill { reads: true, times: 2, ..Ill::default() });
    let status = scan(&remap);
    assert_eq!(
        runs(&remap.places(), |place| place.at.is_some()),
        [(20000, 8), (51200, 128)],
        "{}",
        remap.message("table")
    );
    assert_eq!(status.pending.0, 0, "{}", status.line);
    assert!(number(&status, "main_health") < 100, "{}", status.line);
    let said = remap.message("metadata_status");
    assert!(said.contains("scan_found unreadable 0 slow 136"), "{said}");
    // Nothing waits for the slow block any more, and nothing has changed.
    main.fail(20000..20008);
    holds(&machine, 0, 65536);
    let status = scan(&remap);
    assert_eq!(status.remapped.0, 136, "{}", status.line);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_scan_moves_nothing_while_too_much_fails() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("set error_rate_limit 1");
    main.fail_reads(1000..1002);
    for at in [1000, 1001, 1000] {
        machine.fails(&format!("guest io read {PATH} {at} 1"));
    }
    remap.wait_until(|status| status.keys["auto"] == "halted");
    let moved = |remap: &Remap<'_>| remap.status().remapped.0;
    assert_eq!(moved(&remap), 0);
    main.slow_down(20000..20008, Duration::from_millis(1500));
    main.ail(51210..51211, Ill { reads: true, times: 2, ..Ill::default() });
    scan(&remap);
    let said = remap.message("metadata_status");
    assert_eq!(moved(&remap), 0, "{said}");
    assert!(said.contains("scan_found unreadable 0 slow 8"), "{said}");
    remap.remove();
    machine.shutdown();
}

#[test]
fn places_on_a_spare_are_read_too() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("remap 64 256");
    let place = remap.place_of(64).unwrap();
    spare.fail_reads(place + 3..place + 5);
    // Nothing lives here.
    spare.fail_reads(20000..20001);
    let status = scan(&remap);
    let said = remap.message("table");
    assert!(said.contains(&format!("67 2 suspect 0 {}", place + 3)), "{said}");
    assert!(said.contains("- 1 retired 0 20000"), "{said}");
    assert_eq!((number(&status, "retired"), status.pending.0), (1, 0), "{}", status.line);
    assert!(number(&status, "spare_health") < 95, "{}", status.line);
    assert_eq!(number(&status, "main_health"), 100 - 16 - 3, "{}", status.line);
    holds(&machine, 0, 67);
    holds(&machine, 69, 1024);
    // What is slow there moves to another place.
    spare.slow_down(place + 200..place + 208, Duration::from_millis(1500));
    scan(&remap);
    let now = remap_place(&remap, 264);
    assert!(now.is_some_and(|now| now != place + 200), "{now:?}");
    holds(&machine, 69, 1024);
    let status = scan(&remap);
    assert_eq!(number(&status, "retired"), 9, "{}", status.line);
    remap.remove();
    machine.shutdown();
}

/// Where a sector lives, whatever else is in the table.
fn remap_place(remap: &Remap<'_>, sector: u64) -> Option<u64> {
    remap.message("table").lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [start, len, "remapped", _, at] = words[..] else { return None };
        let (start, len, at): (u64, u64, u64) =
            (start.parse().ok()?, len.parse().ok()?, at.parse().ok()?);
        (start..start + len).contains(&sector).then(|| at + sector - start)
    })
}

#[test]
fn a_scan_remembers_where_it_was() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    // 96 MiB in all would take twenty seconds.
    remap.message("set scan_rate 5000");
    assert!(remap.message_fails("scan pause").contains("No such file"));
    remap.message_fails("scan");
    remap.message_fails("scan begin");
    remap.message("scan start");
    remap.wait_until(|status| percent(status) >= 10);
    remap.message("scan pause");
    let paused = remap.status();
    assert_eq!(paused.keys["scan_state"], "paused", "{}", paused.line);
    assert!((10..90).contains(&percent(&paused)), "{}", paused.line);
    std::thread::sleep(Duration::from_secs(1));
    let reads = main.counters().reads;
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(main.counters().reads, reads, "a paused scan reads");
    machine.power_cut(1);

    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    let status = remap.status();
    assert_eq!(status.keys["scan_state"], "paused", "{}", status.line);
    assert!(percent(&status) + 1 >= percent(&paused), "{}", status.line);
    remap.message("scan start");
    remap.wait_until(|status| percent(status) >= percent(&paused) + 8);
    // It goes on by itself, from where anything was committed last.
    remap.message("save");
    let saved = remap.status();
    machine.power_cut(2);

    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    let status = remap.status();
    assert_eq!(status.keys["scan_state"], "running", "{}", status.line);
    assert!(percent(&status) + 2 >= percent(&saved), "{} after {}", status.line, saved.line);
    remap.message("scan stop");
    let status = remap.status();
    assert_eq!((status.keys["scan_state"].as_str(), percent(&status)), ("idle", 0));
    remap.message("scan stop");
    remap.message("set scan_rate 0");
    scan(&remap);
    // The next begins by itself.
    remap.message("set scan_interval 2");
    remap.wait_until(|status| status.keys["scan_state"] == "running" || percent(status) < 100);
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_scan_is_in_nobodys_way() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    remap.message("set scan_rate 4000");
    remap.message("scan start");
    let mut last = 0;
    let line = remap.table();
    for how in [
        "dmsetup suspend r && dmsetup resume r".to_string(),
        "dmsetup suspend --noflush --nolockfs r && dmsetup resume r".into(),
        format!("dmsetup load r --table '{line}' && dmsetup resume r"),
        "dmsetup message r 0 @stats_create - /100 && dmsetup message r 0 @stats_delete 0".into(),
    ] {
        std::thread::sleep(Duration::from_millis(700));
        machine.ok(&how);
        let status = remap.status();
        assert_eq!(status.keys["scan_state"], "running", "{how}: {}", status.line);
        assert!(percent(&status) >= last, "{how}: {} after {last}%", status.line);
        last = percent(&status);
    }
    remap.wait_until(|status| percent(status) > last);
    machine.ok("dmsetup suspend r");
    remap.message_fails("scan start");
    let reads = main.counters().reads;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(main.counters().reads, reads, "a suspended scan reads");
    machine.ok("dmsetup resume r");
    remap.message("set scan_rate 0");
    // Moves go on beside it.
    remap.message("remap 4096 1024");
    remap.message("unremap 4096 1024");
    remap.wait_until(|status| status.keys["scan_state"] == "idle");
    holds(&machine, 0, 65536);
    remap.message("scan start");
    remap.remove();
    machine.ok("rmmod dm-remap");
    machine.shutdown();
}

#[test]
fn a_scan_takes_the_drive_when_nobody_else_wants_it() {
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&spare).module().boot();
    let main = machine.null_blk(0, 2048, &[("mbps", "20"), ("queue_mode", "2")]);
    let remap = Remap::create(&machine, "r", &main, "/dev/vda 1 create");
    // Seconds since boot and sectors that the drive has read, before and after a command.
    let look = "cut -d' ' -f1 /proc/uptime; awk '{print $3}' /sys/block/nullb0/stat";
    let rate = |command: &str| {
        let said = machine.ok(&format!("{look}; {command}; {look}"));
        let numbers: Vec<f64> = said.lines().map(|line| line.parse().unwrap()).collect();
        (numbers[2] - numbers[0], (numbers[3] - numbers[1]) / (numbers[2] - numbers[0]))
    };
    let dd = "dd if=/dev/mapper/r of=/dev/null bs=1M count=120 iflag=direct 2>/dev/null";
    // What dd itself reads a second: the drive's count has the scan's reads too.
    let of_dd = || 120.0 * MIB as f64 / rate(dd).0;
    let alone = of_dd();
    remap.message("scan start");
    machine.ok("sleep 1");
    let (_, scanned) = rate("sleep 6");
    let beside = of_dd();
    eprintln!("sectors a second: dd {alone:.0}, a scan {scanned:.0}, dd beside it {beside:.0}");
    assert!(scanned >= 0.8 * alone, "{scanned} of {alone}");
    assert!(beside >= 0.9 * alone, "{beside} of {alone}");
    let status = remap.status();
    assert_eq!(status.keys["scan_state"], "running", "{}", status.line);
    machine.ok("sleep 2");
    let (_, again) = rate("sleep 3");
    assert!(again >= 0.8 * alone, "{again} of {alone}");
    // Its own limit.
    remap.message("set scan_rate 8000");
    machine.ok("sleep 2");
    let (_, limited) = rate("sleep 4");
    assert!((5000.0..8600.0).contains(&limited), "{limited}");
    remap.remove();
    machine.shutdown();
}

#[test]
fn health_follows_what_happens_and_outlives_a_reboot() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = create(&machine);
    let status = remap.status();
    assert_eq!(
        (number(&status, "main_health"), number(&status, "spare_health")),
        (100, 100),
        "{}",
        status.line
    );
    assert_eq!((status.keys["full_in"].as_str(), status.keys["health"].as_str()), ("never", "1"));
    remap.message("remap 0 1024");
    let room = remap.status().used.1;
    let status = remap.status();
    // 1024 blocks have eleven digits, and are 15 thousandths of main.
    assert_eq!(number(&status, "main_health"), 100 - 16 - 15, "{}", status.line);
    assert_eq!(number(&status, "full_in"), (room - 1024) / 1024, "{}", status.line);
    assert_eq!(status.keys["health"], "1", "{}", status.line);

    remap.message("set alert_threshold 60");
    main.fail_reads(40000..40004);
    assert_ne!(machine.run(&format!("guest io read {PATH} 39936 128")).status, 0);
    let status = remap.wait_until(|status| status.pending.0 == 4);
    let score = number(&status, "main_health");
    assert!(score <= 69 - 14, "{}", status.line);
    for i in 0..20 {
        machine.run(&format!("guest io read {PATH} {} 8", 40000 - i % 3));
    }
    machine.wait_for_log("read", Duration::from_secs(5));
    remap.message("save");
    let status = remap.status();
    let score = number(&status, "main_health");
    assert!(score <= 40, "{}", status.line);
    // That is said with a commit, which may have come before the last of these errors.
    machine.wait_for_log("is in a bad way: health ", Duration::from_secs(5));
    let log = machine.kernel_log();
    let said: Vec<u64> = log
        .split("is in a bad way: health ")
        .skip(1)
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(said.len() == 1 && (score..=40).contains(&said[0]), "{score}: {said:?}");
    assert_eq!(status.keys["health"], "0");
    remap.message("save");
    // What is tried again meanwhile may fail, and then costs more than what was kept.
    let last = number(&remap.status(), "main_health");
    machine.power_cut(3);

    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    let status = remap.status();
    let kept = number(&status, "main_health");
    assert!((last..=score).contains(&kept), "{last}..={score}: {}", status.line);
    assert_eq!(number(&status, "spare_health"), 100, "{}", status.line);
    remap.message("save");
    assert!(!machine.kernel_log().contains("is in a bad way"), "it has been said");
    let said = remap.message("metadata_status");
    assert!(said.contains(&format!("main_health {kept}")), "{said}");
    remap.remove();
    machine.shutdown();
}
