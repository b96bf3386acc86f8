//! The change log in the configuration.

use std::time::Duration;

use md5::{Digest as _, Md5};

use crate::postgis::Layer;

/// The schema of the log, and what the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesOptions {
    /// The schema of the log.
    pub schema: String,
    /// A `TRUNCATE` of more rows is logged as "everything" instead of the position of each row.
    pub truncate_rows: u32,
}

/// How `reseed --watch` waits for changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// How long to collect further changes after the first one.
    pub debounce: Duration,
    /// The longest pause between two reseeds, with or without a notification.
    pub poll: Duration,
}

/// A further table that a layer reads, and where its changes are visible on the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackOptions {
    /// The table.
    pub table: String,
    /// The table's schema; without it, the search path decides.
    pub schema: Option<String>,
    /// A query over the changed row, which it calls `changed`. It returns geometries in the reference system of the layer's column.
    pub geometry: String,
}

/// A layer whose changes are logged.
#[derive(Debug, Clone, Copy)]
pub struct TrackedLayer<'a> {
    /// The layer.
    pub layer: &'a Layer,
    /// The further tables that it reads.
    pub track: &'a [TrackOptions],
    /// True if its relation is a materialized view that each run refreshes.
    pub refreshes: bool,
}

impl TrackedLayer<'_> {
    /// A hash of everything that decides which rows and columns the layer reads. Configurations with the same hash share the installed watches; a
    /// layer with a new hash has to be installed.
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
        parts.extend(layer.row_zooms.sql().flat_map(|sql| ["zoom", sql]));
        let having = layer.cells().and_then(|cells| cells.having.as_deref());
        parts.extend(having.iter().flat_map(|having| ["having", having]));
        for track in self.track {
            parts.extend(["track", &track.table, track.schema.as_deref().unwrap_or_default(), &track.geometry]);
        }
        let mut hash = Md5::new();
        for part in parts {
            // Without the lengths, two lists of parts could be the same text.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
