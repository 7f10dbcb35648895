//! What a table line gives for the members of a set, live or not.

use super::common::{boot, flush, holds, write, PATH};
use super::several::{bytes_of, create, main_drive, small, told};
use remap_harness::{Drive, Machine, Remap};

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
    loaded(&machine, "/dev/vda /dev/vdb 1 degraded");
    let both = "/dev/vda /dev/vdb 3 spare /dev/vdc degraded";
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
    let (main, one, clone) = (main_drive(), small("one"), small("clone"));
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
