//! Tiles restricted to some rows: the values that their conditions read, and the plans of their statements.

use super::Worker;
use super::drawing::{BatchDrawing, LayerPlan};
use super::statements::RunLayers;
use crate::postgis::layer::{LayerOptions, setting};
use crate::postgis::probe::probe_names;
use crate::postgis::session::{Error, SessionValue, Snapshot};
use crate::tile::Batch;

/// The values of a parameter, as an array of texts in text form.
#[must_use]
pub fn session_value(name: &str, array: String) -> SessionValue {
    SessionValue { setting: setting(name), array }
}

impl Worker {
    /// Sets the values that the conditions of narrowed layers read.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn set_values(&self, values: &[SessionValue]) -> Result<(), Error> {
        if values.is_empty() { Ok(()) } else { self.session().set_values(values).await }
    }

    /// The plans of the statements of a batch, which are not run. Functions have no plans.
    ///
    /// # Errors
    /// If a statement fails.
    pub async fn explain(&self, layers: &RunLayers, batch: &Batch) -> Result<Vec<LayerPlan>, Error> {
        BatchDrawing::new(self, layers).explain(batch).await
    }
}

/// Checks layers whose conditions read the values of requests, with `values` as examples.
///
/// # Errors
/// If the database does not understand a condition.
pub async fn check_narrowed(
    snapshot: &Snapshot,
    layers: &[LayerOptions],
    values: &[SessionValue],
) -> Result<(), Error> {
    snapshot.keeper.set_savepoint().await?;
    snapshot.keeper.set_values(values).await?;
    probe_names(snapshot, layers).await.map(|_named| ())
}
