//! Flushes of callers and of our own, writes, and a spare that goes away: who has flushed a write without an error can rely on it, or
//! another caller was told meanwhile.

use super::cache::{Cache, Flushes};
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// A device that keeps what is written until it is flushed, and loses it when that fails. It orders nothing for the processors.
struct Device {
    cache: Cache,
    /// A bit for each write: the low ones of what is in the device's own cache, the high ones of what is durable.
    holds: AtomicU64,
    /// The block layer has a device do one flush at a time.
    turn: Mutex<()>,
}

const DURABLE: u32 = 8;

impl Device {
    fn new() -> Arc<Self> {
        let cache = Cache::of_opened();
        // What it was opened with has been flushed.
        let count = cache.count();
        assert!(cache.answered(count, true));
        Arc::new(Self { cache, holds: AtomicU64::new(0), turn: Mutex::new(()) })
    }

    fn write(&self, bit: u64) {
        self.holds.fetch_or(bit, Relaxed);
    }

    fn flush(&self, ok: bool) {
        let volatile = (1 << DURABLE) - 1;
        let kept = |holds| holds & !volatile | if ok { (holds & volatile) << DURABLE } else { 0 };
        self.holds.fetch_update(Relaxed, Relaxed, |holds| Some(kept(holds))).unwrap();
    }

    /// A write of a caller, which has been acknowledged when this is over.
    fn write_and_acknowledge(&self, bit: u64) {
        self.write(bit);
        self.cache.acknowledge();
    }

    /// A flush of a caller that the device, if it is asked, answers like that. Whether the caller was told that it has succeeded.
    fn flush_for_caller(&self, ok: bool) -> bool {
        if self.cache.is_to_be_told() {
            return false;
        }
        match self.cache.needs_flush() {
            None => self.cache.is_flushed(),
            Some(count) => {
                let turn = self.turn.lock();
                self.flush(ok);
                drop(turn);
                self.cache.answered(count, ok)
            }
        }
    }

    /// One of our own.
    fn flush_for_us(&self, ok: bool) {
        let sent = self.cache.send();
        let turn = self.turn.lock();
        self.flush(ok);
        // Noted when it ends, before another begins.
        self.cache.flushed(sent, ok);
        drop(turn);
    }

    fn has(&self, bit: u64) -> bool {
        self.holds.load(Relaxed) & (bit << DURABLE) != 0
    }
}

/// All orders in which at most so many times another thread gets its turn before it has to.
fn in_all_orders(turns: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(turns);
    // One test does the same a thousand times.
    builder.max_branches = 1_000_000;
    builder.check(test);
}

#[test]
fn what_was_flushed_while_others_write_and_flush_is_durable() {
    in_all_orders(3, || {
        let device = Device::new();
        let other = {
            let device = device.clone();
            thread::spawn(move || {
                device.write_and_acknowledge(2);
                assert!(device.flush_for_caller(true));
                assert!(device.has(2));
            })
        };
        device.write_and_acknowledge(1);
        assert!(device.flush_for_caller(true));
        assert!(device.has(1));
        other.join().unwrap();
    });
}

#[test]
fn what_a_flush_of_our_own_has_lost_is_told() {
    in_all_orders(3, || {
        let device = Device::new();
        let ours = {
            let device = device.clone();
            thread::spawn(move || device.flush_for_us(false))
        };
        device.write_and_acknowledge(1);
        let mut well = device.flush_for_caller(true);
        assert!(if well { device.has(1) } else { device.cache.has_lost() });
        ours.join().unwrap();
        // Once that is over, one that fails is followed by one that does not.
        well = device.flush_for_caller(true) || well;
        assert!(device.flush_for_caller(true) || well);
        assert!(!device.cache.flush_failed());
    });
}

#[test]
fn what_a_flush_of_our_own_has_lost_is_told_to_one_of_two() {
    in_all_orders(2, || {
        let device = Device::new();
        device.write_and_acknowledge(1);
        let ours = {
            let device = device.clone();
            thread::spawn(move || device.flush_for_us(false))
        };
        let other = {
            let device = device.clone();
            thread::spawn(move || device.flush_for_caller(true))
        };
        let well = device.flush_for_caller(true);
        let others = other.join().unwrap();
        if well && others {
            assert!(device.has(1));
        }
        ours.join().unwrap();
    });
}

/// Who acknowledges finds that another has, in the same stage.
#[test]
fn what_a_flush_of_our_own_has_lost_of_two_writes_is_told() {
    in_all_orders(2, || {
        let device = Device::new();
        let ours = {
            let device = device.clone();
            thread::spawn(move || device.flush_for_us(false))
        };
        let other = {
            let device = device.clone();
            thread::spawn(move || device.write_and_acknowledge(2))
        };
        device.write_and_acknowledge(1);
        assert!(!device.flush_for_caller(true) || device.has(1));
        ours.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn what_has_been_told_is_not_told_again() {
    in_all_orders(1, || {
        let device = Device::new();
        device.write_and_acknowledge(1);
        assert!(!device.flush_for_caller(false));
        device.flush_for_us(false);
        assert!(device.cache.flush_failed());
        assert!(device.flush_for_caller(true));
        assert!(!device.cache.flush_failed());
        device.write_and_acknowledge(2);
        device.flush_for_us(false);
        assert!(!device.flush_for_caller(true));
        device.write_and_acknowledge(4);
        assert!(device.flush_for_caller(true) && device.has(4));
        // What callers have not written is nothing to them.
        device.flush_for_us(false);
        device.cache.put_away();
        assert!(device.cache.is_done_without() && !device.cache.has_lost());
        // Nor what they have elsewhere.
        device.cache.take_back();
        device.write_and_acknowledge(8);
        device.flush_for_us(false);
        assert!(device.cache.has_lost());
        device.cache.begin_anew();
        assert!(!device.cache.has_lost() && device.flush_for_caller(true));
    });
}

/// A set that goes on without a spare: the spare's flushes and its writes end as they are, and nothing is sent to it any more.
#[test]
fn only_a_flush_that_fails_counts_as_one_and_not_that_somebody_is_told() {
    in_all_orders(2, || {
        let cache = Cache::of_opened();
        cache.acknowledge();
        cache.flushed(cache.send(), false);
        assert_eq!(cache.failures(), 1);
        assert!(!cache.answered(cache.count(), true), "somebody is told");
        cache.lose();
        assert_eq!(cache.failures(), 1);
        assert!(!cache.answered(cache.count(), false));
        assert_eq!(cache.failures(), 2);
        // What is done without one is as good as lost, also to who comes to look when it is back.
        cache.put_away();
        cache.take_back();
        assert_eq!(cache.failures(), 3);
    });
}

#[test]
fn what_was_written_to_a_spare_that_is_put_away_is_told() {
    for unflushed in [false, true] {
        in_all_orders(3, move || {
            let device = Device::new();
            if unflushed {
                device.write_and_acknowledge(1);
            }
            let away = Arc::new(AtomicU64::new(0));
            let worker = {
                let (device, away) = (device.clone(), away.clone());
                thread::spawn(move || {
                    device.cache.put_away();
                    away.store(1, loom::sync::atomic::Ordering::Release);
                })
            };
            if !unflushed {
                // It was sent when the spare was there.
                device.write_and_acknowledge(1);
            }
            let well = match away.load(loom::sync::atomic::Ordering::Acquire) {
                0 => device.flush_for_caller(true),
                _ => device.cache.is_done_without(),
            };
            assert!(!well || device.has(1));
            worker.join().unwrap();
            // One that was told is not told for ever.
            let again = device.cache.is_done_without();
            assert!(again || device.cache.is_done_without());
            assert!(!device.cache.has_lost());
        });
    }
}

/// The parts of a flush that has begun; whether all went well.
fn parts(main: &Device, spare: &Device, flushes: &Flushes, ok: bool) -> bool {
    let count = main.cache.count();
    let on_spare = spare.flush_for_caller(ok);
    flushes.ended(on_spare);
    main.flush(true);
    let on_main = main.cache.answered(count, true);
    flushes.ended(on_main);
    on_main && on_spare
}

/// A flush with data of which the core loses the error, and one of another caller at the same time. The data must not be acknowledged as
/// if what was to be durable before it were.
#[test]
fn data_behind_a_flush_that_failed_is_refused_whoever_flushes_meanwhile() {
    in_all_orders(3, || {
        let (main, spare, flushes) = (Device::new(), Device::new(), Arc::new(Flushes::default()));
        spare.write_and_acknowledge(1);
        flushes.begin(2, &main.cache);
        flushes.begin(2, &main.cache);
        let other = {
            let (main, spare, flushes) = (main.clone(), spare.clone(), flushes.clone());
            thread::spawn(move || parts(&main, &spare, &flushes, true))
        };
        // Its error is lost.
        let well = parts(&main, &spare, &flushes, false);
        let refused =
            flushes.has_failed() || main.cache.flush_failed() || spare.cache.flush_failed();
        assert!(well || refused || spare.has(1));
        other.join().unwrap();
        // The next one by itself ends that.
        flushes.begin(2, &main.cache);
        assert!(parts(&main, &spare, &flushes, true));
        assert!(!flushes.has_failed() && !main.cache.flush_failed() && !spare.cache.flush_failed());
    });
}

/// The same where the other one is begun when the first has failed, and has not ended.
#[test]
fn a_flush_that_is_begun_while_one_that_failed_is_under_way_forgives_nothing() {
    in_all_orders(1, || {
        let (main, spare, flushes) = (Device::new(), Device::new(), Flushes::default());
        let refuses =
            || flushes.has_failed() || main.cache.flush_failed() || spare.cache.flush_failed();
        spare.write_and_acknowledge(1);
        flushes.begin(2, &main.cache);
        let count = main.cache.count();
        let on_spare = spare.flush_for_caller(false);
        flushes.ended(on_spare);
        flushes.begin(2, &main.cache);
        assert!(parts(&main, &spare, &flushes, true));
        main.flush(true);
        let on_main = main.cache.answered(count, true);
        flushes.ended(on_main);
        assert!(refuses());
        flushes.begin(2, &main.cache);
        assert!(refuses());
        assert!(parts(&main, &spare, &flushes, true));
        assert!(!refuses());
        // Where there is always one, it does not go on for ever.
        spare.write_and_acknowledge(2);
        flushes.begin(2, &main.cache);
        let _ = parts(&main, &spare, &flushes, false);
        flushes.begin(2, &main.cache);
        for _ in 0..1000 {
            flushes.begin(2, &main.cache);
            assert!(parts(&main, &spare, &flushes, true));
        }
        assert!(!refuses());
    });
}
