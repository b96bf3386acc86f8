//! The log's state compared with the present catalog. An install is planned from it, and a reseed uses it to decide whether the log is complete.

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::decoding::{Decoding, decoding_expression};
use super::sql_text::QUALIFIED_NAME;
use crate::changes::error::ChangeLogError;
use crate::cursor::Cursor;
use crate::postgis::{Session, quoted};

/// The state of the log. The fields are those of the JSON of `sql/facts.sql`.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct Facts {
    pub(in crate::changes) layout: i32,
    /// The number of installs that wrote to the log.
    pub(in crate::changes) installs: i64,
    /// The highest id that a watch ever had.
    pub(in crate::changes) last_watch: i32,
    /// Entries of transactions up to this one may have been pruned.
    #[serde(deserialize_with = "transaction")]
    pub(in crate::changes) pruned: u64,
    /// The role that owns the trigger functions; `None` if the owner of each table does.
    pub(in crate::changes) owner: Option<String>,
    /// True if `install` created that role.
    pub(in crate::changes) owner_is_made: bool,
    /// True if the log has an identity key.
    pub(in crate::changes) has_key: bool,
    /// A transaction id in the log that is higher than any of this database, because the log is a copy from another server. `None` if there is none.
    #[serde(deserialize_with = "transaction_if_any")]
    pub(in crate::changes) ahead: Option<u64>,
    /// True if each table of the log has a replica identity.
    pub(in crate::changes) is_identified: bool,
    pub(in crate::changes) needs: Vec<Need>,
    pub(in crate::changes) watches: Vec<WatchFacts>,
}

/// What a layer needs of one watch.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct Need {
    /// The layer, by [`TrackedLayer::definition`](crate::changes::options::TrackedLayer::definition).
    pub(in crate::changes) definition: String,
    /// The watch; `None` if nothing that the layer reads can be watched.
    pub(in crate::changes) watch: Option<i32>,
    /// The columns whose changes matter to the layer.
    pub(in crate::changes) columns: Vec<String>,
}

/// A watch as installed, with the present state of its table and function.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct WatchFacts {
    pub(in crate::changes) id: i32,
    /// The OID of the table.
    pub(in crate::changes) relation: u32,
    /// Schema and table, quoted, when the watch was installed.
    pub(in crate::changes) name: String,
    /// The geometry column; `None` if a query gives the positions.
    pub(in crate::changes) geometry: Option<String>,
    /// The query that gives the positions.
    pub(in crate::changes) query: Option<String>,
    /// The columns that the query refers to.
    pub(in crate::changes) logged: Vec<String>,
    /// The columns that pair an old row with its new version.
    pub(in crate::changes) key: Vec<String>,
    /// A `TRUNCATE` of more rows is logged as "everything".
    pub(in crate::changes) truncate_rows: i64,
    /// The transaction that completed the triggers.
    #[serde(deserialize_with = "transaction")]
    pub(in crate::changes) since: u64,
    /// Schema and table, quoted, now; `None` if the table was dropped.
    #[serde(rename = "now_called")]
    pub(in crate::changes) current_name: Option<String>,
    /// True if the trigger function is the one that was installed.
    #[serde(rename = "noter_is_ours")]
    pub(in crate::changes) function_is_ours: bool,
    /// MD5 of the function's text.
    #[serde(rename = "noter_hash")]
    pub(in crate::changes) function_hash: Option<String>,
    /// True if "everything" was logged since the cursor.
    pub(in crate::changes) everything: bool,
    pub(in crate::changes) columns: Vec<ColumnFacts>,
    pub(in crate::changes) members: Vec<MemberFacts>,
}

/// A watched column.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct ColumnFacts {
    pub(in crate::changes) name: String,
    /// Its number in the table (`pg_attribute.attnum`), when it was installed.
    pub(in crate::changes) number: i16,
    #[serde(deserialize_with = "transaction")]
    pub(in crate::changes) since: u64,
    /// True if the column exists and was not altered after the transaction `since`.
    pub(in crate::changes) is_same: bool,
    /// How values of its present type are read from the log.
    pub(in crate::changes) decoding: Option<Decoding>,
}

/// A table that has the triggers, or should: the watched table, its partitions, children and parents.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the catalog")]
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct MemberFacts {
    /// Schema and table, quoted.
    pub(in crate::changes) name: String,
    /// True if the table was related to the watched table when the triggers were installed.
    pub(in crate::changes) is_noted: bool,
    /// True if the table is related to the watched table now.
    pub(in crate::changes) is_related: bool,
    /// The triggers as installed, one line for each: name, state, xmin.
    pub(in crate::changes) noted: Option<String>,
    /// The triggers now, in the same form.
    pub(in crate::changes) found: String,
    /// True if the table inherits from the same parents as at the installation, by the same catalog rows.
    pub(in crate::changes) is_tied: Option<bool>,
    /// True if the table's rows survive a crash of the server.
    pub(in crate::changes) is_kept: bool,
    /// True if logical replication writes the table.
    pub(in crate::changes) is_subscribed: bool,
}

impl MemberFacts {
    /// True if the table and its triggers are as they were installed.
    pub(in crate::changes) fn is_same(&self) -> bool {
        self.is_noted && self.is_related && self.is_tied == Some(true) && self.noted.as_deref() == Some(&self.found)
    }
}

impl WatchFacts {
    pub(in crate::changes) fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// True if the function, the triggers and the tables that have them are as they were installed.
    pub(in crate::changes) fn is_intact(&self) -> bool {
        self.function_is_ours && self.members.iter().all(MemberFacts::is_same)
    }
}

impl Facts {
    /// Reads the watches that `definitions` need, and the watches on `tables`. Entries with "everything" are searched `since` a cursor.
    pub(in crate::changes) async fn look_up(
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
pub(in crate::changes) fn triggers(relation: &str, function: &str) -> String {
    format!(
        "(SELECT coalesce(string_agg(format('%s %s %s', t.tgname, t.tgenabled, t.xmin), chr(10) ORDER BY t.tgname), '')
            FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = {relation} AND t.tgfoid = {function})"
    )
}

/// SQL for the links of a table to its parents in `pg_inherits`, as one text.
pub(in crate::changes) fn ties(relation: &str) -> String {
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
