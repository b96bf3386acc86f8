//! The versions of a target, as `publish` prints them.

use super::{grouped, visible_line};
use crate::manifest::moment;
use crate::sink::{Latest, RewrittenHeaders};

/// The versions, one per line; the version that the map shows is marked.
#[must_use]
pub fn render_versions(latest: &Latest) -> String {
    let mut text = String::new();
    for version in &latest.versions {
        let mark = if version.version == latest.version { "shown" } else { "     " };
        let published = moment(version.published);
        text.push_str(&format!("{mark}  {}  published {published}\n", visible_line(&version.version)));
    }
    text
}

/// The result of a pass that rewrites headers.
#[must_use]
pub fn render_rewritten(rewritten: &RewrittenHeaders) -> String {
    let before = match rewritten.before {
        0 => String::new(),
        before => format!(", {} had them from an interrupted pass", grouped(before)),
    };
    format!("{} tiles have new headers{before}\n", grouped(rewritten.rewritten))
}
