//! `make activations`: damaged and forged spares, activated by the kernel and judged by the pure code on the host.
//!
//! `SEED` is the first seed (1), `RUNS` the number of images (3000).

use remap_harness::activations::Activations;
use remap_harness::env::setting;
use std::process::ExitCode;
use std::thread;

fn run() {
    let (first, runs) = (setting("SEED", 1), setting("RUNS", 3000));
    let mut activations = Activations::boot();
    for (n, seed) in (1..=runs).zip(first..) {
        activations.run(seed);
        if n % 500 == 0 {
            println!("{n} images");
        }
    }
    let (active, refused) = activations.counts();
    assert!(active + refused > 0, "there was nothing to be activated");
    activations.finish();
    println!("{active} images activated, {refused} refused, each as the host says");
}

fn main() -> ExitCode {
    // A thread of that name, because machines and drives name their folders after it.
    let thread = thread::Builder::new().name("activations".into()).spawn(run);
    match thread.map(thread::JoinHandle::join) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        _ => {
            println!("FAILED; again with: make activations SEED=<that seed> RUNS=1; its logs are in build/vm/activations");
            ExitCode::FAILURE
        }
    }
}
