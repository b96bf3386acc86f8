//! A query as the source of a layer: its text, taken apart at the placeholders, so that each use fills in values of its own.

use super::layer::quoted;

/// A query as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pieces: Vec<Piece>,
    limit: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// What a query may ask for. The names are those of Tegola, t-rex and Mapnik.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    /// The box of the tile, margin included, in the reference system of the layer's geometry.
    Box,
    /// The zoom.
    Zoom,
    /// The side of a pixel in metres of EPSG:3857, a tile having 256 of them.
    Pixel,
    /// The scale on a screen whose pixels measure 0.28 mm (OGC 05-078r4, section 11.1).
    Scale,
}

/// SQL that stands for the placeholders.
#[derive(Debug)]
pub(super) struct Values {
    /// A geometry.
    pub bbox: String,
    /// An integer.
    pub zoom: String,
    /// A double.
    pub pixel: String,
}

/// Why a query cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is none.
    #[error("is empty: write a SELECT that gives the geometry, the key and the properties")]
    Empty,
    /// Something stands behind a semicolon.
    #[error("has a ; before its end: write one SELECT; only its end may have one")]
    Several,
    /// A placeholder that does not exist.
    #[error("has {found}, which is no placeholder: there is {KNOWN}")]
    Unknown {
        /// It.
        found: String,
    },
    /// Half a placeholder.
    #[error("has {found}, which lacks an exclamation mark: there is {KNOWN}")]
    Unbalanced {
        /// It.
        found: String,
    },
    /// The column or row of a tile.
    #[error(
        "has {found}: the column and row of a tile are not known when tiles are planned. Select with !bbox!, or write a property such as x = \"!x!\""
    )]
    TileAddress {
        /// It.
        found: String,
    },
    /// A parameter of a prepared statement.
    #[error("has the parameter {found}, for which there is no value: there is {KNOWN}")]
    Parameter {
        /// It.
        found: String,
    },
    /// It draws, which is our part.
    #[error("calls {found}: let it give the geometry itself; it is cut to the tile and written afterwards")]
    Draws {
        /// The function.
        found: String,
    },
}

const KNOWN: &str = "!bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!";

/// The side of a pixel at zoom 0 in metres: the world's side (EPSG:3857) in 256 pixels.
pub(super) const PIXEL: f64 = crate::tile::HALF_WORLD_METRES / 128.0;

/// The side of a pixel of the scale's screen, in metres.
const SCREEN_PIXEL: f64 = 0.000_28;

impl Query {
    /// Takes a query apart.
    ///
    /// # Errors
    /// If it is not one query, or holds a placeholder that there is not.
    pub fn new(text: &str) -> Result<Query, QueryError> {
        let mut reader = Reader { left: text, pieces: Vec::new(), plain: String::new(), words: Vec::new() };
        reader.read()?;
        let Reader { mut pieces, plain, words, .. } = reader;
        if words.is_empty() {
            return Err(QueryError::Empty);
        }
        pieces.push(Piece::Text(plain));
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

    fn asks(&self, placeholder: Placeholder) -> bool {
        self.pieces.contains(&Piece::Value(placeholder))
    }

    /// Whether its rows may be others at each zoom.
    pub(super) fn asks_zoom(&self) -> bool {
        [Placeholder::Zoom, Placeholder::Pixel, Placeholder::Scale].iter().any(|one| self.asks(*one))
    }

    /// Whether it is to be asked for each tile by itself.
    #[must_use]
    pub fn asks_box(&self) -> bool {
        self.asks(Placeholder::Box)
    }

    /// What cuts its rows off after some number, if anything does.
    pub(super) fn limit(&self) -> Option<&'static str> {
        self.limit
    }

    /// An item of a FROM list, called as the layer is.
    pub(super) fn item(&self, layer: &str, values: &Values) -> String {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Value(Placeholder::Box) => format!("({})", values.bbox),
            Piece::Value(Placeholder::Zoom) => format!("({})", values.zoom),
            Piece::Value(Placeholder::Pixel) => format!("({})", values.pixel),
            Piece::Value(Placeholder::Scale) => format!("({} / {SCREEN_PIXEL:?}::float8)", values.pixel),
        });
        // A comment may end the query.
        format!("(\n{}\n) AS {}", pieces.collect::<String>(), quoted(layer))
    }

    /// The same without values: NULL as a subquery, which the planner does not reckon with, so that no table that
    /// the query names is planned away. The names tell one query from another.
    pub(super) fn neutral(&self, layer: &str) -> String {
        let nothing = |kind: &str, name: &str| format!("SELECT NULL::{kind} /* {name} */");
        let (bbox, zoom, pixel) = (nothing("geometry", "bbox"), nothing("int4", "zoom"), nothing("float8", "pixel"));
        self.item(layer, &Values { bbox, zoom, pixel })
    }
}

impl Values {
    /// The columns of the item `oar_tiles_area`, row by row.
    pub(super) fn of_area() -> Values {
        Values {
            bbox: "oar_tiles_area.box".to_owned(),
            zoom: "oar_tiles_area.z".to_owned(),
            pixel: "oar_tiles_area.pixel_width".to_owned(),
        }
    }

    /// Parameters: zoom, side of a pixel, and west, south, east and north of the box.
    pub(super) fn parameters(first: usize, srid: i32) -> Values {
        let next = |n: usize| format!("${}", first + n);
        Values {
            zoom: next(0),
            pixel: next(1),
            bbox: format!("ST_MakeEnvelope({}, {}, {}, {}, {srid})", next(2), next(3), next(4), next(5)),
        }
    }
}

/// Reads a query from its beginning to its end (PostgreSQL documentation, section 4.1, "Lexical Structure").
struct Reader<'a> {
    left: &'a str,
    pieces: Vec<Piece>,
    /// What was read since the last placeholder.
    plain: String,
    /// Names and key words that stand in no quotes, in lower case.
    words: Vec<String>,
}

impl<'a> Reader<'a> {
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

    /// Behind the semicolon only space and comments may stand.
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

    /// Whether the letter just read is a word of its own, such as the E of E'…'.
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
                // Twice, it stands for itself.
                if characters.next_if(|(_, next)| *next == quote).is_none() {
                    end = at + 1;
                    break;
                }
            }
        }
        self.take(end);
    }

    /// Comments may stand in each other.
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

    /// A text between dollar signs, or a parameter.
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

    /// A placeholder, or an operator.
    fn exclamation(&mut self) -> Result<(), QueryError> {
        let inner = &self.left[1..];
        let length = if inner.starts_with(is_name_start) { name_length(inner) } else { 0 };
        let (name, behind) = inner.split_at(length);
        // "bbox!": the first mark is missing.
        let before = self.plain.len() - self.plain.trim_end_matches(is_name).len();
        let before = &self.plain[self.plain.len() - before..];
        if !behind.starts_with('=') && !behind.starts_with('~') && length == 0 && known(before).is_some() {
            return Err(QueryError::Unbalanced { found: format!("{before}!") });
        }
        // The operator !! stands before what it is applied to.
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
                self.pieces.push(Piece::Text(std::mem::take(&mut self.plain)));
                self.pieces.push(Piece::Value(placeholder));
                self.left = &behind[1..];
                Ok(())
            }
            None if matches!(name.to_lowercase().as_str(), "x" | "y") => Err(QueryError::TileAddress { found }),
            None => Err(QueryError::Unknown { found }),
        }
    }
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

/// The tag of a text between dollar signs is a name without them.
fn tag_length(text: &str) -> usize {
    text.find(|character| !is_name(character) || character == '$').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> String {
        let [bbox, zoom, pixel] = ["B", "Z", "P"].map(str::to_owned);
        let item = Query::new(text).unwrap().item("l", &Values { bbox, zoom, pixel });
        item.strip_prefix("(\n").and_then(|item| item.strip_suffix("\n) AS \"l\"")).unwrap().to_owned()
    }

    #[test]
    fn placeholders_are_filled_in_whatever_their_case_and_only_where_they_are_no_text() {
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
    fn what_a_query_asks_for_is_known() {
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
    fn queries_that_differ_in_a_placeholder_are_told_apart() {
        let neutral = |text: &str| Query::new(text).unwrap().neutral("l");
        let all = ["SELECT !zoom!", "SELECT !pixel_width!", "SELECT !scale_denominator!", "SELECT !bbox!"].map(neutral);
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), 4, "{all:?}");
    }
}
