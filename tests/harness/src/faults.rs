//! Faults put into a machine, one at a time and each in its turn: memory that the module, or what it calls, does not get, and bios of
//! the drives beneath that fail. Only the kernel that looks for faults can do that (`make test-debug`).
//!
//! The kernel counts what may fail and lets one go wrong (`lib/fault-inject.c`): with an interval of `i` and `times` of 1, the first whose
//! number is a multiple of `i`. So the next fault comes when the number of the last and `n` more have been counted, and all that is to
//! be known is the number of the last.

use crate::machine::{Machine, Output};
use std::io::{stderr, Write};
use std::mem::replace;

/// How long what the steps have begun may go on when they are over, in milliseconds.
const AFTER: u64 = 300;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An allocation of the slab allocator with the module on the stack.
    Slab,
    /// An allocation of pages with the module on the stack.
    Pages,
    /// A bio of one of the drives, whoever sent it.
    Bio,
}

/// A run in which something was to go wrong.
#[derive(Debug)]
pub struct Point {
    /// Its number.
    pub n: u64,
    /// What was to go wrong.
    pub fault: Fault,
    /// Whether it did.
    pub fired: bool,
    /// What came of the steps.
    pub output: Output,
}

/// All that can go wrong.
pub const FAULTS: [Fault; 3] = [Fault::Slab, Fault::Pages, Fault::Bio];

impl Fault {
    /// The kernel's folder for it.
    fn folder(self) -> &'static str {
        match self {
            Fault::Slab => "/sys/kernel/debug/failslab",
            Fault::Pages => "/sys/kernel/debug/fail_page_alloc",
            Fault::Bio => "/sys/kernel/debug/fail_make_request",
        }
    }

    /// What a report calls it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Slab => "allocations",
            Fault::Pages => "page allocations",
            Fault::Bio => "bios",
        }
    }
}

/// What goes wrong in a machine with the module loaded. There is one for a machine, as the kernel's counters go on from one thing that is looked at to
/// the next, and nothing sets them back.
pub struct Faults {
    /// How many the kernel has counted of each of [`FAULTS`].
    counted: [u64; 3],
    /// The first allocation that fails, of the first thing that is looked at. All of them can take hours: `FROM` goes on where a run has ended.
    from: u64,
}

impl Faults {
    /// Gets a machine ready. The bios are those of these drives, such as `vda`.
    #[track_caller]
    pub fn new(machine: &Machine, drives: &[&str]) -> Self {
        let symbols = machine.ok("grep -w 't' /proc/kallsyms | grep '\\[dm_remap\\]'");
        let address = |line: &str| u64::from_str_radix(line.split_whitespace().next()?, 16).ok();
        let addresses = || symbols.lines().filter_map(address);
        // The last function is not longer than that.
        let (first, end) =
            (addresses().min().unwrap_or(0), addresses().max().unwrap_or(0) + 0x4000);
        assert_ne!(first, 0, "the module's code cannot be found:\n{symbols}");
        for fault in FAULTS {
            let mut settings =
                String::from("echo 0 >probability && echo N >task-filter && echo 1 >verbose");
            if fault != Fault::Bio {
                // What may wait for memory may fail here, too.
                settings += &format!(
                    " && echo N >ignore-gfp-wait && echo 32 >stacktrace-depth && echo {first} >require-start && echo {end} >require-end"
                );
            }
            if fault == Fault::Pages {
                settings += " && echo N >ignore-gfp-highmem && echo 0 >min-order";
            }
            machine.ok(&format!("cd {} && {settings}", fault.folder()));
        }
        for drive in drives {
            machine.ok(&format!("echo 1 >/sys/block/{drive}/make-it-fail"));
        }
        let from = std::env::var("FROM").map(|from| from.parse().expect("FROM is a number"));
        Faults { counted: [0; 3], from: from.unwrap_or(1) }
    }

    /// Takes steps in which the next thing that the kernel gives a multiple of this number goes wrong, and says whether there was one. What
    /// goes on after them for a moment is a part of them.
    #[track_caller]
    fn run(
        &mut self,
        machine: &Machine,
        fault: Fault,
        interval: u64,
        steps: &str,
    ) -> (Output, bool) {
        let folder = fault.folder();
        machine.take(&format!(
            "put {folder}/interval {interval}\nput {folder}/times 1\nput {folder}/probability 100"
        ));
        let output = machine.steps(steps);
        let left = machine.take(&format!(
            "settle {folder}/times 0 {AFTER}\nput {folder}/probability 0\nget {folder}/times"
        ));
        if left == "0" && interval > 1 {
            self.counted[fault as usize] = interval;
        }
        (output, left == "0")
    }

    /// Has each thing of this kind that happens in some steps go wrong once, in turn, and returns how many did. Before each of these
    /// `prepare` is run, which gives the steps, with the number of the run, that begins behind `before`; after it, when nothing goes wrong any
    /// more, `check`.
    #[track_caller]
    pub fn each(
        &mut self,
        machine: &Machine,
        fault: Fault,
        before: u64,
        mut prepare: impl FnMut(u64) -> String,
        mut check: impl FnMut(&Point),
    ) -> u64 {
        let mut n = match fault {
            Fault::Slab => replace(&mut self.from, 1),
            _ => 1,
        };
        let mut run = |faults: &mut Self, more: u64, interval: u64| {
            let steps = prepare(before + more);
            let (output, fired) = faults.run(machine, fault, interval, &steps);
            check(&Point { n: before + more, fault, fired, output });
            fired
        };
        loop {
            let interval = self.counted[fault as usize] + n;
            if run(self, n, interval) {
                if n % 100 == 0 {
                    // Not with `eprintln!`, which is not shown while a test goes well.
                    let _ = writeln!(stderr(), "faults: {n} {} so far", fault.name());
                }
                n += 1;
                continue;
            }
            // One less than was tried was counted, or little less than that, and it is not known how many. So the one that is due has to happen
            // soon, or else what was tried was not one after the other. Pages are taken when the slab allocator has none left, once in many runs.
            let most = if fault == Fault::Pages { 50 } else { 2 };
            let due = n == 1 || (1..=most).any(|more| run(self, n + more, interval));
            assert!(due, "{}: it went well {n} times, and then {most} more", fault.name());
            return n - 1;
        }
    }
}
