//! Words that people type: table lines and messages.

use remap_pure::command::{Command, COMMANDS};
use remap_pure::line::{is_name, Line};
use remap_pure::settings::{find, Limits, Settings, SETTINGS};
use remap_pure::units::MAX_SPARES;
use std::fmt::Write;

fn words(data: &[u8]) -> Option<Vec<&str>> {
    Some(std::str::from_utf8(data).ok()?.split_ascii_whitespace().collect())
}

/// A table line is refused, or what it says can be said again.
pub fn line(data: &[u8]) {
    let Some(words) = words(data) else { return };
    let line = match Line::parse(&words) {
        Ok(line) => line,
        Err(e) => return assert!(!e.to_string().is_empty()),
    };
    assert!(line.more_spares.len() < MAX_SPARES && line.name.is_none_or(is_name));
    let mut options = String::new();
    let flags = [(line.create, "create"), (line.degraded, "degraded"), (line.grow, "grow")];
    for (given, name) in flags {
        if given {
            write!(options, " {name}").unwrap();
        }
    }
    for (name, values) in
        [("overwrite", &line.overwrite), ("spare", &line.more_spares), ("absent", &line.absent)]
    {
        values.iter().for_each(|value| write!(options, " {name} {value}").unwrap());
    }
    write!(options, " main_start {}", line.main_start).unwrap();
    if let Some(name) = line.name {
        write!(options, " name {name}").unwrap();
    }
    if let Some(n) = line.max_remaps {
        write!(options, " max_remaps {n}").unwrap();
    }
    for (setting, value) in line.settings.iter() {
        write!(options, " {} {value}", setting.name).unwrap();
        if let Ok(value) = setting.parse(value, &Limits::default()) {
            assert!((setting.min..=setting.max).contains(&value));
        }
    }
    let part = line.part.map_or(String::new(), |(start, len)| format!(" {start} {len}"));
    let count = options.split_ascii_whitespace().count();
    let said = format!("{} {}{part} {count}{options}", line.main, line.spare);
    let again: Vec<&str> = said.split_ascii_whitespace().collect();
    let again = Line::parse(&again).unwrap_or_else(|e| panic!("{said}: {e}"));
    assert_eq!(format!("{line:?}"), format!("{again:?}"), "{said}");
}

/// A message is refused, or what it says can be said again.
pub fn message(data: &[u8]) {
    let Some(words) = words(data) else { return };
    let command = match Command::parse(&words) {
        Ok(command) => command,
        Err(e) => return assert!(!e.to_string().is_empty()),
    };
    assert!(COMMANDS.iter().any(|(name, ..)| *name == words[0]));
    // Numbers with zeroes in front are the same numbers.
    let plain = |word: &&str| word.parse::<u64>().map_or(word.to_string(), |n| n.to_string());
    let said: Vec<String> = words.iter().map(plain).collect();
    let again: Vec<&str> = said.iter().map(String::as_str).collect();
    if let Command::Set(key, value) = command {
        let mut settings = Settings::default();
        match settings.set([(key, value)], &Limits::default()) {
            Ok(()) => assert!(find(key).is_some()),
            Err((_, e)) => assert!(!e.to_string().is_empty()),
        }
        SETTINGS.iter().for_each(|setting| assert!(settings.get(setting) <= setting.max));
    } else if !matches!(command, Command::Get(_)) {
        assert_eq!(Command::parse(&again), Ok(command));
    }
}
