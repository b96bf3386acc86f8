//! The schemas of everything that the program prints as JSON (docs/json.md).

use crate::config::{ShownConfig, schema};
use crate::report::{DocumentSchema, JsonDocument, report_schemas};
use crate::run::TileListDocument;
use crate::serve::{AccessRecord, CatalogueDocument, ChangedEvent, StateEvent, VariantListDocument};

/// The name of the schema of a configuration file.
pub const CONFIGURATION: &str = "configuration";

/// The name that stands for all schemas together.
pub const ALL: &str = "all";

/// All schemas as one object. Each entry also says what prints such documents.
#[must_use]
pub fn by_name(all: Vec<DocumentSchema>) -> serde_json::Value {
    let one = |one: DocumentSchema| {
        (one.name.to_owned(), serde_json::json!({ "printed_by": one.printed_by, "schema": one.schema }))
    };
    serde_json::Value::Object(all.into_iter().map(one).collect())
}

/// The schemas, by name.
#[must_use]
pub fn schemas() -> Vec<DocumentSchema> {
    let mut all = report_schemas();
    all.extend([
        DocumentSchema {
            name: CONFIGURATION,
            printed_by: "nothing: it is what a configuration file holds",
            schema: schema(),
        },
        DocumentSchema::of::<JsonDocument<ShownConfig>>("config", "config --json"),
        DocumentSchema::of::<TileListDocument>("tiles", "--dirty-out FILE.json and --changed-out FILE.json"),
        DocumentSchema::of::<CatalogueDocument>("catalogue", "GET /catalog"),
        DocumentSchema::of::<VariantListDocument>("variant-list", "GET /TILESET/variants.json"),
        DocumentSchema::of::<StateEvent>("changes-state", "GET /changes, event state"),
        DocumentSchema::of::<ChangedEvent>("changes-changed", "GET /changes, event changed"),
        DocumentSchema::of::<AccessRecord<'_>>(
            "access-log",
            "a line of the access log of serve (access_log = \"json\")",
        ),
    ]);
    all
}
