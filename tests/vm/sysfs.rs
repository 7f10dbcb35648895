//! The folder `remap` of a device in sysfs, as a script would use it.

use super::common::{boot, drives, MIB};
use super::events::{one_line, tells, watch};
use remap_harness::{Drive, Image, Machine, Output, Remap};
use remap_pure::settings::{Settings, ALERT_THRESHOLD, REMAP_BLOCK};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);
const FOLDER: &str = "/sys/block/dm-0/remap";

#[track_caller]
fn read(machine: &Machine, file: &str) -> String {
    machine.ok(&format!("cat {FOLDER}/{file}")).trim_end_matches('\n').into()
}

/// What becomes of `echo text >file`; this shell says with which error a write has failed.
fn write(machine: &Machine, file: &str, text: &str) -> Output {
    machine.run(&format!("busybox sh -c \"echo '{text}' >{FOLDER}/{file}\""))
}

#[track_caller]
fn writes(machine: &Machine, file: &str, text: &str) {
    let output = write(machine, file, text);
    assert_eq!(output.status, 0, "{file}: {}", output.stderr);
}

/// Writing fails with this error.
#[track_caller]
fn refuses(machine: &Machine, file: &str, text: &str, error: &str) {
    let output = write(machine, file, text);
    assert!(
        output.status != 0 && output.stderr.contains(error),
        "{file} took '{text}': {}",
        output.stderr
    );
}

#[track_caller]
fn gone(machine: &Machine) {
    machine.fails(&format!("ls -d {FOLDER}"));
}

#[test]
fn every_setting_and_every_count_is_a_file() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create name small");
    machine.ok("guest io write /dev/mapper/r 0 8192 data");
    remap.message("remap 64 8");
    main.fail_reads(1003..1005);
    machine.fails("guest io read /dev/mapper/r 1000 8");
    remap.wait_until(|status| status.pending.0 == 2);
    let mut known = Vec::new();
    for line in remap.message("get").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(read(&machine, words[0]), words[1], "{line}");
        assert_eq!(machine.ok(&format!("stat -c %a {FOLDER}/{}", words[0])).trim(), "644");
        // What is read can be written.
        writes(&machine, words[0], words[1]);
        known.push(words[0].to_string());
    }
    assert!(known.len() >= 6, "{known:?}");
    // What metadata_status says in one word.
    for line in remap.message("metadata_status").lines() {
        let (name, value) = line.split_once(' ').unwrap();
        let several = name.starts_with("scan_") && name != "scan_state"
            || ["match", "spare", "spare_health", "copy", "table", "running", "ended"]
                .contains(&name);
        if !several {
            assert_eq!(read(&machine, name), value, "{line}");
            assert_eq!(machine.ok(&format!("stat -c %a {FOLDER}/{name}")).trim(), "444");
            known.push(name.into());
        }
    }
    let mut files: Vec<String> =
        machine.ok(&format!("ls {FOLDER}")).lines().map(Into::into).collect();
    files.sort();
    known.push("spare0".into());
    known.sort();
    assert_eq!(files, known);
    // The numbers of the status line.
    let status = remap.status();
    for (file, value) in [
        ("remapped", status.remapped.0.to_string()),
        ("pending", status.pending.0.to_string()),
        ("used", status.used.0.to_string()),
        ("room", status.used.1.to_string()),
    ] {
        assert_eq!(read(&machine, file), value, "{file}: {}", status.line);
    }
    for key in ["health", "auto_remaps", "manual_remaps", "scan", "persist", "last_save", "version"]
        .into_iter()
        .chain(["spares", "jobs", "retired", "auto", "away"])
    {
        assert_eq!(read(&machine, key), status.keys[key], "{key}: {}", status.line);
    }
    let errors = format!("W{}:R{}", read(&machine, "write_errors"), read(&machine, "read_errors"));
    assert_eq!(errors, status.keys["errors"]);
    let copies = format!("{}/{}", read(&machine, "good_copies"), read(&machine, "copies"));
    assert_eq!(copies, status.keys["copies"]);
    refuses(&machine, "remapped", "1", "Permission denied");
    remap.remove();
    gone(&machine);
    machine.ok("rmmod dm-remap");
    machine.shutdown();
}

#[test]
fn what_is_written_is_on_the_spare_after_a_power_cut() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    watch(&machine);
    let version: u64 = read(&machine, "version").parse().unwrap();
    tells(&machine, "settings", || writes(&machine, "alert_threshold", "55"));
    one_line(&machine, ": settings have changed: alert_threshold 55 (was ");
    assert_eq!(read(&machine, "version"), (version + 1).to_string());
    writes(&machine, "remap_block", "64");
    assert_eq!(remap.message("get alert_threshold"), "55");
    remap.message("undo");
    assert_eq!(read(&machine, "remap_block"), "1");
    // Not ended by a newline, and by one among blanks.
    machine.ok(&format!("printf 32 >{FOLDER}/remap_block"));
    machine.ok(&format!("printf ' 16 \\n' >{FOLDER}/remap_block"));
    machine.power_cut(1);

    let found = Image::of(&spare).recover();
    let settings = Settings::from_raw(&found.header().raw().settings);
    assert_eq!((settings.get(&ALERT_THRESHOLD), settings.get(&REMAP_BLOCK)), (55, 16));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(read(&machine, "alert_threshold"), "55");
    assert_eq!(read(&machine, "remap_block"), "16");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_wrong_value_changes_nothing_and_says_what_would_be_right() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    writes(&machine, "min_copies", "3");
    let before = (read(&machine, "version"), remap.message("get"));
    let long = "9".repeat(3000);
    for (file, text, says) in [
        ("alert_threshold", "", "alert_threshold takes a number of percent"),
        ("alert_threshold", "eighty", "alert_threshold takes a number of percent"),
        ("alert_threshold", "-1", "alert_threshold takes a number of percent"),
        ("alert_threshold", "1 2", "alert_threshold takes a number of percent"),
        ("alert_threshold", &long, "alert_threshold takes a number of percent"),
        ("alert_threshold", "101", "alert_threshold must be 0 to 100 percent"),
        ("auto_remap", "2", "auto_remap must be 0 to 1"),
        ("min_copies", "6", "min_copies must be 2 to 5 copies"),
        ("remap_block", "24", "remap_block must be a power of two"),
    ] {
        // The same error whoever asks.
        remap.message("set min_copies 3");
        refuses(&machine, file, text, "Invalid argument");
        assert!(read(&machine, "last_error").contains(says), "{}", read(&machine, "last_error"));
        machine.wait_for_log(says, WAIT);
        if !text.is_empty() && !text.contains([' ', '-']) {
            let said = remap.message_fails(&format!("set {file} {text}"));
            assert!(said.contains("Invalid argument"), "{said}");
            assert!(read(&machine, "last_error").contains(says));
        }
    }
    machine.fails(&format!("head -c 4096 /dev/urandom >{FOLDER}/remap_block"));
    machine.fails(&format!("printf '8\\0' >{FOLDER}/remap_block"));
    machine.fails(&format!("echo 8 >{FOLDER}/no_such_setting"));
    let said = remap.message_fails("set no_such_setting 8");
    assert!(said.contains("Invalid argument"), "{said}");
    machine.wait_for_log("no such setting; there are alert_threshold", WAIT);
    machine.fails(&format!("printf '8\\377' >{FOLDER}/remap_block"));
    machine.wait_for_log("remap_block takes no such bytes", WAIT);
    machine.fails("dmsetup message r 0 set remap_block $(printf '\\377')");
    machine.wait_for_log("the message is not text", WAIT);
    assert_eq!(remap.message("get"), before.1);
    // Nine times a setting was set to what it was, and that is all that was committed.
    let commits = read(&machine, "version").parse::<u64>().unwrap();
    assert_eq!(commits, before.0.parse::<u64>().unwrap() + 9);
    remap.remove();

    // A table for reading only.
    machine.ok("dmsetup create r --readonly --table '0 65536 remap /dev/vda /dev/vdb'");
    let remap = Remap::existing(&machine, "r");
    refuses(&machine, "min_copies", "4", "Read-only file system");
    assert!(read(&machine, "last_error").contains("the table is read-only"));
    assert_eq!(read(&machine, "min_copies"), "3");
    assert_eq!(read(&machine, "persist"), "readonly");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_file_that_is_held_open_outlives_nothing() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    // Holds both kinds of files open, and uses them when it is told to.
    let mut holder = machine.start(&format!(
        "busybox sh -c 'exec 3>{FOLDER}/min_copies 4<{FOLDER}/version 5<{FOLDER}/spare0/uuid; \
         read x <&4; echo 3 >&3 && echo opened; \
         while [ ! -e /tmp/go ]; do sleep 0.1; done; \
         echo 4 >&3; cat <&4; cat <&5; echo done'"
    ));
    let deadline = Instant::now() + WAIT;
    while !holder.stdout_so_far().contains("opened") {
        assert!(Instant::now() < deadline, "not opened");
        std::thread::sleep(Duration::from_millis(50));
    }
    machine.ok("dmsetup suspend r");
    gone(&machine);
    let said = remap.message_fails("set min_copies 2");
    assert!(said.contains("busy"), "{said}");
    machine.ok("dmsetup resume r");
    assert_eq!(read(&machine, "min_copies"), "3");
    remap.reload();
    assert_eq!(read(&machine, "min_copies"), "3");
    remap.remove();
    gone(&machine);
    machine.ok("rmmod dm-remap && touch /tmp/go");
    let output = holder.wait();
    assert!(output.stderr.matches("No such device").count() >= 3, "{}", output.stderr);
    machine.load_module();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!(read(&machine, "min_copies"), "3");
    remap.remove();
    machine.shutdown();
}

#[test]
fn who_waits_for_a_turn_does_not_keep_a_suspend_waiting() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    // Each commit takes seconds from now on.
    spare.slow_down(0..9216, Duration::from_millis(700));
    let stores: Vec<_> = (0..8)
        .map(|i| {
            machine.start(&format!("busybox sh -c 'echo {} >{FOLDER}/alert_threshold'", 20 + i))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(1500));
    let began = Instant::now();
    machine.ok("dmsetup suspend r");
    let took = began.elapsed();
    gone(&machine);
    let outputs: Vec<Output> = stores.into_iter().map(|job| job.wait()).collect();
    let done = outputs.iter().filter(|output| output.status == 0).count();
    let busy = outputs.iter().filter(|output| output.stderr.contains("busy")).count();
    println!("suspended in {took:?}; {done} were set, {busy} gave up");
    assert!(took < Duration::from_secs(20), "the suspend took {took:?}");
    assert!((1..=4).contains(&done) && done + busy == 8, "{outputs:?}");
    spare.heal(0..9216);
    machine.ok("dmsetup resume r");
    let value: u64 = read(&machine, "alert_threshold").parse().unwrap();
    assert!((20..28).contains(&value));
    remap.remove();
    machine.shutdown();
}

#[test]
fn settings_from_two_sides_at_once_while_the_table_is_loaded_again() {
    let (main, spare) = drives();
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let by_file = machine.start(&format!(
        "while :; do for i in 16 32 64; do echo $i >{FOLDER}/remap_block; done; done 2>/dev/null"
    ));
    let by_message = machine
        .start("while :; do for i in 3 4 5; do dmsetup message r 0 set min_copies $i; done; done 2>/dev/null");
    let reads = machine.start(&format!(
        "while :; do cat {FOLDER}/* {FOLDER}/*/* >/dev/null; dmsetup status r; done >/dev/null 2>&1"
    ));
    let line = remap.table();
    for i in 0..24 {
        match i % 3 {
            0 => machine.ok("dmsetup suspend r && dmsetup resume r"),
            1 => machine.ok(&format!("dmsetup load r --table '{line}' && dmsetup resume r")),
            _ => machine.ok("dmsetup suspend --noflush --nolockfs r && dmsetup resume r"),
        };
        machine.ok(&format!("ls {FOLDER}/spare0/uuid >/dev/null"));
        std::thread::sleep(Duration::from_millis(100));
    }
    [by_file, by_message, reads].iter().for_each(|job| job.kill());
    let version: u64 = read(&machine, "version").parse().unwrap();
    assert!(version > 30, "nothing was set: {version}");
    // Each side has changed its own, and nothing else.
    let unit: u64 = read(&machine, "remap_block").parse().unwrap();
    let copies: u64 = read(&machine, "min_copies").parse().unwrap();
    assert!([16, 32, 64].contains(&unit) && (3..=5).contains(&copies), "{unit} {copies}");
    assert_eq!(read(&machine, "alert_threshold"), "80");
    remap.message("set alert_threshold 81");
    // Removed while both go on.
    let by_file = machine.start(&format!(
        "while :; do echo 8 >{FOLDER}/remap_block; cat {FOLDER}/*; done >/dev/null 2>&1"
    ));
    std::thread::sleep(Duration::from_millis(300));
    remap.remove();
    gone(&machine);
    machine.ok("rmmod dm-remap");
    by_file.kill();
    machine.power_cut(3);

    let settings = Settings::from_raw(&Image::of(&spare).recover().header().raw().settings);
    assert_eq!(settings.get(&ALERT_THRESHOLD), 81);
    assert_eq!(settings.get(&REMAP_BLOCK), 8);
}

#[test]
fn each_spare_has_a_folder() {
    let main = Drive::blank("main", 32 * MIB);
    let (one, two) = (Drive::blank("one", 8 * MIB), Drive::blank("two", 16 * MIB));
    let machine = boot(&[&main, &one, &two]);
    let spares = "/dev/vdb 5 create spare /dev/vdc alert_threshold 0";
    let remap = Remap::create(&machine, "r", "/dev/vda", spares);
    remap.message("remap 0 12000");
    remap.wait_until(|status| status.remapped.0 == 12000);
    let of = |n: u8, file: &str| read(&machine, &format!("spare{n}/{file}"));
    let said = remap.message("metadata_status");
    for n in [0, 1] {
        let line = said.lines().find(|line| line.starts_with(&format!("spare {n} "))).unwrap();
        assert!(line.ends_with(&of(n, "uuid")), "{line}");
        assert!(line.contains(&format!(" {} ", of(n, "device"))), "{line}");
        assert_eq!(of(n, "order"), n.to_string());
        assert_eq!(of(n, "state"), "active");
        assert_eq!(of(n, "last_checked"), "0");
        // As in the status, and before anything has been checked.
        let health = said.lines().find_map(|line| line.strip_prefix(&format!("spare_health {n} ")));
        assert_eq!(Some(of(n, "health").as_str()), health);
        refuses(&machine, &format!("spare{n}/order"), "1", "Permission denied");
    }
    let status = remap.status();
    let number = |n: u8, file: &str| of(n, file).parse::<u64>().unwrap();
    assert_eq!(number(0, "used") + number(1, "used"), status.used.0);
    assert_eq!(number(0, "room") + number(1, "room"), status.used.1);
    assert_eq!(number(0, "used"), number(0, "room"));
    gone_spare(&machine, 2);
    let uuid = of(0, "uuid");
    // It takes nothing any more.
    one.set_gone(true);
    remap.message("set alert_threshold 70");
    assert_eq!(of(0, "state"), "away");
    // It is in a bad way, and no scan had to say so.
    assert_eq!(of(0, "health"), "0");
    assert_eq!((of(1, "state"), read(&machine, "away")), ("active".into(), "1".into()));
    remap.remove();
    machine.shutdown();
    one.set_gone(false);
    let machine = boot(&[&main, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 degraded");
    assert_eq!(read(&machine, "spare0/uuid"), uuid);
    assert_eq!(read(&machine, "spare0/device"), "-");
    assert_eq!(read(&machine, "spare0/state"), "away");
    remap.remove();
    machine.shutdown();
}

#[track_caller]
fn gone_spare(machine: &Machine, n: u8) {
    machine.fails(&format!("ls -d {FOLDER}/spare{n}"));
}
