//! Tests in virtual machines. One program, so that two machines are busy from the first test to the last; a module for each part.

mod assemble;
mod common;
mod controls;
mod events;
mod failing;
mod faults;
mod files;
mod harness;
mod identity;
mod images;
mod io;
mod life;
mod maintenance;
mod members;
mod monitor;
mod older;
mod refuse;
mod scan;
mod several;
mod sides;
mod suspend;
mod sysfs;
mod torture;
mod turns;
mod verbs;
mod worn;
