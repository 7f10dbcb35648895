//! `dmremap` and sets in use: what it shows of them, and what it has them do.

use remap_harness::{Drive, Machine, Output, Remap};
use serde_json::Value;
use std::time::Duration;

const MIB: u64 = 2048;

fn boot(drives: &[&Drive]) -> Machine {
    drives.iter().fold(Machine::builder(), |builder, drive| builder.drive(drive)).module().boot()
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

    let remap = Remap::create(
        &machine,
        "r",
        "/dev/vda",
        "/dev/vdb 5 create name archive spare /dev/vdc",
    );
    ends(&machine, "list", 0, &["r", "healthy", "32.0 MiB", "/dev/vda", "/dev/vdb /dev/vdc", "(archive)"]);
    let text = ends(&machine, "status", 0, &["r: healthy", "15 of 15 copies good", "spare 1"]);
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
        assert_eq!(json(&machine, &format!("status --json {name}"), &[0])["sets"][0]["mapped"], "r");
    }
    assert_eq!(set["main"]["serial"], "main");
    assert_eq!(set["main"]["path"], "/dev/vda");
    assert_eq!((&set["spares"][1]["device"]["serial"], &set["spares"][1]["health"]), (&"second".into(), &100.into()));
    assert_eq!(set["state"]["members"][0]["copies"].as_array().unwrap().len(), 5);

    // What fails is told.
    machine.ok("guest io write /dev/mapper/r 0 4096 old");
    main.fail_reads(1003..1005);
    machine.fails("guest io read /dev/mapper/r 1000 8");
    remap.wait_until(|status| status.pending.0 == 2);
    ends(&machine, "remap r 64 8", 0, &[]);
    let text = ends(&machine, "status r", 3, &["r: ailing", "! 2 sectors of main cannot be read", "8 sectors remapped"]);
    assert!(row(&text, "ended remap 64+8").contains("well"), "{text}");
    let set = &json(&machine, "status --json r", &[3])["sets"][0];
    assert_eq!((&set["state"]["remapped"], &set["state"]["pending"]), (&8.into(), &2.into()));
    assert_eq!(set["spares"][0]["used"], 8);
    let ended = set["state"]["ended"].as_array().unwrap();
    let ended = ended.iter().find(|ended| ended["range"] == serde_json::json!([64, 8])).unwrap();
    assert_eq!((&ended["what"], &ended["moved"], &ended["result"]), (&"remap".into(), &8.into(), &"ok".into()));

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
