//! Where the database is and how to get in: a URL or key/value string, completed by the `PG*` variables as libpq does.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::config::Host;

pub(super) mod cancel;
pub(super) mod tls;
mod url;

use super::error::Error;
use super::server_name::ServerName;
use tls::TlsFiles;

/// When the connection uses TLS and what it verifies, as in libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
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
pub struct Parts {
    /// Host names or socket folders.
    pub host: Option<String>,
    /// The port.
    pub port: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// `sslmode`.
    pub sslmode: Option<String>,
    /// `sslrootcert`.
    pub sslrootcert: Option<String>,
    /// `sslcert`.
    pub sslcert: Option<String>,
    /// `sslkey`.
    pub sslkey: Option<String>,
}

impl Parts {
    /// The parts that libpq takes from the environment (PostgreSQL documentation, "Environment Variables").
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Parts {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        Parts {
            host: variable("PGHOST"),
            port: variable("PGPORT"),
            user: variable("PGUSER"),
            password: variable("PGPASSWORD"),
            database: variable("PGDATABASE"),
            sslmode: variable("PGSSLMODE"),
            sslrootcert: variable("PGSSLROOTCERT"),
            sslcert: variable("PGSSLCERT"),
            sslkey: variable("PGSSLKEY"),
        }
    }
}

/// Everything needed to connect. Its `Debug` shows only the server, because the value holds a password.
#[derive(Clone)]
pub struct ConnectOptions {
    pub(in crate::postgis) config: tokio_postgres::Config,
    pub(in crate::postgis) mode: SslMode,
    pub(in crate::postgis) files: TlsFiles,
    pub(in crate::postgis) server: ServerName,
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectOptions").field(&self.server).finish_non_exhaustive()
    }
}

/// The parameters of TLS. The driver's parser does not know all of them.
const OWN_PARAMETERS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

impl ConnectOptions {
    /// Reads a URL (`postgresql://…`) or key/value string and completes it from the environment. With `environment_wins` the environment also
    /// replaces parts of the string; that is right for a string from a file.
    ///
    /// # Errors
    /// If the string cannot be read. The message does not repeat it, because it may hold a password.
    pub fn new(
        url: Option<&str>,
        environment: &Parts,
        environment_wins: bool,
        application_name: &str,
        connect_timeout: Duration,
    ) -> Result<ConnectOptions, Error> {
        let (rest, own) = take_own_parameters(url::trimmed(url.unwrap_or_default()));
        let mut config = url::parsed(&rest)?;
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
            config.application_name(application_name);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(connect_timeout);
        }
        let server = ServerName::of(&config);
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
            #[cfg(unix)]
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
    let is_url = url::is_url(url);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: Option<&str>, environment: &Parts, wins: bool) -> Result<ConnectOptions, Error> {
        ConnectOptions::new(url, environment, wins, "oar-tiles", Duration::from_secs(1))
    }

    #[test]
    fn the_environment_completes_a_url_and_replaces_parts_of_one_from_a_file() {
        let environment = Parts {
            host: Some("elsewhere".into()),
            port: Some("6543".into()),
            password: Some("secret".into()),
            sslmode: Some("verify-full".into()),
            ..Parts::default()
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
        let none = Parts::default();
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
            options(Some("postgresql://u:hunter2@h:port/db"), &Parts::default(), false).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(error.starts_with("the database URL cannot be read ("), "{error}");
        assert!(error.ends_with("): write postgresql://user@host:5432/database"), "{error}");
        let shown = format!("{:?}", options(Some("postgresql://u:hunter2@h/db"), &Parts::default(), false).unwrap());
        assert_eq!(shown, "ConnectOptions(ServerName(\"u@h:5432/db\"), ..)");
        let error =
            options(Some("host=h sslmode=require;password=hunter2"), &Parts::default(), false).unwrap_err().to_string();
        assert_eq!(error, "the sslmode is not known: write disable, prefer, require, verify-ca or verify-full");
        let error =
            options(Some("postgresql://u@h/db?sslmode=maybe"), &Parts::default(), false).unwrap_err().to_string();
        assert_eq!(error, "\"maybe\" is no sslmode: write disable, prefer, require, verify-ca or verify-full");
    }
}
