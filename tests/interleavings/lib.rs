//! What several processors do at once with what the pure code counts, in all orders that the memory model allows (as far as `loom` knows it).

pub mod atomic;
#[path = "../../src/pure/cache.rs"]
pub mod cache;

#[cfg(test)]
mod flushes;
