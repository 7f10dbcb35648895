//! Devices read and written past the page cache, where something else changes what is on them.

use super::MOVE;
use crate::Failure;
use remap_pure::units::SECTOR_SIZE;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Sectors that are compared and written as one: no logical block is larger.
pub const UNIT: u64 = 8;

/// A device that is read and written past the page cache.
pub struct Direct {
    file: File,
    memory: Vec<u8>,
}

impl Direct {
    /// Opens it.
    pub fn open(path: &str, write: bool) -> Result<Self, Failure> {
        let flags = OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
        let file = file.map_err(|e| format!("{path}: {e}"))?;
        Ok(Self { file, memory: vec![0; (MOVE * 2) as usize * SECTOR_SIZE] })
    }

    /// Reads some sectors from there on.
    pub fn read(&mut self, at: u64, sectors: u64) -> io::Result<&[u8]> {
        let room = aligned(&mut self.memory, sectors)?;
        self.file.read_exact_at(room, at * SECTOR_SIZE as u64)?;
        Ok(room)
    }

    /// Writes whole sectors there.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let room = aligned(&mut self.memory, (bytes.len() / SECTOR_SIZE) as u64)?;
        room.copy_from_slice(bytes);
        self.file.write_all_at(room, at * SECTOR_SIZE as u64)
    }

    /// Makes what was written durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Memory for so many sectors, at an address that every device takes.
fn aligned(memory: &mut [u8], sectors: u64) -> io::Result<&mut [u8]> {
    let skip = memory.as_ptr().align_offset(UNIT as usize * SECTOR_SIZE);
    let room = memory.get_mut(skip..skip + sectors as usize * SECTOR_SIZE);
    room.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
