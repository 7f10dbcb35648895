// SPDX-License-Identifier: GPL-2.0

//! Device-mapper target `remap`: moves blocks of a device that fails to spare devices.
//!
//! [`dm`] wraps what the module needs of the kernel's C interfaces, and holds all unsafe code;
//! [`pure`] knows extents, the table, the metadata format, commits and recovery, and does nothing;
//! [`metadata`] does the I/O that it asks for; [`target`] is the way of a bio and what happens off
//! it; [`controls`] is what people see and write.

#![deny(unsafe_code)]

use kernel::prelude::*;

/// Writes a line to the kernel log. The kernel's own macros do not take what implements
/// [`core::fmt::Display`], as everything in [`pure`] does.
macro_rules! log_info {
    ($($arg:tt)*) => { ::kernel::pr_info!("{}\n", ::core::format_args!($($arg)*)) };
}

/// See [`log_info`].
macro_rules! log_warn {
    ($($arg:tt)*) => { ::kernel::pr_warn!("{}\n", ::core::format_args!($($arg)*)) };
}

/// See [`log_info`].
macro_rules! log_err {
    ($($arg:tt)*) => { ::kernel::pr_err!("{}\n", ::core::format_args!($($arg)*)) };
}

mod controls;
#[allow(unsafe_code)]
mod dm;
mod metadata;
// The tool and the tests use what the module does not.
#[allow(dead_code, unreachable_pub, unused_imports)]
mod pure;
mod target;

module! {
    type: Module,
    name: "dm_remap",
    authors: ["The dm-remap developers"],
    description: "device-mapper target that moves failing blocks to spare devices",
    license: "GPL",
}

struct Module {
    // Dropped in this order: no table of the target is left when the files go.
    _target: Pin<KBox<dm::target::Registration<target::Remap>>>,
    _files: controls::Shared,
    _global: Global,
}

struct Global;

impl Drop for Global {
    fn drop(&mut self) {
        dm::global::exit();
    }
}

impl kernel::Module for Module {
    fn init(module: &'static ThisModule) -> Result<Self> {
        dm::global::init();
        let global = Global;
        let files = controls::Shared::new()?;
        let target = KBox::pin_init(dm::target::Registration::new(module), GFP_KERNEL)?;
        Ok(Self { _target: target, _files: files, _global: global })
    }
}
