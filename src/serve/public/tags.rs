//! Tags of tiles, by which CDNs purge them (docs/cdn.md): the tileset's tag, and that of the band of zooms.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::serve::options::{TagHeader, TagOptions};
use crate::tile::TileCoord;

impl TagHeader {
    /// The header, and what stands between two tags.
    const fn parts(self) -> (HeaderName, &'static str) {
        match self {
            TagHeader::CacheTag => (HeaderName::from_static("cache-tag"), ","),
            TagHeader::SurrogateKey => (HeaderName::from_static("surrogate-key"), " "),
            TagHeader::CdnTag => (HeaderName::from_static("cdn-tag"), ","),
            TagHeader::EdgeCacheTag => (HeaderName::from_static("edge-cache-tag"), ","),
            TagHeader::Xkey => (HeaderName::from_static("xkey"), " "),
        }
    }
}

/// Adds the tags of a tile, also to the answer for an empty one and to a 304, whose headers a cache takes over.
pub(crate) fn add_tags(headers: &mut HeaderMap, tags: &TagOptions, tile: TileCoord) {
    for header in &tags.headers {
        let (name, between) = header.parts();
        let value = format!("{}{between}{}", tags.tag.as_str(), tags.tag.of_band(tile));
        // Tags are made of letters, digits and hyphens.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::TilesetTag;

    #[test]
    fn each_provider_finds_the_tags_in_its_own_header() {
        let headers =
            [TagHeader::CacheTag, TagHeader::SurrogateKey, TagHeader::CdnTag, TagHeader::EdgeCacheTag, TagHeader::Xkey];
        let tags = TagOptions { headers: headers.to_vec(), tag: TilesetTag::of("n") };
        let mut found = HeaderMap::new();
        add_tags(&mut found, &tags, "14/8712/5333".parse().unwrap());
        for (name, value) in [
            ("cache-tag", "n,n-12-2178-1333"),
            ("surrogate-key", "n n-12-2178-1333"),
            ("cdn-tag", "n,n-12-2178-1333"),
            ("edge-cache-tag", "n,n-12-2178-1333"),
            ("xkey", "n n-12-2178-1333"),
        ] {
            assert_eq!(found.get(name).unwrap(), value);
        }
    }
}
