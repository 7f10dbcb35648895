//! `list`: the sets in use, a line each.

use crate::live::Mapper;
use crate::shown::{sets, Shown};
use crate::{text, Failure, Outcome};
use comfy_table::presets::NOTHING;
use comfy_table::Table;
use serde_json::json;

#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows them.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let sets = sets(&Mapper::open()?, None)?;
    if arguments.json {
        let sets: Vec<_> = sets.iter().map(brief).collect();
        text::json(&json!({ "sets": sets }))?;
        return Ok(Outcome::Well);
    }
    if sets.is_empty() {
        text::print(|out| writeln!(out, "no set is in use"))?;
        return Ok(Outcome::Well);
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["MAPPED", "STATE", "SIZE", "MAIN", "SPARES", "SET"]);
    for set in &sets {
        table.add_row([
            set.mapped.clone(),
            set.word().into(),
            text::size(set.sectors),
            set.main.path.clone(),
            spares(set).join(" "),
            match set.state.word("name") {
                "" => set.state.word("set").into(),
                name => format!("{} ({name})", set.state.word("set")),
            },
        ]);
    }
    text::print(|out| writeln!(out, "{}", table.trim_fmt()))?;
    Ok(Outcome::Well)
}

fn spares(set: &Shown) -> Vec<String> {
    let path = |spare: &crate::shown::Spare| match &spare.device {
        Some(device) if !spare.away => device.path.clone(),
        _ => "(away)".into(),
    };
    set.spares.iter().map(path).collect()
}

fn brief(set: &Shown) -> serde_json::Value {
    json!({
        "mapped": set.mapped,
        "path": set.path,
        "set": set.state.word("set"),
        "name": set.state.word("name"),
        "state": set.word(),
        "sectors": set.sectors,
        "main": set.main.path,
        "spares": (set.spares.iter())
            .map(|spare| spare.device.as_ref().filter(|_| !spare.away).map(|device| &device.path))
            .collect::<Vec<_>>(),
    })
}
