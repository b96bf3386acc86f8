//! Finds the columns of a query and their types without reading a row, and with no other right than to read. It uses no named prepared statement and
//! no view, so it works behind a pooler and on a standby.

use tokio_postgres::error::SqlState;

use super::relation::{Column, Relation, RelationKind};
use crate::postgis::layer::Query;
use crate::postgis::session::{Error, Session, quoted};

/// The columns of a layer's query, as a relation.
pub(in crate::postgis) async fn query_relation(
    session: &Session,
    layer: &str,
    query: &Query,
) -> Result<Relation, Error> {
    let context = format!("layer \"{layer}\"");
    let role: String = session.one(&context, "SELECT current_user::text", &[]).await?.get(0);
    // One row of NULLs, which has the same columns as the query.
    let nothing = format!(
        "(SELECT) AS one LEFT JOIN (SELECT * FROM {} WHERE false) AS given ON true",
        query.sql_item_without_values(layer)
    );
    let asking = format!(
        "SELECT ARRAY(SELECT json_object_keys(row_to_json(named)) FROM (SELECT given.* FROM {nothing}) AS named)"
    );
    let row = session.one(&context, &asking, &[]).await.map_err(|error| not_understood(layer, &role, error))?;
    let names: Vec<String> = row.get(0);
    let is_twice = |(at, name): &(usize, &String)| names[..*at].contains(name);
    if let Some((_, twice)) = names.iter().enumerate().find(is_twice) {
        return Err(Error::Layer {
            layer: layer.to_owned(),
            what: format!("its query gives two columns {}", quoted(twice)),
            next: "Leave one out, or rename it with AS".to_owned(),
            source: None,
        });
    }
    let types: Vec<String> = names.iter().map(|name| format!("pg_typeof(given.{})::oid", quoted(name))).collect();
    let types = format!(
        "SELECT coalesce(base.typname, t.typname)::text, t.typcollation <> 0
         FROM unnest((SELECT ARRAY[{}]::oid[] FROM {nothing})) WITH ORDINALITY AS given (type, place)
         JOIN pg_type AS t ON t.oid = given.type
         LEFT JOIN pg_type AS base ON t.typtype = 'd' AND base.oid = t.typbasetype AND base.typname IN ('geometry', 'geography')
         ORDER BY given.place",
        types.join(", ")
    );
    let rows = session.all(&context, &types, &[]).await?;
    let columns = names.into_iter().zip(&rows).map(|(name, row)| Column {
        name,
        kind: row.get(0),
        collated: row.get(1),
        not_null: false,
        readable: true,
        srid: 0,
        kind_schema: String::new(),
        geometry_type: String::new(),
    });
    Ok(Relation {
        schema: String::new(),
        name: "its query".to_owned(),
        kind: RelationKind::Query,
        columns: columns.collect(),
        unique: Vec::new(),
        spatial_indexes: Vec::new(),
        readable: true,
        schema_usable: true,
        role,
    })
}

fn not_understood(layer: &str, role: &str, error: Error) -> Error {
    let Error::Query { source, .. } = error else { return error };
    let (layer, role) = (layer.to_owned(), quoted(role));
    if source.code == Some(SqlState::INSUFFICIENT_PRIVILEGE) {
        return Error::Layer {
            layer,
            what: format!("the role {role} may not read everything that its query reads"),
            next: format!("Run GRANT SELECT ON … TO {role} as the owner of what the cause names"),
            source: Some(source),
        };
    }
    Error::Layer {
        layer,
        what: "the database does not understand its query".to_owned(),
        next: "sql is one SELECT, as psql takes it once values stand for the placeholders".to_owned(),
        source: Some(source),
    }
}
