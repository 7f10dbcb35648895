//! Sectors that describe themselves, and the events of a load that a power cut may end.
//!
//! Each write of a load has a sequence number, and every sector that it writes says which load, which sector and which write it
//! belongs to. So whoever reads a sector later knows what it is, and the host, which was told of every write and flush before it
//! began and after it ended, knows whether it may be there.

use std::io::{self, Read};
use std::ops::Range;

/// Bytes in a sector.
pub const SECTOR: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"dmremap!");
/// Magic, load, sector, write, and a CRC-32 over the whole sector with that field zero.
const HEAD: usize = 36;

/// What a sector turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Nothing but zeroes.
    Zero,
    /// What this write of the load put there.
    Write(u64),
    /// Content of another sector, or of another load.
    Misplaced,
    /// Neither zeroes nor a sector of a load.
    Garbage,
    /// It could not be read.
    Error,
}

impl Found {
    /// As a number, for a file of them.
    pub fn to_code(self) -> u64 {
        match self {
            Found::Zero => 0,
            Found::Write(seq) => seq,
            Found::Misplaced => u64::MAX,
            Found::Garbage => u64::MAX - 1,
            Found::Error => u64::MAX - 2,
        }
    }

    /// What [`Found::to_code`] made a number of.
    pub fn from_code(code: u64) -> Self {
        match code {
            0 => Found::Zero,
            u64::MAX => Found::Misplaced,
            code if code == u64::MAX - 1 => Found::Garbage,
            code if code == u64::MAX - 2 => Found::Error,
            seq => Found::Write(seq),
        }
    }
}

/// Fills a sector with what write `seq` of the load `seed` puts at that place.
pub fn fill(sector: &mut [u8], seed: u64, number: u64, seq: u64) {
    for (field, value) in sector.chunks_exact_mut(8).zip([MAGIC, seed, number, seq]) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    let mut state = seed ^ number.rotate_left(32) ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in &mut sector[HEAD..] {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    sector[32..HEAD].fill(0);
    let crc = crc32fast::hash(sector);
    sector[32..HEAD].copy_from_slice(&crc.to_le_bytes());
}

/// Says what a sector holds.
pub fn identify(sector: &[u8], seed: u64, number: u64) -> Found {
    if sector.iter().all(|byte| *byte == 0) {
        return Found::Zero;
    }
    let field = |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| sector[i * 8 + byte]));
    let mut crc = crc32fast::Hasher::new();
    crc.update(&sector[..32]);
    crc.update(&[0; 4]);
    crc.update(&sector[HEAD..]);
    if field(0) != MAGIC || crc.finalize().to_le_bytes() != sector[32..HEAD] {
        return Found::Garbage;
    }
    if (field(1), field(2)) != (seed, number) {
        return Found::Misplaced;
    }
    Found::Write(field(3))
}

/// What a load tells the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Write `seq` of these sectors is about to be sent. With `zero` it writes zeroes.
    Issue {
        /// Its number.
        seq: u64,
        /// Where it writes.
        sector: u64,
        /// How many sectors.
        count: u32,
        /// Whether it writes zeroes.
        zero: bool,
    },
    /// Write `seq` was acknowledged; if `durable`, it was sent with FUA.
    Ack {
        /// Its number.
        seq: u64,
        /// Whether it is on the medium.
        durable: bool,
    },
    /// Write `seq` ended with an error.
    Fail {
        /// Its number.
        seq: u64,
        /// Whether it was sent with FUA.
        durable: bool,
    },
    /// Discard `seq` of these sectors is about to be sent. It is acknowledged or fails as a write does, but promises nothing.
    Discard {
        /// Its number.
        seq: u64,
        /// Where it discards.
        sector: u64,
        /// How many sectors.
        count: u32,
    },
    /// A flush is about to be sent.
    FlushBegin {
        /// Its number, of a count of its own.
        flush: u64,
    },
    /// That flush was acknowledged.
    FlushEnd {
        /// Its number.
        flush: u64,
    },
    /// A read ended with an error.
    ReadError {
        /// The first sector of the read.
        sector: u64,
    },
    /// A read found something else than the last acknowledged write.
    Bad {
        /// The sector.
        sector: u64,
        /// What was there, as [`Found::to_code`].
        found: u64,
        /// The write that should have been there.
        expected: u64,
    },
    /// A message is about to be sent.
    Ask {
        /// Its number, of those that there are to be sent.
        number: u64,
    },
    /// That message was answered.
    Answer {
        /// Its number.
        number: u64,
        /// 0 where all went well.
        errno: u64,
    },
}

/// Size of an event on the wire.
pub const EVENT: usize = 28;

impl Event {
    /// That write or discard `seq` has ended.
    pub fn ended(seq: u64, ok: bool, durable: bool) -> Self {
        if ok {
            Event::Ack { seq, durable }
        } else {
            Event::Fail { seq, durable }
        }
    }

    /// As bytes.
    pub fn to_bytes(self) -> [u8; EVENT] {
        let (kind, a, b, c) = match self {
            Event::Issue { seq, sector, count, zero } => {
                (if zero { 2 } else { 1 }, seq, sector, u64::from(count))
            }
            Event::Discard { seq, sector, count } => (10, seq, sector, u64::from(count)),
            Event::Ack { seq, durable } => (if durable { 4 } else { 3 }, seq, 0, 0),
            Event::Fail { seq, durable } => (if durable { 13 } else { 5 }, seq, 0, 0),
            Event::FlushBegin { flush } => (6, flush, 0, 0),
            Event::FlushEnd { flush } => (7, flush, 0, 0),
            Event::ReadError { sector } => (8, sector, 0, 0),
            Event::Bad { sector, found, expected } => (9, sector, found, expected),
            Event::Ask { number } => (11, number, 0, 0),
            Event::Answer { number, errno } => (12, number, errno, 0),
        };
        let mut bytes = [0; EVENT];
        bytes[..4].copy_from_slice(&u32::to_le_bytes(kind));
        for (field, value) in bytes[4..].chunks_exact_mut(8).zip([a, b, c]) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads the next event. An end in the middle of one, as a power cut leaves it, is the end.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; EVENT];
        match from.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let field =
            |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[4 + i * 8 + byte]));
        let (a, b, c) = (field(0), field(1), field(2));
        Ok(Some(match bytes[0] {
            kind @ (1 | 2) => Event::Issue { seq: a, sector: b, count: c as u32, zero: kind == 2 },
            kind @ (3 | 4) => Event::Ack { seq: a, durable: kind == 4 },
            kind @ (5 | 13) => Event::Fail { seq: a, durable: kind == 13 },
            6 => Event::FlushBegin { flush: a },
            7 => Event::FlushEnd { flush: a },
            8 => Event::ReadError { sector: a },
            9 => Event::Bad { sector: a, found: b, expected: c },
            10 => Event::Discard { seq: a, sector: b, count: c as u32 },
            11 => Event::Ask { number: a },
            12 => Event::Answer { number: a, errno: b },
            _ => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an event of unknown kind"))
            }
        }))
    }
}

/// Where a load writes, as `FIRST+COUNT,FIRST+COUNT...` in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions(pub Vec<Range<u64>>);

impl Regions {
    /// How many sectors there are in all.
    pub fn sectors(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// Every sector in them.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().cloned().flatten()
    }
}

impl std::fmt::Display for Regions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: Vec<String> =
            self.0.iter().map(|r| format!("{}+{}", r.start, r.end - r.start)).collect();
        f.write_str(&text.join(","))
    }
}

impl std::str::FromStr for Regions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let region = |part: &str| {
            let (first, count) = part.split_once('+')?;
            let (first, count): (u64, u64) = (first.parse().ok()?, count.parse().ok()?);
            Some(first..first.checked_add(count)?)
        };
        let regions = text.split(',').map(region).collect::<Option<Vec<_>>>();
        regions.map(Regions).ok_or_else(|| format!("{text}: not regions like 0+1024,4096+8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_says_what_it_is() {
        let mut sector = [0; SECTOR];
        assert_eq!(identify(&sector, 1, 7), Found::Zero);
        fill(&mut sector, 1, 7, 99);
        assert_eq!(identify(&sector, 1, 7), Found::Write(99));
        assert_eq!(identify(&sector, 1, 8), Found::Misplaced);
        assert_eq!(identify(&sector, 2, 7), Found::Misplaced);
        for byte in [0, 33, 100, 511] {
            let mut damaged = sector;
            damaged[byte] ^= 1;
            assert_eq!(identify(&damaged, 1, 7), Found::Garbage);
        }
    }

    #[test]
    fn events_survive_the_port_and_a_cut_in_the_middle_of_one() {
        let events = [
            Event::Issue { seq: 1, sector: 8, count: 16, zero: false },
            Event::Issue { seq: 2, sector: 8, count: 16, zero: true },
            Event::Discard { seq: 3, sector: 8, count: 16 },
            Event::Ack { seq: 1, durable: true },
            Event::Fail { seq: 2, durable: true },
            Event::Fail { seq: 4, durable: false },
            Event::FlushBegin { flush: 1 },
            Event::FlushEnd { flush: 1 },
            Event::ReadError { sector: 3 },
            Event::Ask { number: 4 },
            Event::Answer { number: 4, errno: 22 },
            Event::Bad { sector: 1, found: 2, expected: 3 },
        ];
        let mut bytes: Vec<u8> = events.iter().flat_map(|e| e.to_bytes()).collect();
        bytes.truncate(bytes.len() - 1);
        let mut rest = &bytes[..];
        for event in &events[..11] {
            assert_eq!(Event::read(&mut rest).unwrap().as_ref(), Some(event));
        }
        assert_eq!(Event::read(&mut rest).unwrap(), None);
    }

    #[test]
    fn regions_are_written_as_they_are_read() {
        let regions: Regions = "0+1024,4096+8".parse().unwrap();
        assert_eq!((regions.to_string().as_str(), regions.sectors()), ("0+1024,4096+8", 1032));
        assert!("7".parse::<Regions>().is_err());
    }
}
