//! What a load was told, and so what may be found where it wrote.
//!
//! For each sector there is one order of writes, because a load never has two in flight that overlap. Of these, the last one that was
//! acknowledged before a flush began that was itself acknowledged, or that was acknowledged with FUA, is durable: that one may be
//! found, or any that was sent later. Nothing else.

use crate::machine::{Job, Machine};
use remap_guest::load::{identify, Event, Found, Regions};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A write that may be found in a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    seq: u64,
    zero: bool,
}

/// The ledger of a load: one seed and its regions, over as many machines and power cuts as the test likes.
#[derive(Clone)]
pub struct Ledger {
    seed: u64,
    regions: Regions,
    /// Sectors of a logical block.
    block: u64,
    next: u64,
    /// For each sector that was written, what may be found there, oldest first. Others hold zeroes.
    sectors: HashMap<u64, Vec<Sent>>,
    /// How many operations were told of, for tests that want to know whether anything happened at all.
    pub writes: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Flushes that were acknowledged.
    pub flushes: u64,
    /// Writes that ended with an error.
    pub write_errors: u64,
    /// Those of them that were sent with FUA. When a device has failed one of these and then taken it, it was the flush behind it, as far as anybody can
    /// tell; what others have written may be lost with that, and they are told so: by errors of flushes, and of writes with FUA.
    pub durable_errors: u64,
    /// First sectors and lengths of others.
    pub not_written: Vec<(u64, u32)>,
    /// Reads that ended with an error.
    pub read_errors: u64,
}

impl Ledger {
    /// A ledger of regions that hold zeroes.
    pub fn new(seed: u64, regions: &str) -> Self {
        let regions = regions.parse().unwrap_or_else(|e| panic!("{e}"));
        Ledger {
            seed,
            regions,
            block: 1,
            next: 1,
            sectors: HashMap::new(),
            writes: 0,
            acknowledged: 0,
            flushes: 0,
            write_errors: 0,
            durable_errors: 0,
            not_written: Vec::new(),
            read_errors: 0,
        }
    }

    /// For devices with logical blocks of that many sectors.
    pub fn with_block(mut self, sectors: u64) -> Self {
        self.block = sectors;
        self
    }

    /// Starts the load on a device of the machine; `more` are further settings of `guest load`. Its events come out of
    /// [`Machine::power_cut`], [`Machine::shutdown`] or [`Machine::events`], for [`Ledger::enter`].
    pub fn start<'m>(&self, machine: &'m Machine, device: &str, more: &str) -> Job<'m> {
        machine.start(&format!(
            "guest load {device} regions={} seed={} seq={} block={} {more}",
            self.regions, self.seed, self.next, self.block
        ))
    }

    /// Enters what the load reported. Panics when a read of its own found what it should not.
    #[track_caller]
    pub fn enter(&mut self, events: &[u8]) {
        // Where each write went, until it is acknowledged; and for each flush, the writes that it makes durable.
        let mut open: HashMap<u64, (u64, u32)> = HashMap::new();
        let mut discards: HashSet<u64> = HashSet::new();
        let mut acknowledged: Vec<(u64, u64, u32)> = Vec::new();
        let mut flushing: BTreeMap<u64, usize> = BTreeMap::new();
        let mut from = events;
        while let Some(event) = Event::read(&mut from).unwrap_or_else(|e| panic!("{e}")) {
            match event {
                Event::Issue { seq, sector, count, zero } => {
                    self.writes += 1;
                    self.next = self.next.max(seq + 1);
                    open.insert(seq, (sector, count));
                    for sector in sector..sector + u64::from(count) {
                        let sent = Sent { seq, zero };
                        self.sectors.entry(sector).or_insert_with(before_all).push(sent);
                    }
                }
                // Zeroes that may come at any time, and need not.
                Event::Discard { seq, sector, count } => {
                    self.next = self.next.max(seq + 1);
                    discards.insert(seq);
                    for sector in sector..sector + u64::from(count) {
                        let sent = Sent { seq, zero: true };
                        self.sectors.entry(sector).or_insert_with(before_all).push(sent);
                    }
                }
                Event::Ack { seq, .. } | Event::Fail { seq, .. } if discards.remove(&seq) => {}
                Event::Ack { seq, durable } => {
                    let Some((sector, count)) = open.remove(&seq) else {
                        panic!("write {seq} was never sent")
                    };
                    if durable {
                        for sector in sector..sector + u64::from(count) {
                            self.sectors.entry(sector).or_default().retain(|s| s.seq >= seq);
                        }
                    }
                    self.acknowledged += 1;
                    acknowledged.push((seq, sector, count));
                }
                Event::Fail { seq, durable } => {
                    self.write_errors += 1;
                    self.durable_errors += u64::from(durable);
                    let failed = open.remove(&seq);
                    self.not_written.extend(failed.filter(|_| !durable));
                }
                Event::FlushBegin { flush } => drop(flushing.insert(flush, acknowledged.len())),
                Event::FlushEnd { flush } => {
                    self.flushes += 1;
                    let before = flushing.remove(&flush).unwrap_or(0);
                    for (seq, sector, count) in &acknowledged[..before] {
                        for sector in *sector..sector + u64::from(*count) {
                            self.sectors.entry(sector).or_default().retain(|s| s.seq >= *seq);
                        }
                    }
                    // What is durable need not be looked at again.
                    acknowledged.drain(..before);
                    flushing.values_mut().for_each(|n| *n = n.saturating_sub(before));
                }
                Event::ReadError { .. } => self.read_errors += 1,
                // For who has given the messages.
                Event::Ask { .. } | Event::Answer { .. } => {}
                Event::Bad { sector, found, expected } => {
                    panic!(
                        "under load sector {sector} held {:?}, not write {expected}",
                        Found::from_code(found)
                    )
                }
            }
        }
    }

    /// What is wrong with what was found, for each sector of the regions in turn; and from here on that is what is there.
    /// A sector that could not be read is right where `unreadable` says so, and keeps what it may hold.
    pub fn settle(&mut self, found: &[Found], unreadable: impl Fn(u64) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let regions = self.regions.clone();
        assert_eq!(found.len() as u64, regions.sectors(), "a scan of other regions");
        for (sector, found) in regions.iter().zip(found) {
            if *found == Found::Error && unreadable(sector) {
                continue;
            }
            let sent = self.sectors.entry(sector).or_insert_with(before_all);
            let right = sent
                .iter()
                .rev()
                .find(|s| *found == if s.zero { Found::Zero } else { Found::Write(s.seq) });
            match right.copied() {
                Some(there) => *sent = vec![there],
                None => {
                    let allowed: Vec<String> = sent
                        .iter()
                        .map(|s| format!("{}{}", if s.zero { "zeroes of " } else { "" }, s.seq))
                        .collect();
                    wrong.push(format!(
                        "sector {sector} holds {found:?}, may hold {}",
                        allowed.join(", ")
                    ));
                }
            }
        }
        wrong
    }

    /// Reads all of the regions in the machine.
    pub fn scan(&self, machine: &Machine, device: &str) -> Vec<Found> {
        let (regions, seed, block) = (&self.regions, self.seed, self.block);
        machine.ok(&format!(
            "guest scan {device} regions={regions} seed={seed} block={block} out=/tmp/scan"
        ));
        let bytes = machine.get("/tmp/scan");
        let code = |chunk: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| chunk[i]));
        bytes.chunks_exact(8).map(|chunk| Found::from_code(code(chunk))).collect()
    }

    /// Reads all of the regions in the machine; the test ends unless everything is there that has to be.
    #[track_caller]
    pub fn check(&mut self, machine: &Machine, device: &str) {
        let found = self.scan(machine, device);
        self.compare(&found, |_| false);
    }

    /// What a scan would find in a device that has these bytes at a sector; none where it cannot be read.
    pub fn found_in<'b>(&self, at: impl Fn(u64) -> Option<&'b [u8]>) -> Vec<Found> {
        let found = |sector| at(sector).map_or(Found::Error, |b| identify(b, self.seed, sector));
        self.regions.iter().map(found).collect()
    }

    /// The test ends unless everything was found that has to be there, in sectors that are not `unreadable`.
    #[track_caller]
    pub fn compare(&mut self, found: &[Found], unreadable: impl Fn(u64) -> bool) {
        let wrong = self.settle(found, unreadable);
        let some = wrong.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(
            wrong.is_empty(),
            "{} sectors are wrong after load {}:\n{some}",
            wrong.len(),
            self.seed
        );
    }
}

/// The zeroes that were there before the first write.
fn before_all() -> Vec<Sent> {
    vec![Sent { seq: 0, zero: true }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(events: &[Event]) -> Ledger {
        let mut ledger = Ledger::new(1, "0+8");
        ledger.enter(&events.iter().flat_map(|e| e.to_bytes()).collect::<Vec<u8>>());
        ledger
    }

    fn allowed(events: &[Event], found: Found) -> bool {
        let mut all = [Found::Zero; 8];
        all[0] = found;
        entered(events).settle(&all, |_| false).is_empty()
    }

    const fn issue(seq: u64) -> Event {
        Event::Issue { seq, sector: 0, count: 1, zero: false }
    }
    const fn ack(seq: u64) -> Event {
        Event::Ack { seq, durable: false }
    }
    const BEGIN: Event = Event::FlushBegin { flush: 0 };
    const END: Event = Event::FlushEnd { flush: 0 };

    #[test]
    fn what_was_not_flushed_may_be_there_or_not() {
        let events = [issue(1), ack(1), issue(2)];
        for found in [Found::Zero, Found::Write(1), Found::Write(2)] {
            assert!(allowed(&events, found));
        }
        for found in [Found::Write(3), Found::Garbage, Found::Misplaced, Found::Error] {
            assert!(!allowed(&events, found));
        }
    }

    #[test]
    fn a_flush_keeps_what_was_acknowledged_before_it_began() {
        let events = [issue(1), ack(1), issue(2), BEGIN, ack(2), issue(3), END];
        for (found, right) in [
            (Found::Zero, false),
            (Found::Write(1), true),
            (Found::Write(2), true),
            (Found::Write(3), true),
        ] {
            assert_eq!(allowed(&events, found), right, "{found:?}");
        }
        assert!(
            allowed(&[issue(1), ack(1), BEGIN], Found::Zero),
            "a flush that did not end promises nothing"
        );
    }

    #[test]
    fn a_discard_leaves_what_was_there_or_zeroes() {
        let events = [issue(1), ack(1), Event::Discard { seq: 2, sector: 0, count: 1 }, ack(2)];
        let flushed = [&events[..], &[BEGIN, END]].concat();
        for (found, right) in [(Found::Zero, true), (Found::Write(1), true), (Found::Error, false)]
        {
            assert_eq!(allowed(&flushed, found), right, "{found:?}");
        }
        let rewritten = [&events[..], &[issue(3), Event::Ack { seq: 3, durable: true }]].concat();
        assert!(!allowed(&rewritten, Found::Zero) && !allowed(&rewritten, Found::Write(1)));
    }

    #[test]
    fn what_cannot_be_read_keeps_what_it_may_hold() {
        let mut ledger = entered(&[issue(1), ack(1), BEGIN, END]);
        let mut found = [Found::Zero; 8];
        found[0] = Found::Error;
        assert!(ledger.settle(&found, |sector| sector == 0).is_empty());
        assert_eq!(ledger.settle(&[Found::Zero; 8], |_| false).len(), 1);
    }

    #[test]
    fn fua_keeps_its_own_write() {
        let events = [issue(1), ack(1), issue(2), Event::Ack { seq: 2, durable: true }];
        assert!(allowed(&events, Found::Write(2)));
        assert!(!allowed(&events, Found::Write(1)));
    }

    #[test]
    fn what_was_found_is_what_is_there_from_then_on() {
        let mut ledger = entered(&[issue(1), ack(1)]);
        assert!(ledger.settle(&[Found::Zero; 8], |_| false).is_empty());
        let mut found = [Found::Zero; 8];
        found[0] = Found::Write(1);
        assert_eq!(ledger.settle(&found, |_| false).len(), 1);
    }
}
