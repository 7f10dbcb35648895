//! Spares as some version of dm-remap left them, kept for good: a change after which one of them cannot be read any more, or says
//! something else, would break what is on somebody's disk.
//!
//! `kept/NAME/` has what stands on each spare, `0.zlib` and so on: a zlib stream of its beginning, behind which there are zeroes up to
//! [`SECTORS`](sim::SECTORS); and beside it `dump.json`, what it says, or `refusal`, why it is refused. `keep-images` makes those
//! that are not there yet, with the code of the day, and never touches one that is.

#![forbid(unsafe_code)]

// It is not written as a library.
#[allow(clippy::should_implement_trait)]
#[path = "../../pure/sim.rs"]
pub mod sim;
#[path = "../../pure/v3.rs"]
pub mod v3;

use remap_pure::store::Store;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where they are kept.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kept")
}

/// Puts away the spares of a set.
///
/// # Errors
///
/// Those of the files.
pub fn write(folder: &Path, sim: &sim::Sim) -> io::Result<()> {
    for (i, disk) in sim.disks.iter().enumerate() {
        let mut bytes = Vec::new();
        for (at, block) in disk.written() {
            bytes.resize(at as usize * block.len(), 0);
            bytes.extend(block);
        }
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(&bytes, 9);
        fs::write(folder.join(format!("{i}.zlib")), packed)?;
    }
    Ok(())
}

/// The spares of a set that was put away.
///
/// # Errors
///
/// Those of the files, and that one is not what was written.
pub fn read(folder: &Path) -> io::Result<sim::Sim> {
    let file = |i: usize| folder.join(format!("{i}.zlib"));
    let count = (0..).take_while(|&i| file(i).exists()).count();
    let mut sim = sim::Sim::new(count, sim::SECTORS, 1);
    for (i, disk) in sim.disks.iter_mut().enumerate() {
        let bytes = miniz_oxide::inflate::decompress_to_vec_zlib(&fs::read(file(i))?)
            .map_err(|e| io::Error::other(format!("{}: {e}", file(i).display())))?;
        for (at, block) in bytes.chunks_exact(4096).enumerate() {
            match <[u8; 4096]>::try_from(block) {
                Ok(block) if block != [0; 4096] => disk.set_block(at as u64, block),
                _ => {}
            }
        }
    }
    assert!(!sim.spares().is_empty(), "there is nothing in {}", folder.display());
    Ok(sim)
}

#[cfg(test)]
mod tests {
    use super::{folder, read, sim::crc};
    use dmremap::Dump;
    use remap_pure::recovery::{recover, RebuildError};
    use remap_pure::validate::{validate, Level, Severity};
    use serde_json::Value;
    use std::fs;

    /// Whether everything that `kept` says is in `now`, in the same words, but for the number of the way to write it down. Later there may be more.
    fn says(now: &Value, kept: &Value, at: &str) {
        match (now, kept) {
            (Value::Object(now), Value::Object(kept)) => {
                for (key, kept) in kept.iter().filter(|(key, _)| *key != "dump_format") {
                    let now = now.get(key).unwrap_or_else(|| panic!("{at}: no {key}"));
                    says(now, kept, &format!("{at}, {key}"));
                }
            }
            (Value::Array(now), Value::Array(kept)) => {
                assert_eq!(now.len(), kept.len(), "{at}");
                now.iter().zip(kept).for_each(|(now, kept)| says(now, kept, at));
            }
            _ => assert_eq!(now, kept, "{at}"),
        }
    }

    fn dump(
        header: &remap_pure::format::header::Header,
        table: &remap_pure::table::Table,
    ) -> Value {
        serde_json::to_value(Dump::of(header, table)).unwrap()
    }

    #[test]
    fn what_was_ever_written_says_what_it_said() {
        let mut seen = 0;
        for entry in fs::read_dir(folder()).unwrap() {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let mut sim = read(&folder).unwrap();
            let found = recover(&mut sim, crc);
            let report = validate(&mut sim, Level::Forensic, crc).unwrap();
            seen += 1;
            if let Ok(refusal) = fs::read_to_string(folder.join("refusal")) {
                let is = found.err().unwrap_or_else(|| panic!("{name} is not refused any more"));
                let kind = format!("{is:?}");
                assert!(kind.starts_with(refusal.trim()), "{name}: {kind}");
                assert_eq!(report.worst(), Severity::Fatal, "{name}");
                continue;
            }
            let found = found.unwrap_or_else(|e| panic!("{name}: {e}"));
            let text = fs::read(folder.join("dump.json")).unwrap();
            let kept: Value = serde_json::from_slice(&text).unwrap();
            says(&dump(found.header(), found.table()), &kept, &name);
            // And a dump that was made then can be read.
            let parsed = Dump::parse(&text).unwrap_or_else(|e| panic!("{name} {e}"));
            let header = parsed.header().map(|header| (header, parsed.table().unwrap()));
            match header {
                Ok((header, table)) => {
                    says(&dump(&header, &table)["extents"], &kept["extents"], &name);
                    says(&dump(&header, &table)["spares"], &kept["spares"], &name);
                }
                Err(e) => assert!(
                    e.contains("newer dm-remap") && found.header().read_only(),
                    "{name}: {e}"
                ),
            }
            assert!(report.worst() < Severity::Fatal, "{name}");

            let (clean, read_only) = (found.is_clean(), found.header().read_only());
            match found.rebuild(&mut sim, 1, 1) {
                Ok(meta) => {
                    says(&dump(meta.header(), meta.table())["extents"], &kept["extents"], &name)
                }
                Err(e) => assert!(
                    read_only && !clean && matches!(e, RebuildError::Commit(_)),
                    "{name}: {e}"
                ),
            }
        }
        assert!(seen > 10, "images are missing");
    }
}
