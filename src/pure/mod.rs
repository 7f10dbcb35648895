// SPDX-License-Identifier: GPL-2.0

//! What dm-remap knows without doing: extents, the table, places on spares, the metadata format,
//! the order of steps in a commit, recovery, identity, settings.
//!
//! Nothing here makes a kernel call, takes a lock, reads a clock or does I/O on its own. The same
//! files are a module of the kernel module and a crate of the host workspace (`remap-pure`), so
//! paths between them start with `super::`, memory comes from [`mem`] alone, and what several processors change from [`atomic`].

#![forbid(unsafe_code)]
#![cfg_attr(not(CONFIG_RUST), no_std)]

#[cfg(not(CONFIG_RUST))]
extern crate alloc;

pub mod atomic;
pub mod bytes;
pub mod cache;
pub mod command;
pub mod commit;
pub mod copies;
pub mod create;
pub mod digest;
pub mod entry;
pub mod format;
pub mod gate;
pub mod health;
pub mod identity;
pub mod line;
pub mod mem;
pub mod places;
pub mod policy;
pub mod recovery;
pub mod rewrite;
pub mod scan;
pub mod settings;
pub mod shadow;
pub mod shortage;
pub mod shortcuts;
pub mod store;
pub mod table;
pub mod units;
pub mod upgrade;
pub mod validate;
