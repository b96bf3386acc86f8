//! The preview: one page that draws every layer of the target with MapLibre GL JS, without a base map.
//!
//! The page, its script and its style are part of the program (`page.html`, `preview.js`, `preview.css`, and
//! `layers.json`: how layers are drawn). [`MapClient`] decides from where MapLibre is loaded. [`standalone`] makes the
//! same page as one file, for the user's own web server.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::error::ServeError;
use super::http::answer::{Answer, AnswerBody};
use crate::serve::http::answer;
use crate::target::{Described, VectorLayer};

/// The address on the CDN of the MapLibre GL JS version for which the page is written.
const MAPLIBRE: &str = "https://unpkg.com/maplibre-gl@5.24.1/dist/";

/// The files of MapLibre that the page loads.
const MAPLIBRE_FILES: [&str; 2] = ["maplibre-gl.js", "maplibre-gl.css"];

/// The hashes that the CDN's files must have (Subresource Integrity): of `maplibre-gl.js` and `maplibre-gl.css`.
const SCRIPT_HASH: &str = "sha384-nXMl9YiLoSG5KBPTFgvxVuIqQQcqIvo0bFrvoEaGJC6r7IibIzF1S36Zbf/sKBtL";
const STYLE_HASH: &str = "sha384-uTttxo/aOKbdE5RlD/SPzSDoDmNvGlUYPjONi2MN/b7c9HPSvW07OIuyP7uL6jxK";

/// Where the page loads MapLibre GL JS from: `maplibre-gl.js` and `maplibre-gl.css`.
#[derive(Debug)]
pub(crate) enum MapClient {
    /// The program itself, built with the feature `embedded-map`.
    #[cfg(feature = "embedded-map")]
    Program,
    /// A folder of the operator.
    Folder(PathBuf),
    /// A public CDN; the files must have the known hashes.
    #[cfg_attr(feature = "embedded-map", expect(dead_code, reason = "the program has the files"))]
    Cdn,
}

impl MapClient {
    /// The operator's folder if one is given, otherwise the program's own files if it has them, otherwise the CDN.
    ///
    /// # Errors
    /// If the folder is given and its files cannot be read: the map would stay empty.
    pub(crate) fn of(assets: Option<PathBuf>) -> Result<MapClient, ServeError> {
        let Some(folder) = assets else {
            #[cfg(feature = "embedded-map")]
            return Ok(MapClient::Program);
            #[cfg(not(feature = "embedded-map"))]
            return Ok(MapClient::Cdn);
        };
        for name in MAPLIBRE_FILES {
            let path = folder.join(name);
            std::fs::File::open(&path).map_err(|source| ServeError::Assets { path, source })?;
        }
        Ok(MapClient::Folder(folder))
    }
}

/// The files of MapLibre, with its licence, that `scripts/assets` has downloaded.
#[cfg(feature = "embedded-map")]
mod embedded {
    pub(crate) const SCRIPT: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/target/assets/maplibre-gl.js"));
    pub(crate) const STYLE: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/target/assets/maplibre-gl.css"));
    pub(crate) const LICENCE: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/target/assets/LICENSE.txt"));
}

/// The page as one file, for another web server. `base` is the URL, with a slash at its end, under which the tiles and
/// their TileJSON are. MapLibre comes from the CDN.
pub(crate) fn standalone(base: &str) -> String {
    linked(true, base, false)
        .replace(
            "<link rel=\"stylesheet\" href=\"assets/preview.css\">",
            concat!("<style>\n", include_str!("preview/preview.css"), "</style>"),
        )
        .replace("<script src=\"assets/preview.js\"></script>", &format!("<script>\n{}</script>", script()))
}

/// The page's script.
fn script() -> String {
    include_str!("preview/preview.js")
        .replace("{{COLOURS}}", &serde_json::json!(COLOURS).to_string())
        .replace("{{BACKGROUND}}", &serde_json::json!(BACKGROUND).to_string())
        .replace("{{STYLE_LAYERS}}", LAYERS.trim())
}

/// The page, with links to MapLibre on the CDN or on this server. If `has_changes` is true, the page fetches changed
/// tiles again.
fn linked(from_cdn: bool, base: &str, has_changes: bool) -> String {
    let hash = |value: &str| format!(" integrity=\"{value}\" crossorigin=\"anonymous\"");
    let (folder, script, style) = if from_cdn {
        (MAPLIBRE, hash(SCRIPT_HASH), hash(STYLE_HASH))
    } else {
        ("assets/", String::new(), String::new())
    };
    include_str!("preview/page.html")
        .replace("{{MAPLIBRE}}", folder)
        .replace("{{SCRIPT_INTEGRITY}}", &script)
        .replace("{{STYLE_INTEGRITY}}", &style)
        .replace("{{PUBLIC_URL}}", &escaped(base))
        .replace("{{CHANGES}}", if has_changes { "changes" } else { "" })
}

#[derive(Debug)]
pub(crate) struct PreviewPage {
    pub(crate) client: MapClient,
    /// True if the server notifies the page of tiles that change.
    pub(crate) has_changes: bool,
}

impl PreviewPage {
    pub(crate) fn page(&self, public_url: &str) -> Answer {
        let from_cdn = matches!(self.client, MapClient::Cdn);
        let page = linked(from_cdn, public_url, self.has_changes);
        let mut answer = file("text/html; charset=utf-8", page.into());
        // Only the folder of this version: everybody can publish files on the CDN.
        let elsewhere = if from_cdn { format!(" {MAPLIBRE}") } else { String::new() };
        // MapLibre creates its workers from `blob:` URLs and draws icons from `data:` URLs.
        let policy = format!(
            "default-src 'none'; script-src 'self'{elsewhere}; style-src 'self' 'unsafe-inline'{elsewhere}; img-src 'self' data: blob:; worker-src blob:; child-src blob:; connect-src 'self' {}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
            origin(public_url)
        );
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    /// A file that the page loads.
    pub(crate) fn asset(&self, name: &str) -> Answer {
        let missing = || answer::error(StatusCode::NOT_FOUND, "there is nothing of this name");
        match (name, &self.client) {
            ("preview.js", _) => file("text/javascript", script().into()),
            ("preview.css", _) => file("text/css", Bytes::from_static(include_bytes!("preview/preview.css"))),
            // Only these names: no other file of the folder is served.
            ("maplibre-gl.js", MapClient::Folder(folder)) => {
                read(folder, name, "text/javascript").unwrap_or_else(missing)
            }
            ("maplibre-gl.css", MapClient::Folder(folder)) => read(folder, name, "text/css").unwrap_or_else(missing),
            #[cfg(feature = "embedded-map")]
            ("maplibre-gl.js", MapClient::Program) => file("text/javascript", Bytes::from_static(embedded::SCRIPT)),
            #[cfg(feature = "embedded-map")]
            ("maplibre-gl.css", MapClient::Program) => file("text/css", Bytes::from_static(embedded::STYLE)),
            #[cfg(feature = "embedded-map")]
            ("maplibre-gl-LICENSE.txt", MapClient::Program) => {
                file("text/plain", Bytes::from_static(embedded::LICENCE))
            }
            _ => missing(),
        }
    }
}

/// The page with links to the maps of several tilesets. It loads no other file.
pub(crate) fn index(page: String) -> Answer {
    let mut answer = file("text/html; charset=utf-8", page.into());
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    );
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

/// A file of the operator's folder; if it cannot be read, `None`, and a warning in the log.
fn read(folder: &Path, name: &str, media_type: &'static str) -> Option<Answer> {
    match std::fs::read(folder.join(name)) {
        Ok(bytes) => Some(file(media_type, bytes.into())),
        Err(error) => {
            tracing::warn!("cannot read {}: {error}", folder.join(name).display());
            None
        }
    }
}

fn file(media_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(AnswerBody::from(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
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

// The map's style as a file of its own: what the preview shows, for the user's own map (MapLibre Style Specification,
// version 8).

/// How a layer is drawn, with placeholders for its name, its source and its colour. The preview's script has the same
/// text.
pub(crate) const LAYERS: &str = include_str!("preview/layers.json");

/// The colours of the layers, which the preview's script has, too.
pub(crate) const COLOURS: [&str; 8] =
    ["#ffd166", "#06d6a0", "#4cc9f0", "#ef476f", "#b388eb", "#f78c6b", "#90be6d", "#f15bb5"];

/// The colour behind the map.
pub(crate) const BACKGROUND: &str = "#0b1524";

/// The zoom from which features are labelled: at lower zooms, labels would hide the map.
const FIRST_LABEL_ZOOM: u8 = 9;

/// The style of a target's tiles. `base` is the URL, with a slash at its end, under which its `tiles.json` is; `label`
/// is the property whose values are shown next to features.
pub(crate) fn style(described: &Described, base: &str, label: Option<&str>) -> Value {
    let mut layers =
        vec![json!({ "id": "background", "type": "background", "paint": { "background-color": BACKGROUND } })];
    for (layer, colour) in described.vector_layers.iter().zip(COLOURS.iter().cycle()) {
        if let Ok(Value::Array(of_layer)) = serde_json::from_str(LAYERS) {
            layers.extend(of_layer.into_iter().map(|one| filled(one, layer, colour)));
        }
        if let Some(label) = label.filter(|label| layer.fields.contains_key(*label)) {
            layers.push(labels(layer, label));
        }
    }
    let mut style = json!({
        "version": 8,
        "name": described.name.as_deref().unwrap_or("tiles"),
        "sources": { "tiles": { "type": "vector", "url": format!("{base}tiles.json") } },
        "layers": layers,
    });
    if let Some(center) = described.center {
        style["center"] = json!([center.longitude, center.latitude]);
        style["zoom"] = center.zoom.into();
    }
    style
}

/// A layer of the style with its placeholders filled in.
fn filled(value: Value, layer: &VectorLayer, colour: &str) -> Value {
    match value {
        Value::String(text) => {
            text.replace("$LAYER", &layer.id).replace("$SOURCE", "tiles").replace("$COLOUR", colour).into()
        }
        Value::Array(values) => values.into_iter().map(|value| filled(value, layer, colour)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, filled(value, layer, colour))).collect(),
        other => other,
    }
}

fn labels(layer: &VectorLayer, property: &str) -> Value {
    json!({
        "id": format!("{}/label", layer.id),
        "type": "symbol",
        "source": "tiles",
        "source-layer": layer.id,
        "minzoom": FIRST_LABEL_ZOOM,
        "filter": ["has", property],
        "layout": {
            "text-field": ["to-string", ["get", property]],
            "text-size": 11,
            "text-variable-anchor": ["left", "right", "top", "bottom"],
            "text-radial-offset": 0.6,
            "text-optional": true,
        },
        "paint": { "text-color": "#ffffff", "text-halo-color": BACKGROUND, "text-halo-width": 1.2 },
    })
}
