//! What `metadata_status` says of a set, and what has changed from one time to the next.

use std::collections::BTreeMap;

/// A set at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    values: BTreeMap<String, String>,
    /// The health of each spare that has one.
    pub spare_health: Vec<(String, u64)>,
    /// What has ended, newest last or first as the module says it.
    ended: Vec<String>,
}

/// What a person wants to hear of, and whether it is in sectors.
const TOLD: &[(&str, bool)] = &[
    ("pending", true),
    ("lost", true),
    ("remapped", true),
    ("suspect", true),
    ("retired", true),
    ("away", false),
    ("persist", false),
    ("auto", false),
    ("health", false),
    ("main_health", false),
    ("full_in", false),
];

impl State {
    /// What `metadata_status` says.
    pub fn parse(text: &str) -> Self {
        let mut state = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(' ') else { continue };
            match key {
                "spare" | "copy" | "running" => {}
                "ended" => state.ended.push(value.into()),
                "spare_health" => {
                    let health =
                        value.split_once(' ').and_then(|(n, h)| Some((n, h.parse().ok()?)));
                    state.spare_health.extend(health.map(|(n, h)| (n.to_owned(), h)));
                }
                _ => _ = state.values.insert(key.into(), value.into()),
            }
        }
        state
    }

    /// A value, empty where there is none.
    pub fn get(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (&**key, &**value))
    }

    /// A value that is a number; a percentage counts.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key).trim_end_matches('%').parse().ok()
    }

    /// Whether nothing needs to be done about it.
    pub fn is_healthy(&self) -> bool {
        self.get("health") == "1"
    }

    /// The events that must have been raised between `before` and now, where nobody has said which.
    pub fn events_since(&self, before: &Self) -> Vec<&'static str> {
        let rose = |key| self.number(key) > before.number(key);
        let fell = |key| self.number(key) < before.number(key);
        let became = |key, word| self.get(key) == word && before.get(key) != word;
        let was = |key, word| became_not(before, self, key, word);
        let events = [
            ("remapped", rose("auto_remaps")),
            ("pending", rose("pending_marks")),
            ("suspect", rose("suspect")),
            ("retired", rose("retired_places")),
            ("halted", became("auto", "halted")),
            ("resumed", was("auto", "halted")),
            ("spare-away", rose("away")),
            ("spare-back", fell("away")),
            ("spare-add", rose("spares")),
            ("spare-remove", fell("spares")),
            ("maintenance", became("auto", "maintenance")),
            ("maintenance-over", was("auto", "maintenance")),
            ("persist", self.get("persist") != before.get("persist")),
            ("remap", rose("manual_remaps")),
            ("unremap", rose("unremaps")),
            ("health", fell("health")),
            ("scan", rose("scans")),
        ];
        events.into_iter().filter(|(_, raised)| *raised).map(|(name, _)| name).collect()
    }

    /// What is worth saying, with what it was before where that is known and differs.
    pub fn describe(&self, before: Option<&Self>) -> String {
        let mut parts = Vec::new();
        for &(key, sectors) in TOLD {
            let value = self.get(key);
            let was = before.map_or(value, |before| before.get(key));
            let usual = match key {
                "persist" => "enabled",
                "auto" => "on",
                "full_in" => "never",
                "health" => "1",
                "main_health" => "100",
                _ => "0",
            };
            let usual = value.is_empty() || value == usual;
            let unit = if sectors { " sectors" } else { "" };
            match (value == was, usual) {
                (true, true) => {}
                (true, false) => parts.push(format!("{key} {value}{unit}")),
                (false, _) => parts.push(format!("{key} {value}{unit} (was {was})")),
            }
        }
        match parts.is_empty() {
            true => "nothing pending, nothing remapped".into(),
            false => parts.join(", "),
        }
    }
}

/// Whether a value was `word` and is not any more.
fn became_not(before: &State, now: &State, key: &str, word: &str) -> bool {
    before.get(key) == word && now.get(key) != word
}
