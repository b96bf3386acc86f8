//! The statements that render the layers of a run, and the choice of a statement for each area.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::PreparedLayer;
use crate::postgis::layer::Layer;
use crate::postgis::sql;
use crate::postgis::sql::Candidates;
use crate::source::RenderedTile;
use crate::tile::{Area, TileCoord};

/// The layers of a run with their statements, in the order of the configuration. They are built once and shared by all
/// workers.
pub(crate) struct RunLayers {
    layers: Vec<LayerStatements>,
    /// Time that workers spent on drawing tiles from cached rows, in microseconds.
    drawing: AtomicU64,
    shapes: AtomicU64,
    asked_shapes: AtomicU64,
    /// Tiles whose content others repeat.
    pub(crate) repeated: RepeatedTiles,
}

impl RunLayers {
    pub(crate) fn new(layers: &[PreparedLayer]) -> Arc<RunLayers> {
        let layers = layers.iter().map(LayerStatements::new).collect();
        let [drawing, shapes, asked_shapes] = std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(RunLayers { layers, drawing, shapes, asked_shapes, repeated: RepeatedTiles::default() })
    }

    pub(crate) fn all(&self) -> &[LayerStatements] {
        &self.layers
    }

    /// What was drawn from cached rows up to now.
    pub(crate) fn work_on_rows(&self) -> WorkOnRows {
        let [drawing, shapes, asked_shapes] =
            [&self.drawing, &self.shapes, &self.asked_shapes].map(|figure| figure.load(Ordering::Relaxed));
        WorkOnRows { time: Duration::from_micros(drawing), shapes, asked_shapes }
    }

    /// Counts lines and polygons that were drawn from cached rows, and those of them that the database drew.
    pub(crate) fn note_shapes(&self, shapes: u64, asked: usize) {
        self.shapes.fetch_add(shapes, Ordering::Relaxed);
        self.asked_shapes.fetch_add(asked as u64, Ordering::Relaxed);
    }

    pub(crate) fn note_drawing(&self, took: Duration) {
        self.drawing.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What was drawn from cached rows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WorkOnRows {
    /// Time that workers spent on it, added up over the workers. The rest of their rendering is the database's.
    pub(crate) time: Duration,
    /// Lines and polygons, counted in each tile.
    pub(crate) shapes: u64,
    /// How many of these the database drew one by one.
    pub(crate) asked_shapes: u64,
}

/// The contents that have been rendered so far, by the tile that was rendered for each.
#[derive(Default)]
pub(crate) struct RepeatedTiles(Mutex<HashMap<TileCoord, RepeatedContent>>);

/// The content of tiles inside of the same polygons.
#[derive(Clone)]
pub(crate) enum RepeatedContent {
    Same(Arc<RenderedTile>),
    /// The compared tile had other bytes, so each of these tiles is rendered by itself.
    Differs,
}

impl RepeatedTiles {
    pub(crate) fn get(&self, rendered: TileCoord) -> Option<RepeatedContent> {
        self.0.lock().get(&rendered).cloned()
    }

    pub(crate) fn insert(&self, rendered: TileCoord, content: RepeatedContent) {
        self.0.lock().insert(rendered, content);
    }
}

pub(crate) struct LayerStatements {
    pub(crate) prepared: PreparedLayer,
    /// The statement over [`Candidates::Found`].
    found: String,
    /// The statement over [`Candidates::Touching`]; `None` for cells and functions.
    touching: Option<String>,
    /// The statement over [`Candidates::Counted`]; `None` if no cells were counted.
    counted: Option<String>,
}

impl LayerStatements {
    fn new(prepared: &PreparedLayer) -> LayerStatements {
        let repair = prepared.surveyed_repair();
        let statement = |candidates| sql::render(prepared.layer(), prepared.folds(), repair, candidates);
        LayerStatements {
            prepared: prepared.clone(),
            found: statement(Candidates::Found),
            touching: is_drawn_by_row(prepared.layer()).then(|| statement(Candidates::Touching)),
            counted: prepared.counts().map(|_| statement(Candidates::Counted)),
        }
    }

    /// Divides the areas into groups that one statement each can render, with the candidates of that statement. At
    /// zooms whose cells were counted, the candidates are the counted cells.
    pub(crate) fn parts(&self, areas: &[Area]) -> Vec<(Vec<Area>, Candidates)> {
        let is_counted = |area: &Area| self.prepared.is_counted(area.rect.zoom);
        let (counted, others): (Vec<Area>, Vec<Area>) = areas.iter().cloned().partition(is_counted);
        let parts = [(counted, Candidates::Counted), (others, Candidates::Found)];
        parts.into_iter().filter(|(areas, _)| !areas.is_empty()).collect()
    }

    /// True if there is a statement over [`Candidates::Touching`].
    pub(crate) fn has_touching(&self) -> bool {
        self.touching.is_some()
    }

    /// The statement over `candidates`, or over [`Candidates::Found`] if the layer has no statement over `candidates`.
    pub(crate) fn statement(&self, candidates: Candidates) -> &str {
        let other = match candidates {
            Candidates::Found => None,
            Candidates::Touching => self.touching.as_ref(),
            Candidates::Counted => self.counted.as_ref(),
        };
        other.unwrap_or(&self.found)
    }
}

fn is_drawn_by_row(layer: &Layer) -> bool {
    layer.cells().is_none() && layer.function().is_none()
}
