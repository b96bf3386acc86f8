//! A configuration as it is written in a file or gathered from several origins: every key may be missing.

mod parameter;
mod purge;
mod s3;
mod serve;
mod tileset;
mod variants;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::postgis::{Beyond, OnLargeTile, OnTileError};
use crate::tile::ZoomList;

pub(super) use parameter::{CaseName, ParameterSection, ParameterTypeName};
pub(super) use purge::{CloudflarePlanName, PurgeByName, PurgeProviderName, PurgeSection, former_key};
pub(super) use s3::{CacheControl, EncryptionName, S3Section};
pub(super) use serve::{
    AccessLogName, CdnHeaderName, RefreshName, ServeSection, TagHeaderName, UndeclaredName, WriterName,
};
pub(super) use tileset::{TilesetSection, TilesetTables};
pub(super) use variants::{VariantList, VariantsSection};

/// All keys of a configuration.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConfigFile {
    pub(super) database: DatabaseSection,
    pub(super) tileset: TilesetTables,
    pub(super) tileset_defaults: TilesetSection,
    pub(super) target: TargetSection,
    pub(super) s3: S3Section,
    pub(super) changes: ChangesSection,
    pub(super) run: RunSection,
    pub(super) serve: ServeSection,
    pub(super) purge: Vec<PurgeSection>,
    pub(super) layer_defaults: LayerDefaults,
    pub(super) layer: Option<Vec<LayerSection>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DatabaseSection {
    pub(super) url: Option<Secret>,
    pub(super) url_file: Option<std::path::PathBuf>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(super) statement_timeout: Option<std::time::Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(super) lock_timeout: Option<std::time::Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(super) connect_timeout: Option<std::time::Duration>,
    pub(super) application_name: Option<String>,
    pub(super) work_mem: Option<String>,
    pub(super) restarts: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TargetSection {
    pub(super) template: Option<String>,
    pub(super) compression: Option<Compression>,
    pub(super) publish: Option<PublishMode>,
    pub(super) keep_versions: Option<usize>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(super) keep_for: Option<std::time::Duration>,
    pub(super) public_url: Option<String>,
}

/// How a directory or a bucket stores tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compression {
    Gzip,
    None,
}

/// How clients get to see a run's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PublishMode {
    InPlace,
    Versioned,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ChangesSection {
    pub(super) schema: Option<String>,
    pub(super) truncate_rows: Option<u32>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(super) debounce: Option<std::time::Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(super) poll: Option<std::time::Duration>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RunSection {
    pub(super) workers: Option<usize>,
    pub(super) batch_features: Option<u64>,
    pub(super) window: Option<usize>,
    pub(super) rows_mb: Option<RowsMb>,
    pub(super) progress: Option<Progress>,
}

/// The memory for cached rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number of megabytes, or \"auto\"")]
pub(super) enum RowsMb {
    Megabytes(usize),
    Word(AutoWord),
}

/// The one word that stands for a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AutoWord {
    Auto,
}

/// The section `[layer_defaults]`: keys of tiles that each layer may override.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LayerDefaults {
    pub(super) extent: Option<u32>,
    pub(super) buffer: Option<u32>,
    pub(super) tile_bounds: Option<TileBoundsName>,
    pub(super) zoom: Option<ZoomList>,
    pub(super) max_tile_features: Option<Limit>,
    pub(super) max_tile_bytes: Option<Limit>,
    pub(super) on_large_tile: Option<OnLargeTile>,
    pub(super) on_tile_error: Option<OnTileError>,
    pub(super) beyond: Option<Beyond>,
}

/// A limit for all zooms, or one for each list of zooms; 0 means no limit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number, or a table of zooms and numbers such as { \"0-6\" = 300000 }")]
pub(super) enum Limit {
    All(u64),
    ByZoom(#[schemars(with = "BTreeMap<String, u64>")] toml::Table),
}

/// A condition for all zooms, or one for each list of zooms.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "an SQL condition, or a table of zooms and conditions such as { \"0-6\" = \"population > 100000\" }"
)]
pub(super) enum RowCondition {
    All(String),
    ByZoom(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerSection {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) property_descriptions: Option<BTreeMap<String, String>>,
    pub(super) table: Option<String>,
    pub(super) schema: Option<String>,
    pub(super) sql: Option<String>,
    pub(super) function: Option<String>,
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub(super) query: Option<toml::Table>,
    pub(super) occupied: Option<String>,
    pub(super) geometry: Option<String>,
    pub(super) key: Option<Vec<String>>,
    pub(super) properties: Option<Properties>,
    pub(super) feature_id: Option<String>,
    #[serde(rename = "where")]
    pub(super) filter: Option<RowCondition>,
    pub(super) min_zoom: Option<String>,
    pub(super) max_zoom: Option<String>,
    #[schemars(with = "Option<BTreeMap<String, ZoomList>>")]
    pub(super) property_zooms: Option<toml::Table>,
    pub(super) aggregate: Option<AggregateSection>,
    pub(super) cluster: Option<ClusterSection>,
    pub(super) simplify: Option<SimplifySection>,
    pub(super) refresh: Option<bool>,
    #[serde(default)]
    pub(super) track: Vec<TrackSection>,
    pub(super) extent: Option<u32>,
    pub(super) buffer: Option<u32>,
    pub(super) tile_bounds: Option<TileBoundsName>,
    pub(super) candidates: Option<Fraction>,
    pub(super) zoom: Option<ZoomList>,
    pub(super) max_tile_features: Option<Limit>,
    pub(super) max_tile_bytes: Option<Limit>,
    pub(super) on_large_tile: Option<OnLargeTile>,
    pub(super) rank: Option<String>,
    pub(super) on_tile_error: Option<OnTileError>,
    pub(super) beyond: Option<Beyond>,
}

/// The unit in which the grid of a tile is linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TileBoundsName {
    Mercator,
    Degrees,
}

/// The section `[layer.aggregate]`: cells are drawn instead of rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AggregateSection {
    pub(super) cell: CellShapeName,
    pub(super) size: Fraction,
    #[serde(default)]
    pub(super) draw: CellDrawing,
    pub(super) having: Option<String>,
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) properties: toml::Table,
    pub(super) zoom: Option<ZoomList>,
}

/// The section `[layer.cluster]`: rows near each other are drawn as one point, as map clients cluster them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterSection {
    pub(super) cell: Option<CellShapeName>,
    pub(super) merge: Option<bool>,
    pub(super) size: Option<Fraction>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub(super) properties: Option<toml::Table>,
    pub(super) zoom: Option<ZoomList>,
}

/// The section `[layer.simplify]`: lines and polygons are drawn simpler.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SimplifySection {
    pub(super) tolerance: Option<f64>,
    pub(super) snap: Option<f64>,
    pub(super) min_area: Option<f64>,
    pub(super) min_length: Option<f64>,
    pub(super) zoom: Option<ZoomList>,
}

/// The shape of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CellShapeName {
    Square,
    Hexagon,
}

/// The geometry that a cell is drawn as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CellDrawing {
    #[default]
    Center,
    Centroid,
    Polygon,
}

/// A fraction of a tile: 0.125 or "1/8".
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "FractionText")]
pub(super) struct Fraction(pub(super) f64);

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a fraction such as 0.125 or \"1/8\"")]
enum FractionText {
    Whole(i64),
    Number(f64),
    Text(String),
}

impl JsonSchema for Fraction {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fraction".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        FractionText::json_schema(generator)
    }
}

impl TryFrom<FractionText> for Fraction {
    type Error = String;

    #[expect(clippy::cast_precision_loss, reason = "a cell is no larger than a tile")]
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
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrackSection {
    pub(super) table: String,
    pub(super) schema: Option<String>,
    pub(super) geometry: String,
}

/// A list of columns, or a table of names and SQL expressions; the order is kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a list of columns or a table of names and SQL expressions")]
pub(super) enum Properties {
    Columns(Vec<String>),
    Expressions(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

impl Properties {
    /// The names of the properties.
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Properties::Columns(names) => names.iter().map(String::as_str).collect(),
            Properties::Expressions(table) => table.keys().map(String::as_str).collect(),
        }
    }
}

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// A bar on a terminal, lines elsewhere
    Auto,
    /// A progress bar
    Bar,
    /// A line for each zoom, and one every ten seconds
    Lines,
    /// JSON on standard output, one object in each line
    Json,
    /// Warnings and restarts only
    None,
}

/// A text that `Debug` hides.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(in crate::config) struct Secret(pub(in crate::config) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Durations such as "30s" or "10m".
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(&text) {
            Ok(duration) => Ok(Some(duration)),
            Err(error) => Err(D::Error::custom(format!("\"{text}\" is no duration ({error}): write 30s, 10m or 0s"))),
        }
    }
}
