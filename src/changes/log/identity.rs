//! The random identity key of the change log. Target manifests are public. They identify their database by hashes with this key, which are
//! meaningless to anyone who cannot read the log.

use super::presence::Presence;
use crate::changes::error::ChangeLogError;
use crate::postgis::{Snapshot, quoted};

/// The statements that create the log's key if it has none: 244 bits from PostgreSQL's strong random number generator.
pub(in crate::changes) const ADD_KEY: &str = "ALTER TABLE {schema}.state ADD COLUMN IF NOT EXISTS identity_key text;
UPDATE {schema}.state SET identity_key = replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '') WHERE identity_key IS NULL;";

const CONTEXT: &str = "reading the change log's key";

/// Reads the key; `None` if there is no log, this role may not read it, or it was installed before logs had keys. Call this after the probe, because
/// the probe counts every table that the transaction has opened before as one that the layers read.
///
/// # Errors
/// If the database fails.
pub async fn identity_key(snapshot: &Snapshot, schema: &str) -> Result<Option<String>, ChangeLogError> {
    let session = &snapshot.keeper;
    match Presence::look_up(session, schema, CONTEXT).await? {
        Presence::Readable => {}
        Presence::Nothing | Presence::Foreign | Presence::Unreadable { .. } => return Ok(None),
    }
    // By way of JSON, because the column may not exist.
    let sql = format!("SELECT to_jsonb(state) ->> 'identity_key' FROM ONLY {}.state AS state", quoted(schema));
    let rows = session.all(CONTEXT, &sql, &[]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}
