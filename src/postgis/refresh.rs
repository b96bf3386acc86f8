//! Materialized views that a run refreshes before it takes its snapshot (`refresh = true`), each in its own
//! transaction.
//!
//! The server computes a view with the rights of its owner, regardless of who refreshes it (PostgreSQL, "REFRESH
//! MATERIALIZED VIEW"). A view with a unique index is refreshed concurrently with its readers; any other view is locked
//! meanwhile.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;

use super::layer::{LayerOptions, Rows};
use super::probe::{RelationName, look_up};
use super::session::{Database, Error, Session};

const CONTEXT: &str = "refreshing materialized views";

/// What the catalog says about a relation to refresh: its kind, whether the role may refresh it, whether it can be
/// refreshed concurrently with readers, its owner, the role, and whether the server is a standby.
const FACTS: &str = "
    SELECT c.relkind::text,
        pg_has_role(c.relowner, 'USAGE')
            OR CASE WHEN current_setting('server_version_num')::int4 >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END,
        c.relispopulated AND EXISTS (
            SELECT FROM pg_index AS i
            WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL),
        pg_get_userbyid(c.relowner)::text, current_user::text, pg_is_in_recovery()
    FROM pg_class AS c WHERE c.oid = $1::text::regclass";

/// Refreshes the materialized views of the layers with `refresh`, each once. Returns the state of the database before
/// the first refresh began, as a cursor (`pg_current_snapshot()`): every change that the cursor sees is in the views.
/// `None` if no layer has `refresh`. Fails if a layer names no materialized view, the role may not refresh it, or the
/// server cannot.
pub(crate) async fn refresh_views(database: &Database, layers: &[&LayerOptions]) -> Result<Option<String>, Error> {
    let wanted: Vec<&LayerOptions> = layers.iter().copied().filter(|layer| layer.section.refresh()).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let session = database.writing().await?;
    session.begin_writing(CONTEXT).await?;
    let cursor = session.one(CONTEXT, "SELECT pg_current_snapshot()::text", &[]).await?.get(0);
    session.script(CONTEXT, "COMMIT").await?;
    let mut refreshed = BTreeSet::new();
    for layer in wanted {
        refresh(&session, layer, &mut refreshed).await?;
    }
    Ok(Some(cursor))
}

/// Refreshes the view of a layer, unless it is among `refreshed`.
async fn refresh(session: &Session, layer: &LayerOptions, refreshed: &mut BTreeSet<String>) -> Result<(), Error> {
    let wrong = |what: String, next: String| Error::Layer { layer: layer.name.clone(), what, next, source: None };
    let Rows::Relation { schema, table } = &layer.rows else { return Ok(()) };
    let name = RelationName { layer: &layer.name, schema: schema.as_deref(), table, of: "the layer" };
    session.begin_writing(CONTEXT).await?;
    let view = look_up(session, name).await?.quoted();
    if !refreshed.insert(view.clone()) {
        return session.script(CONTEXT, "COMMIT").await.map(drop);
    }
    let row = session.one(CONTEXT, FACTS, &[(&view, Type::TEXT)]).await?;
    let (kind, may, beside): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let (owner, role, in_recovery): (String, String, bool) = (row.get(3), row.get(4), row.get(5));
    if kind != "m" {
        return Err(wrong(
            format!("it has refresh = true, and {view} is no materialized view"),
            "Leave refresh out".to_owned(),
        ));
    }
    if in_recovery {
        return Err(wrong(
            format!("{view} cannot be refreshed: this server is a standby"),
            "Name the primary server, or leave refresh out and refresh there".to_owned(),
        ));
    }
    if !may {
        return Err(wrong(
            format!("{view} is refreshed by its owner \"{owner}\" only, and this role is \"{role}\""),
            format!(
                "Run GRANT \"{owner}\" TO \"{role}\" (from PostgreSQL 17 on, GRANT MAINTAIN ON {view} TO \"{role}\" is enough), or leave refresh out"
            ),
        ));
    }
    let context = format!("layer \"{}\": refreshing {view}", layer.name);
    let way = if beside { "CONCURRENTLY " } else { "" };
    session.script(&context, &format!("REFRESH MATERIALIZED VIEW {way}{view}; COMMIT")).await?;
    tracing::info!(
        "refreshed {view}{}",
        if beside { "" } else { ", which has no unique index: its readers had to wait" }
    );
    Ok(())
}
