//! What a tileset has beside its tiles. A new endpoint is a row of the table and a function.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::tile::AskedQuery;
use super::tilejson::{TileJsonWanted, tilejson};
use super::{ClientRequest, Site, SiteSettings, unknown};
use crate::clock::seconds_now;
use crate::serve::http::answer::{self, Answer, Content, Encoding, Freshness};
use crate::serve::http::route::{ASSETS, CACHE_PROBE, CHANGES, FONTS, is_tilejson};
use crate::serve::observe::metrics::RouteLabel;
use crate::serve::parameters::UndeclaredNames;
use crate::serve::signature::rounded_up;
use crate::serve::target::state::ServedState;
use crate::serve::tilesets::SiteTileset;

/// Something of a tileset that is no tile.
pub(crate) struct Endpoint {
    /// True if it has this name, which is the path below the tileset, still percent-encoded.
    has: fn(&str) -> bool,
    /// The label under which answers are counted.
    pub(crate) label: RouteLabel,
    pub(crate) answer: fn(&AskedEndpoint<'_>) -> Answer,
}

const ENDPOINTS: [Endpoint; 5] = [
    Endpoint { has: str::is_empty, label: RouteLabel::Preview, answer: page },
    Endpoint { has: |name| asset_of(name).is_some(), label: RouteLabel::Preview, answer: asset },
    Endpoint { has: |name| name == CHANGES, label: RouteLabel::Changes, answer: changes },
    Endpoint { has: |name| name == CACHE_PROBE, label: RouteLabel::Other, answer: cache_probe },
    Endpoint { has: is_tilejson, label: RouteLabel::Tilejson, answer: tilejson_document },
];

pub(crate) fn named(name: &str) -> Option<&'static Endpoint> {
    const ALL: &[Endpoint] = &ENDPOINTS;
    ALL.iter().find(|endpoint| (endpoint.has)(name))
}

/// A request for an endpoint, and what it is answered from.
pub(crate) struct AskedEndpoint<'a> {
    pub(crate) site: &'a Site,
    pub(crate) tileset: &'a SiteTileset,
    pub(crate) state: &'a ServedState,
    /// The path below the tileset, without the slash at its beginning.
    pub(crate) name: &'a str,
    pub(crate) asked: ClientRequest<'a>,
    pub(crate) settings: &'a SiteSettings,
}

impl AskedEndpoint<'_> {
    fn query(&self) -> Option<&str> {
        self.asked.request.uri().query()
    }

    fn url(&self) -> String {
        self.tileset.url(&self.settings.public_url)
    }
}

fn page(asked: &AskedEndpoint<'_>) -> Answer {
    asked.settings.preview.as_ref().map_or_else(unknown, |preview| preview.page(&asked.url()))
}

/// The name of a file that the page or a client with its style loads.
fn asset_of(name: &str) -> Option<&str> {
    if name.starts_with(FONTS) { Some(name) } else { name.strip_prefix(ASSETS)?.strip_prefix('/') }
}

/// A file that the page loads.
fn asset(asked: &AskedEndpoint<'_>) -> Answer {
    let (preview, headers) = (asked.settings.preview.as_ref(), asked.asked.request.headers());
    preview.zip(asset_of(asked.name)).map_or_else(unknown, |(preview, asset)| preview.asset(asset, headers))
}

fn tilejson_document(asked: &AskedEndpoint<'_>) -> Answer {
    let (tileset, settings, headers) = (asked.tileset, asked.settings, asked.asked.request.headers());
    let query = match AskedQuery::read(tileset, asked.query(), UndeclaredNames::Drop, settings) {
        Ok(query) => query,
        Err(refused) => return refused,
    };
    let signature = match query.allowed() {
        Ok(expires) => expires.and_then(|expires| query.signed_until(expires)),
        Err(_) if settings.token.as_ref().is_some_and(|token| token.is_in(headers)) => {
            query.signed_until(rounded_up(seconds_now().saturating_add(settings.options.section.signed_for.as_secs())))
        }
        Err(refused) => return refused,
    };
    let (given, publication) = (query.canonical(), query.publication());
    let parts: Vec<&str> = given.iter().chain(&publication).chain(&signature).map(String::as_str).collect();
    let query = (!parts.is_empty()).then(|| parts.join("&"));
    let wanted = TileJsonWanted {
        name: asked.name,
        url: &asked.url(),
        live: tileset.tiles.live_layers(),
        parameters: &tileset.parameters.declared,
        query: query.as_deref(),
    };
    let Some(document) = tilejson(asked.state, wanted) else { return unknown() };
    let mut answer = asked.site.document(document.to_string(), headers);
    if signature.is_some() {
        // A cache could give it to a client without a token.
        answer::forbid_keeping(&mut answer);
    }
    answer
}

/// The `Retry-After` of a refused subscription.
const RETRY_SUBSCRIBING: Duration = Duration::from_secs(10);

/// The events of changed tiles.
fn changes(asked: &AskedEndpoint<'_>) -> Answer {
    let Some(changes) = &asked.tileset.changes else { return unknown() };
    // Without keys a query means nothing here.
    if asked.settings.keys.is_some() {
        let query = AskedQuery::read(asked.tileset, asked.query(), UndeclaredNames::Drop, asked.settings);
        if let Err(refused) = query.and_then(|query| query.allowed()) {
            return refused;
        }
    }
    match changes.subscribe(asked.state, asked.asked.client) {
        Some(events) => answer::events(events),
        None => answer::unavailable("too many clients wait for changes", RETRY_SUBSCRIBING),
    }
}

/// The beginning of a cache probe's query, and the most hexadecimal digits that follow.
pub const PROBE_QUERY: &str = "probe=";
const MAX_PROBE_DIGITS: usize = 32;

/// How long caches may keep the answer to a cache probe: as long as a tile with a query.
const PROBE_CACHE_CONTROL: &str = "public, max-age=5";

/// Repeats the query. A cache that passes queries on and leaves them out of its key gives this answer to others, too:
/// that shows it, and no tile is harmed.
fn cache_probe(asked: &AskedEndpoint<'_>) -> Answer {
    let query = asked.query().unwrap_or_default();
    let is_probe =
        |digits: &str| digits.len() <= MAX_PROBE_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !query.is_empty() && !query.strip_prefix(PROBE_QUERY).is_some_and(is_probe) {
        return unknown();
    }
    let (body, tag) = (Bytes::copy_from_slice(query.as_bytes()), format!("\"{query}\""));
    let content = Content { body, media_type: "text/plain", encoding: Encoding::Identity, tag: &tag };
    answer::content(content, &Freshness::of(HeaderValue::from_static(PROBE_CACHE_CONTROL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_endpoint_or_none() {
        let label = |name| named(name).map(|endpoint| endpoint.label);
        for (name, expected) in [
            ("", Some(RouteLabel::Preview)),
            ("assets/maplibre-gl.js", Some(RouteLabel::Preview)),
            ("fonts/Noto%20Sans%20Regular/0-255.pbf", Some(RouteLabel::Preview)),
            ("changes", Some(RouteLabel::Changes)),
            ("cache-probe.pbf", Some(RouteLabel::Other)),
            ("tiles.json", Some(RouteLabel::Tilejson)),
            ("mills.tiles.json", Some(RouteLabel::Tilejson)),
            ("assets", None),
            ("changes/", None),
            ("3/7/2.pbf", None),
            (".oar-tiles/begun.json", None),
        ] {
            assert_eq!(label(name), expected, "{name}");
        }
    }
}
