//! Tags of tiles, by which caches purge them: one for the tileset, and one for the tile's ancestor at the first zoom of
//! its band of zooms.

use sha2::{Digest as _, Sha256};

use super::{TileCoord, Zoom, ZoomList};
use crate::hex::hex;

/// The first zooms of the bands: 0–4, 5–8, 9–11, 12–14, 15–17, 18–20, 21–22. Bands of low zooms are wide, because these
/// zooms have few tiles.
const BAND_TOPS: [u8; 7] = [0, 5, 9, 12, 15, 18, 21];

/// The longest tag, in bytes. CloudFront takes 256, Akamai 128, Fastly 1,024; Bunny's header of 1,024 bytes holds all
/// tags of a tile.
const MAX_TAG_BYTES: usize = 60;

/// The most bytes that a band's tag appends to the tileset's tag: `-21-2097151-2097151`.
const MAX_BAND_BYTES: usize = 19;

/// The digits of the hash that distinguishes shortened names.
const HASH_DIGITS: usize = 8;

/// The tag that all tiles of a tileset carry, and the stem of its bands' tags. It consists of `a-z`, `0-9` and `-`,
/// which CloudFront, Fastly, Cloudflare, Bunny, Akamai and Varnish's xkey all accept. (CloudFront and Cloudflare do not
/// distinguish upper and lower case, Akamai does.)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TilesetTag(String);

impl TilesetTag {
    /// The tag for a tileset's name. Different names give different tags: if the alphabet does not suffice, a part of
    /// the name's hash is appended.
    pub fn of(name: &str) -> TilesetTag {
        const LONGEST: usize = MAX_TAG_BYTES - MAX_BAND_BYTES;
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.is_empty() && name.len() <= LONGEST && name.chars().all(is_plain) {
            return TilesetTag(name.to_owned());
        }
        let plain = |c: char| if is_plain(c.to_ascii_lowercase()) { c.to_ascii_lowercase() } else { '-' };
        let short: String = name.chars().map(plain).take(LONGEST - 1 - HASH_DIGITS).collect();
        let hash = hex(&Sha256::digest(name)[..HASH_DIGITS / 2]);
        TilesetTag(format!("{short}-{hash}"))
    }

    /// The tag that all tiles carry.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of a tile's band: `NAME-A-X-Y` with the address of its ancestor at the band's first zoom A.
    pub fn of_band(&self, tile: TileCoord) -> String {
        self.of_root(BandRoot::of(tile))
    }

    /// The tag of a band.
    pub fn of_root(&self, root: BandRoot) -> String {
        format!("{}-{}-{}-{}", self.0, root.top, root.x, root.y)
    }
}

/// A tile at the first zoom of a band. It represents all tiles below it in that band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BandRoot {
    top: u8,
    x: u32,
    y: u32,
}

impl BandRoot {
    /// The band root of a tile.
    pub fn of(tile: TileCoord) -> BandRoot {
        let zoom = tile.zoom().get();
        let top = BAND_TOPS.into_iter().rev().find(|top| *top <= zoom).unwrap_or(0);
        BandRoot { top, x: tile.x() >> (zoom - top), y: tile.y() >> (zoom - top) }
    }

    /// How many tiles of some zooms carry the tag of this band root.
    pub fn tiles(self, zooms: &ZoomList) -> u64 {
        let end = BAND_TOPS.into_iter().find(|top| *top > self.top).unwrap_or(Zoom::MAX.get() + 1);
        let in_band = zooms.iter().map(Zoom::get).filter(|zoom| (self.top..end).contains(zoom));
        in_band.map(|zoom| 1 << (2 * u64::from(zoom - self.top))).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
}
