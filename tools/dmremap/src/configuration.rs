//! `/etc/dmremap.conf`: the sets that this machine has, told to those who have not seen their spares yet.
//!
//! A line begins with a word in capitals; a line that begins with white space goes on with the one before. `#` begins a comment.
//!
//! ```text
//! AUTO all
//! SET name=backup uuid=UUID main=/dev/disk/by-id/ata-DRIVE sectors=7814037168 serial=ABC123
//! ```

use crate::devices::Known;
use remap_pure::format::{MemberUuid, SetUuid};
use remap_pure::identity::HardwareId;
use std::fmt;
use std::path::Path;

/// Where it is.
pub const PATH: &str = "/etc/dmremap.conf";

/// Lines that are for the monitor.
const MONITOR: [&str; 3] = ["MAILADDR", "PROGRAM", "PROMETHEUS"];

/// Which sets are assembled without a person asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Auto {
    /// Every one that is found.
    #[default]
    All,
    /// Those that are named here.
    Listed,
    /// None.
    None,
}

/// What the configuration says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Which sets are assembled when their devices appear.
    pub auto: Auto,
    /// The sets that are named.
    pub sets: Vec<Entry>,
}

/// A set that is named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Its UUID.
    pub uuid: SetUuid,
    /// The name that it is to have on this machine, in place of its own.
    pub name: Option<String>,
    /// Whether it is assembled when its devices appear, in place of what [`Configuration::auto`] says.
    pub auto: Option<bool>,
    /// What its main is known by.
    pub main: Hints,
}

/// What a device is known by. What is not said is not asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hints {
    /// Paths that lead to it.
    pub paths: Vec<String>,
    /// UUID of the partition that it is.
    pub partition_uuid: Option<String>,
    /// The identifier that its hardware gives, in digits, without what kind it is.
    pub hardware_id: Option<String>,
    /// Letters and digits of its disk's serial number.
    pub serial: Option<String>,
    /// UUID of the filesystem on it.
    pub filesystem: Option<String>,
    /// How large it is, in sectors of 512 bytes.
    pub sectors: Option<u64>,
}

/// A line that says nothing that is understood. The others count all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Which line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// A device that is there, as far as hints speak of it.
#[derive(Clone, Debug, Default)]
pub struct Candidate<'a> {
    /// What the kernel and udev know of it.
    pub known: Known,
    /// Whether it is a partition.
    pub is_partition: bool,
    /// Its paths.
    pub links: Vec<&'a str>,
    /// UUID of what is on it.
    pub filesystem: Option<&'a str>,
    /// Its size.
    pub sectors: u64,
}

/// Letters and digits, without regard to case: what a person copies from somewhere is rarely the same to the letter.
fn plain(text: &str) -> String {
    let text = text.strip_prefix("0x").unwrap_or(text);
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The identifier that a disk gives, as `wwn=` has it.
pub fn hardware_digits(id: &HardwareId) -> String {
    let halves = id.bytes.iter().take(id.len.into()).flat_map(|byte| [byte >> 4, byte & 15]);
    halves.filter_map(|half| char::from_digit(half.into(), 16)).collect()
}

impl Hints {
    /// Whether a device can [fit](Self::fit) at all: a size alone says of none that it is the one.
    pub fn say_which(&self) -> bool {
        let identifiers = [&self.partition_uuid, &self.hardware_id, &self.serial, &self.filesystem];
        !self.paths.is_empty() || identifiers.iter().any(|is| is.is_some())
    }

    /// Whether this device is the one. An identifier of the device that both have and that differs says no, whatever else agrees, and
    /// so does a size.
    pub fn fit(&self, device: &Candidate<'_>) -> bool {
        let agrees = |hint: &Option<String>, is: Option<&str>| match (hint, is) {
            (Some(hint), Some(is)) => Some(plain(hint) == plain(is)),
            _ => None,
        };
        let digits = device.known.hardware_id.as_ref().map(hardware_digits);
        let partition = agrees(&self.partition_uuid, device.known.partition_uuid.as_deref());
        let disk = [
            agrees(&self.hardware_id, digits.as_deref()),
            agrees(&self.serial, device.known.serial.as_deref()),
        ];
        if partition == Some(false) || disk.contains(&Some(false)) {
            return false;
        }
        let size = self.sectors.map(|sectors| sectors == device.sectors);
        if partition == Some(true) {
            return true;
        }
        if size == Some(false)
            || (self.partition_uuid.is_some() && device.known.partition_uuid.is_some())
        {
            return false;
        }
        // A disk and its partitions have the same identifiers.
        let whole = size == Some(true) || !device.is_partition;
        (disk.contains(&Some(true)) && whole && self.partition_uuid.is_none())
            || self.paths.iter().any(|path| device.links.contains(&path.as_str()))
            || agrees(&self.filesystem, device.filesystem) == Some(true)
    }
}

/// The lines of a text, each with those that go on with it: its number, from 1 on, how many there are, and what they say.
pub(crate) fn lines(text: &[u8]) -> Vec<(usize, usize, Vec<u8>)> {
    let mut lines: Vec<(usize, usize, Vec<u8>)> = Vec::new();
    for (i, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let bare = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        match lines.last_mut() {
            Some((_, count, last)) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                last.extend(bare);
                *count += 1;
            }
            _ => lines.push((i + 1, 1, bare.into())),
        }
    }
    lines
}

/// What a line says. Comments are in any encoding; for the rest there is no telling which one was meant.
pub(crate) fn words(line: &[u8]) -> Result<Vec<&str>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "is not UTF-8; write it as UTF-8")?;
    Ok(line.split_whitespace().collect())
}

/// A text without the lines that name a set so. All else stays as it is, to the byte.
pub fn without(text: &[u8], gone: impl Fn(&Entry) -> bool) -> Vec<u8> {
    let all: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut rest = Vec::new();
    for (line, count, said) in lines(text) {
        let entry = match words(&said).unwrap_or_default()[..] {
            ["SET", ref words @ ..] => Entry::of(words).ok(),
            _ => None,
        };
        if !entry.is_some_and(|entry| gone(&entry)) {
            all.iter().skip(line - 1).take(count).for_each(|line| rest.extend(*line));
        }
    }
    rest
}

impl Configuration {
    /// Reads the file; one that is not there says nothing.
    ///
    /// # Errors
    ///
    /// That it is there and cannot be read, for a person.
    pub fn read(path: &Path) -> Result<(Self, Vec<Mistake>), String> {
        match std::fs::read(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Ok(<(Self, Vec<Mistake>)>::default())
            }
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }

    /// What a text says, and which of its lines say nothing.
    pub fn parse(text: &[u8]) -> (Self, Vec<Mistake>) {
        let (mut read, mut mistakes) = (Self::default(), Vec::new());
        for (line, _, said) in lines(text) {
            if let Err(what) = words(&said).and_then(|words| read.take(&words)) {
                mistakes.push(Mistake { line, what });
            }
        }
        (read, mistakes)
    }

    fn take(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            [] => Ok(()),
            ["AUTO", which] => {
                self.auto = match *which {
                    "all" => Auto::All,
                    "listed" => Auto::Listed,
                    "none" => Auto::None,
                    _ => return Err(format!("AUTO is all, listed or none, not {which}")),
                };
                Ok(())
            }
            ["SET", words @ ..] => {
                let entry = Entry::of(words)?;
                self.sets.push(entry);
                Ok(())
            }
            // The monitor reads these.
            [word, ..] if MONITOR.iter().any(|key| key.eq_ignore_ascii_case(word)) => Ok(()),
            [word, ..] => {
                let words = MONITOR.join(", ");
                Err(format!("a line begins with SET, AUTO, {words}, not {word}"))
            }
        }
    }

    /// What is said of a set, by the first line that names it: one whose main has been replaced may have a line for each.
    pub fn entry(&self, set: &SetUuid) -> Option<&Entry> {
        self.sets.iter().find(|entry| entry.uuid == *set)
    }

    /// Whether a set is to be assembled when its devices appear.
    pub fn assembles(&self, set: &SetUuid) -> bool {
        let entry = self.entry(set);
        entry.and_then(|entry| entry.auto).unwrap_or(match self.auto {
            Auto::All => true,
            Auto::Listed => entry.is_some(),
            Auto::None => false,
        })
    }

    /// The set that this device is the main of, if the configuration says so.
    pub fn main_of(&self, device: &Candidate<'_>) -> Option<SetUuid> {
        self.sets.iter().find(|entry| entry.main.fit(device)).map(|entry| entry.uuid)
    }
}

impl Entry {
    fn of(words: &[&str]) -> Result<Self, String> {
        let mut entry = Self::default();
        let mut uuid = None;
        for word in words {
            let pair = word.split_once('=').filter(|(_, value)| !value.is_empty());
            let (key, value) = pair.ok_or_else(|| format!("{word} is not KEY=VALUE"))?;
            let text = || Some(value.to_owned());
            match key {
                "uuid" => {
                    let parsed = MemberUuid::parse(value);
                    uuid = Some(SetUuid(parsed.ok_or_else(|| format!("{value} is no UUID"))?.0));
                }
                "name" => entry.name = text(),
                "auto" => {
                    entry.auto = match value {
                        "yes" => Some(true),
                        "no" => Some(false),
                        _ => return Err(format!("auto is yes or no, not {value}")),
                    }
                }
                "main" => entry.main.paths.push(value.into()),
                "partuuid" => entry.main.partition_uuid = text(),
                "wwn" => entry.main.hardware_id = text(),
                "serial" => entry.main.serial = text(),
                "fsuuid" => entry.main.filesystem = text(),
                "sectors" => {
                    let sectors = value.parse().map_err(|_| format!("{value} is no number"))?;
                    entry.main.sectors = Some(sectors);
                }
                _ => return Err(format!("there is no {key}=")),
            }
        }
        entry.uuid = uuid.ok_or("a SET needs its uuid=")?;
        Ok(entry)
    }
}

/// As a line of the file.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SET")?;
        if let Some(name) = &self.name {
            write!(f, " name={name}")?;
        }
        write!(f, " uuid={}", self.uuid)?;
        match self.auto {
            Some(true) => f.write_str(" auto=yes")?,
            Some(false) => f.write_str(" auto=no")?,
            None => {}
        }
        let main = &self.main;
        main.paths.iter().try_for_each(|path| write!(f, " main={path}"))?;
        for (key, value) in [
            ("partuuid", &main.partition_uuid),
            ("wwn", &main.hardware_id),
            ("serial", &main.serial),
            ("fsuuid", &main.filesystem),
        ] {
            if let Some(value) = value {
                write!(f, " {key}={value}")?;
            }
        }
        main.sectors.map_or(Ok(()), |sectors| write!(f, " sectors={sectors}"))
    }
}
