//! The statements that render the layers of a run, and which of them serves which area.

use std::sync::Arc;

use super::prepared::PreparedLayer;
use crate::postgis::sql::{self, Candidates};
use crate::tile::Area;

/// The layers of a run with their statements, in the order of the configuration. Made once; all workers share them.
pub struct RunLayers(Vec<LayerStatements>);

impl RunLayers {
    /// Writes the statements.
    #[must_use]
    pub fn new(layers: &[PreparedLayer]) -> Arc<RunLayers> {
        Arc::new(RunLayers(layers.iter().map(LayerStatements::new).collect()))
    }

    /// All layers.
    pub(in crate::postgis) fn all(&self) -> &[LayerStatements] {
        &self.0
    }
}

/// A layer and its statements.
pub(in crate::postgis) struct LayerStatements {
    pub(in crate::postgis) prepared: PreparedLayer,
    /// The statement over [`Candidates::Found`].
    found: String,
    /// The statement over [`Candidates::Touching`]; `None` for cells.
    touching: Option<String>,
    /// The statement over [`Candidates::Counted`]; `None` if no cells were counted.
    counted: Option<String>,
}

impl LayerStatements {
    fn new(prepared: &PreparedLayer) -> LayerStatements {
        let statement = |candidates| sql::render(prepared.layer(), prepared.folds(), candidates);
        LayerStatements {
            prepared: prepared.clone(),
            found: statement(Candidates::Found),
            touching: prepared.layer().cells().is_none().then(|| statement(Candidates::Touching)),
            counted: prepared.counts().map(|_| statement(Candidates::Counted)),
        }
    }

    /// The areas in groups that one statement can render each, with the candidates of that statement: at zooms whose cells were counted, the
    /// counted cells.
    pub(in crate::postgis) fn parts(&self, areas: &[Area]) -> Vec<(Vec<Area>, Candidates)> {
        let is_counted = |area: &Area| self.prepared.is_counted(area.rect.zoom);
        let (counted, others): (Vec<Area>, Vec<Area>) = areas.iter().cloned().partition(is_counted);
        let parts = [(counted, Candidates::Counted), (others, Candidates::Found)];
        parts.into_iter().filter(|(areas, _)| !areas.is_empty()).collect()
    }

    /// True if there is a statement over [`Candidates::Touching`].
    pub(in crate::postgis) fn has_touching(&self) -> bool {
        self.touching.is_some()
    }

    /// The statement over `candidates`; the one over [`Candidates::Found`] if there is no such statement.
    pub(in crate::postgis) fn statement(&self, candidates: Candidates) -> &str {
        let other = match candidates {
            Candidates::Found => None,
            Candidates::Touching => self.touching.as_ref(),
            Candidates::Counted => self.counted.as_ref(),
        };
        other.unwrap_or(&self.found)
    }
}
