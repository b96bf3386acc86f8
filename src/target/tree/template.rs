//! The names of tiles: a template such as `{z}/{x}/{y}.pbf`. Names are written and read
//! back here.

use crate::tile::{LayerId, Slice, TileCoord, TileId, Zoom};

/// The name of a tile below the target: text with placeholders for z, x, y (or -y), the layer and the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    /// The escaped names of the layers, by their [`LayerId`](crate::tile::LayerId); empty if the template has no
    /// `{layer}`.
    layers: Vec<String>,
    /// The escaped name of the version.
    version: Option<String>,
}

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
    #[error(
        "\"{template}\" has the placeholder {{{placeholder}}}: write {{z}}, {{x}}, {{y}}, {{-y}}, {{layer}} or {{version}}"
    )]
    Unknown { template: String, placeholder: String },
    #[error("\"{0}\" has a brace without its partner: write {{z}}/{{x}}/{{y}}.pbf or the like")]
    Brace(String),
    #[error(
        "\"{template}\" has {count} of {placeholder}: each of {{z}}, {{x}} and one of {{y}} and {{-y}} is needed once, {{layer}} and {{version}} at most once"
    )]
    Count { template: String, placeholder: &'static str, count: usize },
    #[error("\"{0}\" has two placeholders side by side: put / or - between them, so that names can be read back")]
    Touching(String),
    #[error(
        "\"{0}\" is no name below the target: write no leading /, no empty part, no \".\", no \"..\" and no backslash"
    )]
    Path(String),
    #[error("\"{0}\" begins with .oar-tiles, where the program keeps its own notes: choose another folder")]
    Own(String),
    /// A folder of tiles would have the name of one of the program's own files.
    #[error("\"{0}\" begins with the name of a file that the program writes itself: choose another folder")]
    OwnFile(String),
}

/// The folder below a target in which the program keeps its lock and its notes.
pub(crate) const OWN_FOLDER: &str = ".oar-tiles";

impl Default for Template {
    /// `{z}/{x}/{y}.pbf`.
    fn default() -> Template {
        let text = |text: &str| Part::Text(text.to_owned());
        let parts = vec![Part::Zoom, text("/"), Part::Column, text("/"), Part::Row, text(".pbf")];
        Template { text: "{z}/{x}/{y}.pbf".to_owned(), parts, layers: Vec::new(), version: None }
    }
}

impl Template {
    /// Parses a template. [`Template::with_layers`] and [`Template::with_version`] fill in `{layer}` and `{version}`,
    /// if it has them.
    /// Fails if two tiles could share a name, or a name could not be read back.
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

    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if each layer of a tile has a name of its own (`{layer}`).
    pub fn layers_apart(&self) -> bool {
        self.parts.contains(&Part::Layer)
    }

    /// True if names contain a version (`{version}`).
    pub fn is_versioned(&self) -> bool {
        self.parts.contains(&Part::Version)
    }

    /// True if names contain a version and none was filled in. Such a target holds no published tile.
    pub fn lacks_version(&self) -> bool {
        self.is_versioned() && self.version.is_none()
    }

    /// Fills in the names of the layers, by their [`LayerId`](crate::tile::LayerId). Characters with a meaning in a
    /// path or a URL become `%` and two hexadecimal digits (RFC 3986, section 2.1).
    #[must_use]
    pub fn with_layers<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Template {
        self.layers = names.into_iter().map(escaped).collect();
        self
    }

    #[must_use]
    pub fn with_version(mut self, version: &str) -> Template {
        self.version = Some(escaped(version));
        self
    }

    /// The name of a tile below the target, with `/` between folders.
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

    /// The text that the names of a column's tiles begin with; `None` if the template has the row or a layer before
    /// zoom and column.
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

    /// The address of tiles below the target for TileJSON; of one layer if the template keeps layers apart. z, x and y
    /// stay placeholders. `{-y}` stays, too, although few clients know it.
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

/// True if a name begins like the program's own folder, in upper or lower case: some file systems do not distinguish
/// them.
fn begins_own_folder(name: &str) -> bool {
    name.get(..OWN_FOLDER.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(OWN_FOLDER))
}

/// True if the program writes a file of this name directly below a target.
fn is_own_file(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["metadata.json", "latest.json", "tiles.json"].contains(&name.as_str()) || name.ends_with(".tiles.json")
}

/// True if no layer can have this name, because the program uses it for its own folder or files below a target.
pub fn is_own_name(name: &str) -> bool {
    begins_own_folder(name) || is_own_file(name)
}

/// A name, escaped to be one part of a path and of a URL.
pub(crate) fn escaped(name: &str) -> String {
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

// Reads names back: which tile has a name, and which folders can hold tiles.

impl Template {
    /// The tile that has this name; `None` if no tile has it, with the layers and the version that are filled in.
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

    /// True if a file or folder of this name, directly below the target, may be a tile or hold tiles. That is so if the
    /// name fits the template up to the template's first `/`, with any layer and any version.
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

/// The number that decimal digits represent; `None` with a sign or leading zeros, so that each number has only one
/// form.
fn plain_number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{LayerId, TileCoord, Zoom};

    fn id(zoom: u8, x: u32, y: u32, slice: Slice) -> TileId {
        TileId { coord: TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap(), slice }
    }

    #[test]
    fn names_are_written_and_read_back() {
        let layers = ["facilities", "facilities grid", "a/b.pbf", "ü"];
        for (text, tile, name) in [
            ("{z}/{x}/{y}.pbf", id(3, 5, 1, Slice::Whole), "3/5/1.pbf"),
            ("{z}/{x}/{-y}.mvt", id(3, 5, 1, Slice::Whole), "3/5/6.mvt"),
            ("t-{y}-{x}-{z}", id(14, 16_383, 0, Slice::Whole), "t-0-16383-14"),
            (
                "tile/{layer}/{version}/{z}/{x}/{y}.pbf",
                id(0, 0, 0, Slice::Layer(LayerId(0))),
                "tile/facilities/v1.2/0/0/0.pbf",
            ),
            (
                "tile/{layer}/{version}/{z}/{x}/{y}.pbf",
                id(0, 0, 0, Slice::Layer(LayerId(1))),
                "tile/facilities%20grid/v1.2/0/0/0.pbf",
            ),
            ("{z}/{x}/{y}-{layer}", id(0, 0, 0, Slice::Layer(LayerId(2))), "0/0/0-a%2Fb.pbf"),
            ("{layer}.{z}.{x}.{y}", id(1, 0, 1, Slice::Layer(LayerId(3))), "%C3%BC.1.0.1"),
        ] {
            let template = Template::new(text).unwrap().with_layers(layers).with_version("v1.2");
            assert_eq!(template.name(tile), name);
            assert_eq!(template.read(name), Some(tile), "{name}");
        }
    }

    #[test]
    fn what_is_no_tile_of_the_template_is_nobodys() {
        let template = Template::new("tiles/{layer}/{z}/{x}/{y}.pbf").unwrap().with_layers(["a", "ab"]);
        assert_eq!(template.read("tiles/ab/0/0/0.pbf"), Some(id(0, 0, 0, Slice::Layer(LayerId(1)))));
        for name in [
            "tiles/c/0/0/0.pbf",
            "tiles/a/0/0/0.pbf.bak",
            "tiles/a/00/0/0.pbf",
            "tiles/a/0/1/0.pbf",
            "tiles/a/23/0/0.pbf",
            "tiles/a/+0/0/0.pbf",
            "tiles/a/0/0/0.png",
            "a/0/0/0.pbf",
            "tiles/a/0/0/",
            "",
            "tiles/a/0/0/99999999999.pbf",
            "tiles/a/0/0/.pbf",
            "tiles/a/-1/0/0.pbf",
        ] {
            assert_eq!(template.read(name), None, "{name}");
        }
        let versioned = Template::new("{version}/{z}/{x}/{y}").unwrap();
        assert_eq!(versioned.clone().with_version("1").read("2/0/0/0"), None);
        assert_eq!((versioned.prefix(), versioned.with_version("1").prefix()), (String::new(), "1/".to_owned()));
    }

    #[test]
    fn a_template_that_cannot_be_read_back_is_refused() {
        for (text, message) in [
            (
                "{z}/{x}",
                "\"{z}/{x}\" has 0 of {y} and {-y}: each of {z}, {x} and one of {y} and {-y} is needed once, {layer} and {version} at most once",
            ),
            (
                "{z}/{x}/{y}/{-y}",
                "\"{z}/{x}/{y}/{-y}\" has 2 of {y} and {-y}: each of {z}, {x} and one of {y} and {-y} is needed once, {layer} and {version} at most once",
            ),
            (
                "{z}/{x}/{y}{layer}",
                "\"{z}/{x}/{y}{layer}\" has two placeholders side by side: put / or - between them, so that names can be read back",
            ),
            (
                "{z}/{x}/{y}.{ext}",
                "\"{z}/{x}/{y}.{ext}\" has the placeholder {ext}: write {z}, {x}, {y}, {-y}, {layer} or {version}",
            ),
            ("{z}/{x}/{y", "\"{z}/{x}/{y\" has a brace without its partner: write {z}/{x}/{y}.pbf or the like"),
            (
                "/{z}/{x}/{y}",
                "\"/{z}/{x}/{y}\" is no name below the target: write no leading /, no empty part, no \".\", no \"..\" and no backslash",
            ),
            (
                "../{z}/{x}/{y}",
                "\"../{z}/{x}/{y}\" is no name below the target: write no leading /, no empty part, no \".\", no \"..\" and no backslash",
            ),
            (
                ".oar-tiles/{z}/{x}/{y}",
                "\".oar-tiles/{z}/{x}/{y}\" begins with .oar-tiles, where the program keeps its own notes: choose another folder",
            ),
            (
                ".OAR-tiles/{z}/{x}/{y}",
                "\".OAR-tiles/{z}/{x}/{y}\" begins with .oar-tiles, where the program keeps its own notes: choose another folder",
            ),
            (
                "a.tiles.json/{z}/{x}/{y}",
                "\"a.tiles.json/{z}/{x}/{y}\" begins with the name of a file that the program writes itself: choose another folder",
            ),
        ] {
            assert_eq!(Template::new(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_folder_is_looked_into_only_if_a_tile_can_lie_below_it() {
        let layers = ["facilities", "fac", "a/b"];
        for (text, may, may_not) in [
            (
                "{z}/{x}/{y}.pbf",
                &["0", "22", "3/4194303"][..],
                &["23", "00", "proc", "3/a", "3/5/1", "3/5/1.pbf", ".oar-tiles", "3a"][..],
            ),
            ("t/{z}-{x}/{y}", &["t", "t/3-5"], &["3", "tt", "t/3", "t/3-", "t/-5", "t/3-5/7"]),
            ("{layer}/{z}/{x}/{y}", &["facilities", "fac", "a%2Fb/3"], &["a", "b/3", "facility"]),
            ("{version}/{z}/{x}/{y}", &["v1", "v1/0"], &["v2", "v1x", "v1/x", "v"]),
            ("x{z}0/{x}/{y}", &["x10", "x10/5"], &["10", "y10"]),
        ] {
            let template = Template::new(text).unwrap().with_layers(layers).with_version("v1");
            for folder in may {
                assert!(template.may_hold(folder), "{text} {folder}");
            }
            for folder in may_not {
                assert!(!template.may_hold(folder), "{text} {folder}");
            }
        }
    }

    #[test]
    fn addresses_have_places_again() {
        let template =
            Template::new("tile/{layer}/{version}/{z}/{x}/{y}.pbf").unwrap().with_layers(["a b"]).with_version("7");
        assert_eq!(template.address(Slice::Layer(LayerId(0))), "tile/a%20b/7/{z}/{x}/{y}.pbf");
    }

    #[test]
    fn what_may_hold_tiles_of_any_layer_or_version_is_told_by_its_name() {
        for (template, may, may_not) in [
            ("{z}/{x}/{y}.pbf", &["0", "14", "99"][..], &["", "a", "1a", "-1", "a1", "é"][..]),
            ("{layer}/{z}/{x}/{y}.pbf", &["a", "a b", "é", "0"], &[""]),
            ("tile-{version}/{z}/{x}/{y}.pbf", &["tile-1", "tile-é"], &["tile-", "tile", "1"]),
            ("{z}-{x}-{y}.pbf", &["1-2-3.pbf", "01-2-3.pbf"], &["1-2.pbf", "1-2-3.pbf.gz", "1--3.pbf"]),
            ("t/{z}/{x}/{y}.pbf", &["t"], &["tt", "0"]),
        ] {
            let template = Template::new(template).unwrap();
            for name in may {
                assert!(template.may_begin_with(name), "{template:?} {name:?}");
            }
            for name in may_not {
                assert!(!template.may_begin_with(name), "{template:?} {name:?}");
            }
        }
    }
}
