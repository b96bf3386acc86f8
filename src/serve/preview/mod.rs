//! The preview: one page that draws every layer of the target with MapLibre GL JS, over no other map.
//!
//! The program holds the page, its script and its style (`page.html`, `preview.js`, `preview.css`). MapLibre itself is not part of it: the
//! page loads it from a public CDN, with the hash that it must have, or from a folder that the operator names.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::http::answer::{self, Answer};

/// The version of MapLibre GL JS for which the page is written, and under which the CDN has it.
const MAPLIBRE: &str = "https://unpkg.com/maplibre-gl@5.24.1/dist/";

/// What the CDN's files must hash to (Subresource Integrity): `maplibre-gl.js` and `maplibre-gl.css`.
const SCRIPT_HASH: &str = "sha384-nXMl9YiLoSG5KBPTFgvxVuIqQQcqIvo0bFrvoEaGJC6r7IibIzF1S36Zbf/sKBtL";
const STYLE_HASH: &str = "sha384-uTttxo/aOKbdE5RlD/SPzSDoDmNvGlUYPjONi2MN/b7c9HPSvW07OIuyP7uL6jxK";

/// The page with the map.
pub(crate) struct PreviewPage {
    /// The folder with `maplibre-gl.js` and `maplibre-gl.css`; without it the CDN.
    pub(crate) assets: Option<PathBuf>,
}

impl PreviewPage {
    /// The page.
    pub(crate) fn page(&self, public_url: &str) -> Answer {
        let hash = |value: &str| format!(" integrity=\"{value}\" crossorigin=\"anonymous\"");
        let (folder, script, style) = match self.assets {
            Some(_) => ("assets/", String::new(), String::new()),
            None => (MAPLIBRE, hash(SCRIPT_HASH), hash(STYLE_HASH)),
        };
        let page = include_str!("page.html")
            .replace("{{MAPLIBRE}}", folder)
            .replace("{{SCRIPT_INTEGRITY}}", &script)
            .replace("{{STYLE_INTEGRITY}}", &style)
            .replace("{{PUBLIC_URL}}", &escaped(public_url));
        let mut answer = file("text/html; charset=utf-8", page.into());
        let elsewhere = if self.assets.is_some() { "" } else { " https://unpkg.com" };
        // MapLibre makes its workers from blobs, and draws icons from data.
        let policy = format!(
            "default-src 'none'; script-src 'self'{elsewhere}; style-src 'self' 'unsafe-inline'{elsewhere}; img-src 'self' data: blob:; worker-src blob:; child-src blob:; connect-src 'self' {}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
            origin(public_url)
        );
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    /// A file of the page.
    pub(crate) fn asset(&self, name: &str) -> Answer {
        let missing = || answer::error(StatusCode::NOT_FOUND, "there is nothing of this name");
        match (name, &self.assets) {
            ("preview.js", _) => file("text/javascript", Bytes::from_static(include_bytes!("preview.js"))),
            ("preview.css", _) => file("text/css", Bytes::from_static(include_bytes!("preview.css"))),
            // These names alone: nothing else of the folder is shown.
            ("maplibre-gl.js", Some(folder)) => read(folder, name, "text/javascript").unwrap_or_else(missing),
            ("maplibre-gl.css", Some(folder)) => read(folder, name, "text/css").unwrap_or_else(missing),
            _ => missing(),
        }
    }
}

/// A file of the operator's folder; `None` and a warning if it cannot be read.
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
    let mut answer = Response::new(Full::new(body));
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

/// A text as it may stand in an attribute between double quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}
