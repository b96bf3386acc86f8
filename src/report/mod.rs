//! How a run is shown to the user: the run sends events, which become a bar on a terminal, lines in a pipe or JSON for
//! machines.
//!
//! | file | what |
//! |---|---|
//! | `backlog` | the content of the change log and how far targets are behind it, as text and as JSON |
//! | `bar` | a progress bar for terminals |
//! | `contents` | the content of a target, and of a tile, as tables and as JSON |
//! | `discovered` | the tables and functions that `init` found in a database, as a table, and what to do next |
//! | `document` | what the program prints as JSON: each document has a version, and a schema that is made from its type |
//! | `event` | what happens in a run, as the log and `--progress json` show it |
//! | `family` | the result of a run of a tileset's variants, as text and as JSON |
//! | `findings` | the findings of `verify`, as a table and as JSON |
//! | `lines` | sparse progress lines for pipes and log files: one when the run moves on to another zoom, and one every ten seconds |
//! | `record` | the log on standard error: each event becomes a record with a time, a level and a message |
//! | `reseeded` | the result of a reseed, or the plan of one, as text and as JSON |
//! | `run_metrics` | the figures of a run as a file for the `textfile` collector of Prometheus' node exporter: for seeds and reseeds that cron starts |
//! | `summary` | the closing table of a run and the table of a plan, as text and as JSON |
//! | `terminal` | text and JSON on standard output and standard error, made harmless for a terminal |

mod backlog;
mod bar;
mod contents;
mod discovered;
mod document;
mod event;
mod family;
mod findings;
mod lines;
mod record;
mod reseeded;
mod run_metrics;
mod summary;
mod terminal;

use std::fs::OpenOptions;
use std::io;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::json::JsonDocument;

pub use backlog::{Backlog, BehindTarget, LoggedTable, PurgeStatus, render_backlog};
pub use contents::{Contents, ContentsBounds, ContentsZoom, ShownFeature, render_contents, render_features};
pub use discovered::{
    DiscoveredColumn, DiscoveredFunction, DiscoveredTables, render_discovered, render_drafted, render_undrawn,
};
pub use document::{
    DiffReport, DiffZoom, DifferingTile, DocumentSchema, PurgeStatusList, ShardState, ShardStatus, ShardsStatus,
    UnansweredTile, report_schemas,
};
pub use event::{Event, LogLevel, RunStages};
pub use family::{FailedVariant, FamilyReport, render_family};
pub use findings::{
    CheckArea, CheckLevel, CheckResult, Checkup, Finding, FindingKind, Findings, render_checkup, render_findings,
};
pub use lines::start_log;
pub use record::{EventRecord, LogForm, say, say_failure, say_problem, say_problem_text, say_warning, set_log_form};
pub use reseeded::{ASKED_FOR, DirtyReport, DirtyZoom, Reason, ReseedReport, UNRENDERED, render_dirty, render_reseed};
pub use run_metrics::{MetricsFileError, RunMetrics};
pub use summary::{
    FailedLayer, LargeTile, LayerBudget, PlanReport, PlanZoom, Requests, RunReport, RunZoom, SkippedRows, named,
    render_plan, render_run,
};
pub(crate) use summary::{counted, table};
pub(crate) use terminal::visible_line;
pub use terminal::{print, print_as_json, print_bytes, print_document, print_json, print_result, print_script};

/// Receives the events of a run and shows them.
pub trait Report: Send + Sync {
    /// Shows an event. It returns nothing, because a failure to show an event must not fail the run.
    fn event(&self, event: &Event);

    /// Shows a warning.
    fn warn(&self, message: String) {
        self.event(&Event::Warning { message });
    }

    /// Shows a warning, and keeps it for the closing report.
    fn warn_and_keep(&self, message: String, kept: &mut Vec<String>) {
        self.warn(message.clone());
        kept.push(message);
    }
}

/// The style in which events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar on a terminal, sparse lines elsewhere.
    Auto,
    Bar,
    Lines,
    /// One JSON object a line, on standard output.
    Json,
    /// Only warnings and restarts.
    Warnings,
    /// Only warnings and skipped rows.
    Quiet,
    Nothing,
}

pub fn report(style: Style) -> Arc<dyn Report> {
    match style {
        // A bar between lines of JSON would be useless to both people and programs.
        Style::Auto if io::stderr().is_terminal() && !record::is_json() => Arc::new(bar::Bar::new()),
        Style::Bar => Arc::new(bar::Bar::new()),
        Style::Auto | Style::Lines => Arc::new(lines::Lines::new()),
        Style::Json => {
            record::copy_to_stdout();
            Arc::new(lines::Json)
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

/// Shows only warnings and skipped rows. Other styles list the skipped rows in the closing table; a user who wants no
/// progress still has to know what is missing in the result.
struct Quiet;

impl Report for Quiet {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Skipped(_) | Event::Warning { .. }) {
            record::log(event);
        }
    }
}

struct Nothing;

impl Report for Nothing {
    fn event(&self, _event: &Event) {}
}

/// A count with its digits in groups of three: 1 234 567.
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

// The closing table as JSON, in the file of `--report`.

/// When a file that a command writes beside its work could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMoment {
    /// Before the work: nothing was begun.
    Before,
    /// After the work, which stays done.
    After,
}

impl FileMoment {
    /// What is done, and what to do, for the file that `flag` names. `work` is what is done, or is not, after the work.
    pub fn advice(self, flag: &str, work: &str) -> String {
        match self {
            FileMoment::Before => format!("choose another {flag}; nothing was begun"),
            FileMoment::After => format!("{work}. Make room for the file, or choose another {flag}"),
        }
    }
}

/// What a run has done when one of its files cannot be written.
pub(crate) const WORK_IS_DONE: &str = "what the command stored is stored and published, and only this file is missing";

/// The report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {}: {}", path.display(), moment.advice("--report", WORK_IS_DONE))]
pub struct ReportFileError {
    pub path: PathBuf,
    pub moment: FileMoment,
    pub source: io::Error,
}

/// A file to which a report will be written.
#[derive(Debug, Clone)]
pub struct ReportFile(PathBuf);

impl ReportFile {
    /// Checks before the run that the report can be written after it.
    /// Fails if the file cannot be written, or if it is the output of the run.
    pub fn new(path: &Path, output: &Path) -> Result<ReportFile, ReportFileError> {
        match check_writable(path, output) {
            Ok(()) => Ok(ReportFile(path.to_owned())),
            Err(source) => Err(ReportFileError { path: path.to_owned(), moment: FileMoment::Before, source }),
        }
    }

    /// Writes a value, which has to be an object, as JSON with the version of its form.
    pub fn write(&self, value: &impl Serialize) -> Result<(), ReportFileError> {
        serde_json::to_vec_pretty(&JsonDocument::new(value))
            .map_err(io::Error::from)
            .and_then(|json| std::fs::write(&self.0, json))
            .map_err(|source| ReportFileError { path: self.0.clone(), moment: FileMoment::After, source })
    }
}

/// Writes a document into a file that the user has named. `output` is the target from which the document was made.
/// Fails if the file cannot be written, or is the target: the error that `failed` makes.
pub(crate) fn write_document<E>(
    path: &Path,
    output: &Path,
    document: &[u8],
    failed: impl Fn(FileMoment, io::Error) -> E,
) -> Result<(), E> {
    check_writable(path, output).map_err(|source| failed(FileMoment::Before, source))?;
    std::fs::write(path, document).map_err(|source| failed(FileMoment::After, source))
}

/// Checks that a file can be written and is not the output of the run. Leaves no file behind, because the run may still
/// fail.
pub(crate) fn check_writable(path: &Path, output: &Path) -> io::Result<()> {
    let is_output = matches!((path.canonicalize(), output.canonicalize()), (Ok(path), Ok(output)) if path == output);
    if is_output || path == output {
        return Err(io::Error::other("it would replace the output"));
    }
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
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
