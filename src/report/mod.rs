//! How a run is shown to the user: it sends events, and they become a bar on a terminal, lines in a pipe or JSON for machines.

mod backlog;
mod bar;
mod budgets;
mod contents;
mod copied;
mod discovered;
mod file;
mod findings;
mod json;
mod lines;
mod log;
mod purges;
mod reseeded;
mod run_metrics;
mod stages;
mod summary;
mod versions;
mod visible;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use serde::Serialize;

use crate::tile::Zoom;

pub use backlog::{Backlog, BehindTarget, render_backlog};
pub use budgets::{FailedLayer, LargeTile, LayerBudget, named};
pub use contents::{Contents, ContentsZoom, ShownFeature, render_contents, render_features};
pub use copied::{CopyReport, render_copy};
pub use discovered::{DiscoveredColumn, DiscoveredTables, render_discovered, render_drafted, render_undrawn};
pub(crate) use file::check_writable;
pub use file::{ReportFile, ReportFileError};
pub use findings::{Finding, FindingKind, Findings, render_findings};
pub use log::start_log;
pub use purges::{PurgeStatus, render_delivered, render_planned_purges, render_purge_status};
pub use reseeded::{ASKED_FOR, DirtyReport, DirtyZoom, Reason, ReseedReport, UNRENDERED, render_dirty, render_reseed};
pub use run_metrics::{MetricsFileError, RunMetrics};
pub use stages::RunStages;
pub use summary::{PlanReport, PlanZoom, Requests, RunReport, RunZoom, SkippedRows, render_plan, render_run};
pub use versions::{render_rewritten, render_versions};
pub use visible::{print, print_as_json, print_json, print_script, say, say_error};

use visible::visible_line;

/// Something that happened in a run.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The survey reads the footprints of a layer's features.
    Surveying {
        /// The name of the layer.
        layer: String,
    },
    /// A layer's rows are read, once for all zooms.
    Reading {
        /// The name of the layer.
        layer: String,
    },
    /// The plan is made.
    Planned {
        /// The number of occupied tiles.
        tiles: u64,
        /// The number of pairs of a feature and a tile in which it is drawn.
        features: u64,
        /// The number of batches.
        batches: u64,
    },
    /// A batch was stored.
    Stored {
        /// The zoom of its tiles.
        zoom: Zoom,
        /// The number of its tiles, including those that turned out to be empty.
        tiles: u64,
        /// The features that the plan counted in the batch; a feature counts once for each tile.
        features: u64,
        /// Stored size of its tiles, in bytes.
        bytes: u64,
    },
    /// All tiles are stored; the run completes the target.
    Finishing,
    /// The run begins again on a new snapshot, because the database went away or a lock had to be released.
    Restarting {
        /// The number of this restart, counted from 1.
        attempt: u32,
        /// The most restarts that are allowed.
        of: u32,
        /// Why the run restarts.
        cause: String,
    },
    /// Rows of a layer are left out. The closing table lists them, too.
    Skipped(SkippedRows),
    /// Something that the user should know.
    Warning {
        /// The text of the warning.
        message: String,
    },
    /// The run has finished.
    Done {
        /// The path or URL of the target.
        output: String,
        /// The number of tiles stored.
        tiles: u64,
        /// Their stored size, in bytes.
        bytes: u64,
        /// Duration of the run, in seconds.
        seconds: f64,
    },
}

/// Receives the events of a run and shows them.
pub trait Report: Send + Sync {
    /// Shows an event. It returns nothing, because a failure to show an event must not fail the run.
    fn event(&self, event: &Event);
}

/// The style in which events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar on a terminal, sparse lines elsewhere.
    Auto,
    /// A progress bar.
    Bar,
    /// Sparse lines.
    Lines,
    /// One JSON object a line, on standard output.
    Json,
    /// Only warnings and restarts.
    Warnings,
    /// Only warnings and skipped rows.
    Quiet,
    /// Nothing at all.
    Nothing,
}

/// A report of the given style.
#[must_use]
pub fn report(style: Style) -> Arc<dyn Report> {
    match style {
        Style::Auto if io::stderr().is_terminal() => Arc::new(bar::Bar::new()),
        Style::Bar => Arc::new(bar::Bar::new()),
        Style::Auto | Style::Lines => Arc::new(lines::Lines::new()),
        Style::Json => Arc::new(json::Json),
        Style::Warnings => Arc::new(WarningsOnly),
        Style::Quiet => Arc::new(Quiet),
        Style::Nothing => Arc::new(Nothing),
    }
}

/// Shows only warnings and restarts.
struct WarningsOnly;

impl Report for WarningsOnly {
    fn event(&self, event: &Event) {
        if let Some(text) = important(event) {
            say(&text);
        }
    }
}

/// Shows only warnings and skipped rows. The skipped rows otherwise stand in the closing table; a user who wants no progress still has to
/// know what is wrong with the result.
struct Quiet;

impl Report for Quiet {
    fn event(&self, event: &Event) {
        match event {
            Event::Skipped(rows) => say(&format!("warning: {}", rows.sentence())),
            Event::Warning { .. } => important(event).iter().for_each(|text| say(text)),
            _ => {}
        }
    }
}

/// Shows nothing.
struct Nothing;

impl Report for Nothing {
    fn event(&self, _event: &Event) {}
}

/// The text of an important event, such as a warning; `None` for other events.
fn important(event: &Event) -> Option<String> {
    match event {
        Event::Warning { message } => Some(format!("warning: {message}")),
        Event::Restarting { attempt, of, cause } => {
            Some(format!("{cause}: starting over on a new snapshot ({attempt} of {of})"))
        }
        _ => None,
    }
}

/// A count with its digits in groups of three: 1 234 567.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in decimal units, such as kB.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn sized(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A duration in seconds, written in units that suit its length.
pub(crate) fn timed(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a run is shorter than 2^63 seconds")]
    let whole = seconds.round() as u64;
    if whole < 3_600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3_600, whole % 3_600 / 60)
    }
}

/// An error with its causes on one line, each in brackets.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" ({cause})"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(
            (grouped(0).as_str(), grouped(999).as_str(), grouped(1_234_567).as_str()),
            ("0", "999", "1 234 567")
        );
        assert_eq!(
            (sized(999).as_str(), sized(1_500).as_str(), sized(132_000_000).as_str()),
            ("999 B", "1.5 kB", "132.0 MB")
        );
        assert_eq!(
            (timed(1.25).as_str(), timed(61.0).as_str(), timed(7_260.0).as_str()),
            ("1.2 s", "1 min 01 s", "2 h 01 min")
        );
    }
}
