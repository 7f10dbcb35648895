//! The line on which QEMU is told what to do with a machine that runs: QMP, as its own manual has it.

use serde_json::{json, Value};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// One such line.
pub(crate) struct Qmp {
    from: BufReader<UnixStream>,
    to: UnixStream,
}

impl Qmp {
    /// Takes the line up. Nothing that QEMU is asked may take longer than this.
    pub(crate) fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        let mut qmp = Qmp { from: BufReader::new(stream.try_clone()?), to: stream };
        qmp.message()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn message(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Has a command done and returns what it answers. What QEMU tells unasked in between is passed over.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        writeln!(self.to, "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// Asks until the answer's field `status` is this.
    pub(crate) fn wait_for_status(
        &mut self,
        command: &str,
        status: &str,
        deadline: Instant,
    ) -> io::Result<()> {
        loop {
            let answer = self.execute(command, json!({}))?;
            if answer["status"] == status {
                return Ok(());
            }
            if answer["status"] == "failed" || Instant::now() > deadline {
                return Err(io::Error::other(format!("{command}: {answer}, not {status}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
