//! A reseed leaves what a fresh seed would.

pub(crate) mod cached_rows_near_changes;
pub(crate) mod changed_out;
pub(crate) mod changed_shapes;
pub(crate) mod covers;
pub(crate) mod dirty_out;
pub(crate) mod dirty_tiles;
pub(crate) mod edge_cases;
pub(crate) mod edited_archives;
pub(crate) mod faults;
pub(crate) mod histories;
pub(crate) mod live_rows;
pub(crate) mod logged_texts;
pub(crate) mod materialized_views;
pub(crate) mod named_tiles;
pub(crate) mod patches;
pub(crate) mod query_layers;
pub(crate) mod reference_systems;
pub(crate) mod refused;
pub(crate) mod seeded_in_parts;
pub(crate) mod watch;
