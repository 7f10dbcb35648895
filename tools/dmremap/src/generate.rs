//! `generate`: what is made of the program's own arguments when it is installed: its manual page, and completions for shells.

use crate::{text, Failure, Outcome};
use clap::Command;
use clap_mangen::Man;
use std::io::{self, Write};

/// What people have to know besides the arguments.
const BEFORE: &str = include_str!("manual/before.roff");
const AFTER: &str = include_str!("manual/after.roff");

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(value_enum)]
    what: What,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    Man,
    Bash,
    Zsh,
    Fish,
}

/// Prints it.
pub fn run(arguments: &Arguments, mut program: Command) -> Result<Outcome, Failure> {
    use clap_complete::{generate, Shell};
    program.build();
    let mut made = Vec::new();
    match arguments.what {
        What::Man => manual(&program, &mut made).map_err(|e| e.to_string())?,
        What::Bash => generate(Shell::Bash, &mut program, "dmremap", &mut made),
        What::Zsh => generate(Shell::Zsh, &mut program, "dmremap", &mut made),
        What::Fish => generate(Shell::Fish, &mut program, "dmremap", &mut made),
    }
    text::print(|out| out.write_all(&made))?;
    Ok(Outcome::Well)
}

/// One page with a section for each verb.
fn manual(program: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let page = Man::new(program.clone()).title("dmremap").section("8").date("");
    page.render_title(out)?;
    page.render_name_section(out)?;
    writeln!(out, ".SH SYNOPSIS")?;
    let verbs = || {
        program.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
    };
    for verb in verbs() {
        let usage = verb.clone().render_usage().to_string();
        let (_, usage) = usage.split_once("dmremap").unwrap_or(("", &usage));
        // A hyphen in roff is a soft one.
        writeln!(
            out,
            ".br\n\\fBdmremap\\fR{}",
            usage.trim_end().replace('\n', " ").replace('-', "\\-")
        )?;
    }
    out.write_all(BEFORE.as_bytes())?;
    writeln!(out, ".SH VERBS")?;
    for verb in verbs() {
        writeln!(out, ".SS {}", verb.get_name().replace('-', "\\-"))?;
        let about = verb.get_long_about().or(verb.get_about());
        writeln!(
            out,
            "{}",
            about.map(ToString::to_string).unwrap_or_default().replace('-', "\\-")
        )?;
        let mut options = Vec::new();
        Man::new(verb.clone()).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "");
        out.write_all(options.as_bytes())?;
    }
    out.write_all(AFTER.as_bytes())
}
