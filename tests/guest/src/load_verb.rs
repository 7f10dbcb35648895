//! `guest load` and `guest scan`: writes that a power cut may end, and a look at what is left of them.

use crate::agent::open_port;
use crate::direct::{Buffer, Device};
use crate::mapper::Mapper;
use crate::rng::Rng;
use remap_guest::load::{fill, identify, Event, Found, Regions, SECTOR};
use remap_guest::wire::EVENT_PORT;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

/// Settings given as `key=value`.
struct Settings<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Settings<'a> {
    fn new(args: &[&'a str], known: &[&str]) -> io::Result<Self> {
        let split = |arg: &&'a str| {
            let pair = arg.split_once('=').filter(|(key, _)| known.contains(key));
            pair.ok_or_else(|| bad(format!("{arg}: none of {}", known.join("= "))))
        };
        args.iter().map(split).collect::<io::Result<_>>().map(Settings)
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|pair| pair.0 == key).map(|pair| pair.1)
    }

    fn number(&self, key: &str, default: u64) -> io::Result<u64> {
        self.text(key).map_or(Ok(default), |text| {
            text.parse().map_err(|_| bad(format!("{key}={text}: not a number")))
        })
    }

    fn regions(&self) -> io::Result<Regions> {
        self.text("regions").ok_or_else(|| bad("regions= is missing"))?.parse().map_err(bad)
    }
}

/// What the threads of a load share.
struct Load<'a> {
    path: &'a str,
    device: Device,
    /// The same device, where every write is durable when it returns.
    durable: Device,
    seed: u64,
    regions: Regions,
    /// Sectors of a logical block.
    block: u64,
    /// Sectors of the largest write.
    largest: u64,
    port: Mutex<Port>,
    /// What is being written or read. No two of these overlap, so that every sector has one order of writes.
    busy: Mutex<Vec<Range<u64>>>,
    /// Last acknowledged write of each sector, and whether it was zeroes; none where a write failed, until the next one.
    last: Mutex<HashMap<u64, Option<(u64, bool)>>>,
    flushes: AtomicU64,
    problems: AtomicU64,
}

struct Port {
    to: File,
    /// Writes get their numbers in the order in which they are announced.
    next: u64,
}

impl Port {
    fn tell(&mut self, event: Event) -> io::Result<()> {
        // The port takes all of it: what is announced before an I/O is with the host before the I/O begins.
        self.to.write_all(&event.to_bytes())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Load<'_> {
    fn tell(&self, event: Event) -> io::Result<()> {
        lock(&self.port).tell(event)
    }

    /// Some blocks that nothing else is busy with. They stay taken until [`Load::let_go`].
    fn take(&self, rng: &mut Rng) -> Range<u64> {
        loop {
            let region = &self.regions.0[rng.below(self.regions.0.len() as u64) as usize];
            let blocks = (region.end - region.start) / self.block;
            // Small ones most of the time, large ones now and then.
            let most = if rng.below(4) == 0 { self.largest / self.block } else { 4 };
            let count = (1 + rng.below(most.max(1))).min(blocks);
            let first = region.start + rng.below(blocks - count + 1) * self.block;
            let range = first..first + count * self.block;
            let mut busy = lock(&self.busy);
            if busy.iter().all(|other| other.end <= range.start || range.end <= other.start) {
                busy.push(range.clone());
                return range;
            }
        }
    }

    fn let_go(&self, range: &Range<u64>) {
        lock(&self.busy).retain(|other| other != range);
    }

    fn write(&self, rng: &mut Rng) -> io::Result<()> {
        let range = self.take(rng);
        let (fua, zero) = (rng.below(16) == 0, rng.below(24) == 0);
        let count = (range.end - range.start) as u32;
        let seq = {
            let mut port = lock(&self.port);
            let seq = port.next;
            port.next += 1;
            port.tell(Event::Issue { seq, sector: range.start, count, zero })?;
            seq
        };
        let offset = range.start * SECTOR as u64;
        let durable = fua && !zero;
        let result = if zero {
            self.device.write_zeroes(offset, u64::from(count) * SECTOR as u64)
        } else {
            let mut buffer = Buffer::new(count as usize * SECTOR);
            for (sector, number) in buffer.bytes_mut().chunks_mut(SECTOR).zip(range.clone()) {
                fill(sector, self.seed, number, seq);
            }
            if durable { &self.durable } else { &self.device }.write(&buffer, offset)
        };
        {
            let mut last = lock(&self.last);
            for sector in range.clone() {
                last.insert(sector, result.is_ok().then_some((seq, zero)));
            }
        }
        self.tell(Event::ended(seq, result.is_ok(), durable))?;
        self.let_go(&range);
        Ok(())
    }

    fn discard(&self, rng: &mut Rng) -> io::Result<()> {
        let range = self.take(rng);
        let count = (range.end - range.start) as u32;
        let seq = {
            let mut port = lock(&self.port);
            let seq = port.next;
            port.next += 1;
            port.tell(Event::Discard { seq, sector: range.start, count })?;
            seq
        };
        // From here on there may be zeroes, or what was there.
        lock(&self.last).extend(range.clone().map(|sector| (sector, None)));
        let offset = range.start * SECTOR as u64;
        let result = Device::discard(self.path, offset, u64::from(count) * SECTOR as u64);
        self.tell(Event::ended(seq, result.is_ok(), false))?;
        self.let_go(&range);
        Ok(())
    }

    fn read(&self, rng: &mut Rng) -> io::Result<()> {
        let range = self.take(rng);
        let mut buffer = Buffer::new((range.end - range.start) as usize * SECTOR);
        if self.device.read(&mut buffer, range.start * SECTOR as u64).is_err() {
            self.tell(Event::ReadError { sector: range.start })?;
        } else {
            for (bytes, sector) in buffer.bytes().chunks(SECTOR).zip(range.clone()) {
                let found = identify(bytes, self.seed, sector);
                let expected = lock(&self.last).get(&sector).copied();
                let right = match expected {
                    Some(Some((seq, zero))) => {
                        found == if zero { Found::Zero } else { Found::Write(seq) }
                    }
                    // Not written by this run, by a write that failed, or discarded: anything of this load is right.
                    _ => matches!(found, Found::Zero | Found::Write(_)),
                };
                if !right {
                    self.problems.fetch_add(1, Ordering::Relaxed);
                    let expected = expected.flatten().map_or(0, |(seq, _)| seq);
                    self.tell(Event::Bad { sector, found: found.to_code(), expected })?;
                    eprintln!("sector {sector} holds {found:?}, not write {expected}");
                }
            }
        }
        self.let_go(&range);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let flush = self.flushes.fetch_add(1, Ordering::Relaxed);
        self.tell(Event::FlushBegin { flush })?;
        if self.device.flush().is_ok() {
            self.tell(Event::FlushEnd { flush })?;
        }
        Ok(())
    }

    /// Sends the mapped device the messages in a file, line by line, each so long after the answer to the one before; `reload` loads its table
    /// anew.
    fn ask(&self, file: &str, pause: Duration, end: Instant) -> io::Result<()> {
        let mapper = Mapper::open()?;
        let name = self.path.rsplit('/').next().unwrap_or_default();
        for (number, line) in (0..).zip(fs::read_to_string(file)?.lines()) {
            if Instant::now() >= end {
                break;
            }
            self.tell(Event::Ask { number })?;
            let answer = match line {
                "reload" => mapper.reload(name),
                message => mapper.message(name, message).map(|_| ()),
            };
            let errno = match answer {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().map_or(u64::MAX, |errno| errno as u64),
            };
            self.tell(Event::Answer { number, errno })?;
            thread::sleep(pause);
        }
        Ok(())
    }
}

/// Writes, reads and flushes until the time or the number of operations is over, telling the host of all of it.
pub fn load(device: &str, args: &[&str]) -> io::Result<()> {
    let settings = Settings::new(
        args,
        &[
            "seed",
            "seq",
            "regions",
            "threads",
            "seconds",
            "operations",
            "block",
            "largest",
            "discards",
            "messages",
            "pause",
        ],
    )?;
    let seed = settings.number("seed", 1)?;
    let discards = settings.number("discards", 0)? != 0;
    let load = Load {
        path: device,
        device: Device::open(device, true)?,
        durable: Device::open_durable(device)?,
        seed,
        regions: settings.regions()?,
        block: settings.number("block", 1)?,
        largest: settings.number("largest", 256)?,
        port: Mutex::new(Port {
            to: open_port(EVENT_PORT)?,
            next: settings.number("seq", 1)?.max(1),
        }),
        busy: Mutex::default(),
        last: Mutex::default(),
        flushes: AtomicU64::new(0),
        problems: AtomicU64::new(0),
    };
    let end = Instant::now() + Duration::from_secs(settings.number("seconds", 3600)?);
    let left = AtomicU64::new(settings.number("operations", u64::MAX)?);
    let first = load.port.lock().map_or(0, |port| port.next);
    let work = |thread: u64| -> io::Result<()> {
        let mut rng = Rng(seed ^ first.rotate_left(32) ^ thread.rotate_left(48));
        while Instant::now() < end
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
        {
            match rng.below(20) {
                0 => load.flush()?,
                1 if discards && rng.below(4) == 0 => load.discard(&mut rng)?,
                1..=5 => load.read(&mut rng)?,
                _ => load.write(&mut rng)?,
            }
        }
        Ok(())
    };
    let pause = Duration::from_millis(settings.number("pause", 50)?);
    let messages = settings.text("messages");
    thread::scope(|scope| {
        let mut threads: Vec<_> =
            (0..settings.number("threads", 6)?).map(|n| scope.spawn(move || work(n))).collect();
        threads.extend(messages.map(|file| scope.spawn(|| load.ask(file, pause, end))));
        threads
            .into_iter()
            .try_for_each(|t| t.join().unwrap_or_else(|_| Err(bad("a thread panicked"))))
    })?;
    match load.problems.into_inner() {
        0 => Ok(()),
        n => Err(bad(format!("{n} sectors held something else than was written last"))),
    }
}

/// Reads every sector of the regions and writes down what it holds, 8 bytes each.
pub fn scan(device: &str, args: &[&str]) -> io::Result<()> {
    let settings = Settings::new(args, &["seed", "regions", "block", "out"])?;
    let device = Device::open(device, false)?;
    let (seed, block) = (settings.number("seed", 1)?, settings.number("block", 1)?);
    let mut out =
        BufWriter::new(File::create(settings.text("out").ok_or_else(|| bad("out= is missing"))?)?);
    let read = |range: Range<u64>, out: &mut BufWriter<File>, narrow: bool| -> io::Result<bool> {
        let mut buffer = Buffer::new((range.end - range.start) as usize * SECTOR);
        if let Err(error) = device.read(&mut buffer, range.start * SECTOR as u64) {
            if narrow {
                return Ok(false);
            }
            eprintln!("sector {}: {error}", range.start);
            range.clone().try_for_each(|_| out.write_all(&Found::Error.to_code().to_le_bytes()))?;
            return Ok(true);
        }
        for (bytes, sector) in buffer.bytes().chunks(SECTOR).zip(range) {
            out.write_all(&identify(bytes, seed, sector).to_code().to_le_bytes())?;
        }
        Ok(true)
    };
    for region in settings.regions()?.0 {
        for first in region.clone().step_by(256) {
            let range = first..region.end.min(first + 256);
            if !read(range.clone(), &mut out, true)? {
                for first in range.clone().step_by(block as usize) {
                    read(first..first + block, &mut out, false)?;
                }
            }
        }
    }
    out.flush()
}
