//! A journal of a drive: what was written and flushed, in order, with when that was and what was known then.
//!
//! An entry is taken under the drive's lock just before the request is carried out, so the entries of a drive are in the order in which
//! it did them; those of several drives are put in order by their times. An entry also has the length that the machine's file of events had:
//! whatever stands in that part of the file had happened before the request was carried out.

use super::model::SECTOR;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a request did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It wrote these bytes from that sector on; durable with FUA.
    Write(u64, Vec<u8>, bool),
    /// It made durable what was written before.
    Flush,
}

/// One request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When that began: nanoseconds since 1970.
    pub time: u64,
    /// Bytes of events that there were.
    pub events: u64,
    /// What it did.
    pub done: Done,
}

const HEAD: usize = 33;

impl Entry {
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, sector, data): (u8, u64, &[u8]) = match &self.done {
            Done::Write(sector, data, fua) => (1 + u8::from(*fua), *sector, data),
            Done::Flush => (0, 0, &[]),
        };
        let mut bytes = vec![kind];
        for number in [self.time, self.events, sector, data.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(data);
        bytes
    }

    /// The next entry; none at the end, or where a writer was ended in the middle of one.
    ///
    /// # Errors
    ///
    /// Those of reading, and for what is no journal.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut read = |bytes: &mut [u8]| match from.read_exact(bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            result => result.map(|()| true),
        };
        let mut head = [0; HEAD];
        if !read(&mut head)? {
            return Ok(None);
        }
        let field =
            |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[1 + i * 8 + byte]));
        let (sector, len) = (field(2), field(3) as usize);
        if head[0] > 2 || len % SECTOR != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a journal"));
        }
        let mut data = vec![0; len];
        if !read(&mut data)? {
            return Ok(None);
        }
        let done = match head[0] {
            0 => Done::Flush,
            kind => Done::Write(sector, data, kind == 2),
        };
        Ok(Some(Entry { time: field(0), events: field(1), done }))
    }
}

/// A journal that is being kept.
pub struct Journal {
    to: File,
    events: PathBuf,
}

impl Journal {
    /// A new one, in a file. `events` is the machine's file of events.
    ///
    /// # Errors
    ///
    /// Those of making the file.
    pub fn new(file: &Path, events: PathBuf) -> io::Result<Self> {
        Ok(Self { to: File::create(file)?, events })
    }

    /// What is known now, before a request is carried out.
    pub fn now(&self) -> (u64, u64) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let events = fs::metadata(&self.events).map_or(0, |file| file.len());
        (time.as_nanos() as u64, events)
    }

    /// Enters a request that was carried out.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn enter(&mut self, (time, events): (u64, u64), done: Done) -> io::Result<()> {
        self.to.write_all(&Entry { time, events, done }.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_and_one_that_was_cut_is_the_end() {
        let entries = [
            Entry { time: 1, events: 2, done: Done::Write(3, vec![4; 1024], true) },
            Entry { time: 5, events: 6, done: Done::Flush },
            Entry { time: 7, events: 8, done: Done::Write(9, vec![1; 512], false) },
        ];
        let bytes: Vec<u8> = entries.iter().flat_map(Entry::to_bytes).collect();
        let mut from = &bytes[..];
        for entry in &entries {
            assert_eq!(Entry::read(&mut from).unwrap().as_ref(), Some(entry));
        }
        assert_eq!(Entry::read(&mut from).unwrap(), None);
        let mut from = &bytes[..bytes.len() - 1];
        let whole = std::iter::from_fn(|| Entry::read(&mut from).unwrap()).count();
        assert_eq!(whole, 2);
        assert!(Entry::read(&mut &[7; 64][..]).is_err());
    }
}
