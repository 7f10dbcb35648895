//! What the message `table` answers (docs/remap.rst).

/// What has become of some sectors of a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// They live on a spare.
    Remapped,
    /// They do, and could not be read there.
    Suspect,
    /// They could not be read on main.
    Pending,
    /// They lived on a spare that is gone.
    Lost,
}

impl State {
    /// The word that the message has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remapped => "remapped",
            Self::Suspect => "suspect",
            Self::Pending => "pending",
            Self::Lost => "lost",
        }
    }
}

/// Sectors of a set with the same lot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The first, counted from the set's.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// What has become of them.
    pub state: State,
}

/// Takes an answer apart: its entries, and from where to ask again if there is more.
///
/// # Errors
///
/// Which line is not understood.
pub fn parse(text: &str) -> Result<(Vec<Entry>, Option<u64>), String> {
    let (mut entries, mut more) = (Vec::new(), None);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().ok();
        let entry = match words[..] {
            [] | ["-", _, "retired", ..] => continue,
            ["more", from] => {
                more = number(from);
                continue;
            }
            [start, len, state, ..] => {
                let all = [State::Remapped, State::Suspect, State::Pending, State::Lost];
                let state = all.into_iter().find(|known| known.name() == state);
                (number(start), number(len), state)
            }
            _ => (None, None, None),
        };
        let (Some(start), Some(len), Some(state)) = entry else {
            return Err(format!(
                "the table of the set has a line that is not understood: '{line}'"
            ));
        };
        entries.push(Entry { start, len, state });
    }
    Ok((entries, more))
}

/// What of the `runs` is in none of the `entries`, both ascending.
pub fn without(runs: &[(u64, u64)], entries: &[Entry]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut entries = entries.iter().peekable();
    for &(start, len) in runs {
        let (mut at, end) = (start, start + len);
        while entries.peek().is_some_and(|entry| entry.start + entry.len <= at) {
            entries.next();
        }
        let mut within = entries.clone();
        while let Some(entry) = within.next().filter(|entry| entry.start < end) {
            if entry.start > at {
                left.push((at, entry.start - at));
            }
            at = at.max(entry.start + entry.len);
        }
        if at < end {
            left.push((at, end - at));
        }
    }
    left
}
