//! What `dmremap monitor` knows without watching: when it mails, what it makes of what it is told, what it writes down.

use dmremap::child;
use dmremap::recovery_time::{drives, Drive};
use dmremap::smart::{Recovery, Smart};
use dmremap::watch::burst::Burst;
use dmremap::watch::events::{find, EVENTS};
use dmremap::watch::metrics;
use dmremap::watch::settings::Settings;
use dmremap::watch::state::State;
use dmremap::watch::uevent::Uevent;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_burst_is_one_mail_and_what_goes_on_comes_less_and_less_often() {
    let start = Instant::now();
    let mut burst = Burst::new(30 * SECOND);
    burst.add(1, start);
    burst.add(2, start + 29 * SECOND);
    assert!(burst.take(start + 29 * SECOND).is_empty());
    assert_eq!(burst.take(start + 30 * SECOND), [1, 2]);
    assert_eq!(burst.due(), None);
    // Soon after, it waits for longer, and not for ever.
    let mut now = start + 31 * SECOND;
    let mut waits = Vec::new();
    for n in 0..10 {
        burst.add(n, now);
        let due = burst.due().unwrap();
        waits.push((due - now).as_secs());
        assert_eq!(burst.take(due), [n]);
        now = due + SECOND;
    }
    assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]);
    // After a rest it is as in the beginning.
    now += 7200 * SECOND;
    burst.add(3, now);
    assert_eq!(burst.due(), Some(now + 30 * SECOND));
    // What could not be sent comes again, first.
    let unsent = burst.take_all(now);
    burst.add(4, now);
    burst.give_back(unsent, now);
    assert_eq!(burst.take_all(now + SECOND), [3, 4]);
    (0..5000).for_each(|n| burst.add(n, now));
    assert_eq!(burst.take_all(now).len(), Burst::<i32>::KEPT);
}

#[test]
fn the_events_are_those_of_the_documentation() {
    let text = include_str!("../../docs/remap.rst");
    let section = &text[text.find("\nEvents\n======\n").unwrap()..];
    let section = &section[..section.find("\nExample\n=======\n").unwrap()];
    let names = section.lines().filter(|line| line.starts_with("``"));
    let documented: BTreeSet<&str> =
        names.flat_map(|line| line.split("``").skip(1).step_by(2)).collect();
    assert_eq!(EVENTS.iter().map(|event| event.name).collect::<BTreeSet<_>>(), documented);
    assert!(find("an event of next year").mail);
}

const STATUS: &str = "set 0b7c\nname disk\nversion 12\npersist enabled\nhealth 1\nauto on\nspares 1\naway 0\nscan 50%\nmain_health 100\n\
full_in never\nremapped 8\npending 0\nlost 0\nsuspect 0\nretired 0\nused 8\nroom 1000\nauto_remaps 1\npending_marks 0\nretired_places 0\n\
manual_remaps 0\nunremaps 0\nscans 0\nmain_read_errors 7\nspare_health 0 98\nspare 0 8:16 0+65536 active 1\nlast_error none\n";

#[test]
fn what_has_changed_says_what_has_happened() {
    let before = State::parse(STATUS);
    assert!(before.is_healthy());
    assert_eq!(before.events_since(&before), [""; 0]);
    assert_eq!(before.describe(None), "remapped 8 sectors");
    let changed = |changes: &[(&str, &str)]| {
        let text = changes.iter().fold(STATUS.to_owned(), |text, (old, new)| {
            assert!(text.contains(old));
            text.replace(old, new)
        });
        let now = State::parse(&text);
        (now.events_since(&before).join(" "), now.describe(Some(&before)))
    };
    let (events, text) = changed(&[
        ("pending 0", "pending 3"),
        ("pending_marks 0", "pending_marks 1"),
        ("\nhealth 1", "\nhealth 0"),
    ]);
    assert_eq!(events, "pending health");
    assert_eq!(text, "pending 3 sectors (was 0), remapped 8 sectors, health 0 (was 1)");
    assert_eq!(changed(&[("auto on", "auto halted")]).0, "halted");
    assert_eq!(
        changed(&[("away 0", "away 1"), ("persist enabled", "persist degraded")]).0,
        "spare-away persist"
    );
    assert_eq!(
        changed(&[("retired_places 0", "retired_places 2"), ("suspect 0", "suspect 9")]).0,
        "suspect retired"
    );
    assert_eq!(changed(&[("auto_remaps 1", "auto_remaps 2")]).0, "remapped");
    assert_eq!(
        State::parse("no lines\n\n spare").describe(None),
        "nothing pending, nothing remapped"
    );
}

#[test]
fn counts_have_the_names_units_and_types_that_prometheus_wants() {
    let drive =
        metrics::Drive { name: "sda".into(), pending: Some(4), reallocated: None, too_long: true };
    let events = BTreeMap::from([("pending".to_owned(), 3)]);
    let name = "a \"b\" \\".to_owned();
    let text = metrics::text(&[metrics::Set {
        name,
        state: State::parse(STATUS),
        events,
        drives: vec![drive],
    }]);
    let label = r#"name="a \"b\" \\",set="0b7c""#;
    for line in [
        format!("dmremap_remapped_bytes{{{label}}} 4096"),
        format!("dmremap_spares_size_bytes{{{label}}} 512000"),
        format!("dmremap_auto_remaps_total{{{label}}} 1"),
        format!("dmremap_errors_total{{{label},device=\"main\",operation=\"read\"}} 7"),
        format!("dmremap_persist{{{label},state=\"enabled\"}} 1"),
        format!("dmremap_persist{{{label},state=\"failed\"}} 0"),
        format!("dmremap_scan_ratio{{{label}}} 0.5"),
        format!("dmremap_device_health_ratio{{{label},device=\"spare0\"}} 0.98"),
        format!("dmremap_events_total{{{label},event=\"pending\"}} 3"),
        format!("dmremap_drive_pending_sectors{{{label},drive=\"sda\"}} 4"),
        format!("dmremap_drive_recovery_too_long{{{label},drive=\"sda\"}} 1"),
    ] {
        assert!(text.lines().any(|own| own == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("full_in") && !text.contains("reallocated"), "{text}");
    // Each family is announced, once, before its samples, and its samples stand together.
    let mut seen = BTreeSet::new();
    let mut family = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(seen.insert(name.to_owned()) && help.ends_with('.'), "{line}");
                family = name.into();
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(name, family);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            }
            _ => assert!(line.starts_with(&format!("{family}{{")), "{line}"),
        }
    }
    assert_eq!(metrics::text(&[]), "");
}

#[test]
fn a_uevent_says_what_has_happened_to_which_device() {
    let event = |text: &str| Uevent::parse(text.replace(' ', "\0").as_bytes());
    let said = event("change@/devices/virtual/block/dm-3 ACTION=change MAJOR=253 MINOR=3 DEVNAME=dm-3 DM_REMAP_EVENT=pending SEQNUM=1");
    assert_eq!(said, Some(Uevent { device: (253, 3), reason: Some("pending".into()) }));
    let other = event("remove@/devices/virtual/block/dm-3 MAJOR=253 MINOR=3 DEVNAME=dm-3");
    assert_eq!(other, Some(Uevent { device: (253, 3), reason: None }));
    assert_eq!(event("add@/devices/pci MAJOR=8 MINOR=3 DEVNAME=sda3"), None);
    assert_eq!(event("libudev DM_REMAP_EVENT=pending MAJOR=253 MINOR=3 DEVNAME=dm-3"), None);
    assert_eq!(event("change@/x MAJOR=a MINOR=3 DEVNAME=dm-3"), None);
    assert_eq!(Uevent::parse(&[0xff, 0, 0xfe]), None);
    assert_eq!(Uevent::parse(&[]), None);
}

#[test]
fn a_configuration_says_whom_to_tell() {
    let text = "# ours\nSET name=disk uuid=1\nmailaddr root admin@example.org # both\nPROGRAM /usr/bin/hook\nPROMETHEUS /var/x.prom\n";
    let (settings, mistakes) = Settings::parse(text.as_bytes());
    assert_eq!(mistakes, []);
    assert_eq!(settings.mail, ["root", "admin@example.org"]);
    assert_eq!(settings.program, Some(PathBuf::from("/usr/bin/hook")));
    assert_eq!(settings.prometheus, Some(PathBuf::from("/var/x.prom")));
    // What is wrong keeps nobody else from being told.
    for (bad, says) in [
        (&b"MAILADDR -oQ/tmp"[..], "line 1: MAILADDR '-oQ/tmp' is no address of a mailbox"),
        (b"MAILADDR", "line 1: MAILADDR needs an address"),
        (b"PROGRAM hook", "line 1: PROGRAM needs a path that begins with '/'"),
        (b"PROGRAM /bin/sh -c", "line 1: PROGRAM takes one path, and nothing behind it"),
        (b"PROMETHEUS /\xFC", "line 1: is not UTF-8; write it as UTF-8"),
        (b"mailaddr x; second\n third", "line 1: MAILADDR 'x;' is no address of a mailbox"),
    ] {
        let (told, mistakes) = Settings::parse(&[bad, b"\n", text.as_bytes()].concat());
        let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(said, [says]);
        let more = Settings { mail: told.mail.clone(), ..settings.clone() };
        assert_eq!(told, more, "{says}");
        assert!(told.mail.ends_with(&settings.mail), "{told:?}");
        assert_eq!(told.mail.len() == 4, says.contains("x;"), "{told:?}");
    }
}

#[test]
fn a_monitor_goes_on_without_what_is_wrong_in_its_configuration() {
    let file = std::env::temp_dir().join(format!("dmremap-{}-monitor", std::process::id()));
    fs::write(&file, "MAILADDR -x\nPROGRAM true\nPROGRAM /bin/true\n").unwrap();
    let mut test = Command::new(env!("CARGO_BIN_EXE_dmremap"));
    let output = test.args(["monitor", "--test", "--config"]).arg(&file).output().unwrap();
    fs::remove_file(file).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    for part in ["line 1: MAILADDR '-x'", "line 2: PROGRAM needs a path", "not everything"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), "program /bin/true: done\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_a_drive_says_is_understood() {
    let with = |more: &str| {
        format!(r#"{{"smartctl":{{}},"device":{{"protocol":"ATA"}},"ata_smart_data":{{}}{more}}}"#)
    };
    let table = |attributes: &str| format!(r#","ata_smart_attributes":{{"table":[{attributes}]}}"#);
    let erc = |on: bool| {
        format!(
            r#","ata_sct_erc":{{"read":{{"enabled":{on},"deciseconds":70}},"write":{{"enabled":{on},"deciseconds":80}}}}"#
        )
    };
    let smart = Smart::parse(&with(
        &(table(r#"{"id":5,"raw":{"value":4294967301}},{"id":197,"raw":{"value":8}}"#)
            + &erc(true)),
    ));
    assert_eq!(
        smart,
        Ok(Smart { pending: Some(8), reallocated: Some(5), recovery: Recovery::Within(80) })
    );
    assert_eq!(Smart::parse(&with(&erc(false))).unwrap().recovery, Recovery::Off);
    let none = Smart::parse(&with("")).unwrap();
    assert_eq!((none.pending, none.recovery), (None, Recovery::Unlimited));
    let asleep = r#"{"smartctl":{"exit_status":2,"messages":[{"string":"Device is in STANDBY mode, exit(2)"}]},"device":{"protocol":"ATA"}}"#;
    assert_eq!(Smart::parse(asleep), Ok(Smart::default()));
    let scsi = r#"{"smartctl":{},"device":{"protocol":"SCSI"},"scsi_grown_defect_list":12}"#;
    assert_eq!(Smart::parse(scsi).unwrap().reallocated, Some(12));
    for bad in ["", "[]", "{}", "null", "sda: no such device"] {
        assert!(Smart::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_drive_that_tries_for_longer_than_the_kernel_waits_is_named_with_the_cure() {
    let drive = |recovery, timeout, rotational| {
        Drive { name: "sdx".into(), timeout, rotational, recovery }.warning().unwrap_or_default()
    };
    let sct = "smartctl -l scterc,70,70 /dev/sdx";
    let wait = "echo 180 > /sys/block/sdx/device/timeout";
    let off = drive(Recovery::Off, Some(30), true);
    assert!(off.contains(sct) && off.contains(wait), "{off}");
    let never = drive(Recovery::Unlimited, Some(30), true);
    assert!(!never.contains(sct) && never.contains(wait), "{never}");
    assert!(drive(Recovery::Within(400), Some(30), true).contains("for up to 40 s"));
    for well in [
        drive(Recovery::Within(70), Some(30), true),
        drive(Recovery::Off, Some(180), true),
        drive(Recovery::Unlimited, Some(30), false),
        drive(Recovery::Unknown, Some(30), true),
        drive(Recovery::Unlimited, None, true),
    ] {
        assert_eq!(well, "");
    }
}

#[test]
fn the_drives_under_a_device_are_found() {
    let root = std::env::temp_dir().join(format!("dmremap-drives-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    let disk = root.join("sys/devices/ata1/block/sda");
    for dir in ["device", "queue", "sda1"] {
        fs::create_dir_all(disk.join(dir)).unwrap();
    }
    fs::write(disk.join("sda1/partition"), "1\n").unwrap();
    fs::write(disk.join("device/timeout"), "30\n").unwrap();
    fs::write(disk.join("queue/rotational"), "1\n").unwrap();
    let mapped = root.join("sys/devices/virtual/block/dm-0");
    fs::create_dir_all(mapped.join("slaves")).unwrap();
    symlink(disk.join("sda1"), mapped.join("slaves/sda1")).unwrap();
    fs::create_dir_all(root.join("sys/dev/block")).unwrap();
    fs::create_dir_all(root.join("sys/block")).unwrap();
    symlink(&disk, root.join("sys/block/sda")).unwrap();
    for (number, path) in [("8:0", &disk), ("8:1", &disk.join("sda1")), ("253:0", &mapped)] {
        symlink(path, root.join("sys/dev/block").join(number)).unwrap();
    }
    for number in [(8, 0), (8, 1), (253, 0)] {
        assert_eq!(drives(&root, number), ["sda"], "{number:?}");
    }
    assert_eq!(drives(&root, (9, 9)), [""; 0]);
    let drive = Drive::of(&root, "sda", Recovery::Off);
    assert_eq!((drive.timeout, drive.rotational), (Some(30), true));
    assert!(drive.warning().is_some());
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_program_that_hangs_is_ended_with_all_that_it_has_started() {
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    };
    let ended = child::run(&mut shell("cat; echo no >&2; exit 3"), b"words", 60 * SECOND).unwrap();
    assert_eq!((ended.status, &*ended.out, &*ended.err), (Some(3), "words", "no\n"));
    assert_eq!(ended.success(), Err("failed with status 3: no".into()));
    let begun = Instant::now();
    let hung = child::run(&mut shell("sleep 600 & sleep 600"), b"", SECOND);
    assert!(hung.unwrap_err().contains("did not end within 1 s"));
    assert!(begun.elapsed() < 300 * SECOND);
    assert!(child::run(&mut Command::new("/nowhere/at-all"), b"", SECOND).is_err());
}
