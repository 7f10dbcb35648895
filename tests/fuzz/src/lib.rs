//! What a fuzzer does to dm-remap's readers, and what must hold then.
//!
//! A [`Target`] takes any bytes, makes of them what a reader may be given, and panics when the reader does what it must not: panic
//! itself, overflow, or accept nonsense. `make fuzz` has new bytes made up; the corpus beside this is what was worth keeping, and
//! every test run goes through it again.

#![forbid(unsafe_code)]

pub mod disks;
mod found;
mod header;
pub mod image;
// The program's own, without all else that it is made of.
#[path = "../../../tools/dmremap/src/lists/mod.rs"]
pub mod lists;
mod old;
mod patch;
mod table;
mod words;

/// Something to be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it is called; its corpus is the file of that name.
    pub name: &'static str,
    /// Panics when something does not hold that must.
    pub run: fn(&[u8]),
}

/// All of them.
pub static TARGETS: [Target; 7] = [
    Target { name: "header", run: header::run },
    Target { name: "table", run: table::run },
    Target { name: "image", run: image::run },
    Target { name: "old", run: old::run },
    Target { name: "line", run: words::line },
    Target { name: "message", run: words::message },
    Target { name: "list", run: found::run },
];

/// The one of that name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// The kept inputs of a target, from the text of its file in the corpus: a line of hexadecimal digits each.
pub fn kept(text: &str) -> impl Iterator<Item = Vec<u8>> + '_ {
    text.lines().map(|line| {
        let digits: Vec<u8> =
            line.chars().map(|c| c.to_digit(16).unwrap_or_else(|| panic!("'{c}'")) as u8).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// What is kept is gone through again, and so is the beginning of each.
    #[test]
    fn what_a_fuzzer_has_found_worth_keeping_holds_no_surprise() {
        for target in super::TARGETS {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.lines().count() > 10, "hardly anything is kept in {}", file.display());
            for data in super::kept(&text) {
                (target.run)(&data);
                (target.run)(&data[..data.len() / 2]);
            }
            (target.run)(&[]);
        }
    }
}
