//! The result of a reseed, or the plan of one, as text and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::summary::{FailedLayer, LayerBudget, table, thinned_lines};
use super::{Event, grouped, sized, timed, visible_line};
use crate::manifest::Manifest;
use crate::pipeline::LargestTile;

/// One reason why tiles are dirty.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Reason {
    /// The changed table, quoted, or the flag that named the tiles.
    pub what: String,
    /// The number of rows changed in the table, or of tiles named by the flag.
    pub rows: u64,
    /// The age of the oldest of these changes, in seconds.
    pub seconds: f64,
}

/// Dirty tiles of one zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DirtyZoom {
    /// The zoom level.
    pub zoom: u8,
    /// The number of dirty tiles.
    pub tiles: u64,
}

/// The plan of a reseed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct DirtyReport {
    /// The dirty tiles of each zoom; `None` if so much changed that every tile would be rendered.
    pub zooms: Option<Vec<DirtyZoom>>,
    /// Why tiles are dirty.
    pub reasons: Vec<Reason>,
}

impl DirtyReport {
    /// The plan of a reseed that would render every tile.
    pub fn all(reasons: Vec<Reason>) -> DirtyReport {
        DirtyReport { zooms: None, reasons }
    }
}

/// The result of a reseed.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct ReseedReport {
    /// The path or URL of the target.
    pub output: String,
    /// Why a PMTiles archive was written anew as a whole, instead of leaving what did not change where it lies; `None`
    /// if it was not.
    pub written_anew: Option<String>,
    /// The number of dirty tiles.
    pub dirty: u64,
    /// The dirty tiles in which a layer was patched instead of rendered again.
    pub patched: u64,
    /// Why tiles were dirty.
    pub reasons: Vec<Reason>,
    /// The dirty tiles of each zoom; `None` if there was nothing to do.
    pub zooms: Option<Vec<DirtyZoom>>,
    /// Tiles written: new ones, and ones whose bytes changed.
    pub written: u64,
    /// The new ones among the tiles written.
    pub added: u64,
    /// Dirty tiles that were rendered to the same bytes as before.
    pub unchanged: u64,
    /// Tiles deleted, because nothing is drawn in them any more.
    pub deleted: u64,
    /// Dirty tiles that were empty before and are empty now.
    pub empty: u64,
    /// Size of the rendered tiles as stored, in bytes.
    pub bytes: u64,
    /// True if the target shows the current state of the database; false if only some tiles were rendered.
    pub complete: bool,
    /// The snapshot from which on changes were looked for.
    pub since: Option<String>,
    /// The target's manifest after the run; `None` if there was nothing to do.
    pub manifest: Option<Manifest>,
    /// The rendered tile with the most bytes as stored.
    pub largest: Option<LargestTile>,
    /// The layer that has the most bytes in the largest tile.
    pub largest_layer: Option<String>,
    /// How layers met their budgets; layers that kept within theirs are not listed.
    pub budgets: Vec<LayerBudget>,
    /// Tiles in which a layer could not be rendered; the target keeps the layer's old content of these tiles.
    pub failed: Vec<FailedLayer>,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
    /// Time to find the dirty tiles, in seconds.
    pub plan_seconds: f64,
    /// Time to render and store them, in seconds.
    pub render_seconds: f64,
    /// Time to make the result durable, in seconds.
    pub finish_seconds: f64,
    /// Duration of the whole run, in seconds.
    pub seconds: f64,
    /// Time from the oldest of the changes to the moment at which the target showed it durably, in seconds; `None` if
    /// no row changed.
    pub latency_seconds: Option<f64>,
    /// How often the run began again on a new snapshot.
    pub restarts: u32,
    /// True if a watch has put off writing the archive anew: what it does next.
    #[serde(skip)]
    pub has_put_off_compaction: bool,
}

impl ReseedReport {
    /// The event that ends the run.
    pub fn event(&self) -> Event {
        let ReseedReport { written, bytes, seconds, .. } = *self;
        Event::Done { output: self.output.clone(), tiles: written, bytes, seconds }
    }

    /// The number of changed rows that the run shows. Tiles that could not be rendered before, or that a client asked
    /// for, do not count.
    pub fn rows(&self) -> u64 {
        changed_rows(&self.reasons)
    }

    /// The report of a run that had nothing to do.
    pub fn nothing(output: String) -> ReseedReport {
        ReseedReport { output, complete: true, ..ReseedReport::default() }
    }
}

/// The reason given for tiles that an earlier run could not render ([`Reason::what`]).
pub const UNRENDERED: &str = "could not be rendered before";

/// The reason given for tiles outside of the target's scope that a server stores because a client asked for them.
pub const ASKED_FOR: &str = "asked for beyond the target's scope";

/// The number of changed rows among some reasons.
pub(crate) fn changed_rows(reasons: &[Reason]) -> u64 {
    let changed = reasons.iter().filter(|reason| ![UNRENDERED, ASKED_FOR].contains(&&*reason.what));
    changed.map(|reason| reason.rows).sum()
}

fn because(reasons: &[Reason]) -> String {
    reasons
        .iter()
        .map(|reason| {
            let (what, rows) = (visible_line(&reason.what), grouped(reason.rows));
            match (what.starts_with("--") || [UNRENDERED, ASKED_FOR].contains(&&*reason.what), reason.rows) {
                (true, 1) => format!("{what}: 1 tile\n"),
                (true, _) => format!("{what}: {rows} tiles\n"),
                (false, 1) => format!("{what}: 1 row changed\n"),
                (false, _) => format!("{what}: {rows} rows changed\n"),
            }
        })
        .collect()
}

/// The plan as text for a person.
pub fn render_dirty(report: &DirtyReport) -> String {
    let because = because(&report.reasons);
    let Some(zooms) = &report.zooms else {
        return format!("{because}so much changed that every tile would be rendered anew\n");
    };
    let rows: Vec<Vec<String>> = zooms.iter().map(|zoom| vec![zoom.zoom.to_string(), grouped(zoom.tiles)]).collect();
    let total: u64 = zooms.iter().map(|zoom| zoom.tiles).sum();
    format!("{}{because}{}\n", table(&["zoom", "dirty"], &rows), dirty(total))
}

fn dirty(tiles: u64) -> String {
    format!("{} dirty tile{}", grouped(tiles), if tiles == 1 { "" } else { "s" })
}

/// The result as text for a person.
pub fn render_reseed(report: &ReseedReport) -> String {
    if report.zooms.is_none() {
        return format!("nothing to do: {}\n", report.output);
    }
    let counts: Vec<String> = [
        (report.written, "written"),
        (report.unchanged, "unchanged"),
        (report.deleted, "deleted"),
        (report.empty, "empty before and now"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", grouped(*count)))
    .collect();
    let counts = if counts.is_empty() { String::new() } else { format!(", {}", counts.join(", ")) };
    let failed = match report.manifest.as_ref().map_or(0, |manifest| manifest.unrendered.len()) {
        0 => String::new(),
        failed => format!("; {} could not be rendered", grouped(failed as u64)),
    };
    let partly = if report.complete || !failed.is_empty() {
        ""
    } else {
        "; the target's snapshot stays, for these are not all changes"
    };
    let anew = report.written_anew.as_ref().map_or_else(String::new, |why| format!("written anew as a whole: {why}\n"));
    format!(
        "{}{}{}{counts} ({}) in {}: {}{failed}{partly}\n{anew}",
        because(&report.reasons),
        thinned_lines(&report.budgets),
        dirty(report.dirty),
        sized(report.bytes),
        timed(report.seconds),
        report.output
    )
}
