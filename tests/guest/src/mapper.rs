//! Device mapper without a process for each request: what `dmsetup` does, from within.
//!
//! A new process takes a machine without hardware help longer than most of what it would ask for, and what races with something else
//! would come late.

use devicemapper::{errors, DevId, DmError, DmFlags, DmName, DmOptions, DM};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The target under test.
const TARGET: &str = "remap";

/// The way to device mapper in the kernel.
pub struct Mapper(DM);

fn failed(error: DmError) -> io::Error {
    match error {
        DmError::Core(errors::Error::Ioctl(.., errno)) => {
            io::Error::from_raw_os_error(*errno as i32)
        }
        other => io::Error::other(other.to_string()),
    }
}

fn id(name: &str) -> io::Result<DevId<'_>> {
    DmName::new(name).map(DevId::Name).map_err(failed)
}

fn link(name: &str) -> String {
    format!("/dev/mapper/{name}")
}

impl Mapper {
    /// Opens it. The crate wants to see udev, and waits for it through a semaphore unless the kernel has none to give; nobody would answer it here.
    pub fn open() -> io::Result<Self> {
        if !Path::new("/run/udev/control").exists() {
            fs::write("/proc/sys/kernel/sem", "0 0 0 0")?;
            fs::create_dir_all("/run/udev")?;
            fs::write("/run/udev/control", "")?;
        }
        DM::new().map(Mapper).map_err(failed)
    }

    /// Makes a device with this table, and puts it to use. What fails leaves nothing behind.
    pub fn create(&self, name: &str, sectors: u64, line: &str) -> io::Result<()> {
        let dm_name = DmName::new(name).map_err(failed)?;
        let info = self.0.device_create(dm_name, None, DmOptions::default()).map_err(failed)?;
        let begun = self.load(name, sectors, line).and_then(|()| self.resume(name));
        if let Err(error) = begun {
            self.remove(name)?;
            return Err(error);
        }
        let _ = fs::remove_file(link(name));
        symlink(format!("../dm-{}", info.device().minor), link(name))
    }

    /// Loads a table, to be put to use by the next resume.
    pub fn load(&self, name: &str, sectors: u64, line: &str) -> io::Result<()> {
        let table = [(0, sectors, TARGET.into(), line.into())];
        self.0.table_load(&id(name)?, &table, DmOptions::default()).map(drop).map_err(failed)
    }

    /// Forgets the table that was loaded and not put to use.
    pub fn clear(&self, name: &str) -> io::Result<()> {
        self.0.table_clear(&id(name)?).map(drop).map_err(failed)
    }

    /// Loads the table in use once more, and puts it to use.
    pub fn reload(&self, name: &str) -> io::Result<()> {
        let (sectors, line) = self.table(name)?;
        self.load(name, sectors, &line)?;
        self.suspend(name, false)?;
        self.resume(name)
    }

    /// Suspends it; with `noflush`, bios that are held stay so.
    pub fn suspend(&self, name: &str, noflush: bool) -> io::Result<()> {
        let mut flags = DmFlags::DM_SUSPEND;
        if noflush {
            flags |= DmFlags::DM_NOFLUSH | DmFlags::DM_SKIP_LOCKFS;
        }
        let options = DmOptions::default().set_flags(flags);
        self.0.device_suspend(&id(name)?, options).map(drop).map_err(failed)
    }

    /// Puts to use what was loaded, or goes on with what was in use.
    pub fn resume(&self, name: &str) -> io::Result<()> {
        self.0.device_suspend(&id(name)?, DmOptions::default()).map(drop).map_err(failed)
    }

    /// Removes it.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.0.device_remove(&id(name)?, DmOptions::default()).map_err(failed)?;
        let _ = fs::remove_file(link(name));
        Ok(())
    }

    /// Sends a message, and returns the answer.
    pub fn message(&self, name: &str, message: &str) -> io::Result<String> {
        let (_, answer) = self.0.target_msg(&id(name)?, None, message).map_err(failed)?;
        Ok(answer.unwrap_or_default())
    }

    /// Its length in sectors, and its table line behind the name of the target.
    pub fn table(&self, name: &str) -> io::Result<(u64, String)> {
        self.line(name, DmFlags::DM_STATUS_TABLE)
    }

    /// Its status behind the name of the target.
    pub fn status(&self, name: &str) -> io::Result<String> {
        Ok(self.line(name, DmFlags::DM_NOFLUSH)?.1)
    }

    fn line(&self, name: &str, flags: DmFlags) -> io::Result<(u64, String)> {
        let options = DmOptions::default().set_flags(flags);
        let (_, mut lines) = self.0.table_status(&id(name)?, options).map_err(failed)?;
        match lines.pop() {
            Some((_, sectors, target, line)) if target == TARGET => Ok((sectors, line)),
            _ => Err(io::Error::other(format!("{name} has no table of ours"))),
        }
    }

    /// Whether I/O to it waits for somebody to resume it.
    pub fn is_suspended(&self, name: &str) -> io::Result<bool> {
        let info = self.0.device_info(&id(name)?).map_err(failed)?;
        Ok(info.flags().contains(DmFlags::DM_SUSPEND))
    }

    /// The number of its device.
    pub fn minor(&self, name: &str) -> io::Result<u32> {
        self.0.device_info(&id(name)?).map(|info| info.device().minor).map_err(failed)
    }
}
