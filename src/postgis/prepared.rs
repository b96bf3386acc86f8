//! The statements that render a layer, and which of them serves what.

use super::layer::Layer;
use super::sql::{self, Candidates};
use crate::tile::Area;

/// A layer and its statements.
pub(super) struct Prepared {
    pub(super) layer: Layer,
    statement: String,
    /// The same, over [`Candidates::Touching`]; there is none for cells.
    pub(super) careful: Option<String>,
    /// The same, over [`Candidates::Counted`], if any cells were counted.
    counted: Option<String>,
}

impl Prepared {
    pub(super) fn of(layer: &Layer) -> Prepared {
        Prepared {
            layer: layer.clone(),
            statement: sql::render(layer, Candidates::Found),
            careful: layer.cells.is_none().then(|| sql::render(layer, Candidates::Touching)),
            counted: layer.counted.as_ref().map(|_| sql::render(layer, Candidates::Counted)),
        }
    }

    /// Areas that one statement can render, and the rows that it does it from: at zooms whose cells were counted, from none.
    pub(super) fn parts(&self, areas: &[Area]) -> Vec<(Vec<Area>, Candidates)> {
        let is_counted = |area: &Area| self.layer.is_counted(area.rect.zoom);
        let (counted, others): (Vec<Area>, Vec<Area>) = areas.iter().cloned().partition(is_counted);
        let parts = [(counted, Candidates::Counted), (others, Candidates::Found)];
        parts.into_iter().filter(|(areas, _)| !areas.is_empty()).collect()
    }

    /// The statement over some rows.
    pub(super) fn over(&self, rows: Candidates) -> &str {
        let other = match rows {
            Candidates::Found => None,
            Candidates::Touching => self.careful.as_ref(),
            Candidates::Counted => self.counted.as_ref(),
        };
        other.unwrap_or(&self.statement)
    }
}
