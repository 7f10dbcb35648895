//! Other people's programs: run without a shell, and only for so long.

use rustix::process::{kill_process_group, Pid, Signal};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// The most that is kept of what a program prints.
const KEPT: u64 = 16 << 20;

/// How long what a program has printed is waited for when it has ended: something that it left running may hold its output open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a program has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Its exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it printed to standard error.
    pub err: String,
}

impl Ended {
    /// Nothing if it succeeded.
    ///
    /// # Errors
    ///
    /// How it failed, and the first line of what it said.
    pub fn success(&self) -> Result<(), String> {
        let how = match self.status {
            Some(0) => return Ok(()),
            Some(status) => format!("failed with status {status}"),
            None => "was ended by a signal".into(),
        };
        match self.err.lines().chain(self.out.lines()).find(|line| !line.trim().is_empty()) {
            Some(line) => Err(format!("{how}: {}", line.trim())),
            None => Err(how),
        }
    }
}

/// Runs a program with `input` on its standard input. What has not ended after `patience` is killed, with all that it started in its
/// process group.
///
/// # Errors
///
/// It cannot be started, or did not end.
pub fn run(command: &mut Command, input: &[u8], patience: Duration) -> Result<Ended, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.process_group(0).spawn().map_err(|e| format!("{name}: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program may not want to read it.
        thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                kill(&mut child);
                return Err(format!("{name}: did not end within {} s", patience.as_secs()));
            }
            Err(e) => return Err(format!("{name}: {e}")),
        }
    };
    let text = |from: Receiver<Vec<u8>>| {
        String::from_utf8_lossy(&from.recv_timeout(LAST_WORDS).unwrap_or_default()).into_owned()
    };
    Ok(Ended { status: status.code(), out: text(out), err: text(err) })
}

fn kill(child: &mut Child) {
    // What cannot be killed has ended.
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (to, from) = channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error counts; what is too much is read and dropped, so that the program can end.
            let _ = pipe.by_ref().take(KEPT).read_to_end(&mut text);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        // Nobody may be waiting any more.
        let _ = to.send(text);
    });
    from
}
