//! The output of the variants of a tileset: a target with `{name}` in it. Each variant fills in its values.

use std::fmt;

/// The longest segment of a value, in bytes: file systems allow names of 255 bytes, and an ending follows.
const MAX_SEGMENT: usize = 200;

/// A text with `{name}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTemplate {
    pieces: Vec<OutputPiece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum OutputPiece {
    Plain(String),
    Filled(String),
}

/// A value as a part of a path and of a URL. It consists of ASCII letters and digits, `-`, `_`, `.`, and `~XX` for every other byte. It never
/// begins with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ValueSegment(String);

/// Why a value cannot become a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSegment {
    /// It is empty.
    Empty,
    /// It is too long.
    Long,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum NoTemplate {
    /// A brace has no counterpart, or there is no name between two of them.
    Brace,
    /// It has no `{name}`.
    Constant,
}

impl ValueSegment {
    /// The segment of a value.
    pub(super) fn of(value: &str) -> Result<ValueSegment, NoSegment> {
        let mut segment = String::with_capacity(value.len());
        for (at, byte) in value.bytes().enumerate() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => segment.push(char::from(byte)),
                b'.' if at > 0 => segment.push('.'),
                other => segment.push_str(&format!("~{other:02X}")),
            }
        }
        match segment.len() {
            0 => Err(NoSegment::Empty),
            1..=MAX_SEGMENT => Ok(ValueSegment(segment)),
            _ => Err(NoSegment::Long),
        }
    }

    /// The segments of the values; `None` if one value cannot be a segment.
    #[must_use]
    pub fn all_of(values: &[&str]) -> Option<Vec<ValueSegment>> {
        values.iter().map(|value| ValueSegment::of(value).ok()).collect()
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl OutputTemplate {
    /// Reads a template.
    pub(in crate::config) fn new(text: &str) -> Result<OutputTemplate, NoTemplate> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((plain, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or(NoTemplate::Brace)?;
            if plain.contains('}') || !is_parameter_name(name) {
                return Err(NoTemplate::Brace);
            }
            pieces.extend((!plain.is_empty()).then(|| OutputPiece::Plain(plain.to_owned())));
            pieces.push(OutputPiece::Filled(name.to_owned()));
            rest = after;
        }
        if rest.contains('}') {
            return Err(NoTemplate::Brace);
        }
        if pieces.is_empty() || !pieces.iter().any(|piece| matches!(piece, OutputPiece::Filled(_))) {
            return Err(NoTemplate::Constant);
        }
        pieces.extend((!rest.is_empty()).then(|| OutputPiece::Plain(rest.to_owned())));
        Ok(OutputTemplate { pieces })
    }

    /// The names in the template, each once, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for piece in &self.pieces {
            if let OutputPiece::Filled(name) = piece
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }

    /// The text in which the names are replaced with segments, in the order of [`OutputTemplate::names`].
    pub(super) fn filled(&self, segments: &[ValueSegment]) -> String {
        let names = self.names();
        let of = |name: &str| names.iter().position(|other| *other == name).and_then(|at| segments.get(at));
        let text = |piece: &OutputPiece| match piece {
            OutputPiece::Plain(text) => text.clone(),
            OutputPiece::Filled(name) => of(name).map_or_else(String::new, |segment| segment.as_str().to_owned()),
        };
        self.pieces.iter().map(text).collect()
    }

    /// The folder or prefix that contains all variants: the text before the first name, up to its last slash; empty for the current folder.
    #[must_use]
    pub fn folder(&self) -> &str {
        match self.pieces.first() {
            Some(OutputPiece::Plain(text)) => text.rfind('/').map_or("", |slash| &text[..=slash]),
            _ => "",
        }
    }

    /// The segments that turn the template into `text`, in the order of [`OutputTemplate::names`]; `None` if there are none.
    #[must_use]
    pub fn segments_of(&self, text: &str) -> Option<Vec<ValueSegment>> {
        let names = self.names();
        let mut found = vec![None; names.len()];
        let is_found = matches(&self.pieces, text, &names, &mut found);
        is_found.then(|| found.into_iter().flatten().collect())
    }
}

/// True if a text consists of the pieces. Adds the segments to `found`, by name.
fn matches(pieces: &[OutputPiece], text: &str, names: &[&str], found: &mut Vec<Option<ValueSegment>>) -> bool {
    match pieces.split_first() {
        None => text.is_empty(),
        Some((OutputPiece::Plain(plain), rest)) => {
            text.strip_prefix(plain.as_str()).is_some_and(|text| matches(rest, text, names, found))
        }
        Some((OutputPiece::Filled(name), rest)) => {
            let Some(at) = names.iter().position(|other| other == name) else { return false };
            let is_odd = |byte: u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~'));
            let longest = text.bytes().position(is_odd).unwrap_or(text.len());
            (1..=longest).any(|end| {
                let before = found.clone();
                let segment = ValueSegment(text[..end].to_owned());
                let fits = found[at].get_or_insert_with(|| segment.clone()) == &segment;
                let is_found = fits && matches(rest, &text[end..], names, found);
                if !is_found {
                    *found = before;
                }
                is_found
            })
        }
    }
}

/// True if a parameter can have the name.
pub(super) fn is_parameter_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

impl fmt::Display for OutputTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            OutputPiece::Plain(text) => f.write_str(text),
            OutputPiece::Filled(name) => write!(f, "{{{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, values: &[&str]) -> String {
        let segments: Vec<_> = values.iter().map(|value| ValueSegment::of(value).unwrap()).collect();
        OutputTemplate::new(template).unwrap().filled(&segments)
    }

    #[test]
    fn a_value_becomes_one_segment_of_a_path() {
        for (value, path) in [
            ("bd", "t/bd.pmtiles"),
            ("BD", "t/BD.pmtiles"),
            ("a/b", "t/a~2Fb.pmtiles"),
            ("..", "t/~2E..pmtiles"),
            ("../../etc", "t/~2E.~2F..~2Fetc.pmtiles"),
            (".", "t/~2E.pmtiles"),
            (".oar-tiles", "t/~2Eoar-tiles.pmtiles"),
            ("a b%\\~", "t/a~20b~25~5C~7E.pmtiles"),
            ("日", "t/~E6~97~A5.pmtiles"),
            ("{x}", "t/~7Bx~7D.pmtiles"),
        ] {
            assert_eq!(filled("t/{c}.pmtiles", &[value]), path, "{value}");
        }
        assert_eq!(ValueSegment::of(""), Err(NoSegment::Empty));
        assert_eq!(ValueSegment::of(&"x".repeat(201)), Err(NoSegment::Long));
        assert_eq!(filled("s3://b/{a}/{b}/{a}/", &["x", "y"]), "s3://b/x/y/x/");
    }

    #[test]
    fn a_template_finds_its_segments_again() {
        for (template, text, expected) in [
            ("t/{c}.pmtiles", "t/a~2Fb.pmtiles", Some(vec!["a~2Fb"])),
            ("t/{c}.pmtiles", "t/a/b.pmtiles", None),
            ("t/{c}.pmtiles", "t/.pmtiles", None),
            ("t/{c}.pmtiles", "u/a.pmtiles", None),
            ("t/{c}.pmtiles", "t/a.b.pmtiles", Some(vec!["a.b"])),
            ("t/{a}-{b}/", "t/x-y-z/", Some(vec!["x", "y-z"])),
            ("t/{a}/{a}.mbtiles", "t/x/x.mbtiles", Some(vec!["x"])),
            ("t/{a}/{a}.mbtiles", "t/x/y.mbtiles", None),
        ] {
            let found = OutputTemplate::new(template).unwrap().segments_of(text);
            let found = found.map(|all| all.iter().map(|one| one.as_str().to_owned()).collect::<Vec<_>>());
            assert_eq!(found, expected.map(|all| all.into_iter().map(str::to_owned).collect()), "{template} {text}");
        }
        for (template, folder) in
            [("t/{c}.pmtiles", "t/"), ("{c}/x/", ""), ("s3://b/p-{c}/", "s3://b/"), ("a/b{c}/", "a/")]
        {
            assert_eq!(OutputTemplate::new(template).unwrap().folder(), folder);
        }
        for odd in ["t/{c.pmtiles", "t/c}.pmtiles", "t/{}.pmtiles", "t/{a b}/", "t/{1}/", "t}{a}/"] {
            assert_eq!(OutputTemplate::new(odd), Err(NoTemplate::Brace), "{odd}");
        }
        assert_eq!(OutputTemplate::new("t.pmtiles"), Err(NoTemplate::Constant));
    }
}
