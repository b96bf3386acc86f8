//! Zooms and a part of the world, as values and as the texts in manifests, plans and notes.

use super::{AreaPart, BoxError, Coverage, TileId, TileRect, Zoom, ZoomError, ZoomList};

/// The tiles of some zooms that touch a part of the world: those that a run is responsible for, or that a target holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The zooms.
    pub zooms: ZoomList,
    /// The part of the world.
    pub coverage: Coverage,
}

/// Why texts name no scope.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScopeError {
    /// The zooms.
    #[error(transparent)]
    Zooms(#[from] ZoomError),
    /// A box or a shape.
    #[error(transparent)]
    Area(#[from] BoxError),
}

/// The texts of the parts of an area, by which manifests, plans and notes name them.
pub fn area_texts(parts: &[AreaPart]) -> Vec<String> {
    parts.iter().map(AreaPart::to_string).collect()
}

/// The parts of an area of which [`area_texts`] has made texts.
///
/// # Errors
/// If a text has another form.
pub fn area_of_texts(texts: &[String]) -> Result<Vec<AreaPart>, BoxError> {
    texts.iter().map(|text| text.parse()).collect()
}

impl Scope {
    /// The scope that texts name: zooms such as `0-14`, and [`area_texts`].
    ///
    /// # Errors
    /// If a text has another form.
    pub fn read(zooms: &str, bbox: &[String]) -> Result<Scope, ScopeError> {
        Ok(Scope { zooms: zooms.parse()?, coverage: Coverage::new(&area_of_texts(bbox)?) })
    }

    /// True if a tile lies in the scope.
    pub fn holds(&self, id: TileId) -> bool {
        self.zooms.contains(id.coord.zoom()) && self.coverage.touches(id.coord)
    }

    /// True if every rectangle of tiles in the scope lies in one rectangle of `others`.
    pub fn is_within(&self, others: &[Scope]) -> bool {
        // An area with a long border has many rectangles at deep zooms. Usually the other scope has the same area, so
        // the areas are compared first.
        let is_same =
            |zoom: Zoom| others.iter().any(|other| other.zooms.contains(zoom) && other.coverage == self.coverage);
        let fits = |zoom: Zoom| self.coverage.rects(zoom).iter().all(|rect| is_within(rect, others));
        self.zooms.iter().all(|zoom| is_same(zoom) || fits(zoom))
    }

    /// True if this scope and `other` share tiles outside of `third`.
    pub(crate) fn meets_beyond(&self, other: &Scope, third: &Scope) -> bool {
        let is_third = |zoom: Zoom| {
            third.zooms.contains(zoom) && [self, other].into_iter().any(|scope| scope.coverage == third.coverage)
        };
        self.zooms.iter().filter(|zoom| other.zooms.contains(*zoom) && !is_third(*zoom)).any(|zoom| {
            let others = other.coverage.rects(zoom);
            let mine = self.coverage.rects(zoom);
            let shared = mine.iter().flat_map(|one| others.iter().filter_map(|other| one.common(other)));
            shared.into_iter().any(|shared| !is_within(&shared, std::slice::from_ref(third)))
        })
    }
}

fn is_within(inner: &TileRect, scopes: &[Scope]) -> bool {
    let zoom = inner.zoom;
    let outer = scopes.iter().filter(|scope| scope.zooms.contains(zoom)).flat_map(|scope| scope.coverage.rects(zoom));
    outer.into_iter().any(|outer| outer.common(inner).as_ref() == Some(inner))
}
