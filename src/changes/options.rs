//! What the configuration says of the change log.

use std::time::Duration;

use md5::{Digest as _, Md5};

use crate::postgis::Layer;

/// Where the log is, and what it notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesOptions {
    /// The schema of the log.
    pub schema: String,
    /// `TRUNCATE` of more rows notes "everything" instead of where each was.
    pub truncate_rows: u32,
}

/// How changes are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// How long changes are gathered after the first.
    pub debounce: Duration,
    /// How often to look without having been woken.
    pub poll: Duration,
}

/// A table that a layer shows something of, and where a change in it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackOptions {
    /// The table.
    pub table: String,
    /// Its schema; without one the search path decides.
    pub schema: Option<String>,
    /// A query over the changed row, called `changed`, that gives geometries in the reference system of the layer's column.
    pub geometry: String,
}

/// A layer whose changes are noted.
#[derive(Debug, Clone, Copy)]
pub struct TrackedLayer<'a> {
    /// The layer.
    pub layer: &'a Layer,
    /// The further tables that it shows something of.
    pub track: &'a [TrackOptions],
}

impl TrackedLayer<'_> {
    /// A hash of everything that decides which rows and columns the layer reads. Two configurations that read the same share
    /// what is installed; a layer with another hash has to be installed.
    #[must_use]
    pub fn definition(&self) -> String {
        let layer = self.layer;
        let mut parts: Vec<&str> = vec![&layer.relation, &layer.geometry];
        parts.extend(layer.key.iter().map(|key| key.quoted.as_str()));
        parts.push("properties");
        parts.extend(layer.properties.iter().map(|property| property.sql.as_str()));
        parts.push("feature_id");
        parts.extend(layer.feature_id.as_deref());
        parts.push("where");
        parts.extend(layer.filter.as_deref());
        let having = layer.cells.as_ref().and_then(|cells| cells.having.as_deref());
        parts.extend(having.iter().flat_map(|having| ["having", having]));
        for track in self.track {
            parts.extend(["track", &track.table, track.schema.as_deref().unwrap_or_default(), &track.geometry]);
        }
        let mut hash = Md5::new();
        for part in parts {
            // The length keeps two lists of parts from reading as one text.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
