//! The names of tiles: a template such as `{z}/{x}/{y}.pbf`. Names are written here and read back in `template/read.rs`.

mod read;

use crate::tile::{Slice, TileId, Zoom};

/// The name of a tile below the target: text with placeholders for z, x, y (or -y), the layer and the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    /// The escaped names of the layers, by their [`LayerId`](crate::tile::LayerId); empty if the template has no `{layer}`.
    layers: Vec<String>,
    /// The escaped name of the version.
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
    /// A placeholder that does not exist.
    #[error(
        "\"{template}\" has the placeholder {{{placeholder}}}: write {{z}}, {{x}}, {{y}}, {{-y}}, {{layer}} or {{version}}"
    )]
    Unknown {
        /// The template.
        template: String,
        /// The text between the braces.
        placeholder: String,
    },
    /// A brace without its partner.
    #[error("\"{0}\" has a brace without its partner: write {{z}}/{{x}}/{{y}}.pbf or the like")]
    Brace(String),
    /// Two tiles would share a name.
    #[error(
        "\"{template}\" has {count} of {placeholder}: each of {{z}}, {{x}} and one of {{y}} and {{-y}} is needed once, {{layer}} and {{version}} at most once"
    )]
    Count {
        /// The template.
        template: String,
        /// The placeholder.
        placeholder: &'static str,
        /// How often the template has it.
        count: usize,
    },
    /// Two placeholders side by side cannot be told apart.
    #[error("\"{0}\" has two placeholders side by side: put / or - between them, so that names can be read back")]
    Touching(String),
    /// The name would not be one below the target.
    #[error(
        "\"{0}\" is no name below the target: write no leading /, no empty part, no \".\", no \"..\" and no backslash"
    )]
    Path(String),
    /// Tiles would lie in the program's own folder.
    #[error("\"{0}\" begins with .oar-tiles, where the program keeps its own notes: choose another folder")]
    Own(String),
    /// A folder of tiles would have the name of one of the program's own files.
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
    /// Parses a template. [`Template::with_layers`] and [`Template::with_version`] fill in `{layer}` and `{version}`, if it has them.
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
            let Some((placeholder, after)) = from.strip_prefix('{').and_then(|from| from.split_once('}')) else {
                return Err(TemplateError::Brace(text.to_owned()));
            };
            parts.push(match placeholder {
                "z" => Part::Zoom,
                "x" => Part::Column,
                "y" => Part::Row,
                "-y" => Part::TmsRow,
                "layer" => Part::Layer,
                "version" => Part::Version,
                _ => {
                    return Err(TemplateError::Unknown {
                        template: text.to_owned(),
                        placeholder: placeholder.to_owned(),
                    });
                }
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
        if let Some((placeholder, count)) = wrong {
            return Err(TemplateError::Count { template: self.text.clone(), placeholder, count });
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

    /// True if each layer of a tile has a name of its own (`{layer}`).
    #[must_use]
    pub fn layers_apart(&self) -> bool {
        self.parts.contains(&Part::Layer)
    }

    /// True if names contain a version (`{version}`).
    #[must_use]
    pub fn is_versioned(&self) -> bool {
        self.parts.contains(&Part::Version)
    }

    /// True if names contain a version and none was filled in. Such a target holds no published tile.
    #[must_use]
    pub fn lacks_version(&self) -> bool {
        self.is_versioned() && self.version.is_none()
    }

    /// Fills in the names of the layers, by their [`LayerId`](crate::tile::LayerId). Characters with a meaning in a path or a URL become
    /// `%` and two hexadecimal digits (RFC 3986, section 2.1).
    #[must_use]
    pub fn with_layers<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Template {
        self.layers = names.into_iter().map(escaped).collect();
        self
    }

    /// Fills in the version.
    #[must_use]
    pub fn with_version(mut self, version: &str) -> Template {
        self.version = Some(escaped(version));
        self
    }

    /// The name of a tile below the target, with `/` between folders.
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

    /// The text that the name of every tile begins with: the prefix of a listing.
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

    /// The text that the names of a column's tiles begin with; `None` if the template has the row or a layer before zoom and column.
    #[must_use]
    pub fn column_prefix(&self, zoom: Zoom, column: u32) -> Option<String> {
        let (mut prefix, mut placed) = (String::new(), 0);
        for part in &self.parts {
            match part {
                Part::Text(text) => prefix.push_str(text),
                Part::Zoom => prefix.push_str(&zoom.to_string()),
                Part::Column => prefix.push_str(&column.to_string()),
                Part::Version => prefix.push_str(self.version.as_deref()?),
                Part::Row | Part::TmsRow | Part::Layer => break,
            }
            placed += usize::from(matches!(part, Part::Zoom | Part::Column));
        }
        (placed == 2).then_some(prefix)
    }

    /// The address of tiles below the target for TileJSON; of one layer if the template keeps layers apart. z, x and y stay placeholders.
    /// `{-y}` stays, too, although few clients know it.
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

/// True if a name begins like the program's own folder, in upper or lower case: some file systems do not distinguish them.
fn begins_own_folder(name: &str) -> bool {
    name.get(..OWN_FOLDER.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(OWN_FOLDER))
}

/// True if the program writes a file of this name directly below a target.
fn is_own_file(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["metadata.json", "latest.json", "tiles.json"].contains(&name.as_str()) || name.ends_with(".tiles.json")
}

/// True if no layer can have this name, because the program uses it for its own folder or files below a target.
#[must_use]
pub fn is_own_name(name: &str) -> bool {
    begins_own_folder(name) || is_own_file(name)
}

/// A name, escaped to be one part of a path and of a URL.
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
