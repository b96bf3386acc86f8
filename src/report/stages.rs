//! How the rendering time of a run was spent, and which stage limits its speed.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::timed;
use crate::pipeline::StageTimes;

/// How busy the stages were while tiles were rendered, each as a share of the time that it could have worked: from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
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
    #[must_use]
    pub fn new(times: &StageTimes, drawing: Duration, rendering: Duration, workers: usize) -> RunStages {
        let drawing = drawing.min(times.rendering);
        #[expect(clippy::cast_precision_loss, reason = "there are few workers")]
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

/// Two lines: the times of the consecutive parts of a run, in seconds, and the stage that limits the speed. `is_idle` is true if nothing was
/// rendered.
pub(super) fn stage_lines(
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
