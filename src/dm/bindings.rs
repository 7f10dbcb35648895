// SPDX-License-Identifier: GPL-2.0

//! What bindgen makes of `helpers.h`: device mapper, and the helpers themselves. The types that
//! the kernel crate already has are taken from there.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    dead_code,
    unused_imports,
    unreachable_pub,
    improper_ctypes,
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::undocumented_unsafe_blocks
)]
#![cfg_attr(CONFIG_RUSTC_HAS_UNNECESSARY_TRANSMUTES, allow(unnecessary_transmutes))]

use kernel::ffi;

include!(env!("DM_REMAP_BINDINGS"));
