//! What the kernel that looks for faults is asked before its machine is switched off.

use crate::env::Env;
use crate::machine::Machine;

/// MiB that it takes besides what a machine has.
pub(crate) const MEMORY: u32 = 1024;

/// Memory counts as leaked when it is five seconds old, nothing points to it, and it is the same in two scans. Lock debugging ends with
/// the first fault that it finds.
const ASK: &str = "grep debug_locks: /proc/lockdep_stats; leaks=/sys/kernel/debug/kmemleak; \
     sleep 6; echo scan >$leaks; sleep 1; echo scan >$leaks; cat $leaks";

/// Fails the test when the kernel has found a leak of the module, or has stopped looking for faults. Does nothing on the stock kernel.
#[track_caller]
pub(crate) fn check(machine: &Machine) {
    if !Env::get().debug {
        return;
    }
    let answer = machine.ok(ASK);
    let (locks, leaks) = answer.split_once('\n').unwrap_or((&answer, ""));
    assert!(locks.ends_with(" 1"), "lock debugging is off: {locks}");
    let leaks: Vec<&str> = leaks.split("unreferenced object").skip(1).collect();
    let ours: Vec<&&str> = leaks.iter().filter(|leak| is_ours(leak)).collect();
    assert!(ours.is_empty(), "{} leaks, of the module:\n{ours:#?}", leaks.len());
    for leak in leaks {
        eprintln!("a leak, not of the module: {leak}");
    }
}

/// Whether the module was in it when the memory was taken. What was unloaded since has addresses and no names.
fn is_ours(leak: &str) -> bool {
    leak.contains("dm_remap")
        || leak.lines().any(|line| line.trim_start().starts_with("0xffffffff"))
}
