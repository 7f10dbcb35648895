//! A dump on its way out. A table may have a million extents: they are written as they come, a line each, and never all in memory.

use super::{Dump, Extent};
use remap_pure::format::header::Header;
use remap_pure::table::Table;
use std::io::{self, Write};

/// Bytes that are written at once.
const AT_ONCE: usize = 1 << 18;

/// The longest line.
const LINE: usize = 160;

impl Dump {
    /// Writes the dump of a state as JSON.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(out: &mut dyn Write, header: &Header, table: &Table) -> io::Result<()> {
        let head = serde_json::to_string_pretty(&Self::head(header))?;
        // The extents come last, and there are none in it.
        let head = head.strip_suffix("[]\n}").ok_or(io::ErrorKind::InvalidData)?;
        let mut text = Vec::with_capacity(AT_ONCE);
        text.extend_from_slice(head.as_bytes());
        let mut before = "[\n    ";
        for entry in table.iter() {
            if text.len() + LINE > AT_ONCE {
                out.write_all(&text)?;
                text.clear();
            }
            text.extend_from_slice(before.as_bytes());
            Extent::of(entry).write(&mut text);
            before = ",\n    ";
        }
        let end: &[u8] = if before.starts_with('[') { b"[]\n}" } else { b"\n  ]\n}" };
        text.extend_from_slice(end);
        out.write_all(&text)
    }
}

impl Extent {
    /// Writes what its `Serialize` writes, without looking for what has to be escaped: nothing has.
    fn write(&self, to: &mut Vec<u8>) {
        let (kind, fields) = match *self {
            Self::Remapped { start, len, spare, to } => {
                ("remapped", [("start", start), ("len", len), ("spare", spare.into()), ("to", to)])
            }
            Self::Suspect { start, len, spare, to } => {
                ("suspect", [("start", start), ("len", len), ("spare", spare.into()), ("to", to)])
            }
            Self::Pending { start, len } => {
                ("pending", [("start", start), ("len", len), ("", 0), ("", 0)])
            }
            Self::Lost { start, len } => {
                ("lost", [("start", start), ("len", len), ("", 0), ("", 0)])
            }
            Self::Retired { spare, at, len } => {
                ("retired", [("spare", spare.into()), ("at", at), ("len", len), ("", 0)])
            }
        };
        to.extend_from_slice(b"{\"kind\":\"");
        to.extend_from_slice(kind.as_bytes());
        to.push(b'"');
        for (name, value) in fields.into_iter().filter(|(name, _)| !name.is_empty()) {
            to.extend_from_slice(b",\"");
            to.extend_from_slice(name.as_bytes());
            to.extend_from_slice(b"\":");
            to.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        to.push(b'}');
    }
}
