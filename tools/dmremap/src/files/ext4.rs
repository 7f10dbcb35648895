//! Whose blocks of ext2 to ext4 are, by debugfs, which opens the filesystem for reading only.

use super::tools::{call, seen};
use crate::Failure;
use dmremap::owners::ext4::{block_size, icheck, ncheck, owner, testb};
use dmremap::owners::{Owner, Piece};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Blocks or inodes that are asked for in one line.
const BATCH: usize = 200;

fn debugfs(path: &str, commands: &str) -> Result<String, Failure> {
    let said = call("debugfs", "e2fsprogs", &["-f", "-", path], commands)?;
    if !said.err.contains("while trying to open") && !said.err.contains("Filesystem not open") {
        return Ok(said.out);
    }
    // Without its bitmaps, which may be what cannot be read.
    call("debugfs", "e2fsprogs", &["-c", "-f", "-", path], commands)?.or_err("debugfs")
}

/// Lines of `command` for all of `numbers`.
fn lines(command: &str, numbers: &BTreeSet<u64>) -> String {
    let all: Vec<String> = numbers.iter().map(u64::to_string).collect();
    all.chunks(BATCH).map(|some| format!("{command} {}\n", some.join(" "))).collect()
}

/// Whose the pieces are.
pub fn owners(
    path: &str,
    mount: Option<PathBuf>,
    pieces: &[Piece],
) -> Result<Vec<(Piece, Owner)>, Failure> {
    let stats = debugfs(path, "show_super_stats -h\n")?;
    let size = block_size(&stats).ok_or("debugfs does not tell the size of a block")?;
    let blocks: Vec<(u64, Piece)> =
        pieces.iter().flat_map(|piece| piece.blocks(size / 512)).collect();
    let numbers: BTreeSet<u64> = blocks.iter().map(|(block, _)| *block).collect();
    let inodes = icheck(&debugfs(path, &lines("icheck", &numbers))?);
    let of: BTreeSet<u64> = inodes.values().flatten().copied().collect();
    let paths = if of.is_empty() {
        Default::default()
    } else {
        ncheck(&debugfs(path, &lines("ncheck", &of))?)
    };
    let without: BTreeSet<u64> =
        inodes.iter().filter(|(_, inode)| inode.is_none()).map(|(block, _)| *block).collect();
    let tests: String = without.iter().map(|block| format!("testb {block}\n")).collect();
    let used = if without.is_empty() { Default::default() } else { testb(&debugfs(path, &tests)?) };
    let whose = |block: &u64| match (inodes.get(block), used.get(block)) {
        (Some(Some(inode)), _) => match owner(*inode, paths.get(inode)) {
            Owner::File { inode, paths } => {
                let paths = paths.iter().map(|path| seen(mount.as_ref(), path)).collect();
                Owner::File { inode, paths }
            }
            other => other,
        },
        (Some(None), Some(false)) => Owner::Free,
        (Some(None), Some(true)) => {
            Owner::Metadata { of: "superblock, group descriptors, bitmaps or inodes".into() }
        }
        _ => Owner::Unknown {
            why: "debugfs does not say; a part of the filesystem that it needs cannot be read"
                .into(),
        },
    };
    Ok(blocks.into_iter().map(|(block, piece)| (piece, whose(&block))).collect())
}
