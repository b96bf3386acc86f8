//! Asking the database, before the first tile, whether everything that the configuration names is there and fits.

mod beyond;
mod layer;
mod locks;
mod query;
mod reads;
mod relation;
mod server;

use std::sync::Arc;

use super::layer::{Layer, LayerOptions};
use super::session::{Error, Snapshot};
use layer::{LayerProbe, NamedLayer};
use reads::reads;
use server::{server, superuser};

pub use locks::LayerLocks;
pub use reads::Reads;
pub use server::Server;

pub(crate) use relation::{RelationName, look_up};

/// What was found.
#[derive(Debug)]
pub struct Probed {
    /// The server and database.
    pub server: Server,
    /// The layers, in the order of the configuration.
    pub layers: Vec<Arc<Layer>>,
    /// The locks on all that they read; the session that holds the snapshot has taken them.
    pub locks: LayerLocks,
    /// The tables and views that they read.
    pub reads: Reads,
    /// What the user should know, though the run can go on.
    pub warnings: Vec<String>,
    /// The first of these, if the role is a superuser and others could make use of that.
    pub superuser: Option<String>,
}

/// Layers whose names and expressions were found. The session that holds the snapshot has locked all that they read, and has read no row yet:
/// this is the moment for other sessions of the run to take the same locks.
pub struct NamedLayers<'a> {
    snapshot: &'a Snapshot,
    server: Server,
    layers: Vec<NamedLayer<'a>>,
    locks: LayerLocks,
    superuser: Option<String>,
}

/// Looks at the server, and looks up what every layer names; then takes the locks on all that the layers read.
///
/// # Errors
/// If PostGIS is missing or too old, or a layer names something that is not there, may not be read or does not fit.
pub async fn probe_names<'a>(snapshot: &'a Snapshot, layers: &'a [LayerOptions]) -> Result<NamedLayers<'a>, Error> {
    let session = &snapshot.keeper;
    let server = server(session).await?;
    // Before the layers are planned: that alone runs functions.
    let superuser = superuser(session).await?;
    let mut named = Vec::new();
    for options in layers {
        named.push(LayerProbe { session, options }.names().await?);
    }
    let locks = LayerLocks::of(named.iter().map(NamedLayer::layer));
    locks.take(session).await?;
    Ok(NamedLayers { snapshot, server, layers: named, locks, superuser })
}

impl NamedLayers<'_> {
    /// The locks on all that the layers read.
    #[must_use]
    pub fn locks(&self) -> &LayerLocks {
        &self.locks
    }

    /// Looks at the rows: at their reference systems, their kinds of geometry and their keys.
    ///
    /// # Errors
    /// If the rows of a layer do not fit, or what it reads did not stand still since the snapshot was taken.
    pub async fn probe_rows(self) -> Result<Probed, Error> {
        let NamedLayers { snapshot, server, layers: named, locks, superuser } = self;
        let (mut layers, mut warnings) = (Vec::new(), Vec::from_iter(superuser.clone()));
        for named in named {
            layers.push(Arc::new(named.rows(&mut warnings).await?));
        }
        let reads = reads(&snapshot.keeper, &locks).await?;
        Ok(Probed { server, layers, locks, reads, warnings, superuser })
    }
}

/// Looks at the server and at every layer.
///
/// # Errors
/// If PostGIS is missing or too old, or a layer names something that is not there, may not be read or does not fit.
pub async fn probe(snapshot: &Snapshot, layers: &[LayerOptions]) -> Result<Probed, Error> {
    probe_names(snapshot, layers).await?.probe_rows().await
}
