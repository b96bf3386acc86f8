//! What every kind of target promises.

pub mod copy;
pub mod edit_contract;
pub mod equal_tiles;
pub mod map;
pub mod nginx;
pub mod other_tilesets;
pub mod public_url;
pub mod shrink;
pub mod sink_contract;
pub mod versions;
