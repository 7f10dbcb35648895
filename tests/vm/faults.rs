//! Everything that can go wrong goes wrong once, in turn: each allocation, each allocation of pages, and each bio of what a person or a
//! failing drive has the module do. What has to hold after each: it ends, nothing is lost, and done again it succeeds. The kernel that
//! looks for faults has its own opinion on top of that, and its leak detector the last word.
//!
//! One processor, so that the same things happen in the same order.

use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Fault, Faults, Machine, Output, Remap, FAULTS};

const MIB: u64 = 2048;
const MAIN: u64 = 32 * MIB;
const PATH: &str = "/dev/mapper/r";
const DATA: &str = "guest io check /dev/mapper/r 0 2048 data";

/// Main, with data that says `data`, and two spares.
struct Set {
    main: Drive,
    machine: Machine,
}

impl Set {
    fn new() -> Self {
        let main = Drive::blank("main", MAIN);
        let (one, two) = (Drive::blank("one", 16 * MIB), Drive::blank("two", 16 * MIB));
        let machine =
            Machine::builder().cpus(1).drive(&main).drive(&one).drive(&two).module().boot();
        machine.ok("guest io write /dev/vda 0 2048 data");
        Set { main, machine }
    }

    fn create(&self) -> Remap<'_> {
        Remap::create(&self.machine, "r", "/dev/vda", "/dev/vdb 1 create")
    }

    /// Goes through all points of a command, and says how many there were.
    #[track_caller]
    fn each(
        &self,
        what: &str,
        mut prepare: impl FnMut(u64) -> String,
        mut check: impl FnMut(&Machine, u64, &Output),
    ) {
        let mut faults = Faults::new(&self.machine, &["vda", "vdb", "vdc"]);
        let mut line = format!("faults: {what}:");
        // Numbers of runs go on from one kind of fault to the next.
        let mut before = 0;
        for fault in FAULTS {
            let mut last = 0;
            let points = faults.each(
                fault,
                |n| {
                    last = before + n;
                    prepare(last)
                },
                |n, output| check(&self.machine, before + n, output),
            );
            before = last;
            line += &format!(" {points} {}", fault.name());
            assert!(points > 0 || fault != Fault::Slab, "{what} takes no memory");
        }
        println!("{line}");
    }

    /// [`each`](Self::each) of a message to a set, which is taken back by other commands before the next time.
    #[track_caller]
    fn each_of(&self, message: &str, undo: &str) {
        self.each(
            message,
            |_| format!("dmsetup message r 0 {message}"),
            |machine, _, output| {
                machine.ok(DATA);
                if output.status != 0 {
                    machine.ok(&format!("dmsetup message r 0 {message}"));
                    machine.ok(DATA);
                }
                machine.ok(undo);
                machine.ok(DATA);
            },
        );
    }
}

fn line(options: &str) -> String {
    format!("dmsetup create r --table '0 {MAIN} remap /dev/vda /dev/vdb {options}'")
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn creating_a_set() {
    let set = Set::new();
    let blank = "dd if=/dev/zero of=/dev/vdb bs=1M count=16 oflag=direct 2>/dev/null";
    set.each(
        "create",
        |_| {
            set.machine.ok(blank);
            line("1 create")
        },
        |machine, n, output| {
            if output.status != 0 {
                // A creation that was cut short is finished by the same line, unless it was not cut short.
                machine.run("dmsetup remove r 2>/dev/null");
                let again = format!("{} || {}", line("1 create"), line(""));
                assert_eq!(machine.run(&again).status, 0, "after point {n}: {output:?}");
            }
            machine.ok(DATA);
            machine.ok("dmsetup message r 0 check forensic && dmsetup remove r");
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn loading_the_table_of_a_set() {
    let set = Set::new();
    let remap = set.create();
    for start in (0..256).step_by(16) {
        remap.message(&format!("remap {start} 8"));
    }
    let places = remap.places();
    remap.remove();
    set.each(
        "load",
        |_| line(""),
        |machine, n, output| {
            if output.status != 0 {
                machine.run("dmsetup remove r 2>/dev/null");
                assert_eq!(machine.run(&line("")).status, 0, "after point {n}: {output:?}");
            }
            assert_eq!(Remap::existing(machine, "r").places(), places, "after point {n}");
            machine.ok(DATA);
            machine.ok("dmsetup remove r");
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn removing_the_device() {
    let set = Set::new();
    set.create().remove();
    set.each(
        "remove",
        |n| {
            set.machine.ok(&line(""));
            // There is something new to be written.
            set.machine.ok(&format!("dmsetup message r 0 remap {} 8", 8 * (n % 200)));
            "dmsetup remove r".into()
        },
        |machine, n, output| {
            assert_eq!(output.status, 0, "at point {n}: {output:?}");
            machine.ok(&line(""));
            machine.ok(DATA);
            machine.ok("dmsetup remove r");
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn changing_the_table_under_a_device() {
    let set = Set::new();
    let remap = set.create();
    remap.message("remap 0 64");
    set.each(
        "reload",
        |_| "dmsetup table r | dmsetup load r && dmsetup suspend r && dmsetup resume r".into(),
        |machine, n, output| {
            // One that could not be made active leaves the device suspended and without a table.
            if output.status != 0 {
                let line = line("")
                    .split_once('\'')
                    .map(|(_, line)| line.trim_end_matches('\'').to_string());
                let load = format!(
                    "dmsetup load r --table '{}' && dmsetup resume r",
                    line.unwrap_or_default()
                );
                assert_eq!(machine.run(&load).status, 0, "after point {n}: {output:?}");
            }
            machine.ok(DATA);
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn moving_by_hand() {
    let set = Set::new();
    let _remap = set.create();
    set.each_of("remap 200 72", "dmsetup message r 0 unremap 200 72");
    set.machine.ok("dmsetup message r 0 remap 400 24");
    set.each_of("unremap 400 24", "dmsetup message r 0 remap 400 24");
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn moving_what_fails() {
    let set = Set::new();
    let _remap = set.create();
    set.main.ail(4096..16384, Ill { writes: true, ..Ill::default() });
    set.each(
        "automatic remap",
        |n| format!("guest io write {PATH} {} 24 first && guest io flush {PATH}", 4096 + 24 * n),
        |machine, n, output| {
            let at = 4096 + 24 * n;
            if output.status != 0 {
                machine
                    .ok(&format!("guest io write {PATH} {at} 24 first && guest io flush {PATH}"));
            }
            machine.ok(&format!("guest io check {PATH} {at} 24 first"));
            machine.ok(DATA);
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn marking_what_cannot_be_read_and_saving_it() {
    let set = Set::new();
    let _remap = set.create();
    set.machine.ok(&format!("guest io write {PATH} 4096 8192 late"));
    set.main.ail(4096..12288, Ill { reads: true, ..Ill::default() });
    set.each(
        "a read that fails, and a write there",
        |n| {
            let at = 4096 + 16 * n;
            format!("guest io read {PATH} {at} 8; guest io write {PATH} {at} 8 new")
        },
        |machine, n, _| {
            let at = 4096 + 16 * n;
            machine.ok(&format!(
                "guest io write {PATH} {at} 8 new && guest io check {PATH} {at} 8 new"
            ));
            assert_ne!(machine.run(&format!("guest io read {PATH} {} 8", at + 8)).status, 0);
            machine.ok(DATA);
        },
    );
    // What can be read again is what it was.
    set.main.heal(4096..12288);
    set.machine.ok(&format!("guest io check {PATH} 4104 8 late"));
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn adding_and_removing_a_spare() {
    let set = Set::new();
    let remap = set.create();
    remap.message("remap 0 64");
    let reload = "dmsetup table r | dmsetup load r && dmsetup resume r";
    let remove = format!("dmsetup message r 0 spare remove /dev/vdc && sleep 1 && {reload}");
    set.each(
        "spare add",
        |_| "dmsetup message r 0 spare add /dev/vdc".into(),
        |machine, n, output| {
            if output.status != 0 {
                machine.ok(DATA);
                // It may have come as far as being a member, or have left again.
                let again = format!(
                    "dmsetup message r 0 save; {reload}; dmsetup message r 0 metadata_status | grep -q '^spare 1 ' || dmsetup message r 0 spare add /dev/vdc"
                );
                assert_eq!(machine.run(&again).status, 0, "after point {n}: {output:?}");
            }
            machine.ok(DATA);
            machine.ok(&remove);
            machine.ok(DATA);
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn migrating_a_spare() {
    let set = Set::new();
    let remap = set.create();
    remap.message("remap 0 64");
    let reload = "dmsetup table r | dmsetup load r && dmsetup resume r";
    let other = |machine: &Machine| {
        let line = machine.ok("dmsetup table r");
        if line.contains("254:16") {
            "/dev/vdc"
        } else {
            "/dev/vdb"
        }
    };
    set.each(
        "migrate",
        |_| format!("dmsetup message r 0 migrate {}", other(&set.machine)),
        |machine, n, output| {
            machine.ok(DATA);
            machine.ok(reload);
            if output.status != 0 {
                let again = format!("dmsetup message r 0 migrate {} && {reload}", other(machine));
                assert_eq!(machine.run(&again).status, 0, "after point {n}: {output:?}");
            }
            machine.ok(DATA);
            machine.ok("dmsetup message r 0 check forensic");
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn messages() {
    let set = Set::new();
    let remap = set.create();
    remap.message("remap 0 64");
    for message in [
        "save",
        "restore",
        "sync",
        "repair",
        "check forensic",
        "metadata_status",
        "table",
        "verify 8",
        "get",
        "help",
    ] {
        set.each_of(message, "true");
    }
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn settings() {
    let set = Set::new();
    let _remap = set.create();
    set.each_of("set auto_remap 0", "dmsetup message r 0 set auto_remap 1");
    let file = "/sys/block/dm-0/remap/auto_remap";
    set.each(
        "a setting written in sysfs",
        |n| format!("echo {} >{file}", n % 2),
        |machine, n, _| {
            let (value, other) = (n % 2, (n + 1) % 2);
            machine.ok(&format!("echo {value} >{file} && [ $(cat {file}) = {value} ]"));
            machine.ok(&format!("echo {other} >{file} && [ $(cat {file}) = {other} ]"));
            machine.ok(DATA);
        },
    );
}
