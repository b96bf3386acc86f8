//! The tilesets of a server, and which of them a path names.
//!
//! | file | subject |
//! |---|---|
//! | `tileset` | one tileset: its tiles, who is told of its changes, its jobs |
//! | `opening` | a tileset is opened |
//! | `catalogue` | the document that lists them, and the page |

pub(crate) mod catalogue;
pub(crate) mod opening;
pub(crate) mod tileset;

use std::sync::Arc;

use tileset::SiteTileset;

/// How the tilesets of a server are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// There is one tileset, and it has the whole path.
    Root,
    /// The name of the tileset is the first segment of the path.
    ByName,
}

/// What a path of the public listener names.
pub(crate) enum NamedByPath<'a> {
    /// Something of a tileset.
    Tileset {
        /// The tileset.
        tileset: Arc<SiteTileset>,
        /// The path below it; begins with a slash.
        rest: &'a str,
    },
    /// The list of the tilesets.
    Catalogue,
    /// The page that leads to them.
    Index,
    /// A tileset without the slash behind its name.
    WithoutSlash(Arc<SiteTileset>),
    /// Nothing.
    Nothing,
}

/// The tilesets.
pub(crate) struct SiteTilesets {
    addressing: Addressing,
    all: Vec<Arc<SiteTileset>>,
}

impl SiteTilesets {
    /// Some tilesets. [`Addressing::Root`] is for one of them.
    pub(crate) const fn new(addressing: Addressing, all: Vec<Arc<SiteTileset>>) -> SiteTilesets {
        SiteTilesets { addressing, all }
    }

    /// All of them, in the order of the configuration.
    pub(crate) fn all(&self) -> &[Arc<SiteTileset>] {
        &self.all
    }

    /// The one that has the whole path; `None` if they are addressed by name.
    pub(crate) fn at_root(&self) -> Option<&Arc<SiteTileset>> {
        self.all.first().filter(|_| self.addressing == Addressing::Root)
    }

    /// The tileset with a name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<SiteTileset>> {
        self.all.iter().find(|tileset| *tileset.name == *name)
    }

    /// What a path names, which begins with a slash and is still percent-encoded.
    pub(crate) fn find<'a>(&self, path: &'a str) -> NamedByPath<'a> {
        if path == catalogue::CATALOGUE_PATH {
            return NamedByPath::Catalogue;
        }
        if let Some(tileset) = self.at_root() {
            return NamedByPath::Tileset { tileset: Arc::clone(tileset), rest: path };
        }
        if path == "/" {
            return NamedByPath::Index;
        }
        let below = path.strip_prefix('/').unwrap_or_default();
        let (name, rest) = below.find('/').map_or((below, None), |at| (&below[..at], Some(&below[at..])));
        // Names of letters that URLs escape are found in either form.
        let decoded = percent_encoding::percent_decode_str(name).decode_utf8();
        match (decoded.ok().and_then(|name| self.named(&name)).cloned(), rest) {
            (Some(tileset), Some(rest)) => NamedByPath::Tileset { tileset, rest },
            (Some(tileset), None) => NamedByPath::WithoutSlash(tileset),
            (None, _) => NamedByPath::Nothing,
        }
    }
}
