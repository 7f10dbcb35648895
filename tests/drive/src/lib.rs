//! The nbdkit plugin behind a test drive: the model that the harness keeps, over a file, served to QEMU; and a socket on which the
//! test makes it fail. Its parameters are `file=` and `control=`, both absolute paths.

// The macro that exports the plugin has no docs.
#![allow(missing_docs)]

use nbdkit::{plugin, Error, FuaFlags, Result, Server, ThreadModel};
use remap_harness::drive::control::Command;
use remap_harness::drive::journal::{Done, Journal};
use remap_harness::drive::model::{Drive, Fault, Medium, SECTOR};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;

const EIO: i32 = 5;
const EINVAL: i32 = 22;

/// A file that holds the durable sectors, one behind the other.
struct FileMedium {
    file: File,
    path: PathBuf,
    sectors: u64,
}

impl Medium for FileMedium {
    fn sectors(&self) -> u64 {
        self.sectors
    }
    fn read(&self, sector: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, sector * SECTOR as u64)
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> io::Result<()> {
        self.file.write_all_at(from, sector * SECTOR as u64)
    }
}

/// The drive; none before it is configured and after its power is cut.
static DRIVE: Mutex<Option<Drive<FileMedium>>> = Mutex::new(None);
/// Told when a frozen drive has to be looked at again.
static CHANGED: Condvar = Condvar::new();
/// What the drive does is entered here, if anybody wants to know.
static JOURNAL: Mutex<Option<Journal>> = Mutex::new(None);
static CONTROL: OnceLock<String> = OnceLock::new();

fn drive() -> Guard {
    DRIVE.lock().unwrap_or_else(|e| e.into_inner())
}

type Guard = MutexGuard<'static, Option<Drive<FileMedium>>>;

fn wait_while_frozen(mut guard: Guard) -> Guard {
    while guard.as_ref().is_some_and(Drive::frozen) {
        guard = CHANGED.wait(guard).unwrap_or_else(|e| e.into_inner());
    }
    guard
}

/// Carries out a request for these sectors, as late as the drive's state says. `change` is what a request writes that changes
/// something, `done` how it stands in a journal.
fn request<T>(
    bytes: Range<u64>,
    change: Option<&[u8]>,
    done: impl FnOnce() -> Option<Done>,
    work: impl FnOnce(&mut Drive<FileMedium>) -> std::result::Result<T, Fault>,
) -> Result<T> {
    let sectors = bytes.start / SECTOR as u64..bytes.end.div_ceil(SECTOR as u64);
    if bytes.start % SECTOR as u64 != 0 || bytes.end % SECTOR as u64 != 0 {
        return Err(Error::new(EINVAL, "not whole sectors"));
    }
    let off = || Error::new(EIO, "the drive has no power");
    let delay = drive().as_ref().ok_or_else(off)?.delay(sectors);
    if !delay.is_zero() {
        thread::sleep(delay);
    }
    let mut guard = drive();
    let last = match (guard.as_mut(), change) {
        (Some(drive), Some(data)) => drive.count_down(data),
        _ => false,
    };
    guard = wait_while_frozen(guard);
    let mut journal = JOURNAL.lock().unwrap_or_else(|e| e.into_inner());
    let now = journal.as_ref().map(Journal::now);
    let result = work(guard.as_mut().ok_or_else(off)?);
    if let (Some(journal), Some(now), Ok(_)) = (journal.as_mut(), now, &result) {
        done().map_or(Ok(()), |done| journal.enter(now, done))?;
    }
    drop(journal);
    if let Some(drive) = guard.as_mut().filter(|_| last) {
        drive.freeze();
        drop(wait_while_frozen(guard));
    }
    result.map_err(|fault| match fault {
        Fault::Io => Error::new(EIO, "the drive fails here"),
        Fault::Invalid => Error::new(EINVAL, "outside the drive"),
    })
}

/// Does what a line on the control socket says, and gives the answer.
fn obey(line: &str) -> String {
    let mut guard = drive();
    let Some(drive) = guard.as_mut() else { return "error: the drive has no power".into() };
    let answer = match line.parse() {
        Ok(Command::Ail(sectors, ill)) => {
            drive.ail(sectors, ill);
            "ok".into()
        }
        Ok(Command::Heal(sectors)) => {
            drive.heal(sectors);
            "ok".into()
        }
        Ok(Command::Gone(gone)) => {
            drive.set_gone(gone);
            "ok".into()
        }
        Ok(Command::FailFlushes(fail)) => {
            drive.set_fail_flushes(fail);
            "ok".into()
        }
        Ok(Command::LoseFlush) => {
            drive.lose_flush();
            "ok".into()
        }
        Ok(Command::FreezeAfter(requests)) => {
            drive.freeze_after(requests);
            "ok".into()
        }
        Ok(Command::Watch(watch)) => {
            drive.watch(watch);
            "ok".into()
        }
        Ok(Command::State) => {
            let c = drive.counters();
            let frozen = u8::from(drive.frozen());
            format!(
                "ok {} {} {} {} {} {frozen} {}",
                c.reads,
                c.writes,
                c.flushes,
                c.discards,
                c.errors,
                drive.watched()
            )
        }
        Ok(Command::Ills) => {
            let ills = drive.ills().iter().map(|(range, ill)| Command::Ail(range.clone(), *ill));
            format!("ok {}", ills.map(|ill| ill.to_string()).collect::<Vec<_>>().join(";"))
        }
        Ok(Command::Journal(events)) => match keep_journal(drive, events) {
            Ok(()) => "ok".into(),
            Err(error) => format!("error: {error}"),
        },
        Ok(Command::Cut(seed)) => {
            drop(guard.take().map(|drive| drive.cut(seed)));
            "ok".into()
        }
        Ok(Command::SwitchOff) => {
            drop(guard.take().map(Drive::switch_off));
            "ok".into()
        }
        Err(error) => format!("error: {error}"),
    };
    drop(guard);
    CHANGED.notify_all();
    answer
}

/// Keeps a journal of the drive from now on.
fn keep_journal(drive: &mut Drive<FileMedium>, events: PathBuf) -> io::Result<()> {
    drive.flush().map_err(|_| io::Error::other("the drive does not flush"))?;
    let path = &drive.medium().path;
    fs::copy(path, path.with_extension("base"))?;
    let journal = Journal::new(&path.with_extension("journal"), events)?;
    *JOURNAL.lock().unwrap_or_else(|e| e.into_inner()) = Some(journal);
    Ok(())
}

fn converse(stream: UnixStream) -> io::Result<()> {
    let mut to = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        writeln!(to, "{}", obey(&line?))?;
    }
    Ok(())
}

fn zeroes(offset: u64, count: u32, fua: bool) -> Done {
    Done::Write(offset / SECTOR as u64, vec![0; count as usize], fua)
}

struct Plugin;

impl Server for Plugin {
    fn name() -> &'static str {
        "dm-remap-drive"
    }

    fn config(key: &str, value: &str) -> Result<()> {
        match key {
            "file" => {
                let file = OpenOptions::new().read(true).write(true).open(value)?;
                let sectors = file.metadata()?.len() / SECTOR as u64;
                *drive() = Some(Drive::new(FileMedium { file, path: value.into(), sectors }));
                Ok(())
            }
            "control" => {
                CONTROL.set(value.into()).map_err(|_| Error::new(EINVAL, "control= twice"))
            }
            _ => Err(Error::new(EINVAL, format!("there is no parameter {key}"))),
        }
    }

    fn after_fork() -> Result<()> {
        let path = CONTROL.get().ok_or_else(|| Error::new(EINVAL, "control= is missing"))?;
        let listener = UnixListener::bind(path)?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A test that ended in the middle of a line is not the drive's problem.
                thread::spawn(move || converse(stream));
            }
        });
        Ok(())
    }

    fn thread_model() -> Result<ThreadModel> {
        Ok(ThreadModel::Parallel)
    }

    fn open(_readonly: bool) -> Result<Box<dyn Server>> {
        Ok(Box::new(Plugin))
    }

    fn get_size(&self) -> Result<i64> {
        let sectors = drive().as_ref().map_or(0, |drive| drive.medium().sectors());
        Ok(sectors as i64 * SECTOR as i64)
    }

    fn can_write(&self) -> Result<bool> {
        Ok(true)
    }
    fn can_flush(&self) -> Result<bool> {
        Ok(true)
    }
    fn can_fua(&self) -> Result<FuaFlags> {
        Ok(FuaFlags::Native)
    }
    fn can_trim(&self) -> Result<bool> {
        Ok(true)
    }
    fn can_zero(&self) -> Result<bool> {
        Ok(true)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        request(
            offset..offset + buf.len() as u64,
            None,
            || None,
            |drive| drive.read(offset / SECTOR as u64, buf),
        )
    }

    fn write_at(&self, buf: &[u8], offset: u64, flags: nbdkit::Flags) -> Result<()> {
        let fua = flags.contains(nbdkit::Flags::FUA);
        let sector = offset / SECTOR as u64;
        let done = || Some(Done::Write(sector, buf.to_vec(), fua));
        request(offset..offset + buf.len() as u64, Some(buf), done, |drive| {
            drive.write(sector, buf, fua)
        })
    }

    fn zero(&self, count: u32, offset: u64, flags: nbdkit::Flags) -> Result<()> {
        let fua = flags.contains(nbdkit::Flags::FUA);
        let done = || Some(zeroes(offset, count, fua));
        request(offset..offset + u64::from(count), Some(&[]), done, |drive| {
            drive.write_zeroes(offset / SECTOR as u64, u64::from(count) / SECTOR as u64, fua)
        })
    }

    fn trim(&self, count: u32, offset: u64, _flags: nbdkit::Flags) -> Result<()> {
        let done = || Some(zeroes(offset, count, false));
        request(offset..offset + u64::from(count), Some(&[]), done, |drive| {
            drive.discard(offset / SECTOR as u64, u64::from(count) / SECTOR as u64)
        })
    }

    fn flush(&self) -> Result<()> {
        request(0..0, Some(&[]), || Some(Done::Flush), Drive::flush)
    }
}

plugin!(Plugin {
    config,
    after_fork,
    thread_model,
    can_write,
    can_flush,
    can_fua,
    can_trim,
    can_zero,
    write_at,
    zero,
    trim,
    flush
});
