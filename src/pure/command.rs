// SPDX-License-Identifier: GPL-2.0

//! The messages that the target understands (`dmsetup message <dev> 0 <words>`), taken apart.

use core::fmt;

use super::identity::{of_digits, SerialHash};
use super::line::{is_name, LineError};
use super::units::{MainSector, Sectors, SpareId, MAX_SPARES};
use super::validate::Level;

/// A message. Sectors and settings are checked where the device is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Moves a range to a spare; one block if no length is given.
    Remap(MainSector, Option<Sectors>),
    /// Moves a range back to main; one block if no length is given.
    Unremap(MainSector, Option<Sectors>),
    /// Moves everything back to main.
    Clear,
    /// Reads the entry that holds a sector, where it lives and on main.
    Verify(MainSector),
    /// Lists the table from a sector on.
    Table(MainSector),
    /// Commits now.
    Save,
    /// Reads the spares again.
    Restore,
    /// Writes damaged copies of the metadata anew.
    Repair,
    /// Looks for damage in the copies of the metadata.
    Check(Level),
    /// Flushes everything.
    Sync,
    /// Stops the moves that are running.
    Stop,
    /// Begins a scan of main and the spares, or has one go on, pauses or stops it.
    Scan(ScanOrder),
    /// Tells about the metadata.
    MetadataStatus,
    /// Changes a setting.
    Set(&'a str, &'a str),
    /// Tells a setting, or all.
    Get(Option<&'a str>),
    /// Takes back the last change of a setting.
    Undo,
    /// Makes the device at a path one more spare; whether something foreign on it may be given up.
    SpareAdd(&'a str, bool),
    /// Moves away what lives on a spare, which then leaves; whether what cannot be read is given up.
    SpareRemove(&'a str, bool),
    /// Brings what lives on a spare to a device that takes its place.
    Migrate {
        /// Who leaves; the only spare if that is not said.
        from: Option<&'a str>,
        /// Who joins.
        to: &'a str,
        /// Whether something foreign on who joins may be given up.
        overwrite: bool,
        /// Whether what cannot be read on who leaves is given up.
        lost: bool,
    },
    /// Gives the set another name.
    Name(&'a str),
    /// Keeps what a device is recognised by: main, or the spare of that number.
    Identify(Option<SpareId>, Hint<'a>),
    /// Keeps what the device is recognised by that is to be main: the digits of its fingerprint.
    IdentifyNew(&'a str),
    /// Answers.
    Ping,
    /// Lists the messages.
    Help,
}

/// What the kernel does not know of a device, and user space does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint<'a> {
    /// Its serial number.
    Serial(SerialHash),
    /// A path of it that stays.
    Path(&'a str),
}

/// What is to become of the scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanOrder {
    /// It begins, or goes on from where it was paused.
    Start,
    /// It ends, and the next begins anew.
    Stop,
    /// It stays where it is.
    Pause,
}

/// Every message: its name, its arguments, what it does.
pub static COMMANDS: [(&str, &str, &str); 22] = [
    ("remap", "<sector> [<sectors>]", "move a range to a spare"),
    ("unremap", "<sector> [<sectors>]", "move a range back to main"),
    ("clear", "", "move everything back to main"),
    ("verify", "<sector>", "read a remapped block on its spare and on main"),
    ("table", "[<from sector>]", "list what is remapped or pending"),
    ("save", "", "write the metadata to every good copy"),
    ("restore", "", "read the metadata from the spares again"),
    ("repair", "", "write damaged copies of the metadata anew"),
    ("check", "<level>", "look for damage in the metadata: basic, integrity, complete, forensic"),
    ("sync", "", "flush main and the spares"),
    (
        "spare",
        "<add|remove> <device> [<overwrite|lost>]",
        "add a spare, or move away what lives on one and let it go",
    ),
    (
        "migrate",
        "[<spare>] <device> [<overwrite>] [<lost>]",
        "bring what lives on a spare to a device that takes its place",
    ),
    ("stop", "", "stop the moves that are running"),
    ("scan", "<start|stop|pause>", "read main and the spares in the background"),
    ("metadata_status", "", "tell about the metadata and what is running"),
    ("set", "<setting> <value>", "change a setting"),
    ("get", "[<setting>]", "tell a setting, or all of them"),
    ("undo", "", "take back the last change of a setting"),
    (
        "identify",
        "<main|spare number|new> <serial|path|fingerprint> <text>",
        "keep what main or a spare is recognised by",
    ),
    ("name", "<name>", "give the set another name"),
    ("ping", "", "answer 'pong'"),
    ("help", "", "list the messages"),
];

/// What is wrong with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError<'a> {
    /// There are no words.
    Empty,
    /// There is no such message.
    Unknown(&'a str),
    /// It takes other arguments: the message's place in [`COMMANDS`].
    Usage(&'static str, &'static str),
    /// A word is no number.
    Number(&'a str),
    /// There is no such level of a check.
    Level(&'a str),
    /// There is no such order to a scan.
    Scan(&'a str),
    /// A range has no sector.
    EmptyRange,
    /// No set may be called that.
    Name(&'a str),
    /// The word names neither main nor a spare.
    Member(&'a str),
    /// Devices are not recognised by that.
    Hint(&'a str),
    /// A serial number without a letter or digit.
    Serial(&'a str),
    /// A path that does not begin with `/`, or has control characters.
    Path,
    /// It is no fingerprint.
    Fingerprint,
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no message; 'help' lists them"),
            Self::Unknown(word) => write!(f, "unknown message '{word}'; 'help' lists them"),
            Self::Usage(name, "") => write!(f, "'{name}' takes no argument"),
            Self::Usage(name, args) => write!(f, "usage: {name} {args}"),
            Self::Number(word) => write!(f, "'{word}' is not a number of sectors"),
            Self::Level(word) => write!(
                f,
                "'{word}' is no level of a check; there are basic, integrity, complete and forensic"
            ),
            Self::Member(word) => write!(
                f,
                "'{word}' is neither 'main' nor the number of a spare, 0 to {}",
                MAX_SPARES - 1
            ),
            Self::Hint(word) => {
                write!(
                    f,
                    "'{word}' is nothing that a device is recognised by; there are serial and path"
                )
            }
            Self::Serial(word) => write!(f, "serial number '{word}' has no letter or digit"),
            Self::Fingerprint => {
                f.write_str("a fingerprint has 248 hexadecimal digits, as 'dmremap' writes them")
            }
            Self::Path => f.write_str("a path must begin with '/' and have no control characters"),
            Self::Scan(word) => {
                write!(f, "'{word}' is nothing that a scan can do; there are start, stop and pause")
            }
            Self::Name(name) => write!(f, "{}", LineError::Name(name)),
            Self::EmptyRange => f.write_str("a range must have at least one sector"),
        }
    }
}

fn sectors(word: &str) -> Result<u64, CommandError<'_>> {
    match word.parse() {
        Ok(n) if word.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        _ => Err(CommandError::Number(word)),
    }
}

fn range<'a>(words: &[&'a str]) -> Result<(MainSector, Option<Sectors>), CommandError<'a>> {
    let start = MainSector(sectors(words[0])?);
    let len = match words.get(1) {
        Some(word) => match sectors(word)? {
            0 => return Err(CommandError::EmptyRange),
            n => Some(Sectors(n)),
        },
        None => None,
    };
    Ok((start, len))
}

fn level(word: &str) -> Result<Level, CommandError<'_>> {
    let level = Level::ALL.into_iter().find(|level| level.name() == word);
    level.ok_or(CommandError::Level(word))
}

fn member(word: &str) -> Result<Option<SpareId>, CommandError<'_>> {
    if word == "main" {
        return Ok(None);
    }
    let number = word.parse().ok().filter(|&n| usize::from(n) < MAX_SPARES && word.len() == 1);
    number.map(|n| Some(SpareId(n))).ok_or(CommandError::Member(word))
}

fn hint<'a>(what: &'a str, text: &'a str) -> Result<Hint<'a>, CommandError<'a>> {
    match what {
        "serial" => SerialHash::of(text).map(Hint::Serial).ok_or(CommandError::Serial(text)),
        "path" if text.starts_with('/') && !text.contains(char::is_control) => Ok(Hint::Path(text)),
        "path" => Err(CommandError::Path),
        _ => Err(CommandError::Hint(what)),
    }
}

impl<'a> Command<'a> {
    /// Takes the words of a message apart.
    ///
    /// # Errors
    ///
    /// What is wrong, and how it would be right.
    pub fn parse(words: &[&'a str]) -> Result<Self, CommandError<'a>> {
        let (&name, args) = words.split_first().ok_or(CommandError::Empty)?;
        let &(name, usage, _) =
            COMMANDS.iter().find(|(n, ..)| *n == name).ok_or(CommandError::Unknown(name))?;
        let least = usage.matches('<').count() - usage.matches('[').count();
        let most = usage.matches('<').count();
        if !(least..=most).contains(&args.len()) {
            return Err(CommandError::Usage(name, usage));
        }
        Ok(match (name, args) {
            ("remap", args) => {
                let (start, len) = range(args)?;
                Self::Remap(start, len)
            }
            ("unremap", args) => {
                let (start, len) = range(args)?;
                Self::Unremap(start, len)
            }
            ("clear", _) => Self::Clear,
            ("verify", args) => Self::Verify(range(args)?.0),
            ("table", []) => Self::Table(MainSector(0)),
            ("table", args) => Self::Table(range(args)?.0),
            ("save", _) => Self::Save,
            ("restore", _) => Self::Restore,
            ("repair", _) => Self::Repair,
            ("check", args) => Self::Check(level(args[0])?),
            ("sync", _) => Self::Sync,
            ("stop", _) => Self::Stop,
            ("scan", args) => Self::Scan(match args[0] {
                "start" => ScanOrder::Start,
                "stop" => ScanOrder::Stop,
                "pause" => ScanOrder::Pause,
                word => return Err(CommandError::Scan(word)),
            }),
            ("metadata_status", _) => Self::MetadataStatus,
            ("set", [key, value, ..]) => Self::Set(key, value),
            ("get", args) => Self::Get(args.first().copied()),
            ("undo", _) => Self::Undo,
            ("spare", ["add", device]) => Self::SpareAdd(device, false),
            ("spare", ["add", device, "overwrite"]) => Self::SpareAdd(device, true),
            ("spare", ["remove", device]) => Self::SpareRemove(device, false),
            ("spare", ["remove", device, "lost"]) => Self::SpareRemove(device, true),
            ("spare", _) => return Err(CommandError::Usage(name, usage)),
            ("migrate", mut args) => {
                let mut last = |word| match args.split_last() {
                    Some((&last, rest)) if last == word && !rest.is_empty() => {
                        args = rest;
                        true
                    }
                    _ => false,
                };
                let lost = last("lost");
                let overwrite = last("overwrite");
                let lost = lost || last("lost");
                let (from, to) = match *args {
                    [to] => (None, to),
                    [from, to] => (Some(from), to),
                    _ => return Err(CommandError::Usage(name, usage)),
                };
                Self::Migrate { from, to, overwrite, lost }
            }
            ("identify", ["new", "fingerprint", digits]) => {
                of_digits(digits).ok_or(CommandError::Fingerprint)?;
                Self::IdentifyNew(digits)
            }
            ("identify", [of, what, text, ..]) => Self::Identify(member(of)?, hint(what, text)?),
            ("name", [name, ..]) if is_name(name) => Self::Name(name),
            ("name", [name, ..]) => return Err(CommandError::Name(name)),
            ("ping", _) => Self::Ping,
            _ => Self::Help,
        })
    }
}
