//! Where the things are that a machine is made of, and where a test may leave its files.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// How many times as long what is waited for may take on the kernel that looks for faults.
const SLOW: u32 = 5;

/// What `scripts/vm` wrote down before the tests were started.
pub struct Env {
    /// The kernel's release.
    pub release: String,
    /// Its source.
    pub source: PathBuf,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// What it boots from.
    pub initramfs: PathBuf,
    /// The drive plugin for nbdkit.
    pub plugin: PathBuf,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Whether the kernel is the one that looks for faults, and is slow: `make test-debug`.
    pub debug: bool,
    build: PathBuf,
}

impl Env {
    /// Reads it, once. Panics with what to do when there is none.
    pub fn get() -> &'static Env {
        static ENV: OnceLock<Env> = OnceLock::new();
        ENV.get_or_init(|| {
            let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build");
            let debug = std::env::var("DMREMAP_DEBUG").is_ok_and(|value| !value.is_empty());
            let mut build = build.canonicalize().unwrap_or(build);
            if debug {
                build.push("debug");
            } else if let Some(row) = std::env::var_os("DMREMAP_ROW").filter(|row| !row.is_empty())
            {
                build.push("matrix");
                build.push(row);
            }
            let path = build.join("vm.env");
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("{}: {e}; run make test", path.display()));
            let vars: HashMap<&str, &str> =
                text.lines().filter_map(|line| line.split_once('=')).collect();
            let var = |name: &str| {
                vars.get(name).copied().unwrap_or_else(|| panic!("{}: no {name}", path.display()))
            };
            Env {
                release: var("KERNEL_RELEASE").into(),
                source: var("KERNEL_SOURCE").into(),
                kernel: var("KERNEL_IMAGE").into(),
                initramfs: var("INITRAMFS").into(),
                plugin: var("PLUGIN").into(),
                accel: var("ACCEL").into(),
                debug,
                build,
            }
        })
    }

    /// The folder that everything is built in.
    pub fn build(&self) -> &Path {
        &self.build
    }

    /// A name for what the initramfs is made from; another one, when that has changed.
    pub fn initramfs_key(&self) -> String {
        let path = self.build.join("initramfs.key");
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// A folder for something that this test makes, named after both and never used before.
    pub fn new_dir(&self, what: &str) -> PathBuf {
        let test = std::thread::current().name().unwrap_or("main").replace("::", ".");
        let base = self.build.join("vm").join(test);
        static TAKEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
        let mut taken = TAKEN.lock().unwrap_or_else(|e| e.into_inner());
        let names =
            (0..).map(|n| base.join(if n == 0 { what.to_string() } else { format!("{what}-{n}") }));
        let dir = names.into_iter().find(|dir| !taken.contains(dir)).unwrap_or(base);
        // What is there is of an earlier run.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        taken.insert(dir.clone());
        dir
    }

    /// A folder with a path short enough for sockets.
    pub fn new_socket_dir(&self) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!(
            "remap-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        dir
    }
}

/// This much time, or more where everything is slow.
pub fn patience(time: Duration) -> Duration {
    if Env::get().debug {
        time * SLOW
    } else {
        time
    }
}

/// A number from the environment of a command, as `SEED=` of `make torture`. Panics when it is none.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number"))
        }
        _ => default,
    }
}
