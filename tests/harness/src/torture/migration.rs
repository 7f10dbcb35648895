//! Power cuts while spares join, leave and are replaced.
//!
//! Three devices take turns in being the spares of one set: migrations, `spare add` and `spare remove` are sent under the load and the
//! moves of [`Torture`], and the power is cut at any moment of them. One of the devices may be too small, go bad half-way, or be gone.
//!
//! After a cut the images tell which table lines name a whole set: that of the last state which was acknowledged, or that of the change
//! that was under way, and no other. Where both are whole, one is taken, and the devices of the other are not the set from then on,
//! whatever stands on them, until they have joined anew. Lines that are not whole have to be refused by the kernel too.
//!
//! Most of the time of a change goes into copying, and few random moments hit the commit at its end. So many cuts are aimed: the drives
//! know the headers of that commit when they come, and one of them stops answering at the n-th. [`Moments`] counts what was hit.

use super::{goes_on, Torture, MIB, STAYING};
use crate::drive::model::{Ill, Watch};
use crate::image::Named;
use crate::{Drive, Image, Machine, Remap, Rng};
use remap_pure::format::raw::{RawHeader, RawVersion};
use remap_pure::format::{CommitKind, MAGIC};
use std::collections::BTreeSet;
use std::fmt;
use std::mem::offset_of;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// The devices that can be spares, by their names in the machine, and by their numbers there.
const NAMES: [&str; DEVICES] = ["/dev/vdb", "/dev/vdc", "/dev/vdd"];
const NUMBERS: [&str; DEVICES] = ["254:16", "254:32", "254:48"];
const DEVICES: usize = 3;

/// Devices, by their place in [`NAMES`].
type Line = BTreeSet<usize>;

/// Reads what is to be done, and says before each change what it is and after it who the members are. The change whose number is in
/// `/tmp/last` is the last one, and waits until `/tmp/aimed` is there.
const CHANGES: &str = r#"
members() {
    for word in $(dmsetup table disk); do
        case $word in 254:16|254:32|254:48) echo $word;; esac
    done
}
while read what device nth anew pause; do
    set -- $(members)
    case "$what $*" in
        "remove "*" "*) ;;
        remove*|*$device*) continue;;
    esac
    shift $((nth % $#))
    case $what in
        migrate) change="migrate $1 $device";;
        add) change="spare add $device";;
        remove) change="spare remove $1";;
    esac
    echo "go $change"
    n=$((n + 1))
    if [ $n = $(cat /tmp/last) ]; then
        until [ -e /tmp/aimed ]; do sleep 0.02; done
    fi
    if dmsetup message disk 0 $change 2>/dev/null; then
        while dmsetup message disk 0 metadata_status | grep -Eq '^running (migrate|spare)'; do sleep 0.02; done
    fi
    echo is $(members)
    if [ $anew = 1 ]; then
        dmsetup table disk | dmsetup load disk && dmsetup resume disk || echo "bad: loading the table anew"
    fi
    [ $n = $(cat /tmp/last) ] && break
    sleep $pause
done </tmp/changes
"#;

/// At which moments of a change of the members the power was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moments {
    /// Before its commit: while data was copied, for the most part.
    pub copying: u64,
    /// While the first half of the copies got the new state, or was flushed.
    pub first_half: u64,
    /// While the second half did.
    pub second_half: u64,
    /// While who leaves was told so.
    pub told: u64,
    /// When it was over.
    pub after: u64,
}

impl AddAssign for Moments {
    fn add_assign(&mut self, other: Self) {
        self.copying += other.copying;
        self.first_half += other.first_half;
        self.second_half += other.second_half;
        self.told += other.told;
        self.after += other.after;
    }
}

impl fmt::Display for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moments { copying, first_half, second_half, told, after } = self;
        write!(
            f,
            "cut in: copying {copying}, first half {first_half}, second half {second_half}, leaver told {told}, after {after}"
        )
    }
}

/// Headers of a commit that changes the members. Who joins or stays gets three, is flushed, gets two, is flushed; who leaves gets as
/// many after that.
fn headers_of_change(nth: u64, more: u64, carried_out: bool) -> Watch {
    let kind = offset_of!(RawHeader, version) + offset_of!(RawVersion, kind);
    let is_change = (CommitKind::Members as u32).to_le_bytes().to_vec();
    Watch { carries: vec![(0, MAGIC.to_vec()), (kind, is_change)], nth, more, carried_out }
}

/// What is known of who the members are.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Those of the last state that was acknowledged.
    members: Line,
    /// Those of the state that a change under way makes.
    next: Option<Line>,
}

impl Known {
    /// What the machine has said.
    fn hear(&mut self, told: &str) -> [u64; 2] {
        let mut counts = [0; 2];
        // What has no end yet was cut short.
        for line in told.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["go", "migrate", leaves, joins] => self.begin(Some(leaves), Some(joins)),
                ["go", "spare", "add", joins] => self.begin(None, Some(joins)),
                ["go", "spare", "remove", leaves] => self.begin(Some(leaves), None),
                ["is", ..] => {
                    let is: Line = words[1..].iter().map(|word| device(word)).collect();
                    let next = self.next.take();
                    assert!(
                        is == self.members || Some(&is) == next.as_ref(),
                        "the members are {is:?}; they were {:?}, a change to {next:?} was asked for",
                        self.members
                    );
                    counts[usize::from(is != self.members)] += 1;
                    self.members = is;
                }
                _ => panic!("the machine said: {line}"),
            }
        }
        counts
    }

    fn begin(&mut self, leaves: Option<&str>, joins: Option<&str>) {
        let mut next = self.members.clone();
        if let Some(leaves) = leaves {
            next.remove(&device(leaves));
        }
        next.extend(joins.map(device));
        self.next = Some(next).filter(|next| *next != self.members);
    }
}

fn device(word: &str) -> usize {
    let is = |name: &&str| *name == word;
    NUMBERS.iter().position(is).unwrap_or_else(|| panic!("{word} is none of the devices"))
}

/// One set whose spares come and go, and what has to be true of it.
pub struct Migrations {
    base: Torture,
    devices: [Drive; DEVICES],
    known: Known,
    /// What lines were whole and were not taken, with the history that they were of.
    given_up: BTreeSet<(Line, u64)>,
    /// What was said of changes that came about, and of those that did not.
    came_about: u64,
    did_not: u64,
    /// Cuts after which the change under way had come about; had not; and could be taken as both.
    states: [u64; 3],
    /// When the power was cut.
    pub moments: Moments,
}

impl Migrations {
    /// New drives.
    pub fn new(seed: u64) -> Self {
        let base = Torture::new(seed);
        let small = Rng::new(seed ^ 0x5a11).one_in(3);
        let devices = [
            base.spares[0].clone(),
            Drive::blank(&format!("second{seed}"), 16 * MIB),
            Drive::blank(&format!("third{seed}"), if small { 8 } else { 16 } * MIB),
        ];
        Migrations {
            base,
            devices,
            known: Known::default(),
            given_up: BTreeSet::new(),
            came_about: 0,
            did_not: 0,
            states: [0; 3],
            moments: Moments::default(),
        }
    }

    /// The history that would go on if a line named these devices, if they are a whole set.
    fn whole(&self, line: &Line) -> Result<u64, String> {
        let images: Vec<Image> = line.iter().map(|&n| Image::of(&self.devices[n])).collect();
        let found = Named::of(images.iter())?.recover()?;
        Ok(found.header().history())
    }

    /// Which devices are the set now. Others that might be taken for it are given up.
    fn choose(&mut self) -> Line {
        let mut whole = Vec::new();
        let mut said = String::new();
        for bits in 1_usize..1 << DEVICES {
            let line: Line = (0..DEVICES).filter(|n| bits & (1 << n) != 0).collect();
            let found = self.whole(&line);
            said += &format!("{line:?}: {found:?}\n");
            let Ok(history) = found else { continue };
            if self.given_up.contains(&(line.clone(), history)) {
                continue;
            }
            assert!(
                line == self.known.members || Some(&line) == self.known.next.as_ref(),
                "the devices {line:?} are a whole set; {:?}\n{said}{:?}",
                self.known,
                self.given_up
            );
            whole.push((line, history));
        }
        assert!(!whole.is_empty(), "no devices are the set; {:?}\n{said}", self.known);
        if self.known.next.is_some() {
            let both = whole.len() > 1;
            self.states[if both { 2 } else { usize::from(whole[0].0 == self.known.members) }] += 1;
        }
        let taken = self.base.rng.below(whole.len() as u64) as usize;
        let (line, _) = whole.swap_remove(taken);
        for (other, history) in whole {
            let wipe = self.base.rng.one_in(2);
            for &n in other.difference(&line).filter(|_| wipe) {
                let drive = &self.devices[n];
                drive.scribble(0, &vec![0; drive.sectors() as usize * 512]);
            }
            self.given_up.insert((other, history));
        }
        self.known = Known { members: line.clone(), next: None };
        line
    }

    /// Boots a machine with the set active, and checks all of it.
    fn up(&mut self) -> Machine {
        let create = self.known.members.is_empty();
        let line = match create {
            true if self.base.rng.one_in(4) => Line::from([0, 1]),
            true => Line::from([0]),
            false => self.choose(),
        };
        let stale: Vec<usize> =
            (0..DEVICES).filter(|&n| !create && self.whole(&Line::from([n])).is_err()).collect();
        let machine = (self.devices.iter())
            .fold(Machine::builder().drive(&self.base.main), |builder, drive| builder.drive(drive))
            .module()
            .boot();
        for n in stale {
            let tried = Remap::try_create(&machine, "stale", "/dev/vda", NAMES[n]);
            assert_ne!(tried.status, 0, "{} by itself was taken for the set", NAMES[n]);
            machine.run("dmsetup remove stale");
        }
        let mut words: Vec<String> = Vec::new();
        if create {
            words.push("create".into());
        }
        for &n in line.iter().skip(1) {
            words.extend(["spare".into(), NAMES[n].into()]);
        }
        let first = line.first().map_or("", |&n| NAMES[n]);
        let options = format!("{first} {} {}", words.len(), words.join(" "));
        self.known.members = line;
        let disk = Remap::create(&machine, "disk", "/dev/vda", &options);
        let worn = self.devices.iter().any(|drive| !drive.ills().is_empty());
        let kept = if worn { ["enabled", "degraded"] } else { ["enabled", "enabled"] };
        disk.wait_until(|status| kept.contains(&status.keys["persist"].as_str()));
        self.base.ledger.check(&machine, &disk.path());
        machine
    }

    /// What the machine is to do.
    fn changes(&mut self, all: usize) -> String {
        let rng = &mut self.base.rng;
        let mut text = String::new();
        for _ in 0..all {
            let what = ["migrate", "migrate", "migrate", "migrate", "add", "remove"];
            text += &format!(
                "{} {} {} {} 0.{}\n",
                what[rng.below(6) as usize],
                NUMBERS[rng.below(DEVICES as u64) as usize],
                rng.below(2),
                u64::from(rng.one_in(2)),
                rng.below(4)
            );
        }
        text
    }

    /// Boots, checks, puts load on the set, changes its members and cuts the power.
    pub fn cut(&mut self) {
        let machine = self.up();
        // With a device that goes away there is one change, so that only who joins can be that device.
        let outside: Vec<usize> =
            (0..DEVICES).filter(|n| !self.known.members.contains(n)).collect();
        let mut gone = None;
        let mut changes = self.changes(100);
        let nth = self.base.rng.below(outside.len().max(1) as u64) as usize;
        match (outside.get(nth).copied(), self.base.rng.below(8)) {
            (Some(bad), 0) => {
                changes = format!("migrate {} 0 0 0\n", NUMBERS[bad]);
                gone = Some(bad);
            }
            (Some(bad), 1) => {
                let at = [2048, 4096, 9216 + 8 * self.base.rng.below(400)];
                let at = at[self.base.rng.below(3) as usize];
                let ill = Ill { writes: true, ..Ill::default() };
                self.devices[bad].ail(at..at + 8, ill);
            }
            _ => {}
        }
        let last = if gone.is_some() { 1 } else { 1 + self.base.rng.below(3) };
        machine.put("/tmp/changes", changes.as_bytes());
        machine.put("/tmp/last", last.to_string().as_bytes());
        // Much that has to be brought along.
        if self.base.rng.one_in(2) {
            let len = STAYING.end - STAYING.start;
            machine.run(&format!("dmsetup message disk 0 remap {} {len}", STAYING.start));
        }
        let messages: String = (0..2000).map(|_| self.base.message() + "\n").collect();
        machine.put("/tmp/messages", messages.as_bytes());
        let mut moves = machine.start(
            "while read message; do dmsetup message disk 0 $message 2>/dev/null && echo $message; sleep 0.01; done </tmp/messages",
        );
        let mut load = self.base.ledger.start(&machine, "/dev/mapper/disk", "threads=4");
        std::thread::sleep(Duration::from_millis(100 + self.base.rng.below(400)));
        let mut changing = machine.start(CHANGES);
        let begun = |told: &str| told.lines().filter(|line| line.starts_with("go ")).count();
        let end = Instant::now() + Duration::from_secs(60);
        while begun(&changing.stdout_so_far()) < last as usize && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        let watched = self.aim(gone, &changing.stdout_so_far());
        machine.put("/tmp/aimed", b"");
        self.wait_for_the_moment(gone, &watched, || changing.stdout_so_far());
        let seen = self.devices.clone().map(|drive| drive.watched());
        let (reported, told) = (moves.stdout_so_far(), changing.stdout_so_far());
        goes_on(&mut load);
        drop((moves, changing, load));
        let errors = (self.base.ledger.write_errors, self.base.ledger.read_errors);
        let events = machine.power_cut(self.base.rng.draw());
        self.base.ledger.enter(&events);
        if gone.is_some() {
            (self.base.ledger.write_errors, self.base.ledger.read_errors) = errors;
        }
        let [did_not, came_about] = self.known.hear(&told);
        self.count_moment(&seen);
        self.came_about += came_about;
        self.did_not += did_not;
        self.base.take_note(&reported);
        for drive in &self.devices {
            drive.set_gone(false);
            if !self.base.rng.one_in(3) {
                drive.heal(0..drive.sectors());
            }
        }
    }

    /// Has the drives watch for the commit of the change that was said last, and one of them stop at some point of it, or elsewhere,
    /// or none. Gives who that is.
    fn aim(&mut self, gone: Option<usize>, told: &str) -> Option<Drive> {
        self.devices.iter().for_each(|drive| drive.watch(headers_of_change(0, 0, false)));
        let mut known = self.known.clone();
        known.hear(told);
        let rng = &mut self.base.rng;
        let (next, chance) = (known.next?, rng.below(10));
        if gone.is_some() || chance < 2 {
            return None;
        }
        let mut any = |of: Vec<usize>| of.get(rng.below(of.len().max(1) as u64) as usize).copied();
        let leaves = any(known.members.difference(&next).copied().collect());
        // Who joins gets nothing else of this commit's kind before.
        let joins = any(next.difference(&known.members).copied().collect());
        let stays = joins.or_else(|| any(next.iter().copied().collect()))?;
        let done = rng.one_in(2);
        let (n, watch) = match (chance, leaves) {
            // Who leaves is written to little.
            (2, Some(leaves)) => (leaves, Err(1 + rng.below(7))),
            (2, None) => (stays, Err(3 + rng.below(8))),
            (3..6, _) => (stays, Ok(if rng.one_in(3) { (3, 1) } else { (1 + rng.below(3), 0) })),
            (8.., Some(leaves)) => {
                // One of the headers, or one of the two flushes.
                let nth = [1, 2, 3, 4, 5, 3, 5][rng.below(7) as usize];
                (leaves, Ok((nth, if nth == 3 || nth == 5 { rng.below(2) } else { 0 })))
            }
            _ => (stays, Ok(if rng.one_in(3) { (5, 1) } else { (4 + rng.below(2), 0) })),
        };
        match watch {
            Ok((nth, more)) => self.devices[n].watch(headers_of_change(nth, more, done)),
            Err(scale) => {
                self.devices[n].freeze_after(1 + rng.below(1 << scale));
            }
        }
        Some(self.devices[n].clone())
    }

    /// Until the drive that was aimed at stops or the change is over, or any time.
    fn wait_for_the_moment(
        &mut self,
        gone: Option<usize>,
        aimed_at: &Option<Drive>,
        mut told: impl FnMut() -> String,
    ) {
        let rng = &mut self.base.rng;
        if let Some(n) = gone {
            std::thread::sleep(Duration::from_millis(rng.below(800)));
            self.devices[n].set_gone(true);
            std::thread::sleep(Duration::from_millis(300 + rng.below(700)));
            return;
        }
        let Some(drive) = aimed_at else {
            return std::thread::sleep(Duration::from_millis(rng.below(3000)));
        };
        let end = Instant::now() + Duration::from_secs(30);
        let is_over = |text: String| text.lines().last().is_none_or(|line| line.starts_with("is "));
        while !drive.is_frozen() && !is_over(told()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        // What does not need it goes on.
        std::thread::sleep(Duration::from_millis(rng.below(300)));
    }

    /// Enters the moment of a cut, by the headers that each device had seen. What was under way is known.
    fn count_moment(&mut self, seen: &[u64; DEVICES]) {
        let moments = &mut self.moments;
        let Some(next) = &self.known.next else {
            moments.after += 1;
            return;
        };
        let most = |of: &mut dyn Iterator<Item = &usize>| of.map(|&n| seen[n]).max().unwrap_or(0);
        let left = most(&mut self.known.members.difference(next));
        *match (most(&mut next.iter()), left) {
            (_, 1..) => &mut moments.told,
            (0, _) => &mut moments.copying,
            (1..=3, _) => &mut moments.first_half,
            _ => &mut moments.second_half,
        } += 1;
    }

    /// A last look, and a removal in order. Says what was done.
    pub fn finish(mut self) -> String {
        let machine = self.up();
        machine.ok("dmsetup remove disk && rmmod dm_remap");
        machine.shutdown();
        let ledger = &self.base.ledger;
        self.base.assert_much_happened();
        let changes = self.came_about + self.did_not + self.states.iter().sum::<u64>();
        assert!(changes > 0, "no spare came or went");
        assert_eq!(ledger.write_errors, 0, "writes failed");
        assert_eq!(ledger.read_errors, 0, "reads failed, where main fails only under remaps");
        format!(
            "seed {}: {} writes, {} flushes, {} moves, {} changes of the members came about and {} did not; cut short {} had come about, {} had not, {} either way; {}",
            self.base.seed,
            ledger.writes,
            ledger.flushes,
            self.base.moves,
            self.came_about,
            self.did_not,
            self.states[0],
            self.states[1],
            self.states[2],
            self.moments
        )
    }
}
