//! The lease, which allows one writer for each target. A note in the bucket names the run that writes; it is replaced
//! by conditional writes only (Amazon S3 User Guide, "Conditional requests"), so that only one of two runs takes it.
//!
//! A lease expires by the clock. If the clocks of two machines differ by more than the lease's duration, the second
//! machine may take the lease of a running run. That run notices at its next renewal, and ends before it writes the
//! manifest. `target/lease_clock` says how the lease of a server's writer differs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::client::WriteCondition;
use super::refusal::{Meaning, Refusal};
use super::store::Store;
use super::{Action, BucketError, ObjectKey};
use crate::clock::milliseconds;
use crate::hex::random_hex;
use crate::target::lease_clock::{LeaseClock, host};
use crate::target::metadata::GENERATOR;
use crate::target::read::MAX_NOTE;
use crate::target::tree::OWN_FOLDER;
use crate::target::tree::notes::Begun;

/// A lease that this run holds. A task renews it whenever a third of its duration has passed.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The URL of the target.
    place: String,
    note: Arc<Mutex<LeaseNote>>,
    lost: watch::Receiver<Option<String>>,
    clock: Arc<LeaseClock>,
    renewing: JoinHandle<()>,
}

/// The lease's note as this run has last written it.
#[derive(Debug)]
struct LeaseNote {
    store: Arc<Store>,
    /// The URL of the target.
    place: String,
    name: String,
    document: Document,
    /// The id of this run, by which it recognizes its own note.
    id: String,
    tag: String,
    /// True if the note is written under conditions.
    conditional: bool,
    clock: Arc<LeaseClock>,
}

/// Why the note could not be written.
enum Failed {
    /// This run no longer holds the lease; the text says why.
    Lost(String),
    /// The server refused the request.
    Refused(Refusal),
}

/// An `ETag` that no object has.
const NO_TAG: &str = "\"00000000000000000000000000000000\"";

/// The buckets, each with its server, for which this process has proved that conditions are honoured.
static PROVEN: parking_lot::Mutex<BTreeSet<String>> = parking_lot::Mutex::new(BTreeSet::new());

/// The name of the lease's note.
fn name() -> String {
    format!("{OWN_FOLDER}/lease.json")
}

/// What was begun in a target, for a reader. A reader that may not read the note gets a warning and an empty value.
pub(crate) async fn begun(store: &Store) -> Result<Begun, BucketError> {
    match store.read(&name(), None, MAX_NOTE).await {
        Ok(object) => {
            let document = serde_json::from_slice::<Document>(&object.body);
            document.map(|document| document.begun).map_err(|source| store.note_error(&name(), source))
        }
        Err(Refusal { meaning: Meaning::Missing, .. }) => Ok(Begun::default()),
        Err(Refusal { meaning: Meaning::Denied, .. }) => {
            let note = store.place(&name());
            tracing::warn!("{note} may not be read: whether a run was interrupted there is not known");
            Ok(Begun::default())
        }
        Err(refusal) => Err(store.error(Action::Get, &name(), refusal)),
    }
}

impl Lease {
    /// Takes the lease on a prefix.
    /// Fails if another run holds it, or the bucket cannot be written.
    pub(crate) async fn take(store: &Arc<Store>, runtime: &Handle) -> Result<Lease, BucketError> {
        Lease::take_on(store, store.location.to_string(), name(), runtime).await
    }

    /// Takes the lease on an archive; its note lies with the archive's notes. `store` holds the whole bucket.
    pub(crate) async fn take_beside(
        store: &Arc<Store>,
        archive: &ObjectKey,
        runtime: &Handle,
    ) -> Result<Lease, BucketError> {
        Lease::take_on(store, archive.to_string(), format!("{}/lease.json", archive.folder_beside()), runtime).await
    }

    async fn take_on(store: &Arc<Store>, place: String, name: String, runtime: &Handle) -> Result<Lease, BucketError> {
        let now = SystemTime::now();
        let before = store.get(&name).await?;
        let mut document = match &before {
            None => Document::default(),
            Some(object) => serde_json::from_slice(&object.body).map_err(|source| store.note_error(&name, source))?,
        };
        if let Some(holder) = document.held(now) {
            return Err(held(place, holder, &document));
        }
        let holder = Holder::this_run(now);
        let id = holder.id.clone();
        document.holder = Some(holder);
        document.prolonged(now, *store.options.section.lease);
        let clock = Arc::new(LeaseClock::new(*store.options.section.lease, Instant::now()));
        let mut note = LeaseNote {
            store: Arc::clone(store),
            place: place.clone(),
            name,
            document,
            id,
            tag: String::new(),
            conditional: store.options.section.conditional_writes,
            clock: Arc::clone(&clock),
        };
        let condition = WriteCondition::as_seen(before.as_ref().map(|object| &object.tag));
        match note.write(&condition).await {
            Ok(()) => {}
            Err(Failed::Lost(_)) => return Err(note.held_by_another().await),
            Err(Failed::Refused(refusal)) if refusal.meaning == Meaning::Unknown && note.conditional => {
                return Err(note.no_conditions(format!("it refuses them: {}", refusal.cause)));
            }
            Err(Failed::Refused(refusal)) => return Err(store.error(Action::Put, &note.name, refusal)),
        }
        if note.conditional {
            note.prove_conditions().await?;
        } else {
            tracing::warn!("conditional_writes is false: nothing keeps two runs from writing {place} at once");
        }
        let note = Arc::new(Mutex::new(note));
        let (losing, lost) = watch::channel(None);
        let renewing = runtime.spawn(renew(Arc::clone(&note), losing, clock.renewal_pause()));
        Ok(Lease { place, note, lost, clock, renewing })
    }

    /// What was begun in the target before this run.
    pub(crate) async fn begun(&self) -> Begun {
        self.note.lock().await.document.begun.clone()
    }

    /// Notes what this run begins, and renews the lease.
    pub(crate) async fn note(&self, begun: Begun) -> Result<(), BucketError> {
        let mut note = self.note.lock().await;
        note.document.begun = begun;
        note.hold().await
    }

    /// Sets what stays noted as begun; [`Lease::release`] writes it.
    pub(crate) async fn finish(&self, begun: Begun) {
        self.note.lock().await.document.begun = begun;
    }

    /// Renews the lease now, so that it is certainly held for its whole duration from here on.
    pub(crate) async fn confirm(&self) -> Result<(), BucketError> {
        self.check()?;
        self.note.lock().await.hold().await
    }

    /// Fails if a renewal has found that the lease is lost. Sends no request.
    pub(crate) fn check(&self) -> Result<(), BucketError> {
        let lost = |how: &String| BucketError::Lost { place: self.place.clone(), how: how.clone() };
        self.lost.borrow().as_ref().map_or(Ok(()), |how| Err(lost(how)))
    }

    /// True if the lease was not renewed for its whole duration, because this process was paused or the server is slow.
    /// Then another run may have taken it; [`Lease::confirm`] checks that.
    pub(crate) fn is_overdue(&self) -> bool {
        !self.clock.is_held()
    }

    /// Gives the lease back. What was begun stays noted.
    pub(crate) async fn release(&self) -> Result<(), BucketError> {
        self.renewing.abort();
        let mut note = self.note.lock().await;
        note.document.holder = None;
        note.document.expires = 0;
        match note.rewrite().await {
            Ok(()) => Ok(()),
            // Another run has it now.
            Err(Failed::Lost(how)) => {
                tracing::warn!("the lease on {} was not given back: it was lost ({how})", note.place);
                Ok(())
            }
            Err(Failed::Refused(refusal)) => Err(note.store.error(Action::Put, &note.name, refusal)),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// Renews the lease after each `pause` until it is lost; then sends the reason to `lost`.
async fn renew(note: Arc<Mutex<LeaseNote>>, lost: watch::Sender<Option<String>>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let mut note = note.lock().await;
        let lease = *note.store.options.section.lease;
        let expires = note.document.expires;
        note.document.prolonged(SystemTime::now(), lease);
        match note.rewrite().await {
            Ok(()) => {}
            Err(Failed::Lost(how)) => {
                lost.send_replace(Some(how));
                return;
            }
            // The next renewal may succeed: no other run takes the lease before it expires.
            Err(Failed::Refused(refusal)) => {
                tracing::warn!("cannot renew the lease on {}: {}", note.place, refusal.cause);
                note.document.expires = expires;
            }
        }
    }
}

impl LeaseNote {
    async fn hold(&mut self) -> Result<(), BucketError> {
        let lease = *self.store.options.section.lease;
        self.document.prolonged(SystemTime::now(), lease);
        match self.rewrite().await {
            Ok(()) => Ok(()),
            Err(Failed::Lost(how)) => Err(self.lost(how)),
            Err(Failed::Refused(refusal)) => Err(self.store.error(Action::Put, &self.name, refusal)),
        }
    }

    async fn rewrite(&mut self) -> Result<(), Failed> {
        let condition = WriteCondition::Unchanged(self.tag.clone());
        self.write(&condition).await
    }

    async fn write(&mut self, condition: &WriteCondition) -> Result<(), Failed> {
        let body = serde_json::to_vec_pretty(&self.document)
            .map_err(|error| Failed::Lost(format!("the note could not be written: {error}")))?;
        let condition = if self.conditional { condition } else { &WriteCondition::Always };
        let begun = Instant::now();
        let written = self.put(body, condition).await;
        if written.is_ok() {
            self.clock.renewed(begun);
        }
        written
    }

    /// Proves once for each bucket that the server refuses writes whose condition does not hold: a server that accepts
    /// all writes would let two runs write at once. The conditions are tried on the note that this run has just
    /// written.
    async fn prove_conditions(&self) -> Result<(), BucketError> {
        let bucket = format!("{}/{}", self.store.requests.endpoint, self.store.location.bucket);
        if PROVEN.lock().contains(&bucket) {
            return Ok(());
        }
        let body =
            serde_json::to_vec_pretty(&self.document).map_err(|source| self.store.note_error(&self.name, source))?;
        for (condition, name) in
            [(WriteCondition::Absent, "If-None-Match"), (WriteCondition::Unchanged(NO_TAG.to_owned()), "If-Match")]
        {
            match self.store.put_note(&self.name, body.clone(), &condition).await {
                Err(refusal) if refusal.meaning == Meaning::Condition => {}
                Err(refusal) if refusal.meaning != Meaning::Unknown => {
                    return Err(self.store.error(Action::Put, &self.name, refusal));
                }
                refused => {
                    let what = match refused {
                        Ok(_) => format!("it takes a write whose {name} does not hold"),
                        Err(refusal) => format!("it refuses {name}: {}", refusal.cause),
                    };
                    self.give_back().await?;
                    return Err(self.no_conditions(what));
                }
            }
        }
        PROVEN.lock().insert(bucket);
        Ok(())
    }

    /// Gives the lease back on a server without conditions, if it is still this run's.
    async fn give_back(&self) -> Result<(), BucketError> {
        let Some(object) = self.store.get(&self.name).await? else { return Ok(()) };
        let Ok(mut document) = serde_json::from_slice::<Document>(&object.body) else { return Ok(()) };
        if document.holder.as_ref().is_none_or(|holder| holder.id != self.id) {
            return Ok(());
        }
        (document.holder, document.expires) = (None, 0);
        let body = serde_json::to_vec_pretty(&document).map_err(|source| self.store.note_error(&self.name, source))?;
        let written = self.store.put_note(&self.name, body, &WriteCondition::Always).await;
        written.map(drop).map_err(|refusal| self.store.error(Action::Put, &self.name, refusal))
    }

    async fn put(&mut self, body: Vec<u8>, condition: &WriteCondition) -> Result<(), Failed> {
        match self.store.put_note(&self.name, body.clone(), condition).await {
            Ok(tag) => {
                self.tag = tag;
                Ok(())
            }
            // The server may have stored the first attempt while its answer was lost, and then refused the second
            // attempt. Or the note is gone.
            Err(refusal) if matches!(refusal.meaning, Meaning::Condition | Meaning::Missing) => {
                match self.store.read(&self.name, None, MAX_NOTE).await {
                    Ok(object) if object.body == body => {
                        self.tag = object.tag;
                        Ok(())
                    }
                    Ok(object) => match serde_json::from_slice::<Document>(&object.body) {
                        Ok(Document { holder: Some(holder), .. }) if holder.id == self.id => {
                            let ours = WriteCondition::Unchanged(object.tag);
                            self.tag = self.store.put_note(&self.name, body, &ours).await.map_err(Failed::Refused)?;
                            Ok(())
                        }
                        Ok(Document { holder: Some(holder), .. }) => {
                            Err(Failed::Lost(format!("{holder} took it over")))
                        }
                        _ => Err(Failed::Lost("it was released by somebody else".to_owned())),
                    },
                    Err(Refusal { meaning: Meaning::Missing, .. }) => {
                        Err(Failed::Lost("its note was deleted".to_owned()))
                    }
                    Err(refusal) => Err(Failed::Refused(refusal)),
                }
            }
            Err(refusal) => Err(Failed::Refused(refusal)),
        }
    }

    fn no_conditions(&self, what: String) -> BucketError {
        BucketError::NoConditions { endpoint: self.store.requests.endpoint.clone(), place: self.place.clone(), what }
    }

    fn lost(&self, how: String) -> BucketError {
        BucketError::Lost { place: self.place.clone(), how }
    }

    /// The error if another run took the lease first. It names the holder, if the note can be read.
    async fn held_by_another(&self) -> BucketError {
        match self.store.get(&self.name).await {
            Ok(Some(object)) => match serde_json::from_slice::<Document>(&object.body) {
                Ok(document) => match &document.holder {
                    Some(holder) => held(self.place.clone(), holder, &document),
                    None => self.lost("another run was first and is done already".to_owned()),
                },
                Err(source) => self.store.note_error(&self.name, source),
            },
            Ok(None) => self.lost("its note was deleted".to_owned()),
            Err(error) => error,
        }
    }
}

fn held(place: String, holder: &Holder, document: &Document) -> BucketError {
    BucketError::Held { place, holder: holder.to_string(), until: document.until() }
}

// The lease as it is written in the bucket: who holds it, and until when.

/// The lease's note: who writes the target, until when, and what was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// `None` after the last run gave the lease back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<Holder>,
    /// The end of the lease, in milliseconds since 1970 (UTC), by the holder's clock.
    #[serde(default)]
    pub(crate) expires: u64,
    #[serde(flatten)]
    pub(crate) begun: Begun,
}

/// A run that holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    program: String,
    host: String,
    pid: u32,
    /// The boot and the process namespace in which `pid` is valid; empty if the system does not report them.
    #[serde(default)]
    scope: String,
    /// Random, different for each run.
    pub(crate) id: String,
    /// When the run took the lease (RFC 3339).
    since: String,
}

impl Holder {
    pub(crate) fn this_run(now: SystemTime) -> Holder {
        // The standard library keys each state at random, from the system's source of randomness.
        Holder {
            program: GENERATOR.to_owned(),
            host: host(),
            pid: std::process::id(),
            scope: scope(),
            id: random_hex(2),
            since: humantime::format_rfc3339_seconds(now).to_string(),
        }
    }

    /// True if the process has certainly ended: it ran in this boot and process namespace, in which no process has its
    /// id now. A system may hide the processes of others (`hidepid` of proc(5)), and then the first one, too.
    pub(crate) fn is_gone(&self) -> bool {
        let exists = |pid: u32| Path::new("/proc").join(pid.to_string()).exists();
        !self.scope.is_empty() && self.scope == scope() && exists(1) && !exists(self.pid)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}, process {}, since {}", self.program, self.host, self.pid, self.since)
    }
}

impl Document {
    /// The holder, if the lease has not expired and its process is not certainly gone.
    pub(crate) fn held(&self, now: SystemTime) -> Option<&Holder> {
        let holder = self.holder.as_ref()?;
        (self.expires > milliseconds(now) && !holder.is_gone()).then_some(holder)
    }

    /// Moves the end of the lease to `lease` after `now`.
    pub(crate) fn prolonged(&mut self, now: SystemTime, lease: Duration) {
        self.expires = milliseconds(now + lease);
    }

    /// The end of the lease as text (RFC 3339).
    pub(crate) fn until(&self) -> String {
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_millis(self.expires)).to_string()
    }
}

/// The boot and the process namespace, if Linux reports them, and if `/proc` shows the processes of this namespace.
fn scope() -> String {
    let own = std::fs::read_link("/proc/self").unwrap_or_default();
    if own.as_os_str() != std::process::id().to_string().as_str() {
        return String::new();
    }
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
