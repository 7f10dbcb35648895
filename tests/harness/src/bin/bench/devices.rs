//! What is measured: sets, and what one would have in their place.
//!
//! Main is a drive without a memory, so that all of them cost the same to read. Of a spare only the metadata have one: it is made of two
//! pieces by device mapper, and so is what a hit is compared with.

use remap_harness::report::Figure;
use remap_harness::{Drive, Image, Machine, Remap};
use remap_pure::format::layout::Layout;
use std::time::Duration;

/// Sectors in a MiB.
pub const MIB: u64 = 2048;

/// Sectors of main, but for a million extents: a GiB.
pub const MAIN: u64 = 1024 * MIB;

const SPARE_MIB: u64 = 1024;
const SPARE_OF_MILLION_MIB: u64 = 4096;

/// As many extents of a page as there are on main, evenly unless they are scattered.
#[derive(Clone, Copy)]
pub struct Spread {
    /// How many.
    pub extents: u64,
    /// How many sectors lie from one to the next.
    pub step: u64,
    /// Sectors of main.
    pub main: u64,
    /// They lie so far from one to the next on the average, but each at a place of its own.
    scattered: bool,
}

impl Spread {
    /// So many on a GiB; a million on a TiB, of which they take the first 64 GiB, but for one that lies behind a quarter of it: so the
    /// filter has a bit for 32 KiB, and not for each page.
    pub fn of(extents: u64) -> Self {
        let million = extents >= 1_000_000;
        let step = match extents {
            0 => 128,
            _ if million => 128,
            n => 1 << (MAIN / n).ilog2(),
        };
        Self { extents, step, main: if million { MAIN << 10 } else { MAIN }, scattered: false }
    }

    /// The same, not evenly: between one and the next there are 0 to twice as many sectors.
    pub fn scattered(self) -> Self {
        Self { scattered: true, ..self }
    }

    /// Where the `i`th is, as `guest bench` has it.
    fn place(self, i: u64) -> u64 {
        let blocks = self.step / 8;
        let from = match self.scattered {
            true => (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % (blocks - 1).max(1),
            false => 0,
        };
        i * self.step + from * 8
    }

    fn layout(self) -> Layout {
        let large = || Layout::for_max_remaps(self.extents + 100).expect("a layout");
        if self.extents <= 32_000 {
            Layout::STANDARD
        } else {
            large()
        }
    }

    /// Sectors of the metadata on a spare.
    pub fn metadata(self) -> u64 {
        self.layout().end().0
    }

    fn spare_mib(self) -> u64 {
        if self.main > MAIN {
            SPARE_OF_MILLION_MIB
        } else {
            SPARE_MIB
        }
    }

    /// A spare that says so.
    fn image(self) -> Image {
        let mut image = Image::blank(self.spare_mib() * MIB);
        let far = (self.main > MAIN).then_some((self.main / 4 - 8, 8));
        let near = (0..self.extents - far.iter().len() as u64).map(|i| (self.place(i), 8));
        image.create_large(self.layout(), self.main, near.chain(far));
        image
    }

    /// The arguments of `guest bench` behind the device: blocks of those that are remapped, or blocks between them.
    pub fn reads(self, reads: u64, place: Place) -> String {
        let blocks = self.step / 8;
        let phase = match place {
            Place::Hit => 0,
            Place::Behind => 1,
            Place::Miss => blocks / 2 + u64::from(blocks > 2),
        };
        let groups = if self.extents == 0 { self.main / self.step } else { self.extents - 1 };
        let how = if self.scattered { " scattered" } else { "" };
        format!("{groups} {reads} {phase} {blocks}{how}")
    }

    /// The arguments of `fio` that say the same of pieces of so many sectors.
    pub fn area(self, place: Place) -> String {
        let groups = if self.extents == 0 { self.main / self.step } else { self.extents - 1 };
        let skip = match place {
            Place::Hit => 0,
            Place::Behind => 8,
            Place::Miss => self.step / 2,
        };
        format!(
            "--offset={} --size={} --blockalign={}",
            skip * 512,
            groups * self.step * 512,
            self.step * 512
        )
    }
}

/// Which blocks are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Those that live on the spare.
    Hit,
    /// Others.
    Miss,
    /// Others, each the next behind one that does.
    Behind,
}

/// A drive without a memory, which answers at once.
pub fn null(machine: &Machine, index: u32, mib: u64) -> String {
    machine.null_blk(index, mib, &[("completion_nsec", "0"), ("irqmode", "0")])
}

/// A spare; where it has a memory it gives `mbps` MB a second, at 0 as many as the processor can take.
pub fn spare(
    machine: &Machine,
    name: &str,
    index: u32,
    mib: u64,
    metadata: u64,
    mbps: u64,
) -> String {
    let mbps = mbps.to_string();
    let settings = [("memory_backed", "1"), ("irqmode", "0"), ("mbps", &mbps)];
    let memory = machine.null_blk(index, metadata.div_ceil(MIB), &settings);
    let rest = null(machine, index + 100, mib);
    let all = mib * MIB;
    machine.ok(&format!(
        "printf '0 {metadata} linear {memory} 0\n{metadata} {} linear {rest} 0\n' | dmsetup create {name}",
        all - metadata
    ));
    format!("/dev/mapper/{name}")
}

/// Linear over all of a device.
pub fn linear(machine: &Machine, name: &str, over: &str) -> String {
    machine.ok(&format!(
        "dmsetup create {name} --table \"0 $(blockdev --getsz {over}) linear {over} 0\""
    ));
    format!("/dev/mapper/{name}")
}

/// Nanoseconds that a command takes.
pub fn time(machine: &Machine, command: &str) -> f64 {
    let printed = machine.ok(&format!("guest time {command}"));
    printed.parse().unwrap_or_else(|_| panic!("not a number: {printed}"))
}

/// The table line of a set is kept here, so that it can be made again.
fn line(name: &str) -> String {
    format!("/tmp/{name}.table")
}

/// Makes a mapped device of the line that is kept; how many nanoseconds that took.
pub fn activate(machine: &Machine, name: &str) -> f64 {
    time(machine, &format!("dmsetup create {name} {}", line(name)))
}

/// Main and spare of a set, ready to be activated; `index` numbers the drives.
pub fn set(machine: &Machine, name: &str, index: u32, spread: Spread, mbps: u64) {
    let main = null(machine, 10 + index, spread.main / MIB);
    let metadata = spread.metadata();
    let of = format!("{name}-spare");
    let spare = spare(machine, &of, 30 + index, spread.spare_mib(), metadata, mbps);
    if spread.main > MAIN {
        // The drive of `million`.
        machine.ok(&format!(
            "dd if=/dev/vda of={spare} bs=1M count={metadata} iflag=count_bytes conv=fsync 2>&1",
            metadata = metadata * 512
        ));
    } else {
        machine.put("/tmp/image", spread.image().metadata());
        machine.ok(&format!("dd if=/tmp/image of={spare} bs=1M conv=fsync 2>&1; rm /tmp/image"));
    }
    let table = format!("0 {} remap {main} {spare}", spread.main);
    machine.ok(&format!("echo '{table}' >{}", line(name)));
}

/// A set in use.
pub fn active<'m>(machine: &'m Machine, name: &str, index: u32, spread: Spread) -> Remap<'m> {
    set(machine, name, index, spread, 0);
    activate(machine, name);
    let disk = Remap::existing(machine, name);
    // What is called a hit is one.
    assert_eq!(disk.status().remapped.0, spread.extents * 8, "{name}");
    disk
}

/// A drive with the metadata of a set of a million extents, which is too large for the memory of a machine to get it another way.
pub fn million() -> (Drive, Spread) {
    let spread = Spread::of(1_000_000);
    let drive = Drive::blank("image", spread.metadata());
    drive.scribble(0, spread.image().metadata());
    (drive, spread)
}

/// The same remaps made by hand: a table of linear pieces. How many nanoseconds it takes to load, or why it is not.
pub fn pieces(machine: &Machine, name: &str, index: u32, spread: Spread) -> Result<f64, String> {
    let main = null(machine, 50 + index, spread.main / MIB);
    let of = format!("{name}-spare");
    let spare = spare(machine, &of, 70 + index, spread.spare_mib(), Layout::STANDARD.end().0, 0);
    let Spread { extents, step, main: all, .. } = spread;
    let long = Duration::from_secs(1200);
    let written = machine.run_for(&format!(
        "m=$(lsblk -dnro MAJ:MIN {main}); s=$(lsblk -dnro MAJ:MIN {spare}); \
         awk -v n={extents} -v step={step} -v all={all} -v m=$m -v s=$s 'BEGIN {{ \
             for (i = 0; i < n; i++) {{ \
                 at = i * step; \
                 end = i == n - 1 ? all : at + step; \
                 printf \"%d 8 linear %s %d\\n\", at, s, {first} + i * 8; \
                 if (end > at + 8) printf \"%d %d linear %s %d\\n\", at + 8, end - at - 8, m, at + 8; \
             }} }}' >/tmp/pieces",
        first = Layout::STANDARD.end().0,
    ), long);
    assert_eq!(written.status, 0, "{}", written.stderr);
    let output = machine.run_for(&format!("guest time dmsetup create {name} /tmp/pieces"), long);
    machine.ok("rm /tmp/pieces");
    match output.status {
        0 => Ok(output.stdout.trim().parse().expect("a number")),
        _ => {
            // What the kernel says stands behind the call's name; else it is the first that `dmsetup` says.
            let mut lines = output.stderr.lines();
            let by_kernel = lines.clone().find_map(|line| Some(line.split_once("failed: ")?.1));
            let why = by_kernel.or(lines.next()).unwrap_or("for no reason that is told");
            Err(why.strip_prefix("guest: ").unwrap_or(why).to_string())
        }
    }
}

/// Main twice, by md's RAID1 without metadata of its own. It is told what `mdadm --build --assume-clean` would.
pub fn mirror(machine: &Machine, index: u32) -> String {
    let one = null(machine, 90 + index, MAIN / MIB);
    let two = null(machine, 91 + index, MAIN / MIB);
    let kib = MAIN / 2;
    machine.ok(&format!(
        "set -e; modprobe raid1; echo md_bench >/sys/module/md_mod/parameters/new_array; md=/sys/block/md_bench/md; \
         echo none >$md/metadata_version; echo raid1 >$md/level; echo 2 >$md/raid_disks; echo {kib} >$md/component_size; \
         n=0; for d in {one} {two}; do \
             lsblk -dnro MAJ:MIN $d >$md/new_dev; e=$md/dev-${{d#/dev/}}; echo {kib} >$e/size; echo $n >$e/slot; n=$((n + 1)); \
         done; echo none >$md/resync_start; echo active >$md/array_state; grep -qF '[UU]' /proc/mdstat"
    ));
    "/dev/md_bench".into()
}

/// The heads of a table.
pub fn heads(all: &[&str]) -> Vec<String> {
    all.iter().map(|head| head.to_string()).collect()
}

/// A time as a figure.
pub fn seconds(nanoseconds: f64) -> Figure {
    Figure::Number(nanoseconds / 1e9, 3)
}

/// How many, as words.
pub fn counted(number: u64) -> String {
    Figure::Number(number as f64, 0).to_string()
}
