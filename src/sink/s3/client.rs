//! The client of a bucket: credentials, region, endpoint, time limits, retries.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{ClientRateLimiter, RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::error::Where;
use super::{S3Error, S3Location, S3Options};

/// Two clients of one bucket.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// For tiles: retries are adaptive, so after "slow down" requests wait for their turn.
    pub(super) bulk: Client,
    /// For the lease and the notes: they must not wait behind the tiles, or the lease would end in a storm.
    pub(super) notes: Client,
    pub(super) place: Where,
}

/// The longest pause between two attempts: a run that waits longer than this looks dead.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Makes the clients. Nothing is asked of the server yet.
pub(super) async fn connect(location: &S3Location, options: &S3Options) -> Result<Clients, S3Error> {
    options.check()?;
    // The chain of credentials may ask servers over TLS even where the bucket is reached without.
    let tls = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(tls.clone());
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
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
    let endpoint = shared.endpoint_url().map(str::to_owned);
    // Servers other than Amazon's accept any region, but a signature has to name one.
    let region = match (shared.region(), &endpoint) {
        (Some(region), _) => region.clone(),
        (None, Some(_)) => Region::new("us-east-1"),
        (None, None) => return Err(S3Error::NoRegion { place: location.to_string() }),
    };
    let place = Where {
        endpoint: endpoint.unwrap_or_else(|| format!("S3 in {region}")),
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
    let retries = |config: RetryConfig| {
        config.with_max_attempts(options.attempts).with_initial_backoff(options.backoff).with_max_backoff(LONGEST_PAUSE)
    };
    // Reading the system's certificates takes a moment, which a server without TLS need not cost.
    let http =
        if place.endpoint.starts_with("http://") { aws_smithy_http_client::Builder::new().build_http() } else { tls };
    let common = || {
        let builder = Builder::from(&shared)
            .http_client(http.clone())
            .region(region.clone())
            .force_path_style(options.path_style)
            .timeout_config(timeouts.clone());
        if options.checksums {
            return builder;
        }
        builder
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
    };
    let bulk = common().retry_config(retries(RetryConfig::adaptive())).retry_partition(unlimited(limiter(options)));
    let notes = common().retry_config(retries(RetryConfig::standard())).retry_partition(unlimited(limiter(options)));
    Ok(Clients { bulk: Client::from_conf(bulk.build()), notes: Client::from_conf(notes.build()), place })
}

/// The SDK's ration of retries (500 tokens for all clients of a process) is spent by the first hundred refusals of a storm;
/// the attempts of each request and the number in flight bound them here.
fn unlimited(limiter: ClientRateLimiter) -> RetryPartition {
    RetryPartition::custom("oar-tiles").token_bucket(TokenBucket::unlimited()).client_rate_limiter(limiter).build()
}

/// A limiter that begins with a fair guess of the rate. Left to itself it takes the rate for nothing until it has measured for
/// half a second, and a server that asks to slow down before that would be obeyed for minutes.
fn limiter(options: &S3Options) -> ClientRateLimiter {
    // 50 ms is a usual answer's time. The first measurement, over all the time since 1970, takes four fifths away.
    let rate = u32::try_from(options.in_flight.get()).map_or(f64::from(u32::MAX), f64::from) / 0.05 * 5.0;
    ClientRateLimiter::builder().tokens_retrieved_per_second(rate).build()
}
