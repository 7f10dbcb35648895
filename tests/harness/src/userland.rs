//! Machines that run Debian, with systemd, udev and dm-remap installed, from a disk of their own.

use crate::drive::Drive;
use crate::env::Env;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The disk that a Debian machine boots from. It outlives the machine, so what is installed and configured is there at the next boot.
/// It never fails; the drives of the test are others.
#[derive(Clone)]
pub struct System {
    /// Without one, what the kernel mounts is on a drive of the test.
    pub(crate) disk: Option<PathBuf>,
    folder: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// The initramfs that dracut has made, where there is one.
    dracut: Option<PathBuf>,
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
        let folder = Env::get().new_dir("system");
        let disk = folder.join("image");
        let copied = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto", var("MACHINE_IMAGE")])
            .arg(&disk)
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "{}: not copied", disk.display());
        System {
            disk: Some(disk),
            folder,
            kernel: var("MACHINE_KERNEL").into(),
            initrd: var("MACHINE_INITRD").into(),
            dracut: vars.get("MACHINE_DRACUT").map(PathBuf::from),
            root: var("MACHINE_ROOT").into(),
        }
    }

    /// The same, with the initramfs that dracut has made.
    pub fn by_dracut(mut self) -> Self {
        let dracut = self.dracut.take();
        self.initrd = dracut.unwrap_or_else(|| panic!("dracut has made no initramfs for it"));
        self
    }

    /// The same, with one more file in its initramfs.
    pub fn with_in_initrd(mut self, path: &str, content: &str) -> Self {
        let tree = self.folder.join("initramfs");
        let file = tree.join(path);
        let mut initrd = fs::read(&self.initrd).unwrap_or_else(|e| panic!("{e}"));
        // The kernel takes archives one after another when each begins at a multiple of four bytes.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        fs::create_dir_all(file.parent().unwrap_or(&tree)).unwrap_or_else(|e| panic!("{e}"));
        fs::write(&file, content).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let pack = Command::new("sh")
            .args(["-c", "find . -mindepth 1 | sort | cpio --quiet -o -H newc -R 0:0"])
            .current_dir(&tree)
            .output();
        let pack = pack.unwrap_or_else(|e| panic!("cpio: {e}"));
        assert!(pack.status.success(), "cpio: {}", String::from_utf8_lossy(&pack.stderr));
        initrd.extend(pack.stdout);
        self.initrd = self.folder.join("initrd");
        fs::write(&self.initrd, initrd)
            .unwrap_or_else(|e| panic!("{}: {e}", self.initrd.display()));
        self
    }

    /// Its disk becomes a drive of the test, as large and with the same on it.
    pub fn onto_drive(mut self, name: &str) -> (Self, Drive) {
        let disk = self.disk.take().unwrap_or_else(|| panic!("it is on a drive already"));
        let bytes = fs::metadata(&disk).unwrap_or_else(|e| panic!("{}: {e}", disk.display())).len();
        let drive = Drive::blank(name, bytes / 512);
        fs::rename(&disk, drive.file()).unwrap_or_else(|e| panic!("{}: {e}", disk.display()));
        (self, drive)
    }
}
