// SPDX-License-Identifier: GPL-2.0

//! Memory for the pure code: the kernel's fallible collections in the kernel, their like on the
//! host. Only what both sides have is used, under the kernel's names and with its signatures.
//!
//! Nothing here says how the kernel may get the memory: the code runs inside a scope
//! (`memalloc_noio_save`) where that matters.

#[cfg(CONFIG_RUST)]
pub use kernel::{
    alloc::{flags::GFP_KERNEL, AllocError, Flags, KVVec, KVec},
    sync::Arc,
};

#[cfg(not(CONFIG_RUST))]
mod host;
#[cfg(not(CONFIG_RUST))]
pub use host::{
    fail_after, fail_once_after, refused, AllocError, Arc, Flags, KVVec, KVec, GFP_KERNEL,
};

/// Bytes in a block of metadata.
pub const BLOCK_SIZE: usize = 4096;

static ZEROES: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// Whether these bytes, of a block at most, are all zero. A comparison looks at many of them at a time.
pub fn is_zero(bytes: &[u8]) -> bool {
    ZEROES.get(..bytes.len()).is_some_and(|zeroes| bytes == zeroes)
}

/// One block of metadata or data on its way to or from a device. In the kernel its 4096 bytes are
/// one naturally aligned slab object, which a bio takes as it is.
pub struct Block(KVec<u8>);

impl Block {
    /// A block of zeroes.
    pub fn zeroed() -> Result<Self, AllocError> {
        Self::zeroed_from(GFP_KERNEL)
    }

    /// A block of zeroes, in memory that is asked for with `flags`.
    pub fn zeroed_from(flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(KVec::from_elem(0u8, BLOCK_SIZE, flags)?))
    }
}

impl core::ops::Deref for Block {
    type Target = [u8; BLOCK_SIZE];

    fn deref(&self) -> &Self::Target {
        match self.0.as_slice().first_chunk() {
            Some(bytes) => bytes,
            // A block is never resized.
            None => unreachable!(),
        }
    }
}

impl core::ops::DerefMut for Block {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self.0.as_mut_slice().first_chunk_mut() {
            Some(bytes) => bytes,
            None => unreachable!(),
        }
    }
}
