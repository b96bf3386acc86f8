//! The addresses under which a CDN knows a target's tiles.

use super::PurgeItem;
use crate::tile::{TileCoord, Zoom};

/// The addresses of a target's tiles: the CDN's URL and the patterns of names below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileAddresses {
    url: CdnUrl,
    /// Names with `{z}`, `{x}` and `{y}` or `{-y}`: one, or one for each layer if layers are stored separately.
    patterns: Vec<String>,
}

/// The URL under which a CDN caches a target, such as `https://tiles.example.org/facilities/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdnUrl {
    /// `https` or `http`.
    scheme: String,
    /// The host, with its port if it has one.
    host: String,
    /// The path, which begins with a slash; it ends with one unless the URL is that of a single object.
    path: String,
}

/// What is wrong with the URL of a CDN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CdnUrlError {
    /// Not `https://HOST/PATH`.
    #[error("is no whole address: write https://HOST/PATH/, under which clients find the tiles")]
    NotWhole,
    #[error("holds a user or a password, which no cached address has: leave it out")]
    User,
    #[error("has a {0:?}: write an address without spaces, wildcards, parameters and braces")]
    Odd(char),
}

impl std::str::FromStr for CdnUrl {
    type Err = CdnUrlError;

    fn from_str(text: &str) -> Result<CdnUrl, CdnUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(CdnUrlError::NotWhole)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(scheme, "https" | "http") || host.is_empty() {
            return Err(CdnUrlError::NotWhole);
        }
        if host.contains('@') {
            return Err(CdnUrlError::User);
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/%:[]!$&'()+,;=@".contains(c);
        if let Some(odd) = rest.chars().find(|c| !is_plain(*c)) {
            return Err(CdnUrlError::Odd(odd));
        }
        Ok(CdnUrl { scheme: scheme.to_owned(), host: host.to_ascii_lowercase(), path: format!("/{path}") })
    }
}

impl CdnUrl {
    /// The host, with its port if it has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path, which begins with a slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// True if the URL is that of a single object, such as a PMTiles archive, and not of a folder.
    pub fn is_object(&self) -> bool {
        !self.path.ends_with('/')
    }

    /// The whole address of a path at this host.
    pub fn whole(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.host)
    }
}

/// A path at the CDN's host, or all paths that begin with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdnPath {
    /// The path, which begins with a slash. A prefix also ends with one.
    pub path: String,
    /// True if everything that begins with `path` is meant.
    pub is_prefix: bool,
}

impl TileAddresses {
    /// Addresses below a URL: one pattern for each layer if layers are stored separately, else one pattern
    /// ([`Template::address`]).
    ///
    /// [`Template::address`]: crate::target::Template::address
    pub fn new(url: CdnUrl, patterns: Vec<String>) -> TileAddresses {
        TileAddresses { url, patterns }
    }

    pub const fn url(&self) -> &CdnUrl {
        &self.url
    }

    /// True if zooms and columns are folders, so that a prefix stands for a zoom or a column: `{z}` is a folder, `{x}`
    /// a folder below it.
    pub fn have_prefixes(&self) -> bool {
        self.patterns.iter().all(|pattern| pattern.contains("{z}/{x}/") && !split(pattern).0.contains('{'))
    }

    /// How many paths an item stands for: one for each layer that is stored separately.
    pub fn paths_per_tile(&self) -> usize {
        self.patterns.len().max(1)
    }

    /// The paths that an item stands for; none for a tag.
    pub fn paths(&self, item: &PurgeItem) -> Vec<CdnPath> {
        let below = |name: String, is_prefix| CdnPath { path: format!("{}{name}", self.url.path), is_prefix };
        match item {
            PurgeItem::Tile(tile) => self.each(|pattern| below(named(pattern, *tile), false)),
            PurgeItem::Column { zoom, x } => self.each(|pattern| below(folder(pattern, *zoom, Some(*x)), true)),
            PurgeItem::Zoom(zoom) => self.each(|pattern| below(folder(pattern, *zoom, None), true)),
            PurgeItem::Everything => vec![below(String::new(), !self.url.is_object())],
            PurgeItem::Document(name) => vec![below(name.clone(), false)],
            PurgeItem::Tag(_) => Vec::new(),
        }
    }

    fn each(&self, path: impl Fn(&String) -> CdnPath) -> Vec<CdnPath> {
        self.patterns.iter().map(path).collect()
    }
}

/// A pattern before and after its zoom.
fn split(pattern: &str) -> (&str, &str) {
    pattern.split_once("{z}").unwrap_or((pattern, ""))
}

fn named(pattern: &str, tile: TileCoord) -> String {
    pattern
        .replace("{z}", &tile.zoom().to_string())
        .replace("{x}", &tile.x().to_string())
        .replace("{y}", &tile.y().to_string())
        .replace("{-y}", &tile.tms_row().to_string())
}

/// The folder of a zoom, or of a column of it.
fn folder(pattern: &str, zoom: Zoom, x: Option<u32>) -> String {
    let before = split(pattern).0;
    match x {
        Some(x) => format!("{before}{zoom}/{x}/"),
        None => format!("{before}{zoom}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(url: &str, patterns: &[&str]) -> TileAddresses {
        TileAddresses::new(url.parse().unwrap(), patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
    }

    #[test]
    fn items_become_paths_below_the_url() {
        let plain = addresses("https://Tiles.example.org/facilities/", &["{z}/{x}/{y}.pbf"]);
        let tile: TileCoord = "5/21/11".parse().unwrap();
        let zoom = tile.zoom();
        for (item, path, is_prefix) in [
            (PurgeItem::Tile(tile), "/facilities/5/21/11.pbf", false),
            (PurgeItem::Column { zoom, x: 21 }, "/facilities/5/21/", true),
            (PurgeItem::Zoom(zoom), "/facilities/5/", true),
            (PurgeItem::Everything, "/facilities/", true),
            (PurgeItem::Document("tiles.json".to_owned()), "/facilities/tiles.json", false),
        ] {
            assert_eq!(plain.paths(&item), [CdnPath { path: path.to_owned(), is_prefix }]);
        }
        assert_eq!(plain.paths(&PurgeItem::Tag("a".to_owned())), []);
        assert_eq!(plain.url().whole("/a"), "https://tiles.example.org/a");
        let flipped = addresses("http://localhost:8080", &["{z}/{x}/{-y}.mvt"]);
        assert_eq!(flipped.paths(&PurgeItem::Tile(tile))[0].path, "/5/21/20.mvt");
    }

    #[test]
    fn layers_that_are_kept_apart_have_a_path_each() {
        let apart = addresses("https://h/", &["a/{z}/{x}/{y}.pbf", "b/{z}/{x}/{y}.pbf"]);
        assert!(apart.have_prefixes());
        assert_eq!(apart.paths_per_tile(), 2);
        let paths = apart.paths(&PurgeItem::Zoom(Zoom::new(3).unwrap()));
        assert_eq!(paths.iter().map(|path| path.path.as_str()).collect::<Vec<_>>(), ["/a/3/", "/b/3/"]);
        for pattern in ["{x}/{z}/{y}", "{z}-{x}/{y}.pbf", "{y}/{z}/{x}/a"] {
            assert!(!addresses("https://h/", &[pattern]).have_prefixes(), "{pattern}");
        }
    }

    #[test]
    fn an_object_is_purged_by_its_own_address() {
        let archive = addresses("https://h/maps/facilities.pmtiles", &["{z}/{x}/{y}.pbf"]);
        assert!(archive.url().is_object());
        let path = CdnPath { path: "/maps/facilities.pmtiles".to_owned(), is_prefix: false };
        assert_eq!(archive.paths(&PurgeItem::Everything), [path]);
    }

    #[test]
    fn urls_that_no_cache_knows_are_refused() {
        for (text, error) in [
            ("tiles.example.org", CdnUrlError::NotWhole),
            ("ftp://h/", CdnUrlError::NotWhole),
            ("https:///a", CdnUrlError::NotWhole),
            ("https://me:secret@h/", CdnUrlError::User),
            ("https://h/a*", CdnUrlError::Odd('*')),
            ("https://h/a?b", CdnUrlError::Odd('?')),
            ("https://h/a b", CdnUrlError::Odd(' ')),
            ("https://h/{z}", CdnUrlError::Odd('{')),
            ("https://h/a\nb", CdnUrlError::Odd('\n')),
        ] {
            assert_eq!(text.parse::<CdnUrl>(), Err(error), "{text}");
        }
    }
}
