//! The log's state beside what the catalog says now: the ground of installing and of trusting.

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::decoding::{Decoding, decoding_of};
use super::error::Error;
use super::trust::of_tables;
use super::{CALLED, Cursor};
use crate::postgis::{Session, quoted};

/// What there is in the place of the log.
pub(super) enum Presence {
    /// No schema, or an empty one.
    Nothing,
    /// A schema with tables that are not ours.
    Foreign,
    /// A log that the role, quoted where it has to be, may not read.
    Unreadable { role: String },
    /// A log.
    Readable,
}

impl Presence {
    /// Asks the catalog, which cannot fail for want of rights.
    pub(super) async fn look_up(session: &Session, schema: &str, place: &str) -> Result<Presence, Error> {
        let row = session.one(place, &of_tables(include_str!("sql/presence.sql")), &[(&schema, Type::TEXT)]).await?;
        let (is_ours, has_tables, is_readable): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
        Ok(match (is_ours, has_tables, is_readable) {
            (true, _, true) => Presence::Readable,
            (true, _, false) => Presence::Unreadable { role: row.get(3) },
            (false, true, _) => Presence::Foreign,
            (false, false, _) => Presence::Nothing,
        })
    }
}

/// The log.
#[derive(Debug, Deserialize)]
pub(super) struct Facts {
    pub(super) layout: i32,
    /// How often the log was installed anew or altered.
    pub(super) installs: i64,
    /// The highest number that a watch ever had.
    pub(super) last_watch: i32,
    /// Changes noted by transactions up to this one may be gone.
    #[serde(deserialize_with = "transaction")]
    pub(super) pruned: u64,
    /// The role that owns the functions of the triggers; `None` if the owner of each table does.
    pub(super) owner: Option<String>,
    /// An install has made that role.
    pub(super) owner_is_made: bool,
    /// It has the key by which targets say which database they show.
    pub(super) has_key: bool,
    pub(super) needs: Vec<Need>,
    pub(super) watches: Vec<WatchFacts>,
}

/// What a layer needs.
#[derive(Debug, Deserialize)]
pub(super) struct Need {
    pub(super) definition: String,
    /// None if nothing that the layer reads can be watched.
    pub(super) watch: Option<i32>,
    pub(super) columns: Vec<String>,
}

/// A watch.
#[derive(Debug, Deserialize)]
pub(super) struct WatchFacts {
    pub(super) id: i32,
    pub(super) relation: u32,
    /// Schema and table, quoted, as they were called when it was installed.
    pub(super) name: String,
    pub(super) geometry: Option<String>,
    pub(super) query: Option<String>,
    pub(super) logged: Vec<String>,
    pub(super) key: Vec<String>,
    pub(super) truncate_rows: i64,
    #[serde(deserialize_with = "transaction")]
    pub(super) since: u64,
    /// How the table is called now; none if it is gone.
    pub(super) now_called: Option<String>,
    /// The trigger function is the one that was installed.
    pub(super) noter_is_ours: bool,
    /// MD5 of the function's text.
    pub(super) noter_hash: Option<String>,
    /// A change that notes "everything" came since the snapshot asked about.
    pub(super) everything: bool,
    pub(super) columns: Vec<ColumnFacts>,
    pub(super) members: Vec<MemberFacts>,
}

/// A watched column.
#[derive(Debug, Deserialize)]
pub(super) struct ColumnFacts {
    pub(super) name: String,
    /// Its place among the columns, when it was installed.
    pub(super) number: i16,
    #[serde(deserialize_with = "transaction")]
    pub(super) since: u64,
    /// It is there, and was not altered.
    pub(super) is_same: bool,
    /// How values of its type, as it is now, are read from the log.
    pub(super) decoding: Option<Decoding>,
}

/// A table that carries the triggers, or should.
#[expect(clippy::struct_excessive_bools, reason = "facts of the catalog, each by itself")]
#[derive(Debug, Deserialize)]
pub(super) struct MemberFacts {
    /// Schema and table, quoted.
    pub(super) name: String,
    /// It was there when the triggers were installed.
    pub(super) is_noted: bool,
    /// It is there now.
    pub(super) is_kin: bool,
    /// The triggers as they were installed: name, state, xmin.
    pub(super) noted: Option<String>,
    /// The triggers as they are.
    pub(super) found: String,
    /// Its ties to its parents are those of then.
    pub(super) is_tied: Option<bool>,
    /// A crash leaves its rows.
    pub(super) is_kept: bool,
    /// Logical replication writes it.
    pub(super) is_subscribed: bool,
}

impl MemberFacts {
    /// It is as it was when the triggers were installed.
    pub(super) fn is_same(&self) -> bool {
        self.is_noted && self.is_kin && self.is_tied == Some(true) && self.noted.as_deref() == Some(&self.found)
    }
}

impl WatchFacts {
    pub(super) fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The triggers are those that were installed, on the tables that there were.
    pub(super) fn is_intact(&self) -> bool {
        self.noter_is_ours && self.members.iter().all(MemberFacts::is_same)
    }
}

impl Facts {
    /// Asks for the watches that some definitions need, and for those on some tables.
    pub(super) async fn look_up(
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
pub(super) fn triggers(relation: &str, function: &str) -> String {
    format!(
        "(SELECT coalesce(string_agg(format('%s %s %s', t.tgname, t.tgenabled, t.xmin), chr(10) ORDER BY t.tgname), '')
            FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = {relation} AND t.tgfoid = {function})"
    )
}

/// The ties of a table to its parents, as one text.
pub(super) fn ties(relation: &str) -> String {
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
