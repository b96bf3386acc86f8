//! The findings of `verify`, as a table and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::summary::{SkippedRows, counted, skipped_lines};
use super::terminal::visible;
use super::{grouped, visible_line};

/// The most examples that are kept for each kind of finding.
const EXAMPLES: usize = 20;

/// The ways in which a target can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The target breaks its format's rules, or its own metadata is wrong.
    Structure,
    /// The manifest cannot be read, or does not agree with the tiles.
    Manifest,
    /// A run that did not finish may have left tiles that the manifest does not cover.
    Unfinished,
    /// A tile cannot be unpacked or decoded.
    Broken,
    /// A tile has no feature.
    Empty,
    /// A tile lies outside of the zooms or bounds that the target names.
    Outside,
    /// The target's metadata does not describe a layer of a tile, its zooms or the type of a property. Reported once,
    /// with the first such tile.
    Undescribed,
    /// The database gives this tile, but the target does not hold it.
    Missing,
    /// The target holds this tile, but the database does not give it.
    Ghost,
    /// The database now gives this tile with other content.
    Different,
    /// A layer of this tile cannot be rendered now, and the manifest does not list the tile as unrendered: its correct
    /// content is unknown.
    Unrendered,
}

impl FindingKind {
    const fn words(self) -> &'static str {
        match self {
            FindingKind::Structure => "structure",
            FindingKind::Manifest => "manifest",
            FindingKind::Unfinished => "runs that have not finished",
            FindingKind::Broken => "tiles that cannot be decoded",
            FindingKind::Empty => "tiles without a feature",
            FindingKind::Outside => "tiles outside of the zooms or bounds",
            FindingKind::Undescribed => "layers and properties, each with its first tile, that are not described",
            FindingKind::Missing => "tiles that are missing",
            FindingKind::Ghost => "tiles that should not be there",
            FindingKind::Different => "tiles that differ from the database",
            FindingKind::Unrendered => "tiles that cannot be rendered, and so not be compared",
        }
    }
}

/// Findings of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// The kind.
    pub kind: FindingKind,
    /// The number of findings.
    pub count: u64,
    /// The first few findings, each in words.
    pub examples: Vec<String>,
}

/// All findings of a `verify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Findings {
    /// The path or URL of the target.
    pub target: String,
    /// The number of tiles in the target.
    pub tiles: u64,
    /// The number of tiles that were unpacked and decoded.
    pub decoded: u64,
    /// The number of tiles that were rendered again for comparison; `None` if the database was not asked.
    pub rendered: Option<u64>,
    /// The number of tiles in the plan from the database; `None` if the database was not asked.
    pub planned: Option<u64>,
    /// Rows of the database that are drawn in no tile; `None` if the database was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Vec<SkippedRows>>,
    /// Facts that the user should know and that are no errors, such as a run that has not finished.
    pub notes: Vec<String>,
    /// The errors, by kind.
    pub findings: Vec<Finding>,
}

impl Findings {
    /// A report without findings.
    pub fn new(target: String) -> Findings {
        Findings { target, ..Findings::default() }
    }

    /// Adds a finding. `what` is only called if its text is kept as an example.
    pub fn add(&mut self, kind: FindingKind, what: impl FnOnce() -> String) {
        let place = match self.findings.binary_search_by_key(&kind, |finding| finding.kind) {
            Ok(place) => place,
            Err(place) => {
                self.findings.insert(place, Finding { kind, count: 0, examples: Vec::new() });
                place
            }
        };
        let finding = &mut self.findings[place];
        finding.count += 1;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(what());
        }
    }

    pub fn count(&self) -> u64 {
        self.findings.iter().map(|finding| finding.count).sum()
    }

    /// The number of findings, in words.
    pub fn counted(&self) -> String {
        match self.count() {
            1 => "1 finding".to_owned(),
            count => format!("{} findings", grouped(count)),
        }
    }
}

/// The findings as a table; its last line is the verdict.
pub fn render_findings(found: &Findings) -> String {
    let mut text = skipped_lines(found.skipped.as_deref().unwrap_or_default());
    for finding in &found.findings {
        text.push_str(&format!("{}: {}\n", finding.kind.words(), grouped(finding.count)));
        finding.examples.iter().for_each(|example| text.push_str(&format!("  {}\n", visible_line(example))));
        let more = finding.count - finding.examples.len() as u64;
        if more > 0 {
            text.push_str(&format!("  … and {} more\n", grouped(more)));
        }
    }
    found.notes.iter().for_each(|note| text.push_str(&format!("note: {}\n", visible_line(note))));
    let share = |part: u64, all: u64, done: &str| {
        if part == all { format!("all {done}") } else { format!("a sample of {} {done}", grouped(part)) }
    };
    let mut verdict = format!("{} tiles, {}", grouped(found.tiles), share(found.decoded, found.tiles, "decoded"));
    if let (Some(rendered), Some(planned)) = (found.rendered, found.planned) {
        let done = format!("of {} planned rendered again", grouped(planned));
        verdict.push_str(&format!(", {}", share(rendered, planned, &done)));
    }
    let sound = if found.findings.is_empty() { "sound".to_owned() } else { format!("not sound: {}", found.counted()) };
    text.push_str(&format!("{}: {sound} ({verdict})\n", found.target));
    text
}

// The findings of `doctor`, as text and as JSON.

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckArea {
    /// The database and the layers.
    Database,
    /// The change log.
    ChangeLog,
    /// The target.
    Target,
    /// What clients get at the target's public address.
    Address,
}

impl CheckArea {
    const fn words(self) -> &'static str {
        match self {
            CheckArea::Database => "database",
            CheckArea::ChangeLog => "change log",
            CheckArea::Target => "target",
            CheckArea::Address => "address",
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckLevel {
    /// All is well.
    Fine,
    /// It works, and may not do so for ever, or costs more than it has to.
    Warning,
    /// A run would fail, or clients see no map.
    Error,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CheckResult {
    /// What it is about.
    pub area: CheckArea,
    /// How it ended.
    pub level: CheckLevel,
    /// What was found.
    pub what: String,
    /// What to do; `None` if nothing has to be done, or `what` says it.
    pub remedy: Option<String>,
}

/// All results of `doctor`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Checkup {
    /// The results, in the order of the checks.
    pub results: Vec<CheckResult>,
}

impl Checkup {
    /// Notes a check that found no problem.
    pub fn fine(&mut self, area: CheckArea, what: impl Into<String>) {
        self.results.push(CheckResult { area, level: CheckLevel::Fine, what: what.into(), remedy: None });
    }

    pub fn warn(&mut self, area: CheckArea, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), Some(remedy.into()));
        self.results.push(CheckResult { area, level: CheckLevel::Warning, what, remedy });
    }

    /// Notes a text from another part of the program; the text itself names the remedy.
    pub fn add(&mut self, area: CheckArea, level: CheckLevel, what: impl Into<String>) {
        self.results.push(CheckResult { area, level, what: what.into(), remedy: None });
    }

    /// Notes an error with its remedy.
    pub fn fail(&mut self, area: CheckArea, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), Some(remedy.into()));
        self.results.push(CheckResult { area, level: CheckLevel::Error, what, remedy });
    }

    /// The number of results of a level.
    pub fn count(&self, level: CheckLevel) -> u64 {
        self.results.iter().filter(|result| result.level == level).count() as u64
    }
}

/// The results as text for a person: one line for each, with the remedy below it. The last line counts errors and
/// warnings.
pub fn render_checkup(checkup: &Checkup) -> String {
    let mut text = String::new();
    for CheckResult { area, level, what, remedy } in &checkup.results {
        let level = match level {
            CheckLevel::Fine => "ok",
            CheckLevel::Warning => "warning",
            CheckLevel::Error => "error",
        };
        text.push_str(&format!("{level:<8} {:<11} {}\n", area.words(), visible(what)));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:21}→ {}\n", "", visible(remedy)));
        }
    }
    let (errors, warnings) = (checkup.count(CheckLevel::Error), checkup.count(CheckLevel::Warning));
    text.push_str(&format!("{}, {}\n", counted(errors, "error"), counted(warnings, "warning")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_counted_by_kind_and_named_up_to_twenty() {
        let mut found = Findings::new("t.mbtiles".to_owned());
        (found.tiles, found.decoded) = (3_000, 3_000);
        assert_eq!(render_findings(&found), "t.mbtiles: sound (3 000 tiles, all decoded)\n");
        found.add(FindingKind::Different, || "tile 1/0/0".to_owned());
        (0..21).for_each(|tile| found.add(FindingKind::Empty, || format!("tile 5/{tile}/0")));
        (found.decoded, found.rendered, found.planned) = (1_000, Some(2_998), Some(2_998));
        let text = render_findings(&found);
        assert!(text.starts_with("tiles without a feature: 21\n  tile 5/0/0\n"), "{text}");
        assert!(
            text.contains("  tile 5/19/0\n  … and 1 more\ntiles that differ from the database: 1\n  tile 1/0/0\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "t.mbtiles: not sound: 22 findings (3 000 tiles, a sample of 1 000 decoded, all of 2 998 planned rendered again)\n"
            ),
            "{text}"
        );
    }
}
