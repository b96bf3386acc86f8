//! Sparse progress lines for pipes and log files: one when the run moves on to another zoom, and one every ten seconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::record::log;
use super::{Event, Report, counted, say, sized, timed};
use crate::tile::Zoom;

const EVERY: Duration = Duration::from_secs(10);

/// The time left is estimated once this share of the features is done: the first tiles are the slowest, and would give an estimate of hours.
const LEAST_SHARE_TO_GUESS_BY: f64 = 0.03;

/// The figures of the events seen so far.
struct LineFigures {
    since: Instant,
    last: Instant,
    zoom: Option<Zoom>,
    tiles: u64,
    bytes: u64,
    features: u64,
    of: u64,
}

pub(super) struct Lines(Mutex<LineFigures>);

impl Lines {
    pub(super) fn new() -> Lines {
        let now = Instant::now();
        Lines(Mutex::new(LineFigures { since: now, last: now, zoom: None, tiles: 0, bytes: 0, features: 0, of: 0 }))
    }
}

impl LineFigures {
    fn start(&mut self, of: u64) {
        let now = Instant::now();
        *self = LineFigures { since: now, last: now, zoom: None, tiles: 0, bytes: 0, features: 0, of };
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for the eye")]
    fn line(&mut self) -> String {
        self.last = Instant::now();
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        let share = self.features as f64 / self.of.max(1) as f64;
        let left = if share >= LEAST_SHARE_TO_GUESS_BY {
            format!(", {} left", timed(seconds / share - seconds))
        } else {
            String::new()
        };
        let zoom = self.zoom.map(|zoom| zoom.to_string()).unwrap_or_default();
        let (tiles, bytes) = (counted(self.tiles, "tile"), sized(self.bytes));
        format!("at zoom {zoom}: {tiles} so far, {bytes}, {:.0} % of the features{left}", share * 100.0)
    }
}

impl Report for Lines {
    fn event(&self, event: &Event) {
        let mut seen = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Surveying { .. } | Event::Reading { .. } | Event::Planned { .. } | Event::Finishing => log(event),
            _ if event.is_logged() => log(event),
            _ => {}
        }
        match event {
            Event::Planned { features, .. } => seen.start(*features),
            Event::Stored { zoom, tiles, features, bytes } => {
                if seen.zoom.is_some_and(|before| before != *zoom) || seen.last.elapsed() > EVERY {
                    say(&seen.line());
                }
                seen.zoom = Some(*zoom);
                seen.tiles += tiles;
                seen.features += features;
                seen.bytes += bytes;
            }
            _ => {}
        }
    }
}
