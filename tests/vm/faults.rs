//! Everything that can go wrong goes wrong once, in turn: each allocation, each allocation of pages, and each bio of what a person or a
//! failing drive has the module do. What has to hold after each: it ends, nothing is lost, and done again it succeeds. The kernel that
//! looks for faults has its own opinion on top of that, and its leak detector the last word.
//!
//! One processor, so that the same things happen in the same order. One machine for all points of a test, and the agent in it does what is
//! asked for itself: there are thousands.

use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Fault, Faults, Machine, Output, FAULTS};

const MIB: u64 = 2048;
const MAIN: u64 = 32 * MIB;
const SPARE: u64 = 16 * MIB;
const PATH: &str = "/dev/mapper/r";
/// What makes a set: with a table of two blocks, as each block of each copy takes the same memory and bios.
const CREATE: &str = "create max_remaps 400";
/// The same, with room for an entry at every point.
const WITH_ROOM: &str = "create max_remaps 4000";
/// Main holds this from its start.
const DATA: &str = "io check /dev/mapper/r 0 512 data";
/// A copy that could not be written is written anew; then all say the same, block by block.
const WHOLE: &str = "message r save\nmessage r check forensic";

/// Main, with data that says `data`, and two spares.
struct Set {
    main: Drive,
    machine: Machine,
}

impl Set {
    fn new() -> Self {
        let main = Drive::blank("main", MAIN);
        let (one, two) = (Drive::blank("one", SPARE), Drive::blank("two", SPARE));
        let machine =
            Machine::builder().cpus(1).drive(&main).drive(&one).drive(&two).module().boot();
        machine.take("io write /dev/vda 0 512 data");
        Set { main, machine }
    }

    /// With the device, of main and the first spare.
    fn active() -> Self {
        Self::made_by(CREATE)
    }

    fn made_by(create: &str) -> Self {
        let set = Set::new();
        set.machine.take(&line(&format!("/dev/vdb 3 {create}")));
        set
    }

    /// Goes through all points of some steps that take memory, and says how many there were.
    #[track_caller]
    fn each(
        &self,
        what: &str,
        prepare: impl FnMut(u64) -> String,
        check: impl FnMut(&Machine, u64, &Output),
    ) {
        assert!(self.points(what, prepare, check), "{what} takes no memory");
    }

    /// The same of steps that need not take memory. Returns whether they do.
    #[track_caller]
    fn points(
        &self,
        what: &str,
        mut prepare: impl FnMut(u64) -> String,
        mut check: impl FnMut(&Machine, u64, &Output),
    ) -> bool {
        let mut faults = Faults::new(&self.machine, &["vda", "vdb", "vdc"]);
        let mut line = format!("faults: {what}:");
        // Numbers of runs go on from one kind of fault to the next.
        let (mut before, mut takes_memory) = (0, false);
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
            takes_memory |= points > 0 && fault == Fault::Slab;
        }
        println!("{line}");
        takes_memory
    }

    /// [`points`](Self::points) of a message to a set, which is taken back by other steps before the next time.
    #[track_caller]
    fn each_of(&self, message: &str, undo: &str) -> bool {
        let message = format!("message r {message}");
        self.points(
            &message,
            |_| format!("{message}\nidle r"),
            |machine, n, output| {
                if output.status != 0 {
                    again(machine, n, output, &format!("{DATA}\n{message}\nidle r"));
                }
                again(machine, n, output, &format!("{DATA}\n{undo}\n{DATA}"));
            },
        )
    }
}

/// Takes steps that have to succeed after point `n`, of which `output` came.
#[track_caller]
fn again(machine: &Machine, n: u64, output: &Output, steps: &str) {
    let second = machine.steps(steps);
    assert_eq!(second.status, 0, "after point {n}: {output:?}\n{second:?}");
}

/// Whether `/dev/vdc` is a spare of the set, whatever its number: that of one who has left is not given out again at once.
fn has_second(machine: &Machine) -> bool {
    let status = machine.take("message r metadata_status");
    status.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("spare") && words.nth(1) == Some("254:32")
    })
}

/// Whether the set says anything of this sector.
fn is_known(machine: &Machine, sector: u64) -> bool {
    machine.take(&format!("message r table {sector}")).lines().any(|line| {
        let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
        let range: Option<(u64, u64)> = numbers.next().zip(numbers.next());
        range.is_some_and(|(start, len)| (start..start + len).contains(&sector))
    })
}

/// The step that makes the device of these spares.
fn line(arguments: &str) -> String {
    format!("create r {MAIN} /dev/vda {arguments}")
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn creating_a_set() {
    let set = Set::new();
    // What the last set has left, out of the way of the next. The places are not looked at.
    let blank = format!("io zero /dev/vdb 0 {SPARE}");
    let create = line(&format!("/dev/vdb 3 {CREATE}"));
    set.each(
        "create",
        |_| {
            set.machine.take(&blank);
            create.clone()
        },
        |machine, n, output| {
            if output.status != 0 {
                // A creation that was cut short is finished by the same line, unless it was not cut short.
                let steps = format!("try remove r\neither {create} or {}", line("/dev/vdb"));
                again(machine, n, output, &steps);
            }
            again(machine, n, output, &format!("{DATA}\n{WHOLE}\nidle r\nremove r"));
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn loading_the_table_of_a_set() {
    let set = Set::active();
    for start in (0..256).step_by(16) {
        set.machine.take(&format!("message r remap {start} 8"));
    }
    let places = set.machine.take("message r table\nremove r");
    let load = line("/dev/vdb");
    set.each(
        "load",
        |_| load.clone(),
        |machine, n, output| {
            if output.status != 0 {
                again(machine, n, output, &format!("try remove r\n{load}"));
            }
            assert_eq!(machine.take("message r table"), places, "after point {n}");
            again(machine, n, output, &format!("{DATA}\n{WHOLE}\nidle r\nremove r"));
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn loading_the_table_of_two_spares_of_which_one_is_behind() {
    let set = Set::new();
    let both = line("/dev/vdb 2 spare /dev/vdc");
    let create = line(&format!("/dev/vdb 5 {CREATE} spare /dev/vdc"));
    set.machine.take(&format!("{create}\nremove r"));
    set.each(
        "load, one spare behind",
        |n| {
            // One goes on without the other.
            set.machine.take(&both);
            let status = set.machine.take("message r metadata_status");
            let word = |line: &str| line.split_whitespace().nth(5).map(str::to_string);
            let second = status.lines().find(|line| line.starts_with("spare 1 ")).and_then(word);
            let second = second.unwrap_or_else(|| panic!("no second spare: {status}"));
            let alone = line(&format!("/dev/vdb 2 absent {second}"));
            set.machine.take(&format!(
                "remove r\n{alone}\nmessage r remap {} 8\nmessage r save\nremove r",
                // Another block each time.
                8 * n
            ));
            both.clone()
        },
        |machine, n, output| {
            if output.status != 0 {
                again(machine, n, output, &format!("try remove r\n{both}"));
            }
            again(machine, n, output, &format!("{DATA}\n{WHOLE}\nidle r"));
            let status = machine.take("status r");
            assert!(status.contains(" persist=enabled "), "after point {n}: {status}");
            machine.take("remove r");
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn removing_the_device() {
    let set = Set::active();
    set.machine.take("remove r");
    let load = line("/dev/vdb");
    set.each(
        "remove",
        |n| {
            // There is something new to be written.
            set.machine.take(&format!("{load}\nmessage r remap {} 8", 8 * n));
            "remove r".into()
        },
        |machine, n, output| {
            assert_eq!(output.status, 0, "at point {n}: {output:?}");
            again(machine, n, output, &format!("{load}\n{DATA}\nremove r"));
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn changing_the_table_under_a_device() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    let load = line("/dev/vdb").replacen("create", "load", 1);
    set.each(
        "reload",
        |_| "reload r".into(),
        |machine, n, output| {
            // One that could not be made active leaves the device suspended and without a table.
            if output.status != 0 {
                again(machine, n, output, &format!("{load}\nresume r"));
            }
            again(machine, n, output, DATA);
        },
    );
    set.machine.take(WHOLE);
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn moving_by_hand() {
    let set = Set::active();
    assert!(set.each_of("remap 200 72", "message r unremap 200 72"));
    set.machine.take("message r remap 400 24");
    assert!(set.each_of("unremap 400 24", "message r remap 400 24"));
    set.machine.take(WHOLE);
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn moving_what_fails() {
    let set = Set::made_by(WITH_ROOM);
    // Most of main takes writes, or it would be main that fails and not its blocks.
    set.main.ail(4096..20480, Ill { writes: true, ..Ill::default() });
    let at = |n| 4096 + 16 * n;
    let write = |n| format!("io write {PATH} {} 16 first\nio flush {PATH}", at(n));
    set.each("automatic remap", write, |machine, n, output| {
        if output.status != 0 {
            again(machine, n, output, &write(n));
        }
        again(machine, n, output, &format!("io check {PATH} {} 16 first\n{DATA}", at(n)));
    });
    set.machine.take(WHOLE);
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn marking_what_cannot_be_read_and_saving_it() {
    let set = Set::made_by(WITH_ROOM);
    set.machine.take(&format!("io write {PATH} 4096 40960 late"));
    set.main.ail(4096..45056, Ill { reads: true, ..Ill::default() });
    let at = |n| 4096 + 16 * n;
    set.each(
        "a read that fails, and a write there",
        |n| {
            let at = at(n);
            format!("try io read {PATH} {at} 8\nwait 20\ntry io write {PATH} {at} 8 new")
        },
        |machine, n, output| {
            let at = at(n);
            // What has been noted of it may have come to nothing.
            while !is_known(machine, at) {
                machine.take(&format!("try io read {PATH} {at} 8\nwait 50"));
            }
            let steps = format!("io write {PATH} {at} 8 new\nio check {PATH} {at} 8 new\n{DATA}");
            again(machine, n, output, &steps);
            assert_ne!(machine.steps(&format!("io read {PATH} {} 8", at + 8)).status, 0);
        },
    );
    // What can be read again is what it was.
    set.main.heal(4096..45056);
    set.machine.take(&format!("io check {PATH} 4120 8 late\n{WHOLE}"));
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn adding_a_spare() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    set.each(
        "spare add",
        |_| "message r spare add /dev/vdc\nidle r".into(),
        |machine, n, output| {
            // It may have come as far as being a member, or have left again.
            again(machine, n, output, &format!("idle r\n{DATA}\nmessage r save\nreload r"));
            if !has_second(machine) {
                again(machine, n, output, "message r spare add /dev/vdc\nidle r\nreload r");
            }
            assert!(has_second(machine), "after point {n}: {output:?}");
            again(machine, n, output, &format!("{DATA}\n{WHOLE}\nidle r"));
            let remove = "message r spare remove /dev/vdc\nidle r\nreload r";
            again(machine, n, output, &format!("{remove}\n{DATA}"));
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn removing_a_spare() {
    let set = Set::active();
    set.machine.take("message r set spare_policy most_free\nmessage r remap 0 64");
    set.machine.take("message r remap 200 64");
    set.each(
        "spare remove",
        |_| {
            set.machine.take("message r spare add /dev/vdc\nidle r\nreload r");
            // What is moved now comes to lie on the second spare, and has to leave it.
            set.machine.take("message r unremap 200 64\nmessage r remap 200 64");
            "message r spare remove /dev/vdc\nidle r".into()
        },
        |machine, n, output| {
            again(machine, n, output, &format!("idle r\n{DATA}\nmessage r save\nreload r"));
            if has_second(machine) {
                again(machine, n, output, "message r spare remove /dev/vdc\nidle r\nreload r");
            }
            assert!(!has_second(machine), "after point {n}: {output:?}");
            again(machine, n, output, &format!("{DATA}\n{WHOLE}\nidle r"));
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn migrating_a_spare() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    let on = |machine: &Machine| match machine.take("table r").contains("254:16") {
        true => "/dev/vdb",
        false => "/dev/vdc",
    };
    let other = |spare| if spare == "/dev/vdb" { "/dev/vdc" } else { "/dev/vdb" };
    let mut to = "/dev/vdc";
    set.each(
        "migrate",
        |_| {
            to = other(on(&set.machine));
            format!("message r migrate {to}\nio write {PATH} 0 8 data\nidle r")
        },
        |machine, n, output| {
            again(machine, n, output, &format!("idle r\n{DATA}\nmessage r save\nreload r"));
            again(machine, n, output, &format!("{DATA}\n{WHOLE}\nidle r"));
            // One that came to nothing can be had again.
            let before = on(machine);
            let steps = format!("message r migrate {}\nidle r\nreload r\n{DATA}", other(before));
            again(machine, n, output, &steps);
            assert_ne!(on(machine), before, "after point {n}: {output:?}");
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn messages() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    for message in ["save", "restore", "sync", "repair", "check forensic", "verify 8", "name other"]
    {
        assert!(set.each_of(message, "idle r"), "{message} takes no memory");
    }
    // What only tells is written where device mapper has room for it.
    for message in ["metadata_status", "table", "get", "help"] {
        assert!(!set.each_of(message, "idle r"), "{message} takes memory");
    }
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn settings() {
    let set = Set::active();
    assert!(set.each_of("set auto_remap 0", "message r set auto_remap 1"));
    let file = "/sys/block/dm-0/remap/auto_remap";
    set.each(
        "a setting written in sysfs",
        |n| format!("put {file} {}", n % 2),
        |machine, n, output| {
            for value in [n % 2, (n + 1) % 2] {
                again(machine, n, output, &format!("put {file} {value}"));
                assert_eq!(machine.take(&format!("get {file}")), value.to_string());
            }
            again(machine, n, output, DATA);
        },
    );
    set.each(
        "a file in debugfs",
        |_| "put /sys/kernel/debug/dm-remap/metadata_control save".into(),
        |machine, n, output| {
            again(machine, n, output, "put /sys/kernel/debug/dm-remap/metadata_control save");
            again(machine, n, output, DATA);
        },
    );
}
