//! A configuration as it is written in a file or gathered from several origins: every key may be missing.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::postgis::{Beyond, OnLargeTile, OnTileError};
use crate::tile::{LonLatBox, MapCenter, ZoomList};

/// All keys of a configuration.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    pub(crate) database: DatabaseSection,
    pub(crate) tileset: TilesetTables,
    pub(crate) tileset_defaults: TilesetSection,
    pub(crate) target: TargetSection,
    pub(crate) s3: S3Section,
    pub(crate) changes: ChangesSection,
    pub(crate) run: RunSection,
    pub(crate) serve: ServeSection,
    pub(crate) purge: Vec<PurgeSection>,
    pub(crate) layer_defaults: LayerDefaults,
    pub(crate) layer: Option<Vec<LayerSection>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DatabaseSection {
    pub(crate) url: Option<Secret>,
    pub(crate) url_file: Option<std::path::PathBuf>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) statement_timeout: Option<std::time::Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) lock_timeout: Option<std::time::Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) connect_timeout: Option<std::time::Duration>,
    pub(crate) application_name: Option<String>,
    pub(crate) work_mem: Option<String>,
    pub(crate) restarts: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TargetSection {
    pub(crate) template: Option<String>,
    pub(crate) compression: Option<Compression>,
    pub(crate) publish: Option<PublishMode>,
    pub(crate) keep_versions: Option<usize>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) keep_for: Option<std::time::Duration>,
    pub(crate) public_url: Option<String>,
}

/// How a directory or a bucket stores tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    Gzip,
    None,
}

/// How clients get to see a run's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PublishMode {
    InPlace,
    Versioned,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChangesSection {
    pub(crate) schema: Option<String>,
    pub(crate) truncate_rows: Option<u32>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) debounce: Option<std::time::Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) poll: Option<std::time::Duration>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RunSection {
    pub(crate) workers: Option<usize>,
    pub(crate) batch_features: Option<u64>,
    pub(crate) window: Option<usize>,
    pub(crate) rows_mb: Option<RowsMb>,
    pub(crate) progress: Option<Progress>,
}

/// The memory for cached rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number of megabytes, or \"auto\"")]
pub(crate) enum RowsMb {
    Megabytes(usize),
    Word(AutoWord),
}

/// The one word that stands for a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AutoWord {
    Auto,
}

/// The section `[layer_defaults]`: keys of tiles that each layer may override.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LayerDefaults {
    pub(crate) extent: Option<u32>,
    pub(crate) buffer: Option<u32>,
    pub(crate) tile_bounds: Option<TileBoundsName>,
    pub(crate) zoom: Option<ZoomList>,
    pub(crate) max_tile_features: Option<Limit>,
    pub(crate) max_tile_bytes: Option<Limit>,
    pub(crate) on_large_tile: Option<OnLargeTile>,
    pub(crate) on_tile_error: Option<OnTileError>,
    pub(crate) beyond: Option<Beyond>,
}

/// A limit for all zooms, or one for each list of zooms; 0 means no limit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number, or a table of zooms and numbers such as { \"0-6\" = 300000 }")]
pub(crate) enum Limit {
    All(u64),
    ByZoom(#[schemars(with = "BTreeMap<String, u64>")] toml::Table),
}

/// A condition for all zooms, or one for each list of zooms.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "an SQL condition, or a table of zooms and conditions such as { \"0-6\" = \"population > 100000\" }"
)]
pub(crate) enum RowCondition {
    All(String),
    ByZoom(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerSection {
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
    pub(crate) tile_bounds: Option<TileBoundsName>,
    pub(crate) candidates: Option<Fraction>,
    pub(crate) zoom: Option<ZoomList>,
    pub(crate) max_tile_features: Option<Limit>,
    pub(crate) max_tile_bytes: Option<Limit>,
    pub(crate) on_large_tile: Option<OnLargeTile>,
    pub(crate) rank: Option<String>,
    pub(crate) on_tile_error: Option<OnTileError>,
    pub(crate) beyond: Option<Beyond>,
}

/// The unit in which the grid of a tile is linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TileBoundsName {
    Mercator,
    Degrees,
}

/// The section `[layer.aggregate]`: cells are drawn instead of rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AggregateSection {
    pub(crate) cell: CellShapeName,
    pub(crate) size: Fraction,
    #[serde(default)]
    pub(crate) draw: CellDrawing,
    pub(crate) having: Option<String>,
    #[schemars(with = "BTreeMap<String, String>")]
    pub(crate) properties: toml::Table,
    pub(crate) zoom: Option<ZoomList>,
}

/// The section `[layer.cluster]`: rows near each other are drawn as one point, as map clients cluster them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterSection {
    pub(crate) cell: Option<CellShapeName>,
    pub(crate) merge: Option<bool>,
    pub(crate) size: Option<Fraction>,
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub(crate) properties: Option<toml::Table>,
    pub(crate) zoom: Option<ZoomList>,
}

/// The section `[layer.simplify]`: lines and polygons are drawn simpler.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SimplifySection {
    pub(crate) tolerance: Option<f64>,
    pub(crate) snap: Option<f64>,
    pub(crate) min_area: Option<f64>,
    pub(crate) min_length: Option<f64>,
    pub(crate) zoom: Option<ZoomList>,
}

/// The shape of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CellShapeName {
    Square,
    Hexagon,
}

/// The geometry that a cell is drawn as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CellDrawing {
    #[default]
    Center,
    Centroid,
    Polygon,
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
pub(crate) struct TrackSection {
    pub(crate) table: String,
    pub(crate) schema: Option<String>,
    pub(crate) geometry: String,
}

/// A list of columns, or a table of names and SQL expressions; the order is kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a list of columns or a table of names and SQL expressions")]
pub(crate) enum Properties {
    Columns(Vec<String>),
    Expressions(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

impl Properties {
    /// The names of the properties.
    pub(crate) fn names(&self) -> Vec<&str> {
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
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Durations such as "30s" or "10m".
pub(crate) mod duration {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(&text) {
            Ok(duration) => Ok(Some(duration)),
            Err(error) => Err(D::Error::custom(format!("\"{text}\" is no duration ({error}): write 30s, 10m or 0s"))),
        }
    }
}

// The sections `[[tileset.parameter]]` as they are written.

/// A section `[[tileset.parameter]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParameterSection {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: ParameterTypeName,
    #[serde(default, rename = "where")]
    pub(crate) conditions: BTreeMap<String, String>,
    pub(crate) case: Option<CaseName>,
    pub(crate) allowed: Option<Vec<AllowedValue>>,
    pub(crate) pattern: Option<String>,
    pub(crate) max_length: Option<NonZeroUsize>,
    pub(crate) max_values: Option<NonZeroUsize>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// The type of a parameter's values, or a list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum ParameterTypeName {
    #[serde(rename = "text")]
    Text,
    #[serde(rename = "text[]")]
    Texts,
    #[serde(rename = "integer")]
    Integer,
    #[serde(rename = "integer[]")]
    Integers,
    #[serde(rename = "number")]
    Number,
    #[serde(rename = "number[]")]
    Numbers,
    #[serde(rename = "boolean")]
    Boolean,
    #[serde(rename = "box")]
    Box,
}

/// The case of a text's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CaseName {
    #[default]
    Keep,
    Lower,
    Upper,
}

/// A value that is allowed.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text or a number")]
pub(crate) enum AllowedValue {
    Whole(i64),
    Number(f64),
    Text(String),
}

impl AllowedValue {
    /// The value as a request would give it.
    pub(crate) fn text(&self) -> String {
        match self {
            AllowedValue::Whole(number) => number.to_string(),
            AllowedValue::Number(number) => number.to_string(),
            AllowedValue::Text(text) => text.clone(),
        }
    }
}

// The sections `[[purge]]` as they are written.

/// A section `[[purge]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PurgeSection {
    #[serde(deserialize_with = "provider_name")]
    pub(crate) provider: PurgeProviderName,
    pub(crate) url: String,
    pub(crate) by: Option<PurgeByName>,
    pub(crate) budget_per_month: Option<NonZeroU64>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) min_interval: Option<Duration>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) wait: Option<Duration>,
    pub(crate) required: Option<bool>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) rebound: Option<Duration>,
    #[serde(default, deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) settle: Option<Duration>,
    pub(crate) soft: Option<bool>,
    pub(crate) distribution: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) plan: Option<CloudflarePlanName>,
    pub(crate) origins: Option<Vec<String>>,
    pub(crate) caches: Option<Vec<String>>,
    pub(crate) wildcards: Option<bool>,
    pub(crate) program: Option<Vec<String>>,
    pub(crate) max_items: Option<usize>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) token_variable: Option<String>,
    pub(crate) endpoint: Option<String>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PurgeProviderName {
    CloudFront,
    Fastly,
    Cloudflare,
    Varnish,
    Nginx,
    Command,
}

/// Reads the provider. CDNs that once were providers have programs now.
fn provider_name<'de, D: Deserializer<'de>>(given: D) -> Result<PurgeProviderName, D::Error> {
    let name = String::deserialize(given)?;
    match &*name {
        "akamai" | "bunny" => Err(D::Error::custom(has_program(&name))),
        known => PurgeProviderName::deserialize(known.into_deserializer()),
    }
}

/// What to write instead of a provider that has become a program, if `key` was one of its keys.
pub(crate) fn former_key(key: &str) -> Option<String> {
    match key {
        "pull_zone" => Some(has_program("bunny")),
        "network" | "cp_code" | "edgerc" | "edgerc_section" => Some(has_program("akamai")),
        _ => None,
    }
}

fn has_program(name: &str) -> String {
    format!(
        "\"{name}\" is no provider any more: write provider = \"command\" and program = [\"/usr/local/bin/{name}\", …], with the program examples/purge/{name} of the repository, whose first lines show all keys"
    )
}

/// By what tiles are purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PurgeByName {
    Auto,
    Tag,
    Path,
    Url,
    All,
}

/// Cloudflare's plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CloudflarePlanName {
    Free,
    Pro,
    Business,
    Enterprise,
}

// The section `[s3]` as it is written: every key may be missing.

/// The section `[s3]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct S3Section {
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) in_flight: Option<NonZeroUsize>,
    pub(crate) attempts: Option<u32>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) backoff: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) attempt_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) request_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) lease: Option<Duration>,
    pub(crate) conditional_writes: Option<bool>,
    pub(crate) checksums: Option<bool>,
    pub(crate) part_size_mb: Option<u64>,
    pub(crate) cache_control: Option<CacheControl>,
    pub(crate) notes_cache_control: Option<String>,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) storage_class: Option<String>,
    pub(crate) encryption: Option<EncryptionName>,
    pub(crate) kms_key: Option<String>,
}

/// One value, or one for each list of zooms.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, or a table of zooms and texts")]
pub(crate) enum CacheControl {
    All(String),
    ByZoom(#[schemars(with = "BTreeMap<String, String>")] toml::Table),
}

/// How the server encrypts objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum EncryptionName {
    #[serde(rename = "bucket")]
    Bucket,
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "aws:kms")]
    Kms,
}

// The section `[serve]` as it is written: every key may be missing.

/// The section `[serve]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServeSection {
    pub(crate) listen: Option<String>,
    pub(crate) admin: Option<String>,
    pub(crate) public_url: Option<String>,
    pub(crate) base_path: Option<String>,
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) cache_mb: Option<u64>,
    pub(crate) unread_mb: Option<u64>,
    pub(crate) empty_status: Option<u16>,
    pub(crate) cache_control: Option<CacheControl>,
    pub(crate) cdn_cache_control: Option<CacheControl>,
    pub(crate) cdn_headers: Option<Vec<CdnHeaderName>>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) outage_cdn_max_age: Option<Duration>,
    pub(crate) tag_headers: Option<Vec<TagHeaderName>>,
    pub(crate) headers: Option<BTreeMap<String, String>>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_connections_of_address: Option<usize>,
    pub(crate) trusted_proxies: Option<Vec<String>>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) drain: Option<Duration>,
    pub(crate) changes: Option<bool>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) preview: Option<bool>,
    pub(crate) assets: Option<PathBuf>,
    pub(crate) basemap: Option<String>,
    pub(crate) access_log: Option<AccessLogName>,
    pub(crate) server_timing: Option<bool>,
    pub(crate) workers: Option<usize>,
    pub(crate) live_reserved: Option<usize>,
    pub(crate) background_guaranteed: Option<usize>,
    pub(crate) live: Option<bool>,
    pub(crate) live_queue: Option<usize>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) live_timeout: Option<Duration>,
    pub(crate) writer: Option<WriterName>,
    pub(crate) write_back: Option<bool>,
    pub(crate) write_back_rate: Option<u32>,
    pub(crate) write_back_mb: Option<u64>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) writer_lease: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) live_ttl: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) answer_within: Option<Duration>,
    pub(crate) expires: Option<CacheControl>,
    pub(crate) refresh: Option<RefreshName>,
    pub(crate) neighbours: Option<bool>,
    #[serde(deserialize_with = "duration::deserialize")]
    #[schemars(with = "Option<String>")]
    pub(crate) explain_after: Option<Duration>,
    pub(crate) undeclared_parameters: Option<UndeclaredName>,
    pub(crate) parameter_keys: Option<usize>,
    pub(crate) redis_url: Option<Secret>,
    pub(crate) redis_url_file: Option<PathBuf>,
    pub(crate) redis_secret_file: Option<PathBuf>,
}

/// A header by which CDNs learn how long they may keep a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum CdnHeaderName {
    #[serde(rename = "CDN-Cache-Control")]
    CdnCacheControl,
    #[serde(rename = "Surrogate-Control")]
    SurrogateControl,
    #[serde(rename = "s-maxage")]
    SharedMaxAge,
}

/// Whether a server writes the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WriterName {
    Never,
    Always,
    Auto,
}

/// What a client gets where the stored tile is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RefreshName {
    /// The stale tile, at once.
    Background,
    /// The fresh tile, if it is there soon.
    Patient,
}

/// What becomes of names in a query that a tileset does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UndeclaredName {
    Drop,
    Refuse,
}

/// A header in which a CDN expects tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum TagHeaderName {
    #[serde(rename = "Cache-Tag")]
    CacheTag,
    #[serde(rename = "Surrogate-Key")]
    SurrogateKey,
    #[serde(rename = "CDN-Tag")]
    CdnTag,
    #[serde(rename = "Edge-Cache-Tag")]
    EdgeCacheTag,
    #[serde(rename = "xkey")]
    Xkey,
}

/// Whether and how requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AccessLogName {
    None,
    Text,
    Json,
}

// The tilesets of a configuration: `[tileset]`, or several `[[tileset]]`.

/// The keys of a tileset.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TilesetSection {
    pub(crate) name: Option<String>,
    pub(crate) layers: Option<Vec<String>>,
    pub(crate) description: Option<String>,
    pub(crate) attribution: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) zoom: Option<ZoomList>,
    pub(crate) center: Option<MapCenter>,
    pub(crate) bbox: Option<Vec<LonLatBox>>,
    pub(crate) area: Option<String>,
    pub(crate) output: Option<std::path::PathBuf>,
    pub(crate) gzip_level: Option<u32>,
    pub(crate) max_shrink: Option<String>,
    pub(crate) target: Option<TargetSection>,
    pub(crate) variants: Option<VariantsSection>,
    pub(crate) parameter: Option<Vec<ParameterSection>>,
}

/// One tileset, or a list of them.
#[derive(Debug, Clone)]
pub(crate) enum TilesetTables {
    /// `[tileset]`.
    One(Box<TilesetSection>),
    /// `[[tileset]]`: their values are kept as tables ([`ConfigValues::tilesets`](super::ConfigValues::tilesets)).
    Several,
}

impl Default for TilesetTables {
    fn default() -> TilesetTables {
        TilesetTables::One(Box::default())
    }
}

impl TilesetTables {
    /// The one tileset; without any key if there is a list.
    pub(crate) fn one(&self) -> TilesetSection {
        match self {
            TilesetTables::One(section) => (**section).clone(),
            TilesetTables::Several => TilesetSection::default(),
        }
    }
}

impl<'de> Deserialize<'de> for TilesetTables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TilesetTables, D::Error> {
        deserializer.deserialize_any(TilesetVisitor)
    }
}

struct TilesetVisitor;

impl<'de> Visitor<'de> for TilesetVisitor {
    type Value = TilesetTables;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table [tileset], or tables [[tileset]]")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TilesetTables, A::Error> {
        TilesetSection::deserialize(MapAccessDeserializer::new(map)).map(Box::new).map(TilesetTables::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<TilesetTables, A::Error> {
        Vec::<TilesetSection>::deserialize(SeqAccessDeserializer::new(sequence)).map(|_checked| TilesetTables::Several)
    }
}

impl JsonSchema for TilesetTables {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TilesetTables".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (one, several) =
            (generator.subschema_for::<TilesetSection>(), generator.subschema_for::<Vec<TilesetSection>>());
        json_schema!({ "anyOf": [one, several] })
    }
}

// The keys of `[tileset.variants]`.

/// A family of tilesets that differ in the values of parameters.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VariantsSection {
    pub(crate) values: VariantList,
    #[serde(rename = "where", default)]
    pub(crate) filter: BTreeMap<String, String>,
    pub(crate) output: String,
    pub(crate) all: Option<std::path::PathBuf>,
}

/// The values of the parameters: a query, or a list of tables of names and values.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "an SQL query, or a list of tables such as [{ country = \"bd\" }, { country = \"in\" }]")]
pub(crate) enum VariantList {
    /// `"SELECT …"`
    Query(String),
    /// `[{ country = "bd" }, …]`
    Listed(#[schemars(with = "Vec<BTreeMap<String, serde_json::Value>>")] Vec<toml::Table>),
}
