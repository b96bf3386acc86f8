//! The tilesets of a server, and which of them a path names.
//!
//! | file | subject |
//! |---|---|
//! | `tileset` | one tileset: its tiles, the subscribers of its changes, its jobs |
//! | `opening` | opens a tileset |
//! | `variants` | the variants of a family, as the server gets them |
//! | `family` | the variants of a tileset: known from the family's manifest, opened on request |
//! | `below` | what a path below a family names |
//! | `catalogue` | the document that lists the tilesets, and the page |
//! | `listing` | the document that lists the variants of a family |

mod below;
pub(crate) mod catalogue;
pub(crate) mod family;
pub(crate) mod listing;
pub(crate) mod opening;
pub(crate) mod tileset;
pub(crate) mod variants;

use std::sync::Arc;

use below::{BelowFamily, below_family};
use family::SiteFamily;
use tileset::SiteTileset;
use variants::{FoundVariant, KnownVariants};

/// How the tilesets of a server are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// There is one tileset, and all paths belong to it.
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
    /// Something of a variant.
    Variant(NamedVariant<'a>),
    /// The list of the variants of a family.
    Variants(Arc<SiteFamily>),
    /// The list of the tilesets.
    Catalogue,
    /// The page with links to the tilesets.
    Index,
    /// A tileset without the slash after its name.
    WithoutSlash(Arc<SiteTileset>),
    /// Nothing.
    Nothing,
}

/// A variant that a path names.
pub(crate) struct NamedVariant<'a> {
    /// Its family.
    pub(crate) family: Arc<SiteFamily>,
    /// The variants that there are.
    pub(crate) known: Arc<KnownVariants>,
    /// The variant among them.
    pub(crate) found: FoundVariant,
    /// The path below it; begins with a slash. `None` if the path ends without a slash.
    pub(crate) rest: Option<&'a str>,
}

/// The tilesets.
pub(crate) struct SiteTilesets {
    addressing: Addressing,
    all: Vec<Arc<SiteTileset>>,
    families: Vec<Arc<SiteFamily>>,
}

impl SiteTilesets {
    /// Some tilesets and families. [`Addressing::Root`] is for one tileset.
    pub(crate) const fn new(
        addressing: Addressing,
        all: Vec<Arc<SiteTileset>>,
        families: Vec<Arc<SiteFamily>>,
    ) -> SiteTilesets {
        SiteTilesets { addressing, all, families }
    }

    /// The families, in the order of the configuration.
    pub(crate) fn families(&self) -> &[Arc<SiteFamily>] {
        &self.families
    }

    /// All tilesets, in the order of the configuration.
    pub(crate) fn all(&self) -> &[Arc<SiteTileset>] {
        &self.all
    }

    /// The tileset to which all paths belong; `None` if tilesets are addressed by name.
    pub(crate) fn at_root(&self) -> Option<&Arc<SiteTileset>> {
        self.all.first().filter(|_| self.addressing == Addressing::Root)
    }

    /// The tileset with a name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<SiteTileset>> {
        self.all.iter().find(|tileset| *tileset.name == *name)
    }

    /// What `path` names; it begins with a slash and is still percent-encoded.
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
        // Names with letters that URLs escape are found escaped and unescaped.
        let decoded = percent_encoding::percent_decode_str(name).decode_utf8();
        let Ok(name) = decoded else { return NamedByPath::Nothing };
        let tileset = self.named(&name).cloned();
        if let Some(family) = self.families.iter().find(|family| *family.name == *name)
            && let Some(rest) = rest
        {
            match below_family(family, tileset.as_deref(), rest) {
                BelowFamily::Variant(variant) => return NamedByPath::Variant(variant),
                BelowFamily::List => return NamedByPath::Variants(Arc::clone(family)),
                BelowFamily::All => {}
            }
        }
        match (tileset, rest) {
            (Some(tileset), Some(rest)) => NamedByPath::Tileset { tileset, rest },
            (Some(tileset), None) => NamedByPath::WithoutSlash(tileset),
            (None, _) => NamedByPath::Nothing,
        }
    }
}
