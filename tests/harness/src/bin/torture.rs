//! `make torture`: random load, remaps and power cuts, by seed and length. Two sets at a time; each goes through [`CUTS`] power cuts.
//!
//! `SEED` is the first seed (1), `RUNS` the number of power cuts (200), `MINUTES` a time after which no new set is begun. With
//! `MIGRATE=1` the spares of the sets come and go: [`Migrations`].

use remap_harness::env::setting;
use remap_harness::{Migrations, Moments, Torture};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Power cuts of one set: enough that one finds what the one before left behind.
const CUTS: u64 = 5;

fn main() -> ExitCode {
    let minutes = setting("MINUTES", 0);
    let end = (minutes > 0).then(|| Instant::now() + Duration::from_secs(minutes * 60));
    let runs = setting("RUNS", if minutes > 0 { u64::MAX } else { 200 });
    let first = setting("SEED", 1);
    let migrate = setting("MIGRATE", 0) > 0;
    let again = if migrate { " MIGRATE=1" } else { "" };
    let last = first.saturating_add(runs.div_ceil(CUTS));
    let (next, cuts, failed) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let moments = Mutex::new(Moments::default());
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= last || end.is_some_and(|end| Instant::now() >= end) {
            return;
        }
        let name = format!("torture-{seed}");
        // A thread of that name, because machines and drives name their folders after it.
        let run = thread::Builder::new().name(name.clone()).spawn(move || {
            if migrate {
                let mut migrations = Migrations::new(seed);
                (0..CUTS).for_each(|_| migrations.cut());
                return (migrations.moments, migrations.finish());
            }
            let mut torture = Torture::of_seed(seed);
            (0..CUTS).for_each(|_| torture.cut());
            (Moments::default(), torture.finish())
        });
        match run.map(thread::JoinHandle::join) {
            Ok(Ok((hit, told))) => {
                *moments.lock().unwrap_or_else(|e| e.into_inner()) += hit;
                cuts.fetch_add(CUTS, Ordering::Relaxed);
                println!("{told}, {CUTS} power cuts: ok");
            }
            _ => {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("seed {seed}: FAILED; again with: make torture SEED={seed} RUNS={CUTS}{again}; its logs are in build/vm/{name}");
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let (cuts, failed) = (cuts.into_inner(), failed.into_inner());
    if migrate {
        println!("{}", moments.into_inner().unwrap_or_else(|e| e.into_inner()));
    }
    println!("{cuts} power cuts survived, {failed} sets failed");
    ExitCode::from(u8::from(failed > 0 || cuts == 0))
}
