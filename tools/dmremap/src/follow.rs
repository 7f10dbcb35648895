//! Waiting for what the kernel does: for device mapper's events, for Ctrl-C, for the end of a move.

use crate::live::{Live, Mapper};
use crate::Failure;
use dmremap::draw::has_unicode;
use dmremap::state::{Running, State};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs;
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Ctrl-C, and being told to end, as something that is waited for: nothing is cut off in the middle. A program that is started from
/// here hears them as ever.
pub struct Interrupt(SignalFd);

/// Why a wait is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Somebody wants an end.
    Interrupt,
    /// Device mapper has an event, of whatever device.
    Event,
    /// The time is over.
    Time,
}

impl Interrupt {
    /// From now on signals that ask for an end are kept for [`wait`](Self::wait), in this thread and in those that it starts.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn catch() -> Result<Self, Failure> {
        let mut set = SigSet::empty();
        // Who begins a program in the background may have it ignore them, which it does not when they are held back.
        let ignored = ignored_signals();
        [Signal::SIGINT, Signal::SIGTERM]
            .into_iter()
            .filter(|signal| ignored & (1 << (*signal as u32 - 1)) == 0)
            .for_each(|signal| set.add(signal));
        set.thread_block().map_err(|e| format!("signals cannot be held back: {e}"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&set, flags).map_err(|e| format!("signals: {e}"))?;
        Ok(Self(fd))
    }

    /// Waits for an end to be asked for, an event since [`Mapper::arm`], or so long.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn wait(&self, mapper: &Mapper, time: Duration) -> Result<Wake, Failure> {
        let until = Instant::now() + time;
        loop {
            let mut fds = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(mapper.events(), PollFlags::POLLIN),
            ];
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(format!("cannot wait: {e}")),
                Ok(_) => {}
            }
            let ready = fds.map(|fd| fd.any().unwrap_or(false));
            if ready[0] && matches!(self.0.read_signal(), Ok(Some(_))) {
                return Ok(Wake::Interrupt);
            }
            if ready[1] {
                return Ok(Wake::Event);
            }
            if Instant::now() >= until {
                return Ok(Wake::Time);
            }
        }
    }
}

/// The signals that are ignored, a bit each, the first for signal 1 (proc_pid_status(5)).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// How something that was followed has come to its end.
#[derive(Debug)]
pub struct Followed {
    /// What the kernel said of the message that began it.
    pub message: Result<String, Failure>,
    /// Whether somebody wanted an end, and the kernel was told to stop.
    pub stopped: bool,
    /// How the set was afterwards.
    pub state: State,
}

/// Sends a message, which may wait for what it begins, and follows what it begins to its end, with a bar of `what`. `is` says which
/// of the things that run is meant. Ctrl-C tells the kernel to stop.
///
/// # Errors
///
/// That the set went away, or that somebody did not want to wait for the stop.
pub fn follow(
    mapper: &Mapper,
    live: &Live,
    message: Option<&str>,
    what: &str,
    is: impl Fn(&Running) -> bool,
) -> Result<Followed, Failure> {
    let interrupt = Interrupt::catch()?;
    // A thread of its own, as the kernel answers some messages only when the work is done.
    let mut sender = message.map(|message| {
        let (live, message) = (live.clone(), message.to_owned());
        thread::spawn(move || Mapper::open()?.message(&live, &message))
    });
    let bar = bar(what);
    let mut stopped = false;
    loop {
        let sent = sender.as_ref().is_none_or(JoinHandle::is_finished);
        // What happens from here on ends the wait.
        mapper.arm()?;
        let state = State::parse(&mapper.message(live, "metadata_status")?);
        let running = state.running.iter().find(|running| is(running));
        if let Some((done, all)) = running.and_then(|running| running.done) {
            bar.set_length(all);
            bar.set_position(done);
        }
        if sent && running.is_none() {
            bar.finish_and_clear();
            let message = match sender.take() {
                Some(sender) => sender.join().map_err(|_| "a thread has failed")?,
                None => Ok(String::new()),
            };
            return Ok(Followed { message, stopped, state });
        }
        let pause = if running.is_none() { 20 } else { 250 };
        if interrupt.wait(mapper, Duration::from_millis(pause))? == Wake::Interrupt {
            if stopped {
                bar.abandon();
                return Err(format!(
                    "not waited for any longer; 'dmremap status {}' shows what runs",
                    live.name
                ));
            }
            stopped = true;
            bar.set_message(format!("{what}: stopping"));
        }
        // What was not yet there when it was first told to stop is told again.
        if stopped {
            mapper.message(live, "stop")?;
        }
    }
}

/// A bar on the terminal; nothing where there is none.
pub fn bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = "{msg} [{bar:30}] {percent}%, {pos} of {len} sectors, {eta} left";
    let chars = if has_unicode() { "█▌░" } else { "#>-" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars(chars));
    }
    bar.set_message(what.to_owned());
    bar
}
