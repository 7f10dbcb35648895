//! I/O that goes past the page cache: what is read is what the device says, and an error belongs to the sector that has it.

use rustix::fs::{fallocate, FallocateFlags};
use rustix::io::{preadv2, pwritev2, ReadWriteFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

/// `O_DIRECT` on x86_64.
const O_DIRECT: i32 = 0o40000;
/// `O_DSYNC` on x86_64.
const O_DSYNC: i32 = 0o10000;
const ALIGN: usize = 4096;

/// That all of a buffer was read or written.
fn whole(done: usize, buffer: &Buffer) -> io::Result<()> {
    match done == buffer.bytes().len() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{done} bytes of {}", buffer.bytes().len()))),
    }
}

/// Bytes at an address that direct I/O takes.
pub struct Buffer {
    room: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Self {
        let room = vec![0; len + ALIGN];
        let start = room.as_ptr().align_offset(ALIGN);
        Buffer { room, start, len }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.len]
    }

    /// The bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.len]
    }
}

/// A block device, open for direct I/O.
pub struct Device(File);

impl Device {
    /// Opens the device; only for reading, if it is not to be written.
    pub fn open(path: &str, write: bool) -> io::Result<Self> {
        Device::open_with(path, write, O_DIRECT)
    }

    /// Opens the device so that every write is durable when it returns: the kernel sends it with FUA.
    pub fn open_durable(path: &str) -> io::Result<Self> {
        Device::open_with(path, true, O_DIRECT | O_DSYNC)
    }

    fn open_with(path: &str, write: bool, flags: i32) -> io::Result<Self> {
        let open = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
        open.map(Device).map_err(|error| match error.raw_os_error() {
            Some(_) => error,
            None => io::Error::new(error.kind(), format!("{path}: {error}")),
        })
    }

    /// Reads all of the buffer from a byte offset.
    pub fn read(&self, buffer: &mut Buffer, offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer.bytes_mut(), offset)
    }

    /// [`read`](Self::read), or an error where that would have to wait.
    pub fn read_at_once(&self, buffer: &mut Buffer, offset: u64) -> io::Result<()> {
        let mut to = [IoSliceMut::new(buffer.bytes_mut())];
        let read = preadv2(&self.0, &mut to, offset, ReadWriteFlags::NOWAIT)?;
        whole(read, buffer)
    }

    /// [`write`](Self::write), or an error where that would have to wait.
    pub fn write_at_once(&self, buffer: &Buffer, offset: u64) -> io::Result<()> {
        let from = [IoSlice::new(buffer.bytes())];
        let written = pwritev2(&self.0, &from, offset, ReadWriteFlags::NOWAIT)?;
        whole(written, buffer)
    }

    /// Writes all of the buffer at a byte offset.
    pub fn write(&self, buffer: &Buffer, offset: u64) -> io::Result<()> {
        self.0.write_all_at(buffer.bytes(), offset)
    }

    /// Has the device write zeroes, without sending them.
    pub fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::ZERO_RANGE, offset, bytes)?)
    }

    /// Tells the device that nobody needs the sectors any more.
    pub fn discard(path: &str, offset: u64, bytes: u64) -> io::Result<()> {
        // The request is an ioctl, which safe code cannot make; the tool is in every machine.
        let (offset, bytes) = (offset.to_string(), bytes.to_string());
        let mut tool = Command::new("blkdiscard");
        let output = tool.args(["-f", "-o", &offset, "-l", &bytes, path]).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Returns when the device says that everything it acknowledged is durable.
    pub fn flush(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}
