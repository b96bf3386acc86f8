//! The log on standard error: warnings, and what `-v` adds.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::visible::VisibleStderr;

/// Starts logging to standard error: warnings; with `-v` (1) also the run's decisions; with `-vv` (2) also each statement that is retried.
pub fn start_log(verbosity: u8) {
    let level = match verbosity {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    // Libraries' warnings, such as the AWS SDK's about missing credentials, are left out: the same failure comes back as an error, and that
    // is reported with what to do.
    let libraries = if level == tracing::Level::DEBUG { LevelFilter::DEBUG } else { LevelFilter::OFF };
    let targets = Targets::new()
        .with_default(libraries)
        .with_target("oar_tiles", level)
        // The run reports a lost connection itself; the pool would report it a second time.
        .with_target("deadpool.postgres", LevelFilter::OFF);
    // No colours: every control character is escaped, so colour codes would be shown as text.
    let lines = tracing_subscriber::fmt::layer().with_writer(|| VisibleStderr).with_ansi(false).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}
