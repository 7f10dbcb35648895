//! Small changes of a block, as the fuzzer spells them.

use remap_pure::entry::{BLOCK_HEADER_SIZE, ENTRIES_PER_BLOCK, ENTRY_SIZE};
use remap_pure::format::header::{STRUCTURES, STRUCTURE_GROUPS};
use remap_pure::mem::BLOCK_SIZE;

/// The bytes of a block.
pub type Bytes = [u8; BLOCK_SIZE];

/// Checksums as the format has them.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// A change: eight bytes of what the fuzzer has made up.
#[derive(Clone, Copy)]
pub struct Patch([u8; 8]);

impl Patch {
    /// Those that `data` spells.
    pub fn all(data: &[u8]) -> impl Iterator<Item = Self> + '_ {
        data.chunks_exact(8).filter_map(|bytes| Some(Self(bytes.try_into().ok()?)))
    }

    /// What kind of change.
    pub fn what(self) -> u8 {
        self.0[0]
    }

    /// Where: which spare, copy and block, mostly one of those in use.
    pub fn place(self) -> (usize, usize, u64) {
        let (spare, copy) = (usize::from(self.0[1] >> 4), usize::from(self.0[1] & 15));
        let block = if self.0[2] < 224 { self.0[2] % 8 } else { self.0[2] };
        (spare, copy, u64::from(block))
    }

    /// A number.
    pub fn number(self) -> u8 {
        self.0[5]
    }

    /// Three bytes of the block become others.
    pub fn bytes(self, block: &mut Bytes) {
        let at = self.offset();
        for (byte, new) in block[at..].iter_mut().zip(&self.0[5..]) {
            *byte = *new;
        }
    }

    /// Eight bytes of the block become a number, which may be a large one.
    pub fn large(self, block: &mut Bytes) {
        let at = self.offset();
        let low = u64::from(u16::from_le_bytes([self.0[6], self.0[7]]));
        let value =
            if self.0[5] & 64 != 0 { !(low << (self.0[5] & 63)) } else { low << (self.0[5] & 63) };
        for (byte, new) in block[at..].iter_mut().zip(value.to_le_bytes()) {
            *byte = new;
        }
    }

    /// An entry of a table block gets another place on a spare, near one of `edges`, another length,
    /// and another kind.
    pub fn entry(self, block: &mut Bytes, edges: &[u64]) {
        let at = BLOCK_HEADER_SIZE + self.offset() % ENTRIES_PER_BLOCK * ENTRY_SIZE;
        let [edge, near, rest] = [self.0[5], self.0[6], self.0[7]];
        let edge = edges[usize::from(edge) % edges.len()];
        let to = edge.saturating_add_signed(i64::from(near as i8));
        let (kind, spare, len) = (rest % 5, (rest >> 3) & 7, (rest >> 6) + 1);
        let place = (to << 16) | (u64::from(spare) << 12) | (u64::from(kind) << 8);
        block[at..at + 2].copy_from_slice(&u16::from(len).to_le_bytes());
        block[at + 8..at + 16].copy_from_slice(&place.to_le_bytes());
    }

    fn offset(self) -> usize {
        usize::from(u16::from_le_bytes([self.0[3], self.0[4]])) % BLOCK_SIZE
    }
}

/// Makes every checksum of a header fit.
pub fn seal_header(block: &mut Bytes) {
    let mut groups = [const { Vec::new() }; STRUCTURE_GROUPS.len()];
    for s in &STRUCTURES {
        let end = s.start + s.len;
        let sum = crc(&block[s.start..end - 4]).to_le_bytes();
        block[end - 4..end].copy_from_slice(&sum);
        let group = STRUCTURE_GROUPS.iter().position(|g| (g.start..g.end).contains(&s.start));
        groups[group.unwrap()].extend(sum);
    }
    for (i, sums) in groups.iter().enumerate() {
        block[4064 + 4 * i..][..4].copy_from_slice(&crc(sums).to_le_bytes());
    }
    let sum = crc(&block[..4092]).to_le_bytes();
    block[4092..].copy_from_slice(&sum);
}

/// Makes the checksum of a table block fit.
pub fn seal_block(block: &mut Bytes) {
    let sum = crc(&block[4..]).to_le_bytes();
    block[..4].copy_from_slice(&sum);
}
