//! `dmremap` and sets in use: what it shows of them, and what it has them do.

use remap_harness::{Drive, Machine, Output, Remap};
use serde_json::Value;
use std::time::Duration;

const MIB: u64 = 2048;

fn boot(drives: &[&Drive]) -> Machine {
    let machine = drives
        .iter()
        .fold(Machine::builder(), |builder, drive| builder.drive(drive))
        .module()
        .boot();
    machine.start_udev();
    machine
}

/// Runs `dmremap`.
fn dmremap(machine: &Machine, arguments: &str) -> Output {
    machine.run(&format!("dmremap {arguments}"))
}

/// Has to end with that status and say all of that; returns what it said.
#[track_caller]
fn ends(machine: &Machine, arguments: &str, status: i32, says: &[&str]) -> String {
    let output = dmremap(machine, arguments);
    let text = format!("{}{}", output.stdout, output.stderr);
    assert_eq!(output.status, status, "dmremap {arguments}\n{text}");
    for part in says {
        assert!(text.contains(part), "dmremap {arguments}: not said: {part}\n{text}");
    }
    text
}

/// Has to print JSON, with any of these statuses.
#[track_caller]
fn json(machine: &Machine, arguments: &str, statuses: &[i32]) -> Value {
    let output = dmremap(machine, arguments);
    let said = format!("dmremap {arguments}\n{}{}", output.stdout, output.stderr);
    assert!(statuses.contains(&output.status), "{} {said}", output.status);
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
}

#[test]
fn what_is_in_use_is_listed_and_shown_as_it_is() {
    let main = Drive::blank("main", 32 * MIB);
    let (one, two) = (Drive::blank("spare", 16 * MIB), Drive::blank("second", 16 * MIB));
    let machine = boot(&[&main, &one, &two]);
    assert_eq!(ends(&machine, "list", 0, &[]), "no set is in use\n");
    assert_eq!(json(&machine, "list --json", &[0])["sets"].as_array().unwrap().len(), 0);
    ends(&machine, "status", 0, &["no set is in use"]);
    ends(&machine, "status nothing", 1, &["'nothing'", "dmremap list"]);

    let remap =
        Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 5 create name archive spare /dev/vdc");
    ends(
        &machine,
        "list",
        0,
        &["r", "healthy", "32.0 MiB", "/dev/vda", "/dev/vdb /dev/vdc", "(archive)"],
    );
    let text = ends(&machine, "status", 0, &["r: healthy", "10 of 10 copies good", "spare 1"]);
    let row = |text: &str, begin: &str| -> String {
        let found = text.lines().find(|line| line.trim_start().starts_with(begin));
        found.unwrap_or_else(|| panic!("no {begin}:\n{text}")).into()
    };
    assert!(row(&text, "/dev/vda").contains("main"), "{text}");
    assert!(row(&text, "/dev/vdb").contains("spare") && row(&text, "/dev/vdb").contains("0%"));
    // No locale is set, so there is nothing but ASCII; with one there is.
    assert!(text.is_ascii(), "{text}");
    assert!(machine.ok("LANG=C.UTF-8 dmremap status archive").contains('░'));

    // By whatever it is called.
    let all = json(&machine, "status --json", &[0]);
    let set = &all["sets"][0];
    let uuid = set["state"]["set"].as_str().unwrap().to_owned();
    for name in ["r", "/dev/mapper/r", "/dev/dm-0", "archive", &uuid, &uuid.to_uppercase()] {
        assert_eq!(
            json(&machine, &format!("status --json {name}"), &[0])["sets"][0]["mapped"],
            "r"
        );
    }
    assert_eq!(set["main"]["serial"], "main");
    assert_eq!(set["main"]["path"], "/dev/vda");
    assert_eq!(
        (&set["spares"][1]["device"]["serial"], &set["spares"][1]["health"]),
        (&"second".into(), &100.into())
    );
    assert_eq!(set["state"]["members"][0]["copies"].as_array().unwrap().len(), 5);

    // What fails is told.
    machine.ok("guest io write /dev/mapper/r 0 4096 old");
    main.fail_reads(1003..1005);
    machine.fails("guest io read /dev/mapper/r 1000 8");
    remap.wait_until(|status| status.pending.0 == 2);
    ends(&machine, "remap r 64 8", 0, &[]);
    let text = ends(
        &machine,
        "status r",
        3,
        &["r: ailing", "! 2 sectors of main cannot be read", "8 sectors remapped"],
    );
    assert!(row(&text, "ended ").contains("remap 64+8: well, 8 sectors moved"), "{text}");
    let set = &json(&machine, "status --json r", &[3])["sets"][0];
    assert_eq!((&set["state"]["remapped"], &set["state"]["pending"]), (&8.into(), &2.into()));
    assert_eq!(set["spares"][0]["used"], 8);
    let ended = set["state"]["ended"].as_array().unwrap();
    let ended = ended.iter().find(|ended| ended["range"] == serde_json::json!([64, 8])).unwrap();
    assert_eq!(
        (&ended["what"], &ended["moved"], &ended["result"]),
        (&"remap".into(), &8.into(), &"ok".into())
    );

    // A spare that dies.
    two.set_gone(true);
    machine.run("dmsetup message r 0 save");
    ends(&machine, "status r", 5, &["r: degraded", "! spare 1 is away"]);
    ends(&machine, "list", 0, &["degraded", "(away)"]);
    assert_eq!(json(&machine, "status --json", &[5])["sets"][0]["spares"][1]["away"], true);
    two.set_gone(false);
    remap.message("repair");

    // Suspended, it still says what it knows, and does not wait.
    machine.ok("dmsetup suspend r");
    ends(&machine, "status r", 3, &["r: suspended"]);
    machine.ok("dmsetup resume r");

    // Again and again, and at once when something happens.
    let mut watch = machine.start("echo $$ >/tmp/pid; exec dmremap status --watch 3600 r");
    let until = |watch: &mut remap_harness::Job<'_>, text: &str| {
        for _ in 0..600 {
            if watch.stdout_so_far().contains(text) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("never shown: {text}\n{}", watch.stdout_so_far());
    };
    until(&mut watch, "8 sectors remapped");
    remap.message("set maintenance_mode 1");
    until(&mut watch, "maintenance_mode is 1");
    machine.ok("kill -INT $(cat /tmp/pid)");
    assert_eq!(watch.wait().status, 3);
    // And no longer than somebody reads it.
    machine.run_for("dmremap status --watch 1 r | head -n 1", Duration::from_secs(60));
    ends(&machine, "status --watch 0 r", 1, &["--watch"]);
    machine.shutdown();
}

#[test]
fn ranges_move_to_the_spares_and_back_as_a_person_says() {
    let (main, spare) = (Drive::blank("main", 64 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    machine.ok("guest io write /dev/vda 0 40000 old && guest io flush /dev/vda");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let version = || remap.status().keys["version"].clone();
    // What cannot be is refused, and changes nothing.
    let before = version();
    for (arguments, says) in [
        ("remap q 0 8", "no set in use is called 'q'"),
        ("remap r 131072 8", "not within its 131072 sectors"),
        ("remap r 0 131073", "not within"),
        ("remap r 18446744073709551615 8", "not within"),
        ("remap r 0 0", "0"),
        ("remap r x 8", "invalid"),
        ("unremap r 0 8", "nothing of it is remapped or pending"),
    ] {
        ends(&machine, arguments, 1, &[says]);
    }
    ends(
        &machine,
        "remap --dry-run r 1000 16",
        0,
        &["16 of the 16 sectors from 1000 on would move"],
    );
    assert_eq!(version(), before);

    ends(&machine, "remap r 1000 16", 0, &["r: 16 sectors moved to the spares"]);
    ends(&machine, "remap r 1000 16", 1, &["remapped already"]);
    ends(&machine, "remap --dry-run r 1000 32", 0, &["16 of the 32 sectors"]);
    ends(&machine, "remap r 2000", 0, &["1 sectors moved"]);
    // A long one is followed to its end.
    ends(&machine, "remap r 4096 8192", 0, &["8192 sectors moved to the spares"]);
    assert_eq!(remap.status().remapped.0, 16 + 1 + 8192);
    // More than fits is asked for.
    ends(&machine, "remap r 32768 65536", 1, &["sectors fit on the spares", "--yes"]);
    assert_eq!(remap.status().remapped.0, 16 + 1 + 8192);

    // What cannot be read is said.
    main.fail_reads(20004..20006);
    ends(&machine, "remap r 20000 8", 3, &["6 sectors moved", "2 sectors there cannot be read"]);
    main.heal(20004..20006);
    ends(
        &machine,
        "unremap --dry-run r 20000 8",
        0,
        &["6 would move back", "2 that cannot be read"],
    );
    ends(&machine, "unremap r 20000 8", 0, &["6 sectors moved back to main"]);
    ends(&machine, "unremap r 4096 8192", 0, &["8192 sectors moved back to main"]);
    assert_eq!((remap.status().remapped.0, remap.status().pending.0), (17, 0));

    // Ctrl-C stops it between two parts, and what has moved stays moved.
    main.slow_down(0..64 * MIB, Duration::from_millis(150));
    let job = machine.start("echo $$ >/tmp/pid; exec dmremap remap r 40000 20000");
    remap.wait_until(|status| status.remapped.0 > 17);
    machine.ok("kill -INT $(cat /tmp/pid)");
    let output = job.wait();
    main.heal(0..64 * MIB);
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("stopped, the rest is as it was"), "{output:?}");
    let moved = remap.status().remapped.0 - 17;
    assert!(moved > 0 && moved < 20000, "{moved}");
    assert_eq!(remap.status().keys["jobs"], "0");
    machine.ok("guest io check /dev/mapper/r 0 40000 old");
    machine.shutdown();
}

/// A line of `dmsetup table`, behind the target's name.
fn line(remap: &Remap<'_>) -> String {
    remap.table().split_once("remap ").unwrap().1.trim().into()
}

#[test]
fn spares_come_and_go_and_the_table_names_those_that_are_there() {
    let main = Drive::blank("main", 32 * MIB);
    let spares = ["one", "two", "three"].map(|name| Drive::blank(name, 16 * MIB));
    let [one, two, three] = &spares;
    let small = Drive::blank("small", MIB);
    let machine = boot(&[&main, one, two, three, &small]);
    machine.ok("guest io write /dev/vda 0 40000 old && guest io flush /dev/vda");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    ends(&machine, "remap r 1000 3000", 0, &[]);
    let before = remap.status().keys["version"].clone();
    machine.ok(
        "modprobe ext4 && mkfs.ext4 -q /dev/vdc && mkfs.ext4 -q /dev/vdd && mkdir -p /mnt && mount -t ext4 /dev/vdd /mnt",
    );
    // What is in use, in the set, too small, or carries something, is refused with its cure; so is nobody's word.
    for (arguments, says) in [
        ("spare add r /dev/vdb --yes", "/dev/vdb is spare 0 of r already"),
        ("spare replace r 0 /dev/vdb --yes", "'dmremap spare remove r 0'"),
        ("spare add r /dev/vda --yes", "/dev/vda is in use"),
        ("spare add r /dev/vdd --overwrite /dev/vdd --yes", "/dev/vdd is in use"),
        ("spare add r /dev/vdc --yes", "carries a filesystem of ext4"),
        ("spare add r /dev/vdc --overwrite /dev/vdd --yes", "--overwrite names /dev/vdd"),
        ("spare add r /dev/vdc --overwrite /dev/vdc", "--yes"),
        ("spare add r /dev/vde --yes", "sectors"),
        ("spare add r /dev/null --yes", "no block device"),
        ("spare add r /dev/vdz --yes", "/dev/vdz"),
        ("spare remove r 0 --yes", "spare"),
        ("spare remove r 7 --yes", "'7' is no spare of r"),
        ("spare remove r /dev/vdc --yes", "'/dev/vdc' is no spare of r"),
        ("migrate r 3 /dev/vdc --yes", "'3' is no spare of r"),
        ("migrate r", "required"),
        ("migrate r /dev/vdb /dev/vdc /dev/vdd", "unexpected"),
    ] {
        ends(&machine, arguments, 1, &[says]);
    }
    ends(
        &machine,
        "spare add --dry-run r /dev/vdc --overwrite /dev/vdc",
        0,
        &["becomes a spare of r", "what is on it is lost: a filesystem of ext4"],
    );
    assert_eq!(remap.status().keys["version"], before, "{}", remap.message("metadata_status"));
    machine.ok("umount /mnt && wipefs -qa /dev/vdd && dd if=/dev/zero of=/dev/vdd bs=1M count=16 conv=fsync 2>/dev/null");

    ends(
        &machine,
        "spare add r /dev/vdc --overwrite /dev/vdc --yes",
        0,
        &["r: done; it has 2 spares"],
    );
    assert!(line(&remap).contains("spare 254:32"), "{}", line(&remap));
    // What the set recognises it by was sent.
    let text = machine.ok("dmremap inspect /dev/vdb /dev/vdc");
    assert_eq!(text.matches("serial number's hash").count(), 3, "{text}");

    // One spare goes to another place, and is let go.
    ends(&machine, "migrate r /dev/vdb /dev/vdd", 1, &["--yes"]);
    ends(&machine, "migrate r /dev/vdd --yes", 1, &["2 spares; say which one leaves"]);
    ends(&machine, "migrate --dry-run r /dev/vdb /dev/vdd", 0, &["takes the place of spare 0"]);
    ends(&machine, "migrate r /dev/vdb /dev/vdd --yes", 0, &["r: done; it has 2 spares"]);
    assert!(
        !line(&remap).contains("254:16") && line(&remap).contains("254:48"),
        "{}",
        line(&remap)
    );
    machine.ok("dd if=/dev/zero of=/dev/vdb bs=1M count=16 oflag=direct 2>/dev/null");
    machine.ok("guest io check /dev/mapper/r 0 40000 old");

    // And one moves to those that stay.
    ends(&machine, "spare remove r /dev/vdc --yes", 0, &["r: done; it has 1 spare"]);
    ends(&machine, "spare replace r /dev/vdd /dev/vdb --yes", 0, &["r: done; it has 1 spare"]);
    assert_eq!(line(&remap), "254:0 254:16");
    ends(&machine, "spare remove r /dev/vdb --yes", 1, &["spare"]);
    machine.ok("guest io check /dev/mapper/r 0 40000 old");
    assert_eq!(remap.status().remapped.0, 3000);
    machine.shutdown();
}

/// A person at a terminal, who thinks about it while something happens; then the answer is yes.
fn asked(machine: &Machine, command: &str, meanwhile: &str) -> Output {
    machine.ok("rm -f /tmp/said /tmp/go");
    let answer = "until [ -e /tmp/go ]; do sleep 0.1; done; echo y";
    let job = machine.start(&format!("({answer}) | script -qefc '{command}' /tmp/said"));
    machine.ok("until grep -q 'Go on?' /tmp/said; do sleep 0.1; done");
    machine.ok(meanwhile);
    machine.ok("touch /tmp/go");
    job.wait()
}

#[test]
fn a_name_that_leads_to_another_device_when_the_answer_comes_is_not_followed() {
    let main = Drive::blank("main", 32 * MIB);
    let [one, two] = ["one", "two"].map(|name| Drive::blank(name, 16 * MIB));
    let machine = boot(&[&main, &one, &two]);
    let renamed = "mv /dev/vdb /dev/aside && mv /dev/vdc /dev/vdb";
    let back = "mv /dev/vdb /dev/vdc && mv /dev/aside /dev/vdb";
    let output = asked(&machine, "dmremap create --name r /dev/vda /dev/vdb", renamed);
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stdout.contains("/dev/vdb leads to another device"), "{output:?}");
    assert_eq!([&one, &two].map(|drive| drive.counters().writes), [0, 0]);
    machine.ok(back);
    ends(&machine, "create --yes --name r /dev/vda /dev/vdb", 0, &["is ready"]);

    let three = machine.null_blk(0, 16, &[("memory_backed", "1")]);
    machine
        .ok(&format!("ln -s /dev/vdc /dev/new && {}", "dd if=/dev/vdc bs=1M | md5sum >/tmp/sum"));
    let led_away = format!("ln -sf {three} /dev/new");
    let output = asked(&machine, "dmremap spare add r /dev/new", &led_away);
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stdout.contains("/dev/new leads to another device"), "{output:?}");
    assert_eq!(two.counters().writes, 0);
    ends(&machine, &format!("inspect {three}"), 4, &["holds no metadata"]);
    let output = asked(&machine, "dmremap spare add r /dev/vdc", "true");
    assert_eq!(output.status, 0, "{output:?}");
    ends(&machine, "stop r", 0, &[]);
    machine.shutdown();
}

#[test]
fn a_spare_that_was_away_is_taken_back_whatever_its_device_is_called_by_then() {
    let main = Drive::blank("main", 32 * MIB);
    let spares = ["one", "two"].map(|name| Drive::blank(name, 16 * MIB));
    let [one, two] = &spares;
    let machine = boot(&[&main, one, two]);
    machine.ok("guest io write /dev/vda 0 40000 old && guest io flush /dev/vda");
    let linear = |sectors| format!("--table '0 {sectors} linear /dev/vdc 0'");
    machine.ok(&format!("dmsetup create low {}", linear(16 * MIB)));
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/mapper/low 3 create spare /dev/vdb");
    ends(&machine, "remap r 1000 64", 0, &[]);
    machine.ok("guest io write /dev/mapper/r 1000 64 moved && guest io flush /dev/mapper/r");
    let uuid = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("spare 0 ")).unwrap().to_owned();
        line.split_whitespace().last().unwrap().to_owned()
    };
    let lost = uuid(&remap.message("metadata_status"));
    // The drive goes, and comes back under another name.
    two.set_gone(true);
    machine.fails("guest io read /dev/mapper/r 1000 64");
    ends(&machine, "remap r 2000 8", 0, &[]);
    remap.wait_until(|status| status.keys["away"] == "1");
    two.set_gone(false);
    machine.ok(&format!(
        "dmsetup suspend --nolockfs --noflush low; dmsetup load low --table '0 {} error' && dmsetup resume low",
        16 * MIB
    ));
    ends(&machine, "scan", 0, &["'dmremap spare add' takes it back"]);
    ends(&machine, "spare add --dry-run r /dev/vdc", 0, &["is spare 0 of r", "is taken back"]);
    ends(&machine, "spare add r /dev/vdc --yes", 0, &["r: done; it has 2 spares"]);
    assert!(!line(&remap).contains("degraded"), "{}", line(&remap));
    assert_eq!(uuid(&remap.message("metadata_status")), lost);
    assert_eq!(remap.status().keys["away"], "0");
    machine.ok("guest io check /dev/mapper/r 1000 64 moved");
    machine.ok("dmsetup remove low");
    ends(&machine, "check --level forensic /dev/vdb /dev/vdc", 0, &["nothing wrong"]);

    // One that is away in its own place is taken back there.
    two.set_gone(true);
    ends(&machine, "remap r 2008 8", 0, &[]);
    remap.wait_until(|status| status.keys["away"] == "1");
    two.set_gone(false);
    ends(&machine, "spare add r /dev/vdc --yes", 0, &["r: done; it has 2 spares"]);
    assert_eq!(remap.status().keys["away"], "0");
    ends(&machine, "spare add r /dev/vdc --yes", 1, &["is spare 0 of r already"]);
    ends(&machine, "stop r", 0, &[]);
    machine.shutdown();

    // One that was left out has no device in the table. An image of it from before it was away is not taken.
    let old = Drive::blank("old", 16 * MIB);
    let machine = boot(&[&main, one, two, &old]);
    machine.ok("dd if=/dev/vdc of=/dev/vdd bs=1M oflag=direct status=none");
    machine
        .ok(&format!("dmsetup create r --table '0 65536 remap /dev/vda /dev/vdb 2 absent {lost}'"));
    let remap = Remap::existing(&machine, "r");
    machine.fails("guest io read /dev/mapper/r 1000 64");
    ends(&machine, "spare add r /dev/vdc --yes", 0, &["r: done; it has 2 spares"]);
    machine.ok("guest io check /dev/mapper/r 1000 64 moved");
    machine.ok("dmsetup remove r");
    machine
        .ok(&format!("dmsetup create r --table '0 65536 remap /dev/vda /dev/vdb 2 absent {lost}'"));
    let before = line(&remap);
    ends(&machine, "spare add r /dev/vdd --yes", 1, &["is an older image of itself"]);
    assert_eq!(line(&remap), before);
    machine.ok("guest io check /dev/mapper/r 0 1000 old");
    ends(&machine, "spare add r /dev/vdc --yes", 0, &["r: done; it has 2 spares"]);
    ends(&machine, "stop r", 0, &[]);
    machine.shutdown();
}

#[test]
fn a_migration_is_followed_stopped_left_running_and_taken_up_again() {
    let main = Drive::blank("main", 64 * MIB);
    let (old, new) = (Drive::blank("old", 32 * MIB), Drive::blank("new", 32 * MIB));
    let machine = boot(&[&main, &old, &new]);
    machine.ok("guest io write /dev/vda 0 40000 old && guest io flush /dev/vda");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    ends(&machine, "remap r 0 32768", 0, &["32768 sectors moved"]);
    let (before, status) = (line(&remap), remap.status());
    let running = |remap: &Remap<'_>| {
        for _ in 0..600 {
            let text = remap.message("metadata_status");
            if text
                .lines()
                .any(|line| line.starts_with("running migrate done ") && !line.contains(" 0/"))
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no migration runs: {}", remap.message("metadata_status"));
    };

    // Ctrl-C: the set is as it was.
    new.slow_down(0..32 * MIB, Duration::from_millis(300));
    let job = machine.start("echo $$ >/tmp/pid; exec dmremap migrate r /dev/vdc --yes");
    running(&remap);
    ends(&machine, "spare add r /dev/vdc --yes", 1, &["a migrate is running"]);
    machine.ok("kill -INT $(cat /tmp/pid)");
    let output = job.wait();
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("stopped; the set has the spares that it had"), "{output:?}");
    assert_eq!((line(&remap), remap.status().keys["jobs"].as_str()), (before.clone(), "0"));
    assert_eq!(remap.status().remapped, status.remapped);

    // The device goes away: the same, and the reason is told.
    let job = machine.start("dmremap migrate r /dev/vdc --yes");
    running(&remap);
    new.set_gone(true);
    let output = job.wait();
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("the set has the spares that it had"), "{output:?}");
    assert_eq!(line(&remap), before);
    new.set_gone(false);
    machine.ok("guest io check /dev/mapper/r 0 40000 old");

    // Left running, and taken up again.
    ends(
        &machine,
        "migrate r /dev/vdc --detach --yes --overwrite /dev/vdc",
        0,
        &["migrate --attach r"],
    );
    running(&remap);
    new.heal(0..32 * MIB);
    ends(&machine, "migrate --attach r", 0, &["r: done; it has 1 spare"]);
    assert_eq!(line(&remap), "254:0 254:32");
    machine.ok("guest io check /dev/mapper/r 0 40000 old");
    ends(&machine, "migrate --attach q", 1, &["'q'"]);
    machine.shutdown();
}

#[test]
fn a_scan_is_run_and_its_findings_are_told() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    ends(&machine, "scan-surface r status", 0, &["idle", "0 sectors unreadable"]);
    ends(&machine, "scan-surface r pause", 1, &["no scan is under way"]);
    ends(
        &machine,
        "scan-surface --dry-run r",
        0,
        &["would send 'scan start' to r, whose scan is idle"],
    );
    ends(&machine, "scan-surface r sideways", 1, &["sideways"]);
    ends(&machine, "scan-surface r", 0, &["0 sectors unreadable, 0 read only with effort"]);
    main.fail_reads(1003..1005);
    ends(
        &machine,
        "scan-surface r",
        3,
        &["2 sectors unreadable", "2 sectors pending (+2)", "dmremap files r"],
    );
    // In the background, slowly enough to be seen.
    remap.message("set scan_rate 2048");
    ends(&machine, "scan-surface r start", 0, &["running"]);
    ends(&machine, "scan-surface r pause", 0, &["paused"]);
    let json = json(&machine, "scan-surface --json r status", &[0]);
    assert_eq!((&json["state"], &json["scans"]), (&"paused".into(), &2.into()));
    // Ctrl-C leaves it running.
    let job = machine.start("echo $$ >/tmp/pid; exec dmremap scan-surface r");
    remap.wait_until(|status| status.keys["scan_state"] == "running");
    std::thread::sleep(Duration::from_secs(2));
    machine.ok("kill -INT $(cat /tmp/pid)");
    let output = job.wait();
    assert!(
        output.status == 1 && output.stderr.contains("goes on in the background"),
        "{output:?}"
    );
    assert_eq!(remap.status().keys["scan_state"], "running");
    ends(&machine, "scan-surface r stop", 0, &["idle"]);
    machine.shutdown();
}

#[test]
fn settings_are_told_changed_and_taken_back() {
    let (main, spare) = (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    assert_eq!(ends(&machine, "get r alert_threshold", 0, &[]).trim(), "80");
    ends(
        &machine,
        "get r",
        0,
        &["alert_threshold", "percent", "raises an event", "spare_policy", "fill"],
    );
    let all = json(&machine, "get --json r", &[0]);
    assert_eq!((&all["alert_threshold"], &all["spare_policy"]), (&80.into(), &"fill".into()));
    assert_eq!(all.as_object().unwrap().len(), remap_pure::settings::SETTINGS.len());
    assert_eq!(
        json(&machine, "get --json r min_copies", &[0]),
        serde_json::json!({ "min_copies": 2 })
    );
    for (arguments, says) in [
        ("get r colour", "no such setting; there are"),
        ("set r colour red", "no such setting; there are"),
        ("set r alert_threshold 101", "0 to 100 percent"),
        ("set --dry-run r alert_threshold 101", "0 to 100 percent"),
        ("set r spare_policy backwards", "fill, round_robin"),
        ("set --dry-run r primary 3", "no spare 3"),
        ("undo r", "no setting was changed"),
        ("undo --dry-run r", "no setting was changed"),
    ] {
        ends(&machine, arguments, 1, &[says]);
    }
    ends(&machine, "set --dry-run r alert_threshold 70", 0, &["alert_threshold: 80 -> 70"]);
    assert_eq!(ends(&machine, "get r alert_threshold", 0, &[]).trim(), "80");
    ends(&machine, "set r alert_threshold 70", 0, &["alert_threshold: 80 -> 70"]);
    ends(&machine, "set r alert_threshold 70", 0, &["nothing has changed"]);
    ends(&machine, "undo --dry-run r", 0, &["alert_threshold: 70 -> 80"]);
    assert_eq!(remap.message("get alert_threshold"), "70");
    ends(&machine, "undo r", 0, &["alert_threshold: 70 -> 80"]);
    ends(&machine, "undo r", 0, &["alert_threshold: 80 -> 70"]);
    machine.shutdown();
}
