//! The lease as it is written in the bucket: who holds it, and until when.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::sink::metadata::GENERATOR;
use crate::sink::tree::notes::Begun;

/// The lease's note: who writes the target, until when, and what was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Document {
    /// `None` after the last run gave the lease back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) holder: Option<Holder>,
    /// The end of the lease, in milliseconds since 1970 (UTC), by the holder's clock.
    #[serde(default)]
    pub(super) expires: u64,
    #[serde(flatten)]
    pub(super) begun: Begun,
}

/// A run that holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The program and its version.
    program: String,
    host: String,
    pid: u32,
    /// The boot and the process namespace in which `pid` is valid; empty if the system does not report them.
    #[serde(default)]
    scope: String,
    /// Random, different for each run.
    pub(super) id: String,
    /// When the run took the lease (RFC 3339).
    since: String,
}

impl Holder {
    /// This run.
    pub(super) fn this_run(now: SystemTime) -> Holder {
        // The standard library keys each state at random, from the system's source of randomness.
        let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now);
        Holder {
            program: GENERATOR.to_owned(),
            host: host(),
            pid: std::process::id(),
            scope: scope(),
            id: format!("{:016x}{:016x}", random(), random()),
            since: humantime::format_rfc3339_seconds(now).to_string(),
        }
    }

    /// True if the process has certainly ended: it ran in this boot and process namespace, in which no process has its id now.
    fn is_gone(&self) -> bool {
        !self.scope.is_empty() && self.scope == scope() && !Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}, process {}, since {}", self.program, self.host, self.pid, self.since)
    }
}

impl Document {
    /// The holder, if the lease has not expired and its process is not certainly gone.
    pub(super) fn held(&self, now: SystemTime) -> Option<&Holder> {
        let holder = self.holder.as_ref()?;
        (self.expires > milliseconds(now) && !holder.is_gone()).then_some(holder)
    }

    /// Moves the end of the lease to `lease` after `now`.
    pub(super) fn prolonged(&mut self, now: SystemTime, lease: Duration) {
        self.expires = milliseconds(now + lease);
    }

    /// The end of the lease as text (RFC 3339).
    pub(super) fn until(&self) -> String {
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_millis(self.expires)).to_string()
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "an unnamed host".to_owned() } else { name.to_owned() }
}

/// The boot and the process namespace, if Linux reports them.
fn scope() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if boot.is_empty() || namespace.as_os_str().is_empty() {
        return String::new();
    }
    format!("{} {}", boot.trim(), namespace.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_until_it_ends_or_its_process_does() {
        let now = SystemTime::now();
        let mut document = Document { holder: Some(Holder::this_run(now)), ..Document::default() };
        document.prolonged(now, Duration::from_secs(60));
        assert!(document.held(now + Duration::from_secs(59)).is_some());
        assert!(document.held(now + Duration::from_secs(61)).is_none());
        // Beyond the largest process id of Linux (2^22).
        let mut gone = document.clone();
        gone.holder.as_mut().unwrap().pid = 1 << 23;
        assert!(gone.held(now).is_none(), "it cannot be running");
        gone.holder.as_mut().unwrap().scope = "elsewhere".to_owned();
        assert!(gone.held(now).is_some(), "another machine's processes cannot be seen");
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
        assert_ne!(Holder::this_run(now).id, Holder::this_run(now).id);
        assert!(serde_json::from_str::<Document>("{\"fingerprint\":\"f\"}").unwrap().held(now).is_none());
    }
}
