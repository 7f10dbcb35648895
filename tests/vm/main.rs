//! Tests in virtual machines. One program, so that two machines are busy from the first test to the last; a module for each part.

mod controls;
mod failing;
mod harness;
mod io;
mod life;
mod older;
mod refuse;
mod scan;
mod several;
mod suspend;
mod torture;
