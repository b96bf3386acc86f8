//! How logged values, which are texts, are converted back to values of their types.
//!
//! A reader casts only to the types of PostgreSQL itself. A cast to any other type (`CREATE CAST`) and the CHECK of a
//! domain run functions of the type's owner, with the rights of the reader.

use serde::Deserialize;

use super::log::literal;
use crate::postgis::quoted;

/// How the values of a column are read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Decoding {
    /// The type to which the text is converted, as SQL names it; for a domain, its base type.
    pub(crate) type_name: String,
    /// The method; `None` if every conversion would run functions of the type's owner, as for composite types and
    /// user-defined ranges.
    pub(crate) method: Option<DecodingMethod>,
}

/// A method to convert a text to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum DecodingMethod {
    /// A cast to a type of PostgreSQL itself.
    Cast,
    /// The input function of an extension's base type. Only superusers make base types.
    InputFunction,
    /// The text, looked up among the labels of an enum.
    Label,
}

/// An SQL expression that returns the [`Decoding`] of a type as JSON.
pub(crate) fn decoding_expression(type_oid: &str, typmod: &str) -> String {
    include_str!("sql/decoding.sql").trim_end().replace("{type}", type_oid).replace("{typmod}", typmod)
}

impl DecodingMethod {
    /// An SQL expression for the value of a column of `table`, from the text of it in the JSON object `row_of.keys`.
    pub(crate) fn value(self, table: &str, column: &str, type_name: &str) -> String {
        let text = format!("(row_of.keys ->> {})", literal(column));
        match self {
            DecodingMethod::Cast => format!("{text}::{type_name}"),
            DecodingMethod::InputFunction => format!(
                "(SELECT input.value FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object('value', {text})) AS input (value {type_name}))"
            ),
            DecodingMethod::Label => {
                // The enum is named by its column, because another type may have taken its name. With an untyped NULL
                // as its second argument, coalesce converts a domain's value to the enum that is its base type
                // (PostgreSQL documentation, section 10.5).
                let labels = format!("pg_catalog.enum_range(coalesce((NULL::{table}).{}, NULL))", quoted(column));
                format!(
                    "(SELECT label.value FROM pg_catalog.unnest({labels}) AS label (value) WHERE pg_catalog.format('%s', label.value) = {text}
                      UNION ALL
                      SELECT ({labels})[1] WHERE CASE
                          WHEN {text} IS NULL OR {text} IN (SELECT pg_catalog.format('%s', label.value) FROM pg_catalog.unnest({labels}) AS label (value))
                          THEN false
                          ELSE ('the enum of the column has no label ' || {text} || ' any more')::pg_catalog.bool END)"
                )
            }
        }
    }
}
