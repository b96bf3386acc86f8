//! The public listener: tiles, TileJSON (`tilejson`), and the preview if it was asked for. `freshness` has the headers that tell caches how
//! long they may keep a tile, `settings` what may change while the server runs.

pub(crate) mod changes;
pub(crate) mod freshness;
mod settings;
mod tags;
mod tilejson;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};

use crate::serve::http::accept::Answers;
use crate::serve::http::answer::{self, Answer, CACHE_STATUS, Content, Freshness, TILE_TYPE};
use crate::serve::http::negotiate::{Encoding, holds};
use crate::serve::http::peers::{AddressRange, Peer, client};
use crate::serve::http::route::{MAX_PATH_BYTES, NoRoute, Route, route};
use crate::serve::live::LiveError;
use crate::serve::observe::access_log::{AccessLine, AccessLog};
use crate::serve::observe::metrics::{Metrics, RouteLabel, SourceLabel};
use crate::serve::public::changes::ChangeEvents;
use crate::serve::public::tags::add_tile_headers;
use crate::serve::public::tilejson::tilejson;
use crate::serve::queue::WorkQueue;
use crate::serve::shared::SharedCache;
use crate::serve::target::state::ServedState;
use crate::serve::tiles::origin::{TileError, TileOrigin};
use crate::serve::tiles::served::ServedTiles;
use crate::serve::writer::WriterDesk;
use crate::tile::TileId;

pub(crate) use settings::SiteSettings;

/// The state of the public listener, which all its requests share.
pub(crate) struct Site {
    /// The tiles.
    pub(crate) tiles: ServedTiles,
    /// Who is told which tiles change; `None` if nobody is.
    pub(crate) changes: Option<ChangeEvents>,
    /// What the writer of this process tells; `None` if it has none.
    pub(crate) writer: Option<WriterDesk>,
    /// Redis; `None` if none is used.
    pub(crate) shared: Option<SharedCache>,
    /// The path under which the server answers: empty, or with a slash at its start and none at its end.
    pub(crate) base_path: String,
    /// The settings that may change while the server runs.
    pub(crate) settings: RwLock<Arc<SiteSettings>>,
    /// How long caches may keep a document.
    pub(crate) document_freshness: Freshness,
    /// The workers, and the work that waits for them.
    pub(crate) queue: WorkQueue,
    /// The counters.
    pub(crate) metrics: Arc<Metrics>,
    /// The access log; the settings say if requests are logged.
    pub(crate) access_log: AccessLog,
}

/// The public listener.
#[derive(Clone)]
pub(crate) struct Public(pub(crate) Arc<Site>);

/// An answer, and the labels under which it is counted.
struct Counted {
    answer: Answer,
    route: RouteLabel,
    source: SourceLabel,
}

impl Counted {
    const fn own(answer: Answer, route: RouteLabel) -> Counted {
        Counted { answer, route, source: SourceLabel::None }
    }
}

impl Answers for Public {
    async fn answer(self, request: Request<Incoming>) -> Answer {
        let begun = Instant::now();
        let settings = self.0.settings();
        let Counted { mut answer, route, source } = self.0.counted(&request, &settings).await;
        let took = begun.elapsed();
        self.0.metrics.answered(route, source, answer.status().as_u16(), took);
        if settings.server_timing {
            answer::add_timing(&mut answer, source.name(), took);
        }
        if let Some(style) = settings.access_log {
            self.0.access_log.write(&line(&request, &answer, source, took, &settings.trusted_proxies), style);
        }
        if request.method() == http::Method::HEAD { answer::without_body(answer) } else { answer }
    }
}

impl Site {
    /// The present settings.
    pub(crate) fn settings(&self) -> Arc<SiteSettings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the settings; the next request uses the new ones.
    pub(crate) fn replace_settings(&self, settings: SiteSettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    async fn counted(&self, request: &Request<Incoming>, settings: &SiteSettings) -> Counted {
        if let Some(answer) = answer::of_method(request.method()) {
            return Counted::own(answer, RouteLabel::Other);
        }
        let path = request.uri().path();
        if path.len() > MAX_PATH_BYTES {
            return Counted::own(answer::error(StatusCode::URI_TOO_LONG, "the path is too long"), RouteLabel::Other);
        }
        let looked = self.tiles.look();
        let state = match self.tiles.state().await {
            Ok(state) => state,
            Err(error) => return Counted::own(no_tile(&error), RouteLabel::Other),
        };
        let Some(path) = path.strip_prefix(&*self.base_path) else {
            return Counted::own(unknown(), RouteLabel::Other);
        };
        match route(path, &state.template, settings.preview.is_some()) {
            Ok(Route::Tile(tile)) => {
                let mut counted = self.tile(&state, tile, request.headers(), settings).await;
                let is_stored =
                    matches!(counted.source, SourceLabel::Memory | SourceLabel::Target | SourceLabel::Empty);
                if is_stored && looked.elapsed() > settings.settle {
                    // The target may have changed since, and a CDN may have been purged: it would keep this answer for long.
                    answer::forbid_keeping(&mut counted.answer);
                }
                counted
            }
            Ok(Route::TileJson(name)) => {
                Counted::own(self.tilejson(&state, &name, request.headers(), settings), RouteLabel::Tilejson)
            }
            Ok(Route::Changes) => {
                let events = self.changes.as_ref().map_or_else(unknown, |changes| subscribed(changes, &state));
                Counted::own(events, RouteLabel::Changes)
            }
            Ok(Route::Page) => {
                let page = settings.preview.as_ref().map_or_else(unknown, |preview| preview.page(&settings.public_url));
                Counted::own(page, RouteLabel::Preview)
            }
            Ok(Route::Asset(name)) => {
                let asset = settings.preview.as_ref().map_or_else(unknown, |preview| preview.asset(&name));
                Counted::own(asset, RouteLabel::Preview)
            }
            Err(NoRoute::NotCanonical) => {
                let what = "no such tile: zoom, column and row are whole numbers without sign or leading zeros, and column and row are below 2^zoom";
                Counted::own(answer::error(StatusCode::BAD_REQUEST, what), RouteLabel::Tile)
            }
            Err(NoRoute::Unknown) => Counted::own(unknown(), RouteLabel::Other),
        }
    }

    async fn tile(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        headers: &HeaderMap,
        settings: &SiteSettings,
    ) -> Counted {
        let (read, origin) = self.tiles.tile(state, tile, Encoding::for_client(headers)).await;
        let freshness = match origin {
            TileOrigin::Stale(_) => settings.tile_freshness.stale_at(tile.coord.zoom()),
            TileOrigin::Ancestor => &Freshness::none(),
            _ => settings.tile_freshness.at(tile.coord.zoom()),
        };
        let source = match origin {
            TileOrigin::Stale(_) => SourceLabel::Stale,
            TileOrigin::Ancestor => SourceLabel::Ancestor,
            TileOrigin::Shared => SourceLabel::Redis,
            TileOrigin::Ahead => {
                self.metrics.hit_ahead();
                SourceLabel::Memory
            }
            TileOrigin::Memory => SourceLabel::Memory,
            TileOrigin::Target => SourceLabel::Target,
            TileOrigin::Empty => SourceLabel::Empty,
            TileOrigin::Live => SourceLabel::Live,
            TileOrigin::Collapsed => SourceLabel::Collapsed,
        };
        let mut answer = match read {
            Err(error) => {
                let source = if origin == TileOrigin::Empty { SourceLabel::None } else { source };
                return Counted { answer: no_tile(&error), route: RouteLabel::Tile, source };
            }
            Ok(None) => answer::empty(settings.empty_status.status(), freshness),
            Ok(Some(found)) if origin == TileOrigin::Ancestor => {
                answer::placeholder(found.body, TILE_TYPE, found.encoding)
            }
            Ok(Some(found)) if holds(headers, &found.tag) => answer::not_modified(&found.tag, freshness),
            Ok(Some(found)) => {
                let content =
                    Content { body: found.body, media_type: TILE_TYPE, encoding: found.encoding, tag: &found.tag };
                answer::content(content, freshness)
            }
        };
        let status = match origin {
            TileOrigin::Memory | TileOrigin::Ahead | TileOrigin::Empty => HeaderValue::from_static("oar-tiles; hit"),
            TileOrigin::Target | TileOrigin::Live => HeaderValue::from_static("oar-tiles; fwd=uri-miss; stored"),
            TileOrigin::Collapsed => HeaderValue::from_static("oar-tiles; fwd=uri-miss; stored; collapsed"),
            // A negative time to live is how long the tile has been stale (RFC 9211, section 2.4).
            TileOrigin::Stale(age) => HeaderValue::from_str(&format!("oar-tiles; hit; ttl=-{}", age.as_secs().max(1)))
                .unwrap_or_else(|_| HeaderValue::from_static("oar-tiles; hit")),
            TileOrigin::Shared => HeaderValue::from_static("oar-tiles; hit; detail=redis"),
            TileOrigin::Ancestor => HeaderValue::from_static("oar-tiles; fwd=uri-miss; detail=ancestor"),
        };
        add_tile_headers(answer.headers_mut(), &settings.tile_headers, tile);
        answer.headers_mut().insert(CACHE_STATUS, status);
        Counted { answer, route: RouteLabel::Tile, source }
    }

    fn tilejson(&self, state: &ServedState, name: &str, headers: &HeaderMap, settings: &SiteSettings) -> Answer {
        let Some(document) = tilejson(state, name, &settings.public_url, self.tiles.live_layers()) else {
            return unknown();
        };
        let body = Bytes::from(document.to_string());
        let hash: String = Sha256::digest(&body).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let tag = format!("\"{hash}\"");
        if holds(headers, &tag) {
            return answer::not_modified(&tag, &self.document_freshness);
        }
        let content = Content { body, media_type: "application/json", encoding: Encoding::Identity, tag: &tag };
        answer::content(content, &self.document_freshness)
    }
}

/// How long a client may wait before it tries again to subscribe.
const RETRY_SUBSCRIBING: Duration = Duration::from_secs(10);

fn subscribed(changes: &ChangeEvents, state: &ServedState) -> Answer {
    match changes.subscribe(state) {
        Some(events) => answer::events(events),
        None => answer::unavailable("too many clients wait for changes", RETRY_SUBSCRIBING),
    }
}

/// The line of the access log for an answered request.
fn line<'a>(
    request: &'a Request<Incoming>,
    answer: &Answer,
    source: SourceLabel,
    took: Duration,
    trusted_proxies: &[AddressRange],
) -> AccessLine<'a> {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0);
    let protocol = match request.version() {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
    AccessLine {
        client: client(peer, request.headers(), trusted_proxies),
        method: request.method().as_str(),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()),
        protocol,
        status: answer.status().as_u16(),
        bytes: if request.method() == http::Method::HEAD { 0 } else { answer::body_bytes(answer) },
        took,
        source: source.name(),
    }
}

fn unknown() -> Answer {
    answer::error(StatusCode::NOT_FOUND, "there is nothing of this name")
}

/// The answer if there is no tile to send. It tells the client no path, no host and nothing about the database; the log has the details.
fn no_tile(error: &TileError) -> Answer {
    let what = match error {
        TileError::Beyond => return answer::error(StatusCode::NOT_FOUND, "the tileset has no tile there"),
        TileError::Unrendered => "this tile could not be rendered yet",
        TileError::Live(LiveError::Overloaded { .. }) => "too many tiles wait to be rendered",
        TileError::Live(_) => "this tile cannot be rendered at the moment",
        TileError::Read(_) | TileError::Died(_) => "the tiles cannot be read at the moment",
        TileError::Broken(_) => {
            tracing::warn!("{error}");
            "this tile cannot be read"
        }
    };
    answer::unavailable(what, error.retry_after())
}
