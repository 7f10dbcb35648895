//! `guest bench`: what a small read costs, on the machine's own clock.

use crate::direct::{Buffer, Device};
use std::io;
use std::process::Command;
use std::time::Instant;

const BLOCK: u64 = 4096;

/// Reads `reads` blocks of 4 KiB, one after another, and prints the nanoseconds that each took. Each is the `phase`th of a group of so many
/// `blocks`, one of the first `groups` at random. They are the same in every run.
pub fn run(device: &str, groups: &str, reads: &str, phase: &str, blocks: &str) -> io::Result<()> {
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{text}: not a number"))
        })
    };
    let (groups, reads, phase) = (number(groups)?, number(reads)?, number(phase)?);
    let blocks = number(blocks)?;
    let device = Device::open(device, false)?;
    let mut buffer = Buffer::new(BLOCK as usize);
    let mut state = 1u64;
    let mut once = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        device.read(&mut buffer, ((state >> 33) % groups * blocks + phase) * BLOCK)
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

/// Runs a command and prints how many nanoseconds it took. It has to succeed.
pub fn time(command: &[&str]) -> io::Result<()> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let start = Instant::now();
    let output = Command::new(program).args(args).output()?;
    let taken = start.elapsed().as_nanos();
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    println!("{taken}");
    Ok(())
}
