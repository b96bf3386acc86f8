//! Checks that a process has the settings and the database of the plan. Otherwise its tiles would differ, and nothing would report it.

use std::sync::Arc;

use crate::manifest::{DatabaseIdentity, DatabaseMark, Witness};
use crate::postgis::{Layer, Reads};
use crate::run::describe::{LogIdentity, compare, fingerprint};
use crate::run::{CommandError, Job, OTHER_HISTORY};
use crate::shards::{ShardPlan, ShardsError, WorkFolder};
use crate::tile::{AreaPart, ZoomList};

/// The zooms of a plan.
///
/// # Errors
/// If the plan is damaged.
pub fn zooms_of(plan: &ShardPlan) -> Result<ZoomList, CommandError> {
    plan.zooms.parse().map_err(|error: crate::tile::ZoomError| damaged(error.to_string()))
}

/// The boxes of a plan.
///
/// # Errors
/// If the plan is damaged.
pub fn boxes_of(plan: &ShardPlan) -> Result<Vec<AreaPart>, CommandError> {
    plan.bbox
        .iter()
        .map(|text| text.parse().map_err(|error: crate::tile::BoxError| damaged(error.to_string())))
        .collect()
}

pub(super) fn damaged(what: String) -> CommandError {
    ShardsError::Damaged { place: "the plan".to_owned(), what }.into()
}

/// Refuses settings that name other tiles or another target than the plan.
pub(super) fn check_settings(job: &Job, work: &WorkFolder, plan: &ShardPlan) -> Result<(), CommandError> {
    let tileset = &job.settings.tileset;
    let bbox: Vec<String> = tileset.bbox.iter().map(AreaPart::to_string).collect();
    let of = |what: &str, ours: &str, theirs: &str| format!("{what} is {ours:?} here, and {theirs:?} in the plan");
    let what = if tileset.zooms.to_string() != plan.zooms {
        of("zoom", &tileset.zooms.to_string(), &plan.zooms)
    } else if bbox != plan.bbox {
        of("bbox", &bbox.join(" "), &plan.bbox.join(" "))
    } else if job.target.to_string() != plan.output {
        of("output", &job.target.to_string(), &plan.output)
    } else {
        return Ok(());
    };
    Err(ShardsError::OtherSettings { work: work.name.clone(), run: plan.run.clone(), what }.into())
}

/// Refuses a database that is not the continuation of one that the plan or a shard has seen.
pub(super) fn check_history<'a>(
    work: &WorkFolder,
    run: &str,
    log: Option<&LogIdentity>,
    witnesses: impl IntoIterator<Item = &'a Witness>,
) -> Result<(), ShardsError> {
    if !log.is_some_and(|log| log.contradicts(witnesses)) {
        return Ok(());
    }
    Err(ShardsError::OtherDatabase { work: work.name.clone(), run: run.to_owned(), why: OTHER_HISTORY.to_owned() })
}

/// Refuses layers or a database that are not those of the plan.
pub(super) fn check_database(
    job: &Job,
    work: &WorkFolder,
    plan: &ShardPlan,
    layers: &[Arc<Layer>],
    reads: &Reads,
    identity: &DatabaseIdentity,
) -> Result<(), CommandError> {
    let (work, run) = (work.name.clone(), plan.run.clone());
    if let Err(why) = compare(Some(&DatabaseMark::Plain(plan.database.clone())), identity, None) {
        let why = why.replacen("it shows", "its plan is of", 1).replace(": its snapshot says nothing here", "");
        return Err(ShardsError::OtherDatabase { work, run, why }.into());
    }
    let ours = fingerprint(&job.settings, layers);
    let what = if ours != plan.fingerprint {
        format!("their fingerprint is {ours}, and that of the plan {}", plan.fingerprint)
    } else if reads.digest != plan.reads {
        "the tables and views that the layers read are not those of then: one was replaced, redefined, attached or detached"
            .to_owned()
    } else {
        return Ok(());
    };
    Err(ShardsError::OtherSettings { work, run, what }.into())
}
