//! Batches: items in portions that a provider takes in one request.

use serde::{Deserialize, Serialize};

use crate::cdn::items::{PurgeItem, TileAddresses};
use crate::cdn::pace::Rate;
use crate::hex::hash_of_texts;

/// The kinds of names that providers distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    Tag,
    /// An exact path.
    Url,
    /// All paths that begin with a prefix.
    Prefix,
    /// Everything below the target's URL.
    Everything,
}

impl ItemKind {
    /// All kinds, in the order in which they are sent.
    pub const ALL: [ItemKind; 4] = [ItemKind::Everything, ItemKind::Tag, ItemKind::Prefix, ItemKind::Url];

    /// Its name in metrics and for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ItemKind::Tag => "tag",
            ItemKind::Url => "url",
            ItemKind::Prefix => "prefix",
            ItemKind::Everything => "everything",
        }
    }
}

/// A provider's limits for one kind of names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchLimits {
    /// The most names in a request.
    pub max_items: usize,
    /// The most bytes of names in a request, with `bytes_around` for each.
    pub max_bytes: usize,
    /// The bytes that stand around a name: quotes and comma, markup, the CDN's URL before a path.
    pub bytes_around: usize,
    /// How fast requests may follow each other.
    pub requests: Rate,
    /// How fast names may follow each other.
    pub items: Rate,
}

/// Names of one kind that are sent together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeBatch {
    pub kind: ItemKind,
    /// Tags, or paths that begin with a slash; prefixes also end with one.
    pub names: Vec<String>,
    /// Identifies the publishes and the names. A provider that supports such references recognizes a repeated request.
    pub reference: String,
}

/// The names of some items, by kind. Each name once.
pub fn names(items: &[PurgeItem], addresses: &TileAddresses) -> Vec<PurgeName> {
    let mut names = Vec::new();
    for item in items {
        match item {
            PurgeItem::Tag(tag) => names.push(PurgeName { kind: ItemKind::Tag, name: tag.clone() }),
            item => names.extend(addresses.paths(item).into_iter().map(|path| {
                let kind = match (item, path.is_prefix) {
                    (PurgeItem::Everything, true) => ItemKind::Everything,
                    (_, true) => ItemKind::Prefix,
                    (_, false) => ItemKind::Url,
                };
                PurgeName { kind, name: path.path }
            })),
        }
    }
    names
}

/// A name that a provider knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PurgeName {
    pub kind: ItemKind,
    /// A tag, or a path that begins with a slash.
    pub name: String,
}

/// Names as portions, kind by kind. `of` identifies the publishes that they belong to.
pub fn batches(names: &[PurgeName], limits: impl Fn(ItemKind) -> BatchLimits, of: &str) -> Vec<PurgeBatch> {
    let mut batches: Vec<PurgeBatch> = Vec::new();
    for kind in ItemKind::ALL {
        let limit = limits(kind);
        let mut bytes = usize::MAX;
        for PurgeName { name, .. } in names.iter().filter(|name| name.kind == kind) {
            let size = name.len() + limit.bytes_around;
            match batches.last_mut() {
                Some(batch)
                    if batch.kind == kind
                        && batch.names.len() < limit.max_items
                        && bytes.saturating_add(size) <= limit.max_bytes =>
                {
                    batch.names.push(name.clone());
                    bytes += size;
                }
                _ => {
                    batches.push(PurgeBatch { kind, names: vec![name.clone()], reference: String::new() });
                    bytes = size;
                }
            }
        }
    }
    for batch in &mut batches {
        batch.reference = reference(batch, of);
    }
    batches
}

/// 32 hexadecimal digits of a hash of `of` (the publishes), the kind and the names.
fn reference(batch: &PurgeBatch, of: &str) -> String {
    hash_of_texts([of, batch.kind.name()].into_iter().chain(batch.names.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Rate = Rate { burst: 1_000.0, per_second: 1_000.0 };

    fn limits(max_items: usize, max_bytes: usize) -> impl Fn(ItemKind) -> BatchLimits {
        move |_| BatchLimits { max_items, max_bytes, bytes_around: 16, requests: FAST, items: FAST }
    }

    fn addresses() -> TileAddresses {
        TileAddresses::new("https://h/a/".parse().unwrap(), vec!["{z}/{x}/{y}.pbf".to_owned()])
    }

    fn items() -> Vec<PurgeItem> {
        let zoom = crate::tile::Zoom::new(5).unwrap();
        vec![
            PurgeItem::Tile("5/1/2".parse().unwrap()),
            PurgeItem::Tag("n-0-0-0".to_owned()),
            PurgeItem::Tile("5/1/3".parse().unwrap()),
            PurgeItem::Column { zoom, x: 7 },
            PurgeItem::Tile("5/1/4".parse().unwrap()),
        ]
    }

    #[test]
    fn a_request_has_one_kind_of_names_and_no_more_than_the_limit() {
        let names = names(&items(), &addresses());
        let shown = |batches: Vec<PurgeBatch>| -> Vec<String> {
            batches.iter().map(|batch| format!("{} {}", batch.kind.name(), batch.names.join(" "))).collect()
        };
        assert_eq!(
            shown(batches(&names, limits(2, 1_000), "1")),
            ["tag n-0-0-0", "prefix /a/5/7/", "url /a/5/1/2.pbf /a/5/1/3.pbf", "url /a/5/1/4.pbf"]
        );
        assert_eq!(shown(batches(&names, limits(100, 40), "1")).len(), 5, "one path has 28 bytes");
        assert_eq!(shown(batches(&names, limits(100, 60), "1")).len(), 4);
    }

    #[test]
    fn a_repeat_has_the_same_reference_and_the_next_publish_another() {
        let names = names(&items(), &addresses());
        let references = |of: &str| -> Vec<String> {
            batches(&names, limits(1, 100), of).into_iter().map(|batch| batch.reference).collect()
        };
        let mut all: Vec<String> = references("7").into_iter().chain(references("8")).collect();
        assert_eq!(references("7"), references("7"));
        assert!(all.iter().all(|reference| reference.len() == 32));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 10);
    }
}
