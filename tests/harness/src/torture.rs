//! Random load, remaps and power cuts, decided by a seed.
//!
//! A [`Torture`] is one set on two drives that goes through power cuts, one after another. Before each, a load writes to it while ranges
//! are remapped and unremapped; after each, everything has to be there that the load's [`Ledger`] knows to be durable, and all
//! copies of the metadata have to become good again. Main is made to fail where it was reported as remapped, so that a remap
//! that did not last is found.

use crate::{Drive, Ledger, Machine, Remap, Rng};
use std::ops::Range;
use std::time::Duration;

const MIB: u64 = 2048;
/// Where remaps come and go.
const MOVING: Range<u64> = 0..8192;
/// Where remaps stay, and main fails once they are reported.
const STAYING: Range<u64> = 16384..24576;

/// One set, and what has to be true of it.
pub struct Torture {
    rng: Rng,
    seed: u64,
    main: Drive,
    spare: Drive,
    ledger: Ledger,
    /// Sectors of main's logical block.
    block: u64,
    created: bool,
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
            spare: Drive::blank(&format!("spare{seed}"), 16 * MIB),
            ledger: Ledger::new(seed, &regions).with_block(block),
            rng,
            seed,
            block,
            created: false,
            moves: 0,
        }
    }

    /// Boots a machine with the set active, and checks all of it.
    fn up(&mut self) -> Machine {
        let machine = Machine::builder().drive(&self.main).drive(&self.spare).module().boot();
        let disk = Remap::create(
            &machine,
            "disk",
            "/dev/vda",
            if self.created { "/dev/vdb" } else { "/dev/vdb 1 create" },
        );
        self.created = true;
        disk.wait_until(|status| {
            status.keys.get("persist").is_some_and(|persist| persist == "enabled")
        });
        self.ledger.check(&machine, &disk.path());
        machine
    }

    /// Boots, checks, puts load on the set and cuts the power.
    pub fn cut(&mut self) {
        let machine = self.up();
        let messages: String = (0..2000).map(|_| self.message() + "\n").collect();
        machine.put("/tmp/messages", messages.as_bytes());
        let mut moves = machine.start(
            "while read message; do dmsetup message disk 0 $message 2>/dev/null && echo $message; done </tmp/messages",
        );
        let load = self.ledger.start(&machine, "/dev/mapper/disk", "threads=4");
        let patience = Duration::from_secs(60);
        match self.rng.below(4) {
            // At one of the writes to one of the drives,
            0 => {
                self.spare.freeze_after(1 + self.rng.below(300));
                self.spare.wait_frozen(patience);
            }
            1 => {
                self.main.freeze_after(1 + self.rng.below(600));
                self.main.wait_frozen(patience);
            }
            // or at any moment.
            _ => std::thread::sleep(Duration::from_millis(300 + self.rng.below(3000))),
        }
        let reported = moves.stdout_so_far();
        drop((moves, load));
        let events = machine.power_cut(self.rng.draw());
        self.ledger.enter(&events);
        self.take_note(&reported);
    }

    /// Has main fail where a remap was reported that is to stay.
    fn take_note(&mut self, reported: &str) {
        for line in reported.lines() {
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

    /// A last look, and a removal in order. Says what was done.
    pub fn finish(mut self) -> String {
        let machine = self.up();
        machine.ok("dmsetup remove disk && rmmod dm_remap");
        machine.shutdown();
        let ledger = &self.ledger;
        assert_eq!(
            ledger.write_errors + ledger.read_errors,
            0,
            "requests failed, where main fails only under remaps"
        );
        format!(
            "seed {}: {} writes, {} flushes, {} moves, blocks of {}",
            self.seed,
            ledger.writes,
            ledger.flushes,
            self.moves,
            self.block * 512
        )
    }
}
