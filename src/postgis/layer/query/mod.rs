//! A query as the source of a layer's rows: its text in pieces between the placeholders, so that each statement can fill in its own values.

mod text;

use crate::postgis::session::quoted;
use text::{QueryReader, is_placeholder};

/// A query as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pieces: Vec<QueryPiece>,
    limit: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgis) enum QueryPiece {
    Text(String),
    Value(Placeholder),
}

/// The placeholders of a query. The names are those of Tegola, t-rex and Mapnik.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgis) enum Placeholder {
    /// The box of the tile, margin included, in the reference system of the layer's geometry.
    Box,
    /// The zoom.
    Zoom,
    /// The side of a pixel in metres of EPSG:3857. A tile has 256 pixels along a side.
    Pixel,
    /// The scale on a screen whose pixels measure 0.28 mm (OGC 05-078r4, section 11.1).
    Scale,
}

/// The SQL that replaces the placeholders.
#[derive(Debug)]
pub(in crate::postgis) struct PlaceholderSql {
    /// The value of `!bbox!`, a geometry.
    pub bbox: String,
    /// The value of `!zoom!`, an integer.
    pub zoom: String,
    /// The side of a pixel in metres, a double.
    pub pixel: String,
}

/// Why a query cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The text holds no statement.
    #[error("is empty: write a SELECT that gives the geometry, the key and the properties")]
    Empty,
    /// The text holds something after a semicolon.
    #[error("has a ; before its end: write one SELECT; only its end may have one")]
    Several,
    /// A placeholder that does not exist.
    #[error("has {found}, which is no placeholder: there is {KNOWN}")]
    Unknown {
        /// The text as written.
        found: String,
    },
    /// A parameter of variants that does not exist.
    #[error("has {found}, which is no parameter: a parameter is written !name!, by the name of a column of values")]
    UnknownParameter {
        /// The text as written.
        found: String,
    },
    /// Half a placeholder.
    #[error("has {found}, which lacks an exclamation mark: there is {KNOWN}")]
    Unbalanced {
        /// The text as written.
        found: String,
    },
    /// The column or row of a tile.
    #[error(
        "has {found}: the column and row of a tile are not known when tiles are planned. Select with !bbox!, or write a property such as x = \"!x!\""
    )]
    TileAddress {
        /// The text as written.
        found: String,
    },
    /// A parameter of a prepared statement.
    #[error("has the parameter {found}, for which there is no value: there is {KNOWN}")]
    Parameter {
        /// The text as written.
        found: String,
    },
    /// The query encodes MVT, but this program does that itself.
    #[error("calls {found}: let it give the geometry itself; it is cut to the tile and written afterwards")]
    Draws {
        /// The function.
        found: String,
    },
}

/// The column of a [numbered](Query::numbered) query.
pub const ROW_NUMBER: &str = "oar_tiles_row";

/// The placeholders, for messages.
const KNOWN: &str = "!bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!";

/// The side of a pixel at zoom 0 in metres: the world's side (EPSG:3857) in 256 pixels.
pub(in crate::postgis) const PIXEL_METRES: f64 = crate::tile::HALF_WORLD_METRES / 128.0;

/// The side of a pixel in metres on the screen that defines scales.
const SCREEN_PIXEL: f64 = 0.000_28;

impl Query {
    /// Parses a query.
    ///
    /// # Errors
    /// If it is not one query, or holds an unknown placeholder.
    pub fn new(text: &str) -> Result<Query, QueryError> {
        let (pieces, words) = QueryReader::read_all(text)?;
        if words.is_empty() {
            return Err(QueryError::Empty);
        }
        if let Some(found) = words.iter().find(|word| matches!(word.as_str(), "st_asmvtgeom" | "st_asmvt")) {
            let found = if found == "st_asmvt" { "ST_AsMVT" } else { "ST_AsMVTGeom" }.to_owned();
            return Err(QueryError::Draws { found });
        }
        let fetches = words.windows(2).any(|two| two[0] == "fetch" && matches!(two[1].as_str(), "first" | "next"));
        let limit = match () {
            () if words.iter().any(|word| word == "limit") => Some("LIMIT"),
            () if fetches => Some("FETCH FIRST"),
            () => None,
        };
        Ok(Query { pieces, limit })
    }

    /// The same query with the additional first column [`ROW_NUMBER`], which identifies its rows.
    #[must_use]
    pub fn numbered(self) -> Query {
        let begin = format!("SELECT row_number() OVER () AS {ROW_NUMBER}, oar_tiles_given.* FROM (\n");
        let end = "\n) AS oar_tiles_given".to_owned();
        let pieces = std::iter::once(QueryPiece::Text(begin)).chain(self.pieces).chain([QueryPiece::Text(end)]);
        Query { pieces: pieces.collect(), limit: self.limit }
    }

    fn asks(&self, placeholder: Placeholder) -> bool {
        self.pieces.contains(&QueryPiece::Value(placeholder))
    }

    /// True if the query's rows may differ from zoom to zoom.
    #[must_use]
    pub fn asks_zoom(&self) -> bool {
        [Placeholder::Zoom, Placeholder::Pixel, Placeholder::Scale].iter().any(|one| self.asks(*one))
    }

    /// True if the query is run once for each tile.
    #[must_use]
    pub fn asks_box(&self) -> bool {
        self.asks(Placeholder::Box)
    }

    /// The clause that limits its rows: "LIMIT" or "FETCH FIRST".
    pub(in crate::postgis) fn limit(&self) -> Option<&'static str> {
        self.limit
    }

    /// The query's text with its placeholders. Different queries have different texts.
    #[must_use]
    pub fn definition(&self) -> String {
        let pieces = self.pieces.iter().map(|piece| match piece {
            QueryPiece::Text(text) => text.clone(),
            QueryPiece::Value(placeholder) => format!("!{placeholder:?}!"),
        });
        pieces.collect()
    }

    /// The query as an item of a FROM list with the name of the layer.
    pub(in crate::postgis) fn sql_item(&self, layer: &str, values: &PlaceholderSql) -> String {
        let pieces = self.pieces.iter().map(|piece| match piece {
            QueryPiece::Text(text) => text.clone(),
            QueryPiece::Value(Placeholder::Box) => format!("({})", values.bbox),
            QueryPiece::Value(Placeholder::Zoom) => format!("({})", values.zoom),
            QueryPiece::Value(Placeholder::Pixel) => format!("({})", values.pixel),
            QueryPiece::Value(Placeholder::Scale) => format!("({} / {SCREEN_PIXEL:?}::float8)", values.pixel),
        });
        // The line break ends a comment at the end of the query.
        format!("(\n{}\n) AS {}", pieces.collect::<String>(), quoted(layer))
    }

    /// The query as an item of a FROM list, without values. Each placeholder is a subquery that returns NULL. The planner does not evaluate
    /// subqueries, so it does not remove tables from the plan. The comment with the name keeps queries with different placeholders different.
    pub(in crate::postgis) fn sql_item_without_values(&self, layer: &str) -> String {
        let nothing = |kind: &str, name: &str| format!("SELECT NULL::{kind} /* {name} */");
        let (bbox, zoom, pixel) = (nothing("geometry", "bbox"), nothing("int4", "zoom"), nothing("float8", "pixel"));
        self.sql_item(layer, &PlaceholderSql { bbox, zoom, pixel })
    }
}

/// Replaces the parameters of a piece of SQL, written `!name!`, by the SQL that `sql_of` returns for their names.
///
/// # Errors
/// If `sql_of` knows no parameter of a name, or the SQL contains a statement parameter such as `$1`, or a semicolon before its end.
pub(in crate::postgis) fn filled_parameters(
    sql: &str,
    sql_of: impl Fn(&str) -> Option<String>,
) -> Result<String, QueryError> {
    QueryReader::read_filled(sql, &sql_of)
}

/// The first placeholder in a piece of SQL, as it is written. Text literals, comments and quoted names are skipped. A placeholder that lacks one of
/// its exclamation marks counts, too.
#[must_use]
pub fn placeholder_in(sql: &str) -> Option<String> {
    match QueryReader::read_all(sql) {
        Ok((pieces, _words)) => match pieces.first() {
            Some(QueryPiece::Text(before)) if pieces.len() > 1 => {
                let name = sql.get(before.len() + 1..)?.split('!').next()?;
                Some(format!("!{name}!"))
            }
            _ => None,
        },
        Err(QueryError::Unknown { found } | QueryError::TileAddress { found }) => Some(found),
        // A user-defined operator may be called !.
        Err(QueryError::Unbalanced { found }) => is_placeholder(found.trim_matches('!')).then_some(found),
        Err(_other) => None,
    }
}

impl PlaceholderSql {
    /// The columns of the FROM item `oar_tiles_area`, whose rows are areas.
    pub(in crate::postgis) fn of_area() -> PlaceholderSql {
        PlaceholderSql {
            bbox: "oar_tiles_area.box".to_owned(),
            zoom: "oar_tiles_area.z".to_owned(),
            pixel: "oar_tiles_area.pixel_width".to_owned(),
        }
    }

    /// Parameters from number `first` on: zoom, side of a pixel, and west, south, east and north of the box.
    pub(in crate::postgis) fn parameters(first: usize, srid: i32) -> PlaceholderSql {
        let next = |n: usize| format!("${}", first + n);
        PlaceholderSql {
            zoom: next(0),
            pixel: next(1),
            bbox: format!("ST_MakeEnvelope({}, {}, {}, {}, {srid})", next(2), next(3), next(4), next(5)),
        }
    }
}

#[cfg(test)]
mod tests;
