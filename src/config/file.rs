//! A configuration as it is written. What a file leaves out is as in the sample (`sample.rs`), so that a key is an
//! `Option` only if the sample has no value for it.

use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::cdn::{CloudflarePlan, PurgeBy};
use crate::cells::{CellGeometry, CellShape};
use crate::change_log::ChangesOptions;
use crate::postgis::{Beyond, OnLargeTile, OnTileError};
use crate::serve::{LetterCase, ParameterType, ServeSection};
use crate::setting::{Named, Secret, TextByZoom, TimeSpan, by_name, names_schema, no_key_is_required};
use crate::target::Encryption;
use crate::tile::{LonLatBox, MapCenter, TileBounds, ZoomList};

/// All keys of a configuration.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct ConfigFile {
    pub(crate) database: DatabaseSection,
    pub(crate) tileset: TilesetTables,
    #[expect(dead_code, reason = "read for its errors alone: its keys become those of each tileset")]
    #[schemars(with = "TilesetSection")]
    pub(crate) tileset_defaults: Option<TilesetSection>,
    pub(crate) target: TargetSection,
    pub(crate) s3: S3Section,
    pub(crate) changes: ChangesOptions,
    pub(crate) run: RunSection,
    pub(crate) serve: ServeSection,
    #[serde(default)]
    pub(crate) purge: Vec<PurgeSection>,
    pub(crate) layer_defaults: LayerDefaults,
    pub(crate) layer: Vec<LayerSection>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct DatabaseSection {
    pub(crate) url: Option<Secret>,
    pub(crate) url_file: Option<PathBuf>,
    pub(crate) statement_timeout: TimeSpan,
    pub(crate) lock_timeout: TimeSpan,
    pub(crate) connect_timeout: TimeSpan,
    pub(crate) application_name: String,
    pub(crate) work_mem: String,
    pub(crate) restarts: u32,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct TargetSection {
    pub(crate) template: String,
    pub(crate) compression: Compression,
    pub(crate) publish: PublishMode,
    pub(crate) keep_versions: usize,
    pub(crate) keep_for: TimeSpan,
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

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct RunSection {
    pub(crate) workers: usize,
    pub(crate) batch_features: u64,
    pub(crate) window: usize,
    pub(crate) rows_mb: RowsMb,
    pub(crate) progress: Progress,
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
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct LayerDefaults {
    pub(crate) extent: u32,
    pub(crate) buffer: u32,
    pub(crate) tile_bounds: TileBounds,
    pub(crate) zoom: ZoomList,
    pub(crate) max_tile_features: Limit,
    pub(crate) max_tile_bytes: Limit,
    pub(crate) on_large_tile: OnLargeTile,
    pub(crate) on_tile_error: OnTileError,
    pub(crate) beyond: Beyond,
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
}

/// The section `[layer.aggregate]`: cells are drawn instead of rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AggregateSection {
    pub(crate) cell: CellShape,
    pub(crate) size: Fraction,
    #[serde(default)]
    pub(crate) draw: CellGeometry,
    pub(crate) having: Option<String>,
    #[schemars(with = "BTreeMap<String, String>")]
    pub(crate) properties: toml::Table,
    pub(crate) zoom: Option<ZoomList>,
}

/// The section `[layer.cluster]`: rows near each other are drawn as one point, as map clients cluster them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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

// The sections `[[tileset.parameter]]` as they are written.

/// A section `[[tileset.parameter]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParameterSection {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    #[serde(rename = "type", deserialize_with = "by_name")]
    #[schemars(schema_with = "names_schema::<ValueType>")]
    pub(crate) kind: ValueType,
    #[serde(default, rename = "where")]
    pub(crate) conditions: BTreeMap<String, String>,
    pub(crate) case: Option<LetterCase>,
    pub(crate) allowed: Option<Vec<AllowedValue>>,
    pub(crate) pattern: Option<String>,
    pub(crate) max_length: Option<NonZeroUsize>,
    pub(crate) max_values: Option<NonZeroUsize>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// The type of a parameter: of one value, or of a list of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueType {
    pub(crate) of_each: ParameterType,
    pub(crate) is_list: bool,
}

impl ValueType {
    const fn one(of_each: ParameterType) -> ValueType {
        ValueType { of_each, is_list: false }
    }

    const fn list(of_each: ParameterType) -> ValueType {
        ValueType { of_each, is_list: true }
    }
}

impl Named for ValueType {
    const NAMES: &'static [(&'static str, ValueType)] = &[
        ("text", ValueType::one(ParameterType::Text)),
        ("text[]", ValueType::list(ParameterType::Text)),
        ("integer", ValueType::one(ParameterType::Integer)),
        ("integer[]", ValueType::list(ParameterType::Integer)),
        ("number", ValueType::one(ParameterType::Number)),
        ("number[]", ValueType::list(ParameterType::Number)),
        ("boolean", ValueType::one(ParameterType::Boolean)),
        ("box", ValueType::one(ParameterType::Box)),
    ];
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
    pub(crate) provider: PurgeProvider,
    pub(crate) url: String,
    #[serde(default, deserialize_with = "by_name")]
    #[schemars(schema_with = "names_schema::<Option<PurgeBy>>")]
    pub(crate) by: Option<PurgeBy>,
    pub(crate) budget_per_month: Option<NonZeroU64>,
    pub(crate) min_interval: Option<TimeSpan>,
    pub(crate) wait: Option<TimeSpan>,
    pub(crate) required: Option<bool>,
    pub(crate) rebound: Option<TimeSpan>,
    pub(crate) settle: Option<TimeSpan>,
    pub(crate) soft: Option<bool>,
    pub(crate) distribution: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) plan: Option<CloudflarePlan>,
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
pub(crate) enum PurgeProvider {
    CloudFront,
    Fastly,
    Cloudflare,
    Varnish,
    Nginx,
    Command,
}

/// Reads the provider. CDNs that once were providers have programs now.
fn provider_name<'de, D: Deserializer<'de>>(given: D) -> Result<PurgeProvider, D::Error> {
    let name = String::deserialize(given)?;
    match &*name {
        "akamai" | "bunny" => Err(D::Error::custom(has_program(&name))),
        known => PurgeProvider::deserialize(known.into_deserializer()),
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

impl Named for Option<PurgeBy> {
    const NAMES: &'static [(&'static str, Option<PurgeBy>)] = &[
        ("auto", None),
        ("tag", Some(PurgeBy::Tag)),
        ("path", Some(PurgeBy::Path)),
        ("url", Some(PurgeBy::Url)),
        ("all", Some(PurgeBy::All)),
    ];
}

/// The section `[s3]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct S3Section {
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) path_style: bool,
    pub(crate) in_flight: NonZeroUsize,
    pub(crate) attempts: u32,
    pub(crate) backoff: TimeSpan,
    pub(crate) connect_timeout: TimeSpan,
    pub(crate) attempt_timeout: TimeSpan,
    pub(crate) request_timeout: TimeSpan,
    pub(crate) lease: TimeSpan,
    pub(crate) conditional_writes: bool,
    pub(crate) checksums: bool,
    pub(crate) part_size_mb: u64,
    pub(crate) cache_control: Option<TextByZoom>,
    pub(crate) notes_cache_control: String,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    pub(crate) storage_class: Option<String>,
    #[serde(deserialize_with = "by_name")]
    #[schemars(schema_with = "names_schema::<Encryption>")]
    pub(crate) encryption: Encryption,
    pub(crate) kms_key: Option<String>,
}

impl Named for Encryption {
    /// The key of KMS is a key of its own.
    const NAMES: &'static [(&'static str, Encryption)] =
        &[("bucket", Encryption::Bucket), ("AES256", Encryption::Aes256), ("aws:kms", Encryption::Kms { key: None })];
}

// The tilesets of a configuration: `[tileset]`, or several `[[tileset]]`.

/// The keys of a tileset.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub(crate) struct TilesetSection {
    pub(crate) name: String,
    pub(crate) layers: Option<Vec<String>>,
    pub(crate) description: Option<String>,
    pub(crate) attribution: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) zoom: ZoomList,
    pub(crate) center: Option<MapCenter>,
    pub(crate) bbox: Vec<LonLatBox>,
    pub(crate) area: Option<String>,
    pub(crate) output: PathBuf,
    pub(crate) gzip_level: u32,
    pub(crate) max_shrink: String,
    #[expect(dead_code, reason = "read for its errors alone: its keys become those of the section [target]")]
    pub(crate) target: Option<TargetSection>,
    pub(crate) variants: Option<VariantsSection>,
    #[serde(default)]
    pub(crate) parameter: Vec<ParameterSection>,
}

/// One tileset, or a list of them.
#[derive(Debug, Clone)]
pub(crate) enum TilesetTables {
    /// `[tileset]`.
    One(Box<TilesetSection>),
    /// `[[tileset]]`: their values are kept as tables ([`ConfigValues::tilesets`](super::ConfigValues::tilesets)).
    Several,
}

impl TilesetTables {
    /// The one tileset; `None` if there is a list.
    pub(crate) fn one(&self) -> Option<&TilesetSection> {
        match self {
            TilesetTables::One(section) => Some(section),
            TilesetTables::Several => None,
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
    pub(crate) all: Option<PathBuf>,
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
