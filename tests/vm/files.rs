//! Which files lie on blocks that cannot be read, and the picture of the surface of a set in use.

use remap_harness::{Drive, Machine, Remap};
use serde_json::Value;

const MIB: u64 = 2048;

struct Set<'m> {
    machine: &'m Machine,
    remap: Remap<'m>,
}

fn boot(drives: &[&Drive]) -> Machine {
    let machine = drives
        .iter()
        .fold(Machine::builder(), |builder, drive| builder.drive(drive))
        .module()
        .boot();
    machine.start_udev();
    machine.ok("mkdir -p /mnt");
    machine
}

impl Set<'_> {
    /// What `dmremap files --json` says, by the first sector: what it is, and the paths.
    #[track_caller]
    fn files(&self, arguments: &str) -> Vec<(u64, u64, String, String)> {
        let output = self.machine.run(&format!("dmremap files --json {arguments} r"));
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!([0, 3].contains(&output.status), "{said}");
        let json: Value =
            serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
        let of = |block: &Value| {
            let paths = block["paths"]
                .as_array()
                .map(|paths| paths.iter().map(text).collect::<Vec<_>>().join(" "));
            let detail = paths.unwrap_or_else(|| text(&block["of"]) + &text(&block["why"]));
            (
                block["start"].as_u64().unwrap(),
                block["len"].as_u64().unwrap(),
                text(&block["what"]),
                detail,
            )
        };
        json["blocks"].as_array().unwrap().iter().map(of).collect()
    }

    /// Whose that sector is.
    #[track_caller]
    fn whose(&self, arguments: &str, sector: u64) -> (String, String) {
        let all = self.files(arguments);
        let found = all.iter().find(|(start, len, ..)| (*start..start + len).contains(&sector));
        let (.., what, detail) = found.unwrap_or_else(|| panic!("{sector} is not in {all:?}"));
        (what.clone(), detail.clone())
    }

    /// Makes sectors pending.
    #[track_caller]
    fn lose(&self, main: &Drive, sectors: &[u64]) {
        for sector in sectors {
            main.fail_reads(*sector..sector + 1);
            self.machine.ok(&format!("dmsetup message r 0 remap {sector} 1"));
        }
        assert!(self.remap.status().pending.0 >= sectors.len() as u64);
    }
}

fn of(what: &str, detail: &str) -> (String, String) {
    (what.into(), detail.into())
}

/// The first sector of a file's data, on the device of the filesystem.
#[track_caller]
fn sector_of(machine: &Machine, path: &str) -> u64 {
    let text = machine.ok(&format!("xfs_io -r -c 'fiemap -v' '{path}'"));
    let range = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .find(|word| word.contains(".."));
    let first = range.and_then(|range| range.split("..").next()?.parse().ok());
    first.unwrap_or_else(|| panic!("{path}: {text}"))
}

#[test]
fn files_of_ext4_are_named_mounted_or_not_and_nothing_is_written() {
    let (main, spare) = (Drive::blank("main", 64 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let set = Set { machine: &machine, remap };
    assert!(set.files("--remapped").is_empty());
    machine.ok("modprobe ext4 && mkfs.ext4 -q -b 1024 /dev/mapper/r && mount /dev/mapper/r /mnt && mkdir '/mnt/a folder'");
    machine.ok("dd if=/dev/urandom of='/mnt/a folder/file' bs=1M count=2 2>/dev/null && ln '/mnt/a folder/file' /mnt/link && sync");
    machine.ok("dd if=/dev/urandom of=/mnt/other bs=1M count=2 2>/dev/null && sync");
    let (file, other) = (sector_of(&machine, "/mnt/link"), sector_of(&machine, "/mnt/other"));
    let free = 64 * MIB - 16;
    // Of main's first block group, which ends there: the bitmaps and inodes of the next begin at block 8193.
    let bitmap = 8193 * 2;
    machine.ok(&format!("dmremap remap r {other} 8"));
    set.lose(&main, &[file + 3, free]);
    let both = of("file", "/mnt/a folder/file /mnt/link");
    assert_eq!(set.whose("", file + 3), both);
    assert_eq!(set.whose("", free), of("free", ""));
    assert_eq!(set.files("").len(), 2);
    assert_eq!(set.whose("--remapped", other), of("file", "/mnt/other"));
    let text = machine.run("dmremap files r");
    assert_eq!(text.status, 3, "{text:?}");
    for part in
        ["2 sectors cannot be read, 8 are remapped", "/mnt/a folder/file\n", "nobody's", "ext4"]
    {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    // Not mounted, with paths from the filesystem's own root; and nothing was written for it.
    machine.ok("umount /mnt && blockdev --flushbufs /dev/mapper/r");
    let written = main.counters().writes;
    assert_eq!(set.whose("", file + 3), of("file", "/a folder/file /link"));
    assert_eq!(main.counters().writes, written);
    // What the filesystem needs is lost too: it is said as far as it can be.
    set.lose(&main, &[bitmap]);
    let (what, detail) = set.whose("", bitmap);
    assert!(what == "metadata" || what == "unknown", "{what} {detail}");
    assert_eq!(set.whose("", file + 3), of("file", "/a folder/file /link"));

    // The picture of it.
    let text = machine.ok("dmremap map --ascii --width 60 r");
    assert!(
        text.contains('P') && text.contains("3 pending") && text.contains("WHERE MOST IS"),
        "{text}"
    );
    let json: Value =
        serde_json::from_str(&machine.ok("dmremap map --json /dev/mapper/r")).unwrap();
    assert_eq!(json["extents"].as_array().unwrap().len(), 4);
    machine.ok("dmremap map --svg /tmp/map.svg r && grep -q 'role=\"img\"' /tmp/map.svg && tail -n 1 /tmp/map.svg | grep -q '</svg>'");
    assert!(machine.fails("dmremap map q").contains("no set in use is called 'q'"));
    assert!(machine.fails("dmremap files q").contains("no set in use is called 'q'"));
    machine.shutdown();
}

#[test]
fn files_of_xfs_are_named_mounted_or_not() {
    let (main, spare) = (Drive::blank("main", 400 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let set = Set { machine: &machine, remap };
    machine.ok("modprobe xfs && mkfs.xfs -q /dev/mapper/r && mount -t xfs /dev/mapper/r /mnt && mkdir /mnt/sub");
    machine.ok("dd if=/dev/urandom of='/mnt/sub/a file' bs=1M count=2 2>/dev/null && sync");
    let file = sector_of(&machine, "/mnt/sub/a file");
    let free = 390 * MIB;
    set.lose(&main, &[file + 9, free]);
    assert_eq!(set.whose("", file + 9), of("file", "/mnt/sub/a file"));
    assert_eq!(set.whose("", free), of("free", ""));
    machine.ok("dmremap remap r 0 8");
    assert_eq!(set.whose("--remapped", 0).0, "metadata");
    machine.ok("umount /mnt");
    assert_eq!(set.whose("", file + 9), of("file", "/sub/a file"));
    assert_eq!(set.whose("", free), of("free", ""));
    assert_eq!(set.whose("--remapped", 0), of("metadata", "sb"));
    machine.shutdown();
}

#[test]
fn files_of_btrfs_are_named_mounted_or_not() {
    let (main, spare) = (Drive::blank("main", 256 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let set = Set { machine: &machine, remap };
    machine.ok("modprobe btrfs && mkfs.btrfs -q /dev/mapper/r && mount -t btrfs /dev/mapper/r /mnt && mkdir /mnt/sub");
    machine.ok("dd if=/dev/urandom of='/mnt/sub/a file' bs=1M count=2 2>/dev/null && sync");
    // Where it is on the device follows from the chunk, which for one device is found by the data.
    machine.ok("dd if='/mnt/sub/a file' of=/tmp/head bs=4096 count=1 2>/dev/null");
    let head = machine.get("/tmp/head");
    let all = main.durable(0..256 * MIB);
    let file = all.chunks(4096).position(|block| block == head).expect("the file's first block")
        as u64
        * 8;
    let free = 250 * MIB;
    set.lose(&main, &[file + 9, free]);
    assert_eq!(set.whose("", file + 9), of("file", "/mnt/sub/a file"));
    assert_eq!(set.whose("", free), of("free", ""));
    machine.ok("dmremap remap r 128 8");
    assert_eq!(set.whose("--remapped", 128), of("metadata", "superblock"));
    machine.ok("umount /mnt");
    let written = main.counters().writes;
    assert_eq!(set.whose("", file + 9), of("file", "/sub/a file"));
    assert_eq!(main.counters().writes, written);
    machine.shutdown();
}

/// A table of one partition of this length, from the first MiB on.
fn one_partition(len: u64) -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[440..444].copy_from_slice(&0x0a1b_2c3d_u32.to_le_bytes());
    sector[450] = 0x83;
    sector[454..458].copy_from_slice(&2048u32.to_le_bytes());
    sector[458..462].copy_from_slice(&(len as u32).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn partitions_and_what_is_mapped_linearly_are_seen_through() {
    let (main, spare) = (Drive::blank("main", 64 * MIB), Drive::blank("spare", 16 * MIB));
    let machine = boot(&[&main, &spare]);
    let remap = Remap::create(&machine, "r", "/dev/vda", "/dev/vdb 1 create");
    let set = Set { machine: &machine, remap };
    let len = 48 * MIB;
    machine.put("/tmp/table", &one_partition(len));
    machine.ok("modprobe ext4 && modprobe loop && dd if=/tmp/table of=/dev/mapper/r conv=fsync,notrunc 2>/dev/null");
    // As kpartx does.
    machine.ok(&format!("dmsetup create r1 --table '0 {len} linear /dev/mapper/r 2048'"));
    machine.ok("mkfs.ext4 -q /dev/mapper/r1 && mount /dev/mapper/r1 /mnt");
    machine.ok("dd if=/dev/urandom of=/mnt/file bs=1M count=2 2>/dev/null && sync");
    let file = 2048 + sector_of(&machine, "/mnt/file");
    set.lose(&main, &[file + 3, 100, 60 * MIB]);
    assert_eq!(set.whose("", file + 3), of("file", "/mnt/file"));
    assert_eq!(set.whose("", 100), of("metadata", "dos partition table, or between partitions"));
    assert_eq!(set.whose("", 60 * MIB).0, "metadata");
    // Without a device for it, by one that is there for a moment.
    machine.ok("umount /mnt && dmsetup remove --retry r1");
    assert_eq!(set.whose("", file + 3), of("file", "/file"));
    assert!(machine.ok("losetup -a").is_empty());
    assert_eq!(machine.ok("dmsetup info -c --noheadings -o open r"), "0");
    machine.shutdown();
}
