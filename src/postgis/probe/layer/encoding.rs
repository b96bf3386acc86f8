//! The check that texts come into tiles as UTF-8 (Mapbox Vector Tile Specification 2.1, sections 4.1 and 4.4). `ST_AsMVT` writes names and texts in
//! the encoding of the database, without converting them.

use super::NamedLayer;
use super::patchable::is_plain_type;
use crate::postgis::session::Error;

/// True if texts of a type, as the server writes them, may hold other characters than ASCII.
pub(super) fn may_hold_letters(kind: &str) -> bool {
    let is_text = matches!(kind, "text" | "character varying" | "character");
    let is_ascii = matches!(
        kind,
        "time with time zone"
            | "time without time zone"
            | "interval"
            | "bytea"
            | "oid"
            | "inet"
            | "cidr"
            | "macaddr"
            | "macaddr8"
            | "bit"
            | "bit varying"
    );
    is_text || !is_plain_type(kind) && !is_ascii
}

impl NamedLayer<'_> {
    /// Checks whether the texts of the layer come into tiles as UTF-8 from a database with this encoding. Returns a warning if only the rows could
    /// tell.
    pub(super) fn check_encoding(&self, encoding: &str) -> Result<Option<String>, Error> {
        let layer = &self.layer;
        if encoding == "UTF8" {
            return Ok(None);
        }
        let name = &layer.name;
        if layer.function().is_some() {
            return Ok(Some(format!(
                "layer \"{name}\": the encoding of the database is {encoding}, and texts in tiles have to be UTF-8. ST_AsMVT does not convert texts, so the function has to, or may write only ASCII"
            )));
        }
        let mut names = layer.properties.iter().map(|property| &property.name);
        let what = match (&self.letters, names.find(|name| !name.is_ascii())) {
            (Some(property), _) => format!("the property \"{property}\""),
            (None, Some(property)) => format!("the name of the property \"{property}\""),
            (None, None) if !name.is_ascii() => "the name of the layer".to_owned(),
            (None, None) => return Ok(None),
        };
        if encoding == "SQL_ASCII" {
            return Ok(Some(format!(
                "layer \"{name}\": the encoding of the database is SQL_ASCII, so nothing has checked the bytes of its texts, and ST_AsMVT writes them into tiles as they are. They have to be UTF-8, or map clients show other characters or refuse the tiles: look at {what}"
            )));
        }
        Err(self.probe.error(
            format!("the encoding of the database is {encoding}, and texts in tiles have to be UTF-8. ST_AsMVT does not convert texts, so {what} would be damaged"),
            "Draw from a copy in a database with the encoding UTF8 (createdb -T template0 -E UTF8 NAME, then pg_dump | psql), or use only numbers, dates and ASCII names".to_owned(),
        ))
    }
}
