// SPDX-License-Identifier: GPL-2.0

//! Counts of the bios on their way, by where on main they are.
//!
//! One count for all would have a move wait for a bio anywhere on the device, and a block that takes
//! half a minute to fail is what this target lives with. So there are [`COUNTS`]. A bio that lies in
//! one chunk of main is counted by the chunk; a longer one, or one that lies across two, by the larger
//! chunk that it lies in; what lies across two of these is counted in the last count. Many chunks
//! share a count, spread so that neighbours and powers of two do not. Who moves an extent waits for
//! the counts of its chunks, of its large chunks, and for the last.

use crate::{
    dm::in_flight::{InFlight, Landed, Ticket},
    pure::units::{Extent, MainSector, Sectors},
};
use kernel::{prelude::*, sync::Arc};

/// Counts: half of them for chunks, half for large ones. A power of two, so that a mask is all it
/// takes to stay in range.
const COUNTS: usize = 64;

/// The count of what lies in no large chunk; some of these share it.
const LAST: usize = COUNTS - 1;

/// Sectors of a chunk, as a power of two: 128 KiB.
pub(super) const CHUNK: u32 = 8;

/// Sectors of a large one: 8 MiB.
const LARGE: u32 = 14;

/// Which of 32 counts a chunk has (multiplicative hashing, Knuth 6.4).
#[inline]
const fn spread(chunk: u64) -> usize {
    // The chunks of more than 2^38 sectors have no more than 32 bits.
    ((chunk as u32).wrapping_mul(0x9e37_79b9) >> 27) as usize
}

/// The counts.
#[pin_data]
pub(crate) struct Domains {
    #[pin]
    counts: [InFlight; COUNTS],
}

/// A bio that is counted, and where, in some bits of a word; the others are 0. The ticket's bit and the count's number above it stand one
/// bit to the right of where they are used.
#[derive(Clone, Copy)]
pub(crate) struct Counted(u64);

impl Counted {
    /// Where the number of the count begins in the word's double.
    const DOMAIN: u32 = Ticket::BIT.ilog2() + 1;
    const MASK: u64 = (1 << Self::BITS.end) - (1 << Self::BITS.start);
    /// The bits that it takes.
    pub(crate) const BITS: core::ops::Range<u32> =
        Self::DOMAIN - 2..Self::DOMAIN - 1 + COUNTS.ilog2();

    /// In its bits of a word.
    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// What is in its bits of a word, whatever stands in the others.
    #[inline]
    pub(crate) fn of_word(word: u64) -> Self {
        Self(word & Self::MASK)
    }
}

impl Domains {
    /// Counts of nothing.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            counts <- pin_init::pin_init_array_from_fn(|_| InFlight::new()),
        })
    }

    /// Counts a bio, which then may look at what is published. It begins at `start` and lies in a [chunk](Self::is_chunk).
    #[inline(always)]
    pub(crate) fn enter_chunk(&self, start: MainSector) -> Counted {
        self.enter_domain(spread(start.0 >> CHUNK))
    }

    /// Whether the sectors from `start` to `last` lie in a chunk.
    #[inline(always)]
    pub(crate) fn is_chunk(start: MainSector, last: MainSector) -> bool {
        start.0 ^ last.0 < 1 << CHUNK
    }

    /// Counts a bio of any length, which then may look at what is published.
    pub(crate) fn enter(&self, start: MainSector, len: Sectors) -> Counted {
        let last = MainSector(start.0.wrapping_add(len.0).wrapping_sub(1));
        if Self::is_chunk(start, last) {
            return self.enter_chunk(start);
        }
        self.enter_domain(match start.0 >> LARGE == last.0 >> LARGE {
            true => COUNTS / 2 + spread(start.0 >> LARGE),
            false => LAST,
        })
    }

    #[inline(always)]
    fn enter_domain(&self, domain: usize) -> Counted {
        let ticket = self.counts[domain & (COUNTS - 1)].enter();
        Counted(((domain as u64) << Counted::DOMAIN).wrapping_add(ticket.bits()) >> 1)
    }

    /// The bio is back.
    #[inline]
    pub(crate) fn leave(&self, Counted(bits): Counted) {
        let double = bits << 1;
        let domain = (double >> Counted::DOMAIN) as usize & (COUNTS - 1);
        self.counts[domain].leave(Ticket::of_bits(double));
    }

    /// The counts in which a bio that touches `range` may stand.
    fn touched(&self, range: Extent) -> impl Iterator<Item = &InFlight> {
        let (first, last) = (range.start.0, range.end().0.wrapping_sub(1));
        let mut which = 1u64 << LAST;
        const { assert!(COUNTS == u64::BITS as usize) };
        for (shift, base) in [(CHUNK, 0), (LARGE, COUNTS / 2)] {
            let chunks = first >> shift..=last >> shift;
            // So many chunks may have any of the counts.
            if chunks.end() - chunks.start() >= COUNTS as u64 {
                which |= u64::from(u32::MAX) << base;
                continue;
            }
            chunks.for_each(|chunk| which |= 1 << (base + spread(chunk)));
        }
        let all = self.counts.iter().enumerate();
        all.filter(move |(domain, _)| which >> domain & 1 != 0).map(|(_, count)| count)
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
