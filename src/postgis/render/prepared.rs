//! A layer as it is prepared for a run.

use std::sync::Arc;

use super::Worker;
use super::cached_rows::{CacheLimits, CachedRows, RowReaders, none_if_failed};
use crate::cells::CellCounts;
use crate::postgis::layer::Layer;
use crate::postgis::session::{Error, Session, Snapshot};
use crate::postgis::sql::FoldedValues;
use crate::scratch::MAX_POINTS_IN_MEMORY;
use crate::tile::{Coverage, Footprints, LayerFootprints, SortedPoints, Zoom};

/// A probed layer with the data that a run prepared before drawing it: counted cells, cached rows. Clones share everything.
#[derive(Debug, Clone)]
pub struct PreparedLayer {
    layer: Arc<Layer>,
    folds: Option<Arc<FoldedValues>>,
    counts: Option<Arc<CellCounts>>,
    cached_rows: Option<Arc<CachedRows>>,
}

impl PreparedLayer {
    /// A layer without counted cells and cached rows: the database draws all of it.
    #[must_use]
    pub fn new(layer: &Arc<Layer>) -> PreparedLayer {
        PreparedLayer { layer: Arc::clone(layer), folds: None, counts: None, cached_rows: None }
    }

    /// The layer with the values that the survey folded and the cells that it counted, if any.
    #[must_use]
    pub fn with_cells(self, folds: Option<Arc<FoldedValues>>, counts: Option<Arc<CellCounts>>) -> PreparedLayer {
        PreparedLayer { folds, counts, ..self }
    }

    /// The layer with other cached rows, or without any.
    #[must_use]
    pub(in crate::postgis) fn with_cached_rows(self, cached_rows: Option<Arc<CachedRows>>) -> PreparedLayer {
        PreparedLayer { cached_rows, ..self }
    }

    /// The layer with the cached rows of `other`, which must have the same rows at the same positions.
    #[must_use]
    pub fn with_rows_of(self, other: &PreparedLayer) -> PreparedLayer {
        self.with_cached_rows(other.cached_rows.clone())
    }

    /// Caches all rows of the layer that are visible in the coverage at `zooms`; the workers read them in parallel. The layer stays without cached
    /// rows if they exceed `limits` or cannot be read.
    ///
    /// # Errors
    /// If the session is lost, or a stop was requested.
    pub async fn cache_rows(
        self,
        snapshot: &Snapshot,
        workers: &[Worker],
        coverage: &Coverage,
        zooms: &[Zoom],
        limits: CacheLimits,
    ) -> Result<PreparedLayer, Error> {
        snapshot.keeper.set_savepoint().await?;
        let readers: Vec<&Session> = workers.iter().map(Worker::session).collect();
        let layer = self.layer();
        let read = CachedRows::read_all(
            RowReaders { keeper: &snapshot.keeper, others: &readers },
            layer,
            coverage,
            zooms,
            limits,
        )
        .await;
        let cached = none_if_failed(snapshot, layer, read).await?;
        if cached.is_none() {
            // A statement may have failed in any of the sessions.
            for reader in readers {
                reader.return_to_savepoint().await?;
            }
        }
        Ok(self.with_cached_rows(cached.map(Arc::new)))
    }

    /// The layer as it was probed.
    #[must_use]
    pub fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    /// The values that the survey folded.
    pub(in crate::postgis) fn folds(&self) -> Option<&FoldedValues> {
        self.folds.as_deref()
    }

    /// The cells that the survey counted.
    pub(in crate::postgis) fn counts(&self) -> Option<&CellCounts> {
        self.counts.as_deref()
    }

    /// True if the survey counted the layer's cells at this zoom.
    pub(in crate::postgis) fn is_counted(&self, zoom: Zoom) -> bool {
        self.counts().is_some_and(|counts| counts.has(zoom))
    }

    /// The cached rows: all rows of the layer, or those near changes.
    pub(in crate::postgis) fn cached_rows(&self) -> Option<&Arc<CachedRows>> {
        self.cached_rows.as_ref()
    }

    /// True if the layer's rows are cached.
    #[must_use]
    pub fn has_cached_rows(&self) -> bool {
        self.cached_rows.is_some()
    }

    /// The positions of the cached rows, if all rows that the run needs are in memory.
    #[must_use]
    pub fn cached_places(&self) -> Option<LayerFootprints> {
        let rows = self.cached_rows.as_ref().filter(|rows| rows.are_in_memory() && rows.near.is_none())?;
        Some(LayerFootprints::Same(Footprints::Points(SortedPoints::new(rows.worlds()))))
    }

    /// Like [`cached_places`](Self::cached_places), but `None` if the rows are more than a plan keeps in memory.
    #[must_use]
    pub fn few_cached_places(&self) -> Option<LayerFootprints> {
        let is_few = self.cached_rows.as_ref().is_some_and(|rows| rows.count() <= MAX_POINTS_IN_MEMORY);
        if is_few { self.cached_places() } else { None }
    }

    /// The memory that its cached rows take, in bytes.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.cached_rows.as_ref().map_or(0, |rows| rows.bytes())
    }

    /// The number of sessions that read the layer's cached rows in parallel; 0 if none are cached.
    #[must_use]
    pub fn reading_sessions(&self) -> usize {
        self.cached_rows.as_ref().map_or(0, |rows| rows.sessions)
    }

    /// The zoom from which on the cached rows serve areas near changes; `None` if no rows or all rows are cached.
    #[must_use]
    pub fn cached_from(&self) -> Option<Zoom> {
        self.cached_rows.as_ref().and_then(|rows| rows.near)
    }
}
