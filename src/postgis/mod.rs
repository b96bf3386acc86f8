//! The source: PostGIS. Sessions on one snapshot, what the database holds, layers as SQL, rendering.

mod areas;
mod asked;
mod budget;
mod cancel;
mod connect;
mod described;
mod error;
mod fit;
mod layer;
mod listen;
mod miscounted;
mod point_key;
mod probe;
mod query;
mod query_text;
mod query_values;
mod reads;
mod relation;
mod render;
mod server;
mod session;
mod snapshot;
mod sql;
mod survey;
mod tls;
mod writing;

pub use budget::{Budget, OnLargeTile, OnTileError};
pub use connect::{ConnectOptions, Parts, ServerName, SslMode};
pub use error::{Cause, Error};
pub use layer::{Cells, Layer, LayerOptions, Property, PropertySource, Rows, TilePart};
pub use listen::Listener;
pub use point_key::PointKey;
pub use probe::{Probed, probe};
pub use query::{Query, QueryError};
pub use reads::Reads;
pub use render::Renderer;
pub use server::Server;
pub use session::{Database, SessionOptions};
pub use snapshot::Snapshot;
pub use survey::{Skipped, Surveyed, places, survey};

pub(crate) use layer::quoted;
pub(crate) use relation::{Wanted, look_up};
pub(crate) use session::Session;
pub(crate) use sql::without_bounds;
