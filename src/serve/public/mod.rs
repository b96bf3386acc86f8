//! The public listener: tiles, TileJSON, changes as events, and the preview if it is enabled.
//!
//! | file | what |
//! |---|---|
//! | `changes` | `GET /changes`: which tiles changed, as server-sent events (HTML Standard, section 9.2), so that a map can fetch them again |
//! | `endpoints` | what a tileset has beside its tiles: a row and a function for each |
//! | `filters` | `POST /filters`: filters that are too long for an address |
//! | `freshness` | how long caches may keep a tile, by its zoom |
//! | `tile` | answers to requests for tiles: where the tile comes from, how long caches may keep it, and the answer if there is none |
//! | `tilejson` | TileJSON 3.0.0 of the target, with the URLs of this server |

pub(crate) mod changes;
pub(crate) mod endpoints;
mod filters;
pub(crate) mod freshness;
mod tile;
pub(crate) mod tilejson;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use endpoints::AskedEndpoint;
pub(crate) use filters::FilterPosts;
use freshness::TileFreshness;
use http::{HeaderMap, Request, StatusCode};
use parking_lot::RwLock;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tile::{AskedQuery, WantedTile, no_tile};

use super::error::ServeError;
use super::http::address::{ClientKey, Peer, client};
use super::http::answer::{Answer, Content, Encoding, Freshness, RequestBody, holds};
use super::http::connection::{Answers, KnownHosts, malformed};
use super::http::origin::for_listed_origins;
use super::http::route::{COUNT, FILTERS, MAX_PATH_BYTES, NoRoute, VALUES, tile_of};
use super::http::unread::UnreadAnswers;
use super::jobs::AdminToken;
use super::live::{Counted, LayerCounts, LiveError};
use super::observe::access_log::{AccessLine, AccessLog};
use super::observe::metrics::{Metrics, RouteLabel, SourceLabel};
use super::options::{ServeOptions, TileHeaders};
use super::preview::{MapClient, PreviewPage};
use super::queue::WorkQueue;
use super::redis::RedisCache;
use super::signature::SigningKeys;
use super::target::state::ServedState;
use super::tiles::TileError;
use super::tiles::cache::TileCache;
use super::tiles::rendered::GatedParameters;
use super::tilesets::{NamedByPath, NamedVariant, SiteTileset, SiteTilesets};
use crate::hex::hex;
use crate::serve::http::answer;
use crate::serve::tilesets::catalogue;
use crate::serve::{preview, tilesets};
use crate::tile::{TileId, Zoom};

/// The state of the public listener, which all its requests share.
pub(crate) struct Site {
    pub(crate) tilesets: SiteTilesets,
    /// The cache in memory that the tilesets share.
    pub(crate) cache: TileCache,
    /// The answers that clients are slow to read.
    pub(crate) unread: UnreadAnswers,
    /// Redis; `None` if none is used.
    pub(crate) shared: Option<RedisCache>,
    /// True if only pages of this server may read its answers.
    pub(crate) is_private: bool,
    /// The names by which clients may ask.
    pub(crate) hosts: KnownHosts,
    /// The path under which the server answers: empty, or with a slash at its start and none at its end.
    pub(crate) base_path: String,
    /// The settings that may change while the server runs.
    pub(crate) settings: RwLock<Arc<SiteSettings>>,
    /// How long caches may keep a document.
    pub(crate) document_freshness: Freshness,
    pub(crate) posts: FilterPosts,
    /// The workers, and the work that waits for them.
    pub(crate) queue: WorkQueue,
    pub(crate) metrics: Metrics,
    /// The access log; the settings say if requests are logged.
    pub(crate) access_log: AccessLog,
}

#[derive(Clone)]
pub(crate) struct Public(pub(crate) Arc<Site>);

/// An answer, and the labels under which it is counted.
pub(crate) struct LabeledAnswer {
    answer: Answer,
    route: RouteLabel,
    source: SourceLabel,
    /// The tileset whose counters count it; `None` for the server's own.
    tileset: Option<Arc<SiteTileset>>,
}

impl LabeledAnswer {
    const fn own(answer: Answer, route: RouteLabel) -> LabeledAnswer {
        LabeledAnswer { answer, route, source: SourceLabel::None, tileset: None }
    }
}

impl Answers for Public {
    async fn answer(self, request: Request<RequestBody>) -> Answer {
        let begun = Instant::now();
        let settings = self.0.settings();
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0);
        let address = client(peer, request.headers(), &settings.options.trusted_proxies);
        let client = ClientKey::of(address);
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let LabeledAnswer { mut answer, route, source, tileset } =
            self.0.respond(&request, body, client, &settings).await;
        answer.body_mut().is_for(client);
        let took = begun.elapsed();
        let metrics = tileset.as_ref().map_or(&self.0.metrics, |tileset| &tileset.metrics);
        metrics.count_answer(route, source, answer.status().as_u16(), took);
        if let Some(listed) = &settings.options.allowed_origins {
            for_listed_origins(&mut answer, listed, request.headers());
        }
        if self.0.is_private {
            answer::for_own_pages(&mut answer);
        }
        if settings.options.section.server_timing {
            answer::add_timing(&mut answer, source.name(), took);
        }
        if let Some(style) = settings.options.section.access_log {
            self.0.access_log.write(&line(&request, address, &answer, source, took), style);
        }
        if request.method() == http::Method::HEAD { answer::without_body(answer) } else { answer }
    }
}

impl Site {
    pub(crate) fn settings(&self) -> Arc<SiteSettings> {
        Arc::clone(&self.settings.read())
    }

    /// Replaces the settings; the next request uses the new ones.
    pub(crate) fn replace_settings(&self, settings: SiteSettings) {
        *self.settings.write() = Arc::new(settings);
    }

    async fn respond(
        &self,
        request: &Request<()>,
        body: RequestBody,
        client: ClientKey,
        settings: &SiteSettings,
    ) -> LabeledAnswer {
        let takes_body = request.uri().path().strip_suffix(FILTERS).is_some_and(|path| path.ends_with('/'));
        if let Some(answer) = answer::of_method(request.method()).filter(|_| !takes_body) {
            return LabeledAnswer::own(answer, RouteLabel::Other);
        }
        if let Some(what) = malformed(request) {
            let refused = answer::closing(answer::error(StatusCode::BAD_REQUEST, what));
            return LabeledAnswer::own(refused, RouteLabel::Other);
        }
        if !self.hosts.knows(request) {
            let refused = answer::error(StatusCode::MISDIRECTED_REQUEST, KnownHosts::UNKNOWN);
            return LabeledAnswer::own(refused, RouteLabel::Other);
        }
        let path = request.uri().path();
        if path.len() > MAX_PATH_BYTES {
            return LabeledAnswer::own(
                answer::error(StatusCode::URI_TOO_LONG, "the path is too long"),
                RouteLabel::Other,
            );
        }
        let Some(path) = path.strip_prefix(&*self.base_path) else {
            return LabeledAnswer::own(unknown(), RouteLabel::Other);
        };
        let asked = ClientRequest { request, client };
        if takes_body {
            return self.respond_to_filter(path, body, asked, settings).await;
        }
        match self.tilesets.find(path, settings.options.template.as_ref()) {
            NamedByPath::Tileset { tileset, rest } => {
                let labeled = self.respond_for_tileset(&tileset, BelowTileset::Path(rest), asked, settings).await;
                LabeledAnswer { tileset: Some(tileset), ..labeled }
            }
            NamedByPath::Tile { tileset, tile: Some(tile) } => {
                let labeled = self.respond_for_tileset(&tileset, BelowTileset::Tile(tile), asked, settings).await;
                LabeledAnswer { tileset: Some(tileset), ..labeled }
            }
            NamedByPath::Tile { tile: None, .. } => LabeledAnswer::own(not_canonical(), RouteLabel::Tile),
            NamedByPath::Variant(named) => self.respond_for_variant(named, asked, settings).await,
            NamedByPath::Variants(family) => {
                let page = page_of(request.uri().query());
                let document = page.and_then(|page| tilesets::document(&family, &settings.public_url, page));
                let answer = match document.map(|document| serde_json::to_string(&document)) {
                    Some(Ok(text)) => self.document(text, request.headers()),
                    _ => unknown(),
                };
                LabeledAnswer::own(answer, RouteLabel::Tilejson)
            }
            NamedByPath::Catalogue => {
                LabeledAnswer::own(self.catalogue(request.headers(), settings), RouteLabel::Tilejson)
            }
            NamedByPath::Index if settings.preview.is_some() => {
                let page = catalogue::document(&self.tilesets, &settings.public_url, true).page();
                LabeledAnswer::own(preview::index(page), RouteLabel::Preview)
            }
            NamedByPath::WithoutSlash(tileset) if settings.preview.is_some() => {
                LabeledAnswer::own(answer::moved(&tileset.url(&settings.public_url)), RouteLabel::Preview)
            }
            _ => LabeledAnswer::own(unknown(), RouteLabel::Other),
        }
    }

    /// The answer to a request for something of a variant.
    async fn respond_for_variant(
        &self,
        named: NamedVariant<'_>,
        asked: ClientRequest<'_>,
        settings: &SiteSettings,
    ) -> LabeledAnswer {
        let NamedVariant { family, known, found, rest } = named;
        let variant = match family.variant(&known, found).await {
            Ok(variant) => variant,
            Err(_noted) => {
                let answer = answer::unavailable("this tileset cannot be read at the moment", Duration::from_secs(1));
                return LabeledAnswer::own(answer, RouteLabel::Other);
            }
        };
        let tileset = Arc::clone(&variant.tileset);
        let Some(rest) = rest else {
            let moved = answer::moved(&tileset.url(&settings.public_url));
            let answer = if settings.preview.is_some() { moved } else { unknown() };
            return LabeledAnswer::own(answer, RouteLabel::Preview);
        };
        let labeled = self.respond_for_tileset(&tileset, BelowTileset::Path(rest), asked, settings).await;
        LabeledAnswer { tileset: Some(tileset), ..labeled }
    }

    /// The answer to a request for something of a tileset.
    async fn respond_for_tileset(
        &self,
        tileset: &SiteTileset,
        named: BelowTileset<'_>,
        asked: ClientRequest<'_>,
        settings: &SiteSettings,
    ) -> LabeledAnswer {
        let ClientRequest { request, client } = asked;
        let looked = tileset.tiles.look();
        let state = match tileset.tiles.state().await {
            Ok(state) => state,
            Err(error) => return LabeledAnswer::own(no_tile(&error), RouteLabel::Other),
        };
        let tile = match named {
            BelowTileset::Tile(_) if state.template.layers_apart() => Err(NoRoute::Unknown),
            BelowTileset::Tile(tile) => Ok(tile),
            BelowTileset::Path(path) => {
                let Some(name) = path.strip_prefix('/') else {
                    return LabeledAnswer::own(unknown(), RouteLabel::Other);
                };
                let counted = match name {
                    COUNT => Some(Counted::Rows),
                    VALUES => Some(Counted::RowsAndValues),
                    _ => None,
                };
                if let Some(counted) = counted {
                    let answer = self.count(tileset, &state, counted, asked, settings).await;
                    return LabeledAnswer::own(answer, RouteLabel::Other);
                }
                if let Some(endpoint) = endpoints::named(name) {
                    if endpoint.label == RouteLabel::Preview && settings.preview.is_none() {
                        return LabeledAnswer::own(unknown(), RouteLabel::Other);
                    }
                    let asked = AskedEndpoint { site: self, tileset, state: &state, name, asked, settings };
                    return LabeledAnswer::own((endpoint.answer)(&asked), endpoint.label);
                }
                tile_of(name, &state.template)
            }
        };
        match tile {
            Ok(tile) => {
                if self.unread.refuses(client) {
                    return LabeledAnswer::own(no_tile(&TileError::TooMuchUnread(client)), RouteLabel::Tile);
                }
                let undeclared = settings.options.section.undeclared_parameters;
                let query = AskedQuery::read(tileset, request.uri().query(), undeclared, settings);
                let own = format!("{}/{}{}", self.base_path, tileset.path, state.template.name(tile));
                let is_alias = request.uri().path() != own || request.uri().query().is_some();
                let wanted = query.and_then(|query| {
                    let (expires, is_pinned) = (query.allowed()?, query.is_pinned(&state)?);
                    let has_undeclared = query.has_undeclared;
                    let (given, state) = (query.meant(tileset)?, &state);
                    Ok(WantedTile { state, tile, given, is_alias, has_undeclared, is_pinned, looked, expires, client })
                });
                let wanted = match wanted {
                    Ok(wanted) => wanted,
                    Err(refused) => return LabeledAnswer::own(refused, RouteLabel::Tile),
                };
                let mut labeled = self.tile(tileset, wanted, request.headers(), settings).await;
                let is_stored =
                    matches!(labeled.source, SourceLabel::Memory | SourceLabel::Target | SourceLabel::Empty);
                if is_stored && looked.elapsed() > settings.options.settle {
                    // The target may have changed and a CDN may have been purged since the look: the CDN would keep
                    // this outdated answer for long.
                    answer::forbid_keeping(&mut labeled.answer);
                }
                labeled
            }
            Err(NoRoute::NotCanonical) => LabeledAnswer::own(not_canonical(), RouteLabel::Tile),
            Err(NoRoute::Unknown) => LabeledAnswer::own(unknown(), RouteLabel::Other),
        }
    }

    /// How many rows of each layer a request chooses, and where they lie.
    async fn count(
        &self,
        tileset: &SiteTileset,
        state: &Arc<ServedState>,
        counted: Counted,
        ClientRequest { request, client }: ClientRequest<'_>,
        settings: &SiteSettings,
    ) -> Answer {
        if self.unread.refuses(client) {
            return no_tile(&TileError::TooMuchUnread(client));
        }
        let undeclared = settings.options.section.undeclared_parameters;
        let query = AskedQuery::read(tileset, request.uri().query(), undeclared, settings);
        let (given, is_signed) = match query.and_then(|query| Ok((query.allowed()?, query.meant(tileset)?))) {
            Ok((expires, given)) => (given, expires.is_some()),
            Err(refused) => return refused,
        };
        // Nobody sees more than was signed.
        let counted = if is_signed && counted == Counted::RowsAndValues { Counted::RowsAndOwnValues } else { counted };
        let gated = given.as_ref().map(|given| GatedParameters { given, gate: &tileset.parameters.gate });
        match tileset.tiles.counted(state, gated, counted, client).await {
            None => unknown(),
            Some(Ok(rows)) => {
                let freshness = settings.tile_freshness.stale_at(Zoom::MIN);
                let mut answer = document_kept(counts_json(&rows, counted).to_string(), request.headers(), freshness);
                if is_signed {
                    // A cache could keep it beyond the end of its address.
                    answer::forbid_keeping(&mut answer);
                }
                answer
            }
            Some(Err(TileError::Live(error)))
                if !matches!(error, LiveError::Refused(_) | LiveError::Overloaded { .. }) =>
            {
                let retry_after = TileError::Live(error).retry_after();
                answer::unavailable("the rows cannot be counted at the moment", retry_after)
            }
            Some(Err(error)) => no_tile(&error),
        }
    }

    /// The list of the tilesets.
    fn catalogue(&self, headers: &HeaderMap, settings: &SiteSettings) -> Answer {
        let document = catalogue::document(&self.tilesets, &settings.public_url, settings.preview.is_some());
        match serde_json::to_string(&document) {
            Ok(text) => self.document(text, headers),
            // All keys are strings, so this does not happen.
            Err(_no_text) => unknown(),
        }
    }

    /// A JSON document, unless the client has it already.
    fn document(&self, text: String, headers: &HeaderMap) -> Answer {
        document_kept(text, headers, &self.document_freshness)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct ClientRequest<'a> {
    request: &'a Request<()>,
    client: ClientKey,
}

/// What a request wants of a tileset.
#[derive(Clone, Copy)]
enum BelowTileset<'a> {
    /// What has this path below the tileset; it is still percent-encoded.
    Path(&'a str),
    /// A tile, whose address does not stand below the tileset.
    Tile(TileId),
}

/// The number of the page that a query asks for, from 1 on; `None` if the query does not give such a number.
fn page_of(query: Option<&str>) -> Option<usize> {
    match query {
        None | Some("") => Some(1),
        Some(query) => query.strip_prefix("page=")?.parse().ok().filter(|page| *page > 0),
    }
}

/// The line of the access log for an answered request.
fn line<'a>(
    request: &'a Request<()>,
    client: Option<IpAddr>,
    answer: &Answer,
    source: SourceLabel,
    took: Duration,
) -> AccessLine<'a> {
    let protocol = match request.version() {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
    AccessLine {
        client,
        method: request.method().as_str(),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()),
        protocol,
        status: answer.status().as_u16(),
        bytes: if request.method() == http::Method::HEAD { 0 } else { answer::body_bytes(answer) },
        took,
        source: source.name(),
    }
}

/// A JSON document that caches may keep as long as `freshness` says.
fn document_kept(text: String, headers: &HeaderMap, freshness: &Freshness) -> Answer {
    let body = Bytes::from(text);
    let tag = format!("\"{}\"", hex(&Sha256::digest(&body)[..16]));
    if holds(headers, &tag) {
        return answer::not_modified(&tag, freshness);
    }
    let content = Content { body, media_type: answer::JSON_TYPE, encoding: Encoding::Identity, tag: &tag };
    answer::content(content, freshness)
}

/// The document that says how many rows each layer has, the box in which they lie, in degrees, and perhaps how many
/// have each value of a parameter.
fn counts_json(rows: &[LayerCounts], counted: Counted) -> Value {
    let of_layer = |rows: &LayerCounts| {
        let mut json = json!({ "count": rows.count, "bounds": rows.bounds.map(|bounds| bounds.sides()) });
        if counted != Counted::Rows {
            let values = rows.values.iter().map(|of| (of.parameter.clone(), json!(of.values)));
            json["values"] = Value::Object(values.collect());
        }
        (rows.layer.clone(), json)
    };
    json!({ "layers": rows.iter().map(of_layer).collect::<Map<String, Value>>() })
}

fn not_canonical() -> Answer {
    let what = "no such tile: zoom, column and row are whole numbers without sign or leading zeros, and column and row are below 2^zoom";
    answer::error(StatusCode::BAD_REQUEST, what)
}

/// The answer where nothing is posted.
fn not_allowed_here(asked: ClientRequest<'_>) -> Answer {
    answer::of_method(asked.request.method()).unwrap_or_else(unknown)
}

fn unknown() -> Answer {
    answer::error(StatusCode::NOT_FOUND, "there is nothing of this name")
}

// The settings of the public listener that may change while the server runs.

/// The further headers of a tileset's tiles.
#[derive(Debug, Clone)]
pub struct TilesetHeaders {
    pub tileset: Arc<str>,
    pub headers: TileHeaders,
}

/// The settings that are read again at SIGHUP.
#[derive(Debug, Clone)]
pub(crate) struct SiteSettings {
    pub(crate) options: ServeOptions,
    /// How long caches may keep a tile, by its zoom.
    pub(crate) tile_freshness: TileFreshness,
    tile_headers: Vec<TilesetHeaders>,
    /// The URL under which clients find the server; ends with a slash.
    pub(crate) public_url: String,
    /// The page with the map, if there is one.
    pub(crate) preview: Option<Arc<PreviewPage>>,
    /// The token that clients of the admin listener need to change something; `None` if nobody may.
    pub(crate) token: Option<AdminToken>,
    /// The keys with which tiles, their TileJSON and their changes have to be asked for; `None` if everybody may.
    pub(crate) keys: Option<SigningKeys>,
}

impl SiteSettings {
    /// The part of a server's options that may change. `own_url` is the address of the public listener as a URL without
    /// a path; `None` if clients cannot name it.
    /// Fails if a value cannot be sent as a header, no URL for clients is known, or the token, the keys of signed
    /// addresses or the files of the map cannot be read.
    pub(crate) fn new(
        options: &ServeOptions,
        tile_headers: Vec<TilesetHeaders>,
        own_url: Option<&str>,
    ) -> Result<SiteSettings, ServeError> {
        let section = &options.section;
        let public_url = match (&options.public_url, own_url) {
            (Some(url), _) => format!("{}/", url.trim_end_matches('/')),
            (None, Some(own)) => format!("{own}{}/", options.base_path),
            (None, None) => return Err(ServeError::NoPublicUrl { address: options.listen.clone() }),
        };
        let preview = if section.preview {
            let client = MapClient::of(section.assets.clone())?;
            Some(Arc::new(PreviewPage { client, has_changes: section.changes, basemap: section.basemap.clone() }))
        } else {
            None
        };
        Ok(SiteSettings {
            tile_freshness: TileFreshness::new(options)?,
            tile_headers,
            public_url,
            preview,
            options: options.clone(),
            token: AdminToken::find(section.token_file.as_deref())?,
            keys: section.signing_keys_file.as_deref().map(SigningKeys::of_file).transpose()?,
        })
    }

    /// The further headers of a tileset's tiles.
    pub(crate) fn headers_of(&self, tileset: &str) -> Option<&TileHeaders> {
        self.tile_headers.iter().find(|of| *of.tileset == *tileset).map(|of| &of.headers)
    }
}
