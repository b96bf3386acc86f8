//! A layer as it is written in a configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::placement::Beyond;
use crate::cells::{CellEdges, CellGeometry, CellShape};
use crate::setting::has_schema_of;
use crate::tile::{TileBounds, ZoomList};

// A section `[[layer]]`; `sample-config.toml` says what each key means.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerSection {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) property_descriptions: Option<BTreeMap<String, String>>,
    pub(crate) table: Option<String>,
    pub(crate) schema: Option<String>,
    pub(crate) sql: Option<String>,
    pub(crate) function: Option<String>,
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(crate) query: Option<toml::Table>,
    pub(crate) occupied: Option<String>,
    pub(crate) geometry: Option<String>,
    pub(crate) key: Option<Vec<String>>,
    pub(crate) properties: Option<Properties>,
    pub(crate) feature_id: Option<String>,
    #[serde(rename = "where")]
    pub(crate) filter: Option<RowCondition>,
    pub(crate) min_zoom: Option<String>,
    pub(crate) max_zoom: Option<String>,
    #[schemars(with = "Option<BTreeMap<String, ZoomList>>")]
    pub(crate) property_zooms: Option<toml::Table>,
    pub(crate) aggregate: Option<AggregateSection>,
    pub(crate) cluster: Option<ClusterSection>,
    pub(crate) simplify: Option<SimplifySection>,
    pub(crate) refresh: Option<bool>,
    #[serde(default)]
    pub(crate) track: Vec<TrackSection>,
    pub(crate) extent: Option<u32>,
    pub(crate) buffer: Option<u32>,
    pub(crate) tile_bounds: Option<TileBounds>,
    pub(crate) candidates: Option<Fraction>,
    pub(crate) zoom: Option<ZoomList>,
    pub(crate) max_tile_features: Option<Limit>,
    pub(crate) max_tile_bytes: Option<Limit>,
    pub(crate) on_large_tile: Option<OnLargeTile>,
    pub(crate) rank: Option<String>,
    pub(crate) on_tile_error: Option<OnTileError>,
    pub(crate) beyond: Option<Beyond>,
    pub(crate) repair: Option<bool>,
    #[serde(default)]
    pub(crate) facets: Vec<String>,
}

impl LayerSection {
    /// True if its relation is a materialized view that a run refreshes before it takes its snapshot.
    pub(crate) fn refresh(&self) -> bool {
        self.refresh.unwrap_or(false)
    }
}

/// The section `[layer.aggregate]`: cells are drawn instead of rows.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AggregateSection {
    pub(crate) cell: CellShape,
    pub(crate) size: Fraction,
    #[serde(default)]
    pub(crate) draw: CellGeometry,
    #[serde(default)]
    pub(crate) edges: CellEdges,
    pub(crate) having: Option<String>,
    #[schemars(with = "BTreeMap<String, String>")]
    pub(crate) properties: toml::Table,
    pub(crate) zoom: Option<ZoomList>,
}

/// The section `[layer.cluster]`: rows near each other are drawn as one point, as map clients cluster them.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterSection {
    pub(crate) cell: Option<CellShape>,
    pub(crate) merge: Option<bool>,
    pub(crate) size: Option<Fraction>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub(crate) properties: Option<toml::Table>,
    pub(crate) zoom: Option<ZoomList>,
}

/// The section `[layer.simplify]`: lines and polygons are drawn simpler.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SimplifySection {
    pub(crate) tolerance: Option<f64>,
    pub(crate) snap: Option<f64>,
    pub(crate) min_area: Option<f64>,
    pub(crate) min_length: Option<f64>,
    pub(crate) zoom: Option<ZoomList>,
}

/// A fraction of a tile: 0.125 or "1/8".
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "FractionText")]
pub(crate) struct Fraction(pub(crate) f64);

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a fraction such as 0.125 or \"1/8\"")]
enum FractionText {
    Whole(i64),
    Number(f64),
    Text(String),
}

has_schema_of!(Fraction, FractionText, inline = true);

impl TryFrom<FractionText> for Fraction {
    type Error = String;

    fn try_from(text: FractionText) -> Result<Fraction, String> {
        let written = match text {
            FractionText::Whole(number) => return Ok(Fraction(number as f64)),
            FractionText::Number(number) => return Ok(Fraction(number)),
            FractionText::Text(text) => text,
        };
        let number = |part: &str| part.trim().parse::<f64>().ok();
        let fraction = match written.split_once('/') {
            Some((above, below)) => number(above).zip(number(below)).map(|(above, below)| above / below),
            None => number(&written),
        };
        fraction.map(Fraction).ok_or_else(|| format!("\"{written}\" is no fraction: write 0.125 or \"1/8\""))
    }
}

/// The section `[[layer.track]]`: a further table that a layer's query reads.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrackSection {
    pub(crate) table: String,
    pub(crate) schema: Option<String>,
    pub(crate) geometry: String,
}

/// A list of columns, or a table of names and SQL expressions; the order is kept.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a list of columns or a table of names and SQL expressions")]
pub(crate) enum Properties {
    Columns(Vec<String>),
    Expressions(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

impl Properties {
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Properties::Columns(names) => names.iter().map(String::as_str).collect(),
            Properties::Expressions(table) => table.keys().map(String::as_str).collect(),
        }
    }
}

/// A limit for all zooms, or one for each list of zooms; 0 means no limit.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number, or a table of zooms and numbers such as { \"0-6\" = 300000 }")]
pub(crate) enum Limit {
    All(u64),
    ByZoom(#[schemars(with = "BTreeMap<String, u64>")] toml::Table),
}

/// A condition for all zooms, or one for each list of zooms.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "an SQL condition, or a table of zooms and conditions such as { \"0-6\" = \"population > 100000\" }"
)]
pub(crate) enum RowCondition {
    All(String),
    ByZoom(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

/// What happens when a tile holds more of a layer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnLargeTile {
    /// The run names the tile and goes on.
    Warn,
    /// The run ends: before it renders if a tile has too many features, at the tile if it has too many bytes.
    Fail,
    /// Features of the lowest rank are left out.
    Thin,
}

/// What happens when a layer cannot be rendered in one tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnTileError {
    /// The run ends.
    Fail,
    /// The layer is left out of the tile, or the target's old tile stays. The run goes on and reports the tile at its
    /// end.
    Skip,
}
