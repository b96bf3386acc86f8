//! Signed addresses: `?expires=…&signature=…`. Who has a key says until when tiles of a tileset may be asked for, under
//! which filter; the server answers no other requests for them.
//!
//! The signature is the HMAC-SHA-256 (RFC 2104), in hexadecimal digits, of four lines with line breaks between them:
//!
//! ```text
//! oar-tiles-1       the form of these lines
//! facilities        the tileset: its name as in an address, or that of a family and the values of a variant, with / between
//! country=BD        the filter in its canonical form; an empty line for none
//! 1767225600        expires: when the right ends, in seconds since 1970, a whole hour
//! ```
//!
//! z, x and y are not signed: one signature is for a map. Because `expires` is a whole hour, the clients of an hour
//! share their addresses, and caches their copies.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::hex::hex;
use crate::setting::shows_its_name_alone;

/// The names in a query that are not parameters of the tileset.
pub(crate) const SIGNED_NAMES: [&str; 2] = ["expires", "signature"];

/// The least length of a key, in bytes.
const MIN_KEY_BYTES: usize = 32;

/// The most keys: the one that signs, and the one before it.
const MAX_KEYS: usize = 2;

const HOUR: u64 = 3_600;

/// The most digits of `expires`.
const MAX_DIGITS: usize = 12;

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    #[error("cannot read the keys of signed addresses {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the keys of signed addresses in {}: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
}

/// The keys of signed addresses. The first one signs, all of them verify. `Debug` hides them.
#[derive(Clone)]
pub(crate) struct SigningKeys(Vec<Hmac<Sha256>>);

shows_its_name_alone!(SigningKeys);

#[derive(Debug, Clone, Copy)]
pub(crate) struct SignedContent<'a> {
    /// The tileset, as in an address.
    pub(crate) tileset: &'a str,
    /// The filter: the canonical query, or nothing.
    pub(crate) filter: &'a str,
}

/// Why a request is refused; for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureRefusal {
    #[error("this address has to be signed: expires and signature are needed once each")]
    Missing,
    #[error("expires has to be a whole hour, in seconds since 1970")]
    NoHour,
    #[error("the signature is not that of this tileset, filter and expires")]
    Wrong,
    #[error("this address has expired: ask for a new one")]
    Expired,
}

/// A query, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedQuery<'a> {
    /// What is not part of the signature.
    pub(crate) rest: Option<Cow<'a, str>>,
    /// `expires` and `signature`; `None` if one of them is missing or stands there twice.
    signature: Option<[&'a str; 2]>,
}

impl<'a> SignedQuery<'a> {
    /// Takes `expires` and `signature` out of a query.
    pub(crate) fn of(query: Option<&'a str>) -> SignedQuery<'a> {
        let (mut found, mut rest) = ([Vec::new(), Vec::new()], Vec::new());
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match SIGNED_NAMES.iter().position(|known| *known == name) {
                Some(at) => found[at].push(value),
                None => rest.push(pair),
            }
        }
        let signature = match found.each_ref().map(Vec::as_slice) {
            [[expires], [signature]] => Some([*expires, *signature]),
            _ => None,
        };
        SignedQuery { rest: Some(rest.join("&").into()).filter(|rest: &Cow<'_, str>| !rest.is_empty()), signature }
    }

    /// A query of a server whose addresses need no signature.
    pub(crate) const fn unsigned(query: Option<&'a str>) -> SignedQuery<'a> {
        SignedQuery {
            rest: match query {
                Some(query) => Some(Cow::Borrowed(query)),
                None => None,
            },
            signature: None,
        }
    }
}

impl SigningKeys {
    /// The keys in a file, one a line. Empty lines, and white space at the ends of lines, do not count.
    /// Fails if the file cannot be read, others may read or change it, or its lines are no keys.
    pub(crate) fn of_file(path: &Path) -> Result<SigningKeys, SigningKeyError> {
        let unreadable = |source| SigningKeyError::Unreadable { path: path.to_owned(), source };
        let unfit = |why: String| SigningKeyError::Unfit { path: path.to_owned(), why };
        if is_open(&std::fs::metadata(path).map_err(unreadable)?) {
            return Err(unfit(format!("other users may read or change them: chmod 600 {}", path.display())));
        }
        SigningKeys::read(&std::fs::read(path).map_err(unreadable)?).map_err(unfit)
    }

    fn read(text: &[u8]) -> Result<SigningKeys, String> {
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
        if lines.is_empty() || lines.len() > MAX_KEYS {
            return Err(format!(
                "there are {}: write one on a line, such as openssl rand -hex 32 makes, and below it at most one that was used before",
                lines.len()
            ));
        }
        let key = |(number, line): (usize, &[u8])| {
            if line.len() < MIN_KEY_BYTES {
                return Err(format!(
                    "line {} has {} bytes, and a key needs at least {MIN_KEY_BYTES}: write one such as openssl rand -hex 32 makes",
                    number + 1,
                    line.len()
                ));
            }
            Hmac::new_from_slice(line).map_err(|error| error.to_string())
        };
        lines.into_iter().map(key).collect::<Result<_, String>>().map(SigningKeys)
    }

    /// The end of a query that gives the right until `expires`, a whole hour.
    pub(crate) fn signed(&self, content: SignedContent<'_>, expires: u64) -> String {
        let [name_of_expires, name_of_signature] = SIGNED_NAMES;
        // There is at least one key.
        let made = self.0.first().map(|key| hex(signing(key, content, expires).finalize().into_bytes()));
        format!("{name_of_expires}={expires}&{name_of_signature}={}", made.unwrap_or_default())
    }

    /// When the right that a query gives ends, in seconds since 1970. The time of the comparison says nothing about the
    /// right signature.
    /// Fails if the query gives none, or it has ended at `now`.
    pub(crate) fn check(
        &self,
        content: SignedContent<'_>,
        query: &SignedQuery<'_>,
        now: u64,
    ) -> Result<u64, SignatureRefusal> {
        let [expires, signature] = query.signature.ok_or(SignatureRefusal::Missing)?;
        let expires = whole_hour(expires).ok_or(SignatureRefusal::NoHour)?;
        let signature = unhex(signature).ok_or(SignatureRefusal::Wrong)?;
        // Every key is tried, so that the time does not say which one it was.
        let tried: Vec<bool> =
            self.0.iter().map(|key| signing(key, content, expires).verify_slice(&signature).is_ok()).collect();
        if !tried.contains(&true) {
            return Err(SignatureRefusal::Wrong);
        }
        if expires <= now { Err(SignatureRefusal::Expired) } else { Ok(expires) }
    }
}

/// The first whole hour that is not before a time, in seconds since 1970.
pub(crate) const fn rounded_up(time: u64) -> u64 {
    time.div_ceil(HOUR).saturating_mul(HOUR)
}

fn signing(key: &Hmac<Sha256>, content: SignedContent<'_>, expires: u64) -> Hmac<Sha256> {
    let mut hmac = key.clone();
    // None of the lines has a line break inside: tileset and filter are escaped.
    hmac.update(format!("oar-tiles-1\n{}\n{}\n{expires}", content.tileset, content.filter).as_bytes());
    hmac
}

/// A whole hour in its one form: other forms would be other addresses of the same tile.
fn whole_hour(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok().filter(|_| text.len() <= MAX_DIGITS)?;
    (number.is_multiple_of(HOUR) && number.to_string() == text).then_some(number)
}

/// The bytes of a signature in lower-case hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks_exact(2).filter(|_| text.len() == 64);
    let bytes = pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect::<Option<Vec<u8>>>()?;
    bytes.try_into().ok()
}

fn is_open(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The group may read: that is how a file of root is given to the user of a service.
    metadata.mode() & 0o027 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";
    const CONTENT: SignedContent<'_> = SignedContent { tileset: "facilities", filter: "country=BD" };

    fn keys(text: &str) -> SigningKeys {
        SigningKeys::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_signature_is_that_of_openssl() {
        // printf 'oar-tiles-1\nfacilities\ncountry=BD\n1767225600' | openssl dgst -sha256 -hmac "$OLD"
        let expected = "expires=1767225600&signature=393998735999f3338305f54891f8cacbb9048cacea975d22b1fcb694c1257bc4";
        assert_eq!(keys(OLD).signed(CONTENT, 1_767_225_600), expected);
        assert_eq!(rounded_up(1_767_225_600), 1_767_225_600);
        assert_eq!(rounded_up(1_767_225_601), 1_767_229_200);
    }

    #[test]
    fn only_what_was_signed_is_answered_and_only_until_it_expires() {
        let (now, expires) = (1_767_225_599, 1_767_225_600);
        let both = keys(&format!("  {NEW}\r\n\n{OLD}\n"));
        let signed = keys(OLD).signed(CONTENT, expires);
        let check = |keys: &SigningKeys, query: &str, now| keys.check(CONTENT, &SignedQuery::of(Some(query)), now);
        assert_eq!(check(&both, &signed, now), Ok(expires), "the old key verifies");
        assert_eq!(check(&both, &both.signed(CONTENT, expires), now), Ok(expires));
        assert_eq!(check(&keys(NEW), &both.signed(CONTENT, expires), now), Ok(expires), "the first key signs");
        assert_eq!(check(&keys(NEW), &signed, now), Err(SignatureRefusal::Wrong));
        assert_eq!(check(&both, &signed, expires), Err(SignatureRefusal::Expired));
        let (time, signature) = signed.split_once('&').unwrap();
        for (query, refusal) in [
            (String::new(), SignatureRefusal::Missing),
            (time.to_owned(), SignatureRefusal::Missing),
            (signature.to_owned(), SignatureRefusal::Missing),
            (format!("{signed}&{time}"), SignatureRefusal::Missing),
            (format!("{signed}&{signature}"), SignatureRefusal::Missing),
            (format!("expires=&{signature}"), SignatureRefusal::NoHour),
            (format!("expires=1767225601&{signature}"), SignatureRefusal::NoHour),
            (format!("expires=01767225600&{signature}"), SignatureRefusal::NoHour),
            (format!("expires=%31767225600&{signature}"), SignatureRefusal::NoHour),
            (format!("expires=99999999999999999999&{signature}"), SignatureRefusal::NoHour),
            (format!("expires=1767229200&{signature}"), SignatureRefusal::Wrong),
            (format!("{time}&signature="), SignatureRefusal::Wrong),
            (format!("{time}&{}", &signature[..signature.len() - 2]), SignatureRefusal::Wrong),
            (format!("{time}&{signature}00"), SignatureRefusal::Wrong),
            (format!("{time}&signature={}", "0".repeat(64)), SignatureRefusal::Wrong),
            (format!("{time}&signature={}", "é".repeat(32)), SignatureRefusal::Wrong),
            (format!("{time}&{}", signature.replace("signature=", "signature=A")), SignatureRefusal::Wrong),
        ] {
            assert_eq!(check(&both, &query, now), Err(refusal), "{query}");
        }
        let query = SignedQuery::of(Some(&signed));
        for (tileset, filter) in [("facilities", ""), ("facilities", "country=IN"), ("mills", "country=BD"), ("", "")] {
            let other = SignedContent { tileset, filter };
            assert_eq!(both.check(other, &query, now), Err(SignatureRefusal::Wrong), "{tileset} {filter}");
        }
    }

    #[test]
    fn a_signature_is_taken_out_of_a_query() {
        for (query, rest, is_signed) in [
            (None, None, false),
            (Some(""), None, false),
            (Some("country=BD"), Some("country=BD"), false),
            (Some("expires=1&country=BD&signature=2&x"), Some("country=BD&x"), true),
            (Some("signature=2&expires=1"), None, true),
            (Some("Expires=1&signature=2"), Some("Expires=1"), false),
            (Some("%65xpires=1&signature=2"), Some("%65xpires=1"), false),
        ] {
            let read = SignedQuery::of(query);
            assert_eq!((read.rest.as_deref(), read.signature.is_some()), (rest, is_signed), "{query:?}");
        }
    }

    #[test]
    fn a_file_has_one_or_two_keys_that_nobody_guesses() {
        for (text, why) in [
            ("", "there are 0: write one on a line"),
            ("\n \n", "there are 0: write one on a line"),
            (&*format!("{OLD}\n{NEW}\n{OLD}"), "there are 3: write one on a line"),
            (&*format!("{OLD}\n\nshort\n"), "line 3 has 5 bytes, and a key needs at least 32"),
        ] {
            let error = SigningKeys::read(text.as_bytes()).unwrap_err();
            assert!(error.starts_with(why), "{text:?}: {error}");
        }
        assert_eq!(format!("{:?}", keys(OLD)), "SigningKeys");
    }
}
