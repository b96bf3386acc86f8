//! The result of a copy, as text.

use std::borrow::Cow;
use std::io;
use std::io::{IsTerminal as _, Write as _};

use schemars::JsonSchema;
use serde::Serialize;

use super::summary::table;
use super::{grouped, sized, timed};
use crate::cdn::{Delivered, DeliveryEnd, PlannedPurge};
use crate::json::JsonDocument;

/// The part of its sources that a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopiedPart {
    /// Some zooms or boxes.
    Tiles,
    /// Some layers.
    Layers,
    /// Several sources.
    Joined,
    /// The differences from another target.
    Patch,
}

/// The result of a copy.
#[derive(Debug, Clone)]
pub struct CopyReport {
    /// The path or URL from which the tiles were read.
    pub source: String,
    /// The path or URL to which they were written.
    pub target: String,
    /// Tiles written.
    pub stored: u64,
    /// Tiles not written, because the target held them with the same bytes.
    pub unchanged: u64,
    /// Tiles deleted from the target, because the source does not hold them.
    pub deleted: u64,
    /// Stored size of all tiles copied, in bytes.
    pub bytes: u64,
    /// What was copied, if it was not all of one source.
    pub part: Option<CopiedPart>,
    /// Duration of the copy, in seconds.
    pub seconds: f64,
}

/// One line about a copy.
#[must_use]
pub fn render_copy(copy: &CopyReport) -> String {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for the eye"
    )]
    let rate = grouped(((copy.stored + copy.unchanged) as f64 / copy.seconds.max(1e-3)) as u64);
    let mut more = String::new();
    for (count, what) in [
        (copy.unchanged, "unchanged"),
        (copy.deleted, if copy.part == Some(CopiedPart::Patch) { "removed" } else { "deleted" }),
    ] {
        if count > 0 {
            more.push_str(&format!(", {} {what}", grouped(count)));
        }
    }
    if let Some(part) = copy.part {
        more.push_str(match part {
            CopiedPart::Tiles => ", a part without manifest",
            CopiedPart::Layers => ", some layers without manifest",
            CopiedPart::Joined => ", joined without manifest",
            CopiedPart::Patch => ", a patch",
        });
    }
    let (stored, bytes, time) = (grouped(copy.stored), sized(copy.bytes), timed(copy.seconds));
    format!("{stored} tiles stored{more}: {bytes} in {time} ({rate} tiles/s): {} → {}\n", copy.source, copy.target)
}

// The result of `diff`, as a table and as JSON.

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

// The purges that were sent to CDNs, and those that wait, as text.

/// What waits for one CDN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PurgeStatus {
    /// The provider and how it knows the target.
    pub provider: String,
    /// Tiles that wait; `None` for every tile.
    pub tiles: Option<u64>,
    /// Items that are left of a purge that was sent in part.
    pub items: u64,
    /// Tiles that were sent and are to be sent once more; `None` for every tile.
    pub again: Option<u64>,
    /// The age of the oldest publish that waits.
    pub oldest_seconds: Option<u64>,
    /// Items sent in the last month in which any were.
    pub spent_this_month: u64,
    /// Why the provider refuses, if it does.
    pub stopped: Option<String>,
}

/// The purges that wait, as a table.
#[must_use]
pub fn render_purge_status(all: &[PurgeStatus]) -> String {
    let row = |status: &PurgeStatus| {
        vec![
            status.provider.clone(),
            status.tiles.map_or_else(|| "all".to_owned(), grouped),
            grouped(status.items),
            status.oldest_seconds.map_or_else(String::new, |seconds| {
                format!("{} ago", timed(std::time::Duration::from_secs(seconds).as_secs_f64()))
            }),
            grouped(status.spent_this_month),
            status.stopped.clone().map_or_else(|| "ready".to_owned(), |why| format!("stopped: {why}")),
        ]
    };
    table(
        &["CDN", "tiles waiting", "items left", "oldest", "items this month", "state"],
        &all.iter().map(row).collect::<Vec<_>>(),
    )
}

/// The outcome of deliveries, one line for each CDN.
#[must_use]
pub fn render_delivered(all: &[Delivered]) -> String {
    let line = |one: &Delivered| {
        let end = match &one.end {
            DeliveryEnd::Done => "nothing waits".to_owned(),
            DeliveryEnd::Waits(why) => format!("the rest waits: {why}"),
            DeliveryEnd::Repeats(wait) => {
                format!("nothing waits but the same once more, in {}", timed(wait.as_secs_f64()))
            }
            DeliveryEnd::Stopped(why) => format!("stopped: {why}"),
        };
        let items = if one.sent == 1 { "item" } else { "items" };
        format!("{} ({}): {} {items} sent, {end}\n", one.provider, one.url, grouped(one.sent as u64))
    };
    if all.is_empty() { "nothing waits\n".to_owned() } else { all.iter().map(line).collect() }
}

/// The most names of a planned purge that are shown.
const MAX_SHOWN_NAMES: usize = 20;

/// The purges that would be sent, as text.
#[must_use]
pub fn render_planned_purges(all: &[PlannedPurge]) -> String {
    let one = |plan: &PlannedPurge| {
        let tiles =
            plan.tiles.map_or_else(|| "every tile".to_owned(), |count| format!("{} tiles", grouped(count as u64)));
        let mut text = format!(
            "{} ({}): {tiles} wait, {} items would be sent, which hit at most {} tiles beyond these; this month's cost ${:.2}\n",
            plan.provider,
            plan.url,
            grouped(plan.names.len() as u64),
            grouped(plan.unchanged),
            plan.dollars,
        );
        for name in plan.names.iter().take(MAX_SHOWN_NAMES) {
            text.push_str(&format!("  {} {}\n", name.kind.name(), name.name));
        }
        let more = plan.names.len().saturating_sub(MAX_SHOWN_NAMES);
        if more > 0 {
            text.push_str(&format!("  and {} more\n", grouped(more as u64)));
        }
        text
    };
    all.iter().map(one).collect()
}

// The state of a seed in shards.

/// What `shards status` says.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShardsStatus {
    /// The run's id.
    pub run: String,
    /// The target.
    pub output: String,
    /// How the shards come to one state: `tracked`, `held` or `frozen`.
    pub state: &'static str,
    /// The sessions that all shards together may have.
    pub connections: u32,
    /// When the run was begun (RFC 3339).
    pub started: String,
    /// Tiles planned.
    pub tiles: u64,
    /// The number of shards that are done.
    pub done: u32,
    /// The number of shards that are rendered now.
    pub running: u32,
    /// The number of other shards.
    pub missing: u32,
    /// Bytes that the shards have left for the commit.
    pub bytes: u64,
    /// The time that the shards which are done took, added up, in seconds.
    pub seconds: f64,
    /// The shards, in order.
    pub shards: Vec<ShardStatus>,
}

/// What `shards status` says of one shard.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShardStatus {
    /// Which one, counted from 1.
    pub shard: u32,
    /// `done`, `running` or `missing`.
    pub state: ShardState,
    /// What it costs, by the plan's estimate; 1 is a feature that is drawn into a tile from rows in memory.
    pub weight: u64,
    /// Tiles that it planned, if it is done.
    pub tiles: Option<u64>,
    /// Bytes that it has left for the commit, if it is done.
    pub bytes: Option<u64>,
    /// The time that it took, or has taken up to now, in seconds.
    pub seconds: Option<f64>,
    /// Who renders it now.
    pub holder: Option<String>,
}

/// The state of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// It is done.
    Done,
    /// An attempt was seen in the last minute.
    Running,
    /// Neither.
    Missing,
}

/// The state of a run as text.
#[must_use]
pub fn render_shards(status: &ShardsStatus) -> String {
    let ShardsStatus { run, output, state, connections, done, running, missing, .. } = status;
    let mut text = format!(
        "run {run} into {output} ({state}, up to {connections} connections): {} of {} shards done, {running} running, {missing} missing; {} in {}\n",
        done,
        status.shards.len(),
        sized(status.bytes),
        timed(status.seconds),
    );
    let all: u64 = status.shards.iter().map(|shard| shard.weight).sum();
    for shard in status.shards.iter().filter(|shard| shard.state != ShardState::Done) {
        text.push_str(&match (&shard.holder, shard.seconds) {
            (Some(holder), Some(seconds)) => {
                format!("  shard {}: running for {}, {holder}\n", shard.shard, timed(seconds))
            }
            _ => format!("  shard {}: missing, {} % of the work\n", shard.shard, 100 * shard.weight / all.max(1)),
        });
    }
    text
}

// Text that others wrote, such as names of files, layers and tables or a server's messages, made harmless for a
// terminal.
//
// Control characters can move the cursor, clear the screen, set the window's title or, in some terminals, type
// commands. [`print()`] and the log (`record`) escape them in everything that they write; no other function of the
// program writes to standard output or standard error, except the progress bar, which escapes them, too.

/// True for characters that a terminal obeys, that change the direction of text, or that some programs take for the end
/// of a line: control characters (Unicode category Cc: C0, DEL and C1), bidirectional formatting characters (Unicode
/// Standard Annex 9, section 2), and U+2028 and U+2029.
pub(crate) fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with each character that steers a terminal escaped, such as `\u{1b}`; line breaks and tabs stay.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| is_steering(c) && !matches!(c, '\n' | '\t');
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if is_escaped(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// `text` on one line: like [`visible`], and line breaks and tabs are escaped, too. For names within a table or a list,
/// where a line break would look like a line of the program's own.
pub(crate) fn visible_line(text: &str) -> String {
    text.chars().map(|c| if is_steering(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// JSON with each character that steers a terminal as `\uXXXX`, which means the same (RFC 8259, section 7).
/// `serde_json` escapes only those below U+0020. Line breaks stay: outside of texts they are white space, and inside
/// `serde_json` has escaped them.
pub(crate) fn visible_json(json: &str) -> String {
    let escaped = |c: char| {
        if is_steering(c) && c != '\n' { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }
    };
    json.chars().map(escaped).collect()
}

fn write_out(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to standard output as they are.
///
/// # Errors
/// If standard output is full.
pub fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The reader has closed the pipe, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes text for a person to standard output.
///
/// # Errors
/// If standard output is closed or full.
pub fn print(text: &str) -> io::Result<()> {
    write_out(&visible(text))
}

/// Writes JSON to standard output.
///
/// # Errors
/// If standard output is closed or full.
pub fn print_json(json: &str) -> io::Result<()> {
    write_out(&visible_json(json))
}

/// Writes a value to standard output as indented JSON.
///
/// # Errors
/// If standard output is closed or full.
pub fn print_as_json(value: &impl Serialize) -> io::Result<()> {
    print_json(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes a JSON document to standard output: an object, with the version of its form.
///
/// # Errors
/// If standard output is closed or full.
pub fn print_document(content: &impl Serialize) -> io::Result<()> {
    print_as_json(&JsonDocument::new(content))
}

/// Writes a script, such as SQL for psql, to standard output: byte for byte, unless that is a terminal, where nothing
/// would run it.
///
/// # Errors
/// If standard output is closed or full.
pub fn print_script(script: &str) -> io::Result<()> {
    if io::stdout().is_terminal() { print(script) } else { write_out(script) }
}

/// Writes text to standard error.
pub(crate) fn write_err(text: &str) {
    // A closed standard error must not fail a run, and there is no other place to report it.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ESC [ 2 J clears a screen, in its 7-bit and its 8-bit form; BEL; a right-to-left override; a carriage return; a
    /// line separator.
    const HOSTILE: &str = "a\u{1b}[2Jb\u{9b}2Jc\u{7}d\u{202e}e\rf\u{7f}\u{2028}g";

    #[test]
    fn what_steers_a_terminal_is_shown_instead_of_obeyed() {
        let shown = "a\\u{1b}[2Jb\\u{9b}2Jc\\u{7}d\\u{202e}e\\rf\\u{7f}\\u{2028}g";
        assert_eq!(visible(HOSTILE), shown);
        assert_eq!(visible("Zürich\t→ 1\nnext"), "Zürich\t→ 1\nnext", "other text stays");
        assert_eq!(visible_line("a\nb\u{1b}"), "a\\nb\\u{1b}");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "name": HOSTILE, "other": ["Zürich", 1] });
        let escaped = visible_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!escaped.contains(|c: char| is_steering(c) && c != '\n'), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
