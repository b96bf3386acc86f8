//! What a tile holds: the bytes of the plain one-tile query, however it is drawn.

pub(crate) mod budgets;
mod cached_objects;
pub(crate) mod cached_rows;
mod cached_shapes;
pub(crate) mod client_filters;
pub(crate) mod column_types;
pub(crate) mod drawing_versions;
pub(crate) mod failing_tiles;
pub(crate) mod growth;
pub(crate) mod natural_earth;
pub(crate) mod one_snapshot_equal_bytes;
pub(crate) mod query_layers;
pub(crate) mod query_plan;
pub(crate) mod reference;
pub(crate) mod registry_map;
pub(crate) mod shapes;
pub(crate) mod side_by_side;
pub(crate) mod tile_bounds;
pub(crate) mod undrawable_rows;
