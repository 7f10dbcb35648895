//! `guest bench`: what a small read costs, on the machine's own clock.

use crate::direct::{Buffer, Device};
use std::io;
use std::time::Instant;

const BLOCK: u64 = 4096;

/// Reads `reads` blocks of 4 KiB at random places among the first `mib` MiB, one after another, and prints the nanoseconds that each
/// took. The places are the same in every run.
pub fn run(device: &str, mib: &str, reads: &str) -> io::Result<()> {
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{text}: not a number"))
        })
    };
    let (blocks, reads) = (number(mib)? * 1024 * 1024 / BLOCK, number(reads)?);
    let device = Device::open(device, false)?;
    let mut buffer = Buffer::new(BLOCK as usize);
    let mut state = 1u64;
    let mut once = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        device.read(&mut buffer, (state >> 33) % blocks * BLOCK)
    };
    for _ in 0..200 {
        once()?;
    }
    let start = Instant::now();
    for _ in 0..reads {
        once()?;
    }
    println!("{:.1}", start.elapsed().as_nanos() as f64 / reads as f64);
    Ok(())
}
