//! What the user sets for buckets. Defaults stand in `sample-config.toml`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{BucketError, BucketShared};
use crate::encode::TileFormat;
use crate::hex::hex;
use crate::setting::{Named, TextByZoom, TimeSpan, by_name, names_schema, no_key_is_required};
use crate::tile::{TileId, TileText, TileTextNames, Zoom, ZoomList};

// `sample-config.toml` says what each key means.
/// The section `[s3]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub struct S3Section {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    pub path_style: bool,
    pub in_flight: NonZeroUsize,
    pub attempts: u32,
    pub attempt_timeout: TimeSpan,
    pub request_timeout: TimeSpan,
    pub lease: TimeSpan,
    pub conditional_writes: bool,
    pub checksums: bool,
    pub part_size_mb: u64,
    pub cache_control: Option<TextByZoom>,
    pub notes_cache_control: String,
    pub metadata: Option<BTreeMap<String, String>>,
    pub storage_class: Option<String>,
    #[serde(deserialize_with = "by_name")]
    #[schemars(schema_with = "names_schema::<Encryption>")]
    pub encryption: Encryption,
    pub kms_key: Option<String>,
}

impl S3Section {
    /// The size of a part of an archive that is uploaded in parts, in bytes.
    pub const fn part_size(&self) -> u64 {
        self.part_size_mb << 20
    }

    /// Refuses numbers that no request can use: the key, and what is wrong.
    pub(crate) fn numbers_fit(&self) -> Result<(), (&'static str, String)> {
        let numbers = [
            ("attempts", u64::from(self.attempts), 1..=100),
            // S3 takes no smaller parts ("Amazon S3 multipart upload limits").
            ("part_size_mb", self.part_size_mb, 5..=5_000),
        ];
        let odd = numbers.into_iter().find(|(_, number, range)| !range.contains(number));
        odd.map_or(Ok(()), |(key, number, range)| {
            Err((key, format!("{number} must lie between {} and {}", range.start(), range.end())))
        })
    }
}

impl Named for Encryption {
    /// The key of KMS is a key of its own.
    const NAMES: &'static [(&'static str, Encryption)] =
        &[("bucket", Encryption::Bucket), ("AES256", Encryption::Aes256), ("aws:kms", Encryption::Kms { key: None })];
}

/// How a bucket is reached and how objects are stored.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// How tiles are encoded.
    pub format: TileFormat,
    /// The keys of the section, checked: without a user in `endpoint`, with the key of KMS in `encryption`.
    pub section: S3Section,
    /// Access keys; `None` uses the SDK's default chain of credentials.
    pub keys: Option<S3Keys>,
    /// `Cache-Control` of tiles: the first rule that fits a tile's zoom.
    pub cache_control: Vec<CacheRule>,
    /// `x-amz-meta-NAME` of tiles. Archives have it, too, if the text contains no placeholder of a tile.
    pub metadata: BTreeMap<String, TileText>,
    /// The values of the placeholders in `metadata`.
    pub names: TileTextNames,
    /// What Azure's and Google's services are told beyond the environment.
    pub cloud: CloudSettings,
    /// The client and its connections, which all clones of these options share.
    pub shared: BucketShared,
}

/// Settings of the crate `object_store` by its own names, such as `azure_storage_account_name`; they come before the
/// environment's. Their `Debug` text hides them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CloudSettings(pub BTreeMap<String, String>);

impl fmt::Debug for CloudSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudSettings(…)")
    }
}

/// Access keys; their `Debug` text hides them.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    /// The access key's id.
    pub key: String,
    pub secret: String,
    /// The session token of temporary keys.
    pub session: Option<String>,
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Keys(…)")
    }
}

/// A `Cache-Control` for some zooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRule {
    /// The zooms; `None` for all.
    pub zooms: Option<ZoomList>,
    /// The header's value (RFC 9111, section 5.2.2).
    pub value: String,
}

/// How the server encrypts objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket says.
    #[default]
    Bucket,
    /// With S3's own key.
    Aes256,
    /// With a key of AWS KMS. An object's `ETag` then is not the MD5 of its bytes, so tiles cannot be compared: every
    /// seed writes all of them again.
    Kms {
        /// The key; `None` for the account's own key for S3.
        key: Option<String>,
    },
}

impl BucketOptions {
    /// The `Cache-Control` of a tile.
    pub(crate) fn cache_control_at(&self, zoom: Zoom) -> Option<&str> {
        let fits = |rule: &&CacheRule| rule.zooms.as_ref().is_none_or(|zooms| zooms.contains(zoom));
        self.cache_control.iter().find(fits).map(|rule| rule.value.as_str())
    }

    pub(crate) fn metadata_of(&self, tile: TileId) -> HashMap<String, String> {
        self.metadata.iter().map(|(name, text)| (name.clone(), text.of_tile(tile, &self.names))).collect()
    }

    pub(crate) fn archive_metadata(&self) -> HashMap<String, String> {
        let of_all = |(name, text): (&String, &TileText)| Some((name.clone(), text.of_tileset(&self.names)?));
        self.metadata.iter().filter_map(of_all).collect()
    }

    /// True if tiles carry the tag of their band of zooms, by which CDNs can purge them.
    pub fn has_band(&self) -> bool {
        self.metadata.values().any(TileText::has_band)
    }

    /// True if tiles carry the tag of the tileset, by which CDNs can purge all of them.
    pub(crate) fn has_name(&self) -> bool {
        self.metadata.values().any(TileText::has_name)
    }

    /// Identifies the headers that are sent with each tile: 32 hexadecimal digits, which differ for other headers,
    /// names or layers.
    pub fn headers_digest(&self) -> String {
        let metadata: Vec<String> = self.metadata.iter().map(|(name, text)| format!("{name}={text}")).collect();
        let rules: Vec<String> = self
            .cache_control
            .iter()
            .map(|rule| format!("{}={}", rule.zooms.as_ref().map(ToString::to_string).unwrap_or_default(), rule.value))
            .collect();
        let parts =
            [metadata.join("\n"), rules.join("\n"), self.names.tag.as_str().to_owned(), self.names.layers.join("\n")];
        let text = format!("{}\n\n{:?}\n{:?}", parts.join("\n\n"), self.section.storage_class, self.section.encryption);
        hex(&Sha256::digest(text)[..16])
    }
}

/// Removes the user and password from a URL. Requests to S3 do not use them: they are signed with the access keys.
pub fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) if scheme.is_empty() => rest[at + 1..].to_owned(),
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

impl BucketOptions {
    /// Refuses settings that cannot be used in a request.
    pub(crate) fn check(&self) -> Result<(), BucketError> {
        let wrong = |what: String| Err(BucketError::Setting { what });
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let values = self.cache_control.iter().map(|rule| ("cache_control", rule.value.clone()));
        let values = values.chain([("notes_cache_control", self.section.notes_cache_control.clone())]);
        let values = values.chain(self.metadata.iter().map(|(name, text)| (name.as_str(), text.to_string())));
        for (name, value) in values {
            if !visible(&value) {
                return wrong(format!("{name} = \"{}\" is no header: write letters of ASCII", value.escape_debug()));
            }
        }
        for name in self.metadata.keys() {
            let token =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || !name.bytes().all(token) {
                return wrong(format!("the name \"{name}\" of metadata is no header: write a-z, 0-9, - _ and ."));
            }
        }
        if let Some(endpoint) = &self.section.endpoint {
            let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic())) {
                return wrong(format!(
                    "endpoint = \"{}\" is no address: write https://host or http://host:port",
                    without_user(endpoint)
                ));
            }
        }
        if let Err((key, what)) = self.section.numbers_fit() {
            return wrong(format!("{key} = {what}"));
        }
        if self.section.lease.is_zero() {
            return wrong("lease has to be longer than nothing".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::without_user;

    #[test]
    fn users_and_passwords_are_taken_out_of_addresses() {
        for (url, shown) in [
            ("https://minio.example.org:9000", "https://minio.example.org:9000"),
            ("https://me:hunter2@minio.example.org:9000/x", "https://minio.example.org:9000/x"),
            ("http://hunter2@h", "http://h"),
            ("http://me:hun@ter2@h?a=b", "http://h?a=b"),
            ("me:hunter2@h", "h"),
            ("https://h/a@b", "https://h/a@b"),
        ] {
            assert_eq!(without_user(url), shown);
        }
    }
}
