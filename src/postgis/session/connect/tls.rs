//! TLS by rustls, with libpq's meaning of `sslmode` (PostgreSQL documentation, section "SSL Support" of libpq).

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{self, CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::error::Error;
use super::SslMode;

/// Files that TLS needs.
#[derive(Debug, Clone, Default)]
pub(in crate::postgis) struct TlsFiles {
    /// Certificates that are trusted, instead of the system's.
    pub root: Option<PathBuf>,
    /// The client's certificate chain.
    pub certificate: Option<PathBuf>,
    /// The client's key.
    pub key: Option<PathBuf>,
}

/// Verifies the server's certificate as far as the mode requires.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Verifies chain and name; with `None`, any certificate is accepted.
    chain: Option<Arc<WebPkiServerVerifier>>,
    check_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &pki_types::ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // rustls verifies the chain and dates before the name, so only the name is wrong here.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The connector for a mode.
pub(in crate::postgis) fn connector(mode: SslMode, files: &TlsFiles) -> Result<MakeRustlsConnect, Error> {
    let setting = |what: String, next: &str| Error::Setting { what, next: next.to_owned() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Like libpq, verify the certificate in mode "require" if a root certificate is given.
    let verify =
        matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) || (mode == SslMode::Require && files.root.is_some());
    let chain = if verify {
        let roots = Arc::new(roots(files)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| {
            setting(
                format!("no usable root certificates ({error})"),
                "set sslrootcert to the PEM file of your certificate authority",
            )
        })?)
    } else {
        None
    };
    let verifier = Verifier { provider: Arc::clone(&provider), chain, check_name: mode == SslMode::VerifyFull };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| setting(format!("TLS is not available ({error})"), "use sslmode=disable"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let bad = |path: &PathBuf, error: rustls::pki_types::pem::Error| {
                setting(format!("cannot read {} ({error})", path.display()), "set sslcert and sslkey to PEM files")
            };
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| bad(certificate, error))?;
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error))?;
            builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                setting(format!("sslcert and sslkey do not fit ({error})"), "give the key of that certificate")
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

/// The trusted certificates: those of `sslrootcert`, or the system's.
fn roots(files: &TlsFiles) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match &files.root {
        Some(path) if path.as_os_str() != "system" => {
            let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let certificates = certificates.map_err(|error| Error::Setting {
                what: format!("cannot read sslrootcert {} ({error})", path.display()),
                next: "set it to the PEM file of your certificate authority".to_owned(),
            })?;
            roots.add_parsable_certificates(certificates);
        }
        _ => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!("a certificate of the system is left out: {error}");
            }
            roots.add_parsable_certificates(found.certs);
        }
    }
    Ok(roots)
}
