// SPDX-License-Identifier: GPL-2.0

//! `/sys/block/dm-<minor>/remap/`: a file for each setting, to be read and written, and for each value,
//! to be read; and a folder `spare<n>` for each spare of the set.
//!
//! What is written is a message `set`, and refused as that would be. Files that show something take
//! `state` for a moment, and no other lock that is held during I/O: so a folder can be removed by who
//! holds `meta`, unless it has files that are written to.

use super::{
    message::set,
    status::write_settings,
    values::{now, Value, VALUES},
};
use crate::{
    dm::{
        kobject::{Contents, Folder, NewFile},
        system::MemScope,
        text::Text,
    },
    pure::{
        format::MemberUuid,
        mem::KVec,
        settings::{Setting, SETTINGS},
        store::SpareSet,
        units::SpareId,
    },
    target::Remap,
};
use core::fmt::Write;
use kernel::{
    prelude::*,
    str::CString,
    sync::{static_lock_class, Arc},
};

/// The folders of one device. Dropping them waits for who is in one of their files.
pub(super) struct Folders {
    spares: KVec<(SpareId, MemberUuid, Folder<OneSpare>)>,
    device: Folder<Device>,
    remap: Arc<Remap>,
}

/// A file of a device.
#[derive(Clone, Copy)]
enum File {
    Setting(&'static Setting),
    Value(&'static Value),
    LastError,
}

struct Device(Arc<Remap>);

impl Contents for Device {
    type File = File;

    fn show(&self, file: File, out: &mut Text<'_>) -> Result {
        let _scope = MemScope::without_io();
        let written = match file {
            File::Setting(setting) => write_settings(&self.0, Some(setting.name), out),
            File::Value(value) => {
                now(&self.0, |now| (value.write)(now, out)).and_then(|()| writeln!(out))
            }
            File::LastError => self.0.write_last_error(out).and_then(|()| writeln!(out)),
        };
        written.map_err(|_| EIO)
    }

    fn store(&self, file: File, bytes: &[u8]) -> Result {
        // Suspending waits for this, and memory may wait for the suspended device.
        let _scope = MemScope::without_io();
        let File::Setting(setting) = file else { return Err(EACCES) };
        let Ok(text) = core::str::from_utf8(bytes) else {
            self.0.say_error(format_args!("{} takes no such bytes", setting.name));
            return Err(EINVAL);
        };
        set(self.0.as_arc_borrow(), setting.name, text.trim())
    }
}

/// A spare of a set, by its number; who has the number is known by the UUID.
struct OneSpare {
    remap: Arc<Remap>,
    id: SpareId,
    uuid: MemberUuid,
}

/// A file of a spare.
#[derive(Clone, Copy)]
enum About {
    Device,
    Uuid,
    Order,
    Used,
    Room,
    Health,
    LastChecked,
    State,
}

const ABOUT: [(&str, About); 8] = [
    ("device", About::Device),
    ("uuid", About::Uuid),
    ("order", About::Order),
    ("used", About::Used),
    ("room", About::Room),
    ("health", About::Health),
    ("last_checked", About::LastChecked),
    ("state", About::State),
];

impl Contents for OneSpare {
    type File = About;

    fn show(&self, file: About, out: &mut Text<'_>) -> Result {
        let _scope = MemScope::without_io();
        let state = self.remap.state.lock();
        let n = usize::from(self.id.0);
        let health = || self.remap.scores(&state).spares.get(n).copied().flatten().unwrap_or(0);
        let about = state.info.about.get(n).copied().unwrap_or_default();
        let places = state.places.get(n);
        let written = match file {
            About::Device => match self.remap.spare(self.id) {
                Some(spare) => writeln!(out, "{}", spare.device),
                None => writeln!(out, "-"),
            },
            About::Uuid => writeln!(out, "{}", self.uuid),
            About::Order => writeln!(out, "{}", about.order),
            About::Used => {
                let retired = places.map_or(0, |places| places.retired().0);
                let on_it = state.table.totals().on_spare.get(n).map_or(0, |sectors| sectors.0);
                writeln!(out, "{}", on_it + retired)
            }
            About::Room => writeln!(out, "{}", places.map_or(0, |places| places.room().0)),
            About::Health => writeln!(out, "{}", health()),
            About::LastChecked => writeln!(out, "{}", about.last_checked),
            About::State if state.info.away.has(self.id) => writeln!(out, "away"),
            About::State => writeln!(out, "active"),
        };
        written.map_err(|_| EIO)
    }

    fn store(&self, _: About, _: &[u8]) -> Result {
        Err(EACCES)
    }
}

impl Folders {
    /// Makes the folder of a device, with none for its spares yet.
    pub(super) fn new(remap: Arc<Remap>) -> Result<Self> {
        let settings = SETTINGS.iter().map(|&setting| NewFile {
            name: setting.name,
            writable: true,
            file: File::Setting(setting),
        });
        let values = VALUES.iter().map(|value| NewFile {
            name: value.name,
            writable: false,
            file: File::Value(value),
        });
        let error = NewFile { name: "last_error", writable: false, file: File::LastError };
        let files = Iterator::chain(Iterator::chain(settings, values), [error]);
        let device = Folder::new(
            remap.folder(),
            c"remap",
            Device(remap.clone()),
            files,
            static_lock_class!(),
        )?;
        Ok(Self { spares: KVec::new(), device, remap })
    }

    /// Removes the folders of spares that the set has no more, and makes those that are missing.
    ///
    /// # Errors
    ///
    /// What a folder could not be made for; the others are there.
    pub(super) fn refresh(&mut self) -> Result {
        let state = self.remap.state.lock();
        let (members, all) = (state.info.members, state.info.active.with(state.info.away));
        drop(state);
        let uuid = |id: SpareId| members.get(usize::from(id.0)).filter(|_| all.has(id)).copied();
        self.spares.retain(|(id, of, _)| uuid(*id) == Some(*of));
        let mut there = SpareSet::NONE;
        self.spares.iter().for_each(|(id, ..)| there.add(*id));
        let mut result = Ok(());
        for id in all.without(there).iter() {
            let Some(uuid) = uuid(id) else { continue };
            result = self.add(id, uuid).and(result);
        }
        result
    }

    fn add(&mut self, id: SpareId, uuid: MemberUuid) -> Result {
        self.spares.reserve(1, GFP_KERNEL)?;
        let name = CString::try_from_fmt(format_args!("spare{id}"))?;
        let spare = OneSpare { remap: self.remap.clone(), id, uuid };
        let files = ABOUT.iter().map(|&(name, file)| NewFile { name, writable: false, file });
        let folder =
            Folder::new(self.device.as_parent(), &name, spare, files, static_lock_class!())?;
        Ok(self.spares.push((id, uuid, folder), GFP_KERNEL)?)
    }
}
