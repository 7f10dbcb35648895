//! Everything that people can write to, written to from several sides at the same time, most of it wrong.

use super::common::MIB;
use remap_harness::{Drive, Machine, Remap};
use std::time::Duration;

const FOLDER: &str = "/sys/block/dm-0/remap";
const CONTROL: &str = "/sys/kernel/debug/dm-remap/metadata_control";

/// Lines that no message is; and those that are none in the state of the test.
const WRONG: &[&str] = &[
    "set",
    "set alert_threshold",
    "set alert_threshold 101",
    "set alert_threshold -1",
    "set min_copies 99999999999999999999999",
    "set no_such 1",
    "set spare_policy best",
    "set primary 7",
    "set remap_block 24",
    "get no_such",
    "remap",
    "remap x",
    "remap 99999999",
    "remap 0 0",
    "remap 0 18446744073709551615",
    "unremap 8 8",
    "verify 65536",
    "check thorough",
    "scan later",
    "migrate",
    "migrate /dev/none",
    "migrate 5 /dev/vdb",
    "spare add /dev/vda",
    "spare add /dev/vdb",
    "spare add /dev/null",
    "spare remove 0",
    "spare remove 3",
    "table -1",
    "save now",
    "one two three four five six seven eight nine ten",
];

#[test]
fn wrong_words_from_all_sides_at_once_change_nothing() {
    let main = Drive::blank("main", 32 * MIB);
    let spare = Drive::blank("spare", 16 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    machine.run("mount -t debugfs debugfs /sys/kernel/debug");
    machine.put("/tmp/wrong", (WRONG.join("\n") + "\n").as_bytes());
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    machine.ok("guest io write /dev/mapper/r 0 8192 data");
    remap.message("remap 64 8");
    remap.message("set min_copies 3");
    let before = (remap.message("get"), remap.message("table"), remap.table());
    let rounds = "n=0; while [ ! -e /tmp/over ]; do n=$((n + 1))";
    let message = format!(
        "{rounds}; while read line; do dmsetup message r 0 $line >/dev/null && echo \"took: $line\"; done </tmp/wrong; done 2>/dev/null; echo $n"
    );
    let file = format!(
        "busybox sh -c '{rounds}; for f in {FOLDER}/*; do [ -f $f ] || continue; for v in \"\" x -1 99999999999999999999 \"1 2\" $(seq 900 | tr -d \"\\n\"); do \
         echo \"$v\" >$f && echo \"took: $v in $f\"; done; done; done 2>/dev/null; echo $n'"
    );
    let control = format!(
        "busybox sh -c '{rounds}; while read line; do case $line in save*|migrate*) ;; *) echo \"$line\" >{CONTROL} && echo \"took: $line\";; esac; done </tmp/wrong; \
         head -c 5000 /dev/urandom >{CONTROL} && echo took noise; done 2>/dev/null; echo $n'"
    );
    // One side is right, and hears so.
    let right = format!(
        "{rounds}; dmsetup message r 0 set min_copies $((2 + n % 3)) || echo refused; dmsetup message r 0 save || echo refused; done; \
         dmsetup message r 0 set min_copies 3; echo $n"
    );
    let sides = [&message, &message, &file, &file, &control, &right];
    let jobs: Vec<_> = sides.iter().map(|side| machine.start(side)).collect();
    std::thread::sleep(Duration::from_secs(10));
    machine.ok("touch /tmp/over");
    for (side, job) in sides.iter().zip(jobs) {
        let output = job.wait();
        let rounds = output.stdout.trim().parse::<u64>();
        assert!(matches!(rounds, Ok(1..)), "{side}\n{}{}", output.stdout, output.stderr);
    }
    assert_eq!((remap.message("get"), remap.message("table"), remap.table()), before);
    let status = remap.status();
    assert_eq!((status.remapped.0, status.keys["persist"].as_str()), (8, "enabled"));
    assert_eq!((status.keys["jobs"].as_str(), status.keys["spares"].as_str()), ("0", "1"));
    machine.ok("guest io check /dev/mapper/r 0 8192 data");
    machine.power_cut(5);
    let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb");
    assert_eq!((remap.message("get"), remap.message("table")), (before.0, before.1));
    remap.remove();
    machine.shutdown();
}
