//! The client of Azure Blob Storage and Google Cloud Storage, by the crate `object_store` over this program's own HTTP
//! client. Who asks is in the environment, as that crate reads it.
//!
//! The `ETag` of a blob in Azure says nothing about its bytes, so each object is stored with the MD5 of its bytes in
//! its metadata. Listings do not show it: a seed asks for each tile that it holds.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use md5::{Digest as _, Md5};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, GetRange, GetResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutResult, RetryConfig, UpdateVersion,
};
use parking_lot::Mutex;

use super::client::{
    Answer, CopiedPart, FIRST_BACKOFF, Head, Listed, ListedPart, MAX_BACKOFF, Object, ObjectClient, ObjectHeaders,
    Page, Part, Put, SentParts, WriteCondition, line_time,
};
use super::refusal::{Meaning, Refusal, RequestContext, meaning, said};
use super::store::{digest, too_large};
use super::{BucketCause, BucketError, BucketLocation, BucketOptions, Encryption, Scheme, without_user};
use crate::encode::{GZIP, MAX_STORED_TILE};
use crate::hex::hex;
use crate::https::{HttpsClient, deepest_cause, https_client};
use crate::target::tree::Tag;

/// The name of the metadata with the MD5 of an object's bytes. Azure allows letters, digits and `_`.
const DIGEST: &str = "oar_tiles_md5";

/// The most blobs in one batch of deletions (Azure Storage REST API, "Blob Batch").
const MAX_KEYS_PER_BATCH: usize = 256;

/// What the crate's stores have in common.
trait CloudStore: ObjectStore + PaginatedListStore {}

impl<S: ObjectStore + PaginatedListStore> CloudStore for S {}

#[derive(Debug)]
struct CloudClient {
    store: Arc<dyn CloudStore>,
    scheme: Scheme,
    /// How often a batch of deletions is tried.
    attempts: u32,
    /// The time limit of a request with all its attempts.
    request_timeout: Duration,
    /// Uploads in parts that have begun, by their ids.
    uploads: Mutex<HashMap<String, Box<dyn MultipartUpload>>>,
    next_upload: AtomicU64,
}

/// Makes the client. Sends no request yet.
pub(crate) fn connect(
    location: &BucketLocation,
    options: &BucketOptions,
) -> Result<(Arc<dyn ObjectClient>, RequestContext), BucketError> {
    check(location, options)?;
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_BACKOFF, max_backoff: MAX_BACKOFF, base: 2.0 },
        max_retries: options.section.attempts.saturating_sub(1) as usize,
        retry_timeout: *options.section.request_timeout,
    };
    let http = Http::new(*options.section.attempt_timeout)?;
    // The library refuses plain HTTP unless it is allowed; a user who names an http:// endpoint means it.
    let plain = ClientOptions::new().with_allow_http(true);
    // The names of one service's settings are none of the other's.
    let set = options.cloud.0.iter();
    let (store, endpoint): (Result<Arc<dyn CloudStore>, _>, _) = match location.scheme {
        Scheme::Google => {
            let builder = set.fold(GoogleCloudStorageBuilder::from_env(), |builder, (name, value)| {
                name.parse().map_or(builder.clone(), |key: GoogleConfigKey| builder.with_config(key, value))
            });
            let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
            let builder = builder.with_bucket_name(&location.bucket).with_client_options(plain).with_retry(retry);
            let store = builder.with_http_connector(http).build();
            (store.map(|store| Arc::new(store) as _), endpoint.unwrap_or_else(|| "Google Cloud Storage".to_owned()))
        }
        Scheme::Azure | Scheme::S3 => {
            let builder = set.fold(MicrosoftAzureBuilder::from_env(), |builder, (name, value)| {
                name.parse().map_or(builder.clone(), |key: AzureConfigKey| builder.with_config(key, value))
            });
            let value = |key| builder.get_config_value(&key).filter(|value| !value.is_empty());
            let account = value(AzureConfigKey::AccountName).unwrap_or_default();
            let endpoint = value(AzureConfigKey::Endpoint).map(|url| without_user(&url));
            let endpoint = endpoint.unwrap_or_else(|| format!("Azure's storage account \"{account}\""));
            let builder = builder.with_container_name(&location.bucket).with_client_options(plain).with_retry(retry);
            let store = builder.with_http_connector(http).build();
            (store.map(|store| Arc::new(store) as _), endpoint)
        }
    };
    let requests = RequestContext {
        scheme: location.scheme,
        endpoint,
        region: String::new(),
        bucket: location.bucket.clone(),
        prefix: location.prefix.clone(),
        attempts: options.section.attempts,
    };
    let store = store.map_err(|error| {
        let cause = BucketCause(deepest_cause(&error));
        requests.error(super::Action::Get, &location.prefix, Refusal { meaning: Meaning::NoKeys, cause })
    })?;
    let client = CloudClient {
        store,
        scheme: location.scheme,
        attempts: options.section.attempts,
        request_timeout: *options.section.request_timeout,
        uploads: Mutex::default(),
        next_upload: AtomicU64::new(0),
    };
    Ok((Arc::new(client), requests))
}

/// Refuses headers that S3 knows and these services do not.
fn check(location: &BucketLocation, options: &BucketOptions) -> Result<(), BucketError> {
    let refused = |what: String| Err(BucketError::Setting { what });
    let service = location.scheme.service();
    if options.section.encryption != Encryption::Bucket {
        return refused(format!(
            "encryption is S3's: {location} is in {service}, which encrypts as its account says. Leave it out"
        ));
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = |name: &String| name.bytes().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    match options.metadata.keys().find(|name| !is_name(name)) {
        Some(name) if location.scheme == Scheme::Azure => refused(format!(
            "the name \"{name}\" of metadata cannot be stored in {location}: {service} takes a-z, 0-9 and _ in names, and no digit first"
        )),
        _ => Ok(()),
    }
}

impl CloudClient {
    /// What identifies an object's content in a condition: the `ETag`, in Google's service the generation.
    fn tag(&self, tag: Option<String>, version: Option<String>) -> Option<String> {
        if self.scheme == Scheme::Google { version } else { tag }
    }

    fn tag_of(&self, meta: &ObjectMeta) -> Option<String> {
        self.tag(meta.e_tag.clone(), meta.version.clone())
    }

    async fn get_with(&self, key: &str, options: GetOptions) -> Result<(GetResult, Tag), Refusal> {
        let found = self.store.get_opts(&path(key)?, options).await.map_err(|error| refusal(&error))?;
        let of_tag = found.meta.e_tag.as_deref().and_then(|tag| digest(tag.trim_matches('"')));
        let noted = || digest(found.attributes.get(&Attribute::Metadata(DIGEST.into()))?);
        let digest = of_tag.or_else(noted);
        Ok((found, digest))
    }

    /// Deletes some blobs; returns those that could not be deleted.
    /// Fails if the batch is refused as a whole: then it has one answer.
    async fn delete_batch(&self, keys: &[String]) -> Result<Vec<(String, Refusal)>, Refusal> {
        let paths: Vec<_> = keys.iter().map(|key| Path::parse(key).map_err(object_store::Error::from)).collect();
        let answers = self.store.delete_stream(stream::iter(paths).boxed()).collect::<Vec<_>>().await;
        if answers.len() != keys.len() {
            let error = answers.into_iter().find_map(Result::err);
            return error.map_or(Ok(Vec::new()), |error| Err(refusal(&error)));
        }
        let refused = keys.iter().zip(answers).filter_map(|(key, answer)| {
            let refusal = refusal(&answer.err()?);
            (refusal.meaning != Meaning::Missing).then(|| (key.clone(), refusal))
        });
        Ok(refused.collect())
    }

    fn take_upload(&self, id: &str) -> Result<Box<dyn MultipartUpload>, Refusal> {
        let missing = || Refusal { meaning: Meaning::Missing, cause: BucketCause(format!("there is no upload {id}")) };
        self.uploads.lock().remove(id).ok_or_else(missing)
    }
}

impl ObjectClient for CloudClient {
    fn get<'a>(&'a self, key: &'a str, range: Option<Range<u64>>, most: usize) -> Answer<'a, Object> {
        let reading = async move {
            let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
            let (found, digest) = self.get_with(key, options).await?;
            if found.range.end - found.range.start > most as u64 {
                return Err(too_large(most));
            }
            let tag = self.tag_of(&found.meta).unwrap_or_default();
            let body = found.bytes().await.map_err(|error| refusal(&error))?;
            if body.len() > most { Err(too_large(most)) } else { Ok(Object { body: body.into(), tag, digest }) }
        };
        // The library bounds the time to the first byte only.
        let limit = self.request_timeout + line_time(most as u64);
        async move { tokio::time::timeout(limit, reading).await.unwrap_or_else(|_late| Err(late(limit))) }.boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Head> {
        async move {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let (found, digest) = self.get_with(key, options).await?;
            Ok(Head { length: found.meta.size, tag: self.tag_of(&found.meta), digest })
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, put: Put) -> Answer<'a, String> {
        async move {
            let Put { body, headers, digest, condition, line_time: _ } = put;
            let mode = match condition {
                WriteCondition::Always => PutMode::Overwrite,
                WriteCondition::Absent => PutMode::Create,
                WriteCondition::Unchanged(tag) => {
                    PutMode::Update(UpdateVersion { e_tag: Some(tag.clone()), version: Some(tag) })
                }
            };
            let attributes = attributes(headers, digest);
            let options = PutOptions { mode, attributes, ..PutOptions::default() };
            let done = self.store.put_opts(&path(key)?, body.into(), options).await.map_err(|error| refusal(&error))?;
            let PutResult { e_tag, version, .. } = done;
            Ok(self.tag(e_tag, version).unwrap_or_default())
        }
        .boxed()
    }

    fn list<'a>(&'a self, begin: &'a str, from: Option<String>) -> Answer<'a, Page> {
        async move {
            let options = PaginatedListOptions { page_token: from, ..PaginatedListOptions::default() };
            let prefix = Some(begin).filter(|begin| !begin.is_empty());
            let page = self.store.list_paginated(prefix, options).await.map_err(|error| refusal(&error))?;
            let found = page.result.objects.into_iter().map(|meta| Listed {
                tag: self.tag_of(&meta),
                digest: meta.e_tag.as_deref().and_then(|tag| digest(tag.trim_matches('"'))),
                name: meta.location.to_string(),
            });
            Ok(Page { found: found.collect(), next: page.page_token })
        }
        .boxed()
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Vec<(String, Refusal)>> {
        async move {
            let mut left = Vec::new();
            for keys in keys.chunks(MAX_KEYS_PER_BATCH) {
                let mut attempt = 1;
                // The library does not repeat a batch that got no answer; deleting twice does no harm.
                let refused = loop {
                    match self.delete_batch(keys).await {
                        Err(refusal) if attempt < self.attempts && refusal.is_passing() => attempt += 1,
                        Err(refusal) => break keys.iter().map(|key| (key.clone(), refusal.clone())).collect(),
                        Ok(refused) => break refused,
                    }
                };
                left.extend(refused);
            }
            left
        }
        .boxed()
    }

    /// Reads the object and writes it again: the library cannot change headers alone.
    fn set_headers<'a>(&'a self, key: &'a str, headers: ObjectHeaders, tag: Option<&'a str>) -> Answer<'a, ()> {
        async move {
            let Object { body, tag: found, .. } = self.get(key, None, MAX_STORED_TILE).await?;
            if tag.is_some_and(|tag| tag != found) {
                let cause = BucketCause("it was replaced meanwhile".to_owned());
                return Err(Refusal { meaning: Meaning::Condition, cause });
            }
            let digest = Some(Md5::digest(&body).into());
            let put =
                Put { body, headers, digest, condition: WriteCondition::Unchanged(found), line_time: Duration::ZERO };
            self.put(key, put).await.map(drop)
        }
        .boxed()
    }

    fn begin_parts<'a>(&'a self, key: &'a str, headers: ObjectHeaders) -> Answer<'a, String> {
        async move {
            let options =
                PutMultipartOptions { attributes: attributes(headers, None), ..PutMultipartOptions::default() };
            let begun = self.store.put_multipart_opts(&path(key)?, options).await.map_err(|error| refusal(&error))?;
            let id = self.next_upload.fetch_add(1, Ordering::Relaxed).to_string();
            self.uploads.lock().insert(id.clone(), begun);
            Ok(id)
        }
        .boxed()
    }

    fn put_part<'a>(&'a self, _: &'a str, id: &'a str, part: Part) -> Answer<'a, String> {
        // The library numbers the parts in the order of these calls.
        let sending = self.uploads.lock().get_mut(id).map(|upload| upload.put_part(part.bytes.into()));
        async move {
            match sending {
                Some(sending) => sending.await.map(|()| String::new()).map_err(|error| refusal(&error)),
                None => self.take_upload(id).map(|_| String::new()),
            }
        }
        .boxed()
    }

    /// Honours no condition.
    fn complete_parts<'a>(&'a self, _: &'a str, sent: SentParts<'a>) -> Answer<'a, ()> {
        async move {
            let mut upload = self.take_upload(sent.id)?;
            upload.complete().await.map(drop).map_err(|error| refusal(&error))
        }
        .boxed()
    }

    fn abort_parts<'a>(&'a self, _: &'a str, id: &'a str) -> Answer<'a, ()> {
        async move {
            let mut upload = self.take_upload(id)?;
            upload.abort().await.map_err(|error| refusal(&error))
        }
        .boxed()
    }

    fn has_conditional_parts(&self) -> bool {
        false
    }

    /// The library knows no parts that are copied.
    fn copy_part<'a>(&'a self, _: &'a str, _: &'a str, _: CopiedPart<'a>) -> Answer<'a, String> {
        let cause = BucketCause("parts cannot be copied here".to_owned());
        async move { Err(Refusal { meaning: Meaning::Unknown, cause }) }.boxed()
    }

    /// Nothing is copied, so nobody asks.
    fn list_parts<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, Vec<ListedPart>> {
        async move { Ok(Vec::new()) }.boxed()
    }

    fn keeps_uploads(&self) -> bool {
        false
    }

    fn can_copy_parts(&self) -> bool {
        false
    }

    /// Google's `ETag` of an object that one request stored is its MD5.
    fn lists_digests(&self) -> bool {
        self.scheme == Scheme::Google
    }
}

/// The library knows no object whose key has an empty part.
fn path(key: &str) -> Result<Path, Refusal> {
    Path::parse(key).map_err(|error| Refusal { meaning: Meaning::Missing, cause: BucketCause(error.to_string()) })
}

fn attributes(headers: ObjectHeaders, digest: Tag) -> Attributes {
    let ObjectHeaders { content_type, is_gzip, cache_control, storage_class, metadata, encryption: _ } = headers;
    let mut attributes: Attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, content_type.into());
    if is_gzip {
        attributes.insert(Attribute::ContentEncoding, GZIP.into());
    }
    if let Some(rule) = cache_control {
        attributes.insert(Attribute::CacheControl, rule.into());
    }
    if let Some(class) = storage_class {
        attributes.insert(Attribute::StorageClass, class.into());
    }
    let digest = digest.map(|digest| (DIGEST.to_owned(), hex(digest)));
    for (name, value) in metadata.into_iter().chain(digest) {
        attributes.insert(Attribute::Metadata(name.into()), value.into());
    }
    attributes
}

fn late(limit: Duration) -> Refusal {
    let cause = BucketCause(format!("the answer was not complete after {}", humantime::format_duration(limit)));
    Refusal { meaning: Meaning::Timeout, cause }
}

// What the library's errors mean. They hold addresses, which may hold signatures: only the server's own words are
// shown.

fn refusal(error: &object_store::Error) -> Refusal {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(no_answer) = cause.downcast_ref::<HttpError>() {
            let meaning = match no_answer.kind() {
                // Nobody says who asks: the library then asks the machine's own service for an identity.
                _ if error.to_string().contains("token request") => Meaning::NoKeys,
                HttpErrorKind::Connect => Meaning::Unreachable,
                HttpErrorKind::Timeout => Meaning::Timeout,
                _ => Meaning::Server,
            };
            return Refusal { meaning, cause: BucketCause(deepest_cause(no_answer)) };
        }
        next = cause.source();
    }
    of_text(&deepest_cause(error))
}

/// The meaning of an answer, by the library's text of it: `… status code: 404 Not Found: <Error><Code>…</Code>…`.
fn of_text(text: &str) -> Refusal {
    let between = |begin: &str, end: &str| Some(text.split_once(begin)?.1.split_once(end)?.0);
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    // A batch says the code of each blob in brackets.
    let code = between("<Code>", "</Code>").or_else(|| between("(code: ", ")")).unwrap_or_default();
    // Azure's message goes on with the request's id and time.
    let message = between("<Message>", "</Message>").and_then(|message| message.lines().next()).unwrap_or_default();
    let Some(status) = status.or_else(|| code.parse().ok()) else {
        return Refusal { meaning: Meaning::Other, cause: BucketCause(text.to_owned()) };
    };
    let meaning = match code {
        "ContainerNotFound" => Meaning::NoBucket,
        "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation" => Meaning::Keys,
        "PublicAccessNotPermitted" => Meaning::Denied,
        "ContainerBeingDeleted" | "ServerBusy" => Meaning::Busy,
        "OperationTimedOut" => Meaning::Timeout,
        // A wrong key, as Azurite says it.
        "AuthorizationFailure" if message.contains("failed to authenticate") => Meaning::Keys,
        _ if status == 401 => Meaning::Keys,
        _ => meaning(Some(status), code).unwrap_or(Meaning::Other),
    };
    Refusal { meaning, cause: BucketCause(said(Some(status), code, message)) }
}

// The program's own HTTP client, under the library.

#[derive(Debug, Clone)]
struct Http {
    client: HttpsClient,
    /// The time limit of an attempt; a long body has more.
    limit: Duration,
}

impl Http {
    fn new(limit: Duration) -> Result<Http, BucketError> {
        let client =
            https_client().map_err(|error| BucketError::Setting { what: format!("TLS cannot be set up: {error}") })?;
        Ok(Http { client, limit })
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let limit = self.limit + line_time(body.len() as u64);
        let sent = self.client.request(http::Request::from_parts(parts, Full::new(body)));
        match tokio::time::timeout(limit, sent).await {
            Err(late) => Err(HttpError::new(HttpErrorKind::Timeout, late)),
            Ok(Err(error)) if error.is_connect() => Err(HttpError::new(HttpErrorKind::Connect, error)),
            Ok(Err(error)) => Err(HttpError::new(HttpErrorKind::Interrupted, error)),
            Ok(Ok(answer)) => {
                let body = |body: hyper::body::Incoming| {
                    HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))
                };
                Ok(answer.map(body))
            }
        }
    }
}

impl HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Http {
    fn call<'own, 'call>(&'own self, request: HttpRequest) -> BoxFuture<'call, Result<HttpResponse, HttpError>>
    where
        'own: 'call,
        Self: 'call,
    {
        self.send(request).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_the_services_say() {
        let answer = |status: &str, code: &str| {
            format!(
                "Server returned non-2xx status code: {status}: <Error><Code>{code}</Code><Message>Why.\nRequestId:1</Message></Error>"
            )
        };
        for (status, code, expected) in [
            ("404 Not Found", "ContainerNotFound", Meaning::NoBucket),
            ("404 Not Found", "BlobNotFound", Meaning::Missing),
            ("409 Conflict", "BlobAlreadyExists", Meaning::Condition),
            ("412 Precondition Failed", "ConditionNotMet", Meaning::Condition),
            ("403 Forbidden", "AuthenticationFailed", Meaning::Keys),
            ("403 Forbidden", "AuthorizationPermissionMismatch", Meaning::Denied),
            ("503 Service Unavailable", "ServerBusy", Meaning::Busy),
        ] {
            let refusal = of_text(&answer(status, code));
            assert_eq!(refusal.meaning, expected, "{status} {code}");
            assert_eq!(refusal.cause.0, format!("HTTP {} {code}: Why", &status[..3]));
        }
        assert_eq!(of_text("Server returned non-2xx status code: 404 Not Found: ").meaning, Meaning::Missing);
    }
}
