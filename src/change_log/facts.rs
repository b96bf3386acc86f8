//! The log's state compared with the present catalog. An install is planned from it, and a reseed uses it to decide
//! whether the log is complete.

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::decoding::{Decoding, decoding_expression};
use super::error::ChangeLogError;
use super::log::QUALIFIED_NAME;
use crate::cursor::Cursor;
use crate::postgis::{Session, quoted};

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
