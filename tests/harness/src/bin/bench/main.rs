//! `make bench`: what I/O through `remap` costs, what is done to a set, and what the same costs done otherwise.
//!
//! Each part boots a machine of its own, and all that is compared with each other was measured there, in turn. Some count instructions, and
//! their figures hardly differ from run to run; some have two processors and go by the clock of the machine below. Each prints its report,
//! keeps it as `build/bench/PART.json`, and writes it into `docs/performance.md` between its marks. What is out of bounds ends the whole with
//! an error, behind the last part.

mod clock;
mod devices;
mod dust;
mod loads;
mod reads;
mod turns;
mod work;

use remap_harness::env::Env;
use remap_harness::report::Report;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

const DOCUMENT: &str = "docs/performance.md";

/// Where the reports are kept for programs.
const REPORTS: &str = "build/bench";

type Part = (&'static str, fn() -> Report);

/// Those that run on the stock kernel.
const PARTS: &[Part] = &[
    ("reads", reads::measure),
    ("loads", loads::measure),
    ("work", work::measure),
    ("rates", clock::rates),
    ("scaling", clock::scaling),
];

/// Those that run on the kernel that looks for faults.
const DEBUG_PARTS: &[Part] = &[("dust", dust::measure)];

/// Keeps what a part has found.
fn keep(part: &str, report: &Report) -> Result<(), String> {
    fs::create_dir_all(REPORTS).map_err(|e| format!("{REPORTS}: {e}"))?;
    let json = Path::new(REPORTS).join(format!("{part}.json"));
    fs::write(&json, report.json(part)).map_err(|e| format!("{}: {e}", json.display()))?;
    let document = fs::read_to_string(DOCUMENT).map_err(|e| format!("{DOCUMENT}: {e}"))?;
    let document = report.write_into(part, &document).map_err(|e| format!("{DOCUMENT}: {e}"))?;
    fs::write(DOCUMENT, document).map_err(|e| format!("{DOCUMENT}: {e}"))
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let parts = if Env::get().debug { DEBUG_PARTS } else { PARTS };
    let names: Vec<&str> = parts.iter().map(|part| part.0).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        eprintln!("{unknown} is none of the parts of this kernel, which are: {}", names.join(" "));
        return ExitCode::FAILURE;
    }
    let mut status = ExitCode::SUCCESS;
    for &(part, measure) in parts {
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
