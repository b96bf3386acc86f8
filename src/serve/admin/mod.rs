//! The admin listener: health, metrics and status, for supervisors and not for the public.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::serve::http::accept::Answers;
use crate::serve::http::answer::{Answer, without_body};
use crate::serve::http::body::AnswerBody;
use crate::serve::jobs::JobRoutes;
use crate::serve::observe::metrics::Measured;
use crate::serve::public::Site;
use crate::serve::public::changes::ChangeEvents;
use crate::serve::queue::{ClassCounts, WorkClass};
use crate::serve::shared::SharedCache;
use crate::serve::target::stored::StoredTiles;
use crate::serve::writer::WriterDesk;

/// The admin listener.
#[derive(Clone)]
pub(crate) struct Admin {
    /// The state of the public listener.
    pub(crate) site: Arc<Site>,
    /// True if the server was asked to end.
    pub(crate) draining: Arc<AtomicBool>,
    /// The jobs of the target.
    pub(crate) jobs: JobRoutes,
}

impl Answers for Admin {
    async fn answer(self, request: Request<Incoming>) -> Answer {
        if JobRoutes::knows(request.uri().path()) {
            let settings = self.site.settings();
            return self.jobs.answer(request, settings.token.as_ref()).await;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD are answered\n".to_owned());
        }
        let answer = match request.uri().path() {
            "/livez" => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" => self.ready().await,
            "/metrics" => {
                let metrics = self.site.metrics.text(self.measured()) + &self.site.tiles.purge_metrics().await;
                text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics)
            }
            "/status.json" => text(StatusCode::OK, "application/json", self.status().await.to_string() + "\n"),
            _ => {
                let what = "there is /livez, /readyz, /metrics, /status.json, /jobs, /evict and /openapi.json\n";
                text(StatusCode::NOT_FOUND, "text/plain", what.to_owned())
            }
        };
        if request.method() == Method::HEAD { without_body(answer) } else { answer }
    }
}

impl Admin {
    /// The reasons for `/readyz` to answer 503: the server is about to end, the target cannot be read, or live tiles do not fit it. Empty
    /// if there are none.
    async fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("the server was asked to end".to_owned());
        }
        match self.site.tiles.state().await {
            Err(error) => reasons.push(error.to_string()),
            Ok(state) => {
                reasons.extend(self.site.tiles.trouble());
                reasons.extend(self.site.tiles.unfit(&state).map(|error| error.to_string()));
            }
        }
        reasons
    }

    async fn ready(&self) -> Answer {
        let reasons = self.reasons().await;
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({ "ready": reasons.is_empty(), "reasons": reasons });
        text(status, "application/json", body.to_string() + "\n")
    }

    async fn status(&self) -> serde_json::Value {
        let (reasons, state) = (self.reasons().await, self.site.tiles.last());
        let manifest = state.manifest.as_ref();
        json!({
            "schema_version": 1,
            "program": crate::sink::GENERATOR,
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "name": state.described.name,
            "zooms": manifest.map(|manifest| &manifest.zooms),
            "snapshot": manifest.map(|manifest| &manifest.snapshot),
            "snapshot_age_seconds": snapshot_age(manifest.map(|manifest| manifest.started)),
            "changes_noticed": state.generation - 1,
            "publication": state.publication().map(|publication| publication.number),
            "subscribers": self.site.changes.as_ref().map(ChangeEvents::count),
            "writer": self.site.writer.as_ref().map(WriterDesk::describe),
            "change_log": self.site.tiles.live_layers().map(|_| self.site.tiles.known().describe()),
            "redis": self.site.shared.as_ref().map(SharedCache::describe),
            "known_tiles": state.stored().map(StoredTiles::count),
            "cached_bytes": self.site.tiles.cached_bytes(),
            "live": self.site.tiles.live_counts().map(|counts| json!({
                "running": counts.running,
                "queued": counts.queued,
                "requests": counts.requests,
            })),
            "queue": self.queue(),
        })
    }

    /// The workers, and the tasks that run and wait.
    fn queue(&self) -> serde_json::Value {
        let (shares, counts) = (self.site.queue.shares(), self.site.queue.counts());
        let by_class = |counts: ClassCounts| -> serde_json::Map<String, serde_json::Value> {
            WorkClass::ALL.iter().map(|class| (class.name().to_owned(), counts.of(*class).into())).collect()
        };
        json!({
            "workers": shares.workers(),
            "live_reserved": shares.live_reserved(),
            "background_guaranteed": shares.background_guaranteed(),
            "running": by_class(counts.running),
            "waiting": by_class(counts.waiting),
        })
    }

    fn measured(&self) -> Measured {
        let tiles = &self.site.tiles;
        let state = tiles.last();
        Measured {
            cached_bytes: tiles.cached_bytes(),
            snapshot_age: snapshot_age(state.manifest.as_ref().map(|manifest| manifest.started)),
            known_tiles: state.stored().map(StoredTiles::count),
            queue: self.site.queue.counts(),
            sessions: tiles.sessions(),
            publication: state.publication().map(|publication| publication.number),
            lag: self.site.writer.as_ref().map(WriterDesk::lag_seconds),
        }
    }
}

/// The seconds that have passed since `started`, given in seconds since 1970.
fn snapshot_age(started: Option<u64>) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(started?))
}

fn text(status: StatusCode, media_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(AnswerBody::default());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, body.len().into());
    *answer.body_mut() = Bytes::from(body).into();
    answer
}
