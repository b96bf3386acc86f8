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
    /// An IP address and a port; with port 0 the system chooses a free port.
    Tcp(SocketAddr),
    /// A Unix socket. A socket file that no server listens on any more is replaced.
    Unix(PathBuf),
    /// A socket that systemd has opened (`LISTEN_FDS`, `sd_listen_fds(3)`): its index among the sockets passed, counted from 0.
    Inherited(usize),
}

impl ListenAddress {
    /// Any free port of this machine, for programs of this machine.
    pub const ANY_LOCAL: ListenAddress =
        ListenAddress::Tcp(SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0)));
}

/// The text is not an address to listen on.
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

/// A listening socket.
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

impl HttpConnection {
    /// The address at the other end; `None` for a Unix socket.
    pub(super) const fn address(&self) -> Option<IpAddr> {
        match self {
            HttpConnection::Tcp(_, address) => Some(*address),
            #[cfg(unix)]
            HttpConnection::Unix(_) => None,
        }
    }
}

impl HttpListener {
    /// Binds the address and starts to listen.
    ///
    /// # Errors
    /// If the address is in use, does not belong to this machine, or needs more rights.
    pub(crate) async fn bind(address: &ListenAddress) -> io::Result<HttpListener> {
        match address {
            ListenAddress::Tcp(address) => Ok(HttpListener::Tcp(tokio::net::TcpListener::bind(address).await?)),
            #[cfg(unix)]
            ListenAddress::Unix(path) => {
                // A socket that an ended server left behind refuses connections and is replaced; one that accepts them belongs to a running
                // server. Another kind of file refuses connections, too, but belongs to somebody: it stays, and the address counts as in
                // use.
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

    /// The listener's address as a URL without a path; `None` for a wildcard address or a Unix socket, which clients cannot name.
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

    /// True if only programs of this machine reach it, over TCP. (Pages in a browser do not reach Unix sockets.)
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            HttpListener::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            #[cfg(unix)]
            HttpListener::Unix(_) => false,
        }
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// If a connection could not be accepted, for example because the process has too many open files.
    pub(crate) async fn accept(&self) -> io::Result<HttpConnection> {
        match self {
            HttpListener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // An answer is written in one piece, so waiting for more data (Nagle's algorithm) gains nothing.
                stream.set_nodelay(true)?;
                Ok(HttpConnection::Tcp(stream, peer.ip()))
            }
            #[cfg(unix)]
            HttpListener::Unix(listener) => Ok(HttpConnection::Unix(listener.accept().await?.0)),
        }
    }
}

/// Takes a socket that systemd has opened; the unit decides if it is a TCP or a Unix socket.
#[cfg(unix)]
fn inherited(number: usize) -> io::Result<HttpListener> {
    let mut passed = listenfd::ListenFd::from_env();
    // If the socket is of another kind, this call leaves it in the list, and the next one can take it.
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
