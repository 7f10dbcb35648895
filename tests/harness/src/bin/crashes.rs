//! `make crashes`: the power fails at every flush of what a machine did, before it and after it. `SEED` is the first seed (1), `RUNS` the number
//! of machines (4).

use remap_harness::env::setting;
use remap_harness::Crashes;
use std::process::ExitCode;
use std::thread;

/// Seconds that a machine works.
const SECONDS: u64 = 20;

fn main() -> ExitCode {
    let first = setting("SEED", 1);
    let (mut failed, mut whole) = (0, 0);
    for seed in first..first.saturating_add(setting("RUNS", 4)) {
        // A thread of that name, because machines and drives name their folders after it.
        let run = thread::Builder::new()
            .name(format!("crashes-{seed}"))
            .spawn(move || Crashes::of_seed(seed, SECONDS).check(u64::MAX));
        match run.map(thread::JoinHandle::join) {
            Ok(Ok(report)) => {
                whole += 1;
                println!("seed {seed}: {report}: ok");
            }
            _ => {
                failed += 1;
                println!("seed {seed}: FAILED; again with: make crashes SEED={seed} RUNS=1");
            }
        }
    }
    println!("{whole} machines lost nothing, {failed} failed");
    ExitCode::from(u8::from(failed > 0 || whole == 0))
}
