//! Requests to providers: TLS is verified, redirects are not followed, every request has a time limit.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};

use super::{ProviderError, SendError};
use crate::cdn::pace::retry_after;
use crate::https::{HttpsClient, NoAnswer, https_client};
use crate::setting::Secret;

pub(crate) use crate::https::{RequestBody, USER_AGENT};

/// The longest wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The most characters of an answer that an error repeats.
const MAX_SHOWN_CHARS: usize = 200;

/// A client with connections of its own. Clones share them.
#[derive(Clone)]
pub(crate) struct HttpClient(HttpsClient);

#[derive(Debug, Clone)]
pub(crate) struct HttpAnswer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    /// The answer's body, as far as it was read.
    pub(crate) text: String,
}

impl HttpClient {
    /// A client that trusts the system's certificates.
    pub(crate) fn new() -> Result<HttpClient, ProviderError> {
        let client = https_client().map_err(|error| ProviderError::Tls { what: error.to_string() })?;
        Ok(HttpClient(client))
    }

    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Result<HttpAnswer, SendError> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let exchange = async {
            let answer = self.0.request(request).await.map_err(|error| no_answer(&host, &error))?;
            let (head, body) = answer.into_parts();
            let text = match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
                Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                // Only the status decides. If the body breaks off, the status still counts.
                Err(_) => String::new(),
            };
            let asked = head.headers.get(header::RETRY_AFTER).and_then(|text| text.to_str().ok());
            let retry_after = asked.and_then(|text| retry_after(text, SystemTime::now()));
            Ok(HttpAnswer { status: head.status, retry_after, text })
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(SendError::later(format!("{host} has not answered within {} s", REQUEST_TIMEOUT.as_secs()))),
        }
    }
}

/// Classifies a request without an answer. A server that cannot be reached may be back soon; a server with a wrong
/// certificate is not the intended one.
fn no_answer(host: &str, error: &hyper_util::client::legacy::Error) -> SendError {
    match NoAnswer::of(error) {
        NoAnswer::Certificate(why) => SendError::refused(format!("the certificate of {host} is not trusted ({why})")),
        NoAnswer::Unreachable(why) => SendError::later(format!("{host} cannot be reached: {why}")),
    }
}

impl HttpAnswer {
    /// Classifies an answer of a provider that has no codes of its own: 2xx is success; 408, 429 and 5xx are temporary;
    /// everything else, redirects included, is permanent until somebody changes something.
    pub(crate) fn judged(&self, secret: Option<&Secret>) -> Result<(), SendError> {
        if self.status.is_success() {
            return Ok(());
        }
        let what = self.shown(secret);
        let passes = matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        Err(if passes || self.status.is_server_error() {
            SendError::Later { what, retry_after: self.retry_after }
        } else {
            SendError::refused(what)
        })
    }

    /// The status and the beginning of the body, on one line, without the secret.
    pub(crate) fn shown(&self, secret: Option<&Secret>) -> String {
        let text = secret.map_or_else(|| self.text.clone(), |secret| secret.hide_in(&self.text));
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect();
        if text.is_empty() { self.status.to_string() } else { format!("{}: {text}", self.status) }
    }
}

pub(crate) fn json_request(
    method: &str,
    url: &str,
    headers: &[(&'static str, &str)],
    body: &serde_json::Value,
) -> Result<Request<RequestBody>, SendError> {
    let request = Request::builder().header(header::CONTENT_TYPE, "application/json");
    build(request, method, url, headers, Bytes::from(body.to_string()))
}

/// A request without a body.
pub(crate) fn empty_request(
    method: &str,
    url: &str,
    headers: &[(&'static str, &str)],
) -> Result<Request<RequestBody>, SendError> {
    build(Request::builder(), method, url, headers, Bytes::new())
}

fn build(
    request: http::request::Builder,
    method: &str,
    url: &str,
    headers: &[(&'static str, &str)],
    body: Bytes,
) -> Result<Request<RequestBody>, SendError> {
    let mut request = request.method(method).uri(url).header(header::USER_AGENT, USER_AGENT);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // The error may not name the header's value, which may be a secret.
    request.body(Full::new(body)).map_err(|_odd| SendError::refused(format!("{url} cannot be asked: it is no URL")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdn::provider::SecretSource;

    fn answer(status: u16, text: &str) -> HttpAnswer {
        let status = StatusCode::from_u16(status).unwrap();
        HttpAnswer { status, retry_after: Some(Duration::from_secs(3)), text: text.to_owned() }
    }

    #[test]
    fn statuses_are_taken_refused_or_waited_for() {
        for status in [200, 201, 204] {
            assert!(answer(status, "").judged(None).is_ok());
        }
        for status in [408, 429, 500, 502, 503, 504] {
            let Err(SendError::Later { retry_after, .. }) = answer(status, "").judged(None) else { panic!("{status}") };
            assert_eq!(retry_after, Some(Duration::from_secs(3)));
        }
        for status in [301, 302, 307, 308, 400, 401, 403, 404, 405, 413] {
            assert!(matches!(answer(status, "").judged(None), Err(SendError::Refused { .. })), "{status}");
        }
    }

    #[test]
    fn an_error_repeats_one_short_line_without_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "abcdef-0123456789").unwrap();
        let secret = SecretSource::File(path).read().unwrap();
        let long = format!("bad\n\n token \u{1b}[2Jabcdef-0123456789 {}", "x".repeat(1_000));
        let error = answer(401, &long).judged(Some(&secret)).unwrap_err().to_string();
        assert!(error.contains("401 Unauthorized: bad token [2J(hidden) xxx"), "{error}");
        assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    }
}
