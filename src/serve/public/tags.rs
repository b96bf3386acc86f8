//! Further headers of tiles, such as the tags by which CDNs purge them (docs/cdn.md).

use http::{HeaderMap, HeaderValue};

use crate::serve::options::TileHeader;
use crate::tile::{TileId, TileTextNames};

/// Adds the headers of a tile, also to the answer for an empty tile and to a 304, from which a cache updates its headers.
pub(crate) fn add_tile_headers(headers: &mut HeaderMap, added: &[TileHeader], names: &TileTextNames, tile: TileId) {
    for header in added {
        // The settings were checked: each value is printable ASCII.
        if let Ok(value) = HeaderValue::from_str(&header.text.of_tile(tile, names)) {
            headers.insert(header.name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;
    use crate::tile::TilesetTag;

    #[test]
    fn each_header_is_filled_in() {
        let header = |name, text: &str| TileHeader { name: HeaderName::from_static(name), text: text.parse().unwrap() };
        let headers = vec![header("cache-tag", "{name},{band}"), header("x-tile", "{z}/{x}/{y}")];
        let names = TileTextNames { tag: TilesetTag::of("n"), layers: Vec::new() };
        let mut found = HeaderMap::new();
        add_tile_headers(
            &mut found,
            &headers,
            &names,
            TileId::from("14/8712/5333".parse::<crate::tile::TileCoord>().unwrap()),
        );
        assert_eq!(found.get("cache-tag").unwrap(), "n,n-12-2178-1333");
        assert_eq!(found.get("x-tile").unwrap(), "14/8712/5333");
    }
}
