//! `check`: every finding of a validation, and what they come to.

use crate::spares::{Access, Spares, Which};
use crate::{text, Failure, Outcome};
use clap::ValueEnum;
use dmremap::crc;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::validate::{validate_without, Level, Severity};

#[derive(clap::Args)]
pub struct Arguments {
    /// How closely to look; each level has what those before it have
    #[arg(long, value_enum, default_value = "complete")]
    level: Name,
    #[command(flatten)]
    which: Which,
}

/// A level, as the command line has it.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Magic, format, size and version of every header
    Basic,
    /// Every checksum
    Integrity,
    /// Entries in bounds, none overlap, no place given out twice, counts agree
    Complete,
    /// Every copy against the state that would be taken, block by block
    Forensic,
}

impl From<Name> for Level {
    fn from(name: Name) -> Self {
        match name {
            Name::Basic => Self::Basic,
            Name::Integrity => Self::Integrity,
            Name::Complete => Self::Complete,
            Name::Forensic => Self::Forensic,
        }
    }
}

/// Looks for damage.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut spares = Spares::open(&arguments.which, Access::Read)?;
    let level = Level::from(arguments.level);
    let report = validate_without(&mut spares, level, &KNOWN_AWAY, crc).map_err(|_| "no memory")?;
    let worst = report.worst();
    text::print(|out| {
        for finding in report.findings() {
            let severity = match finding.severity() {
                Severity::Note => "note",
                Severity::Damage => "damage",
                Severity::Fatal => "fatal",
            };
            writeln!(out, "{severity:<7} {:<9}  {finding}", finding.level.name())?;
        }
        let verdict = match worst {
            Severity::Note => "nothing wrong",
            Severity::Damage => {
                "damaged; the set can be used, which writes it anew, as `dmremap repair` does"
            }
            Severity::Fatal => "the set cannot be used as it is",
        };
        writeln!(out, "{} check: {verdict}", level.name())
    })?;
    Ok(match worst {
        Severity::Note => Outcome::Well,
        Severity::Damage => Outcome::Damaged,
        Severity::Fatal => Outcome::Unusable,
    })
}
