//! Answers: tiles, documents and errors, with their headers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING,
    CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use tokio::sync::mpsc::Receiver;

use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use super::body::AnswerBody;
use super::negotiate::Encoding;

/// An answer on its way to a client.
pub(crate) type Answer = Response<AnswerBody>;

/// The media type of a tile (registered with IANA).
pub(crate) const TILE_TYPE: &str = "application/vnd.mapbox-vector-tile";

/// How long CDNs, and no other caches, may keep an answer (RFC 9213).
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The same for Fastly (Edge Architecture Specification 1.0).
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// Says if the answer came from the memory cache (RFC 9211).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Tells nginx whether to buffer an answer (`ngx_http_proxy_module`).
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// An answer without a body, with the headers that every answer of the public listener has: a page of any origin may read it, and its
/// encoding depends on the request.
fn public(status: StatusCode) -> Answer {
    let mut answer = Response::new(AnswerBody::default());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(TIMING_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// How long caches may keep an answer.
#[derive(Debug, Clone)]
pub(crate) struct Freshness {
    /// `Cache-Control` (RFC 9111).
    pub(crate) browsers: HeaderValue,
    /// `CDN-Cache-Control` (RFC 9213), if CDNs may keep the answer for another time than browsers.
    pub(crate) cdns: Option<HeaderValue>,
    /// `Surrogate-Control`, under the same condition.
    pub(crate) surrogates: Option<HeaderValue>,
}

impl Freshness {
    /// The same time for all caches.
    pub(crate) const fn of(cache_control: HeaderValue) -> Freshness {
        Freshness { browsers: cache_control, cdns: None, surrogates: None }
    }

    /// No cache may keep the answer.
    pub(crate) const fn none() -> Freshness {
        let none = HeaderValue::from_static("no-store");
        Freshness { browsers: none, cdns: Some(HeaderValue::from_static("no-store")), surrogates: None }
    }

    fn apply(&self, answer: &mut Answer) {
        answer.headers_mut().insert(CACHE_CONTROL, self.browsers.clone());
        if let Some(value) = &self.cdns {
            answer.headers_mut().insert(CDN_CACHE_CONTROL, value.clone());
        }
        if let Some(value) = &self.surrogates {
            answer.headers_mut().insert(SURROGATE_CONTROL, value.clone());
        }
    }
}

/// Ends the connection after an answer of HTTP/1.
pub(crate) fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Takes away the right of other sites' pages to read an answer.
pub(crate) fn for_own_pages(answer: &mut Answer) {
    let headers = answer.headers_mut();
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_METHODS, TIMING_ALLOW_ORIGIN] {
        headers.remove(name);
    }
}

/// Forbids caches to keep an answer.
pub(crate) fn forbid_keeping(answer: &mut Answer) {
    let headers = answer.headers_mut();
    headers.remove(SURROGATE_CONTROL);
    for name in [CACHE_CONTROL, CDN_CACHE_CONTROL] {
        headers.insert(name, HeaderValue::from_static("no-store"));
    }
}

/// The body of an answer and what its headers say about it.
pub(crate) struct Content<'a> {
    /// The body.
    pub(crate) body: Bytes,
    /// Its media type.
    pub(crate) media_type: &'a str,
    /// How it is encoded.
    pub(crate) encoding: Encoding,
    /// Its strong entity tag.
    pub(crate) tag: &'a str,
}

/// 200 with a body.
pub(crate) fn content(content: Content<'_>, freshness: &Freshness) -> Answer {
    let mut answer = public(StatusCode::OK);
    let headers = answer.headers_mut();
    insert(headers, CONTENT_TYPE, content.media_type);
    insert(headers, ETAG, content.tag);
    if content.encoding == Encoding::Gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(CONTENT_LENGTH, content.body.len().into());
    *answer.body_mut() = content.body.into();
    freshness.apply(&mut answer);
    answer
}

/// 308: the resource has another address.
pub(crate) fn moved(url: &str) -> Answer {
    let mut answer = public(StatusCode::PERMANENT_REDIRECT);
    let headers = answer.headers_mut();
    insert(headers, LOCATION, url);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_LENGTH, 0.into());
    answer
}

/// 429: the client, or all of them together, asked for too much.
pub(crate) fn too_many(what: &str, retry_after: Duration) -> Answer {
    let mut answer = unavailable(what, retry_after);
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    answer
}

/// 200 with server-sent events, which no cache may keep and no proxy may buffer.
pub(crate) fn events(events: Receiver<Bytes>) -> Answer {
    let mut answer = public(StatusCode::OK);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Otherwise nginx buffers what it proxies.
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    *answer.body_mut() = AnswerBody::Events(events);
    answer
}

/// 200 with a placeholder body while the content is not there yet: it has no entity tag, and no cache keeps it.
pub(crate) fn placeholder(body: Bytes, media_type: &str, encoding: Encoding) -> Answer {
    let mut answer = content(Content { body, media_type, encoding, tag: "" }, &Freshness::none());
    answer.headers_mut().remove(ETAG);
    answer
}

/// 304: the client has the content already. The answer repeats the headers that a cache has to update (RFC 9110, section 15.4.5).
pub(crate) fn not_modified(tag: &str, freshness: &Freshness) -> Answer {
    let mut answer = public(StatusCode::NOT_MODIFIED);
    insert(answer.headers_mut(), ETAG, tag);
    freshness.apply(&mut answer);
    answer
}

/// The answer for an empty tile: it has no body, and caches may keep it like a tile.
pub(crate) fn empty(status: StatusCode, freshness: &Freshness) -> Answer {
    let mut answer = public(status);
    if status == StatusCode::OK {
        insert(answer.headers_mut(), CONTENT_TYPE, TILE_TYPE);
    }
    freshness.apply(&mut answer);
    answer
}

/// An error as a short JSON document that no cache keeps. `what` must not reveal anything about the database.
pub(crate) fn error(status: StatusCode, what: &str) -> Answer {
    let mut answer = public(status);
    let body = Bytes::from(format!("{}\n", serde_json::json!({ "error": what })));
    let headers = answer.headers_mut();
    insert(headers, CONTENT_TYPE, "application/json");
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, body.len().into());
    *answer.body_mut() = body.into();
    answer
}

/// 503: the same request may succeed after `retry_after`.
pub(crate) fn unavailable(what: &str, retry_after: Duration) -> Answer {
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, what);
    answer.headers_mut().insert(RETRY_AFTER, retry_after.as_secs().max(1).into());
    answer
}

/// The methods that the public listener knows.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// The answer to a method other than GET and HEAD; `None` for these two.
pub(crate) fn of_method(method: &Method) -> Option<Answer> {
    if method == Method::OPTIONS {
        let mut answer = public(StatusCode::NO_CONTENT);
        answer.headers_mut().insert(ALLOW, METHODS);
        answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        return Some(answer);
    }
    if method == Method::GET || method == Method::HEAD {
        return None;
    }
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "only GET, HEAD and OPTIONS are answered");
    answer.headers_mut().insert(ALLOW, METHODS);
    Some(answer)
}

/// The answer to HEAD: the headers of the answer to GET, without its body (RFC 9110, section 9.3.2).
pub(crate) fn without_body(mut answer: Answer) -> Answer {
    *answer.body_mut() = AnswerBody::default();
    answer
}

/// Adds a header that says how long the answer took and where it came from (W3C Server Timing).
pub(crate) fn add_timing(answer: &mut Answer, source: &str, took: Duration) {
    let value = format!("{source};dur={:.3}", took.as_secs_f64() * 1_000.0);
    insert(answer.headers_mut(), SERVER_TIMING, &value);
}

/// The length of the body, in bytes.
pub(crate) fn body_bytes(answer: &Answer) -> u64 {
    hyper::body::Body::size_hint(answer.body()).exact().unwrap_or(0)
}

/// Inserts a header whose value the program made; a value that no header may have is left out.
fn insert(headers: &mut http::HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
