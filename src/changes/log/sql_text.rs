//! Pieces of SQL, and the functions that fill in the placeholders of the files in `sql/`.

use crate::changes::error::UNSAFE;
use crate::postgis::quoted;

/// SQL for schema and name of the relation `c` in the namespace `n`, quoted like [`quoted`].
pub(in crate::changes) const QUALIFIED_NAME: &str =
    r#"'"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"'"#;

/// A text literal (PostgreSQL documentation, section 4.1.2.1) that does not depend on `standard_conforming_strings`.
pub(in crate::changes) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A text literal for use inside dollar quotes: it contains no dollar sign, which might end the quotes.
pub(in crate::changes) fn literal_in_block(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''").replace('$', "\\044");
    format!(" E'{escaped}'")
}

/// Replaces `{postgis}` in a statement by the schema of PostGIS.
pub(in crate::changes) fn at_postgis(sql: &str, postgis: &str) -> String {
    sql.replace("{postgis}", &quoted(postgis))
}

/// The tables of a log.
const TABLES: [&str; 6] = ["state", "watch", "watched", "member", "needs", "change"];

/// Replaces `{tables}` in a statement by the names of the log's tables, and `{count}` by their number.
pub(in crate::changes) fn with_tables(sql: &str) -> String {
    let names: Vec<String> = TABLES.iter().map(|table| literal(table)).collect();
    sql.replace("{tables}", &names.join(", ")).replace("{count}", &TABLES.len().to_string())
}

/// Fills the schema into a statement: `{name}` and `{quoted}` as literals, `{schema}` as an identifier. It also fills in the queries and blocks that
/// check whether the schema can be trusted.
pub(in crate::changes) fn of_schema(sql: &str, schema: &str) -> String {
    let filled = sql
        .replace("{guard}", include_str!("sql/guard.sql").trim_end())
        .replace("{trust}", include_str!("sql/trust.sql").trim_end())
        .replace("{needed}", include_str!("sql/needed.sql").trim_end())
        .replace("{unsafe}", UNSAFE)
        .replace("{name}", &literal(schema))
        .replace("{quoted}", &literal(&quoted(schema)))
        .replace("{schema}", &quoted(schema));
    with_tables(&filled)
}
