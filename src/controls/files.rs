// SPDX-License-Identifier: GPL-2.0

//! The files of a device: its [folder](super::folder) in sysfs, and those in debugfs, as v3 had them.
//!
//! `/sys/kernel/debug/dm-remap/metadata_control` takes those [messages](CONTROL) that v3 had, and
//! `metadata_status` is read. With one device they mean that one. Each device has a folder of its
//! own, `dm-<minor>`, with both files; with several devices the shared file takes `save` for all of
//! them.

use super::{
    folder::Folders,
    message::{run_words, Out},
    status::metadata_status,
};
use crate::{
    dm::{
        global::{ACTIVE, FOLDER},
        system::MemScope,
    },
    target::Remap,
};
use core::fmt;
use kernel::{
    debugfs::{Dir, File, Scope},
    prelude::*,
    str::CString,
    sync::{Arc, ArcBorrow},
    uaccess::UserSliceReader,
};

/// The longest line that a control file takes.
const LINE: usize = 256;

/// The messages that a control file takes.
const CONTROL: [&str; 3] = ["save", "restore", "migrate"];

/// The files of one device. Dropping them waits for who is in one of them.
pub(crate) struct Files {
    owner: (u32, u32),
    /// In sysfs.
    folders: Option<Folders>,
    /// In debugfs.
    _folder: Option<Pin<KBox<Scope<Device>>>>,
}

struct Device(Arc<Remap>);

impl Files {
    /// Makes the files. Without memory for them the device goes without.
    pub(crate) fn new(remap: ArcBorrow<'_, Remap>) -> Option<Self> {
        let owner = remap.number();
        let this: Arc<Remap> = remap.into();
        ACTIVE.lock().push(this.clone(), GFP_KERNEL).ok()?;
        let folders = Folders::new(this.clone()).map_err(|e| {
            log_err!("{}: no folder in sysfs: {e:?}; messages do the same", &*this);
        });
        Some(Self { owner, folders: folders.ok(), _folder: Self::folder(this) })
    }

    /// Makes the folders of spares those that the set has now.
    pub(crate) fn refresh(&mut self) {
        if let Some(Err(e)) = self.folders.as_mut().map(Folders::refresh) {
            log_err!("dm-{}: no folder in sysfs for a spare: {e:?}", self.owner.1);
        }
    }

    fn folder(remap: Arc<Remap>) -> Option<Pin<KBox<Scope<Device>>>> {
        let name = CString::try_from_fmt(format_args!("{}", &*remap)).ok()?;
        let shared = FOLDER.lock();
        let folder = shared.as_ref()?;
        let scope = folder.scope(Device(remap), &name, |device, dir| {
            dir.read_callback_file(c"metadata_status", device, &read_device);
            dir.write_only_callback_file(c"metadata_control", device, &write_device);
        });
        KBox::pin_init(scope, GFP_KERNEL).ok()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        ACTIVE.lock().retain(|remap| remap.number() != self.owner);
    }
}

/// Stands for all active devices.
struct All;

/// The files that all devices share. Dropping it removes them.
pub(crate) struct Shared {
    _status: Pin<KBox<File<All>>>,
    _control: Pin<KBox<File<All>>>,
}

impl Shared {
    /// Makes the folder and the shared files.
    pub(crate) fn new() -> Result<Self> {
        let folder = Dir::new(c"dm-remap");
        let shared = Self {
            _status: KBox::pin_init(
                folder.read_callback_file(c"metadata_status", All, &read_all),
                GFP_KERNEL,
            )?,
            _control: KBox::pin_init(
                folder.write_callback_file(c"metadata_control", All, &write_all),
                GFP_KERNEL,
            )?,
        };
        *FOLDER.lock() = Some(folder);
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let folder = FOLDER.lock().take();
        drop(folder);
    }
}

/// The active devices of now.
fn active() -> Result<KVec<Arc<Remap>>> {
    // Who suspends one of them may wait for the lock, and memory for I/O to it.
    let _scope = MemScope::without_io();
    let list = ACTIVE.lock();
    let mut active = KVec::with_capacity(list.len(), GFP_KERNEL)?;
    for remap in list.iter() {
        active.push(remap.clone(), GFP_KERNEL)?;
    }
    Ok(active)
}

/// The active device with these numbers.
pub(crate) fn active_on(number: (u32, u32)) -> Option<Arc<Remap>> {
    ACTIVE.lock().iter().find(|remap| remap.number() == number).cloned()
}

fn read_all(_: &All, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let active = active().map_err(|_| fmt::Error)?;
    for remap in &active {
        if active.len() > 1 {
            writeln!(f, "device {}", &**remap)?;
        }
        metadata_status(remap, f)?;
    }
    Ok(())
}

fn write_all(_: &All, reader: &mut UserSliceReader) -> Result {
    let mut line = [0; LINE];
    let line = read_line(reader, &mut line)?;
    let active = active()?;
    match active.as_slice() {
        [] => {
            log_err!("no remap device is active; create one with dmsetup first");
            Err(ENODEV)
        }
        [one] => control(one.as_arc_borrow(), line),
        several if line.split_ascii_whitespace().next() == Some("save") => {
            let mut result = Ok(());
            for remap in several {
                result = control(remap.as_arc_borrow(), line).and(result);
            }
            result
        }
        several => {
            log_err!(
                "several devices are active: write '{line}' to metadata_control in the folder of \
                 one of them: {}",
                Names(several)
            );
            Err(EINVAL)
        }
    }
}

/// The folders of these devices, one after the other.
struct Names<'a>(&'a [Arc<Remap>]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, remap) in self.0.iter().enumerate() {
            let between = if n == 0 { "" } else { ", " };
            write!(f, "{between}dm-remap/{}", &**remap)?;
        }
        Ok(())
    }
}

fn read_device(device: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    metadata_status(&device.0, f)
}

fn write_device(device: &Device, reader: &mut UserSliceReader) -> Result {
    let mut line = [0; LINE];
    control(device.0.as_arc_borrow(), read_line(reader, &mut line)?)
}

fn read_line<'a>(reader: &mut UserSliceReader, line: &'a mut [u8; LINE]) -> Result<&'a str> {
    let n = reader.len();
    let refuse = || {
        log_err!("metadata_control takes a line of text, of up to {LINE} bytes");
        EINVAL
    };
    let line = line.get_mut(..n).ok_or_else(refuse)?;
    reader.read_slice(line)?;
    Ok(core::str::from_utf8(line).map_err(|_| refuse())?.trim())
}

fn control(remap: ArcBorrow<'_, Remap>, line: &str) -> Result {
    let _scope = MemScope::without_io();
    let word = line.split_ascii_whitespace().next().unwrap_or_default();
    if !CONTROL.contains(&word) {
        remap.say_error(format_args!(
            "metadata_control takes 'save', 'restore' or 'migrate DEV', not '{line}'"
        ));
        return Err(EINVAL);
    }
    run_words(remap, line.split_ascii_whitespace().map(Ok), &mut Nothing)
}

/// Takes no text: these commands write none.
struct Nothing;

impl fmt::Write for Nothing {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        Ok(())
    }
}

impl Out for Nothing {
    fn room(&self) -> usize {
        0
    }

    fn writer(&mut self) -> &mut dyn fmt::Write {
        self
    }
}
