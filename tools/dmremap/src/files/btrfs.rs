//! Whose blocks of Btrfs are, by `btrfs inspect-internal`.
//!
//! Where a byte of a device stands in the filesystem is in the tree of chunks, which can be read always; whose it is there, only a
//! mounted filesystem says. One that is not is mounted for that, read-only and without its log being played, where nobody else
//! sees it (a mount namespace of its own, which ends with the program).

use super::tools::call;
use crate::Failure;
use dmremap::owners::btrfs::{device, find, resolved, stripes, Stripe, SUPERBLOCK, SUPERBLOCKS};
use dmremap::owners::{Owner, Piece};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

const PACKAGE: &str = "btrfs-progs";
/// Sectors of the least that belongs to one file.
const BLOCK: u64 = 8;

/// Asks for each address in the filesystem that is mounted at the first argument. What stands between the marks is said of one.
const ASK: &str = r#"
at=$1; shift
for logical; do
    echo "of $logical"
    btrfs inspect-internal logical-resolve "$logical" "$at" 2>&1
    echo "ended $?"
done
"#;

/// The same of a device that is not mounted: its path and a folder are the arguments before these.
const MOUNT: &str = r#"
mount -t btrfs -o ro,rescue=nologreplay "$1" "$2" || exit 1
shift
"#;

/// Whose the pieces are.
pub fn owners(
    path: &str,
    mount: Option<PathBuf>,
    pieces: &[Piece],
) -> Result<Vec<(Piece, Owner)>, Failure> {
    let inspect = |arguments: &[&str]| {
        let all: Vec<&str> = ["inspect-internal"].iter().chain(arguments).copied().collect();
        call("btrfs", PACKAGE, &all, "")?.or_err("btrfs")
    };
    let id = device(&inspect(&["dump-super", path])?);
    let id = id.ok_or("btrfs does not tell the number of the device")?;
    let stripes = stripes(&inspect(&["dump-tree", "-t", "chunk", path])?);
    let blocks: Vec<(u64, Piece)> = pieces.iter().flat_map(|piece| piece.blocks(BLOCK)).collect();
    let places: Vec<Place> =
        blocks.iter().map(|(block, _)| place(&stripes, id, block * BLOCK * 512)).collect();
    let asked: BTreeSet<u64> =
        places.iter().filter_map(|place| place.as_ref().err().copied()).collect();
    let answers = ask(path, mount.as_ref(), &asked)?;
    let whose = |place: Place| match place {
        Ok(owner) => owner,
        Err(logical) => answers.get(&logical).cloned().unwrap_or(Owner::Free),
    };
    Ok(blocks.into_iter().zip(places).map(|((_, piece), place)| (piece, whose(place))).collect())
}

/// Whose it is, or the address to ask for.
type Place = Result<Owner, u64>;

fn place(stripes: &[Stripe], id: u64, byte: u64) -> Place {
    if SUPERBLOCKS.iter().any(|at| (*at..at + SUPERBLOCK).contains(&byte)) {
        return Ok(Owner::Metadata { of: "superblock".into() });
    }
    match find(stripes, id, byte) {
        None => Ok(Owner::Free),
        Some(stripe) if !stripe.of.contains("DATA") || stripe.of.contains("METADATA") => {
            Ok(Owner::Metadata { of: format!("{} chunk", stripe.of) })
        }
        Some(Stripe { logical: Some(logical), at, .. }) => Err(logical + (byte - at)),
        Some(_) => Ok(Owner::Unknown { why: "data that is spread over several devices".into() }),
    }
}

fn ask(
    path: &str,
    mount: Option<&PathBuf>,
    asked: &BTreeSet<u64>,
) -> Result<BTreeMap<u64, Owner>, Failure> {
    let mut answers = BTreeMap::new();
    let all: Vec<String> = asked.iter().map(u64::to_string).collect();
    for some in all.chunks(500) {
        let some = some.iter().map(String::as_str);
        let said = match mount {
            Some(at) => {
                let at = at.display().to_string();
                let arguments: Vec<&str> = ["-c", ASK, "sh", &at].into_iter().chain(some).collect();
                call("sh", "dash", &arguments, "")?.or_err("btrfs")?
            }
            None => {
                let folder =
                    std::env::temp_dir().join(format!("dmremap-files-{}", std::process::id()));
                std::fs::create_dir_all(&folder)
                    .map_err(|e| format!("{}: {e}", folder.display()))?;
                let at = folder.display().to_string();
                let script = format!("{MOUNT}{ASK}");
                let arguments: Vec<&str> =
                    ["-m", "sh", "-c", &script, "sh", path, &at].into_iter().chain(some).collect();
                let said = call("unshare", "util-linux", &arguments, "");
                // Empty, as what was mounted there is seen by nobody else.
                let _ = std::fs::remove_dir(&folder);
                let said = said?.or_err("mount")?;
                said.replace(&format!("{at}/"), "/")
            }
        };
        answers.extend(resolved(&said));
    }
    Ok(answers)
}
