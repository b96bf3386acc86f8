//! The reasons why the change log may not be complete.

use crate::postgis::ServerName;
use crate::suggested::{SEED, TRACK_INSTALL};

/// Why the log may not hold all changes that a target has not seen. The target needs a full seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogGap {
    #[error(
        "changes are not noted in the database {server}: it has no change log in the schema {schema}. Run {TRACK_INSTALL}, then {SEED} once"
    )]
    NotInstalled {
        server: ServerName,
        /// The schema, quoted.
        schema: String,
    },
    #[error(
        "the role {role} may not read the change log: run {TRACK_INSTALL} --reader {role} as its owner, or GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
    )]
    Unreadable {
        /// The role, quoted where necessary.
        role: String,
        /// The schema, quoted.
        schema: String,
    },
    #[error("the change log in the schema {schema} has layout {found}, this program knows {known}: update oar-tiles")]
    Newer {
        /// The schema, quoted.
        schema: String,
        found: i32,
        known: i32,
    },
    #[error(
        "layer \"{layer}\": what it reads is not tracked: it is new, or its table, properties, key, where or [[layer.track]] changed. Run {TRACK_INSTALL}, then {SEED} once"
    )]
    Layer { layer: String },
    #[error(
        "layer \"{layer}\": none of the tables that it reads is tracked. Declare each of them with [[layer.track]], run {TRACK_INSTALL}, then {SEED} once"
    )]
    Undeclared { layer: String },
    #[error(
        "the database {server} is older than the target: it ended at transaction {now}, the target has seen up to {seen}. It was restored from a backup, or is a standby that is behind. Run {SEED}"
    )]
    Older {
        server: ServerName,
        /// The next transaction of the database.
        now: u64,
        /// The next transaction when the target was written.
        seen: u64,
    },
    #[error(
        "the change log knows transactions up to {known}, and the next one of the database {server} is {now}: it came out of a dump of another server, or somebody wrote to it. Run {TRACK_INSTALL}, then {SEED} once"
    )]
    Ahead {
        server: ServerName,
        /// The last transaction that the log knows.
        known: u64,
        /// The next transaction of the database.
        now: u64,
    },
    #[error(
        "the change log no longer holds what the target has not seen: it was pruned up to transaction {pruned}, and the target has seen all before {seen}. Run {SEED}"
    )]
    Pruned {
        /// The last transaction that may be gone.
        pruned: u64,
        /// The first that the target may not have seen.
        seen: u64,
    },
    #[error("layer \"{layer}\": changes of {table} are noted since after the target was written. Run {SEED} once")]
    InstalledSince {
        layer: String,
        /// Which table, quoted.
        table: String,
    },
    #[error(
        "layer \"{layer}\": changes of {column} of {table} are noted since after the target was written. Run {SEED} once"
    )]
    ColumnSince {
        layer: String,
        /// Which table, quoted.
        table: String,
        /// Which column, quoted.
        column: String,
    },
    #[error(
        "layer \"{layer}\": {table} is not the table whose changes are noted{now}. Run {TRACK_INSTALL}, then {SEED} once"
    )]
    Replaced {
        layer: String,
        /// Which table, quoted.
        table: String,
        /// ": that one is called … now", or that it is gone.
        now: String,
    },
    #[error(
        "layer \"{layer}\": changes of {table} may have gone by unnoticed: {what}. Run {TRACK_INSTALL}, then {SEED} once"
    )]
    Triggers {
        layer: String,
        /// Which table, quoted.
        table: String,
        what: String,
    },
    #[error(
        "layer \"{layer}\": {column} of {table} was altered since its changes are noted. Run {TRACK_INSTALL}, then {SEED} once"
    )]
    Altered {
        layer: String,
        /// Which table, quoted.
        table: String,
        /// Which column, quoted.
        column: String,
    },
    #[error(
        "layer \"{layer}\": the geometry of [[layer.track]] for {table} refers to {column}, and values of its type cannot be read back from the change log without running functions of the type's owner. Write the query without it, run {TRACK_INSTALL}, then {SEED} once"
    )]
    Undecodable {
        layer: String,
        /// Which table, quoted.
        table: String,
        /// Which column, quoted.
        column: String,
    },
    #[error(
        "layer \"{layer}\": {table} is written by logical replication, which fires no such triggers: what it changes is not noted. Track the changes in the database that publishes it, or run {SEED} each time"
    )]
    Subscribed {
        layer: String,
        /// Which table, quoted.
        table: String,
    },
    /// "Everything" was logged: a TRUNCATE of many rows, or of rows that the trigger may not see, or a change while a
    /// column was missing.
    #[error(
        "layer \"{layer}\": {table} may differ everywhere. A TRUNCATE of it or of a partition noted no rows (more than truncate_rows in [changes], or rows that its transaction or the triggers' role may not see), or a column was missing when it changed. Run {SEED}"
    )]
    Everything {
        layer: String,
        /// Which table, quoted.
        table: String,
    },
}
