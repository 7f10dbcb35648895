//! What can happen to a set, and how much it matters.

/// How much an event matters, as syslog(3) counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Priority {
    /// Something is lost, or soon will be.
    Critical = 2,
    /// Something works no more.
    Error = 3,
    /// Something should be looked at.
    Warning = 4,
    /// Worth knowing.
    Notice = 5,
    /// For the record.
    Info = 6,
}

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its name: that of docs/remap.rst, or one of the monitor's own.
    pub name: &'static str,
    /// How much it matters.
    pub priority: Priority,
    /// Whether it is mailed.
    pub mail: bool,
    /// What has happened.
    pub means: &'static str,
}

use Priority::{Critical, Error, Info, Notice, Warning};

const fn event(name: &'static str, priority: Priority, mail: bool, means: &'static str) -> Event {
    Event { name, priority, mail, means }
}

/// A set was found, and all is well.
pub const FOUND: Event = event("found", Info, false, "set is in use");
/// A set was found, and it is not healthy.
pub const FOUND_UNWELL: Event = event("unwell", Warning, true, "set is in use and not healthy");
/// A set is not in use any more.
pub const GONE: Event = event("gone", Notice, false, "set is not in use any more");
/// A drive counts more pending sectors.
pub const SMART_PENDING: Event =
    event("smart-pending", Warning, true, "a drive counts more sectors that it cannot read");
/// A drive counts more reallocated sectors.
pub const SMART_REALLOCATED: Event =
    event("smart-reallocated", Warning, true, "a drive counts more sectors that it has replaced");
/// A drive tries for longer than the kernel waits.
pub const RECOVERY_TIME: Event =
    event("recovery-time", Warning, true, "a drive tries for longer than the kernel waits");
/// Somebody tries whether they are told.
pub const TEST: Event = event("test", Notice, true, "this is a test; nothing has happened");

/// Those that the module raises.
pub static EVENTS: &[Event] = &[
    event("remapped", Warning, true, "blocks that failed have been moved to a spare"),
    event("pending", Error, true, "blocks cannot be read on main"),
    event("suspect", Error, true, "blocks cannot be read on a spare"),
    event("retired", Warning, true, "places on a spare have failed"),
    event("halted", Error, true, "blocks that fail are not moved any more"),
    event("resumed", Notice, true, "blocks that fail are moved again"),
    event("spare-room", Warning, true, "the spares are nearly full"),
    event("spare-full", Critical, true, "the spares are full"),
    event("table-full", Critical, true, "the table is full"),
    event("spare-away", Error, true, "the set goes on without a spare"),
    event("spare-back", Notice, true, "the set has a spare again"),
    event("spare-add", Notice, false, "the addition of a spare has ended"),
    event("spare-remove", Notice, false, "the removal of a spare has ended"),
    event("migrate", Notice, true, "a migration has ended"),
    event("maintenance", Notice, false, "maintenance mode has begun"),
    event("maintenance-over", Notice, false, "maintenance mode has ended"),
    event("persist", Warning, true, "the state of the metadata has changed"),
    event("settings", Info, false, "a setting has changed"),
    event("remap", Info, false, "a move has ended"),
    event("unremap", Info, false, "a move back to main has ended"),
    event("restore", Notice, false, "the metadata has been read again"),
    event("check", Notice, false, "a check of the metadata has ended"),
    event("health", Error, true, "a device is in a bad way"),
    event("scan", Info, false, "a scan has ended, or cannot go on"),
];

/// The event of that name. One that a newer module raises is worth a mail, as nobody here can know better.
pub fn find(name: &str) -> Event {
    let known = EVENTS.iter().find(|event| event.name == name);
    known.copied().unwrap_or(event(
        "unknown",
        Warning,
        true,
        "something that this program does not know",
    ))
}
