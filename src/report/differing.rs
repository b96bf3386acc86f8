//! The result of `diff`, as a table and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::grouped;

/// How many tiles of two targets are alike, and how many are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffReport {
    /// The path or URL of the first target.
    pub a: String,
    /// The path or URL of the second target.
    pub b: String,
    /// The counts of each zoom in which one of them has tiles.
    pub zooms: Vec<DiffZoom>,
}

/// The counts of one zoom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffZoom {
    /// The zoom.
    pub zoom: u8,
    /// Tiles of both with the same content.
    pub equal: u64,
    /// Of these, tiles whose stored bytes differ: packed by another program, at another level, or not at all.
    pub packed_otherwise: u64,
    /// Tiles of both with other content.
    pub differ: u64,
    /// Tiles that only the first target has.
    pub only_a: u64,
    /// Tiles that only the second target has.
    pub only_b: u64,
}

impl DiffReport {
    /// The number of tiles that differ, or that only one of the targets has.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.zooms.iter().map(|zoom| zoom.differ + zoom.only_a + zoom.only_b).sum()
    }
}

/// The counts as a table.
#[must_use]
pub fn render_diff(diff: &DiffReport) -> String {
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
