//! `oar-tiles init`: makes a configuration for a database that can be seeded without changes.
//!
//! The discovery (`postgis/discover`) finds out what there is, and the draft (`draft`, `layer`) writes it as TOML. Then
//! each layer of the draft is probed as a seed would probe it. What the probe refuses stays in the file as a comment
//! that gives the reason. `seed --table` uses the same draft without a file.
//!
//! | file | what |
//! |---|---|
//! | `draft` | a configuration for the tables and functions that were discovered |
//! | `layer` | one layer of a draft: its lines, and remarks for the user |
//! | `text` | TOML as text |

mod draft;
mod layer;
mod text;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use draft::Draft;

use super::{CommandError, WrittenFileError};
use crate::config::{ConfigValues, DatabaseSettings, Settings};
use crate::postgis::{
    ConnectParts, Database, DiscoveredRelation, Discovery, GeometryColumn, GeometryRows, Snapshot, SpatialFunction,
    discover, try_layers,
};
use crate::report::{DiscoveredColumn, DiscoveredFunction, DiscoveredTables};
use crate::stop::Stop;

pub(crate) use draft::DraftFor;

/// The longest time for reading one relation: a new user wants an answer.
const MAX_READ: std::time::Duration = std::time::Duration::from_secs(60);

/// A configuration for some tables of a database.
#[derive(Debug)]
pub(crate) struct Drafted {
    /// The configuration, as TOML.
    pub text: String,
    pub found: DiscoveredTables,
}

/// Reads the tables that the patterns name, or all of them if there are no patterns, and drafts a configuration. Fails
/// if there is nothing that can be drawn, or the database is lost.
pub(crate) async fn draft(
    settings: &DatabaseSettings,
    environment: &ConnectParts,
    tables: &[String],
    made_for: DraftFor,
    stop: &Stop,
) -> Result<Drafted, CommandError> {
    let mut session = settings.session.clone();
    session.section.statement_timeout = match *session.section.statement_timeout {
        none if none.is_zero() => MAX_READ.into(),
        set => set.min(MAX_READ).into(),
    };
    let database = Database::new(&settings.connect, session, stop)?;
    let snapshot = database.snapshot().await?;
    let is_wanted = |schema: &str, name: &str| is_meant(tables, schema, name);
    let discovery = Box::pin(discover(&snapshot, is_wanted)).await?;
    if discovery.relations.is_empty() && discovery.functions.is_empty() {
        return Err(nothing(&database, tables, &discovery));
    }
    let mut draft = Draft::new(&discovery, made_for, tables);
    refuse_undrawable(&mut draft, made_for, &snapshot, environment).await?;
    let found = DiscoveredTables {
        columns: columns(&discovery, &draft),
        functions: functions(&discovery, &draft),
        remarks: draft.parts.iter().flat_map(|part| part.remarks.clone()).collect(),
        output: draft.output(),
        layers: draft.layers(),
    };
    Ok(Drafted { text: draft.text(), found })
}

/// Turns the layers that a seed would refuse into comments.
async fn refuse_undrawable(
    draft: &mut Draft,
    made_for: DraftFor,
    snapshot: &Snapshot,
    environment: &ConnectParts,
) -> Result<(), CommandError> {
    if draft.layers() == 0 {
        return Ok(());
    }
    let (drawn, mut layers, mut parts) = (draft.drawn(), Vec::new(), Vec::new());
    for (tileset, values) in ConfigValues::of_draft(&draft.text())?.tilesets(&[])?.iter().enumerate() {
        for layer in Settings::resolve(values, environment, &[])?.tileset.layers {
            // A file has one tileset with all layers, a catalogue has one tileset for each layer.
            let part = if made_for == DraftFor::Catalogue { tileset } else { usize::from(layer.id.0) };
            parts.extend(drawn.get(part));
            layers.push(layer);
        }
    }
    for (trial, part) in Box::pin(try_layers(snapshot, &layers, false)).await?.into_iter().zip(parts) {
        if let Some(hiding) = &trial.row_security {
            draft.remark(part, hiding.clone());
        }
        for jumping in &trial.flaws {
            draft.repair(part);
            let text = jumping.repaired();
            draft.remark(
                part,
                format!(
                    "layer \"{}\": {text}. Or mend the table, and leave repair out: {}",
                    trial.layer, jumping.remedy
                ),
            );
        }
        if let Some(error) = trial.errors.into_iter().next() {
            let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
            let text = error.to_string();
            let said = text.strip_prefix(&format!("layer \"{}\": ", trial.layer)).unwrap_or(&text);
            draft.refuse(part, &format!("{said}{cause}"));
        }
    }
    Ok(())
}

/// The error for a database without a table, or for patterns that match none.
fn nothing(database: &Database, tables: &[String], discovery: &Discovery) -> CommandError {
    let server = database.server();
    let what = if discovery.names.is_empty() {
        format!(
            "no table or view in {server} has a column of type geometry or geography. Is it the right database? ogr2ogr and shp2pgsql load files into it"
        )
    } else {
        let wanted: Vec<String> = tables.iter().map(|table| format!("{table:?}")).collect();
        format!(
            "no table or view with a geometry in {server} is called {}: there is {}",
            wanted.join(" or "),
            discovery.names.join(", ")
        )
    };
    CommandError::NothingToDraw { what }
}

/// What was found, a line for each column with geometries.
fn columns(discovery: &Discovery, draft: &Draft) -> Vec<DiscoveredColumn> {
    let found =
        discovery.relations.iter().flat_map(|found| found.geometries.iter().map(move |geometry| (found, geometry)));
    found.zip(&draft.parts).map(|((found, geometry), part)| column(found, geometry, part.problem.clone())).collect()
}

fn functions(discovery: &Discovery, draft: &Draft) -> Vec<DiscoveredFunction> {
    let parts = draft.parts.iter().rev().take(discovery.functions.len()).rev();
    let function = |(found, part): (&SpatialFunction, &draft::DraftPart)| DiscoveredFunction {
        name: found.name_for_people(),
        problem: part.problem.clone(),
    };
    discovery.functions.iter().zip(parts).map(function).collect()
}

fn column(found: &DiscoveredRelation, geometry: &GeometryColumn, problem: Option<String>) -> DiscoveredColumn {
    let relation = &found.relation;
    let rows = geometry.rows.as_ref().ok();
    let srids = rows.map_or(vec![geometry.srid], |rows| rows.srids.clone());
    let srids = if srids.is_empty() { vec![geometry.srid] } else { srids };
    let shapes = rows.map(GeometryRows::shape_names).filter(|shapes| !shapes.is_empty());
    let shape = shapes.unwrap_or_else(|| geometry.shape.to_uppercase());
    DiscoveredColumn {
        table: relation.name_for_people(),
        kind: relation.kind.called().to_owned(),
        column: geometry.column.clone(),
        shape: if geometry.is_geography { format!("{shape} (geography)") } else { shape },
        srid: srids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        rows: rows.map(|rows| rows.rows),
        is_estimate: rows.is_some_and(|rows| rows.is_sample),
        extent: rows.and_then(|rows| rows.extent.as_ref()?.degrees),
        key: match (relation.key(), &found.distinct) {
            (Some(key), _) => Some(key.columns.join(", ")),
            (None, Some(column)) => Some(format!("{column}?")),
            (None, None) => None,
        },
        is_indexed: relation.kind.is_stored().then_some(geometry.is_indexed),
        may_read: relation.schema_usable && relation.column(&geometry.column).is_some_and(|column| column.readable),
        problem,
    }
}

/// Refuses a draft without a layer.
pub(crate) fn has_layers(drafted: &Drafted) -> Result<(), CommandError> {
    if drafted.found.layers > 0 {
        return Ok(());
    }
    let columns = drafted.found.columns.len() + drafted.found.functions.len();
    let what = format!(
        "nothing of what was found can be drawn ({columns} looked at): mend what stands above, and run the command again"
    );
    Err(CommandError::NothingToDraw { what })
}

/// Refuses a file that already exists, before any work.
pub(crate) fn is_free(file: &Path) -> Result<(), CommandError> {
    match file.symlink_metadata() {
        Ok(_) => Err(WrittenFileError::DraftExists { path: file.to_owned() }.into()),
        Err(_absent) => Ok(()),
    }
}

/// Writes a configuration into a new file.
pub(crate) fn write(drafted: &Drafted, file: &Path) -> Result<(), CommandError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => WrittenFileError::DraftExists { path: file.to_owned() },
        _ => WrittenFileError::NoDraft { path: file.to_owned(), source },
    };
    let mut open = OpenOptions::new().write(true).create_new(true).open(file).map_err(failed)?;
    open.write_all(drafted.text.as_bytes()).and_then(|()| open.sync_all()).map_err(failed)?;
    Ok(())
}

// Patterns of table names: `*` stands for any characters, `?` for one.

/// True if the text matches the pattern.
pub(crate) fn has_form(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // `star` holds the position of the last star in the pattern, and the position in the text up to which the star has
    // matched.
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(one) if *one == '?' || *one == text[of] => (at, of) = (at + 1, of + 1),
            _ => match star {
                Some((before, taken)) => {
                    star = Some((before, taken + 1));
                    (at, of) = (before + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|one| *one == '*')
}

/// True if one of the patterns matches the table's name, or its schema and name with a dot between them. Without
/// patterns every table matches.
pub(crate) fn is_meant(patterns: &[String], schema: &str, name: &str) -> bool {
    let full = format!("{schema}.{name}");
    patterns.is_empty() || patterns.iter().any(|pattern| has_form(pattern, name) || has_form(pattern, &full))
}

/// True if one of the patterns has no `*` and no `?`, and is the name of a function, with or without its schema.
pub(crate) fn is_named(patterns: &[String], schema: &str, name: &str) -> bool {
    let full = format!("{schema}.{name}");
    patterns.iter().any(|pattern| !pattern.contains(['*', '?']) && (*pattern == name || *pattern == full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("roads", "roads", true),
            ("roads", "Roads", false),
            ("ne_*_admin", "ne_10m_admin", true),
            ("ne_*_admin", "ne_10m_admin_0", false),
            ("*_*", "a_b_c", true),
            ("r?ads", "roads", true),
            ("r?ads", "rads", false),
            ("", "", true),
            ("", "a", false),
            ("**a", "bca", true),
            ("ä?", "äö", true),
        ] {
            assert_eq!(has_form(pattern, text), fits, "{pattern} {text}");
        }
        let is = |pattern: &str| is_meant(&[pattern.to_owned()], "public", "a.b");
        assert!(is("a.b") && is("public.*") && is("public.a.b") && !is("public") && is_meant(&[], "x", "y"));
    }
}
