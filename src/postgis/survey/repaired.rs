//! The shapes that the survey repaired, for the statements that draw: each row is checked and repaired once in a run.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::postgis::layer::{Layer, ROUNDING_UNITS};
use crate::postgis::session::Param;
use crate::tile::{Area, BoxFootprint, WORLD_UNITS, WorldBox, WorldRect};

/// The most repaired rows of a layer that a run keeps. Each statement gets the identities of all of them.
const MAX_ROWS: usize = 20_000;

/// The most memory for the repaired shapes of a layer.
const MAX_BYTES: usize = 64 << 20;

/// The rows of a layer that were repaired.
#[derive(Debug, Default)]
pub(crate) struct RepairedShapes {
    /// What tells these rows from all others.
    identities: Vec<RowIdentity>,
    /// Their shapes, in the same order.
    shapes: Vec<RepairedShape>,
    bytes: usize,
}

#[derive(Debug)]
struct RepairedShape {
    /// Where it is drawn; `None` for a row that is skipped.
    world: Option<WorldBox>,
    ewkb: Box<[u8]>,
}

/// A hash of a stored shape (`postgis/sql/repair.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RowIdentity([u8; 16]);

impl RepairedShapes {
    /// Adds the shape of a row of the survey, if the row was repaired; its identity and shape are the last two columns.
    /// `None` if that is one too many.
    pub(crate) fn with_row(mut self, row: &Row, footprint: Option<BoxFootprint>) -> Option<RepairedShapes> {
        let columns = row.len();
        let Some(identity) = row.get::<_, Option<RowIdentity>>(columns - 2) else { return Some(self) };
        let ewkb = row.get::<_, Option<&[u8]>>(columns - 1).unwrap_or_default();
        let world = footprint.filter(|_| !ewkb.is_empty()).map(|footprint| footprint.world);
        self.add(identity, RepairedShape { world, ewkb: ewkb.into() }).then_some(self)
    }

    /// The shapes of both; `None` if they are too many.
    pub(crate) fn joined(mut self, other: RepairedShapes) -> Option<RepairedShapes> {
        let all = other.identities.into_iter().zip(other.shapes);
        all.into_iter().all(|(identity, shape)| self.add(identity, shape)).then_some(self)
    }

    /// Adds a shape in its place. False if there is no room for it.
    fn add(&mut self, identity: RowIdentity, shape: RepairedShape) -> bool {
        let Err(place) = self.identities.binary_search(&identity) else { return true };
        self.bytes += shape.ewkb.len();
        self.identities.insert(place, identity);
        self.shapes.insert(place, shape);
        self.identities.len() <= MAX_ROWS && self.bytes <= MAX_BYTES
    }

    /// True if no row was repaired.
    pub(crate) fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// The parameters of a statement that draws some areas: all identities, and the shapes that may be drawn there.
    pub(crate) fn near(&self, layer: &Layer, areas: &[Area]) -> RepairedShapesNear<'_> {
        let reached: Vec<WorldRect> =
            areas.iter().map(|area| area.rect.world(layer.reach(area.rect.zoom) + ROUNDING_UNITS)).collect();
        let is_near = |world: WorldBox| {
            let shape = WorldRect::from(world);
            // A box that crosses ±180° may be drawn at any longitude.
            let (west, east) = if world.crosses_antimeridian() { (0, WORLD_UNITS) } else { (shape.west, shape.east) };
            reached.iter().any(|rect| {
                west <= rect.east && east >= rect.west && shape.north <= rect.south && shape.south >= rect.north
            })
        };
        let of_row = |shape: &'_ RepairedShape| -> bool { shape.world.is_some_and(is_near) };
        let shapes = self.shapes.iter().map(|shape| of_row(shape).then_some(&*shape.ewkb)).collect();
        RepairedShapesNear { identities: &self.identities, shapes }
    }
}

/// Parameters of a statement ([`RepairedShapes::near`]).
pub(crate) struct RepairedShapesNear<'a> {
    identities: &'a Vec<RowIdentity>,
    shapes: Vec<Option<&'a [u8]>>,
}

impl RepairedShapesNear<'_> {
    pub(crate) fn params(&self) -> [Param<'_>; 2] {
        [(self.identities, Type::UUID_ARRAY), (&self.shapes, Type::BYTEA_ARRAY)]
    }
}

impl<'a> FromSql<'a> for RowIdentity {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<RowIdentity, Box<dyn Error + Sync + Send>> {
        Ok(RowIdentity(raw.try_into()?))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::UUID
    }
}

impl ToSql for RowIdentity {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::UUID
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_shapes_are_kept_as_have_room_each_once_and_sorted() {
        let add = |all: &mut RepairedShapes, n: u8, bytes: usize| {
            let shape = RepairedShape { world: None, ewkb: vec![0; bytes].into() };
            all.add(RowIdentity([n; 16]), shape)
        };
        let mut all = RepairedShapes::default();
        assert!(all.is_empty() && add(&mut all, 3, 10) && add(&mut all, 1, 10) && add(&mut all, 3, MAX_BYTES));
        assert_eq!(all.identities, [RowIdentity([1; 16]), RowIdentity([3; 16])]);
        assert!(add(&mut all, 2, MAX_BYTES - 20) && !add(&mut all, 4, 1));
    }
}
