//! The map file of GNU ddrescue, which it calls a log file in old versions: a line on where it is, then position, size and state of
//! each part, in bytes. `?` was not tried, `*` failed and was not trimmed, `/` failed and was not scraped, `-` failed to the last
//! sector, `+` was read (the manual of ddrescue, "Mapfile structure").

use super::{number, shown, Found, Length, Place, Unit};

/// All the states of a part.
pub const STATES: &str = "?*/-+";

/// Whether a line says where ddrescue is.
pub fn is_status(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let state = |word: &str| word.len() == 1 && "?*/-FG+".contains(word);
    matches!(words[..], [at, now] | [at, now, _] if number(at).is_some() && state(now))
}

/// What a map says; `states` are those that count as bad.
///
/// # Errors
///
/// Which line does not belong into such a file.
pub fn read(text: &str, states: &str) -> Result<Found, String> {
    if let Some(other) = states.chars().find(|state| !STATES.contains(*state)) {
        return Err(format!("'{other}' is no state of a map; there are: {STATES}"));
    }
    let mut found = Found::default();
    let mut lines = (1..).zip(text.lines()).map(|(i, line)| (i, line.trim()));
    let mut lines = lines.by_ref().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let bad = |i: usize, line: &str, why: &str| format!("line {i}: '{}' {why}", shown(line));
    match lines.next() {
        Some((_, line)) if is_status(line) => {}
        Some((i, line)) => return Err(bad(i, line, "does not say where ddrescue is")),
        None => return Err("the map is empty".into()),
    }
    let (mut end, mut sums) = (0, [0u64; STATES.len()]);
    for (i, line) in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [at, size, state] = words[..] else {
            return Err(bad(i, line, "is not position, size and state"));
        };
        let (Some(at), Some(size)) = (number(at), number(size)) else {
            return Err(bad(i, line, "has no position and size"));
        };
        let Some(kind) = STATES.find(state).filter(|_| state.len() == 1) else {
            return Err(bad(i, line, "has no state that is known"));
        };
        let behind = at.checked_add(size).filter(|_| size > 0 && at >= end);
        end = behind.ok_or_else(|| bad(i, line, "overlaps what is in front of it, or is empty"))?;
        sums[kind] = sums[kind].saturating_add(size);
        if states.contains(state) {
            let length = Length::Bytes(size);
            found.places.push(Place { device: None, start: at, unit: Unit::Bytes, length });
        }
    }
    let means = ["not tried", "failed, not trimmed", "failed, not scraped", "bad", "read"];
    for ((state, sum), means) in STATES.chars().zip(sums).zip(means) {
        if sum > 0 && state != '+' {
            let taken = if states.contains(state) { "taken" } else { "left alone" };
            found.notes.push(format!("'{state}' ({means}): {sum} bytes, {taken}"));
        }
    }
    Ok(found)
}
