//! The server's name for messages.

use std::fmt;

use tokio_postgres::config::Host;

/// A server and database as messages show them: user, host, port and database, never the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(String);

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ServerName {
    /// The name of the first host of a connection.
    pub(crate) fn of(config: &tokio_postgres::Config) -> ServerName {
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
        ServerName(format!("{user}{host}:{port}/{database}"))
    }
}
