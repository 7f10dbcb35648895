//! Lists of bad blocks, as other programs write them, and what they say of a set.
//!
//! [`read`] takes one apart into [`Found`]: places in bytes, on the device that the list is of. [`Frame::place`] makes sectors of the
//! set of them. All of it is without I/O.

mod badblocks;
mod ddrescue;
pub mod entries;
mod kernel_log;
mod smartctl;
pub mod write;

/// What kind of list something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Numbers of blocks, as badblocks(8) prints them.
    Badblocks,
    /// A map file of GNU ddrescue.
    Ddrescue,
    /// Messages of the kernel.
    KernelLog,
    /// What `smartctl -x`, `-a` or `-l selftest` print, as text or JSON.
    Smartctl,
}

/// How a list is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options<'a> {
    /// Bytes of a block, where the list does not say it.
    pub block: Option<u64>,
    /// The states of a ddrescue map that count as bad.
    pub states: &'a str,
}

/// How many bytes something is long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// So many.
    Bytes(u64),
    /// The list names a point: the physical block that holds it is meant.
    Point,
}

/// In what a place is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Logical blocks of the drive.
    LogicalBlocks,
    /// Blocks of the kernel's buffers for the device: as large as its size allows, up to a page.
    Buffers,
}

/// A place that a list names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The device that it is on, by its name to the kernel; the one that the list is of, if it names none.
    pub device: Option<String>,
    /// Where it begins.
    pub start: u64,
    /// In what that is counted.
    pub unit: Unit,
    /// How long it is.
    pub length: Length,
}

/// What a list says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The places that it names.
    pub places: Vec<Place>,
    /// Lines that were left out although they may be meant, and why.
    pub skipped: Vec<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// The serial number of the drive that it is of.
    pub serial: Option<String>,
}

/// The most of `skipped` that is kept.
const SKIPPED: usize = 1000;

impl Found {
    fn skip(&mut self, why: String) {
        if self.skipped.len() < SKIPPED {
            self.skipped.push(why);
        }
    }
}

/// What kind of list a text is.
///
/// # Errors
///
/// It cannot be told.
pub fn detect(text: &str) -> Result<Kind, String> {
    if text.trim_start().starts_with('{') {
        return Ok(Kind::Smartctl);
    }
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    if text.starts_with("smartctl ") || lines().any(smartctl::is_title) {
        return Ok(Kind::Smartctl);
    }
    if lines().any(|line| kernel_log::line(line).is_some()) {
        return Ok(Kind::KernelLog);
    }
    let mut plain = lines().filter(|line| !line.starts_with('#')).peekable();
    if plain.peek().is_none() {
        let map = lines().any(|line| line.starts_with('#') && line.contains("ddrescue"));
        return Ok(if map { Kind::Ddrescue } else { Kind::Badblocks });
    }
    if plain.clone().all(|line| line.bytes().all(|byte| byte.is_ascii_digit())) {
        return Ok(Kind::Badblocks);
    }
    if plain.next().is_some_and(ddrescue::is_status) {
        return Ok(Kind::Ddrescue);
    }
    Err("it is not clear what kind of list this is; say it with --format".into())
}

/// Takes a list apart.
///
/// # Errors
///
/// Which line of it is wrong, where none may be: half a list is none.
pub fn read(kind: Kind, text: &str, options: &Options<'_>) -> Result<Found, String> {
    match kind {
        Kind::Badblocks => badblocks::read(text, options.block.unwrap_or(1024)),
        Kind::Ddrescue => ddrescue::read(text, options.states),
        Kind::KernelLog => Ok(kernel_log::read(text, options.block)),
        Kind::Smartctl => smartctl::read(text, options.block),
    }
}

/// Where a device lies, in bytes from the first sector of the set: before it, if the set is on a part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Where its first byte is.
    pub offset: i128,
    /// How many bytes it has.
    pub bytes: u64,
}

/// What a set is to a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Sectors of the set.
    pub sectors: u64,
    /// Bytes of main's logical block.
    pub logical: u64,
    /// Bytes of main's physical block.
    pub physical: u64,
}

/// What a list comes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// First sector and length, ascending, none touching another, each of whole logical blocks.
    pub runs: Vec<(u64, u64)>,
    /// Places that are not on the set, and why.
    pub outside: Vec<String>,
}

/// Bytes of a sector.
const SECTOR: i128 = 512;

impl Frame {
    /// The sectors of the set that are named. `whole` says where a device lies; `None`, for the one that the list is of.
    ///
    /// # Errors
    ///
    /// With a text for a person: the list is of something else altogether.
    pub fn place(
        &self,
        found: &Found,
        whole: impl Fn(Option<&str>) -> Option<Position>,
    ) -> Result<Plan, String> {
        let mut plan = Plan::default();
        let mut runs = Vec::new();
        let end = i128::from(self.sectors) * SECTOR;
        for place in &found.places {
            let device = place.device.as_deref();
            let unit = match place.unit {
                Unit::Bytes => "byte",
                Unit::LogicalBlocks => "block",
                Unit::Buffers => "buffer",
            };
            let named = device.map_or(String::new(), |name| format!(" of {name}"));
            let named = format!("{unit} {}{named}", place.start);
            let Some(position) = whole(device) else {
                let why = "is neither main, nor on it, nor what main is on";
                plan.outside.push(format!("{named}: that {why}"));
                continue;
            };
            let unit = match place.unit {
                Unit::Bytes => 1,
                Unit::LogicalBlocks => self.logical,
                Unit::Buffers => buffer(position.bytes, self.logical),
            };
            let start = i128::from(place.start) * i128::from(unit);
            let length = match place.length {
                Length::Bytes(bytes) => i128::from(bytes),
                Length::Point => i128::from(unit.max(1)),
            };
            if start + length > i128::from(position.bytes) {
                let text = format!("{named}: that is beyond its end");
                plan.outside.push(text);
            }
            // Blocks are those of the device, wherever on it the set begins.
            let block = match place.length {
                Length::Bytes(_) => self.logical,
                Length::Point => self.physical.max(self.logical),
            };
            let block = i128::from(block.max(512));
            let (first, behind) = match place.length {
                Length::Bytes(_) => {
                    let (first, behind) =
                        (start + position.offset, start + length + position.offset);
                    (
                        first.div_euclid(block) * block,
                        (behind + block - 1).div_euclid(block) * block,
                    )
                }
                Length::Point => {
                    let behind = (start + length + block - 1).div_euclid(block) * block;
                    (start.div_euclid(block) * block + position.offset, behind + position.offset)
                }
            };
            let limit = position.offset + i128::from(position.bytes);
            let (first, behind) = (first.max(0), behind.min(end).min(limit.max(0)));
            if first >= behind {
                if start + length <= i128::from(position.bytes) {
                    let text = format!("{named}: that is not on the set");
                    plan.outside.push(text);
                }
                continue;
            }
            runs.push(((first / SECTOR) as u64, (behind / SECTOR) as u64));
        }
        runs.sort_unstable();
        for (first, behind) in runs {
            match plan.runs.last_mut() {
                Some((start, len)) if first <= *start + *len => {
                    *len = (*len).max(behind - *start);
                }
                _ => plan.runs.push((first, behind - first)),
            }
        }
        Ok(plan)
    }
}

/// What the kernel's buffers of a block device begin with (`set_init_blocksize` in block/bdev.c).
fn buffer(bytes: u64, logical: u64) -> u64 {
    let mut size = logical.max(512);
    while size < 4096 && bytes % (size * 2) == 0 {
        size *= 2;
    }
    size
}

/// A number in decimal or, with `0x`, hexadecimal digits.
fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?,
    }
}

/// A word of somebody's as it can be shown.
fn shown(word: &str) -> String {
    let start: String = word.chars().take(60).collect();
    start.escape_debug().to_string()
}
