//! What the readers and the sink of one target share: a client with its open connections, and the `ETag`s of tiles that
//! were read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::RequestContext;
use super::{S3Error, S3Keys, S3Location, S3Options, without_user};
use crate::target::tree::Tag;

/// What all clones of one [`S3Options`] share: the client of the bucket opened last, with its credentials and open
/// connections, and the `ETag`s of tiles that were read since a sink began to edit them.
#[derive(Debug, Clone)]
pub struct S3Shared {
    parts: Arc<Mutex<SharedParts>>,
    large_reads: Arc<Semaphore>,
}

impl Default for S3Shared {
    fn default() -> S3Shared {
        S3Shared { parts: Arc::default(), large_reads: Arc::new(Semaphore::new(MAX_LARGE_READS)) }
    }
}

/// The most bytes of a read that does not count as large. Readers of one target may have many such reads in flight.
pub(crate) const MAX_SMALL_READ_BYTES: usize = 1 << 20;

/// The most large reads in flight at once for one target, over all its readers. A stored tile has at most 64 MB, so the
/// large tiles in flight take at most 256 MB.
const MAX_LARGE_READS: usize = 4;

#[derive(Debug, Default)]
struct SharedParts {
    bucket: Option<OpenBucket>,
    /// The tiles read, by name; `None` unless a sink edits the target.
    read: Option<HashMap<String, ReadTile>>,
}

/// The result of reading a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadTile {
    /// No such tile.
    Absent,
    /// A tile with this `ETag`.
    Present(Tag),
}

impl ReadTile {
    /// The digest of the tile that the target holds; `None` if it holds none.
    pub(crate) const fn held(self) -> Option<Tag> {
        match self {
            ReadTile::Absent => None,
            ReadTile::Present(tag) => Some(tag),
        }
    }
}

/// A client, and the bucket and settings that it was made for.
#[derive(Debug)]
struct OpenBucket {
    location: S3Location,
    settings: ClientSettings,
    client: Client,
    place: RequestContext,
}

/// The options that a client depends on. Clones of [`S3Options`] may differ in them.
#[derive(Debug, PartialEq, Eq)]
struct ClientSettings {
    endpoint: Option<String>,
    region: Option<String>,
    profile: Option<String>,
    keys: Option<S3Keys>,
    path_style: bool,
    checksums: bool,
    attempts: u32,
    /// Backoff, and the time limits of a connection, an attempt and a request.
    times: [Duration; 4],
}

impl ClientSettings {
    fn of(options: &S3Options) -> ClientSettings {
        ClientSettings {
            endpoint: options.endpoint.clone(),
            region: options.region.clone(),
            profile: options.profile.clone(),
            keys: options.keys.clone(),
            path_style: options.path_style,
            checksums: options.checksums,
            attempts: options.attempts,
            times: [options.backoff, options.connect_timeout, options.attempt_timeout, options.request_timeout],
        }
    }
}

impl S3Shared {
    /// Drops the client, so that the next request looks for credentials and connects again. For a retry after a
    /// failure.
    pub fn reset(&self) {
        self.contents().bucket = None;
    }

    /// The client of a bucket; makes one if there is none. Sends no request to the bucket.
    pub(crate) async fn client(
        &self,
        location: &S3Location,
        options: &S3Options,
    ) -> Result<(Client, RequestContext), S3Error> {
        options.check()?;
        let settings = ClientSettings::of(options);
        if let Some(open) = &self.contents().bucket
            && open.location == *location
            && open.settings == settings
        {
            return Ok((open.client.clone(), open.place.clone()));
        }
        let (client, place) = connect(location, options).await?;
        let open = OpenBucket { location: location.clone(), settings, client: client.clone(), place: place.clone() };
        self.contents().bucket = Some(open);
        Ok((client, place))
    }

    /// Begins to keep the `ETag`s of tiles that are read. Must be called once the lease is held, so that no other run
    /// changes the tiles.
    pub(crate) fn keep_tags(&self) {
        self.contents().read = Some(HashMap::new());
    }

    /// Drops the `ETag`s that were kept, and keeps no more of them.
    pub(crate) fn drop_tags(&self) {
        self.contents().read = None;
    }

    /// Keeps the result of reading a tile.
    pub(crate) fn note(&self, name: &str, found: ReadTile) {
        if let Some(read) = &mut self.contents().read {
            read.insert(name.to_owned(), found);
        }
    }

    /// Removes and returns the result of reading a tile; `None` if the tile was not read.
    pub(crate) fn take(&self, name: &str) -> Option<ReadTile> {
        self.contents().read.as_mut()?.remove(name)
    }

    /// Waits until a read of up to `bytes` bytes may begin; it may run until the permit is dropped. Small reads need no
    /// permit.
    pub(crate) async fn begin_read(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        if bytes <= MAX_SMALL_READ_BYTES as u64 {
            return None;
        }
        // The semaphore is never closed.
        Arc::clone(&self.large_reads).acquire_owned().await.ok()
    }

    fn contents(&self) -> MutexGuard<'_, SharedParts> {
        // Each update leaves consistent values: a panic of another thread that held the lock does no harm.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// The client of a bucket: credentials, region, endpoint, time limits, retries.

/// The longest pause between two attempts of a request: a run that pauses longer looks dead.
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// Makes the client. Sends no request yet, except that the chain of credentials may ask its own servers.
pub(crate) async fn connect(location: &S3Location, options: &S3Options) -> Result<(Client, RequestContext), S3Error> {
    // The chain of credentials may ask servers over TLS even where the bucket is reached without TLS.
    let tls = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(tls.clone());
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(without_user(endpoint));
    }
    if let Some(keys) = &options.keys {
        loader = loader.credentials_provider(Credentials::new(
            &keys.key,
            &keys.secret,
            keys.session.clone(),
            None,
            "settings",
        ));
    }
    let shared = loader.load().await;
    // The SDK reads AWS_ENDPOINT_URL_S3 by itself, including a user and password in the URL, and does not report what
    // it found.
    let of_s3 =
        || std::env::var("AWS_ENDPOINT_URL_S3").ok().filter(|url| !url.is_empty() && options.endpoint.is_none());
    let endpoint = of_s3().or_else(|| shared.endpoint_url().map(str::to_owned)).map(|url| without_user(&url));
    // Servers other than Amazon's accept any region, but a signature must name one.
    let region = match (shared.region(), &endpoint) {
        (Some(region), _) => region.clone(),
        (None, Some(_)) => Region::new("us-east-1"),
        (None, None) => return Err(S3Error::NoRegion { place: location.to_string() }),
    };
    let place = RequestContext {
        endpoint: endpoint.clone().unwrap_or_else(|| format!("S3 in {region}")),
        region: region.to_string(),
        bucket: location.bucket.clone(),
        prefix: location.prefix.clone(),
        attempts: options.attempts,
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .operation_attempt_timeout(options.attempt_timeout)
        .operation_timeout(options.request_timeout)
        .build();
    // Reading the system's certificates takes a moment, so it is not done for a server without TLS.
    let http =
        if place.endpoint.starts_with("http://") { aws_smithy_http_client::Builder::new().build_http() } else { tls };
    let common = || {
        let builder = Builder::from(&shared)
            .http_client(http.clone())
            .region(region.clone())
            .force_path_style(options.path_style)
            .timeout_config(timeouts.clone());
        let builder = match &endpoint {
            Some(endpoint) => builder.endpoint_url(endpoint),
            None => builder,
        };
        if options.checksums {
            return builder;
        }
        builder
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
    };
    // The SDK's adaptive retries are not used: their limiter lowers the rate by 30 % for each refusal. Measured: one
    // burst of refusals over 16 requests in flight left a rate near 0, and after refusals of 1.5 s requests still
    // waited when their 60 s were over. With standard retries each request doubles its own pause, so the rate falls
    // only as far as the server refuses.
    let retries = RetryConfig::standard()
        .with_max_attempts(options.attempts)
        .with_initial_backoff(options.backoff)
        .with_max_backoff(MAX_BACKOFF);
    // The SDK's retry budget (500 tokens for all clients of a process) is used up after a hundred refusals. This client
    // bounds the retries by the attempts of each request and the number of requests in flight.
    let partition = RetryPartition::custom("oar-tiles").token_bucket(TokenBucket::unlimited()).build();
    let client = Client::from_conf(common().retry_config(retries).retry_partition(partition).build());
    Ok((client, place))
}
