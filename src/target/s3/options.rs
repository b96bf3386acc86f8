//! What the user sets for S3. Defaults stand in `sample-config.toml`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::{S3Error, S3Shared};
use crate::hex::hex;
use crate::tile::{TileId, TileText, TileTextNames, Zoom, ZoomList};

/// How a bucket is reached and how objects are stored.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// The server, if it is not Amazon's: `https://minio.example.org:9000`.
    pub endpoint: Option<String>,
    /// The region; `None` takes it from the environment or the profile.
    pub region: Option<String>,
    /// The profile of the shared AWS configuration; `None` takes it from the environment.
    pub profile: Option<String>,
    /// Access keys; `None` uses the SDK's default chain of credentials.
    pub keys: Option<S3Keys>,
    /// Put the bucket's name into the URL's path instead of the host name, as many servers other than Amazon's require.
    pub path_style: bool,
    /// The most requests in flight.
    pub in_flight: NonZeroUsize,
    /// How often a request is tried, 1 or more.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest wait for the answer to one attempt.
    pub attempt_timeout: Duration,
    /// The longest wait for a request with all its attempts.
    pub request_timeout: Duration,
    /// How long a lease on the target lasts after it was taken or renewed.
    pub lease: Duration,
    /// True if the server honours conditional writes, by which a lease is taken. A run proves that it does. With
    /// `false` nothing prevents two runs from writing a target at once.
    pub conditional_writes: bool,
    /// Send and request checksums beyond `Content-MD5` even where S3 does not require them; not every server supports
    /// them.
    pub checksums: bool,
    /// The size of a part of an archive that is uploaded in parts, in bytes; 5 MiB at least (Amazon S3 User Guide,
    /// "Multipart upload limits").
    pub part_size: u64,
    /// The headers of stored objects.
    pub headers: S3Headers,
    /// What Azure's and Google's services are told beyond the environment.
    pub cloud: CloudSettings,
    /// The client and its connections, which all clones of these options share.
    pub shared: S3Shared,
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

/// The headers of stored objects.
#[derive(Debug, Clone, Default)]
pub struct S3Headers {
    /// `Cache-Control` of tiles: the first rule that fits a tile's zoom.
    pub cache_control: Vec<CacheRule>,
    /// `Cache-Control` of TileJSON, metadata and `latest.json`, which change in place.
    pub notes_cache_control: Option<String>,
    /// `x-amz-meta-NAME` of tiles. Archives have it, too, if the text contains no placeholder of a tile.
    pub metadata: BTreeMap<String, TileText>,
    /// The values of the placeholders in `metadata`.
    pub names: TileTextNames,
    /// The storage class of tiles and archives, such as `STANDARD_IA`; `None` for the bucket's default.
    pub storage_class: Option<String>,
    /// How objects are encrypted.
    pub encryption: Encryption,
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

impl S3Headers {
    /// The `Cache-Control` of a tile.
    pub(crate) fn cache_control(&self, zoom: Zoom) -> Option<&str> {
        let fits = |rule: &&CacheRule| rule.zooms.as_ref().is_none_or(|zooms| zooms.contains(zoom));
        self.cache_control.iter().find(fits).map(|rule| rule.value.as_str())
    }

    pub(crate) fn metadata(&self, tile: TileId) -> HashMap<String, String> {
        self.metadata.iter().map(|(name, text)| (name.clone(), text.of_tile(tile, &self.names))).collect()
    }

    pub(crate) fn archive_metadata(&self) -> HashMap<String, String> {
        let of_all = |(name, text): (&String, &TileText)| Some((name.clone(), text.of_tileset(&self.names)?));
        self.metadata.iter().filter_map(of_all).collect()
    }

    /// True if tiles carry the tag of their band of zooms, by which CDNs can purge them.
    #[must_use]
    pub fn has_band(&self) -> bool {
        self.metadata.values().any(TileText::has_band)
    }

    /// Identifies the headers that are sent with each tile: 32 hexadecimal digits, which differ for other headers,
    /// names or layers.
    #[must_use]
    pub fn digest(&self) -> String {
        let metadata: Vec<String> = self.metadata.iter().map(|(name, text)| format!("{name}={text}")).collect();
        let rules: Vec<String> = self
            .cache_control
            .iter()
            .map(|rule| format!("{}={}", rule.zooms.as_ref().map(ToString::to_string).unwrap_or_default(), rule.value))
            .collect();
        let parts =
            [metadata.join("\n"), rules.join("\n"), self.names.tag.as_str().to_owned(), self.names.layers.join("\n")];
        let text = format!("{}\n\n{:?}\n{:?}", parts.join("\n\n"), self.storage_class, self.encryption);
        hex(&Sha256::digest(text)[..16])
    }
}

/// Removes the user and password from a URL. Requests to S3 do not use them: they are signed with the access keys.
#[must_use]
pub fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) if scheme.is_empty() => rest[at + 1..].to_owned(),
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

impl S3Options {
    /// Refuses settings that cannot be used in a request.
    pub(crate) fn check(&self) -> Result<(), S3Error> {
        let wrong = |what: String| Err(S3Error::Setting { what });
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let values = self.headers.cache_control.iter().map(|rule| ("cache_control", rule.value.clone()));
        let values = values.chain(self.headers.notes_cache_control.clone().map(|value| ("notes_cache_control", value)));
        let values = values.chain(self.headers.metadata.iter().map(|(name, text)| (name.as_str(), text.to_string())));
        for (name, value) in values {
            if !visible(&value) {
                return wrong(format!("{name} = \"{}\" is no header: write letters of ASCII", value.escape_debug()));
            }
        }
        for name in self.headers.metadata.keys() {
            let token =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || !name.bytes().all(token) {
                return wrong(format!("the name \"{name}\" of metadata is no header: write a-z, 0-9, - _ and ."));
            }
        }
        if let Some(endpoint) = &self.endpoint {
            let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
            if host.is_none_or(|host| host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic())) {
                return wrong(format!(
                    "endpoint = \"{}\" is no address: write https://host or http://host:port",
                    without_user(endpoint)
                ));
            }
        }
        if self.attempts == 0 || self.part_size < 5 << 20 || self.lease.is_zero() {
            return wrong(
                "attempts has to be 1 or more, part_size 5 MiB or more, and the lease longer than nothing".to_owned(),
            );
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
