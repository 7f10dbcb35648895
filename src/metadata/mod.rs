// SPDX-License-Identifier: GPL-2.0

//! The metadata on the spares: pure code says what is written where and when, this does it.

mod store;

pub(crate) use store::{flush, SpareStore};
