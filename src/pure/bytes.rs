// SPDX-License-Identifier: GPL-2.0

//! Types that are bytes: `zerocopy`'s traits with their derives, which the kernel keeps in a crate
//! of their own.

pub use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[cfg(CONFIG_RUST)]
pub use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
