//! The client of S3 by Amazon's SDK.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, ByteStreamError};
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, Delete, MetadataDirective, ObjectIdentifier, ServerSideEncryption,
    StorageClass,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_types::base64;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{
    Answer, CONNECT_TIMEOUT, CopiedPart, FIRST_BACKOFF, Head, Listed, ListedPart, MAX_BACKOFF, Object, ObjectClient,
    ObjectHeaders, Page, Part, Put, SentParts, WriteCondition,
};
use super::error::chain;
use super::refusal::{Meaning, Refusal, RequestContext, expected_region, meaning, said};
use super::store::{digest, too_large};
use super::{BucketCause, BucketError, BucketLocation, BucketOptions, Encryption, without_user};
use crate::encode::GZIP;

/// The characters that are written as `%XX` in the source of a copy (Amazon S3 API Reference, `CopyObject`: "must be
/// URL-encoded").
const IN_KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Debug)]
struct AwsClient {
    client: Client,
    bucket: String,
    attempts: u32,
    /// The time limits of a connection, an attempt and a request.
    times: [Duration; 3],
}

/// Sets the headers of a request that stores an object: three kinds of requests have the same setters, and no trait.
macro_rules! with_headers {
    ($request:expr, $headers:expr) => {{
        let ObjectHeaders { content_type, is_gzip, cache_control, storage_class, metadata, encryption } = $headers;
        let (encryption, key) = match encryption {
            Encryption::Bucket => (None, None),
            Encryption::Aes256 => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms { key } => (Some(ServerSideEncryption::AwsKms), key),
        };
        $request
            .content_type(content_type)
            .set_content_encoding(is_gzip.then(|| GZIP.to_owned()))
            .set_cache_control(cache_control)
            .set_storage_class(storage_class.as_deref().map(StorageClass::from))
            .set_metadata(Some(metadata))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(key)
    }};
}

/// Sets the condition of a request that stores an object.
macro_rules! with_condition {
    ($request:expr, $condition:expr) => {
        match $condition {
            WriteCondition::Always => $request,
            WriteCondition::Absent => $request.if_none_match("*"),
            WriteCondition::Unchanged(tag) => $request.if_match(tag),
        }
    };
}

impl AwsClient {
    /// The time limits of a request that may take `line_time` longer than the settings allow.
    fn time_limits(&self, line_time: Duration) -> Builder {
        let [connect, attempt, request] = self.times;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(connect)
            .operation_attempt_timeout(attempt + line_time)
            .operation_timeout(request + line_time * self.attempts)
            .build();
        aws_sdk_s3::Config::builder().timeout_config(timeouts)
    }

    /// An object of the bucket as the source of a copy.
    fn copy_source(&self, key: &str) -> String {
        format!("{}/{}", self.bucket, utf8_percent_encode(key, IN_KEY))
    }

    async fn delete_each(&self, keys: &[String]) -> Vec<(String, Refusal)> {
        let mut left = Vec::new();
        for key in keys {
            let request = self.client.delete_object().bucket(&self.bucket).key(key);
            match request.send().await.map_err(Refusal::from) {
                Ok(_) | Err(Refusal { meaning: Meaning::Missing, .. }) => {}
                Err(refusal) => left.push((key.clone(), refusal)),
            }
        }
        left
    }
}

impl ObjectClient for AwsClient {
    /// Repeats a request whose answer breaks off: the SDK repeats only requests that fail before the first byte of the
    /// body.
    fn get<'a>(&'a self, key: &'a str, range: Option<Range<u64>>, most: usize) -> Answer<'a, Object> {
        async move {
            let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
            let mut attempt = 1;
            loop {
                let request = self.client.get_object().bucket(&self.bucket).key(key);
                let answer = request.set_range(range.clone()).send().await.map_err(Refusal::from)?;
                let tag = answer.e_tag().unwrap_or_default().to_owned();
                if answer
                    .content_length()
                    .is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > most))
                {
                    return Err(too_large(most));
                }
                match body(answer.body, most).await {
                    Ok(Some(body)) => {
                        let digest = digest(tag.trim_matches('"'));
                        return Ok(Object { body, tag, digest });
                    }
                    Ok(None) => return Err(too_large(most)),
                    Err(_broken) if attempt < self.attempts => attempt += 1,
                    Err(broken) => {
                        let cause = BucketCause(format!("the answer broke off: {}", chain(&broken)));
                        return Err(Refusal { meaning: Meaning::Server, cause });
                    }
                }
            }
        }
        .boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Head> {
        async move {
            let answer = self.client.head_object().bucket(&self.bucket).key(key).send().await.map_err(Refusal::from)?;
            let length = answer.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
            let tag = answer.e_tag().map(str::to_owned);
            let digest = tag.as_deref().and_then(|tag| digest(tag.trim_matches('"')));
            Ok(Head { length, tag, digest })
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, put: Put) -> Answer<'a, String> {
        async move {
            let Put { body, headers, digest, condition, line_time } = put;
            let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(body));
            let request = with_headers!(request, headers).set_content_md5(digest.map(base64::encode));
            let request = with_condition!(request, condition).customize();
            let request =
                if line_time.is_zero() { request } else { request.config_override(self.time_limits(line_time)) };
            Ok(request.send().await.map_err(Refusal::from)?.e_tag().unwrap_or_default().to_owned())
        }
        .boxed()
    }

    fn list<'a>(&'a self, begin: &'a str, from: Option<String>) -> Answer<'a, Page> {
        async move {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(begin);
            let answer = request.set_continuation_token(from).send().await.map_err(Refusal::from)?;
            let found = answer.contents().iter().filter_map(|object| {
                let tag = object.e_tag().map(|tag| tag.trim_matches('"'));
                let (digest, tag) = (tag.and_then(digest), tag.map(|tag| format!("\"{tag}\"")));
                Some(Listed { name: object.key()?.to_owned(), tag, digest })
            });
            let next = answer.next_continuation_token().filter(|_| answer.is_truncated() == Some(true));
            Ok(Page { found: found.collect(), next: next.map(str::to_owned) })
        }
        .boxed()
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Vec<(String, Refusal)>> {
        async move {
            let mut objects = Vec::with_capacity(keys.len());
            for key in keys {
                match ObjectIdentifier::builder().key(key).build() {
                    Ok(object) => objects.push(object),
                    Err(error) => return all(keys, &Refusal::other(&error)),
                }
            }
            let delete = match Delete::builder().set_objects(Some(objects)).quiet(true).build() {
                Ok(delete) => delete,
                Err(error) => return all(keys, &Refusal::other(&error)),
            };
            let request = self.client.delete_objects().bucket(&self.bucket).delete(delete);
            match request.send().await.map_err(Refusal::from) {
                Ok(answer) => {
                    let left = answer.errors().iter().map(|error| {
                        let refusal =
                            Refusal::of_code(error.code().unwrap_or_default(), error.message().unwrap_or_default());
                        (error.key().unwrap_or_default().to_owned(), refusal)
                    });
                    left.filter(|(_, refusal)| refusal.meaning != Meaning::Missing).collect()
                }
                // Google's S3 interface has no DeleteObjects.
                Err(refusal) if refusal.meaning == Meaning::Unknown => self.delete_each(keys).await,
                Err(refusal) => all(keys, &refusal),
            }
        }
        .boxed()
    }

    /// Copies the object onto itself. A copy that replaces metadata keeps none of the old headers.
    fn set_headers<'a>(&'a self, key: &'a str, headers: ObjectHeaders, tag: Option<&'a str>) -> Answer<'a, ()> {
        async move {
            let request = self.client.copy_object().bucket(&self.bucket).key(key).copy_source(self.copy_source(key));
            let request = with_headers!(request.metadata_directive(MetadataDirective::Replace), headers);
            let copied = request.set_copy_source_if_match(tag.map(str::to_owned)).send().await;
            copied.map(drop).map_err(Refusal::from)
        }
        .boxed()
    }

    fn begin_parts<'a>(&'a self, key: &'a str, headers: ObjectHeaders) -> Answer<'a, String> {
        async move {
            let request = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
            let begun = with_headers!(request, headers).send().await.map_err(Refusal::from)?;
            Ok(begun.upload_id().unwrap_or_default().to_owned())
        }
        .boxed()
    }

    fn put_part<'a>(&'a self, key: &'a str, id: &'a str, part: Part) -> Answer<'a, String> {
        async move {
            let Part { number, bytes, digest, line_time } = part;
            let number = i32::try_from(number + 1).unwrap_or(i32::MAX);
            let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(id).part_number(number);
            let request = request.body(ByteStream::from(bytes)).content_md5(base64::encode(digest));
            let sent = request.customize().config_override(self.time_limits(line_time)).send().await;
            Ok(sent.map_err(Refusal::from)?.e_tag().unwrap_or_default().to_owned())
        }
        .boxed()
    }

    fn copy_part<'a>(&'a self, key: &'a str, id: &'a str, part: CopiedPart<'a>) -> Answer<'a, String> {
        async move {
            let CopiedPart { number, range, tag, line_time } = part;
            let number = i32::try_from(number + 1).unwrap_or(i32::MAX);
            let request = self.client.upload_part_copy().bucket(&self.bucket).key(key).upload_id(id);
            let request = request.part_number(number).copy_source(self.copy_source(key));
            let request = request.set_copy_source_if_match(tag.map(str::to_owned));
            let request = request.copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
            let sent = request.customize().config_override(self.time_limits(line_time)).send().await;
            let copied = sent.map_err(Refusal::from)?.copy_part_result.and_then(|copied| copied.e_tag);
            // A server that does not know the header of the source takes the request for a part without bytes.
            copied.ok_or_else(|| Refusal {
                meaning: Meaning::Other,
                cause: BucketCause("the server does not say that it has copied a part".to_owned()),
            })
        }
        .boxed()
    }

    fn list_parts<'a>(&'a self, key: &'a str, id: &'a str) -> Answer<'a, Vec<ListedPart>> {
        async move {
            let (mut parts, mut from): (Vec<ListedPart>, Option<String>) = (Vec::new(), None);
            loop {
                let request = self.client.list_parts().bucket(&self.bucket).key(key).upload_id(id);
                let page = request.set_part_number_marker(from.clone()).send().await.map_err(Refusal::from)?;
                parts.extend(page.parts().iter().filter_map(|part| {
                    let number = u64::try_from(part.part_number?).ok()?.checked_sub(1)?;
                    Some(ListedPart { number, length: u64::try_from(part.size?).ok()? })
                }));
                // A page that names no part, or the same ones as the page before, would be asked for without end.
                let number = |marker: &Option<String>| marker.as_ref().and_then(|marker| marker.parse::<u32>().ok());
                match page.next_part_number_marker.filter(|_| page.is_truncated == Some(true)) {
                    Some(next) if !page.parts.unwrap_or_default().is_empty() && number(&from) < next.parse().ok() => {
                        from = Some(next);
                    }
                    _ => return Ok(parts),
                }
            }
        }
        .boxed()
    }

    /// The server assembles the parts before it answers.
    fn complete_parts<'a>(&'a self, key: &'a str, sent: SentParts<'a>) -> Answer<'a, ()> {
        async move {
            let SentParts { id, tags, condition, line_time } = sent;
            let parts =
                (1..).zip(tags).map(|(number, tag)| CompletedPart::builder().part_number(number).e_tag(tag).build());
            let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
            let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
            let request = with_condition!(request.multipart_upload(parts), condition);
            let sent = request.customize().config_override(self.time_limits(line_time)).send().await;
            sent.map(drop).map_err(Refusal::from)
        }
        .boxed()
    }

    fn abort_parts<'a>(&'a self, key: &'a str, id: &'a str) -> Answer<'a, ()> {
        async move {
            let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
            request.send().await.map(drop).map_err(Refusal::from)
        }
        .boxed()
    }

    fn has_conditional_parts(&self) -> bool {
        true
    }

    fn keeps_uploads(&self) -> bool {
        true
    }

    fn can_copy_parts(&self) -> bool {
        true
    }

    fn lists_digests(&self) -> bool {
        true
    }
}

/// The body of an answer; `None` if it has more than `most` bytes.
async fn body(mut stream: ByteStream, most: usize) -> Result<Option<Vec<u8>>, ByteStreamError> {
    let mut body = Vec::new();
    while let Some(bytes) = stream.try_next().await? {
        if bytes.len() > most - body.len() {
            return Ok(None);
        }
        body.extend_from_slice(&bytes);
    }
    Ok(Some(body))
}

fn all(keys: &[String], refusal: &Refusal) -> Vec<(String, Refusal)> {
    keys.iter().map(|key| (key.clone(), refusal.clone())).collect()
}

// What the SDK's errors mean.

impl<E: ProvideErrorMetadata + Error + 'static> From<SdkError<E, HttpResponse>> for Refusal {
    fn from(error: SdkError<E, HttpResponse>) -> Refusal {
        match &error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
                let cause = BucketCause(said(Some(status), code, message));
                let header = answer.raw().headers().get("x-amz-bucket-region").map(str::to_owned);
                let region = header.or_else(|| expected_region(message));
                let meaning = match meaning(Some(status), code) {
                    Some(Meaning::Region(_)) => Meaning::Region(region),
                    Some(meaning) => meaning,
                    None => Meaning::Other,
                };
                Refusal { meaning, cause }
            }
            SdkError::TimeoutError(_) => Refusal { meaning: Meaning::Timeout, cause: BucketCause(chain(&error)) },
            SdkError::DispatchFailure(failure) => {
                let text = chain(&error);
                // The SDK's own type of this error is in a crate that the SDK does not re-export.
                let meaning = if text.contains("credential") {
                    Meaning::NoKeys
                } else if failure.is_timeout() {
                    Meaning::Timeout
                } else {
                    Meaning::Unreachable
                };
                Refusal { meaning, cause: BucketCause(text) }
            }
            SdkError::ResponseError(_) => Refusal { meaning: Meaning::Server, cause: BucketCause(chain(&error)) },
            _ => {
                let text = chain(&error);
                let meaning = if text.contains("credential") { Meaning::NoKeys } else { Meaning::Other };
                Refusal { meaning, cause: BucketCause(text) }
            }
        }
    }
}

// The client of a bucket: credentials, region, endpoint, time limits, retries.

/// What the SDK finds in the environment, its files and the options; and the client of its chain of credentials.
async fn settings_of_sdk(options: &BucketOptions) -> (SdkConfig, SharedHttpClient) {
    // The chain of credentials may ask servers over TLS even where the bucket is reached without TLS.
    let tls = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(tls.clone());
    if let Some(region) = &options.section.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &options.section.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &options.section.endpoint {
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
    (loader.load().await, tls)
}

/// Makes the client. Sends no request yet, except that the chain of credentials may ask its own servers.
pub(crate) async fn connect(
    location: &BucketLocation,
    options: &BucketOptions,
) -> Result<(Arc<dyn ObjectClient>, RequestContext), BucketError> {
    let (shared, tls) = settings_of_sdk(options).await;
    // The SDK reads AWS_ENDPOINT_URL_S3 by itself, including a user and password in the URL, and does not report what
    // it found.
    let of_s3 = || {
        std::env::var("AWS_ENDPOINT_URL_S3").ok().filter(|url| !url.is_empty() && options.section.endpoint.is_none())
    };
    let endpoint = of_s3().or_else(|| shared.endpoint_url().map(str::to_owned)).map(|url| without_user(&url));
    // Servers other than Amazon's accept any region, but a signature must name one.
    let region = match (shared.region(), &endpoint) {
        (Some(region), _) => region.clone(),
        (None, Some(_)) => Region::new("us-east-1"),
        (None, None) => return Err(BucketError::NoRegion { place: location.to_string() }),
    };
    let place = RequestContext {
        scheme: location.scheme,
        endpoint: endpoint.clone().unwrap_or_else(|| format!("S3 in {region}")),
        region: region.to_string(),
        bucket: location.bucket.clone(),
        prefix: location.prefix.clone(),
        attempts: options.section.attempts,
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(*options.section.attempt_timeout)
        .operation_timeout(*options.section.request_timeout)
        .build();
    // Reading the system's certificates takes a moment, so it is not done for a server without TLS.
    let http =
        if place.endpoint.starts_with("http://") { aws_smithy_http_client::Builder::new().build_http() } else { tls };
    // The SDK's adaptive retries are not used: their limiter lowers the rate by 30 % for each refusal. Measured: one
    // burst of refusals over 16 requests in flight left a rate near 0, and after refusals of 1.5 s requests still
    // waited when their 60 s were over. With standard retries each request doubles its own pause, so the rate falls
    // only as far as the server refuses.
    let retries = RetryConfig::standard()
        .with_max_attempts(options.section.attempts)
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(MAX_BACKOFF);
    // The SDK's retry budget (500 tokens for all clients of a process) is used up after a hundred refusals. This client
    // bounds the retries by the attempts of each request and the number of requests in flight.
    let partition = RetryPartition::custom("oar-tiles").token_bucket(TokenBucket::unlimited()).build();
    let mut builder = Builder::from(&shared)
        .http_client(http)
        .region(region)
        .force_path_style(options.section.path_style)
        .timeout_config(timeouts)
        .retry_config(retries)
        .retry_partition(partition);
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    if !options.section.checksums {
        builder = builder
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    let client = Client::from_conf(builder.build());
    let client = AwsClient {
        client,
        bucket: location.bucket.clone(),
        attempts: options.section.attempts,
        times: [CONNECT_TIMEOUT, *options.section.attempt_timeout, *options.section.request_timeout],
    };
    Ok((Arc::new(client), place))
}
