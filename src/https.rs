//! A client for HTTP and HTTPS that trusts the system's certificates (or those of `SSL_CERT_FILE`), and what its errors
//! mean. Redirects are not followed.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

pub type RequestBody = Full<Bytes>;

/// The `User-Agent` of all requests.
pub(crate) const USER_AGENT: &str = concat!("oar-tiles/", env!("CARGO_PKG_VERSION"));

/// A client with connections of its own. Clones share them.
pub type HttpsClient = Client<HttpsConnector<HttpConnector>, RequestBody>;

/// Makes a client, without opening a connection.
pub fn https_client() -> Result<HttpsClient, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // A certificate that rustls cannot read is one that it would not trust.
        if let Err(error) = roots.add(certificate) {
            tracing::debug!("a system certificate is not used: {error}");
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// The server's certificate is not the right one, or not trusted: a retry fails in the same way.
    Certificate(String),
    /// The server cannot be reached, or broke off: the deepest cause.
    Unreachable(String),
}

impl NoAnswer {
    /// Classifies the error of a request.
    pub fn of(error: &hyper_util::client::legacy::Error) -> NoAnswer {
        if let Some(why) = bad_certificate(error) {
            return NoAnswer::Certificate(format!("{why:?}"));
        }
        NoAnswer::Unreachable(deepest_cause(error))
    }
}

/// What is waited for, and read, at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchLimits {
    /// From the request to the last byte of the answer.
    pub(crate) time: Duration,
    /// Of the body, as it was sent.
    pub(crate) bytes: usize,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct FetchedAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// As it was sent: perhaps packed.
    pub(crate) body: Bytes,
}

impl FetchedAnswer {
    /// The value of a header; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum FetchError {
    NoAnswer(NoAnswer),
    /// It takes longer than [`FetchLimits::time`].
    Slow,
    /// It breaks off within the body: the deepest cause.
    BreaksOff(String),
    /// The body is larger than [`FetchLimits::bytes`].
    TooLarge,
}

/// Sends a request, and reads the answer within the limits.
pub(crate) async fn fetch(
    client: &HttpsClient,
    request: Request<RequestBody>,
    limits: FetchLimits,
) -> Result<FetchedAnswer, FetchError> {
    let exchange = async {
        let answer = client.request(request).await.map_err(|error| FetchError::NoAnswer(NoAnswer::of(&error)))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limits.bytes).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge
            } else {
                FetchError::BreaksOff(deepest_cause(&*error))
            }
        })?;
        Ok(FetchedAnswer { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    tokio::time::timeout(limits.time, exchange).await.unwrap_or(Err(FetchError::Slow))
}

/// The deepest cause of an error. The errors around it say only that there is one.
pub fn deepest_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// What is wrong with the server's certificate, if that is the cause. `io::Error::source` skips the error that it
/// wraps, so that one is looked at separately.
fn bad_certificate<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
        return Some(why);
    }
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let wrapped = wrapped.and_then(|wrapped| bad_certificate(wrapped));
    wrapped.or_else(|| error.source().and_then(|cause| bad_certificate(cause)))
}
