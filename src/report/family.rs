//! The result of a run of a tileset's variants, as text and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::{grouped, sized, timed, visible_line};

/// The most outputs that are named in the text.
const MAX_NAMED: usize = 10;

/// The result of a run of all variants of a tileset.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct FamilyReport {
    /// The name of the tileset.
    pub tileset: String,
    /// Where the variants go, with `{name}` for their values.
    pub output: String,
    /// The number of variants.
    pub variants: u64,
    /// Variants that were seeded.
    pub seeded: u64,
    /// Variants in which tiles were rendered again.
    pub reseeded: u64,
    /// The outputs of variants that are new.
    pub added: Vec<String>,
    /// The outputs of variants whose values have vanished, and which still stand.
    pub vanished: Vec<String>,
    /// The outputs that were deleted, for their values have vanished.
    pub removed: Vec<String>,
    /// Variants that failed.
    pub failed: Vec<FailedVariant>,
    /// Tiles written, of all variants together and of the tileset without conditions.
    pub written: u64,
    /// Tiles rendered to the bytes that the targets held.
    pub unchanged: u64,
    /// Tiles deleted.
    pub deleted: u64,
    /// The number of pairs of a feature and a tile in which it is drawn.
    pub features: u64,
    /// Stored size of the rendered tiles, in bytes.
    pub bytes: u64,
    /// `pg_current_snapshot()`: the state of the database that the variants show. The one before if a variant failed.
    pub snapshot: String,
    /// Duration of the run, in seconds.
    pub seconds: f64,
}

/// A variant that failed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FailedVariant {
    /// Its output.
    pub output: String,
    /// Why.
    pub error: String,
}

/// The result as text for a person.
pub fn render_family(report: &FamilyReport) -> String {
    let mut text = String::new();
    for (outputs, what) in [
        (&report.added, "new"),
        (&report.removed, "deleted, for its values are gone"),
        (&report.vanished, "still there, and its values are gone: --prune-variants deletes it"),
    ] {
        for output in outputs.iter().take(MAX_NAMED) {
            text.push_str(&format!("{}: {what}\n", visible_line(output)));
        }
        let more = outputs.len().saturating_sub(MAX_NAMED);
        if more > 0 {
            text.push_str(&format!("and {} more: {what}\n", grouped(more as u64)));
        }
    }
    let counts: Vec<String> =
        [(report.seeded, "seeded"), (report.reseeded, "brought up to date"), (report.failed.len() as u64, "failed")]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!(", {} {what}", grouped(*count)))
            .collect();
    let tiles: Vec<String> = [(report.unchanged, "unchanged"), (report.deleted, "deleted")]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!(", {} {what}", grouped(*count)))
        .collect();
    text + &format!(
        "{} variants{}: {} tiles written{} ({}) in {}: {}\n",
        grouped(report.variants),
        counts.concat(),
        grouped(report.written),
        tiles.concat(),
        sized(report.bytes),
        timed(report.seconds),
        visible_line(&report.output)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_went_is_named() {
        let report = FamilyReport {
            output: "t/{c}.pmtiles".to_owned(),
            variants: 2_000,
            seeded: 1,
            reseeded: 3,
            added: vec!["t/x.pmtiles".to_owned()],
            vanished: (0..12).map(|n| format!("t/{n}.pmtiles")).collect(),
            written: 1_234,
            bytes: 5_000,
            seconds: 0.25,
            ..FamilyReport::default()
        };
        let text = render_family(&report);
        let (variants, written) = (grouped(2_000), grouped(1_234));
        let counts = format!("{variants} variants, 1 seeded, 3 brought up to date: {written} tiles written (5.0 kB)");
        for part in [
            "t/x.pmtiles: new\n",
            "t/9.pmtiles: still there, and its values are gone: --prune-variants deletes it\nand 2 more: still there",
            &format!("{counts} in 0.2 s: t/{{c}}.pmtiles\n"),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
