//! What tests of many modules do: devices of the usual sizes, and single requests to the device under test.

use remap_harness::env::{patience, setting};
use remap_harness::{Drive, Job, Machine, Place, Remap, Status};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Sectors of a MiB.
pub const MIB: u64 = 2048;
/// The device under test.
pub const PATH: &str = "/dev/mapper/r";

/// A main of 32 MiB and a spare of 16.
pub fn drives() -> (Drive, Drive) {
    (Drive::blank("main", 32 * MIB), Drive::blank("spare", 16 * MIB))
}

/// A machine with these drives and the module.
pub fn boot(drives: &[&Drive]) -> Machine {
    drives.iter().fold(Machine::builder(), |builder, drive| builder.drive(drive)).module().boot()
}

/// Where the partition begins that [`one_partition`] makes.
pub const PARTITION: u64 = 2048;

/// Makes one partition of so many sectors on a disk, with an identifier as the kernel makes it of this: `0a1b2c3d-01`.
#[track_caller]
pub fn one_partition(machine: &Machine, disk: &str, sectors: u64) {
    let mut table = vec![0; 512];
    table[440..444].copy_from_slice(&0x0a1b_2c3d_u32.to_le_bytes());
    table[450] = 0x83;
    table[454..458].copy_from_slice(&(PARTITION as u32).to_le_bytes());
    table[458..462].copy_from_slice(&(sectors as u32).to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    machine.put("/tmp/table", &table);
    machine.ok(&format!(
        "dd if=/tmp/table of={disk} conv=fsync 2>/dev/null && blockdev --rereadpt {disk}"
    ));
}

/// Writes to the device, and gives the errno, or 0.
pub fn write(machine: &Machine, first: u64, count: u64, pattern: &str) -> i32 {
    machine.run(&format!("guest io write {PATH} {first} {count} {pattern}")).status
}

/// Reads from the device, and gives the errno, or 0.
pub fn read(machine: &Machine, first: u64, count: u64) -> i32 {
    machine.run(&format!("guest io read {PATH} {first} {count}")).status
}

/// The device has there what was written with this pattern.
#[track_caller]
pub fn holds(machine: &Machine, first: u64, count: u64, pattern: &str) {
    machine.ok(&format!("guest io check {PATH} {first} {count} {pattern}"));
}

/// Flushes the device, and gives the errno, or 0.
pub fn flush(machine: &Machine) -> i32 {
    machine.run(&format!("guest io flush {PATH}")).status
}

/// Runs of sectors of main, joined where they touch.
pub fn runs(places: &[Place], wanted: impl Fn(&Place) -> bool) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for place in places.iter().filter(|place| wanted(place)) {
        match runs.last_mut() {
            Some((start, len)) if *start + *len == place.start => *len += place.len,
            _ => runs.push((place.start, place.len)),
        }
    }
    runs
}

/// After how many requests the power is cut, beside those that a test has of its own: as many as `DMREMAP_CUTS` says.
pub fn more_cuts() -> RangeInclusive<u64> {
    1..=setting("DMREMAP_CUTS", 0)
}

/// Whether a drive that is to freeze does so before a command has ended that has it take requests.
#[track_caller]
pub fn freezes_before(drive: &Drive, job: &mut Job<'_>) -> bool {
    let began = Instant::now();
    while !drive.is_frozen() {
        if job.poll(Duration::from_millis(20)).is_some() {
            return drive.is_frozen();
        }
        assert!(began.elapsed() < patience(Duration::from_secs(120)), "neither comes to an end");
    }
    true
}

/// A number in the status.
#[track_caller]
pub fn number(status: &Status, key: &str) -> u64 {
    let number = status.keys.get(key).and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("no {key}: {}", status.line))
}

/// Waits until there are so many suspect extents.
#[track_caller]
pub fn until_suspect(remap: &Remap<'_>, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while remap.message("table").matches(" suspect ").count() != count {
        assert!(Instant::now() < deadline, "{}", remap.message("table"));
        std::thread::sleep(Duration::from_millis(100));
    }
}
