//! Refuses placeholders such as `!zoom!` where they have no value. The message says where they have one.

use super::error::ConfigError;
use super::settings::Check;
use crate::postgis::{LayerSection, Property, PropertySource, RowCondition, placeholder_in};

impl Check<'_> {
    /// Refuses placeholders in SQL that is read once for all zooms and tiles of a layer: `where`, `min_zoom`,
    /// `max_zoom`, `rank`, properties that are expressions, and the queries of `[[layer.track]]`.
    pub(crate) fn no_placeholders(&self, layer: &LayerSection, own: Option<&[Property]>) -> Result<(), ConfigError> {
        let wrong = |field: &str, what: String| Err(self.wrong(&format!("layer[{}].{field}", layer.name), what));
        let mut conditions = layer.filter.iter().flat_map(RowCondition::texts);
        if let Some((filter, found)) = conditions.find_map(|filter| Some((filter, placeholder_in(filter)?))) {
            let next = match &layer.table {
                Some(table) => {
                    let query = format!("sql = \"\"\"SELECT * FROM {table} WHERE {}\"\"\"", filter.trim());
                    format!("Write {query} and a key instead of table and where")
                }
                None => "Move the condition into the query".to_owned(),
            };
            let whole = if is_zoom(&found) { "; for whole zooms, zoom = \"5-22\" or the like is enough" } else { "" };
            return wrong("where", format!("has {found}, but placeholders have values only in sql. {next}{whole}"));
        }
        for (key, sql) in [("min_zoom", &layer.min_zoom), ("max_zoom", &layer.max_zoom)] {
            if let Some(found) = sql.as_deref().and_then(placeholder_in) {
                let next = "let it give a zoom for each row";
                return wrong(key, format!("has {found}, but placeholders have values only in sql: {next}"));
            }
        }
        if let Some(found) = layer.rank.as_deref().and_then(placeholder_in) {
            let next = "let the query give a column to rank by";
            return wrong("rank", format!("has {found}, but placeholders have values only in sql: {next}"));
        }
        for property in own.unwrap_or_default() {
            let PropertySource::Expression(sql) = &property.source else { continue };
            if let Some(found) = placeholder_in(sql) {
                let name = &property.name;
                return wrong(
                    "properties",
                    format!(
                        "\"{name}\" has {found} inside of an expression: \"!x!\", \"!y!\" and \"!zoom!\" are properties each by itself, and other placeholders have values only in sql. Write sql = \"\"\"SELECT …\"\"\" that gives {name} as a column"
                    ),
                );
            }
        }
        for track in &layer.track {
            if let Some(found) = placeholder_in(&track.geometry) {
                let what = format!(
                    "for {} has {found}: the query is asked for a changed row, at no zoom and in no box. Leave the placeholder out",
                    track.table
                );
                return wrong("track.geometry", what);
            }
        }
        Ok(())
    }
}

fn is_zoom(found: &str) -> bool {
    matches!(found.to_lowercase().trim_matches('!'), "zoom" | "z")
}
