//! The preview: one page that draws every layer of the target with MapLibre GL JS over a base map.
//!
//! | file | what is in it |
//! |---|---|
//! | `embedded` | the files that are part of the program as they are: MapLibre, the base map, names of places, glyphs |
//! | `style` | how layers are drawn, for the page's script and for `preview --style` |
//!
//! The folder `page` has the page: HTML, CSS, and a script in parts that are put one after the other.
//!
//! [`standalone`] makes the same page as one file, for the user's own web server; it loads MapLibre from a CDN and has
//! no base map of its own.

mod embedded;
mod style;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

pub(crate) use embedded::{BASEMAP_MAXZOOM, basemap_tile};
use embedded::{BasemapTile, Packed};
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};
pub(crate) use style::style;

use super::error::ServeError;
use super::http::answer::{Answer, Content, Encoding, Freshness, holds};
use super::http::route::{CHANGES, FONTS};
use crate::encode::TileFormat;
use crate::hex::hex;
use crate::serve::http::answer;

/// The address on a CDN of the MapLibre GL JS version that is part of the program.
const MAPLIBRE: &str = "https://unpkg.com/maplibre-gl@5.24.1/dist/";

/// The files of MapLibre that the page loads.
const MAPLIBRE_FILES: [&str; 2] = ["maplibre-gl.js", "maplibre-gl.css"];

/// The hashes that the CDN's files must have (Subresource Integrity): of `maplibre-gl.js` and `maplibre-gl.css`.
const SCRIPT_HASH: &str = "sha384-nXMl9YiLoSG5KBPTFgvxVuIqQQcqIvo0bFrvoEaGJC6r7IibIzF1S36Zbf/sKBtL";
const STYLE_HASH: &str = "sha384-uTttxo/aOKbdE5RlD/SPzSDoDmNvGlUYPjONi2MN/b7c9HPSvW07OIuyP7uL6jxK";

/// The address of the base map's tiles, relative to the page.
const BASEMAP_TILES: &str = "assets/basemap-{z}-{x}-{y}.pbf";

/// How long browsers keep a tile of the base map, or glyphs, without asking: only a new version of the program changes
/// it.
const BASEMAP_CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=86400");

/// Where the page loads MapLibre GL JS from: `maplibre-gl.js` and `maplibre-gl.css`.
#[derive(Debug)]
pub(crate) enum MapClient {
    /// The program itself.
    Program,
    /// A folder of the operator.
    Folder(PathBuf),
}

impl MapClient {
    /// The operator's folder if one is given, otherwise the program's own files.
    /// Fails if the folder is given and its files cannot be read: the map would stay empty.
    pub(crate) fn of(assets: Option<PathBuf>) -> Result<MapClient, ServeError> {
        let Some(folder) = assets else { return Ok(MapClient::Program) };
        for name in MAPLIBRE_FILES {
            let path = folder.join(name);
            std::fs::File::open(&path).map_err(|source| ServeError::Assets { path, source })?;
        }
        Ok(MapClient::Folder(folder))
    }
}

/// The parts of the page's script, in their order.
const SCRIPT: [&str; 8] = [
    include_str!("page/base.js"),
    include_str!("page/basemap.js"),
    include_str!("page/layers.js"),
    include_str!("page/tiles.js"),
    include_str!("page/features.js"),
    include_str!("page/panel.js"),
    include_str!("page/search.js"),
    include_str!("page/start.js"),
];

const STYLE_SHEET: &str = include_str!("page/preview.css");

/// The page's script.
fn script() -> String {
    SCRIPT
        .concat()
        .replace("{{COLOURS}}", style::COLOURS.trim())
        .replace("{{STYLE_LAYERS}}", style::LAYERS.trim())
        .replace("{{EXPRESSIONS}}", style::EXPRESSIONS.trim())
}

/// The page as one file, for another web server. `base` is the URL, with a slash at its end, under which the tiles and
/// their TileJSON are; `basemap` is the URL of a style to draw below them. MapLibre comes from the CDN.
pub(crate) fn standalone(base: &str, basemap: Option<&str>) -> String {
    let hash = |value: &str| format!(" integrity=\"{value}\" crossorigin=\"anonymous\"");
    let page = PageLinks {
        maplibre: MAPLIBRE,
        script_hash: hash(SCRIPT_HASH),
        style_hash: hash(STYLE_HASH),
        base,
        has_changes: false,
        basemap: basemap.unwrap_or_default(),
    };
    page.filled_in()
        .replace("<link rel=\"stylesheet\" href=\"assets/preview.css\">", &format!("<style>\n{STYLE_SHEET}</style>"))
        .replace("<script src=\"assets/preview.js\"></script>", &format!("<script>\n{}</script>", script()))
}

struct PageLinks<'a> {
    /// The folder of MapLibre's files, with a slash at its end.
    maplibre: &'a str,
    /// Attributes with the hashes that MapLibre's files must have; empty for files of this server.
    script_hash: String,
    style_hash: String,
    /// The URL of the tiles, with a slash at its end.
    base: &'a str,
    /// True if the page fetches changed tiles again.
    has_changes: bool,
    /// The address of the base map's tiles, the URL of a style, or nothing.
    basemap: &'a str,
}

impl PageLinks<'_> {
    fn filled_in(&self) -> String {
        include_str!("page/page.html")
            .replace("{{MAPLIBRE}}", self.maplibre)
            .replace("{{SCRIPT_INTEGRITY}}", &self.script_hash)
            .replace("{{STYLE_INTEGRITY}}", &self.style_hash)
            .replace("{{PUBLIC_URL}}", &escaped(self.base))
            .replace("{{CHANGES}}", if self.has_changes { CHANGES } else { "" })
            .replace("{{BASEMAP}}", &escaped(self.basemap))
    }
}

#[derive(Debug)]
pub(crate) struct PreviewPage {
    pub(crate) client: MapClient,
    /// True if the server notifies the page of tiles that change.
    pub(crate) has_changes: bool,
    /// The URL of a style that is drawn below the tiles instead of the program's base map.
    pub(crate) basemap: Option<String>,
}

impl PreviewPage {
    pub(crate) fn page(&self, public_url: &str) -> Answer {
        let page = PageLinks {
            maplibre: "assets/",
            script_hash: String::new(),
            style_hash: String::new(),
            base: public_url,
            has_changes: self.has_changes,
            basemap: self.basemap.as_deref().unwrap_or(BASEMAP_TILES),
        };
        let mut answer = answer::page(page.filled_in());
        // A style names tiles, glyphs and images of any servers.
        let elsewhere = if self.basemap.is_some() { " https: http:" } else { "" };
        // MapLibre creates its workers from `blob:` URLs and draws icons from `data:` URLs.
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:{elsewhere}; worker-src blob:; child-src blob:; connect-src 'self' {}{elsewhere}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
            origin(public_url)
        );
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    /// A file that the page loads.
    pub(crate) fn asset(&self, name: &str, headers: &HeaderMap) -> Answer {
        static OWN_SCRIPT: LazyLock<Option<Packed>> =
            LazyLock::new(|| Packed::new("text/javascript", script().as_bytes()));
        static OWN_STYLE: LazyLock<Option<Packed>> = LazyLock::new(|| Packed::new("text/css", STYLE_SHEET.as_bytes()));
        if let Some(tile) = embedded::named_basemap_tile(name) {
            let freshness = Freshness::of(BASEMAP_CACHE_CONTROL);
            return match tile {
                BasemapTile::Gzip(gzip) => {
                    packed(&Packed { media_type: TileFormat::MVT.media_type, gzip }, headers, &freshness)
                }
                BasemapTile::Empty => answer::empty(StatusCode::NO_CONTENT, TileFormat::MVT.media_type, &freshness),
            };
        }
        if let Some(range) = name.strip_prefix(FONTS) {
            let Some(glyphs) = embedded::glyphs(range) else { return unknown_asset() };
            return packed(&glyphs, headers, &Freshness::of(BASEMAP_CACHE_CONTROL));
        }
        let file = match (name, &self.client) {
            ("preview.js", _) => OWN_SCRIPT.clone(),
            ("preview.css", _) => OWN_STYLE.clone(),
            // Only these names: no other file of the folder is served.
            ("maplibre-gl.js", MapClient::Folder(folder)) => read(folder, name, "text/javascript"),
            ("maplibre-gl.css", MapClient::Folder(folder)) => read(folder, name, "text/css"),
            _ => embedded::file(name),
        };
        let Some(file) = file else { return unknown_asset() };
        packed(&file, headers, &Freshness::of(HeaderValue::from_static("no-cache")))
    }
}

fn unknown_asset() -> Answer {
    answer::error(StatusCode::NOT_FOUND, "there is nothing of this name")
}

/// A file in the encoding that the client accepts, unless the client has it already.
fn packed(file: &Packed, headers: &HeaderMap, freshness: &Freshness) -> Answer {
    let encoding = Encoding::for_client(headers);
    let body = match encoding {
        Encoding::Gzip => file.gzip.clone(),
        Encoding::Identity => match file.unpacked() {
            Some(body) => body,
            None => return answer::error(StatusCode::INTERNAL_SERVER_ERROR, "this file cannot be unpacked"),
        },
    };
    let tag = format!("\"{}\"", hex(&Sha256::digest(&body)[..16]));
    if holds(headers, &tag) {
        return answer::not_modified(&tag, freshness);
    }
    answer::content(Content { body, media_type: file.media_type, encoding, tag: &tag }, freshness)
}

/// The page with links to the maps of several tilesets. It loads no other file.
pub(crate) fn index(page: String) -> Answer {
    let mut answer = answer::page(page);
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    );
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

/// A file of the operator's folder; if it cannot be read, `None`, and a warning in the log.
fn read(folder: &Path, name: &str, media_type: &'static str) -> Option<Packed> {
    match std::fs::read(folder.join(name)) {
        Ok(bytes) => Packed::new(media_type, &bytes),
        Err(error) => {
            tracing::warn!("cannot read {}: {error}", folder.join(name).display());
            None
        }
    }
}

/// The scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..].find('/').map_or(url.len(), |at| begin + at);
    &url[..end]
}

/// The text, escaped for an attribute in double quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}
