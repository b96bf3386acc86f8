//! Keys and tokens: read from a file or the environment, never shown.

use std::fmt;
use std::path::PathBuf;

use super::ProviderError;

/// A secret; its `Debug` text hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct PurgeSecret(String);

impl fmt::Debug for PurgeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl PurgeSecret {
    /// The secret itself, for the header that carries it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// Replaces the secret in a text: a server may repeat the secret that it was sent.
    pub(super) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, "(hidden)")
    }
}

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that holds only the secret.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(f, "the file {}", path.display()),
            SecretSource::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

/// The shortest secret, in bytes: hiding a shorter one in other texts would make these unreadable.
const SHORTEST_SECRET: usize = 8;

impl SecretSource {
    /// Reads the secret.
    ///
    /// # Errors
    /// If the secret is missing, too short, or no header can carry it.
    pub fn read(&self) -> Result<PurgeSecret, ProviderError> {
        let wrong = |what: String| ProviderError::Secret { place: self.to_string(), what };
        let text = match self {
            SecretSource::File(path) => std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?,
            SecretSource::Variable(name) => std::env::var(name).map_err(|_unset| wrong("it is not set".to_owned()))?,
        };
        let text = text.trim();
        if text.len() < SHORTEST_SECRET || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(wrong(format!("it holds no token: {SHORTEST_SECRET} characters at least, without spaces")));
        }
        Ok(PurgeSecret(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_a_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "abcdef-0123456789\n").unwrap();
        let secret = SecretSource::File(path.clone()).read().unwrap();
        assert_eq!(secret.reveal(), "abcdef-0123456789");
        assert_eq!(format!("{secret:?}"), "(hidden)");
        assert_eq!(secret.hide_in("bad token abcdef-0123456789!"), "bad token (hidden)!");
        for text in ["", "short", "with a space inside"] {
            std::fs::write(&path, text).unwrap();
            let error = SecretSource::File(path.clone()).read().unwrap_err().to_string();
            assert!(error.contains("it holds no token") && !error.contains("inside"), "{error}");
        }
        let error = SecretSource::Variable("OAR_NO_SUCH_TOKEN".to_owned()).read().unwrap_err().to_string();
        assert!(error.contains("OAR_NO_SUCH_TOKEN") && error.contains("it is not set"), "{error}");
    }
}
