//! Damaged and forged spares, activated by the kernel: what it makes of them has to be what the pure code on the host makes of the
//! same bytes.
//!
//! The spares are those that the fuzzer of images makes up, and what it has found worth keeping. They are put on the drives past the
//! machine, one after the other; each is loaded, looked at and removed again.

use crate::{Drive, Machine, Rng};
use remap_fuzz::disks::{Disks, MAIN, SPARE};
use remap_fuzz::image::spelled;
use remap_fuzz::kept;
use remap_pure::commit::Metadata;
use remap_pure::entry::Mapping;
use remap_pure::format::header::Header;
use remap_pure::identity::{compare, Facts};
use remap_pure::recovery::members::identify;
use remap_pure::recovery::recover;
use remap_pure::store::{Read, SpareSet, Store, Write};
use remap_pure::table::Table;
use remap_pure::units::{Sectors, SpareId};
use remap_pure::validate::{validate, Level, What};

use crate::image::crc;

/// Sectors at the beginning of a spare behind which none of these images has anything.
const METADATA: u64 = 10 * 1024;
const BLOCK: usize = 4096;
const KEPT: &str = include_str!("../../fuzz/corpus/image");

/// What is to become of an image.
enum Verdict {
    /// It is refused, and this is in the kernel's log.
    Refused(String),
    /// It is activated.
    Active(Box<Metadata>),
}

/// A machine with a main and two spares.
pub struct Activations {
    machine: Machine,
    spares: [Drive; 2],
    ill: bool,
    refused: u64,
    active: u64,
}

impl Activations {
    /// Boots it.
    pub fn boot() -> Self {
        let main = Drive::with_blocks("main", MAIN, 512, 4096);
        let spares = ["spare", "other"].map(|name| Drive::with_blocks(name, SPARE, 512, 4096));
        let builder = Machine::builder().drive(&main);
        let machine = spares.iter().fold(builder, |builder, spare| builder.drive(spare));
        Self { machine: machine.module().boot(), spares, ill: false, refused: 0, active: 0 }
    }

    /// Has the kernel activate the image of that seed. Panics when it does not do what it must.
    pub fn run(&mut self, seed: u64) {
        let data = words(&mut Rng::new(seed));
        let Some((_, disks)) = spelled(&data) else { return };
        let wanted = verdict(&disks);
        self.put(&disks);
        let told = self.load(disks.count());
        let (answer, log) = told.split_once("\n---").unwrap_or((&told, ""));
        match (&wanted, answer.strip_prefix("active\n")) {
            (Verdict::Refused(why), None) => {
                assert!(
                    log.contains(why.as_str()),
                    "seed {seed}: not refused with '{why}':\n{log}"
                );
                self.refused += 1;
            }
            (Verdict::Active(meta), Some(seen)) => {
                let expected = tells(meta);
                assert!(
                    seen == expected,
                    "seed {seed}: it has\n{seen}\ninstead of\n{expected}\n{log}"
                );
                self.compare(seed, meta, disks.count());
                self.active += 1;
            }
            (Verdict::Refused(why), Some(_)) => {
                panic!("seed {seed}: activated, and not refused with '{why}':\n{log}")
            }
            (Verdict::Active(_), None) => panic!("seed {seed}: refused:\n{log}"),
        }
    }

    /// How many were activated, and how many refused.
    pub fn counts(&self) -> (u64, u64) {
        (self.active, self.refused)
    }

    /// Switches the machine off. Panics if its kernel has complained.
    pub fn finish(self) {
        self.machine.shutdown();
    }

    /// Makes the drives what the image says.
    fn put(&mut self, disks: &Disks) {
        if std::mem::take(&mut self.ill) {
            self.spares.iter().for_each(|drive| drive.heal(0..SPARE));
        }
        for (spare, drive) in self.spares.iter().enumerate().take(disks.count()) {
            let is = drive.durable(0..METADATA);
            for (at, is) in (0..).zip(is.chunks(BLOCK)) {
                let wanted = disks.block(spare, at);
                if is != wanted {
                    drive.scribble(at * 8, &wanted);
                }
            }
        }
        for &(spare, at) in &disks.unreadable {
            self.spares[spare].fail_until_written(at * 8..at * 8 + 8);
            self.ill = true;
        }
    }

    /// Loads the table and removes it again: what the kernel said of it, and the log behind a line.
    fn load(&self, spares: usize) -> String {
        let others = if spares > 1 { " 2 spare /dev/vdc" } else { "" };
        self.machine.ok(&format!(
            "dmesg -c >/dev/null
             if dmsetup create f --table '0 {MAIN} remap /dev/vda /dev/vdb{others}' 2>/dev/null; then
                 echo active
                 set -- $(dmsetup status f)
                 echo \"${{5%/*}} ${{6%/*}}\"
                 dmsetup message f 0 metadata_status | sed -n '/^version/p'
                 from=0
                 while [ \"$from\" ]; do
                     dmsetup message f 0 table $from >/tmp/table
                     from=$(sed -n 's/^more //p' /tmp/table)
                     sed /^more/d /tmp/table
                 done
                 dmsetup remove --retry f || exit
             else
                 echo refused
             fi
             echo ---
             dmesg"
        ))
    }

    /// What the kernel has left on the spares is what it had active.
    fn compare(&self, seed: u64, meta: &Metadata, count: usize) {
        let mut left = Disks::blank(count);
        for (spare, drive) in self.spares.iter().enumerate().take(count) {
            for (at, bytes) in (0..).zip(drive.durable(0..METADATA).chunks(BLOCK)) {
                let mut block = [0; BLOCK];
                block.copy_from_slice(bytes);
                left.put(spare, at, block);
            }
        }
        let mut line =
            Line::of(left).unwrap_or_else(|why| panic!("seed {seed}: afterwards: {why}"));
        let found = recover(&mut line, crc)
            .unwrap_or_else(|refusal| panic!("seed {seed}: afterwards: {refusal}"));
        assert_eq!(found.header().version(), meta.version(), "seed {seed}: afterwards");
        assert!(
            table(found.table()) == table(meta.table()),
            "seed {seed}: another table afterwards"
        );
    }
}

/// What the fuzzer may have made up: something that it has kept, changed in a place or not at all, or anything.
fn words(rng: &mut Rng) -> Vec<u8> {
    if rng.one_in(4) {
        let kept: Vec<_> = kept(KEPT).collect();
        let mut data = kept[rng.below(kept.len() as u64) as usize].clone();
        if let (true, n @ 1..) = (rng.one_in(2), data.len()) {
            data[rng.below(n as u64) as usize] = rng.draw() as u8;
        }
        return data;
    }
    let len = 2 + 8 * (1 + rng.below(6));
    (0..len).map(|_| rng.draw() as u8).collect()
}

/// The spares of a table line, each at its number in the set.
struct Line {
    disks: Disks,
    at: Vec<Option<usize>>,
}

impl Line {
    /// Who is who, as the target finds it out.
    ///
    /// # Errors
    ///
    /// A part of what the kernel says then.
    fn of(mut disks: Disks) -> Result<Self, &'static str> {
        let count = disks.count();
        let numbers: Vec<_> = (0..count as u8)
            .map(|n| identify(&mut disks, SpareId(n), crc).unwrap_or_else(|e| panic!("{e}")))
            .collect();
        let mut sets = numbers.iter().flatten().map(|(set, _)| set);
        let first = sets.next();
        if sets.any(|set| Some(set) != first) {
            return Err("belongs to set");
        }
        if first.is_none() {
            return Ok(Self { disks, at: (0..count).map(Some).collect() });
        }
        let mut at = Vec::new();
        for (n, number) in numbers.iter().enumerate() {
            let Some((_, SpareId(number))) = number else {
                return Err("carries no metadata of the set that can be read");
            };
            at.resize(at.len().max(usize::from(*number) + 1), None);
            if at[usize::from(*number)].replace(n).is_some() {
                return Err("says that it is spare");
            }
        }
        Ok(Self { disks, at })
    }

    fn disk(&self, spare: SpareId) -> SpareId {
        let at = self.at.get(usize::from(spare.0)).copied().flatten();
        SpareId(at.unwrap_or_else(|| panic!("there is no spare {spare}")) as u8)
    }
}

impl Store for Line {
    fn spares(&self) -> SpareSet {
        let mut set = SpareSet::NONE;
        let here = (0..).map(SpareId).zip(&self.at).filter(|(_, at)| at.is_some());
        here.for_each(|(spare, _)| set.add(spare));
        set
    }

    fn sectors(&self, spare: SpareId) -> Sectors {
        self.disks.sectors(self.disk(spare))
    }

    fn read(&mut self, batch: &mut [Read]) {
        let numbers: Vec<_> = batch.iter().map(|read| read.spare).collect();
        batch.iter_mut().for_each(|read| read.spare = self.disk(read.spare));
        self.disks.read(batch);
        batch.iter_mut().zip(numbers).for_each(|(read, number)| read.spare = number);
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        let numbers: Vec<_> = batch.iter().map(|write| write.spare).collect();
        batch.iter_mut().for_each(|write| write.spare = self.disk(write.spare));
        self.disks.write(batch);
        batch.iter_mut().zip(numbers).for_each(|(write, number)| write.spare = number);
    }

    fn flush(&mut self, _: SpareSet) -> SpareSet {
        SpareSet::NONE
    }
}

/// What the pure code says of the spares, in the order in which the target asks it.
fn verdict(disks: &Disks) -> Verdict {
    let refused = |why: &str| Verdict::Refused(why.into());
    let mut line = match Line::of(disks.clone()) {
        Ok(line) => line,
        Err(why) => return refused(why),
    };
    let found = match recover(&mut line, crc) {
        Ok(found) => found,
        Err(refusal) => return Verdict::Refused(refusal.to_string()),
    };
    if let Some(why) = unfit(found.header(), &line) {
        return refused(why);
    }
    let report = validate(&mut line, Level::Complete, crc).unwrap_or_else(|e| panic!("{e}"));
    let twice = report.findings().iter().any(|finding| matches!(finding.what, What::Place(..)));
    let meta = match found.header().read_only() {
        true => found.into_metadata(),
        false => match found.rebuild(&mut line, 3, 3) {
            Ok(meta) => meta,
            Err(e) => return Verdict::Refused(e.to_string()),
        },
    };
    if twice {
        return refused("the table contradicts itself");
    }
    Verdict::Active(Box::new(meta))
}

/// A part of what the kernel says when the set is not for these devices.
fn unfit(header: &Header, line: &Line) -> Option<&'static str> {
    let raw = header.raw();
    if (raw.set.main_start.get(), raw.set.main_sectors.get()) != (0, MAIN) {
        return Some("the set maps");
    }
    let main = Facts::of_size(Sectors(MAIN), 512, 4096);
    if compare(&raw.main, &main).is_err() {
        return Some("the set was made for another main");
    }
    let other = raw.spares.iter().zip(&line.at).any(|(member, at)| {
        at.is_some() && (member.used_start.get(), member.used_sectors.get()) != (0, SPARE)
    });
    other.then_some("the set uses")
}

/// What the kernel shows of an active set.
fn tells(meta: &Metadata) -> String {
    let totals = meta.table().totals();
    let (remapped, pending, version) = (totals.remapped, totals.pending, meta.version());
    format!("{remapped} {pending}\nversion {version}\n{}", table(meta.table())).trim_end().into()
}

/// A table, as the message of that name has it.
fn table(table: &Table) -> String {
    let lines = table.iter().map(|entry| {
        let (start, len) = (entry.extent.start, entry.extent.len);
        match entry.mapping {
            Mapping::Remapped { spare, to } => format!("{start} {len} remapped {spare} {to}\n"),
            Mapping::Suspect { spare, to } => format!("{start} {len} suspect {spare} {to}\n"),
            Mapping::Pending => format!("{start} {len} pending\n"),
            Mapping::Lost => format!("{start} {len} lost\n"),
            Mapping::Retired { spare, at } => format!("- {len} retired {spare} {at}\n"),
        }
    });
    lines.collect()
}
