// SPDX-License-Identifier: GPL-2.0

//! What a scan reads, how fast, and for whom it makes way, against a drive with a clock of its own.

use remap_pure::bytes::FromBytes;
use remap_pure::entry::{BlockIndex, Mapping, PackedEntry};
use remap_pure::format::raw::RawScan;
use remap_pure::health::Member;
use remap_pure::mem::AllocError;
use remap_pure::places::{Place, Places};
use remap_pure::scan::{
    living_at, next_on_main, next_on_spare, Neighbours, Next, Pace, Piece, Run, State, Suspects,
};
use remap_pure::table::Table;
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn extent(start: u64, len: u64) -> Extent {
    Extent::new(MainSector(start), Sectors(len)).unwrap()
}

fn table(entries: &[(u64, u64, Mapping)]) -> Table {
    let mut edit = Table::empty(4).unwrap().edit().unwrap();
    for &(start, len, mapping) in entries {
        edit.set(extent(start, len), mapping).unwrap();
    }
    let encode = |_: BlockIndex, _: &[PackedEntry]| Ok::<u32, AllocError>(0);
    edit.finish(1, encode).unwrap().table
}

fn remapped(to: u64) -> Mapping {
    Mapping::Remapped { spare: SpareId(1), to: SpareSector(to) }
}

/// Pieces of main, as (start, length, pending).
fn pieces(table: &Table, len: u64, most: u64) -> Vec<(u64, u64, bool)> {
    let mut at = 0;
    let next = |at: u64| next_on_main(table, at, Sectors(len), Sectors(most));
    std::iter::from_fn(|| {
        let piece = next(at)?;
        at = piece.end();
        Some((piece.start, piece.len.0, piece.pending))
    })
    .collect()
}

#[test]
fn main_is_read_from_start_to_end_but_for_what_lives_elsewhere() {
    assert_eq!(pieces(&table(&[]), 100, 40), [(0, 40, false), (40, 40, false), (80, 20, false)]);
    let some = table(&[
        (0, 8, remapped(5000)),
        (13, 11, Mapping::Pending),
        (24, 8, Mapping::Suspect { spare: SpareId(0), to: SpareSector(4000) }),
        (92, 8, remapped(6000)),
    ]);
    assert_eq!(
        pieces(&some, 100, 40),
        [(8, 5, false), (13, 3, true), (16, 8, true), (32, 40, false), (72, 20, false)]
    );
    assert_eq!(pieces(&table(&[(0, 100, remapped(5000))]), 100, 40), []);
    let retired = remap_pure::entry::Entry::retired(SpareId(0), SpareSector(4000), Sectors(8));
    let mut edit = Table::empty(4).unwrap().edit().unwrap();
    edit.set(retired.extent, retired.mapping).unwrap();
    let retired = edit.finish(1, |_, _: &[PackedEntry]| Ok::<u32, AllocError>(0)).unwrap().table;
    assert_eq!(pieces(&retired, 100, 64), [(0, 64, false), (64, 36, false)]);
}

#[test]
fn a_spare_is_read_where_it_has_data_space_that_is_not_retired() {
    let place = |start, len| Place { start: SpareSector(start), len: Sectors(len) };
    let mut places = Places::new(&[place(3072, 1024), place(5120, 512)], Sectors(1)).unwrap();
    places.mark_used(place(3072, 64)).unwrap();
    places.retire(place(3080, 8)).unwrap();
    places.retire(place(4000, 96)).unwrap();
    places.retire(place(5120, 1)).unwrap();
    let mut at = 0;
    let mut seen = Vec::new();
    while let Some(piece) = next_on_spare(&places, SpareId(1), at, Sectors(700)) {
        assert_eq!((piece.on, piece.pending), (Member::Spare(SpareId(1)), false));
        at = piece.end();
        seen.push((piece.start, piece.len.0));
    }
    assert_eq!(seen, [(3072, 8), (3088, 700), (3788, 212), (5121, 511)]);
}

#[test]
fn what_lives_on_a_part_of_a_spare_is_found() {
    let table = table(&[
        (0, 16, remapped(5000)),
        (100, 8, remapped(5016)),
        (200, 8, Mapping::Pending),
        (300, 8, Mapping::Suspect { spare: SpareId(2), to: SpareSector(5000) }),
    ]);
    let living = |spare, at, len| -> Vec<Extent> {
        living_at(&table, SpareId(spare), at, Sectors(len))
            .map(|(extent, bad)| {
                assert_eq!(bad, spare == 2);
                extent
            })
            .collect()
    };
    assert_eq!(living(2, 5000, 100), [extent(300, 8)]);
    assert_eq!(living(1, 5008, 12), [extent(8, 8), extent(100, 4)]);
    assert_eq!(living(0, 5008, 12), []);
    assert_eq!(living(1, 5024, 100), []);
}

#[test]
fn units_cover_a_piece() {
    let piece = Piece { on: Member::Main, start: 100, len: Sectors(300), pending: false };
    let units: Vec<(u64, u64)> = piece.units().map(|unit| (unit.start, unit.len.0)).collect();
    assert_eq!(units, [(100, 128), (228, 128), (356, 44)]);
}

#[test]
fn a_run_is_kept_and_says_how_far_it_is() {
    let sizes = [1000, 500, 500];
    let mut run = Run::default();
    assert_eq!(run.percent(&sizes), 0);
    run.begin(77);
    (run.device, run.position, run.unreadable, run.slow) = (1, 250, 8, 16);
    assert_eq!((run.state, run.percent(&sizes)), (State::Running, 62));
    let mut raw = RawScan::read_from_bytes(&[0; 64]).unwrap();
    assert_eq!(Run::from_raw(&raw), Run::default());
    run.put_into(&mut raw);
    assert_eq!(Run::from_raw(&raw), run);
    (run.device, run.position) = (2, 500);
    assert_eq!(run.percent(&sizes), 99);
    run.finish(99);
    run.put_into(&mut raw);
    assert_eq!(Run::from_raw(&raw), run);
    assert_eq!((run.state, run.percent(&sizes), run.ended), (State::Idle, 100, 99));
    run.begin(200);
    assert_eq!((run.percent(&sizes), run.ended, run.unreadable), (0, 99, 0));
    run.give_up();
    assert_eq!((run.state, run.percent(&sizes), run.ended), (State::Idle, 0, 99));
    assert_eq!(run.percent(&[]), 0);
}

#[test]
fn each_state_of_a_run_is_kept_and_has_a_word() {
    let mut raw = RawScan::read_from_bytes(&[0; 64]).unwrap();
    let words = [State::Idle, State::Running, State::Paused].map(|state| {
        Run { state, ..Run::default() }.put_into(&mut raw);
        assert_eq!(Run::from_raw(&raw).state, state);
        state.name()
    });
    assert_eq!(words, ["idle", "running", "paused"]);
    // One of a newer writer is none.
    raw.state.set(9);
    assert_eq!(Run::from_raw(&raw).state, State::Idle);
}

#[test]
fn the_next_run_is_due_an_interval_after_the_last_began() {
    let mut run = Run::default();
    assert_eq!(run.due_in(0, 100, 1_000_000), None);
    assert_eq!(run.due_in(1000, 100, 600), Some(500));
    assert_eq!(run.due_in(1000, 100, 5000), Some(0));
    run.begin(5000);
    assert_eq!(run.due_in(1000, 100, 9000), None);
    run.finish(5500);
    assert_eq!(run.due_in(1000, 100, 5600), Some(400));
    // The clock was set back: not before the interval is over by it.
    assert_eq!(run.due_in(1000, 100, 10), Some(1000));
}

/// A drive that reads so many sectors a second, one request after the other, and a load on it that
/// has its next request waiting for so much of the time.
struct Drive {
    now: u64,
    rate: u64,
    /// Sectors of a request of the load, and how long it rests between two.
    load: Option<(u64, u64)>,
    /// When the load's next request comes.
    next: u64,
    by_load: u64,
    by_scan: u64,
    seen: bool,
}

impl Drive {
    fn new(load: Option<(u64, u64)>) -> Self {
        // 50 MB/s.
        Self { now: 0, rate: 100_000, load, next: 0, by_load: 0, by_scan: 0, seen: false }
    }

    fn take(&mut self, sectors: u64) {
        self.now += sectors * SECOND / self.rate;
    }

    /// Serves what the load has waiting.
    fn serve_load(&mut self) {
        if let Some((sectors, rest)) = self.load.filter(|_| self.next <= self.now) {
            self.take(sectors);
            self.by_load += sectors;
            self.next = self.now + rest;
            self.seen = true;
        }
    }

    fn wait(&mut self, until: u64) {
        while self.now < until {
            self.serve_load();
            let next = self.load.map_or(u64::MAX, |_| self.next);
            self.now = self.now.max(until.min(next));
        }
    }

    /// Lets a scan of that rate run for so long. Gives the sectors a second of load and scan.
    fn run(&mut self, seconds: u64, rate: u64) -> (u64, u64) {
        let (from, load, scan) = (self.now, self.by_load, self.by_scan);
        let mut pace = Pace::default();
        while self.now < from + seconds * SECOND {
            let others = std::mem::take(&mut self.seen);
            match pace.next(self.now, others, rate) {
                Next::Wait(ns) => {
                    assert!(ns > 0 && ns <= 50 * MS, "{ns}");
                    self.wait(self.now + ns);
                }
                Next::Read(count, len) => {
                    let began = self.now;
                    // The load has its request in front of ours.
                    self.serve_load();
                    self.take(count as u64 * len.0);
                    self.by_scan += count as u64 * len.0;
                    pace.has_read(began, self.now, Sectors(count as u64 * len.0), rate);
                }
            }
        }
        let took = (self.now - from) / MS;
        ((self.by_load - load) * 1000 / took, (self.by_scan - scan) * 1000 / took)
    }
}

#[test]
fn alone_it_takes_all_of_the_drive() {
    let (_, scan) = Drive::new(None).run(60, 0);
    assert!(scan >= 99_000, "{scan}");
}

#[test]
fn a_load_that_fills_the_drive_keeps_nine_tenths_and_the_scan_still_moves() {
    for sectors in [8, 256, 2048, 8192] {
        let mut drive = Drive::new(Some((sectors, 0)));
        let (load, scan) = drive.run(120, 0);
        assert!(load >= 95_000, "{sectors}: {load}");
        assert!(scan > 0, "{sectors}");
        // When it is gone the scan has the drive again.
        drive.load = None;
        drive.run(1, 0);
        assert!(drive.run(10, 0).1 >= 95_000);
    }
}

#[test]
fn a_request_now_and_then_does_not_keep_it_out() {
    let (_, scan) = Drive::new(Some((8, SECOND))).run(60, 0);
    assert!(scan >= 40_000, "{scan}");
}

#[test]
fn it_keeps_to_its_rate() {
    for rate in [8, 1000, 20_000, 50_000] {
        let (_, scan) = Drive::new(None).run(60, rate);
        assert!(scan <= rate + rate / 50 + 8 && scan >= rate - rate / 20 - 1, "{rate}: {scan}");
    }
    // A time without reading is not made up for.
    let mut pace = Pace::default();
    pace.has_read(0, MS, Sectors(1000), 1000);
    assert!(matches!(pace.next(999 * MS, false, 1000), Next::Wait(_)));
    assert!(matches!(pace.next(100 * SECOND, false, 1000), Next::Read(..)));
    pace.has_read(100 * SECOND, 100 * SECOND + MS, Sectors(1000), 1000);
    assert!(matches!(pace.next(100 * SECOND + 999 * MS, false, 1000), Next::Wait(_)));
}

#[test]
fn slow_is_what_is_far_slower_than_its_neighbours() {
    let mut last = Neighbours::default();
    for took in [20, 21, 19, 20, 300] {
        last.add(took * MS);
        assert!(!last.are_outdone(SECOND, 10), "too few to say so");
        assert!(last.may_be_outdone(SECOND, 10) && !last.may_be_outdone(49 * MS, 10));
        assert!(!last.may_be_outdone(SECOND, 0));
    }
    for took in [20, 22, 18] {
        last.add(took * MS);
    }
    assert!(last.are_outdone(300 * MS, 10));
    assert!(!last.are_outdone(199 * MS, 10) && !last.may_be_outdone(199 * MS, 10));
    assert!(!last.are_outdone(300 * MS, 16));
    assert!(!last.are_outdone(SECOND, 0));
    // A fast drive has slower reads now and then that mean nothing.
    let mut fast = Neighbours::default();
    (0..20).for_each(|_| fast.add(MS / 10));
    assert!(!fast.are_outdone(40 * MS, 10));
    assert!(fast.are_outdone(60 * MS, 10));
    // What was, is forgotten.
    (0..20).for_each(|_| fast.add(100 * MS));
    assert!(!fast.are_outdone(900 * MS, 10));
}

#[test]
fn suspects_come_back_later_or_at_the_end() {
    let piece = |start| Piece { on: Member::Main, start, len: Sectors(2048), pending: false };
    let mut suspects = Suspects::default();
    suspects.add(piece(0));
    suspects.has_read(Sectors(2048));
    suspects.add(piece(2048));
    assert_eq!(suspects.take(false), None);
    suspects.has_read(Sectors(512 * 1024 - 2048));
    assert_eq!(suspects.take(false), Some(piece(0)));
    assert_eq!(suspects.take(false), None);
    assert_eq!(suspects.take(true), Some(piece(2048)));
    assert_eq!(suspects.take(true), None);
    (0..20).for_each(|i| suspects.add(piece(i * 2048)));
    assert_eq!(std::iter::from_fn(|| suspects.take(true)).count(), 8);
}
