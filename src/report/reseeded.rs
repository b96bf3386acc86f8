//! What a reseed has done, or would do, as text and as JSON.

use serde::Serialize;

use super::budgets::{FailedLayer, LayerBudget, thinned_lines};
use super::summary::table;
use super::{grouped, sized, timed, visible_line};
use crate::manifest::Manifest;
use crate::pipeline::LargestTile;

/// Why tiles are dirty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// A table, quoted, or the flag that named the tiles.
    pub what: String,
    /// Rows changed in it; or tiles named.
    pub rows: u64,
    /// How long ago the first of them changed, in seconds.
    pub seconds: f64,
}

/// Dirty tiles of one zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DirtyZoom {
    /// The zoom level.
    pub zoom: u8,
    /// How many.
    pub tiles: u64,
}

/// What a reseed would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DirtyReport {
    /// Tiles for each zoom; `None` if so much changed that every tile would be rendered.
    pub zooms: Option<Vec<DirtyZoom>>,
    /// Why.
    pub reasons: Vec<Reason>,
}

impl DirtyReport {
    /// Every tile would be rendered.
    #[must_use]
    pub fn all(reasons: Vec<Reason>) -> DirtyReport {
        DirtyReport { zooms: None, reasons }
    }
}

/// What a reseed has done.
#[derive(Debug, Clone, Serialize)]
pub struct ReseedReport {
    /// Where the tiles are.
    pub output: String,
    /// Tiles in which a change could be seen.
    pub dirty: u64,
    /// Of those, the ones in which a layer was brought up to date where something had changed, instead of rendered anew.
    pub patched: u64,
    /// Why.
    pub reasons: Vec<Reason>,
    /// The dirty tiles of each zoom; none if there was nothing to do.
    pub zooms: Option<Vec<DirtyZoom>>,
    /// Tiles written: new ones, and ones whose bytes differ.
    pub written: u64,
    /// Of those, new ones.
    pub added: u64,
    /// Dirty tiles that turned out to have the same bytes as before.
    pub unchanged: u64,
    /// Tiles in which nothing is drawn any more.
    pub deleted: u64,
    /// Dirty tiles in which nothing was drawn before, and nothing is now.
    pub empty: u64,
    /// Bytes of the tiles rendered, packed.
    pub bytes: u64,
    /// True if the target shows the current state of the database; false if only some tiles were rendered.
    pub complete: bool,
    /// The snapshot that changes were looked for from.
    pub since: Option<String>,
    /// What the target says about itself now; `None` if there was nothing to do.
    pub manifest: Option<Manifest>,
    /// The largest tile rendered, packed.
    pub largest: Option<LargestTile>,
    /// The layer that has the most bytes in it.
    pub largest_layer: Option<String>,
    /// How the budgets of layers were met; layers that kept to theirs are missing.
    pub budgets: Vec<LayerBudget>,
    /// Tiles in which a layer could not be rendered: what the target held of them stayed as it was.
    pub failed: Vec<FailedLayer>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Seconds for finding the dirty tiles.
    pub plan_seconds: f64,
    /// Seconds for rendering and storing.
    pub render_seconds: f64,
    /// Seconds for making it durable.
    pub finish_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// Restarts on a new snapshot.
    pub restarts: u32,
}

impl ReseedReport {
    /// There was nothing to do.
    #[must_use]
    pub fn nothing(output: String) -> ReseedReport {
        ReseedReport {
            output,
            dirty: 0,
            patched: 0,
            reasons: Vec::new(),
            zooms: None,
            written: 0,
            added: 0,
            unchanged: 0,
            deleted: 0,
            empty: 0,
            bytes: 0,
            complete: true,
            since: None,
            manifest: None,
            largest: None,
            largest_layer: None,
            budgets: Vec::new(),
            failed: Vec::new(),
            warnings: Vec::new(),
            plan_seconds: 0.0,
            render_seconds: 0.0,
            finish_seconds: 0.0,
            seconds: 0.0,
            restarts: 0,
        }
    }
}

/// The reason of tiles that an earlier run could not render.
pub const UNRENDERED: &str = "could not be rendered before";

fn because(reasons: &[Reason]) -> String {
    reasons
        .iter()
        .map(|reason| {
            let (what, rows) = (visible_line(&reason.what), grouped(reason.rows));
            match (what.starts_with("--") || what == UNRENDERED, reason.rows) {
                (true, 1) => format!("{what}: 1 tile\n"),
                (true, _) => format!("{what}: {rows} tiles\n"),
                (false, 1) => format!("{what}: 1 row changed\n"),
                (false, _) => format!("{what}: {rows} rows changed\n"),
            }
        })
        .collect()
}

/// What would be done, for a person.
#[must_use]
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

/// What was done, for a person.
#[must_use]
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
    format!(
        "{}{}{}{counts} ({}) in {}: {}{failed}{partly}\n",
        because(&report.reasons),
        thinned_lines(&report.budgets),
        dirty(report.dirty),
        sized(report.bytes),
        timed(report.seconds),
        report.output
    )
}
