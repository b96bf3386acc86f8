//! Rows of points joined in the background with what has changed since they were read, so that no step waits for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

use crate::draw::cached_rows::{JoinedRows, KeptFeatures};
use crate::error::with_causes;
use crate::postgis::layer::Layer;
use crate::scratch::temporary_folder;

/// The joining of a layer's rows that is under way, if there is one.
#[derive(Debug, Default)]
pub(super) struct Joining(Option<Running>);

#[derive(Debug)]
struct Running {
    task: JoinHandle<io::Result<Option<JoinedRows>>>,
    is_given_up: Arc<AtomicBool>,
    /// The memory that the joined rows may take while they are joined, in bytes.
    bytes: usize,
}

impl Joining {
    /// The memory that it takes beside the rows, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |running| running.bytes)
    }

    /// Lets the rows go on from the joined ones, if these are there. False if the rows must not be used any more.
    pub(super) async fn go_on(&mut self, rows: &mut KeptFeatures) -> bool {
        let Some(mut running) = self.0.take_if(|running| running.task.is_finished()) else { return true };
        match (&mut running.task).await {
            Ok(Ok(Some(joined))) => tokio::task::block_in_place(|| rows.go_on_from(joined)).is_some(),
            // The reason of an error was logged.
            Ok(Ok(None) | Err(_)) => false,
            Err(error) => {
                tracing::debug!("rows were not joined: {}", with_causes(&error));
                false
            }
        }
    }

    /// Begins to join the rows with what has changed, if that is due and `memory` bytes hold both. False if there is no
    /// room for both and so much has changed that the rows are to be read anew.
    pub(super) fn begin_if_due(&mut self, rows: &KeptFeatures, layer: &Layer, memory: usize) -> bool {
        if self.0.is_some() || !rows.are_to_be_joined() {
            return true;
        }
        let (name, changed, bytes) = (&layer.name, rows.changed(), rows.bytes_of_join());
        if rows.bytes() + bytes > memory {
            if rows.are_overdue() {
                tracing::info!(
                    "layer \"{name}\": its rows are read anew: {changed} of them have changed, and rows_mb has no room to join these with the others"
                );
            }
            return !rows.are_overdue();
        }
        tracing::debug!("layer \"{name}\": {changed} changed rows are being joined with the others");
        let (rows, is_given_up) = (rows.copied(), Arc::<AtomicBool>::default());
        let asked = Arc::clone(&is_given_up);
        let name = name.clone();
        let task = tokio::task::spawn_blocking(move || {
            rows.join(&asked).inspect_err(|error| {
                if rows.have_failed() {
                    // That their file cannot be read was logged.
                    return;
                }
                tracing::warn!(
                    "layer \"{name}\": its rows are read anew: {changed} of them have changed, and the temporary folder {} does not take these with the others ({error}). Make room there, set TMPDIR to another one, or raise rows_mb",
                    temporary_folder().display()
                );
            })
        });
        self.0 = Some(Running { task, is_given_up, bytes });
        true
    }
}

impl Drop for Running {
    /// Lets a task end early whose result nobody takes: it keeps the rows in memory.
    fn drop(&mut self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}
