//! Tags by band: every tile carries the tileset's tag and one for its ancestor at the top of its band of zooms. A moved point is then one
//! item a band instead of one a zoom, and a purge hits at most 85 tiles in a band of four zooms.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::TilesToPurge;
use crate::tile::{TileCoord, Zoom, ZoomList};

/// The first zooms of the bands: 0–4, 5–8, 9–11, 12–14, 15–17, 18–20, 21–22. Low zooms are wide bands, because they have few tiles.
const BAND_TOPS: [u8; 7] = [0, 5, 9, 12, 15, 18, 21];

/// The longest tag, in bytes. CloudFront takes 256, Akamai 128, Fastly 1,024; Bunny's header of 1,024 bytes holds all tags of a tile.
const MAX_TAG_BYTES: usize = 60;

/// What a band's tag appends to the tileset's tag at most: `-21-2097151-2097151`.
const MAX_BAND_BYTES: usize = 19;

/// The digits of the hash that tells shortened names apart.
const HASH_DIGITS: usize = 8;

/// The tag that all tiles of a tileset carry, and the stem of its bands' tags. Made of `a-z`, `0-9` and `-`: what CloudFront, Fastly,
/// Cloudflare, Bunny, Akamai and Varnish's xkey all take. (CloudFront and Cloudflare do not tell upper case from lower, Akamai does.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TilesetTag(String);

impl TilesetTag {
    /// The tag of a tileset's name. Another name gives another tag: where the alphabet does not suffice, a part of the name's hash is
    /// appended.
    #[must_use]
    pub fn of(name: &str) -> TilesetTag {
        const LONGEST: usize = MAX_TAG_BYTES - MAX_BAND_BYTES;
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.is_empty() && name.len() <= LONGEST && name.chars().all(is_plain) {
            return TilesetTag(name.to_owned());
        }
        let plain = |c: char| if is_plain(c.to_ascii_lowercase()) { c.to_ascii_lowercase() } else { '-' };
        let short: String = name.chars().map(plain).take(LONGEST - 1 - HASH_DIGITS).collect();
        let hash: String =
            Sha256::digest(name).iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
        TilesetTag(format!("{short}-{hash}"))
    }

    /// The tag that all tiles carry.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of a tile's band: `NAME-A-X-Y` with the address of its ancestor at the band's first zoom A.
    #[must_use]
    pub fn of_band(&self, tile: TileCoord) -> String {
        self.of_root(BandRoot::of(tile))
    }

    fn of_root(&self, root: BandRoot) -> String {
        format!("{}-{}-{}-{}", self.0, root.top, root.x, root.y)
    }
}

/// A tile at the first zoom of a band, which stands for all tiles below it in that band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct BandRoot {
    top: u8,
    x: u32,
    y: u32,
}

impl BandRoot {
    fn of(tile: TileCoord) -> BandRoot {
        let zoom = tile.zoom().get();
        let top = BAND_TOPS.into_iter().rev().find(|top| *top <= zoom).unwrap_or(0);
        BandRoot { top, x: tile.x() >> (zoom - top), y: tile.y() >> (zoom - top) }
    }

    /// How many tiles of some zooms carry its tag.
    fn tiles(self, zooms: &ZoomList) -> u64 {
        let end = BAND_TOPS.into_iter().find(|top| *top > self.top).unwrap_or(Zoom::MAX.get() + 1);
        let in_band = zooms.iter().map(Zoom::get).filter(|zoom| (self.top..end).contains(zoom));
        in_band.map(|zoom| 1 << (2 * u64::from(zoom - self.top))).sum()
    }
}

/// The tags of some tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BandTags {
    /// The tags, each once.
    pub tags: Vec<String>,
    /// How many tiles carry them at most that did not change.
    pub beyond: u64,
}

/// The tags that hit all these tiles, for a target with these zooms.
#[must_use]
pub fn band_tags(tiles: &TilesToPurge, tag: &TilesetTag, zooms: &ZoomList) -> BandTags {
    let all: u64 = zooms.iter().map(|zoom| 1 << (2 * u64::from(zoom.get()))).sum();
    let TilesToPurge::Listed(tiles) = tiles else {
        return BandTags { tags: vec![tag.as_str().to_owned()], beyond: all };
    };
    let roots: BTreeSet<BandRoot> = tiles.iter().copied().map(BandRoot::of).collect();
    let hit: u64 = roots.iter().map(|root| root.tiles(zooms)).sum();
    BandTags {
        tags: roots.into_iter().map(|root| tag.of_root(root)).collect(),
        beyond: hit.saturating_sub(tiles.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(text: &str) -> TileCoord {
        text.parse().unwrap()
    }

    #[test]
    fn a_tile_carries_the_address_of_its_ancestor_at_the_top_of_its_band() {
        let tag = TilesetTag::of("n");
        for (address, expected) in [
            ("14/8712/5333", "n-12-2178-1333"),
            ("11/1023/700", "n-9-255-175"),
            ("8/255/255", "n-5-31-31"),
            ("3/5/2", "n-0-0-0"),
            ("0/0/0", "n-0-0-0"),
            ("22/4194303/4194303", "n-21-2097151-2097151"),
        ] {
            assert_eq!(tag.of_band(tile(address)), expected);
        }
    }

    #[test]
    fn a_moved_point_is_one_tag_a_band() {
        let moved = (0..=14).map(|zoom| {
            let (x, y) = (8_712 >> (14 - zoom), 5_333 >> (14 - zoom));
            TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
        });
        let tags = band_tags(&TilesToPurge::listed(moved), &TilesetTag::of("n"), &"0-14".parse().unwrap());
        assert_eq!(tags.tags, ["n-0-0-0", "n-5-17-10", "n-9-272-166", "n-12-2178-1333"]);
        assert_eq!(tags.beyond, 341 + 85 + 21 + 21 - 15);
    }

    #[test]
    fn every_tag_is_taken_by_every_provider_and_tells_names_apart() {
        let long = "a".repeat(300);
        let names =
            ["facilities", "Facilities", "facilities 2", "facilities_2", "Größe", "", "*", &long, &long[1..], "a,b"];
        let mut seen = BTreeSet::new();
        for name in names {
            let tag = TilesetTag::of(name).of_band(tile("22/4194303/4194303"));
            assert!(tag.len() <= MAX_TAG_BYTES, "{tag}");
            assert!(tag.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{tag}");
            assert!(seen.insert(tag), "{name} has the tag of another");
        }
        assert_eq!(TilesetTag::of("facilities").as_str(), "facilities");
    }

    #[test]
    fn everything_is_the_tag_of_the_tileset() {
        let tags = band_tags(&TilesToPurge::Everything, &TilesetTag::of("n"), &"0-2".parse().unwrap());
        assert_eq!((tags.tags, tags.beyond), (vec!["n".to_owned()], 21));
    }

    /// In a small world: what a tag hits is what carries it.
    #[test]
    fn tags_hit_what_carries_them() {
        let (tag, zooms): (_, ZoomList) = (TilesetTag::of("n"), "3-7".parse().unwrap());
        let all: Vec<TileCoord> = zooms
            .iter()
            .flat_map(|zoom| {
                (0..=zoom.last()).flat_map(move |x| (0..=zoom.last()).filter_map(move |y| TileCoord::new(zoom, x, y)))
            })
            .collect();
        let changed = TilesToPurge::listed(all.iter().copied().step_by(997));
        let found = band_tags(&changed, &tag, &zooms);
        let carriers = all.iter().filter(|tile| found.tags.contains(&tag.of_band(**tile))).count();
        assert_eq!(found.beyond, carriers as u64 - changed.count().unwrap() as u64);
    }
}
