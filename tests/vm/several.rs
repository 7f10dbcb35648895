//! Sets of several spares: filled in their order, missing, used apart, dying and coming back.

use super::common::{boot, flush, holds, until_suspect, write, MIB, PATH};
use remap_harness::{Drive, Image, Machine, Remap, Rng};
use remap_images::sim::{self, SECTORS};
use remap_images::v3::{some_entries, v3};

/// What a spare of the least size, 8 MiB, has room for.
pub const SMALL_ROOM: u64 = 1024 + 3072 + 7168;

pub fn main_drive() -> Drive {
    Drive::blank("main", 32 * MIB)
}

pub fn small(name: &str) -> Drive {
    Drive::blank(name, 8 * MIB)
}

/// A new set on all of the machine's spares, with data that says `old` on main.
pub fn create<'m>(machine: &'m Machine, spares: &str) -> Remap<'m> {
    machine.ok("guest io write /dev/vda 0 40000 old && guest io flush /dev/vda");
    Remap::create(machine, "r", "/dev/vda", spares)
}

#[track_caller]
pub fn cannot_be_read(machine: &Machine, first: u64, count: u64) {
    machine.fails(&format!("guest io read {PATH} {first} {count}"));
}

/// How many sectors live on each spare.
#[track_caller]
pub fn by_spare(remap: &Remap<'_>) -> [u64; 3] {
    let mut sectors = [0; 3];
    let mut from = Some(0);
    while let Some(sector) = from.take() {
        for line in remap.message(&format!("table {sector}")).lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [_, len, "remapped", spare, _] => {
                    sectors[spare.parse::<usize>().unwrap()] += len.parse::<u64>().unwrap();
                }
                ["more", sector] => from = sector.parse().ok(),
                _ => {}
            }
        }
    }
    sectors
}

/// What the status says under these keys.
#[track_caller]
pub fn told<const N: usize>(remap: &Remap<'_>, keys: [&str; N]) -> [String; N] {
    let status = remap.status();
    keys.map(|key| status.keys.get(key).unwrap_or_else(|| panic!("{}", status.line)).clone())
}

/// The line of `metadata_status` that begins like this, behind that.
#[track_caller]
fn line_of(remap: &Remap<'_>, begin: &str) -> String {
    let text = remap.message("metadata_status");
    let line = text.lines().find_map(|line| line.strip_prefix(begin));
    line.unwrap_or_else(|| panic!("no {begin}:\n{text}")).trim().into()
}

/// The UUID of a spare.
#[track_caller]
fn uuid_of(remap: &Remap<'_>, spare: u8) -> String {
    line_of(remap, &format!("spare {spare} ")).split(' ').next_back().unwrap().into()
}

/// Refused with each of these in the kernel log.
#[track_caller]
pub fn refused(machine: &Machine, arguments: &str, says: &[&str]) {
    machine.ok("dmesg -c >/dev/null");
    let output = Remap::try_create(machine, "r", "/dev/vda", arguments);
    assert_ne!(output.status, 0, "{arguments} was loaded");
    // Refused in a resume, the device stays.
    machine.run("dmsetup remove r");
    let log = machine.ok("dmesg");
    says.iter().for_each(|text| assert!(log.contains(text), "{arguments}: no {text} in\n{log}"));
}

/// Refused in a load under the set in use, with this in the kernel log.
#[track_caller]
fn not_loaded(machine: &Machine, arguments: &str, says: &str) {
    machine.ok("dmesg -c >/dev/null");
    machine.fails(&format!("dmsetup load r --table '0 65536 remap /dev/vda {arguments}'"));
    let log = machine.ok("dmesg");
    assert!(log.contains(says), "{arguments}: no {says} in\n{log}");
}

#[test]
fn spares_are_filled_one_after_the_other_and_hold_after_a_power_cut() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let three = Drive::blank("three", 16 * MIB);
    let machine = boot(&[&main, &one, &two, &three]);
    let remap = create(&machine, "/dev/vdb 5 create spare /dev/vdc spare /dev/vdd");
    assert_eq!(told(&remap, ["copies", "spares", "away"]), ["15/15", "3", "0"]);
    let room = remap.status().remapped.1;
    // None is left alone for being nearly full.
    remap.message("set alert_threshold 0");
    remap.message("remap 0 1000");
    assert_eq!(by_spare(&remap), [1000, 0, 0]);
    remap.message("remap 1000 13000");
    remap.wait_until(|status| status.remapped.0 == 14000);
    assert_eq!(by_spare(&remap), [SMALL_ROOM, 14000 - SMALL_ROOM, 0]);
    remap.message("remap 14000 12000");
    remap.wait_until(|status| status.remapped.0 == 26000);
    assert_eq!(by_spare(&remap), [SMALL_ROOM, SMALL_ROOM, 26000 - 2 * SMALL_ROOM]);
    assert_eq!(remap.status().remapped.1, room);
    assert_eq!(write(&machine, 500, 25000, "new"), 0);
    assert_eq!(flush(&machine), 0);
    // A write that fails on main finds its place too.
    main.fail_writes(30000..30001);
    assert_eq!(write(&machine, 29992, 16, "new"), 0);
    assert_eq!(by_spare(&remap)[2], 26001 - 2 * SMALL_ROOM);
    // What is printed can be loaded, while it is in use.
    let line = remap.table();
    assert!(line.contains(" 4 spare ") && !line.contains("degraded"), "{line}");
    remap.reload();
    holds(&machine, 500, 25000, "new");
    assert_eq!(flush(&machine), 0);
    machine.power_cut(3);

    // In another order, as the devices may be found.
    let machine = boot(&[&main, &three, &one, &two]);
    let remap =
        Remap::create(&machine, "r", "/dev/vda", "/dev/vdd 4 spare /dev/vdb spare /dev/vdc");
    assert_eq!(by_spare(&remap), [SMALL_ROOM, SMALL_ROOM, 26001 - 2 * SMALL_ROOM]);
    holds(&machine, 0, 500, "old");
    holds(&machine, 500, 25000, "new");
    holds(&machine, 25500, 4000, "old");
    holds(&machine, 29992, 16, "new");
    assert_eq!(told(&remap, ["persist", "copies"]), ["enabled", "15/15"]);
    remap.message("check forensic");
    // Back to main, from all of them.
    main.heal(30000..30001);
    remap.message("clear");
    remap.wait_until(|status| status.remapped.0 == 0);
    machine.ok("guest io check /dev/vda 500 25000 new");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_is_pending_suspect_or_lost_is_not_looked_for_on_any_other_spare() {
    let main = main_drive();
    let spares: Vec<Drive> = (0..6).map(|n| small(&format!("spare-{n}"))).collect();
    let machine = boot(&std::iter::once(&main).chain(&spares).collect::<Vec<_>>());
    let remap = create(
        &machine,
        "/dev/vdb 11 create spare /dev/vdc spare /dev/vdd spare /dev/vde spare /dev/vdf spare /dev/vdg",
    );
    // Each spare has something in the same place.
    let at = |n: u64| n * 1000;
    for n in 0..6 {
        remap.message(&format!("set primary {n}"));
        remap.message(&format!("remap {} 16", at(n)));
        assert_eq!(write(&machine, at(n), 16, &format!("on{n}")), 0);
    }
    let table = remap.message("table");
    let place: u64 = table.split_whitespace().nth(4).unwrap().parse().unwrap();
    let expected: Vec<_> = (0..6).map(|n| format!("{} 16 remapped {n} {place}", at(n))).collect();
    assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    main.fail_reads(8000..8016);
    cannot_be_read(&machine, 8000, 16);
    remap.wait_until(|status| status.pending.0 == 16);
    for spare in [0, 5] {
        spares[spare].fail_reads(place..place + 16);
        cannot_be_read(&machine, at(spare as u64), 16);
    }
    until_suspect(&remap, 2);
    remap.message("spare remove 5 lost");
    remap.wait_until(|status| status.keys["jobs"] == "0");
    let known = [(8000, " pending"), (at(0), " suspect 0"), (at(5), " lost")];
    for (first, what) in known {
        let line = format!("{first} 16{what}");
        assert!(remap.message("table").contains(&line), "{}", remap.message("table"));
        for (first, count) in [(first, 16), (first + 3, 2)] {
            cannot_be_read(&machine, first, count);
        }
    }
    let others = || (1..5).for_each(|n| holds(&machine, at(n), 16, &format!("on{n}")));
    others();
    for (first, _) in known {
        assert_eq!(write(&machine, first, 8, "new"), 0);
        holds(&machine, first, 8, "new");
    }
    assert_eq!(flush(&machine), 0);
    remap.message("check forensic");
    others();
    // The first spare's is saved once it can be read again.
    spares[0].heal(place..place + 16);
    let line = remap.table();
    remap.remove();
    machine.ok(&format!("dmsetup create r --table '{line}'"));
    known.iter().for_each(|(first, _)| holds(&machine, *first, 8, "new"));
    holds(&machine, at(0) + 8, 8, "on0");
    others();
    cannot_be_read(&machine, 8008, 8);
    cannot_be_read(&machine, at(5) + 8, 8);
    let remap = Remap::existing(&machine, "r");
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_is_missing_is_named_and_brought_up_to_date_when_it_is_back() {
    let (main, one, two) = (main_drive(), small("one"), Drive::blank("two", 16 * MIB));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 5 create spare /dev/vdc alert_threshold 0");
    remap.message("remap 0 14000");
    remap.wait_until(|status| status.remapped.0 == 14000);
    assert_eq!(by_spare(&remap), [SMALL_ROOM, 14000 - SMALL_ROOM, 0]);
    assert_eq!(write(&machine, 0, 14000, "new"), 0);
    let (missing, set) = (uuid_of(&remap, 0), line_of(&remap, "set "));
    let history = line_of(&remap, "history ");
    remap.remove();
    machine.shutdown();

    let before = Image::of(&two).metadata().to_vec();
    let machine = boot(&[&main, &two]);
    let absent = format!("absent {missing}");
    refused(
        &machine,
        "/dev/vdb",
        &[&format!("spare 0 of the set ({missing}) is missing"), &absent],
    );
    refused(&machine, "/dev/vdb 1 degraded", &["is missing"]);
    refused(&machine, "/dev/vdb 2 absent 00000000-0000-4000-8000-000000000000", &["has no spare"]);
    // A read-only table cannot have the set know, so its line says it each time.
    machine.ok(&format!(
        "dmsetup create r --readonly --table '0 65536 remap /dev/vda /dev/vdb 2 {absent}'"
    ));
    let remap = Remap::existing(&machine, "r");
    let line = remap.table();
    assert!(line.contains(&absent) && !line.contains("degraded"), "{line}");
    let load = format!("dmsetup load r --readonly --table '{line}' && dmsetup resume r");
    machine.ok(&load);
    machine.ok("dmsetup suspend r && dmsetup resume r");
    assert_eq!(remap.table(), line);
    cannot_be_read(&machine, 0, 8);
    holds(&machine, SMALL_ROOM, 14000 - SMALL_ROOM, "new");
    remap.remove();
    machine.ok(&format!("dmsetup create r --readonly --table '{line}'"));
    Remap::existing(&machine, "r").remove();
    assert!(before == Image::of(&two).metadata(), "a table that may not has written");
    let remap = Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb 2 {absent}"));
    assert_eq!(
        told(&remap, ["persist", "copies", "away", "health"]),
        ["degraded", "5/10", "1", "0"]
    );
    assert!(line_of(&remap, "spare 0 ").contains(&format!("- away {missing}")));
    assert_eq!(line_of(&remap, "set "), set);
    assert_ne!(line_of(&remap, "history "), history);
    // What lives on it gives errors, what is written moves; the rest is as it was.
    cannot_be_read(&machine, 0, 8);
    machine.fails(&format!("guest io read {PATH} {} 16", SMALL_ROOM - 8));
    holds(&machine, SMALL_ROOM, 14000 - SMALL_ROOM, "new");
    holds(&machine, 14000, 100, "old");
    assert_eq!(write(&machine, 4, 16, "newer"), 0, "{}", machine.kernel_log());
    holds(&machine, 4, 16, "newer");
    cannot_be_read(&machine, 0, 4);
    assert_eq!(flush(&machine), 0);
    assert_eq!(by_spare(&remap)[..2], [SMALL_ROOM - 16, 14000 - SMALL_ROOM + 16]);
    // Its line says `degraded` now, and can be loaded.
    let line = remap.table();
    assert!(line.contains("degraded") && !line.contains("absent"), "{line}");
    remap.reload();
    holds(&machine, 4, 16, "newer");
    machine.ok("dmsetup suspend r && dmsetup resume r");
    remap.remove();
    refused(
        &machine,
        "/dev/vdb",
        &[&format!("spare 0 of the set ({missing}) is away"), "`degraded`"],
    );
    Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 degraded").remove();
    machine.shutdown();

    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 spare /dev/vdc");
    assert_eq!(told(&remap, ["persist", "copies", "away"]), ["enabled", "10/10", "0"]);
    machine.wait_for_log("is back and up to date", std::time::Duration::from_secs(1));
    holds(&machine, 0, 4, "new");
    holds(&machine, 4, 16, "newer");
    holds(&machine, 20, 13980, "new");
    // Under the set in use a line is refused as well, before the table is gone.
    for (absent, says) in [
        ("00000000-0000-4000-8000-000000000000", "has no spare"),
        (&*missing, "is there; leave out"),
    ] {
        not_loaded(&machine, &format!("/dev/vdb 4 spare /dev/vdc absent {absent}"), says);
    }
    holds(&machine, 20, 13980, "new");
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn what_is_wrong_with_one_of_several_spares_is_said() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let old = Drive::blank("old", SECTORS);
    let image = v3(SECTORS, 2, &some_entries(40, 12_000, &mut sim::Rng::new(3)));
    image.disks[0].written().for_each(|(at, block)| old.scribble(at * 8, block));
    let machine = boot(&[&main, &one, &two, &old]);
    let is_v3 = "spare '/dev/vdd' carries no metadata of the set that can be read: spare 1 is in the v3 format";
    let remap = create(&machine, "/dev/vdb 1 create");
    not_loaded(&machine, "/dev/vdb 2 spare /dev/vdd", is_v3);
    not_loaded(
        &machine,
        "/dev/vdb 2 spare /dev/vdc",
        "spare 1 is not a spare of a set: it holds no",
    );
    remap.remove();
    let others = |says: &str| refused(&machine, "/dev/vdb 2 spare /dev/vdc", &["'/dev/vdc'", says]);
    refused(&machine, "/dev/vdb 2 spare /dev/vdd", &[is_v3]);
    others("spare 1 is not a spare of a set: it holds no");
    machine.ok("guest io write /dev/vdc 0 4096 else && guest io flush /dev/vdc");
    others("spare 1 holds something that is not ours");
    two.fail_reads(0..8 * MIB);
    others("no copy of the metadata on spare 1 can be read; check the device");
    Remap::create(&machine, "r", "/dev/vda", "/dev/vdb").remove();
    machine.shutdown();
}

#[test]
fn two_spares_that_were_used_apart_are_never_put_together() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 8");
    let uuids = [uuid_of(&remap, 0), uuid_of(&remap, 1)];
    remap.remove();
    machine.shutdown();
    for (drive, other) in [(&one, &uuids[1]), (&two, &uuids[0])] {
        let machine = boot(&[&main, drive]);
        let remap = Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb 2 absent {other}"));
        remap.message("remap 64 8");
        remap.remove();
        machine.shutdown();
    }
    let stand = [&one, &two].map(|drive| Image::of(drive).metadata().to_vec());
    let machine = boot(&[&main, &one, &two]);
    let says = ["conflict", "on spare 0: version", "on spare 1: version"];
    refused(&machine, "/dev/vdb 2 spare /dev/vdc", &says);
    refused(&machine, "/dev/vdc 3 degraded spare /dev/vdb", &says);
    assert!(stand == [&one, &two].map(|drive| Image::of(drive).metadata().to_vec()));
    // Each is in order by itself.
    Remap::create(&machine, "r", "/dev/vda", "/dev/vdc 1 degraded").remove();
    machine.shutdown();
}

#[test]
fn a_table_that_was_loaded_before_a_spare_joined_puts_no_spare_away() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 1 create");
    let load = |members: &str| {
        machine.ok(&format!("dmsetup load r --table '0 65536 remap /dev/vda {members}'"))
    };
    // Each stays in its slot while the set becomes another: by a spare that joins, one that leaves, one that takes the place of another.
    for (data, message, left_out, right) in [
        ("joined", "spare add /dev/vdc", "/dev/vdb", "/dev/vdb 2 spare /dev/vdc"),
        ("left", "spare remove /dev/vdc", "/dev/vdb 2 spare /dev/vdc", "/dev/vdb"),
        ("replaced", "migrate /dev/vdc overwrite", "/dev/vdb", "/dev/vdc"),
    ] {
        load(left_out);
        remap.message(message);
        machine.ok("dmsetup message r 0 set spare_policy round_robin");
        for first in [0, 1000] {
            remap.message(&format!("remap {first} 64"));
            assert_eq!(write(&machine, first, 64, data), 0, "{data}");
        }
        assert_eq!(flush(&machine), 0, "{data}");
        machine.fails("dmsetup resume r");
        load(right);
        machine.ok("dmsetup resume r");
        assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"], "{data}");
        for first in [0, 1000] {
            holds(&machine, first, 64, data);
        }
        remap.message("check forensic");
        remap.message("unremap 0 65536");
    }
    remap.remove();
    machine.shutdown();
}

#[test]
fn four_of_five_copies_may_be_lost_on_each_spare() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 200");
    assert_eq!(write(&machine, 0, 200, "new"), 0);
    remap.remove();
    machine.shutdown();
    let mut rng = Rng::new(7);
    for (drive, spared) in [(&one, 3), (&two, 0)] {
        for slot in [0, 1024, 2048, 4096, 8192].iter().enumerate().filter(|(i, _)| *i != spared) {
            let bytes: Vec<u8> = (0..512 * 16).map(|_| rng.draw() as u8).collect();
            drive.scribble(*slot.1, &bytes);
        }
    }
    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 spare /dev/vdc");
    holds(&machine, 0, 200, "new");
    assert_eq!(told(&remap, ["persist", "copies"]), ["enabled", "10/10"]);
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

/// What stands on a drive that no machine looks at.
pub fn bytes_of(drive: &Drive) -> Vec<u8> {
    drive.durable(0..drive.sectors())
}

#[test]
fn a_spare_that_is_away_and_answers_as_something_else_stays_away_when_the_set_is_resumed() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let blank = vec![0; 8 * MIB as usize * 512];
    // Another set's, and a part that was used apart.
    let machine = boot(&[&main, &one, &two]);
    create(&machine, "/dev/vdb 3 create spare /dev/vdc").remove();
    machine.shutdown();
    let others = [bytes_of(&one), bytes_of(&two)];
    [&one, &two].map(|drive| drive.scribble(0, &blank));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    assert_eq!((write(&machine, 0, 64, "new"), flush(&machine)), (0, 0));
    let second = uuid_of(&remap, 1);
    remap.remove();
    machine.shutdown();
    let older = bytes_of(&one);
    let machine = boot(&[&main, &one]);
    let remap = Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb 2 absent {second}"));
    remap.message("remap 64 8");
    remap.remove();
    machine.shutdown();
    let apart = bytes_of(&one);
    one.scribble(0, &older);

    let machine = boot(&[&main, &one, &two]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 2 spare /dev/vdc");
    remap.message("remap 2000 8");
    assert_eq!((write(&machine, 2000, 8, "later"), flush(&machine)), (0, 0));
    let put_away = |drive: &Drive, moves: u64| {
        drive.set_gone(true);
        remap.message(&format!("remap {moves} 8"));
        remap.wait_until(|status| status.keys["persist"] == "degraded");
        let was = bytes_of(drive);
        drive.set_gone(false);
        was
    };
    let resumed = |drive: &Drive, is: &[u8], says: &[&str]| {
        drive.scribble(0, is);
        machine.ok("dmesg -c >/dev/null && dmsetup suspend r && dmsetup resume r");
        let log = machine.ok("dmesg");
        says.iter().for_each(|text| assert!(log.contains(text), "no {text} in\n{log}"));
        assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
        assert_eq!((write(&machine, 3000, 8, "resumed"), flush(&machine)), (0, 0));
        holds(&machine, 3000, 8, "resumed");
        assert!(bytes_of(drive) == is, "what is not the spare's was written over");
    };
    let was = put_away(&two, 4000);
    resumed(&two, &others[1], &["belongs to another set", "; spare 1 (254:32", ") stays away"]);
    two.scribble(0, &was);
    remap.message("repair");
    let was = put_away(&one, 5000);
    for (is, says) in [
        (&blank, "spare 0 is not a member of the set"),
        (&older, "is an older image of itself"),
        (&apart, "conflict: "),
        (&others[0], "belongs to another set"),
    ] {
        resumed(&one, is, &[says, "; spare 0 (254:16", ") stays away"]);
        cannot_be_read(&machine, 0, 8);
    }
    // Who activates the set anew is to look at that.
    let line = remap.table();
    remap.remove();
    machine.fails(&format!("dmsetup create r --table '{line}'"));
    machine.run("dmsetup remove r");
    one.scribble(0, &was);
    machine.ok(&format!("dmsetup create r --table '{line}'"));
    let remap = Remap::existing(&machine, "r");
    assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"]);
    holds(&machine, 0, 64, "new");
    holds(&machine, 2000, 8, "later");
    remap.message("check forensic");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_spare_that_is_done_without_is_not_asked_for_once_more_by_who_resumes_the_set() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let three = small("three");
    let machine = boot(&[&main, &one, &two, &three]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 64");
    assert_eq!((write(&machine, 0, 64, "new"), flush(&machine)), (0, 0));
    let uuids = [uuid_of(&remap, 0), uuid_of(&remap, 1)];
    let resume = "dmsetup suspend r && dmsetup resume r";
    // It does not answer yet, and answers later.
    two.set_gone(true);
    let line = format!("0 65536 remap /dev/vda /dev/vdb 4 spare /dev/vdc absent {}", uuids[1]);
    machine.ok(&format!("dmsetup load r --table '{line}' && {resume}"));
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    machine.ok(resume);
    two.set_gone(false);
    machine.ok(resume);
    assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"]);
    remap.remove();
    // It is never seen again, and another takes its place, or none.
    for change in ["migrate UUID /dev/vdd lost", "spare remove UUID lost"] {
        let (gone, others) = match change.starts_with("migrate") {
            true => (&uuids[1], "/dev/vdb 2 absent UUID"),
            false => (&uuids[0], "/dev/vdd 2 absent UUID"),
        };
        let remap = Remap::create(&machine, "r", "/dev/vda", &others.replace("UUID", gone));
        remap.message(&change.replace("UUID", gone));
        remap.wait_until(|status| status.keys["jobs"] == "0" && status.keys["away"] == "0");
        machine.ok(resume);
        assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"], "{change}");
        remap.message("check forensic");
        remap.remove();
    }
    machine.shutdown();
}
