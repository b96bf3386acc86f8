//! The routes of jobs on the admin listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::spec::{JobSpec, JobSpecError};
use super::store::{JobError, JobStore};
use super::token::AdminToken;
use crate::clock::seconds_now;
use crate::error::with_causes;
use crate::json::JSON_VERSION;
use crate::serve::http::answer::{
    Answer, BodyRefusal, JSON_TYPE, RequestBody, media_type_of, private, private_events, private_json, received,
    without_body,
};
use crate::serve::tiles::served::ServedTiles;
use crate::tile::TileCoord;

/// The most bytes of a request's body. The note of a job may have 1 MB.
const MAX_BODY_BYTES: usize = 768 << 10;

/// The limit for the time in which a request's body has to come.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The longest `Idempotency-Key`, in bytes.
const MAX_KEY_BYTES: usize = 128;

/// The most clients that follow jobs at once.
const MAX_FOLLOWERS: usize = 64;

/// The interval at which a followed job is read again if no change is notified: another node may be the writer.
const FOLLOW_POLL: Duration = Duration::from_secs(1);

/// The `Retry-After` of temporary refusals, in seconds.
const RETRY_SECONDS: u64 = 10;

/// The header with the client's key of a request, by which a repeated request is recognized
/// (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header in which browsers say which site sent a request (W3C Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const OPENAPI: &str = include_str!("openapi.json");

/// What there is below a tileset: methods, path and answer. `openapi.json` describes each of them.
const ENDPOINTS: [(&str, &str, Endpoint); 7] = [
    ("GET, HEAD", "/jobs", Endpoint::Whole(|routes, _| Box::pin(routes.list()))),
    ("POST", "/jobs", Endpoint::Whole(|routes, request| Box::pin(routes.submit(request)))),
    ("GET, HEAD", "/jobs/{id}", Endpoint::OfJob(|routes, id| Box::pin(routes.show(id)))),
    ("DELETE", "/jobs/{id}", Endpoint::OfJob(|routes, id| Box::pin(routes.cancel(id)))),
    ("GET", "/jobs/{id}/events", Endpoint::OfJob(|routes, id| Box::pin(routes.follow(id)))),
    ("POST", "/evict", Endpoint::Whole(|routes, request| Box::pin(routes.evict(request)))),
    ("GET, HEAD", "/openapi.json", Endpoint::Whole(|_, _| Box::pin(async { Ok(description()) }))),
];

type Answering<'a> = BoxFuture<'a, Result<Answer, Refused>>;

/// What answers a request.
#[derive(Clone, Copy)]
enum Endpoint {
    /// The path has no parameter.
    Whole(for<'a> fn(&'a JobRoutes, Request<RequestBody>) -> Answering<'a>),
    /// The path has the `{id}` of a job.
    OfJob(for<'a> fn(&'a JobRoutes, u64) -> Answering<'a>),
}

/// The endpoints of a path, which differ in their methods, and the id in it.
fn named(path: &str) -> impl Iterator<Item = (&'static str, Endpoint, Option<u64>)> {
    ENDPOINTS.into_iter().filter_map(move |(methods, pattern, endpoint)| {
        let Some((front, end)) = pattern.split_once("{id}") else {
            return (pattern == path).then_some((methods, endpoint, None));
        };
        let text = path.strip_prefix(front)?.strip_suffix(end)?;
        // Numbers have one form only.
        let id = text.parse().ok().filter(|id: &u64| id.to_string() == text)?;
        Some((methods, endpoint, Some(id)))
    })
}

/// The cached tiles that a client wants to evict.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvictRequest {
    #[serde(default)]
    tiles: Vec<String>,
    #[serde(default)]
    all: bool,
}

/// Answers requests about jobs. Clones share the jobs.
#[derive(Clone)]
pub(crate) struct JobRoutes {
    pub(crate) store: JobStore,
    /// The cached tiles, which clients may evict.
    pub(crate) tiles: ServedTiles,
    /// The permits for clients that follow jobs.
    pub(crate) followers: Arc<Semaphore>,
    /// True if the server was asked to end.
    pub(crate) draining: Arc<AtomicBool>,
    /// The prefix of the paths: empty, or a slash and the name of the tileset.
    pub(crate) base: String,
}

/// An answer that ends the handling of a request early.
pub(crate) type Refused = Answer;

impl JobRoutes {
    /// The permits for clients that follow jobs.
    pub(crate) fn followers() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_FOLLOWERS))
    }

    pub(crate) fn knows(path: &str) -> bool {
        named(path).next().is_some()
    }

    /// The paths without parameters.
    pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
        let mut paths: Vec<&str> =
            ENDPOINTS.iter().map(|(_, path, _)| *path).filter(|path| !path.contains('{')).collect();
        paths.dedup();
        paths.into_iter()
    }

    /// The answer to a request for `path` below the base. Clients that change something need `token`; if it is `None`,
    /// nobody may.
    pub(crate) async fn answer(&self, request: Request<RequestBody>, path: &str, token: Option<&AdminToken>) -> Answer {
        let all: Vec<_> = named(path).collect();
        if all.is_empty() {
            return error(StatusCode::NOT_FOUND, "there is nothing of this name");
        }
        let method = request.method().clone();
        let Some((_, endpoint, id)) =
            all.iter().find(|(methods, ..)| methods.split(", ").any(|known| known == method.as_str()))
        else {
            let methods = all.iter().map(|(methods, ..)| *methods).collect::<Vec<_>>().join(", ");
            let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &format!("only {methods} are answered"));
            answer.headers_mut().extend(HeaderValue::from_str(&methods).ok().map(|methods| (ALLOW, methods)));
            return answer;
        };
        let is_read = method == Method::GET || method == Method::HEAD;
        let allowed = if is_read { Ok(()) } else { may_change(request.headers(), token) };
        let answered = match (allowed, endpoint, id) {
            (Err(refused), ..) => Err(refused),
            (Ok(()), Endpoint::OfJob(answer), Some(id)) => answer(self, *id).await,
            (Ok(()), Endpoint::OfJob(_), None) => Err(no_such_job()),
            (Ok(()), Endpoint::Whole(answer), _) => answer(self, request).await,
        };
        let answer = answered.unwrap_or_else(|refused| refused);
        if method == Method::HEAD { without_body(answer) } else { answer }
    }

    /// Runs `work` on a thread for blocking work. A node that does not write the target reads the jobs first.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&JobStore) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, Refused> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || {
            if !store.is_writer() {
                store.reload()?;
            }
            work(&store)
        });
        match done.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(failure)) => Err(refusal(&failure)),
            Err(_died) => Err(error(StatusCode::INTERNAL_SERVER_ERROR, "a thread died")),
        }
    }

    pub(crate) async fn listed(&self) -> Result<Vec<Value>, Refused> {
        let jobs = self.with_store(|store| Ok(store.all())).await?;
        let now = seconds_now();
        Ok(jobs.iter().map(|job| job.json(now)).collect())
    }

    async fn list(&self) -> Result<Answer, Refused> {
        let jobs = self.listed().await?;
        Ok(private_json(StatusCode::OK, &json!({ "schema_version": JSON_VERSION, "jobs": jobs })))
    }

    async fn show(&self, id: u64) -> Result<Answer, Refused> {
        let job = self.with_store(move |store| Ok(store.get(id))).await?.ok_or_else(no_such_job)?;
        Ok(private_json(StatusCode::OK, &job.json(seconds_now())))
    }

    async fn submit(&self, request: Request<RequestBody>) -> Result<Answer, Refused> {
        let key = key_of(request.headers())?;
        let body = body_of(request).await?;
        // An area may take a while.
        let reading = tokio::task::spawn_blocking(move || JobSpec::read(&body)).await;
        let read = reading.map_err(|_died| error(StatusCode::INTERNAL_SERVER_ERROR, "a thread died"))?;
        let spec = read.map_err(|failure| match failure {
            JobSpecError::TooManyTiles => error(StatusCode::PAYLOAD_TOO_LARGE, &failure.to_string()),
            JobSpecError::Wrong(_) => error(StatusCode::BAD_REQUEST, &failure.to_string()),
        })?;
        self.needs_writer()?;
        let submitted = self.with_store(move |store| store.submit(spec, key)).await?;
        let status = if submitted.is_new { StatusCode::ACCEPTED } else { StatusCode::OK };
        let mut answer = private_json(status, &submitted.record.json(seconds_now()));
        if let Ok(location) = HeaderValue::from_str(&format!("{}/jobs/{}", self.base, submitted.record.id)) {
            answer.headers_mut().insert(LOCATION, location);
        }
        Ok(answer)
    }

    async fn cancel(&self, id: u64) -> Result<Answer, Refused> {
        self.needs_writer()?;
        let job = self.with_store(move |store| store.cancel(id)).await?.ok_or_else(no_such_job)?;
        Ok(private_json(StatusCode::OK, &job.json(seconds_now())))
    }

    async fn evict(&self, request: Request<RequestBody>) -> Result<Answer, Refused> {
        let body = body_of(request).await?;
        let wrong = |what: &str| error(StatusCode::BAD_REQUEST, what);
        let wanted: EvictRequest = serde_json::from_slice(&body).map_err(|failure| wrong(&failure.to_string()))?;
        if wanted.all != wanted.tiles.is_empty() {
            return Err(wrong("write either \"all\": true or \"tiles\""));
        }
        let tile = |text: &String| text.parse().map_err(|_no_tile| wrong(&format!("{text:?} is no tile: write z/x/y")));
        let tiles: Vec<TileCoord> = wanted.tiles.iter().map(tile).collect::<Result<_, _>>()?;
        if wanted.all {
            self.tiles.evict_all();
        } else {
            self.tiles.evict(&tiles).await;
        }
        let evicted = if wanted.all { json!("all") } else { tiles.len().into() };
        Ok(private_json(StatusCode::OK, &json!({ "evicted": evicted })))
    }

    /// A job as server-sent events, from now until it has ended.
    async fn follow(&self, id: u64) -> Result<Answer, Refused> {
        self.with_store(move |store| Ok(store.get(id))).await?.ok_or_else(no_such_job)?;
        let Ok(permit) = Arc::clone(&self.followers).try_acquire_owned() else {
            return Err(retry_later(StatusCode::SERVICE_UNAVAILABLE, "too many clients follow jobs"));
        };
        let (send, events) = mpsc::channel(8);
        tokio::spawn(self.clone().tell(id, send, permit));
        Ok(private_events(events))
    }

    /// Sends a job at each change, until it has ended, the client is gone or the server ends.
    async fn tell(self, id: u64, events: mpsc::Sender<Bytes>, _permit: OwnedSemaphorePermit) {
        let (mut changes, mut last) = (self.store.changes(), String::new());
        loop {
            let Ok(Some(job)) = self.with_store(move |store| Ok(store.get(id))).await else { return };
            let state = job.json(seconds_now()).to_string();
            // If nothing has changed, a comment is sent, so that a disconnected client is noticed.
            let event = if state == last { ":\n\n".to_owned() } else { format!("event: job\ndata: {state}\n\n") };
            last = state;
            if events.send(event.into()).await.is_err() || job.state.is_final() || self.draining.load(Ordering::Relaxed)
            {
                return;
            }
            // The job is read again after a notification, and also after the timeout.
            drop(tokio::time::timeout(FOLLOW_POLL, changes.changed()).await);
        }
    }

    fn needs_writer(&self) -> Result<(), Refused> {
        if self.store.is_writer() {
            return Ok(());
        }
        Err(error(StatusCode::CONFLICT, "this server does not write the target: submit the job to the one that does"))
    }
}

/// Checks that a request may change something.
fn may_change(headers: &HeaderMap, token: Option<&AdminToken>) -> Result<(), Refused> {
    // Browsers name the site that sent a request; other programs send neither header.
    let is_from_elsewhere = headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "none" && site != "same-origin");
    if is_from_elsewhere || headers.contains_key(http::header::ORIGIN) {
        return Err(error(StatusCode::FORBIDDEN, "requests of pages are refused"));
    }
    let Some(token) = token else {
        return Err(error(StatusCode::FORBIDDEN, "the server has no token for jobs: set serve.token_file"));
    };
    if token.is_in(headers) {
        return Ok(());
    }
    let mut answer = error(StatusCode::UNAUTHORIZED, "this needs the token: Authorization: Bearer …");
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(answer)
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = key.to_str().ok().filter(|text| (1..=MAX_KEY_BYTES).contains(&text.len()));
    let text =
        text.ok_or_else(|| error(StatusCode::BAD_REQUEST, "the Idempotency-Key needs 1 to 128 ASCII characters"))?;
    Ok(Some(text.to_owned()))
}

/// The body of a request, which must be JSON.
async fn body_of(request: Request<RequestBody>) -> Result<Bytes, Refused> {
    if media_type_of(request.headers()) != JSON_TYPE {
        return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json"));
    }
    let body = received(request.into_body(), MAX_BODY_BYTES, BODY_TIME).await;
    body.map_err(|BodyRefusal { status, what }| error(status, &what))
}

fn refusal(failure: &JobError) -> Refused {
    match failure {
        JobError::TooManyJobs | JobError::TooManyKeys => {
            retry_later(StatusCode::TOO_MANY_REQUESTS, &failure.to_string())
        }
        JobError::OtherWithKey => error(StatusCode::UNPROCESSABLE_ENTITY, &failure.to_string()),
        JobError::Ended => error(StatusCode::CONFLICT, &failure.to_string()),
        JobError::Note(cause) => {
            tracing::warn!("jobs cannot be kept with the target: {}", with_causes(cause));
            retry_later(StatusCode::SERVICE_UNAVAILABLE, "jobs cannot be kept with the target at the moment")
        }
    }
}

fn description() -> Answer {
    private(StatusCode::OK, JSON_TYPE, format!("{OPENAPI}\n"))
}

fn no_such_job() -> Refused {
    error(StatusCode::NOT_FOUND, "there is no such job")
}

fn retry_later(status: StatusCode, what: &str) -> Answer {
    let mut answer = error(status, what);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into());
    answer
}

fn error(status: StatusCode, what: &str) -> Answer {
    private_json(status, &json!({ "error": what }))
}
