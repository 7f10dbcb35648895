//! How long a set of a million extents takes, and how much memory.
//!
//! Time is that of the processor, set against what it takes to read the same bytes out of the page cache and to compute their checksums, in
//! the same run: how fast the machine is, and what else it does, does not matter. The page cache gives ten gigabytes in the time in which
//! a fast drive gives two, so what takes fifteen times as long here takes three times as long as reading that drive.

use super::Spare;
use remap_harness::image::{crc, Image};
use remap_pure::format::layout::Layout;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

const EXTENTS: u64 = 1_000_000;

/// How many times as long as reading out of the page cache a verb may take.
const TIMES: u64 = 15;

/// How much memory it may address, in MiB.
const MEMORY: u64 = 200;

/// Nanoseconds that the processor has spent on a thread of a program that has ended and was not waited for, or on this one.
fn spent(pid: &str) -> u64 {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Waits until a program has ended, and leaves it to be asked what it took.
fn ends(child: &Child) {
    let stat = format!("/proc/{}/stat", child.id());
    while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a run of dmremap takes of the processor, with no more memory than that, in MiB.
fn run(arguments: &str, spare: &Spare, mib: u64) -> u64 {
    let script = format!("ulimit -v {}; exec \"$@\"", mib * 1024);
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_dmremap")]);
    command.args(arguments.split_whitespace()).arg(&spare.0);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    ends(&child);
    let spent = spent(&child.id().to_string());
    assert!(child.wait().unwrap().success(), "{arguments} needs more than {mib} MiB, or failed");
    spent
}

/// What reading those bytes takes, with their checksums.
fn read(spare: &Spare, bytes: u64) -> u64 {
    let before = spent("thread-self");
    let mut file = File::open(&spare.0).unwrap();
    let mut block = vec![0; 256 << 10];
    for _ in 0..bytes.div_ceil(block.len() as u64) {
        file.read_exact(&mut block).unwrap();
        block.chunks(4096).for_each(|block| _ = black_box(crc(block)));
    }
    spent("thread-self") - before
}

#[test]
fn a_million_extents_take_three_times_as_long_as_reading_them_from_a_fast_drive_at_most() {
    let layout = Layout::for_max_remaps(EXTENTS).unwrap();
    let mut image = Image::blank(1 << 22);
    image.create_large(layout, EXTENTS * 4, (0..EXTENTS).map(|i| (i * 4, 1)));
    let spare = Spare::of("million", &image);
    drop(image);
    let bytes = layout.end().0 * 512;
    let verbs = ["inspect", "check --level complete", "dump"];
    let mut least = [u64::MAX; 3];
    let mut reading = u64::MAX;
    for _ in 0..5 {
        reading = reading.min(read(&spare, bytes));
        for (least, verb) in least.iter_mut().zip(verbs) {
            *least = (*least).min(run(verb, &spare, MEMORY));
        }
    }
    for (least, verb) in least.into_iter().zip(verbs) {
        let ratio = least as f64 / reading as f64;
        println!(
            "{verb}: {:.0} ms, {ratio:.1} times {:.0} ms",
            least as f64 / 1e6,
            reading as f64 / 1e6
        );
    }
    for (least, verb) in least.into_iter().zip(verbs) {
        assert!(least < TIMES * reading, "{verb} takes {least} ns, reading takes {reading} ns");
    }
}
