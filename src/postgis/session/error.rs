//! Errors of the database. Each says what failed and where, has the cause once, and names the next step.

use std::fmt;

use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

use crate::encode::EncodeError;
use crate::error::{ErrorKind, Obstacle};
use crate::scratch::temporary_folder;
use crate::tile::{TileCoord, TileRect};

/// The error that the server or the network reported.
#[derive(Debug)]
pub struct Cause {
    text: String,
    /// The SQLSTATE; `None` if the server did not report the error.
    pub code: Option<SqlState>,
    /// True if TLS failed.
    pub(crate) tls: bool,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {}

impl From<tokio_postgres::Error> for Cause {
    fn from(error: tokio_postgres::Error) -> Cause {
        if let Some(db) = error.as_db_error() {
            let mut text = db.message().to_owned();
            for (name, more) in [("detail", db.detail()), ("hint", db.hint()), ("where", db.where_())] {
                if let Some(more) = more {
                    text.push_str(&format!(" ({name}: {})", more.lines().next().unwrap_or_default()));
                }
            }
            return Cause { text, code: Some(db.code().clone()), tls: false };
        }
        // The outermost error only says "error connecting to server"; the innermost says why.
        let mut text = error.to_string();
        let tls = text.contains("TLS");
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text = inner.to_string();
            source = inner.source();
        }
        Cause { text, code: None, tls }
    }
}

impl From<std::io::Error> for Cause {
    fn from(error: std::io::Error) -> Cause {
        Cause { text: error.to_string(), code: None, tls: false }
    }
}

impl Cause {
    /// True if the connection broke or the server ended it, so that the statement is not to blame.
    pub(crate) fn is_lost(&self) -> bool {
        match &self.code {
            None => true,
            // 08001 means the server of a foreign table; our own server has answered. 25P03 and 25P04 end sessions:
            // idle in a transaction, or too long in one (since PostgreSQL 17).
            Some(code) => {
                let code = code.code();
                code.starts_with("57P")
                    || code.starts_with("08") && code != "08001"
                    || matches!(code, "25P03" | "25P04")
            }
        }
    }

    /// True if a lock was not granted: the wait was too long, or the server ended a deadlock.
    pub(crate) fn is_lock_failure(&self) -> bool {
        matches!(self.code, Some(SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED))
    }

    /// True if a standby cancelled the statement because it delayed replication. Read-only transactions have no other
    /// serialization failures.
    pub(crate) fn is_recovery_conflict(&self) -> bool {
        self.code == Some(SqlState::T_R_SERIALIZATION_FAILURE)
    }

    /// True if the server's lock table was full. The name of the setting in the hint is the same in every language.
    pub(crate) fn is_full_lock_table(&self) -> bool {
        self.code == Some(SqlState::OUT_OF_MEMORY) && self.text.contains("max_locks_per_transaction")
    }

    /// True if the statement wrote more to temporary files than the server allows its role (`temp_file_limit`).
    pub(crate) fn is_temp_file_limit(&self) -> bool {
        self.code == Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED)
    }

    /// True if the statement names a table or schema that does not exist, or that the role may not read.
    pub(crate) fn is_unreadable_table(&self) -> bool {
        matches!(
            self.code,
            Some(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME | SqlState::INSUFFICIENT_PRIVILEGE)
        )
    }

    /// True if the statement is the cause, by the class of the SQLSTATE: a name, a type, or a right that is missing.
    pub(crate) fn is_of_statement(&self) -> bool {
        self.code.as_ref().is_some_and(|code| code.code().starts_with("42"))
    }

    /// True if a value is the cause, by the class of the SQLSTATE: data exceptions.
    pub(crate) fn is_data_exception(&self) -> bool {
        self.code.as_ref().is_some_and(|code| code.code().starts_with("22"))
    }

    /// True if the statement was cancelled, by its time limit or by a user. Only the text distinguishes these two
    /// cases, in the server's language.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.code.as_ref() == Some(&SqlState::QUERY_CANCELED)
    }
}

/// Why the database could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A connection setting makes no sense.
    #[error("{what}: {next}")]
    Setting { what: String, next: String },
    #[error(
        "cannot reach the database {server}: is it running, and are host and port right? (--database-url, DATABASE_URL, PGHOST, PGPORT)"
    )]
    Unreachable { server: ServerName, source: Cause },
    #[error(
        "no database is named: give --database-url postgresql://USER@HOST/NAME, or set DATABASE_URL, or PGHOST and PGDATABASE (the default, {server}, does not answer)"
    )]
    NotNamed { server: ServerName, source: Cause },
    #[error(
        "the database {server} does not let the user in: check user name and password (--database-url, DATABASE_URL, PGUSER, PGPASSWORD)"
    )]
    Refused { server: ServerName, source: Cause },
    #[error("the database {server} does not accept the connection: {next}")]
    NotAccepted { server: ServerName, next: &'static str, source: Cause },
    #[error("the database {server} has no PostGIS: run CREATE EXTENSION postgis in it as its owner")]
    NoPostgis { server: ServerName },
    #[error("the database {server} runs PostgreSQL {found}: 13 is the oldest that works; upgrade it")]
    OldPostgres { server: ServerName, found: String },
    #[error(
        "the database {server} has PostGIS {found}: 3.1 is the oldest that works; upgrade it (ALTER EXTENSION postgis UPDATE, after installing the newer package)"
    )]
    OldPostgis { server: ServerName, found: String },
    /// Something about a layer is wrong.
    #[error("layer \"{layer}\": {what}. {next}")]
    Layer {
        layer: String,
        what: String,
        next: String,
        /// The cause, if the server gave one.
        source: Option<Cause>,
    },
    #[error(
        "{context}: the database cancelled the query after {after} (raise statement_timeout in [database], or lighten the layer with where or zoom)"
    )]
    Timeout {
        /// The layer and tile, or the step of the run.
        context: String,
        after: String,
        source: Cause,
    },
    #[error("{context}: the database could not run the query. {next}")]
    Query {
        /// The layer and tile, or the step of the run.
        context: String,
        next: &'static str,
        source: Cause,
    },
    #[error(
        "layer \"{layer}\", tile {tile}: it has {bytes} bytes, packed, and max_tile_bytes is {limit} at this zoom. Raise it, draw less at this zoom (property_zooms, where, [layer.aggregate]), or set on_large_tile = \"thin\" or \"warn\""
    )]
    LargeTile { layer: String, tile: TileCoord, bytes: u64, limit: u64 },
    /// A layer's part of a tile could not be packed.
    #[error("layer \"{layer}\", tile {tile}")]
    Pack { layer: String, tile: TileCoord, source: EncodeError },
    #[error("lost the database {server} {during}")]
    Lost { server: ServerName, during: String, source: Cause },
    #[error(
        "{server} stands for several servers, and the sessions of a run need one: {first}, and {other}. Name one server, such as an instance instead of the reader address of a cluster; nothing was published"
    )]
    OtherServer {
        server: ServerName,
        /// The server with the run's snapshot.
        first: String,
        other: String,
    },
    #[error("{table} was rewritten or truncated just after the snapshot was taken, which cannot see its rows any more")]
    Rewritten { table: String },
    /// A lock was not granted to a session.
    #[error("{context}: {wait} for a lock{holder}")]
    Locked {
        /// The layer and tile, or the step of the run.
        context: String,
        wait: String,
        /// The lock and its holder: " on …, which … holds or waits for"; empty if they are not known.
        holder: String,
        source: Cause,
    },
    #[error("{waiting} longer than lock_timeout ({limit}) behind this run, which gave way")]
    GaveWay { waiting: String, limit: String },
    #[error(
        "{context}: the standby cancelled the query for what came from the primary (hot_standby_feedback and max_standby_streaming_delay decide how often)"
    )]
    Recovery {
        /// The layer and tile, or the step of the run.
        context: String,
        source: Cause,
    },
    #[error("{table} was {how} after the snapshot was taken")]
    Appeared {
        table: String,
        /// "made", "dropped" or "attached as a partition".
        how: &'static str,
    },
    #[error(
        "layer \"{layer}\": {found} tiles came back for {planned} planned around {near}: the result is not complete, nothing was published. Please report this with the layer's configuration"
    )]
    Miscounted { layer: String, planned: u64, found: u64, near: String },
    #[error("layer \"{layer}\": {what}: the result is not complete, nothing was published. {next}")]
    Unsteady {
        layer: String,
        /// What the query returned, and where.
        what: String,
        next: &'static str,
    },
    /// A tile cannot be drawn from the rows of its variant alone: a point lies too close to the boundary between two
    /// grid units.
    #[error(
        "layer \"{layer}\": a tile has to be rendered by the database, which this run did not ask: please report this"
    )]
    NeedsDatabase { layer: String },
    #[error(
        "layer \"{layer}\": where its features lie does not fit in memory, and the temporary folder {} does not take it. Make room there, or set TMPDIR to another folder",
        temporary_folder().display()
    )]
    Scratch { layer: String, source: std::io::Error },
    /// A stop was requested.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// True if the server no longer knows the snapshot that a session should import, because the session that exported
    /// it has ended.
    pub(crate) fn is_snapshot_gone(&self) -> bool {
        let Error::Lost { source, .. } = self else { return false };
        matches!(source.code, Some(SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT))
    }

    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Error::Setting { .. }
            | Error::Layer { .. }
            | Error::NoPostgis { .. }
            | Error::OldPostgres { .. }
            | Error::OldPostgis { .. } => ErrorKind::Usage,
            Error::Lost { .. } => ErrorKind::Transient(Obstacle::Lost),
            Error::Unreachable { .. } | Error::NotNamed { .. } => ErrorKind::Transient(Obstacle::Unreachable),
            Error::Locked { .. } | Error::Recovery { .. } | Error::Appeared { .. } | Error::Rewritten { .. } => {
                ErrorKind::Transient(Obstacle::HeldUp)
            }
            Error::GaveWay { .. } => ErrorKind::Transient(Obstacle::GaveWay),
            Error::Interrupted => ErrorKind::Interrupted,
            Error::Refused { .. }
            | Error::NotAccepted { .. }
            | Error::OtherServer { .. }
            | Error::Timeout { .. }
            | Error::Query { .. }
            | Error::Miscounted { .. }
            | Error::Unsteady { .. }
            | Error::NeedsDatabase { .. }
            | Error::LargeTile { .. }
            | Error::Scratch { .. }
            | Error::Pack { .. } => ErrorKind::Failed,
        }
    }

    /// True if the connection broke or the server went away, so that another connection may help.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Error::Lost { .. })
    }

    /// True if only a statement failed, so that the transaction can go on at its savepoint.
    pub(crate) const fn is_of_statement(&self) -> bool {
        matches!(self, Error::Query { .. } | Error::Timeout { .. })
    }

    /// True if another connection cannot help this run: a stop was requested, or locks of others delay the run.
    pub(crate) const fn ends_the_run(&self) -> bool {
        matches!(self.kind(), ErrorKind::Interrupted | ErrorKind::Transient(Obstacle::HeldUp | Obstacle::GaveWay))
    }

    /// True if the statements returned other tiles or rows than planned.
    pub(crate) fn is_miscounted(&self) -> bool {
        matches!(self, Error::Miscounted { .. } | Error::Unsteady { .. })
    }
}

/// "tile 3/4/5" for one tile, "the tiles 3/4-6/5-9" for several.
pub(crate) fn area_name(rect: &TileRect) -> String {
    match rect.first() {
        Some(tile) if rect.tiles() == 1 => format!("tile {tile}"),
        _ => format!("the tiles {}/{}-{}/{}-{}", rect.zoom, rect.x0, rect.x1, rect.y0, rect.y1),
    }
}

/// A server and database as messages show them: user, host, port and database, never the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName {
    pub(crate) shown: String,
    /// False if neither a setting nor a variable names host, port, user or database.
    pub(crate) is_named: bool,
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl ServerName {
    /// The name of the first host of a connection.
    pub(crate) fn of(config: &tokio_postgres::Config) -> ServerName {
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
        ServerName { shown: format!("{user}{host}:{port}/{database}"), is_named: true }
    }
}
