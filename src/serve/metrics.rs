//! What the server counts, as Prometheus reads it (text exposition format 0.0.4, docs/serving.md has the table).

use std::fmt::Write as _;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The upper ends of the buckets for durations, in seconds: from a hit in memory to a request that is given up.
const SECONDS: [f64; 16] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Which kind of thing a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum RouteLabel {
    /// A tile.
    Tile,
    /// A TileJSON document.
    Tilejson,
    /// The preview and its files.
    Preview,
    /// Anything else.
    Other,
}

/// Where the answer to a tile came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum SourceLabel {
    /// The cache.
    Memory,
    /// The target.
    Target,
    /// The database.
    Live,
    /// The scope of the target's manifest: nothing is drawn there.
    Empty,
    /// Nothing had to be read: an error, a document, a page.
    Own,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: RouteLabel,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecondsLabels {
    route: RouteLabel,
    source: SourceLabel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum CacheResult {
    Hit,
    Miss,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    result: CacheResult,
}

/// The counters of a server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<SecondsLabels, Histogram, fn() -> Histogram>,
    cache: Family<CacheLabels, Counter>,
    cached_bytes: Gauge,
    snapshot_age: Gauge<i64, AtomicI64>,
}

/// What is measured when the metrics are read, rather than counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Bytes of tiles in memory.
    pub(crate) cached_bytes: u64,
    /// Seconds since the run began that wrote the target; `None` if the target does not say.
    pub(crate) snapshot_age: Option<u64>,
}

impl Metrics {
    /// All counters at 0.
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::with_prefix("oar_tiles");
        let (requests, cache) = (Family::default(), Family::default());
        let seconds: Family<SecondsLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(SECONDS));
        let (cached_bytes, snapshot_age) = (Gauge::default(), Gauge::default());
        registry.register("http_requests", "Requests answered, by route and status", Family::clone(&requests));
        registry.register_with_unit(
            "http",
            "Time from a request's header to its answer, by route and source",
            Unit::Seconds,
            seconds.clone(),
        );
        registry.register("cache", "Tiles asked of the cache, by result", Family::clone(&cache));
        registry.register_with_unit("cache_size", "Tiles in memory", Unit::Bytes, Gauge::clone(&cached_bytes));
        registry.register_with_unit(
            "snapshot_age",
            "Time since the run began that wrote the target; -1 if the target does not say",
            Unit::Seconds,
            snapshot_age.clone(),
        );
        Metrics { registry, requests, seconds, cache, cached_bytes, snapshot_age }
    }

    /// Counts a request that was answered.
    pub(crate) fn answered(&self, route: RouteLabel, source: SourceLabel, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
        self.seconds.get_or_create(&SecondsLabels { route, source }).observe(took.as_secs_f64());
        let result = match (route, source) {
            (RouteLabel::Tile, SourceLabel::Memory) => CacheResult::Hit,
            (RouteLabel::Tile, SourceLabel::Target | SourceLabel::Live) => CacheResult::Miss,
            _ => return,
        };
        self.cache.get_or_create(&CacheLabels { result }).inc();
    }

    /// The metrics as text.
    pub(crate) fn text(&self, measured: Measured) -> String {
        self.cached_bytes.set(i64::try_from(measured.cached_bytes).unwrap_or(i64::MAX));
        self.snapshot_age.set(measured.snapshot_age.and_then(|age| i64::try_from(age).ok()).unwrap_or(-1));
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            // Writing to a text does not fail; whoever reads the metrics sees it if it does.
            text.clear();
            if write!(text, "# {error}\n# EOF\n").is_err() {
                text.clear();
            }
        }
        text
    }
}
