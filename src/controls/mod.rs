// SPDX-License-Identifier: GPL-2.0

//! How people see and control a device: status and table lines, messages, files in debugfs.

mod files;
mod message;
mod status;

pub(crate) use files::{Files, Shared};
pub(crate) use message::message;
pub(crate) use status::{status, Line};
