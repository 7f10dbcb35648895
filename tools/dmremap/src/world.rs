//! What a verb takes from the world around it: a person's word, the time, chance.

use crate::live::{value, Live, Mapper};
use crate::{text, Failure};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use remap_pure::format::SetUuid;
use rustix::fs::{flock, FlockOperation};
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is not to outlive the machine.
const RUN: &str = "/run/dmremap";

/// How long one who gives a set a table, or changes the configuration, waits for another.
const TURN: Duration = Duration::from_secs(60);

/// Asks on the terminal whether to go on, unless that was said before.
///
/// # Errors
///
/// That nobody agreed, or there is no terminal to ask on.
pub fn agree(said: bool) -> Result<(), Failure> {
    if said {
        return Ok(());
    }
    if !can_ask() {
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

/// Whether there is somebody to ask. Programs of an initramfs have the console as standard input, where nobody sees a question that is
/// not written to it.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Does something that must not be left half-done: Ctrl-C, a closed terminal and an order to end wait until it is over.
pub fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|s| signals.add(s));
    // With signals that cannot be put off it is as good as it was.
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let result = work();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    result
}

/// Waits until nobody else assembles this set, or loads another table for it, and keeps others from it until what it gives is dropped: device
/// mapper has one place for a table that is loaded. Nobody waits for ever, or where there is no place for the lock: the other one may have a
/// question to a person, and the kernel lets only one have the devices. So who loads a table looks afterwards at what came of it.
pub fn take_turn(set: &SetUuid) -> Option<File> {
    lock(&set.to_string())
}

/// Waits until nobody else has the lock of that name, and has it until what this gives is dropped; not for ever, and not where there is no
/// place for it.
pub fn lock(name: &str) -> Option<File> {
    fs::create_dir_all(RUN).ok()?;
    let path = format!("{RUN}/{name}.lock");
    let lock =
        File::options().write(true).create(true).truncate(false).mode(0o600).open(path).ok()?;
    let end = Instant::now() + TURN;
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > end {
            return None;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Some(lock)
}

/// The same, for a set in use.
pub fn take_turn_of(mapper: &Mapper, live: &Live) -> Option<File> {
    let status = mapper.message(live, "metadata_status").ok()?;
    take_turn(&SetUuid::parse(value(&status, "set")?)?)
}

/// Gives a set in use another table, unless it has changed since it was looked at. Where that fails it has its own again.
///
/// # Errors
///
/// With what the kernel says of it, and what the set has then.
pub fn exchange(mapper: &Mapper, live: &Live, sectors: u64, line: &str) -> Result<(), Failure> {
    let _turn = take_turn_of(mapper, live);
    let now = mapper.find(&live.name)?;
    if (now.device, now.sectors, &now.line) != (live.device, live.sectors, &live.line) {
        return Err(format!("{} has changed meanwhile; nothing was done, begin again", live.name));
    }
    undisturbed(|| {
        mapper.reload(live, sectors, line).map_err(|failure| {
            // What has failed after the old table was gone leaves the device without one.
            match mapper.reload(live, live.sectors, &live.line) {
                Ok(()) => format!("{failure}\n{} is as it was", live.name),
                Err(again) => format!("{failure}\n{} could not be put back: {again}", live.name),
            }
        })
    })
}

/// Has the kernel look at all of the metadata of a set in use, and waits for its verdict.
///
/// # Errors
///
/// What it has found.
pub fn check_complete(mapper: &Mapper, live: &Live) -> Result<(), Failure> {
    mapper.message(live, "check complete")?;
    // A long table is looked at when the message has returned.
    loop {
        let status = mapper.message(live, "metadata_status")?;
        if status.lines().any(|line| line == "running check complete") {
            thread::sleep(Duration::from_millis(200));
            continue;
        }
        // The last that ended stands last.
        let ended =
            status.lines().filter_map(|line| line.strip_prefix("ended check complete ")).last();
        return match ended {
            None | Some("ok") => Ok(()),
            Some(_) => Err(value(&status, "last_error").unwrap_or("the check failed").to_owned()),
        };
    }
}

/// Ctrl-C and orders to end, as something that is looked at now and then, for as long as this is there.
pub struct Signals(SignalFd, Option<SigSet>);

impl Signals {
    /// From now on they are kept.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn caught() -> Result<Self, Failure> {
        let mut signals = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM].into_iter().for_each(|s| signals.add(s));
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok();
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&signals, flags).map_err(|e| format!("signals: {e}"))?;
        Ok(Self(fd, before))
    }

    /// Whether one has come since this was last asked.
    pub fn came(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Some(before) = &self.1 {
            let _ = before.thread_set_mask();
        }
    }
}
