//! badblocks(8): a number of a block to a line.

use super::{shown, Found, Length, Place, Unit};

/// What a list of blocks of `block` bytes says.
///
/// # Errors
///
/// Which line is no number.
pub fn read(text: &str, block: u64) -> Result<Found, String> {
    let mut found = Found::default();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why| format!("line {}: '{}' {why}", i + 1, shown(line));
        let digits = line.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| line.parse::<u64>().ok()).flatten();
        let number = number.ok_or_else(|| bad("is no number of a block"))?;
        let start = number.checked_mul(block).filter(|start| start.checked_add(block).is_some());
        let start = start.ok_or_else(|| bad("is beyond the end of any device"))?;
        match runs.last_mut() {
            Some((first, len)) if *first + *len == start => *len += block,
            _ => runs.push((start, block)),
        }
    }
    found.places = runs
        .into_iter()
        .map(|(start, len)| Place {
            device: None,
            start,
            unit: Unit::Bytes,
            length: Length::Bytes(len),
        })
        .collect();
    found.notes.push(format!("blocks of {block} bytes, as `badblocks -b {block}` counts"));
    Ok(found)
}
