//! What a test tells a running drive: one line of text each, answered by a line that begins with `ok`.

use super::model::Ill;
use std::fmt;
use std::ops::Range;
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
    /// Stops answering at that many more writes, flushes and discards; `None` calls it off.
    FreezeAfter(Option<u64>),
    /// Asks for the counters: reads, writes, flushes, discards, errors, and 1 if frozen.
    State,
    /// Asks what is ill: commands that make it so, with semicolons between them.
    Ills,
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
            Command::FreezeAfter(Some(n)) => write!(f, "freeze-after {n}"),
            Command::FreezeAfter(None) => write!(f, "thaw"),
            Command::State => write!(f, "state"),
            Command::Ills => write!(f, "ills"),
            Command::Cut(seed) => write!(f, "cut {seed}"),
            Command::SwitchOff => write!(f, "off"),
        }
    }
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
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
            ["freeze-after", _] => Command::FreezeAfter(Some(number(1)?)),
            ["thaw"] => Command::FreezeAfter(None),
            ["state"] => Command::State,
            ["ills"] => Command::Ills,
            ["cut", _] => Command::Cut(number(1)?),
            ["off"] => Command::SwitchOff,
            _ => return Err(format!("{line}: not a command of a drive")),
        })
    }
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
            Command::State,
            Command::Ills,
            Command::Cut(42),
            Command::SwitchOff,
        ] {
            assert_eq!(command.to_string().parse(), Ok(command));
        }
        assert!("ail 1".parse::<Command>().is_err());
    }
}
