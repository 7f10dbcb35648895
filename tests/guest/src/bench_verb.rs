//! `guest bench`: what a small read or write costs, on the machine's own clock.

use crate::direct::{Buffer, Device};
use std::io;
use std::process::Command;
use std::time::Instant;

const BLOCK: u64 = 4096;

/// Reads or writes as many blocks of 4 KiB as are asked for, one after another, and prints the nanoseconds that each took. Each is the `phase`th of a group of so many
/// `blocks`, one of the first `groups` at random; or, if they are `scattered`, the `phase`th from a block of that group on that anybody can
/// tell from the group's number. They are the same in every run.
pub fn run(device: &str, numbers: [&str; 4], scattered: bool, write: bool) -> io::Result<()> {
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{text}: not a number"))
        })
    };
    let [groups, count, phase, blocks] = numbers.map(number);
    let (groups, count, phase, blocks) = (groups?, count?, phase?, blocks?);
    let (others, scattered) = (blocks.saturating_sub(1).max(1), u64::from(scattered));
    let device = Device::open(device, write)?;
    let mut buffer = Buffer::new(BLOCK as usize);
    let mut state = 1u64;
    let mut once = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let group = (state >> 33) % groups;
        // Multiplicative hashing (Knuth 6.4), of as many blocks as leave the next one free. It takes as much where it is not asked for.
        let from = (group.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % others;
        let at = (group * blocks + from * scattered + phase) * BLOCK;
        match write {
            true => device.write(&buffer, at),
            false => device.read(&mut buffer, at),
        }
    };
    for _ in 0..200 {
        once()?;
    }
    let start = Instant::now();
    for _ in 0..count {
        once()?;
    }
    println!("{:.1}", start.elapsed().as_nanos() as f64 / count as f64);
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
