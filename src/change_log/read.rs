//! Reading the change log: whether it holds every change that a target has not seen, and what changed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::decoding::DecodingMethod;
use super::definition;
use super::error::ChangeLogError;
use super::facts::{Facts, MemberFacts, WatchFacts};
use super::gap::LogGap;
use super::log::{LAYOUT, Presence, SAFE_LAYOUT};
use crate::cursor::Cursor;
use crate::postgis::{ChangedGeometries, Database, Error, Layer, ServerName, Snapshot, changed_positions, quoted};
use crate::suggested::TRACK_INSTALL;
use crate::tile::ChangeLocation;

// Checks that the log holds every change that a target has not seen.

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
    pub(crate) methods: Vec<DecodingMethod>,
}

impl Watch {
    /// True if a query gives the positions, which may be more than one for a row, or areas.
    pub(crate) fn is_query(&self) -> bool {
        matches!(self.source, PositionSource::Query { .. })
    }
}

/// Where the positions of changed rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PositionSource {
    /// A geometry column: the log holds the positions (`change.x`, `change.y`, `change.places`).
    Geometry {
        /// The column, quoted.
        column: String,
    },
    /// A query over the changed row, which it calls `changed`. The log holds the columns to which the query refers
    /// (`change.keys`).
    Query {
        sql: String,
        /// The columns of `changed`, each with its type as SQL names it.
        columns: Vec<(String, String)>,
    },
}

const CONTEXT: &str = "reading the state of the change log";

/// The watches of each layer, in the order of the layers, if the log holds all changes since the cursor. Takes two
/// statements in the session of the snapshot, or one if `presence` says what an earlier statement on this snapshot has
/// found in the schema.
///
/// # Errors
/// `ChangeLogError::LogGap` with the first reason why the log is not complete.
pub async fn tracked(
    database: &Database,
    snapshot: &Snapshot,
    schema: &str,
    presence: Option<Presence>,
    layers: &[Arc<Layer>],
    cursor: &Cursor,
) -> Result<Vec<Vec<Watch>>, ChangeLogError> {
    let each = tracked_each(database, snapshot, schema, presence, layers, cursor).await?;
    Ok(each.into_iter().collect::<Result<_, LogGap>>()?)
}

/// The same for each layer by itself.
pub(crate) async fn tracked_each(
    database: &Database,
    snapshot: &Snapshot,
    schema: &str,
    presence: Option<Presence>,
    layers: &[Arc<Layer>],
    cursor: &Cursor,
) -> Result<Vec<Result<Vec<Watch>, LogGap>>, ChangeLogError> {
    let session = &snapshot.keeper;
    let server = database.server();
    let presence = match presence {
        Some(presence) => presence,
        None => Presence::look_up(session, schema, CONTEXT).await?,
    };
    presence.or_gap(schema, server)?;
    let definitions: Vec<String> = layers.iter().map(|layer| definition(layer)).collect();
    let facts = Facts::look_up(session, schema, &definitions, &[], cursor, CONTEXT).await?;
    check_log(server, schema, snapshot, &facts, cursor)?;
    if facts.layout < SAFE_LAYOUT {
        tracing::warn!(
            "the triggers in {server} are not safe: an earlier version of oar-tiles installed them, and they run casts that the owners of the columns' types made. Run {TRACK_INSTALL} again; targets stay as good as they are"
        );
    }
    let each = layers.iter().zip(&definitions);
    Ok(each.map(|(layer, definition)| watches_of(layer, definition, &facts, cursor)).collect())
}

/// The checks that concern all layers.
fn check_log(
    server: &ServerName,
    schema: &str,
    snapshot: &Snapshot,
    facts: &Facts,
    cursor: &Cursor,
) -> Result<(), LogGap> {
    if facts.layout > LAYOUT {
        return Err(LogGap::Newer { schema: quoted(schema), found: facts.layout, known: LAYOUT });
    }
    if let Ok(now) = snapshot.cursor().parse::<Cursor>() {
        let now = now.xmax();
        // This is checked first: after a restore both conditions hold, and an install is needed before the seed.
        if let Some(known) = facts.ahead {
            return Err(LogGap::Ahead { server: server.clone(), known, now });
        }
        if cursor.xmax() > now {
            return Err(LogGap::Older { server: server.clone(), now, seen: cursor.xmax() });
        }
    }
    if facts.pruned >= cursor.xmin() {
        return Err(LogGap::Pruned { pruned: facts.pruned, seen: cursor.xmin() });
    }
    Ok(())
}

fn watches_of(layer: &Layer, definition: &str, facts: &Facts, cursor: &Cursor) -> Result<Vec<Watch>, LogGap> {
    let (layer, track) = (layer.name().to_owned(), &layer.section().track);
    let mut needs = facts.needs.iter().filter(|need| need.definition == definition).peekable();
    if needs.peek().is_none() {
        return Err(LogGap::Layer { layer });
    }
    let mut watches = Vec::new();
    for need in needs {
        let Some(id) = need.watch else { continue };
        let Some(watch) = facts.watches.iter().find(|watch| watch.id == id) else {
            return Err(LogGap::Layer { layer });
        };
        check_watch(&layer, watch, cursor)?;
        // The key is checked, too: it pairs the old and the new version of a row.
        let mut names: Vec<&String> = need.columns.iter().chain(&watch.key).collect();
        // Altering a column's type also marks the columns after it as altered in the catalog (PostgreSQL 15.20), so the
        // first one is reported.
        names.sort_by_key(|name| watch.column(name).map(|column| column.number));
        for name in names {
            check_column(&layer, watch, name, cursor)?;
        }
        // Checked after the columns, because an altered column is the reason why everything is logged, until another
        // install.
        if watch.everything {
            return Err(LogGap::Everything { layer, table: watch.name.clone() });
        }
        let (source, methods) = match &watch.query {
            None => {
                (PositionSource::Geometry { column: quoted(watch.geometry.as_deref().unwrap_or_default()) }, Vec::new())
            }
            Some(sql) => {
                // The query in the configuration is run, never one stored in the log: a role that can write to the log
                // could store its own.
                let Some(track) = track.iter().find(|track| track.geometry == *sql) else {
                    return Err(LogGap::Layer { layer });
                };
                let (columns, methods) = query_columns(&layer, watch)?.into_iter().unzip();
                (PositionSource::Query { sql: track.geometry.clone(), columns }, methods)
            }
        };
        watches.push(Watch { id: watch.id, table: watch.name.clone(), source, methods });
    }
    if watches.is_empty() {
        return Err(LogGap::Undeclared { layer });
    }
    Ok(watches)
}

/// The name and type of a column that a query refers to, and how its values are read.
type DecodedColumn = ((String, String), DecodingMethod);

fn query_columns(layer: &str, watch: &WatchFacts) -> Result<Vec<DecodedColumn>, LogGap> {
    let mut columns = Vec::new();
    for name in &watch.logged {
        let decoding = watch.column(name).and_then(|column| column.decoding.as_ref());
        let Some((type_name, method)) = decoding.and_then(|decoding| Some((&decoding.type_name, decoding.method?)))
        else {
            let (layer, table, column) = (layer.to_owned(), watch.name.clone(), quoted(name));
            return Err(LogGap::Undecodable { layer, table, column });
        };
        columns.push(((name.clone(), type_name.clone()), method));
    }
    Ok(columns)
}

fn check_watch(layer: &str, watch: &WatchFacts, cursor: &Cursor) -> Result<(), LogGap> {
    let (layer, table) = (layer.to_owned(), watch.name.clone());
    match &watch.current_name {
        Some(name) if *name == table => {}
        Some(name) => {
            return Err(LogGap::Replaced { layer, table, now: format!(": that one is called {name} now") });
        }
        None => return Err(LogGap::Replaced { layer, table, now: ": that one is gone".to_owned() }),
    }
    if let Some(member) = watch.members.iter().find(|member| member.is_subscribed) {
        return Err(LogGap::Subscribed { layer, table: member.name.clone() });
    }
    if let Some(member) = watch.members.iter().find(|member| !member.is_kept) {
        let what = format!("{} is unlogged, so a crash empties it without a trigger", member.name);
        return Err(LogGap::Triggers { layer, table, what });
    }
    if let Some(what) = watch.members.iter().find_map(flaw) {
        return Err(LogGap::Triggers { layer, table, what });
    }
    if !watch.function_is_ours {
        let what = "the function of its triggers is not the one that was installed".to_owned();
        return Err(LogGap::Triggers { layer, table, what });
    }
    if !cursor.sees(watch.since) {
        return Err(LogGap::InstalledSince { layer, table });
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

fn check_column(layer: &str, watch: &WatchFacts, name: &str, cursor: &Cursor) -> Result<(), LogGap> {
    let (layer, table, column) = (layer.to_owned(), watch.name.clone(), quoted(name));
    match watch.column(name) {
        Some(found) if !found.is_same => Err(LogGap::Altered { layer, table, column }),
        Some(found) if cursor.sees(found.since) => Ok(()),
        Some(_) => Err(LogGap::ColumnSince { layer, table, column }),
        None => Err(LogGap::Altered { layer, table, column }),
    }
}

// Reads from the log what changed since a cursor, and where.

/// The changes that a target has not seen, by the ids of their watches.
#[derive(Debug, Default)]
pub(crate) struct UnseenChanges(BTreeMap<i32, UnseenRows>);

/// The changes of one watch that a target has not seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnseenRows {
    /// The number of changed rows, 1 or more.
    pub rows: u64,
    /// The age of the oldest change, in seconds.
    pub age: f64,
}

impl UnseenChanges {
    /// The changes of a watch; `None` if there are none.
    pub(crate) fn of(&self, watch: &Watch) -> Option<UnseenRows> {
        self.0.get(&watch.id).copied()
    }

    /// The watches of a layer that have changes, each with the number of its changed rows.
    pub(crate) fn of_layer<'w>(&self, watches: &'w [Watch]) -> Vec<(&'w Watch, u64)> {
        watches.iter().filter_map(|watch| Some((watch, self.of(watch)?.rows))).collect()
    }
}

/// The entries of the log that a snapshot sees and a cursor does not.
#[derive(Clone, Copy)]
pub(crate) struct UnseenLog<'a> {
    pub snapshot: &'a Snapshot,
    pub schema: &'a str,
    pub cursor: &'a Cursor,
}

impl UnseenLog<'_> {
    /// The FROM and WHERE of the entries. The first condition uses the index; the second leaves out entries that the
    /// cursor has seen although older transactions were running.
    fn entries(&self) -> String {
        let UnseenLog { schema, cursor, .. } = self;
        format!(
            "FROM {}.change AS noted WHERE noted.xid >= '{}'::xid8 AND NOT pg_visible_in_snapshot(noted.xid, '{cursor}'::pg_snapshot)",
            quoted(schema),
            cursor.xmin()
        )
    }

    /// How much has changed, for each watch.
    pub(crate) async fn changes(&self) -> Result<UnseenChanges, Error> {
        let sql = format!(
            "SELECT noted.watch, sum(noted.rows)::int8, extract(epoch FROM clock_timestamp() - min(noted.at))::float8 {}
             GROUP BY noted.watch ORDER BY noted.watch",
            self.entries()
        );
        let found = self.snapshot.all("reading the change log", &sql, &[]).await?;
        let read = |row: &tokio_postgres::Row| {
            let (watch, rows, age) = (row.get(0), row.get::<_, i64>(1).cast_unsigned(), row.get(2));
            (rows > 0).then_some((watch, UnseenRows { rows, age }))
        };
        Ok(UnseenChanges(found.iter().filter_map(read).collect()))
    }

    /// The transactions that have logged a change.
    pub(crate) async fn transactions(&self) -> Result<Vec<u64>, Error> {
        let sql = format!("SELECT DISTINCT noted.xid::text::int8 {}", self.entries());
        let rows = self.snapshot.all("reading the change log", &sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()).collect())
    }

    /// Calls `each` with the old and new positions of the rows that a watch has logged, computed as the survey computes
    /// positions, until `each` breaks. True if it never did.
    pub(crate) async fn positions(
        &self,
        watch: &Watch,
        layer: &Layer,
        mut each: impl FnMut(ChangeLocation) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        let context = format!("layer \"{}\", reading what changed in {}", layer.name(), watch.table);
        let unseen = format!("{} AND noted.watch = {}", self.entries(), watch.id);
        let (from, conditions) = unseen.split_once(" WHERE ").unwrap_or((&unseen, "true"));
        let relation = match &watch.source {
            PositionSource::Geometry { .. } => format!(
                "(SELECT ST_SetSRID(ST_MakePoint(point.x, point.y), {srid}) AS place
                  {from}, unnest(noted.x, noted.y) AS point (x, y) WHERE {conditions}
                  UNION ALL
                  SELECT other.place {from}, unnest(noted.places) AS other (place) WHERE {conditions}) AS changed_place",
                srid = layer.srid()
            ),
            PositionSource::Query { sql, columns } => {
                // Each column separately, because a record made from JSON would read texts as JSON strings, and run the
                // CHECKs of domains.
                let columns: Vec<String> = columns
                    .iter()
                    .zip(&watch.methods)
                    .map(|((name, kind), method)| format!("{} AS {}", method.value(&watch.table, name, kind), quoted(name)))
                    .collect();
                format!(
                    "(SELECT found.place
                  {from}, unnest(noted.keys) AS row_of (keys),
                      LATERAL (SELECT {}) AS changed,
                      LATERAL ({sql}
                      ) AS found (place) WHERE {conditions}
                  -- So that the query runs once for each row, wherever its result is asked for.
                  OFFSET 0) AS changed_place",
                    columns.join(", ")
                )
            }
        };
        let mut goes_on = true;
        let each_until = |place| goes_on = goes_on && each(place).is_continue();
        let are_rows = matches!(watch.source, PositionSource::Geometry { .. });
        let geometries = ChangedGeometries { relation: &relation, column: "place", are_rows };
        let reading = Box::pin(changed_positions(self.snapshot, layer, &context, geometries, each_until));
        match watch.source {
            PositionSource::Geometry { .. } => reading.await?,
            PositionSource::Query { .. } => self.snapshot.keeper.with_logged_texts(&context, reading).await?,
        }
        Ok(goes_on)
    }
}
