//! What is refused: table lines and messages that are wrong, each with its own words, and nothing changed.

use super::common::MIB;
use remap_harness::{Drive, Machine, Remap};

/// Tries to load a table, which has to fail with `errno`'s words and a kernel-log line that has `says` in it.
#[track_caller]
fn refused(machine: &Machine, sectors: &str, line: &str, errno: &str, says: &str) {
    machine.ok("dmesg -c >/dev/null");
    let output = machine.run(&format!("dmsetup create bad --table \"0 {sectors} remap {line}\""));
    let log = machine.ok("dmesg");
    assert_ne!(output.status, 0, "{line} was accepted");
    assert!(output.stderr.contains(errno), "{line}: {} instead of {errno}\n{log}", output.stderr);
    assert!(log.contains(says), "{line}: the log does not say '{says}':\n{log}");
    assert_eq!(machine.ok("dmsetup ls | grep -c bad || true"), "0", "{line} left a device");
}

#[test]
fn bad_table_lines_are_refused_and_change_nothing() {
    let main = Drive::blank("main", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let small = Drive::blank("small", 4 * MIB);
    let large = Drive::with_blocks("large", 32 * MIB, 4096, 4096);
    let machine =
        Machine::builder().drive(&main).drive(&spare).drive(&small).drive(&large).module().boot();
    const INVALID: &str = "Invalid argument";
    for (sectors, line, errno, says) in [
        ("131072", "/dev/vda", INVALID, "main and spare are wanted"),
        ("131072", "/dev/vda /dev/vdb x", INVALID, "#opts must be a number, not 'x'"),
        ("131072", "/dev/vda /dev/vdb 0 0", INVALID, "spare_length must not be 0"),
        ("131072", "/dev/vda /dev/vdb 2 create", INVALID, "says that 2 words of options follow"),
        ("131072", "/dev/vda /dev/vdb 1 frob", INVALID, "unknown option 'frob'"),
        ("131072", "/dev/vda /dev/vdb 1 name", INVALID, "option 'name' needs a value"),
        ("131072", "/dev/vda /dev/vdb 2 create create", INVALID, "'create' is given twice"),
        ("131072", "/dev/vda /dev/vdb 2 name n", INVALID, "goes with 'create' only"),
        ("131072", "/dev/vda /dev/vdb 3 create name a/b", INVALID, "name 'a/b' must have"),
        ("131072", "/dev/vda /dev/vdb 3 create remap_block 3", INVALID, "power of two"),
        ("131072", "/dev/vda /dev/vdb 3 create min_copies 1", INVALID, "min_copies must be 2 to"),
        ("131072", "/dev/vda /dev/vdb 3 create min_copies 6", INVALID, "min_copies must be 2 to 5"),
        ("131072", "/dev/vda /dev/vdb 3 create primary 7", INVALID, "the set has no spare 7"),
        (
            "131072",
            "/dev/vda /dev/vdb 3 create overwrite /dev/vdc",
            INVALID,
            "names no spare of this line",
        ),
        (
            "131072",
            "/dev/vda /dev/vdb 3 create max_remaps 999999999999",
            INVALID,
            "more than the format can hold",
        ),
        ("131072", "/dev/vda /dev/vdb 3 create spare /dev/vdc", "No space", "spare '/dev/vdc' has"),
        ("131072", "/dev/vda /dev/vdb 3 create spare /dev/vdb", INVALID, "is given twice"),
        ("131072", "/dev/vda /dev/vdb 3 create absent x", INVALID, "names no spare of a set"),
        ("131072", "/dev/vda /dev/nope 1 create", "No such", "spare '/dev/nope' cannot be opened"),
        ("131072", "/dev/nope /dev/vdb 1 create", "No such", "main '/dev/nope' cannot be opened"),
        ("131080", "/dev/vda /dev/vdb 1 create", INVALID, "main '/dev/vda' has 131072 sectors"),
        (
            "131072",
            "/dev/vda /dev/vdb 3 create main_start 8",
            INVALID,
            "main '/dev/vda' has 131072 sectors, the table maps 131072 from 8; map fewer, or check the device's name",
        ),
        (
            "131072",
            "/dev/vda /dev/vdb 8 65536 1 create",
            INVALID,
            "spare '/dev/vdb' has 65536 sectors",
        ),
        ("131072", "/dev/vda /dev/vdc 1 create", "No space", "16384 are the least"),
        ("131072", "/dev/vda /dev/vdb 0 16383 1 create", "No space", "16384 are the least"),
        ("131072", "/dev/vda /dev/vdd 1 create", INVALID, "logical blocks of 4096 bytes"),
        ("65532", "/dev/vdd /dev/vdb 1 create", INVALID, "the table's length must be a multiple"),
        ("131072", "/dev/vda /dev/vda 1 create", INVALID, "main and spare overlap"),
        ("131072", "/dev/vda /dev/vdb", INVALID, "'/dev/vdb': spare 0 is not a spare of a set"),
    ] {
        refused(&machine, sectors, line, errno, says);
    }
    for (drive, sectors) in [(&spare, 65536), (&small, 8192), (&large, 65536)] {
        let writes = drive.counters().writes;
        assert_eq!(writes, 0, "{} was written to", drive.name());
        assert!(drive.durable(0..sectors).iter().all(|&byte| byte == 0));
    }

    // What is on a spare protects it.
    machine.ok("mkfs.ext4 -q /dev/vdb 16M");
    refused(&machine, "131072", "/dev/vda /dev/vdb 1 create", INVALID, "is not blank at sector");
    refused(&machine, "131072", "/dev/vda /dev/vdb", INVALID, "holds something that is not ours");
    machine.ok("e2fsck -fn /dev/vdb");
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 3 create overwrite /dev/vdb");

    // A live set keeps its devices.
    refused(&machine, "131072", "/dev/vda /dev/vdb", "busy", "in use by dm-");
    refused(&machine, "65536", "/dev/vdd /dev/vdb 1 create", "busy", "in use by dm-");
    let again = machine.fails("dmsetup load r --table '0 131072 remap /dev/vda /dev/vdb 1 create'");
    assert!(again.contains("exists"), "{again}");
    remap.message("remap 64 8");
    remap.remove();

    refused(
        &machine,
        "131072",
        "/dev/vda /dev/vdb 1 create",
        "exists",
        "'/dev/vdb': spare 0 carries set",
    );
    let overwrite = "/dev/vda /dev/vdb 3 create overwrite /dev/vdb";
    refused(&machine, "131072", overwrite, "exists", "carries set");
    refused(&machine, "65536", "/dev/vda /dev/vdb", INVALID, "this may not be the set's main");
    refused(&machine, "131072", "/dev/vda /dev/vdb 0 32768", INVALID, "the set uses 65536");
    let other = "/dev/vdd /dev/vdb 8 32768";
    refused(&machine, "32768", other, INVALID, "");

    // Metadata of ours that is damaged is never formatted by a table line.
    for slot in [0, 1024, 2048, 4096, 8192u64] {
        machine.ok(&format!(
            "dd if=/dev/urandom of=/dev/vdb bs=512 seek={slot} count=1 conv=notrunc,fsync"
        ));
    }
    refused(&machine, "131072", "/dev/vda /dev/vdb", INVALID, "");
    let damaged = spare.durable(0..65536);
    refused(&machine, "131072", "/dev/vda /dev/vdb 1 create", INVALID, "");
    refused(&machine, "131072", overwrite, INVALID, "");
    assert!(damaged == spare.durable(0..65536), "a damaged set was written to");
    machine.ok("rmmod dm-remap");
    machine.shutdown();
}

#[test]
fn bad_messages_are_refused_and_change_nothing() {
    let main = Drive::blank("main", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    remap.message("remap 800 8");
    let before = (remap.status().line, spare.counters().writes);
    for (message, errno, says) in [
        ("frobnicate", "Invalid argument", "unknown message 'frobnicate'"),
        ("remap", "Invalid argument", "usage: remap <sector> [<sectors>]"),
        ("remap x", "Invalid argument", "'x' is not a number of sectors"),
        ("remap 1 0", "Invalid argument", "at least one sector"),
        ("remap 1 2 3", "Invalid argument", "usage: remap"),
        ("remap 131072", "Invalid argument", "131072+1 is not within the 131072 sectors"),
        ("remap 131071 2", "Invalid argument", "131071+2 is not within"),
        ("remap 18446744073709551615 2", "Invalid argument", "is not within"),
        ("remap 800 8", "exists", "all of it is remapped already"),
        ("remap 803", "exists", "all of it is remapped already"),
        ("unremap 808 8", "No such", "nothing of it is remapped or pending"),
        ("verify 131072", "Invalid argument", "is not within"),
        ("set nonsense 1", "Invalid argument", "no such setting; there are alert_threshold"),
        ("set remap_block 7", "Invalid argument", "power of two"),
        ("set remap_block x", "Invalid argument", "takes a number of sectors"),
        ("set min_copies 6", "Invalid argument", "min_copies must be 2 to 5"),
        ("set alert_threshold 101", "Invalid argument", "0 to 100"),
        ("get nonsense", "Invalid argument", "no such setting"),
        ("undo", "Invalid argument", "no setting was changed"),
        ("ping pong", "Invalid argument", "'ping' takes no argument"),
        ("a b c d e f g h i", "Invalid argument", "too many words"),
    ] {
        machine.ok("dmesg -c >/dev/null");
        let said = remap.message_fails(message);
        assert!(said.contains(errno), "{message}: {said} instead of {errno}");
        let log = machine.ok("dmesg");
        assert!(log.contains(says), "{message}: the log does not say '{says}':\n{log}");
        let status = remap.message("metadata_status");
        let last = status.lines().find(|line| line.starts_with("last_error")).unwrap_or_default();
        assert!(last.contains(says), "{message}: {last}");
    }
    assert_eq!(before, (remap.status().line, spare.counters().writes));
    remap.remove();
    machine.shutdown();
}

/// Objects in use of the caches that the kernel's `kmalloc` takes memory from.
fn objects(machine: &Machine) -> i64 {
    machine.drop_unused_memory();
    let sum = "awk '/^kmalloc-/ { sum += $2 * $4 } END { print int(sum / 1024) }' /proc/slabinfo";
    machine.ok(sum).trim().parse().unwrap()
}

#[test]
fn what_is_refused_leaves_no_memory_behind() {
    let main = Drive::blank("main", 64 * MIB);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let again = |what: &str, n: u32| machine.ok(&format!("for i in $(seq {n}); do {what}; done"));
    let load = |line: &str| {
        format!(
            "if dmsetup create bad --table '0 131072 remap {line}' 2>/dev/null; then exit 1; fi"
        )
    };
    let lines = [
        load("/dev/vda /dev/vdb 1 frob"),
        load("/dev/vda /dev/nope 1 create"),
        load("/dev/vda /dev/vdb"),
        load("/dev/vda /dev/vda 1 create"),
    ]
    .join("; ");
    // Once round first: what is allocated once and kept is no leak.
    again(&lines, 5);
    let before = objects(&machine);
    again(&lines, 30);
    let after = objects(&machine);
    // Each of these had more than a page in its hands.
    assert!(after - before < 120, "{before} KiB before, {after} KiB after 120 refused lines");

    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let messages = "dmsetup message r 0 remap 64 8; dmsetup message r 0 unremap 64 8; \
         dmsetup message r 0 remap 999999999 2>/dev/null; dmsetup message r 0 set remap_block 7 2>/dev/null; \
         dmsetup message r 0 table >/dev/null; dmsetup message r 0 restore";
    again(messages, 5);
    let before = objects(&machine);
    again(messages, 20);
    let after = objects(&machine);
    assert!(after - before < 120, "{before} KiB before, {after} KiB after 120 messages");
    remap.remove();
    let lives =
        "dmsetup create r --table '0 131072 remap /dev/vda /dev/vdb' && dmsetup remove --retry r";
    again(lives, 3);
    let before = objects(&machine);
    again(lives, 20);
    let after = objects(&machine);
    assert!(after - before < 160, "{before} KiB before, {after} KiB after 20 activations");
    machine.shutdown();
}

#[test]
fn what_stands_in_the_last_sectors_of_a_spare_protects_it() {
    let main = Drive::blank("main", 64 * MIB);
    // Three sectors that are no block of 4 KiB.
    let odd = Drive::blank("odd", 32 * MIB + 3);
    let spare = Drive::blank("spare", 32 * MIB);
    let machine = Machine::builder().drive(&main).drive(&odd).drive(&spare).module().boot();
    let last = 32 * MIB + 2;
    machine.ok(&format!("guest io write /dev/vdb {last} 1 foreign && guest io flush /dev/vdb"));
    let says = format!("is not blank at sector {}", last - 7);
    refused(&machine, "131072", "/dev/vda /dev/vdb 1 create", "Invalid argument", &says);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdc 1 create");
    remap.message_fails("spare add /dev/vdb");
    assert!(machine.kernel_log().matches(&says).count() >= 2, "{}", machine.kernel_log());
    remap.remove();
    // A part that ends before has nothing to do with it.
    let remap =
        Remap::create(&machine, "r", "/dev/vda", &format!("/dev/vdb 0 {} 1 create", 32 * MIB));
    remap.message("remap 64 8");
    remap.remove();
    machine.ok(&format!("guest io check /dev/vdb {last} 1 foreign"));
    machine.shutdown();
}
