//! What has become of main: its extents that are remapped or cannot be read.

use serde::Serialize;

/// What became of an extent. The later, the worse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It lives on a spare.
    Remapped,
    /// It lives on a spare, and cannot be read there.
    Suspect,
    /// It cannot be read, and lives nowhere else.
    Pending,
    /// It was on a spare that has left.
    Lost,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Remapped, Self::Suspect, Self::Pending, Self::Lost];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remapped => "remapped",
            Self::Suspect => "suspect",
            Self::Pending => "pending",
            Self::Lost => "lost",
        }
    }

    /// Whether reading it is an error.
    pub fn is_unreadable(self) -> bool {
        self != Self::Remapped
    }
}

/// An extent of main, in sectors from where the mapped device begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Extent {
    /// Its first sector.
    pub start: u64,
    /// How many sectors.
    pub len: u64,
    /// What became of it.
    pub kind: Kind,
}

impl Extent {
    /// The first sector behind it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// The extents in an answer to the message `table`, without retired places, and the sector to ask on from.
pub fn parse(text: &str) -> (Vec<Extent>, Option<u64>) {
    let (mut extents, mut more) = (Vec::new(), None);
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["more", sector] => more = sector.parse().ok(),
            [start, len, word, ..] => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.name() == word);
                if let (Ok(start), Ok(len), Some(kind)) = (start.parse(), len.parse(), kind) {
                    extents.push(Extent { start, len, kind });
                }
            }
            _ => {}
        }
    }
    (extents, more)
}

/// What of them lies in `len` sectors from `start` on, cut to these.
pub fn within(extents: &[Extent], start: u64, len: u64) -> Vec<Extent> {
    let end = start.saturating_add(len);
    let cut = |extent: &Extent| {
        let (from, to) = (extent.start.max(start), extent.end().min(end));
        (from < to).then(|| Extent { start: from, len: to - from, ..*extent })
    };
    extents.iter().filter_map(cut).collect()
}

/// Sectors of that kind.
pub fn count(extents: &[Extent], kind: Kind) -> u64 {
    extents.iter().filter(|extent| extent.kind == kind).map(|extent| extent.len).sum()
}
