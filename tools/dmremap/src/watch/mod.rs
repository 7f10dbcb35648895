//! What watching sets is about, without the watching: events and what they mean, what has changed, when a mail is due, how counts are
//! written down.

pub mod burst;
pub mod events;
pub mod metrics;
pub mod settings;
pub mod state;
pub mod uevent;
