//! The log events that the program and its libraries send by `tracing`: warnings, and what `-v` adds.

use std::collections::BTreeMap;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::event::{Event, LogLevel};
use super::record::log;

/// The module paths of the program's own events begin with this.
const OWN: &str = "oar_tiles";

/// Starts logging to standard error: warnings; with `-v` (1) also the run's decisions; with `-vv` (2) also each statement that is retried.
pub fn start_log(verbosity: u8) {
    let level = match verbosity {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    // Libraries' warnings, such as the AWS SDK's about missing credentials, are left out: the same failure is returned as an error, which is reported
    // with what to do.
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

/// The fields of an event.
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
