//! The public listener: tiles, TileJSON, and the preview if it was asked for.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};

use super::http::accept::Answers;
use super::http::answer::{self, Answer, CACHE_STATUS, Content, Freshness, TILE_TYPE};
use super::http::negotiate::{Encoding, holds};
use super::http::route::{MAX_PATH_BYTES, NoRoute, Route, is_in, route};
use super::metrics::{Metrics, RouteLabel, SourceLabel};
use super::options::EmptyStatus;
use super::preview::PreviewPage;
use super::tilejson::tilejson;
use super::tiles::{ServedTiles, TileError, TileOrigin};
use super::tileset::ServedState;
use crate::tile::TileId;

/// What the public listener answers with.
pub(crate) struct Site {
    /// The tiles.
    pub(crate) tiles: ServedTiles,
    /// Where clients find the server, ending with a slash.
    pub(crate) public_url: String,
    /// How long caches may keep a tile.
    pub(crate) tile_freshness: Freshness,
    /// How long caches may keep a document.
    pub(crate) document_freshness: Freshness,
    /// The status of a tile in which nothing is drawn.
    pub(crate) empty_status: EmptyStatus,
    /// The page with the map.
    pub(crate) preview: Option<PreviewPage>,
    /// What is counted.
    pub(crate) metrics: Metrics,
}

/// The public listener.
#[derive(Clone)]
pub(crate) struct Public(pub(crate) Arc<Site>);

/// An answer, and what is counted of it.
struct Counted {
    answer: Answer,
    route: RouteLabel,
    source: SourceLabel,
}

impl Counted {
    const fn own(answer: Answer, route: RouteLabel) -> Counted {
        Counted { answer, route, source: SourceLabel::Own }
    }
}

impl Answers for Public {
    async fn answer(self, request: Request<Incoming>) -> Answer {
        let begun = Instant::now();
        let Counted { answer, route, source } = self.0.counted(&request).await;
        self.0.metrics.answered(route, source, answer.status().as_u16(), begun.elapsed());
        if request.method() == http::Method::HEAD { answer::without_body(answer) } else { answer }
    }
}

impl Site {
    async fn counted(&self, request: &Request<Incoming>) -> Counted {
        if let Some(answer) = answer::of_method(request.method()) {
            return Counted::own(answer, RouteLabel::Other);
        }
        let path = request.uri().path();
        if path.len() > MAX_PATH_BYTES {
            return Counted::own(answer::error(StatusCode::URI_TOO_LONG, "the path is too long"), RouteLabel::Other);
        }
        let state = match self.tiles.state().await {
            Ok(state) => state,
            Err(error) => return Counted::own(unreadable(&error), RouteLabel::Other),
        };
        match route(path, &state.template, self.preview.is_some()) {
            Ok(Route::Tile(tile)) => self.tile(&state, tile, request.headers()).await,
            Ok(Route::TileJson(name)) => {
                Counted::own(self.tilejson(&state, &name, request.headers()), RouteLabel::Tilejson)
            }
            Ok(Route::Page) => {
                let page = self.preview.as_ref().map_or_else(unknown, |preview| preview.page(&self.public_url));
                Counted::own(page, RouteLabel::Preview)
            }
            Ok(Route::Asset(name)) => {
                let asset = self.preview.as_ref().map_or_else(unknown, |preview| preview.asset(&name));
                Counted::own(asset, RouteLabel::Preview)
            }
            Err(NoRoute::NotCanonical) => {
                let what = "no such tile: zoom, column and row are whole numbers without sign or leading zeros, and column and row are below 2^zoom";
                Counted::own(answer::error(StatusCode::BAD_REQUEST, what), RouteLabel::Tile)
            }
            Err(NoRoute::Unknown) => Counted::own(unknown(), RouteLabel::Other),
        }
    }

    async fn tile(&self, state: &Arc<ServedState>, tile: TileId, headers: &HeaderMap) -> Counted {
        let (read, origin) = self.tiles.tile(state, tile, Encoding::for_client(headers)).await;
        let source = match origin {
            TileOrigin::Memory => SourceLabel::Memory,
            TileOrigin::Target => SourceLabel::Target,
        };
        let mut answer = match read {
            Err(error) => unreadable(&error),
            Ok(None) => self.absent(state, tile),
            Ok(Some(found)) if holds(headers, &found.tag) => answer::not_modified(&found.tag, &self.tile_freshness),
            Ok(Some(found)) => {
                let content =
                    Content { body: found.body, media_type: TILE_TYPE, encoding: found.encoding, tag: &found.tag };
                answer::content(content, &self.tile_freshness)
            }
        };
        let status = match origin {
            TileOrigin::Memory => "oar-tiles; hit",
            TileOrigin::Target => "oar-tiles; fwd=uri-miss; stored",
        };
        answer.headers_mut().insert(CACHE_STATUS, http::HeaderValue::from_static(status));
        Counted { answer, route: RouteLabel::Tile, source }
    }

    /// The answer for a tile that the target does not hold: empty inside its scope, unknown outside.
    fn absent(&self, state: &ServedState, tile: TileId) -> Answer {
        if state.is_unrendered(tile.coord) {
            return answer::error(StatusCode::SERVICE_UNAVAILABLE, "this tile could not be rendered yet");
        }
        if !is_in(state.described.zooms, tile.coord.zoom()) || !state.covers(tile.coord) {
            return answer::error(StatusCode::NOT_FOUND, "the tileset has no tile there");
        }
        answer::empty(self.empty_status.status(), &self.tile_freshness)
    }

    fn tilejson(&self, state: &ServedState, name: &str, headers: &HeaderMap) -> Answer {
        let Some(document) = tilejson(state, name, &self.public_url) else { return unknown() };
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

fn unknown() -> Answer {
    answer::error(StatusCode::NOT_FOUND, "there is nothing of this name")
}

/// The answer when the target cannot be read. The client hears no path and no host; the log does.
fn unreadable(error: &TileError) -> Answer {
    tracing::warn!("a request could not be answered: {error}");
    answer::error(StatusCode::SERVICE_UNAVAILABLE, "the tiles cannot be read at the moment")
}
