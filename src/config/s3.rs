//! The section `[s3]`, checked.

use std::collections::BTreeMap;

use http::HeaderName;

use super::error::ConfigError;
use super::settings::{Check, TilesetSettings};
use crate::cdn::PurgeBy;
use crate::encode::TileFormat;
use crate::serve::{ServeOptions, ServeSection, TagHeader, TileHeader};
use crate::setting::TextByZoom;
use crate::target::{BucketOptions, BucketShared, CacheRule, CloudSettings, Encryption, S3Section, without_user};
use crate::tile::{TileText, TileTextNames};

impl Check<'_> {
    pub(crate) fn s3(
        &self,
        given: &S3Section,
        names: TileTextNames,
        format: TileFormat,
    ) -> Result<BucketOptions, ConfigError> {
        let encryption = match (&given.encryption, &given.kms_key) {
            (Encryption::Kms { .. }, key) => Encryption::Kms { key: key.clone() },
            (_, Some(_)) => {
                return Err(self.wrong("s3.kms_key", "needs encryption = \"aws:kms\" beside it".to_owned()));
            }
            (other, None) => other.clone(),
        };
        given.numbers_fit().map_err(|(key, what)| self.wrong(&format!("s3.{key}"), what))?;
        let metadata = given.metadata.iter().flatten();
        Ok(BucketOptions {
            format,
            cache_control: self.cache_rules("s3.cache_control", given.cache_control.as_ref())?,
            metadata: metadata
                .map(|(name, text)| Ok((name.clone(), self.tile_text("s3.metadata", text)?)))
                .collect::<Result<_, ConfigError>>()?,
            names,
            keys: None,
            cloud: CloudSettings::default(),
            shared: BucketShared::default(),
            section: S3Section { endpoint: given.endpoint.as_deref().map(without_user), encryption, ..given.clone() },
        })
    }

    pub(crate) fn cache_rules(&self, key: &str, given: Option<&TextByZoom>) -> Result<Vec<CacheRule>, ConfigError> {
        let wrong = |zooms: &str, what: String| self.wrong(key, format!("\"{zooms}\": {what}"));
        match given {
            None => Ok(Vec::new()),
            Some(TextByZoom::All(value)) => Ok(vec![CacheRule { zooms: None, value: value.clone() }]),
            Some(TextByZoom::ByZoom(table)) => table
                .iter()
                .map(|(zooms, value)| match value {
                    toml::Value::String(value) => {
                        let list =
                            zooms.parse().map_err(|error: crate::tile::ZoomError| wrong(zooms, error.to_string()))?;
                        Ok(CacheRule { zooms: Some(list), value: value.clone() })
                    }
                    _ => Err(wrong(zooms, "its value is no text: write the header in quotes".to_owned())),
                })
                .collect(),
        }
    }
}

// Headers and metadata with placeholders that each tile fills in. Also checks that the tags by which a CDN purges are
// sent.

impl TagHeader {
    /// The header, and its text: the tags with the separator between them.
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            TagHeader::CacheTag => ("cache-tag", "{name},{band}"),
            TagHeader::SurrogateKey => ("surrogate-key", "{name} {band}"),
            TagHeader::CdnTag => ("cdn-tag", "{name},{band}"),
            TagHeader::EdgeCacheTag => ("edge-cache-tag", "{name},{band}"),
            TagHeader::Xkey => ("xkey", "{name} {band}"),
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
    pub(crate) fn tile_headers(&self, given: &ServeSection) -> Result<Vec<TileHeader>, ConfigError> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        for (name, text) in given.tag_headers.iter().map(|tag| tag.parts()) {
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

    pub(crate) fn tile_text(&self, key: &str, text: &str) -> Result<TileText, ConfigError> {
        if text.is_empty() || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(self.wrong(key, format!("{text:?} is no header: write letters of ASCII")));
        }
        text.parse().map_err(|error: crate::tile::TileTextError| self.wrong(key, format!("{text:?} {error}")))
    }

    /// Refuses to purge by tags that are not sent, because such a purge would hit nothing.
    pub(crate) fn tags_are_sent(&self, tileset: &TilesetSettings, server: &ServeOptions) -> Result<(), ConfigError> {
        let is_by_tag = tileset.purges.iter().any(|purge| purge.section.by == Some(PurgeBy::Tag));
        let of_server = || server.tile_headers.headers.iter().map(|header| &header.text);
        if !is_by_tag {
            return Ok(());
        }
        if of_server().any(TileText::has_band) || tileset.bucket.has_band() {
            if of_server().any(TileText::has_name) || tileset.bucket.has_name() {
                return Ok(());
            }
            let what = "is \"tag\", and tiles carry {band} without {name}, by which all of them are purged at once: write both into the header".to_owned();
            return Err(self.wrong("purge.by", what));
        }
        Err(self.wrong(
            "purge.by",
            "is \"tag\", and nobody sends tags: name the CDN's header in tag_headers of [serve] (before serve), or write [s3] metadata = { \"cache-tag\" = \"{name},{band}\" } (before a bucket), or purge by = \"path\"".to_owned(),
        ))
    }
}
