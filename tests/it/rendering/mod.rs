//! What a tile holds: the bytes of the plain one-tile query, however it is drawn.

pub mod budgets;
pub mod cached_rows;
pub mod client_filters;
pub mod column_types;
pub mod drawing_versions;
pub mod failing_tiles;
pub mod one_snapshot_equal_bytes;
pub mod query_layers;
pub mod query_plan;
pub mod reference;
pub mod registry_map;
pub mod tile_bounds;
pub mod undrawable_rows;
