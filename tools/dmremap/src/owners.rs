//! Whose a block of a filesystem is: what the tools of ext4, XFS and Btrfs say, taken apart; and how what lies on a device is found
//! on what it is made of.

use crate::extents::{Extent, Kind};
use serde::Serialize;
use std::collections::BTreeMap;

/// Whose a block is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Owner {
    /// A file's or a folder's; its paths, or none where it has lost them.
    File {
        /// The number of its inode, where the filesystem's tool says it.
        inode: Option<u64>,
        /// All the paths that the tool finds.
        paths: Vec<String>,
    },
    /// The filesystem's own, or a partition table's.
    Metadata {
        /// What it is.
        of: String,
    },
    /// Nobody's.
    Free,
    /// It cannot be said.
    Unknown {
        /// Why, and what can be done.
        why: String,
    },
}

/// A piece of main that something lies on, seen on the device that lies on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first sector on that device.
    pub at: u64,
    /// What it is on main.
    pub extent: Extent,
}

impl Piece {
    /// An extent of main as it is.
    pub fn of(extent: Extent) -> Self {
        Self { at: extent.start, extent }
    }

    /// The part of it that lies in `len` sectors from `start` on, seen from `to` on.
    pub fn within(&self, start: u64, len: u64, to: u64) -> Option<Self> {
        let from = self.at.max(start);
        let end = (self.at + self.extent.len).min(start.saturating_add(len));
        (from < end).then(|| Self {
            at: from - start + to,
            extent: Extent {
                start: self.extent.start + (from - self.at),
                len: end - from,
                ..self.extent
            },
        })
    }

    /// What of it is in none of these runs, given as first sector and length.
    pub fn without(&self, runs: &[(u64, u64)]) -> Vec<Self> {
        let mut runs = runs.to_vec();
        runs.sort_unstable();
        let (mut at, end) = (self.at, self.at + self.extent.len);
        let mut left = Vec::new();
        for (start, len) in runs {
            left.extend(self.within(at, start.saturating_sub(at), at));
            at = at.max(start.saturating_add(len));
        }
        left.extend(self.within(at, end.saturating_sub(at), at));
        left
    }

    /// Its parts in blocks of `sectors`, each with the number of its block.
    pub fn blocks(&self, sectors: u64) -> Vec<(u64, Self)> {
        let (first, last) = (self.at / sectors, (self.at + self.extent.len - 1) / sectors);
        (first..=last)
            .filter_map(|block| {
                Some((block, self.within(block * sectors, sectors, block * sectors)?))
            })
            .collect()
    }
}

/// What is known of a piece.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Owned {
    /// The first sector on main.
    pub start: u64,
    /// How many sectors.
    pub len: u64,
    /// What became of them.
    pub kind: Kind,
    /// The device that they were looked for on.
    pub on: String,
    /// What is on that: `ext4`, `LVM2_member`.
    pub content: String,
    /// Whose they are.
    #[serde(flatten)]
    pub owner: Owner,
}

/// Neighbours of the same owner as one, in the order of main.
pub fn joined(mut all: Vec<Owned>) -> Vec<Owned> {
    all.sort_by_key(|owned| owned.start);
    let mut joined: Vec<Owned> = Vec::new();
    for owned in all {
        match joined.last_mut() {
            Some(last)
                if last.start + last.len == owned.start
                    && (last.kind, &last.on, &last.owner)
                        == (owned.kind, &owned.on, &owned.owner) =>
            {
                last.len += owned.len;
            }
            _ => joined.push(owned),
        }
    }
    joined
}

/// Where a piece of a mapped device lies: on which device, from which sector on; of targets that put sector after sector.
pub fn lies_on(target: &str, line: &str) -> Option<((u32, u32), u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (device, start) = match (target, &words[..]) {
        ("linear", [device, start]) => (device, start),
        // <cipher> <key> <iv_offset> <device> <offset> (Documentation/admin-guide/device-mapper/dm-crypt.rst)
        ("crypt", [_, _, _, device, start, ..]) => (device, start),
        _ => return None,
    };
    let (major, minor) = device.split_once(':')?;
    Some(((major.parse().ok()?, minor.parse().ok()?), start.parse().ok()?))
}

/// What debugfs says.
pub mod ext4 {
    use super::{BTreeMap, Owner};

    /// The size of a block in bytes, of `show_super_stats -h`.
    pub fn block_size(text: &str) -> Option<u64> {
        let size = text.lines().find_map(|line| line.strip_prefix("Block size:"))?;
        size.trim().parse().ok().filter(|size| (1024..=65536).contains(size))
    }

    /// The inode of each block, of `icheck`; `None` of one that is no inode's.
    pub fn icheck(text: &str) -> BTreeMap<u64, Option<u64>> {
        let pair = |line: &str| {
            let (block, inode) = line.split_once('\t')?;
            let block = block.trim().parse().ok()?;
            match inode.trim() {
                "<block not found>" => Some((block, None)),
                inode => Some((block, Some(inode.parse().ok()?))),
            }
        };
        text.lines().filter_map(pair).collect()
    }

    /// Whether each block is in use, of `testb`.
    pub fn testb(text: &str) -> BTreeMap<u64, bool> {
        let pair = |line: &str| {
            let (block, word) = line.strip_prefix("Block ")?.split_once(' ')?;
            match word.trim() {
                "marked in use" => Some((block.parse().ok()?, true)),
                "not in use" => Some((block.parse().ok()?, false)),
                _ => None,
            }
        };
        text.lines().filter_map(pair).collect()
    }

    /// The paths of each inode, of `ncheck`.
    pub fn ncheck(text: &str) -> BTreeMap<u64, Vec<String>> {
        let mut paths: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let Some((inode, path)) = line.split_once('\t') else { continue };
            let Ok(inode) = inode.trim().parse() else { continue };
            // The root's name is written before that of its entries, which begins with a slash.
            let path = path.replacen("//", "/", 1);
            paths.entry(inode).or_default().push(path);
        }
        paths
    }

    /// Whose a block is that is that inode's. Those below 11 are the filesystem's (fs/ext4/ext4.h).
    pub fn owner(inode: u64, paths: Option<&Vec<String>>) -> Owner {
        let of = match inode {
            1 => "the list of bad blocks",
            2 => return Owner::File { inode: Some(2), paths: vec!["/".into()] },
            3 | 4 => "quota",
            7 => "room for group descriptors",
            8 => "the journal",
            5..=10 => "an inode of the filesystem's own",
            _ => {
                let paths = paths.cloned().unwrap_or_default();
                return Owner::File { inode: Some(inode), paths };
            }
        };
        Owner::Metadata { of: of.into() }
    }
}

/// What xfs_io and xfs_db say.
pub mod xfs {
    use super::Owner;

    /// A run of a filesystem's device, in sectors, of `fsmap -m`; its owner is none where the filesystem keeps no record of owners.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Run {
        /// Its first sector.
        pub start: u64,
        /// Its last one.
        pub last: u64,
        /// Whose it is; a file's has no path yet.
        pub owner: Option<Owner>,
    }

    /// The runs of `fsmap -m`: `EXT,MAJOR,MINOR,PSTART,PEND,OWNER,OSTART,OEND,LENGTH`.
    pub fn fsmap(text: &str) -> Vec<Run> {
        let run = |line: &str| {
            let mut words = line.split(',').map(str::trim);
            let start = words.nth(3)?.parse().ok()?;
            let last = words.next()?.parse().ok()?;
            Some(Run { start, last, owner: owner(words.next()?) })
        };
        text.lines().filter_map(run).collect()
    }

    fn owner(word: &str) -> Option<Owner> {
        if let Some(rest) = word.strip_prefix("inode ") {
            let inode = rest.split_whitespace().next()?.parse().ok()?;
            return Some(Owner::File { inode: Some(inode), paths: Vec::new() });
        }
        match word {
            "free space" => Some(Owner::Free),
            "unknown" => None,
            of => Some(Owner::Metadata { of: of.into() }),
        }
    }

    /// The answers of `blockuse -n`, in their order: `block <n> (<ag>/<n>) type <type> [inode <n> [<path>]]`.
    pub fn blockuse(text: &str) -> Vec<Owner> {
        let answer = |line: &str| {
            let rest = line.strip_prefix("block ")?.split_once(" type ")?.1;
            let (kind, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let of_inode = rest.strip_prefix("inode ").map(|rest| {
                let (inode, path) = rest.split_once(' ').unwrap_or((rest, ""));
                (inode.parse().ok(), path.trim())
            });
            Some(match (kind, of_inode) {
                ("free1" | "free2", _) => Owner::Free,
                ("unknown", _) => Owner::Unknown { why: "xfs_db does not know it".into() },
                (_, Some((inode, path))) => {
                    let path = path.trim_end_matches("/.");
                    let paths = Some(format!("/{path}")).filter(|_| !path.is_empty());
                    Owner::File { inode, paths: paths.into_iter().collect() }
                }
                (kind, None) => Owner::Metadata { of: kind.into() },
            })
        };
        text.lines().filter_map(answer).collect()
    }
}

/// What `btrfs inspect-internal` says.
pub mod btrfs {
    use super::Owner;

    /// Where a superblock stands, in bytes (fs/btrfs/disk-io.h).
    pub const SUPERBLOCKS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
    /// Its size in bytes.
    pub const SUPERBLOCK: u64 = 4096;

    /// A piece of a device that a chunk uses.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Stripe {
        /// The device's number in the filesystem.
        pub device: u64,
        /// Its first byte there.
        pub at: u64,
        /// How many bytes.
        pub len: u64,
        /// The address in the filesystem of the first byte, where it follows byte after byte.
        pub logical: Option<u64>,
        /// What it is for: `DATA`, `METADATA`, `SYSTEM`.
        pub of: String,
    }

    /// The number of the device, of `dump-super`.
    pub fn device(text: &str) -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix("dev_item.devid")?.trim().parse().ok())
    }

    /// The stripes of all chunks, of `dump-tree -t chunk`.
    pub fn stripes(text: &str) -> Vec<Stripe> {
        let mut stripes = Vec::new();
        let (mut logical, mut len, mut kind) = (0, 0, "");
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["item", _, "key", "(FIRST_CHUNK_TREE", "CHUNK_ITEM", at, ..] => {
                    logical = at.trim_end_matches(')').parse().unwrap_or(0);
                }
                ["length", bytes, .., "type", word] => {
                    (len, kind) = (bytes.parse().unwrap_or(0), word);
                }
                ["stripe", _, "devid", device, "offset", at] => {
                    let (of, profile) = kind.split_once('|').unwrap_or((kind, "single"));
                    let whole = matches!(profile, "single" | "DUP")
                        || profile.starts_with("RAID1") && profile != "RAID10";
                    let (Ok(device), Ok(at)) = (device.parse(), at.parse()) else { continue };
                    let logical = Some(logical).filter(|_| whole);
                    // A part of it where the chunk is spread; which one decides nothing.
                    stripes.push(Stripe { device, at, len, logical, of: of.into() });
                }
                _ => {}
            }
        }
        stripes
    }

    /// The stripe that a byte of a device is in.
    pub fn find(stripes: &[Stripe], device: u64, byte: u64) -> Option<&Stripe> {
        let has = |s: &&Stripe| s.device == device && (s.at..s.at + s.len).contains(&byte);
        stripes.iter().find(has)
    }

    /// Whose each address is: between a line `of <address>` and a line `ended <status>` stands what `logical-resolve` says of it.
    pub fn resolved(text: &str) -> Vec<(u64, Owner)> {
        let (mut all, mut logical, mut lines) = (Vec::new(), 0, Vec::new());
        for line in text.lines() {
            if let Some(of) = line.strip_prefix("of ") {
                (logical, lines) = (of.parse().unwrap_or(0), Vec::new());
            } else if let Some(status) = line.strip_prefix("ended ") {
                let is_path = |line: &&str| line.starts_with('/');
                let paths: Vec<String> =
                    lines.iter().copied().filter(is_path).map(str::to_owned).collect();
                let is_nobodys = lines.iter().any(|line: &&str| line.contains("No such file"));
                let owner = match status {
                    _ if !paths.is_empty() => Owner::File { inode: None, paths },
                    "0" => Owner::Free,
                    _ if is_nobodys => Owner::Free,
                    _ => Owner::Unknown {
                        why: lines.last().copied().unwrap_or("btrfs does not say").into(),
                    },
                };
                all.push((logical, owner));
            } else {
                lines.push(line);
            }
        }
        all
    }
}
