//! The result of a copy, as text.

use super::{grouped, sized, timed};

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
