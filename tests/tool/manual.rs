//! The manual page and the completions say what the program takes.

use std::collections::BTreeSet;
use std::process::Command;

fn dmremap(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dmremap")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs that `--help` lists.
fn verbs() -> Vec<String> {
    let help = dmremap(&["--help"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = lines.take_while(|line| !line.is_empty());
    let named = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs: Vec<String> =
        named.filter_map(|line| Some(line.split_whitespace().next()?.into())).collect();
    assert!(verbs.len() > 5, "{help}");
    verbs.into_iter().filter(|verb| verb != "help").collect()
}

/// The long options in a text.
fn options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words
        .filter(|word| word.len() > 3 && word.starts_with("--") && !word.starts_with("---"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_manual_has_every_verb_with_its_options_and_no_other() {
    // As it is shown: without what makes letters bold, and with hyphens.
    let page = dmremap(&["generate", "man"])
        .replace("\\fB", "")
        .replace("\\fI", "")
        .replace("\\fR", "")
        .replace("\\-", "-");
    assert!(page.contains(".TH dmremap 8"), "{page}");
    let sections: Vec<&str> = page.split("\n.SH ").collect();
    let of_verbs = sections.iter().find_map(|section| section.strip_prefix("VERBS\n")).unwrap();
    let of_verbs: Vec<&str> = of_verbs.split(".SS ").skip(1).collect();
    let named: Vec<&str> = of_verbs.iter().map(|text| text.lines().next().unwrap()).collect();
    assert_eq!(named, verbs());
    for (verb, text) in verbs().iter().zip(&of_verbs) {
        let help = dmremap(&[verb, "--help"]);
        assert_eq!(options(text), options(&help), "{verb}");
        assert!(page.contains(&format!("\ndmremap {verb}")), "no synopsis of {verb}");
    }
    for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "FILES", "SEE ALSO"] {
        assert!(sections.iter().any(|text| text.starts_with(section)), "no {section}");
    }
}

#[test]
fn shells_complete_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = dmremap(&["generate", shell]);
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell}: no {verb}");
        }
        assert!(script.contains("dmremap"));
    }
}
