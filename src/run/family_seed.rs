//! A seed of one target of a family, from the cached rows of all variants if there are any.

use super::seed::seed_target;
use super::variants::{FamilyCachePart, FamilyTargets};
use super::{CommandError, Job};
use crate::config::JobSettings;
use crate::report::RunReport;

/// Seeds one target of a family, and notifies CDNs. The report contains what could not be rendered.
pub(crate) async fn seed_one(
    targets: &FamilyTargets<'_>,
    settings: JobSettings,
    cache: Option<FamilyCachePart>,
) -> Result<RunReport, CommandError> {
    let job = targets.job(settings)?;
    let with_cache = Job { family_cache: cache, ..job.clone() };
    let done = match seed_target(&with_cache).await {
        // The target has a point that only the database can draw.
        Err(CommandError::Database(crate::postgis::Error::NeedsDatabase { .. })) => seed_target(&job).await?,
        done => done?,
    };
    job.purge_published(false).await?;
    Ok(done)
}
