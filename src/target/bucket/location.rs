//! The service, the bucket and the prefix or key of a target in a bucket.

use std::fmt;
use std::str::FromStr;

use crate::target::note_store::folder_beside;

/// The service that a bucket is in, as the scheme of its address says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `s3://`: Amazon S3, or another server of its protocol.
    S3,
    /// `az://`: Azure Blob Storage, where a bucket is called a container.
    Azure,
    /// `gs://`: Google Cloud Storage.
    Google,
}

impl Scheme {
    const ALL: [Scheme; 3] = [Scheme::S3, Scheme::Azure, Scheme::Google];

    /// The scheme of an address, and what follows `://`; `None` if it is no address of a bucket.
    pub fn split(text: &str) -> Option<(Scheme, &str)> {
        let (name, rest) = text.split_once("://")?;
        Some((Scheme::ALL.into_iter().find(|scheme| scheme.name() == name)?, rest))
    }

    /// What stands before `://`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Azure => "az",
            Scheme::Google => "gs",
        }
    }

    /// The service, for messages.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Scheme::S3 => "S3",
            Scheme::Azure => "Azure Blob Storage",
            Scheme::Google => "Google Cloud Storage",
        }
    }

    /// The feature that a program with a client of the service was built with.
    #[must_use]
    pub const fn feature(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Azure | Scheme::Google => "clouds",
        }
    }

    /// What the service calls a bucket, and the setting that says where it is.
    pub(crate) const fn bucket(self) -> (&'static str, &'static str) {
        match self {
            Scheme::S3 => ("bucket", "[s3] endpoint"),
            Scheme::Azure => ("container", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_ENDPOINT"),
            Scheme::Google => ("bucket", "GOOGLE_BASE_URL"),
        }
    }
}

/// A prefix of a bucket, below which a tileset lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketLocation {
    pub scheme: Scheme,
    pub bucket: String,
    /// The beginning of every key: empty, or ending with `/`.
    pub prefix: String,
}

/// An object in a bucket: an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectKey {
    pub scheme: Scheme,
    pub bucket: String,
    pub key: String,
}

/// Why a text is not an address of a target in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("\"{0}\" is no place in S3: write s3://bucket/prefix/ or s3://bucket/name.pmtiles")]
    Form(String),
    /// No bucket can have this name (Amazon S3 User Guide, "Bucket naming rules").
    #[error(
        "\"{text}\" names the bucket \"{bucket}\": a bucket's name has 3 to 63 letters, digits, dots, hyphens and underscores"
    )]
    Bucket { text: String, bucket: String },
    #[error(
        "\"{0}\" has an empty part, a \".\" or \"..\", or a character that a URL cannot hold as it is: write letters, digits, - _ . ~ and single slashes"
    )]
    Path(String),
}

fn parse(text: &str) -> Result<(Scheme, &str, &str), LocationError> {
    let Some((scheme, rest)) = Scheme::split(text) else { return Err(LocationError::Form(text.to_owned())) };
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(letter) {
        return Err(LocationError::Bucket { text: text.to_owned(), bucket: bucket.to_owned() });
    }
    let plain = |byte: u8| letter(byte) || matches!(byte, b'/' | b'~' | b'=' | b'+' | b',' | b'@' | b'!');
    let part = |part: &str| !matches!(part, "" | "." | "..");
    let parts = path.strip_suffix('/').unwrap_or(path);
    if !path.bytes().all(plain) || (!path.is_empty() && !parts.split('/').all(part)) {
        return Err(LocationError::Path(text.to_owned()));
    }
    Ok((scheme, bucket, path))
}

impl FromStr for BucketLocation {
    type Err = LocationError;
    fn from_str(text: &str) -> Result<BucketLocation, LocationError> {
        let (scheme, bucket, path) = parse(text)?;
        let mut prefix = path.to_owned();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(BucketLocation { scheme, bucket: bucket.to_owned(), prefix })
    }
}

impl FromStr for ObjectKey {
    type Err = LocationError;
    fn from_str(text: &str) -> Result<ObjectKey, LocationError> {
        let (scheme, bucket, key) = parse(text)?;
        if key.is_empty() || key.ends_with('/') {
            return Err(LocationError::Form(text.to_owned()));
        }
        Ok(ObjectKey { scheme, bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

impl fmt::Display for BucketLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.name(), self.bucket, self.prefix)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.name(), self.bucket, self.key)
    }
}

impl ObjectKey {
    /// The name of the folder with the archive's notes, which lies next to it.
    pub(crate) fn folder_beside(&self) -> String {
        let (above, name) = self.key.rsplit_once('/').map_or(("", &*self.key), |(above, name)| (above, name));
        let slash = if above.is_empty() { "" } else { "/" };
        format!("{above}{slash}{}", folder_beside(name))
    }

    /// The whole bucket as a location: the key is a name below it.
    pub(crate) fn bucket_as_location(&self) -> BucketLocation {
        BucketLocation { scheme: self.scheme, bucket: self.bucket.clone(), prefix: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, shown) in [
            ("s3://maps", "s3://maps/"),
            ("s3://maps/", "s3://maps/"),
            ("s3://maps/facilities", "s3://maps/facilities/"),
            ("s3://maps.example.org/a/b=1/", "s3://maps.example.org/a/b=1/"),
            ("az://maps/a", "az://maps/a/"),
            ("gs://maps/a/", "gs://maps/a/"),
        ] {
            assert_eq!(text.parse::<BucketLocation>().unwrap().to_string(), shown);
        }
        let key = "s3://maps/a/f.pmtiles".parse::<ObjectKey>().unwrap();
        assert_eq!((key.bucket.as_str(), key.key.as_str()), ("maps", "a/f.pmtiles"));
    }

    #[test]
    fn what_is_no_place_says_what_to_write_instead() {
        for (text, message) in [
            ("maps/x", "\"maps/x\" is no place in S3: write s3://bucket/prefix/ or s3://bucket/name.pmtiles"),
            (
                "s3:///x",
                "\"s3:///x\" names the bucket \"\": a bucket's name has 3 to 63 letters, digits, dots, hyphens and underscores",
            ),
            (
                "s3://maps//x",
                "\"s3://maps//x\" has an empty part, a \".\" or \"..\", or a character that a URL cannot hold as it is: write letters, digits, - _ . ~ and single slashes",
            ),
        ] {
            assert_eq!(text.parse::<BucketLocation>().unwrap_err().to_string(), message);
        }
        for text in ["s3://maps/../x", "s3://maps/a b", "s3://maps/a?b", "s3://maps/{z}", "s3://ma ps/", "s3://m/"] {
            assert!(text.parse::<BucketLocation>().is_err(), "{text}");
        }
        assert!("s3://maps/".parse::<ObjectKey>().is_err());
    }
}
