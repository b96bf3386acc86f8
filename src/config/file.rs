//! A configuration as it is written. What a file leaves out is as in the sample (`sample.rs`), so that a key is an
//! `Option` only if the sample has no value for it.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::filters::MapSection;
use crate::cdn::{PurgeSection, has_program};
use crate::change_log::ChangesSection;
use crate::postgis::{Beyond, DatabaseSection, FacetMatch, LayerSection, Limit, OnLargeTile, OnTileError};
use crate::serve::{LetterCase, ParameterType, ServeSection};
use crate::setting::{Named, by_name, names_schema, no_key_is_required};
use crate::target::{S3Section, TargetSection};
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
    pub(crate) changes: ChangesSection,
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

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Progress {
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
    #[serde(default)]
    pub(crate) tracked: bool,
    #[serde(default)]
    pub(crate) facet: BTreeMap<String, String>,
    #[serde(rename = "match")]
    pub(crate) matching: Option<MatchSection>,
    pub(crate) map: Option<MapSection>,
    pub(crate) case: Option<LetterCase>,
    pub(crate) allowed: Option<Vec<AllowedValue>>,
    pub(crate) pattern: Option<String>,
    pub(crate) max_length: Option<NonZeroUsize>,
    pub(crate) max_values: Option<NonZeroUsize>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

/// How values choose rows by a facet: always in the same way, or as the value of another parameter says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "\"any\", \"all\" or \"range\", or a table such as { from = \"combine\", values = { AND = \"all\", OR = \"any\" } }"
)]
pub(crate) enum MatchSection {
    Always(FacetMatch),
    From(MatchFrom),
}

/// The parameter whose value says how values choose, and what each of its values says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MatchFrom {
    pub(crate) from: String,
    pub(crate) values: BTreeMap<String, FacetMatch>,
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
        ("range", ValueType::one(ParameterType::Range)),
        ("polygon", ValueType::one(ParameterType::Polygon)),
    ];
}

/// A section `[[tileset.condition]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionSection {
    pub(crate) uses: Vec<String>,
    #[serde(rename = "where")]
    pub(crate) conditions: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) tracked: bool,
    #[serde(default)]
    pub(crate) default: BTreeMap<String, DefaultValue>,
}

/// The value of a parameter that a request does not give, or a list of values.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, a number, true or false, or a list of them")]
pub(crate) enum DefaultValue {
    One(AllowedValue),
    Several(Vec<AllowedValue>),
}

/// A value that is allowed.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text or a number")]
pub(crate) enum AllowedValue {
    Boolean(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

impl AllowedValue {
    /// The value as a request would give it.
    pub(crate) fn text(&self) -> String {
        match self {
            AllowedValue::Boolean(value) => value.to_string(),
            AllowedValue::Whole(number) => number.to_string(),
            AllowedValue::Number(number) => number.to_string(),
            AllowedValue::Text(text) => text.clone(),
        }
    }
}

/// What to write instead of a provider that has become a program, if `key` was one of its keys.
pub(crate) fn former_key(key: &str) -> Option<String> {
    match key {
        "pull_zone" => Some(has_program("bunny")),
        "network" | "cp_code" | "edgerc" | "edgerc_section" => Some(has_program("akamai")),
        "application_name" => Some(gone(key, "name the sessions in the URL (?application_name=…) or in PGAPPNAME")),
        "backoff" => Some(gone(
            key,
            "requests are repeated after 100 ms, then after twice as long each time, as attempts and request_timeout allow",
        )),
        _ => None,
    }
}

/// Says that a key was removed, and what takes its place.
fn gone(key: &str, instead: &str) -> String {
    format!("{key} is no key any more: take it out; {instead}")
}

/// What to do about `connect_timeout` where `known` keys stand; `None` if these are not those of `[s3]`.
pub(crate) fn former_connect_timeout(key: &str, known: &[&str]) -> Option<String> {
    (key == "connect_timeout" && known.contains(&"attempt_timeout")).then(|| {
        gone(key, "a connection to a bucket may take 5 seconds, and an attempt as long as attempt_timeout says")
    })
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
    #[serde(default)]
    pub(crate) condition: Vec<ConditionSection>,
}

#[derive(Debug, Clone)]
pub(crate) enum TilesetTables {
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
