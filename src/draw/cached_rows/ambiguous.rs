//! Where ambiguous points are drawn: they lie so close to the boundary of two grid units that the server's rounding
//! decides. The database is asked for each in each tile once, and the answer is kept with the rows.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{CachedRows, EncodedRows, RowStore};
use crate::draw::areas::Areas;
use crate::postgis::layer::{Layer, ROUNDING_UNITS, shifted_boxes, world_box};
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql::points_in_tiles;
use crate::tile::{Candidate, Order, PlaceInTile, Positions, TileBounds, TileRect, WorldRect};

/// An ambiguous point in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AmbiguousPoint {
    /// The bits of its position in metres. Rows at one position are drawn alike, whatever their numbers.
    at: [u64; 2],
    /// The sort key of the tile.
    tile: u64,
}

/// The answers so far: a grid point, beyond the buffer, or still ambiguous if there is none, or if rows at one position
/// are drawn at several places, as rows are whose positions differ in degrees alone.
#[derive(Debug, Default)]
pub(crate) struct KnownPlaces(Mutex<HashMap<AmbiguousPoint, PlaceInTile>>);

/// The most ambiguous points that the database is asked for at once. It draws tiles with more, which points of a
/// regular grid have.
const MAX_ASKED: usize = 1_000;

/// The most answers that are kept for one state of the rows; they take less than 10 MB.
const MAX_KNOWN: usize = 100_000;

/// How far around a position its rows are searched, in world units.
const SEARCHED_AROUND: i64 = ROUNDING_UNITS + 8;

impl KnownPlaces {
    fn add(&self, answers: HashMap<AmbiguousPoint, PlaceInTile>) {
        let mut known = self.0.lock();
        if known.len() + answers.len() > MAX_KNOWN {
            known.clear();
        }
        known.extend(answers);
    }

    /// The answers without those for points at `positions`, for a later state: its rows there may have other degrees at
    /// the same metres. Tiles of the earlier state go on adding to the answers for that one.
    pub(crate) fn without(&self, positions: &Positions) -> KnownPlaces {
        let mut known = self.0.lock().clone();
        if !known.is_empty() {
            let at: HashSet<[u64; 2]> = positions.all().iter().map(|at| at.map(f64::to_bits)).collect();
            known.retain(|point, _| !at.contains(&point.at));
        }
        KnownPlaces(Mutex::new(known))
    }
}

impl EncodedRows {
    /// Gives those of some candidates that are ambiguous the places that the database has said.
    pub(crate) fn place_known(&self, candidates: &mut [Candidate]) {
        for candidate in candidates.iter_mut().filter(|one| one.at == PlaceInTile::Ambiguous) {
            let known = self.ambiguous_point(candidate).and_then(|point| self.known.0.lock().get(&point).copied());
            candidate.at = known.unwrap_or(PlaceInTile::Ambiguous);
        }
    }

    /// The points of those candidates that are ambiguous, as long as the database has not been asked for them.
    pub(crate) fn unasked(&self, candidates: &[Candidate]) -> Vec<AmbiguousPoint> {
        let ambiguous = candidates.iter().filter(|one| one.at == PlaceInTile::Ambiguous);
        let known = self.known.0.lock();
        ambiguous.filter_map(|one| self.ambiguous_point(one)).filter(|point| !known.contains_key(point)).collect()
    }

    fn ambiguous_point(&self, candidate: &Candidate) -> Option<AmbiguousPoint> {
        let at = match (self.positions.at(candidate.number), &self.changes) {
            (Some(at), _) => at,
            // Rows that came have the numbers after those as read.
            (None, Some(changes)) => {
                let read = u32::try_from(self.positions.len()).ok()?;
                changes.added.positions.at(candidate.number - read)?
            }
            (None, None) => return None,
        };
        Some(AmbiguousPoint { at: at.map(f64::to_bits), tile: candidate.tile })
    }
}

impl CachedRows {
    /// The positions, in world units, of rows that are ambiguous in a tile of a layer in degrees. Tiles may show them
    /// elsewhere than before though their positions in metres are the same as before.
    pub(crate) fn ambiguous_positions(&self, layer: &Layer) -> Vec<[f64; 2]> {
        let RowStore::Memory(EncodedRows { positions, .. }) = &self.rows else { return Vec::new() };
        if layer.margin.bounds != TileBounds::Degrees {
            return Vec::new();
        }
        let mut candidates = Vec::new();
        for zoom in layer.zooms().iter() {
            positions.candidates(&TileRect::all(zoom), layer.margin, &mut candidates);
            candidates.retain(|one| one.at == PlaceInTile::Ambiguous);
        }
        candidates.iter().filter_map(|one| positions.at(one.number)).map(Positions::in_world_units).collect()
    }

    /// Asks the database where some points are drawn, at the positions of the session's snapshot. False if it is not
    /// asked, or if its answer does not say so of all of them.
    pub(crate) async fn ask_for_places(
        &self,
        session: &Session,
        layer: &Layer,
        points: &[AmbiguousPoint],
    ) -> Result<bool, Error> {
        let known = match &self.rows {
            RowStore::Memory(rows) if layer.cells().is_none() => &rows.known,
            RowStore::File(rows) => rows.known(),
            // The database draws counted cells without reading a row.
            RowStore::Memory(_) | RowStore::Cells(_) | RowStore::Shapes(_) => return Ok(false),
        };
        // An index finds the rows at each position.
        let is_suited = layer.has_spatial_index && layer.shape.has_closed_form_points() && !layer.is_query();
        if points.is_empty() || !is_suited {
            return Ok(false);
        }
        let (name, count) = (&layer.name, points.len());
        if count > MAX_ASKED {
            tracing::debug!("layer \"{name}\": the database draws the tiles of {count} ambiguous points");
            return Ok(false);
        }
        let mut areas = Areas::default();
        for point in points {
            let Some(tile) = Order::ZoomColumnTmsRow.tile(point.tile) else { return Ok(false) };
            let [x, y] = Positions::world(point.at.map(f64::from_bits));
            let around = WorldRect { west: x, north: y, east: x + 1, south: y + 1 }.grown(SEARCHED_AROUND);
            let own = world_box(layer, around);
            for source in std::iter::once(own).chain(shifted_boxes(layer, own)) {
                areas.add(&TileRect::from(tile), 0, source);
            }
        }
        let [extent, buffer] = [layer.margin.extent, layer.margin.buffer].map(u32::cast_signed);
        let mut params = areas.params();
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&extent, Type::INT4), (&buffer, Type::INT4)];
        params.extend(own);
        let mut answers: HashMap<AmbiguousPoint, PlaceInTile> = HashMap::new();
        let each = |row: &Row| {
            let (at, tile): ([f64; 2], i64) = ([row.get(0), row.get(1)], row.get(2));
            let place = match (row.get(3), row.get(4)) {
                (Some(x), Some(y)) => PlaceInTile::At([x, y]),
                _ => PlaceInTile::Beyond,
            };
            let point = AmbiguousPoint { at: at.map(f64::to_bits), tile: tile.cast_unsigned() };
            let known = answers.entry(point).or_insert(place);
            if *known != place {
                *known = PlaceInTile::Ambiguous;
            }
            Ok(())
        };
        let context = format!("layer \"{}\", asking where ambiguous points are drawn", layer.name);
        let asked = session.each(&context, &points_in_tiles(layer), &params, each).await;
        if asked.is_ok() {
            tracing::debug!("layer \"{name}\": the database said where {count} ambiguous points are drawn");
        } else {
            answers.clear();
        }
        // Nobody asks again for those without an answer.
        for point in points {
            answers.entry(*point).or_insert(PlaceInTile::Ambiguous);
        }
        let are_known = points.iter().all(|point| answers[point] != PlaceInTile::Ambiguous);
        known.add(answers);
        asked.map(|()| are_known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Frame;

    #[test]
    fn an_answer_for_an_earlier_state_is_none_for_a_later_one() {
        let point = |x: f64| AmbiguousPoint { at: [x, 1.0].map(f64::to_bits), tile: 7 };
        let at = |x: f64, unit: i32| (point(x), PlaceInTile::At([unit, 0]));
        let earlier = KnownPlaces::default();
        earlier.add(HashMap::from([at(1.0, 10), at(2.0, 20)]));
        let later = earlier.without(&Positions::new(vec![[1.0, 1.0], [3.0, 1.0]], Frame::Metres));
        // A tile of the earlier state is drawn after the rows have changed.
        earlier.add(HashMap::from([at(1.0, 10), at(3.0, 30)]));
        assert_eq!(*later.0.lock(), HashMap::from([at(2.0, 20)]));
        later.add(HashMap::from([at(1.0, 11)]));
        assert_eq!(earlier.0.lock()[&point(1.0)], PlaceInTile::At([10, 0]));
    }
}
