//! What a CDN can be asked to forget.

use std::fmt;

use crate::tile::{TileCoord, Zoom};

/// One thing that a CDN is asked to forget, and that it may charge for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PurgeItem {
    /// One tile, with all of its layers where these have addresses of their own.
    Tile(TileCoord),
    /// A column of a zoom: `/z/x/*`.
    Column {
        /// The zoom.
        zoom: Zoom,
        /// The column.
        x: u32,
    },
    /// A zoom: `/z/*`.
    Zoom(Zoom),
    /// Everything below the target's URL: `/*`.
    Everything,
    /// Everything that was sent with this tag.
    Tag(String),
    /// A document next to the tiles, such as `tiles.json`.
    Document(String),
}

impl PurgeItem {
    /// True if the item stands for all addresses that begin with a prefix.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        matches!(self, PurgeItem::Column { .. } | PurgeItem::Zoom(_) | PurgeItem::Everything)
    }
}

impl fmt::Display for PurgeItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PurgeItem::Tile(tile) => write!(f, "/{tile}"),
            PurgeItem::Column { zoom, x } => write!(f, "/{zoom}/{x}/*"),
            PurgeItem::Zoom(zoom) => write!(f, "/{zoom}/*"),
            PurgeItem::Everything => f.write_str("/*"),
            PurgeItem::Tag(tag) => write!(f, "#{tag}"),
            PurgeItem::Document(name) => write!(f, "/{name}"),
        }
    }
}
