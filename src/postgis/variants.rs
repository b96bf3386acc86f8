//! The values of the variants of a tileset: how they are read from the database, and how they are passed to SQL.
//!
//! A session holds the values of its variant in settings of its transaction (`set_config`, with the values as
//! parameters), and the conditions of the layers read these settings. So the text of every statement is the same for
//! all variants, and never contains a value.

use serde::{Deserialize, Serialize};

use super::layer::{Query, QueryError, filled_parameters};
use super::session::{Error, Session, Snapshot, quoted, setting_of};

/// The most variants that a tileset may have.
pub(crate) const MAX_VARIANTS: usize = 10_000;

/// A parameter of a tileset's variants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantParameter {
    pub name: String,
    /// Its type, as PostgreSQL writes it.
    pub kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantTable {
    pub parameters: Vec<VariantParameter>,
    /// The values of each variant as text, in the order of the parameters. No two variants have the same values.
    pub rows: Vec<Vec<String>>,
}

/// Converts a condition with `!name!` to SQL that reads the values from the session. If the session has no value, the
/// setting is NULL.
pub(crate) fn bound_condition(sql: &str, parameters: &[VariantParameter]) -> Result<String, QueryError> {
    filled_parameters(sql, |name| {
        let number = parameters.iter().position(|parameter| parameter.name == name)?;
        let setting = setting_of(number);
        Some(format!("(current_setting('{setting}', true)::{})", parameters[number].kind))
    })
}

/// Reads the values of the variants from the database. Fails if `query` is not a valid query, or returns NULL, or
/// returns more than [`MAX_VARIANTS`] rows.
pub(crate) async fn variant_table(snapshot: &Snapshot, tileset: &str, query: &Query) -> Result<VariantTable, Error> {
    read(&snapshot.keeper, tileset, query).await
}

async fn read(session: &Session, tileset: &str, query: &Query) -> Result<VariantTable, Error> {
    let context = format!("the values of the variants of tileset \"{tileset}\"");
    let wrong = |what: String, next: &str| Error::Setting {
        what: format!("the query values of the variants of tileset \"{tileset}\" {what}"),
        next: next.to_owned(),
    };
    let item = query.sql_item_without_values("given");
    // One row of NULLs, which has the same columns as the query.
    let nothing = format!("(SELECT) AS one LEFT JOIN (SELECT * FROM {item} WHERE false) AS given ON true");
    let asking = format!(
        "SELECT ARRAY(SELECT json_object_keys(row_to_json(named)) FROM (SELECT given.* FROM {nothing}) AS named)"
    );
    let asked = session.one(&context, &asking, &[]).await;
    let names: Vec<String> = match asked {
        Err(Error::Query { source, .. }) if source.code.as_ref().is_some_and(|code| code.code().starts_with("42")) => {
            return Err(wrong(
                format!("is not understood by the database ({source})"),
                "write one SELECT, as psql takes it",
            ));
        }
        asked => asked?.get(0),
    };
    if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return Err(wrong(format!("gives two columns {}", quoted(twice)), "rename one of them with AS"));
    }
    if names.is_empty() {
        return Err(wrong("gives no column".to_owned(), "write SELECT DISTINCT column FROM table"));
    }
    let columns: Vec<String> = names.iter().map(|name| format!("given.{}", quoted(name))).collect();
    let types: Vec<String> = columns.iter().map(|column| format!("pg_typeof({column})::text")).collect();
    let types = format!("SELECT ARRAY[{}] FROM {nothing}", types.join(", "));
    let kinds: Vec<String> = session.one(&context, &types, &[]).await?.get(0);
    let parameters: Vec<VariantParameter> =
        names.into_iter().zip(kinds).map(|(name, kind)| VariantParameter { name, kind }).collect();
    // NULLs come first, so that they are found even if there are more rows than the limit.
    let texts: Vec<String> = columns.iter().map(|column| format!("{column}::text COLLATE \"C\"")).collect();
    let order: Vec<String> = (1..=texts.len()).map(|n| format!("{n} NULLS FIRST")).collect();
    let sql = format!(
        "SELECT DISTINCT {} FROM {} ORDER BY {} LIMIT {}",
        texts.join(", "),
        item,
        order.join(", "),
        MAX_VARIANTS + 1
    );
    let rows = session.all(&context, &sql, &[]).await?;
    if rows.len() > MAX_VARIANTS {
        return Err(wrong(
            format!("gives more than {MAX_VARIANTS} rows"),
            "let it give fewer, or serve these tiles live, with a parameter of the tileset",
        ));
    }
    let mut table = VariantTable { parameters, rows: Vec::with_capacity(rows.len()) };
    for row in rows {
        let mut values = Vec::with_capacity(table.parameters.len());
        for (number, parameter) in table.parameters.iter().enumerate() {
            let Some(value) = row.get::<_, Option<String>>(number) else {
                let name = &parameter.name;
                return Err(wrong(
                    format!("gives a NULL in {name}, with which no condition is true"),
                    // As an outer query, because a WHERE in the same query cannot use the column's new name.
                    &format!(
                        "leave these rows out (SELECT * FROM (…) AS given WHERE given.{} IS NOT NULL), or let coalesce name them",
                        quoted(name)
                    ),
                ));
            };
            values.push(value);
        }
        table.rows.push(values);
    }
    Ok(table)
}
