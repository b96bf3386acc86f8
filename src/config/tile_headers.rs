//! Headers and metadata with placeholders that each tile fills in. Also checks that the tags by which a CDN purges are sent.

use std::collections::BTreeMap;

use http::HeaderName;

use super::error::ConfigError;
use super::file::{ServeSection, TagHeaderName};
use super::settings::{Check, TilesetSettings};
use crate::purge::PurgeBy;
use crate::serve::{ServeOptions, TileHeader};
use crate::tile::TileText;

impl TagHeaderName {
    /// The header, and its text: the tags with the separator between them.
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            TagHeaderName::CacheTag => ("cache-tag", "{name},{band}"),
            TagHeaderName::SurrogateKey => ("surrogate-key", "{name} {band}"),
            TagHeaderName::CdnTag => ("cdn-tag", "{name},{band}"),
            TagHeaderName::EdgeCacheTag => ("edge-cache-tag", "{name},{band}"),
            TagHeaderName::Xkey => ("xkey", "{name} {band}"),
        }
    }
}

/// Headers that the server sets itself, or that describe how an answer is sent. Prefixes end with `-`.
const OWN_HEADERS: [&str; 18] = [
    "access-control-",
    "accept-ranges",
    "age",
    "cache-control",
    "cache-status",
    "cdn-cache-control",
    "connection",
    "content-",
    "date",
    "etag",
    "keep-alive",
    "server-timing",
    "surrogate-control",
    "timing-allow-origin",
    "transfer-encoding",
    "upgrade",
    "vary",
    "x-content-type-options",
];

impl Check<'_> {
    /// The headers of tiles that the server sends in addition to its own.
    pub(super) fn tile_headers(&self, given: &ServeSection) -> Result<Vec<TileHeader>, ConfigError> {
        let tags = self.present("serve.tag_headers", given.tag_headers.as_deref())?;
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        for (name, text) in tags.iter().map(|tag| tag.parts()) {
            all.insert(name.to_owned(), text.to_owned());
        }
        for (name, text) in given.headers.iter().flatten() {
            let lower = name.to_lowercase();
            let is_own = |own: &str| lower == own || own.ends_with('-') && lower.starts_with(own);
            if OWN_HEADERS.into_iter().any(is_own) {
                let what = format!("\"{name}\" is a header that the server sets itself: leave it out");
                return Err(self.wrong("serve.headers", what));
            }
            if all.insert(lower, text.clone()).is_some() {
                let what = format!("\"{name}\" is given twice, or in tag_headers, too: write it once");
                return Err(self.wrong("serve.headers", what));
            }
        }
        let header = |(name, text): (String, String)| {
            let wrong = |what: String| self.wrong("serve.headers", what);
            let is_name = HeaderName::try_from(name.as_str());
            let header = is_name.map_err(|_invalid| wrong(format!("{name:?} is no name of a header")))?;
            Ok(TileHeader { name: header, text: self.tile_text("serve.headers", &text)? })
        };
        all.into_iter().map(header).collect()
    }

    /// A text for a header.
    pub(super) fn tile_text(&self, key: &str, text: &str) -> Result<TileText, ConfigError> {
        if text.is_empty() || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(self.wrong(key, format!("{text:?} is no header: write letters of ASCII")));
        }
        text.parse().map_err(|error: crate::tile::TileTextError| self.wrong(key, format!("{text:?} {error}")))
    }

    /// Refuses to purge by tags that are not sent, because such a purge would hit nothing.
    pub(super) fn tags_are_sent(&self, tileset: &TilesetSettings, server: &ServeOptions) -> Result<(), ConfigError> {
        let is_by_tag = tileset.purges.iter().any(|purge| purge.by == Some(PurgeBy::Tag));
        let in_server = server.tile_headers.headers.iter().any(|header| header.text.has_band());
        if !is_by_tag || in_server || tileset.s3.headers.has_band() {
            return Ok(());
        }
        Err(self.wrong(
            "purge.by",
            "is \"tag\", and nobody sends tags: name the CDN's header in tag_headers of [serve] (before serve), or write [s3] metadata = { \"cache-tag\" = \"{name},{band}\" } (before a bucket), or purge by = \"path\"".to_owned(),
        ))
    }
}
