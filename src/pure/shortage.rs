// SPDX-License-Identifier: GPL-2.0

//! Room that has run out: people are told once, and again when there was more in between.

/// Whether something has run out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shortage {
    /// How much was left when it was last too little.
    left: Option<u64>,
}

impl Shortage {
    /// There was too little, as only so much was `left`. Whether that is new.
    pub fn begins(&mut self, left: u64) -> bool {
        self.left.replace(left).is_none()
    }

    /// So much is `left` now. With more than was too little it is over.
    pub fn see(&mut self, left: u64) {
        self.left.take_if(|least| left > *least);
    }

    /// Whether there was too little when last looked at.
    pub fn lasts(&self) -> bool {
        self.left.is_some()
    }
}
