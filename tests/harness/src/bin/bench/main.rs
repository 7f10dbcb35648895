//! `make bench`: what I/O through `remap` costs, what is done to a set, and what the same costs done otherwise.
//!
//! Each part boots a machine of its own, and all that is compared with each other was measured there, in turn. Some count instructions, and
//! their figures hardly differ from run to run; some have two processors and go by the clock of the machine below. Each prints its report,
//! keeps it as `build/bench/PART.json`, and writes it into `docs/performance.md` between its marks. What is out of bounds ends the whole with
//! an error, behind the last part.

mod clock;
mod devices;
mod loads;
mod reads;
mod work;

use remap_harness::env::Env;
use remap_harness::report::Report;
use std::fs;
use std::process::ExitCode;

const DOCUMENT: &str = "docs/performance.md";

type Part = (&'static str, fn() -> Report);

const PARTS: [Part; 5] = [
    ("reads", reads::measure),
    ("loads", loads::measure),
    ("work", work::measure),
    ("rates", clock::rates),
    ("scaling", clock::scaling),
];

/// Keeps what a part has found.
fn keep(part: &str, report: &Report) -> Result<(), String> {
    let dir = Env::get().build().join("bench");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let json = dir.join(format!("{part}.json"));
    fs::write(&json, report.json(part)).map_err(|e| format!("{}: {e}", json.display()))?;
    let document = fs::read_to_string(DOCUMENT).map_err(|e| format!("{DOCUMENT}: {e}"))?;
    let document = report.write_into(part, &document).map_err(|e| format!("{DOCUMENT}: {e}"))?;
    fs::write(DOCUMENT, document).map_err(|e| format!("{DOCUMENT}: {e}"))
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| PARTS.iter().all(|part| part.0 != **name)) {
        eprintln!("{unknown} is none of the parts, which are: {}", PARTS.map(|p| p.0).join(" "));
        return ExitCode::FAILURE;
    }
    let mut status = ExitCode::SUCCESS;
    for (part, measure) in PARTS {
        if !wanted.is_empty() && wanted.iter().all(|name| name != part) {
            continue;
        }
        let report = measure();
        println!("{}", report.text(part));
        if let Err(e) = keep(part, &report) {
            eprintln!("{e}");
            status = ExitCode::FAILURE;
        }
        if !report.holds() {
            eprintln!("{part}: not all is within its bounds");
            status = ExitCode::FAILURE;
        }
    }
    status
}
