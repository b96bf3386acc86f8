//! Checks what clients get at the address of the tiles: the TileJSON, a tile, and the headers that browsers and caches
//! need.

use std::time::{Duration, SystemTime};

use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;

use crate::clock::since_1970;
use crate::encode::{TileFormat, is_gzip};
use crate::https::{FetchError, FetchLimits, FetchedAnswer, HttpsClient, NoAnswer, USER_AGENT, fetch, https_client};
use crate::mvt::decode;
use crate::report::{CheckArea, CheckLevel, Checkup};
use crate::run::CommandError;
use crate::run::endpoint::unpacked;
use crate::serve::{CACHE_PROBE, PROBE_QUERY};
use crate::stop::Stop;
use crate::tile::{Coverage, LonLatBox, TileCoord, TileRect, Zoom};

const AREA: CheckArea = CheckArea::Address;

/// The origin of the page in which a browser would show the map. The server has to allow it.
const ORIGIN: &str = "https://map.example";

/// The longest wait for an answer, and the most bytes of it.
const LIMITS: FetchLimits = FetchLimits { time: Duration::from_secs(20), bytes: 16 << 20 };

/// The most tiles that are requested to find one that is not empty.
const MAX_TRIED_TILES: usize = 16;

/// Checks the TileJSON at `url`, or at `tiles.json` below it, and the tiles that it names.
pub(crate) async fn check(url: &str, stop: &Stop, checkup: &mut Checkup) -> Result<(), CommandError> {
    let interrupted = stop.wait();
    let look = async {
        match https_client() {
            Ok(client) => AddressCheck { client, checkup }.run(url).await,
            Err(error) => checkup.add(AREA, CheckLevel::Error, format!("TLS cannot be set up: {error}")),
        }
    };
    tokio::select! {
        biased;
        signal = interrupted => Err(CommandError::Interrupted(signal)),
        () = look => Ok(()),
    }
}

struct AddressAnswer {
    url: String,
    answer: FetchedAnswer,
}

impl std::ops::Deref for AddressAnswer {
    type Target = FetchedAnswer;

    fn deref(&self) -> &FetchedAnswer {
        &self.answer
    }
}

struct AddressCheck<'a> {
    client: HttpsClient,
    checkup: &'a mut Checkup,
}

impl AddressCheck<'_> {
    async fn run(&mut self, url: &str) {
        let is_tilejson = url.rsplit('/').next().is_some_and(|name| name.contains(".json"));
        let url = if is_tilejson { url.to_owned() } else { format!("{}/tiles.json", url.trim_end_matches('/')) };
        let Some(answer) = self.get(&url, None).await else { return };
        if answer.status != StatusCode::OK {
            self.checkup.fail(
                AREA,
                format!("{url} answers {}", answer.status),
                "give the address of the TileJSON, or of the folder that it lies in, as a browser would ask for it",
            );
            return;
        }
        self.origin(&answer, "the TileJSON");
        let Some(tiles) = self.tilejson(&answer) else { return };
        let Some(tile) = self.first_tile(&tiles).await else { return };
        self.tile(&tile);
        self.origin(&tile, "tiles");
        self.freshness(&tile).await;
        self.cdn(&tile).await;
        self.queries(&url, tiles.takes_parameters).await;
    }

    /// Checks whether a cache in between gives one client's query to others, by the path of `serve` that repeats it.
    /// Adds no result if another server answers. A tile is never asked for with a query: the check itself would put it
    /// into such a cache.
    async fn queries(&mut self, tilejson: &str, takes_parameters: bool) {
        let now = since_1970(SystemTime::now()).as_nanos();
        let probe = format!("{}/{CACHE_PROBE}", tilejson.rsplit_once('/').map_or(tilejson, |(folder, _)| folder));
        let (mut others, mut dropped) = (false, false);
        for query in [format!("{PROBE_QUERY}{now:x}1"), format!("{PROBE_QUERY}{now:x}2"), String::new()] {
            let url = if query.is_empty() { probe.clone() } else { format!("{probe}?{query}") };
            let Some(answer) = self.get(&url, None).await else { return };
            let Some(body) = unpacked(&answer).ok().filter(|_| answer.status == StatusCode::OK) else { return };
            if body == query.as_bytes() {
                continue;
            }
            match body.strip_prefix(PROBE_QUERY.as_bytes()) {
                Some(_) => others = true,
                None if body.is_empty() => dropped = true,
                None => return,
            }
        }
        if others {
            let what = format!(
                "a cache answers {probe} with the answer to another query: it leaves the query out of its key and passes it on, so that parameters that one client gives (?country=LI) become everybody's tile"
            );
            let remedy = "keep requests with a query out of the cache (proxy_no_cache and proxy_cache_bypass on $is_args in nginx), or put the query into the cache's key (docs/cdn.md)";
            if takes_parameters {
                self.checkup.fail(AREA, what, remedy);
            } else {
                self.checkup.warn(AREA, format!("{what}, once the tileset has parameters"), remedy);
            }
        } else if dropped && takes_parameters {
            let remedy =
                "let the CDN forward the parameters that the TileJSON lists, and put them into its key (docs/cdn.md)";
            let what = format!("queries do not reach the server behind {probe}, so that parameters change nothing");
            self.checkup.warn(AREA, what, remedy);
        } else {
            self.checkup.fine(AREA, "no cache gives one client's query to others".to_owned());
        }
    }

    /// Sends a request. Adds a result if there is no response.
    async fn get(&mut self, url: &str, tag: Option<&str>) -> Option<AddressAnswer> {
        let mut request = Request::get(url)
            .header(header::ORIGIN, ORIGIN)
            .header(header::ACCEPT_ENCODING, "gzip")
            .header(header::USER_AGENT, USER_AGENT);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = match request.body(Full::default()) {
            Ok(request) => request,
            Err(error) => {
                let remedy = "write it as https://host/path";
                self.checkup.fail(AREA, format!("{url} is no address: {error}"), remedy);
                return None;
            }
        };
        match fetch(&self.client, request, LIMITS).await {
            Ok(answer) => return Some(AddressAnswer { url: url.to_owned(), answer }),
            Err(FetchError::BreaksOff(why)) => self.checkup.fail(
                AREA,
                format!("the answer of {url} breaks off: {why}"),
                "look into the log of the server or the CDN",
            ),
            Err(FetchError::TooLarge) => self.checkup.fail(
                AREA,
                format!("the answer of {url} has more than {} MB", LIMITS.bytes >> 20),
                "look at what the server answers there",
            ),
            Err(FetchError::NoAnswer(why)) => self.unanswered(url, &why),
            Err(FetchError::Slow) => self.checkup.fail(
                AREA,
                format!("{url} has not answered within {} s", LIMITS.time.as_secs()),
                "look whether the server runs, and whether a firewall drops the connection",
            ),
        }
        None
    }

    fn unanswered(&mut self, url: &str, why: &NoAnswer) {
        match why {
            NoAnswer::Certificate(why) => self.checkup.fail(
                AREA,
                format!("the certificate of {url} is not trusted ({why}), and browsers refuse it, too"),
                "give the server a certificate for this name; SSL_CERT_FILE names further authorities to trust here",
            ),
            NoAnswer::Unreachable(why) => self.checkup.fail(
                AREA,
                format!("{url} cannot be reached: {why}"),
                "look whether the server runs, and whether the name leads to it",
            ),
        }
    }

    /// A page of another host may read only what the server allows (Fetch standard, "CORS protocol").
    fn origin(&mut self, answer: &AddressAnswer, what: &str) {
        let allowed = answer.header("access-control-allow-origin");
        if allowed == "*" || allowed == ORIGIN {
            return;
        }
        if answer.header("vary").split(',').any(|name| name.trim().eq_ignore_ascii_case("origin")) {
            self.checkup.warn(
                AREA,
                format!("{what} at {} depend on the site of the page (Vary: Origin): pages of {ORIGIN} may not read them", answer.url),
                "look whether the site of your map is listed (allowed_origins in [serve]), and whether the CDN has Origin in its key (docs/cdn.md)",
            );
            return;
        }
        let found = if allowed.is_empty() { "no".to_owned() } else { format!("\"{allowed}\" as") };
        self.checkup.fail(
            AREA,
            format!(
                "{what} at {} come with {found} Access-Control-Allow-Origin: pages of other hosts show no map",
                answer.url
            ),
            "have the server, bucket or CDN send Access-Control-Allow-Origin: * (docs/serving.md, docs/cdn.md)",
        );
    }

    fn tilejson(&mut self, answer: &AddressAnswer) -> Option<NamedTiles> {
        let no_tilejson = "give the address of the TileJSON, or of the folder that it lies in";
        let body = unpacked(answer).ok()?;
        let Ok(json) = serde_json::from_slice::<Value>(&body) else {
            self.checkup.fail(AREA, format!("{} is no JSON", answer.url), no_tilejson);
            return None;
        };
        let Some(template) = json["tiles"][0].as_str() else {
            self.checkup.fail(AREA, format!("{} names no tiles, so it is no TileJSON", answer.url), no_tilejson);
            return None;
        };
        if !template.starts_with("https://") && !template.starts_with("http://") {
            self.checkup.fail(
                AREA,
                format!("{} names its tiles as {template}, and MapLibre shows an empty map then", answer.url),
                "seed or reseed with --public-url https://… (public_url in [target] or [serve]): once is enough",
            );
            return None;
        }
        if answer.url.starts_with("https://") && template.starts_with("http://") {
            self.checkup.fail(
                AREA,
                format!("{} names its tiles as {template}, and a page over https may not read them", answer.url),
                "set public_url in [target] or [serve] to the address with https",
            );
        }
        let zoom = json["minzoom"].as_u64().and_then(|zoom| u8::try_from(zoom).ok());
        let zoom = Zoom::new(zoom.unwrap_or(0))?;
        self.checkup.fine(AREA, format!("{} is a TileJSON of tiles at {template}", answer.url));
        let takes_parameters = !json["parameters"].is_null();
        Some(NamedTiles { template: template.to_owned(), zoom, bounds: bounds(&json), takes_parameters })
    }

    async fn first_tile(&mut self, tiles: &NamedTiles) -> Option<AddressAnswer> {
        for tile in tiles.candidates() {
            let answer = self.get(&tiles.address(tile), None).await?;
            if answer.status == StatusCode::OK && !answer.body.is_empty() {
                return Some(answer);
            }
            let is_empty = matches!(answer.status, StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::NOT_FOUND);
            if !is_empty {
                let remedy = match answer.status {
                    StatusCode::FORBIDDEN => {
                        "allow everybody to read; a bucket answers 403 for tiles that it does not have unless it may also be listed"
                    }
                    _ => "look into the log of the server or the CDN",
                };
                self.checkup.fail(AREA, format!("{} answers {}", answer.url, answer.status), remedy);
                return None;
            }
        }
        self.checkup.warn(
            AREA,
            format!("none of the first tiles at {} has content", tiles.template),
            "look whether the tileset was published, and whether the TileJSON's bounds are right",
        );
        None
    }

    /// Checks whether a browser can read a tile.
    fn tile(&mut self, answer: &AddressAnswer) {
        let (url, encoding) = (&answer.url, answer.header("content-encoding"));
        if is_gzip(&answer.body) && encoding.is_empty() {
            self.checkup.fail(
                AREA,
                format!("{url} is packed as gzip and comes without Content-Encoding: no map client can read it"),
                "have the server or bucket send Content-Encoding: gzip for tiles (docs/serving.md), or set compression = \"none\" in [target]",
            );
            return;
        }
        let Ok(raw) = unpacked(answer) else {
            self.checkup.fail(
                AREA,
                format!("{url} comes with Content-Encoding: {encoding}, and its body is not packed so"),
                "have the server send this header only for tiles that are packed; let no proxy unpack them",
            );
            return;
        };
        if let Err(error) = decode(&raw) {
            self.checkup.fail(
                AREA,
                format!("{url} is no vector tile: {error}"),
                "look at what the server answers there: an error page with status 200 looks like this",
            );
            return;
        }
        let media_type = answer.header("content-type");
        let given = media_type.to_ascii_lowercase();
        if TileFormat::of_media_type(&given).is_some() {
            self.checkup.fine(AREA, format!("{url} is a vector tile of {} bytes", answer.body.len()));
        } else {
            self.checkup.warn(
                AREA,
                format!("{url} comes as Content-Type: {}", if media_type.is_empty() { "(none)" } else { media_type }),
                "have the server send application/vnd.mapbox-vector-tile for .pbf: some clients and CDNs decide by it",
            );
        }
    }

    /// Checks whether caches may keep a tile, and can ask whether it changed (RFC 9111; RFC 9110, 13.1).
    async fn freshness(&mut self, tile: &AddressAnswer) {
        let url = &tile.url;
        let control = tile.header("cache-control").to_ascii_lowercase();
        let forbids = ["no-store", "private"].into_iter().find(|word| control.contains(word));
        if let Some(word) = forbids {
            self.checkup.warn(
                AREA,
                format!("{url} comes with Cache-Control: {word}, so that no CDN keeps it"),
                "send public, max-age=… for tiles",
            );
        } else if control.is_empty() {
            self.checkup.warn(
                AREA,
                format!("{url} comes without Cache-Control: each cache guesses for how long it keeps the tile"),
                "send Cache-Control, such as public, max-age=60, for tiles",
            );
        } else {
            self.checkup.fine(AREA, format!("caches may keep tiles: Cache-Control: {control}"));
        }
        let tag = tile.header("etag");
        if tag.is_empty() {
            self.checkup.warn(
                AREA,
                format!("{url} comes without ETag, so that a cache has to fetch a tile again that did not change"),
                "let the server send ETag",
            );
            return;
        }
        let Some(again) = self.get(url, Some(tag)).await else { return };
        if again.status != StatusCode::NOT_MODIFIED {
            self.checkup.warn(
                AREA,
                format!("{url} answers {} and not 304 to If-None-Match: {tag}", again.status),
                "look at the proxy in between: one that packs or unpacks tiles often drops their ETag",
            );
        }
    }

    /// Checks whether a CDN between this program and the server caches tiles. Adds no result if no header shows a CDN.
    async fn cdn(&mut self, tile: &AddressAnswer) {
        // The first request may have put the tile into the cache.
        let Some(again) = self.get(&tile.url, None).await else { return };
        let value = ["cf-cache-status", "x-cache", "x-cache-status", "cdn-cache", "cache-status"]
            .into_iter()
            .map(|name| (name, again.header(name)))
            .find(|(_, value)| !value.is_empty());
        let Some((name, value)) = value else { return };
        let is_kept = value.to_ascii_lowercase().contains("hit");
        if is_kept {
            self.checkup.fine(AREA, format!("the CDN keeps tiles: {name}: {value}"));
        } else {
            self.checkup.warn(
                AREA,
                format!("the CDN has not kept {} ({name}: {value}), so that each request reaches the origin", tile.url),
                "give the CDN a rule that caches .pbf (Cloudflare keeps only the kinds of files that it knows), and look at Cache-Control (docs/cdn.md)",
            );
        }
    }
}

/// The information of a TileJSON about its tiles.
struct NamedTiles {
    template: String,
    zoom: Zoom,
    bounds: LonLatBox,
    /// True if requests may choose rows by parameters.
    takes_parameters: bool,
}

/// The bounds of a TileJSON; the world if it names none (TileJSON 3.0.0, 3.4).
fn bounds(json: &Value) -> LonLatBox {
    let sides: Vec<f64> = json["bounds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    <[f64; 4]>::try_from(sides).map_or(LonLatBox::WORLD, LonLatBox::from_sides)
}

impl NamedTiles {
    /// Tiles of the shallowest zoom within the bounds.
    fn candidates(&self) -> Vec<TileCoord> {
        let rects = Coverage::new(&[self.bounds.into()]).rects(self.zoom);
        rects.iter().flat_map(TileRect::iter).take(MAX_TRIED_TILES).collect()
    }

    fn address(&self, tile: TileCoord) -> String {
        let filled = [("{z}", self.zoom.to_string()), ("{x}", tile.x().to_string()), ("{y}", tile.y().to_string())];
        filled.iter().fold(self.template.clone(), |text, (name, value)| text.replace(name, value))
    }
}
