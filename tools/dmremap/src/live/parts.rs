//! Mapped devices of other targets that a set stands on for a while, and a set's table in steps.

use super::{errno, loading, name_of, said, text, Live, Mapper, TARGET};
use crate::Failure;
use devicemapper::{DevId, DmFlags, DmOptions, DmUuid};
use nix::sys::mman::{mlockall, MlockAllFlags};
use std::path::{Path, PathBuf};

/// A mapped device of one line of another target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its name to device mapper.
    pub name: String,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Its length in sectors.
    pub sectors: u64,
    /// Its target.
    pub target: String,
    /// Its table line behind that.
    pub line: String,
}

impl Part {
    /// Its node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(format!("dm-{}", self.device.1))
    }

    /// Its number, as a table line has it.
    pub fn number(&self) -> String {
        format!("{}:{}", self.device.0, self.device.1)
    }
}

/// All of it is remapped already; nothing of it is remapped.
const NOTHING: [i32; 2] =
    [rustix::io::Errno::EXIST.raw_os_error(), rustix::io::Errno::NOENT.raw_os_error()];

impl Mapper {
    /// The mapped device of that UUID with a live table of one line.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn part(&self, uuid: &str) -> Result<Option<Part>, Failure> {
        let dm_uuid = DmUuid::new(uuid).map_err(|e| format!("{uuid}: {}", text(&e)))?;
        let table = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE);
        match self.0.table_status(&DevId::Uuid(dm_uuid), table) {
            Ok((info, mut lines)) if lines.len() == 1 => {
                let (_, sectors, target, line) = lines.swap_remove(0);
                let device = info.device();
                let name = info.name().map(ToString::to_string).unwrap_or_default();
                let device = (device.major, device.minor);
                Ok(Some(Part { name, device, sectors, target, line }))
            }
            Ok(_) => Ok(None),
            Err(e) if errno(&e) == Some(rustix::io::Errno::NXIO.raw_os_error()) => Ok(None),
            Err(e) => Err(format!("{uuid}: {}", text(&e))),
        }
    }

    /// The mapped device whose UUID begins so, and that UUID.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn part_like(&self, begin: &str) -> Result<Option<(Part, String)>, Failure> {
        let devices = self.0.list_devices().map_err(|e| format!("device mapper: {}", text(&e)))?;
        for (name, ..) in devices {
            // One that went away since it was listed is none.
            let Ok(info) = self.0.device_info(&DevId::Name(&name)) else { continue };
            let uuid = info.uuid().map(ToString::to_string).unwrap_or_default();
            if uuid.starts_with(begin) {
                if let Some(part) = self.part(&uuid)? {
                    return Ok(Some((part, uuid)));
                }
            }
        }
        Ok(None)
    }

    /// Makes a mapped device of one line, and puts it to use. What fails leaves nothing behind.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn make_part(
        &self,
        (name, uuid): (&str, &str),
        sectors: u64,
        (target, line): (&str, &str),
    ) -> Result<Part, Failure> {
        let owned = name_of(name)?;
        let id = DevId::Name(&owned);
        let dm_uuid = DmUuid::new(uuid).map_err(|e| format!("{uuid}: {}", text(&e)))?;
        // Nobody else is to look at what is on it.
        let private = DmOptions::private();
        said(name, || Ok(self.0.device_create(&owned, Some(dm_uuid), private)?))?;
        let loaded = said(name, || {
            let table = [(0, sectors, target.into(), line.into())];
            self.0.table_load(&id, &table, DmOptions::default())?;
            Ok(self.0.device_suspend(&id, private)?)
        });
        if let Err(failure) = loaded {
            // It holds nothing; a name that stays is said the next time.
            let _ = self.0.device_remove(&id, DmOptions::default());
            return Err(failure);
        }
        self.part(uuid)?.ok_or_else(|| format!("{name}: it went away at once"))
    }

    /// The status of such a device behind its target.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn part_status(&self, part: &Part) -> Result<String, Failure> {
        let name = name_of(&part.name)?;
        let status = self.0.table_status(&DevId::Name(&name), DmOptions::default());
        let (_, mut lines) = status.map_err(|e| format!("{}: {}", part.name, text(&e)))?;
        lines.pop().map(|(.., line)| line).ok_or_else(|| format!("{}: no table", part.name))
    }

    /// Sends it a message.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn tell_part(&self, part: &Part, message: &str) -> Result<(), Failure> {
        let name = name_of(&part.name)?;
        let told = self.0.target_msg(&DevId::Name(&name), None, message);
        told.map(|_| ()).map_err(|e| format!("{}: {message}: {}", part.name, text(&e)))
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn remove_part(&self, part: &Part) -> Result<(), Failure> {
        let name = name_of(&part.name)?;
        let removed = self.0.device_remove(&DevId::Name(&name), DmOptions::default());
        removed.map(|_| ()).map_err(|e| format!("{}: {}", part.name, text(&e)))
    }

    /// Has a set move a range with `remap` or `unremap`; where there is nothing of it to move, that is well.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn move_range(&self, live: &Live, what: &str, start: u64, len: u64) -> Result<(), Failure> {
        self.order(live, &format!("{what} {start} {len}"))
    }

    /// Has a set bring back to main all that is remapped.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn clear(&self, live: &Live) -> Result<(), Failure> {
        self.order(live, "clear")
    }

    fn order(&self, live: &Live, message: &str) -> Result<(), Failure> {
        let name = name_of(&live.name)?;
        said(&format!("{}: {message}", live.name), || {
            match self.0.target_msg(&DevId::Name(&name), None, message) {
                Err(e) if errno(&e).is_some_and(|errno| NOTHING.contains(&errno)) => Ok(()),
                result => Ok(result.map(|_| ())?),
            }
        })
    }

    /// Loads a table for a set in use, which takes the place of the present one at [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// With what the kernel says of it. Nothing has changed then.
    pub fn load(&self, live: &Live, line: &str) -> Result<(), Failure> {
        let name = name_of(&live.name)?;
        said(&live.name, || {
            let table = [(0, live.sectors, TARGET.into(), line.into())];
            Ok(self.0.table_load(&DevId::Name(&name), &table, loading(false))?)
        })?;
        Ok(())
    }

    /// Forgets a table that was loaded.
    pub fn unload(&self, live: &Live) {
        if let Ok(name) = name_of(&live.name) {
            // There may be none.
            let _ = self.0.table_clear(&DevId::Name(&name));
        }
    }

    /// Holds all I/O to a set, when what is under way has ended and what is dirty in a filesystem on it is written.
    ///
    /// This program may lie there itself, and could wait for its own next page then: so all of it is in memory first, and stays there.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it.
    pub fn suspend(&self, live: &Live) -> Result<(), Failure> {
        let name = name_of(&live.name)?;
        mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
            .map_err(|e| format!("the program cannot be kept in memory: {e}"))?;
        let suspend = DmOptions::default().set_flags(DmFlags::DM_SUSPEND);
        said(&live.name, || Ok(self.0.device_suspend(&DevId::Name(&name), suspend)?))?;
        Ok(())
    }

    /// Lets I/O go on, by the table that was loaded last.
    ///
    /// # Errors
    ///
    /// With what the kernel says of it. Then all I/O is held.
    pub fn resume(&self, live: &Live) -> Result<(), Failure> {
        let name = name_of(&live.name)?;
        said(&live.name, || {
            Ok(self.0.device_suspend(&DevId::Name(&name), DmOptions::default())?)
        })?;
        Ok(())
    }
}
