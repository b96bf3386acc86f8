//! The findings of `doctor`, as text and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::budgets::counted;
use super::visible::visible;

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

    /// Notes a warning with its remedy.
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
    #[must_use]
    pub fn count(&self, level: CheckLevel) -> u64 {
        self.results.iter().filter(|result| result.level == level).count() as u64
    }
}

/// The results as text for a person: one line for each, with the remedy below it. The last line counts errors and warnings.
#[must_use]
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
