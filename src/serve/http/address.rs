//! Where a listener waits for connections: a TCP address, a Unix socket, or a socket that systemd has opened.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::{fmt, io};

use http::HeaderMap;

/// Where a listener waits for connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port; with port 0 the system chooses a free port.
    Tcp(SocketAddr),
    /// A Unix socket. A socket file that no server listens on any more is replaced.
    Unix(PathBuf),
    /// A socket that systemd has opened (`LISTEN_FDS`, `sd_listen_fds(3)`): its index among the sockets passed, counted
    /// from 0.
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

#[derive(Debug)]
pub(crate) enum HttpListener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection that a listener has accepted.
#[derive(Debug)]
pub(crate) enum HttpConnection {
    Tcp(tokio::net::TcpStream, IpAddr),
    Unix(tokio::net::UnixStream),
}

impl HttpConnection {
    /// The address at the other end; `None` for a Unix socket.
    pub(crate) const fn address(&self) -> Option<IpAddr> {
        match self {
            HttpConnection::Tcp(_, address) => Some(*address),
            HttpConnection::Unix(_) => None,
        }
    }
}

impl HttpListener {
    /// Binds the address and starts to listen.
    /// Fails if the address is in use, does not belong to this machine, or needs more rights.
    pub(crate) async fn bind(address: &ListenAddress) -> io::Result<HttpListener> {
        match address {
            ListenAddress::Tcp(address) => Ok(HttpListener::Tcp(tokio::net::TcpListener::bind(address).await?)),
            ListenAddress::Unix(path) => {
                // A socket that an ended server left behind refuses connections and is replaced; one that accepts them
                // belongs to a running server. Another kind of file refuses connections, too, but belongs to somebody:
                // it stays, and the address counts as in use.
                if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
                    && let Err(error) = tokio::net::UnixStream::connect(path).await
                    && error.kind() == io::ErrorKind::ConnectionRefused
                {
                    std::fs::remove_file(path)?;
                }
                Ok(HttpListener::Unix(tokio::net::UnixListener::bind(path)?))
            }
            ListenAddress::Inherited(number) => inherited(*number),
        }
    }

    /// The listener's address as a URL without a path; `None` for a wildcard address or a Unix socket, which clients
    /// cannot name.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            HttpListener::Tcp(listener) => {
                let address = listener.local_addr().ok()?;
                (!address.ip().is_unspecified()).then(|| format!("http://{address}"))
            }
            HttpListener::Unix(_) => None,
        }
    }

    /// True if only programs of this machine reach it, over TCP. (Pages in a browser do not reach Unix sockets.)
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            HttpListener::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            HttpListener::Unix(_) => false,
        }
    }

    /// Waits for the next connection.
    /// Fails if a connection could not be accepted, for example because the process has too many open files.
    pub(crate) async fn accept(&self) -> io::Result<HttpConnection> {
        match self {
            HttpListener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // An answer is written in one piece, so waiting for more data (Nagle's algorithm) gains nothing.
                stream.set_nodelay(true)?;
                Ok(HttpConnection::Tcp(stream, peer.ip()))
            }
            HttpListener::Unix(listener) => Ok(HttpConnection::Unix(listener.accept().await?.0)),
        }
    }
}

/// Takes a socket that systemd has opened; the unit decides if it is a TCP or a Unix socket.
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

// Client addresses, and ranges of addresses, such as those of trusted proxies.

/// A range of IP addresses: those whose first `prefix` bits are those of `network` (RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    network: IpAddr,
    prefix: u8,
}

/// The address at the other end of a request's connection; `None` for a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// The client whose share of the service a request uses: an IPv4 address, or the first 64 bits of an IPv6 address,
/// because one client may choose the others as it likes (RFC 6177). The address is what the access log names. All
/// programs behind a Unix socket are one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey(u64);

/// The first bits of the keys of IPv4 addresses: a prefix of multicast addresses, which no IPv6 client has.
const IPV4_CLIENT: u64 = 0xffff << 48;

impl Default for ClientKey {
    fn default() -> ClientKey {
        ClientKey::of(None)
    }
}

impl ClientKey {
    /// The client with an address; `None` for a program behind a Unix socket.
    pub(crate) fn of(address: Option<IpAddr>) -> ClientKey {
        ClientKey(match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => IPV4_CLIENT | u64::from(u32::from(address)),
            Some(IpAddr::V6(address)) => u64::try_from(u128::from(address) >> 64).unwrap_or(u64::MAX),
            None => u64::MAX,
        })
    }

    /// The client that has to make room for one more thing of this client: the one with the most, if it then still has
    /// at least as many as this one. `counts` says how many each client has.
    pub(crate) fn displaces(self, counts: impl Iterator<Item = (ClientKey, usize)> + Clone) -> Option<ClientKey> {
        let own = counts.clone().find(|(client, _)| *client == self).map_or(0, |(_, count)| count);
        counts.max_by_key(|(_, count)| *count).filter(|(_, count)| *count > own + 1).map(|(client, _)| client)
    }

    /// A number that stands for the client, and from which [`ClientKey::from_number`] makes it again.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_number(number: u64) -> ClientKey {
        ClientKey(number)
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("a Unix socket"),
            number if number & IPV4_CLIENT == IPV4_CLIENT => {
                let address = u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
                write!(f, "{}", IpAddr::from(address.to_be_bytes()))
            }
            number => write!(f, "{}/64", IpAddr::from((u128::from(number) << 64).to_be_bytes())),
        }
    }
}

/// The address of the client that sent a request: the peer, or, if the peer is a trusted proxy, the last address in
/// `X-Forwarded-For` that is not a trusted proxy. The peer of a Unix socket is always trusted, because only programs of
/// this machine can connect to it.
pub(crate) fn client(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[AddressRange]) -> Option<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    if peer.is_some_and(|peer| !is_trusted(peer)) {
        return peer;
    }
    let fields: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|field| field.to_str().ok()).collect();
    let mut before = peer;
    for text in fields.iter().flat_map(|field| field.split(',')).rev() {
        // A field that is not an address identifies nobody, and the fields before it cannot be trusted.
        let Ok(address) = text.trim().parse() else { return before };
        before = Some(address);
        if !is_trusted(address) {
            return before;
        }
    }
    before
}

/// The text is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range of addresses: write an IP address, or a network such as 10.0.0.0/8 or fd00::/8")]
pub struct AddressRangeError {
    pub text: String,
}

impl AddressRange {
    /// True if the address lies in the range. An IPv4 address in its IPv6 form (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                u32::from(network).checked_shr(shift) == u32::from(address).checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                u128::from(network).checked_shr(shift) == u128::from(address).checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<AddressRange, AddressRangeError> {
        let wrong = || AddressRangeError { text: text.to_owned() };
        let (network, prefix) = match text.split_once('/') {
            Some((network, prefix)) => (network, Some(prefix)),
            None => (text, None),
        };
        let network: IpAddr = network.parse().map_err(|_not_an_address| wrong())?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_not_a_number| wrong())?,
            None => bits,
        };
        if prefix > bits { Err(wrong()) } else { Ok(AddressRange { network, prefix }) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
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

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted: Vec<AddressRange> = ["127.0.0.1", "10.0.0.0/8"].iter().map(|text| text.parse().unwrap()).collect();
        for (peer, forwarded, expected) in [
            (Some("203.0.113.7"), &["198.51.100.1"][..], Some("203.0.113.7")),
            (Some("127.0.0.1"), &["198.51.100.1"], Some("198.51.100.1")),
            (Some("127.0.0.1"), &["1.1.1.1, 198.51.100.1, 10.1.1.1"], Some("198.51.100.1")),
            (Some("127.0.0.1"), &["1.1.1.1", "198.51.100.1"], Some("198.51.100.1")),
            (Some("127.0.0.1"), &["10.1.1.1"], Some("10.1.1.1")),
            (Some("127.0.0.1"), &["198.51.100.1, unknown"], Some("127.0.0.1")),
            (Some("127.0.0.1"), &[], Some("127.0.0.1")),
            (None, &["198.51.100.1"], Some("198.51.100.1")),
            (None, &[], None),
        ] {
            let mut headers = HeaderMap::new();
            for field in forwarded {
                headers.append("x-forwarded-for", field.parse().unwrap());
            }
            let (peer, expected): (Option<IpAddr>, Option<IpAddr>) =
                (peer.map(|text| text.parse().unwrap()), expected.map(|text| text.parse().unwrap()));
            assert_eq!(client(peer, &headers, &trusted), expected, "{peer:?} {forwarded:?}");
        }
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_a_network_of_64_bits() {
        let key = |text: &str| ClientKey::of(Some(text.parse().unwrap()));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(key("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(ClientKey::from_number(key("192.0.2.1").number()), key("192.0.2.1"));
        assert_ne!(ClientKey::of(None), key("255.255.255.255"));
    }

    #[test]
    fn ranges_hold_the_addresses_that_begin_as_they_do() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.7", true),
            ("0.0.0.0/0", "::1", false),
            ("192.168.1.0/24", "::ffff:192.168.1.9", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "2001:db8::1", true),
            ("::1", "::1", true),
        ] {
            let range: AddressRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{range} {address}");
        }
        for text in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<AddressRange>(), Err(AddressRangeError { text: text.to_owned() }), "{text}");
        }
    }
}
