//! Virtual machines for tests, with drives that fail and lose power.
//!
//! ```no_run
//! use remap_harness::{Drive, Machine};
//!
//! let drive = Drive::blank("main", 64 * 2048);
//! let machine = Machine::builder().drive(&drive).boot();
//! drive.fail(1000..1008);
//! assert_ne!(machine.run("dd if=/dev/vda of=/dev/null bs=4k iflag=direct").status, 0);
//! machine.power_cut(42);
//! ```
//!
//! A test that ends with a machine still running fails if the kernel in it complained, and so does one that shuts it down or cuts its
//! power. [`Machine::allow`] names a complaint that a test is about. On the kernel that looks for faults (`make test-debug`) it is also
//! asked for memory that leaked.

#![forbid(unsafe_code)]

pub mod activations;
pub mod boot;
pub mod crashes;
mod debug;
pub mod drive;
pub mod env;
pub mod faults;
pub mod image;
pub mod ledger;
pub mod machine;
mod qmp;
pub mod remap;
pub mod report;
pub mod rng;
pub mod soak;
pub mod torture;
pub mod userland;

pub use crashes::Crashes;
pub use drive::Drive;
pub use env::Env;
pub use faults::{Fault, Faults, Point, FAULTS};
pub use image::Image;
pub use ledger::Ledger;
pub use machine::{Job, Machine, Output};
pub use remap::{Place, Remap, Status};
pub use rng::Rng;
pub use soak::Soak;
pub use torture::{Migrations, Moments, Torture};
pub use userland::System;
