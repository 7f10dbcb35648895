//! What the agent does itself, for tests that ask for it thousands of times: steps, one a line.
//!
//! | step | does |
//! |---|---|
//! | `create NAME SECTORS LINE...` | makes a device with a table of the target under test; what fails leaves nothing behind |
//! | `load NAME SECTORS LINE...`, `clear NAME` | loads such a table, or forgets it |
//! | `suspend NAME`, `resume NAME`, `reload NAME`, `remove NAME` | the same as `dmsetup`; `reload` is load, suspend and resume of the table in use |
//! | `recreate NAME` | removes the device and makes it anew with that table |
//! | `message NAME WORD...`, `table NAME`, `status NAME` | the same, and gives the answer |
//! | `idle NAME` | waits until the device has no job |
//! | `io ...` | the same as `guest io` |
//! | `store DEVICE START SECTORS FILE`, `restore DEVICE START FILE` | keeps what stands there, and has it stand there again |
//! | `put FILE TEXT`, `get FILE` | writes a file, or gives what it holds |
//! | `settle FILE TEXT MILLISECONDS` | waits until a file holds this, but not for longer |
//! | `wait MILLISECONDS` | waits |
//! | `until MILLISECONDS STEP...` | takes a step again and again until it gives something, but not for longer |
//! | `try STEP...` | takes a step that may fail |
//! | `either STEP... or STEP...` | takes the second step when the first fails |

use crate::direct::{Buffer, Device};
use crate::io_verb;
use crate::mapper::Mapper;
use remap_guest::load::SECTOR;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// How long a device may have a job.
const BUSY: Duration = Duration::from_secs(300);

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| bad(format!("{text}: not a number")))
}

/// Takes the steps until one fails. Returns what they said; and of one that failed its errno, or 255, and a text.
pub fn take(steps: &str) -> (String, Result<(), (i32, String)>) {
    let mut said = String::new();
    let mapper = Mapper::open();
    for line in steps.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = match &mapper {
            Ok(mapper) => step(mapper, &words),
            Err(error) => Err(bad(format!("device mapper: {error}"))),
        };
        match result {
            Ok(text) => said += &text,
            Err(error) => {
                let status = error.raw_os_error().unwrap_or(255);
                return (said, Err((status, format!("{line}: {error}\n"))));
            }
        }
    }
    (said, Ok(()))
}

fn step(mapper: &Mapper, words: &[&str]) -> io::Result<String> {
    let silent = |result: io::Result<()>| result.map(|()| String::new());
    match words {
        ["create", name, sectors, line @ ..] => {
            silent(mapper.create(name, number(sectors)?, &line.join(" ")))
        }
        ["load", name, sectors, line @ ..] => {
            silent(mapper.load(name, number(sectors)?, &line.join(" ")))
        }
        ["clear", name] => silent(mapper.clear(name)),
        ["suspend", name] => silent(mapper.suspend(name, false)),
        ["resume", name] => silent(mapper.resume(name)),
        ["reload", name] => silent(mapper.reload(name)),
        ["remove", name] => silent(mapper.remove(name)),
        ["recreate", name] => {
            let (sectors, line) = mapper.table(name)?;
            mapper.remove(name)?;
            silent(mapper.create(name, sectors, &line))
        }
        ["store", device, start, sectors, file] => {
            let mut buffer = Buffer::new(number(sectors)? as usize * SECTOR);
            Device::open(device, false)?.read(&mut buffer, number(start)? * SECTOR as u64)?;
            silent(fs::write(file, buffer.bytes()))
        }
        ["restore", device, start, file] => {
            let bytes = fs::read(file)?;
            let mut buffer = Buffer::new(bytes.len());
            buffer.bytes_mut().copy_from_slice(&bytes);
            silent(Device::open(device, true)?.write(&buffer, number(start)? * SECTOR as u64))
        }
        ["message", name, message @ ..] => mapper.message(name, &message.join(" ")),
        ["table", name] => mapper.table(name).map(|(_, line)| line + "\n"),
        ["status", name] => mapper.status(name).map(|line| line + "\n"),
        ["idle", name] => silent(idle(mapper, name)),
        ["io", rest @ ..] => io_verb::run(rest),
        ["put", file, text @ ..] => silent(fs::write(file, text.join(" "))),
        ["get", file] => fs::read_to_string(file),
        ["settle", file, text, millis] => {
            let end = Instant::now() + Duration::from_millis(number(millis)?);
            while fs::read_to_string(file)?.trim() != *text && Instant::now() < end {
                thread::sleep(Duration::from_millis(2));
            }
            Ok(String::new())
        }
        ["wait", millis] => {
            thread::sleep(Duration::from_millis(number(millis)?));
            Ok(String::new())
        }
        ["until", millis, step @ ..] => {
            let end = Instant::now() + Duration::from_millis(number(millis)?);
            loop {
                let answer = self::step(mapper, step)?;
                if !answer.is_empty() || Instant::now() >= end {
                    return Ok(answer);
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        ["try", step @ ..] => {
            self::step(mapper, step).or_else(|e| failed(e).map(|_| String::new()))
        }
        ["either", rest @ ..] => {
            let at = rest.iter().position(|word| *word == "or");
            let (first, second) = rest.split_at(at.unwrap_or(rest.len()));
            step(mapper, first).or_else(|e| {
                failed(e).and_then(|_| step(mapper, second.get(1..).unwrap_or_default()))
            })
        }
        _ => Err(bad("no such step".into())),
    }
}

/// A step may fail because the kernel says so, but not because there is no such step, or because of what was read.
fn failed(error: io::Error) -> io::Result<()> {
    error.raw_os_error().map(|_| ()).ok_or(error)
}

fn idle(mapper: &Mapper, name: &str) -> io::Result<()> {
    let end = Instant::now() + BUSY;
    loop {
        let status = mapper.status(name)?;
        if status.contains(" jobs=0 ") {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("it stays busy: {status}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
