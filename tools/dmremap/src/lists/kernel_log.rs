//! What the kernel says of errors of block devices: `print_req_error` in block/blk-mq.c, `buffer_io_error` in fs/buffer.c, and what
//! these were in earlier versions.
//!
//! Sectors are of 512 bytes, on the disk; a request that fails is named by its first sector that was not done.

use super::{shown, Found, Length, Place, Unit};

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    device: &'a str,
    at: u64,
    buffer: bool,
    /// Whether it says something of the medium.
    medium: bool,
}

/// Takes a line apart, if it is of an error of a block device.
pub fn line(text: &str) -> Option<Line<'_>> {
    if let Some((_, rest)) = text.split_once("Buffer I/O error on dev") {
        // Until 4.0: "on device sda1, logical block 5".
        let rest = rest.strip_prefix("ice").unwrap_or(rest);
        let (device, rest) = rest.trim_start().split_once(',')?;
        let at = leading(rest.trim_start().strip_prefix("logical block ")?)?;
        return is_name(device).then_some(Line { device, at, buffer: true, medium: true });
    }
    let (what, rest) = text.split_once("error, dev ")?;
    let (device, rest) = rest.split_once(',')?;
    let at = leading(rest.trim_start().strip_prefix("sector ")?)?;
    let what = what.trim_end();
    let medium = ["I/O", "critical medium", "critical target", "medium"]
        .iter()
        .any(|word| what.ends_with(word));
    is_name(device).then_some(Line { device, at, buffer: false, medium })
}

fn is_name(device: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_!".contains(c);
    !device.is_empty() && device.len() < 32 && device.chars().all(fits)
}

/// The number that a text begins with.
fn leading(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// What a log says. Lines of other things are nothing to tell of.
pub fn read(text: &str, block: Option<u64>) -> Found {
    let mut found = Found::default();
    let (mut lines, mut buffers) = (0, 0);
    for text in text.lines() {
        let Some(Line { device, at, buffer, medium }) = line(text) else { continue };
        lines += 1;
        if !medium {
            found.skip(format!("'{}' says nothing of the medium", shown(text.trim())));
            continue;
        }
        let (start, unit) = match (buffer, block) {
            (false, _) => (at.checked_mul(512), Unit::Bytes),
            (true, Some(block)) => (at.checked_mul(block), Unit::Bytes),
            (true, None) => (Some(at), Unit::Buffers),
        };
        let Some(start) = start else {
            found.skip(format!("'{}' is beyond the end of any device", shown(text.trim())));
            continue;
        };
        buffers += usize::from(buffer);
        // What a buffer holds failed as a whole.
        let length = match (buffer, block) {
            (true, Some(block)) => Length::Bytes(block),
            _ => Length::Point,
        };
        let place = Place { device: Some(device.into()), start, unit, length };
        if found.places.last() != Some(&place) {
            found.places.push(place);
        }
    }
    found.notes.push(format!("{lines} lines of errors of block devices"));
    if buffers > 0 && block.is_none() {
        found.notes.push(format!(
            "{buffers} of them count in blocks of the kernel's buffers, taken to be as large as the device allows; a mounted filesystem \
             with other blocks makes them different, which --block-size says"
        ));
    }
    found
}
