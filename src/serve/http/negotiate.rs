//! Content negotiation and conditional requests: which encoding a client accepts, and whether it has the answer already.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, IF_NONE_MATCH};

/// How the body of an answer is encoded (RFC 9110, section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// Not encoded.
    Identity,
    /// gzip (RFC 1952).
    Gzip,
}

impl Encoding {
    /// The encoding of the answer for a client: gzip if its `Accept-Encoding` fields accept it, otherwise identity. RFC 9110, section
    /// 12.5.3, leaves the choice to the server if a request has no such field; it gets identity, because clients that accept gzip say so.
    pub(crate) fn for_client(headers: &HeaderMap) -> Encoding {
        let (mut gzip, mut any) = (None, None);
        for field in headers.get_all(ACCEPT_ENCODING) {
            let Ok(text) = field.to_str() else { continue };
            for item in text.split(',') {
                let mut parts = item.split(';');
                let coding = parts.next().unwrap_or_default().trim();
                let weight = parts.find_map(quality).unwrap_or(1.0);
                if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
                    gzip = Some(weight);
                } else if coding == "*" {
                    any = Some(weight);
                }
            }
        }
        if gzip.or(any).unwrap_or(0.0) > 0.0 { Encoding::Gzip } else { Encoding::Identity }
    }
}

/// The weight in a parameter such as `q=0.5` (RFC 9110, section 12.4.2). A weight that cannot be parsed counts as 0: the client then gets
/// an answer that is not encoded, which every client can read.
fn quality(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(0.0))
}

/// True if the client has the answer with this entity tag already, so that the answer is 304: its `If-None-Match` is `*` or lists the tag,
/// compared weakly (RFC 9110, sections 8.8.3.2 and 13.1.2). `tag` is a strong tag with its quotes.
pub(crate) fn holds(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|field| {
        let text = field.as_bytes();
        text.trim_ascii() == b"*" || entity_tags(text).any(|held| held == tag.as_bytes())
    })
}

/// The entity tags in a field's value, with their quotes and without `W/`. The list is split at quotes, because a tag may contain a comma
/// (RFC 9110, section 8.8.3).
fn entity_tags(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let begin = rest.iter().position(|byte| *byte == b'"')?;
        let length = rest[begin + 1..].iter().position(|byte| *byte == b'"')? + 2;
        let tag = &rest[begin..begin + length];
        rest = &rest[begin + length..];
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HeaderName;

    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn gzip_is_for_clients_that_take_it() {
        for (fields, encoding) in [
            (&[][..], Encoding::Identity),
            (&[""], Encoding::Identity),
            (&["gzip"], Encoding::Gzip),
            (&["GZip"], Encoding::Gzip),
            (&["x-gzip"], Encoding::Gzip),
            (&["gzip, deflate, br, zstd"], Encoding::Gzip),
            (&["br;q=1.0, gzip;q=0.8, *;q=0.1"], Encoding::Gzip),
            (&["deflate", "gzip"], Encoding::Gzip),
            (&["identity"], Encoding::Identity),
            (&["br"], Encoding::Identity),
            (&["gzip;q=0"], Encoding::Identity),
            (&["gzip; Q=0.000"], Encoding::Identity),
            (&["gzip;q=x"], Encoding::Identity),
            (&["*"], Encoding::Gzip),
            (&["*;q=0"], Encoding::Identity),
            (&["gzip;q=0, *"], Encoding::Identity),
            (&["*;q=0, gzip"], Encoding::Gzip),
        ] {
            assert_eq!(Encoding::for_client(&headers(&ACCEPT_ENCODING, fields)), encoding, "{fields:?}");
        }
    }

    #[test]
    fn tags_are_compared_weakly_in_lists() {
        for (fields, held) in [
            (&[][..], false),
            (&["\"a-g\""], true),
            (&["W/\"a-g\""], true),
            (&["\"a-i\""], false),
            (&["\"x\", W/\"a-g\""], true),
            (&["\"x\",\"y\"", "\"a-g\""], true),
            (&["*"], true),
            (&[" * "], true),
            (&["a-g"], false),
            (&["\"a-g"], false),
            (&["\"x, \"a-g\""], false),
            (&["\"a,b\", \"a-g\""], true),
        ] {
            assert_eq!(holds(&headers(&IF_NONE_MATCH, fields), "\"a-g\""), held, "{fields:?}");
        }
    }
}
