//! What the program prints as JSON: each document has a version, and a schema that is made from its type.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;

use super::{
    Backlog, Checkup, Contents, DiffReport, DirtyReport, EventRecord, FamilyReport, Findings, PlanReport, PurgeStatus,
    ReseedReport, RunReport, ShardsStatus,
};
use crate::json::JsonDocument;

/// What waits for all CDNs of a target.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PurgeStatusList<'a> {
    /// The CDNs.
    pub cdns: &'a [PurgeStatus],
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
    #[must_use]
    pub fn of<T: JsonSchema>(name: &'static str, printed_by: &'static str) -> DocumentSchema {
        let settings = SchemaSettings::draft2020_12().for_serialize();
        let mut schema: Schema = settings.into_generator().into_root_schema_for::<T>();
        schema.insert("title".to_owned(), format!("oar-tiles: {printed_by}").into());
        DocumentSchema { name, printed_by, schema: schema.to_value() }
    }
}

/// The schemas of the reports and of the log.
#[must_use]
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
