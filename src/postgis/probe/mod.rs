//! The probe: checks, before the first tile, that everything that the configuration names exists in the database and fits.
//!
//! | file | subject |
//! |---|---|
//! | `server` | the server, the database and the role |
//! | `relation`, `query` | the columns of a relation, or of a query |
//! | `layer/` | one layer: names, expressions, rows |
//! | `beyond` | rows beyond ±180° |
//! | `jumps` | lines and rings that jump from one side of ±180° to the other |
//! | `locks`, `reads` | locks on everything that the layers read, and a check whether it changed |

mod beyond;
mod jumps;
mod layer;
mod locks;
mod query;
mod reads;
mod relation;
mod server;

use std::sync::Arc;

use super::layer::{Layer, LayerOptions};
use super::session::{Error, Snapshot};
use reads::reads;
use server::superuser;

pub use jumps::{JumpingRows, jumping_rows};
pub use locks::LayerLocks;
pub use reads::Reads;
pub use server::{Server, server_of};

pub(in crate::postgis) use layer::{LayerProbe, NamedLayer};
pub(in crate::postgis) use locks::names_and_locks;
pub(in crate::postgis) use reads::{RowSecurity, row_security, row_security_warning};
pub(crate) use relation::{RelationName, look_up};
pub(in crate::postgis) use server::server;

/// The result of the probe.
#[derive(Debug)]
pub struct Probed {
    /// The server and database.
    pub server: Server,
    /// The layers, in the order of the configuration.
    pub layers: Vec<Arc<Layer>>,
    /// The locks on everything that the layers read; the session that holds the snapshot has taken them.
    pub locks: LayerLocks,
    /// The tables and views that the layers read.
    pub reads: Reads,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// The warning that the role is a superuser and that other roles could exploit that; `warnings` contains it, too.
    pub superuser: Option<String>,
}

/// Layers whose names and expressions are checked. The session that holds the snapshot has locked everything that they read and has read no row
/// yet, so other sessions of the run should take the same locks now.
pub struct NamedLayers<'a> {
    snapshot: &'a Snapshot,
    server: Server,
    layers: Vec<NamedLayer<'a>>,
    locks: LayerLocks,
    superuser: Option<String>,
}

/// Probes the server and the names and expressions of every layer, then takes the locks on everything that the layers read.
///
/// # Errors
/// If PostGIS is missing or too old, or a layer names something that does not exist, may not be read or does not fit.
pub async fn probe_names<'a>(snapshot: &'a Snapshot, layers: &'a [LayerOptions]) -> Result<NamedLayers<'a>, Error> {
    let session = &snapshot.keeper;
    let server = server(session).await?;
    // Before statements over the layers are planned: planning alone runs functions of other owners.
    let superuser = superuser(session).await?;
    let (named, locks) = names_and_locks(session, layers).await?;
    Ok(NamedLayers { snapshot, server, layers: named, locks, superuser })
}

impl NamedLayers<'_> {
    /// The locks on everything that the layers read.
    #[must_use]
    pub fn locks(&self) -> &LayerLocks {
        &self.locks
    }

    /// Probes the rows: their reference systems, their types of geometry and their keys.
    ///
    /// # Errors
    /// If the rows of a layer do not fit, or a table that it reads was rewritten or replaced after the snapshot was taken.
    pub async fn probe_rows(self) -> Result<Probed, Error> {
        let NamedLayers { snapshot, server, layers: named, locks, superuser } = self;
        let (mut layers, mut warnings) = (Vec::new(), Vec::from_iter(superuser.clone()));
        for named in named {
            layers.push(Arc::new(named.rows(&server.encoding, &mut warnings).await?));
        }
        let reads = reads(&snapshot.keeper, &locks).await?;
        warnings.extend(row_security_warning(&row_security(&snapshot.keeper).await?));
        Ok(Probed { server, layers, locks, reads, warnings, superuser })
    }
}

/// Probes the server and every layer.
///
/// # Errors
/// If PostGIS is missing or too old, or a layer names something that does not exist, may not be read or does not fit.
pub async fn probe(snapshot: &Snapshot, layers: &[LayerOptions]) -> Result<Probed, Error> {
    probe_names(snapshot, layers).await?.probe_rows().await
}
