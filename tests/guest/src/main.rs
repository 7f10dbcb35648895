//! The program inside a test machine: `guest agent` does what the host asks, the other verbs are what a shell lacks there.

#![forbid(unsafe_code)]

mod agent;
mod bench_verb;
mod direct;
mod io_verb;
mod load_verb;
mod mapper;
mod race_verb;
mod rng;
mod steps;

use std::process::ExitCode;

const USAGE: &str = "usage: guest agent
       guest io write DEVICE SECTOR COUNT PATTERN    write sectors that name themselves and PATTERN
       guest io write-durable DEVICE SECTOR COUNT PATTERN    the same, with FUA
       guest io zero  DEVICE SECTOR COUNT            have the device write zeroes
       guest io check DEVICE SECTOR COUNT PATTERN    fail unless they are there
       guest io read  DEVICE SECTOR COUNT            print a checksum of the sectors
       guest io read-nowait DEVICE SECTOR COUNT      read them, or fail where that has to wait; write-nowait: zeroes
       guest io flush DEVICE                         flush the device
       guest load DEVICE regions=FIRST+COUNT,... [seed=N] [seq=N] [threads=N] [seconds=N] [operations=N] [block=SECTORS] [largest=SECTORS] [discards=1] [messages=FILE] [pause=MILLISECONDS]
       guest scan DEVICE regions=FIRST+COUNT,... out=FILE [seed=N] [block=SECTORS]
       guest race ROLE [seconds=N] [seed=N]          get in the way of who else does something with the module
       guest bench DEVICE GROUPS COUNT PHASE BLOCKS [scattered] [write]  print the nanoseconds that a 4 KiB read takes
       guest time COMMAND [ARGUMENT...]              print the nanoseconds that a command takes";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.split_first() {
        Some((&"agent", [])) => agent::serve(),
        Some((&"io", rest)) => io_verb::run(rest).map(|text| print!("{text}")),
        Some((&"bench", [device, groups, count, phase, blocks, how @ ..]))
            if how.iter().all(|word| matches!(*word, "scattered" | "write")) =>
        {
            let numbers = [*groups, *count, *phase, *blocks];
            bench_verb::run(device, numbers, how.contains(&"scattered"), how.contains(&"write"))
        }
        Some((&"time", command)) => bench_verb::time(command),
        Some((&"race", [role, rest @ ..])) => race_verb::run(role, rest),
        Some((&"load", [device, rest @ ..])) => load_verb::load(device, rest),
        Some((&"scan", [device, rest @ ..])) => load_verb::scan(device, rest),
        _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error}");
            // The errno is what a test of failing I/O wants to know.
            error
                .raw_os_error()
                .map_or(ExitCode::from(255), |errno| ExitCode::from(errno.clamp(1, 254) as u8))
        }
    }
}
