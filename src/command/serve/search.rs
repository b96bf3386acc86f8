//! Where features lie, by layer and zoom. They are surveyed when the first tile needs them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::shared_work::SharedWork;
use crate::postgis::Error;
use crate::tile::{LayerFootprints, LayerIndex, Zoom};

/// Where the features of a layer lie at a zoom, or why the survey failed.
pub(super) type PlacesFound = Result<Arc<LayerFootprints>, Arc<Error>>;

/// The surveys that were begun.
#[derive(Default)]
pub(super) struct FeaturePlaces(Mutex<HashMap<(LayerIndex, Zoom), SharedWork<PlacesFound>>>);

impl FeaturePlaces {
    /// The survey of a layer's features at a zoom. `start` begins it if it was not begun yet, or if its task died.
    pub(super) fn look(
        &self,
        layer: LayerIndex,
        zoom: Zoom,
        start: impl FnOnce() -> SharedWork<PlacesFound>,
    ) -> SharedWork<PlacesFound> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = looks.get(&(layer, zoom)).filter(|look| !look.is_dead()).cloned();
        known.unwrap_or_else(|| {
            let look = start();
            looks.insert((layer, zoom), look.clone());
            look
        })
    }
}
