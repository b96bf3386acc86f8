//! The source: PostGIS. Sessions on one snapshot, what the database holds, layers as SQL, rendering.

mod cancel;
mod connect;
mod error;
mod layer;
mod probe;
mod relation;
mod render;
mod session;
mod sql;
mod survey;
mod tls;

pub use connect::{ConnectOptions, Parts, ServerName, SslMode};
pub use error::{Cause, Error};
pub use layer::{Layer, LayerOptions, Property, PropertySource};
pub use probe::{Probed, Server, probe};
pub use render::Renderer;
pub use session::{Database, SessionOptions, Snapshot};
pub use survey::{Skipped, Surveyed, places, survey};

pub(crate) use layer::quoted;
