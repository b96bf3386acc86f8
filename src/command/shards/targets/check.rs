//! Checks that a configuration can be divided into whole targets, and that it is the plan's configuration.

use std::sync::Arc;

use md5::{Digest as _, Md5};

use crate::config::JobSettings;
use crate::postgis::probe;
use crate::report::Report;
use crate::run::target::TargetUrl;
use crate::run::{CommandError, Family, Job};
use crate::shards::{PlannedTileset, ShardsError, TargetsPlan, WorkFolder};
use crate::stop::Stop;
use crate::tile::AreaPart;

use super::super::begin::check_tracked;
use super::super::check::damaged;

/// A tileset as the plan names it, with a hash of its configuration. The commit compares the shards' targets once more, by their fingerprints.
pub(super) fn planned_tileset(settings: &JobSettings, targets: u64) -> PlannedTileset {
    let tileset = &settings.tileset;
    let mut hash = Md5::new();
    for layer in &tileset.layers {
        hash.update(format!("{:?}\n", layer.options));
    }
    let family = Family::of(settings);
    if let Some(family) = &family {
        hash.update(format!("{:?}", family.settings_mark()));
    }
    hash.update(settings.run.limits.packing.definition());
    PlannedTileset {
        name: tileset.name.clone(),
        output: family.map_or_else(|| tileset.output.display().to_string(), |family| family.output()),
        zooms: tileset.zooms.to_string(),
        bbox: tileset.bbox.iter().map(AreaPart::to_string).collect(),
        settings: hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        targets,
    }
}

/// The settings of a command with the zooms and boxes of the plan, unless flags give others.
///
/// # Errors
/// If the plan is damaged.
pub fn of_targets_plan(
    mut all: Vec<JobSettings>,
    plan: &TargetsPlan,
    names_zooms: bool,
    names_boxes: bool,
) -> Result<Vec<JobSettings>, CommandError> {
    for (settings, planned) in all.iter_mut().zip(&plan.tilesets) {
        if !names_zooms {
            let zooms = planned.zooms.parse();
            settings.tileset.zooms = zooms.map_err(|error: crate::tile::ZoomError| damaged(error.to_string()))?;
        }
        if !names_boxes {
            let boxes = planned.bbox.iter().map(|text| text.parse());
            let boxes: Result<_, _> = boxes.collect();
            settings.tileset.bbox = boxes.map_err(|error: crate::tile::BoxError| damaged(error.to_string()))?;
        }
    }
    Ok(all)
}

/// Refuses tilesets that are not those of the plan.
pub(super) fn check_tilesets(all: &[JobSettings], work: &WorkFolder, plan: &TargetsPlan) -> Result<(), CommandError> {
    let other = |what: String| -> CommandError {
        ShardsError::OtherSettings { work: work.name.clone(), run: plan.run.clone(), what }.into()
    };
    let names = |names: Vec<&str>| names.join(", ");
    let (ours, theirs) = (
        names(all.iter().map(|settings| settings.tileset.name.as_str()).collect()),
        names(plan.tilesets.iter().map(|tileset| tileset.name.as_str()).collect()),
    );
    if ours != theirs {
        return Err(other(format!("the tilesets are {ours} here, and {theirs} in the plan")));
    }
    for (settings, theirs) in all.iter().zip(&plan.tilesets) {
        let ours = planned_tileset(settings, theirs.targets);
        let of = |what: &str, ours: &str, theirs: &str| format!("{what} is {ours:?} here, and {theirs:?} in the plan");
        let what = if ours.zooms != theirs.zooms {
            of("zoom", &ours.zooms, &theirs.zooms)
        } else if ours.bbox != theirs.bbox {
            of("bbox", &ours.bbox.join(" "), &theirs.bbox.join(" "))
        } else if ours.output != theirs.output {
            of("output", &ours.output, &theirs.output)
        } else if ours.settings != theirs.settings {
            format!("the layers or variants of {}", theirs.name)
        } else {
            continue;
        };
        return Err(other(what));
    }
    Ok(())
}

/// Refuses tilesets whose shards could not be brought to one state.
pub(super) async fn check_divisible(
    settings: &JobSettings,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    if let Some(layer) = settings.tileset.layers.iter().find(|layer| layer.options.refresh) {
        return Err(ShardsError::RefreshesOfTargets { layer: layer.options.name.clone() }.into());
    }
    let job = job_of(settings, false, report, stop)?;
    if matches!(job.target.url, TargetUrl::S3Prefix { .. }) && !job.target.can_share_version() {
        return Err(ShardsError::InPlace { target: job.target.to_string() }.into());
    }
    for settings in settings.tracked(report, stop).await? {
        let job = Job::new(settings, false, report, stop)?;
        let database = job.database()?;
        let snapshot = Arc::new(database.snapshot().await?);
        let options: Vec<_> = job.settings.tileset.layers.iter().map(|layer| layer.options.clone()).collect();
        let probed = probe(&snapshot, &options).await?;
        let refused = |why| ShardsError::NoStateOfTargets { why };
        check_tracked(&job, &database, &snapshot, &probed.layers, &probed.reads, refused).await?;
    }
    Ok(())
}

/// A run with the settings of a tileset. For a family, its target is not a variant's.
pub(super) fn job_of(
    settings: &JobSettings,
    force: bool,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<Job, CommandError> {
    match Family::of(settings) {
        Some(family) => family.watched(report, stop),
        None => Job::new(settings.clone(), force, report, stop),
    }
}
