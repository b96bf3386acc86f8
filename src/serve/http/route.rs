//! Finds out which tile a path names; the names of what stands beside tiles.

use crate::encode::TileFormat;
use crate::target::Template;
use crate::tile::TileId;

/// Why a path names no tile.
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

/// The name of the document that says how many rows a request chooses.
pub(crate) const COUNT: &str = "count.json";

/// True if a name is that of a TileJSON document.
pub(crate) fn is_tilejson(name: &str) -> bool {
    name == "tiles.json" || name.ends_with(".tiles.json")
}

/// The name of the cache probe below a tileset. It ends as tiles do, so that rules for tiles hold for it.
pub const CACHE_PROBE: &str = "cache-probe.pbf";

/// Finds out which tile a name below a tileset stands for; it is still percent-encoded.
pub(crate) fn tile_of(name: &str, template: &Template) -> Result<TileId, NoRoute> {
    // Map clients use either ending for tiles.
    let ends_so =
        |format: TileFormat| template.text().strip_suffix(format.extension).is_some_and(|rest| rest.ends_with('.'));
    let renamed = TileFormat::usual_name(name).filter(|(_, format)| ends_so(*format));
    let name = renamed.as_ref().map_or(name, |(renamed, _)| renamed);
    match template.read(name) {
        Some(tile) => Ok(tile),
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
    fn names_are_tiles_or_nothing() {
        let template = Template::new("{z}/{x}/{y}.pbf").unwrap();
        let tile = |z, x, y| Ok(TileCoord::new(Zoom::new(z).unwrap(), x, y).unwrap().into());
        for (path, expected) in [
            ("0/0/0.pbf", tile(0, 0, 0)),
            ("3/7/2.pbf", tile(3, 7, 2)),
            ("3/7/2.mvt", tile(3, 7, 2)),
            ("03/7/2.pbf", Err(NoRoute::NotCanonical)),
            ("3/+7/2.pbf", Err(NoRoute::NotCanonical)),
            ("3/8/2.pbf", Err(NoRoute::NotCanonical)),
            ("3/7/-1.pbf", Err(NoRoute::NotCanonical)),
            ("3/7/99999999999999999999.pbf", Err(NoRoute::NotCanonical)),
            ("99/0/0.pbf", Err(NoRoute::NotCanonical)),
            ("3/7/2", Err(NoRoute::Unknown)),
            ("3/7/2.pbf/", Err(NoRoute::Unknown)),
            ("3/7/x.pbf", Err(NoRoute::Unknown)),
            ("3//2.pbf", Err(NoRoute::Unknown)),
            ("/3/7/2.pbf", Err(NoRoute::Unknown)),
            ("", Err(NoRoute::Unknown)),
            (".oar-tiles/begun.json", Err(NoRoute::Unknown)),
        ] {
            assert_eq!(tile_of(path, &template), expected, "{path}");
        }
    }

    #[test]
    fn layers_and_other_templates_have_their_own_names() {
        let template = Template::new("{layer}/{z}-{x}/{-y}.mvt").unwrap().with_layers(["mills", "farms"]);
        assert!(tile_of("mills/1-0/1.mvt", &template).is_ok());
        assert_eq!(tile_of("lakes/1-0/1.mvt", &template), Err(NoRoute::Unknown));
        let template = Template::new("{layer}/{z}/{x}/{y}.pbf").unwrap().with_layers(["mills2"]);
        assert_eq!(tile_of("mills2/01/0/0.pbf", &template), Err(NoRoute::NotCanonical));
        assert_eq!(tile_of("mills3/01/0/0.pbf", &template), Err(NoRoute::Unknown));
    }
}
