//! How much of a layer a tile may hold, and what happens to tiles that hold more or cannot be rendered.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;

use super::error::{Cause, Error};
use super::session::Session;
use crate::tile::{Zoom, ZoomLimits};

/// What happens when a tile holds more of a layer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLargeTile {
    /// The tile is named, the run goes on.
    Warn,
    /// The run ends: for features before it renders, for bytes at that tile.
    Fail,
    /// The least features are left out.
    Thin,
}

/// What happens when a layer cannot be rendered in one tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTileError {
    /// The run ends.
    Fail,
    /// The layer is left out of the tile, or the target's old tile stays; the run goes on, and says so at its end.
    Skip,
}

/// How much of a layer a tile may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The most features.
    pub features: ZoomLimits,
    /// The most bytes of the layer's part of a tile, packed by itself.
    pub bytes: ZoomLimits,
    /// What happens to tiles with more.
    pub on_large_tile: OnLargeTile,
    /// An SQL expression over a row: where features are left out, those with the greatest values stay.
    pub rank: Option<String>,
}

impl Budget {
    /// Whether features are left out to keep to it.
    #[must_use]
    pub fn thins(&self) -> bool {
        self.on_large_tile == OnLargeTile::Thin
    }

    /// What decides bytes in tiles, at some zooms: nothing unless features are left out.
    pub(super) fn definition(&self, zooms: impl Iterator<Item = Zoom>) -> String {
        if !self.thins() {
            return String::new();
        }
        let limits: Vec<_> = zooms.map(|zoom| (self.features.at(zoom), self.bytes.at(zoom))).collect();
        format!("thinned to {limits:?} by {:?}", self.rank)
    }

    /// The most features by zoom, as a statement's array: the limit of zoom 0 comes first, NULL is none.
    pub(super) fn most_features(&self) -> Vec<Option<i64>> {
        let limit = |zoom: Zoom| self.features.at(zoom).and_then(|limit| i64::try_from(limit.get()).ok());
        (0..=Zoom::MAX.get()).filter_map(Zoom::new).map(limit).collect()
    }
}

/// The same number of features at most at every zoom, as a statement's array.
pub(super) fn so_many(features: NonZeroU64) -> Vec<Option<i64>> {
    vec![i64::try_from(features.get()).ok(); usize::from(Zoom::MAX.get()) + 1]
}

/// A rank ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rank {
    /// The expression over a row.
    pub sql: String,
    /// Its type has a collation; ordering by it is made the same everywhere by `COLLATE "C"`.
    pub collated: bool,
}

/// Has the server look at a rank, on no row: it must be understood, and its values must have an order.
pub(super) async fn rank(
    session: &Session,
    (layer, relation, columns): (&str, &str, &str),
    geometry: &str,
    rank: &str,
) -> Result<Rank, Error> {
    // A row has both, so that an aggregate is refused; an array of no value has its type, too.
    let sql = format!(
        "SELECT typcollation <> 0 FROM (
            SELECT pg_typeof((array_agg(oar_tiles_rank))[1]) AS kind
            FROM (SELECT ({rank}\n), {geometry} FROM {relation} WHERE false AND ({rank}
) IS NULL ORDER BY 1 LIMIT 1) AS ranked (oar_tiles_rank)
        ) AS found JOIN pg_type ON pg_type.oid = found.kind"
    );
    let row = session.one(&format!("layer \"{layer}\""), &sql, &[]).await.map_err(|error| match error {
        Error::Query { source, .. } => refused((layer, relation, columns), source),
        other => other,
    })?;
    Ok(Rank { sql: format!("({rank}\n)"), collated: row.get(0) })
}

fn refused((layer, relation, columns): (&str, &str, &str), source: Cause) -> Error {
    let what = if source.code == Some(SqlState::UNDEFINED_FUNCTION) && source.to_string().contains("ordering operator")
    {
        "the values of rank have no order"
    } else {
        "the database does not understand rank"
    };
    Error::Layer {
        layer: layer.to_owned(),
        what: what.to_owned(),
        next: format!("It is SQL over the columns of {relation}, one value a row, the greater the better: {columns}"),
        source: Some(source),
    }
}

/// Whether an error may be one of a tile's rows rather than of the statement, the role or the server: such errors come again in every
/// tile (PostgreSQL documentation, appendix A).
pub(super) fn is_of_a_tile(error: &Error) -> bool {
    // Rights and syntax, resources, the operator, the system, the configuration, the transaction.
    // A conflict with recovery, an administrator, damaged data: PostGIS raises XX000 itself.
    const OF_ALL: [&str; 13] = ["42", "53", "55", "58", "F0", "25", "28", "0A", "3D", "40", "57", "XX001", "XX002"];
    match error {
        Error::Timeout { .. } => true,
        Error::Query { source, .. } => {
            source.code.as_ref().is_some_and(|code| !OF_ALL.iter().any(|class| code.code().starts_with(class)))
        }
        _ => false,
    }
}
