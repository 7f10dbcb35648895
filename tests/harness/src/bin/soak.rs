//! `make soak`: one set under load with failures, in a machine that is not switched off, and its memory at the end as at the start. `MINUTES` says
//! how long (60), `SEED` what happens.

use remap_harness::env::setting;
use remap_harness::Soak;
use std::time::{Duration, Instant};

/// How long a round is, in seconds.
const ROUND: u64 = 40;

fn main() {
    let end = Instant::now() + Duration::from_secs(60 * setting("MINUTES", 60));
    let mut soak = Soak::new(setting("SEED", 1));
    // Two to begin with, and one to compare with.
    for n in 0.. {
        if n >= 3 && Instant::now() >= end {
            break;
        }
        println!("{}", soak.round(ROUND));
    }
    println!("{}", soak.finish());
}
