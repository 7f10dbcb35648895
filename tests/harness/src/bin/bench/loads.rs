//! How long it takes until a device can be used, and what memory it takes then.
//!
//! The machine has one processor and a clock that counts its instructions, a nanosecond each, so times differ little from run to run.

use crate::devices::{self, counted, heads, seconds, Spread};
use remap_harness::report::{median, Bound, Figure, Report, Table};
use remap_harness::{Image, Machine};
use remap_pure::format::layout::{COPIES, SLOT_SECTORS};

/// How many MB a second the metadata of a million extents is read at: a hard disk that gives 150, beside a processor that does three
/// instructions in a nanosecond, where this one does one.
const MBPS: u64 = 50;

/// Bytes of memory that the kernel has handed out.
fn used(machine: &Machine) -> f64 {
    machine.ok("sync; echo 3 >/proc/sys/vm/drop_caches; sleep 1");
    let printed = machine.ok(
        "awk '/^kmalloc-/ { sum += $2 * $4 } /^VmallocUsed/ { sum += $2 * 1024 } END { print sum }' OFMT=%.0f \
         /proc/slabinfo /proc/meminfo",
    );
    printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}"))
}

/// Activates the set of a million extents at a disk's speed, and tells what that costs.
fn million(machine: &Machine, spread: Spread, report: &mut Report) -> f64 {
    devices::set(machine, "million", 5, spread, MBPS);
    // Five copies, which are as long as this but for the data between them.
    let bytes = (5 * SLOT_SECTORS.0 + spread.metadata() - Image::METADATA_SECTORS) * 512;
    assert_eq!(COPIES, 5);
    let read = format!(
        "dd if=/dev/mapper/million-spare of=/dev/null bs=1M iflag=direct,count_bytes count={}",
        bytes / 4096 * 4096
    );
    let (mut ratios, mut times) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let reading = devices::time(machine, &read);
        let activation = devices::activate(machine, "million");
        ratios.push(activation / reading);
        times.push(activation);
        machine.ok("dmsetup remove million");
    }
    let before = used(machine);
    devices::activate(machine, "million");
    let memory = (used(machine) - before) / spread.extents as f64;
    // Less than there is to be read, or to be kept, says that it was measured wrong.
    let mut bound = |what: &str, is, least, most| {
        report.bounds.push(Bound { what: what.into(), is, least, most });
    };
    bound(
        "a million extents: times as long as reading the five copies does activation take",
        median(ratios),
        0.5,
        3.0,
    );
    bound("a million extents: bytes of memory for each", memory, 12.0, 32.0);
    machine.ok("dmsetup remove million");
    median(times)
}

/// All of it.
pub fn measure() -> Report {
    let (image, spread) = devices::million();
    let machine =
        Machine::builder().drive(&image).count_instructions().memory(4096).module().boot();
    let mut report = Report::default();
    let activation = million(&machine, spread, &mut report);
    let mut rows = Vec::new();
    let mut row = |extents, own, peer: Result<f64, String>| {
        if let (true, Ok(peer)) = (extents >= 1_000, &peer) {
            let what = format!(
                "{} extents: times as long as linear pieces does activation take",
                counted(extents)
            );
            report.bounds.push(Bound { what, is: own / peer, least: 0.0, most: 1.0 });
        }
        let peer = match peer {
            Ok(time) => seconds(time),
            Err(why) => Figure::Words(format!("fails: {why}")),
        };
        rows.push((counted(extents), vec![seconds(own), peer]));
    };
    for (n, extents) in [10, 1_000, 100_000].into_iter().enumerate() {
        let (n, spread) = (n as u32, Spread::of(extents));
        let name = format!("r{extents}");
        devices::set(&machine, &name, 1 + n, spread, 0);
        let own = devices::activate(&machine, &name);
        let peer = devices::pieces(&machine, &format!("l{extents}"), n, spread);
        assert!(peer.is_ok(), "{extents} linear pieces: {peer:?}");
        row(extents, own, peer);
    }
    row(spread.extents, activation, devices::pieces(&machine, "l1000000", 5, spread));
    report.tables.push(Table {
        name: "loads",
        title: "Seconds, of a processor that does an instruction in a nanosecond, until the device can be used".into(),
        heads: heads(&["remaps", "remap", "linear pieces"]),
        rows,
    });
    machine.shutdown();
    report
}
