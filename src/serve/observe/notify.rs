//! Notifies a supervisor by systemd's protocol (`sd_notify(3)`): a datagram to the socket that `NOTIFY_SOCKET` names. Without that variable
//! there is no supervisor to notify.

#[cfg(unix)]
use std::io;
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;

/// A change of the server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// The server answers requests.
    Ready,
    /// The server reads its settings again.
    Reloading,
    /// The server is about to end.
    Stopping,
}

impl ServerState {
    fn message(self) -> &'static str {
        match self {
            ServerState::Ready => "READY=1",
            ServerState::Reloading => "RELOADING=1",
            ServerState::Stopping => "STOPPING=1",
        }
    }
}

/// Sends a notification to the supervisor, if there is one.
#[cfg(unix)]
pub(crate) fn tell(state: ServerState) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    let Some(socket) = socket.to_str() else { return };
    if let Err(error) = send(socket, state.message()) {
        tracing::warn!("the supervisor cannot be told {} ({error})", state.message());
    }
}

/// This platform has no such supervisor.
#[cfg(not(unix))]
pub(crate) fn tell(state: ServerState) {
    tracing::debug!("{}", state.message());
}

#[cfg(unix)]
fn send(socket: &str, message: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    match socket.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            sender.send_to_addr(message.as_bytes(), &address)?;
        }
        _ => {
            sender.send_to(message.as_bytes(), socket)?;
        }
    }
    Ok(())
}
