//! `make demo`: the main job, told as it happens. Files on a drive survive the drive: its suspect areas are moved to a spare while the
//! files are in use, then those areas truly fail, then others do without notice, then the power is cut, then the machine starts again.

use remap_harness::{Drive, Env, Machine, Remap, Status};
use std::ops::Range;
use std::process::Command;
use std::time::Instant;

const MIB: u64 = 2048;
const LINE: &str = "/dev/vdb";

/// Reads and writes files until told to stop; fails with the names of files that changed.
const USE: &str = "
n=0
while [ ! -e /tmp/stop ]; do
    n=$((n + 1))
    cp -r /mnt/admin-guide /mnt/copy$((n % 3)) && sync && echo 1 >/proc/sys/vm/drop_caches || exit 1
    (cd /mnt && sha256sum -c .sums 2>&1) | grep -v ': OK$' && exit 1
    diff -r /mnt/admin-guide /mnt/copy$((n % 3)) || exit 1
    rm -rf /mnt/copy$(((n + 1) % 3))
done";

/// Tells a step, with the time since the start.
struct Story(Instant);

impl Story {
    fn tell(&self, text: &str) {
        println!("{:5.1} s  {text}", self.0.elapsed().as_secs_f32());
    }
}

fn main() {
    let story = Story(Instant::now());
    println!("dm-remap on kernel {}, in a virtual machine\n", Env::get().release);

    let main = Drive::blank("main", 256 * MIB);
    let spare = Drive::blank("spare", 64 * MIB);
    let machine = Machine::builder().drive(&main).drive(&spare).boot();
    story.tell("A machine with two drives: main, 256 MiB, and spare, 64 MiB.");

    let archive = real_files();
    machine.put("/tmp/files.tar", &archive);
    machine.ok("modprobe ext4 && mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && tar -C /mnt -xf /tmp/files.tar");
    machine.ok("cd /mnt && find . -type f | sort | xargs sha256sum >/tmp/sums && cp /tmp/sums /mnt/.sums && cd / && umount /mnt");
    let files = machine.ok("wc -l </tmp/sums");
    story.tell(&format!("An ext4 filesystem on main, with {files} real files and their checksums. So far without dm-remap."));

    machine.load_module();
    let disk = Remap::create(&machine, "disk", "/dev/vda", &format!("{LINE} 1 create"));
    machine.ok("mount /dev/mapper/disk /mnt");
    check(&machine);
    story.tell("insmod dm-remap.ko; dmsetup create: the same filesystem, mounted through dm-remap. All checksums hold.");

    let suspects = suspect_areas(&machine);
    story.tell(&format!(
        "Main's firmware announces {} areas as suspect, {} sectors under files and under free space. They can still be read.",
        suspects.len(),
        suspects.iter().map(|r| r.end - r.start).sum::<u64>()
    ));
    machine.put("/tmp/use", USE.as_bytes());
    let load = machine.start("sh /tmp/use");
    for area in &suspects {
        remap(&disk, area);
    }
    let status = disk.status();
    story.tell("Each is remapped with dmsetup message, while files are read and written:");
    tell_status(&status);

    for area in &suspects {
        main.fail(area.clone());
    }
    let error = machine.fails(&format!("guest io read /dev/vda {} 8", suspects[0].start));
    story.tell(&format!(
        "Now main truly fails there. Read directly: {}.",
        error.trim_start_matches("guest: ")
    ));
    machine.ok("touch /tmp/stop");
    let rounds = load.wait();
    assert_eq!(
        rounds.status, 0,
        "files were damaged under load: {}{}",
        rounds.stdout, rounds.stderr
    );
    machine.ok("umount /mnt && mount /dev/mapper/disk /mnt");
    check(&machine);
    story.tell("Through dm-remap all checksums hold, read back from the drives.");

    for sector in (50_000..290_000).step_by(600) {
        main.fail_writes(sector..sector + 1);
    }
    let errors = main.counters().errors;
    machine.ok("cp -r /mnt/admin-guide /mnt/more && cp -r /mnt/admin-guide /mnt/most && sync && echo 3 >/proc/sys/vm/drop_caches");
    machine.ok("cd /mnt && diff -r admin-guide more && diff -r admin-guide most");
    let errors = main.counters().errors - errors;
    assert!(errors > 0, "main took every write");
    story.tell(&format!(
        "Then one block in 75 of main refuses writes, unannounced. Files are copied: main answers {errors} requests with an error, none of \
         them gets as far as the filesystem. What failed has moved by itself:"
    ));
    tell_status(&disk.status());

    let acknowledged = disk.message("table");
    let before = disk.status();
    let _busy =
        machine.start("while :; do cp -r /mnt/admin-guide /mnt/late; sync; rm -rf /mnt/late; done");
    let _moving = machine
        .start("s=300000; while :; do dmsetup message disk 0 remap $s 64; s=$((s + 128)); done");
    disk.wait_until(|now| now.remapped.0 > before.remapped.0 + 64);
    machine.power_cut(20);
    story.tell("The power is cut in the middle of more remaps, with files being written. Unflushed writes are lost, torn or reordered.");

    let machine = Machine::builder().drive(&main).drive(&spare).boot();
    machine.load_module();
    let disk = Remap::create(&machine, "disk", "/dev/vda", LINE);
    let after = disk.status();
    story.tell("Started again: insmod, and dmsetup create with the same line (without create).");
    tell_status(&after);
    let table = disk.message("table");
    for line in acknowledged.lines() {
        assert!(table.contains(line), "a remap is gone: {line}\n{table}");
    }
    assert!(
        after.remapped.0 >= before.remapped.0,
        "remaps are gone: {} -> {}",
        before.line,
        after.line
    );
    machine.ok("modprobe ext4 && mount /dev/mapper/disk /mnt && umount /mnt");
    machine.ok("e2fsck -fn /dev/mapper/disk");
    story.tell(
        "Every remap that had been acknowledged is there. e2fsck -fn finds the filesystem clean.",
    );
    machine.ok("mount /dev/mapper/disk /mnt");
    check(&machine);
    story.tell(&format!("All {files} checksums hold."));
    machine.ok("umount /mnt");
    disk.remove();
    machine.ok("rmmod dm_remap");
    machine.shutdown();
    println!("\nNothing was lost.");
}

/// A few hundred files that nobody made for this: a part of the kernel's documentation.
fn real_files() -> Vec<u8> {
    let documentation = Env::get().source.join("Documentation");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&documentation)
        .args(["-cf", "-", "admin-guide"])
        .output();
    let tar = tar.unwrap_or_else(|e| panic!("tar: {e}"));
    assert!(tar.status.success(), "tar: {}", String::from_utf8_lossy(&tar.stderr));
    tar.stdout
}

/// Compares all files with their checksums, read from the drives and not from memory.
#[track_caller]
fn check(machine: &Machine) {
    machine.ok("echo 3 >/proc/sys/vm/drop_caches && cd /mnt && ! sha256sum -c .sums 2>&1 | grep -v ': OK$'");
}

/// Areas under the data of some files, and under free space. Each is a few blocks long.
fn suspect_areas(machine: &Machine) -> Vec<Range<u64>> {
    let superblock = machine.ok("dumpe2fs -h /dev/mapper/disk 2>/dev/null");
    let block_size = superblock
        .lines()
        .find_map(|line| line.strip_prefix("Block size:")?.trim().parse::<u64>().ok());
    // Sectors of a block of the filesystem.
    let block = block_size.map_or(8, |bytes| bytes / 512);

    let mut areas = Vec::new();
    // Some of the files: the first block of each, from the filesystem itself.
    for name in machine
        .ok("cd /mnt && find admin-guide -type f -size +8k | sort | awk 'NR % 20 == 1'")
        .lines()
    {
        let blocks =
            machine.ok(&format!("debugfs -R 'blocks /{name}' /dev/mapper/disk 2>/dev/null"));
        let first = blocks.split_whitespace().find_map(|word| word.parse::<u64>().ok());
        areas.extend(first.map(|first| first * block..first * block + 16));
    }
    let groups = machine.ok("dumpe2fs /dev/mapper/disk 2>/dev/null");
    let free = groups.lines().filter_map(|line| line.trim().strip_prefix("Free blocks: "));
    let runs = free.flat_map(|runs| runs.split(", ")).filter_map(|run| run.split_once('-'));
    let long = runs
        .filter_map(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)))
        .filter(|(a, b)| b - a > 200);
    areas.extend(long.take(3).map(|(first, _)| (first + 64) * block..(first + 64) * block + 40));
    areas.sort_by_key(|area| area.start);
    areas
}

/// Remaps the area and waits until that is done.
fn remap(disk: &Remap<'_>, area: &Range<u64>) {
    let before = disk.status().remapped.0;
    let sectors = area.end - area.start;
    disk.message(&format!("remap {} {sectors}", area.start));
    disk.wait_until(|now| now.remapped.0 >= before + sectors);
}

fn tell_status(status: &Status) {
    println!("         {}", status.line);
}
