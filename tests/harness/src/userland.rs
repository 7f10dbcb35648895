//! Machines that run Debian, with systemd, udev and dm-remap installed, from a disk of their own.

use crate::env::Env;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The disk that a Debian machine boots from. It outlives the machine, so what is installed and configured is there at the next boot.
/// It never fails; the drives of the test are others.
#[derive(Clone)]
pub struct System {
    pub(crate) disk: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// What the kernel is told to mount as the root.
    pub(crate) root: String,
}

impl System {
    /// A Debian with dm-remap from this checkout, as it is when it has been installed.
    pub fn installed() -> Self {
        Self::made("userland", "make test-userland")
    }

    /// One with dm-remap from its packages, and the kernel that they were installed for.
    pub fn packaged() -> Self {
        Self::made("package/machine", "make test-package")
    }

    fn made(folder: &str, by: &str) -> Self {
        let path = Env::get().build().join(folder).join("env");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; run {by}", path.display()));
        let vars: HashMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once('=')).collect();
        let var = |name: &str| {
            vars.get(name).copied().unwrap_or_else(|| panic!("{}: no {name}", path.display()))
        };
        let disk = Env::get().new_dir("system").join("image");
        let copied = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto", var("MACHINE_IMAGE")])
            .arg(&disk)
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "{}: not copied", disk.display());
        System {
            disk,
            kernel: var("MACHINE_KERNEL").into(),
            initrd: var("MACHINE_INITRD").into(),
            root: var("MACHINE_ROOT").into(),
        }
    }

    /// The same, started by another initramfs: bytes that a machine has made.
    pub fn with_initrd(mut self, initrd: &[u8]) -> Self {
        self.initrd = self.disk.with_file_name("initrd");
        fs::write(&self.initrd, initrd)
            .unwrap_or_else(|e| panic!("{}: {e}", self.initrd.display()));
        self
    }

    /// The same, with another root filesystem: what `root=` is to say.
    pub fn with_root(mut self, root: &str) -> Self {
        self.root = root.into();
        self
    }

    /// Where its filesystem stands as it was installed.
    pub fn image(&self) -> &Path {
        &self.disk
    }
}
