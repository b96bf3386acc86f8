//! The section `[s3]`, checked.

use super::error::ConfigError;
use super::file::{CacheControl, EncryptionName, S3Section};
use super::settings::Check;
use crate::sink::{CacheRule, Encryption, S3Headers, S3Options, S3Shared, without_user};
use crate::tile::TileTextNames;

impl Check<'_> {
    /// The checked section.
    pub(super) fn s3(&self, given: &S3Section, names: TileTextNames) -> Result<S3Options, ConfigError> {
        let encryption = match (self.present("s3.encryption", given.encryption)?, &given.kms_key) {
            (EncryptionName::Kms, key) => Encryption::Kms { key: key.clone() },
            (_, Some(_)) => {
                return Err(self.wrong("s3.kms_key", "needs encryption = \"aws:kms\" beside it".to_owned()));
            }
            (EncryptionName::Aes256, None) => Encryption::Aes256,
            (EncryptionName::Bucket, None) => Encryption::Bucket,
        };
        let attempts = self.present("s3.attempts", given.attempts)?;
        let part_size = self.present("s3.part_size_mb", given.part_size_mb)?;
        Ok(S3Options {
            endpoint: given.endpoint.as_deref().map(without_user),
            region: given.region.clone(),
            profile: given.profile.clone(),
            keys: None,
            path_style: self.present("s3.path_style", given.path_style)?,
            in_flight: self.present("s3.in_flight", given.in_flight)?,
            attempts: self.within("s3.attempts", attempts, 1..=100)?,
            backoff: self.present("s3.backoff", given.backoff)?,
            connect_timeout: self.present("s3.connect_timeout", given.connect_timeout)?,
            attempt_timeout: self.present("s3.attempt_timeout", given.attempt_timeout)?,
            request_timeout: self.present("s3.request_timeout", given.request_timeout)?,
            lease: self.present("s3.lease", given.lease)?,
            conditional_writes: self.present("s3.conditional_writes", given.conditional_writes)?,
            checksums: self.present("s3.checksums", given.checksums)?,
            part_size: self.within("s3.part_size_mb", part_size, 5..=5_000)? << 20,
            headers: S3Headers {
                cache_control: self.cache_rules("s3.cache_control", given.cache_control.as_ref())?,
                notes_cache_control: given.notes_cache_control.clone(),
                metadata: given
                    .metadata
                    .iter()
                    .flatten()
                    .map(|(name, text)| Ok((name.clone(), self.tile_text("s3.metadata", text)?)))
                    .collect::<Result<_, ConfigError>>()?,
                names,
                storage_class: given.storage_class.clone(),
                encryption,
            },
            shared: S3Shared::default(),
        })
    }

    /// `Cache-Control` by zoom.
    pub(super) fn cache_rules(&self, key: &str, given: Option<&CacheControl>) -> Result<Vec<CacheRule>, ConfigError> {
        let wrong = |zooms: &str, what: String| self.wrong(key, format!("\"{zooms}\": {what}"));
        match given {
            None => Ok(Vec::new()),
            Some(CacheControl::All(value)) => Ok(vec![CacheRule { zooms: None, value: value.clone() }]),
            Some(CacheControl::ByZoom(table)) => table
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
