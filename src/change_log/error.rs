//! Errors of the change log.

use super::gap::LogGap;
use crate::error::ErrorKind;
use crate::postgis;
use crate::postgis::{Cause, ServerName};
use crate::suggested::{TRACK_INSTALL, track_command};

/// Why the change log could not be installed, removed or read.
#[derive(Debug, thiserror::Error)]
pub enum ChangeLogError {
    #[error(transparent)]
    Database(#[from] postgis::Error),
    /// The log may not be complete.
    #[error(transparent)]
    LogGap(#[from] LogGap),
    /// An install found a log that it cannot read or change.
    #[error(transparent)]
    Installed(LogGap),
    /// No trigger can log the changes of a table.
    #[error("layer \"{layer}\": {what}. {next}")]
    NotTrackable { layer: String, what: String, next: String },
    #[error(
        "layer \"{layer}\": the database does not understand the geometry of [[layer.track]] for {table}. It is an SQL query over the changed row, called changed, that gives geometries, such as SELECT location FROM api_facility f WHERE f.id = changed.facility_id"
    )]
    Query { layer: String, table: String, source: postgis::Error },
    #[error(
        "the role may not {verb} the change log in {server}: that takes the owner of the tables, and CREATE on the database. Hand the owner what {} --sql prints, to run with psql",
        track_command(verb)
    )]
    NoRight { verb: &'static str, server: ServerName, source: postgis::Error },
    #[error(
        "the role may not prune the change log in {server}: run the command as the role that installed it, or have that role GRANT DELETE on its table change and UPDATE on its table state"
    )]
    NoPruning { server: ServerName, source: postgis::Error },
    #[error(
        "a table was not free within 10 s to {verb} the change log: nothing was changed. Run the command again when no long transaction writes it (pg_stat_activity shows them)"
    )]
    Locked { verb: &'static str, source: postgis::Error },
    #[error(
        "the advisory lock (1868657268, 2), which one install at a time takes, was not free within 10 s: nothing was changed. The cause names who holds it: run the command again when that has ended"
    )]
    Taken { source: postgis::Error },
    #[error("somebody else installed into the change log at the same time: nothing was changed. Run the command again")]
    Overtaken,
    #[error(
        "the schema {schema} of {server} holds tables, but no change log: it is not touched. Set schema in [changes] to a name that is free"
    )]
    Foreign { schema: String, server: ServerName },
    #[error(
        "the schema {schema} of {server} holds what is not of the change log: {objects}. Nothing was removed. Move each to another schema ({next}), or drop it, and run the command again"
    )]
    HoldsOthers {
        schema: String,
        server: ServerName,
        /// The objects, each with its kind.
        objects: String,
        /// The statement that moves the first.
        next: String,
    },
    /// Roles other than its owner can alter the schema, and so could run their statements with the rights of the
    /// installing role.
    #[error(
        "the schema {schema} of {server} is not safe for the change log: {what}. Put that right or drop the schema, or set schema in [changes] to a name that is free"
    )]
    Unsafe { schema: String, server: ServerName, what: String },
    #[error(
        "the change log in {server} is as it was: its own checks refused to {verb} it. Put right what the cause names, and run the command again"
    )]
    Refused { verb: &'static str, server: ServerName, source: postgis::Error },
    #[error(
        "the triggers in {server} are not safe: {what}. Run {TRACK_INSTALL} again, as the role that owns the schema {schema}; targets stay as good as they are"
    )]
    Repairable { schema: String, server: ServerName, what: String },
    #[error(
        "the triggers in {server} lack rights, so that writes to the tracked tables fail: {what}. Run {TRACK_INSTALL} again, as a role that may grant them"
    )]
    LacksRights {
        server: ServerName,
        /// Each missing right, and the statement that grants it.
        what: String,
    },
    #[error(
        "the triggers on {table} would run as its owner {owner}, a superuser: this role may not make another one for them. Have a superuser run {next} Then run {TRACK_INSTALL} --owner {role}"
    )]
    SuperusersTable { table: String, owner: String, next: String, role: String },
    #[error(
        "--owner names the role {role}, which {what}. Have a superuser run {next} Then run {TRACK_INSTALL} --owner {better}"
    )]
    WrongOwner { role: String, what: &'static str, next: String, better: String },
    #[error("there is no change log in the schema {schema} of {server}. Set schema in [changes], if it is elsewhere")]
    NotThere { schema: String, server: ServerName },
    #[error("{what} cannot be read: please report this")]
    Unreadable { what: &'static str, source: serde_json::Error },
}

impl ChangeLogError {
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            ChangeLogError::Database(error) => error.kind(),
            ChangeLogError::LogGap(_) => ErrorKind::NeedsSeed,
            ChangeLogError::NotTrackable { .. }
            | ChangeLogError::Query { .. }
            | ChangeLogError::Foreign { .. }
            | ChangeLogError::Unsafe { .. }
            | ChangeLogError::Refused { .. }
            | ChangeLogError::SuperusersTable { .. }
            | ChangeLogError::WrongOwner { .. }
            | ChangeLogError::HoldsOthers { .. }
            | ChangeLogError::NotThere { .. } => ErrorKind::Usage,
            ChangeLogError::NoRight { .. }
            | ChangeLogError::NoPruning { .. }
            | ChangeLogError::Locked { .. }
            | ChangeLogError::Taken { .. }
            | ChangeLogError::Installed(_)
            | ChangeLogError::Repairable { .. }
            | ChangeLogError::LacksRights { .. }
            | ChangeLogError::Overtaken
            | ChangeLogError::Unreadable { .. } => ErrorKind::Failed,
        }
    }

    /// Classifies the error of a failed pruning.
    pub(crate) fn from_prune(server: &ServerName, error: postgis::Error) -> ChangeLogError {
        match &error {
            postgis::Error::Query { source: Cause { code: Some(code), .. }, .. } if code.code() == "42501" => {
                ChangeLogError::NoPruning { server: server.clone(), source: error }
            }
            _ => ChangeLogError::Database(error),
        }
    }

    /// Classifies the error of a failed script.
    pub(crate) fn from_script(verb: &'static str, server: &ServerName, error: postgis::Error) -> ChangeLogError {
        let code = match &error {
            postgis::Error::Query { source: Cause { code, .. }, .. } => {
                code.as_ref().map(|code| code.code().to_owned())
            }
            _ => None,
        };
        match code.as_deref() {
            Some("42501") => ChangeLogError::NoRight { verb, server: server.clone(), source: error },
            Some("55P03" | "40P01") => ChangeLogError::Locked { verb, source: error },
            Some(TAKEN) => ChangeLogError::Taken { source: error },
            Some(OVERTAKEN) => ChangeLogError::Overtaken,
            Some(UNSAFE) => ChangeLogError::Refused { verb, server: server.clone(), source: error },
            _ => ChangeLogError::Database(error),
        }
    }
}

/// The SQLSTATE of a script that finds the log in another state than the one for which it was written.
pub(crate) const OVERTAKEN: &str = "OT001";

/// The SQLSTATE of a script that finds the advisory lock of installs taken.
pub(crate) const TAKEN: &str = "OT003";

/// The SQLSTATE of a script that finds a schema or role that is not safe.
pub(crate) const UNSAFE: &str = "OT002";
