//! A tile that several targets of one run have alike.

use std::sync::OnceLock;

/// The bytes of a tile as targets store them, once one of them has packed it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SharedTile(OnceLock<Box<[u8]>>);

impl SharedTile {
    /// The packed bytes; `None` as long as nobody has packed them.
    #[must_use]
    pub fn packed(&self) -> Option<&[u8]> {
        self.0.get().map(|bytes| &bytes[..])
    }

    /// Keeps the packed bytes for others. Whoever comes later has packed the same.
    pub fn keep(&self, packed: &[u8]) {
        self.0.get_or_init(|| packed.into());
    }
}
