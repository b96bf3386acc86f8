//! Facets: columns of a layer's table whose values requests choose, and the conditions by which the database chooses
//! them.
//!
//! | `match` | one value in a row | several values in a row (an array) |
//! |---|---|---|
//! | `any` | it is one of those given | one of them is among those given |
//! | `all` | it is the only one given | all of those given are among them |
//! | `range` | it lies between the two given, or is one of them | refused |
//!
//! A NULL never matches, neither as the value of a row nor as an element of its array, nor does an empty array: the
//! operators of the database say so. Code that chooses rows without the database must do the same.

use std::cmp::Ordering;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use super::parameter_array;
use crate::postgis::session::quoted;

/// How the values of a request choose rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FacetMatch {
    #[default]
    Any,
    All,
    Range,
}

impl FacetMatch {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            FacetMatch::Any => "any",
            FacetMatch::All => "all",
            FacetMatch::Range => "range",
        }
    }
}

/// The type of a facet's values, of each element if the column is an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FacetType {
    Text,
    Varchar,
    Int2,
    Int4,
    Int8,
    Bool,
}

impl FacetType {
    const ALL: [FacetType; 6] =
        [FacetType::Text, FacetType::Varchar, FacetType::Int2, FacetType::Int4, FacetType::Int8, FacetType::Bool];

    /// The name in the catalog.
    const fn name(self) -> &'static str {
        match self {
            FacetType::Text => "text",
            FacetType::Varchar => "varchar",
            FacetType::Int2 => "int2",
            FacetType::Int4 => "int4",
            FacetType::Int8 => "int8",
            FacetType::Bool => "bool",
        }
    }

    /// The type with which the database compares single values of a column. It holds every value that a request may
    /// give, even one that the column cannot hold.
    const fn compared_with(self) -> &'static str {
        match self {
            FacetType::Text | FacetType::Varchar => "text",
            FacetType::Int2 | FacetType::Int4 | FacetType::Int8 => "int8",
            FacetType::Bool => "bool",
        }
    }

    /// The least and the greatest value of a type of integers that does not hold all of 64 bits.
    fn limits(self) -> Option<[i32; 2]> {
        match self {
            FacetType::Int2 => Some([i16::MIN.into(), i16::MAX.into()]),
            FacetType::Int4 => Some([i32::MIN, i32::MAX]),
            FacetType::Text | FacetType::Varchar | FacetType::Int8 | FacetType::Bool => None,
        }
    }
}

/// A column whose values requests choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facet {
    /// Its name, not quoted.
    pub(crate) column: String,
    pub(crate) of_each: FacetType,
    pub(crate) is_array: bool,
}

impl Facet {
    /// A column of a type of `pg_catalog`, by the type's name; `None` if columns of that type are no facets.
    pub(crate) fn of_type(column: &str, kind: &str) -> Option<Facet> {
        let (of_each, is_array) = kind.strip_prefix('_').map_or((kind, false), |of_each| (of_each, true));
        let of_each = FacetType::ALL.into_iter().find(|one| one.name() == of_each)?;
        Some(Facet { column: column.to_owned(), of_each, is_array })
    }

    /// The type of the column, for messages.
    pub(crate) fn kind(&self) -> String {
        format!("{}{}", self.of_each.name(), if self.is_array { "[]" } else { "" })
    }

    /// The least and the greatest value that a request may give: the database compares an array with arrays of its own
    /// type alone. `None` if every value of 64 bits has a meaning.
    pub(crate) fn limits(&self) -> Option<[i32; 2]> {
        self.of_each.limits().filter(|_| self.is_array)
    }

    /// The condition that a row has values that a request gives for the parameter `parameter`.
    ///
    /// The cast is on the side of the values, so that an index of the column serves the condition: btree for `any` and
    /// `range`, GIN for arrays.
    pub(crate) fn condition(&self, matching: FacetMatch, parameter: &str) -> String {
        let (column, array) = (quoted(&self.column), parameter_array(parameter));
        let (same, wide) = (self.of_each.name(), self.of_each.compared_with());
        let compared = |operator: &str, all: &str| {
            format!("{column} OPERATOR(pg_catalog.{operator}) {all} (({array})::pg_catalog.{wide}[])")
        };
        let bound = |operator: &str, index: u8, open: i64| {
            format!(
                "{column} OPERATOR(pg_catalog.{operator}) COALESCE(({array})[{index}]::pg_catalog.int8, ('{open}')::pg_catalog.int8)"
            )
        };
        match (matching, self.is_array) {
            (FacetMatch::Any, false) => compared("=", "ANY"),
            // The first condition is the one that an index serves.
            (FacetMatch::All, false) => format!("{} AND {}", compared("=", "ANY"), compared("=", "ALL")),
            (FacetMatch::Any, true) => format!("{column} OPERATOR(pg_catalog.&&) (({array})::pg_catalog.{same}[])"),
            (FacetMatch::All, true) => format!("{column} OPERATOR(pg_catalog.@>) (({array})::pg_catalog.{same}[])"),
            (FacetMatch::Range, _) => format!("{} AND {}", bound(">=", 1, i64::MIN), bound("<=", 2, i64::MAX)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FacetValue {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

/// A value of a facet, as a request gives it, and the number of rows that have it. The most frequent value comes first,
/// of equally frequent ones the first in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrequentValue {
    pub(crate) value: String,
    pub(crate) rows: u64,
}

impl Ord for FrequentValue {
    fn cmp(&self, other: &FrequentValue) -> Ordering {
        other.rows.cmp(&self.rows).then_with(|| self.value.cmp(&other.value))
    }
}

impl PartialOrd for FrequentValue {
    fn partial_cmp(&self, other: &FrequentValue) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As a request gives it.
impl fmt::Display for FacetValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FacetValue::Text(text) => f.write_str(text),
            FacetValue::Integer(number) => number.fmt(f),
            FacetValue::Boolean(value) => value.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum WantedValues {
    /// At least one, each once; see [`FacetMatch::Any`].
    Any(Vec<FacetValue>),
    /// At least one, each once; see [`FacetMatch::All`].
    All(Vec<FacetValue>),
    /// Those from the least to the greatest one, both included. Without a bound there is no limit on that side.
    Range { least: Option<i64>, greatest: Option<i64> },
}

/// What a request wants of one facet of a layer. [`Facet::condition`] is the same for the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FacetChoice {
    /// The name of the facet's column.
    pub(crate) column: String,
    pub(crate) wanted: WantedValues,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_casts_the_values_and_not_the_column() {
        let array = "(pg_catalog.current_setting('oar_tiles.parameter_p')::pg_catalog.text[])";
        for (kind, matching, expected) in [
            ("varchar", FacetMatch::Any, "\"c\" OPERATOR(pg_catalog.=) ANY (ARRAY::pg_catalog.text[])"),
            ("int2", FacetMatch::Any, "\"c\" OPERATOR(pg_catalog.=) ANY (ARRAY::pg_catalog.int8[])"),
            ("bool", FacetMatch::Any, "\"c\" OPERATOR(pg_catalog.=) ANY (ARRAY::pg_catalog.bool[])"),
            (
                "text",
                FacetMatch::All,
                "\"c\" OPERATOR(pg_catalog.=) ANY (ARRAY::pg_catalog.text[]) AND \"c\" OPERATOR(pg_catalog.=) ALL (ARRAY::pg_catalog.text[])",
            ),
            ("_varchar", FacetMatch::Any, "\"c\" OPERATOR(pg_catalog.&&) (ARRAY::pg_catalog.varchar[])"),
            ("_int4", FacetMatch::All, "\"c\" OPERATOR(pg_catalog.@>) (ARRAY::pg_catalog.int4[])"),
            (
                "int4",
                FacetMatch::Range,
                "\"c\" OPERATOR(pg_catalog.>=) COALESCE(ARRAY[1]::pg_catalog.int8, ('-9223372036854775808')::pg_catalog.int8) \
                 AND \"c\" OPERATOR(pg_catalog.<=) COALESCE(ARRAY[2]::pg_catalog.int8, ('9223372036854775807')::pg_catalog.int8)",
            ),
        ] {
            let facet = Facet::of_type("c", kind).unwrap();
            assert_eq!(facet.condition(matching, "p"), expected.replace("ARRAY", array), "{kind}");
        }
    }

    #[test]
    fn columns_that_compare_by_more_than_their_bytes_are_no_facets() {
        for kind in ["float8", "numeric", "bpchar", "citext", "name", "jsonb", "_float4", "_bpchar", "__text", "_", ""]
        {
            assert_eq!(Facet::of_type("c", kind), None, "{kind}");
        }
        let facet = Facet::of_type("c", "_int2").unwrap();
        assert_eq!((facet.of_each, facet.is_array, facet.limits()), (FacetType::Int2, true, Some([-32768, 32767])));
        assert_eq!(Facet::of_type("c", "int2").unwrap().limits(), None);
    }
}
