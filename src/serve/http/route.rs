//! Finds out which tile a path names; the names of what stands beside tiles.

use std::fmt;

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

/// The name of the document that also says how many it would choose with each value of a parameter.
pub(crate) const VALUES: &str = "values.json";

/// The name to which filters are posted.
pub(crate) const FILTERS: &str = "filters";

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

// Further addresses of tiles.

/// A form of the addresses that tiles have beside their own, such as `/tile/{tileset}/{any}/{z}/{x}/{y}.pbf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileAddress {
    text: String,
    /// What stands between the slashes of a path.
    parts: Vec<AddressPart>,
    /// The name that the parts of [`AddressPart::OfTile`] are together.
    of_tile: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressPart {
    Tileset,
    /// Anything that is a single part of a path to every cache and proxy.
    Any,
    /// Text, or one of `{z}`, `{x}`, `{y}` and `{-y}`.
    OfTile,
}

/// A tile that a path names by a [`TileAddress`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressedTile<'a> {
    /// The name of the tileset, still percent-encoded; `None` if the form has no `{tileset}`.
    pub(crate) tileset: Option<&'a str>,
    /// The tile; `None` if its numbers are not in canonical notation, or no such tile exists.
    pub(crate) tile: Option<TileId>,
}

/// The text is not a form of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no form of addresses ({why}): write /tile/{{tileset}}/{{any}}/{{z}}/{{x}}/{{y}}.pbf or the like, where {{any}} stands for a part that means nothing"
)]
pub struct TileAddressError {
    pub text: String,
    pub why: String,
}

impl TileAddress {
    /// Reads a form.
    /// Fails if it does not begin with a slash and a name, two tiles could share an address, or addresses could not be
    /// read back.
    pub fn new(text: &str) -> Result<TileAddress, TileAddressError> {
        let wrong = |why: &str| TileAddressError { text: text.to_owned(), why: why.to_owned() };
        let below = text.strip_prefix('/').ok_or_else(|| wrong("it has no / in front"))?;
        let named: Vec<&str> = below.split('/').collect();
        if named.first().is_some_and(|first| first.contains('{')) {
            return Err(wrong("its first part is no name, so it could be the address of something else"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '/' | '{' | '}');
        if !text.chars().all(is_plain) {
            return Err(wrong("names have letters, digits and -._~ only"));
        }
        let part = |part: &&str| match *part {
            "{tileset}" => Ok(AddressPart::Tileset),
            "{any}" => Ok(AddressPart::Any),
            part if part.contains("{tileset}") || part.contains("{any}") => {
                Err(wrong("{tileset} and {any} stand alone between two slashes"))
            }
            part if part.contains("{layer}") || part.contains("{version}") => {
                Err(wrong("{layer} and {version} are for the template in [target]"))
            }
            _ => Ok(AddressPart::OfTile),
        };
        let parts = named.iter().map(part).collect::<Result<Vec<AddressPart>, _>>()?;
        if parts.iter().filter(|part| **part == AddressPart::Tileset).count() > 1 {
            return Err(wrong("{tileset} stands there twice"));
        }
        let of_tile = named.iter().zip(&parts).filter(|(_, part)| **part == AddressPart::OfTile);
        let of_tile: Vec<&str> = of_tile.map(|(name, _)| *name).collect();
        let of_tile = Template::new(&of_tile.join("/")).map_err(|error| wrong(&error.to_string()))?;
        Ok(TileAddress { text: text.to_owned(), parts, of_tile })
    }

    /// The name with which every address begins.
    pub(crate) fn first(&self) -> &str {
        self.text.split('/').nth(1).unwrap_or_default()
    }

    pub(crate) fn names_tilesets(&self) -> bool {
        self.parts.contains(&AddressPart::Tileset)
    }

    /// What a path names by this form; it begins with a slash and is still percent-encoded. `None` if it is not of this
    /// form.
    pub(crate) fn read<'a>(&self, path: &'a str) -> Option<AddressedTile<'a>> {
        let below = path.strip_prefix('/')?;
        if below.split('/').count() != self.parts.len() {
            return None;
        }
        let (mut tileset, mut name) = (None, String::new());
        for (part, given) in self.parts.iter().zip(below.split('/')) {
            match part {
                AddressPart::Tileset => tileset = Some(given),
                // A cache that resolves escapes and steps would keep the tile under the address of another one.
                AddressPart::Any if matches!(given, "" | "." | "..") || given.contains(['%', '\\']) => return None,
                AddressPart::Any => {}
                AddressPart::OfTile => {
                    name.push_str(if name.is_empty() { "" } else { "/" });
                    name.push_str(given);
                }
            }
        }
        match tile_of(&name, &self.of_tile) {
            Ok(tile) => Some(AddressedTile { tileset, tile: Some(tile) }),
            Err(NoRoute::NotCanonical) => Some(AddressedTile { tileset, tile: None }),
            Err(NoRoute::Unknown) => None,
        }
    }
}

impl fmt::Display for TileAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
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
    #[test]
    fn a_part_of_a_further_address_may_mean_nothing() {
        let form = TileAddress::new("/tile/{tileset}/{any}/{z}/{x}/{y}.pbf").unwrap();
        let tile = |z, x, y| Some(TileCoord::new(Zoom::new(z).unwrap(), x, y).unwrap().into());
        for (path, expected) in [
            ("/tile/mills/1700000000-3-0af1/3/7/2.pbf", Some((Some("mills"), tile(3, 7, 2)))),
            ("/tile/m%C3%BChlen/x/3/7/2.mvt", Some((Some("m%C3%BChlen"), tile(3, 7, 2)))),
            ("/tile/mills/.../0/0/0.pbf", Some((Some("mills"), tile(0, 0, 0)))),
            ("/tile/mills/x/03/7/2.pbf", Some((Some("mills"), None))),
            ("/tile/mills/x/3/8/2.pbf", Some((Some("mills"), None))),
            ("/tile/mills//3/7/2.pbf", None),
            ("/tile/mills/./3/7/2.pbf", None),
            ("/tile/mills/../3/7/2.pbf", None),
            ("/tile/mills/%2e%2e/3/7/2.pbf", None),
            ("/tile/mills/..%2Ffarms/3/7/2.pbf", None),
            ("/tile/mills/..\\farms/3/7/2.pbf", None),
            ("/tile/mills/a/b/3/7/2.pbf", None),
            ("/tile/mills/3/7/2.pbf", None),
            ("/Tile/mills/x/3/7/2.pbf", None),
            ("/tile/mills/x/3/7/2.png", None),
            ("tile/mills/x/3/7/2.pbf", None),
            ("", None),
            ("/", None),
        ] {
            let read = form.read(path).map(|read| (read.tileset, read.tile));
            assert_eq!(read, expected, "{path}");
        }
        let form = TileAddress::new("/v1/{z}/{any}/{x}-{-y}.mvt").unwrap();
        assert_eq!(form.read("/v1/1/x/0-1.mvt").unwrap().tile, tile(1, 0, 0));
        assert!(!form.names_tilesets() && form.first() == "v1");
    }

    #[test]
    fn a_form_that_could_be_misread_is_refused() {
        let no_name = "its first part is no name, so it could be the address of something else";
        for (text, why) in [
            ("", "it has no / in front"),
            ("tile/{z}/{x}/{y}.pbf", "it has no / in front"),
            ("/{tileset}/{any}/{z}/{x}/{y}.pbf", no_name),
            ("/t/{any}-{z}/{x}/{y}.pbf", "{tileset} and {any} stand alone between two slashes"),
            ("/t/{tileset}/{tileset}/{z}/{x}/{y}.pbf", "{tileset} stands there twice"),
            ("/t/{layer}/{z}/{x}/{y}.pbf", "{layer} and {version} are for the template in [target]"),
            ("/tü/{z}/{x}/{y}.pbf", "names have letters, digits and -._~ only"),
            ("/t?/{z}/{x}/{y}.pbf", "names have letters, digits and -._~ only"),
        ] {
            assert_eq!(TileAddress::new(text).unwrap_err().why, why, "{text}");
        }
        for text in
            ["/t/{z}/{x}.pbf", "/t/{z}/{x}/{q}.pbf", "//{z}/{x}/{y}.pbf", "/t/../{z}/{x}/{y}.pbf", "/t/{z}/{x}/{y}/"]
        {
            assert!(TileAddress::new(text).is_err(), "{text}");
        }
    }
}
