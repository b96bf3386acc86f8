//! The server's metrics for Prometheus (text exposition format 0.0.4; the table is in docs/serving.md).

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::prometheus::as_prometheus_text;
use crate::serve::LiveRowsReport;
use crate::serve::http::unread::UnreadCounts;
use crate::serve::queue::{QueueCounts, WorkClass};

/// The upper bounds of the histogram buckets for durations, in seconds: from a cache hit to a request that is given up.
const SECONDS: [f64; 16] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The kind of resource that a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteLabel {
    Tile,
    Tilejson,
    /// The events of changed tiles.
    Changes,
    Preview,
    Other,
}

impl RouteLabel {
    const fn name(self) -> &'static str {
        match self {
            RouteLabel::Tile => "tile",
            RouteLabel::Tilejson => "tilejson",
            RouteLabel::Changes => "changes",
            RouteLabel::Preview => "preview",
            RouteLabel::Other => "other",
        }
    }
}

/// Where the answer to a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceLabel {
    Memory,
    Target,
    Live,
    /// The database, in a rendering that an earlier request had started.
    Collapsed,
    Redis,
    /// A tile that is stale: the cache or the target.
    Stale,
    /// The content of the nearest stored ancestor, while the tile itself is rendered.
    Ancestor,
    /// No source: the tile is empty according to the scope in the target's manifest.
    Empty,
    /// No source: an error, a document or a page.
    None,
}

impl SourceLabel {
    /// The label of the source in metrics and in the access log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            SourceLabel::Memory => "memory",
            SourceLabel::Target => "target",
            SourceLabel::Live | SourceLabel::Collapsed => "live",
            SourceLabel::Redis => "redis",
            SourceLabel::Stale => "stale",
            SourceLabel::Ancestor => "ancestor",
            SourceLabel::Empty => "empty",
            SourceLabel::None => "none",
        }
    }

    /// The result of the cache lookup; `None` if there was none.
    const fn cache_result(self) -> Option<&'static str> {
        match self {
            SourceLabel::Memory => Some("hit"),
            SourceLabel::Target | SourceLabel::Live | SourceLabel::Ancestor => Some("miss"),
            SourceLabel::Redis => Some("shared"),
            SourceLabel::Stale => Some("stale"),
            SourceLabel::Collapsed => Some("collapsed"),
            SourceLabel::Empty | SourceLabel::None => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecondsLabels {
    route: &'static str,
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: &'static str,
}

/// The labels of a value that has none of its own.
type NoLabels = [(&'static str, &'static str); 0];

/// Labels, preceded by the name of the tileset if the server has several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TilesetLabels<L> {
    tileset: Option<Arc<str>>,
    own: L,
}

impl<L: EncodeLabelSet> EncodeLabelSet for TilesetLabels<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), fmt::Error> {
        if let Some(tileset) = &self.tileset {
            ("tileset", &**tileset).encode(encoder.encode_label())?;
        }
        self.own.encode(encoder)
    }
}

/// A counter or histogram for each tileset and each set of further labels.
type ByTileset<L, M, C = fn() -> M> = Family<TilesetLabels<L>, M, C>;

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

/// Defines the counters of a server, and registers them. One row a metric: its field, its type, its value to begin
/// with; its name (without the prefix, the unit and the `_total` of counters), its unit, its help text.
macro_rules! metric_families {
    ($($field:ident: $type:ty = $value:expr, $name:literal $(in $unit:ident)?, $help:literal;)+) => {
        /// The counters of a server.
        struct MetricFamilies {
            registry: Registry,
            $($field: $type,)+
        }

        impl MetricFamilies {
            fn new() -> MetricFamilies {
                let mut registry = Registry::with_prefix("oar_tiles");
                $(
                    let $field: $type = $value;
                    metric_families!(@register registry, $name, $help, $field $(, $unit)?);
                )+
                MetricFamilies { registry, $($field,)+ }
            }
        }
    };
    (@register $registry:ident, $name:literal, $help:literal, $field:ident) => {
        $registry.register($name, $help, $field.clone());
    };
    (@register $registry:ident, $name:literal, $help:literal, $field:ident, $unit:ident) => {
        $registry.register_with_unit($name, $help, Unit::$unit, $field.clone());
    };
}

metric_families! {
    requests: ByTileset<RequestLabels, Counter> = Family::default(),
        "http_requests", "Requests answered, by route and status";
    seconds: ByTileset<SecondsLabels, Histogram> = Family::new_with_constructor(histogram),
        "http" in Seconds, "Time from a request's header to its answer, by route and source";
    cache: ByTileset<CacheLabels, Counter> = Family::default(),
        "cache", "Tiles asked of the cache, by result";
    cached_bytes: Gauge = Gauge::default(),
        "cache_size" in Bytes, "Tiles in memory";
    unread_bytes: Gauge = Gauge::default(),
        "unread" in Bytes, "Memory of answers that clients are slow to read, or that wait to be unpacked";
    cut: Family<ReasonLabels, Counter> = Family::default(),
        "answers_cut", "Answers that ended before their clients had read them, by reason";
    snapshot_age: ByTileset<NoLabels, Gauge<i64, AtomicI64>> = Family::default(),
        "snapshot_age" in Seconds, "Time since the run began that wrote the target; -1 if the target does not say";
    known_tiles: ByTileset<NoLabels, Gauge> = Family::default(),
        "known_tiles", "Tiles known to be stored, so that missing ones need no lookup; -1 while that is not known";
    render_seconds: ByTileset<NoLabels, Histogram> = Family::new_with_constructor(histogram),
        "render" in Seconds, "Time to render a live tile, queue not counted";
    query_seconds: ByTileset<NoLabels, Histogram> = Family::new_with_constructor(histogram),
        "query" in Seconds, "Time that the database took for a live tile";
    queue_wait: Family<ClassLabels, Histogram, fn() -> Histogram> = Family::new_with_constructor(histogram),
        "queue_wait" in Seconds, "Time that a task waited for a worker, by class";
    sheds: ByTileset<NoLabels, Counter> = Family::default(),
        "sheds", "Requests turned away because too many live tiles waited";
    neighbours: ByTileset<CacheLabels, Counter> = Family::default(),
        "neighbours", "Tiles that were rendered ahead, next to ones that were asked for, and requests answered with them";
    redis: Family<CacheLabels, Counter> = Family::default(),
        "redis", "Tiles asked of Redis, by result";
    queue_waiting: Family<ClassLabels, Gauge> = Family::default(),
        "queue_waiting", "Tasks that wait for a worker, by class";
    workers: Family<ClassLabels, Gauge> = Family::default(),
        "workers", "Tasks that run, by class";
    sessions: Gauge = Gauge::default(),
        "sessions", "Sessions in the database";
    live_rows: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows", "Rows that are kept to draw live tiles from";
    live_rows_bytes: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_bytes", "Memory of the rows that are kept to draw live tiles from";
    live_rows_shared_bytes: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_shared_bytes", "The part of live_rows_bytes that others in this process keep in the same memory";
    live_rows_file_bytes: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_file_bytes", "Bytes of the rows that are kept to draw live tiles from in scratch files";
    live_rows_tiles: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_tiles", "Live tiles that were drawn from kept rows";
    live_rows_counted_tiles: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_counted_tiles", "Live tiles whose cells were counted from kept rows";
    live_rows_database_tiles: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_database_tiles", "Live tiles that the database drew while rows were kept";
    live_rows_changed: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_changed", "Kept rows that came or went since they were read or joined with what had changed";
    live_rows_look_seconds: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_look_seconds", "Seconds since kept rows were brought to the state that they show; -1 if none are kept";
    live_rows_reads: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_reads", "How many times rows were read to draw live tiles from";
    live_rows_loads: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_loads", "How many times rows were taken from the file of an earlier server";
    live_rows_taken: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_taken", "How many times rows were taken from another tileset or the writer";
    live_rows_given: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_given", "How many times another tileset or the writer took rows";
    live_rows_drops: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_rows_drops", "How many times kept rows were dropped";
    live_sets: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_sets", "Filters whose matching rows are kept, or were refused";
    live_sets_bytes: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_sets_bytes", "Memory of the matching sets of filters";
    live_sets_statements: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_sets_statements", "Statements that asked which rows match a filter";
    live_sets_tiles: ByTileset<NoLabels, Gauge> = Family::default(),
        "live_sets_tiles", "Live tiles that were drawn from the matching rows of a filter";
    variants: ByTileset<NoLabels, Gauge> = Family::default(),
        "variants", "Variants that the manifest of their family lists";
    open_variants: ByTileset<NoLabels, Gauge> = Family::default(),
        "open_variants", "Variants that are open";
    publication: ByTileset<NoLabels, Gauge> = Family::default(),
        "publication", "Number of the publication that the target shows; -1 if it has none";
    lag: ByTileset<NoLabels, Gauge<f64, AtomicU64>> = Family::default(),
        "generation_lag" in Seconds, "Time since the first tile became dirty that is not published yet; 0 without such tiles, -1 without a writer";
}

/// The counters of a server, used by one of its tilesets. Clones and other tilesets share the counters.
#[derive(Clone)]
pub(crate) struct Metrics {
    families: Arc<MetricFamilies>,
    /// The name of the tileset; `None` if the server has only one.
    tileset: Option<Arc<str>>,
}

/// Values of a server that are measured when the metrics are read, not counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// The size of the cached tiles, in bytes.
    pub(crate) cached_bytes: u64,
    /// The answers that clients are slow to read.
    pub(crate) unread: UnreadCounts,
    /// The tasks that run and wait.
    pub(crate) queue: QueueCounts,
    /// The number of open database sessions.
    pub(crate) sessions: usize,
}

/// Values of a tileset that are measured when the metrics are read.
#[derive(Debug, Clone)]
pub(crate) struct MeasuredTileset {
    /// Seconds since the start of the run that wrote the target; `None` if the target does not say.
    pub(crate) snapshot_age: Option<u64>,
    /// The number of tiles in the list of stored tiles; `None` while there is no list.
    pub(crate) known_tiles: Option<u64>,
    /// The number of the publication that the target shows; `None` if it has none.
    pub(crate) publication: Option<u64>,
    /// Seconds since the first tile became dirty that is not published yet; `None` if this process does not write.
    pub(crate) lag: Option<f64>,
    /// The rows that are kept for live tiles; 0 of everything if none are.
    pub(crate) live_rows: LiveRowsReport,
}

/// Values of the variants of a tileset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MeasuredFamily {
    /// The number of variants in the family's manifest.
    pub(crate) variants: u64,
    /// The number of those that are open.
    pub(crate) open: u64,
}

impl Metrics {
    /// Metrics with all counters at 0, of a server with one tileset.
    pub(crate) fn new() -> Metrics {
        Metrics { families: Arc::new(MetricFamilies::new()), tileset: None }
    }

    /// The same counters, used by one of several tilesets.
    pub(crate) fn of_tileset(&self, name: &str) -> Metrics {
        Metrics { families: Arc::clone(&self.families), tileset: Some(Arc::from(name)) }
    }

    fn labels<L>(&self, own: L) -> TilesetLabels<L> {
        TilesetLabels { tileset: self.tileset.clone(), own }
    }

    pub(crate) fn count_answer(&self, route: RouteLabel, source: SourceLabel, status: u16, took: Duration) {
        let families = &self.families;
        families.requests.get_or_create(&self.labels(RequestLabels { route: route.name(), status })).inc();
        let labels = self.labels(SecondsLabels { route: route.name(), source: source.name() });
        families.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        if let Some(result) = source.cache_result() {
            families.cache.get_or_create(&self.labels(CacheLabels { result })).inc();
        }
    }

    /// Counts a task that a worker has taken from the queue, with its time in the queue.
    pub(crate) fn count_wait(&self, class: WorkClass, waited: Duration) {
        self.families.queue_wait.get_or_create(&ClassLabels { class: class.name() }).observe(waited.as_secs_f64());
    }

    /// Counts a live tile that was rendered, with its whole time and the part in the database.
    pub(crate) fn count_rendering(&self, took: Duration, in_database: Duration) {
        self.families.render_seconds.get_or_create(&self.labels([])).observe(took.as_secs_f64());
        self.families.query_seconds.get_or_create(&self.labels([])).observe(in_database.as_secs_f64());
    }

    pub(crate) fn count_redis_lookup(&self, result: &'static str) {
        self.families.redis.get_or_create(&CacheLabels { result }).inc();
    }

    pub(crate) fn count_rendering_ahead(&self) {
        self.families.neighbours.get_or_create(&self.labels(CacheLabels { result: "rendered" })).inc();
    }

    /// Counts a request that was answered with a tile that was rendered ahead.
    pub(crate) fn count_hit_ahead(&self) {
        self.families.neighbours.get_or_create(&self.labels(CacheLabels { result: "hit" })).inc();
    }

    /// Counts a request that was refused because the queue was full or its tile would have waited too long.
    pub(crate) fn count_shed(&self) {
        self.families.sheds.get_or_create(&self.labels([])).inc();
    }

    pub(crate) fn set_measured(&self, measured: &MeasuredTileset) {
        let known = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1);
        let families = &self.families;
        families.snapshot_age.get_or_create(&self.labels([])).set(known(measured.snapshot_age));
        families.known_tiles.get_or_create(&self.labels([])).set(known(measured.known_tiles));
        families.publication.get_or_create(&self.labels([])).set(known(measured.publication));
        families.lag.get_or_create(&self.labels([])).set(measured.lag.unwrap_or(-1.0));
        let LiveRowsReport { rows, bytes, tiles, counted_tiles, database_tiles, changed, last_look_seconds, .. } =
            measured.live_rows;
        let LiveRowsReport { reads, loads, drops, shared_bytes, file_bytes, taken, given, .. } = measured.live_rows;
        let LiveRowsReport { sets, set_bytes, set_statements, set_tiles, .. } = measured.live_rows;
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        families.live_rows.get_or_create(&self.labels([])).set(number(rows));
        families.live_rows_bytes.get_or_create(&self.labels([])).set(number(bytes));
        families.live_rows_shared_bytes.get_or_create(&self.labels([])).set(number(shared_bytes));
        families.live_rows_file_bytes.get_or_create(&self.labels([])).set(file_bytes.cast_signed());
        families.live_rows_tiles.get_or_create(&self.labels([])).set(tiles.cast_signed());
        families.live_rows_counted_tiles.get_or_create(&self.labels([])).set(counted_tiles.cast_signed());
        families.live_rows_database_tiles.get_or_create(&self.labels([])).set(database_tiles.cast_signed());
        families.live_rows_changed.get_or_create(&self.labels([])).set(number(changed));
        families.live_rows_look_seconds.get_or_create(&self.labels([])).set(known(last_look_seconds));
        families.live_rows_reads.get_or_create(&self.labels([])).set(reads.cast_signed());
        families.live_rows_loads.get_or_create(&self.labels([])).set(loads.cast_signed());
        families.live_rows_taken.get_or_create(&self.labels([])).set(taken.cast_signed());
        families.live_rows_given.get_or_create(&self.labels([])).set(given.cast_signed());
        families.live_rows_drops.get_or_create(&self.labels([])).set(drops.cast_signed());
        families.live_sets.get_or_create(&self.labels([])).set(number(sets));
        families.live_sets_bytes.get_or_create(&self.labels([])).set(number(set_bytes));
        families.live_sets_statements.get_or_create(&self.labels([])).set(set_statements.cast_signed());
        families.live_sets_tiles.get_or_create(&self.labels([])).set(set_tiles.cast_signed());
        for result in ["rendered", "hit"] {
            drop(families.neighbours.get_or_create(&self.labels(CacheLabels { result })));
        }
        // Metrics that have not been counted yet are shown, too.
        drop(families.sheds.get_or_create(&self.labels([])));
        drop(families.render_seconds.get_or_create(&self.labels([])));
        drop(families.query_seconds.get_or_create(&self.labels([])));
    }

    /// Notes what was measured of the variants of the tileset.
    pub(crate) fn set_measured_family(&self, measured: MeasuredFamily) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.families.variants.get_or_create(&self.labels([])).set(number(measured.variants));
        self.families.open_variants.get_or_create(&self.labels([])).set(number(measured.open));
    }

    /// The metrics of all tilesets in the text format, with what was measured of the server.
    pub(crate) fn text(&self, measured: Measured) -> String {
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let families = &self.families;
        families.cached_bytes.set(i64::try_from(measured.cached_bytes).unwrap_or(i64::MAX));
        let UnreadCounts { held, cut_as_slow, cut_for_memory } = measured.unread;
        families.unread_bytes.set(i64::try_from(held).unwrap_or(i64::MAX));
        for (reason, count) in [("slow", cut_as_slow), ("memory", cut_for_memory)] {
            families.cut.get_or_create(&ReasonLabels { reason }).inner().store(count, Ordering::Relaxed);
        }
        for result in ["hit", "miss", "old", "ahead", "other", "broken", "error", "skipped"] {
            drop(families.redis.get_or_create(&CacheLabels { result }));
        }
        for class in WorkClass::ALL {
            let labels = ClassLabels { class: class.name() };
            // A class in which no task has waited yet is shown, too.
            drop(families.queue_wait.get_or_create(&labels));
            families.queue_waiting.get_or_create(&labels).set(number(measured.queue.waiting.of(class)));
            families.workers.get_or_create(&labels).set(number(measured.queue.running.of(class)));
        }
        families.sessions.set(number(measured.sessions));
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &families.registry) {
            // Writing to a string does not fail. If it did, whoever reads the metrics would notice the empty text.
            text.clear();
            if writeln!(text, "# {error}").is_err() {
                text.clear();
            }
        }
        as_prometheus_text(&text)
    }
}
