//! Where a tile comes from (`served`), and the most wanted tiles in memory, as they are sent (`cache`).

pub(crate) mod cache;
pub(crate) mod served;
