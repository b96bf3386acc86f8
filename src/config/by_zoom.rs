//! Values that differ by zoom: tables whose keys are lists of zooms.

use super::error::{ConfigError, nearest};
use super::settings::Check;
use crate::postgis::{LayerSection, Property, RowCondition};
use crate::tile::{Zoom, ZoomError, ZoomList};

/// Words for the values of a table by zoom, for messages.
pub(crate) struct ZoomValues {
    /// The message for a value of another type: what is wrong, and what to write.
    pub(crate) misfit: &'static str,
    pub(crate) noun: &'static str,
}

/// A value, and the zooms at which it applies.
pub(crate) struct ZoomValue<T> {
    pub(crate) zooms: ZoomList,
    pub(crate) value: T,
}

/// The condition of a layer's rows at each of its zooms.
pub(crate) struct Conditions<'a> {
    everywhere: Option<&'a str>,
    by_zoom: Vec<ZoomValue<&'a str>>,
}

impl Conditions<'_> {
    pub(crate) fn at(&self, zoom: Zoom) -> Option<String> {
        let own = self.by_zoom.iter().find(|own| own.zooms.contains(zoom)).map(|own| own.value);
        own.or(self.everywhere).map(str::to_owned)
    }
}

impl RowCondition {
    /// The SQL conditions of all zooms.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            RowCondition::All(sql) => vec![sql],
            RowCondition::ByZoom(table) => table.values().filter_map(toml::Value::as_str).collect(),
        }
    }
}

impl Check<'_> {
    /// The entries of a table by zoom. Each zoom may be in one of them only.
    pub(crate) fn by_zoom<'t, T>(
        &self,
        key: &str,
        table: &'t toml::Table,
        value: impl Fn(&'t toml::Value) -> Option<T>,
        values: &ZoomValues,
    ) -> Result<Vec<ZoomValue<T>>, ConfigError> {
        let mut found: Vec<ZoomValue<T>> = Vec::new();
        for (text, given) in table {
            let zooms: ZoomList =
                text.parse().map_err(|error: ZoomError| self.wrong(key, format!("\"{text}\": {error}")))?;
            let Some(value) = value(given) else {
                return Err(self.wrong(key, format!("\"{text}\": its value is {}", values.misfit)));
            };
            if let Some(twice) = zooms.iter().find(|zoom| found.iter().any(|other| other.zooms.contains(*zoom))) {
                return Err(self.wrong(key, format!("names zoom {twice} twice: give each zoom one {}", values.noun)));
            }
            found.push(ZoomValue { zooms, value });
        }
        Ok(found)
    }

    pub(crate) fn conditions<'t>(&self, layer: &'t LayerSection) -> Result<Conditions<'t>, ConfigError> {
        let (everywhere, table) = match &layer.filter {
            None => (None, None),
            Some(RowCondition::All(sql)) => (Some(sql.as_str()), None),
            Some(RowCondition::ByZoom(table)) => (None, Some(table)),
        };
        let values = ZoomValues { misfit: "no text: write an SQL condition in quotes", noun: "condition" };
        let key = format!("layer[{}].where", layer.name);
        let by_zoom = table.map(|table| self.by_zoom(&key, table, toml::Value::as_str, &values)).transpose()?;
        Ok(Conditions { everywhere, by_zoom: by_zoom.unwrap_or_default() })
    }

    /// The zooms of properties that are drawn only at some zooms of the layer.
    pub(crate) fn property_zooms(
        &self,
        key: &str,
        layer: &LayerSection,
        own: Option<&[Property]>,
    ) -> Result<Vec<(String, ZoomList)>, ConfigError> {
        let Some(table) = &layer.property_zooms else { return Ok(Vec::new()) };
        let Some(own) = own else {
            return Err(self.wrong(key, "needs properties: name those of the layer, too".to_owned()));
        };
        let mut found = Vec::new();
        for (name, zooms) in table {
            if !own.iter().any(|property| property.name == *name) {
                let hint = nearest(name, own.iter().map(|property| property.name.as_str())).unwrap_or_default();
                return Err(self.wrong(key, format!("names \"{name}\", which is none of the layer's properties{hint}")));
            }
            let text = match zooms {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                _ => return Err(self.wrong(key, format!("the value of \"{name}\" is no zoom list: write \"10-22\""))),
            };
            found.push((name.clone(), text.parse().map_err(|error| self.wrong(key, format!("\"{name}\": {error}")))?));
        }
        Ok(found)
    }
}
