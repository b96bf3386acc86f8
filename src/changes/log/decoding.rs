//! How logged values, which are texts, become values of their types again.
//!
//! A reader casts only to types that come with PostgreSQL. A cast to any other type (`CREATE CAST`) and the CHECK of a domain
//! run functions that the type's owner wrote, with the reader's rights.

use serde::Deserialize;

use super::sql_text::literal;
use crate::postgis::quoted;

/// How the values of a column are read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::changes) struct Decoding {
    /// The type that is read, as SQL names it. Of a domain it is the type beneath.
    #[serde(rename = "type")]
    pub(in crate::changes) type_name: String,
    /// `None` if there is no way that runs no function of the type's owner: a composite type, a range type of one's own.
    pub(in crate::changes) way: Option<DecodingWay>,
}

/// How a text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DecodingWay {
    /// A cast to a type that comes with PostgreSQL.
    Cast,
    /// The input function of an extension's base type. Only superusers make base types.
    InputFunction,
    /// The labels of an enum, looked through for the text.
    Label,
}

/// An SQL expression that gives the [`Decoding`] of a type as JSON.
pub(in crate::changes) fn decoding_of(type_oid: &str, typmod: &str) -> String {
    include_str!("sql/decoding.sql").trim_end().replace("{type}", type_oid).replace("{typmod}", typmod)
}

impl DecodingWay {
    /// An SQL expression for the value of a column of `table`, from the text of it in the JSON object `row_of.keys`.
    pub(in crate::changes) fn value(self, table: &str, column: &str, type_name: &str) -> String {
        let text = format!("(row_of.keys ->> {})", literal(column));
        match self {
            DecodingWay::Cast => format!("{text}::{type_name}"),
            DecodingWay::InputFunction => format!(
                "(SELECT input.value FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object('value', {text})) AS input (value {type_name}))"
            ),
            DecodingWay::Label => {
                // The enum is named by the column that has it: another type may have got its name meanwhile. Beside an untyped NULL,
                // coalesce gives a domain's value as one of the enum beneath (PostgreSQL documentation, section 10.5).
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
