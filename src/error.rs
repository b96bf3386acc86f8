//! What kind of failure an error is. Each error enum has a function `kind()` next to it; exit codes, restarts,
//! `--or-seed` and `reseed --watch` read the kind and nothing else. [`with_causes`] is the text of an error for a log.

#![warn(missing_docs, reason = "users of the library begin here")]

use schemars::{JsonSchema, Schema};
use serde::Serialize;

/// An error with its causes on one line, each in brackets.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" ({cause})"));
        source = cause.source();
    }
    text
}

/// The kind of a failure, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "FailureKind")]
pub enum ErrorKind {
    /// Wrong usage, configuration or rights: the same command fails again until somebody changes one of them.
    Usage,
    /// The target needs a full seed.
    NeedsSeed,
    /// A part is done, and the message says what is missing.
    Partial,
    /// A stop was requested.
    Interrupted,
    /// The same may succeed a moment later.
    #[schemars(transform = as_transient)]
    Transient(
        #[serde(skip)]
        #[schemars(with = "()")]
        Obstacle,
    ),
    /// Anything else.
    Failed,
}

/// Programs see a transient failure as a text, without its obstacle. The derived schema would have an object.
fn as_transient(schema: &mut Schema) {
    for key in ["properties", "required", "additionalProperties"] {
        schema.remove(key);
    }
    schema.insert("type".to_owned(), "string".into());
    schema.insert("const".to_owned(), "transient".into());
}

/// What kept a run from going on for the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A server that had answered went away.
    Lost,
    /// A server does not answer, or refuses because it is busy.
    Unreachable,
    /// Other sessions hold a lock, or changed what the run's snapshot reads.
    HeldUp,
    /// Other sessions waited for the run's locks, so the run has released all of them.
    GaveWay,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_see_a_transient_failure_without_its_obstacle() {
        let texts = [ErrorKind::NeedsSeed, ErrorKind::Transient(Obstacle::Lost)].map(|kind| serde_json::json!(kind));
        assert_eq!(texts, ["needs_seed", "transient"]);
    }
}
