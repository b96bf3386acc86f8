//! A running endpoint of tiles, of whatever program. It is asked for one tile after the other, no faster than the user
//! allows, and slower once it answers 429.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Full;
use tokio::time::{Instant, sleep, sleep_until};

use super::CommandError;
use crate::backoff::Backoff;
use crate::cdn::{PAUSES, pause, retry_after};
use crate::encode::{GZIP, MAX_STORED_TILE, TileFormat, Unpacker, is_gzip};
use crate::https::{FetchError, FetchLimits, FetchedAnswer, HttpsClient, NoAnswer, USER_AGENT, fetch, https_client};
use crate::report::say_warning;
use crate::target::Template;
use crate::tile::{TileCoord, Zoom};

/// The longest wait for a tile, and the most bytes of it, as they are sent.
const LIMITS: FetchLimits = FetchLimits { time: Duration::from_secs(30), bytes: MAX_STORED_TILE };

/// The most requests for one tile while the endpoint answers that it is busy.
const MAX_REQUESTS_OF_BUSY: u32 = 6;

/// The longest `Retry-After` that is waited for.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// The longest time between two requests to which answers of 429 slow the comparison down.
const SLOWEST: Duration = Duration::from_secs(2);

/// The most redirects of a request that are followed.
const MAX_REDIRECTS: u32 = 3;

/// The most characters of an answer's header that a message repeats.
const MAX_SHOWN_CHARS: usize = 200;

/// What is known of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct EndpointOptions {
    /// `https://host/path/{z}/{x}/{y}.pbf`, also with `{-y}` and with a query.
    pub(crate) address: String,
    /// Further headers of each request, each as `Name: value`.
    pub(crate) headers: Vec<String>,
    /// The most requests a second; at least 1.
    pub(crate) rate: u32,
}

/// True if a text is meant as the address of an endpoint, and not as a target.
pub(crate) fn is_endpoint(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// Why an endpoint gives no usable answer.
#[derive(Debug)]
pub(crate) enum EndpointError {
    /// What is wrong with one tile; others may be right.
    Tile(String),
    /// What is wrong with all tiles, and what to do.
    All(String),
}

pub(crate) struct Endpoint {
    /// The address as messages show it.
    address: String,
    /// Scheme, host and port, up to and with the slash before the path.
    site: String,
    /// Path and query.
    template: Template,
    headers: HeaderMap,
    client: HttpsClient,
    /// Requests a second, at most, as the user wants it.
    pub(crate) rate: u32,
    /// The least time between two requests.
    interval: Duration,
    /// When the next request may be sent.
    next: Instant,
}

impl Endpoint {
    /// An endpoint, without a request. Fails if its address or a header has another form.
    pub(crate) fn new(options: &EndpointOptions) -> Result<Endpoint, CommandError> {
        let EndpointOptions { address, headers, rate } = options;
        // A query may hold a key.
        let shown = address.split_once('?').map_or_else(|| address.clone(), |(place, _)| format!("{place}?…"));
        let unfit = |what: &str| CommandError::Unfit { target: shown.clone(), what: what.to_owned() };
        let host = address.find("://").map_or(0, |at| at + 3);
        let path = address[host..].find('/').map(|at| host + at + 1);
        let (site, path) = path.map_or((address.as_str(), ""), |at| address.split_at(at));
        if site[host..].contains('@') {
            let target = "an address with a user's name in it".to_owned();
            let what = "leave it out, and give --header 'Authorization: …' instead".to_owned();
            return Err(CommandError::Unfit { target, what });
        }
        let template = Template::new(path).map_err(|error| unfit(&format!("no address of tiles: {error}")))?;
        if template.layers_apart() || template.is_versioned() {
            return Err(unfit("{layer} and {version} are not filled in here: write the layer or the version itself"));
        }
        if address.contains('#')
            || format!("{site}{}", template.name(TileCoord::from_tms(Zoom::MIN, 0, 0).into())).parse::<Uri>().is_err()
        {
            return Err(unfit(
                "no URL: write https://host/path/{z}/{x}/{y}.pbf, and other signs than letters and digits as a browser's address line shows them when copied (%20 for a space)",
            ));
        }
        let headers = headers.iter().map(|text| header_of(text)).collect::<Result<_, _>>()?;
        let client = https_client().map_err(|error| unfit(&format!("cannot be asked: {error}")))?;
        let rate = (*rate).max(1);
        let interval = Duration::from_secs(1) / rate;
        let site = site.to_owned();
        Ok(Endpoint { address: shown.clone(), site, template, headers, client, rate, interval, next: Instant::now() })
    }

    /// The error that ends the comparison.
    pub(crate) fn failed(&self, what: String) -> CommandError {
        CommandError::Endpoint { address: self.address.clone(), what }
    }

    /// The unpacked bytes of a tile; `None` if the endpoint has none there (404, 410, 204 or an empty answer).
    pub(crate) async fn tile(&mut self, tile: TileCoord) -> Result<Option<Vec<u8>>, EndpointError> {
        let mut pauses = PAUSES;
        let mut busy = StatusCode::SERVICE_UNAVAILABLE;
        for request in 1..=MAX_REQUESTS_OF_BUSY {
            let answer = self.ask(tile).await?;
            match answer.status {
                StatusCode::OK if answer.body.is_empty() => return Ok(None),
                StatusCode::OK => return raw_tile(&answer).map(Some).map_err(EndpointError::Tile),
                StatusCode::NO_CONTENT | StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    busy = answer.status;
                    if request < MAX_REQUESTS_OF_BUSY {
                        self.wait(&answer, &mut pauses).await?;
                    }
                }
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    return Err(EndpointError::All(format!(
                        "it answers {status}: give what it asks for, such as --header 'Authorization: Bearer …' or --header 'Referer: https://…/'; a bucket answers so for tiles that it does not have, unless it may be listed"
                    )));
                }
                status => return Err(EndpointError::Tile(format!("it answers {status}"))),
            }
        }
        let what = format!("it answers {busy} to {MAX_REQUESTS_OF_BUSY} requests, one after the other");
        Err(match busy {
            StatusCode::TOO_MANY_REQUESTS => EndpointError::All(format!("{what}: give a smaller --rate")),
            _ => EndpointError::Tile(what),
        })
    }

    /// Sends one request, when it may be sent, and those to which it is redirected on the same server.
    async fn ask(&mut self, tile: TileCoord) -> Result<FetchedAnswer, EndpointError> {
        let mut url = format!("{}{}", self.site, self.template.name(tile.into()));
        for _ in 0..=MAX_REDIRECTS {
            sleep_until(self.next).await;
            self.next = Instant::now() + self.interval;
            let mut request = Request::get(&url)
                .header(header::USER_AGENT, USER_AGENT)
                .header(header::ACCEPT_ENCODING, GZIP)
                .body(Full::default())
                .map_err(|error| EndpointError::All(format!("{url} is no URL: {error}")))?;
            request.headers_mut().extend(self.headers.clone());
            let answer = fetch(&self.client, request, LIMITS).await.map_err(no_answer)?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let location = answer.header(header::LOCATION.as_str());
            let path = location.strip_prefix(&self.site).or_else(|| location.strip_prefix('/'));
            let Some(path) = path.filter(|path| !path.starts_with('/')) else {
                let location: String = location.chars().take(MAX_SHOWN_CHARS).collect();
                return Err(EndpointError::All(format!(
                    "it answers {} with the address {location:?}, and no other server is asked: give the address at which the tiles are",
                    answer.status
                )));
            };
            url = format!("{}{path}", self.site);
        }
        Err(EndpointError::All(format!(
            "it redirects more than {MAX_REDIRECTS} times: give the address at which the tiles are"
        )))
    }

    /// Waits because the endpoint is busy. From a 429 on, requests come at half the rate.
    async fn wait(&mut self, answer: &FetchedAnswer, pauses: &mut Backoff) -> Result<(), EndpointError> {
        let asked = retry_after(answer.header(header::RETRY_AFTER.as_str()), SystemTime::now());
        if let Some(long) = asked.filter(|asked| *asked > MAX_PAUSE) {
            let what = format!("it answers {}, and asks for a pause of {} s", answer.status, long.as_secs());
            return Err(EndpointError::All(format!("{what}: compare later, with a smaller --rate")));
        }
        let pause = pause(pauses, asked, fastrand::f64());
        let mut slower = String::new();
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            self.interval = (self.interval * 2).min(SLOWEST).max(self.interval);
            slower =
                format!(", and then at most {:.1} requests a second are sent", self.interval.as_secs_f64().recip());
        }
        say_warning(&format!(
            "{} answers {}: it is left alone for {:.1} s{slower}",
            self.site,
            answer.status,
            pause.as_secs_f64()
        ));
        sleep(pause).await;
        Ok(())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// A header, as the user wrote it. The error does not repeat the value, which may be a secret.
fn header_of(text: &str) -> Result<(HeaderName, HeaderValue), CommandError> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    let parsed = name.trim().parse().ok().zip(value.trim().parse().ok()).filter(|_| text.contains(':'));
    parsed.ok_or_else(|| {
        let target = if text.contains(':') { format!("--header {name:?}") } else { "--header".to_owned() };
        CommandError::Unfit { target, what: "write 'Name: value', in characters of ASCII".to_owned() }
    })
}

fn no_answer(error: FetchError) -> EndpointError {
    match error {
        FetchError::NoAnswer(NoAnswer::Certificate(why)) => EndpointError::All(format!(
            "its certificate is not trusted ({why}): give the server a certificate for this name; SSL_CERT_FILE names further authorities to trust here"
        )),
        FetchError::NoAnswer(NoAnswer::Unreachable(why)) => EndpointError::Tile(format!("it cannot be reached: {why}")),
        FetchError::Slow => EndpointError::Tile(format!("it has not answered within {} s", LIMITS.time.as_secs())),
        FetchError::BreaksOff(why) => EndpointError::Tile(format!("its answer breaks off: {why}")),
        FetchError::TooLarge => EndpointError::Tile(format!("its answer has more than {} MB", LIMITS.bytes >> 20)),
    }
}

/// The bytes of a tile without their content encoding, or what is wrong with them.
fn raw_tile(answer: &FetchedAnswer) -> Result<Vec<u8>, String> {
    let kind = answer.header(header::CONTENT_TYPE.as_str());
    if kind.to_ascii_lowercase().starts_with("text/") {
        let kind: String = kind.chars().take(MAX_SHOWN_CHARS).collect();
        return Err(format!("it answers 200 with a page (Content-Type: {kind}) in place of a tile"));
    }
    if is_gzip(&answer.body) && answer.header(header::CONTENT_ENCODING.as_str()).is_empty() {
        return Err(
            "its tiles are packed as gzip and come without Content-Encoding: no map client can read them".to_owned()
        );
    }
    unpacked(answer)
}

/// The MVT bytes of a body, without its content encoding, or why they cannot be unpacked.
pub(crate) fn unpacked(answer: &FetchedAnswer) -> Result<Vec<u8>, String> {
    let media_type = answer.header(header::CONTENT_TYPE.as_str()).to_ascii_lowercase();
    let format = TileFormat::of_media_type(&media_type).unwrap_or_default();
    match answer.header(header::CONTENT_ENCODING.as_str()) {
        "" | "identity" => {
            let mvt = (format.to_mvt)(answer.body.as_ref().into()).map_err(|error| error.to_string())?;
            Ok(mvt.into_owned())
        }
        GZIP if is_gzip(&answer.body) => Unpacker::new(format).mvt(&answer.body).map_err(|error| error.to_string()),
        GZIP => Err("it comes with Content-Encoding: gzip, and its body is not packed so".to_owned()),
        other => {
            let other: String = other.chars().take(MAX_SHOWN_CHARS).collect();
            Err(format!("it comes with Content-Encoding: {other}, and only gzip was asked for"))
        }
    }
}
