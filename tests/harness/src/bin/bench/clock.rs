//! How fast devices are by the clock, on one processor and on two.
//!
//! The machine below is shared, and its clock with it. So each figure is the median of a few short runs, and devices are run in turn: what is
//! compared was measured within seconds.

use crate::devices::{self, Place, Spread, MAIN, MIB};
use remap_harness::report::{median, Bound, Figure, Report, Table};
use remap_harness::{Image, Machine};
use serde_json::Value;
use std::time::Duration;

/// Rounds of everything, and of what says how two processors scale.
const ROUNDS: usize = 3;
const SCALING_ROUNDS: usize = 9;

/// Milliseconds of a run, but for its start.
const RUN: u64 = 400;

/// What one run of `fio` says.
#[derive(Clone, Copy)]
struct Seen {
    /// I/Os in a second.
    rate: f64,
    /// Half of them took no more than so many nanoseconds,
    middle: f64,
    /// and 99 of 100 no more than so many.
    late: f64,
}

struct Device {
    what: &'static str,
    path: String,
    spread: Spread,
    place: Place,
}

impl Device {
    fn run(&self, machine: &Machine, operation: &str, kib: u64, cpus: u64) -> Seen {
        let command = format!(
            "fio --name=bench --filename={} --direct=1 --ioengine=psync --rw=rand{operation} --bs={kib}k --norandommap --randrepeat=1 {} \
             --numjobs={cpus} --cpus_allowed=0-{} --cpus_allowed_policy=split --thread --group_reporting --time_based --ramp_time=50ms \
             --runtime={RUN}ms --output-format=json 2>&1",
            self.path,
            self.spread.area(self.place),
            cpus - 1
        );
        let output = machine.run_for(&command, Duration::from_secs(120));
        let text = output.stdout;
        let json = text.find('{').and_then(|at| serde_json::from_str::<Value>(&text[at..]).ok());
        let error = json.as_ref().and_then(|json| json["jobs"][0]["error"].as_i64());
        assert_eq!((output.status, error), (0, Some(0)), "{command}\n{text}");
        let job = json.map(|json| json["jobs"][0][operation].clone()).unwrap_or_default();
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{command}\n{text}"));
        let percentile = |of: &str| number(&job["clat_ns"]["percentile"][of]);
        Seen {
            rate: number(&job["iops"]),
            middle: percentile("50.000000"),
            late: percentile("99.000000"),
        }
    }
}

/// The machine, and the devices in it. The first is what misses are compared with, the second what hits are.
fn machine() -> (Machine, Vec<Device>) {
    let (image, million) = devices::million();
    let machine = Machine::builder().drive(&image).cpus(2).memory(2048).module().boot();
    let under = devices::spare(&machine, "spare", 2, 1024, Image::METADATA_SECTORS, 0);
    let linear = devices::linear(&machine, "linear", &devices::null(&machine, 1, MAIN / MIB));
    let linear_spare = devices::linear(&machine, "linear-spare", &under);
    let (none, thousand) = (Spread::of(0), Spread::of(1_000));
    let empty = devices::active(&machine, "none", 0, none).path();
    let some = devices::active(&machine, "thousand", 1, thousand).path();
    let many = devices::active(&machine, "million", 5, million).path();
    let device =
        |what, path: &str, spread, place| Device { what, path: path.into(), spread, place };
    let all = vec![
        device("linear, over such a main", &linear, none, Place::Miss),
        device("linear, over such a spare", &linear_spare, none, Place::Hit),
        device("remap, nothing remapped", &empty, none, Place::Miss),
        device("remap, 1,000 extents, a miss", &some, thousand, Place::Miss),
        device("remap, 1,000 extents, a hit", &some, thousand, Place::Hit),
        device("remap, a million extents, a miss", &many, million, Place::Miss),
        device("remap, a million extents, a hit", &many, million, Place::Hit),
    ];
    (machine, all)
}

/// Operation, KiB and processors.
fn cases() -> impl Iterator<Item = (&'static str, u64, u64)> {
    let sizes = |operation| [4, 64, 1024].map(|kib| (operation, kib));
    let both = ["read", "write"].into_iter().flat_map(sizes);
    both.flat_map(|(operation, kib)| [1, 2].map(|cpus| (operation, kib, cpus)))
}

/// How many I/Os a device does in a second, and how long they take.
pub fn rates() -> Report {
    let (machine, mut all) = machine();
    let thousand = Spread::of(1_000);
    devices::pieces(&machine, "pieces", 1, thousand)
        .unwrap_or_else(|why| panic!("a table of linear pieces: {why}"));
    let more = [
        ("linear pieces, 1,000 remaps, a miss", "/dev/mapper/pieces", thousand, Place::Miss),
        ("linear pieces, 1,000 remaps, a hit", "/dev/mapper/pieces", thousand, Place::Hit),
        (
            "md RAID1, over two such mains",
            &devices::mirror(&machine, 0),
            Spread::of(0),
            Place::Miss,
        ),
    ];
    all.extend(more.map(|(what, path, spread, place)| Device {
        what,
        path: path.into(),
        spread,
        place,
    }));
    let names = || all.iter().map(|device| (device.what.to_string(), Vec::new()));
    let mut reads: Vec<(String, Vec<Figure>)> = names().collect();
    let (mut writes, mut waits) = (reads.clone(), reads.clone());
    let mut heads = vec![String::new()];
    let mut wait_heads = heads.clone();
    for (operation, kib, cpus) in cases() {
        let mut seen = vec![Vec::new(); all.len()];
        for _ in 0..ROUNDS {
            for (device, seen) in all.iter().zip(&mut seen) {
                seen.push(device.run(&machine, operation, kib, cpus));
            }
        }
        let processors = if cpus == 1 { "1 CPU" } else { "2 CPUs" };
        let of = |n: usize, what: fn(&Seen) -> f64| median(seen[n].iter().map(what).collect());
        let rates = if operation == "read" { &mut reads } else { &mut writes };
        for (n, (_, figures)) in rates.iter_mut().enumerate() {
            figures.push(Figure::Number(of(n, |seen| seen.rate), 0));
        }
        if operation == "read" {
            let size =
                if kib < 1024 { format!("{kib} KiB") } else { format!("{} MiB", kib / 1024) };
            heads.push(format!("{size}, {processors}"));
        }
        if kib == 4 {
            wait_heads.push(format!("{operation}, {processors}: half"));
            wait_heads.push("99 of 100".into());
            for (n, (_, figures)) in waits.iter_mut().enumerate() {
                figures.push(Figure::Number(of(n, |seen| seen.middle) / 1000.0, 1));
                figures.push(Figure::Number(of(n, |seen| seen.late) / 1000.0, 1));
            }
        }
    }
    machine.shutdown();
    let table = |name, title: &str, heads: &Vec<String>, rows| Table {
        name,
        title: title.into(),
        heads: heads.clone(),
        rows,
    };
    let tables = vec![
        table("read-rates", "Reads in a second, one at a time for each processor", &heads, reads),
        table("write-rates", "Writes in a second, likewise", &heads, writes),
        table(
            "waits",
            "Microseconds that half, and 99 of 100, of the 4 KiB ones take at most",
            &wait_heads,
            waits,
        ),
    ];
    Report { tables, bounds: Vec::new() }
}

/// How many times as much two processors do as one, beside what they do with `linear`. Each run has one of `linear` next to it, and
/// what is said of a device is the median of what the pairs say.
pub fn scaling() -> Report {
    let (machine, all) = machine();
    let (peers, own) = all.split_at(2);
    let mut seen = vec![Vec::new(); own.len()];
    let rate = |device: &Device, cpus| device.run(&machine, "read", 4, cpus).rate;
    for _ in 0..SCALING_ROUNDS {
        for (device, seen) in own.iter().zip(&mut seen) {
            let peer = &peers[usize::from(device.place == Place::Hit)];
            let one = [rate(peer, 1), rate(device, 1)];
            let two = [rate(peer, 2), rate(device, 2)];
            seen.push([two[0] / one[0], two[1] / one[1]]);
        }
    }
    machine.shutdown();
    let number = |value| Figure::Number(value, 2);
    let (mut rows, mut bounds) = (Vec::new(), Vec::new());
    for (device, seen) in own.iter().zip(seen) {
        let of = |what: fn(&[f64; 2]) -> f64| median(seen.iter().map(what).collect());
        let ratio = of(|[peer, own]| own / peer);
        let figures = [of(|[_, own]| *own), of(|[peer, _]| *peer), ratio];
        rows.push((device.what.to_string(), figures.map(number).to_vec()));
        let what = format!("{}: gain of a second CPU beside that of linear", device.what);
        bounds.push(Bound { what, is: ratio, least: 0.9, most: 1.1 });
    }
    let table = Table {
        name: "scaling",
        title: "How many times as many 4 KiB reads two CPUs do as one".into(),
        heads: ["", "two for one", "linear", "ratio"].map(String::from).to_vec(),
        rows,
    };
    Report { tables: vec![table], bounds }
}
