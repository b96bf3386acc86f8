//! Where features lie, by layer and zoom: looked for when the first tile needs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::shared_work::SharedWork;
use crate::postgis::Error;
use crate::tile::{LayerFootprints, LayerIndex, Zoom};

/// Where the features of a layer lie at a zoom, or why that is not known.
pub(super) type PlacesFound = Result<Arc<LayerFootprints>, Arc<Error>>;

/// The looks that were begun.
#[derive(Default)]
pub(super) struct FeaturePlaces(Mutex<HashMap<(LayerIndex, Zoom), SharedWork<PlacesFound>>>);

impl FeaturePlaces {
    /// The look for a layer's features at a zoom; `start` begins it if nobody did, or if its task died.
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
