//! A progress bar for terminals. It counts features, not tiles, because a tile of ten thousand features takes longer
//! than one of two.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::record::log;
use super::{Event, Report, grouped, sized, visible_line};

const PLANNING: &str = "{spinner} {msg}";
const BEGUN: &str = "{wide_bar} {percent:>3} % · {msg}";
const RENDERING: &str = "{wide_bar} {percent:>3} % · {msg} · {eta} left";

/// The time left is shown once this share of the features is done, in percent, and `MIN_TIME_FOR_TIME_LEFT` has passed:
/// the first batches are of the lowest zooms, whose tiles take longer than all others.
const MIN_PERCENT_FOR_TIME_LEFT: u64 = 3;

/// The time left is not shown before this time has passed.
const MIN_TIME_FOR_TIME_LEFT: Duration = Duration::from_secs(2);

/// True if the time left can be estimated from the `done` features of `all` in the time `elapsed`.
fn tells_time_left(done: u64, all: u64, elapsed: Duration) -> bool {
    done.saturating_mul(100) >= all.saturating_mul(MIN_PERCENT_FOR_TIME_LEFT) && elapsed >= MIN_TIME_FOR_TIME_LEFT
}

/// Tiles and bytes stored so far.
struct BarFigures {
    tiles: u64,
    bytes: u64,
    since: Instant,
    /// The part of the seed, as the beginning of each message; empty if it has none.
    part: String,
}

pub(crate) struct Bar {
    bar: ProgressBar,
    seen: Mutex<BarFigures>,
}

impl Bar {
    pub(crate) fn new() -> Bar {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Bar { bar, seen: Mutex::new(BarFigures { tiles: 0, bytes: 0, since: Instant::now(), part: String::new() }) }
    }

    fn style(&self, template: &str) {
        // This does not fail: the templates are constants, and a test below parses them.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for the eye")]
    fn stored(&self, zoom: crate::tile::Zoom, tiles: u64, bytes: u64) -> String {
        let mut seen = self.seen.lock();
        seen.tiles += tiles;
        seen.bytes += bytes;
        let rate = seen.tiles as f64 / seen.since.elapsed().as_secs_f64().max(0.001);
        format!(
            "{}at zoom {zoom} · {} tiles so far · {} tiles/s · {}",
            seen.part,
            grouped(seen.tiles),
            grouped(rate as u64),
            sized(seen.bytes)
        )
    }
}

impl Report for Bar {
    fn event(&self, event: &Event) {
        match event {
            Event::Surveying { layer } => {
                self.style(PLANNING);
                self.bar.set_message(format!("reading where the features of \"{}\" lie", visible_line(layer)));
            }
            Event::Reading { layer } => {
                self.style(PLANNING);
                self.bar.set_message(format!("reading the rows of \"{}\"", visible_line(layer)));
            }
            Event::Part { part, of, .. } => self.seen.lock().part = format!("part {part} of {of} · "),
            Event::Planned { features, .. } => {
                let mut seen = self.seen.lock();
                (seen.tiles, seen.bytes, seen.since) = (0, 0, Instant::now());
                drop(seen);
                self.bar.reset();
                self.bar.set_length(*features);
                self.style(BEGUN);
            }
            Event::Stored { zoom, tiles, features, bytes } => {
                self.bar.set_message(self.stored(*zoom, *tiles, *bytes));
                self.bar.inc(*features);
                if tells_time_left(self.bar.position(), self.bar.length().unwrap_or(0), self.bar.elapsed()) {
                    self.style(RENDERING);
                }
            }
            Event::Finishing => self.bar.set_message("completing the file"),
            Event::Done { .. } => self.bar.finish_and_clear(),
            _ if event.is_logged() => self.bar.suspend(|| log(event)),
            _ => {}
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        ProgressStyle::with_template(PLANNING).unwrap();
        ProgressStyle::with_template(BEGUN).unwrap();
        ProgressStyle::with_template(RENDERING).unwrap();
    }

    #[test]
    fn the_time_left_is_shown_when_it_means_something() {
        let after = Duration::from_secs(10);
        assert!(!tells_time_left(29, 1_000, after));
        assert!(tells_time_left(30, 1_000, after));
        assert!(!tells_time_left(999, 1_000, Duration::from_millis(1_999)));
    }
}
