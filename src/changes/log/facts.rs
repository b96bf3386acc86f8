//! The log's state beside what the catalog says now: the ground of installing and of trusting.

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::decoding::{Decoding, decoding_of};
use super::sql_text::CALLED;
use crate::changes::cursor::Cursor;
use crate::changes::error::Error;
use crate::postgis::{Session, quoted};

/// The log.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct Facts {
    pub(in crate::changes) layout: i32,
    /// How often the log was installed anew or altered.
    pub(in crate::changes) installs: i64,
    /// The highest number that a watch ever had.
    pub(in crate::changes) last_watch: i32,
    /// Changes noted by transactions up to this one may be gone.
    #[serde(deserialize_with = "transaction")]
    pub(in crate::changes) pruned: u64,
    /// The role that owns the functions of the triggers; `None` if the owner of each table does.
    pub(in crate::changes) owner: Option<String>,
    /// An install has made that role.
    pub(in crate::changes) owner_is_made: bool,
    /// It has the key by which targets say which database they show.
    pub(in crate::changes) has_key: bool,
    pub(in crate::changes) needs: Vec<Need>,
    pub(in crate::changes) watches: Vec<WatchFacts>,
}

/// What a layer needs.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct Need {
    pub(in crate::changes) definition: String,
    /// None if nothing that the layer reads can be watched.
    pub(in crate::changes) watch: Option<i32>,
    pub(in crate::changes) columns: Vec<String>,
}

/// A watch.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct WatchFacts {
    pub(in crate::changes) id: i32,
    pub(in crate::changes) relation: u32,
    /// Schema and table, quoted, as they were called when it was installed.
    pub(in crate::changes) name: String,
    pub(in crate::changes) geometry: Option<String>,
    pub(in crate::changes) query: Option<String>,
    pub(in crate::changes) logged: Vec<String>,
    pub(in crate::changes) key: Vec<String>,
    pub(in crate::changes) truncate_rows: i64,
    #[serde(deserialize_with = "transaction")]
    pub(in crate::changes) since: u64,
    /// How the table is called now; none if it is gone.
    pub(in crate::changes) now_called: Option<String>,
    /// The trigger function is the one that was installed.
    pub(in crate::changes) noter_is_ours: bool,
    /// MD5 of the function's text.
    pub(in crate::changes) noter_hash: Option<String>,
    /// A change that notes "everything" came since the snapshot asked about.
    pub(in crate::changes) everything: bool,
    pub(in crate::changes) columns: Vec<ColumnFacts>,
    pub(in crate::changes) members: Vec<MemberFacts>,
}

/// A watched column.
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct ColumnFacts {
    pub(in crate::changes) name: String,
    /// Its place among the columns, when it was installed.
    pub(in crate::changes) number: i16,
    #[serde(deserialize_with = "transaction")]
    pub(in crate::changes) since: u64,
    /// It is there, and was not altered.
    pub(in crate::changes) is_same: bool,
    /// How values of its type, as it is now, are read from the log.
    pub(in crate::changes) decoding: Option<Decoding>,
}

/// A table that carries the triggers, or should.
#[expect(clippy::struct_excessive_bools, reason = "facts of the catalog, each by itself")]
#[derive(Debug, Deserialize)]
pub(in crate::changes) struct MemberFacts {
    /// Schema and table, quoted.
    pub(in crate::changes) name: String,
    /// It was there when the triggers were installed.
    pub(in crate::changes) is_noted: bool,
    /// It is there now.
    pub(in crate::changes) is_kin: bool,
    /// The triggers as they were installed: name, state, xmin.
    pub(in crate::changes) noted: Option<String>,
    /// The triggers as they are.
    pub(in crate::changes) found: String,
    /// Its ties to its parents are those of then.
    pub(in crate::changes) is_tied: Option<bool>,
    /// A crash leaves its rows.
    pub(in crate::changes) is_kept: bool,
    /// Logical replication writes it.
    pub(in crate::changes) is_subscribed: bool,
}

impl MemberFacts {
    /// It is as it was when the triggers were installed.
    pub(in crate::changes) fn is_same(&self) -> bool {
        self.is_noted && self.is_kin && self.is_tied == Some(true) && self.noted.as_deref() == Some(&self.found)
    }
}

impl WatchFacts {
    pub(in crate::changes) fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The triggers are those that were installed, on the tables that there were.
    pub(in crate::changes) fn is_intact(&self) -> bool {
        self.noter_is_ours && self.members.iter().all(MemberFacts::is_same)
    }
}

impl Facts {
    /// Asks for the watches that some definitions need, and for those on some tables.
    pub(in crate::changes) async fn look_up(
        session: &Session,
        schema: &str,
        definitions: &[String],
        tables: &[u32],
        since: &Cursor,
        place: &str,
    ) -> Result<Facts, Error> {
        let sql = include_str!("sql/facts.sql")
            .replace("{triggers}", &triggers("coalesce(m.relation, k.relation)", "w.noter"))
            .replace("{ties}", &ties("k.relation"))
            .replace("{called}", CALLED)
            .replace("{decoding}", &decoding_of("a.atttypid", "a.atttypmod"))
            .replace("{schema}", &quoted(schema));
        let since = since.to_string();
        let params =
            [(&definitions as _, Type::TEXT_ARRAY), (&tables as _, Type::OID_ARRAY), (&since as _, Type::TEXT)];
        let text: String = session.one(place, &sql, &params).await?.get(0);
        serde_json::from_str(&text).map_err(|source| Error::Unreadable { what: "the change log", source })
    }
}

/// The triggers of a function on a table, as one text, a line each: name, state, xmin.
pub(in crate::changes) fn triggers(relation: &str, function: &str) -> String {
    format!(
        "(SELECT coalesce(string_agg(format('%s %s %s', t.tgname, t.tgenabled, t.xmin), chr(10) ORDER BY t.tgname), '')
            FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = {relation} AND t.tgfoid = {function})"
    )
}

/// The ties of a table to its parents, as one text.
pub(in crate::changes) fn ties(relation: &str) -> String {
    format!(
        "(SELECT coalesce(string_agg(format('%s %s', i.inhparent, i.xmin), ', ' ORDER BY i.inhseqno), '')
            FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = {relation})"
    )
}

/// `xid8` as text: JSON's numbers are not wide enough for everybody.
fn transaction<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
