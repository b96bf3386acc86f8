//! Texts with placeholders that each tile fills in: headers and metadata.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Slice, TileId, TilesetTag};

/// The characters that are written as `%XX` in the name of a layer: all that some header or cache does not accept.
const IN_LAYER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A text with placeholders: `{name}`, `{band}`, `{z}`, `{x}`, `{y}`, `{layer}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileText(Vec<TextPart>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum TextPart {
    Plain(String),
    Filled(TilePlaceholder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TilePlaceholder {
    Name,
    Band,
    Zoom,
    Column,
    Row,
    Layer,
}

impl TilePlaceholder {
    const ALL: [(&'static str, TilePlaceholder); 6] = [
        ("name", TilePlaceholder::Name),
        ("band", TilePlaceholder::Band),
        ("z", TilePlaceholder::Zoom),
        ("x", TilePlaceholder::Column),
        ("y", TilePlaceholder::Row),
        ("layer", TilePlaceholder::Layer),
    ];

    fn text(self) -> &'static str {
        TilePlaceholder::ALL.iter().find(|(_, one)| *one == self).map_or("", |(text, _)| text)
    }
}

/// The values of placeholders that the tile's address does not give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TileTextNames {
    /// The tileset's tag: `{name}`, and the stem of `{band}`.
    pub tag: TilesetTag,
    /// The names of the layers, by [`LayerId`](super::LayerId): `{layer}` where layers are kept apart.
    pub layers: Vec<String>,
}

/// Why a text cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileTextError {
    /// An unknown placeholder.
    #[error("has {{{0}}}, and no tile has that: write {{name}}, {{band}}, {{z}}, {{x}}, {{y}} or {{layer}}")]
    Unknown(String),
    /// A brace without its counterpart.
    #[error("has a brace that stands alone: placeholders are written {{name}}")]
    Brace,
}

impl FromStr for TileText {
    type Err = TileTextError;

    fn from_str(text: &str) -> Result<TileText, TileTextError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((plain, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or(TileTextError::Brace)?;
            let known = TilePlaceholder::ALL.into_iter().find(|(text, _)| *text == name);
            let (_, placeholder) = known.ok_or_else(|| TileTextError::Unknown(name.to_owned()))?;
            if plain.contains('}') {
                return Err(TileTextError::Brace);
            }
            parts.extend((!plain.is_empty()).then(|| TextPart::Plain(plain.to_owned())));
            parts.push(TextPart::Filled(placeholder));
            rest = after;
        }
        if rest.contains('}') {
            return Err(TileTextError::Brace);
        }
        parts.extend((!rest.is_empty()).then(|| TextPart::Plain(rest.to_owned())));
        Ok(TileText(parts))
    }
}

impl fmt::Display for TileText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            TextPart::Plain(text) => f.write_str(text),
            TextPart::Filled(placeholder) => write!(f, "{{{}}}", placeholder.text()),
        })
    }
}

impl TileText {
    /// The text of a tile, or of one layer of it. `{layer}` is empty if a tile holds all layers. It has no character
    /// that a header does not accept.
    pub fn of_tile(&self, tile: TileId, names: &TileTextNames) -> String {
        let layer = match tile.slice {
            Slice::Whole => "",
            Slice::Layer(layer) => names.layers.get(usize::from(layer.0)).map_or("", String::as_str),
        };
        let filled = |part: &TextPart| match part {
            TextPart::Plain(text) => text.clone(),
            TextPart::Filled(TilePlaceholder::Name) => names.tag.as_str().to_owned(),
            TextPart::Filled(TilePlaceholder::Band) => names.tag.of_band(tile.coord),
            TextPart::Filled(TilePlaceholder::Zoom) => tile.coord.zoom().to_string(),
            TextPart::Filled(TilePlaceholder::Column) => tile.coord.x().to_string(),
            TextPart::Filled(TilePlaceholder::Row) => tile.coord.y().to_string(),
            TextPart::Filled(TilePlaceholder::Layer) => utf8_percent_encode(layer, IN_LAYER).to_string(),
        };
        self.0.iter().map(filled).collect()
    }

    /// The text of a whole tileset, such as an archive; `None` if it has placeholders that only a tile fills in.
    pub fn of_tileset(&self, names: &TileTextNames) -> Option<String> {
        let filled = |part: &TextPart| match part {
            TextPart::Plain(text) => Some(text.clone()),
            TextPart::Filled(TilePlaceholder::Name) => Some(names.tag.as_str().to_owned()),
            TextPart::Filled(_) => None,
        };
        self.0.iter().map(filled).collect()
    }

    /// True if the text has the tag of the tile's band of zooms, by which caches can purge it.
    pub fn has_band(&self) -> bool {
        self.0.contains(&TextPart::Filled(TilePlaceholder::Band))
    }

    /// True if the text has the tag of the tileset, by which caches can purge all of its tiles.
    pub fn has_name(&self) -> bool {
        self.0.contains(&TextPart::Filled(TilePlaceholder::Name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::LayerId;

    #[test]
    fn tiles_fill_in_what_they_are() {
        let names =
            TileTextNames { tag: TilesetTag::of("n"), layers: vec!["mills".to_owned(), "Häfen, old".to_owned()] };
        let text: TileText = "{name},{band};{z}/{x}/{y} {layer}.".parse().unwrap();
        let coord = "14/8712/5333".parse().unwrap();
        assert_eq!(text.of_tile(TileId::from(coord), &names), "n,n-12-2178-1333;14/8712/5333 .");
        let port = TileId { coord, slice: Slice::Layer(LayerId(1)) };
        assert_eq!(text.of_tile(port, &names), "n,n-12-2178-1333;14/8712/5333 H%C3%A4fen%2C%20old.");
        assert_eq!((text.to_string().as_str(), text.has_band()), ("{name},{band};{z}/{x}/{y} {layer}.", true));
        assert_eq!(text.of_tileset(&names), None);
        let of_all: TileText = "map {name}".parse().unwrap();
        assert_eq!((of_all.of_tileset(&names).as_deref(), of_all.has_band()), (Some("map n"), false));
    }

    #[test]
    fn what_no_tile_has_is_refused() {
        for (text, error) in [
            ("{zoom}", TileTextError::Unknown("zoom".to_owned())),
            ("{Name}", TileTextError::Unknown("Name".to_owned())),
            ("{}", TileTextError::Unknown(String::new())),
            ("{name", TileTextError::Brace),
            ("name}", TileTextError::Brace),
            ("a}b{name}", TileTextError::Brace),
        ] {
            assert_eq!(text.parse::<TileText>(), Err(error), "{text}");
        }
    }
}
