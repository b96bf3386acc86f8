//! PostGIS: sessions on one snapshot, what the database holds, layers as SQL.
//!
//! ```text
//!  session ◄─ layer ◄─ sql ◄─┬─ probe  ◄─── discover
//!                            └─ survey
//! ```
//!
//! | folder | what |
//! |---|---|
//! | `session/` | connections, transactions on one snapshot, locks, cancelling, errors |
//! | `layer/` | a layer as configured (`LayerOptions`) and as probed (`Layer`), its query, its boxes |
//! | `sql/` | a layer as SQL: the statements that survey, render and read it |
//! | `probe/` | the check that everything that the configuration names is there; takes the locks |
//! | `refresh` | materialized views that a run refreshes before its snapshot |
//! | `split` | parts of a table that several sessions read in parallel |
//! | `survey/` | the positions of all features, and the cells that are counted meanwhile |
//! | `variants` | the values of the variants of a tileset |
//! | `wkb` | geometries as the database sends them |
//! | `discover/` | the tables and views with a geometry, for users who have no configuration yet |
//!
//! Imports go down these levels; `tests/it/project/imports.rs` holds the table.

mod discover;
pub(crate) mod layer;
pub(crate) mod probe;
mod refresh;
pub(crate) mod session;
pub(crate) mod split;
pub(crate) mod sql;
pub(crate) mod survey;
pub(crate) mod variants;
pub(crate) mod wkb;

#[cfg(test)]
pub(crate) use discover::ShapeSpread;
pub(crate) use discover::{
    CatalogColumn, ColumnExtent, DEEPEST, DiscoveredRelation, Discovery, GeometryColumn, GeometryRows, LARGE_ZOOMS,
    OSM_ID, SpatialFunction, SpatialKind, SpatialRelation, TableLink, ViewRead, WorldShare, discover, try_layers,
};
pub(crate) use layer::{
    AggregateSection, ClusterSection, CommentLayer, Fraction, FunctionComment, Limit, Properties, RowCondition,
    SimplifySection,
};
pub(crate) use layer::{
    Beyond, Budget, Cells, Facet, FacetChoice, FacetMatch, FacetType, FacetValue, FrequentValue, Layer, LayerKind,
    LayerOptions, LayerSection, LayerTraits, OnLargeTile, OnTileError, Property, PropertySource, Query, QueryError,
    ROW_NUMBER, RowZooms, Rows, Simplify, TileFunction, TilePart, TrackSection, WantedValues, joined_conditions,
    parameter_array, placeholder_in,
};
pub(crate) use probe::{
    DeclaredGeometry, LayerLocks, MANY_VERTICES, Pieces, Probed, Reads, Server, jumping_rows, probe_names,
    repaired_while_drawn, server_of,
};
pub(crate) use probe::{RelationName, look_up};
pub use probe::{probe, shows_rows_as_written};
pub(crate) use refresh::refresh_views;
pub(crate) use session::{
    Cause, ConnectOptions, DatabaseSection, Error, ExportedSnapshot, Listener, ServerName, SessionOptions,
    SessionValue, Snapshot,
};
pub use session::{ConnectParts, Database};
pub(crate) use session::{DRAWN_TEXTS, LOGGED_TEXTS, Session, TextSetting, quoted};
pub(crate) use sql::ExpectedRows;
pub(crate) use sql::without_bounds;
pub(crate) use survey::RepairedShapes;
pub(crate) use survey::{
    ChangedGeometries, Skipped, Surveyed, changed_positions, count_of_table, counts_cells, foldable, survey,
    survey_of_read_rows,
};
pub(crate) use survey::{
    FoldReader, RowCountAndBox, count_rows, count_rows_and_box, frequent_values, survey_for_plan, survey_side_by_side,
};
pub(crate) use variants::{VariantParameter, VariantTable, bound_condition, variant_table};
