//! Where the database is and how to get in: a URL or key/value string, completed by the `PG*` variables as libpq does.

use std::error::Error as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, pki_types};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Cause, Error, ServerName};
use super::options::DatabaseSection;

/// When the connection uses TLS and what it verifies, as in libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum SslMode {
    /// Without TLS.
    Disable,
    /// With TLS if the server offers it; libpq's default. "allow" means the same here.
    #[default]
    Prefer,
    /// With TLS and any certificate; like `verify-ca` if a root certificate is given.
    Require,
    /// With TLS and a certificate of a trusted authority.
    VerifyCa,
    /// With TLS and a certificate of a trusted authority for this host.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = Error;
    fn from_str(text: &str) -> Result<SslMode, Error> {
        Ok(match text {
            "disable" => SslMode::Disable,
            "allow" | "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => {
                // A text of other characters may be more than an sslmode, and hold a password.
                let is_word = text.len() <= 20 && text.bytes().all(|c| c.is_ascii_lowercase() || c == b'-');
                return Err(Error::Setting {
                    what: if is_word {
                        format!("\"{text}\" is no sslmode")
                    } else {
                        "the sslmode is not known".to_owned()
                    },
                    next: "write disable, prefer, require, verify-ca or verify-full".to_owned(),
                });
            }
        })
    }
}

/// The parts of a connection that a URL or the environment may give. It has no `Debug`, because it holds a password.
#[derive(Clone, Default)]
pub struct ConnectParts {
    /// Host names or socket folders.
    pub(crate) host: Option<String>,
    pub port: Option<String>,
    pub user: Option<String>,
    pub(crate) password: Option<String>,
    pub database: Option<String>,
    pub(crate) sslmode: Option<String>,
    pub(crate) sslrootcert: Option<String>,
    pub(crate) sslcert: Option<String>,
    pub(crate) sslkey: Option<String>,
    /// How the sessions show in `pg_stat_activity`.
    pub(crate) application_name: Option<String>,
}

/// How the sessions show in `pg_stat_activity`, unless the URL or `PGAPPNAME` has another name.
const APPLICATION_NAME: &str = "oar-tiles";

impl ConnectParts {
    /// The parts that libpq takes from the environment (PostgreSQL documentation, "Environment Variables").
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> ConnectParts {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        ConnectParts {
            host: variable("PGHOST"),
            port: variable("PGPORT"),
            user: variable("PGUSER"),
            password: variable("PGPASSWORD"),
            database: variable("PGDATABASE"),
            sslmode: variable("PGSSLMODE"),
            sslrootcert: variable("PGSSLROOTCERT"),
            sslcert: variable("PGSSLCERT"),
            sslkey: variable("PGSSLKEY"),
            application_name: variable("PGAPPNAME"),
        }
    }
}

/// Everything needed to connect. Its `Debug` shows only the server, because the value holds a password.
#[derive(Clone)]
pub struct ConnectOptions {
    pub(crate) config: tokio_postgres::Config,
    pub(crate) mode: SslMode,
    pub(crate) files: TlsFiles,
    pub(crate) server: ServerName,
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectOptions").field(&self.server).finish_non_exhaustive()
    }
}

/// The parameters of TLS. The driver's parser does not know all of them.
const OWN_PARAMETERS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

impl ConnectOptions {
    /// Reads a URL (`postgresql://…`) or key/value string and completes it from the environment. With
    /// `environment_wins` the environment also replaces parts of the string; that is right for a string from a file.
    ///
    /// # Errors
    /// If the string cannot be read. The message does not repeat it, because it may hold a password.
    pub fn new(
        url: Option<&str>,
        environment: &ConnectParts,
        environment_wins: bool,
        section: &DatabaseSection,
    ) -> Result<ConnectOptions, Error> {
        let (rest, own) = take_own_parameters(trimmed(url.unwrap_or_default()));
        let ConnectParts { host, port, user, database, .. } = environment;
        let is_named = !rest.is_empty() || [host, port, user, database].iter().any(|part| part.is_some());
        let mut config = parsed(&rest)?;
        let missing = |given: bool| environment_wins || !given;
        if let Some(host) = environment.host.as_ref().filter(|_| missing(!config.get_hosts().is_empty())) {
            config = without_hosts(&config);
            for host in host.split(',') {
                config.host(host);
            }
        }
        if config.get_hosts().is_empty() {
            let socket =
                ["/var/run/postgresql", "/run/postgresql"].into_iter().find(|folder| PathBuf::from(folder).is_dir());
            config.host(socket.unwrap_or("localhost"));
        }
        if let Some(ports) = environment.port.as_ref().filter(|_| missing(!config.get_ports().is_empty())) {
            let ports: Result<Vec<u16>, _> = ports.split(',').map(str::parse).collect();
            let ports = ports.map_err(|error| Error::Setting {
                what: format!("PGPORT is no port number ({error})"),
                next: "write a number such as 5432".to_owned(),
            })?;
            config = without_ports(&config);
            for port in ports {
                config.port(port);
            }
        }
        if let Some(user) = environment.user.as_ref().filter(|_| missing(config.get_user().is_some())) {
            config.user(user);
        }
        if let Some(password) = environment.password.as_ref().filter(|_| missing(config.get_password().is_some())) {
            config.password(password);
        }
        if let Some(database) = environment.database.as_ref().filter(|_| missing(config.get_dbname().is_some())) {
            config.dbname(database);
        }
        let pick = |name: &str, variable: &Option<String>| {
            let written = own.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            if environment_wins { variable.clone().or(written) } else { written.or_else(|| variable.clone()) }
        };
        let mode = pick("sslmode", &environment.sslmode).map_or(Ok(SslMode::default()), |mode| mode.parse())?;
        let path = |name, variable| pick(name, variable).map(PathBuf::from);
        let files = TlsFiles {
            root: path("sslrootcert", &environment.sslrootcert),
            certificate: path("sslcert", &environment.sslcert),
            key: path("sslkey", &environment.sslkey),
        };
        config.ssl_mode(match mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        });
        if config.get_application_name().is_none() {
            config.application_name(environment.application_name.as_deref().unwrap_or(APPLICATION_NAME));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(*section.connect_timeout);
        }
        let server = ServerName { is_named, ..ServerName::of(&config) };
        Ok(ConnectOptions { config, mode, files, server })
    }

    /// The server for messages.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The port to which the program connects; `None` if there are several hosts, since any of them may answer.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match (self.config.get_hosts().len(), self.config.get_ports()) {
            (0 | 1, []) => Some(5432),
            (0 | 1, [port, ..]) => Some(*port),
            _ => None,
        }
    }
}

/// A copy of the configuration without its hosts: the driver can add hosts, but not replace them.
fn without_hosts(config: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut new = without_addresses(config);
    for port in config.get_ports() {
        new.port(*port);
    }
    new
}

/// A copy of the configuration without its ports.
fn without_ports(config: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut new = without_addresses(config);
    for host in config.get_hosts() {
        match host {
            Host::Tcp(name) => new.host(name),
            Host::Unix(path) => new.host_path(path),
        };
    }
    new
}

/// A copy of the configuration without hosts and ports.
fn without_addresses(config: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut new = tokio_postgres::Config::new();
    if let Some(user) = config.get_user() {
        new.user(user);
    }
    if let Some(password) = config.get_password() {
        new.password(password);
    }
    if let Some(database) = config.get_dbname() {
        new.dbname(database);
    }
    if let Some(options) = config.get_options() {
        new.options(options);
    }
    if let Some(name) = config.get_application_name() {
        new.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        new.connect_timeout(*timeout);
    }
    new
}

/// Splits a URL or key/value string into the string without the parameters of TLS, and these parameters by name.
fn take_own_parameters(url: &str) -> (String, Vec<(String, String)>) {
    let mut own = Vec::new();
    let mut keep = |part: &&str| match part.split_once('=') {
        Some((key, value)) if OWN_PARAMETERS.contains(&key) => {
            own.push((key.to_owned(), percent_decoded(value.trim_matches('\''))));
            false
        }
        _ => true,
    };
    let is_url = is_url(url);
    let rest = if let Some((front, query)) = url.split_once('?').filter(|_| is_url) {
        let query: Vec<&str> = query.split('&').filter(&mut keep).collect();
        if query.is_empty() { front.to_owned() } else { format!("{front}?{}", query.join("&")) }
    } else if is_url {
        url.to_owned()
    } else {
        url.split_whitespace().filter(&mut keep).collect::<Vec<_>>().join(" ")
    };
    (rest, own)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = code {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

// Cancels a statement in the server (PostgreSQL documentation, "Canceling Requests in Progress").
//
// The driver closes its connection as soon as the request is sent. A server has read the request by then. But a pooler
// that still has to pass it on takes the closed connection as a withdrawal (seen with PgBouncer 1.18), and the
// statement goes on. Here, as in libpq, the connection stays open until the other side closes it.

/// Asks the server to cancel the statement of the token's session. Returns when the server has received the request.
pub(crate) async fn cancel(token: &CancelToken, config: &Config, tls: &MakeRustlsConnect) -> Result<(), Cause> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts() {
        [Host::Tcp(name)] if config.get_hostaddrs().is_empty() => {
            let stream = TcpStream::connect((name.as_str(), port)).await?;
            cancel_over(token, stream, tls, name).await
        }
        [Host::Unix(folder)] => {
            let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?;
            cancel_over(token, stream, tls, "").await
        }
        // Only the driver knows which of several hosts it is connected to.
        _ => Ok(token.cancel_query(tls.clone()).await?),
    }
}

/// Sends the request over `stream`, and waits until the other side closes it.
async fn cancel_over<S>(token: &CancelToken, stream: S, tls: &MakeRustlsConnect, host: &str) -> Result<(), Cause>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut tls = tls.clone();
    let tls = MakeTlsConnect::<HeldConnection<S>>::make_tls_connect(&mut tls, host).map_err(io::Error::other)?;
    Ok(token.cancel_query_raw(HeldConnection(stream), tls).await?)
}

/// A connection that shuts down only after the other side has closed it.
struct HeldConnection<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for HeldConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeldConnection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut bytes = [0; 64];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.0).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                // The other side has closed it, or it broke.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

// TLS by rustls, with libpq's meaning of `sslmode` (PostgreSQL documentation, section "SSL Support" of libpq).

#[derive(Debug, Clone, Default)]
pub(crate) struct TlsFiles {
    /// Certificates that are trusted, instead of the system's.
    pub root: Option<PathBuf>,
    /// The client's certificate chain.
    pub(crate) certificate: Option<PathBuf>,
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

pub(crate) fn connector(mode: SslMode, files: &TlsFiles) -> Result<MakeRustlsConnect, Error> {
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

// The form of a database URL, and why one cannot be read. No message repeats a part of a URL that may belong to its
// password.

/// The schemes that the driver and libpq know, in small letters only.
const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Parameters of libpq that the driver does not know. Messages may name them, because no password is likely to be one
/// of these.
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
pub(crate) fn trimmed(url: &str) -> &str {
    url.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// True for a URL, false for a key/value string.
pub(crate) fn is_url(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// Reads a URL or key/value string.
pub(crate) fn parsed(text: &str) -> Result<tokio_postgres::Config, Error> {
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
    // The driver takes the first / for the beginning of the database's name, which messages show.
    let path = text.split_once("://").and_then(|(_, rest)| rest.split('?').next()?.split_once('/'));
    if is_url(text) && path.is_some_and(|(_, name)| name.contains('@')) {
        let next = "write %40 for an @ and %2F for a / in the user, the password or the name of the database";
        return Err(unreadable("there is an @ behind a / in it", next));
    }
    if config.get_dbname().is_some_and(|name| name.contains("://")) {
        return Err(unreadable("the name of the database is a URL", FORMS));
    }
    Ok(config)
}

/// An error for a text that looks like a URL and does not begin like one.
fn check_scheme(text: &str) -> Result<(), Error> {
    if !text.is_empty() && !text.contains(['=', ':', '/']) && !text.contains(char::is_whitespace) {
        let next = "for a database of that name write postgresql://user@host:5432/NAME";
        return Err(unreadable("it is one word", next));
    }
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

    fn options(url: Option<&str>, environment: &ConnectParts, wins: bool) -> Result<ConnectOptions, Error> {
        ConnectOptions::new(url, environment, wins, &DatabaseSection::default())
    }

    #[test]
    fn the_environment_completes_a_url_and_replaces_parts_of_one_from_a_file() {
        let environment = ConnectParts {
            host: Some("elsewhere".into()),
            port: Some("6543".into()),
            password: Some("secret".into()),
            sslmode: Some("verify-full".into()),
            ..ConnectParts::default()
        };
        let url = Some("postgresql://u@here:1/db?sslmode=disable");
        let completed = options(url, &environment, false).unwrap();
        assert_eq!((completed.server.to_string().as_str(), completed.mode), ("u@here:1/db", SslMode::Disable));
        assert_eq!(completed.config.get_password(), Some(&b"secret"[..]));
        let replaced = options(url, &environment, true).unwrap();
        assert_eq!((replaced.server.to_string().as_str(), replaced.mode), ("u@elsewhere:6543/db", SslMode::VerifyFull));
    }

    #[test]
    fn key_value_strings_and_socket_urls_work() {
        let none = ConnectParts::default();
        let a =
            options(Some("host=/tmp/x port=7 user=me dbname=d sslmode=verify-ca sslrootcert=/ca.pem"), &none, false)
                .unwrap();
        assert_eq!((a.server.to_string().as_str(), a.mode), ("me@/tmp/x:7/d", SslMode::VerifyCa));
        assert_eq!(a.files.root, Some("/ca.pem".into()));
        let b = options(Some("postgresql://me@/d?host=/tmp/x&port=7&sslrootcert=%2Fca.pem"), &none, false).unwrap();
        assert_eq!((b.server.to_string().as_str(), b.files.root), ("me@/tmp/x:7/d", Some("/ca.pem".into())));
    }

    #[test]
    fn a_bad_url_is_not_repeated_because_it_may_hold_a_password() {
        let error =
            options(Some("postgresql://u:hunter2@h:port/db"), &ConnectParts::default(), false).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(error.starts_with("the database URL cannot be read ("), "{error}");
        assert!(error.ends_with("): write postgresql://user@host:5432/database"), "{error}");
        let shown =
            format!("{:?}", options(Some("postgresql://u:hunter2@h/db"), &ConnectParts::default(), false).unwrap());
        assert_eq!(shown, "ConnectOptions(ServerName { shown: \"u@h:5432/db\", is_named: true }, ..)");
        let error = options(Some("host=h sslmode=require;password=hunter2"), &ConnectParts::default(), false)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "the sslmode is not known: write disable, prefer, require, verify-ca or verify-full");
        let error = options(Some("postgresql://u@h/db?sslmode=maybe"), &ConnectParts::default(), false)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "\"maybe\" is no sslmode: write disable, prefer, require, verify-ca or verify-full");
    }
}

#[cfg(test)]
mod url_tests {
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
            ("postgresql://me:first@second/s3cret@h:5432/db", "%2F for a /"),
            ("postgresql://me:12/s3cret@h/db", "there is an @ behind a / in it"),
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
            ("s3cret", "it is one word"),
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
