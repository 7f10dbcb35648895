//! Calling the tools of filesystems, and where a filesystem is mounted.

use crate::candidate::number_of;
use crate::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// What a tool has said.
pub struct Said {
    /// To standard output.
    pub out: String,
    /// To standard error.
    pub err: String,
    /// Whether it ended well.
    pub well: bool,
}

impl Said {
    /// What it wrote, if it ended well.
    pub fn or_err(self, what: &str) -> Result<String, Failure> {
        if self.well {
            return Ok(self.out);
        }
        let why = self.err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed");
        Err(format!("{what}: {why}"))
    }
}

/// Calls a tool, with something to read.
///
/// # Errors
///
/// That it is not there, or cannot be called.
pub fn call(tool: &str, package: &str, arguments: &[&str], input: &str) -> Result<Said, Failure> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => {
            format!("needs '{tool}', which is not installed (Debian package {package})")
        }
        _ => format!("{tool}: {e}"),
    };
    let mut child = Command::new(tool)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (stdin, input) = (child.stdin.take(), input.to_owned());
    let writer = thread::spawn(move || {
        // One that has ended reads no more.
        stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
    });
    let output = child.wait_with_output().map_err(failed)?;
    // Whether all was read shows in what it said.
    let _ = writer.join();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { out: text(output.stdout), err: text(output.stderr), well: output.status.success() })
}

/// A field of `/proc/self/mountinfo`, in which white space stands as octal numbers.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
}

/// Where all of the filesystem on a device is mounted.
pub fn mounted_on((major, minor): (u32, u32)) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let words: Vec<&str> = mount.split(' ').collect();
        let (number, root, at) = (*words.get(2)?, *words.get(3)?, *words.get(4)?);
        let source = unescape(filesystem.split(' ').nth(1)?);
        // Btrfs has a number of its own.
        let same = number == format!("{major}:{minor}")
            || source.starts_with('/') && number_of(&source) == Ok((major, minor));
        (same && root == "/").then(|| PathBuf::from(unescape(at)))
    })
}

/// The paths of inodes in a mounted filesystem, by looking through all of its folders.
pub fn paths_of(mount: &Path, inodes: &BTreeSet<u64>) -> BTreeMap<u64, Vec<String>> {
    let mut paths: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let Ok(top) = fs::symlink_metadata(mount) else { return paths };
    let mut look = |path: &Path, inode: u64| {
        if inodes.contains(&inode) {
            paths.entry(inode).or_default().push(path.display().to_string());
        }
    };
    look(mount, top.ino());
    let mut folders = vec![mount.to_owned()];
    while let Some(folder) = folders.pop() {
        // A folder that cannot be read is one of those that are looked for, perhaps.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            look(&path, meta.ino());
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    paths
}

/// A path in a filesystem as it is seen from outside.
pub fn seen(mount: Option<&PathBuf>, path: &str) -> String {
    match mount {
        Some(mount) => mount.join(path.trim_start_matches('/')).display().to_string(),
        None => path.to_owned(),
    }
}

/// A part of a device as a device of its own, which cannot be written. It goes when this does.
pub struct Loop {
    /// Its path.
    pub path: String,
    /// Major and minor number.
    pub number: (u32, u32),
}

impl Loop {
    /// `len` sectors from `start` on.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn open(path: &str, start: u64, len: u64) -> Result<Self, Failure> {
        let (start, len) = ((start * 512).to_string(), (len * 512).to_string());
        let arguments =
            ["--read-only", "--find", "--show", "--offset", &start, "--sizelimit", &len, path];
        let said = call("losetup", "mount", &arguments, "")?.or_err("losetup")?;
        let path = said.trim().to_owned();
        match number_of(&path) {
            Ok(number) => Ok(Self { path, number }),
            Err(e) => {
                drop(Self { path, number: (0, 0) });
                Err(e)
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // One that stays is seen in the list of losetup, and holds the set open.
        if let Err(e) = call("losetup", "mount", &["--detach", &self.path], "")
            .and_then(|s| s.or_err("losetup"))
        {
            eprintln!("dmremap: {} stays: {e}", self.path);
        }
    }
}
