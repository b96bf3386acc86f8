//! What the program prints as JSON: each document has a version, and a schema that is made from its type.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;

use super::{
    Backlog, Checkup, Contents, DirtyReport, EventRecord, FamilyReport, Findings, PlanReport, PurgeStatus,
    ReseedReport, RunReport,
};
use crate::json::JsonDocument;
use crate::mvt::LayerDifference;
use crate::tile::TileCoord;

/// What waits for all CDNs of a target.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PurgeStatusList<'a> {
    /// The CDNs.
    pub cdns: &'a [PurgeStatus],
}

/// How many tiles of two targets, or of a target and a running endpoint, are alike, and how many are not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffReport {
    /// The path or URL of the first target.
    pub a: String,
    /// The path or URL of the second target, or the address of a running endpoint.
    pub b: String,
    /// The counts of each zoom in which one of them has tiles, or the endpoint was asked for some.
    pub zooms: Vec<DiffZoom>,
    /// How tiles of a running endpoint differ, at most 1,000 of them; empty for two targets.
    pub differing: Vec<DifferingTile>,
    /// Tiles for which the endpoint gave no usable answer. They are not in the counts.
    pub unanswered: Vec<UnansweredTile>,
}

/// How a tile of a target (A) and of a running endpoint (B) differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DifferingTile {
    /// The tile.
    pub tile: TileCoord,
    /// Its layers that differ.
    pub layers: Vec<LayerDifference>,
}

/// A tile for which an endpoint gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UnansweredTile {
    /// The tile.
    pub tile: TileCoord,
    /// What the endpoint answered.
    pub why: String,
}

/// The counts of one zoom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffZoom {
    /// The zoom.
    pub zoom: u8,
    /// Tiles of both with the same content.
    pub equal: u64,
    /// Of these, tiles whose stored bytes differ: packed by another program, at another level, or not at all. For a
    /// running endpoint: tiles whose unpacked bytes differ, as by the order of the features.
    pub packed_otherwise: u64,
    /// Tiles of both with other content.
    pub differ: u64,
    /// Tiles that only the first target has.
    pub only_a: u64,
    /// Tiles that only the second target has.
    pub only_b: u64,
    /// Tiles for which a running endpoint was asked, and that neither has. They are no difference.
    pub both_empty: u64,
}

impl DiffReport {
    /// The number of tiles that differ, or that only one of the targets has.
    pub fn differences(&self) -> u64 {
        self.zooms.iter().map(|zoom| zoom.differ + zoom.only_a + zoom.only_b).sum()
    }
}

/// What `shards status` says.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShardsStatus {
    /// The run's id.
    pub run: String,
    /// The target.
    pub output: String,
    /// How the shards come to one state: `tracked`, `held` or `frozen`.
    pub state: &'static str,
    /// The sessions that all shards together may have.
    pub connections: u32,
    /// When the run was begun (RFC 3339).
    pub started: String,
    /// Tiles planned.
    pub tiles: u64,
    /// The number of shards that are done.
    pub done: u32,
    /// The number of shards that are rendered now.
    pub running: u32,
    /// The number of other shards.
    pub missing: u32,
    /// Bytes that the shards have left for the commit.
    pub bytes: u64,
    /// The time that the shards which are done took, added up, in seconds.
    pub seconds: f64,
    /// The shards, in order.
    pub shards: Vec<ShardStatus>,
}

/// What `shards status` says of one shard.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShardStatus {
    /// Which one, counted from 1.
    pub shard: u32,
    /// `done`, `running` or `missing`.
    pub state: ShardState,
    /// What it costs, by the plan's estimate; 1 is a feature that is drawn into a tile from rows in memory.
    pub weight: u64,
    /// Tiles that it planned, if it is done.
    pub tiles: Option<u64>,
    /// Bytes that it has left for the commit, if it is done.
    pub bytes: Option<u64>,
    /// The time that it took, or has taken up to now, in seconds.
    pub seconds: Option<f64>,
    /// Who renders it now.
    pub holder: Option<String>,
}

/// The state of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// It is done.
    Done,
    /// An attempt was seen in the last minute.
    Running,
    /// Neither.
    Missing,
}

/// The schema of a kind of JSON document.
#[derive(Debug)]
pub struct DocumentSchema {
    /// Its name, which is also the name of its file in `docs/schemas/`.
    pub name: &'static str,
    /// What prints such documents.
    pub printed_by: &'static str,
    /// The schema (JSON Schema 2020-12).
    pub schema: Value,
}

impl DocumentSchema {
    /// The schema of `T` as its values are serialized.
    pub fn of<T: JsonSchema>(name: &'static str, printed_by: &'static str) -> DocumentSchema {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        let mut schema: Schema = settings.into_generator().into_root_schema_for::<T>();
        schema.insert("title".to_owned(), format!("oar-tiles: {printed_by}").into());
        DocumentSchema { name, printed_by, schema: schema.to_value() }
    }
}

pub fn report_schemas() -> Vec<DocumentSchema> {
    vec![
        DocumentSchema::of::<EventRecord<'_>>("event", "a line of --log json and --progress json"),
        DocumentSchema::of::<JsonDocument<RunReport>>("seed-report", "seed --report"),
        DocumentSchema::of::<JsonDocument<PlanReport>>("seed-plan", "seed --dry-run --report"),
        DocumentSchema::of::<JsonDocument<ReseedReport>>("reseed-report", "reseed --report"),
        DocumentSchema::of::<JsonDocument<DirtyReport>>("reseed-plan", "reseed --dry-run --report"),
        DocumentSchema::of::<JsonDocument<FamilyReport>>(
            "variants-report",
            "seed --report and reseed --report of a tileset with variants",
        ),
        DocumentSchema::of::<JsonDocument<Findings>>("findings", "verify --report and verify --json"),
        DocumentSchema::of::<JsonDocument<Checkup>>("doctor", "doctor --json"),
        DocumentSchema::of::<JsonDocument<Contents>>("contents", "inspect --json"),
        DocumentSchema::of::<JsonDocument<DiffReport>>("diff", "diff --json"),
        DocumentSchema::of::<JsonDocument<Backlog>>("track-status", "track status --json"),
        DocumentSchema::of::<JsonDocument<PurgeStatusList<'_>>>("purge-status", "purge status --json"),
        DocumentSchema::of::<JsonDocument<ShardsStatus>>("shards-status", "shards status --json"),
    ]
}
