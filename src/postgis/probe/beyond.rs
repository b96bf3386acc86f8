//! Finds rows that reach beyond ±180°.

use tokio_postgres::types::Type;

use crate::postgis::layer::{Beyond, EdgeUnits, Layer, PlaceholderSql, QueryValues, explain};
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::sql;
use crate::tile::{Coverage, Zoom};

impl EdgeUnits {
    /// The units of a reference system; `None` if its x axis is not linear in longitude. From such a system, `ST_Transform` returns longitudes within
    /// ±180°.
    pub(in crate::postgis) async fn of(
        session: &Session,
        context: &str,
        srid: i32,
    ) -> Result<Option<EdgeUnits>, Error> {
        match srid {
            4326 => return Ok(Some(EdgeUnits::Degrees)),
            3857 => return Ok(Some(EdgeUnits::Metres)),
            _ => {}
        }
        // Web Mercator has other SRIDs, too, such as 102100. If ST_Transform changes nothing, it does not wrap either.
        let sql = "SELECT CASE
                WHEN proj4text ~ '[+]proj=longlat' AND proj4text !~ '[+](pm|over|lon_wrap)' THEN 'degrees'
                WHEN proj4text ~ '[+]proj=merc' AND proj4text ~ '[+]b=6378137 ' THEN
                    CASE WHEN ST_X(ST_Transform(ST_SetSRID(ST_MakePoint(2.1e7, 0), srid), 3857)) = 2.1e7 THEN 'metres' END
            END FROM spatial_ref_sys WHERE srid = $1";
        let rows = session.all(context, sql, &[(&srid, Type::INT4)]).await?;
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
pub(in crate::postgis) struct RowsBeyond {
    count: u64,
    /// The keys of up to three of them.
    examples: Vec<String>,
}

impl RowsBeyond {
    /// Finds the rows of a layer, at its shallowest zoom, that reach beyond ±180°. The spatial index serves the query, so it costs almost nothing if
    /// there are none.
    async fn of(session: &Session, layer: &Layer) -> Result<RowsBeyond, Error> {
        let none = RowsBeyond { count: 0, examples: Vec::new() };
        let Some(units) = layer.shape.edge else { return Ok(none) };
        let zooms: Vec<Zoom> = layer.zooms.iter().take(1).collect();
        let values = QueryValues::of_coverage(layer, &Coverage::new(&[]), &zooms);
        let params: Vec<Param<'_>> = values.params(layer).collect();
        let relation = layer.rows(&PlaceholderSql::parameters(1, layer.shape.srid));
        let context = format!("layer \"{}\", looking for rows beyond ±180°", layer.name);
        let rows = session.all(&context, &sql::rows_beyond(layer, units, &relation), &params).await;
        let rows = rows.map_err(|error| explain(error, layer))?;
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
    /// Records in the layer whether rows reach beyond ±180°, which decides how rows near a tile are searched. Returns a warning if some do.
    pub(in crate::postgis) async fn probe_beyond(&mut self, session: &Session) -> Result<Option<String>, Error> {
        // A geography keeps its longitudes within ±180° by itself.
        if self.shape.geography {
            return Ok(None);
        }
        self.shape.edge = EdgeUnits::of(session, &format!("layer \"{}\"", self.name), self.shape.srid).await?;
        let beyond = RowsBeyond::of(session, self).await?;
        // A query that returns other rows at each zoom was read at one zoom only.
        self.reaches_beyond = beyond.count > 0 || self.asks_each_zoom();
        Ok(beyond.warning(self))
    }
}
