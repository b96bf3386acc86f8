//! The random key of the change log. By it a target's manifest, which is public, says which database it shows without telling anybody
//! who cannot read the log.

use super::presence::Presence;
use crate::changes::error::Error;
use crate::postgis::{Snapshot, quoted};

/// The statements that give a log its key, if it has none: 244 bits from PostgreSQL's strong source of random numbers.
pub(in crate::changes) const ADD_KEY: &str = "ALTER TABLE {schema}.state ADD COLUMN IF NOT EXISTS identity_key text;
UPDATE {schema}.state SET identity_key = replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '') WHERE identity_key IS NULL;";

const PLACE: &str = "reading the change log's key";

/// The key; `None` if there is no log, none that this role may read, or a log that was installed before logs had keys. To be asked for
/// after the layers were probed: what they read is told by the tables that the transaction has opened until then.
///
/// # Errors
/// If the database fails.
pub async fn identity_key(snapshot: &Snapshot, schema: &str) -> Result<Option<String>, Error> {
    let session = &snapshot.keeper;
    match Presence::look_up(session, schema, PLACE).await? {
        Presence::Readable => {}
        Presence::Nothing | Presence::Foreign | Presence::Unreadable { .. } => return Ok(None),
    }
    // As JSON: the column may not be there.
    let sql = format!("SELECT to_jsonb(state) ->> 'identity_key' FROM ONLY {}.state AS state", quoted(schema));
    let rows = session.all(PLACE, &sql, &[]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}
