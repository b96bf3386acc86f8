//! What happens in a run, as the log and `--progress json` show it.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{SkippedRows, counted, grouped, sized, timed};
use crate::error::ErrorKind;
use crate::pipeline::StageTimes;
use crate::tile::Zoom;

/// Something that happened in a run. [`EventRecord`](super::EventRecord) adds the time, the level and the message.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The survey reads the footprints of a layer's features.
    Surveying {
        /// The name of the layer.
        layer: String,
    },
    /// A layer's rows are read, once for all zooms.
    Reading {
        /// The name of the layer.
        layer: String,
    },
    /// A part of a seed is rendered.
    Part {
        /// The number of the part, counted from 1.
        part: u32,
        /// The number of all parts.
        of: u32,
        /// How many parts are done, some of them perhaps by an earlier process.
        done: u32,
    },
    /// The plan is made.
    Planned {
        /// The number of occupied tiles.
        tiles: u64,
        /// The number of pairs of a feature and a tile in which it is drawn.
        features: u64,
        /// The number of batches.
        batches: u64,
    },
    /// A batch was stored.
    Stored {
        /// The zoom of its tiles.
        zoom: Zoom,
        /// The number of its tiles, including those that turned out to be empty.
        tiles: u64,
        /// The features that the plan counted in the batch; a feature counts once for each tile.
        features: u64,
        /// Stored size of its tiles, in bytes.
        bytes: u64,
    },
    /// All tiles are stored; the run completes the target.
    Finishing,
    /// The run begins again on a new snapshot, because the database went away or a lock had to be released.
    Restarting {
        /// The number of this restart, counted from 1.
        attempt: u32,
        /// The most restarts that are allowed.
        of: u32,
        /// Why the run restarts.
        cause: String,
    },
    /// Rows of a layer are left out. The closing table lists them, too.
    Skipped(SkippedRows),
    /// Something that the user should know.
    Warning {
        /// The text of the warning.
        #[serde(skip)]
        message: String,
    },
    /// The run has finished.
    Done {
        /// The path or URL of the target.
        output: String,
        /// The number of tiles stored.
        tiles: u64,
        /// Their stored size, in bytes.
        bytes: u64,
        /// Duration of the run, in seconds.
        seconds: f64,
    },
    /// A watch begins.
    Watching {
        /// The database whose change log it follows.
        database: String,
        /// The path or URL of the target.
        target: String,
        /// The names of the layers.
        layers: Vec<String>,
        /// The snapshot from which on changes are looked for; `None` if the target holds no tileset yet.
        cursor: Option<String>,
        /// How long changes are collected after the first one, in seconds.
        debounce_seconds: f64,
        /// How often the log is looked into without a notification, in seconds.
        poll_seconds: f64,
        /// The CDNs that are notified of each publish.
        cdns: Vec<String>,
    },
    /// A watch has published.
    Published {
        /// The path or URL of the target; of variants their output, with `{name}` for the values.
        target: String,
        /// The number of variants, and of the tileset without conditions, that were written; `None` if the target is
        /// one.
        #[serde(skip_serializing_if = "Option::is_none")]
        variants: Option<u64>,
        /// The number of changed rows; `None` if the target was seeded, and for variants.
        rows: Option<u64>,
        /// The number of dirty tiles; `None` if the target was seeded, and for variants.
        dirty: Option<u64>,
        /// Tiles written: new ones, and ones whose bytes changed.
        tiles: u64,
        /// Tiles deleted.
        deleted: u64,
        /// Stored size of the tiles that were rendered, in bytes.
        bytes: u64,
        /// Time from the oldest of the changes to the moment at which the target showed it durably, in seconds; `None`
        /// if that is not known.
        latency_seconds: Option<f64>,
        /// Duration of the run, in seconds.
        seconds: f64,
    },
    /// A line of the program's log, which `-v` extends.
    Note {
        /// The library that it comes from; `None` if it is the program itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        library: Option<String>,
        /// Further fields of a library's log record.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        fields: BTreeMap<String, String>,
        /// The text.
        #[serde(skip)]
        message: String,
        /// The severity.
        #[serde(skip)]
        level: LogLevel,
    },
    /// One of several problems of the configuration.
    Problem {
        /// The causes, outermost first.
        causes: Vec<String>,
        /// What is wrong.
        #[serde(skip)]
        message: String,
    },
    /// The command has failed. It is the last event.
    Failed {
        /// What kind of failure it is.
        kind: ErrorKind,
        /// The exit code of the process.
        exit_code: u8,
        /// The causes, outermost first.
        causes: Vec<String>,
        /// What is wrong, and what to do.
        #[serde(skip)]
        message: String,
    },
}

/// The severity of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// The command fails.
    Error,
    /// The user should know it.
    Warn,
    /// What happens.
    Info,
    /// What `-vv` adds.
    Debug,
}

impl Event {
    pub(crate) const fn level(&self) -> LogLevel {
        match self {
            Event::Note { level, .. } => *level,
            Event::Skipped(_) | Event::Warning { .. } | Event::Restarting { .. } => LogLevel::Warn,
            Event::Problem { .. } | Event::Failed { .. } => LogLevel::Error,
            _ => LogLevel::Info,
        }
    }

    /// True if the event is shown even if the user wants to see little progress.
    pub(crate) const fn is_logged(&self) -> bool {
        matches!(
            self,
            Event::Warning { .. } | Event::Restarting { .. } | Event::Watching { .. } | Event::Published { .. }
        )
    }

    /// The causes of a failure, outermost first.
    pub(crate) fn causes(&self) -> &[String] {
        match self {
            Event::Problem { causes, .. } | Event::Failed { causes, .. } => causes,
            _ => &[],
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Event::Surveying { layer } => format!("reading where the features of \"{layer}\" lie"),
            Event::Reading { layer } => format!("reading the rows of \"{layer}\""),
            Event::Part { part, of, done } => {
                let are = if *done == 1 { "is" } else { "are" };
                format!("part {part} of {of}; {} {are} done", counted(u64::from(*done), "part"))
            }
            Event::Planned { tiles, features, batches } => {
                let (tiles, features, batches) = (grouped(*tiles), grouped(*features), grouped(*batches));
                format!("planned {tiles} tiles with {features} features in {batches} batches")
            }
            Event::Stored { zoom, tiles, .. } => format!("stored {} of zoom {zoom}", counted(*tiles, "tile")),
            Event::Finishing => "all tiles stored, completing the file".to_owned(),
            Event::Restarting { attempt, of, cause } => {
                format!("{cause}: starting over on a new snapshot ({attempt} of {of})")
            }
            Event::Skipped(rows) => rows.sentence(),
            Event::Warning { message }
            | Event::Note { message, .. }
            | Event::Problem { message, .. }
            | Event::Failed { message, .. } => message.clone(),
            Event::Done { output, tiles, bytes, seconds } => {
                format!("{} written to {output} ({}) in {}", counted(*tiles, "tile"), sized(*bytes), timed(*seconds))
            }
            Event::Watching { database, target, layers, cursor, debounce_seconds, poll_seconds, cdns } => {
                let from = match cursor {
                    Some(cursor) => format!("from snapshot {cursor} on"),
                    None => "which holds no tileset yet".to_owned(),
                };
                let cdns = if cdns.is_empty() { String::new() } else { format!(", tells {}", cdns.join(", ")) };
                let (debounce, poll) = (timed(*debounce_seconds), timed(*poll_seconds));
                let layers: Vec<String> = layers.iter().map(|layer| format!("\"{layer}\"")).collect();
                format!(
                    "follows the change log of {database} for {target}, {from}: layers {}; collects changes for {debounce}, looks every {poll} without a notification{cdns}",
                    layers.join(", ")
                )
            }
            Event::Published { target, variants, rows, dirty, tiles, deleted, bytes, latency_seconds, seconds } => {
                let changed = match (variants, rows, dirty) {
                    (Some(variants), ..) => counted(*variants, "target"),
                    (None, Some(rows), Some(dirty)) => {
                        format!("{}, {}", counted(*rows, "changed row"), counted(*dirty, "dirty tile"))
                    }
                    _ => "every tile".to_owned(),
                };
                let (tiles, deleted, bytes) = (grouped(*tiles), grouped(*deleted), sized(*bytes));
                let latency = latency_seconds
                    .map(|latency| format!("; {} after the oldest change", timed_exactly(latency)))
                    .unwrap_or_default();
                let seconds = timed_exactly(*seconds);
                format!(
                    "published {target}: {changed}, {tiles} written, {deleted} deleted ({bytes}) in {seconds}{latency}"
                )
            }
        }
    }
}

/// A short time with its hundredths.
fn timed_exactly(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.2} s") } else { timed(seconds) }
}

// How the rendering time of a run was spent, and which stage limits its speed.

/// How busy the stages were while tiles were rendered, each as a share of the time that it could have worked: from 0 to
/// 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, JsonSchema)]
pub struct RunStages {
    /// The workers that rendered.
    pub workers: usize,
    /// Workers that waited for the database.
    pub database: f64,
    /// Workers that drew tiles from cached rows.
    pub drawing: f64,
    /// Threads that compressed tiles, one for each worker.
    pub packing: f64,
    /// The thread that handed tiles to the target.
    pub writing: f64,
    /// The stage with the largest share: `database`, `drawing`, `packing` or `writing`. The others waited for it.
    pub bottleneck: &'static str,
}

impl RunStages {
    /// The shares of the elapsed time `rendering`. `drawing` is the part of `times.rendering` that needed no database.
    pub fn new(times: &StageTimes, drawing: Duration, rendering: Duration, workers: usize) -> RunStages {
        let drawing = drawing.min(times.rendering);
        let threads = workers.max(1) as f64;
        let share = |time: Duration, threads: f64| {
            let all = rendering.as_secs_f64() * threads;
            if all > 0.0 { (time.as_secs_f64() / all).min(1.0) } else { 0.0 }
        };
        let shares = [
            ("database", share(times.rendering.saturating_sub(drawing), threads)),
            ("drawing", share(drawing, threads)),
            ("packing", share(times.packing, threads)),
            ("writing", share(times.writing, 1.0)),
        ];
        let [(_, database), (_, drawing), (_, packing), (_, writing)] = shares;
        let bottleneck =
            shares.into_iter().max_by(|one, other| one.1.total_cmp(&other.1)).map_or("database", |(name, _)| name);
        RunStages { workers, database, drawing, packing, writing, bottleneck }
    }
}

/// Two lines: the times of the consecutive parts of a run, in seconds, and the stage that limits the speed. `is_idle`
/// is true if nothing was rendered.
pub(crate) fn stage_lines(
    planning: f64,
    reading: f64,
    rendering: f64,
    finishing: f64,
    stages: &RunStages,
    is_idle: bool,
) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let RunStages { database, drawing, packing, writing, bottleneck, .. } = *stages;
    let limits = if is_idle { "nothing was rendered".to_owned() } else { format!("{bottleneck} limits the speed") };
    format!(
        "planning {}, reading rows {}, rendering {}, finishing {}\nbusy while rendering: database {}, drawing {}, packing {}, writing {}; {limits}\n",
        timed(planning),
        timed(reading),
        timed(rendering),
        timed(finishing),
        percent(database),
        percent(drawing),
        percent(packing),
        percent(writing),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stage_is_the_bottleneck() {
        let seconds = Duration::from_secs;
        let times = StageTimes { rendering: seconds(14), packing: seconds(6), writing: seconds(3) };
        let stages = RunStages::new(&times, seconds(12), seconds(10), 2);
        assert_eq!(
            stages,
            RunStages { workers: 2, database: 0.1, drawing: 0.6, packing: 0.3, writing: 0.3, bottleneck: "drawing" }
        );
        let slow_disk = StageTimes { writing: seconds(9), ..times };
        assert_eq!(RunStages::new(&slow_disk, seconds(12), seconds(10), 2).bottleneck, "writing");
        assert_eq!(RunStages::new(&times, seconds(0), seconds(10), 2).bottleneck, "database");
        // A run of no time at all.
        assert!(RunStages::new(&StageTimes::default(), seconds(0), seconds(0), 0).writing < 0.1);
    }
}
