//! A picture of main's surface: where on the drive blocks are remapped, pending, lost; in characters and as SVG.

use crate::draw::percent;
use crate::extents::{count, Extent, Kind};
use serde::Serialize;
use std::fmt::Write;

/// A piece of the surface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cell {
    /// Sectors of each kind, in the order of [`Kind::ALL`].
    pub sectors: [u64; 4],
}

impl Cell {
    /// The worst that is there.
    pub fn worst(&self) -> Option<Kind> {
        Kind::ALL.into_iter().rev().find(|kind| self.sectors[*kind as usize] > 0)
    }

    /// Sectors that are not as they were made.
    pub fn touched(&self) -> u64 {
        self.sectors.iter().sum()
    }
}

/// The surface in pieces of one size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Surface {
    /// All sectors.
    pub sectors: u64,
    /// Sectors of a piece; the last one may have fewer.
    pub per_cell: u64,
    /// Pieces in a row.
    pub columns: usize,
    /// The pieces.
    pub cells: Vec<Cell>,
}

/// A neighbourhood in which there is more than elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// Its first sector.
    pub start: u64,
    /// How many sectors lie between the first and the last that is touched.
    pub len: u64,
    /// How many extents.
    pub extents: u64,
    /// Sectors remapped and readable.
    pub remapped: u64,
    /// Sectors that cannot be read on their spare.
    pub suspect: u64,
    /// Sectors that cannot be read on main.
    pub pending: u64,
    /// Sectors lost with a spare.
    pub lost: u64,
}

impl Place {
    /// Sectors that are not as they were made.
    pub fn touched(&self) -> u64 {
        self.remapped + self.suspect + self.pending + self.lost
    }
}

impl Surface {
    /// `sectors` of main in at most `rows` rows of `columns` pieces.
    pub fn of(sectors: u64, extents: &[Extent], columns: usize, rows: usize) -> Self {
        let most = (columns.max(1) * rows.max(1)) as u64;
        // A page is the least that a filesystem tells apart.
        let per_cell = sectors.div_ceil(most).next_multiple_of(8).max(8);
        let mut cells = vec![Cell::default(); sectors.div_ceil(per_cell) as usize];
        for extent in extents {
            let (mut at, end) = (extent.start, extent.end().min(sectors));
            while at < end {
                let cell = at / per_cell;
                let next = ((cell + 1) * per_cell).min(end);
                cells[cell as usize].sectors[extent.kind as usize] += next - at;
                at = next;
            }
        }
        Self { sectors, per_cell, columns: columns.max(1), cells }
    }

    /// The sectors of the piece of that number.
    fn len_of(&self, cell: usize) -> u64 {
        let start = cell as u64 * self.per_cell;
        self.per_cell.min(self.sectors.saturating_sub(start)).max(1)
    }

    /// How much of a piece is touched, in quarters from 1 to 4.
    fn quarters(&self, cell: usize) -> usize {
        let (touched, len) = (self.cells[cell].touched(), self.len_of(cell));
        ((touched * 4).div_ceil(len) as usize).clamp(1, 4)
    }

    /// The rows, each with its first sector, in characters; with colours for a terminal that has them.
    pub fn rows(&self, unicode: bool, colour: bool) -> Vec<(u64, String)> {
        let row = |(number, cells): (usize, &[Cell])| {
            let first = number * self.columns;
            let mut text = String::new();
            let mut lit = None;
            for (i, cell) in cells.iter().enumerate() {
                let kind = cell.worst();
                if colour && kind != lit {
                    text.push_str(kind.map_or("\x1b[0m", sgr));
                    lit = kind;
                }
                text.push(match kind {
                    None => glyph_clean(unicode),
                    Some(Kind::Remapped) => glyph_remapped(self.quarters(first + i), unicode),
                    Some(kind) => glyph(kind, unicode),
                });
            }
            if lit.is_some() {
                text.push_str("\x1b[0m");
            }
            (first as u64 * self.per_cell, text)
        };
        self.cells.chunks(self.columns).enumerate().map(row).collect()
    }
}

fn glyph_clean(unicode: bool) -> char {
    if unicode {
        '·'
    } else {
        '.'
    }
}

fn glyph_remapped(quarters: usize, unicode: bool) -> char {
    let glyphs = if unicode { ['░', '▒', '▓', '█'] } else { [':', '+', '*', '#'] };
    glyphs[quarters - 1]
}

/// The character for what is worse than remapped.
fn glyph(kind: Kind, unicode: bool) -> char {
    match (kind, unicode) {
        (Kind::Remapped, _) => glyph_remapped(4, unicode),
        (Kind::Suspect, true) => '◇',
        (Kind::Pending, true) => '◆',
        (Kind::Lost, true) => '✖',
        (Kind::Suspect, false) => 's',
        (Kind::Pending, false) => 'P',
        (Kind::Lost, false) => 'L',
    }
}

/// What sets the colour (ECMA-48, SGR).
fn sgr(kind: Kind) -> &'static str {
    match kind {
        Kind::Remapped => "\x1b[0;33m",
        Kind::Suspect => "\x1b[0;35m",
        Kind::Pending => "\x1b[0;31m",
        Kind::Lost => "\x1b[0;1;31m",
    }
}

/// What the characters mean, in a line.
pub fn legend(unicode: bool) -> String {
    let shades: String = (1..=4).map(|quarters| glyph_remapped(quarters, unicode)).collect();
    let mut text = format!("{} as it was  {shades} remapped", glyph_clean(unicode));
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_unreadable()) {
        let _ = write!(text, "  {} {}", glyph(kind, unicode), kind.name());
    }
    text
}

/// The neighbourhoods with most of what is touched, those with most first: extents with less than `gap` sectors between them are one.
pub fn densest(extents: &[Extent], gap: u64, most: usize) -> Vec<Place> {
    let mut sorted: Vec<&Extent> = extents.iter().collect();
    sorted.sort_by_key(|extent| extent.start);
    let mut places: Vec<Place> = Vec::new();
    let mut of: Vec<Extent> = Vec::new();
    let mut close = |of: &mut Vec<Extent>| {
        let (Some(first), Some(last)) = (of.first(), of.iter().map(Extent::end).max()) else {
            return;
        };
        places.push(Place {
            start: first.start,
            len: last - first.start,
            extents: of.len() as u64,
            remapped: count(of, Kind::Remapped),
            suspect: count(of, Kind::Suspect),
            pending: count(of, Kind::Pending),
            lost: count(of, Kind::Lost),
        });
        of.clear();
    };
    for extent in sorted {
        if of.last().is_some_and(|last| extent.start >= last.end().saturating_add(gap)) {
            close(&mut of);
        }
        of.push(*extent);
    }
    close(&mut of);
    places.sort_by_key(|place| (u64::MAX - place.touched(), place.start));
    places.truncate(most);
    places
}

/// Pieces in a row of an SVG, and the most rows.
const SVG_COLUMNS: usize = 128;
const SVG_ROWS: usize = 64;
/// The side of a piece there, and what is left beside the surface and above it, in pixels.
const SIDE: usize = 7;
const LEFT: usize = 88;
const TOP: usize = 64;

/// Colours that people who see fewer of them can tell apart as well.
fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Remapped => "#e69f00",
        Kind::Suspect => "#cc79a7",
        Kind::Pending => "#d55e00",
        Kind::Lost => "#000000",
    }
}

/// Text that may stand between tags and in quotes (XML 1.0, 2.4). What XML has no way to write is left out.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// The surface of `sectors` as an SVG file of its own; `name` is what the set is called.
pub fn svg(name: &str, sectors: u64, extents: &[Extent], size: impl Fn(u64) -> String) -> String {
    let surface = Surface::of(sectors, extents, SVG_COLUMNS, SVG_ROWS);
    let rows = surface.cells.len().div_ceil(SVG_COLUMNS).max(1);
    let (width, height) = (LEFT + SVG_COLUMNS * SIDE + 16, TOP + rows * SIDE + 64);
    let title = escape(&format!("Surface of {name}"));
    let totals: Vec<String> = (Kind::ALL.into_iter())
        .map(|kind| format!("{} sectors {}", count(extents, kind), kind.name()))
        .collect();
    let desc = escape(&format!(
        "{} in pieces of {}, row by row from the first sector: {}.",
        size(sectors),
        size(surface.per_cell),
        totals.join(", ")
    ));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-labelledby=\"title desc\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title id=\"title\">{title}</title>\n<desc id=\"desc\">{desc}</desc>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"16\">{title}</text>\n<text x=\"16\" y=\"44\">{desc}</text>\n"
    );
    for (row, cells) in surface.cells.chunks(SVG_COLUMNS).enumerate() {
        let y = TOP + row * SIDE;
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{}\" height=\"{SIDE}\" fill=\"#e8eef2\"/>",
            cells.len() * SIDE
        );
        if row % 8 == 0 {
            let at = escape(&size((row * SVG_COLUMNS) as u64 * surface.per_cell));
            let (x, y) = (LEFT - 6, y + SIDE);
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{at}</text>");
        }
        for (column, cell) in cells.iter().enumerate() {
            let number = row * SVG_COLUMNS + column;
            let Some(kind) = cell.worst() else { continue };
            let (x, start) = (LEFT + column * SIDE, number as u64 * surface.per_cell);
            let opacity = match kind {
                Kind::Remapped => ["0.4", "0.6", "0.8", "1"][surface.quarters(number) - 1],
                _ => "1",
            };
            let _ = write!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"{}\" fill-opacity=\"{opacity}\"><title>sectors {start} to {}:",
                colour(kind),
                start + surface.len_of(number) - 1
            );
            for kind in Kind::ALL.into_iter().filter(|kind| cell.sectors[*kind as usize] > 0) {
                let _ = write!(out, " {} {}", cell.sectors[kind as usize], kind.name());
            }
            let _ = writeln!(
                out,
                " ({})</title></rect>",
                escape(&percent(cell.touched(), surface.len_of(number)))
            );
        }
    }
    let y = TOP + rows * SIDE + 28;
    let legend = std::iter::once(("#e8eef2", "as it was".to_owned()))
        .chain(Kind::ALL.map(|kind| (colour(kind), kind.name().to_owned())));
    for (i, (fill, text)) in legend.enumerate() {
        let x = LEFT + i * 120;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{fill}\" stroke=\"#666666\" stroke-width=\"0.5\"/>\
             <text x=\"{}\" y=\"{y}\">{text}</text>",
            y - 10,
            x + 18
        );
    }
    out.push_str("</svg>\n");
    out
}
