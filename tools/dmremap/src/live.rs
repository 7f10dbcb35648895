//! Sets in use: the mapped devices of the target `remap`, and what device mapper does with them.
//!
//! The kernel says why it refuses something in its log alone, so what it said there meanwhile goes into every error.

mod parts;

pub use parts::Part;

use crate::Failure;
use devicemapper::{
    errors, DevId, Device, DmError, DmFlags, DmName, DmNameBuf, DmOptions, DmUuid, DM,
};
use remap_pure::units::SECTOR_SIZE;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{symlink, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of the target.
const TARGET: &str = "remap";

/// Where udev listens while it runs.
const UDEV: &str = "/run/udev/control";

/// The way to device mapper in the kernel.
pub struct Mapper(DM);

/// A mapped device of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Live {
    /// Its name to device mapper.
    pub name: String,
    /// Its UUID to device mapper, empty without one.
    pub uuid: String,
    /// Major and minor number.
    pub device: (u32, u32),
    /// How many have it open.
    pub open: u32,
    /// Whether no I/O goes through it at present.
    pub suspended: bool,
    /// Whether its table was loaded for reading only.
    pub read_only: bool,
    /// The number of its last event.
    pub event: u32,
    /// Its length in sectors.
    pub sectors: u64,
    /// Its table line behind the word `remap`, as `dmsetup table` prints it.
    pub line: String,
}

impl Live {
    /// Its path.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.name)
    }

    /// Its logical block, in sectors.
    ///
    /// # Errors
    ///
    /// That the kernel does not tell it.
    pub fn logical_block(&self) -> Result<u64, Failure> {
        let path = self.sysfs().join("queue/logical_block_size");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let bytes: u64 =
            text.trim().parse().map_err(|_| format!("{}: no number", path.display()))?;
        Ok((bytes / SECTOR_SIZE as u64).max(1))
    }

    /// Its folder in sysfs.
    pub fn sysfs(&self) -> PathBuf {
        let (major, minor) = self.device;
        PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
    }
}

impl Mapper {
    /// Opens device mapper's control node, which makes the kernel load device mapper.
    ///
    /// # Errors
    ///
    /// That it is not there, or not for this user.
    pub fn open() -> Result<Self, Failure> {
        let failed = "device mapper cannot be reached";
        let dm = DM::new().map_err(|e| {
            format!(
                "{failed}: {}; this needs root, and the kernel's dm-mod (modprobe dm-mod)",
                text(&e)
            )
        })?;
        Ok(Self(dm))
    }

    /// All mapped devices that have a live table of ours, by name.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn all(&self) -> Result<Vec<Live>, Failure> {
        let devices = self.0.list_devices().map_err(|e| format!("device mapper: {}", text(&e)))?;
        let mut live = Vec::new();
        for (name, ..) in devices {
            live.extend(self.get(&name)?);
        }
        live.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(live)
    }

    /// The set in use that a person means: the name of the mapped device, a path of it, the UUID or the name of the set.
    ///
    /// # Errors
    ///
    /// That there is none, or more than one.
    pub fn find(&self, word: &str) -> Result<Live, Failure> {
        let mut all = self.all()?;
        let number = fs::metadata(word).map(|meta| meta.rdev()).unwrap_or(0);
        let is_path = |live: &Live| {
            number != 0 && number == rustix::fs::makedev(live.device.0, live.device.1)
        };
        if let Some(i) = all.iter().position(|live| live.name == word || is_path(live)) {
            return Ok(all.swap_remove(i));
        }
        let mut found = Vec::new();
        for live in all {
            let status = self.message(&live, "metadata_status")?;
            let is =
                |key| value(&status, key).is_some_and(|value| value.eq_ignore_ascii_case(word));
            if is("set") || is("name") {
                found.push(live);
            }
        }
        match found.len() {
            1 => Ok(found.swap_remove(0)),
            0 => Err(format!(
                "no set in use is called '{word}'; 'dmremap list' shows those that are"
            )),
            _ => {
                Err(format!("more than one set in use is called '{word}'; name the mapped device"))
            }
        }
    }

    fn get(&self, name: &DmName) -> Result<Option<Live>, Failure> {
        let id = DevId::Name(name);
        let failed = |e: &DmError| format!("{name}: {}", text(e));
        let table = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE);
        let (info, mut lines) = match self.0.table_status(&id, table) {
            Ok(found) => found,
            // It went away since it was listed.
            Err(e) if errno(&e) == Some(rustix::io::Errno::NXIO.raw_os_error()) => return Ok(None),
            Err(e) => return Err(failed(&e)),
        };
        if lines.len() != 1 || lines[0].2 != TARGET {
            return Ok(None);
        }
        let (_, sectors, _, line) = lines.swap_remove(0);
        let device: Device = info.device();
        Ok(Some(Live {
            name: name.to_string(),
            uuid: info.uuid().map(ToString::to_string).unwrap_or_default(),
            device: (device.major, device.minor),
            open: u32::try_from(info.open_count()).unwrap_or(0),
            suspended: info.flags().contains(DmFlags::DM_SUSPEND),
            read_only: info.flags().contains(DmFlags::DM_READONLY),
            event: info.event_nr(),
            sectors,
            line,
        }))
    }

    /// The status of a set behind the word `remap`, with nothing flushed for it.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn status(&self, live: &Live) -> Result<String, Failure> {
        let options = DmOptions::default().set_flags(DmFlags::DM_NOFLUSH);
        let (_, mut lines) = self
            .0
            .table_status(&DevId::Name(&name_of(&live.name)?), options)
            .map_err(|e| format!("{}: {}", live.name, text(&e)))?;
        match lines.pop() {
            Some((.., target, line)) if target == TARGET => Ok(line),
            _ => Err(format!("{} is no set any more", live.name)),
        }
    }

    /// Sends a message, and gives the answer; empty where there is none.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn message(&self, live: &Live, message: &str) -> Result<String, Failure> {
        let what = format!("{}: {message}", live.name);
        let (_, answer) = said(&what, || {
            self.0.target_msg(&DevId::Name(&name_of(&live.name)?), None, message).map_err(Why::from)
        })?;
        Ok(answer.unwrap_or_default())
    }

    /// The table of any mapped device: first sector, length, target and its line of each piece. Nothing for a device that is not
    /// mapped.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn table(
        &self,
        (major, minor): (u32, u32),
    ) -> Result<Vec<(u64, u64, String, String)>, Failure> {
        let path = format!("/sys/dev/block/{major}:{minor}/dm/name");
        let Ok(name) = fs::read_to_string(path) else { return Ok(Vec::new()) };
        let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE);
        let (_, lines) = self
            .0
            .table_status(&DevId::Name(&name_of(name.trim())?), options)
            .map_err(|e| format!("{}: {}", name.trim(), text(&e)))?;
        Ok(lines)
    }

    /// Has [`events`](Self::events) tell of what happens from now on.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn arm(&self) -> Result<(), Failure> {
        self.0.arm_poll().map_err(|e| format!("device mapper's events: {}", text(&e)))?;
        Ok(())
    }

    /// Can be read from when some mapped device has had an event since [`arm`](Self::arm).
    pub fn events(&self) -> BorrowedFd<'_> {
        self.0.file().as_fd()
    }

    /// Makes a mapped device with a table of ours, and puts it to use. What fails leaves nothing behind. Without a `uuid` it has none yet.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn create(
        &self,
        name: &str,
        uuid: Option<&str>,
        sectors: u64,
        line: &str,
        read_only: bool,
    ) -> Result<Live, Failure> {
        let owned = name_of(name)?;
        let id = DevId::Name(&owned);
        let dm_uuid = uuid.map(uuid_of).transpose()?;
        said(name, || Ok(self.0.device_create(&owned, dm_uuid, DmOptions::default())?))?;
        let loaded = said(name, || {
            self.0.table_load(
                &id,
                &[(0, sectors, TARGET.into(), line.into())],
                loading(read_only),
            )?;
            Ok(self.0.device_suspend(&id, DmOptions::default())?)
        });
        let removed = |failure: Failure| match self.0.device_remove(&id, DmOptions::default()) {
            Ok(_) => failure,
            Err(e) => format!("{failure}\n{name}: and it cannot be removed again: {}", text(&e)),
        };
        loaded.map_err(removed)?;
        let live = self.get(&owned)?.ok_or_else(|| format!("{name}: it went away at once"))?;
        link(&live)?;
        Ok(live)
    }

    /// Loads another table of ours and puts it in the place of the one in use; `sectors` may have grown.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it. The table in use stays when the new one cannot be loaded.
    pub fn reload(&self, live: &Live, sectors: u64, line: &str) -> Result<(), Failure> {
        let name = name_of(&live.name)?;
        let id = DevId::Name(&name);
        said(&live.name, || {
            let table = [(0, sectors, TARGET.into(), line.into())];
            Ok(self.0.table_load(&id, &table, loading(live.read_only))?)
        })?;
        said(&live.name, || Ok(self.0.device_suspend(&id, DmOptions::default())?))?;
        Ok(())
    }

    /// Gives a mapped device another name.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn rename(&self, live: &Live, to: &str) -> Result<(), Failure> {
        let (name, new) = (name_of(&live.name)?, name_of(to)?);
        said(&live.name, || Ok(self.0.device_rename(&name, &DevId::Name(&new))?))?;
        unlink(live);
        link(&Live { name: to.into(), ..live.clone() })
    }

    /// Gives a mapped device that has none its UUID.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn name_by_uuid(&self, live: &Live, uuid: &str) -> Result<(), Failure> {
        let name = name_of(&live.name)?;
        let uuid = DevId::Uuid(uuid_of(uuid)?);
        said(&live.name, || Ok(self.0.device_rename(&name, &uuid)?))?;
        Ok(())
    }

    /// Whether a mapped device of this name is there, of whatever target.
    ///
    /// # Errors
    ///
    /// That device mapper does not answer.
    pub fn has(&self, name: &str) -> Result<bool, Failure> {
        let devices = self.0.list_devices().map_err(|e| format!("device mapper: {}", text(&e)))?;
        Ok(devices.iter().any(|(other, ..)| other.to_string() == name))
    }

    /// Makes sure that the kernel has the target.
    ///
    /// # Errors
    ///
    /// That it has not, and its module cannot be loaded.
    pub fn need_target(&self) -> Result<(), Failure> {
        let has = || -> Result<bool, Failure> {
            let targets =
                self.0.list_versions().map_err(|e| format!("device mapper: {}", text(&e)))?;
            Ok(targets.iter().any(|(name, ..)| name == TARGET))
        };
        if has()? {
            return Ok(());
        }
        let tried = Command::new("modprobe").arg("dm-remap").output();
        if has()? {
            return Ok(());
        }
        let why = match tried {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(e) => format!("modprobe: {e}"),
        };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        Err(format!(
            "the kernel has no target 'remap', and its module dm-remap cannot be loaded{why}; install the package dm-remap-dkms, or insmod the dm-remap.ko that was built for this kernel"
        ))
    }

    /// Lets a set go; refused while something has it open.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn remove(&self, live: &Live) -> Result<(), Failure> {
        let name = name_of(&live.name)?;
        said(&live.name, || {
            Ok(self.0.device_remove(&DevId::Name(&name), DmOptions::default())?)
        })?;
        unlink(live);
        Ok(())
    }
}

/// The value of `key` in lines `key value`, as `metadata_status` has them.
pub fn value<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
}

/// Why an ioctl failed.
enum Why {
    Mapper(DmError),
    Word(Failure),
}

impl From<DmError> for Why {
    fn from(e: DmError) -> Self {
        Self::Mapper(e)
    }
}

impl From<Failure> for Why {
    fn from(failure: Failure) -> Self {
        Self::Word(failure)
    }
}

fn name_of(name: &str) -> Result<DmNameBuf, Failure> {
    DmNameBuf::new(name.into()).map_err(|_| format!("'{name}' is no name for a mapped device"))
}

fn uuid_of(uuid: &str) -> Result<&DmUuid, Failure> {
    DmUuid::new(uuid).map_err(|e| format!("{uuid}: {}", text(&e)))
}

fn loading(read_only: bool) -> DmOptions {
    let flags = if read_only { DmFlags::DM_READONLY } else { DmFlags::empty() };
    DmOptions::default().set_flags(flags)
}

fn errno(e: &DmError) -> Option<i32> {
    match e {
        DmError::Core(errors::Error::Ioctl(.., errno)) => Some(**errno as i32),
        _ => None,
    }
}

fn text(e: &DmError) -> String {
    match (e, errno(e)) {
        (_, Some(errno)) => rustix::io::Errno::from_raw_os_error(errno).to_string(),
        (DmError::Core(errors::Error::UdevSync(_)), _) => {
            format!("{e}; start systemd-udevd, or use dmsetup: docs/remap.rst, dm-remap(4)")
        }
        _ => e.to_string(),
    }
}

/// Does something, and adds what the kernel's log said of our target meanwhile when it fails.
fn said<T>(what: &str, work: impl FnOnce() -> Result<T, Why>) -> Result<T, Failure> {
    let log = Log::from_now();
    work().map_err(|why| {
        let mut failure = match why {
            Why::Word(failure) => return failure,
            Why::Mapper(e) => format!("{what}: {}", text(&e)),
        };
        for line in log.map(Log::lines).unwrap_or_default() {
            failure = format!("{failure}\n  {line}");
        }
        failure
    })
}

/// The kernel's log, from some moment on.
struct Log(File);

impl Log {
    /// Nothing where the log is not for this user.
    fn from_now() -> Option<Self> {
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut file =
            OpenOptions::new().read(true).custom_flags(nonblock).open("/dev/kmsg").ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self(file))
    }

    /// What our target said since then. A record is `priority,number,time,flags;text` and lines that begin with a space
    /// (Documentation/ABI/testing/dev-kmsg).
    fn lines(mut self) -> Vec<String> {
        let (mut lines, mut record) = (Vec::new(), [0; 8192]);
        loop {
            match self.0.read(&mut record) {
                Ok(len @ 1..) => {
                    let record = String::from_utf8_lossy(&record[..len]);
                    let line = record.lines().next().and_then(|line| line.split_once(';'));
                    lines.extend(line.and_then(|(_, line)| ours(line)).map(str::to_owned));
                }
                // It was overwritten before it could be read.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
                _ => return lines,
            }
        }
    }
}

/// What a line of the kernel's log says, if it is of our module, or of device mapper about our target.
fn ours(line: &str) -> Option<&str> {
    let of_mapper = || line.strip_prefix("device-mapper: ").filter(|said| said.contains(TARGET));
    line.strip_prefix("dm_remap: ").or_else(of_mapper)
}

/// Makes the link that udev would make if it ran.
fn link(live: &Live) -> Result<(), Failure> {
    let path = live.path();
    if Path::new(UDEV).exists() || path.exists() {
        return Ok(());
    }
    let node = format!("../dm-{}", live.device.1);
    symlink(node, &path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Removes the link if nobody else does.
fn unlink(live: &Live) {
    if !Path::new(UDEV).exists() {
        // One that stays leads nowhere, and is taken by the next device of the name.
        let _ = fs::remove_file(live.path());
    }
}
