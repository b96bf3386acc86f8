//! Sparse progress lines for pipes and log files: one when the run moves on to another zoom, and one every ten seconds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::event::LogLevel;
use super::record::{EventRecord, log};
use super::{Event, Report, counted, say, sized, timed};
use crate::tile::Zoom;

const EVERY: Duration = Duration::from_secs(10);

/// The time left is estimated once this share of the features is done: the first tiles are the slowest, and would give
/// an estimate of hours.
const MIN_SHARE_TO_GUESS_BY: f64 = 0.03;

/// The figures of the events seen so far.
struct LineFigures {
    since: Instant,
    last: Instant,
    zoom: Option<Zoom>,
    tiles: u64,
    bytes: u64,
    features: u64,
    of: u64,
}

pub(crate) struct Lines(Mutex<LineFigures>);

impl Lines {
    pub(crate) fn new() -> Lines {
        let now = Instant::now();
        Lines(Mutex::new(LineFigures { since: now, last: now, zoom: None, tiles: 0, bytes: 0, features: 0, of: 0 }))
    }
}

impl LineFigures {
    fn start(&mut self, of: u64) {
        let now = Instant::now();
        *self = LineFigures { since: now, last: now, zoom: None, tiles: 0, bytes: 0, features: 0, of };
    }

    fn line(&mut self) -> String {
        self.last = Instant::now();
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let share = self.features as f64 / self.of.max(1) as f64;
        let left = if share >= MIN_SHARE_TO_GUESS_BY {
            format!(", {} left", timed(seconds / share - seconds))
        } else {
            String::new()
        };
        let zoom = self.zoom.map(|zoom| zoom.to_string()).unwrap_or_default();
        let (tiles, bytes) = (counted(self.tiles, "tile"), sized(self.bytes));
        format!("at zoom {zoom}: {tiles} so far, {bytes}, {:.0} % of the features{left}", share * 100.0)
    }
}

impl Report for Lines {
    fn event(&self, event: &Event) {
        let mut seen = self.0.lock();
        match event {
            Event::Surveying { .. }
            | Event::Reading { .. }
            | Event::Part { .. }
            | Event::Planned { .. }
            | Event::Finishing => log(event),
            _ if event.is_logged() => log(event),
            _ => {}
        }
        match event {
            Event::Planned { features, .. } => seen.start(*features),
            Event::Stored { zoom, tiles, features, bytes } => {
                if seen.zoom.is_some_and(|before| before != *zoom) || seen.last.elapsed() > EVERY {
                    say(&seen.line());
                }
                seen.zoom = Some(*zoom);
                seen.tiles += tiles;
                seen.features += features;
                seen.bytes += bytes;
            }
            _ => {}
        }
    }
}

// `--progress json`: one JSON object a line, on standard output, for machines.

pub(crate) struct Json;

impl Report for Json {
    fn event(&self, event: &Event) {
        // The log copies its records to standard output, so a logged event is not printed a second time.
        if event.is_logged() { log(event) } else { EventRecord::new(event).print() }
    }
}

// The log events that the program and its libraries send by `tracing`: warnings, and what `-v` adds.

/// The module paths of the program's own events begin with this.
const OWN: &str = "oar_tiles";

/// Starts logging to standard error: warnings; with `-v` (1) also the run's decisions; with `-vv` (2) also each
/// statement that is retried.
pub fn start_log(verbosity: u8) {
    let level = match verbosity {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    // Libraries' warnings, such as the AWS SDK's about missing credentials, are left out: the same failure is returned
    // as an error, which is reported with what to do.
    let libraries = if level == tracing::Level::DEBUG { LevelFilter::DEBUG } else { LevelFilter::OFF };
    let targets = Targets::new()
        .with_default(libraries)
        .with_target(OWN, level)
        // The run reports a lost connection itself; the pool would report it a second time.
        .with_target("deadpool.postgres", LevelFilter::OFF);
    tracing_subscriber::registry().with(Noting.with_filter(targets)).init();
}

/// Hands each event of `tracing` to the log.
struct Noting;

impl<S: tracing::Subscriber> Layer<S> for Noting {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut found = NoteFields::default();
        event.record(&mut found);
        let level = match *metadata.level() {
            tracing::Level::ERROR => LogLevel::Error,
            tracing::Level::WARN => LogLevel::Warn,
            tracing::Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        let NoteFields { message, fields } = found;
        let library = Some(metadata.target()).filter(|target| !target.starts_with(OWN)).map(ToOwned::to_owned);
        log(&match (level, &library) {
            (LogLevel::Warn, None) => Event::Warning { message },
            _ => Event::Note { library, fields, message, level },
        });
    }
}

#[derive(Default)]
struct NoteFields {
    message: String,
    fields: BTreeMap<String, String>,
}

impl Visit for NoteFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.insert(field.name().to_owned(), text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
