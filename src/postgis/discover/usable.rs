//! Whether layers can be drawn: each is probed by itself, and an error of one does not hide those of the others.

use crate::error::ErrorKind;
use crate::postgis::layer::LayerOptions;
use crate::postgis::probe::{LayerLocks, LayerProbe, NamedLayer};
use crate::postgis::session::{Error, Session, Snapshot};
use crate::tile::LayerId;

/// What the probe says of a layer.
#[derive(Debug)]
pub struct LayerTrial {
    /// The layer's id.
    pub id: LayerId,
    /// The layer's name.
    pub layer: String,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Why it cannot be drawn.
    pub error: Option<Error>,
}

/// Probes each layer.
///
/// # Errors
/// If the database is lost, or a stop was asked for.
pub async fn try_layers(snapshot: &Snapshot, layers: &[LayerOptions]) -> Result<Vec<LayerTrial>, Error> {
    let session = &snapshot.keeper;
    crate::postgis::probe::server(session).await?;
    let mut trials = Vec::new();
    for options in layers {
        session.set_savepoint().await?;
        let mut warnings = Vec::new();
        let error = match try_layer(session, options, &mut warnings).await {
            Ok(()) => None,
            Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::Failed) => {
                session.return_to_savepoint().await?;
                Some(error)
            }
            Err(error) => return Err(error),
        };
        trials.push(LayerTrial { id: options.id, layer: options.name.clone(), warnings, error });
    }
    Ok(trials)
}

async fn try_layer(session: &Session, options: &LayerOptions, warnings: &mut Vec<String>) -> Result<(), Error> {
    let named = LayerProbe { session, options }.names().await?;
    LayerLocks::of(std::iter::once(NamedLayer::layer(&named))).take(session).await?;
    named.rows(warnings).await.map(drop)
}
