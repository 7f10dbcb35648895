//! Machines: one QEMU each, with the stock kernel, the module under test in its initramfs, and an agent that does what the test says.

use crate::boot::Builder;
use crate::debug;
use crate::drive::Drive;
use crate::env::patience;
use crate::qmp::Qmp;
use crate::rng::Rng;
use remap_guest::wire::{Frame, Kind, CHUNK};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a command may take that is given no time of its own. Long, because two machines without hardware help share two cores
/// with whatever else runs there.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many times as long a machine with systemd may take to go down, and to say something.
const SYSTEMD: u32 = 5;

/// What the kernel says when something is wrong with it, whatever that is.
const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "INFO: task ",
    "rcu: INFO:",
    "detected stall",
    "self-detected stall",
    "soft lockup",
    "hard LOCKUP",
    "UBSAN:",
    "KASAN:",
    "KFENCE:",
    "scheduling while atomic",
    "sleeping function called",
    "possible recursive locking",
    "possible circular locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "corrupted list",
    "rust_kernel:",
    "Bad page state",
    "ODEBUG:",
    "non-static key",
    "Redzone overwritten",
    "Poison overwritten",
    "pagealloc: ",
    "turning off the locking correctness validator",
    "still has objects",
    "Objects remaining",
];

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status, or minus the signal that ended it.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

/// Hands the agent's answers to those who wait for them, until the machine is gone; then nobody is left waiting.
pub(crate) fn dispatch(mut from: UnixStream, waiting: &Mutex<HashMap<u32, Sender<Frame>>>) {
    while let Ok(frame) = Frame::read(&mut from) {
        let mut waiting = waiting.lock().unwrap_or_else(|e| e.into_inner());
        let last = matches!(frame.kind, Kind::Exit | Kind::End | Kind::Ready);
        let id = frame.id;
        if let Some(to) = waiting.get(&id) {
            // Someone who stopped waiting does not want it.
            let _ = to.send(frame);
        }
        if last {
            waiting.remove(&id);
        }
    }
    waiting.lock().unwrap_or_else(|e| e.into_inner()).clear();
}

/// A machine that runs. It is switched off when dropped.
pub struct Machine {
    pub(crate) qemu: Child,
    pub(crate) drives: Vec<Drive>,
    pub(crate) systemd: bool,
    pub(crate) dir: PathBuf,
    pub(crate) sockets: PathBuf,
    pub(crate) console: PathBuf,
    pub(crate) agent: Option<Mutex<UnixStream>>,
    pub(crate) control: UnixListener,
    pub(crate) qmp: Option<Qmp>,
    pub(crate) waiting: Arc<Mutex<HashMap<u32, Sender<Frame>>>>,
    pub(crate) next: AtomicU32,
    pub(crate) events: PathBuf,
    pub(crate) allowed: Mutex<Vec<String>>,
    pub(crate) over: bool,
}

impl Machine {
    /// A machine of two processors and no drive, to be changed.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn patience(&self) -> Duration {
        patience(PATIENCE * if self.systemd { SYSTEMD } else { 1 })
    }

    pub(crate) fn accept(&mut self, listener: &UnixListener, deadline: Instant) -> UnixStream {
        listener.set_nonblocking(true).unwrap_or_else(|e| panic!("{e}"));
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap_or_else(|e| panic!("{e}"));
                    return stream;
                }
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => panic!("{e}"),
                Err(_) => {}
            }
            if Instant::now() > deadline || !matches!(self.qemu.try_wait(), Ok(None)) {
                self.give_up("QEMU did not start");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What its QEMU had to say.
    pub(crate) fn qemu_log(&self) -> String {
        fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default()
    }

    /// Ends the test with what the machine said last.
    pub(crate) fn give_up(&self, why: &str) -> ! {
        let qemu = self.qemu_log();
        let log = self.kernel_log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        panic!("{why}\n{qemu}--- console ({}):\n{tail}\n---", self.console.display());
    }

    /// What a machine that hangs still says of its devices; the stacks of who waits in the kernel go to its log.
    fn who_is_held(&self) -> String {
        let mut asked = self.start(
            "echo w >/proc/sysrq-trigger; for what in 'info -c' table status; do dmsetup $what & done; sleep 5",
        );
        match asked.poll(Duration::from_secs(30)) {
            Some(output) => output.stdout + &output.stderr,
            None => "it does not answer any more".into(),
        }
    }

    /// The folder with this machine's logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn send(&self, kind: Kind, id: u32, payload: &[u8]) {
        let sent = self.agent.as_ref().map(|agent| {
            let mut stream = agent.lock().unwrap_or_else(|e| e.into_inner());
            Frame::new(kind, id, payload).write(&mut *stream)
        });
        if !matches!(sent, Some(Ok(()))) {
            self.give_up("the machine is gone");
        }
    }

    fn request(&self) -> (u32, Receiver<Frame>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (to, from) = mpsc::channel();
        self.waiting.lock().unwrap_or_else(|e| e.into_inner()).insert(id, to);
        (id, from)
    }

    /// Starts a shell command and returns at once.
    pub fn start(&self, command: &str) -> Job<'_> {
        self.ask(Kind::Run, command)
    }

    /// Has the agent itself take steps, one a line, until one fails; `tests/guest/src/steps.rs` has what there is. A process takes longer to begin
    /// than most of them to end.
    pub fn steps(&self, steps: &str) -> Output {
        self.ask(Kind::Steps, steps).wait_for(self.patience())
    }

    /// Has the agent take steps that have to succeed, and returns what they said, without white space around it.
    #[track_caller]
    pub fn take(&self, steps: &str) -> String {
        let output = self.steps(steps);
        assert_eq!(output.status, 0, "{steps}\n{}{}", output.stdout, output.stderr);
        output.stdout.trim().into()
    }

    fn ask(&self, kind: Kind, command: &str) -> Job<'_> {
        let (id, frames) = self.request();
        self.send(kind, id, command.as_bytes());
        Job {
            machine: self,
            id,
            frames,
            command: command.into(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Runs a shell command to its end. The test ends if that takes too long.
    pub fn run(&self, command: &str) -> Output {
        self.run_for(command, self.patience())
    }

    /// Runs a shell command that may take this long.
    pub fn run_for(&self, command: &str, timeout: Duration) -> Output {
        self.start(command).wait_for(timeout)
    }

    /// Runs a shell command that has to succeed, and returns what it printed, without white space around it.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        let output = self.run(command);
        assert_eq!(output.status, 0, "{command}\n{}{}", output.stdout, output.stderr);
        output.stdout.trim().into()
    }

    /// Runs a shell command that has to fail, and returns what it printed to standard error.
    #[track_caller]
    pub fn fails(&self, command: &str) -> String {
        let output = self.run(command);
        assert_ne!(output.status, 0, "{command}\nsucceeded:\n{}{}", output.stdout, output.stderr);
        // What the shell says of a program that is not there or cannot be run.
        assert!(![126, 127].contains(&output.status), "{command}\n{}", output.stderr);
        output.stderr.trim().into()
    }

    /// Loads the module under test.
    #[track_caller]
    pub fn load_module(&self) {
        self.ok("modprobe dm_mod && insmod /dm-remap.ko");
    }

    /// Has something answer for udev, without which `dmremap` does not speak to device mapper.
    #[track_caller]
    pub fn start_udev(&self) {
        self.ok("udev-start");
    }

    /// Makes a drive of the machine's own: `/dev/nullb<index>`, as large as said, with these settings of `null_blk` (such as
    /// `("memory_backed", "1")`, `("badblocks", "+100-107")`) besides. Returns its path.
    #[track_caller]
    pub fn null_blk(&self, index: u32, mib: u64, settings: &[(&str, &str)]) -> String {
        let dir = format!("/sys/kernel/config/nullb/nullb{index}");
        let mut write = String::new();
        for (key, value) in settings {
            write += &format!(" && echo {value} >{dir}/{key}");
        }
        self.ok(&format!(
            "modprobe null_blk nr_devices=0 && {{ [ -d /sys/kernel/config/nullb ] || mount -t configfs configfs /sys/kernel/config; }} \
             && mkdir {dir} && echo {mib} >{dir}/size{write} && echo 1 >{dir}/power"
        ));
        format!("/dev/nullb{index}")
    }

    /// Has the kernel let go of what it only keeps for later, freed objects that KASAN watches among it, so that what is in
    /// use can be counted.
    #[track_caller]
    pub fn drop_unused_memory(&self) {
        self.ok("sync; echo 3 >/proc/sys/vm/drop_caches; for cache in /sys/kernel/slab/*/shrink; do echo 1 >$cache; done; sleep 1");
    }

    /// Copies bytes into a file of the machine.
    pub fn put(&self, path: &str, content: &[u8]) {
        let (id, frames) = self.request();
        self.send(Kind::Put, id, path.as_bytes());
        for chunk in content.chunks(CHUNK) {
            self.send(Kind::Data, id, chunk);
        }
        self.send(Kind::End, id, &[]);
        match frames.recv_timeout(patience(PATIENCE)) {
            Ok(frame) if frame.payload.is_empty() => {}
            Ok(frame) => panic!("{path}: {}", String::from_utf8_lossy(&frame.payload)),
            Err(_) => self.give_up("the machine does not take a file"),
        }
    }

    /// Reads a file of the machine.
    pub fn get(&self, path: &str) -> Vec<u8> {
        let (id, frames) = self.request();
        self.send(Kind::Get, id, path.as_bytes());
        let mut content = Vec::new();
        loop {
            match frames.recv_timeout(patience(PATIENCE)) {
                Ok(frame) if frame.kind == Kind::Data => content.extend_from_slice(&frame.payload),
                Ok(frame) if frame.payload.is_empty() => return content,
                Ok(frame) => panic!("{}", String::from_utf8_lossy(&frame.payload)),
                Err(_) => self.give_up("the machine does not send a file"),
            }
        }
    }

    /// Everything that came out of the console so far.
    pub fn kernel_log(&self) -> String {
        let bytes = fs::read(&self.console);
        let bytes = bytes.unwrap_or_else(|e| panic!("{}: {e}", self.console.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the console has shown this text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.kernel_log().contains(text) {
            assert!(Instant::now() < deadline, "the kernel log never had {text:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The file that takes what comes through the event port.
    pub fn events_path(&self) -> &Path {
        &self.events
    }

    /// What came through the event port so far.
    pub fn events(&self) -> Vec<u8> {
        fs::read(&self.events).unwrap_or_else(|e| panic!("{}: {e}", self.events.display()))
    }

    /// A complaint of the kernel with this text in its line does not fail the test.
    pub fn allow(&self, text: &str) {
        self.allowed.lock().unwrap_or_else(|e| e.into_inner()).push(text.into());
    }

    /// Lines of the console in which the kernel complains, but for those that are allowed.
    pub fn complaints(&self) -> Vec<String> {
        let allowed = self.allowed.lock().unwrap_or_else(|e| e.into_inner());
        (self.kernel_log().lines())
            .filter(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
            .filter(|line| !allowed.iter().any(|text| line.contains(text)))
            .map(str::to_string)
            .collect()
    }

    #[track_caller]
    pub(crate) fn assert_no_complaints(&self) {
        let complaints = self.complaints();
        assert!(
            complaints.is_empty(),
            "the kernel complained; see {}:\n{}",
            self.console.display(),
            complaints.join("\n")
        );
    }

    /// Cuts the power of machine and drives, now. The seed decides what of the unflushed writes each drive keeps. Returns what had
    /// come through the event port.
    #[track_caller]
    pub fn power_cut(mut self, seed: u64) -> Vec<u8> {
        let events = self.end();
        let mut rng = Rng::new(seed);
        for drive in &self.drives {
            drive.cut(rng.draw());
        }
        self.assert_no_complaints();
        events
    }

    /// Switches the machine off in order, and the drives with everything that they had acknowledged.
    #[track_caller]
    pub fn shutdown(mut self) -> Vec<u8> {
        debug::check(&self);
        let (id, _frames) = self.request();
        let command: &[u8] = match self.systemd {
            true => b"systemctl poweroff",
            false => b"umount -a -r 2>/dev/null; sync; poweroff -f",
        };
        self.send(Kind::Run, id, command);
        let deadline = Instant::now() + self.patience();
        while matches!(self.qemu.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                self.give_up("the machine does not shut down");
            }
            thread::sleep(Duration::from_millis(10));
        }
        let events = self.end();
        for drive in &self.drives {
            drive.switch_off();
        }
        self.assert_no_complaints();
        events
    }

    /// Waits until someone at the terminal has switched the machine off.
    pub fn wait_for_end(mut self) {
        let _ = self.qemu.wait();
        self.end();
    }

    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.over = true;
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        fs::read(&self.events).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let was_over = self.over;
        if !was_over && !thread::panicking() {
            debug::check(self);
        }
        self.end();
        let _ = fs::remove_dir_all(&self.sockets);
        if thread::panicking() {
            eprintln!("the machine's console is in {}", self.console.display());
        } else if !was_over {
            self.assert_no_complaints();
        }
    }
}

/// The machine is not there any more.
pub(crate) struct Gone;

/// A command that runs in a machine. It goes on when this is dropped.
pub struct Job<'m> {
    machine: &'m Machine,
    id: u32,
    frames: Receiver<Frame>,
    command: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Job<'_> {
    /// Waits for its end.
    pub fn wait(self) -> Output {
        self.wait_for(patience(PATIENCE))
    }

    /// Waits for its end; the test ends if that takes longer.
    pub fn wait_for(mut self, timeout: Duration) -> Output {
        match self.poll(timeout) {
            Some(output) => output,
            None => {
                let held = self.machine.who_is_held();
                self.machine.give_up(&format!(
                    "after {} s still running: {}\n{held}",
                    timeout.as_secs(),
                    self.command
                ))
            }
        }
    }

    /// What it did, if it ends within that time.
    pub fn poll(&mut self, timeout: Duration) -> Option<Output> {
        self.poll_while_there(timeout).unwrap_or_else(|Gone| {
            self.machine.give_up(&format!("the machine went away during: {}", self.command))
        })
    }

    /// As `poll`, where the machine may go away.
    pub(crate) fn poll_while_there(&mut self, timeout: Duration) -> Result<Option<Output>, Gone> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.frames.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Frame { kind: Kind::Stdout, payload, .. }) => self.stdout.extend(payload),
                Ok(Frame { kind: Kind::Stderr, payload, .. }) => self.stderr.extend(payload),
                Ok(Frame { payload, .. }) => {
                    let status = <[u8; 4]>::try_from(&payload[..]).map_or(-1, i32::from_le_bytes);
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    return Ok(Some(Output {
                        status,
                        stdout: text(&self.stdout),
                        stderr: text(&self.stderr),
                    }));
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(Gone),
            }
        }
    }

    /// What it has printed so far.
    pub fn stdout_so_far(&mut self) -> String {
        while let Ok(frame) = self.frames.try_recv() {
            match frame.kind {
                Kind::Stdout => self.stdout.extend(frame.payload),
                Kind::Stderr => self.stderr.extend(frame.payload),
                _ => {}
            }
        }
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Kills it and everything that it started.
    pub fn kill(&self) {
        self.machine.send(Kind::Kill, self.id, &[]);
    }
}
