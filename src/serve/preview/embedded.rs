//! The files that are part of the program: MapLibre GL JS (`scripts/assets`), the base map (`scripts/basemap`) and
//! glyphs (`scripts/fonts`). They lie in `embedded/`, MapLibre and the font with their licences.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;

use crate::encode::{Gunzip, Gzip, Level};
use crate::target::{PmtilesReader, ReadError, TileReader as _};
use crate::tile::{TileCoord, TileId, Zoom};

/// The media type of glyphs, as font servers send them.
const GLYPHS_TYPE: &str = "application/x-protobuf";

/// The beginning of the names of base map tiles; zoom, column, row and `.pbf` follow. One segment of a path, so that no
/// address of a tileset or variant can be taken for it.
pub(crate) const BASEMAP_TILE: &str = "basemap-";

/// The deepest zoom of the base map.
pub(crate) const BASEMAP_MAXZOOM: u8 = 5;

const SCRIPT: &[u8] = include_bytes!("embedded/maplibre-gl.js.gz");
const STYLE: &[u8] = include_bytes!("embedded/maplibre-gl.css.gz");
const LICENCE: &[u8] = include_bytes!("embedded/maplibre-gl-LICENSE.txt");
const PLACES: &[u8] = include_bytes!("embedded/places.json");
const BASEMAP: &[u8] = include_bytes!("embedded/basemap.pmtiles");

/// The font of the glyphs, as styles name it.
pub(crate) const FONT: &str = "Noto Sans Regular";

/// How many characters a range of glyphs has (MapLibre Style Specification, "glyphs").
const GLYPHS_IN_RANGE: u32 = 256;

/// The ranges of glyphs by their first character, packed as gzip: Latin, Greek, Cyrillic, Vietnamese, punctuation.
const GLYPHS: [(u32, &[u8]); 6] = [
    (0x0000, include_bytes!("embedded/fonts/0-255.pbf.gz")),
    (0x0100, include_bytes!("embedded/fonts/256-511.pbf.gz")),
    (0x0300, include_bytes!("embedded/fonts/768-1023.pbf.gz")),
    (0x0400, include_bytes!("embedded/fonts/1024-1279.pbf.gz")),
    (0x1e00, include_bytes!("embedded/fonts/7680-7935.pbf.gz")),
    (0x2000, include_bytes!("embedded/fonts/8192-8447.pbf.gz")),
];

const FONT_LICENCE: &[u8] = include_bytes!("embedded/fonts/OFL.txt");

/// A file that the page loads, packed as gzip.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) media_type: &'static str,
    pub(crate) gzip: Bytes,
}

impl Packed {
    /// A file of the program that is not packed yet; `None` if it cannot be packed.
    pub(crate) fn new(media_type: &'static str, text: &[u8]) -> Option<Packed> {
        let gzip = Gzip::new(Level::ONCE).pack(text).ok()?;
        Some(Packed { media_type, gzip: Bytes::from(gzip.into_vec()) })
    }

    /// The file as it is; `None` if it cannot be unpacked.
    pub(crate) fn unpacked(&self) -> Option<Bytes> {
        Gunzip::new().unpack(&self.gzip).ok().map(Bytes::from)
    }
}

/// The file of this name that is not the page's own.
pub(crate) fn file(name: &str) -> Option<Packed> {
    static LICENCE_FILE: LazyLock<Option<Packed>> = LazyLock::new(|| Packed::new("text/plain; charset=utf-8", LICENCE));
    static PLACES_FILE: LazyLock<Option<Packed>> = LazyLock::new(|| Packed::new("application/json", PLACES));
    let packed = |media_type, gzip| Some(Packed { media_type, gzip: Bytes::from_static(gzip) });
    match name {
        "maplibre-gl.js" => packed("text/javascript", SCRIPT),
        "maplibre-gl.css" => packed("text/css", STYLE),
        "maplibre-gl-LICENSE.txt" => LICENCE_FILE.clone(),
        "places.json" => PLACES_FILE.clone(),
        "OFL.txt" => Packed::new("text/plain; charset=utf-8", FONT_LICENCE),
        _ => None,
    }
}

/// The glyphs of a range with the file name `name`, such as `0-255.pbf`; `None` if there is no such range. Characters
/// that the font does not have are no error: a client would draw no label of its tile then.
pub(crate) fn glyphs(name: &str) -> Option<Packed> {
    let (first, last) = name.strip_suffix(".pbf")?.split_once('-')?;
    let start = first.parse::<u32>().ok().filter(|start| start.is_multiple_of(GLYPHS_IN_RANGE) && *start <= 0xff00)?;
    if (first, last) != (&*start.to_string(), &*(start + GLYPHS_IN_RANGE - 1).to_string()) {
        return None;
    }
    match GLYPHS.iter().find(|(known, _)| *known == start) {
        Some((_, gzip)) => Some(Packed { media_type: GLYPHS_TYPE, gzip: Bytes::from_static(gzip) }),
        None => Packed::new(GLYPHS_TYPE, &no_glyphs(&format!("{first}-{last}"))),
    }
}

/// A range without glyphs: a message with a font stack (field 1) that has a name (1) and a range (2).
fn no_glyphs(range: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        // Both lengths are below 128, so each takes a byte.
        let length = u8::try_from(bytes.len()).unwrap_or_default();
        [&[number << 3 | 2, length][..], bytes].concat()
    };
    field(1, &[field(1, FONT.as_bytes()), field(2, range.as_bytes())].concat())
}

/// A tile of the base map.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BasemapTile {
    /// Its bytes, packed as gzip.
    Gzip(Bytes),
    /// Nothing is drawn in it.
    Empty,
}

/// The tile of the base map with the file name `name`; `None` if there is no such tile.
pub(crate) fn named_basemap_tile(name: &str) -> Option<BasemapTile> {
    let mut numbers = name.strip_prefix(BASEMAP_TILE)?.strip_suffix(".pbf")?.split('-').map(str::parse);
    let (Some(Ok(z)), Some(Ok(x)), Some(Ok(y)), None) =
        (numbers.next(), numbers.next(), numbers.next(), numbers.next())
    else {
        return None;
    };
    let zoom = u8::try_from(z).ok().filter(|z| *z <= BASEMAP_MAXZOOM).and_then(Zoom::new)?;
    let coord = TileCoord::new(zoom, x, y)?;
    Some(basemap_tile(coord).map_or(BasemapTile::Empty, BasemapTile::Gzip))
}

/// A tile of the base map, packed as gzip; `None` if nothing is drawn in it.
pub(crate) fn basemap_tile(coord: TileCoord) -> Option<Bytes> {
    static TILES: LazyLock<HashMap<TileId, Bytes>> = LazyLock::new(|| basemap().unwrap_or_default());
    TILES.get(&coord.into()).cloned()
}

/// All tiles of the base map: about 1 MB, read when the first page asks.
fn basemap() -> Result<HashMap<TileId, Bytes>, ReadError> {
    let mut archive = PmtilesReader::of_bytes(BASEMAP, "the base map of the program")?;
    let listed = archive.list()?;
    let mut tiles = HashMap::with_capacity(listed.len());
    let mut rest = &listed[..];
    while !rest.is_empty() {
        // A reader may give fewer tiles than it was asked for, but at least one.
        let read = archive.read(rest)?;
        let (given, later) = rest.split_at(read.len().max(1).min(rest.len()));
        tiles.extend(given.iter().zip(read).filter_map(|(id, tile)| Some((*id, Bytes::from(tile?.into_vec())))));
        rest = later;
    }
    Ok(tiles)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::hex::hex;

    #[test]
    fn glyphs_of_six_ranges_take_at_most_400_kb_and_other_ranges_are_empty() {
        assert!(GLYPHS.iter().map(|(_, gzip)| gzip.len()).sum::<usize>() <= 400_000);
        for (start, _) in GLYPHS {
            let range = format!("{start}-{}", start + 255);
            let unpacked = glyphs(&format!("{range}.pbf")).unwrap().unpacked().unwrap();
            // The message, the stack and the names of both.
            let names = [
                &[&b"\x0a\x11Noto Sans Regular\x12"[..], &[u8::try_from(range.len()).unwrap()][..]].concat(),
                range.as_bytes(),
            ]
            .concat();
            assert!(unpacked[0] == 0x0a && unpacked.windows(names.len()).any(|found| found == names), "{range}");
        }
        let none = glyphs("19968-20223.pbf").unwrap().unpacked().unwrap();
        assert_eq!(none, &b"\x0a\x20\x0a\x11Noto Sans Regular\x12\x0b19968-20223"[..]);
        for name in ["0-254.pbf", "1-256.pbf", "00-255.pbf", "+0-255.pbf", "65536-65791.pbf", "0-255", "-1-254.pbf", ""]
        {
            assert!(glyphs(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_base_map_is_what_its_script_made_and_at_most_a_megabyte_and_a_half() {
        assert!(BASEMAP.len() <= 1_500_000, "{} bytes", BASEMAP.len());
        let sums = include_str!("embedded/SHA256SUMS");
        for (name, bytes) in [("basemap.pmtiles", BASEMAP), ("places.json", PLACES)] {
            let line = format!("{}  {name}", hex(Sha256::digest(bytes)));
            assert!(sums.lines().any(|one| one == line), "scripts/basemap has not made this {name}: {line}");
        }
        let tiles = basemap().unwrap();
        let deepest = tiles.keys().map(|id| id.coord.zoom()).max().unwrap();
        assert_eq!(deepest, Zoom::new(BASEMAP_MAXZOOM).unwrap());
    }

    #[test]
    fn a_tile_of_the_base_map_is_found_by_its_name_and_the_sea_is_empty() {
        for name in ["basemap-0-0-0.pbf", "basemap-5-23-13.pbf"] {
            assert!(matches!(named_basemap_tile(name), Some(BasemapTile::Gzip(_))), "{name}");
        }
        // In the Southern Pacific.
        assert_eq!(named_basemap_tile("basemap-5-3-21.pbf"), Some(BasemapTile::Empty));
        for name in [
            "basemap-6-0-0.pbf",
            "basemap-1-2-0.pbf",
            "basemap-0-0.pbf",
            "basemap-0-0-0-0.pbf",
            "basemap-0-0-0",
            "0-0-0.pbf",
        ] {
            assert!(named_basemap_tile(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_map_client_is_the_version_that_pages_in_files_name() {
        let script = Gunzip::new().unpack(SCRIPT).unwrap();
        let begin = String::from_utf8_lossy(&script[..300]).into_owned();
        let version =
            super::super::MAPLIBRE.split(['@', '/']).find(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        assert!(begin.contains(&format!("v{}", version.unwrap())), "{begin}");
    }
}
