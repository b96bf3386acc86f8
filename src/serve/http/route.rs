//! Finds out which resource a path names.

use crate::target::Template;
use crate::tile::TileId;

/// The resource that a path of the public listener names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// The page with the map.
    Page,
    /// A file that the page loads.
    Asset(String),
    /// A TileJSON document, by its name.
    TileJson(String),
    /// The events of changed tiles.
    Changes,
    /// What tells whether a cache in between keeps queries apart.
    CacheProbe,
    Tile(TileId),
}

/// Why a path names no resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// Nothing has this name (404).
    Unknown,
    /// The path looks like that of a tile, but its numbers are not in canonical notation, or no such tile exists (400).
    NotCanonical,
}

/// The longest path that is parsed, in bytes; a longer one is answered with 414. Only a layer's name can make the path
/// of a tile long.
pub(crate) const MAX_PATH_BYTES: usize = 2_048;

/// The folder of the files that the page with the map loads.
pub(crate) const ASSETS: &str = "assets";

/// The beginning of the paths of glyphs; a range such as `0-255.pbf` follows. With the font's name in it, no tile of a
/// layer has such a path.
pub(crate) const FONTS: &str = "fonts/Noto%20Sans%20Regular/";

/// The name of the events of changed tiles.
pub(crate) const CHANGES: &str = "changes";

/// True if a name is that of a TileJSON document.
pub(crate) fn is_tilejson(name: &str) -> bool {
    name == "tiles.json" || name.ends_with(".tiles.json")
}

/// The name of the cache probe below a tileset. It ends as tiles do, so that rules for tiles hold for it.
pub const CACHE_PROBE: &str = "cache-probe.pbf";

/// Finds out which resource a path names. `path` starts after the base path, with `/`, and is still percent-encoded.
pub(crate) fn route(path: &str, template: &Template, is_preview: bool) -> Result<Route, NoRoute> {
    let name = path.strip_prefix('/').ok_or(NoRoute::Unknown)?;
    if name.is_empty() {
        return if is_preview { Ok(Route::Page) } else { Err(NoRoute::Unknown) };
    }
    if let Some((ASSETS, asset)) = name.split_once('/') {
        return if is_preview { Ok(Route::Asset(asset.to_owned())) } else { Err(NoRoute::Unknown) };
    }
    if is_preview && name.starts_with(FONTS) {
        return Ok(Route::Asset(name.to_owned()));
    }
    if name == CHANGES {
        return Ok(Route::Changes);
    }
    if name == CACHE_PROBE {
        return Ok(Route::CacheProbe);
    }
    if is_tilejson(name) {
        return Ok(Route::TileJson(name.to_owned()));
    }
    // Map clients use either ending for tiles.
    let stem = name.strip_suffix(".mvt").filter(|_| template.text().strip_suffix(".pbf").is_some());
    let renamed = stem.map(|stem| format!("{stem}.pbf"));
    let name = renamed.as_deref().unwrap_or(name);
    match template.read(name) {
        Some(tile) => Ok(Route::Tile(tile)),
        None if looks_like_a_tile(name, template) => Err(NoRoute::NotCanonical),
        None => Err(NoRoute::Unknown),
    }
}

/// True if a name is that of a tile except for its numbers: they are in another notation, such as `01` or `+1`, or name
/// a tile outside the pyramid. To find out, the numbers are replaced by 0: the result must be the name of a tile.
fn looks_like_a_tile(name: &str, template: &Template) -> bool {
    let with_zeros = name.split('/').map(|part| {
        let end = part.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))).unwrap_or(part.len());
        let number = part[..end].trim_end_matches('.');
        if is_a_number(number) { format!("0{}", &part[number.len()..]) } else { part.to_owned() }
    });
    template.read(&with_zeros.collect::<Vec<_>>().join("/")).is_some()
}

fn is_a_number(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileCoord, Zoom};

    #[test]
    fn paths_are_tiles_documents_or_nothing() {
        let template = Template::new("{z}/{x}/{y}.pbf").unwrap();
        let tile = |z, x, y| Ok(Route::Tile(TileCoord::new(Zoom::new(z).unwrap(), x, y).unwrap().into()));
        for (path, expected) in [
            ("/0/0/0.pbf", tile(0, 0, 0)),
            ("/3/7/2.pbf", tile(3, 7, 2)),
            ("/3/7/2.mvt", tile(3, 7, 2)),
            ("/cache-probe.pbf", Ok(Route::CacheProbe)),
            ("/tiles.json", Ok(Route::TileJson("tiles.json".to_owned()))),
            ("/mills.tiles.json", Ok(Route::TileJson("mills.tiles.json".to_owned()))),
            ("/03/7/2.pbf", Err(NoRoute::NotCanonical)),
            ("/3/+7/2.pbf", Err(NoRoute::NotCanonical)),
            ("/3/8/2.pbf", Err(NoRoute::NotCanonical)),
            ("/3/7/-1.pbf", Err(NoRoute::NotCanonical)),
            ("/3/7/99999999999999999999.pbf", Err(NoRoute::NotCanonical)),
            ("/99/0/0.pbf", Err(NoRoute::NotCanonical)),
            ("/3/7/2", Err(NoRoute::Unknown)),
            ("/3/7/2.pbf/", Err(NoRoute::Unknown)),
            ("/3/7/x.pbf", Err(NoRoute::Unknown)),
            ("/3//2.pbf", Err(NoRoute::Unknown)),
            ("//3/7/2.pbf", Err(NoRoute::Unknown)),
            ("/", Err(NoRoute::Unknown)),
            ("", Err(NoRoute::Unknown)),
            ("/assets/maplibre-gl.js", Err(NoRoute::Unknown)),
            ("/.oar-tiles/begun.json", Err(NoRoute::Unknown)),
        ] {
            assert_eq!(route(path, &template, false), expected, "{path}");
        }
        assert_eq!(route("/", &template, true), Ok(Route::Page));
        assert_eq!(route("/assets/a.js", &template, true), Ok(Route::Asset("a.js".to_owned())));
        let glyphs = "fonts/Noto%20Sans%20Regular/0-255.pbf";
        assert_eq!(route(&format!("/{glyphs}"), &template, true), Ok(Route::Asset(glyphs.to_owned())));
        assert_eq!(route(&format!("/{glyphs}"), &template, false), Err(NoRoute::Unknown));
    }

    #[test]
    fn layers_and_other_templates_have_their_own_names() {
        let template = Template::new("{layer}/{z}-{x}/{-y}.mvt").unwrap().with_layers(["mills", "farms"]);
        assert!(matches!(route("/mills/1-0/1.mvt", &template, false), Ok(Route::Tile(_))));
        assert_eq!(route("/lakes/1-0/1.mvt", &template, false), Err(NoRoute::Unknown));
        let template = Template::new("{layer}/{z}/{x}/{y}.pbf").unwrap().with_layers(["mills2"]);
        assert_eq!(route("/mills2/01/0/0.pbf", &template, false), Err(NoRoute::NotCanonical));
        assert_eq!(route("/mills3/01/0/0.pbf", &template, false), Err(NoRoute::Unknown));
    }
}
