//! How a run is shown to the user: the run sends events, which become a bar on a terminal, lines in a pipe or JSON for machines.

mod backlog;
mod bar;
mod budgets;
mod checkup;
mod contents;
mod copied;
mod differing;
mod discovered;
mod document;
mod event;
mod family;
mod file;
mod findings;
mod json;
mod lines;
mod log;
mod purges;
mod record;
mod reseeded;
mod run_metrics;
mod shards;
mod stages;
mod summary;
mod versions;
mod visible;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

pub use backlog::{Backlog, BehindTarget, LoggedTable, render_backlog};
pub use budgets::{FailedLayer, LargeTile, LayerBudget, named};
pub use checkup::{CheckArea, CheckLevel, CheckResult, Checkup, render_checkup};
pub use contents::{Contents, ContentsBounds, ContentsZoom, ShownFeature, render_contents, render_features};
pub use copied::{CopiedPart, CopyReport, render_copy};
pub use differing::{DiffReport, DiffZoom, render_diff};
pub use discovered::{
    DiscoveredColumn, DiscoveredFunction, DiscoveredTables, render_discovered, render_drafted, render_undrawn,
};
pub use document::{DocumentSchema, JSON_VERSION, JsonDocument, PurgeStatusList, report_schemas};
pub use event::{Event, FailureKind, LogLevel};
pub use family::{FailedVariant, FamilyReport, render_family};
pub use file::{FileMoment, ReportFile, ReportFileError};
pub(crate) use file::{WORK_IS_DONE, check_writable, write_document};
pub use findings::{Finding, FindingKind, Findings, render_findings};
pub use log::start_log;
pub use purges::{PurgeStatus, render_delivered, render_planned_purges, render_purge_status};
pub use record::{EventRecord, LogForm, say, say_failure, say_problem, say_problem_text, say_warning, set_log_form};
pub use reseeded::{ASKED_FOR, DirtyReport, DirtyZoom, Reason, ReseedReport, UNRENDERED, render_dirty, render_reseed};
pub use run_metrics::{MetricsFileError, RunMetrics};
pub use shards::{ShardState, ShardStatus, ShardsStatus, render_shards};
pub use stages::RunStages;
pub use summary::{PlanReport, PlanZoom, Requests, RunReport, RunZoom, SkippedRows, render_plan, render_run};
pub use versions::{render_rewritten, render_versions};
pub use visible::{print, print_as_json, print_bytes, print_document, print_json, print_script};

use budgets::counted;
use visible::visible_line;

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
        // A bar between lines of JSON would be useless to both people and programs.
        Style::Auto if io::stderr().is_terminal() && !record::is_json() => Arc::new(bar::Bar::new()),
        Style::Bar => Arc::new(bar::Bar::new()),
        Style::Auto | Style::Lines => Arc::new(lines::Lines::new()),
        Style::Json => {
            record::copy_to_stdout();
            Arc::new(json::Json)
        }
        Style::Warnings => Arc::new(WarningsOnly),
        Style::Quiet => Arc::new(Quiet),
        Style::Nothing => Arc::new(Nothing),
    }
}

/// Shows only warnings, restarts, and what a watch follows and publishes.
struct WarningsOnly;

impl Report for WarningsOnly {
    fn event(&self, event: &Event) {
        if event.is_logged() {
            record::log(event);
        }
    }
}

/// Shows only warnings and skipped rows. Other styles list the skipped rows in the closing table; a user who wants no progress still has to know what
/// is missing in the result.
struct Quiet;

impl Report for Quiet {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Skipped(_) | Event::Warning { .. }) {
            record::log(event);
        }
    }
}

/// Shows nothing.
struct Nothing;

impl Report for Nothing {
    fn event(&self, _event: &Event) {}
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

/// A duration in seconds as text, in units that suit its length.
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
