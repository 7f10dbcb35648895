//! Tests in virtual machines. One program, so that two machines are busy from the first test to the last; a module for each part.

mod assemble;
mod controls;
mod events;
mod failing;
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
mod replace;
mod scan;
mod several;
mod suspend;
mod sysfs;
mod torture;
