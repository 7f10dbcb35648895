// SPDX-License-Identifier: GPL-2.0

//! Which of many devices are the members of a set, as far as their fingerprints tell.

use super::super::format::header::Header;
use super::super::format::raw::RawFingerprint;
use super::super::mem::{AllocError, KVec, GFP_KERNEL};
use super::super::settings::{Settings, ASSEMBLE_MIN_MATCH};
use super::{compare, Facts, Match};

/// What was found for a member. Devices are named by their places among the candidates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// This device, and no other fits as well.
    Is(usize, Match),
    /// This device and another one fit equally well, or it fits another member as well as this one.
    Unclear(usize, Match),
    /// No device that is not another member's.
    Nobody,
}

impl Choice {
    /// The device to go on with unasked: where there is one, and it is known as well as `least`
    /// percent.
    pub fn unasked(self, least: u8) -> Option<usize> {
        match self {
            Self::Is(device, by) if by.kind.percent() >= least => Some(device),
            _ => None,
        }
    }
}

/// How well a device has to be known for the set to be assembled with it unasked, in percent.
pub fn least_match(header: &Header) -> u8 {
    Settings::get_raw(&header.raw().settings, &ASSEMBLE_MIN_MATCH).min(100) as u8
}

/// How good a match is: by what, then whether the path agrees.
fn rank(by: &Match) -> (u8, bool) {
    (by.kind.percent(), by.same_path)
}

/// For each of `prints` the device that it was taken of. No device is chosen for two, the best match
/// comes first, and what one member is known by better is not another's. So with identifiers that agree
/// the order of neither list means anything; where it would, the choice is [`Choice::Unclear`].
///
/// # Errors
///
/// No memory.
pub fn choose(
    prints: &[RawFingerprint],
    candidates: &[Facts<'_>],
) -> Result<KVec<Choice>, AllocError> {
    let mut choices = KVec::with_capacity(prints.len(), GFP_KERNEL)?;
    for _ in prints {
        choices.push(None, GFP_KERNEL)?;
    }
    let mut taken = KVec::with_capacity(candidates.len(), GFP_KERNEL)?;
    for _ in candidates {
        taken.push(false, GFP_KERNEL)?;
    }
    let pairs = || {
        prints.iter().enumerate().flat_map(|(member, print)| {
            candidates.iter().enumerate().filter_map(move |(device, facts)| {
                compare(print, facts).ok().map(|by| (member, device, by))
            })
        })
    };
    loop {
        let open = |&(member, device, _): &(usize, usize, Match)| {
            choices.get(member).is_some_and(Option::is_none) && taken.get(device) == Some(&false)
        };
        let Some((member, device, by)) = best(pairs().filter(open)) else { break };
        let equal = |other: &(usize, usize, Match)| rank(&other.2) == rank(&by);
        let rivals = pairs().filter(open).filter(equal);
        let clear = rivals.filter(|&(m, d, _)| m == member || d == device).count() == 1;
        if clear {
            put(&mut choices, member, Some(Choice::Is(device, by)));
            put(&mut taken, device, true);
            continue;
        }
        // All who are in this with each other: none of them may have what is left over.
        let mut group = KVec::new();
        for pair in pairs().filter(open).filter(equal) {
            group.push(pair, GFP_KERNEL)?;
        }
        let shared = |&(m, d, _): &(usize, usize, Match)| {
            group.iter().filter(|&&(other, at, _)| m == other || d == at).count() > 1
        };
        for pair in group.iter().filter(|pair| shared(pair)) {
            let (member, device, by) = *pair;
            if choices.get(member).is_some_and(Option::is_none) {
                put(&mut choices, member, Some(Choice::Unclear(device, by)));
            }
            put(&mut taken, device, true);
        }
    }
    let mut all = KVec::with_capacity(prints.len(), GFP_KERNEL)?;
    for choice in &choices {
        all.push(choice.unwrap_or(Choice::Nobody), GFP_KERNEL)?;
    }
    Ok(all)
}

fn put<T>(list: &mut KVec<T>, at: usize, value: T) {
    if let Some(slot) = list.get_mut(at) {
        *slot = value;
    }
}

/// The first of the best.
fn best(pairs: impl Iterator<Item = (usize, usize, Match)>) -> Option<(usize, usize, Match)> {
    pairs.reduce(|best, pair| if rank(&pair.2) > rank(&best.2) { pair } else { best })
}
