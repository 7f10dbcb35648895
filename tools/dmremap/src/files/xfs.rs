//! Whose blocks of XFS are: of a mounted filesystem that keeps a record of owners by xfs_io, of any other by xfs_db, which opens it for
//! reading only.

use super::tools::{call, paths_of, seen};
use crate::Failure;
use dmremap::owners::xfs::{blockuse, fsmap, Run};
use dmremap::owners::{Owner, Piece};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PACKAGE: &str = "xfsprogs";

/// Whose the pieces are.
pub fn owners(
    path: &str,
    mount: Option<PathBuf>,
    pieces: &[Piece],
) -> Result<Vec<(Piece, Owner)>, Failure> {
    match &mount {
        Some(at) => match by_map(at, pieces)? {
            Some(owners) => Ok(owners),
            // What is on the device may be older than what is mounted.
            None => by_database(path, mount.as_ref(), pieces),
        },
        None => by_database(path, None, pieces),
    }
}

/// Nothing, if the filesystem does not know.
fn by_map(mount: &Path, pieces: &[Piece]) -> Result<Option<Vec<(Piece, Owner)>>, Failure> {
    let at = mount.display().to_string();
    let mut found = Vec::new();
    for piece in pieces {
        let last = piece.at + piece.extent.len - 1;
        let command = format!("fsmap -m -d {} {last}", piece.at);
        let text = call("xfs_io", PACKAGE, &["-r", "-c", &command, &at], "")?.or_err("xfs_io")?;
        for Run { start, last, owner } in fsmap(&text) {
            let Some(owner) = owner else { return Ok(None) };
            let part = piece.within(start, last.saturating_sub(start) + 1, start);
            found.extend(part.map(|part| (part, owner)));
        }
    }
    let inodes: BTreeSet<u64> = found.iter().filter_map(|(_, owner)| inode(owner)).collect();
    let paths = if inodes.is_empty() { Default::default() } else { paths_of(mount, &inodes) };
    for (_, owner) in &mut found {
        if let Owner::File { inode: Some(inode), paths: to } = owner {
            *to = paths.get(inode).cloned().unwrap_or_default();
        }
    }
    Ok(Some(found))
}

fn inode(owner: &Owner) -> Option<u64> {
    match owner {
        Owner::File { inode, .. } => *inode,
        _ => None,
    }
}

fn by_database(
    path: &str,
    mount: Option<&PathBuf>,
    pieces: &[Piece],
) -> Result<Vec<(Piece, Owner)>, Failure> {
    let fields = ["-r", "-c", "sb 0", "-c", "p blocksize agblocks", path];
    let stats = call("xfs_db", PACKAGE, &fields, "")?.or_err("xfs_db")?;
    let field = |name: &str| -> Option<u64> {
        let value =
            |line: &str| line.strip_prefix(name)?.trim().strip_prefix('=')?.trim().parse().ok();
        stats.lines().find_map(value)
    };
    let size = field("blocksize").filter(|size| *size >= 512);
    let (Some(size), Some(of_group)) = (size, field("agblocks")) else {
        return Err("xfs_db does not tell how large blocks and allocation groups are".into());
    };
    let blocks: Vec<(u64, Piece)> =
        pieces.iter().flat_map(|piece| piece.blocks(size / 512)).collect();
    let numbers: BTreeSet<u64> = blocks.iter().map(|(block, _)| *block).collect();
    let mut commands = String::from("blockget -n\n");
    for (first, count) in runs(&numbers) {
        // To be asked for a block it has to be read, so one before those that perhaps cannot be is named, and they follow.
        let before = first.saturating_sub(1);
        let all = first + count - before;
        commands += &format!("daddr {}\nblockuse -n -c {all}\n", before * (size / 512));
    }
    let said = call("xfs_db", PACKAGE, &["-r", path], &commands)?;
    // By their own places: after a block that cannot be read it answers for another one.
    let answers: BTreeMap<u64, Owner> = blockuse(&said.out)
        .into_iter()
        .map(|((group, block), owner)| (group * of_group + block, owner))
        .collect();
    let whose = |owner: Owner| match owner {
        Owner::File { inode, paths } => {
            Owner::File { inode, paths: paths.iter().map(|path| seen(mount, path)).collect() }
        }
        other => other,
    };
    let why = said.err.lines().next().unwrap_or("xfs_db does not say").to_owned();
    let unknown = || Owner::Unknown { why: why.clone() };
    let of = |block: u64| answers.get(&block).cloned().map_or_else(unknown, whose);
    Ok(blocks.into_iter().map(|(block, piece)| (piece, of(block))).collect())
}

/// Runs of neighbours: the first, and how many.
fn runs(numbers: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}
