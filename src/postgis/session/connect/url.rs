//! The form of a database URL, and why one cannot be read. No message repeats a part of a URL that may belong to its password.

use std::error::Error as _;
use std::str::FromStr as _;

use tokio_postgres::config::Host;

use super::Error;

/// The schemes that the driver and libpq know, in small letters only.
const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Parameters of libpq that the driver does not know. Messages may name them, because no password is likely to be one of these.
const UNKNOWN_TO_DRIVER: [&str; 22] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "schema",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
];

/// Texts of the driver that hold nothing of the URL.
const FIXED_TEXTS: [&str; 3] =
    ["unexpected EOF", "unterminated parameter", "unterminated quoted connection parameter value"];

const FORMS: &str = "write postgresql://user@host:5432/database";

/// A URL without a byte order mark and white space around it, as editors and shells leave them.
pub(super) fn trimmed(url: &str) -> &str {
    url.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// True for a URL, false for a key/value string.
pub(super) fn is_url(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// Reads a URL or key/value string.
pub(super) fn parsed(text: &str) -> Result<tokio_postgres::Config, Error> {
    check_scheme(text)?;
    let config = tokio_postgres::Config::from_str(text).map_err(|error| {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        unreadable(
            &repeatable(&cause).unwrap_or_else(|| "part of it is no name of a parameter or has no value".to_owned()),
            FORMS,
        )
    })?;
    // The driver takes the first @ for the end of the password, so the rest of the password would be shown as a host.
    let has_sign = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    if is_url(text) && config.get_hosts().iter().any(has_sign) {
        return Err(unreadable("there is more than one @ in it", "write %40 for an @ in the user or password"));
    }
    // Messages show the database's name.
    if config.get_dbname().is_some_and(|name| name.contains("://")) {
        return Err(unreadable("the name of the database is a URL", FORMS));
    }
    Ok(config)
}

/// An error for a text that looks like a URL and does not begin like one.
fn check_scheme(text: &str) -> Result<(), Error> {
    // A key/value string may hold :// in a value.
    let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| !scheme.contains('=')) else { return Ok(()) };
    if is_url(text) {
        return Ok(());
    }
    let quotes = ['"', '\'', '`', '“', '”', '„', '‘', '’', '«', '»'];
    if scheme.starts_with(quotes) {
        return Err(unreadable("it begins with a quotation mark", "remove the quotation marks around it"));
    }
    if scheme.starts_with("postgresql+") || scheme.starts_with("postgres+") {
        let next = "remove the + and the name of the driver after it: postgresql://user@host:5432/database";
        return Err(unreadable("its scheme names the driver of another program", next));
    }
    Err(unreadable("it begins neither with postgresql:// nor with postgres://, in small letters", FORMS))
}

fn unreadable(why: &str, next: &str) -> Error {
    Error::Setting { what: format!("the database URL cannot be read ({why})"), next: next.to_owned() }
}

/// The driver's text, if it cannot hold a part of the URL that may be secret.
fn repeatable(cause: &str) -> Option<String> {
    let unknown = cause.strip_prefix("unknown option `").and_then(|rest| rest.strip_suffix('`'));
    let is_known = match unknown {
        Some(name) => UNKNOWN_TO_DRIVER.contains(&name),
        // The name comes from the driver's own list.
        None => cause.starts_with("invalid value for option `") || FIXED_TEXTS.contains(&cause),
    };
    is_known.then(|| cause.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_read_is_explained_and_no_part_of_a_password_repeated() {
        for (text, expected) in [
            ("postgis://me:s3cret@h/db?connect_timeout=5", "it begins neither with postgresql:// nor with postgres://"),
            ("Postgresql://me:s3cret@h/db", "in small letters"),
            ("POSTGRES://me:s3cret@h/db?connect_timeout=5", "in small letters"),
            ("jdbc:postgresql://h/db?user=me&password=s3cret", "it begins neither"),
            ("mysql://me:s3cret@h/db?x=y", "it begins neither"),
            ("postgresql+psycopg2://me:s3cret@h/db?x=5", "remove the + and the name of the driver"),
            ("postgres+asyncpg://me:s3cret@h/db", "remove the + and the name of the driver"),
            ("\"postgresql://me:s3cret@h/db?x=5\"", "remove the quotation marks"),
            ("'postgresql://me:s3cret@h/db'", "remove the quotation marks"),
            ("“postgresql://me:s3cret@h/db”", "remove the quotation marks"),
            ("DATABASE_URL=postgresql://me:s3cret@h/db", "no name of a parameter"),
            ("export DATABASE_URL=postgresql://me:s3cret@h/db", "no name of a parameter"),
            ("postgresql://me:s3cret@h:port/db", "invalid value for option `port`"),
            ("postgresql://me:s3cret", "invalid value for option `port`"),
            ("postgresql://me:first@s3cret@h/db", "write %40"),
            ("postgresql://me@h/db?s3cret=5", "no name of a parameter"),
            ("postgresql://me@h/db?password=first&s3cret=5", "no name of a parameter"),
            ("postgresql://me@h/db?s3cret", "unterminated parameter"),
            ("postgresql://me@h/db?service=s3cret", "unknown option `service`"),
            ("postgresql://me@h/db?connect_timeout=s3cret", "invalid value for option `connect_timeout`"),
            ("postgresql://me:s3cret@[h/db", "invalid value for option `host`"),
            ("host=h password=first s3cret=5", "no name of a parameter"),
            ("host=h password=first s3cret", "unexpected EOF"),
            ("host=h password='s3cret", "unterminated quoted"),
            ("dbname=postgresql://me:s3cret@h/db", "the name of the database is a URL"),
            ("s3cret", "unexpected EOF"),
            ("h;password=s3cret", "no name of a parameter"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.starts_with("the database URL cannot be read ("), "{text}: {error}");
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn white_space_and_a_byte_order_mark_around_a_url_are_ignored() {
        for text in [" postgresql://me@h/db", "\u{feff}postgres://me@h/db\r\n", "\thost=h user=me dbname=db "] {
            let config = parsed(trimmed(text)).unwrap();
            assert_eq!((config.get_user(), config.get_dbname()), (Some("me"), Some("db")), "{text:?}");
        }
        let config = parsed("host=h user=me password=a://b").unwrap();
        assert_eq!(config.get_password(), Some(&b"a://b"[..]));
    }
}
