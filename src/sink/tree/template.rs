//! The names of tiles: a template such as `{z}/{x}/{y}.pbf`, written and read back.

use crate::tile::{LayerId, Slice, TileCoord, TileId, Zoom};

/// Where a tile lies below the target: text with places for z, x, y (or -y), the layer and the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    /// The names of the layers by their numbers, as they stand in names; empty if the template has no `{layer}`.
    layers: Vec<String>,
    version: Option<String>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Zoom,
    Column,
    Row,
    TmsRow,
    Layer,
    Version,
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A place that does not exist.
    #[error("\"{template}\" has the place {{{place}}}: write {{z}}, {{x}}, {{y}}, {{-y}}, {{layer}} or {{version}}")]
    Unknown {
        /// The template.
        template: String,
        /// What stands between the braces.
        place: String,
    },
    /// A brace without its partner.
    #[error("\"{0}\" has a brace without its partner: write {{z}}/{{x}}/{{y}}.pbf or the like")]
    Brace(String),
    /// Two tiles would share a name.
    #[error(
        "\"{template}\" has {count} of {place}: each of {{z}}, {{x}} and one of {{y}} and {{-y}} is needed once, {{layer}} and {{version}} at most once"
    )]
    Count {
        /// The template.
        template: String,
        /// Which place.
        place: &'static str,
        /// How often it stands there.
        count: usize,
    },
    /// Two places side by side cannot be told apart.
    #[error("\"{0}\" has two places side by side: put / or - between them, so that names can be read back")]
    Touching(String),
    /// Not a name below the target.
    #[error(
        "\"{0}\" is no name below the target: write no leading /, no empty part, no \".\", no \"..\" and no backslash"
    )]
    Path(String),
    /// It would be one of the program's own names.
    #[error("\"{0}\" begins with .oar-tiles, where the program keeps its own notes: choose another folder")]
    Own(String),
    /// A folder would have the name of one of the program's own files.
    #[error("\"{0}\" begins with the name of a file that the program writes itself: choose another folder")]
    OwnFile(String),
}

/// The folder below a target in which the program keeps its lock and its notes.
pub(in crate::sink) const OWN_FOLDER: &str = ".oar-tiles";

impl Default for Template {
    /// `{z}/{x}/{y}.pbf`.
    fn default() -> Template {
        let text = |text: &str| Part::Text(text.to_owned());
        let parts = vec![Part::Zoom, text("/"), Part::Column, text("/"), Part::Row, text(".pbf")];
        Template { text: "{z}/{x}/{y}.pbf".to_owned(), parts, layers: Vec::new(), version: None }
    }
}

impl Template {
    /// Reads a template. It may hold `{layer}` and `{version}`, which are filled in by [`Template::with_layers`] and
    /// [`Template::with_version`].
    ///
    /// # Errors
    /// If two tiles could share a name, or a name could not be read back.
    pub fn new(text: &str) -> Result<Template, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some((place, after)) = from.strip_prefix('{').and_then(|from| from.split_once('}')) else {
                return Err(TemplateError::Brace(text.to_owned()));
            };
            parts.push(match place {
                "z" => Part::Zoom,
                "x" => Part::Column,
                "y" => Part::Row,
                "-y" => Part::TmsRow,
                "layer" => Part::Layer,
                "version" => Part::Version,
                _ => return Err(TemplateError::Unknown { template: text.to_owned(), place: place.to_owned() }),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let template = Template { text: text.to_owned(), parts, layers: Vec::new(), version: None };
        template.check()?;
        Ok(template)
    }

    fn check(&self) -> Result<(), TemplateError> {
        let count = |wanted: &[Part]| self.parts.iter().filter(|part| wanted.contains(part)).count();
        let once = [
            ("{z}", count(&[Part::Zoom])),
            ("{x}", count(&[Part::Column])),
            ("{y} and {-y}", count(&[Part::Row, Part::TmsRow])),
        ];
        let at_most = [("{layer}", count(&[Part::Layer])), ("{version}", count(&[Part::Version]))];
        let wrong =
            once.into_iter().find(|(_, count)| *count != 1).or(at_most.into_iter().find(|(_, count)| *count > 1));
        if let Some((place, count)) = wrong {
            return Err(TemplateError::Count { template: self.text.clone(), place, count });
        }
        if self.parts.windows(2).any(|pair| !pair.iter().any(|part| matches!(part, Part::Text(_)))) {
            return Err(TemplateError::Touching(self.text.clone()));
        }
        if self.text.contains('\\') || self.text.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(TemplateError::Path(self.text.clone()));
        }
        if begins_own_folder(&self.text) {
            return Err(TemplateError::Own(self.text.clone()));
        }
        if self.text.split('/').next().is_some_and(is_own_file) {
            return Err(TemplateError::OwnFile(self.text.clone()));
        }
        Ok(())
    }

    /// The template as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether each layer of a tile has a name of its own.
    #[must_use]
    pub fn layers_apart(&self) -> bool {
        self.parts.contains(&Part::Layer)
    }

    /// Whether names hold a version.
    #[must_use]
    pub fn is_versioned(&self) -> bool {
        self.parts.contains(&Part::Version)
    }

    /// With the names of the layers, by their numbers. A character that means something in a path or a URL is written as
    /// `%` and two hexadecimal digits (RFC 3986, section 2.1).
    #[must_use]
    pub fn with_layers<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Template {
        self.layers = names.into_iter().map(escaped).collect();
        self
    }

    /// With a version.
    #[must_use]
    pub fn with_version(mut self, version: &str) -> Template {
        self.version = Some(escaped(version));
        self
    }

    /// The name of a tile, parts separated by `/`.
    #[must_use]
    pub fn name(&self, id: TileId) -> String {
        let mut name = String::with_capacity(self.text.len() + 16);
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Zoom => name.push_str(&id.coord.zoom().to_string()),
                Part::Column => name.push_str(&id.coord.x().to_string()),
                Part::Row => name.push_str(&id.coord.y().to_string()),
                Part::TmsRow => name.push_str(&id.coord.tms_row().to_string()),
                Part::Layer => name.push_str(self.layer(id.slice).unwrap_or_default()),
                Part::Version => name.push_str(self.version.as_deref().unwrap_or_default()),
            }
        }
        name
    }

    fn layer(&self, slice: Slice) -> Option<&str> {
        match slice {
            Slice::Whole => None,
            Slice::Layer(layer) => self.layers.get(usize::from(layer.0)).map(String::as_str),
        }
    }

    /// The tile of a name; `None` for a name that is not this template's, with these layers and this version.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<TileId> {
        let (mut zoom, mut column, mut row, mut tms, mut slice) = (None, None, None, None, Slice::Whole);
        let mut rest = name;
        for (at, part) in self.parts.iter().enumerate() {
            let end = match self.parts.get(at + 1) {
                // A layer's name may hold the text that follows it; its own text decides then.
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
                    // The longest name that fits: one layer's name may be the beginning of another's.
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

    /// Whether a tile can lie in a folder of this name, or in one below it.
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
                    // One layer's name may be the beginning of another's, so no more is said of what follows.
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
                    // Its digits cannot be told from those of the number.
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

    /// Whether a file or folder of a name directly below the target may hold tiles: whether the name fits the template up to its first
    /// `/`, with any layer and any version.
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

    /// The text with which the name of every tile begins: where a listing begins.
    #[must_use]
    pub fn prefix(&self) -> String {
        let mut prefix = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => prefix.push_str(text),
                Part::Version if self.version.is_some() => prefix.push_str(self.version.as_deref().unwrap_or_default()),
                _ => break,
            }
        }
        prefix
    }

    /// The address below the target as TileJSON writes it, for one layer if the template keeps them apart: z, x and y are
    /// places again. `{-y}` stays as it is, which few clients know.
    #[must_use]
    pub fn address(&self, slice: Slice) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Zoom => "{z}",
                Part::Column => "{x}",
                Part::Row => "{y}",
                Part::TmsRow => "{-y}",
                Part::Layer => self.layer(slice).unwrap_or_default(),
                Part::Version => self.version.as_deref().unwrap_or_default(),
            })
            .collect()
    }
}

/// Whether a name begins as the program's own folder does; there are file systems on which A is a.
fn begins_own_folder(name: &str) -> bool {
    name.get(..OWN_FOLDER.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(OWN_FOLDER))
}

/// Whether it is the name of a file that the program writes right below a target.
fn is_own_file(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["metadata.json", "latest.json", "tiles.json"].contains(&name.as_str()) || name.ends_with(".tiles.json")
}

/// Whether no layer can have a name, because below a target the program keeps it for its own folder and files.
#[must_use]
pub fn is_own_name(name: &str) -> bool {
    begins_own_folder(name) || is_own_file(name)
}

/// Whether a name fits some parts of a template.
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

/// Decimal digits without a sign or leading zeros: each number has one way of writing.
fn plain_number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// A name as one part of a path and of a URL.
pub(super) fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => text.push(byte.into()),
            b'.' if !matches!(name, "." | "..") => text.push('.'),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests;
