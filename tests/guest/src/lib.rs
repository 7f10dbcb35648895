//! What the two sides of a test machine share: the frames between host and agent ([`wire`]), and the blocks and events of a
//! load that a power cut may end ([`load`]).

#![forbid(unsafe_code)]

pub mod load;
pub mod wire;
