// SPDX-License-Identifier: GPL-2.0

//! The digest over all table blocks that the header carries.
//!
//! It is the wrapping sum of [`mix`] over the blocks, so a commit updates it from the blocks that
//! it changes: what they were is subtracted, what they are is added.

use super::entry::BlockIndex;

/// What tells one state of a table block from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// The version of the set that wrote it.
    pub version: u64,
    /// Its CRC-32.
    pub crc: u32,
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014, in Vigna's version): every bit of `z` reaches every bit of the result.
const fn finalise(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What one block adds to the digest: `f(f(f(index + 0x9e3779b97f4a7c15) ^ version) ^ crc)`, with
/// `f` the finaliser of splitmix64 and 64-bit wrapping arithmetic.
pub const fn mix(index: BlockIndex, stamp: Stamp) -> u64 {
    let h = finalise((index.0 as u64).wrapping_add(0x9e37_79b9_7f4a_7c15));
    let h = finalise(h ^ stamp.version);
    finalise(h ^ stamp.crc as u64)
}

/// The digest over `blocks`, from nothing.
pub fn digest(blocks: impl IntoIterator<Item = (BlockIndex, Stamp)>) -> u64 {
    blocks.into_iter().fold(0, |sum, (index, stamp)| sum.wrapping_add(mix(index, stamp)))
}
