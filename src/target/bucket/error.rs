//! Errors of targets in buckets: what failed, where, and what to do next.

use std::error::Error;
use std::path::PathBuf;

use crate::error::{ErrorKind, Obstacle};
use crate::target::disk_list::ScratchError;
use crate::target::tree::SwitchError;
use crate::target::{BeforeManifestError, PmtilesError, ReadError};

/// What a request asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Put,
    Get,
    List,
    Delete,
    /// Giving up an upload in parts.
    Abort,
}

impl Action {
    const fn verb(self) -> &'static str {
        match self {
            Action::Put => "write",
            Action::Get => "read",
            Action::List => "list",
            Action::Delete => "delete",
            Action::Abort => "abort the upload of",
        }
    }
}

/// Why a target in a bucket could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("[s3] {what}")]
    Setting {
        /// Which, and what to write instead.
        what: String,
    },
    #[error("{place}: no region is set: set [s3] region or AWS_REGION, such as eu-west-1")]
    NoRegion { place: String },
    #[error(
        "{place} is in {what}, and this oar-tiles was built without {what}: use a released program, or build one with --features {feature}"
    )]
    NotBuilt {
        place: String,
        /// The service, such as S3.
        what: &'static str,
        feature: &'static str,
    },
    #[error(
        "{endpoint} does not honour conditional writes ({what}), so nothing would keep two runs from writing {place} at once: nothing was written but the lease. Where nobody else writes it, set conditional_writes = false in [s3]"
    )]
    NoConditions { endpoint: String, place: String, what: String },
    #[error("there is no {kind} \"{bucket}\" at {endpoint}: create it, or correct --output or {setting}")]
    NoBucket {
        /// What the service calls it: "bucket".
        kind: &'static str,
        bucket: String,
        endpoint: String,
        setting: &'static str,
        source: BucketCause,
    },
    #[error("not allowed to {} {place}: {policy}", action.verb())]
    Denied {
        action: Action,
        place: String,
        /// What has to be allowed, and where, as a clause.
        policy: String,
        source: BucketCause,
    },
    #[error("{endpoint} refuses the credentials for {place}: {next}")]
    Keys { endpoint: String, place: String, next: &'static str, source: BucketCause },
    #[error("no credentials for {place}: {next}")]
    NoKeys { place: String, next: &'static str, source: BucketCause },
    #[error(
        "the credentials for {place} have expired: log in again, or use ones that last longer, and run the command again; it goes on where it stopped"
    )]
    Expired { place: String, source: BucketCause },
    #[error("the bucket \"{bucket}\" is not in the region {used}: set [s3] region to {}", right.as_deref().unwrap_or("the bucket's own"))]
    Region {
        bucket: String,
        used: String,
        /// The right one, if the server says.
        right: Option<String>,
        source: BucketCause,
    },
    #[error("cannot reach {endpoint} to {} {place}: check {setting}, the network and the proxy", action.verb())]
    Unreachable { endpoint: String, action: Action, place: String, setting: &'static str, source: BucketCause },
    #[error(
        "{endpoint} did not answer in time when asked to {} {place}: run the command again, or raise [s3] attempt_timeout and request_timeout",
        action.verb()
    )]
    Timeout { endpoint: String, action: Action, place: String, source: BucketCause },
    #[error("{endpoint} says that this machine's clock is wrong: set it (by NTP), then run the command again")]
    Clock { endpoint: String, source: BucketCause },
    #[error(
        "{endpoint} asks to slow down and did not take the request to {} {place} in {attempts} attempts: run the command again later, or lower [s3] in_flight",
        action.verb()
    )]
    Busy { endpoint: String, action: Action, place: String, attempts: u32, source: BucketCause },
    #[error("{endpoint} failed to {} {place}: look at the cause, then run the command again", action.verb())]
    Refused { endpoint: String, action: Action, place: String, source: BucketCause },
    #[error(
        "another run is writing {place}: {holder}; its lease ends at {until} unless it is renewed. Wait until that run is done; if it was killed, run the command again after that time"
    )]
    Held {
        place: String,
        /// Who: program, host, process, since when.
        holder: String,
        until: String,
    },
    #[error(
        "the lease on {place} was lost ({how}): the manifest is unchanged. See that only one run writes this target, then run the command again"
    )]
    Lost {
        place: String,
        /// To whom, or why.
        how: String,
    },
    #[error(
        "{place} holds another tileset (or this one with other settings): nothing was written. Choose another --output, or replace the tiles there with --force"
    )]
    OtherTileset { place: String },
    #[error(
        "{place} holds {example}, which oar-tiles did not write: nothing was written. Choose another --output, or replace what is there with --force"
    )]
    Foreign { place: String, example: String },
    #[error(
        "{place} is published with publish = \"versioned\", and a version is written as a whole: seed it, or publish in place"
    )]
    Whole { place: String },
    #[error(
        "version {version} of {place} was given up, or was not published for a week, and another run has removed its tiles: give the run of shards up, and begin again"
    )]
    NoVersion { place: String, version: String },
    #[error("{place} holds no tileset of oar-tiles that could be brought up to date: seed it first")]
    NoTileset { place: String },
    #[error(
        "{place} was changed by somebody else during the run: it is left alone. See that only one program writes this target, then run the command again"
    )]
    Changed { place: String },
    #[error(
        "{place} was deleted by somebody else during the run: nothing is published. See that only one program writes this target, then seed it"
    )]
    Deleted { place: String },
    #[error(
        "the upload to {place} is not there any more: somebody else, or a lifecycle rule of the bucket, has aborted it during the run. Nothing is published: run the command again"
    )]
    UploadGone { place: String, source: BucketCause },
    #[error(
        "{missing} objects of {place} could not be written or deleted, the first are {}: the manifest is unchanged. Run the command again; only what is missing is sent",
        first.join(", ")
    )]
    Incomplete {
        place: String,
        missing: u64,
        /// The first of them, each with what the server said.
        first: Vec<String>,
        source: BucketCause,
    },
    #[error("interrupted while writing {place}: run the command again and it goes on")]
    Interrupted { place: String },
    #[error("{place} is too large to be read: find out which program wrote it, and remove it or name another target")]
    TooLarge { place: String, source: BucketCause },
    #[error(
        "{place} cannot be read: it is damaged, or another version of oar-tiles wrote it. Remove it, then run the command again"
    )]
    Note { place: String, source: serde_json::Error },
    #[error("there is no {place}: name a target that exists")]
    Missing { place: String },
    #[error("cannot read {} to upload it to {place}: run the command again", path.display())]
    File { path: PathBuf, place: String, source: std::io::Error },
    /// The archive that is to be uploaded could not be written.
    #[error(transparent)]
    Archive(#[from] PmtilesError),
    #[error("cannot write the archive to {}: make room there, or set TMPDIR to another folder", path.display())]
    Scratch { path: PathBuf, source: std::io::Error },
    /// The scratch file with the list of tiles.
    #[error(transparent)]
    ScratchList(#[from] ScratchError),
    /// What has to be written before the manifest.
    #[error(transparent)]
    BeforeManifest(#[from] BeforeManifestError),
    #[error("cannot switch clients of {place} to another version")]
    Switch { place: String, source: SwitchError },
}

impl BucketError {
    pub const fn kind(&self) -> ErrorKind {
        match self {
            BucketError::Setting { .. }
            | BucketError::NotBuilt { .. }
            | BucketError::NoRegion { .. }
            | BucketError::NoBucket { .. }
            | BucketError::NoKeys { .. }
            | BucketError::Region { .. }
            | BucketError::OtherTileset { .. }
            | BucketError::Foreign { .. }
            | BucketError::Missing { .. }
            | BucketError::Switch { .. } => ErrorKind::Usage,
            BucketError::Whole { .. } | BucketError::NoTileset { .. } | BucketError::NoVersion { .. } => {
                ErrorKind::NeedsSeed
            }
            BucketError::Incomplete { .. } => ErrorKind::Partial,
            BucketError::Interrupted { .. } => ErrorKind::Interrupted,
            BucketError::Archive(error) => error.kind(),
            BucketError::Unreachable { .. } | BucketError::Timeout { .. } | BucketError::Busy { .. } => {
                ErrorKind::Transient(Obstacle::Unreachable)
            }
            BucketError::Denied { .. }
            | BucketError::Keys { .. }
            | BucketError::Expired { .. }
            | BucketError::Clock { .. }
            | BucketError::Refused { .. }
            | BucketError::NoConditions { .. }
            | BucketError::Held { .. }
            | BucketError::Lost { .. }
            | BucketError::Changed { .. }
            | BucketError::Deleted { .. }
            | BucketError::UploadGone { .. }
            | BucketError::Note { .. }
            | BucketError::TooLarge { .. }
            | BucketError::File { .. }
            | BucketError::Scratch { .. }
            | BucketError::BeforeManifest(_)
            | BucketError::ScratchList(_) => ErrorKind::Failed,
        }
    }
}

impl From<BucketError> for ReadError {
    fn from(error: BucketError) -> ReadError {
        match error {
            BucketError::Missing { place } => ReadError::Missing { place },
            other => {
                let what = other.to_string();
                let cause = std::error::Error::source(&other).map(chain);
                ReadError::Remote { what, source: cause.map(|cause| BucketCause(cause).into()) }
            }
        }
    }
}

/// The error message of a server or the network, on one line and each part once: the SDK's errors spread and repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BucketCause(pub(crate) String);

/// An error and its causes on one line, each once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = text + ": " + &said;
        }
        next = cause.source();
    }
    text
}
