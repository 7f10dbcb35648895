//! What a table line gives for a set, live or not.

use super::common::{boot, flush, holds, write, PATH};
use super::several::{bytes_of, create, main_drive, small, told};
use remap_harness::{Drive, Image, Machine, Remap};

/// Refused when it is loaded, with this in the kernel log; what is in use goes on.
#[track_caller]
fn not_loaded(machine: &Machine, line: &str, says: &str) {
    machine.ok("dmesg -c >/dev/null");
    machine.fails(&format!("dmsetup load r --table '0 65536 remap {line}'"));
    let log = machine.ok("dmesg");
    assert!(log.contains(says), "{line}: no {says} in\n{log}");
    assert_eq!((write(machine, 6000, 8, "on"), flush(machine)), (0, 0));
}

fn loaded(machine: &Machine, line: &str) {
    machine.ok(&format!(
        "dmsetup load r --table '0 65536 remap {line}' && dmsetup suspend r && dmsetup resume r"
    ));
}

#[test]
fn what_is_given_for_a_spare_that_is_away_is_looked_at_when_the_table_is_loaded() {
    let (main, one, two) = (main_drive(), small("one"), Drive::blank("two", 12 << 11));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    let older = bytes_of(&two);
    remap.message("remap 0 64");
    two.set_gone(true);
    remap.message("remap 2000 8");
    remap.wait_until(|status| status.keys["persist"] == "degraded");
    let was = bytes_of(&two);
    two.set_gone(false);
    let both = "/dev/vda /dev/vdb 3 spare /dev/vdc degraded";
    // The table in use has that device too.
    two.scribble(0, &older);
    not_loaded(&machine, both, "an older image of itself");
    two.scribble(0, &vec![0; older.len()]);
    not_loaded(&machine, both, "spare 1 is not a member of the set");
    loaded(&machine, "/dev/vda /dev/vdb 1 degraded");
    two.scribble(0, &older);
    not_loaded(&machine, both, "an older image of itself");
    two.scribble(0, &was);
    let less = "/dev/vda /dev/vdc 0 16384 3 spare /dev/vdb degraded";
    not_loaded(&machine, less, "give <spare_start> 0 <spare_length> 24576");
    loaded(&machine, both);
    assert_eq!(told(&remap, ["persist", "away"]), ["enabled", "0"]);
    holds(&machine, 6000, 8, "on");
    holds(&machine, 2000, 8, "old");
    machine.shutdown();
}

#[test]
fn spares_that_have_grown_are_used_as_they_were() {
    let (main, one, two) =
        (main_drive(), Drive::blank("one", 64 << 11), Drive::blank("two", 64 << 11));
    let machine = boot(&[&main, &one, &two]);
    let devices = |sectors: u32, what: &str| {
        for (name, drive) in [("one", "vdb"), ("two", "vdc")] {
            machine
                .ok(&format!("dmsetup {what} {name} --table '0 {sectors} linear /dev/{drive} 0'"));
        }
    };
    devices(16384, "create");
    let spares = "/dev/mapper/one 2 spare /dev/mapper/two";
    let line = format!("/dev/vda {}", spares.replace(" 2 ", " 3 create "));
    machine.ok("guest io write /dev/vda 0 40000 old && guest io flush /dev/vda");
    machine.ok(&format!("dmsetup create r --table '0 65536 remap {line}'"));
    let remap = Remap::existing(&machine, "r");
    remap.message("remap 0 64");
    assert_eq!((write(&machine, 0, 64, "new"), flush(&machine)), (0, 0));
    let room = remap.status().remapped.1;
    devices(65536, "load");
    machine.ok("dmsetup suspend one two && dmsetup resume one two");
    // The same line again, as it is printed.
    let before = remap.table();
    remap.reload();
    assert_eq!((remap.table(), remap.status().remapped.1), (before, room));
    holds(&machine, 0, 64, "new");
    remap.remove();
    let remap = Remap::create(&machine, "r", "/dev/vda", spares);
    holds(&machine, 0, 64, "new");
    assert_eq!(remap.status().remapped.1, room);
    // What lies behind belongs to others.
    remap.message("remap 20000 5000");
    remap.remove();
    for drive in ["vdb", "vdc"] {
        machine.ok(&format!(
            "dd if=/dev/{drive} bs=512 skip=16384 iflag=direct 2>/dev/null | cmp -n {} - /dev/zero",
            (131072 - 16384) * 512
        ));
    }
    machine.shutdown();
}

#[test]
fn a_clone_of_the_spare_does_not_take_its_place_when_the_table_is_changed() {
    // The clone has more room, of which nothing is used.
    let (main, one, clone) = (main_drive(), small("one"), Drive::blank("clone", 16 << 11));
    let machine = boot(&[&main, &one, &clone]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("remap 0 64");
    machine.ok("dd if=/dev/vdb of=/dev/vdc bs=1M oflag=direct 2>/dev/null");
    remap.message("remap 2000 8");
    assert_eq!((write(&machine, 2000, 8, "later"), flush(&machine)), (0, 0));
    machine.ok("dmsetup load r --table '0 65536 remap /dev/vda /dev/vdc' && dmesg -c >/dev/null");
    machine.fails("dmsetup suspend r && dmsetup resume r");
    let log = machine.ok("dmesg");
    assert!(log.contains("they are clones or older images"), "{log}");
    machine.ok("dmsetup load r --table '0 65536 remap /dev/vda /dev/vdb' && dmsetup resume r");
    holds(&machine, 2000, 8, "later");
    // A clone of what is in use now does as well.
    machine.ok("dmsetup load r --table '0 65536 remap /dev/vda /dev/vdc' && dmsetup suspend r");
    machine.ok("dd if=/dev/vdb of=/dev/vdc bs=1M oflag=direct 2>/dev/null && dmsetup resume r");
    machine.ok(&format!("guest io check {PATH} 2000 8 later && dmsetup table r | grep -q 254:32"));
    machine.shutdown();
}

#[test]
fn another_main_is_looked_at_when_the_table_is_loaded() {
    let (main, one, other) = (main_drive(), small("one"), main_drive());
    let machine = boot(&[&main, &one, &other]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("remap 0 64");
    not_loaded(&machine, "/dev/vdc /dev/vdb 1 old_main", "is not being replaced");
    machine.ok("dmsetup create short --table '0 65528 linear /dev/vdc 0'");
    not_loaded(&machine, "/dev/mapper/short /dev/vdb 1 new_main", "has 65528 sectors");
    loaded(&machine, "/dev/vdc /dev/vdb 1 new_main");
    holds(&machine, 0, 64, "old");
    remap.remove();
    machine.shutdown();
}

#[test]
fn a_set_that_may_go_on_without_spares_is_loaded_without_them_in_use_too() {
    let (main, one, two) = (main_drive(), small("one"), small("two"));
    let machine = boot(&[&main, &one, &two]);
    let remap = create(&machine, "/dev/vdb 3 create spare /dev/vdc");
    remap.message("remap 0 8");
    remap.message("set primary 1");
    remap.message("remap 64 8");
    two.set_gone(true);
    remap.message("remap 2000 8");
    remap.wait_until(|status| status.keys["persist"] == "degraded");
    let verified = || remap.message("verify 64");
    let said = verified();
    assert!(said.contains("lives on spare 1 (254:32") && said.contains("which is away"), "{said}");
    not_loaded(&machine, "/dev/vda /dev/vdb", "is away");
    remap.message("set assemble_degraded 1");
    loaded(&machine, "/dev/vda /dev/vdb");
    assert_eq!(told(&remap, ["persist", "away"]), ["degraded", "1"]);
    let said = verified();
    assert!(said.contains("lives on spare 1 at") && said.contains("which is away"), "{said}");
    machine.shutdown();
}

#[test]
fn a_setting_in_the_line_is_told_of_as_any_other() {
    let (main, one) = (main_drive(), small("one"));
    let machine = boot(&[&main, &one]);
    let remap = create(&machine, "/dev/vdb 1 create");
    machine.ok("dmesg -c >/dev/null");
    loaded(&machine, "/dev/vda /dev/vdb 2 error_rate_limit 7");
    let log = machine.ok("dmesg");
    assert!(log.contains("settings have changed: error_rate_limit"), "{log}");
    loaded(&machine, "/dev/vda /dev/vdb 2 error_rate_limit 7");
    assert_eq!(machine.ok("dmesg").matches("settings have changed").count(), 1);
    remap.remove();
    machine.shutdown();
}

/// What the newest copy on a spare counts: activations, and copies that were rebuilt.
fn counted(spare: &Drive) -> [u64; 2] {
    let found = Image::of(spare).recover();
    let statistics = &found.header().raw().statistics;
    [statistics.activations.get(), statistics.copies_rebuilt.get()]
}

#[test]
fn activations_and_what_they_had_to_rebuild_are_counted() {
    let (main, one) = (main_drive(), small("one"));
    let machine = boot(&[&main, &one]);
    let remap = create(&machine, "/dev/vdb 1 create");
    remap.message("save");
    assert_eq!(counted(&one)[1], 0);
    let created = counted(&one)[0];
    remap.remove();
    one.scribble(0, &[7; 512]);
    one.scribble(2048, &[7; 512]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    remap.message("save");
    remap.remove();
    assert_eq!(counted(&one), [created + 1, 2]);
    machine.shutdown();
}

#[test]
fn what_cannot_be_brought_back_keeps_nothing_behind_it_from_coming() {
    let (main, one) = (main_drive(), small("one"));
    let machine = boot(&[&main, &one]);
    let remap = create(&machine, "/dev/vdb 1 create");
    for first in [1000, 2000, 3000, 60000] {
        remap.message(&format!("remap {first} 8"));
    }
    main.fail_writes(1000..1008);
    let place = remap.place_of(2000).unwrap();
    one.fail_reads(place..place + 8);
    remap.message_fails("clear");
    assert_eq!(remap.status().remapped.0, 16);
    holds(&machine, 1000, 8, "old");
    holds(&machine, 3000, 8, "old");
    one.heal(place..place + 8);
    main.heal(1000..1008);
    remap.message("clear");
    assert_eq!(remap.status().remapped.0, 0);
    holds(&machine, 0, 4096, "old");
    remap.remove();
    machine.shutdown();
}
