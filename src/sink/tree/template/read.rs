//! Reads names back: which tile has a name, and which folders can hold tiles.

use super::{Part, Template};
use crate::tile::{LayerId, Slice, TileCoord, TileId, Zoom};

impl Template {
    /// The tile that has this name; `None` if no tile has it, with the layers and the version that are filled in.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<TileId> {
        let (mut zoom, mut column, mut row, mut tms, mut slice) = (None, None, None, None, Slice::Whole);
        let mut rest = name;
        for (at, part) in self.parts.iter().enumerate() {
            let end = match self.parts.get(at + 1) {
                // A layer's name may contain the text that follows it, so its end is found by the names of the layers.
                Some(Part::Text(text)) if *part != Part::Layer => rest.find(text.as_str()).unwrap_or(rest.len()),
                _ => rest.len(),
            };
            match part {
                Part::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Part::Layer => {
                    let next = match self.parts.get(at + 1) {
                        Some(Part::Text(text)) => text.as_str(),
                        _ => "",
                    };
                    let own = |name: &String| match rest.strip_prefix(name.as_str()) {
                        Some(left) if next.is_empty() => left.is_empty(),
                        Some(left) => left.starts_with(next),
                        None => false,
                    };
                    // The longest name that fits, because one layer's name may be the beginning of another's.
                    let fits = self.layers.iter().enumerate().filter(|(_, name)| own(name));
                    let (number, _) = fits.max_by_key(|(_, name)| name.len())?;
                    rest = &rest[self.layers[number].len()..];
                    slice = Slice::Layer(LayerId(u16::try_from(number).ok()?));
                }
                Part::Version => rest = rest.strip_prefix(self.version.as_deref()?)?,
                Part::Zoom | Part::Column | Part::Row | Part::TmsRow => {
                    let (digits, left) = rest.split_at(end);
                    rest = left;
                    let number = plain_number(digits)?;
                    match part {
                        Part::Zoom => zoom = Some(number),
                        Part::Column => column = Some(number),
                        Part::Row => row = Some(number),
                        _ => tms = Some(number),
                    }
                }
            }
        }
        if !rest.is_empty() {
            return None;
        }
        let zoom = Zoom::new(u8::try_from(zoom?).ok()?)?;
        let row = match (row, tms) {
            (Some(row), _) => row,
            (None, tms) => zoom.last().checked_sub(tms?)?,
        };
        Some(TileId { coord: TileCoord::new(zoom, column?, row)?, slice })
    }

    /// True if a tile may lie in this folder, or in one below it.
    #[must_use]
    pub fn may_hold(&self, folder: &str) -> bool {
        let name = format!("{folder}/");
        let mut rest = name.as_str();
        for (at, part) in self.parts.iter().enumerate() {
            if rest.is_empty() {
                return true;
            }
            match part {
                Part::Text(text) => match rest.strip_prefix(text.as_str()) {
                    Some(left) => rest = left,
                    None => return text.starts_with(rest),
                },
                Part::Layer => {
                    let follows = match self.parts.get(at + 1) {
                        Some(Part::Text(text)) => text.as_str(),
                        _ => "",
                    };
                    let begins = |left: &str| left.starts_with(follows) || follows.starts_with(left);
                    // What follows is not checked: one layer's name may be the beginning of another's.
                    return self.layers.iter().any(|layer| rest.strip_prefix(layer.as_str()).is_some_and(begins));
                }
                Part::Version => match self.version.as_deref().map(|version| (version, rest.strip_prefix(version))) {
                    Some((_, Some(left))) => rest = left,
                    Some((version, None)) => return version.starts_with(rest),
                    None => return false,
                },
                Part::Zoom | Part::Column | Part::Row | Part::TmsRow => {
                    let follows = match self.parts.get(at + 1) {
                        Some(Part::Text(text)) => text.as_str(),
                        _ => "",
                    };
                    // The digits that follow cannot be distinguished from those of the number.
                    if follows.starts_with(|c: char| c.is_ascii_digit()) {
                        return true;
                    }
                    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                    let (digits, left) = rest.split_at(digits);
                    let most = if *part == Part::Zoom { Zoom::MAX.get().into() } else { Zoom::MAX.last() };
                    if plain_number(digits).is_none_or(|number| number > most) {
                        return false;
                    }
                    rest = left;
                }
            }
        }
        rest.is_empty()
    }

    /// True if a file or folder of this name, directly below the target, may be a tile or hold tiles. That is so if the name fits the
    /// template up to the template's first `/`, with any layer and any version.
    #[must_use]
    pub fn may_begin_with(&self, name: &str) -> bool {
        let mut first = Vec::new();
        for part in &self.parts {
            if let Part::Text(text) = part
                && let Some((before, _)) = text.split_once('/')
            {
                first.push(Part::Text(before.to_owned()));
                break;
            }
            first.push(part.clone());
        }
        fits(&first, name)
    }
}

/// True if a name fits these parts of a template.
fn fits(parts: &[Part], name: &str) -> bool {
    let Some((first, others)) = parts.split_first() else { return name.is_empty() };
    let ends = |most: usize| (1..=most).filter(|end| name.is_char_boundary(*end));
    match first {
        Part::Text(text) => name.strip_prefix(text.as_str()).is_some_and(|rest| fits(others, rest)),
        Part::Layer | Part::Version => ends(name.len()).any(|end| fits(others, &name[end..])),
        Part::Zoom | Part::Column | Part::Row | Part::TmsRow => {
            let digits = name.bytes().take_while(u8::is_ascii_digit).count();
            ends(digits).any(|end| fits(others, &name[end..]))
        }
    }
}

/// The number that decimal digits represent; `None` with a sign or leading zeros, so that each number has only one form.
fn plain_number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}
