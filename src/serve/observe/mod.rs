//! Monitoring: to whom the server reports its state.
//!
//! | file | reports to |
//! |---|---|
//! | `metrics` | Prometheus |
//! | `access_log` | readers of standard output: a line for each request |

pub(crate) mod access_log;
pub(crate) mod metrics;

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::with_causes;

// Notifies a supervisor by systemd's protocol (`sd_notify(3)`): a datagram to the socket that `NOTIFY_SOCKET` names.
// Without that variable there is no supervisor to notify.

/// A change of the server's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerState {
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
pub(crate) fn tell(state: ServerState) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    let Some(socket) = socket.to_str() else { return };
    if let Err(error) = send(socket, state.message()) {
        tracing::warn!("the supervisor cannot be told {} ({error})", state.message());
    }
}

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

// The state of something that can fail. The log reports when it starts to fail and when it works again, not each
// request that fails.

/// Records if something works, and if not, why.
#[derive(Debug)]
pub(crate) struct FailureState {
    /// What does not work, in words, such as "the target cannot be read".
    what: &'static str,
    /// The message for the log when it works again.
    mended: &'static str,
    /// True if `why` holds a reason. Each request reads it, without taking a lock.
    is_there: AtomicBool,
    why: Mutex<Option<String>>,
}

impl FailureState {
    /// The state of something that works.
    pub(crate) const fn new(what: &'static str, mended: &'static str) -> FailureState {
        FailureState { what, mended, is_there: AtomicBool::new(false), why: Mutex::new(None) }
    }

    /// Records that it does not work, and why, with all causes.
    pub(crate) fn failed(&self, why: &dyn std::error::Error) {
        let why = with_causes(why);
        let mut now = self.why.lock();
        if now.is_none() {
            tracing::warn!("{}: {why}", self.what);
        }
        *now = Some(why);
        self.is_there.store(true, Ordering::Relaxed);
    }

    /// Records that it works.
    pub(crate) fn recovered(&self) {
        if !self.is_there.load(Ordering::Relaxed) {
            return;
        }
        let was = self.why.lock().take();
        self.is_there.store(false, Ordering::Relaxed);
        if was.is_some() {
            tracing::warn!("{}", self.mended);
        }
    }

    /// What does not work, and why; `None` if it works.
    pub(crate) fn reason(&self) -> Option<String> {
        let why = self.why.lock();
        why.as_ref().map(|why| format!("{}: {why}", self.what))
    }
}
