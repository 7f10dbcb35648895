//! What a drive says of itself: its pending and reallocated sectors, and how long it tries to read a bad one. Asked of smartctl(8), which
//! knows how each kind of drive is asked.

use crate::child;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// How long smartctl may take. A drive that is busy with a bad sector answers late.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a drive does about a sector that it cannot read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Recovery {
    /// It is not known.
    #[default]
    Unknown,
    /// It cannot be told when to give up.
    Unlimited,
    /// It can be told when to give up, and has not been.
    Off,
    /// It gives up after so many tenths of a second.
    Within(u64),
}

/// What a drive says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Smart {
    /// Sectors that it could not read and has not been able to replace (attribute 197).
    pub pending: Option<u64>,
    /// Sectors that it has replaced (attribute 5, or the list of grown defects).
    pub reallocated: Option<u64>,
    /// How long it tries.
    pub recovery: Recovery,
}

impl Smart {
    /// What `smartctl --json -A -c -l scterc` printed.
    ///
    /// # Errors
    ///
    /// That it is not that.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all: Value =
            serde_json::from_str(text).map_err(|e| format!("smartctl's answer is no JSON: {e}"))?;
        if !all["smartctl"].is_object() {
            return Err("smartctl's answer is not of smartctl".into());
        }
        let attribute = |id: u64| {
            let table = all["ata_smart_attributes"]["table"].as_array()?;
            table.iter().find(|row| row["id"] == id)?["raw"]["value"].as_u64()
        };
        // The vendor may keep other counts in the upper bytes.
        let count = |id| attribute(id).map(|raw| raw & 0xffff_ffff);
        Ok(Self {
            pending: count(197),
            reallocated: count(5).or_else(|| all["scsi_grown_defect_list"].as_u64()),
            recovery: recovery(&all),
        })
    }

    /// Asks a drive, unless that would wake it.
    ///
    /// # Errors
    ///
    /// There is no smartctl, or it has no answer.
    pub fn of(device: &str) -> Result<Self, String> {
        let mut command = Command::new("smartctl");
        command.args(["--json=c", "-n", "standby", "-A", "-c", "-l", "scterc", device]);
        let ended = child::run(&mut command, &[], PATIENCE)?;
        Self::parse(&ended.out)
    }
}

fn recovery(all: &Value) -> Recovery {
    let limit = |what: &str| {
        let limit = &all["ata_sct_erc"][what];
        Some((limit["enabled"].as_bool()?, limit["deciseconds"].as_u64().unwrap_or(0)))
    };
    match (limit("read"), limit("write")) {
        (None, None) => {}
        (read, write) => {
            let (read, write) = (read.unwrap_or((false, 0)), write.unwrap_or((false, 0)));
            return match read.0 && write.0 {
                true => Recovery::Within(read.1.max(write.1)),
                false => Recovery::Off,
            };
        }
    }
    // An ATA drive whose capabilities have been read, and no such thing among them.
    let asked = all["device"]["protocol"] == "ATA" && all["ata_smart_data"].is_object();
    match all["ata_sct_capabilities"]["error_recovery_control_supported"].as_bool() {
        Some(true) => Recovery::Unknown,
        _ if asked => Recovery::Unlimited,
        _ => Recovery::Unknown,
    }
}
