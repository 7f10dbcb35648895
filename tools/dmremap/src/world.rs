//! What a verb takes from the world around it: a person's word, the time, chance.

use crate::{text, Failure};
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::time::{SystemTime, UNIX_EPOCH};

/// Asks on the terminal whether to go on, unless that was said before.
///
/// # Errors
///
/// That nobody agreed, or there is no terminal to ask on.
pub fn agree(said: bool) -> Result<(), Failure> {
    if said {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(
            "nothing was changed: there is no terminal to ask on; --yes does it unasked".into()
        );
    }
    text::print(|out| write!(out, "Go on? [y/N] "))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|e| format!("standard input: {e}"))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err("nothing was changed".into()),
    }
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Random bytes.
///
/// # Errors
///
/// The kernel's source of them cannot be read.
pub fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| format!("/dev/urandom: {e}"))?;
    Ok(bytes)
}
