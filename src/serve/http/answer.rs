//! Answers: tiles, documents and errors, with their headers.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION,
    RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc::Receiver;

use super::address::ClientKey;
use super::unread::{Sending, UnreadHold};
use crate::encode::GZIP;

/// An answer on its way to a client.
pub(crate) type Answer = Response<AnswerBody>;

pub(crate) const JSON_TYPE: &str = "application/json";

/// How long CDNs, and no other caches, may keep an answer (RFC 9213).
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The same for Fastly (Edge Architecture Specification 1.0).
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// Says if the answer came from the memory cache (RFC 9211).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Tells nginx whether to buffer an answer (`ngx_http_proxy_module`).
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(crate) const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// An answer without a body and without headers.
fn bare(status: StatusCode) -> Answer {
    let mut answer = Response::new(AnswerBody::default());
    *answer.status_mut() = status;
    answer
}

/// Gives an answer a body and the headers that describe it.
fn with_body(mut answer: Answer, media_type: &'static str, cache_control: &'static str, body: String) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(CONTENT_LENGTH, body.len().into());
    *answer.body_mut() = Bytes::from(body).into();
    answer
}

/// An answer that no cache keeps and no page of another origin may read.
pub(crate) fn private(status: StatusCode, media_type: &'static str, body: String) -> Answer {
    with_body(bare(status), media_type, "no-store", body)
}

/// A JSON document that no cache keeps and no page of another origin may read.
pub(crate) fn private_json(status: StatusCode, document: &serde_json::Value) -> Answer {
    private(status, JSON_TYPE, format!("{document}\n"))
}

/// An HTML page for this origin, which caches have to validate.
pub(crate) fn page(html: String) -> Answer {
    let mut answer = with_body(bare(StatusCode::OK), "text/html; charset=utf-8", "no-cache", html);
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// An answer without a body, with the headers that every answer of the public listener has: a page of any origin may
/// read it, and its encoding depends on the request.
fn public(status: StatusCode) -> Answer {
    let mut answer = bare(status);
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
    for name in
        [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS, TIMING_ALLOW_ORIGIN]
    {
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
    pub(crate) body: Bytes,
    pub(crate) media_type: &'a str,
    pub(crate) encoding: Encoding,
    /// Its strong entity tag.
    pub(crate) tag: &'a str,
}

pub(crate) fn content(content: Content<'_>, freshness: &Freshness) -> Answer {
    let mut answer = public(StatusCode::OK);
    let headers = answer.headers_mut();
    insert(headers, CONTENT_TYPE, content.media_type);
    insert(headers, ETAG, content.tag);
    if content.encoding == Encoding::Gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(GZIP));
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
    let mut answer = with_events(public(StatusCode::OK), events);
    // Otherwise nginx buffers what it proxies.
    answer.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    answer
}

/// 200 with server-sent events that no cache keeps and no page of another origin may read.
pub(crate) fn private_events(events: Receiver<Bytes>) -> Answer {
    with_events(bare(StatusCode::OK), events)
}

fn with_events(mut answer: Answer, events: Receiver<Bytes>) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *answer.body_mut() = AnswerBody::Events(events);
    answer
}

/// 200 with a placeholder body while the content is not there yet: it has no entity tag, and no cache keeps it.
pub(crate) fn placeholder(body: Bytes, media_type: &str, encoding: Encoding) -> Answer {
    let mut answer = content(Content { body, media_type, encoding, tag: "" }, &Freshness::none());
    answer.headers_mut().remove(ETAG);
    answer
}

/// 304: the client has the content already. The answer repeats the headers that a cache has to update (RFC 9110,
/// section 15.4.5).
pub(crate) fn not_modified(tag: &str, freshness: &Freshness) -> Answer {
    let mut answer = public(StatusCode::NOT_MODIFIED);
    insert(answer.headers_mut(), ETAG, tag);
    freshness.apply(&mut answer);
    answer
}

/// The answer for an empty tile: it has no body, and caches may keep it like a tile.
pub(crate) fn empty(status: StatusCode, media_type: &str, freshness: &Freshness) -> Answer {
    let mut answer = public(status);
    if status == StatusCode::OK {
        insert(answer.headers_mut(), CONTENT_TYPE, media_type);
    }
    freshness.apply(&mut answer);
    answer
}

/// A JSON document that no cache keeps.
pub(crate) fn uncached_json(document: &serde_json::Value) -> Answer {
    with_body(public(StatusCode::OK), JSON_TYPE, "no-store", format!("{document}\n"))
}

/// An error as a short JSON document that no cache keeps. `what` must not reveal anything about the database.
pub(crate) fn error(status: StatusCode, what: &str) -> Answer {
    with_body(public(status), JSON_TYPE, "no-store", format!("{}\n", serde_json::json!({ "error": what })))
}

/// 503: the same request may succeed after `retry_after`.
pub(crate) fn unavailable(what: &str, retry_after: Duration) -> Answer {
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, what);
    answer.headers_mut().insert(RETRY_AFTER, retry_after.as_secs().max(1).into());
    answer
}

/// The methods that the public listener knows.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// The methods of what takes a body.
const POSTED: HeaderValue = HeaderValue::from_static("POST, OPTIONS");

/// The headers of requests with a body that pages of other sites may send.
const POSTED_HEADERS: HeaderValue = HeaderValue::from_static("content-type, authorization");

/// The answer to a method other than GET and HEAD; `None` for these two.
pub(crate) fn of_method(method: &Method) -> Option<Answer> {
    if method == Method::OPTIONS {
        return Some(options(METHODS));
    }
    if method == Method::GET || method == Method::HEAD {
        return None;
    }
    Some(not_allowed(METHODS, "only GET, HEAD and OPTIONS are answered"))
}

/// The answer to a method other than POST, where something is posted; `None` for POST.
pub(crate) fn of_posting_method(method: &Method) -> Option<Answer> {
    if method == Method::OPTIONS {
        let mut answer = options(POSTED);
        answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, POSTED_HEADERS);
        return Some(answer);
    }
    (method != Method::POST).then(|| not_allowed(POSTED, "only POST and OPTIONS are answered here"))
}

fn options(methods: HeaderValue) -> Answer {
    let mut answer = public(StatusCode::NO_CONTENT);
    answer.headers_mut().insert(ALLOW, methods.clone());
    answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    answer
}

fn not_allowed(methods: HeaderValue, what: &str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, what);
    answer.headers_mut().insert(ALLOW, methods);
    answer
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

pub(crate) fn body_bytes(answer: &Answer) -> u64 {
    hyper::body::Body::size_hint(answer.body()).exact().unwrap_or(0)
}

/// Inserts a header whose value the program made; a value that no header may have is left out.
fn insert(headers: &mut http::HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

// The bodies of requests and answers. The body of an answer is complete bytes, or events that are sent as long as the
// client stays connected.

#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// The complete body, the client that it is for, and what counts its memory until it is sent.
    Full(Bytes, ClientKey, Option<UnreadHold>),
    /// Parts, each sent as soon as it arrives; the answer ends when the sender is dropped.
    Events(Receiver<Bytes>),
}

impl AnswerBody {
    /// Notes that this is sent from now on.
    pub(crate) fn begins(&self, sending: &Sending) {
        match self {
            AnswerBody::Full(bytes, client, _) => sending.begins(Some(bytes), *client),
            AnswerBody::Events(_) => sending.begins(None, ClientKey::default()),
        }
    }

    /// Says which client the body is for.
    pub(crate) const fn is_for(&mut self, client: ClientKey) {
        if let AnswerBody::Full(_, of, _) = self {
            *of = client;
        }
    }

    /// Gives the body what counts its memory. A body without bytes needs none.
    pub(crate) fn is_counted_by(&mut self, hold: Option<UnreadHold>) {
        if let AnswerBody::Full(bytes, _, held) = self
            && !bytes.is_empty()
        {
            *held = hold;
        }
    }
}

impl Default for AnswerBody {
    fn default() -> AnswerBody {
        AnswerBody::from(Bytes::new())
    }
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> AnswerBody {
        AnswerBody::Full(bytes, ClientKey::default(), None)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AnswerBody::Full(bytes, ..) if bytes.is_empty() => Poll::Ready(None),
            AnswerBody::Full(bytes, ..) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AnswerBody::Events(events) => {
                events.poll_recv(context).map(|event| event.map(|text| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Full(bytes, ..) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Full(bytes, ..) => SizeHint::with_exact(bytes.len() as u64),
            AnswerBody::Events(_) => SizeHint::default(),
        }
    }
}

/// The body of a request. It is received only as far as it is read.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Http1(Incoming),
    Http2(RecvStream),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            RequestBody::Http1(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            RequestBody::Http2(body) => {
                let Some(read) = ready!(body.poll_data(context)) else { return Poll::Ready(None) };
                // The client may send as much again.
                let released = read.and_then(|bytes| body.flow_control().release_capacity(bytes.len()).map(|()| bytes));
                Poll::Ready(Some(released.map(Frame::data).map_err(Into::into)))
            }
        }
    }
}

/// Why the body of a request was not received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BodyRefusal {
    pub(crate) status: StatusCode,
    pub(crate) what: String,
}

/// Receives the body of a request: at most `most` bytes, within a time.
pub(crate) async fn received(body: RequestBody, most: usize, within: Duration) -> Result<Bytes, BodyRefusal> {
    let refused = |status, what: &str| Err(BodyRefusal { status, what: what.to_owned() });
    let Ok(body) = tokio::time::timeout(within, Limited::new(body, most).collect()).await else {
        return refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    };
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(failure) if failure.is::<LengthLimitError>() => {
            refused(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {most} bytes"))
        }
        Err(_broken) => refused(StatusCode::BAD_REQUEST, "the body broke off"),
    }
}

/// The media type that a request gives for its body, in lower case, without parameters.
pub(crate) fn media_type_of(headers: &HeaderMap) -> String {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

// Content negotiation and conditional requests: which encoding a client accepts, and whether it has the answer already.

/// How the body of an answer is encoded (RFC 9110, section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    Identity,
    /// gzip (RFC 1952).
    Gzip,
}

impl Encoding {
    /// The encoding of the answer for a client: gzip if its `Accept-Encoding` fields accept it, otherwise identity. RFC
    /// 9110, section 12.5.3, leaves the choice to the server if a request has no such field; it gets identity, because
    /// clients that accept gzip say so.
    pub(crate) fn for_client(headers: &HeaderMap) -> Encoding {
        let (mut gzip, mut any) = (None, None);
        for field in headers.get_all(ACCEPT_ENCODING) {
            let Ok(text) = field.to_str() else { continue };
            for item in text.split(',') {
                let mut parts = item.split(';');
                let coding = parts.next().unwrap_or_default().trim();
                let weight = parts.find_map(quality).unwrap_or(1.0);
                if coding.eq_ignore_ascii_case(GZIP) || coding.eq_ignore_ascii_case("x-gzip") {
                    gzip = Some(weight);
                } else if coding == "*" {
                    any = Some(weight);
                }
            }
        }
        if gzip.or(any).unwrap_or(0.0) > 0.0 { Encoding::Gzip } else { Encoding::Identity }
    }
}

/// The weight in a parameter such as `q=0.5` (RFC 9110, section 12.4.2). A weight that cannot be parsed counts as 0:
/// the client then gets an answer that is not encoded, which every client can read.
fn quality(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(0.0))
}

/// True if the client has the answer with this entity tag already, so that the answer is 304: its `If-None-Match` is
/// `*` or lists the tag, compared weakly (RFC 9110, sections 8.8.3.2 and 13.1.2). `tag` is a strong tag with its
/// quotes.
pub(crate) fn holds(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|field| {
        let text = field.as_bytes();
        text.trim_ascii() == b"*" || entity_tags(text).any(|held| held == tag.as_bytes())
    })
}

/// The entity tags in a field's value, with their quotes and without `W/`. The list is split at quotes, because a tag
/// may contain a comma (RFC 9110, section 8.8.3).
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
