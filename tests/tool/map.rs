//! The picture of main's surface.

use super::{Image, Run, Spare, MAIN, SPARE};
use dmremap::extents::{parse, within, Extent, Kind};
use dmremap::surface::{densest, legend, svg, Surface};
use serde_json::Value;
use std::fs;

fn extent(start: u64, len: u64, kind: Kind) -> Extent {
    Extent { start, len, kind }
}

#[test]
fn extents_are_read_and_retired_places_are_none_of_main() {
    let (extents, more) = parse(
        "8 8 remapped 0 9000\n64 2 pending\n70 1 lost\n80 4 suspect 1 10000\n- 8 retired 0 12000\nmore 99\n",
    );
    let expected = [
        extent(8, 8, Kind::Remapped),
        extent(64, 2, Kind::Pending),
        extent(70, 1, Kind::Lost),
        extent(80, 4, Kind::Suspect),
    ];
    assert_eq!((&extents[..], more), (&expected[..], Some(99)));
    assert_eq!(parse("").1, None);
    assert_eq!(
        within(&extents, 10, 55),
        [extent(10, 6, Kind::Remapped), extent(64, 1, Kind::Pending)]
    );
    assert!(within(&extents, 16, 48).is_empty());
}

#[test]
fn each_sector_is_in_its_piece_and_the_worst_shows() {
    // 10 rows of 10 pieces of 80 sectors, the last one of 40.
    let sectors = 7960;
    let extents = [
        extent(0, 1, Kind::Remapped),
        extent(80, 80, Kind::Remapped),
        extent(155, 10, Kind::Pending),
        extent(800, 8, Kind::Lost),
        extent(808, 8, Kind::Remapped),
        extent(7959, 1, Kind::Suspect),
    ];
    let surface = Surface::of(sectors, &extents, 10, 10);
    assert_eq!((surface.per_cell, surface.cells.len()), (80, 100));
    let sum: u64 = surface.cells.iter().map(|cell| cell.touched()).sum();
    assert_eq!(sum, 1 + 80 + 10 + 16 + 1);
    let rows = surface.rows(false, false);
    assert_eq!(rows[0], (0, ":PP.......".into()));
    assert_eq!(rows[1], (800, "L.........".into()));
    assert_eq!(rows[9], (7200, ".........s".into()));
    assert_eq!(surface.rows(true, false)[0].1, "░◆◆·······");
    // Colours change nothing else.
    let coloured = surface.rows(true, true)[0].1.clone();
    assert!(coloured.contains("\x1b[0;31m◆◆\x1b[0m"), "{coloured:?}");
    assert!(legend(false).is_ascii() && legend(true).contains('◆'));

    // Shades are of how much is remapped.
    let shades: Vec<Extent> =
        (0..4).map(|i| extent(i * 80, (i + 1) * 20, Kind::Remapped)).collect();
    assert_eq!(Surface::of(800, &shades, 10, 1).rows(false, false)[0].1, ":+*#......");
    // What reaches behind the end, and the smallest of all.
    assert_eq!(Surface::of(8, &[extent(4, 100, Kind::Lost)], 10, 1).cells[0].touched(), 4);
    assert!(Surface::of(0, &[], 0, 0).cells.is_empty());
    let large = Surface::of(u64::MAX / 1024, &extents, 80, 24);
    assert!(large.cells.len() <= 80 * 24);
}

#[test]
fn the_densest_places_come_first() {
    let mut extents: Vec<Extent> =
        (0..10).map(|i| extent(5000 + i * 16, 8, Kind::Remapped)).collect();
    extents.push(extent(100, 2, Kind::Pending));
    extents.push(extent(9000, 200, Kind::Lost));
    let places = densest(&extents, 64, 10);
    let found: Vec<_> = places.iter().map(|p| (p.start, p.len, p.extents, p.touched())).collect();
    assert_eq!(found, [(9000, 200, 1, 200), (5000, 152, 10, 80), (100, 2, 1, 2)]);
    assert_eq!((places[0].lost, places[1].remapped, places[2].pending), (200, 80, 2));
    assert_eq!(densest(&extents, 64, 1).len(), 1);
    assert!(densest(&[], 64, 3).is_empty());
}

/// Tags that are opened are closed, in their order; what stands between them has no sign of its own.
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").unwrap();
    while let Some((text, tag)) = rest.split_once('<') {
        assert!(!text.contains('>'), "{text}");
        for part in text.split('&').skip(1) {
            assert!(
                ["amp;", "lt;", "gt;", "quot;"].iter().any(|name| part.starts_with(name)),
                "{text}"
            );
        }
        let (tag, behind) = tag.split_once('>').unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
        rest = behind;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}

#[test]
fn an_svg_is_whole_and_says_what_it_shows() {
    let extents = [extent(0, 8, Kind::Remapped), extent(5000, 1, Kind::Pending)];
    let size = |sectors: u64| format!("{sectors} s");
    let text = svg("a <name> & \"quotes\"\u{1}", 1 << 20, &extents, size);
    assert_well_formed(&text);
    for part in [
        "role=\"img\"",
        "aria-labelledby=\"title desc\"",
        "<title id=\"title\">Surface of a &lt;name&gt; &amp; &quot;quotes&quot;</title>",
        "8 sectors remapped, 0 sectors suspect, 1 sectors pending, 0 sectors lost",
        ">as it was</text>",
        ">lost</text>",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(text.matches("<title>sectors ").count(), 2);
    // However much there is, it is bounded.
    let many: Vec<Extent> = (0..200_000).map(|i| extent(i * 16, 8, Kind::Remapped)).collect();
    let text = svg("many", 200_000 * 16, &many, size);
    assert_well_formed(&text);
    assert!(text.len() < 2 << 20, "{}", text.len());
    assert_well_formed(&svg("none", 0, &[], size));
}

#[test]
fn spares_that_are_not_in_use_are_drawn_from_their_metadata() {
    let spare = Spare::some("map");
    let before = spare.bytes();
    let run = spare.run("map --ascii --width 60");
    let text = run
        .is(0, &["image: 1048576 sectors", "600 extents; sectors: 4800 remapped", "WHERE MOST IS"])
        .text;
    assert!(text.lines().all(|line| line.chars().count() <= 120) && text.is_ascii(), "{text}");
    let json: Value = serde_json::from_str(&spare.run("map --json").is(0, &[]).text).unwrap();
    assert_eq!(
        (json["sectors"].as_u64(), json["extents"].as_array().unwrap().len()),
        (Some(MAIN), 600)
    );
    assert_eq!(json["extents"][0], serde_json::json!({ "start": 8, "len": 8, "kind": "remapped" }));

    let file = std::env::temp_dir().join(format!("dmremap-{}.svg", std::process::id()));
    let path = file.display().to_string();
    spare.run(&format!("map --svg {path}")).is(0, &[]);
    assert_well_formed(&fs::read_to_string(&file).unwrap());
    assert_well_formed(&spare.run("map --svg -").is(0, &[]).text);
    // A file takes the place of a file, and of nothing else.
    spare.run(&format!("map --svg {path}")).is(0, &[]);
    fs::remove_file(&file).unwrap();
    spare.run("map --svg /dev/null").is(1, &["is no file"]);
    spare.run("map --svg /nowhere/x.svg").is(1, &["/nowhere/x.svg"]);
    spare.run("map --width 5").is(1, &["--width"]);
    assert_eq!(spare.bytes(), before);

    // Damage is no reason not to draw, and what is no set is said.
    spare.flip(0, 100);
    spare.run("map").is(3, &["4800 remapped"]);
    Spare::of("map-blank", &Image::blank(SPARE)).run("map").is(4, &["cannot be used"]);
    let none: Run = super::run("map /nowhere/spare /nowhere/other", &[]);
    none.is(1, &["/nowhere/spare"]);
}
