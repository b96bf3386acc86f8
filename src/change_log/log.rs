//! The change log as the database holds it: its state compared with the catalog, whether its schema can be trusted, how
//! logged values are read back, and the key by which targets identify their database.

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::error::{ChangeLogError, UNSAFE};
use crate::cursor::{Cursor, NewestLogged};
use crate::postgis::{Database, Error, ServerName, Session, Snapshot, quoted};

/// The advisory lock that every process shares while it waits for changes (PostgreSQL documentation, section 13.3.5,
/// `pg_advisory_lock_shared(class, object)`). The triggers send notifications, on a channel with the name of the log's
/// schema, only while the lock is held.
pub const WATCHER_LOCK: (i32, i32) = (0x6f61_7274, 1);

/// The version of the log's layout. In a log of version 2, large shapes are logged as boxes, not as covers. In a log of
/// version 3, large shapes in other reference systems than EPSG:4326 and 3857 are logged whole. Everything else is the
/// same, so entries from before an upgrade can be read, too.
pub(crate) const LAYOUT: i32 = 4;

/// The oldest layout that is safe. A log of version 1 does not record the owner of the trigger functions, which ran
/// casts of the columns' types.
pub(crate) const SAFE_LAYOUT: i32 = 2;

// How logged values, which are texts, are converted back to values of their types.
//
// A reader casts only to the types of PostgreSQL itself. A cast to any other type (`CREATE CAST`) and the CHECK of a
// domain run functions of the type's owner, with the rights of the reader.

/// How the values of a column are read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Decoding {
    /// The type to which the text is converted, as SQL names it; for a domain, its base type.
    pub(crate) type_name: String,
    /// The method; `None` if every conversion would run functions of the type's owner, as for composite types and
    /// user-defined ranges.
    pub(crate) method: Option<DecodingMethod>,
}

/// A method to convert a text to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DecodingMethod {
    /// A cast to a type of PostgreSQL itself.
    Cast,
    /// The input function of an extension's base type. Only superusers make base types.
    InputFunction,
    /// The text, looked up among the labels of an enum.
    Label,
}

/// An SQL expression that returns the [`Decoding`] of a type as JSON.
pub(crate) fn decoding_expression(type_oid: &str, typmod: &str) -> String {
    include_str!("sql/decoding.sql").trim_end().replace("{type}", type_oid).replace("{typmod}", typmod)
}

impl DecodingMethod {
    /// An SQL expression for the value of a column of `table`, from the text of it in the JSON object `row_of.keys`.
    pub(crate) fn value(self, table: &str, column: &str, type_name: &str) -> String {
        let text = format!("(row_of.keys ->> {})", literal(column));
        match self {
            DecodingMethod::Cast => format!("{text}::{type_name}"),
            DecodingMethod::InputFunction => format!(
                "(SELECT input.value FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object('value', {text})) AS input (value {type_name}))"
            ),
            DecodingMethod::Label => {
                // The enum is named by its column, because another type may have taken its name. With an untyped NULL
                // as its second argument, coalesce converts a domain's value to the enum that is its base type
                // (PostgreSQL documentation, section 10.5).
                let labels = format!("pg_catalog.enum_range(coalesce((NULL::{table}).{}, NULL))", quoted(column));
                format!(
                    "(SELECT label.value FROM pg_catalog.unnest({labels}) AS label (value) WHERE pg_catalog.format('%s', label.value) = {text}
                      UNION ALL
                      SELECT ({labels})[1] WHERE CASE
                          WHEN {text} IS NULL OR {text} IN (SELECT pg_catalog.format('%s', label.value) FROM pg_catalog.unnest({labels}) AS label (value))
                          THEN false
                          ELSE ('the enum of the column has no label ' || {text} || ' any more')::pg_catalog.bool END)"
                )
            }
        }
    }
}

// The log's state compared with the present catalog. An install is planned from it, and a reseed uses it to decide
// whether the log is complete.

/// The state of the log. The fields are those of the JSON of `sql/facts.sql`.
#[derive(Debug, Deserialize)]
pub(crate) struct Facts {
    pub(crate) layout: i32,
    /// The number of installs that wrote to the log.
    pub(crate) installs: i64,
    /// The highest id that a watch ever had.
    pub(crate) last_watch: i32,
    /// Entries of transactions up to this one may have been pruned.
    #[serde(deserialize_with = "transaction")]
    pub(crate) pruned: u64,
    /// The role that owns the trigger functions; `None` if the owner of each table does.
    pub(crate) owner: Option<String>,
    /// True if `install` created that role.
    pub(crate) owner_is_made: bool,
    /// True if the log has an identity key.
    pub(crate) has_key: bool,
    /// A transaction id in the log that is higher than any of this database, because the log is a copy from another
    /// server. `None` if there is none.
    #[serde(deserialize_with = "transaction_if_any")]
    pub(crate) ahead: Option<u64>,
    /// True if each table of the log has a replica identity.
    pub(crate) is_identified: bool,
    pub(crate) needs: Vec<Need>,
    pub(crate) watches: Vec<WatchFacts>,
}

/// What a layer needs of one watch.
#[derive(Debug, Deserialize)]
pub(crate) struct Need {
    /// The layer, by [`definition`](super::definition).
    pub(crate) definition: String,
    /// The watch; `None` if nothing that the layer reads can be watched.
    pub(crate) watch: Option<i32>,
    /// The columns whose changes matter to the layer.
    pub(crate) columns: Vec<String>,
}

/// A watch as installed, with the present state of its table and function.
#[derive(Debug, Deserialize)]
pub(crate) struct WatchFacts {
    pub(crate) id: i32,
    /// The OID of the table.
    pub(crate) relation: u32,
    /// Schema and table, quoted, when the watch was installed.
    pub(crate) name: String,
    /// The geometry column; `None` if a query gives the positions.
    pub(crate) geometry: Option<String>,
    /// The query that gives the positions.
    pub(crate) query: Option<String>,
    /// The columns that the query refers to.
    pub(crate) logged: Vec<String>,
    /// The columns that pair an old row with its new version.
    pub(crate) key: Vec<String>,
    /// A `TRUNCATE` of more rows is logged as "everything".
    pub(crate) truncate_rows: i64,
    /// The transaction that completed the triggers.
    #[serde(deserialize_with = "transaction")]
    pub(crate) since: u64,
    /// Schema and table, quoted, now; `None` if the table was dropped.
    pub(crate) current_name: Option<String>,
    /// True if the trigger function is the one that was installed.
    pub(crate) function_is_ours: bool,
    /// MD5 of the function's text.
    pub(crate) function_hash: Option<String>,
    /// True if "everything" was logged since the cursor.
    pub(crate) everything: bool,
    pub(crate) columns: Vec<ColumnFacts>,
    pub(crate) members: Vec<MemberFacts>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ColumnFacts {
    pub(crate) name: String,
    /// Its number in the table (`pg_attribute.attnum`), when it was installed.
    pub(crate) number: i16,
    #[serde(deserialize_with = "transaction")]
    pub(crate) since: u64,
    /// True if the column exists and was not altered after the transaction `since`.
    pub(crate) is_same: bool,
    /// How values of its present type are read from the log.
    pub(crate) decoding: Option<Decoding>,
}

/// A table that has the triggers, or should: the watched table, its partitions, children and parents.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the catalog")]
#[derive(Debug, Deserialize)]
pub(crate) struct MemberFacts {
    /// Schema and table, quoted.
    pub(crate) name: String,
    /// True if the table was related to the watched table when the triggers were installed.
    pub(crate) is_noted: bool,
    /// True if the table is related to the watched table now.
    pub(crate) is_related: bool,
    /// The triggers as installed, one line for each: name, state, xmin.
    pub(crate) noted: Option<String>,
    /// The triggers now, in the same form.
    pub(crate) found: String,
    /// True if the table inherits from the same parents as at the installation, by the same catalog rows.
    pub(crate) is_tied: Option<bool>,
    /// True if the table's rows survive a crash of the server.
    pub(crate) is_kept: bool,
    /// True if logical replication writes the table.
    pub(crate) is_subscribed: bool,
}

impl MemberFacts {
    /// True if the table and its triggers are as they were installed.
    pub(crate) fn is_same(&self) -> bool {
        self.is_noted && self.is_related && self.is_tied == Some(true) && self.noted.as_deref() == Some(&self.found)
    }
}

impl WatchFacts {
    pub(crate) fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// True if the function, the triggers and the tables that have them are as they were installed.
    pub(crate) fn is_intact(&self) -> bool {
        self.function_is_ours && self.members.iter().all(MemberFacts::is_same)
    }
}

impl Facts {
    /// Reads the watches that `definitions` need, and the watches on `tables`. Entries with "everything" are searched
    /// `since` a cursor.
    pub(crate) async fn look_up(
        session: &Session,
        schema: &str,
        definitions: &[String],
        tables: &[u32],
        since: &Cursor,
        context: &str,
    ) -> Result<Facts, ChangeLogError> {
        let sql = include_str!("sql/facts.sql")
            .replace("{triggers}", &triggers("coalesce(m.relation, k.relation)", "w.noter"))
            .replace("{ties}", &ties("k.relation"))
            .replace("{called}", QUALIFIED_NAME)
            .replace("{decoding}", &decoding_expression("a.atttypid", "a.atttypmod"))
            .replace("{schema}", &quoted(schema));
        let since = since.to_string();
        let params =
            [(&definitions as _, Type::TEXT_ARRAY), (&tables as _, Type::OID_ARRAY), (&since as _, Type::TEXT)];
        let text: String = session.one(context, &sql, &params).await?.get(0);
        serde_json::from_str(&text).map_err(|source| ChangeLogError::Unreadable { what: "the change log", source })
    }
}

/// SQL for the triggers on a table that run a function, as one text with one line for each: name, state, xmin.
pub(crate) fn triggers(relation: &str, function: &str) -> String {
    format!(
        "(SELECT coalesce(string_agg(format('%s %s %s', t.tgname, t.tgenabled, t.xmin), chr(10) ORDER BY t.tgname), '')
            FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = {relation} AND t.tgfoid = {function})"
    )
}

/// SQL for the links of a table to its parents in `pg_inherits`, as one text.
pub(crate) fn ties(relation: &str) -> String {
    format!(
        "(SELECT coalesce(string_agg(format('%s %s', i.inhparent, i.xmin), ', ' ORDER BY i.inhseqno), '')
            FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = {relation})"
    )
}

/// Reads an `xid8`, which is sent as text because not every JSON parser reads numbers of 64 bits.
fn transaction<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// Like [`transaction`], for an optional value.
fn transaction_if_any<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

// What the log says of its database: the random identity key, and the newest transactions. Target manifests are public.
// They identify their database and its history by hashes with this key, which are meaningless to anyone who cannot read
// the log.

/// The statements that create the log's key if it has none: 244 bits from PostgreSQL's strong random number generator.
pub(crate) const ADD_KEY: &str = "ALTER TABLE {schema}.state ADD COLUMN IF NOT EXISTS identity_key text;
UPDATE {schema}.state SET identity_key = replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '') WHERE identity_key IS NULL;";

/// The most transactions of a witness. The newest one alone would do if transactions were committed in the order of
/// their ids; this many may overtake one that takes longer.
const MAX_WITNESSED: u32 = 64;

const CONTEXT: &str = "reading the change log's key";

/// The key of a log, and its newest transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    pub key: String,
    /// Entries of transactions up to this one may have been pruned.
    pub pruned: u64,
    /// For each snapshot that was asked for: the newest transactions that the snapshot sees, a line for each.
    pub newest: Vec<String>,
}

/// SQL for the newest transactions of the log that fulfil a condition on the entry `e`.
pub(crate) fn newest_transactions(schema: &str, condition: &str) -> String {
    newest_of(schema, condition, MAX_WITNESSED)
}

fn newest_of(schema: &str, condition: &str, most: u32) -> String {
    let sql = include_str!("sql/witness.sql").replace("{condition}", condition);
    sql.replace("{most}", &most.to_string()).replace("{schema}", &quoted(schema))
}

/// Reads the state of the log; `None` if there is no log, this role may not read it, or it was installed before logs
/// had keys. Call this after the probe, because the probe counts every table that the transaction has opened before as
/// one that the layers read.
///
/// # Errors
/// If the database fails.
pub async fn log_state(snapshot: &Snapshot, schema: &str, seen: &[Cursor]) -> Result<Option<LogState>, ChangeLogError> {
    let session = &snapshot.keeper;
    match Presence::look_up(session, schema, CONTEXT).await? {
        Presence::Readable => {}
        Presence::Nothing | Presence::Foreign | Presence::Unreadable { .. } => return Ok(None),
    }
    let newest: Vec<String> = seen.iter().map(|cursor| newest_lines(schema, cursor)).collect();
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
    Ok(Some(LogState { key, pruned, newest: row.get(2) }))
}

/// SQL for the condition that a state sees the entry `e`.
fn seen_by(state: &Cursor) -> String {
    format!("e.xid < '{}'::xid8 AND pg_visible_in_snapshot(e.xid, '{state}'::pg_snapshot)", state.xmax())
}

/// SQL for one text, the form of [`NewestLogged`](crate::cursor::NewestLogged): the newest transaction that a state
/// sees.
pub(crate) fn newest_seen(schema: &str, state: &Cursor) -> String {
    format!(
        "coalesce((SELECT format('%s@%s', one.xid, encode(timestamptz_send(one.at), 'hex')) FROM ({}) AS one), 'nothing')",
        newest_of(schema, &seen_by(state), 1)
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

// A role with the name of the log's schema: PostgreSQL puts the schema with the name of a role first on its search path
// ("$user").

/// The warning about what such a role does by mistake, with the remedy. `None` if there is no such role, or if it is
/// neither this role nor the owner of one of the tables, given by their OIDs.
pub(crate) async fn namesake(
    session: &Session,
    schema: &str,
    tables: &[u32],
    context: &str,
) -> Result<Option<String>, ChangeLogError> {
    let sql = include_str!("sql/namesake.sql");
    let row = session.one(context, sql, &[(&schema, Type::TEXT), (&tables, Type::OID_ARRAY)]).await?;
    let name = quoted(schema);
    Ok(row.get::<_, bool>(0).then(|| {
        format!(
            "the role {name} has the name of the change log's schema, which so comes first on its search path: a table that it makes without naming a schema lies in the change log. Run ALTER ROLE {name} SET search_path = public, or choose another schema under [changes]"
        )
    }))
}

/// Like `namesake`, for the tables that an installed log watches.
///
/// # Errors
/// If the database is lost.
pub async fn namesake_of_log(snapshot: &Snapshot, schema: &str) -> Result<Option<String>, ChangeLogError> {
    let (session, context) = (&snapshot.keeper, "looking for a role with the name of the change log's schema");
    let tables = match Presence::look_up(session, schema, context).await? {
        Presence::Readable => {
            let sql = format!("SELECT array_agg(DISTINCT relation) FROM {}.watch", quoted(schema));
            session.one(context, &sql, &[]).await?.get::<_, Option<Vec<u32>>>(0).unwrap_or_default()
        }
        Presence::Nothing | Presence::Foreign | Presence::Unreadable { .. } => Vec::new(),
    };
    namesake(session, schema, &tables, context).await
}

// The newest transaction in the log that a database state sees. Tiles that servers keep name it, so that they are not
// answered in another history of the database. A target's witness holds more transactions; these tiles are only kept
// until their next change.

const ASKING: &str = "asking the change log for its newest transaction";

/// For each database state the newest transaction in the log that it sees, by the log as `snapshot` has it. The session
/// keeps no lock on the log. Call this after the probe, because the probe counts every table that the transaction has
/// opened before as one that the layers read.
///
/// # Errors
/// If the database fails.
pub async fn newest_logged(
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
    match Presence::look_up(session, schema, ASKING).await? {
        Presence::Readable => {}
        Presence::Nothing | Presence::Foreign | Presence::Unreadable { .. } => {
            return Ok(vec![NewestLogged::NoLog; states.len()]);
        }
    }
    let columns: Vec<String> = states.iter().map(|state| newest_seen(schema, state)).collect();
    let sql = format!("SELECT ARRAY[{}]::text[]", columns.join(", "));
    let texts: Vec<String> = session.one(ASKING, &sql, &[]).await?.get(0);
    Ok(texts.iter().map(|text| newest_of_text(text)).collect())
}

/// The database state at this moment, and the newest transaction in the log that `state` sees.
///
/// # Errors
/// If the database does not answer.
pub async fn newest_logged_now(
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

// The check whether there is a change log in a schema.

/// What a schema holds.
pub enum Presence {
    /// Nothing, or the schema does not exist.
    Nothing,
    /// Other tables.
    Foreign,
    /// A change log that the role may not read.
    Unreadable {
        /// The role, quoted if necessary.
        role: String,
    },
    /// A change log.
    Readable,
}

impl Presence {
    /// Looks in the catalog, which every role may read.
    pub(crate) async fn look_up(session: &Session, schema: &str, context: &str) -> Result<Presence, ChangeLogError> {
        let row =
            session.one(context, &with_tables(include_str!("sql/presence.sql")), &[(&schema, Type::TEXT)]).await?;
        let (is_ours, has_tables, is_readable): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
        Ok(match (is_ours, has_tables, is_readable) {
            (true, _, true) => Presence::Readable,
            (true, _, false) => Presence::Unreadable { role: row.get(3) },
            (false, true, _) => Presence::Foreign,
            (false, false, _) => Presence::Nothing,
        })
    }
}

// Pieces of SQL, and the functions that fill in the placeholders of the files in `sql/`.

/// SQL for schema and name of the relation `c` in the namespace `n`, quoted like [`quoted`].
pub(crate) const QUALIFIED_NAME: &str =
    r#"'"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"'"#;

/// A text literal (PostgreSQL documentation, section 4.1.2.1) that does not depend on `standard_conforming_strings`.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A text literal for use inside dollar quotes: it contains no dollar sign, which might end the quotes.
pub(crate) fn literal_in_block(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''").replace('$', "\\044");
    format!(" E'{escaped}'")
}

/// Replaces `{postgis}` in a statement by the schema of PostGIS.
pub(crate) fn at_postgis(sql: &str, postgis: &str) -> String {
    sql.replace("{postgis}", &quoted(postgis))
}

/// The tables of a log.
const TABLES: [&str; 6] = ["state", "watch", "watched", "member", "needs", "change"];

/// Replaces `{tables}` in a statement by the names of the log's tables, and `{count}` by their number.
pub(crate) fn with_tables(sql: &str) -> String {
    let names: Vec<String> = TABLES.iter().map(|table| literal(table)).collect();
    sql.replace("{tables}", &names.join(", ")).replace("{count}", &TABLES.len().to_string())
}

/// Fills the schema into a statement: `{name}` and `{quoted}` as literals, `{schema}` as an identifier. It also fills
/// in the queries and blocks that check whether the schema can be trusted.
pub(crate) fn of_schema(sql: &str, schema: &str) -> String {
    let filled = sql
        .replace("{guard}", include_str!("sql/guard.sql").trim_end())
        .replace("{trust}", include_str!("sql/trust.sql").trim_end())
        .replace("{needed}", include_str!("sql/trigger_rights.sql").trim_end())
        .replace("{unsafe}", UNSAFE)
        .replace("{name}", &literal(schema))
        .replace("{quoted}", &literal(&quoted(schema)))
        .replace("{schema}", &quoted(schema));
    with_tables(&filled)
}

// The checks that only superusers and its owner can alter the schema of the log, and that the triggers have the rights
// that they need.

/// The flaws of a log's schema, in words.
#[derive(Debug, Default)]
pub(crate) struct SchemaFlaws {
    /// Flaws that another install does not repair.
    pub(crate) lasting: Vec<String>,
    /// Flaws that another install repairs.
    pub(crate) mendable: Vec<String>,
    /// Rights that the triggers lack, which another install grants.
    pub(crate) lacking: Vec<String>,
}

impl SchemaFlaws {
    /// Looks for flaws in the catalog. A schema that does not exist has none.
    pub(crate) async fn look_up(session: &Session, schema: &str, context: &str) -> Result<SchemaFlaws, ChangeLogError> {
        let sql = of_schema(include_str!("sql/trust.sql"), schema);
        let mut found = SchemaFlaws::default();
        for row in session.all(context, &sql, &[]).await? {
            let list = if row.get(1) { &mut found.mendable } else { &mut found.lasting };
            list.push(row.get(0));
        }
        let sql = of_schema(
            "SELECT DISTINCT needed.what FROM ({needed}) AS needed WHERE NOT needed.is_held ORDER BY 1",
            schema,
        );
        found.lacking = session.all(context, &sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        Ok(found)
    }

    /// Returns an error if the schema has lasting flaws.
    ///
    /// # Errors
    /// [`ChangeLogError::Unsafe`].
    pub(crate) fn check(&self, schema: &str, server: &ServerName) -> Result<(), ChangeLogError> {
        if self.lasting.is_empty() {
            return Ok(());
        }
        Err(ChangeLogError::Unsafe { schema: quoted(schema), server: server.clone(), what: self.lasting.join("; ") })
    }
}
