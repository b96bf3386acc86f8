//! `oar-tiles diff`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::settings::{resolved_to_read, target_of};
use super::{SettingFlags, on_runtime};
use crate::report::{DiffReport, DiffZoom, Style, grouped, print, print_document, print_json, report, start_log};
use crate::run::{CommandError, Job, area_or_boxes, diff};
use crate::stop::Stop;
use crate::target::TARGET_FORMS;
use crate::tile::{LonLatBox, ZoomList};

/// `oar-tiles diff`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[arg(help = format!(
        "First target: {TARGET_FORMS}; the only one, to compare it with the output in the configuration"
    ))]
    pub a: String,
    /// Second target: the same kinds
    pub b: Option<String>,
    /// Compare only these zooms, such as 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Compare only tiles that this box touches, in degrees; repeat the flag for several boxes
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Compare only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub(crate) area: Option<String>,
    /// Print the tiles that differ as GeoJSON, each as its square
    #[arg(long)]
    pub(crate) geojson: bool,
    /// Print the counts as JSON
    #[arg(long, conflicts_with = "geojson")]
    pub json: bool,
    /// Configuration file, for how to reach S3 [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(crate) fn run_diff(arguments: &Diff, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Diff { a, b, zoom, bbox, area: wanted, geojson, json, config } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let (first, other) = match b {
        Some(b) => (a.clone(), b.clone()),
        None => (target_of(&flags, None, "diff", "oar-tiles diff A B")?, a.clone()),
    };
    let settings = resolved_to_read(&flags, &first)?;
    let bbox = area_or_boxes(wanted.as_ref(), bbox)?;
    let options = diff::DiffOptions { other, zoom: zoom.clone(), bbox };
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        let found = diff::diff(&job, &options).await?;
        if *geojson {
            print_json(&diff::geojson(&found))?;
        } else if *json {
            print_document(&found.report)?;
        } else {
            print(&render_diff(&found.report))?;
        }
        diff::equal(&found)
    })
}

/// The counts as a table.
fn render_diff(diff: &DiffReport) -> String {
    let mut lines = vec![format!("{:>5}{:>14}{:>14}{:>14}{:>14}", "zoom", "equal", "differ", "only in A", "only in B")];
    let mut sum = DiffZoom::default();
    for zoom in &diff.zooms {
        lines.push(line(&zoom.zoom.to_string(), zoom));
        sum.equal += zoom.equal;
        sum.packed_otherwise += zoom.packed_otherwise;
        sum.differ += zoom.differ;
        sum.only_a += zoom.only_a;
        sum.only_b += zoom.only_b;
    }
    if diff.zooms.len() > 1 {
        lines.push(line("all", &sum));
    }
    if sum.packed_otherwise > 0 {
        lines.push(format!("equal, but packed otherwise: {}", grouped(sum.packed_otherwise)));
    }
    format!("A: {}\nB: {}\n{}\n", diff.a, diff.b, lines.join("\n"))
}

fn line(name: &str, zoom: &DiffZoom) -> String {
    let [equal, differ, only_a, only_b] = [zoom.equal, zoom.differ, zoom.only_a, zoom.only_b].map(grouped);
    format!("{name:>5}{equal:>14}{differ:>14}{only_a:>14}{only_b:>14}")
}
