//! The tilesets of a server, and which of them a path names.
//!
//! | file | subject |
//! |---|---|
//! | `opening` | opens a tileset |
//! | `family` | the variants of a family, as the server gets them; the variants of a tileset: known from the family's manifest, opened on request; what a path below a family names |
//! | `catalogue` | the document that lists the tilesets, and the page |

pub(crate) mod catalogue;
pub(crate) mod family;
pub(crate) mod opening;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use family::{BelowFamily, FoundVariant, KnownVariants, LIST, SiteFamily, below_family};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::error::ServeError;
use super::http::route::{AddressedTile, NoRoute, TileAddress, tile_of};
use super::jobs::JobStore;
use super::live::LiveSource;
use super::observe::metrics::{MeasuredTileset, Metrics};
use super::options::ServeOptions;
use super::parameters::{KeyGate, PostedFilters, TilesetParameters};
use super::public::changes::ChangeEvents;
use super::signature::SIGNED_NAMES;
use super::target::served::ServedTarget;
use super::tiles::served::ServedTiles;
use super::writer::{Writer, WriterHandle, WrittenTarget};
use crate::clock::seconds_now;
use crate::error::with_causes;
use crate::json::JSON_VERSION;
use crate::tile::{TileId, TileTextNames};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// There is one tileset, and all paths belong to it.
    Root,
    /// The name of the tileset is the first segment of the path.
    ByName,
}

/// What a path of the public listener names.
pub(crate) enum NamedByPath<'a> {
    Tileset {
        tileset: Arc<SiteTileset>,
        /// The path below it; begins with a slash.
        rest: &'a str,
    },
    Variant(NamedVariant<'a>),
    Variants(Arc<SiteFamily>),
    /// The list of the tilesets.
    Catalogue,
    /// The page with links to the tilesets.
    Index,
    /// A tileset without the slash after its name.
    WithoutSlash(Arc<SiteTileset>),
    /// A tile, by an address of the form that `[serve] template` gives; `None` if its numbers are not canonical.
    Tile {
        tileset: Arc<SiteTileset>,
        tile: Option<TileId>,
    },
    Nothing,
}

pub(crate) struct NamedVariant<'a> {
    pub(crate) family: Arc<SiteFamily>,
    pub(crate) known: Arc<KnownVariants>,
    pub(crate) found: FoundVariant,
    /// The path below it; begins with a slash. `None` if the path ends without a slash.
    pub(crate) rest: Option<&'a str>,
}

pub(crate) struct SiteTilesets {
    addressing: Addressing,
    /// All tilesets, in the order of the configuration.
    pub(crate) all: Vec<Arc<SiteTileset>>,
    /// The families, in the order of the configuration.
    pub(crate) families: Vec<Arc<SiteFamily>>,
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

    /// The tileset to which all paths belong; `None` if tilesets are addressed by name.
    pub(crate) fn at_root(&self) -> Option<&Arc<SiteTileset>> {
        self.all.first().filter(|_| self.addressing == Addressing::Root)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<SiteTileset>> {
        self.all.iter().find(|tileset| *tileset.name == *name)
    }

    /// Checks that these tilesets can have the addresses of some options.
    /// Fails if further addresses name no tilesets or what has an address already, or a parameter has the name of a
    /// part of a signature.
    pub(crate) fn can_have(&self, options: &ServeOptions) -> Result<(), ServeError> {
        if options.section.signing_keys_file.is_some() {
            for tileset in &self.all {
                let declared = &tileset.parameters.declared.0;
                let taken = |name: &&str| declared.iter().any(|parameter| parameter.name == **name);
                if let Some(name) = SIGNED_NAMES.into_iter().find(taken) {
                    return Err(ServeError::SignedName { tileset: tileset.name.to_string(), name });
                }
            }
        }
        let Some(form) = &options.template else { return Ok(()) };
        let wrong = |why: String| Err(ServeError::Template { form: form.to_string(), why });
        if self.addressing == Addressing::ByName {
            let tilesets = self.all.iter().map(|tileset| &tileset.name);
            let mut names = tilesets.chain(self.families.iter().map(|family| &family.name));
            if !form.names_tilesets() {
                return wrong("the server has tilesets by name, so write {tileset} where the name stands".to_owned());
            }
            if let Some(name) = names.find(|name| ***name == *form.first()) {
                return wrong(format!("tileset \"{name}\" has the addresses below /{name}/: begin with another name"));
            }
        }
        Ok(())
    }

    /// What `path` names; it begins with a slash and is still percent-encoded. Where it names nothing else, it may be a
    /// further address of a tile, of the form `further`.
    pub(crate) fn find<'a>(&self, path: &'a str, further: Option<&TileAddress>) -> NamedByPath<'a> {
        let own = self.own(path);
        let Some(form) = further else { return own };
        let is_own = match &own {
            NamedByPath::Tileset { tileset, rest } => self.at_root().is_none() || tileset.has_tile(rest),
            NamedByPath::Nothing => false,
            _ => true,
        };
        if is_own { own } else { self.addressed(form, path).unwrap_or(own) }
    }

    fn addressed<'a>(&self, form: &TileAddress, path: &'a str) -> Option<NamedByPath<'a>> {
        let AddressedTile { tileset, tile } = form.read(path)?;
        let tileset = match tileset {
            Some(name) => self.named(&percent_encoding::percent_decode_str(name).decode_utf8().ok()?),
            None => self.at_root(),
        };
        Some(NamedByPath::Tile { tileset: Arc::clone(tileset?), tile })
    }

    fn own<'a>(&self, path: &'a str) -> NamedByPath<'a> {
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

// The document that lists the variants of a family, in pages.

/// The most variants on a page.
const MAX_LISTED: usize = 1_000;

/// A page of the list of a family's variants.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VariantListDocument {
    /// The version of this form: 1.
    schema_version: u32,
    /// The name of the tileset.
    name: String,
    /// The number of all variants.
    count: usize,
    /// The number of the page, from 1 on.
    page: usize,
    /// The number of pages.
    pages: usize,
    /// The URL of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The variants of the page.
    variants: Vec<VariantInList>,
}

/// A variant in the list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VariantInList {
    /// Its values, by name: those that stand in its address.
    values: BTreeMap<String, String>,
    /// Its URL; ends with a slash. Its TileJSON is `tiles.json` below it.
    url: String,
}

/// The URL of a family below the server's, with a slash at its end.
pub(crate) fn url_of(family: &SiteFamily, public_url: &str) -> String {
    format!("{public_url}{}", family.path())
}

/// The URL of the list of a family's variants.
pub(crate) fn list_url_of(family: &SiteFamily, public_url: &str) -> String {
    format!("{}{LIST}", url_of(family, public_url))
}

/// A page of a family's variants, from 1 on; `None` if there is no such page. `public_url` is the server's URL, with a
/// slash at its end.
pub(crate) fn document(family: &SiteFamily, public_url: &str, page: usize) -> Option<VariantListDocument> {
    let known = family.known();
    let all = &known.listing.variants;
    let pages = all.len().div_ceil(MAX_LISTED).max(1);
    if page == 0 || page > pages {
        return None;
    }
    let url = url_of(family, public_url);
    let listed = all.iter().skip((page - 1) * MAX_LISTED).take(MAX_LISTED).map(|variant| VariantInList {
        values: family.values.iter().cloned().zip(variant.values.iter().cloned()).collect(),
        url: format!("{url}{}", SiteFamily::path_of(&variant.segments)),
    });
    Some(VariantListDocument {
        schema_version: JSON_VERSION,
        name: family.name.to_string(),
        count: all.len(),
        page,
        pages,
        next: (page < pages).then(|| format!("{}?page={}", list_url_of(family, public_url), page + 1)),
        variants: listed.collect(),
    })
}

// One tileset of a server.

/// What a segment of a path escapes: everything but the unreserved characters (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The name of a tileset as a segment of a path.
pub fn tileset_segment(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

pub(crate) struct SiteTileset {
    pub(crate) name: Arc<str>,
    /// Its path below the server's: empty, or its name and a slash.
    pub(crate) path: String,
    /// The further headers of its tiles.
    pub(crate) headers: TilesetHeadersOf,
    pub(crate) tiles: ServedTiles,
    pub(crate) target: Arc<ServedTarget>,
    /// What renders its live tiles.
    pub(crate) live: Option<Arc<dyn LiveSource>>,
    /// The subscribers that are notified of changed tiles; `None` if there can be none.
    pub(crate) changes: Option<ChangeEvents>,
    /// The writer that keeps its target up to date; `None` if another process does.
    pub(crate) writer: Option<SiteWriter>,
    pub(crate) jobs: JobStore,
    /// What requests for its live tiles may ask.
    pub(crate) parameters: SiteParameters,
    pub(crate) metrics: Arc<Metrics>,
}

/// The further headers of a tileset's tiles.
pub(crate) struct TilesetHeadersOf {
    /// The tileset whose settings list the headers: its own, or that of all variants.
    pub(crate) tileset: Arc<str>,
    /// What their placeholders stand for.
    pub(crate) names: TileTextNames,
}

pub(crate) struct SiteParameters {
    /// The parameters; none without live tiles.
    pub(crate) declared: TilesetParameters,
    /// The limit for new sets of values.
    pub(crate) gate: Arc<KeyGate>,
    /// The filters that clients have posted, of all tilesets.
    pub(crate) posted: PostedFilters,
}

/// The writer of a tileset's target.
pub(crate) struct SiteWriter {
    pub(crate) writer: Arc<dyn Writer<WrittenTarget>>,
    pub(crate) handle: WriterHandle<WrittenTarget>,
}

impl SiteTileset {
    pub(crate) fn path_of(name: &str) -> String {
        format!("{}/", tileset_segment(name))
    }

    /// The name by which signatures name it, the same wherever it is served.
    pub(crate) fn signed_name(&self) -> Cow<'_, str> {
        match self.path.strip_suffix('/') {
            Some(path) => path.into(),
            None => tileset_segment(&self.name).into(),
        }
    }

    /// True if a path below it is that of a tile.
    fn has_tile(&self, path: &str) -> bool {
        let template = &self.tiles.last().template;
        path.strip_prefix('/').is_some_and(|name| tile_of(name, template) != Err(NoRoute::Unknown))
    }

    /// The URL under which clients find it, with a slash at its end; `public_url` is the server's.
    pub(crate) fn url(&self, public_url: &str) -> String {
        format!("{public_url}{}", self.path)
    }

    /// The reasons for `/readyz` to answer 503: the target cannot be read, live tiles do not fit it, or the change log
    /// was not read yet. Empty if there are none.
    pub(crate) async fn reasons(&self) -> Vec<String> {
        match self.tiles.state().await {
            Err(error) => vec![with_causes(&error)],
            Ok(state) => {
                let unfit = self.tiles.unfit(&state).map(|error| with_causes(&error));
                let known = self.tiles.known();
                let starting = known
                    .is_starting(Instant::now())
                    .then(|| "the change log was not read yet, since the start".to_owned());
                self.tiles.trouble().into_iter().chain(unfit).chain(starting).collect()
            }
        }
    }

    /// What is wrong though the server is ready: the change log is not followed.
    pub(crate) fn note(&self) -> Option<String> {
        let (known, now) = (self.tiles.known(), Instant::now());
        known.unread(now).filter(|_| !known.is_starting(now))
    }

    /// Why the target is not brought up to date by the server's own writer.
    pub(crate) fn writing(&self) -> Option<String> {
        self.writer.as_ref()?.handle.status.note()
    }

    /// What is not as fast as it will be, though nothing is wrong.
    pub(crate) fn preparing(&self) -> Option<String> {
        let rows = self.tiles.live_rows()?;
        rows.being_read.then(|| "rows for live tiles are being read: the database draws meanwhile".to_owned())
    }

    pub(crate) fn describe(&self) -> serde_json::Map<String, Value> {
        let state = self.tiles.last();
        let manifest = state.manifest.as_ref();
        let members = json!({
            "name": state.described.name,
            "zooms": manifest.map(|manifest| &manifest.zooms),
            "snapshot": manifest.map(|manifest| &manifest.snapshot),
            "snapshot_age_seconds": snapshot_age(manifest.map(|manifest| manifest.started)),
            "changes_noticed": state.generation - 1,
            "publication": state.publication().map(|publication| publication.number),
            "subscribers": self.changes.as_ref().map(ChangeEvents::count),
            "writer": self.writer.as_ref().map(|writer| writer.handle.describe()),
            "live_rows": self.tiles.live_rows(),
            "change_log": self.tiles.live_layers().map(|_| self.tiles.known().describe()),
            "known_tiles": state.stored().map(|stored| stored.tiles),
        });
        match members {
            Value::Object(members) => members,
            _ => serde_json::Map::new(),
        }
    }

    /// The values that are measured when the metrics are read.
    pub(crate) fn measured(&self) -> MeasuredTileset {
        let state = self.tiles.last();
        MeasuredTileset {
            snapshot_age: snapshot_age(state.manifest.as_ref().map(|manifest| manifest.started)),
            known_tiles: state.stored().map(|stored| stored.tiles),
            publication: state.publication().map(|publication| publication.number),
            lag: self.writer.as_ref().map(|writer| writer.handle.lag_seconds()),
            live_rows: self.tiles.live_rows().unwrap_or_default(),
        }
    }
}

/// The seconds that have passed since `started`, given in seconds since 1970.
fn snapshot_age(started: Option<u64>) -> Option<u64> {
    Some(seconds_now().saturating_sub(started?))
}
