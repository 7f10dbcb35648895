//! Drives from a test's side: made, failed, looked into and switched off by the test, served to machines by nbdkit.
//!
//! A [`Drive`] outlives the machines that it is plugged into, as a real one does. Its file holds what is durable and can be read at any
//! moment; its ill places stay ill over a power cut.

pub mod control;
pub mod journal;
pub mod model;

use crate::env::Env;
use crate::machine::Machine;
use control::Command;
use model::{Counters, Ill, Watch, SECTOR};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// A drive. Clones are the same drive.
#[derive(Clone)]
pub struct Drive(Arc<Inner>);

struct Inner {
    name: String,
    sectors: u64,
    logical: u32,
    physical: u32,
    file: PathBuf,
    sockets: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    power: Option<Power>,
    /// What stays true over a power cut: ill places, gone, flushes that fail.
    lasting: Vec<Command>,
}

/// A drive that is switched on: the server, and a conversation with it.
struct Power {
    nbdkit: Child,
    control: BufReader<UnixStream>,
}

impl Power {
    fn tell(&mut self, command: &Command) -> io::Result<String> {
        writeln!(self.control.get_mut(), "{command}")?;
        let mut answer = String::new();
        self.control.read_line(&mut answer)?;
        match answer.trim_end().strip_prefix("ok") {
            Some(rest) => Ok(rest.trim().into()),
            None => Err(io::Error::other(format!("{command}: {answer}"))),
        }
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        let _ = self.nbdkit.kill();
        let _ = self.nbdkit.wait();
    }
}

impl Drive {
    /// A drive of zeroes, with 512-byte blocks.
    pub fn blank(name: &str, sectors: u64) -> Self {
        Drive::with_blocks(name, sectors, 512, 512)
    }

    /// A drive of zeroes that tells these logical and physical block sizes.
    pub fn with_blocks(name: &str, sectors: u64, logical: u32, physical: u32) -> Self {
        let dir = Env::get().new_dir(name);
        let file = dir.join("image");
        let made = File::create(&file).and_then(|f| f.set_len(sectors * SECTOR as u64));
        made.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let sockets = Env::get().new_socket_dir();
        Drive(Arc::new(Inner {
            name: name.into(),
            sectors,
            logical,
            physical,
            file,
            sockets,
            state: Mutex::default(),
        }))
    }

    /// The name it was made with; also its serial number.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.0.sectors
    }

    /// The file of durable sectors.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    pub(crate) fn block_sizes(&self) -> (u32, u32) {
        (self.0.logical, self.0.physical)
    }

    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.0.sockets.join("nbd")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Switches the drive on, if it is off. Booting a machine does this.
    pub fn power_on(&self) {
        let mut state = self.state();
        if state.power.is_some() {
            return;
        }
        let (nbd, control) = (self.nbd_socket(), self.0.sockets.join("control"));
        let _ = fs::remove_file(&nbd);
        let _ = fs::remove_file(&control);
        let log = File::create(self.0.file.with_file_name("nbdkit.log"))
            .unwrap_or_else(|e| panic!("{e}"));
        let nbdkit = std::process::Command::new("nbdkit")
            .args(["--foreground", "--unix"])
            .arg(&nbd)
            .arg(&Env::get().plugin)
            .arg(format!("file={}", self.0.file.display()))
            .arg(format!("control={}", control.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("nbdkit: {e}"));
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&control) {
                Ok(stream) if nbd.exists() => break stream,
                _ if Instant::now() > deadline => {
                    panic!("drive {}: nbdkit did not start; see its log", self.name())
                }
                _ => thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut power = Power { nbdkit, control: BufReader::new(stream) };
        for command in &state.lasting {
            power.tell(command).unwrap_or_else(|e| panic!("drive {}: {e}", self.0.name));
        }
        state.power = Some(power);
    }

    fn tell(&self, command: Command) -> String {
        let mut state = self.state();
        match &mut state.power {
            Some(power) => {
                power.tell(&command).unwrap_or_else(|e| panic!("drive {}: {e}", self.0.name))
            }
            None => String::new(),
        }
    }

    fn tell_lasting(&self, command: Command) {
        self.state().lasting.push(command.clone());
        self.tell(command);
    }

    /// Reads and writes of these sectors fail from now on.
    pub fn fail(&self, sectors: Range<u64>) {
        self.ail(sectors, Ill { reads: true, writes: true, ..Ill::default() });
    }

    /// Reads of these sectors fail; a write does not heal them.
    pub fn fail_reads(&self, sectors: Range<u64>) {
        self.ail(sectors, Ill { reads: true, ..Ill::default() });
    }

    /// Writes, discards and write zeroes of these sectors fail.
    pub fn fail_writes(&self, sectors: Range<u64>) {
        self.ail(sectors, Ill { writes: true, ..Ill::default() });
    }

    /// The first so many requests that write these sectors fail, later ones do not.
    pub fn fail_writes_times(&self, sectors: Range<u64>, times: u64) {
        self.ail(sectors, Ill { writes: true, times, ..Ill::default() });
    }

    /// Reads of these sectors fail until a write of whole physical blocks heals them; a smaller write of such a block fails.
    pub fn fail_until_written(&self, sectors: Range<u64>) {
        let heals = u64::from(self.0.physical) / SECTOR as u64;
        self.ail(sectors, Ill { reads: true, heals, ..Ill::default() });
    }

    /// Every request that touches these sectors takes this long.
    pub fn slow_down(&self, sectors: Range<u64>, delay: Duration) {
        self.ail(sectors, Ill { delay, ..Ill::default() });
    }

    /// Requests that touch these sectors fail or wait from now on, over power cuts too.
    pub fn ail(&self, sectors: Range<u64>, ill: Ill) {
        self.tell_lasting(Command::Ail(sectors, ill));
    }

    /// These sectors are well again.
    pub fn heal(&self, sectors: Range<u64>) {
        self.tell_lasting(Command::Heal(sectors));
    }

    /// What is ill now, and how. The drive has to be on.
    pub fn ills(&self) -> Vec<(Range<u64>, Ill)> {
        let mut state = self.state();
        self.ask_for_ills(&mut state);
        let ail = |command: &Command| match command {
            Command::Ail(sectors, ill) => Some((sectors.clone(), *ill)),
            _ => None,
        };
        state.lasting.iter().filter_map(ail).collect()
    }

    /// Keeps what is ill as it is now: requests may have changed it since the test said so.
    fn ask_for_ills(&self, state: &mut State) {
        let Some(power) = &mut state.power else { return };
        let told =
            power.tell(&Command::Ills).unwrap_or_else(|e| panic!("drive {}: {e}", self.0.name));
        state.lasting.retain(|c| !matches!(c, Command::Ail(..) | Command::Heal(_)));
        let ills = told.split(';').filter(|text| !text.is_empty());
        state
            .lasting
            .extend(ills.map(|text| text.parse().unwrap_or_else(|e: String| panic!("{e}"))));
    }

    /// Takes the whole drive away (every request fails), or brings it back.
    pub fn set_gone(&self, gone: bool) {
        self.tell_lasting(Command::Gone(gone));
    }

    /// Makes every flush fail, or succeed again.
    pub fn set_fail_flushes(&self, fail: bool) {
        self.tell_lasting(Command::FailFlushes(fail));
    }

    /// Has the next flush fail, and what it was to make durable be lost: as of a drive that cannot write it, says so once, and has forgotten it.
    pub fn lose_flush(&self) {
        self.tell(Command::LoseFlush);
    }

    /// The drive stops answering when that many more writes, flushes and discards have come in; that last one is not carried out.
    /// With [`Drive::wait_frozen`] and a power cut, every point of a sequence of writes can be visited.
    pub fn freeze_after(&self, requests: u64) {
        self.tell(Command::FreezeAfter(Some(requests)));
    }

    /// From now on the drive counts some writes, and may stop answering at one of them.
    pub fn watch(&self, watch: Watch) {
        self.tell(Command::Watch(watch));
    }

    /// How many writes have come in that it watches for.
    pub fn watched(&self) -> u64 {
        self.query().2
    }

    /// Whether the drive has stopped answering.
    pub fn is_frozen(&self) -> bool {
        self.query().1
    }

    /// Lets a frozen drive go on.
    pub fn thaw(&self) {
        self.tell(Command::FreezeAfter(None));
    }

    /// Waits until the drive has stopped answering; false when it did not in that time.
    pub fn wait_frozen(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.is_frozen() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// What was asked of the drive since it was switched on.
    pub fn counters(&self) -> Counters {
        self.query().0
    }

    /// Has the drive keep a journal from now on, with the events of that machine. Returns what is on it now, and where the journal is.
    pub fn keep_journal(&self, machine: &Machine) -> (Vec<u8>, PathBuf) {
        self.tell(Command::Journal(machine.events_path().into()));
        let base = self.file().with_extension("base");
        let content = fs::read(&base).unwrap_or_else(|e| panic!("{}: {e}", base.display()));
        let _ = fs::remove_file(base);
        (content, self.file().with_extension("journal"))
    }

    fn query(&self) -> (Counters, bool, u64) {
        let answer = self.tell(Command::State);
        let numbers: Vec<u64> =
            answer.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [reads, writes, flushes, discards, errors, frozen, watched] => {
                (Counters { reads, writes, flushes, discards, errors }, frozen == 1, watched)
            }
            _ => panic!("the drive does not say how it is: {answer}"),
        }
    }

    /// Cuts the drive's power: what was not flushed is lost, kept or torn as the seed decides.
    pub fn cut(&self, seed: u64) {
        self.ask_for_ills(&mut self.state());
        self.tell(Command::Cut(seed));
        self.state().power = None;
    }

    /// Switches the drive off with everything durable.
    pub fn switch_off(&self) {
        self.ask_for_ills(&mut self.state());
        self.tell(Command::SwitchOff);
        self.state().power = None;
    }

    /// Reads durable sectors, while a machine runs or after a cut. Ill places read like others: this looks at the medium itself.
    pub fn durable(&self, sectors: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (sectors.end - sectors.start) as usize * SECTOR];
        let read = File::open(self.file())
            .and_then(|f| f.read_exact_at(&mut bytes, sectors.start * SECTOR as u64));
        read.unwrap_or_else(|e| panic!("{}: {e}", self.file().display()));
        bytes
    }

    /// Changes the medium itself, past cache and ills. The drive has to be off, or the machine not looking.
    pub fn scribble(&self, sector: u64, bytes: &[u8]) {
        let written = File::options()
            .write(true)
            .open(self.file())
            .and_then(|f| f.write_all_at(bytes, sector * SECTOR as u64));
        written.unwrap_or_else(|e| panic!("{}: {e}", self.file().display()));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.sockets);
        // The image of a test that failed is evidence.
        if !thread::panicking() {
            let _ = fs::remove_file(&self.file);
        }
    }
}
