//! What every kind of target promises.

pub(crate) mod areas;
pub(crate) mod caddy;
pub(crate) mod changed_tiles;
pub(crate) mod copied_parts;
pub(crate) mod copy;
pub(crate) mod descriptions;
pub(crate) mod edit_contract;
pub(crate) mod equal_tiles;
pub(crate) mod files_beside;
pub(crate) mod kept_notes;
pub(crate) mod lost_rows;
pub(crate) mod map;
pub(crate) mod nginx;
pub(crate) mod other_tilesets;
pub(crate) mod public_url;
pub(crate) mod publications;
pub(crate) mod shrink;
pub(crate) mod since;
pub(crate) mod sink_contract;
pub(crate) mod versions;
pub(crate) mod web;
