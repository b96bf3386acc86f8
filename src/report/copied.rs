//! What a copy has done, as text.

use super::{grouped, sized, timed};

/// What a copy has done.
#[derive(Debug, Clone)]
pub struct CopyReport {
    /// Where the tiles were.
    pub source: String,
    /// Where they went.
    pub target: String,
    /// Tiles stored.
    pub stored: u64,
    /// Tiles that were there with the same bytes.
    pub unchanged: u64,
    /// Tiles that the source does not have.
    pub deleted: u64,
    /// Bytes of all tiles.
    pub bytes: u64,
    /// Whether zooms or boxes were chosen.
    pub is_part: bool,
    /// How long it took.
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
    for (count, what) in [(copy.unchanged, "unchanged"), (copy.deleted, "deleted")] {
        if count > 0 {
            more.push_str(&format!(", {} {what}", grouped(count)));
        }
    }
    if copy.is_part {
        more.push_str(", a part without manifest");
    }
    let (stored, bytes, time) = (grouped(copy.stored), sized(copy.bytes), timed(copy.seconds));
    format!("{stored} tiles stored{more}: {bytes} in {time} ({rate} tiles/s): {} → {}\n", copy.source, copy.target)
}
