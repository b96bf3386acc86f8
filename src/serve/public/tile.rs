//! Answers to requests for tiles: where the tile comes from, how long caches may keep it, and the answer if there is
//! none.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::{LabeledAnswer, Site, SiteSettings};
use crate::clock::seconds_now;
use crate::cursor::Cursor;
use crate::serve::http::address::ClientKey;
use crate::serve::http::answer;
use crate::serve::http::answer::{Answer, CACHE_STATUS, Content, Encoding, Freshness, holds};
use crate::serve::http::unread::AnswerMemory;
use crate::serve::known_changes::LogAge;
use crate::serve::live::{LaterChanges, LiveError};
use crate::serve::observe::metrics::{RouteLabel, SourceLabel};
use crate::serve::options::TileHeader;
use crate::serve::parameters::{
    BadQuery, GivenParameters, POSTED_NAME, PUBLICATION_NAME, ParametersKey, PostedQuery, PublicationName, TooManyKeys,
    UndeclaredNames, given,
};
use crate::serve::signature::{SignedContent, SignedQuery, SigningKeys};
use crate::serve::target::state::ServedState;
use crate::serve::tiles::rendered::GatedParameters;
use crate::serve::tiles::{AskedBy, TileError, TileOrigin};
use crate::serve::tilesets::{SiteParameters, SiteTileset, TilesetHeadersOf};
use crate::tile::{TileId, TileTextNames};

/// The `Retry-After` of a client that has left too many answers unread.
const RETRY_READING: Duration = Duration::from_secs(5);

const BESIDE_POSTED: &str = "filter stands alone: post all values together";

/// The `Retry-After` of a request for a publication that the server does not show yet.
const RETRY_PUBLICATION: Duration = Duration::from_secs(1);

const UNKNOWN_PUBLICATION: &str = "this server does not show that publication yet";

const UNKNOWN_POSTED: &str = "this server does not have the filter, or not any more: post it again";

pub(crate) struct WantedTile<'a> {
    pub(crate) state: &'a Arc<ServedState>,
    pub(crate) tile: TileId,
    /// The values that the request gives.
    pub(crate) given: Option<Arc<GivenParameters>>,
    /// True if the request names the tile by another address than TileJSON and purges do: other escapes, another
    /// ending, or a query.
    pub(crate) is_alias: bool,
    /// True if the query has names that mean nothing: anybody can make up as many addresses as he likes.
    pub(crate) has_undeclared: bool,
    /// True if the request names the publication that the target shows.
    pub(crate) is_pinned: bool,
    /// The time of the last look at the target before `state` was taken.
    pub(crate) looked: Instant,
    /// When a signed address ends, in seconds since 1970; no cache may keep the answer longer.
    pub(crate) expires: Option<u64>,
    pub(crate) client: ClientKey,
}

/// What the query of a request for something of a tileset says.
pub(crate) struct AskedQuery<'a> {
    /// The values that it gives for parameters.
    given: Option<Arc<GivenParameters>>,
    /// The posted filter that it names.
    posted: Option<ParametersKey>,
    /// The publication that it names.
    publication: Option<PublicationName>,
    /// True if it has names that are not declared.
    pub(crate) has_undeclared: bool,
    /// The parameters, given or posted, in canonical form, for a signature; empty if there are none.
    filter: String,
    /// The tileset's name, for a signature.
    tileset: Cow<'a, str>,
    signature: SignedQuery<'a>,
    keys: Option<&'a SigningKeys>,
}

impl<'a> AskedQuery<'a> {
    /// Reads a query.
    /// Fails with the answer that says what is wrong with a value, or that a name is not declared.
    pub(crate) fn read(
        tileset: &'a SiteTileset,
        query: Option<&'a str>,
        undeclared: UndeclaredNames,
        settings: &'a SiteSettings,
    ) -> Result<AskedQuery<'a>, Answer> {
        let keys = settings.keys.as_ref();
        let signature = if keys.is_some() { SignedQuery::of(query) } else { SignedQuery::unsigned(query) };
        let bad = |error: BadQuery| answer::error(StatusCode::BAD_REQUEST, &error.to_string());
        let SiteParameters { declared, posted: all_posted, .. } = &tileset.parameters;
        let PostedQuery { rest, id, publication } = match signature.rest.clone() {
            rest if declared.0.is_empty() => PostedQuery { rest, ..PostedQuery::default() },
            rest => PostedQuery::of(rest).map_err(bad)?,
        };
        let (filter, tileset_name) = (String::new(), "".into());
        let mut query = AskedQuery {
            given: None,
            posted: id,
            publication,
            has_undeclared: false,
            filter,
            tileset: tileset_name,
            signature,
            keys,
        };
        let read = given(declared, rest.as_deref(), undeclared).map_err(bad)?;
        query.has_undeclared = read.has_undeclared;
        query.given = match (id, read.given) {
            (None, given) => given.map(Arc::new),
            (Some(_), Some(_)) => return Err(answer::error(StatusCode::BAD_REQUEST, BESIDE_POSTED)),
            (Some(id), None) => {
                let known = all_posted.get(&tileset.name, id);
                Some(known.ok_or_else(|| answer::error(StatusCode::NOT_FOUND, UNKNOWN_POSTED))?)
            }
        };
        // Without keys nobody asks for these, which take time to make.
        if keys.is_some() {
            query.filter = query.canonical().unwrap_or_default();
            query.tileset = tileset.signed_name();
        }
        Ok(query)
    }

    /// Whether the request names the publication that the target shows.
    /// Fails with the answer that this server does not show it yet.
    pub(crate) fn is_pinned(&self, state: &ServedState) -> Result<bool, Answer> {
        let (Some(wanted), Some(shown)) = (&self.publication, state.publication()) else { return Ok(false) };
        if wanted.number > shown.number {
            return Err(answer::unavailable(UNKNOWN_PUBLICATION, RETRY_PUBLICATION));
        }
        Ok(PublicationName::of(shown).as_ref() == Some(wanted))
    }

    /// The publication that the request names, as a part of a query.
    pub(crate) fn publication(&self) -> Option<String> {
        self.publication.as_ref().map(|name| format!("{PUBLICATION_NAME}={name}"))
    }

    /// The query for these values in canonical form; `None` without values.
    pub(crate) fn canonical(&self) -> Option<String> {
        match self.posted {
            Some(id) => Some(format!("{POSTED_NAME}={}", id.id())),
            None => self.given.as_deref().map(GivenParameters::query),
        }
    }

    fn content(&self) -> SignedContent<'_> {
        SignedContent { tileset: &self.tileset, filter: &self.filter }
    }

    /// When the right to ask so ends, in seconds since 1970; `None` if nobody needs one.
    /// Fails with the answer that refuses the request.
    pub(crate) fn allowed(&self) -> Result<Option<u64>, Answer> {
        let Some(keys) = self.keys else { return Ok(None) };
        let checked = keys.check(self.content(), &self.signature, seconds_now());
        checked.map(Some).map_err(|refusal| answer::error(StatusCode::FORBIDDEN, &refusal.to_string()))
    }

    /// The values by which rows are chosen, after [`AskedQuery::allowed`].
    /// Fails with the answer that says what is wrong with them.
    pub(crate) fn meant(self, tileset: &SiteTileset) -> Result<Option<Arc<GivenParameters>>, Answer> {
        let meant = self.given.map(|given| given.meant(&tileset.parameters.declared)).transpose();
        meant.map_err(|error| answer::error(StatusCode::BAD_REQUEST, &error.to_string()))
    }

    /// The signature of addresses with this filter that end then, as an end of their query.
    pub(crate) fn signed_until(&self, expires: u64) -> Option<String> {
        self.keys.map(|keys| keys.signed(self.content(), expires))
    }
}

impl Site {
    /// The answer to a request for a tile.
    pub(crate) async fn tile(
        &self,
        tileset: &SiteTileset,
        wanted: WantedTile<'_>,
        headers: &HeaderMap,
        settings: &SiteSettings,
    ) -> LabeledAnswer {
        let WantedTile { state, tile, given, is_alias, has_undeclared, is_pinned, looked, expires, client } = wanted;
        let reserved = AnswerMemory::default();
        let asked = AskedBy { encoding: Encoding::for_client(headers), client, reserved: &reserved };
        let TilesetHeadersOf { tileset: of, names } = &tileset.headers;
        let added = settings.headers_of(of).map_or(&[][..], |headers| &headers.headers);
        let has_tags = added.iter().any(|header| header.text.has_band());
        let is_covered = state.covers(tile.coord);
        let mut later = if is_covered { LaterChanges::Published } else { LaterChanges::Unknown };
        let (read, origin) = match &given {
            Some(given) => {
                let gated = GatedParameters { given, gate: &tileset.parameters.gate };
                let (read, origin) = tileset.tiles.tile_with_parameters(state, tile, gated, asked).await;
                let shown = read.as_ref().ok().and_then(|filtered| filtered.shown.as_deref());
                let is_asked = is_covered && !has_undeclared && (has_tags || is_pinned);
                // A standby may be behind the one who publishes.
                let is_new = |shown: &&Cursor| tileset.tiles.known().shows_at_least(shown, state.cursor.as_ref());
                let shown = shown.filter(|_| is_asked).filter(is_new);
                let told = shown.zip(tileset.live.as_ref()).map(|(shown, live)| live.later_changes(given, shown));
                later = told.unwrap_or(LaterChanges::Unknown);
                (read.map(|filtered| filtered.tile), origin)
            }
            None => tileset.tiles.tile(state, tile, asked).await,
        };
        let until_expiry = expires.map(|expires| {
            let left = expires.saturating_sub(seconds_now());
            settings.tile_freshness.stale_within(tile.coord.zoom(), left)
        });
        let is_purged = later == LaterChanges::Purged && has_tags;
        // A later publication may have purged the caches while this tile was rendered.
        let is_late = is_purged && (looked.elapsed() > settings.options.settle || !tileset.target.is_current(state));
        let is_pinned = is_pinned && later != LaterChanges::Unknown;
        let usual = match origin {
            TileOrigin::Stale(_) => settings.tile_freshness.stale_at(tile.coord.zoom()),
            // A purge by path or URL does not reach what a cache holds under another address.
            _ if is_alias && !is_purged && !is_pinned => settings.tile_freshness.stale_at(tile.coord.zoom()),
            TileOrigin::Ancestor => &Freshness::none(),
            // Nobody knows what has changed since the last look into the log.
            _ => {
                let age = tileset.tiles.known().log_age(Instant::now);
                if !is_pinned && is_purged && age == LogAge::Current {
                    settings.tile_freshness.filtered_at(tile.coord.zoom())
                } else {
                    settings.tile_freshness.at(tile.coord.zoom(), age)
                }
            }
        };
        let freshness = until_expiry.as_ref().filter(|_| origin != TileOrigin::Ancestor).unwrap_or(usual);
        let source = match origin {
            TileOrigin::Stale(_) => SourceLabel::Stale,
            TileOrigin::Ancestor => SourceLabel::Ancestor,
            TileOrigin::Shared => SourceLabel::Redis,
            TileOrigin::Ahead => {
                tileset.metrics.count_hit_ahead();
                SourceLabel::Memory
            }
            TileOrigin::Memory => SourceLabel::Memory,
            TileOrigin::Target => SourceLabel::Target,
            TileOrigin::Empty => SourceLabel::Empty,
            TileOrigin::Live => SourceLabel::Live,
            TileOrigin::Collapsed => SourceLabel::Collapsed,
        };
        let media_type = state.described.format.media_type;
        let mut answer = match read {
            Err(error) => {
                let source = if origin == TileOrigin::Empty { SourceLabel::None } else { source };
                return LabeledAnswer { answer: no_tile(&error), route: RouteLabel::Tile, source, tileset: None };
            }
            Ok(None) => answer::empty(settings.options.empty_status.status(), media_type, freshness),
            Ok(Some(found)) if origin == TileOrigin::Ancestor => {
                answer::placeholder(found.body, media_type, found.encoding)
            }
            Ok(Some(found)) if holds(headers, &found.tag) => answer::not_modified(&found.tag, freshness),
            Ok(Some(found)) => {
                let content = Content { body: found.body, media_type, encoding: found.encoding, tag: &found.tag };
                answer::content(content, freshness)
            }
        };
        answer.body_mut().is_counted_by(reserved.into_hold());
        if is_late && !is_pinned {
            answer::forbid_keeping(&mut answer);
        }
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
        add_tile_headers(answer.headers_mut(), added, names, tile);
        answer.headers_mut().insert(CACHE_STATUS, status);
        LabeledAnswer { answer, route: RouteLabel::Tile, source, tileset: None }
    }
}

/// The answer if there is no tile to send. It reveals no path, no host and nothing about the database; the log has the
/// details.
pub(crate) fn no_tile(error: &TileError) -> Answer {
    let what = match error {
        TileError::TooManyKeys(TooManyKeys { retry_after }) => {
            let what = "too many different values of parameters were asked for within a minute";
            return answer::too_many(what, *retry_after);
        }
        TileError::TooMuchUnread(_) => {
            return answer::too_many("too many answers wait for this client to read them", RETRY_READING);
        }
        TileError::OutOfScope => return answer::error(StatusCode::NOT_FOUND, "the tileset has no tile there"),
        TileError::Live(LiveError::Refused(_)) => {
            return answer::error(StatusCode::BAD_REQUEST, "the database does not take a value of the parameters");
        }
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

// Further headers of tiles, such as the tags by which CDNs purge them (docs/cdn.md).

/// Adds the headers of a tile, also to the answer for an empty tile and to a 304, from which a cache updates its
/// headers.
pub(crate) fn add_tile_headers(headers: &mut HeaderMap, added: &[TileHeader], names: &TileTextNames, tile: TileId) {
    for header in added {
        // The settings were checked: each value is printable ASCII.
        if let Ok(value) = HeaderValue::from_str(&header.text.of_tile(tile, names)) {
            headers.insert(header.name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;
    use crate::tile::TilesetTag;

    #[test]
    fn each_header_is_filled_in() {
        let header = |name, text: &str| TileHeader { name: HeaderName::from_static(name), text: text.parse().unwrap() };
        let headers = vec![header("cache-tag", "{name},{band}"), header("x-tile", "{z}/{x}/{y}")];
        let names = TileTextNames { tag: TilesetTag::of("n"), layers: Vec::new() };
        let mut found = HeaderMap::new();
        add_tile_headers(
            &mut found,
            &headers,
            &names,
            TileId::from("14/8712/5333".parse::<crate::tile::TileCoord>().unwrap()),
        );
        assert_eq!(found.get("cache-tag").unwrap(), "n,n-12-2178-1333");
        assert_eq!(found.get("x-tile").unwrap(), "14/8712/5333");
    }
}
