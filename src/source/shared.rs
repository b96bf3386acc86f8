//! A tile that several targets of one run have alike.

use std::sync::OnceLock;

/// The bytes of a tile as targets store them, once one of them has packed it.
#[derive(Debug, PartialEq, Eq)]
pub struct SharedTile {
    packed: OnceLock<Box<[u8]>>,
    most: usize,
}

impl SharedTile {
    /// A tile that nobody has packed. One with more than `most` bytes is not kept: they are all the memory that there is for it.
    #[must_use]
    pub const fn new(most: usize) -> SharedTile {
        SharedTile { packed: OnceLock::new(), most }
    }

    /// The packed bytes; `None` as long as nobody has packed them.
    #[must_use]
    pub fn packed(&self) -> Option<&[u8]> {
        self.packed.get().map(|bytes| &bytes[..])
    }

    /// Keeps the packed bytes for others, if they are not too many. Whoever comes later has packed the same.
    pub fn keep(&self, packed: &[u8]) {
        if packed.len() <= self.most {
            self.packed.get_or_init(|| packed.into());
        }
    }
}
