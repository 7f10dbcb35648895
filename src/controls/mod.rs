// SPDX-License-Identifier: GPL-2.0

//! How people see and control a device: status and table lines, messages, files in sysfs and
//! debugfs.

mod files;
mod folder;
mod message;
mod status;
mod values;

pub(crate) use files::{active_on, Files, Shared};
pub(crate) use message::message;
pub(crate) use status::{status, Line};
