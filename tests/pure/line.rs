// SPDX-License-Identifier: GPL-2.0

//! Table lines, good and bad.

mod starve;

use remap_pure::line::{Line, LineError};
use remap_pure::units::Sectors;

fn parse(line: &'static str) -> Result<Line<'static>, LineError<'static>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Line::parse(&words)
}

#[test]
fn two_devices_are_enough() {
    let line = parse("/dev/a /dev/b").unwrap();
    assert_eq!((line.main, line.spare, line.part), ("/dev/a", "/dev/b", None));
    assert!(!line.create && !line.degraded && line.main_start == 0);
}

#[test]
fn numbers_behind_the_spare_are_a_part_of_it() {
    let line = parse("a b 1 100").unwrap();
    assert_eq!(line.part, Some((1, Sectors(100))));
    let line = parse("a b 2048 100000 1 create").unwrap();
    assert_eq!(line.part, Some((2048, Sectors(100000))));
    assert!(line.create);
}

#[test]
fn options_come_in_any_order() {
    let line = parse("a b 9 name disk-1 main_start 64 create remap_block 8 overwrite b").unwrap();
    assert_eq!(line.name, Some("disk-1"));
    assert_eq!(line.main_start, 64);
    assert!(line.create);
    assert_eq!(line.overwrite.as_slice(), ["b"]);
    assert_eq!(line.settings[0].0.name, "remap_block");
    assert_eq!(line.settings[0].1, "8");
}

#[test]
fn a_count_of_nothing_is_a_count() {
    assert!(parse("a b 0").is_ok());
    assert!(parse("a b 0 100 0").is_ok());
}

#[test]
fn what_is_wrong_is_named() {
    for (line, error) in [
        ("", LineError::Missing),
        ("a", LineError::Missing),
        ("a b x", LineError::Number("#opts", "x")),
        ("a b x 100", LineError::Number("spare_start", "x")),
        ("a b -1 100", LineError::Number("spare_start", "-1")),
        ("a b 0 0", LineError::EmptyPart),
        ("a b 0 18446744073709551616", LineError::Count(0, 1)),
        ("a b 2 create", LineError::Count(2, 1)),
        ("a b 2 create grow", LineError::NotCreate("grow")),
        ("a b 2 grow grow", LineError::Twice("grow")),
        ("a b 1 create degraded", LineError::Count(1, 2)),
        ("a b 1 creat", LineError::Unknown("creat")),
        ("a b 1 name", LineError::Value("name")),
        ("a b 2 create create", LineError::Twice("create")),
        ("a b 4 main_start 1 main_start 1", LineError::Twice("main_start")),
        ("a b 4 min_copies 2 min_copies 2", LineError::Twice("min_copies")),
        ("a b 2 main_start x", LineError::Number("main_start", "x")),
        ("a b 2 name n", LineError::OnlyCreate("name")),
        ("a b 2 max_remaps 5", LineError::OnlyCreate("max_remaps")),
        ("a b 2 overwrite b", LineError::OnlyCreate("overwrite")),
        ("a b 3 create name ä", LineError::Name("ä")),
        ("a b 2 filesystem 5f0c2b1a", LineError::Filesystem("5f0c2b1a")),
        (
            "a b 3 create filesystem 5f0c2b1a-7d3e-4c68-9a57-1e2d3c4b5a69",
            LineError::NotCreate("filesystem"),
        ),
        ("a b 2 create new_main", LineError::NotCreate("new_main")),
        ("a b 2 new_main new_main", LineError::Twice("new_main")),
        ("a b 2 create old_main", LineError::NotCreate("old_main")),
        ("a b 2 new_main old_main", LineError::Both("new_main", "old_main")),
        (
            "a b 4 filesystem 5f0c2b1a7d3e4c689a571e2d3c4b5a69 filesystem 5f0c2b1a7d3e4c689a571e2d3c4b5a69",
            LineError::Twice("filesystem"),
        ),
    ] {
        assert_eq!(parse(line).map(|_| ()), Err(error), "{line}");
    }
    assert!(parse("a b 14 spare 1 spare 2 spare 3 spare 4 spare 5 spare 6 spare 7").is_ok());
    assert_eq!(
        parse("a b 16 spare 1 spare 2 spare 3 spare 4 spare 5 spare 6 spare 7 spare 8").map(|_| ()),
        Err(LineError::TooManySpares)
    );
}

#[test]
fn every_error_says_what_to_do() {
    for line in ["", "a b x", "a b 0 0", "a b 2 create", "a b 1 creat", "a b 1 name"] {
        let text = parse(line).unwrap_err().to_string();
        assert!(text.len() > 15, "{text}");
    }
}

#[test]
fn all_spares_are_listed_the_first_with_its_part() {
    let line = parse("a b 64 100 4 spare c spare d").unwrap();
    let all: Vec<_> = line.spares().collect();
    assert_eq!(all, [("b", Some((64, Sectors(100)))), ("c", None), ("d", None)]);
}

#[test]
fn a_line_is_not_cut_for_lack_of_memory() {
    let text = "a b 6 spare c absent 00000000-0000-0000-0000-000000000001 grow degraded";
    let expected = parse(text).unwrap();
    starve::with_each_allocation_failing(2, |memory| match memory.short(|| parse(text)) {
        Ok(line) => {
            assert!(!memory.was_short());
            assert_eq!((line.more_spares.as_slice(), line.grow), (&["c"][..], expected.grow));
        }
        Err(e) => assert_eq!(e, LineError::Memory),
    });
}
