// SPDX-License-Identifier: GPL-2.0

//! What the module needs of the kernel's C interfaces and the kernel crate does not wrap: device
//! mapper, bios, block devices, RCU pointers, SRCU counts, folders in sysfs. Small safe types, written as if for
//! `rust/kernel/`; all unsafe code of the module is in this folder.

pub(crate) mod bindings;

pub(crate) mod bio;
pub(crate) mod bits;
pub(crate) mod compat;
pub(crate) mod device;
pub(crate) mod global;
pub(crate) mod held;
pub(crate) mod in_flight;
mod in_kernel;
pub(crate) mod io;
pub(crate) mod kobject;
pub(crate) mod limits;
pub(crate) mod published;
pub(crate) mod slots;
pub(crate) mod system;
pub(crate) mod target;
pub(crate) mod text;
