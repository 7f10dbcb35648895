//! `make bench`: what a read costs through `remap`, beside `linear`, in instructions.
//!
//! The machine has one processor and a clock that counts its instructions, a nanosecond each. So the numbers are the same on any
//! host, but for a fraction of a percent.

use remap_harness::{Machine, Remap};

const MIB: u64 = 1024;
const READS: u64 = 20_000;
const ROUNDS: usize = 3;

fn main() {
    let machine = Machine::builder().count_instructions().module().boot();
    let main = machine.null_blk(0, MIB, &[("completion_nsec", "0"), ("irqmode", "0")]);
    let spare = machine.null_blk(1, 64, &[("memory_backed", "1"), ("irqmode", "0")]);
    machine.ok(&format!(
        "dmsetup create linear --table \"0 $(blockdev --getsz {main}) linear {main} 0\""
    ));
    let once = |path: &str| -> f64 {
        let printed = machine.ok(&format!("guest bench {path} {MIB} {READS}"));
        printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}"))
    };
    // The lowest of some rounds: what disturbs only ever adds.
    let measure = |path: &str| (0..ROUNDS).map(|_| once(path)).fold(f64::INFINITY, f64::min);

    println!("Instructions for a 4 KiB read at depth 1 over null_blk, {READS} reads:\n");
    let linear = measure("/dev/mapper/linear");
    println!("  {linear:8.0}            linear");
    machine.ok("dmsetup remove linear");
    let remap = Remap::create(&machine, "remap", &main, &format!("{spare} 1 create"));
    let empty = measure(&remap.path());
    println!("  {empty:8.0}  {:+6.0}    remap, nothing remapped (at most +100)", empty - linear);
    remap.remove();
    machine.shutdown();
}
