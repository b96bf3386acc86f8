//! The rank of a layer's features, which decides which of them stay in a large tile.

/// The rank of a layer's features, ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rank {
    /// The expression over a row.
    pub sql: String,
    /// True if its type has a collation; `COLLATE "C"` then makes the order the same on every server.
    pub(crate) collated: bool,
    /// The type of `pg_catalog` as which cached rows read it ([`OrderedBytes`](super::OrderedBytes)); `None` if its
    /// values cannot be compared here.
    pub(crate) read_as: Option<&'static str>,
}
