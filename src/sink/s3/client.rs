//! The client of a bucket: credentials, region, endpoint, time limits, retries.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::refusal::RequestContext;
use super::{S3Error, S3Location, S3Options, without_user};

/// The longest pause between two attempts of a request: a run that pauses longer looks dead.
const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// Makes the client. Sends no request yet, except that the chain of credentials may ask its own servers.
pub(super) async fn connect(location: &S3Location, options: &S3Options) -> Result<(Client, RequestContext), S3Error> {
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
    // The SDK reads AWS_ENDPOINT_URL_S3 by itself, including a user and password in the URL, and does not report what it found.
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
    // The SDK's adaptive retries are not used: their limiter lowers the rate by 30 % for each refusal. Measured: one burst of refusals over
    // 16 requests in flight left a rate near 0, and after refusals of 1.5 s requests still waited when their 60 s were over. With standard
    // retries each request doubles its own pause, so the rate falls only as far as the server refuses.
    let retries = RetryConfig::standard()
        .with_max_attempts(options.attempts)
        .with_initial_backoff(options.backoff)
        .with_max_backoff(MAX_BACKOFF);
    // The SDK's retry budget (500 tokens for all clients of a process) is used up after a hundred refusals. This client bounds the retries
    // by the attempts of each request and the number of requests in flight.
    let partition = RetryPartition::custom("oar-tiles").token_bucket(TokenBucket::unlimited()).build();
    let client = Client::from_conf(common().retry_config(retries).retry_partition(partition).build());
    Ok((client, place))
}
