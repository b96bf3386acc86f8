//! The bucket and the prefix or key of a target in S3.

use std::fmt;
use std::str::FromStr;

/// A prefix of a bucket, below which a tileset lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// The beginning of every key: empty, or ending with `/`.
    pub prefix: String,
}

/// An object in a bucket: an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Key {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
}

/// Why a text is not an address of a target in S3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// It has another form.
    #[error("\"{0}\" is no place in S3: write s3://bucket/prefix/ or s3://bucket/name.pmtiles")]
    Form(String),
    /// No bucket can have this name (Amazon S3 User Guide, "Bucket naming rules").
    #[error(
        "\"{text}\" names the bucket \"{bucket}\": a bucket's name has 3 to 63 letters, digits, dots, hyphens and underscores"
    )]
    Bucket {
        /// What was written.
        text: String,
        bucket: String,
    },
    /// The key cannot be the path of a URL.
    #[error(
        "\"{0}\" has an empty part, a \".\" or \"..\", or a character that a URL cannot hold as it is: write letters, digits, - _ . ~ and single slashes"
    )]
    Path(String),
}

fn parse(text: &str) -> Result<(&str, &str), LocationError> {
    let Some(rest) = text.strip_prefix("s3://") else { return Err(LocationError::Form(text.to_owned())) };
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
    Ok((bucket, path))
}

impl FromStr for S3Location {
    type Err = LocationError;
    fn from_str(text: &str) -> Result<S3Location, LocationError> {
        let (bucket, path) = parse(text)?;
        let mut prefix = path.to_owned();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(S3Location { bucket: bucket.to_owned(), prefix })
    }
}

impl FromStr for S3Key {
    type Err = LocationError;
    fn from_str(text: &str) -> Result<S3Key, LocationError> {
        let (bucket, key) = parse(text)?;
        if key.is_empty() || key.ends_with('/') {
            return Err(LocationError::Form(text.to_owned()));
        }
        Ok(S3Key { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

impl fmt::Display for S3Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl S3Key {
    /// The whole bucket as a location: the key is a name below it.
    pub(crate) fn bucket_as_location(&self) -> S3Location {
        S3Location { bucket: self.bucket.clone(), prefix: String::new() }
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
        ] {
            assert_eq!(text.parse::<S3Location>().unwrap().to_string(), shown);
        }
        let key = "s3://maps/a/f.pmtiles".parse::<S3Key>().unwrap();
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
            assert_eq!(text.parse::<S3Location>().unwrap_err().to_string(), message);
        }
        for text in ["s3://maps/../x", "s3://maps/a b", "s3://maps/a?b", "s3://maps/{z}", "s3://ma ps/", "s3://m/"] {
            assert!(text.parse::<S3Location>().is_err(), "{text}");
        }
        assert!("s3://maps/".parse::<S3Key>().is_err());
    }
}
