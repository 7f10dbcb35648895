//! Everything that can go wrong goes wrong once, in turn: each allocation, each allocation of pages, and each bio of what a person or a
//! failing drive has the module do. What has to hold after each: it ends, nothing is lost, and done again it succeeds. What was acknowledged has
//! taken effect, and has so when the device has gone and is made anew. The kernel that looks for faults has its own opinion on top of that,
//! and its leak detector the last word.
//!
//! Before each point and after it the data are written anew, and say another thing each time. So main and the spare never hold the same
//! where a block has moved, and who looks in the wrong place finds what is old.
//!
//! One processor, so that the same things happen in the same order. One machine for all points of a test, and the agent in it does what is
//! asked for itself: there are thousands.

use remap_harness::drive::model::Ill;
use remap_harness::{Drive, Fault, Faults, Machine, Point, FAULTS};
use std::cell::{Cell, RefCell};
use std::ops::Range;

const MIB: u64 = 2048;
const MAIN: u64 = 32 * MIB;
const SPARE: u64 = 16 * MIB;
const PATH: &str = "/dev/mapper/r";
/// What makes a set: with a table of two blocks, as each block of each copy takes the same memory and bios.
const CREATE: &str = "create max_remaps 400";
/// The same, with room for an entry at every point.
const WITH_ROOM: &str = "create max_remaps 4000";
/// What of the device has data that is looked at.
const DATA: &str = "0 512";
/// Where a spare has its metadata, and how many sectors of it. Between them are places for data.
const METADATA: [(u64, u64); 3] = [(0, 3072), (4096, 1024), (8192, 1024)];
/// A copy that could not be written is written anew; then all say the same, block by block.
const WHOLE: &str = "message r save\nmessage r check forensic";

/// Main, with data, and two spares.
struct Set {
    main: Drive,
    machine: Machine,
    faults: RefCell<Faults>,
    /// How often the data have been written.
    written: Cell<u64>,
}

impl Set {
    fn new() -> Self {
        let main = Drive::blank("main", MAIN);
        let (one, two) = (Drive::blank("one", SPARE), Drive::blank("two", SPARE));
        let machine =
            Machine::builder().cpus(1).drive(&main).drive(&one).drive(&two).module().boot();
        machine.take(&format!("io write /dev/vda {DATA} data0"));
        let faults = RefCell::new(Faults::new(&machine, &["vda", "vdb", "vdc"]));
        Set { main, machine, faults, written: Cell::new(0) }
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

    /// The steps that write the data anew. What a flush has lost while things went wrong is told once, to the first that comes.
    fn write(&self) -> String {
        self.written.set(self.written.get() + 1);
        let write = format!("io write {PATH} {DATA} data{}", self.written.get());
        format!("try io flush {PATH}\n{write}\nio flush {PATH}")
    }

    /// The step that looks at the data.
    fn look(&self) -> String {
        format!("io check {PATH} {DATA} data{}", self.written.get())
    }

    /// Looks at the data after a point, writes them anew, has the device go and come back, and looks again: at them, and at what is
    /// remapped where.
    #[track_caller]
    fn keeps(&self, point: &Point) {
        let look = self.look();
        again(&self.machine, point, &format!("{look}\n{}\nidle r", self.write()));
        let before = self.machine.take("message r table");
        again(&self.machine, point, &format!("recreate r\n{}", self.look()));
        assert_eq!(self.machine.take("message r table"), before, "after {point:?}");
    }

    /// Goes through all points of some steps, and says how many there were: at least so many allocations, allocations of pages, and bios.
    #[track_caller]
    fn each(
        &self,
        what: &str,
        least: [u64; 3],
        mut prepare: impl FnMut(u64) -> String,
        mut check: impl FnMut(&Machine, &Point),
    ) -> [u64; 3] {
        let mut faults = self.faults.borrow_mut();
        let mut line = format!("faults: {what}:");
        // Numbers of runs go on from one kind of fault to the next.
        let (mut before, mut all) = (0, [0; 3]);
        for ((fault, least), all) in FAULTS.into_iter().zip(least).zip(&mut all) {
            let points = faults.each(&self.machine, fault, before, &mut prepare, |point| {
                before = point.n;
                check(&self.machine, point);
            });
            line += &format!(" {points} {}", fault.name());
            assert!(points >= least, "{line}: not {least}");
            *all = points;
        }
        println!("{line}");
        all
    }

    /// [`each`](Self::each) of a message to a set, which is taken back by other steps before the next time. `has` says whether it has
    /// taken effect.
    #[track_caller]
    fn each_of(
        &self,
        message: &str,
        undo: &str,
        least: [u64; 3],
        has: impl Fn(&Machine) -> bool,
    ) -> [u64; 3] {
        let message = format!("message r {message}");
        self.each(
            &message,
            least,
            |_| {
                self.machine.take(&self.write());
                format!("{message}\nidle r")
            },
            |machine, point| {
                if point.output.status != 0 {
                    let look = self.look();
                    let steps = format!("{look}\n{}\n{message}\nidle r", self.write());
                    again(machine, point, &steps);
                }
                assert!(has(machine), "it is not so after {point:?}");
                self.keeps(point);
                assert!(has(machine), "it is so no more after {point:?}");
                again(machine, point, &format!("{undo}\n{}", self.look()));
            },
        )
    }
}

/// Takes steps that have to succeed after a point.
#[track_caller]
fn again(machine: &Machine, point: &Point, steps: &str) {
    let second = machine.steps(steps);
    assert_eq!(second.status, 0, "after {point:?}\n{second:?}");
}

/// Takes steps that have to succeed sooner or later after a point. Where a commit is in doubt, what waits for it ends with errors until the
/// doubt has ended.
#[track_caller]
fn at_last(machine: &Machine, point: &Point, steps: &str) {
    for _ in 0..20 {
        if machine.steps(steps).status == 0 {
            return;
        }
        machine.take("wait 100");
    }
    panic!("never again after {point:?}: {steps}");
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
        [1000, 1, 40],
        |_| {
            set.machine.take(&blank);
            create.clone()
        },
        |machine, point| {
            if point.output.status != 0 {
                // A creation that was cut short is finished by the same line, unless it was not cut short.
                let steps = format!("try remove r\neither {create} or {}", line("/dev/vdb"));
                again(machine, point, &steps);
            }
            again(machine, point, &format!("{}\n{WHOLE}\nidle r", set.look()));
            set.keeps(point);
            machine.take("remove r");
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
    let places = set.machine.take(&format!("{}\nmessage r table\nremove r", set.write()));
    let load = line("/dev/vdb");
    set.each(
        "load",
        [1500, 1, 30],
        |_| load.clone(),
        |machine, point| {
            if point.output.status != 0 {
                again(machine, point, &format!("try remove r\n{load}"));
            }
            assert_eq!(machine.take("message r table"), places, "after {point:?}");
            let steps = format!("{}\n{WHOLE}\nidle r\n{}\nremove r", set.look(), set.write());
            again(machine, point, &steps);
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn loading_the_table_of_two_spares_of_which_one_is_behind() {
    let set = Set::new();
    let both = line("/dev/vdb 2 spare /dev/vdc");
    let create = line(&format!("/dev/vdb 5 {CREATE} spare /dev/vdc"));
    let status = set.machine.take(&format!("{create}\nmessage r metadata_status\nremove r"));
    let word = |line: &str| line.split_whitespace().nth(5).map(str::to_string);
    let second = status.lines().find(|line| line.starts_with("spare 1 ")).and_then(word);
    let second = second.unwrap_or_else(|| panic!("no second spare: {status}"));
    // One goes on without the other, which has its place again as it was then before each point.
    let steps = format!(
        "{}\nmessage r remap 0 64\n{}\nremove r",
        line(&format!("/dev/vdb 2 absent {second}")),
        set.write()
    );
    set.machine.take(&steps);
    let (mut store, mut restore) = (String::new(), String::new());
    for name in ["vdb", "vdc"] {
        for (start, sectors) in METADATA {
            store += &format!("store /dev/{name} {start} {sectors} /tmp/{name}-{start}\n");
            restore += &format!("restore /dev/{name} {start} /tmp/{name}-{start}\n");
        }
    }
    set.machine.take(&store);
    set.each(
        "load, one spare behind",
        [1500, 1, 40],
        |_| {
            set.machine.take(&restore);
            both.clone()
        },
        |machine, point| {
            if point.output.status != 0 {
                again(machine, point, &format!("try remove r\n{both}"));
            }
            again(machine, point, &format!("{}\n{WHOLE}\nidle r", set.look()));
            let status = machine.take("status r");
            assert!(status.contains(" persist=enabled "), "after {point:?}: {status}");
            // Where it is remapped stays the same, so what is written there is found by what is restored.
            again(machine, point, &format!("{}\nremove r", set.write()));
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn removing_the_device() {
    let set = Set::active();
    set.machine.take("message r remap 0 64\nremove r");
    let load = line("/dev/vdb");
    set.each(
        "remove",
        [20, 0, 4],
        |_| {
            // There is something new to be written.
            let steps = "message r unremap 0 64\nmessage r remap 0 64";
            set.machine.take(&format!("{load}\n{steps}\n{}", set.write()));
            "remove r".into()
        },
        |machine, point| {
            assert_eq!(point.output.status, 0, "{point:?}");
            again(machine, point, &format!("{load}\n{}\nremove r", set.look()));
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
        [1200, 1, 20],
        |_| {
            set.machine.take(&set.write());
            "reload r".into()
        },
        |machine, point| {
            // One that could not be made active leaves the device suspended and without a table.
            if point.output.status != 0 {
                again(machine, point, &format!("{load}\nresume r"));
            }
            set.keeps(point);
        },
    );
    set.machine.take(WHOLE);
}

/// Whether all blocks of a range are on a spare, or none is.
fn is_moved(machine: &Machine, range: Range<u64>, to_spare: bool) -> bool {
    range.step_by(8).all(|sector| is_known(machine, sector) == to_spare)
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn moving_by_hand() {
    let set = Set::active();
    let moved = |machine: &Machine| is_moved(machine, 200..272, true);
    set.each_of("remap 200 72", "message r unremap 200 72", [150, 0, 12], moved);
    set.machine.take(WHOLE);
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn moving_home_by_hand() {
    let set = Set::active();
    set.machine.take("message r remap 400 24");
    let moved = |machine: &Machine| is_moved(machine, 400..424, false);
    set.each_of("unremap 400 24", "message r remap 400 24", [100, 0, 12], moved);
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
    let mut end = 0;
    set.each("automatic remap", [200, 0, 35], write, |machine, point| {
        if point.output.status != 0 {
            at_last(machine, point, &write(point.n));
        }
        end = at(point.n + 1);
        set.keeps(point);
        again(machine, point, &format!("io check {PATH} {} 16 first", at(point.n)));
    });
    // Whatever went wrong since has taken none of them.
    let all = format!("io check {PATH} {} {} first", at(1), end - at(1));
    set.machine.take(&format!("{all}\nrecreate r\n{all}\n{WHOLE}"));
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn marking_what_cannot_be_read_and_saving_it() {
    let set = Set::made_by(WITH_ROOM);
    set.machine.take(&format!("io write {PATH} 4096 40960 late"));
    set.main.ail(4096..45056, Ill { reads: true, ..Ill::default() });
    // What has been noted of it may have come to nothing.
    let mark = |machine: &Machine, at: u64| {
        let marked = (0..20).any(|_| {
            machine.take(&format!("try io read {PATH} {at} 8\nwait 50"));
            is_known(machine, at)
        });
        assert!(marked, "{at} is never marked");
    };
    let cannot_be_read = |machine: &Machine, at: u64| {
        assert_ne!(machine.steps(&format!("io read {PATH} {at} 8")).status, 0);
    };
    let at = |n| 4096 + 16 * n;
    set.each(
        "a read that fails",
        [220, 0, 20],
        |n| {
            set.machine.take(&set.write());
            // It is marked a moment after it has failed, or not at all.
            format!("try io read {PATH} {0} 8\nuntil 500 message r table {0}", at(n))
        },
        |machine, point| {
            mark(machine, at(point.n));
            set.keeps(point);
            cannot_be_read(machine, at(point.n));
        },
    );
    let at = |n| 4096 + 16 * (1000 + n);
    set.each(
        "a write to what is marked",
        [120, 0, 10],
        |n| {
            mark(&set.machine, at(n));
            set.machine.take(&set.write());
            format!("io write {PATH} {} 8 new", at(n))
        },
        |machine, point| {
            let at = at(point.n);
            if point.output.status == 0 {
                let lives = machine.take(&format!("message r table {at}"));
                let is_moved = lives.starts_with(&format!("{at} 8 remapped "));
                // Without the memory to move it, it is written to main, and is no more marked where that takes it.
                let is_on_main = lives.is_empty() && point.fault != Fault::Bio;
                assert!(is_moved || is_on_main, "{lives} after {point:?}");
                set.main.heal(at..at + 8);
                again(machine, point, &format!("io check {PATH} {at} 8 new"));
                set.main.fail_reads(at..at + 8);
                if is_on_main {
                    mark(machine, at);
                }
            }
            at_last(machine, point, &format!("io write {PATH} {at} 8 newer"));
            again(machine, point, &format!("io check {PATH} {at} 8 newer\nidle r"));
            set.keeps(point);
            again(machine, point, &format!("io check {PATH} {at} 8 newer"));
            cannot_be_read(machine, at + 8);
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
        [600, 0, 35],
        |_| {
            set.machine.take(&set.write());
            "message r spare add /dev/vdc\nidle r".into()
        },
        |machine, point| {
            // It may have come as far as being a member, or have left again.
            again(machine, point, "idle r");
            set.keeps(point);
            if !has_second(machine) {
                again(machine, point, "message r spare add /dev/vdc\nidle r\nreload r");
            }
            assert!(has_second(machine), "after {point:?}");
            again(machine, point, &format!("{}\n{WHOLE}\nidle r", set.look()));
            let remove = "message r spare remove /dev/vdc\nidle r\nreload r";
            again(machine, point, &format!("{remove}\n{}", set.look()));
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
        [400, 0, 30],
        |_| {
            set.machine.take("message r spare add /dev/vdc\nidle r\nreload r");
            // What is moved now comes to lie on the second spare, and has to leave it.
            set.machine.take("message r unremap 200 64\nmessage r remap 200 64");
            let lives = set.machine.take("message r table 200");
            assert!(
                lives.starts_with("200 64 remapped ") && !lives.contains(" remapped 0 "),
                "{lives}"
            );
            set.machine.take(&set.write());
            "message r spare remove /dev/vdc\nidle r".into()
        },
        |machine, point| {
            again(machine, point, "idle r");
            set.keeps(point);
            if has_second(machine) {
                again(machine, point, "message r spare remove /dev/vdc\nidle r\nreload r");
            }
            assert!(!has_second(machine), "after {point:?}");
            again(machine, point, &format!("{}\n{WHOLE}\nidle r", set.look()));
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
    // What is written while the data are on their way.
    let meanwhile = |verb, n| format!("io {verb} {PATH} 0 8 new{n}");
    set.each(
        "migrate",
        [900, 0, 40],
        |n| {
            set.machine.take(&set.write());
            to = other(on(&set.machine));
            let write = meanwhile("write", n);
            format!("message r migrate {to}\n{write}\nio flush {PATH}\nidle r")
        },
        |machine, point| {
            if point.output.status != 0 {
                again(machine, point, &meanwhile("write", point.n));
            }
            let rest = set.look().replace(" 0 512 ", " 8 504 ");
            let look = format!("{}\n{rest}", meanwhile("check", point.n));
            again(machine, point, &format!("idle r\n{look}\nrecreate r\n{look}"));
            machine.take(&set.write());
            set.keeps(point);
            // One that came to nothing can be had again.
            let before = on(machine);
            let steps =
                format!("message r migrate {}\nidle r\nreload r\n{}", other(before), set.look());
            again(machine, point, &steps);
            assert_ne!(on(machine), before, "after {point:?}");
            again(machine, point, WHOLE);
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn restoring() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    set.each_of("restore", "idle r", [500, 1, 10], |_| true);
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn messages() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    let takes = [("save", [60, 0, 8]), ("check forensic", [40, 0, 8]), ("verify 8", [4, 0, 2])];
    for (message, least) in takes {
        set.each_of(message, "idle r", least, |_| true);
    }
    let is_other = |machine: &Machine| {
        machine.take("message r metadata_status").lines().any(|line| line == "name other")
    };
    set.each_of("name other", "message r name r", [10, 0, 4], is_other);
    // What only tells is written where device mapper has room for it.
    for message in ["metadata_status", "table", "get", "help"] {
        assert_eq!(set.each_of(message, "idle r", [0; 3], |_| true), [0; 3], "{message}");
    }
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn repairing() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    set.each(
        "repair",
        [40, 0, 10],
        |_| {
            // The second copy, header and table.
            set.machine.take(&format!("{}\nidle r\nio zero /dev/vdb 1024 24", set.write()));
            "message r repair\nidle r".into()
        },
        |machine, point| {
            let steps = match point.output.status {
                0 => "message r check forensic",
                _ => "message r repair\nmessage r check forensic",
            };
            again(machine, point, &format!("{steps}\nidle r\n{}", set.look()));
            set.keeps(point);
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn what_is_to_be_durable() {
    let set = Set::active();
    set.machine.take("message r remap 0 64");
    set.each(
        "sync",
        [4, 0, 2],
        |_| {
            // On main and on the spare, and not flushed.
            let write = set.write();
            set.machine.take(write.strip_suffix(&format!("\nio flush {PATH}")).unwrap_or(&write));
            "message r sync\nidle r".into()
        },
        |machine, point| {
            // What a flush has lost may not be found out by another that goes well.
            let lost = point.fired && point.fault == Fault::Bio;
            assert!(!lost || point.output.status != 0, "{point:?}");
            again(machine, point, &format!("{}\nmessage r sync", set.write()));
            set.keeps(point);
        },
    );
}

#[test]
#[ignore = "needs the kernel of make test-debug"]
fn settings() {
    let set = Set::active();
    let is_off = |machine: &Machine| {
        machine.take("message r get auto_remap").split_whitespace().any(|word| word == "0")
    };
    set.each_of("set auto_remap 0", "message r set auto_remap 1", [40, 0, 5], is_off);
    let file = "/sys/block/dm-0/remap/auto_remap";
    set.each(
        "a setting written in sysfs",
        [20, 0, 4],
        |n| format!("put {file} {}", n % 2),
        |machine, point| {
            if point.output.status == 0 {
                assert_eq!(machine.take(&format!("get {file}")), (point.n % 2).to_string());
            }
            for value in [point.n % 2, (point.n + 1) % 2] {
                again(machine, point, &format!("put {file} {value}"));
                set.keeps(point);
                assert_eq!(machine.take(&format!("get {file}")), value.to_string());
            }
        },
    );
    set.each(
        "a file in debugfs",
        [40, 0, 8],
        |_| "put /sys/kernel/debug/dm-remap/metadata_control save".into(),
        |machine, point| {
            again(machine, point, "put /sys/kernel/debug/dm-remap/metadata_control save");
            set.keeps(point);
        },
    );
}
