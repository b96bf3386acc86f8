//! PostGIS: sessions on one snapshot, what the database holds, layers as SQL, rendering.
//!
//! ```text
//!  session ◄─ layer ◄─ sql ◄─┬─ probe  ◄─┬─ render
//!                            └─ survey ◄─┘     probe ◄── discover
//! ```
//!
//! | folder | what |
//! |---|---|
//! | `session` | connections, transactions on one snapshot, locks, cancelling, errors |
//! | `layer` | a layer as configured ([`LayerOptions`]) and as probed ([`Layer`]), its query, its boxes |
//! | `sql` | every statement about features |
//! | `probe` | the check that everything that the configuration names is there; takes the locks |
//! | `refresh` | materialized views that a run refreshes before its snapshot |
//! | `split` | parts of a table that several sessions read in parallel |
//! | `survey` | the positions of all features, and the cells that are counted meanwhile |
//! | `render` | batches become tiles |
//! | `variants` | the values of the variants of a tileset |
//! | `discover` | the tables and views with a geometry, for users who have no configuration yet |
//!
//! Imports go down these levels; `tests/it/project/imports.rs` holds the table.

mod discover;
mod layer;
mod probe;
mod refresh;
mod render;
mod session;
mod split;
mod sql;
mod survey;
mod variants;

pub use discover::{
    CatalogColumn, CatalogKey, ColumnExtent, ColumnLink, DiscoveredRelation, Discovery, GeometryColumn, GeometryRows,
    LayerTrial, OSM_ID, SpatialFunction, SpatialKind, SpatialRelation, TableLink, ViewGeometry, ViewRead, discover,
    try_layers,
};
pub use layer::{
    Beyond, Budget, Cells, Layer, LayerKind, LayerOptions, OnLargeTile, OnTileError, Property, PropertySource, Query,
    QueryError, ROW_NUMBER, RowZooms, Rows, Simplify, TileFunction, TilePart, joined_conditions, parameter_array,
    placeholder_in,
};
pub(crate) use layer::{CommentLayer, FunctionComment};
pub use probe::{
    JumpingRows, LayerLocks, NamedLayers, Probed, Reads, Server, jumping_rows, probe, probe_names, server_of,
};
pub use refresh::refresh_views;
pub use render::{
    CacheLimits, CachedRenderer, FamilyCondition, FamilyRows, FamilyTiles, LayerPlan, MAX_PLACES, PlacedRows,
    PreparedLayer, RENDERING_VERSION, Renderer, RunLayers, VariantLayer, Worker, check_narrowed, members_at,
    session_value, verify_cached_rows, with_neighbourhood,
};
pub use session::{
    Cause, ConnectOptions, Database, Error, ExportedSnapshot, Listener, Parts, ServerName, SessionOptions, SessionRoom,
    SessionValue, Snapshot, SslMode,
};
pub use sql::{ExpectedRows, FoldedValues};
pub use survey::{ChangedGeometries, Skipped, Surveyed, changed_positions, counts_cells, foldable, survey};
pub use variants::{MAX_VARIANTS, VariantParameter, VariantTable, bound_condition, variant_table};

pub(crate) use probe::{RelationName, look_up};
pub(crate) use session::{DRAWN_TEXTS, LOGGED_TEXTS, Session, TextSetting, quoted};
pub(crate) use sql::without_bounds;
pub(crate) use survey::{count_rows, survey_for_plan, survey_side_by_side};
