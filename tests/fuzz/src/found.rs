//! Lists of bad blocks, as other programs write them.

use crate::lists::entries::{without, Entry, State};
use crate::lists::write::{badblocks, ddrescue};
use crate::lists::{detect, read, Frame, Kind, Options, Position};

const KINDS: [Kind; 4] = [Kind::Badblocks, Kind::Ddrescue, Kind::KernelLog, Kind::Smartctl];

/// A list is refused, or what it names lies on the set, in whole blocks, and can be said again.
pub fn run(data: &[u8]) {
    let Some((&first, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let kind = KINDS[usize::from(first) % 4];
    // What it looks like is for people; it must not fail.
    let _ = detect(&text);
    let logical = 512 << ((first >> 2) & 3);
    let block = (first & 16 != 0).then_some(4096);
    let options = Options { block, states: if first & 32 != 0 { "-" } else { "-*/" } };
    let found = match read(kind, &text, &options) {
        Ok(found) => found,
        Err(e) => return assert!(!e.is_empty()),
    };
    let frame = Frame { sectors: 1 << 20, logical, physical: 4096 };
    let position = Position {
        offset: if first & 64 != 0 { -(1 << 20) } else { 1 << 20 },
        bytes: if first & 128 != 0 { 1 << 40 } else { 1 << 28 },
    };
    let on =
        |name: Option<&str>| name.is_none_or(|name| name.starts_with("sd")).then_some(position);
    let plan = frame.place(&found, on).unwrap_or_else(|e| panic!("{e}"));
    let per_block = logical / 512;
    let mut behind = None;
    for &(start, len) in &plan.runs {
        assert!(len > 0 && start + len <= frame.sectors);
        assert!(start % per_block == 0 && len % per_block == 0, "{start} {len}");
        assert!(behind.is_none_or(|behind| start > behind), "{:?}", plan.runs);
        behind = Some(start + len);
    }
    let entry = |&(start, len): &(u64, u64)| Entry { start, len, state: State::Pending };
    let entries: Vec<Entry> = plan.runs.iter().map(entry).collect();
    assert!(without(&plan.runs, &entries).is_empty());
    assert_eq!(without(&plan.runs, &[]), plan.runs);
    if plan.runs.iter().map(|(_, len)| len).sum::<u64>() > 1 << 16 {
        return;
    }
    let bytes = frame.sectors * 512;
    let again = |kind, text: &[u8]| {
        let text = std::str::from_utf8(text).unwrap();
        let options = Options { block: Some(512), states: "-" };
        let found = read(kind, text, &options).unwrap_or_else(|e| panic!("{e}"));
        frame.place(&found, |_| Some(Position { offset: 0, bytes })).unwrap().runs
    };
    let (mut list, mut map) = (Vec::new(), Vec::new());
    badblocks(&mut list, &entries, 0, 512).unwrap();
    assert_eq!(again(Kind::Badblocks, &list), plan.runs);
    ddrescue(&mut map, &entries, 0, bytes).unwrap();
    assert_eq!(again(Kind::Ddrescue, &map), plan.runs);
}
