// SPDX-License-Identifier: GPL-2.0

//! Counts of the bios on their way, by region of main.
//!
//! One count for all would have a move wait for a bio anywhere on the device, and a block that takes
//! half a minute to fail is what this target lives with. So main is cut into up to [`REGIONS`] of
//! equal size; a bio is counted in the region where it lies, or, if it reaches into a second one, with the
//! straddlers. Who moves an extent within one region waits for that region and the straddlers.

use crate::{
    dm::{
        in_flight::{InFlight, Landed, Ticket},
        published::Reading,
    },
    pure::units::{Extent, MainSector, Sectors},
};
use kernel::{prelude::*, sync::Arc};

/// Counts. A power of two, so that a mask is all it takes to stay in range.
const COUNTS: usize = 16;
/// Regions of main, at most; the last count is for straddlers.
const REGIONS: usize = COUNTS - 1;
const STRADDLERS: usize = REGIONS;

/// The counts.
#[pin_data]
pub(crate) struct Domains {
    #[pin]
    counts: [InFlight; COUNTS],
    /// Sectors of a region, as a power of two: a sector of main, shifted, is below `REGIONS`.
    shift: u32,
}

/// A bio that is counted, and where.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    ticket: Ticket,
    domain: u8,
}

impl Counted {
    /// As a number below 32.
    #[inline]
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.domain) << 1 | u64::from(self.ticket.bit())
    }

    /// What `bits` were made of, whatever stands above them.
    #[inline]
    pub(crate) fn of_bits(bits: u64) -> Self {
        Self {
            ticket: Ticket::of_bit(bits & 1 != 0),
            domain: (bits >> 1) as u8 & (COUNTS as u8 - 1),
        }
    }
}

impl Domains {
    /// Counts for a device of `len` sectors.
    pub(crate) fn new(len: Sectors) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            counts <- pin_init::pin_init_array_from_fn(|_| InFlight::new()),
            shift: Self::shift(len),
        })
    }

    fn shift(len: Sectors) -> u32 {
        let last = len.0.saturating_sub(1);
        // A region is not smaller than a logical block can be.
        (3..u64::BITS).find(|&shift| last >> shift < REGIONS as u64).unwrap_or(3)
    }

    #[inline]
    fn domain(&self, start: MainSector, len: Sectors) -> usize {
        let first = start.0 >> (self.shift & 63);
        let last = start.0.wrapping_add(len.0).wrapping_sub(1) >> (self.shift & 63);
        if first == last {
            first as usize & (COUNTS - 1)
        } else {
            STRADDLERS
        }
    }

    /// Counts a bio, which then may read what is published.
    #[inline]
    pub(crate) fn enter(&self, start: MainSector, len: Sectors) -> (Counted, Reading) {
        let domain = self.domain(start, len);
        let (ticket, reading) = self.counts[domain].enter();
        (Counted { ticket, domain: domain as u8 }, reading)
    }

    /// The bio is back.
    #[inline]
    pub(crate) fn leave(&self, bio: Counted) {
        self.counts[bio.domain as usize & (COUNTS - 1)].leave(bio.ticket);
    }

    /// The first extent of `range` that lies in one region.
    pub(crate) fn first_part(&self, range: Extent) -> Extent {
        let end = ((range.start.0 >> self.shift) + 1) << self.shift;
        let len = range.len.0.min(end - range.start.0);
        Extent { start: range.start, len: Sectors(len) }
    }

    /// The region of a sector, of a main of `whole` sectors.
    pub(super) fn region(&self, at: MainSector, whole: Sectors) -> Extent {
        let start = at.0 >> self.shift << self.shift;
        let len = (whole.0 - start).min(1 << self.shift);
        Extent { start: MainSector(start), len: Sectors(len) }
    }

    /// The counts in which a bio that touches `range` may stand.
    fn touched(&self, range: Extent) -> impl Iterator<Item = &InFlight> {
        let first = (range.start.0 >> self.shift) as usize;
        let last = ((range.end().0 - 1) >> self.shift) as usize;
        let regions = self.counts.get(first..=last.min(REGIONS - 1)).unwrap_or(&[]);
        Iterator::chain(regions.iter(), self.counts.get(STRADDLERS))
    }

    /// Waits for the answers that are on their way.
    pub(crate) fn barrier(&self) {
        self.counts.iter().for_each(InFlight::barrier);
    }

    /// How many answers [`drain`](Self::drain) of `range` gives.
    pub(crate) fn answers(&self, range: Extent) -> usize {
        self.touched(range).count()
    }

    /// Tells `whom`, [`answers`](Self::answers) times, when the bios are back that touch `range` and
    /// are on their way now.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, with the number of answers that still come.
    pub(crate) fn drain<T: Landed>(&self, range: Extent, whom: &Arc<T>) -> Result<(), usize> {
        for (told, count) in self.touched(range).enumerate() {
            count.call(whom.clone()).map_err(|_| told)?;
        }
        Ok(())
    }
}
