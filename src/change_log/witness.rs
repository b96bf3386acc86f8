//! What the log says of its database: the random identity key, and the newest transactions. Target manifests are
//! public. They identify their database and its history by hashes with this key, which are meaningless to anyone who
//! cannot read the log.

use super::error::ChangeLogError;
use super::log::Presence;
use crate::cursor::{Cursor, NewestLogged};
use crate::postgis::{Database, Error, Snapshot, quoted};

/// The statements that create the log's key if it has none: 244 bits from PostgreSQL's strong random number generator.
pub(crate) const ADD_KEY: &str = "ALTER TABLE {schema}.state ADD COLUMN IF NOT EXISTS identity_key text;
UPDATE {schema}.state SET identity_key = replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '') WHERE identity_key IS NULL;";

/// The most transactions of a witness. The newest one alone would do if transactions were committed in the order of
/// their ids; this many may overtake one that takes longer.
const MAX_WITNESSED: u32 = 64;

const CONTEXT: &str = "reading the change log's key";

/// The key of a log, and its newest transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogState {
    pub key: String,
    /// Entries of transactions up to this one may have been pruned.
    pub(crate) pruned: u64,
    /// The state that the snapshot shows. It may be later than the snapshot's cursor.
    pub(crate) shown: Cursor,
    /// For that state, and for each state that was asked for: the newest transactions that it sees, a line for each.
    pub(crate) newest: Vec<String>,
}

/// SQL for the newest transactions of the log that fulfil a condition on the entry `e`.
pub(crate) fn newest_transactions(schema: &str, condition: &str) -> String {
    newest_of(schema, condition, MAX_WITNESSED)
}

/// SQL for the transactions that pruning keeps, among those that fulfil a condition on the entry `e`. They are twice as
/// many as a state names: a state that is up to 64 transactions behind still finds all of its own.
pub(crate) fn kept_transactions(schema: &str, condition: &str) -> String {
    newest_of(schema, condition, 2 * MAX_WITNESSED)
}

fn newest_of(schema: &str, condition: &str, most: u32) -> String {
    let sql = include_str!("sql/witness.sql").replace("{condition}", condition);
    sql.replace("{most}", &most.to_string()).replace("{schema}", &quoted(schema))
}

/// Reads the state of the log; `None` if there is no log, this role may not read it, or it was installed before logs
/// had keys. `exported` is the state by which the server names the snapshot. Call this after the probe, because the
/// probe counts every table that the transaction has opened before as one that the layers read.
pub(crate) async fn log_state(
    snapshot: &Snapshot,
    schema: &str,
    exported: Cursor,
    seen: &[Cursor],
) -> Result<Option<LogState>, ChangeLogError> {
    let session = &snapshot.keeper;
    if !Presence::look_up(session, schema, CONTEXT).await?.is_readable() {
        return Ok(None);
    }
    let shown = shown_state(snapshot, schema, exported).await?;
    let newest: Vec<String> = std::iter::once(&shown).chain(seen).map(|cursor| newest_lines(schema, cursor)).collect();
    // The key by way of JSON, because the column may not exist.
    let sql = format!(
        "SELECT to_jsonb(state) ->> 'identity_key', state.pruned::text, ARRAY[{}]::text[] FROM ONLY {}.state AS state",
        newest.join(", "),
        quoted(schema)
    );
    let rows = session.all(CONTEXT, &sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let Some(key) = row.get::<_, Option<String>>(0) else { return Ok(None) };
    let pruned = row.get::<_, String>(1).parse().unwrap_or(u64::MAX);
    Ok(Some(LogState { key, pruned, shown, newest: row.get(2) }))
}

/// The most transaction numbers between the oldest transaction that runs and the last one that a state of a standby
/// names. Manifests hold such states, with the numbers that are not seen.
const MAX_NAMED: u64 = 10_000;

/// The state that a snapshot shows. After a refresh of views it is later than the cursor of the snapshot. On a standby
/// it is as well while a transaction runs on the primary: the cursor sees no transaction from that one on, but the
/// tiles show those that have been committed. Only the log tells which.
async fn shown_state(snapshot: &Snapshot, schema: &str, exported: Cursor) -> Result<Cursor, ChangeLogError> {
    if !snapshot.is_of_standby() {
        return Ok(exported);
    }
    let (xmin, log) = (exported.xmin(), quoted(schema));
    let sql = format!(
        "SELECT ARRAY(SELECT DISTINCT xid::text::bigint FROM ONLY {log}.change
            WHERE xid >= '{xmin}'::xid8 AND xid < '{}'::xid8 ORDER BY 1)",
        xmin + MAX_NAMED
    );
    let seen: Vec<i64> = snapshot.keeper.one(CONTEXT, &sql, &[]).await?.get(0);
    Ok(Cursor::seeing(xmin, &seen.into_iter().map(i64::unsigned_abs).collect::<Vec<u64>>()))
}

/// SQL for the condition that a state sees the entry `e`.
fn seen_by(state: &Cursor) -> String {
    format!("e.xid < '{}'::xid8 AND pg_visible_in_snapshot(e.xid, '{state}'::pg_snapshot)", state.xmax())
}

/// SQL for one text, the form of [`NewestLogged`](crate::cursor::NewestLogged): the newest transactions that a state
/// sees; `string_agg` of none is NULL. The hash is PostgreSQL's own, which needs no extension and no MD5. `to_hex` gives a
/// negative number as the 16 digits of its two's complement.
pub(crate) fn newest_seen(schema: &str, state: &Cursor) -> String {
    format!(
        "coalesce((
             SELECT (array_agg(seen.name ORDER BY seen.place))[1] || '+'
                 || lpad(to_hex(hashtextextended(string_agg(seen.name COLLATE \"C\", ' ' ORDER BY seen.place), 0)), 16, '0')
             FROM (
                 SELECT one.place, format('%s@%s', one.xid, encode(timestamptz_send(one.at), 'hex')) AS name FROM ({}) AS one
             ) AS seen
         ), 'nothing')",
        newest_transactions(schema, &seen_by(state))
    )
}

/// SQL for one text: the newest transactions that a snapshot sees. Neither the transaction nor the time of an entry can
/// be set by those who write it.
fn newest_lines(schema: &str, seen: &Cursor) -> String {
    let condition = seen_by(seen);
    format!(
        "(SELECT coalesce(string_agg(format('%s %s %s %s', one.xid, encode(timestamptz_send(one.at), 'hex'), one.watch, one.rows),
              chr(10) ORDER BY one.place), '') FROM ({}) AS one)",
        newest_transactions(schema, &condition)
    )
}

// The newest transactions in the log that a database state sees. Tiles and rows that servers keep name them, so that
// they are not used in another history of the database.

const ASKING: &str = "asking the change log for its newest transactions";

/// For each database state the newest transactions in the log that it sees, by the log as `snapshot` has it. The session
/// keeps no lock on the log. Call this after the probe, because the probe counts every table that the transaction has
/// opened before as one that the layers read.
pub(crate) async fn newest_logged(
    snapshot: &Snapshot,
    schema: &str,
    states: &[Cursor],
) -> Result<Vec<NewestLogged>, ChangeLogError> {
    if states.is_empty() {
        return Ok(Vec::new());
    }
    snapshot.without_keeping_locks(Box::pin(read(snapshot, schema, states))).await
}

async fn read(snapshot: &Snapshot, schema: &str, states: &[Cursor]) -> Result<Vec<NewestLogged>, ChangeLogError> {
    let session = &snapshot.keeper;
    if !Presence::look_up(session, schema, ASKING).await?.is_readable() {
        return Ok(vec![NewestLogged::NoLog; states.len()]);
    }
    let columns: Vec<String> = states.iter().map(|state| newest_seen(schema, state)).collect();
    let sql = format!("SELECT ARRAY[{}]::text[]", columns.join(", "));
    let texts: Vec<String> = session.one(ASKING, &sql, &[]).await?.get(0);
    Ok(texts.iter().map(|text| newest_of_text(text)).collect())
}

/// The database state at this moment, and the newest transactions in the log that `state` sees.
pub(crate) async fn newest_logged_now(
    database: &Database,
    schema: &str,
    state: &Cursor,
) -> Result<(String, NewestLogged), Error> {
    match database.present_state(&newest_seen(schema, state)).await {
        Ok((present, newest)) => Ok((present, newest.as_deref().map_or(NewestLogged::NoLog, newest_of_text))),
        // The server knows no such table, or the role may not read it.
        Err(Error::Query { source, .. }) if source.is_unreadable_table() => {
            Ok((database.present_state("NULL").await?.0, NewestLogged::NoLog))
        }
        Err(error) => Err(error),
    }
}

/// What [`newest_seen`] gives. Nothing else names a transaction.
fn newest_of_text(text: &str) -> NewestLogged {
    text.parse().unwrap_or(NewestLogged::NoLog)
}
