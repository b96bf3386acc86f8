//! What the two kinds of leases have in common: how often they are renewed, until when they are certainly held, and the
//! name of the host that holds them.
//!
//! They are two protocols. The lease of a bucket (`target/bucket/lease`) guards one run: it must decide at once whether
//! another run holds it, so it ends by the clock of its holder, and at once if the holder's process has ended. The
//! lease of a server's writer (`run/writer_lease`) is kept for as long as the server runs, and others wait for it: they
//! measure by their own clocks how long it was not renewed, so that clocks need not agree. What a bucket's lease notes
//! beside its holder (what the run has begun) has to be written with it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// When a lease of this process was renewed last, by the monotonic clock.
#[derive(Debug)]
pub(crate) struct LeaseClock {
    lasts: Duration,
    /// `None` once the lease was given back.
    renewed: Mutex<Option<Instant>>,
}

impl LeaseClock {
    /// The clock of a lease for whose last renewal the request was sent at `renewed`.
    pub(crate) const fn new(lasts: Duration, renewed: Instant) -> LeaseClock {
        LeaseClock { lasts, renewed: Mutex::new(Some(renewed)) }
    }

    /// The pause between two renewals: two of them may fail before the lease ends.
    pub(crate) fn renewal_pause(&self) -> Duration {
        self.lasts / 3
    }

    /// True if nobody else can have taken the lease: its last renewal is younger than its duration, and it was not
    /// given back.
    pub(crate) fn is_held(&self) -> bool {
        self.renewed.lock().is_some_and(|renewed| renewed.elapsed() < self.lasts)
    }

    /// Notes a renewal whose request was sent at `sent`.
    pub(crate) fn renewed(&self, sent: Instant) {
        *self.renewed.lock() = Some(sent);
    }

    pub(crate) fn given_back(&self) {
        *self.renewed.lock() = None;
    }
}

/// The name of this host, for people.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "an unnamed host".to_owned() } else { name.to_owned() }
}
