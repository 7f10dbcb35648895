//! `make shell`: a machine on this terminal, with the module loaded and drives that fail.

use remap_harness::{Drive, Machine};

const MIB: u64 = 2048;

fn main() {
    let main = Drive::blank("main", 128 * MIB);
    main.fail(100_000..100_016);
    let spare = Drive::blank("spare", 64 * MIB);
    println!("Starting a machine; this takes some seconds.");
    Machine::builder().drive(&main).drive(&spare).terminal().boot().wait_for_end();
}
