//! Blocks that describe themselves, and the events of a load that writes them.
