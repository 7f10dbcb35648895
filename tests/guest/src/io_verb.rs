//! `guest io`: sectors written, read and checked one request at a time, for tests that look at single I/Os.
//!
//! A sector written with a pattern holds its own number and the pattern, over and over, so that a sector that turns up in the wrong
//! place is seen.

use crate::direct::{Buffer, Device};
use std::io;

const SECTOR: usize = 512;
/// Requests are not made larger than this, well under what any device here splits.
const LARGEST: u64 = 256;

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| bad(format!("{text}: not a number")))
}

fn fill(sector: &mut [u8], number: u64, pattern: &str) {
    let text = format!("{pattern} {number}\n");
    for (byte, with) in sector.iter_mut().zip(text.bytes().cycle()) {
        *byte = with;
    }
}

/// Calls `each` for the requests that the range is done in: their first sector, and a buffer of their size.
fn requests(
    first: &str,
    count: &str,
    mut each: impl FnMut(u64, &mut Buffer) -> io::Result<()>,
) -> io::Result<()> {
    let (first, end) = (number(first)?, number(first)? + number(count)?);
    let mut at = first;
    while at < end {
        let sectors = LARGEST.min(end - at);
        each(at, &mut Buffer::new(sectors as usize * SECTOR))?;
        at += sectors;
    }
    Ok(())
}

/// Does what the arguments after `guest io` say, and returns what there is to print. An I/O error comes back as it was.
pub fn run(args: &[&str]) -> io::Result<String> {
    if let ["read", device, first, count] = args {
        let device = Device::open(device, false)?;
        let mut hash = crc32fast::Hasher::new();
        requests(first, count, |at, buffer| {
            device.read(buffer, at * SECTOR as u64)?;
            hash.update(buffer.bytes());
            Ok(())
        })?;
        return Ok(format!("{:08x}\n", hash.finalize()));
    }
    silent(args).map(|()| String::new())
}

/// Those that print nothing.
fn silent(args: &[&str]) -> io::Result<()> {
    match args {
        [verb @ ("write" | "write-durable"), device, first, count, pattern] => {
            let durable = *verb == "write-durable";
            let device =
                if durable { Device::open_durable(device) } else { Device::open(device, true) }?;
            requests(first, count, |at, buffer| {
                for (i, sector) in buffer.bytes_mut().chunks_mut(SECTOR).enumerate() {
                    fill(sector, at + i as u64, pattern);
                }
                device.write(buffer, at * SECTOR as u64)
            })
        }
        ["check", device, first, count, pattern] => {
            let device = Device::open(device, false)?;
            requests(first, count, |at, buffer| {
                device.read(buffer, at * SECTOR as u64)?;
                for (i, sector) in buffer.bytes().chunks(SECTOR).enumerate() {
                    let number = at + i as u64;
                    let mut expected = [0; SECTOR];
                    fill(&mut expected, number, pattern);
                    if sector != expected {
                        let found = String::from_utf8_lossy(&sector[..32]).into_owned();
                        return Err(bad(format!(
                            "sector {number} holds {found:?}, not {pattern:?} and its number"
                        )));
                    }
                }
                Ok(())
            })
        }
        ["check-zeroes", device, first, count] => {
            let device = Device::open(device, false)?;
            requests(first, count, |at, buffer| {
                device.read(buffer, at * SECTOR as u64)?;
                match buffer.bytes().iter().position(|&byte| byte != 0) {
                    Some(i) => Err(bad(format!("sector {} is not zero", at + (i / SECTOR) as u64))),
                    None => Ok(()),
                }
            })
        }
        [verb @ ("read-nowait" | "write-nowait"), device, first, count] => {
            let writes = *verb == "write-nowait";
            let device = Device::open(device, writes)?;
            requests(first, count, |at, buffer| match writes {
                true => device.write_at_once(buffer, at * SECTOR as u64),
                false => device.read_at_once(buffer, at * SECTOR as u64),
            })
        }
        ["zero", device, first, count] => {
            let (first, count) = (number(first)?, number(count)?);
            Device::open(device, true)?.write_zeroes(first * SECTOR as u64, count * SECTOR as u64)
        }
        ["flush", device] => Device::open(device, true)?.flush(),
        _ => Err(bad(crate::USAGE.into())),
    }
}
