//! Sparse progress lines for pipes and log files: one when the run moves on to another zoom, and one every ten seconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Event, Report, grouped, important, say, sized, timed};
use crate::tile::Zoom;

const EVERY: Duration = Duration::from_secs(10);

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
        let left = if share > 0.0 { timed(seconds / share - seconds) } else { "?".to_owned() };
        let zoom = self.zoom.map(|zoom| zoom.to_string()).unwrap_or_default();
        let (tiles, bytes) = (grouped(self.tiles), sized(self.bytes));
        format!("zoom {zoom}: {tiles} tiles, {bytes}, {:.0} % of the features, {left} left", share * 100.0)
    }
}

impl Report for Lines {
    fn event(&self, event: &Event) {
        let mut seen = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Surveying { layer } => say(&format!("reading where the features of \"{layer}\" lie")),
            Event::Reading { layer } => say(&format!("reading the rows of \"{layer}\"")),
            Event::Planned { tiles, features, batches } => {
                let (tiles, features, batches) = (grouped(*tiles), grouped(*features), grouped(*batches));
                say(&format!("planned {tiles} tiles with {features} features in {batches} batches"));
            }
            Event::Finishing => say("all tiles stored, completing the file"),
            _ => important(event).iter().for_each(|text| say(text)),
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
