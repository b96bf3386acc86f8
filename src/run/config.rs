//! `oar-tiles config`: the settings, the origin of each value, and what is wrong with them.

use super::{CommandError, Family, TileListDocument};
use crate::config::{
    Checked, CheckedSources, ConfigError, ConfigValues, DatabaseSettings, Settings, ShownConfig, check, schema,
};
use crate::error::ErrorKind;
use crate::json::JsonDocument;
use crate::postgis::{ConnectParts, try_layers};
use crate::report::{DocumentSchema, report_schemas};
use crate::serve::{AccessRecord, CatalogueDocument, ChangedEvent, StateEvent, VariantListDocument};
use crate::stop::Stop;
use crate::target::{Publishing, TargetUrl};

/// The values as TOML, each with its origin.
pub(crate) fn config(
    values: &ConfigValues,
    environment: &ConnectParts,
    layers: &[String],
) -> Result<String, CommandError> {
    let server = server_of(values, environment, layers)?;
    Ok(format!("# database: {server}\n{}", values.show()))
}

/// The values for programs, each with its origin.
pub(crate) fn config_json(
    values: &ConfigValues,
    environment: &ConnectParts,
    layers: &[String],
) -> Result<ShownConfig, CommandError> {
    server_of(values, environment, layers)?;
    Ok(values.shown())
}

/// The database of the settings. Fails if the settings of any tileset are not valid.
fn server_of(values: &ConfigValues, environment: &ConnectParts, layers: &[String]) -> Result<String, ConfigError> {
    let mut server = String::new();
    for values in values.tilesets(&[])? {
        server = Settings::resolve(&values, environment, layers)?.database.connect.server().to_string();
    }
    Ok(server)
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct ConfigProblems {
    pub(crate) problems: Vec<CommandError>,
    pub warnings: Vec<String>,
}

/// Checks the settings, and with `database` also whether the database can draw their layers.
pub(crate) async fn check_config(
    sources: CheckedSources<'_>,
    database: bool,
    stop: &Stop,
) -> Result<ConfigProblems, CommandError> {
    let Checked { problems, settings } = check(sources)?;
    let mut found =
        ConfigProblems { problems: problems.into_iter().map(CommandError::from).collect(), warnings: Vec::new() };
    found.problems.extend(settings.iter().flat_map(conflicts));
    if let Some(first) = settings.first().filter(|_| database) {
        match ask_database(&first.database, &settings, stop, &mut found).await {
            Err(error @ CommandError::Interrupted(_)) => return Err(error),
            Err(error) => found.problems.push(error),
            Ok(()) => {}
        }
    }
    Ok(found)
}

/// What does not go together in the settings of a tileset (the table in `docs/limits.md`), with its target.
fn conflicts(settings: &Settings) -> Vec<CommandError> {
    let variants = settings.tileset.variants.as_ref();
    let target = match variants {
        Some(variants) => variants.output.to_string(),
        None => settings.tileset.output.display().to_string(),
    };
    let url = match TargetUrl::parse(&target) {
        Ok(url) => url,
        Err(error) => return vec![error.into()],
    };
    let Some(writer) = &settings.server.writer else { return Vec::new() };
    let mut found = Vec::new();
    if !url.is_archive() && matches!(settings.tileset.tree.publish, Publishing::Versioned { .. }) {
        found.push(CommandError::WriterOfVersions { target: target.clone() });
    }
    if url.is_replaced_by_edits() && settings.server.live.is_some() && writer.write_back.is_some() {
        found.push(CommandError::WrittenAsAWhole { target });
    }
    found
}

async fn ask_database(
    database: &DatabaseSettings,
    tilesets: &[Settings],
    stop: &Stop,
    found: &mut ConfigProblems,
) -> Result<(), CommandError> {
    let database = database.open(stop)?;
    let snapshot = database.snapshot().await?;
    let mut layers = Vec::new();
    for settings in tilesets {
        let own = match Family::of(settings) {
            None => settings.clone(),
            // A statement that fails ends the transaction of its snapshot, so this one gets a snapshot of its own.
            Some(family) => match family.with_conditions(&database.snapshot().await?).await {
                Ok(conditioned) => conditioned,
                Err(error) if error.kind() == ErrorKind::Usage => {
                    found.problems.push(error);
                    settings.clone()
                }
                Err(error) => return Err(error),
            },
        };
        layers.extend(own.tileset.layers);
    }
    // A layer that is drawn in several ways has the same problem in each of them.
    let mut texts = Vec::new();
    for trial in Box::pin(try_layers(&snapshot, &layers, false)).await? {
        found
            .warnings
            .extend(trial.warnings.into_iter().filter(|warning| !texts.contains(warning)).collect::<Vec<_>>());
        texts.clone_from(&found.warnings);
        for error in trial.errors.into_iter().map(CommandError::Database) {
            if !found.problems.iter().any(|problem| same_text(problem, &error)) {
                found.problems.push(error);
            }
        }
    }
    Ok(())
}

/// True if a user reads the same text for both errors, causes included.
fn same_text(one: &CommandError, other: &CommandError) -> bool {
    let text = |error: &CommandError| {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>()
    };
    text(one) == text(other)
}

/// The error that counts the problems, if there are any.
pub(crate) fn without_problems(found: &ConfigProblems) -> Result<(), CommandError> {
    match found.problems.len() {
        0 => Ok(()),
        problems => Err(CommandError::Config(ConfigError::Problems { problems })),
    }
}

// The schemas of everything that the program prints as JSON (docs/json.md).

/// The name of the schema of a configuration file.
pub(crate) const CONFIGURATION: &str = "configuration";

/// The name that stands for all schemas together.
pub(crate) const ALL: &str = "all";

/// All schemas as one object. Each entry also says what prints such documents.
pub(crate) fn by_name(all: Vec<DocumentSchema>) -> serde_json::Value {
    let one = |one: DocumentSchema| {
        (one.name.to_owned(), serde_json::json!({ "printed_by": one.printed_by, "schema": one.schema }))
    };
    serde_json::Value::Object(all.into_iter().map(one).collect())
}

pub(crate) fn schemas() -> Vec<DocumentSchema> {
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
