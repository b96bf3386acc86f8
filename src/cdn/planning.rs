//! Planning: how the entries that wait for a provider become the items that are sent to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::items::{FullPyramid, PlanRules, PurgeBy, PurgeItem, PurgePlan, TileAddresses, TilesToPurge, plan};
use super::outbox::{OutboxEntry, PurgeQueue, tiles_of_all};
use super::provider::{ItemKind, ProviderFacts, PurgeName, PurgeOptions};
use crate::target::NoteStore;
use crate::tile::{TileCoord, TileRectList, TilesetTag, Zoom, ZoomList};

pub(crate) struct Planning<'a> {
    pub(crate) target: &'a PurgeTarget,
    pub(crate) options: &'a PurgeOptions,
    pub(crate) facts: ProviderFacts,
}

/// How entries are purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedBy {
    by: PurgeBy,
    /// The tags that can be relied on once this was sent. Then everything is purged by address, and whatever the CDN
    /// caches after that carries the tags.
    pub(crate) establishes: Option<String>,
}

impl Planning<'_> {
    /// How the entries of a queue are purged. Tags are used only if the CDN's cache cannot hold anything without them.
    pub(crate) fn by(&self, queue: &PurgeQueue) -> PlannedBy {
        let by = self.options.section.by.or(self.facts.takes.first().copied()).unwrap_or(PurgeBy::All);
        planned_by(by, self.by_address(), queue, &self.target.tags)
    }

    /// Purges everything by address, no matter which entries wait.
    pub(crate) const fn everything() -> PlannedBy {
        PlannedBy { by: PurgeBy::All, establishes: None }
    }

    /// The kind of addresses that the provider takes.
    fn by_address(&self) -> PurgeBy {
        let is_address = |by: &&PurgeBy| matches!(by, PurgeBy::Path | PurgeBy::Url);
        self.facts.takes.iter().find(is_address).copied().unwrap_or(PurgeBy::All)
    }

    /// The items for some entries, at most `max_items` if that is possible.
    pub(crate) fn plan(&self, entries: &[OutboxEntry], max_items: usize, by: &PlannedBy) -> PurgePlan {
        let rules = self.rules(entries, max_items, by.by);
        plan(&tiles_of_all(entries), &documents(entries), &self.addresses(), &self.counts(), &rules)
    }

    /// Like `plan`, but with a list of all tiles if the provider has no other way to purge everything. May wait for a
    /// disk or a server.
    pub(crate) fn plan_listed(&self, entries: &[OutboxEntry], max_items: usize, by: &PlannedBy) -> PurgePlan {
        let planned = self.plan(entries, max_items, by);
        if self.facts.takes_everything || !planned.items.contains(&PurgeItem::Everything) {
            return planned;
        }
        match (self.target.all_tiles)() {
            Ok(tiles) => {
                let rules = self.rules(entries, max_items, PurgeBy::Url);
                plan(&TilesToPurge::listed(tiles), &documents(entries), &self.addresses(), &self.counts(), &rules)
            }
            Err(error) => {
                tracing::info!("the tiles of the target cannot be listed for {}: {error}", self.facts.name);
                planned
            }
        }
    }

    fn rules(&self, entries: &[OutboxEntry], max_items: usize, by: PurgeBy) -> PlanRules {
        PlanRules {
            by,
            mixes: self.facts.mixes && !(by == PurgeBy::Tag && self.target.purges_filtered),
            max_items: max_items.min(self.facts.max_items).max(1),
            tag: self.target.tag.clone(),
            zooms: self.target.zooms.clone(),
            untagged: match self.target.tags {
                TagSender::Bucket(_) if by == PurgeBy::Tag => new_tiles(entries),
                _ => TilesToPurge::default(),
            },
        }
    }

    fn counts(&self) -> FullPyramid {
        FullPyramid(self.target.zooms.clone())
    }

    pub(crate) fn addresses(&self) -> TileAddresses {
        TileAddresses::new(self.options.url.clone(), self.target.patterns.clone())
    }

    /// What is left of some entries, derived from the names that the provider did not accept.
    pub(crate) fn rest(&self, entries: &[OutboxEntry], left: &[PurgeName], of: &str) -> OutboxEntry {
        let number = entries.iter().map(|entry| entry.number).max().unwrap_or(0);
        let time = entries.iter().map(|entry| entry.time).min();
        let left = LeftNames::of(left);
        let addresses = self.addresses();
        let tiles = match tiles_of_all(entries) {
            TilesToPurge::Everything => None,
            TilesToPurge::Listed(tiles) => {
                TileRectList::of(tiles.into_iter().filter(|tile| left.hit(*tile, &addresses, &self.target.tag)))
            }
        };
        let is_left = |name: &String| {
            addresses
                .paths(&PurgeItem::Document(name.clone()))
                .iter()
                .any(|path| left.urls.contains(path.path.as_str()))
        };
        let documents = documents(entries).into_iter().filter(is_left).collect();
        let entry = OutboxEntry::new(number, format!("{of}-rest"), tiles, documents);
        OutboxEntry { time: time.unwrap_or(entry.time), ..entry }
    }
}

/// How the entries of a queue are purged if the settings say `by`. If tiles are sent without tags, `by_address` is used
/// instead of tags.
fn planned_by(by: PurgeBy, by_address: PurgeBy, queue: &PurgeQueue, tags: &TagSender) -> PlannedBy {
    let sent = match tags {
        _ if by != PurgeBy::Tag => return PlannedBy { by, establishes: None },
        TagSender::Nobody => return PlannedBy { by: by_address, establishes: None },
        TagSender::Server(sent) | TagSender::Bucket(sent) => sent,
    };
    if queue.tags.as_ref() == Some(sent) {
        PlannedBy { by, establishes: None }
    } else {
        PlannedBy { by: PurgeBy::All, establishes: Some(sent.clone()) }
    }
}

/// The tiles of entries that did not exist before.
fn new_tiles(entries: &[OutboxEntry]) -> TilesToPurge {
    let of = |entry: &OutboxEntry| match (&entry.added, &entry.tiles) {
        (Some(added), _) => TilesToPurge::listed(added.tiles()),
        (None, Some(tiles)) => TilesToPurge::listed(tiles.tiles()),
        (None, None) => TilesToPurge::Everything,
    };
    entries.iter().fold(TilesToPurge::default(), |all, entry| all.joined(of(entry)))
}

/// The documents of entries, each once.
fn documents(entries: &[OutboxEntry]) -> Vec<String> {
    let mut documents: Vec<String> = entries.iter().flat_map(|entry| entry.documents.clone()).collect();
    documents.sort();
    documents.dedup();
    documents
}

/// Names that the provider did not accept.
struct LeftNames<'a> {
    urls: HashSet<&'a str>,
    prefixes: HashSet<&'a str>,
    tags: HashSet<&'a str>,
    is_everything: bool,
}

impl LeftNames<'_> {
    fn of(left: &[PurgeName]) -> LeftNames<'_> {
        let of_kind = |kind| left.iter().filter(|name| name.kind == kind).map(|name| name.name.as_str()).collect();
        LeftNames {
            urls: of_kind(ItemKind::Url),
            prefixes: of_kind(ItemKind::Prefix),
            tags: of_kind(ItemKind::Tag),
            is_everything: left.iter().any(|name| name.kind == ItemKind::Everything),
        }
    }

    fn hit(&self, tile: TileCoord, addresses: &TileAddresses, tag: &crate::tile::TilesetTag) -> bool {
        let zoom: Zoom = tile.zoom();
        let among = |names: &HashSet<&str>, item: PurgeItem| {
            !names.is_empty() && addresses.paths(&item).iter().any(|path| names.contains(path.path.as_str()))
        };
        self.is_everything
            || among(&self.urls, PurgeItem::Tile(tile))
            || among(&self.prefixes, PurgeItem::Column { zoom, x: tile.x() })
            || among(&self.prefixes, PurgeItem::Zoom(zoom))
            || !self.tags.is_empty()
                && (self.tags.contains(tag.as_str()) || self.tags.contains(tag.of_band(tile).as_str()))
    }
}

// What is known of a target whose CDNs are purged.

/// What is known of a target whose CDNs are purged.
#[derive(Clone)]
pub struct PurgeTarget {
    pub notes: Arc<dyn NoteStore>,
    /// The number of the publication that its manifest names; `None` if there is no target.
    pub published: Option<u64>,
    /// The tag of the tileset, from which the tags of its tiles are made.
    pub tag: TilesetTag,
    pub zooms: ZoomList,
    /// The patterns of the names of its tiles: one, or one for each layer if layers are stored separately.
    pub patterns: Vec<String>,
    /// True if CDNs keep tiles with a filter, which no purge of an address reaches.
    pub purges_filtered: bool,
    /// Lists all tiles, for a provider that has no other way to purge everything. May wait for a disk or a server.
    pub all_tiles: AllTiles,
    /// Who sends tags with the tiles.
    pub tags: TagSender,
    /// How long servers of the target may answer with old tiles after a publish, unless the provider's options set
    /// another time.
    pub settle: Duration,
}

/// Lists all tiles of a target, or says why that is not possible.
pub type AllTiles = Arc<dyn Fn() -> Result<Vec<TileCoord>, String> + Send + Sync>;

/// Who sends tags with the tiles. The text identifies the tags: if it changes, tiles cached before carry other tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagSender {
    /// Nobody, or not with every tile yet.
    Nobody,
    /// `oar-tiles serve`, also with the answers for empty tiles.
    Server(String),
    /// The bucket, with the objects that exist. An error carries no tags, so a new tile is purged by address, too.
    Bucket(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_relied_on_once_everything_was_purged_while_they_were_sent() {
        let sent = TagSender::Server("xkey: {band} of facilities".to_owned());
        let by = |queue: &PurgeQueue, tags: &TagSender| planned_by(PurgeBy::Tag, PurgeBy::Url, queue, tags);
        let fresh = by(&PurgeQueue::default(), &sent);
        assert_eq!((fresh.by, fresh.establishes.as_deref()), (PurgeBy::All, Some("xkey: {band} of facilities")));
        let queue = PurgeQueue { tags: fresh.establishes, ..PurgeQueue::default() };
        assert_eq!(by(&queue, &sent), PlannedBy { by: PurgeBy::Tag, establishes: None });
        // Other tags from now on.
        let other = TagSender::Bucket("cache-tag: {band}".to_owned());
        assert_eq!(by(&queue, &other).by, PurgeBy::All);
        assert_eq!(by(&queue, &TagSender::Nobody), PlannedBy { by: PurgeBy::Url, establishes: None });
    }
}
