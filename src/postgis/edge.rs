//! The edge of the world at ±180°, and the rows of a layer that reach beyond it.

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::error::Error;
use super::layer::Layer;
use super::query::Values;
use super::query_values::QueryValues;
use super::session::{Param, Session};
use super::sql;
use super::survey::explained;
use crate::tile::{Coverage, HALF_WORLD_METRES, Zoom};

/// What becomes of rows that reach beyond ±180°.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beyond {
    /// They are cut at the edge, and the part beyond is drawn on the other side of the world.
    Wrap,
    /// They are cut at the edge, and the part beyond is not drawn.
    Clip,
    /// They are not drawn.
    Skip,
}

/// The units of a reference system whose x axis is linear in longitude, and 0 on the prime meridian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EdgeUnits {
    /// Longitudes in degrees.
    Degrees,
    /// The metres of EPSG:3857.
    Metres,
}

/// A row that is wrapped may reach as far as this from the prime meridian, in halves of the world: one world beyond the edge.
pub(super) const REACH: f64 = 3.0;

impl EdgeUnits {
    /// Where the world ends.
    pub(super) const fn half(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 180.0,
            EdgeUnits::Metres => HALF_WORLD_METRES,
        }
    }

    /// How far beyond that a row lies by rounding alone: up to 1e-12 radians PROJ does not wrap a longitude (`adjlon`); in metres,
    /// less than a world unit (9.3 mm).
    pub(super) const fn tolerance(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 5.7e-11,
            EdgeUnits::Metres => 0.009,
        }
    }

    /// The grid to which x is snapped before a row is cut: 2^-40 of half the world. Half of a step takes in what PROJ does not wrap.
    pub(super) fn snap(self) -> f64 {
        self.half() * 2.0_f64.powi(-40)
    }

    /// The least number of single precision that is greater than half the world.
    #[expect(clippy::cast_possible_truncation, reason = "made greater afterwards")]
    pub(super) fn next_single(self) -> f64 {
        let half = self.half() as f32;
        f64::from(if f64::from(half) > self.half() { half } else { half.next_up() })
    }

    /// The units of a reference system; `None` if its x axis is not linear in longitude: then `ST_Transform` gives longitudes
    /// within ±180°.
    pub(super) async fn of(session: &Session, place: &str, srid: i32) -> Result<Option<EdgeUnits>, Error> {
        match srid {
            4326 => return Ok(Some(EdgeUnits::Degrees)),
            3857 => return Ok(Some(EdgeUnits::Metres)),
            _ => {}
        }
        // Other names of Web Mercator, such as 102100: if ST_Transform changes nothing, it does not wrap either.
        let sql = "SELECT CASE
                WHEN proj4text ~ '[+]proj=longlat' AND proj4text !~ '[+](pm|over|lon_wrap)' THEN 'degrees'
                WHEN proj4text ~ '[+]proj=merc' AND proj4text ~ '[+]b=6378137 ' THEN
                    CASE WHEN ST_X(ST_Transform(ST_SetSRID(ST_MakePoint(2.1e7, 0), srid), 3857)) = 2.1e7 THEN 'metres' END
            END FROM spatial_ref_sys WHERE srid = $1";
        let rows = session.all(place, sql, &[(&srid, Type::INT4)]).await?;
        let units: Option<String> = rows.first().and_then(|row| row.get(0));
        Ok(match units.as_deref() {
            Some("degrees") => Some(EdgeUnits::Degrees),
            Some("metres") => Some(EdgeUnits::Metres),
            _ => None,
        })
    }
}

/// Rows that reach beyond ±180°.
#[derive(Debug)]
pub(super) struct RowsBeyond {
    count: u64,
    /// The keys of a few of them.
    examples: Vec<String>,
}

impl RowsBeyond {
    /// Looks for the rows of a layer, at its shallowest zoom, that reach beyond ±180°: through the spatial index, so that it costs
    /// nothing where there are none.
    async fn of(session: &Session, layer: &Layer) -> Result<RowsBeyond, Error> {
        let none = RowsBeyond { count: 0, examples: Vec::new() };
        let Some(units) = layer.shape.edge else { return Ok(none) };
        let zooms: Vec<Zoom> = layer.zooms.iter().take(1).collect();
        let values = QueryValues::of_coverage(layer, &Coverage::new(&[]), &zooms);
        let params: Vec<Param<'_>> = values.params(layer).collect();
        let relation = layer.rows(&Values::parameters(1, layer.shape.srid));
        let place = format!("layer \"{}\", looking for rows beyond ±180°", layer.name);
        let rows = session.all(&place, &sql::beyond(layer, units, &relation), &params).await;
        let rows = rows.map_err(|error| explained(error, layer))?;
        let Some(row) = rows.first() else { return Ok(none) };
        let count: i64 = row.get(0);
        Ok(RowsBeyond {
            count: count.cast_unsigned(),
            examples: row.get::<_, Option<Vec<String>>>(1).unwrap_or_default(),
        })
    }

    fn warning(&self, layer: &Layer) -> Option<String> {
        let (rows, they) = match self.count {
            0 => return None,
            1 => ("1 row reaches".to_owned(), "it is"),
            count => (format!("{count} rows reach"), "they are"),
        };
        let done = match layer.beyond {
            Beyond::Wrap => {
                "cut there, and what lies beyond is drawn on the other side of the world (beyond = \"wrap\")"
            }
            Beyond::Clip => "cut there, and what lies beyond is not drawn (beyond = \"clip\")",
            Beyond::Skip => "not drawn (beyond = \"skip\")",
        };
        let more = if self.count > self.examples.len() as u64 { ", …" } else { "" };
        Some(format!(
            "layer \"{}\": {rows} beyond ±180°: {they} {done}: {}{more}",
            layer.name,
            self.examples.join(", ")
        ))
    }
}

impl Layer {
    /// Looks whether rows reach beyond ±180°, which decides how those near a tile are found; gives what the user should know of them.
    pub(super) async fn look_beyond(&mut self, session: &Session) -> Result<Option<String>, Error> {
        // A geography keeps its longitudes within ±180° by itself.
        if self.shape.geography {
            return Ok(None);
        }
        self.shape.edge = EdgeUnits::of(session, &format!("layer \"{}\"", self.name), self.shape.srid).await?;
        let beyond = RowsBeyond::of(session, self).await?;
        // Rows that are others at each zoom were looked at in one zoom only.
        self.reaches_beyond = beyond.count > 0 || self.asks_each_zoom();
        Ok(beyond.warning(self))
    }

    /// Whether rows of it are drawn on the other side of the world: those near an area are looked for one world farther, too.
    pub(super) fn is_wrapped(&self) -> bool {
        self.reaches_beyond && self.beyond == Beyond::Wrap && self.shape.edge.is_some()
    }

    /// Whether what is drawn of a row may lie on both sides of the edge, and nowhere in between. Candidates within a fraction of a
    /// tile are chosen by the box of the whole feature, which then reaches around the world.
    pub(super) fn has_crossing_rows(&self) -> bool {
        self.is_wrapped() && !self.shape.points && self.cells.is_none() && self.margin.candidates.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_edge_fit_together() {
        for units in [EdgeUnits::Degrees, EdgeUnits::Metres] {
            let half = units.half();
            assert!(units.next_single() > half && (units.next_single() - half) / half < 1.2e-7, "{units:?}");
            // The edge is a point of the grid, to the bit.
            assert_eq!((half / units.snap()).to_bits(), 2.0_f64.powi(40).to_bits());
        }
        // What PROJ does not wrap is snapped onto the edge.
        assert!(EdgeUnits::Degrees.tolerance().to_radians() < 1e-12);
        assert!(EdgeUnits::Degrees.snap() / 2.0 > 1e-12_f64.to_degrees());
    }
}
