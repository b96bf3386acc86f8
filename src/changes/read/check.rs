//! Checks that the log holds every change that a target has not seen.

use crate::changes::error::ChangeLogError;
use crate::changes::log::{DecodingMethod, Facts, LAYOUT, MemberFacts, Presence, SAFE_LAYOUT, WatchFacts};
use crate::changes::options::TrackedLayer;
use crate::changes::untracked::Untracked;
use crate::cursor::Cursor;
use crate::postgis::{Database, ServerName, Snapshot, quoted};
use crate::suggested::TRACK_INSTALL;

/// What is logged about one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Its id in the log (`change.watch`).
    pub id: i32,
    /// Schema and table, quoted.
    pub table: String,
    /// Where the positions of changed rows come from.
    pub source: PositionSource,
    /// How the values of the columns of [`PositionSource::Query`] are read, in the same order.
    pub methods: Vec<DecodingMethod>,
}

/// Where the positions of changed rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PositionSource {
    /// A geometry column: the log holds the positions (`change.x`, `change.y`, `change.places`).
    Geometry {
        /// The column, quoted.
        column: String,
    },
    /// A query over the changed row, which it calls `changed`. The log holds the columns to which the query refers (`change.keys`).
    Query {
        /// The query.
        sql: String,
        /// The columns of `changed`, each with its type as SQL names it.
        columns: Vec<(String, String)>,
    },
}

const CONTEXT: &str = "reading the state of the change log";

/// The watches of each layer, in the order of the layers, if the log holds all changes since the cursor. Takes two statements in the session of
/// the snapshot.
///
/// # Errors
/// [`ChangeLogError::Untracked`] with the first reason why the log is not complete.
pub async fn tracked(
    database: &Database,
    snapshot: &Snapshot,
    schema: &str,
    layers: &[TrackedLayer<'_>],
    cursor: &Cursor,
) -> Result<Vec<Vec<Watch>>, ChangeLogError> {
    let session = &snapshot.keeper;
    let server = database.server();
    match Presence::look_up(session, schema, CONTEXT).await? {
        Presence::Readable => {}
        Presence::Unreadable { role } => return Err(Untracked::Unreadable { role, schema: quoted(schema) }.into()),
        Presence::Nothing | Presence::Foreign => {
            return Err(Untracked::NotInstalled { server: server.clone(), schema: quoted(schema) }.into());
        }
    }
    let definitions: Vec<String> = layers.iter().map(TrackedLayer::definition).collect();
    let facts = Facts::look_up(session, schema, &definitions, &[], cursor, CONTEXT).await?;
    check_log(server, schema, snapshot, &facts, cursor)?;
    if facts.layout < SAFE_LAYOUT {
        tracing::warn!(
            "the triggers in {server} are not safe: an earlier version of oar-tiles installed them, and they run casts that the owners of the columns' types made. Run {TRACK_INSTALL} again; targets stay as good as they are"
        );
    }
    let mut all = Vec::new();
    for (layer, definition) in layers.iter().zip(&definitions) {
        all.push(watches_of(layer, definition, &facts, cursor)?);
    }
    Ok(all)
}

/// The checks that concern all layers.
fn check_log(
    server: &ServerName,
    schema: &str,
    snapshot: &Snapshot,
    facts: &Facts,
    cursor: &Cursor,
) -> Result<(), Untracked> {
    if facts.layout > LAYOUT {
        return Err(Untracked::Newer { schema: quoted(schema), found: facts.layout, known: LAYOUT });
    }
    if let Ok(now) = snapshot.cursor().parse::<Cursor>() {
        let now = now.xmax();
        // This is checked first: after a restore both conditions hold, and an install is needed before the seed.
        if let Some(known) = facts.ahead {
            return Err(Untracked::Ahead { server: server.clone(), known, now });
        }
        if cursor.xmax() > now {
            return Err(Untracked::Older { server: server.clone(), now, seen: cursor.xmax() });
        }
    }
    if facts.pruned >= cursor.xmin() {
        return Err(Untracked::Pruned { pruned: facts.pruned, seen: cursor.xmin() });
    }
    Ok(())
}

/// The watches of one layer.
fn watches_of(
    layer: &TrackedLayer<'_>,
    definition: &str,
    facts: &Facts,
    cursor: &Cursor,
) -> Result<Vec<Watch>, Untracked> {
    let (layer, track) = (layer.layer.name().to_owned(), layer.track);
    let mut needs = facts.needs.iter().filter(|need| need.definition == definition).peekable();
    if needs.peek().is_none() {
        return Err(Untracked::Layer { layer });
    }
    let mut watches = Vec::new();
    for need in needs {
        let Some(id) = need.watch else { continue };
        let Some(watch) = facts.watches.iter().find(|watch| watch.id == id) else {
            return Err(Untracked::Layer { layer });
        };
        check_watch(&layer, watch, cursor)?;
        // The key is checked, too: it pairs the old and the new version of a row.
        let mut names: Vec<&String> = need.columns.iter().chain(&watch.key).collect();
        // Altering a column's type also marks the columns after it as altered in the catalog (PostgreSQL 15.20), so the first one is reported.
        names.sort_by_key(|name| watch.column(name).map(|column| column.number));
        for name in names {
            check_column(&layer, watch, name, cursor)?;
        }
        // Checked after the columns, because an altered column is the reason why everything is logged, until another install.
        if watch.everything {
            return Err(Untracked::Everything { layer, table: watch.name.clone() });
        }
        let (source, methods) = match &watch.query {
            None => {
                (PositionSource::Geometry { column: quoted(watch.geometry.as_deref().unwrap_or_default()) }, Vec::new())
            }
            Some(sql) => {
                // The query in the configuration is run, never one stored in the log: a role that can write to the log could store its own.
                let Some(track) = track.iter().find(|track| track.geometry == *sql) else {
                    return Err(Untracked::Layer { layer });
                };
                let (columns, methods) = query_columns(&layer, watch)?.into_iter().unzip();
                (PositionSource::Query { sql: track.geometry.clone(), columns }, methods)
            }
        };
        watches.push(Watch { id: watch.id, table: watch.name.clone(), source, methods });
    }
    if watches.is_empty() {
        return Err(Untracked::Undeclared { layer });
    }
    Ok(watches)
}

/// The name and type of a column that a query refers to, and how its values are read.
type DecodedColumn = ((String, String), DecodingMethod);

/// The columns that the query of a watch refers to.
fn query_columns(layer: &str, watch: &WatchFacts) -> Result<Vec<DecodedColumn>, Untracked> {
    let mut columns = Vec::new();
    for name in &watch.logged {
        let decoding = watch.column(name).and_then(|column| column.decoding.as_ref());
        let Some((type_name, method)) = decoding.and_then(|decoding| Some((&decoding.type_name, decoding.method?)))
        else {
            let (layer, table, column) = (layer.to_owned(), watch.name.clone(), quoted(name));
            return Err(Untracked::Undecodable { layer, table, column });
        };
        columns.push(((name.clone(), type_name.clone()), method));
    }
    Ok(columns)
}

/// The checks of one watch.
fn check_watch(layer: &str, watch: &WatchFacts, cursor: &Cursor) -> Result<(), Untracked> {
    let (layer, table) = (layer.to_owned(), watch.name.clone());
    match &watch.current_name {
        Some(name) if *name == table => {}
        Some(name) => {
            return Err(Untracked::Replaced { layer, table, now: format!(": that one is called {name} now") });
        }
        None => return Err(Untracked::Replaced { layer, table, now: ": that one is gone".to_owned() }),
    }
    if let Some(member) = watch.members.iter().find(|member| member.is_subscribed) {
        return Err(Untracked::Subscribed { layer, table: member.name.clone() });
    }
    if let Some(member) = watch.members.iter().find(|member| !member.is_kept) {
        let what = format!("{} is unlogged, so a crash empties it without a trigger", member.name);
        return Err(Untracked::Triggers { layer, table, what });
    }
    if let Some(what) = watch.members.iter().find_map(flaw) {
        return Err(Untracked::Triggers { layer, table, what });
    }
    if !watch.function_is_ours {
        let what = "the function of its triggers is not the one that was installed".to_owned();
        return Err(Untracked::Triggers { layer, table, what });
    }
    if !cursor.sees(watch.since) {
        return Err(Untracked::InstalledSince { layer, table });
    }
    Ok(())
}

/// What is wrong with a table that should have the triggers, in words.
fn flaw(member: &MemberFacts) -> Option<String> {
    let name = &member.name;
    if member.is_same() {
        return None;
    }
    Some(match (member.is_noted, member.is_related) {
        (false, _) => format!("{name} became its partition, child or parent since the triggers were installed"),
        (true, false) => format!("{name} was its partition, child or parent when the triggers were installed"),
        (true, true) if member.is_tied != Some(true) => {
            format!("{name} was detached and attached since the triggers were installed")
        }
        (true, true) => {
            let states: Vec<&str> = member.found.lines().filter_map(|line| line.rsplit(' ').nth(1)).collect();
            if states.len() < TRIGGERS {
                format!("{name} lacks triggers that were installed")
            } else if states.iter().any(|state| *state != "A") {
                format!("triggers of {name} are disabled")
            } else {
                format!("triggers of {name} were altered, or disabled for a while")
            }
        }
    })
}

/// The number of triggers on one table: for INSERT, UPDATE, DELETE and TRUNCATE.
const TRIGGERS: usize = 4;

/// The checks of one column.
fn check_column(layer: &str, watch: &WatchFacts, name: &str, cursor: &Cursor) -> Result<(), Untracked> {
    let (layer, table, column) = (layer.to_owned(), watch.name.clone(), quoted(name));
    match watch.column(name) {
        Some(found) if !found.is_same => Err(Untracked::Altered { layer, table, column }),
        Some(found) if cursor.sees(found.since) => Ok(()),
        Some(_) => Err(Untracked::ColumnSince { layer, table, column }),
        None => Err(Untracked::Altered { layer, table, column }),
    }
}
