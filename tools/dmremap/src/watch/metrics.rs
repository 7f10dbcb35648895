//! Counts for Prometheus, in its text format: names, units and types as its naming rules have them (bytes, seconds, ratios of one; `_total`
//! for what only grows).

use super::state::State;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// What is told of one set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Set {
    /// The name of the mapped device.
    pub name: String,
    /// What it says of itself.
    pub state: State,
    /// How often each event was seen since the monitor has been running.
    pub events: BTreeMap<String, u64>,
    /// What its drives say.
    pub drives: Vec<Drive>,
}

/// What is told of a drive under a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drive {
    /// Its name to the kernel.
    pub name: String,
    /// Sectors that it counts as pending.
    pub pending: Option<u64>,
    /// Sectors that it counts as reallocated.
    pub reallocated: Option<u64>,
    /// Whether it tries for longer than the kernel waits.
    pub too_long: bool,
}

/// Labels and value of a sample.
type Sample = (Vec<(&'static str, String)>, String);

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: Vec<Sample>) {
        if samples.is_empty() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
        }
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Gauges that are a value of `metadata_status`: its name, ours, what one of it is in our unit, help.
const GAUGES: &[(&str, &str, u64, &str)] = &[
    ("health", "dmremap_healthy", 1, "Whether nothing needs to be done about the set."),
    ("remapped", "dmremap_remapped_bytes", SECTOR, "What of main lives on a spare."),
    (
        "pending",
        "dmremap_pending_bytes",
        SECTOR,
        "What of main cannot be read and lives nowhere else.",
    ),
    ("lost", "dmremap_lost_bytes", SECTOR, "What of the pending lived on a spare that is gone."),
    (
        "suspect",
        "dmremap_suspect_bytes",
        SECTOR,
        "What of the remapped could not be read on its spare.",
    ),
    (
        "retired",
        "dmremap_retired_bytes",
        SECTOR,
        "What of the spares has failed and is not used again.",
    ),
    (
        "used",
        "dmremap_spares_used_bytes",
        SECTOR,
        "What of the spares is in use, retired places included.",
    ),
    ("room", "dmremap_spares_size_bytes", SECTOR, "What the spares have room for."),
    ("extents", "dmremap_extents", 1, "Extents in the remap table."),
    ("extents_left", "dmremap_extents_free", 1, "Extents that the remap table has room for yet."),
    ("copies", "dmremap_metadata_copies", 1, "Copies of the metadata that there should be."),
    (
        "good_copies",
        "dmremap_metadata_copies_good",
        1,
        "Copies of the metadata that are good and current.",
    ),
    ("spares", "dmremap_spares", 1, "Spares of the set."),
    ("away", "dmremap_spares_away", 1, "Spares that the set goes on without."),
    ("jobs", "dmremap_jobs", 1, "Moves and checks that are running."),
    (
        "last_save",
        "dmremap_last_commit_timestamp_seconds",
        1,
        "When the metadata was last written.",
    ),
];

/// Counters, in the same way; they go on over reboots.
const COUNTERS: &[(&str, &str, &str)] = &[
    ("commits", "dmremap_commits_total", "Commits of the metadata."),
    (
        "auto_remaps",
        "dmremap_auto_remaps_total",
        "Extents that have moved without being asked for.",
    ),
    (
        "manual_remaps",
        "dmremap_manual_remaps_total",
        "Extents that have been moved when asked for.",
    ),
    ("unremaps", "dmremap_unremaps_total", "Extents that have been moved back to main."),
    ("pending_marks", "dmremap_pending_marks_total", "Extents that have become pending."),
    ("retired_places", "dmremap_retired_places_total", "Places on spares that have been retired."),
    ("scans", "dmremap_scans_total", "Scans that have come to their end."),
];

/// States that a value of `metadata_status` can have, one of which is 1.
const STATES: &[(&str, &str, &[&str], &str)] = &[
    (
        "persist",
        "dmremap_persist",
        &["enabled", "degraded", "failed", "readonly"],
        "State of the metadata on the spares: 1 for the one that it is in.",
    ),
    (
        "auto",
        "dmremap_auto",
        &["on", "off", "halted", "maintenance"],
        "Whether blocks that fail are moved: 1 for the state that it is in.",
    ),
    (
        "scan_state",
        "dmremap_scan_state",
        &["idle", "running", "paused"],
        "Whether a scan is under way: 1 for the state that it is in.",
    ),
];

/// All that there is to tell.
pub fn text(sets: &[Set]) -> String {
    let mut text = Text(String::new());
    let own =
        |set: &Set| vec![("name", set.name.clone()), ("set", set.state.get("set").to_owned())];
    let with = |set: &Set, more: &[(&'static str, &str)]| {
        let mut labels = own(set);
        labels.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        labels
    };
    let each = |value: &dyn Fn(&Set) -> Option<String>| -> Vec<Sample> {
        sets.iter().filter_map(|set| Some((own(set), value(set)?))).collect()
    };
    let info =
        sets.iter().map(|set| (with(set, &[("set_name", set.state.get("name"))]), "1".into()));
    text.family(
        "dmremap_set_info",
        "gauge",
        "A set in use, and what it is called.",
        info.collect(),
    );
    for &(key, name, unit, help) in GAUGES {
        let value = |set: &Set| Some(set.state.number(key)?.saturating_mul(unit).to_string());
        text.family(name, "gauge", help, each(&value));
    }
    for &(key, name, help) in COUNTERS {
        let value = |set: &Set| Some(set.state.number(key)?.to_string());
        text.family(name, "counter", help, each(&value));
    }
    let mut errors = Vec::new();
    for set in sets {
        for device in ["main", "spare"] {
            for operation in ["read", "write"] {
                let count = set.state.number(&format!("{device}_{operation}_errors"));
                let labels = [("device", device), ("operation", operation)];
                errors.extend(count.map(|count| (with(set, &labels), count.to_string())));
            }
        }
    }
    let help = "Errors met by I/O and by moves since the set was created.";
    text.family("dmremap_errors_total", "counter", help, errors);
    for &(key, name, words, help) in STATES {
        let mut samples = Vec::new();
        for set in sets.iter().filter(|set| !set.state.get(key).is_empty()) {
            samples.extend(words.iter().map(|word| {
                (with(set, &[("state", word)]), u8::from(set.state.get(key) == *word).to_string())
            }));
        }
        text.family(name, "gauge", help, samples);
    }
    let ratio = |percent: u64| format!("{}", percent as f64 / 100.0);
    let scanned = |set: &Set| set.state.number("scan").map(ratio);
    text.family("dmremap_scan_ratio", "gauge", "How much of the scan is done.", each(&scanned));
    let mut health = Vec::new();
    for set in sets {
        let main = set.state.number("main_health");
        health.extend(main.map(|score| (with(set, &[("device", "main")]), ratio(score))));
        for (number, score) in &set.state.spare_health {
            let device = format!("spare{number}");
            health.push((with(set, &[("device", &device)]), ratio(*score)));
        }
    }
    let help = "Health of each device of the set; 1 is best.";
    text.family("dmremap_device_health_ratio", "gauge", help, health);
    let full = |set: &Set| Some(set.state.number("full_in")?.saturating_mul(86400).to_string());
    let help = "In how much time the spares are full if they go on to fill up as they did lately.";
    text.family("dmremap_spares_full_in_seconds", "gauge", help, each(&full));
    let events = sets.iter().flat_map(|set| {
        set.events.iter().map(|(event, n)| (with(set, &[("event", event)]), n.to_string()))
    });
    let help = "Events seen since the monitor was started.";
    text.family("dmremap_events_total", "counter", help, events.collect());
    let drives = |value: &dyn Fn(&Drive) -> Option<u64>| -> Vec<Sample> {
        let mut samples = Vec::new();
        for set in sets {
            for drive in &set.drives {
                let value = value(drive);
                samples
                    .extend(value.map(|v| (with(set, &[("drive", &drive.name)]), v.to_string())));
            }
        }
        samples
    };
    let help = "Sectors that the drive says it cannot read.";
    text.family("dmremap_drive_pending_sectors", "gauge", help, drives(&|drive| drive.pending));
    let help = "Sectors that the drive says it has replaced.";
    text.family(
        "dmremap_drive_reallocated_sectors",
        "gauge",
        help,
        drives(&|drive| drive.reallocated),
    );
    let help = "Whether the drive tries for longer to read a bad sector than the kernel waits.";
    let too_long = |drive: &Drive| Some(u64::from(drive.too_long));
    text.family("dmremap_drive_recovery_too_long", "gauge", help, drives(&too_long));
    text.0
}
