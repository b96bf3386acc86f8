//! Where a listener waits for connections: a TCP address, a Unix socket, or a socket that systemd has opened.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a listener waits for connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port; port 0 takes any that is free.
    Tcp(SocketAddr),
    /// A Unix socket, which is replaced if nobody listens on it any more.
    Unix(PathBuf),
    /// A socket that systemd has opened (`LISTEN_FDS`, `sd_listen_fds(3)`), by its number among those that it passed, from 0.
    Inherited(usize),
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address to listen on: write an IP address and a port such as 127.0.0.1:8080 or [::1]:8080, unix:/run/oar-tiles.sock, or systemd:0"
)]
pub struct ListenAddressError {
    /// The text.
    pub text: String,
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<ListenAddress, ListenAddressError> {
        let wrong = || ListenAddressError { text: text.to_owned() };
        match text.strip_prefix("unix:") {
            Some("") => Err(wrong()),
            Some(path) => Ok(ListenAddress::Unix(PathBuf::from(path))),
            None if text.starts_with("systemd:") => {
                let number = text.trim_start_matches("systemd:").parse();
                number.map(ListenAddress::Inherited).map_err(|_not_a_number| wrong())
            }
            None => text.parse().map(ListenAddress::Tcp).map_err(|_not_an_address| wrong()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenAddress::Inherited(number) => write!(f, "systemd:{number}"),
        }
    }
}

/// A socket that waits for connections.
#[derive(Debug)]
pub(crate) enum HttpListener {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

/// A connection that a listener has accepted.
#[derive(Debug)]
pub(crate) enum HttpConnection {
    Tcp(tokio::net::TcpStream, IpAddr),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl HttpListener {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the address is in use, is not this machine's, or may not be used.
    pub(crate) async fn bind(address: &ListenAddress) -> io::Result<HttpListener> {
        match address {
            ListenAddress::Tcp(address) => Ok(HttpListener::Tcp(tokio::net::TcpListener::bind(address).await?)),
            #[cfg(unix)]
            ListenAddress::Unix(path) => {
                // A socket that a server left behind refuses connections; one that answers belongs to a server that runs.
                // Any other file refuses them, too, and is somebody's: it stays, and the address is in use.
                if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
                    && let Err(error) = tokio::net::UnixStream::connect(path).await
                    && error.kind() == io::ErrorKind::ConnectionRefused
                {
                    std::fs::remove_file(path)?;
                }
                Ok(HttpListener::Unix(tokio::net::UnixListener::bind(path)?))
            }
            #[cfg(unix)]
            ListenAddress::Inherited(number) => inherited(*number),
            #[cfg(not(unix))]
            ListenAddress::Unix(_) | ListenAddress::Inherited(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Where it listens, as a URL for clients without a path; `None` for a wildcard address or a socket, which no client can name.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            HttpListener::Tcp(listener) => {
                let address = listener.local_addr().ok()?;
                (!address.ip().is_unspecified()).then(|| format!("http://{address}"))
            }
            #[cfg(unix)]
            HttpListener::Unix(_) => None,
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// If none could be accepted, for example because the process has too many files open.
    pub(crate) async fn accept(&self) -> io::Result<HttpConnection> {
        match self {
            HttpListener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole: nothing is gained by waiting for more.
                stream.set_nodelay(true)?;
                Ok(HttpConnection::Tcp(stream, peer.ip()))
            }
            #[cfg(unix)]
            HttpListener::Unix(listener) => Ok(HttpConnection::Unix(listener.accept().await?.0)),
        }
    }
}

/// A socket that systemd has opened: for IP addresses or a Unix socket, as the unit says.
#[cfg(unix)]
fn inherited(number: usize) -> io::Result<HttpListener> {
    let mut passed = listenfd::ListenFd::from_env();
    // One that is of the other kind stays there to be taken.
    if let Ok(Some(listener)) = passed.take_tcp_listener(number) {
        listener.set_nonblocking(true)?;
        return Ok(HttpListener::Tcp(tokio::net::TcpListener::from_std(listener)?));
    }
    let Some(listener) = passed.take_unix_listener(number)? else {
        let what = format!("systemd has passed {} sockets (LISTEN_FDS), and no number {number}", passed.len());
        return Err(io::Error::other(what));
    };
    listener.set_nonblocking(true)?;
    Ok(HttpListener::Unix(tokio::net::UnixListener::from_std(listener)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in ["127.0.0.1:8080", "[::1]:0", "0.0.0.0:80", "unix:/run/oar-tiles.sock", "systemd:1"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in ["", "8080", "localhost:8080", "127.0.0.1", "unix:", "127.0.0.1:99999", "systemd:", "systemd:x"] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "{text:?} is no address to listen on: write an IP address and a port such as 127.0.0.1:8080 or [::1]:8080, unix:/run/oar-tiles.sock, or systemd:0"
                )
            );
        }
    }
}
