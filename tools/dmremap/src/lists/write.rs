//! Lists as other programs read them.

use super::entries::Entry;
use std::io::{self, Write};

/// Numbers of the blocks of `block` bytes that hold some of the entries, each once, as badblocks(8) prints them. `shift` is the byte at
/// which the set begins. Entries are ascending.
///
/// # Errors
///
/// Those of `out`.
pub fn badblocks(out: &mut dyn Write, entries: &[Entry], shift: u64, block: u64) -> io::Result<()> {
    let mut next = 0;
    for entry in entries {
        let (start, len) = (shift + entry.start * 512, entry.len * 512);
        let first = (start / block).max(next);
        next = (start + len).div_ceil(block).max(first);
        for number in first..next {
            writeln!(out, "{number}")?;
        }
    }
    Ok(())
}

/// A map of ddrescue for a device of `bytes`, in which the entries are bad and everything else was read.
///
/// # Errors
///
/// Those of `out`.
pub fn ddrescue(out: &mut dyn Write, entries: &[Entry], shift: u64, bytes: u64) -> io::Result<()> {
    let mut parts: Vec<(u64, u64, char)> = Vec::new();
    let mut put = |start: u64, end: u64, state: char| {
        match parts.last_mut() {
            _ if start >= end => {}
            Some(last) if last.2 == state && last.1 == start => last.1 = end,
            _ => parts.push((start, end, state)),
        };
    };
    let mut at = 0;
    for entry in entries {
        let start = (shift + entry.start * 512).min(bytes);
        let end = (start + entry.len * 512).min(bytes);
        put(at, start, '+');
        put(start, end, '-');
        at = at.max(end);
    }
    put(at, bytes, '+');
    writeln!(out, "# Mapfile. Made by dmremap, as of GNU ddrescue.")?;
    writeln!(out, "# current_pos  current_status  current_pass")?;
    writeln!(out, "0x{bytes:08X}     +               1")?;
    writeln!(out, "#      pos        size  status")?;
    for (start, end, state) in parts {
        writeln!(out, "0x{start:08X}  0x{:08X}  {state}", end - start)?;
    }
    Ok(())
}
