//! The token that clients need to change something through the admin listener.

use std::path::{Path, PathBuf};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::setting::shows_its_name_alone;

/// The least length of a token, in bytes.
pub const MIN_TOKEN_BYTES: usize = 32;

/// The token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(
        "the token for jobs in {place} has {bytes} bytes, and needs at least {MIN_TOKEN_BYTES}: write one such as openssl rand -hex 32 makes"
    )]
    Short { place: String, bytes: usize },
    #[error(
        "the token for jobs in {place} has white space or control characters inside, which clients cannot send: write one such as openssl rand -hex 32 makes, on one line"
    )]
    Unsendable { place: String },
    #[error("cannot read the token for jobs {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
}

/// A token. Only its SHA-256 is kept, and no output shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken([u8; 32]);

shows_its_name_alone!(AdminToken);

/// The variable with the token, if no file has it.
pub const TOKEN_VARIABLE: &str = "OAR_TILES_TOKEN";

impl AdminToken {
    /// The token in a file, or else in [`TOKEN_VARIABLE`]; `None` if there is neither.
    /// Fails if it cannot be read, or as [`AdminToken::new`].
    pub fn find(file: Option<&Path>) -> Result<Option<AdminToken>, TokenError> {
        if let Some(file) = file {
            return AdminToken::of_file(file).map(Some);
        }
        let variable = std::env::var_os(TOKEN_VARIABLE).filter(|token| !token.is_empty());
        variable.map(|token| AdminToken::new(token.as_encoded_bytes(), TOKEN_VARIABLE)).transpose()
    }

    /// The token in a file. White space at its ends does not count.
    /// Fails if the file cannot be read, or as [`AdminToken::new`].
    pub fn of_file(path: &Path) -> Result<AdminToken, TokenError> {
        let text = std::fs::read(path).map_err(|source| TokenError::Unreadable { path: path.to_owned(), source })?;
        AdminToken::new(&text, &path.display().to_string())
    }

    /// The token in a text from `place`, a file or variable. White space at its ends does not count.
    /// Fails if it is shorter than [`MIN_TOKEN_BYTES`], or has white space or control characters inside.
    pub fn new(text: &[u8], place: &str) -> Result<AdminToken, TokenError> {
        let token = text.trim_ascii();
        if token.len() < MIN_TOKEN_BYTES {
            return Err(TokenError::Short { place: place.to_owned(), bytes: token.len() });
        }
        if token.iter().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            return Err(TokenError::Unsendable { place: place.to_owned() });
        }
        Ok(AdminToken(Sha256::digest(token).into()))
    }

    /// True if a request has the token (`Authorization: Bearer`, RFC 6750, section 2.1). The time of the comparison
    /// depends on the length of the client's text, but not on the token: hashes of equal length are compared in
    /// constant time.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, token)) = value.as_bytes().split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && Sha256::digest(token.trim_ascii()).ct_eq(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_token_itself_opens() {
        let text = "0123456789abcdef0123456789abcdef";
        let token = AdminToken::new(format!(" {text}\n").as_bytes(), "x").unwrap();
        let given = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            token.is_in(&headers)
        };
        assert!(given(&[&format!("Bearer {text}")]) && given(&[&format!("bearer {text}")]));
        let right = format!("Bearer {text}");
        for wrong in [
            &[][..],
            &[""],
            &["Bearer "],
            &["Bearer x"],
            &[text],
            &[&format!("Basic {text}")],
            &[&format!("Bearer {text}0")],
            &[&format!("Bearer {}", &text[1..])],
            &[&right, &right],
        ] {
            assert!(!given(wrong), "{wrong:?}");
        }
        assert!(!format!("{token:?}").contains('0'));
        let error = AdminToken::new(&[b'x'; 31], "FILE").unwrap_err().to_string();
        assert!(error.contains("in FILE has 31 bytes"), "{error}");
        for inside in [" ", "\n", "\r", "\t", "\0", "\u{7f}"] {
            let error = AdminToken::new(format!("{text}{inside}{text}").as_bytes(), "FILE").unwrap_err().to_string();
            assert!(error.contains("in FILE has white space or control characters inside"), "{inside:?}: {error}");
        }
    }

    /// A comparison that ends at the first wrong byte would take a hundred times as long for a token whose last byte is
    /// the wrong one.
    #[test]
    fn how_much_of_a_token_is_right_does_not_show_in_the_time() {
        let text = "a".repeat(64 << 10);
        let token = AdminToken::new(text.as_bytes(), "x").unwrap();
        let with = |token: String| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
            headers
        };
        let wrong = [with(format!("b{}", &text[1..])), with(format!("{}b", &text[1..]))];
        let mut fastest = [std::time::Duration::MAX; 2];
        for _ in 0..300 {
            for (headers, fastest) in wrong.iter().zip(&mut fastest) {
                let begun = std::time::Instant::now();
                assert!(!token.is_in(headers));
                *fastest = begun.elapsed().min(*fastest);
            }
        }
        let [first, last] = fastest;
        assert!(last < first * 2 && first < last * 2, "wrong at the first byte {first:?}, at the last {last:?}");
    }
}
