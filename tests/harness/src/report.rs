//! What a benchmark has found: tables for people, JSON for programs, and both kept in a document between marks.
//!
//! A table stands in the document between `<!-- bench NAME -->` and `<!-- end -->`, each on a line of its own. Its name begins with that of
//! the part of the benchmark that it is from.

use serde_json::{json, Value};
use std::fmt;

/// A figure of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// A number, with so many digits behind the point.
    Number(f64, usize),
    /// What stands in place of one.
    Words(String),
    /// There is none.
    None,
}

/// A table: what each row is about, then its figures.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name in the document and in JSON.
    pub name: &'static str,
    /// What is printed above it.
    pub title: String,
    /// What the rows are, and what their figures are.
    pub heads: Vec<String>,
    /// The rows.
    pub rows: Vec<(String, Vec<Figure>)>,
}

/// A figure that has to be within bounds.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What it is.
    pub what: String,
    /// What was measured.
    pub is: f64,
    /// Not less than that,
    pub least: f64,
    /// and not more.
    pub most: f64,
}

/// All of it.
#[derive(Default)]
pub struct Report {
    /// The tables, in order.
    pub tables: Vec<Table>,
    /// What has to hold.
    pub bounds: Vec<Bound>,
}

/// The middle of some numbers, or the higher of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A number with its thousands apart.
fn grouped(number: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", number.abs());
    let (whole, rest) =
        text.split_once('.').map_or((&*text, String::new()), |(w, r)| (w, format!(".{r}")));
    let mut out = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    let sign = if number < 0.0 && text.contains(|c| ('1'..='9').contains(&c)) { "-" } else { "" };
    format!("{sign}{out}{rest}")
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number, digits) => f.write_str(&grouped(*number, *digits)),
            Self::Words(words) => f.write_str(words),
            Self::None => Ok(()),
        }
    }
}

impl Figure {
    fn json(&self) -> Value {
        match self {
            Self::Number(number, _) => json!(number),
            Self::Words(words) => json!(words),
            Self::None => Value::Null,
        }
    }
}

impl Table {
    /// As Markdown, its columns in line.
    pub fn markdown(&self) -> String {
        let mut lines = vec![self.heads.clone()];
        lines.extend(self.rows.iter().map(|(what, figures)| {
            std::iter::once(what.clone()).chain(figures.iter().map(Figure::to_string)).collect()
        }));
        let width = |column: usize| {
            lines.iter().filter_map(|l| l.get(column)).map(|w| w.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        let mut out = String::new();
        for (n, line) in lines.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let word = line.get(column).map_or("", |word| word);
                match column {
                    0 => out += &format!("| {word:<width$} |"),
                    _ => out += &format!(" {word:>width$} |"),
                }
            }
            out.push('\n');
            if n == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(*width);
                    match column {
                        0 => out += &format!("|-{dashes}-|"),
                        _ => out += &format!("-{dashes}:|"),
                    }
                }
                out.push('\n');
            }
        }
        out
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(what, figures)| {
            let mut row = serde_json::Map::new();
            row.insert(self.heads[0].clone(), json!(what));
            for (head, figure) in self.heads[1..].iter().zip(figures) {
                row.insert(head.clone(), figure.json());
            }
            Value::Object(row)
        });
        json!({ "title": self.title, "rows": rows.collect::<Vec<_>>() })
    }
}

impl Bound {
    /// Whether it is within them.
    pub fn holds(&self) -> bool {
        self.least <= self.is && self.is <= self.most
    }

    fn figures(&self) -> Vec<Figure> {
        let digits = match self.is.abs().max(if self.most.is_finite() { self.most } else { 0.0 }) {
            ..10.0 => 2,
            10.0..50.0 => 1,
            _ => 0,
        };
        let number = |value: f64| match value.is_finite() {
            true => Figure::Number(value, digits),
            false => Figure::None,
        };
        let verdict = if self.holds() { "" } else { "NOT SO" };
        vec![number(self.is), number(self.least), number(self.most), Figure::Words(verdict.into())]
    }
}

impl Report {
    /// Whether all is within its bounds.
    pub fn holds(&self) -> bool {
        self.bounds.iter().all(Bound::holds)
    }

    /// The bounds as a table.
    fn verdicts(&self) -> Table {
        let row = |bound: &Bound| (bound.what.clone(), bound.figures());
        Table {
            name: "bounds",
            title: "What has to hold".into(),
            heads: ["", "is", "at least", "at most", "verdict"].map(String::from).to_vec(),
            rows: self.bounds.iter().map(row).collect(),
        }
    }

    /// Each table with its name in a document: that of the part, and its own where that is another.
    fn all(&self, part: &str) -> Vec<(String, Table)> {
        let verdicts = (!self.bounds.is_empty()).then(|| self.verdicts());
        let named = |table: Table| match table.name == part {
            true => (part.to_string(), table),
            false => (format!("{part} {}", table.name), table),
        };
        self.tables.iter().cloned().chain(verdicts).map(named).collect()
    }

    /// All tables, for a terminal.
    pub fn text(&self, part: &str) -> String {
        let text = |(_, table): &(_, Table)| format!("{}\n\n{}\n", table.title, table.markdown());
        self.all(part).iter().map(text).collect()
    }

    /// All tables, for a program.
    pub fn json(&self, part: &str) -> String {
        let tables = self.all(part).into_iter().map(|(name, table)| (name, table.json()));
        let mut all: serde_json::Map<_, _> = tables.collect();
        all.insert("holds".into(), json!(self.holds()));
        format!("{:#}\n", Value::Object(all))
    }

    /// The document with what stands between the marks of this part's tables replaced. Other parts' marks are left as they are.
    ///
    /// # Errors
    ///
    /// A table has no marks, or marks have no end.
    pub fn write_into(&self, part: &str, document: &str) -> Result<String, String> {
        let mut left = self.all(part);
        let mut out = String::new();
        let mut lines = document.lines();
        while let Some(line) = lines.next() {
            out += line;
            out.push('\n');
            let mark = line.strip_prefix("<!-- bench ").and_then(|rest| rest.strip_suffix(" -->"));
            let Some(at) = mark.and_then(|mark| left.iter().position(|(name, _)| name == mark))
            else {
                continue;
            };
            let (name, table) = left.remove(at);
            out += &format!("\n{}\n", table.markdown());
            if !lines.any(|line| line == "<!-- end -->") {
                return Err(format!(
                    "behind the mark for the table {name} there is no <!-- end -->"
                ));
            }
            out += "<!-- end -->\n";
        }
        match left.first() {
            Some((name, _)) => Err(format!("there is no mark for the table {name}")),
            None => Ok(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let rows = vec![
            ("linear".to_string(), vec![Figure::Number(6514.4, 0), Figure::None]),
            (
                "remap".to_string(),
                vec![Figure::Number(-1234567.26, 1), Figure::Words("fails".into())],
            ),
        ];
        let heads = ["", "reads", "loads"].map(String::from).to_vec();
        let table = Table { name: "speed", title: "Speed".into(), heads, rows };
        let bound = |what: &str, is| Bound { what: what.into(), is, least: 0.9, most: 1.1 };
        Report { tables: vec![table], bounds: vec![bound("scales", 1.04), bound("leaps", 1.2)] }
    }

    const DOCUMENT: &str =
        "# Speed\n\n<!-- bench speed -->\nold\n<!-- end -->\n\nMore.\n<!-- bench size -->\nkept\n<!-- end -->\n<!-- bench speed bounds -->\n<!-- end -->\n";

    #[test]
    fn tables_are_in_line_and_thousands_apart() {
        let expected = "|        |        reads | loads |\n\
                        |--------|-------------:|------:|\n\
                        | linear |        6,514 |       |\n\
                        | remap  | -1,234,567.3 | fails |\n";
        assert_eq!(report().tables[0].markdown(), expected);
        assert_eq!(grouped(-0.2, 0), "0");
        assert_eq!(grouped(999.6, 0), "1,000");
    }

    #[test]
    fn what_is_out_of_bounds_is_told_in_all_of_it() {
        let mut report = report();
        assert!(!report.holds());
        assert!(report.text("speed").contains("| leaps  | 1.20 |     0.90 |    1.10 |  NOT SO |"));
        let json: Value = serde_json::from_str(&report.json("speed")).unwrap();
        assert_eq!(json["holds"], json!(false));
        assert_eq!(json["speed"]["rows"][1]["loads"], json!("fails"));
        assert_eq!(json["speed"]["rows"][0]["reads"], json!(6514.4));
        report.bounds.pop();
        assert!(report.holds());
    }

    #[test]
    fn a_document_keeps_all_but_what_is_between_the_marks() {
        let report = report();
        let document = report.write_into("speed", DOCUMENT).unwrap();
        assert!(document.starts_with("# Speed\n\n<!-- bench speed -->\n\n|        |"));
        assert!(document.contains(
            "\n\n<!-- end -->\n\nMore.\n<!-- bench size -->\nkept\n<!-- end -->\n<!-- bench speed bounds -->\n\n|"
        ));
        assert!(!document.contains("old"));
        assert_eq!(report.write_into("speed", &document).unwrap(), document);
    }

    #[test]
    fn a_table_without_marks_and_a_mark_without_an_end_are_refused() {
        let report = report();
        let refused = |document: &str| report.write_into("speed", document).unwrap_err();
        assert!(refused(&DOCUMENT.replace("bench speed bounds", "bench others"))
            .contains("speed bounds"));
        assert!(
            refused(DOCUMENT.trim_end().trim_end_matches("<!-- end -->")).contains("no <!-- end")
        );
    }
}
