//! The tilesets of a configuration: `[tileset]`, or several `[[tileset]]`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ParameterSection, TargetSection, VariantsSection};
use crate::tile::{LonLatBox, MapCenter, ZoomList};

/// The keys of a tileset.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct TilesetSection {
    pub(in crate::config) name: Option<String>,
    pub(in crate::config) layers: Option<Vec<String>>,
    pub(in crate::config) description: Option<String>,
    pub(in crate::config) attribution: Option<String>,
    pub(in crate::config) version: Option<String>,
    pub(in crate::config) zoom: Option<ZoomList>,
    pub(in crate::config) center: Option<MapCenter>,
    pub(in crate::config) bbox: Option<Vec<LonLatBox>>,
    pub(in crate::config) area: Option<String>,
    pub(in crate::config) output: Option<std::path::PathBuf>,
    pub(in crate::config) gzip_level: Option<u32>,
    pub(in crate::config) max_shrink: Option<String>,
    pub(in crate::config) target: Option<TargetSection>,
    pub(in crate::config) variants: Option<VariantsSection>,
    pub(in crate::config) parameter: Option<Vec<ParameterSection>>,
}

/// One tileset, or a list of them.
#[derive(Debug, Clone)]
pub(in crate::config) enum TilesetTables {
    /// `[tileset]`.
    One(Box<TilesetSection>),
    /// `[[tileset]]`: their values are kept as tables ([`ConfigValues::tilesets`](crate::config::ConfigValues::tilesets)).
    Several,
}

impl Default for TilesetTables {
    fn default() -> TilesetTables {
        TilesetTables::One(Box::default())
    }
}

impl TilesetTables {
    /// The one tileset; without any key if there is a list.
    pub(in crate::config) fn one(&self) -> TilesetSection {
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
