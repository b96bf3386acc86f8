//! The newest transaction in the log that a database state sees. Tiles that servers keep name it, so that they are not answered in another history of
//! the database. A target's witness holds more transactions; these tiles are only kept until their next change.

use super::identity::newest_seen;
use super::presence::Presence;
use crate::changes::error::ChangeLogError;
use crate::cursor::{Cursor, NewestLogged};
use crate::postgis::{Database, Error, Snapshot};

const ASKING: &str = "asking the change log for its newest transaction";

/// For each database state the newest transaction in the log that it sees, by the log as `snapshot` has it. The session keeps no lock on the log. Call
/// this after the probe, because the probe counts every table that the transaction has opened before as one that the layers read.
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
