//! A set in use with all that there is to show of it, from the kernel and from user space.

use crate::live::{Live, Mapper};
use crate::Failure;
use dmremap::devices::members;
use dmremap::label::Label;
use dmremap::state::State;
use serde::Serialize;
use std::fs;
use std::path::Path;

/// A set in use.
#[derive(Serialize)]
pub struct Shown {
    /// The name of the mapped device.
    pub mapped: String,
    /// Its path.
    pub path: String,
    /// Its number, as `major:minor`.
    pub number: String,
    /// Its UUID to device mapper, empty without one.
    pub mapper_uuid: String,
    /// Its size.
    pub sectors: u64,
    /// How many have it open.
    pub open: u32,
    /// Whether I/O is held at present.
    pub suspended: bool,
    /// Whether its table was loaded for reading only.
    pub read_only: bool,
    /// The device that fails.
    pub main: Label,
    /// The devices that stand in for it.
    pub spares: Vec<Spare>,
    /// What the set says of itself.
    pub state: State,
}

/// A spare of it.
#[derive(Serialize)]
pub struct Spare {
    /// Its number in the set.
    pub number: u32,
    /// Its device, if it is there.
    pub device: Option<Label>,
    /// Whether the set goes on without it.
    pub away: bool,
    /// Its health, from 0 to 100.
    pub health: Option<u32>,
    /// Sectors in use; none while the set is suspended.
    pub used: Option<u64>,
    /// Sectors that there is room for; none while the set is suspended.
    pub room: Option<u64>,
    /// When it was last checked, in seconds since 1970; 0 if it never was.
    pub last_checked: Option<u64>,
    /// Its UUID.
    pub uuid: String,
}

impl Shown {
    /// What there is to show of a set.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn of(mapper: &Mapper, live: &Live) -> Result<Self, Failure> {
        let text = mapper.message(live, "metadata_status")?;
        let state = State::parse(&text);
        let all = members(&live.line, &text).map_err(|e| format!("{}: {e}", live.name))?;
        let root = Path::new("/");
        let main = all.first().map(|main| Label::of(root, main.device.0, main.device.1));
        let folder = live.sysfs().join("remap");
        let spare = |member: &dmremap::state::Member| {
            let number = |file: &str| {
                let path = folder.join(format!("spare{}", member.number)).join(file);
                fs::read_to_string(path).ok()?.trim().parse().ok()
            };
            Spare {
                number: member.number,
                device: member.device.map(|(major, minor)| Label::of(root, major, minor)),
                away: member.away,
                health: member.health,
                used: number("used"),
                room: number("room"),
                last_checked: number("last_checked"),
                uuid: member.uuid.clone(),
            }
        };
        Ok(Self {
            mapped: live.name.clone(),
            path: live.path().display().to_string(),
            number: format!("{}:{}", live.device.0, live.device.1),
            mapper_uuid: live.uuid.clone(),
            sectors: live.sectors,
            open: live.open,
            suspended: live.suspended,
            read_only: live.read_only,
            main: main.unwrap_or_default(),
            spares: state.members.iter().map(spare).collect(),
            state,
        })
    }

    /// What is wrong, a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = self.state.troubles();
        if self.suspended {
            troubles.push("it is suspended: nothing is read or written".into());
        }
        troubles
    }

    /// In a word how it is.
    pub fn word(&self) -> &'static str {
        match () {
            () if self.suspended => "suspended",
            () if self.state.word("persist") == "failed" => "failed",
            () if self.spares.iter().any(|spare| spare.away) => "degraded",
            () if !self.state.troubles().is_empty() => "ailing",
            () => "healthy",
        }
    }
}

/// The sets in use that a person means: one, or all of them.
///
/// # Errors
///
/// With a text for a person.
pub fn sets(mapper: &Mapper, name: Option<&str>) -> Result<Vec<Shown>, Failure> {
    let live = match name {
        Some(name) => vec![mapper.find(name)?],
        None => mapper.all()?,
    };
    live.iter().map(|live| Shown::of(mapper, live)).collect()
}
