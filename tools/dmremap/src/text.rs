//! How things are written for people.

use crate::Failure;
use remap_pure::commit::Metadata;
use remap_pure::line::is_name;
use remap_pure::recovery::{Found, Slot};
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

/// Writes to standard output. A reader that has seen enough is no failure.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {e}")),
        _ => Ok(()),
    }
}

/// Writes JSON to standard output, for programs.
///
/// # Errors
///
/// With a text for a person.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(|out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        writeln!(out)
    })
}

/// A size in sectors with what that is in the unit that people use.
pub fn sectors(sectors: u64) -> String {
    format!("{sectors} sectors ({})", size(sectors))
}

/// A size in sectors in the unit that people use.
pub fn size(sectors: u64) -> String {
    let bytes = sectors as f64 * 512.0;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = (bytes.max(1.0).log2() / 10.0) as usize;
    let power = power.min(units.len() - 1);
    format!("{:.1} {}", bytes / 1024f64.powi(power as i32), units[power])
}

/// A time in seconds since 1970, in UTC.
pub fn time(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    // The last year that the calendar of these libraries has.
    match time.filter(|_| seconds < 253_402_300_800) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => format!("{seconds} s after 1970"),
    }
}

/// What was found in the place of a copy's header.
pub fn slot(slot: &Slot) -> String {
    match &slot.found {
        Found::Header(header) => {
            let committed = header.raw().version.committed.get();
            format!(
                "version {} of history {:016x}, {}",
                header.version(),
                header.history(),
                time(committed)
            )
        }
        Found::Mark(set, _) => format!("the creation of set {set}, cut short"),
        Found::Not(error) => error.to_string(),
        Found::Unreadable(error) => format!("cannot be read ({error})"),
    }
}

/// How a set is named to a person.
pub fn set(meta: &Metadata) -> String {
    let (uuid, name) = (meta.header().uuid(), meta.header().name());
    if name.is_empty() {
        format!("set {uuid}")
    } else {
        format!("set {uuid} ({name})")
    }
}

/// Makes sure that a set can have this name.
///
/// # Errors
///
/// What names are like.
pub fn check_name(name: &str) -> Result<(), Failure> {
    match is_name(name) {
        true => Ok(()),
        false => Err(format!(
            "a name has 1 to 63 letters, digits, or characters of +-._; '{name}' has not"
        )),
    }
}
