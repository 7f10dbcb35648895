// SPDX-License-Identifier: GPL-2.0

//! Places on a spare against a plain model: one cell for each sector.

use remap_pure::places::{Place, PlaceError, Places};
use remap_pure::units::{MainSector, Sectors, SpareSector};

/// Small and the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn place(start: u64, len: u64) -> Place {
    Place { start: SpareSector(start), len: Sectors(len) }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Cell {
    Outside,
    Free,
    Used,
    Retired,
}

struct Model(Vec<Cell>);

impl Model {
    fn range(&self, at: u64, len: u64) -> &[Cell] {
        &self.0[at as usize..(at + len) as usize]
    }

    fn put(&mut self, at: u64, len: u64, cell: Cell) {
        self.0[at as usize..(at + len) as usize].fill(cell);
    }

    fn count(&self, cell: Cell) -> u64 {
        self.0.iter().filter(|c| **c == cell).count() as u64
    }

    /// The first sector of the range that is such a cell.
    fn first(&self, at: u64, len: u64, is: impl Fn(Cell) -> bool) -> Option<SpareSector> {
        let n = self.range(at, len).iter().position(|cell| is(*cell))?;
        Some(SpareSector(at + n as u64))
    }

    fn free(&self, at: u64, len: u64) -> bool {
        at + len <= self.0.len() as u64 && self.range(at, len).iter().all(|c| *c == Cell::Free)
    }

    fn free_units(&self, unit: u64) -> u64 {
        (0..self.0.len() as u64 / unit).filter(|i| self.free(i * unit, unit)).count() as u64
    }

    /// Whether `len` sectors fit whole free units, `skip` into the first.
    fn fits(&self, unit: u64, skip: u64, len: u64) -> bool {
        let span = (skip + len).next_multiple_of(unit);
        (0..self.0.len() as u64 / unit).any(|i| self.free(i * unit, span))
    }
}

fn compare(places: &Places, model: &Model, unit: u64) {
    let (used, retired) = (model.count(Cell::Used), model.count(Cell::Retired));
    assert_eq!(places.used().0, used);
    assert_eq!(places.retired().0, retired);
    assert_eq!(places.free_sectors().0, model.count(Cell::Free));
    assert_eq!(places.room().0, model.0.len() as u64 - model.count(Cell::Outside));
    assert_eq!(places.free_units(Sectors(unit)), model.free_units(unit));
    let mut told = vec![false; model.0.len()];
    for place in places.retired_places() {
        told[place.start.0 as usize..place.end().0 as usize].fill(true);
    }
    assert!(told.iter().zip(&model.0).all(|(told, cell)| *told == (*cell == Cell::Retired)));
    // What is sound, in one piece as far as it goes.
    let sound = |cell: &Cell| matches!(cell, Cell::Free | Cell::Used);
    let mut at = 0;
    while let Some(run) = model.0[at..].iter().position(sound).map(|n| at + n) {
        let len = model.0[run..].iter().take_while(|cell| sound(cell)).count();
        let next = places.next_sound(SpareSector(at as u64));
        assert_eq!(next, Some(place(run as u64, len as u64)));
        at = run + len;
    }
    assert_eq!(places.next_sound(SpareSector(at as u64)), None);
}

fn live(seed: u64, regions: &[Place], granule: u64, unit: u64, steps: u64, longest: u64) {
    let mut random = Random(seed);
    let end = regions.last().unwrap().end().0 + 3 * unit;
    let mut places = Places::new(regions, Sectors(granule)).unwrap();
    let mut model = Model(vec![Cell::Outside; end as usize]);
    for region in regions {
        let from = region.start.0.next_multiple_of(granule);
        model.put(from, region.end().0 / granule * granule - from, Cell::Free);
    }
    // Where on main an allocated place belongs.
    let mut given: Vec<(u64, u64, u64)> = Vec::new();
    for step in 0..steps {
        let start = random.below(1 << 20) * granule;
        let len = (1 + random.below(longest)) * granule;
        let skip = start % unit;
        match random.below(12) {
            0..=4 => {
                let got = places.allocate(Sectors(unit), MainSector(start), Sectors(len)).unwrap();
                assert_eq!(got.is_some(), model.fits(unit, skip, len), "step {step}");
                let Some(SpareSector(at)) = got else { continue };
                assert_eq!(at % unit, skip);
                assert!(model.free(at - skip, (skip + len).next_multiple_of(unit)));
                model.put(at, len, Cell::Used);
                given.push((start, at, len));
            }
            5 => {
                let got =
                    places.allocate_up_to(Sectors(unit), MainSector(start), Sectors(len)).unwrap();
                assert_eq!(got.is_some(), model.free_units(unit) > 0);
                let Some(Place { start: SpareSector(at), len: Sectors(part) }) = got else {
                    continue;
                };
                assert!(part <= len && at % unit == skip);
                assert!(model.free(at - skip, (skip + part).next_multiple_of(unit)));
                // It ends short only where the units do.
                let behind = at + part;
                assert!(part == len || (behind % unit == 0 && !model.free(behind, unit)));
                model.put(at, part, Cell::Used);
                given.push((start, at, part));
            }
            6 if !given.is_empty() => {
                let (near, near_at, _) = given[random.below(given.len() as u64) as usize];
                let base = near / unit * unit;
                let start = base + random.below(unit / granule) * granule;
                let len = granule * (1 + random.below(2));
                let got = places
                    .allocate_beside(
                        Sectors(unit),
                        (MainSector(near), SpareSector(near_at)),
                        MainSector(start),
                        Sectors(len),
                    )
                    .unwrap();
                let at = near_at - near % unit + start % unit;
                let fits = start % unit + len <= unit && model.free(at, len);
                assert_eq!(got, fits.then_some(SpareSector(at)));
                if fits {
                    model.put(at, len, Cell::Used);
                    given.push((start, at, len));
                }
            }
            7 => {
                let at = random.below(end / granule) * granule;
                let result = places.mark_used(place(at, len));
                let len = len.min(end - at);
                let outside = model.first(at, len, |cell| cell == Cell::Outside);
                let taken = model.first(at, len, |cell| cell != Cell::Free);
                let expected =
                    match (outside.map(PlaceError::Outside), taken.map(PlaceError::Taken)) {
                        (None, None) => Ok(()),
                        (Some(error), _) | (None, Some(error)) => Err(error),
                    };
                assert_eq!(result, expected, "{len} sectors from {at} on");
                if result.is_ok() {
                    model.put(at, len, Cell::Used);
                }
            }
            8 if step % 4 == 0 => {
                let at = random.below(end / granule) * granule;
                let inside = at + len <= end && !model.range(at, len).contains(&Cell::Outside);
                // A run over two regions that touch nothing in between is not one place.
                assert_eq!(places.retire(place(at, len)).is_ok(), inside);
                if inside {
                    model.put(at, len, Cell::Retired);
                }
            }
            _ if !given.is_empty() => {
                let i = random.below(given.len() as u64) as usize;
                let (_, at, len) = given.swap_remove(i);
                assert_eq!(places.free(place(at, len)), Ok(()));
                for sector in at..at + len {
                    if model.0[sector as usize] != Cell::Retired {
                        model.0[sector as usize] = Cell::Free;
                    }
                }
                if let Some(free) = model.first(at, len, |cell| cell == Cell::Free) {
                    assert_eq!(places.free(place(at, len)), Err(PlaceError::Free(free)));
                }
            }
            _ => {}
        }
        if step % 16 == 0 {
            compare(&places, &model, unit);
        }
    }
    compare(&places, &model, unit);
}

#[test]
fn a_small_spare_does_what_the_model_does() {
    for seed in 0..600 {
        live(seed, &[place(3, 40), place(50, 1), place(64, 170)], 1, 8, 150, 12);
    }
}

#[test]
fn larger_granules_and_units_do_what_the_model_does() {
    for seed in 0..300 {
        live(seed, &[place(5, 700), place(1024, 333)], 8, 32, 150, 9);
        live(seed, &[place(5, 700), place(1024, 333)], 8, 8, 150, 9);
    }
}

#[test]
fn a_spare_of_several_chunks_does_what_the_model_does() {
    for seed in 0..20 {
        live(seed, &[place(1000, 9000), place(12288, 5000)], 1, 8, 3000, 40);
        live(seed, &[place(1000, 9000), place(12288, 5000)], 1, 64, 800, 5000);
    }
}

#[test]
fn a_unit_in_part_use_is_given_out_only_beside_its_neighbour() {
    let mut places = Places::new(&[place(0, 16)], Sectors(1)).unwrap();
    let unit = Sectors(8);
    assert_eq!(places.allocate(unit, MainSector(83), Sectors(1)), Ok(Some(SpareSector(3))));
    assert_eq!(places.allocate(unit, MainSector(84), Sectors(1)), Ok(Some(SpareSector(12))));
    assert_eq!(places.allocate(unit, MainSector(85), Sectors(1)), Ok(None));
    assert_eq!(places.allocate_up_to(unit, MainSector(85), Sectors(1)), Ok(None));
    let near = (MainSector(83), SpareSector(3));
    let beside = |places: &mut Places, start, len| {
        places.allocate_beside(unit, near, MainSector(start), Sectors(len)).unwrap()
    };
    assert_eq!(beside(&mut places, 85, 1), Some(SpareSector(5)));
    assert_eq!(beside(&mut places, 85, 1), None, "it is taken now");
    assert_eq!(beside(&mut places, 88, 1), None, "another unit");
    assert_eq!(beside(&mut places, 87, 2), None, "more than the unit");
    let askew = (MainSector(83), SpareSector(4));
    let got = places.allocate_beside(unit, askew, MainSector(82), Sectors(1));
    assert_eq!(got, Ok(None), "the neighbour is not as in its unit of main");
    assert_eq!(places.used(), Sectors(3));
}

#[test]
fn what_does_not_fit_in_one_piece_is_split() {
    let mut places = Places::new(&[place(0, 24), place(32, 16)], Sectors(1)).unwrap();
    let unit = Sectors(8);
    assert_eq!(places.allocate(unit, MainSector(4), Sectors(36)), Ok(None));
    let first = places.allocate_up_to(unit, MainSector(4), Sectors(36)).unwrap();
    assert_eq!(first, Some(place(4, 20)));
    let second = places.allocate_up_to(unit, MainSector(24), Sectors(16)).unwrap();
    assert_eq!(second, Some(place(32, 16)));
    assert_eq!(places.allocate_up_to(unit, MainSector(0), Sectors(1)), Ok(None));
}

#[test]
fn what_nothing_is_in_yet_is_not_passed_over() {
    let mut places = Places::new(&[place(0, 3 * 4096)], Sectors(1)).unwrap();
    places.mark_used(place(4096, 4096)).unwrap();
    places.mark_used(place(8192, 4096)).unwrap();
    assert_eq!(places.allocate(Sectors(8), MainSector(0), Sectors(8)), Ok(Some(SpareSector(0))));
}

#[test]
fn less_than_a_unit_is_nothing() {
    for small in [place(0, 7), place(4, 4), place(4, 8)] {
        let mut places = Places::new(&[small], Sectors(1)).unwrap();
        assert_eq!(places.allocate_up_to(Sectors(8), MainSector(0), Sectors(1)), Ok(None));
        assert_eq!(places.free_units(Sectors(8)), 0);
    }
}

#[test]
fn what_is_retired_never_comes_back() {
    let mut places = Places::new(&[place(0, 16)], Sectors(1)).unwrap();
    places.mark_used(place(0, 8)).unwrap();
    places.retire(place(4, 8)).unwrap();
    places.retire(place(4, 8)).unwrap();
    assert_eq!((places.used(), places.retired()), (Sectors(4), Sectors(8)));
    places.free(place(0, 8)).unwrap();
    assert_eq!((places.used(), places.retired()), (Sectors(0), Sectors(8)));
    assert_eq!(places.mark_used(place(0, 5)), Err(PlaceError::Taken(SpareSector(4))));
    assert_eq!(places.allocate(Sectors(8), MainSector(0), Sectors(1)), Ok(None));
    assert_eq!(places.retired_places().collect::<Vec<_>>(), [place(4, 8)]);
}

#[test]
fn nonsense_is_refused() {
    let mut places = Places::new(&[place(8, 16), place(24, 8)], Sectors(8)).unwrap();
    assert_eq!(places.mark_used(place(8, 0)), Err(PlaceError::Unaligned));
    assert_eq!(places.mark_used(place(9, 8)), Err(PlaceError::Unaligned));
    assert_eq!(places.mark_used(place(8, 7)), Err(PlaceError::Unaligned));
    assert_eq!(places.mark_used(place(0, 8)), Err(PlaceError::Outside(SpareSector(0))));
    assert_eq!(places.mark_used(place(16, 64)), Err(PlaceError::Outside(SpareSector(32))));
    assert_eq!(places.mark_used(place(16, u64::MAX)), Err(PlaceError::Unaligned));
    assert_eq!(places.mark_used(place(8, 24)), Ok(()), "regions that touch are one");
    for (start, len) in [(1, 8), (8, 9), (1, 9), (8, 0)] {
        let got = places.allocate(Sectors(8), MainSector(start), Sectors(len));
        assert_eq!(got, Err(PlaceError::Unaligned), "{len} sectors from {start} on");
    }
}

#[test]
fn an_error_names_the_sector() {
    let mut places = Places::new(&[place(8, 40_000)], Sectors(8)).unwrap();
    places.mark_used(place(33_000, 80)).unwrap();
    // Where the place before was, and elsewhere.
    for (at, taken) in [(33_064, 33_064), (32_992, 33_000)] {
        assert_eq!(places.mark_used(place(at, 16)), Err(PlaceError::Taken(SpareSector(taken))));
    }
    assert_eq!(places.free(place(33_072, 16)), Err(PlaceError::Free(SpareSector(33_080))));
    for (error, words) in [
        (PlaceError::NoMemory, "no memory"),
        (PlaceError::Unaligned, "whole blocks"),
        (PlaceError::Outside(SpareSector(7)), "sector 7 of the spare is not in its data space"),
        (PlaceError::Taken(SpareSector(17)), "sector 17 of the spare is in use already"),
        (PlaceError::Free(SpareSector(27)), "sector 27 of the spare is not in use"),
    ] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn places_are_given_out_one_behind_the_other() {
    let mut places = Places::new(&[place(0, 1 << 16)], Sectors(1)).unwrap();
    let mut next = 0;
    for i in 0..500 {
        let (skip, len) = (i % 8, 1 + i * 7 % 30);
        let start = MainSector(8000 + i * 64 + skip);
        let got = places.allocate(Sectors(8), start, Sectors(len));
        assert_eq!(got, Ok(Some(SpareSector(next + skip))));
        next = (next + skip + len).next_multiple_of(8);
    }
    // What became free in front is for when there is nothing behind any more.
    places.free(place(0, 1)).unwrap();
    assert_eq!(places.allocate(Sectors(8), MainSector(0), Sectors(8)), Ok(Some(SpareSector(next))));
    places.mark_used(place(next + 8, (1 << 16) - next - 8)).unwrap();
    assert_eq!(places.allocate(Sectors(8), MainSector(0), Sectors(8)), Ok(Some(SpareSector(0))));
    assert_eq!(places.allocate(Sectors(8), MainSector(0), Sectors(8)), Ok(None));
}

#[test]
fn memory_goes_with_what_is_used() {
    let tebibyte = 1u64 << 31;
    let mut places = Places::new(&[place(16384, 8 * tebibyte)], Sectors(1)).unwrap();
    assert_eq!(places.memory(), 0);
    for i in 0..1000 {
        let got = places.allocate(Sectors(8), MainSector(i * 5000 + 3), Sectors(1)).unwrap();
        assert!(got.is_some());
    }
    assert!(places.memory() < 4096, "{}", places.memory());
    assert_eq!(places.free_units(Sectors(8)), tebibyte - 1000);

    // A bit for each sector of a part in which something is, and one more where something is retired.
    let (part, bitmap) = (4096, 4096 / 8);
    let mut places = Places::new(&[place(0, 1000 * part)], Sectors(1)).unwrap();
    for i in 0..100 {
        places.mark_used(place(i * part, 1)).unwrap();
    }
    let used = places.memory();
    assert!((100 * (bitmap + 32)..100 * (bitmap + 160)).contains(&used), "{used} bytes");
    places.retire(place(7 * part + 8, part - 8)).unwrap();
    assert_eq!(places.memory(), used + bitmap);
    places.retire(place(7 * part, 1)).unwrap();
    assert_eq!(places.memory(), used + bitmap);
}

#[test]
fn a_nearly_full_spare_is_searched_quickly() {
    let sectors = 1u64 << 24;
    let mut places = Places::new(&[place(0, sectors)], Sectors(1)).unwrap();
    places.mark_used(place(0, sectors)).unwrap();
    // Free sectors everywhere, but only few whole units.
    for i in 0..sectors / 8 {
        places.free(place(i * 8 + i % 8, 1)).unwrap();
    }
    let mut random = Random(1);
    for _ in 0..20_000 {
        let at = random.below(sectors / 8) * 8;
        let hole = at / 8 % 8;
        for i in (0..8).filter(|i| *i != hole) {
            places.free(place(at + i, 1)).unwrap();
        }
        let got = places.allocate(Sectors(8), MainSector(0), Sectors(8)).unwrap();
        assert_eq!(got, Some(SpareSector(at)));
        places.free(place(at + hole, 1)).unwrap();
    }
}
