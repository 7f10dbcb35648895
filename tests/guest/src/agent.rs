//! The agent: runs commands and moves files for the host, as many at a time as the host asks for.

use crate::steps;
use remap_guest::wire::{Frame, Kind, AGENT_PORT, CHUNK};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long the host may take to name its ports.
const PORTS_NAMED: Duration = Duration::from_secs(60);

/// Opens the virtio serial port of that name. The driver makes a port first and learns its name from
/// the host afterwards, so on a busy host a port has no name, or no node, for a while.
pub fn open_port(name: &str) -> io::Result<File> {
    let deadline = Instant::now() + PORTS_NAMED;
    loop {
        match open_named(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn open_named(name: &str) -> io::Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|n| n.trim() == name) {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio port named {name}")))
}

/// The port, written by many threads, a whole frame at a time.
#[derive(Clone)]
struct Port {
    file: Arc<File>,
    writing: Arc<Mutex<()>>,
}

impl Port {
    fn send(&self, kind: Kind, id: u32, payload: &[u8]) {
        let _turn = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        // When the host is gone the machine is about to be, too.
        let _ = Frame::new(kind, id, payload).write(&mut &*self.file);
    }
}

/// Process groups of the commands that run.
type Running = Arc<Mutex<HashMap<u32, u32>>>;

/// Serves the host until the machine ends.
pub fn serve() -> io::Result<()> {
    let port = Port { file: Arc::new(open_port(AGENT_PORT)?), writing: Arc::default() };
    let running = Running::default();
    let mut puts: HashMap<u32, io::Result<File>> = HashMap::new();
    port.send(Kind::Ready, 0, &[]);
    loop {
        let frame = Frame::read(&mut &*port.file)?;
        let text = || String::from_utf8_lossy(&frame.payload).into_owned();
        match frame.kind {
            Kind::Run => {
                let (port, running, command) = (port.clone(), running.clone(), text());
                thread::spawn(move || run(&port, &running, frame.id, &command));
            }
            Kind::Steps => {
                let (port, steps) = (port.clone(), text());
                thread::spawn(move || {
                    let (said, status) = steps::take(&steps);
                    port.send(Kind::Stdout, frame.id, said.as_bytes());
                    if let Err((status, text)) = &status {
                        port.send(Kind::Stderr, frame.id, text.as_bytes());
                        port.send(Kind::Exit, frame.id, &status.to_le_bytes());
                    } else {
                        port.send(Kind::Exit, frame.id, &0i32.to_le_bytes());
                    }
                });
            }
            Kind::Kill => {
                let group =
                    running.lock().unwrap_or_else(|e| e.into_inner()).get(&frame.id).copied();
                if let Some(group) = group {
                    let _ = Command::new("kill").args(["-KILL", &format!("-{group}")]).status();
                }
            }
            Kind::Put => drop(puts.insert(frame.id, File::create(text()))),
            Kind::Data => {
                if let Some(put) = puts.get_mut(&frame.id) {
                    if let Err(error) =
                        put.as_mut().map_or(Ok(()), |file| file.write_all(&frame.payload))
                    {
                        *put = Err(error);
                    }
                }
            }
            Kind::End => {
                let result = match puts.remove(&frame.id) {
                    Some(Err(error)) => error.to_string(),
                    _ => String::new(),
                };
                port.send(Kind::End, frame.id, result.as_bytes());
            }
            Kind::Get => {
                let (port, path) = (port.clone(), text());
                thread::spawn(move || {
                    let result = File::open(&path)
                        .and_then(|file| forward(&port, Kind::Data, frame.id, file));
                    port.send(
                        Kind::End,
                        frame.id,
                        result.err().map_or(String::new(), |e| format!("{path}: {e}")).as_bytes(),
                    );
                });
            }
            Kind::Ready | Kind::Stdout | Kind::Stderr | Kind::Exit => {}
        }
    }
}

fn forward(port: &Port, kind: Kind, id: u32, mut from: impl Read) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => port.send(kind, id, &buffer[..n]),
        }
    }
}

fn run(port: &Port, running: &Running, id: u32, command: &str) {
    let status = (|| -> io::Result<i32> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that a kill reaches what the shell started.
            .process_group(0)
            .spawn()?;
        running.lock().unwrap_or_else(|e| e.into_inner()).insert(id, child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            scope.spawn(|| stderr.map(|from| forward(port, Kind::Stderr, id, from)));
            stdout.map(|from| forward(port, Kind::Stdout, id, from));
        });
        let status = child.wait()?;
        Ok(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)))
    })();
    running.lock().unwrap_or_else(|e| e.into_inner()).remove(&id);
    let status = status.unwrap_or_else(|error| {
        port.send(Kind::Stderr, id, format!("agent: {error}").as_bytes());
        127
    });
    port.send(Kind::Exit, id, &status.to_le_bytes());
}
