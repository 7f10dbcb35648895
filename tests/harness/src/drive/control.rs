//! What a test tells a running drive: one line of text each, answered by a line that begins with `ok`.

use super::model::{Ill, Watch};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A line on a drive's control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Requests that touch these sectors fail or wait.
    Ail(Range<u64>, Ill),
    /// These sectors are well again.
    Heal(Range<u64>),
    /// Takes the drive away or brings it back.
    Gone(bool),
    /// Makes flushes fail, or not.
    FailFlushes(bool),
    /// Has the next flush fail, with what it was to make durable lost.
    LoseFlush,
    /// Stops answering at that many more writes, flushes and discards; `None` calls it off.
    FreezeAfter(Option<u64>),
    /// Counts some writes, and stops answering at one of them.
    Watch(Watch),
    /// Asks for the counters: reads, writes, flushes, discards, errors, 1 if frozen, and writes that were watched for.
    State,
    /// Asks what is ill: commands that make it so, with semicolons between them.
    Ills,
    /// Flushes, copies the medium to the file beside it that ends in `.base`, and from then on keeps a journal in the one that ends in
    /// `.journal`; with the machine's file of events.
    Journal(PathBuf),
    /// Cuts the power, with a seed for what is lost.
    Cut(u64),
    /// Switches off with everything durable.
    SwitchOff,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Ail(s, ill) => {
                write!(
                    f,
                    "ail {} {} {} {} {} {} {}",
                    s.start,
                    s.end,
                    ill.reads,
                    ill.writes,
                    ill.delay.as_millis(),
                    ill.heals,
                    ill.times
                )
            }
            Command::Heal(s) => write!(f, "heal {} {}", s.start, s.end),
            Command::Gone(gone) => write!(f, "gone {gone}"),
            Command::FailFlushes(fail) => write!(f, "fail-flushes {fail}"),
            Command::LoseFlush => write!(f, "lose-flush"),
            Command::FreezeAfter(Some(n)) => write!(f, "freeze-after {n}"),
            Command::FreezeAfter(None) => write!(f, "thaw"),
            Command::Watch(watch) => {
                write!(f, "watch {} {} {}", watch.nth, watch.more, watch.carried_out)?;
                for (at, bytes) in &watch.carries {
                    write!(f, " {at}:")?;
                    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                }
                Ok(())
            }
            Command::State => write!(f, "state"),
            Command::Ills => write!(f, "ills"),
            Command::Journal(events) => write!(f, "journal {}", events.display()),
            Command::Cut(seed) => write!(f, "cut {seed}"),
            Command::SwitchOff => write!(f, "off"),
        }
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        if let Some(events) = line.strip_prefix("journal ") {
            return Ok(Command::Journal(events.into()));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number =
            |i: usize| words[i].parse::<u64>().map_err(|_| format!("{}: not a number", words[i]));
        let truth = |i: usize| {
            words[i].parse::<bool>().map_err(|_| format!("{}: neither true nor false", words[i]))
        };
        Ok(match words[..] {
            ["ail", _, _, _, _, _, _, _] => {
                let ill = Ill {
                    reads: truth(3)?,
                    writes: truth(4)?,
                    delay: Duration::from_millis(number(5)?),
                    heals: number(6)?,
                    times: number(7)?,
                };
                Command::Ail(number(1)?..number(2)?, ill)
            }
            ["heal", _, _] => Command::Heal(number(1)?..number(2)?),
            ["gone", _] => Command::Gone(truth(1)?),
            ["fail-flushes", _] => Command::FailFlushes(truth(1)?),
            ["lose-flush"] => Command::LoseFlush,
            ["freeze-after", _] => Command::FreezeAfter(Some(number(1)?)),
            ["thaw"] => Command::FreezeAfter(None),
            ["watch", _, _, _, ..] => Command::Watch(Watch {
                carries: words[4..].iter().map(|word| carried(word)).collect::<Result<_, _>>()?,
                nth: number(1)?,
                more: number(2)?,
                carried_out: truth(3)?,
            }),
            ["state"] => Command::State,
            ["ills"] => Command::Ills,
            ["cut", _] => Command::Cut(number(1)?),
            ["off"] => Command::SwitchOff,
            _ => return Err(format!("{line}: not a command of a drive")),
        })
    }
}

/// Bytes in a watch, and where.
fn carried(word: &str) -> Result<(usize, Vec<u8>), String> {
    let parts = word.split_once(':').filter(|(_, digits)| digits.is_ascii());
    let bytes = |digits: &str| {
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<Vec<u8>>>()
    };
    let read = parts.and_then(|(at, digits)| Some((at.parse().ok()?, bytes(digits)?)));
    read.ok_or(format!("{word}: not bytes and where they stand"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_the_socket() {
        let delay = Duration::from_secs(30);
        let ill = Ill { reads: true, writes: false, delay, heals: 8, times: 1 };
        for command in [
            Command::Ail(8..16, ill),
            Command::Heal(0..1),
            Command::Gone(true),
            Command::FailFlushes(false),
            Command::FreezeAfter(Some(3)),
            Command::FreezeAfter(None),
            Command::Watch(Watch {
                carries: vec![(0, b"it".to_vec()), (300, vec![0, 255])],
                nth: 2,
                more: 1,
                carried_out: true,
            }),
            Command::State,
            Command::Ills,
            Command::Cut(42),
            Command::SwitchOff,
        ] {
            assert_eq!(command.to_string().parse(), Ok(command));
        }
        for wrong in ["ail 1", "watch 1 2", "watch 1 2 true 5", "watch 1 2 true 5:0x"] {
            assert!(wrong.parse::<Command>().is_err(), "{wrong}");
        }
    }
}
