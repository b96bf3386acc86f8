//! A client for HTTP and HTTPS that trusts the system's certificates (or those of `SSL_CERT_FILE`), and what its errors
//! mean. Redirects are not followed.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

pub type RequestBody = Full<Bytes>;

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
