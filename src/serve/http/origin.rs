//! Which sites' pages may read answers, where the settings list them (Fetch standard, "CORS protocol").

use std::str::FromStr;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN, VARY};
use http::{HeaderMap, HeaderValue};

use super::answer::{Answer, TIMING_ALLOW_ORIGIN, for_own_pages};

/// What every answer depends on that a list of origins decides about.
const VARY_BY_ORIGIN: HeaderValue = HeaderValue::from_static("Accept-Encoding, Origin");

/// The origin of a page: scheme, host and port, as browsers write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOrigin(HeaderValue);

/// The text is not the origin of a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no origin of pages ({why}): write https://map.example.org or http://localhost:3000")]
pub struct PageOriginError {
    pub text: String,
    pub why: &'static str,
}

impl FromStr for PageOrigin {
    type Err = PageOriginError;

    /// Fails if browsers never send this text, or send it for pages of any site.
    fn from_str(text: &str) -> Result<PageOrigin, PageOriginError> {
        let wrong = |why| PageOriginError { text: text.to_owned(), why };
        match text {
            "*" => return Err(wrong("without allowed_origins the pages of all sites may read")),
            "null" => return Err(wrong("files and sandboxed pages of any site have it")),
            _ => {}
        }
        let (scheme, place) = text.split_once("://").ok_or_else(|| wrong("it has no scheme, such as https://"))?;
        let is_in_scheme = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.');
        if text.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(wrong("browsers write it in lower case"));
        }
        if place.contains(['/', '?', '#']) {
            return Err(wrong("it ends after host and port, without a path or a slash"));
        }
        if place.contains('*') {
            return Err(wrong("patterns are not known: list each site"));
        }
        if !text.is_ascii() {
            return Err(wrong("browsers write such hosts with xn--"));
        }
        let (host, port) = match place.rfind(':').filter(|_| !place.ends_with(']')) {
            Some(at) => (&place[..at], Some(&place[at + 1..])),
            None => (place, None),
        };
        let is_name =
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_address = address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        if scheme.is_empty() || !scheme.chars().all(is_in_scheme) || !(is_name || is_address) {
            return Err(wrong("scheme, host or port are none"));
        }
        if let Some(port) = port {
            let number = port.parse::<u16>().ok().filter(|number| *number > 0 && number.to_string() == port);
            match (scheme, number) {
                (_, None) => return Err(wrong("scheme, host or port are none")),
                ("https", Some(443)) | ("http", Some(80)) => {
                    return Err(wrong("browsers leave out the usual port of a scheme"));
                }
                _ => {}
            }
        }
        HeaderValue::from_str(text).map(PageOrigin).map_err(|_invalid| wrong("scheme, host or port are none"))
    }
}

/// Lets only the pages of the listed origins read an answer that pages of all sites could read. A cache must not give
/// it to the pages of another origin, whether this one is listed or not. `request` are the headers of the request.
pub(crate) fn for_listed_origins(answer: &mut Answer, listed: &[PageOrigin], request: &HeaderMap) {
    if !answer.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let mut given = request.get_all(ORIGIN).iter();
    let origin = given.next().filter(|_| given.next().is_none());
    let found = origin.and_then(|origin| listed.iter().find(|listed| listed.0 == origin));
    answer.headers_mut().insert(VARY, VARY_BY_ORIGIN);
    match found {
        Some(PageOrigin(origin)) => {
            answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.headers_mut().insert(TIMING_ALLOW_ORIGIN, origin.clone());
        }
        None => for_own_pages(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for text in [
            "https://map.example.org",
            "http://localhost:3000",
            "https://xn--mhlen-kva.example",
            "http://127.0.0.1:8080",
            "http://[::1]",
            "http://[::1]:81",
            "http://map:443",
            "capacitor://localhost",
        ] {
            assert_eq!(text.parse::<PageOrigin>().unwrap().0, text);
        }
        let none = "scheme, host or port are none";
        for (text, why) in [
            ("*", "without allowed_origins the pages of all sites may read"),
            ("null", "files and sandboxed pages of any site have it"),
            ("", "it has no scheme, such as https://"),
            ("map.example.org", "it has no scheme, such as https://"),
            ("https://map.example.org/", "it ends after host and port, without a path or a slash"),
            ("https://map.example.org/map", "it ends after host and port, without a path or a slash"),
            ("https://map.example.org?", "it ends after host and port, without a path or a slash"),
            ("https://Map.example.org", "browsers write it in lower case"),
            ("https://*.example.org", "patterns are not known: list each site"),
            ("https://m\u{fc}hlen.example", "browsers write such hosts with xn--"),
            ("https://map.example.org:443", "browsers leave out the usual port of a scheme"),
            ("http://map.example.org:80", "browsers leave out the usual port of a scheme"),
            ("https://", none),
            ("://map", none),
            ("https://user@map.example.org", none),
            ("https://map.example.org:", none),
            ("https://map.example.org:0", none),
            ("https://map.example.org:080", none),
            ("https://map.example.org:65536", none),
            ("https://map.example.org,b.example", none),
            ("https://::1", none),
            ("https://[::1", none),
            ("https://[map]", none),
            ("https://map.example.org\n", none),
        ] {
            assert_eq!(text.parse::<PageOrigin>().unwrap_err().why, why, "{text}");
        }
    }
}
