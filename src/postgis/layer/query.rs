//! A query as the source of a layer's rows: its text in pieces between the placeholders, so that each statement can
//! fill in its own values.

use tokio_postgres::types::Type;

use super::Layer;
use super::placement::{area_box, widest_rects};
use crate::postgis::session::{Param, quoted};
use crate::tile::{Coverage, HALF_WORLD_METRES, SourceBox, TileRect, Zoom};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pieces: Vec<QueryPiece>,
    limit: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QueryPiece {
    Text(String),
    Value(Placeholder),
}

/// The placeholders of a query. The names are those of Tegola, t-rex and Mapnik.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placeholder {
    /// The box of the tile, margin included, in the reference system of the layer's geometry.
    Box,
    Zoom,
    /// The side of a pixel in metres of EPSG:3857. A tile has 256 pixels along a side.
    Pixel,
    /// The scale on a screen whose pixels measure 0.28 mm (OGC 05-078r4, section 11.1).
    Scale,
}

#[derive(Debug)]
pub(crate) struct PlaceholderSql {
    /// The value of `!bbox!`, a geometry.
    pub bbox: String,
    /// The value of `!zoom!`, an integer.
    pub zoom: String,
    /// The side of a pixel in metres, a double.
    pub(crate) pixel: String,
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
    Draws { found: String },
}

pub(crate) const ROW_NUMBER: &str = "oar_tiles_row";

/// The placeholders, for messages.
const KNOWN: &str = "!bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!";

/// The side of a pixel at zoom 0 in metres: the world's side (EPSG:3857) in 256 pixels.
pub(crate) const PIXEL_METRES: f64 = crate::tile::HALF_WORLD_METRES / 128.0;

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
    pub(crate) fn numbered(self) -> Query {
        let begin = format!("SELECT row_number() OVER () AS {ROW_NUMBER}, oar_tiles_given.* FROM (\n");
        let end = "\n) AS oar_tiles_given".to_owned();
        let pieces = std::iter::once(QueryPiece::Text(begin)).chain(self.pieces).chain([QueryPiece::Text(end)]);
        Query { pieces: pieces.collect(), limit: self.limit }
    }

    fn asks(&self, placeholder: Placeholder) -> bool {
        self.pieces.contains(&QueryPiece::Value(placeholder))
    }

    /// True if the query's rows may differ from zoom to zoom.
    pub(crate) fn asks_zoom(&self) -> bool {
        [Placeholder::Zoom, Placeholder::Pixel, Placeholder::Scale].iter().any(|one| self.asks(*one))
    }

    /// True if the query is run once for each tile.
    pub(crate) fn asks_box(&self) -> bool {
        self.asks(Placeholder::Box)
    }

    /// The clause that limits its rows: "LIMIT" or "FETCH FIRST".
    pub(crate) fn limit(&self) -> Option<&'static str> {
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
    pub(crate) fn sql_item(&self, layer: &str, values: &PlaceholderSql) -> String {
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

    /// The query as an item of a FROM list, without values. Each placeholder is a subquery that returns NULL. The
    /// planner does not evaluate subqueries, so it does not remove tables from the plan. The comment with the name
    /// keeps queries with different placeholders different.
    pub(crate) fn sql_item_without_values(&self, layer: &str) -> String {
        let nothing = |kind: &str, name: &str| format!("SELECT NULL::{kind} /* {name} */");
        let (bbox, zoom, pixel) = (nothing("geometry", "bbox"), nothing("int4", "zoom"), nothing("float8", "pixel"));
        self.sql_item(layer, &PlaceholderSql { bbox, zoom, pixel })
    }
}

/// Replaces the parameters of a piece of SQL, written `!name!`, by the SQL that `sql_of` returns for their names. Fails
/// if `sql_of` knows no parameter of a name, or the SQL contains a statement parameter such as `$1`, or a semicolon
/// before its end.
pub(crate) fn filled_parameters(sql: &str, sql_of: impl Fn(&str) -> Option<String>) -> Result<String, QueryError> {
    QueryReader::read_filled(sql, &sql_of)
}

/// The first placeholder in a piece of SQL, as it is written. Text literals, comments and quoted names are skipped. A
/// placeholder that lacks one of its exclamation marks counts, too.
pub(crate) fn placeholder_in(sql: &str) -> Option<String> {
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
    pub(crate) fn of_area() -> PlaceholderSql {
        PlaceholderSql {
            bbox: "oar_tiles_area.box".to_owned(),
            zoom: "oar_tiles_area.z".to_owned(),
            pixel: "oar_tiles_area.pixel_width".to_owned(),
        }
    }

    /// Parameters from number `first` on: zoom, side of a pixel, and west, south, east and north of the box.
    pub(crate) fn parameters(first: usize, srid: i32) -> PlaceholderSql {
        let next = |n: usize| format!("${}", first + n);
        PlaceholderSql {
            zoom: next(0),
            pixel: next(1),
            bbox: format!("ST_MakeEnvelope({}, {}, {}, {}, {srid})", next(2), next(3), next(4), next(5)),
        }
    }
}

// The values of a query's placeholders: at a zoom, for a tile, or for a whole coverage.

/// The values of the placeholders, as parameters of a statement.
#[derive(Debug)]
pub(crate) struct QueryValues {
    zoom: i32,
    pixel: f64,
    sides: SourceBox,
}

impl QueryValues {
    /// The values for the shallowest zoom of `zooms`, with the box of all its tiles in a coverage, including the
    /// margin.
    pub(crate) fn of_coverage(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> QueryValues {
        let least = [layer.zooms.min()];
        let zooms = if zooms.is_empty() { &least } else { zooms };
        let zoom = zooms[0];
        let boxes = widest_rects(coverage, zooms).unwrap_or_default();
        let boxes = boxes.iter().map(|rect| query_box(layer, rect, rect.zoom));
        let sides = boxes.fold(SourceBox::<f64>::NOTHING, SourceBox::<f64>::joined);
        QueryValues { zoom: zoom.get().into(), pixel: pixel(zoom), sides }
    }

    pub(crate) fn sides(&self) -> SourceBox {
        self.sides
    }

    /// The parameters in the order of [`PlaceholderSql::parameters`](PlaceholderSql::parameters); empty if the layer
    /// has no query.
    pub(crate) fn params(&self, layer: &Layer) -> impl Iterator<Item = Param<'_>> {
        let SourceBox { min_x: west, min_y: south, max_x: east, max_y: north } = &self.sides;
        let all: [Param<'_>; 6] = [
            (&self.zoom, Type::INT4),
            (&self.pixel, Type::FLOAT8),
            (west, Type::FLOAT8),
            (south, Type::FLOAT8),
            (east, Type::FLOAT8),
            (north, Type::FLOAT8),
        ];
        let wanted = if layer.is_query() { all.len() } else { 0 };
        all.into_iter().take(wanted)
    }
}

/// The side of a pixel in metres of EPSG:3857. A tile has 256 pixels along a side.
pub(crate) fn pixel(zoom: Zoom) -> f64 {
    PIXEL_METRES / f64::from(1_u32 << zoom.get())
}

/// The latitude, in degrees, at which boxes are cut: nothing beyond it is drawn, and Web Mercator is infinite at the
/// pole.
const LATITUDE_LIMIT: f64 = 85.06;

/// The value of `!bbox!` for some tiles: their box with margin, cut to the world. `ST_Transform` would move coordinates
/// beyond ±180° to the other side of the world.
pub(crate) fn query_box(layer: &Layer, rect: &TileRect, zoom: Zoom) -> SourceBox {
    let around = area_box(layer, rect, zoom);
    match layer.shape.srid {
        3857 => SourceBox {
            min_x: around.min_x.max(-HALF_WORLD_METRES),
            max_x: around.max_x.min(HALF_WORLD_METRES),
            ..around
        },
        _ => SourceBox { min_y: around.min_y.max(-LATITUDE_LIMIT), max_y: around.max_y.min(LATITUDE_LIMIT), ..around },
    }
}

// Parses the text of a query: finds its placeholders, and skips text that only looks like a placeholder in literals,
// comments, names and operators.

/// Reads a query from its beginning to its end (PostgreSQL documentation, section 4.1, "Lexical Structure").
pub(crate) struct QueryReader<'a> {
    /// The text yet to be read.
    left: &'a str,
    pieces: Vec<QueryPiece>,
    /// The text since the last placeholder.
    plain: String,
    /// Unquoted names and keywords, in lower case.
    words: Vec<String>,
    /// The SQL that replaces `!name!` in a text that has parameters instead of placeholders.
    parameters: Option<&'a SqlOfParameter<'a>>,
}

/// The SQL of a parameter, if there is one of this name.
type SqlOfParameter<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl<'a> QueryReader<'a> {
    pub(crate) fn read_all(text: &'a str) -> Result<(Vec<QueryPiece>, Vec<String>), QueryError> {
        let mut reader = QueryReader::of(text);
        reader.read()?;
        reader.pieces.push(QueryPiece::Text(reader.plain));
        Ok((reader.pieces, reader.words))
    }

    pub(crate) fn read_filled(text: &'a str, parameters: &'a SqlOfParameter<'a>) -> Result<String, QueryError> {
        let mut reader = QueryReader { parameters: Some(parameters), ..QueryReader::of(text) };
        reader.read()?;
        Ok(reader.plain)
    }

    fn of(left: &'a str) -> QueryReader<'a> {
        QueryReader { left, pieces: Vec::new(), plain: String::new(), words: Vec::new(), parameters: None }
    }

    /// Reads some bytes as plain text.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, left) = self.left.split_at_checked(bytes).unwrap_or((self.left, ""));
        self.left = left;
        self.plain.push_str(taken);
        taken
    }

    fn read(&mut self) -> Result<(), QueryError> {
        while let Some(first) = self.left.chars().next() {
            match first {
                '\'' => self.quoted('\'', self.plain.ends_with(['e', 'E']) && self.is_prefix()),
                '"' => self.quoted('"', false),
                '-' if self.left.starts_with("--") => {
                    let end = self.left.find('\n').unwrap_or(self.left.len());
                    self.take(end);
                }
                '/' if self.left.starts_with("/*") => self.comment(),
                '$' => self.dollar()?,
                ';' => {
                    self.left = &self.left[1..];
                    self.read_rest()?;
                }
                '!' => self.exclamation()?,
                first if is_name_start(first) => {
                    let word = self.take(name_length(self.left)).to_lowercase();
                    self.words.push(word);
                }
                first => {
                    self.take(first.len_utf8());
                }
            }
        }
        Ok(())
    }

    /// Only space and comments may follow the semicolon.
    fn read_rest(&mut self) -> Result<(), QueryError> {
        while let Some(first) = self.left.chars().next() {
            match first {
                first if first.is_whitespace() => drop(self.take(first.len_utf8())),
                '-' if self.left.starts_with("--") => {
                    let end = self.left.find('\n').unwrap_or(self.left.len());
                    self.take(end);
                }
                '/' if self.left.starts_with("/*") => self.comment(),
                _ => return Err(QueryError::Several),
            }
        }
        Ok(())
    }

    /// True if the letter just read is a word of its own, such as the E of E'…'.
    fn is_prefix(&self) -> bool {
        self.words.last().is_some_and(|word| word == "e")
    }

    fn quoted(&mut self, quote: char, has_escapes: bool) {
        let mut characters = self.left.char_indices().skip(1).peekable();
        let mut end = self.left.len();
        while let Some((at, character)) = characters.next() {
            if character == '\\' && has_escapes {
                characters.next();
            } else if character == quote {
                // A doubled quote is a quote inside the text.
                if characters.next_if(|(_, next)| *next == quote).is_none() {
                    end = at + 1;
                    break;
                }
            }
        }
        self.take(end);
    }

    /// Reads a comment, which may contain further comments.
    fn comment(&mut self) {
        let mut depth = 0;
        loop {
            if self.left.starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if self.left.starts_with("*/") {
                depth -= 1;
                self.take(2);
            } else if let Some(next) = self.left.chars().next() {
                self.take(next.len_utf8());
            }
            if depth == 0 || self.left.is_empty() {
                return;
            }
        }
    }

    /// Reads a text in dollar quotes. A statement parameter such as `$1` is an error.
    fn dollar(&mut self) -> Result<(), QueryError> {
        let inner = &self.left[1..];
        let digits = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            return Err(QueryError::Parameter { found: self.left[..=digits].to_owned() });
        }
        let tag = if inner.starts_with(is_name_start) { tag_length(inner) } else { 0 };
        if !inner[tag..].starts_with('$') {
            self.take(1);
            return Ok(());
        }
        let delimiter = &self.left[..tag + 2];
        let end = self.left[delimiter.len()..].find(delimiter);
        self.take(end.map_or(self.left.len(), |end| end + 2 * delimiter.len()));
        Ok(())
    }

    /// Reads a placeholder or an operator.
    fn exclamation(&mut self) -> Result<(), QueryError> {
        let inner = &self.left[1..];
        let length = if inner.starts_with(is_name_start) { name_length(inner) } else { 0 };
        let (name, behind) = inner.split_at(length);
        if let Some(sql_of) = self.parameters {
            return self.parameter(name, behind, sql_of);
        }
        // "bbox!" lacks the first exclamation mark.
        let before = self.plain.len() - self.plain.trim_end_matches(is_name).len();
        let before = &self.plain[self.plain.len() - before..];
        if !behind.starts_with('=') && !behind.starts_with('~') && length == 0 && known(before).is_some() {
            return Err(QueryError::Unbalanced { found: format!("{before}!") });
        }
        // The operator !! is a prefix.
        if length == 0 || self.plain.ends_with('!') {
            self.take(1);
            return Ok(());
        }
        if !behind.starts_with('!') {
            return Err(QueryError::Unbalanced { found: format!("!{name}") });
        }
        let found = format!("!{name}!");
        match known(name) {
            Some(placeholder) => {
                self.pieces.push(QueryPiece::Text(std::mem::take(&mut self.plain)));
                self.pieces.push(QueryPiece::Value(placeholder));
                self.left = &behind[1..];
                Ok(())
            }
            None if matches!(name.to_lowercase().as_str(), "x" | "y") => Err(QueryError::TileAddress { found }),
            None => Err(QueryError::Unknown { found }),
        }
    }

    /// Reads a parameter or an operator.
    fn parameter(&mut self, name: &str, behind: &'a str, sql_of: &SqlOfParameter<'_>) -> Result<(), QueryError> {
        if name.is_empty() || self.plain.ends_with('!') {
            self.take(1);
            return Ok(());
        }
        if !behind.starts_with('!') {
            return Err(QueryError::UnknownParameter { found: format!("!{name}") });
        }
        let sql = sql_of(name).ok_or_else(|| QueryError::UnknownParameter { found: format!("!{name}!") })?;
        self.plain.push_str(&sql);
        self.left = &behind[1..];
        Ok(())
    }
}

pub(crate) fn is_placeholder(name: &str) -> bool {
    known(name).is_some()
}

fn known(name: &str) -> Option<Placeholder> {
    match name.to_lowercase().as_str() {
        "bbox" => Some(Placeholder::Box),
        "zoom" | "z" => Some(Placeholder::Zoom),
        "pixel_width" | "pixel_height" => Some(Placeholder::Pixel),
        "scale_denominator" => Some(Placeholder::Scale),
        _ => None,
    }
}

fn is_name_start(character: char) -> bool {
    character.is_alphabetic() || character == '_' || !character.is_ascii() && !character.is_whitespace()
}

fn is_name(character: char) -> bool {
    is_name_start(character) || character.is_ascii_digit() || character == '$'
}

fn name_length(text: &str) -> usize {
    text.find(|character| !is_name(character)).unwrap_or(text.len())
}

/// The length of the tag of a dollar quote: a name without dollar signs.
fn tag_length(text: &str) -> usize {
    text.find(|character| !is_name(character) || character == '$').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> String {
        let [bbox, zoom, pixel] = ["B", "Z", "P"].map(str::to_owned);
        let item = Query::new(text).unwrap().sql_item("l", &PlaceholderSql { bbox, zoom, pixel });
        item.strip_prefix("(\n").and_then(|item| item.strip_suffix("\n) AS \"l\"")).unwrap().to_owned()
    }

    #[test]
    fn placeholders_are_filled_in_in_any_case_but_not_in_literals_and_comments() {
        for (text, expected) in [
            ("SELECT * FROM t WHERE g && !BBOX!", "SELECT * FROM t WHERE g && (B)"),
            ("SELECT g &&!bbox!,!Zoom!,x=!z!", "SELECT g &&(B),(Z),x=(Z)"),
            ("SELECT !pixel_width!*!PIXEL_HEIGHT!", "SELECT (P)*(P)"),
            ("SELECT !scale_denominator!::int", "SELECT (P / 0.00028::float8)::int"),
            ("SELECT '!bbox! ''!x!', \"!zoom! \"\"!\"", "SELECT '!bbox! ''!x!', \"!zoom! \"\"!\""),
            ("SELECT E'\\'!a!', e'\\\\', !zoom!", "SELECT E'\\'!a!', e'\\\\', (Z)"),
            // The name before the text is no E.
            ("SELECT 'a\\', one'\\', !zoom!", "SELECT 'a\\', one'\\', (Z)"),
            ("SELECT $$!a!$$, $b$ !c! $$ $b$, a$1, !zoom!", "SELECT $$!a!$$, $b$ !c! $$ $b$, a$1, (Z)"),
            ("SELECT 1 -- !a! ;\n, !zoom!", "SELECT 1 -- !a! ;\n, (Z)"),
            ("SELECT /* !a! /* ; */ !b! */ !zoom!", "SELECT /* !a! /* ; */ !b! */ (Z)"),
            (
                "SELECT a != b, a !~ b, a !~~* b, !!q, a!=b, zoom!='a'",
                "SELECT a != b, a !~ b, a !~~* b, !!q, a!=b, zoom!='a'",
            ),
            ("SELECT a <> !zoom!, b !=!zoom!", "SELECT a <> (Z), b !=(Z)"),
            ("SELECT 1 ; -- the end\n", "SELECT 1  -- the end\n"),
            ("SELECT 1;;", "several"),
        ] {
            if expected == "several" {
                assert_eq!(Query::new(text), Err(QueryError::Several), "{text}");
            } else {
                assert_eq!(filled(text), expected);
            }
        }
    }

    #[test]
    fn a_query_that_cannot_be_used_says_what_to_write() {
        for (text, message) in [
            ("", "is empty: write a SELECT that gives the geometry, the key and the properties"),
            (" -- nothing\n;", "is empty: write a SELECT that gives the geometry, the key and the properties"),
            ("SELECT 1; SELECT 2", "has a ; before its end: write one SELECT; only its end may have one"),
            (
                "SELECT !box!",
                "has !box!, which is no placeholder: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
            ),
            (
                "SELECT !bbox",
                "has !bbox, which lacks an exclamation mark: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
            ),
            (
                "g && bbox!)",
                "has bbox!, which lacks an exclamation mark: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
            ),
            (
                "SELECT !Y!",
                "has !Y!: the column and row of a tile are not known when tiles are planned. Select with !bbox!, or write a property such as x = \"!x!\"",
            ),
            (
                "SELECT $12",
                "has the parameter $12, for which there is no value: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
            ),
            (
                "SELECT st_asmvtgeom(g, !bbox!)",
                "calls ST_AsMVTGeom: let it give the geometry itself; it is cut to the tile and written afterwards",
            ),
        ] {
            assert_eq!(Query::new(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn the_placeholders_and_limit_of_a_query_are_found() {
        for (text, zoom, bbox, limit) in [
            ("SELECT limit_ FROM t", false, false, None),
            ("SELECT 1 WHERE g && !bbox! LIMIT 5", false, true, Some("LIMIT")),
            ("SELECT !pixel_width! FETCH\nfirst 5 ROWS ONLY", true, false, Some("FETCH FIRST")),
            ("SELECT 'limit', !scale_denominator!", true, false, None),
        ] {
            let query = Query::new(text).unwrap();
            assert_eq!((query.asks_zoom(), query.asks_box(), query.limit()), (zoom, bbox, limit), "{text}");
        }
    }

    #[test]
    fn queries_that_differ_in_a_placeholder_stay_different() {
        let neutral = |text: &str| Query::new(text).unwrap().sql_item_without_values("l");
        let all = ["SELECT !zoom!", "SELECT !pixel_width!", "SELECT !scale_denominator!", "SELECT !bbox!"].map(neutral);
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), 4, "{all:?}");
    }
}
