//! `oar-tiles shards`: one seed in parts, which the machines of an existing scheduler render. `src/shards` describes the parts and their files.
//!
//! | file | what |
//! |---|---|
//! | `begin` | the plan |
//! | `weigh` | what tiles and rows cost |
//! | `simulation` | simulates shards of very many features |
//! | `hold` | keeps the snapshot of a held run |
//! | `check` | whether a process has the settings and the database of the plan |
//! | `attempt` | an attempt at a shard: its slot, its heartbeat, its end |
//! | `run` | renders one shard |
//! | `slots` | how many shards may be connected at once |
//! | `missing` | finds out which shards are missing |
//! | `catch_up` | waits for a database that is behind |
//! | `commit` | counts, merges, publishes |
//! | `repair` | renders again what changed since the snapshots of the shards |
//! | `stream` | the edits of all shards, handed to the target |
//! | `status` | `status` and `abort` |

use crate::config::JobSettings;
use crate::report::{Style, report};
use crate::run::{CommandError, Job};
use crate::shards::WorkFolder;
use crate::stop::Stop;

mod attempt;
mod begin;
mod catch_up;
mod check;
mod commit;
mod hold;
mod missing;
mod repair;
mod run;
#[cfg(test)]
mod simulation;
mod slots;
mod status;
mod stream;
mod weigh;

pub use attempt::ShardEnd;
pub use begin::{BeginOptions, BegunRun, begin};
pub use check::{boxes_of, zooms_of};
pub use commit::commit;
pub use hold::hold;
pub use run::run;

pub use status::{abort, status};

/// A job for commands that need only the settings: how targets and the work folder are reached.
///
/// # Errors
/// If the settings name no target.
pub fn quiet_job(settings: &JobSettings, stop: &Stop) -> Result<Job, CommandError> {
    Job::new(settings.clone(), false, &report(Style::Nothing), stop)
}

/// The work folder that `work` names, reached as the settings say.
///
/// # Errors
/// If `work` names no folder and no prefix of a bucket.
pub fn folder(settings: &JobSettings, work: &str, stop: &Stop) -> Result<WorkFolder, CommandError> {
    quiet_job(settings, stop)?.work_folder(work)
}
