//! Whose blocks of XFS are: of a mounted filesystem that keeps a record of owners by xfs_io, of any other by xfs_db, which opens it for
//! reading only.

use super::tools::{call, paths_of, seen};
use crate::Failure;
use dmremap::owners::xfs::{blockuse, fsmap, Run};
use dmremap::owners::{Owner, Piece};
use std::collections::BTreeSet;
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
    let stats = call("xfs_db", PACKAGE, &["-r", "-c", "sb 0", "-c", "p blocksize", path], "")?;
    let stats = stats.or_err("xfs_db")?;
    let size = stats.split_once('=').and_then(|(_, size)| size.trim().parse::<u64>().ok());
    let size =
        size.filter(|size| *size >= 512).ok_or("xfs_db does not tell the size of a block")?;
    let blocks: Vec<(u64, Piece)> =
        pieces.iter().flat_map(|piece| piece.blocks(size / 512)).collect();
    let mut commands = String::from("blockget -n\n");
    for (block, _) in &blocks {
        commands += &format!("daddr {}\nblockuse -n\n", block * (size / 512));
    }
    let said = call("xfs_db", PACKAGE, &["-r", path], &commands)?;
    let answers = blockuse(&said.out);
    if answers.len() != blocks.len() {
        let why =
            said.err.lines().next().unwrap_or("it does not answer for every block").to_owned();
        return Err(format!("xfs_db: {why}"));
    }
    let whose = |owner: Owner| match owner {
        Owner::File { inode, paths } => {
            Owner::File { inode, paths: paths.iter().map(|path| seen(mount, path)).collect() }
        }
        other => other,
    };
    Ok(blocks.into_iter().zip(answers).map(|((_, piece), owner)| (piece, whose(owner))).collect())
}
