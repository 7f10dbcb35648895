// SPDX-License-Identifier: GPL-2.0

//! Device-mapper target `remap`.

use kernel::prelude::*;

mod dm;
#[allow(dead_code, unreachable_pub, unused_imports)]
mod pure;
mod target;

module! {
    type: Remap,
    name: "dm_remap",
    authors: ["The dm-remap developers"],
    description: "device-mapper target that moves failing blocks to spare devices",
    license: "GPL",
}

struct Remap;

impl kernel::Module for Remap {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("loaded\n");
        Ok(Self)
    }
}
