//! How a machine is switched on.
//!
//! Most machines of the tests are alike when they have come up, but for their drives, and an emulated processor takes many seconds to come
//! that far. So one machine of each kind boots without drives and is frozen: what is in its memory goes into a file, the state of
//! its processors and devices into another. Every further one is thawed: it has the memory as a private mapping of the file, takes the
//! state, and gets its drives plugged in. That is a kernel that has just booted, with nothing in it from a machine before.
//!
//! What would be the same in all of them is made anew: the clock is set, and the kernel learns that it is a copy (`vmgenid`) and draws
//! other random numbers.

use crate::debug;
use crate::drive::Drive;
use crate::env::{patience, Env};
use crate::machine::{dispatch, Gone, Machine};
use crate::qmp::Qmp;
use crate::userland::System;
use remap_guest::wire::{AGENT_PORT, EVENT_PORT};
use serde_json::{json, Value};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a machine may take to come up. Longer than a command, as all of that is computing, on a host that may have other things to
/// compute.
const BOOT: Duration = Duration::from_secs(600);

/// How often a machine is thawed before it is given up.
const THAWS: u32 = 3;

/// What a machine is to be made of.
#[derive(Clone)]
pub struct Builder {
    drives: Vec<Drive>,
    cpus: u32,
    memory: u32,
    append: String,
    icount: bool,
    terminal: bool,
    module: bool,
    system: Option<System>,
    until: Option<String>,
}

/// A machine that came up and was frozen.
struct Frozen {
    memory: PathBuf,
    state: PathBuf,
}

/// Where a machine has its memory, when that is in a file.
enum Memory<'a> {
    /// It writes it there.
    Kept(&'a Path),
    /// It is there already, and stays as it is.
    Copied(&'a Path),
}

impl Builder {
    pub(crate) fn new() -> Self {
        Builder {
            drives: Vec::new(),
            cpus: 2,
            memory: 1024,
            append: String::new(),
            icount: false,
            terminal: false,
            module: false,
            system: None,
            until: None,
        }
    }

    /// Plugs in a drive: the first becomes `/dev/vda`.
    pub fn drive(mut self, drive: &Drive) -> Self {
        self.drives.push(drive.clone());
        self
    }

    /// How many processors (2).
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// How much memory, in MiB (1024).
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// More words for the kernel's command line.
    pub fn append(mut self, words: &str) -> Self {
        self.append = format!("{} {words}", self.append);
        self
    }

    /// One processor whose clock counts instructions: a nanosecond each, so that times do not depend on the machine beneath.
    pub fn count_instructions(mut self) -> Self {
        self.icount = true;
        self.cpus = 1;
        self
    }

    /// Loads the module under test as soon as the machine is up.
    pub fn module(mut self) -> Self {
        self.module = true;
        self
    }

    /// Boots Debian from this disk, in place of the least that the agent needs.
    pub fn system(mut self, system: &System) -> Self {
        self.system = Some(system.clone());
        self
    }

    /// Connects the machine's console to the terminal, with a shell on it, instead of keeping a log.
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Switches on a machine that is not going to take commands, and waits until its console has shown this text.
    pub fn boot_until(mut self, text: &str) -> Machine {
        self.until = Some(text.into());
        self.cold(None)
    }

    /// Switches the machine on and waits until it takes commands.
    pub fn boot(self) -> Machine {
        let of_its_own =
            !self.append.is_empty() || self.icount || self.terminal || self.system.is_some();
        let machine = if of_its_own { self.cold(None) } else { self.thaw() };
        if self.module {
            machine.load_module();
        }
        machine
    }

    /// Boots a machine.
    ///
    /// A kernel that dies before it takes commands has not seen the module: an emulated processor now and then runs into code that
    /// another one is changing (`jump_label`). Then it is switched on once more.
    fn cold(&self, memory: Option<&Memory<'_>>) -> Machine {
        self.cold_once(memory).unwrap_or_else(|| {
            self.cold_once(memory)
                .unwrap_or_else(|| panic!("the kernel died twice while it booted"))
        })
    }

    fn cold_once(&self, memory: Option<&Memory<'_>>) -> Option<Machine> {
        let deadline = Instant::now() + patience(BOOT);
        let (ready, is_ready) = mpsc::channel();
        let (mut machine, agent) = self.switch_on(memory, &[]);
        machine.waiting.lock().unwrap_or_else(|e| e.into_inner()).insert(0, ready);
        machine.connect(&agent, deadline);
        if let Some(text) = &self.until {
            machine.wait_for_log(text, machine.patience());
        } else if is_ready.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err()
        {
            if !machine.kernel_log().contains("Kernel panic") {
                machine.give_up("the machine did not come up");
            }
            eprintln!("the kernel died while it booted: {}", machine.console.display());
            machine.end();
            return None;
        }
        Some(machine)
    }

    /// Takes a machine like this one from where it came up.
    ///
    /// QEMU 10.0 has ended itself while a drive was plugged in (an assertion in `msix_table_mmio_write`), which is rare. Nothing of the
    /// test has happened by then, so another one is thawed.
    fn thaw(&self) -> Machine {
        let frozen = self.frozen();
        let thawed = (0..THAWS).find_map(|_| self.thaw_once(&frozen));
        thawed.unwrap_or_else(|| {
            panic!("QEMU ended itself {THAWS} times while a drive was plugged in")
        })
    }

    fn thaw_once(&self, frozen: &Frozen) -> Option<Machine> {
        let deadline = Instant::now() + patience(BOOT);
        let (mut machine, agent) =
            self.switch_on(Some(&Memory::Copied(&frozen.memory)), &["-incoming", "defer"]);
        machine.connect(&agent, deadline);
        if let Err(error) = Self::take(&mut machine, frozen, deadline) {
            machine.give_up(&format!("the machine was not thawed: {error}"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        machine.ok(&format!(
            "date -s @{now} >/dev/null\n\
             until dmesg | grep -q 'crng reseeded due to virtual machine fork'; do sleep 0.02; done"
        ));
        for (letter, (index, drive)) in ('a'..).zip(self.drives.iter().enumerate()) {
            if let Err(error) = machine.qmp(deadline).and_then(|qmp| plug_in(qmp, index, drive)) {
                machine.give_up(&format!("{}: not plugged in: {error}", drive.name()));
            }
            // One after another, so that each has its letter.
            let name = format!("vd{letter}");
            let mut there = machine.start(&format!(
                "until [ -b /dev/{name} ] && [ -e /sys/block/{name}/serial ]; do sleep 0.02; done; cat /sys/block/{name}/serial",
            ));
            match there.poll_while_there(deadline.saturating_duration_since(Instant::now())) {
                Ok(Some(output)) if output.stdout.trim_end() == serial_of(drive) => {}
                Ok(output) => {
                    machine.give_up(&format!("{} is not {name}: {output:?}", drive.name()))
                }
                Err(Gone) => {
                    let why = machine.qemu_log();
                    if !why.contains("Assertion") {
                        machine.give_up("the machine went away while it got its drives");
                    }
                    eprintln!("{why}");
                    machine.end();
                    return None;
                }
            }
        }
        Some(machine)
    }

    /// Has QEMU take the state of a machine that was frozen and go on from there.
    fn take(machine: &mut Machine, frozen: &Frozen, deadline: Instant) -> io::Result<()> {
        let qmp = machine.qmp(deadline)?;
        memory_is_elsewhere(qmp)?;
        qmp.execute(
            "migrate-incoming",
            json!({ "uri": format!("file:{}", frozen.state.display()) }),
        )?;
        qmp.wait_for_status("query-status", "paused", deadline)?;
        qmp.execute("cont", json!({})).map(drop)
    }

    /// The frozen machine of this kind. Who asks for it first has to wait until it has booted.
    fn frozen(&self) -> Frozen {
        // Others want the same one, so they wait for it too.
        static MADE: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
        let mut made = MADE.lock().unwrap_or_else(|e| e.into_inner());
        let dir = Env::get().build().join(format!("frozen-{}-{}", self.cpus, self.memory));
        let frozen = Frozen { memory: dir.join("memory"), state: dir.join("state") };
        if made.get_or_insert_default().contains(&dir) {
            return frozen;
        }
        // What it was made of: all that decides what is in its memory.
        let command = self.command(Some(&Memory::Kept(&frozen.memory)));
        let kind = format!("{command:?}\n{}", Env::get().initramfs_key());
        let key = dir.join("kind");
        if fs::read_to_string(&key).is_ok_and(|there| there == kind) {
            made.get_or_insert_default().insert(dir);
            return frozen;
        }
        let _ = fs::remove_dir_all(&dir);
        let freeze = || -> io::Result<()> {
            fs::create_dir_all(&dir)?;
            let without = Builder { drives: Vec::new(), ..self.clone() };
            let mut machine = without.cold(Some(&Memory::Kept(&frozen.memory)));
            let deadline = Instant::now() + patience(BOOT);
            // What the boot left to be done is done.
            machine.ok("sync; sleep 1");
            let qmp = machine.qmp(deadline)?;
            memory_is_elsewhere(qmp)?;
            qmp.execute("stop", json!({}))?;
            qmp.execute("migrate", json!({ "uri": format!("file:{}", frozen.state.display()) }))?;
            qmp.wait_for_status("query-migrate", "completed", deadline)?;
            machine.end();
            machine.assert_no_complaints();
            fs::write(&key, &kind)
        };
        freeze().unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        made.get_or_insert_default().insert(dir);
        frozen
    }

    /// QEMU with what all machines of this kind have.
    fn command(&self, memory: Option<&Memory<'_>>) -> Command {
        let env = Env::get();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        let mib = self.memory + if env.debug { debug::MEMORY } else { 0 };
        match memory {
            None => command.args(["-machine", "q35,hpet=off,usb=off"]),
            // Into this one drives can be plugged at any time.
            Some(memory) => {
                let (path, share) = match memory {
                    Memory::Kept(path) => (path, "on"),
                    Memory::Copied(path) => (path, "off"),
                };
                command.args(["-machine", "pc,hpet=off,usb=off,memory-backend=ram"]);
                command.arg("-object").arg(format!(
                    "memory-backend-file,id=ram,size={mib}M,share={share},mem-path={}",
                    path.display()
                ));
                command.args(["-device", "vmgenid,guid=auto"])
            }
        };
        match env.accel.as_str() {
            _ if self.icount => command.args([
                "-accel",
                "tcg",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                // What every processor of the last ten years computes checksums with.
                "Nehalem,+rdrand,+pclmulqdq",
            ]),
            "kvm" => command.args(["-accel", "kvm", "-cpu", "host"]),
            _ => command.args(["-accel", "tcg,thread=multi", "-cpu", "Nehalem,+rdrand"]),
        };
        command.args(["-smp", &self.cpus.to_string(), "-m", &mib.to_string()]);
        let (kernel, initrd) = match &self.system {
            Some(system) => (&system.kernel, &system.initrd),
            None => (&env.kernel, &env.initramfs),
        };
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        let root = self.system.as_ref().map(|system| {
            format!(" root={} rw systemd.show_status=no systemd.log_level=notice", system.root)
        });
        let shell = if self.terminal { " remap.shell quiet" } else { "" };
        // Without that, pages are not poisoned, and the suite in the module is not run. Slabs that are checked have no sheaves, in which addresses
        // stay of what was taken out: for the leak detector, that was not lost.
        let checks = if env.debug {
            " page_poison=1 slab_debug=F kunit.enable=1 kunit.autorun=1"
        } else {
            ""
        };
        command.arg("-append").arg(format!(
            // Reports of stalls come late enough that a busy host does not cause them (a real hang is far longer), and the boot does
            // not count timer interrupts that such a host delivers late.
            "console=ttyS0 no_timer_check panic=-1 oops=panic mitigations=off nokaslr audit=0 ipv6.disable=1 random.trust_cpu=on printk.devkmsg=on \
             sysctl.kernel.hung_task_timeout_secs=90 sysctl.kernel.watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120{checks}{shell}{}{}",
            root.unwrap_or_default(),
            self.append
        ));
        // What a load reports before it writes has to be here before the write is: a file takes it at once, and without an eventfd
        // the guest does not go on before that. A socket may be full, and then the rest is lost with the power.
        command.args(["-device", "virtio-serial-pci,ioeventfd=off"]);
        for (id, name) in [("agent", AGENT_PORT), ("events", EVENT_PORT)] {
            command.arg("-device").arg(format!("virtserialport,chardev={id},name={name}"));
        }
        command
    }

    /// The machine, and where its agent is going to call. Drives are plugged in that it finds when it boots.
    fn switch_on(&self, memory: Option<&Memory<'_>>, more: &[&str]) -> (Machine, UnixListener) {
        let env = Env::get();
        let dir = env.new_dir("machine");
        let sockets = env.new_socket_dir();
        let console = dir.join("console.log");
        let listen = |name: &str| {
            let path = sockets.join(name);
            let listener =
                UnixListener::bind(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path, listener)
        };
        let (agent_path, agent) = listen("agent");
        let (qmp_path, qmp) = listen("qmp");
        let events = dir.join("events");

        let mut command = self.command(memory);
        command.args(more);
        if self.terminal {
            command.args(["-serial", "mon:stdio"]);
        } else {
            command.arg("-serial").arg(format!("file:{}", console.display()));
        }
        command.arg("-chardev").arg(format!("socket,id=agent,path={}", agent_path.display()));
        command.arg("-chardev").arg(format!("file,id=events,path={}", events.display()));
        command.arg("-qmp").arg(format!("unix:{}", qmp_path.display()));
        for (index, drive) in self.drives.iter().enumerate() {
            drive.power_on();
            if !matches!(memory, Some(Memory::Copied(_))) {
                let (node, device) = plug(index, drive);
                command.arg("-blockdev").arg(node.to_string());
                command.arg("-device").arg(device.to_string());
            }
        }
        if let Some(disk) = self.system.as_ref().and_then(|system| system.disk.as_ref()) {
            command.arg("-blockdev").arg(format!(
                "driver=raw,node-name=system,file.driver=file,file.filename={},file.cache.no-flush=on",
                disk.display()
            ));
            command.args(["-device", "virtio-blk-pci,drive=system,serial=system"]);
        }
        if !self.terminal {
            let log =
                File::create(dir.join("qemu.log")).unwrap_or_else(|e| panic!("qemu.log: {e}"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        }
        let qemu = command.spawn().unwrap_or_else(|e| panic!("qemu-system-x86_64: {e}"));
        let machine = Machine {
            qemu,
            drives: self.drives.clone(),
            systemd: self.system.is_some(),
            dir,
            sockets,
            console,
            agent: None,
            control: qmp,
            qmp: None,
            waiting: Arc::default(),
            next: AtomicU32::new(1),
            events,
            allowed: Mutex::default(),
            over: false,
        };
        (machine, agent)
    }
}

impl Machine {
    /// Takes the agent's call.
    fn connect(&mut self, agent: &UnixListener, deadline: Instant) {
        let stream = self.accept(agent, deadline);
        let (reader, waiting) =
            (stream.try_clone().unwrap_or_else(|e| panic!("{e}")), self.waiting.clone());
        thread::spawn(move || dispatch(reader, &waiting));
        self.agent = Some(Mutex::new(stream));
    }

    /// The line to its QEMU.
    fn qmp(&mut self, deadline: Instant) -> io::Result<&mut Qmp> {
        if self.qmp.is_none() {
            let control = self.control.try_clone()?;
            let stream = self.accept(&control, deadline);
            self.qmp = Some(Qmp::new(stream, patience(BOOT))?);
        }
        self.qmp.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// The memory is in its file, so it is no part of the state.
fn memory_is_elsewhere(qmp: &mut Qmp) -> io::Result<()> {
    let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": capabilities })).map(drop)
}

/// What the kernel is told as the serial of a drive, which has room for twenty characters.
fn serial_of(drive: &Drive) -> String {
    drive.name().chars().take(20).collect()
}

/// Plugs a drive into a machine that runs.
fn plug_in(qmp: &mut Qmp, index: usize, drive: &Drive) -> io::Result<()> {
    let (node, device) = plug(index, drive);
    qmp.execute("blockdev-add", node)?;
    qmp.execute("device_add", device).map(drop)
}

/// A drive as QEMU knows it: where its blocks come from, and what the machine sees of it.
fn plug(index: usize, drive: &Drive) -> (Value, Value) {
    let (logical, physical) = drive.block_sizes();
    let name = format!("drive{index}");
    let node = json!({
        "driver": "nbd", "node-name": name, "discard": "unmap",
        "server": { "type": "unix", "path": drive.nbd_socket() },
    });
    let device = json!({
        "driver": "virtio-blk-pci", "drive": name, "serial": serial_of(drive),
        "logical_block_size": logical, "physical_block_size": physical,
        "write-cache": "on", "discard": true, "write-zeroes": true, "werror": "report", "rerror": "report",
    });
    (node, device)
}
