//! Random load, remaps and power cuts, decided by a seed.
//!
//! A [`Torture`] is one set that goes through power cuts, one after another. Before each, a load writes to it while ranges
//! are remapped and unremapped; after each, everything has to be there that the load's [`Ledger`] knows to be durable, and all
//! copies of the metadata have to become good again. Main is made to fail where it was reported as remapped, so that a remap
//! that did not last is found.
//!
//! Most sets live on drives that wear out, and have up to three spares: while the load runs, places of main and of a spare turn bad, for reads, for writes or
//! for both, for good or for a while, and one place under a copy of the metadata may. No write may fail for that, and no read but
//! of a place that is bad at that moment; and when all places are healed at the end, everything has to be there.

mod migration;

pub use migration::{Migrations, Moments};

use crate::drive::model::Ill;
use crate::env::patience;
use crate::{Drive, Job, Ledger, Machine, Place, Remap, Rng};
use std::ops::Range;
use std::time::Duration;

const MIB: u64 = 2048;
/// Where remaps come and go.
const MOVING: Range<u64> = 0..8192;
/// Where remaps stay, and main fails once they are reported.
const STAYING: Range<u64> = 16384..24576;

/// Where the set's data on a spare comes to lie: behind the last copy of the metadata.
const PLACES: Range<u64> = 9216..9216 + 6144;
/// The copies of the metadata on a spare.
const COPIES: [u64; 5] = [0, 1024, 2048, 4096, 8192];

/// One set, and what has to be true of it.
pub struct Torture {
    rng: Rng,
    seed: u64,
    main: Drive,
    /// By their numbers.
    spares: Vec<Drive>,
    ledger: Ledger,
    /// Sectors of main's logical block.
    block: u64,
    created: bool,
    /// Whether places turn bad.
    wears: bool,
    /// How many places have.
    pub ills: u64,
    /// How many remaps and unremaps were reported as done.
    pub moves: u64,
}

impl Torture {
    /// Two new drives.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (logical, physical) = [(512, 512), (512, 4096), (4096, 4096)][rng.below(3) as usize];
        let block = u64::from(logical) / 512;
        let regions = format!(
            "{}+{},{}+{}",
            MOVING.start,
            MOVING.end - MOVING.start,
            STAYING.start,
            STAYING.end - STAYING.start
        );
        Torture {
            main: Drive::with_blocks(&format!("main{seed}"), 16 * MIB, logical, physical),
            spares: vec![spare(seed, 0)],
            ledger: Ledger::new(seed, &regions).with_block(block),
            rng,
            seed,
            block,
            created: false,
            wears: false,
            ills: 0,
            moves: 0,
        }
    }

    /// New drives that wear out.
    pub fn of_worn_drives(seed: u64) -> Self {
        let spares = (0..=seed % 3).map(|n| spare(seed, n)).collect();
        Torture { wears: true, spares, ..Torture::new(seed) }
    }

    /// One of the two, by the seed.
    pub fn of_seed(seed: u64) -> Self {
        if Rng::new(seed ^ 0x7ea5).one_in(4) {
            Torture::new(seed)
        } else {
            Torture::of_worn_drives(seed)
        }
    }

    /// Boots a machine with the set active, and checks all of it.
    fn up(&mut self) -> Machine {
        let drives = std::iter::once(&self.main).chain(&self.spares);
        let machine =
            drives.fold(Machine::builder(), |all, drive| all.drive(drive)).module().boot();
        let more = &["spare", "/dev/vdc", "spare", "/dev/vdd"][..2 * (self.spares.len() - 1)];
        let create: &[&str] = if self.created { &[] } else { &["create"] };
        let words = [create, more].concat();
        let line = format!("/dev/vdb {} {}", words.len(), words.join(" "));
        let disk = Remap::create(&machine, "disk", "/dev/vda", &line);
        self.created = true;
        // A copy on a bad place is left out.
        let kept = if self.wears { ["enabled", "degraded"] } else { ["enabled", "enabled"] };
        disk.wait_until(|status| kept.contains(&status.keys["persist"].as_str()));
        // Those that fail a few times may be well when they have been read.
        let spares: Vec<_> = self.spares.iter().map(Drive::ills).collect();
        let (main, before) = (self.main.ills(), disk.places());
        let found = self.ledger.scan(&machine, &disk.path());
        let after = disk.places();
        self.ledger.compare(&found, |sector| {
            let ill = |place: &Place| {
                place
                    .place_of(sector)
                    .is_some_and(|at| is_ill(&spares[usize::from(place.spare)], at))
            };
            let bad_place = |places: &[Place]| places.iter().any(ill);
            is_ill(&main, sector) || bad_place(&before) || bad_place(&after)
        });
        machine
    }

    /// Lets places turn bad and well, for as long as the drives do what they are asked.
    fn wear(&mut self, steps: u64) {
        for _ in 0..steps {
            std::thread::sleep(Duration::from_millis(20 + self.rng.below(150)));
            let well = self.rng.one_in(5);
            let on_main = !self.rng.one_in(3);
            let drive = if on_main { self.main.clone() } else { self.any_spare() };
            let area = match on_main {
                true if self.rng.one_in(2) => MOVING,
                true => STAYING,
                false => PLACES,
            };
            let ills = drive.ills();
            let bad: Vec<_> = ills.iter().filter(|(at, _)| area.contains(&at.start)).collect();
            if well && !bad.is_empty() {
                let (range, _) = bad[self.rng.below(bad.len() as u64) as usize].clone();
                drive.heal(range);
                continue;
            }
            let most = if self.rng.one_in(3) { 16 } else { 2 };
            let blocks = 1 + self.rng.below(most);
            let first = area.start / self.block
                + self.rng.below((area.end - area.start) / self.block - blocks);
            let (reads, writes) =
                [(true, true), (true, false), (false, true)][self.rng.below(3) as usize];
            let times = if self.rng.one_in(4) { 1 + self.rng.below(3) } else { 0 };
            let ill = Ill { reads, writes, times, ..Ill::default() };
            drive.ail(first * self.block..(first + blocks) * self.block, ill);
            self.ills += 1;
        }
    }

    fn any_spare(&mut self) -> Drive {
        self.spares[self.rng.below(self.spares.len() as u64) as usize].clone()
    }

    /// A place under one of the copies turns bad, if none is on that spare.
    fn wear_a_copy(&mut self) {
        let spare = self.any_spare();
        if spare.ills().iter().any(|(at, _)| at.start < PLACES.start) {
            return;
        }
        let at = COPIES[self.rng.below(5) as usize] + self.rng.below(3) * 8;
        spare.ail(at..at + 1, Ill { reads: self.rng.one_in(2), writes: true, ..Ill::default() });
        self.ills += 1;
    }

    /// Boots, checks, puts load on the set and cuts the power.
    pub fn cut(&mut self) {
        let machine = self.up();
        let messages: String = (0..2000).map(|_| self.message() + "\n").collect();
        machine.put("/tmp/messages", messages.as_bytes());
        let mut moves = machine.start(
            "while read message; do dmsetup message disk 0 $message 2>/dev/null && echo $message; done </tmp/messages",
        );
        let mut load = self.ledger.start(&machine, "/dev/mapper/disk", "threads=4");
        let patience = patience(Duration::from_secs(60));
        if self.wears && self.rng.one_in(4) {
            self.wear_a_copy();
        }
        let steps = if self.wears { 2 + self.rng.below(20) } else { 0 };
        // Before the drive stops, too.
        let early = self.rng.below(steps + 1);
        self.wear(early);
        match self.rng.below(4) {
            // At one of the writes to one of the drives,
            0 => {
                let spare = self.any_spare();
                spare.freeze_after(1 + self.rng.below(300));
                self.wear(steps - early);
                spare.wait_frozen(patience);
            }
            1 => {
                self.main.freeze_after(1 + self.rng.below(600));
                self.wear(steps - early);
                self.main.wait_frozen(patience);
            }
            // or at any moment.
            _ => {
                self.wear(steps - early);
                std::thread::sleep(Duration::from_millis(300 + self.rng.below(3000)));
            }
        }
        let reported = moves.stdout_so_far();
        goes_on(&mut load);
        drop((moves, load));
        let events = machine.power_cut(self.rng.draw());
        self.ledger.enter(&events);
        self.take_note(&reported);
    }

    /// Has main fail where a remap was reported that is to stay.
    fn take_note(&mut self, reported: &str) {
        for line in reported.lines().filter(|line| !line.starts_with("set ")) {
            self.moves += 1;
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["remap", sector, count] = words[..] {
                let (sector, count) =
                    (sector.parse().unwrap_or(0), count.parse::<u64>().unwrap_or(0));
                if STAYING.contains(&sector) {
                    self.main.fail(sector..sector + count);
                }
            }
        }
    }

    fn message(&mut self) -> String {
        if self.spares.len() > 1 && self.rng.one_in(8) {
            return format!("set primary {}", self.rng.below(self.spares.len() as u64));
        }
        let (verb, area) = match self.rng.below(5) {
            0 | 1 => ("remap", MOVING),
            2 | 3 => ("unremap", MOVING),
            _ => ("remap", STAYING),
        };
        let most = if self.rng.one_in(4) { 64 / self.block } else { 4 };
        let blocks = 1 + self.rng.below(most);
        let places = (area.end - area.start) / self.block - blocks;
        format!(
            "{verb} {} {}",
            area.start + self.rng.below(places) * self.block,
            blocks * self.block
        )
    }

    /// That the set was still what it should be means something.
    #[track_caller]
    fn assert_much_happened(&self) {
        let ledger = &self.ledger;
        assert!(ledger.acknowledged > 0 && ledger.flushes > 0, "there was no load");
        assert!(self.moves > 0, "nothing was remapped");
        assert!(self.ills > 0 || !self.wears, "nothing turned bad");
    }

    /// A last look, and a removal in order. Says what was done.
    pub fn finish(mut self) -> String {
        let machine = self.up();
        if self.wears {
            self.main.heal(0..self.main.sectors());
            self.spares.iter().for_each(|spare| spare.heal(0..spare.sectors()));
            self.ledger.check(&machine, &Remap::existing(&machine, "disk").path());
        }
        machine.ok("dmsetup remove disk && rmmod dm_remap");
        machine.shutdown();
        let ledger = &self.ledger;
        self.assert_much_happened();
        // Places that fail for a while fail a write once.
        let told = if self.wears { ledger.durable_errors } else { 0 };
        assert_eq!(ledger.write_errors, told, "writes failed: {:?}", ledger.not_written);
        assert!(told <= self.ills, "{told} writes with FUA failed");
        assert!(
            self.wears || ledger.read_errors == 0,
            "reads failed, where main fails only under remaps"
        );
        format!(
            "seed {}: {} writes, {} flushes, {} moves, {} bad places, blocks of {}",
            self.seed,
            ledger.writes,
            ledger.flushes,
            self.moves,
            self.ills,
            self.block * 512
        )
    }
}

fn spare(seed: u64, number: u64) -> Drive {
    Drive::blank(&format!("spare{seed}-{number}"), 16 * MIB)
}

/// A load ends by itself only if it cannot do what it is to do.
#[track_caller]
fn goes_on(load: &mut Job) {
    let ended = load.poll(Duration::from_millis(1));
    assert!(ended.is_none(), "the load has ended: {ended:?}");
}

fn is_ill(ills: &[(Range<u64>, Ill)], sector: u64) -> bool {
    ills.iter().any(|(range, ill)| ill.reads && range.contains(&sector))
}
