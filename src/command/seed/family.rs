//! A seed of all variants of a tileset, on one snapshot.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::Mutex;

use crate::config::JobSettings;
use crate::error::ErrorKind;
use crate::report::RunReport;
use crate::run::describe::budgets;
use crate::run::seed::{seed_once, seed_target};
use crate::run::variants::{FamilyCache, FamilyCachePart, FamilyRun, FamilySessions, FamilyTally, FamilyTargets};
use crate::run::{CommandError, Family, FamilyOptions, FamilyOutcome, Job};
use crate::stop::Stop;

/// The source of the tiles of the family's targets.
enum FamilySource {
    /// Rows that were read once for all targets.
    Cache(Arc<FamilyCache>),
    /// Sessions that draw one variant after the other.
    Sessions(Arc<FamilySessions>),
    /// Each target's own sessions.
    Own,
}

/// Seeds every variant of a tileset.
///
/// # Errors
/// If the values cannot be read, or the database is lost. Variants that fail are part of the outcome.
pub async fn seed_family(family: &Family, options: &FamilyOptions) -> Result<FamilyOutcome, CommandError> {
    let mut run = FamilyRun::begin(family, options).await?;
    let cache = Box::pin(run.cache()).await?.map(Arc::new);
    // Without cached rows the tileset without conditions uses all sessions: it may have as many as all variants together.
    let source = cache.as_ref().map_or(FamilySource::Own, |cache| FamilySource::Cache(Arc::clone(cache)));
    let seeds = TargetSeeds { targets: &run.targets, source, own: Mutex::new(()) };
    let whole = async {
        let all = run.all.clone()?;
        let output = all.tileset.output.clone();
        Some((output, Box::pin(seeds.one(all, None)).await))
    };
    let members = async {
        match &cache {
            Some(cache) => run.read_members(cache).await,
            None => Ok(false),
        }
    };
    let (whole, has_members) = futures_util::join!(whole, members);
    drop(seeds);
    if let Some((output, done)) = whole {
        note(&mut run.tally, &mut run.published, output, done, &options.stop)?;
    }
    let has_members = has_members?;
    let source = match cache.filter(|_| has_members) {
        Some(cache) => FamilySource::Cache(cache),
        None => {
            Box::pin(run.sessions()).await?.map_or(FamilySource::Own, |open| FamilySource::Sessions(Arc::new(open)))
        }
    };
    // Without cached rows and shared sessions, each variant has as many sessions as the whole run may have, so only one runs at a time.
    let side_by_side = match &source {
        FamilySource::Cache(_) => family.settings().run.workers.get(),
        FamilySource::Sessions(sessions) => sessions.count(),
        FamilySource::Own => 1,
    };
    let (seeds, table) = (TargetSeeds { targets: &run.targets, source, own: Mutex::new(()) }, &run.members.table);
    let each = table.rows.iter().enumerate().map(|(number, row)| {
        let (settings, seeds) = (family.variant(&table.parameters, row), &seeds);
        async move {
            let settings = settings?;
            let output = settings.tileset.output.clone();
            Ok::<_, CommandError>((output, Box::pin(seeds.one(settings, Some(number))).await))
        }
    });
    let mut ended = Box::pin(futures_util::stream::iter(each).buffer_unordered(side_by_side));
    while let Some(target) = ended.next().await {
        let (output, done): (PathBuf, _) = target?;
        note(&mut run.tally, &mut run.published, output, done, &options.stop)?;
    }
    drop(ended);
    drop(seeds);
    run.finish().await
}

/// Notes the outcome of a target's seed.
fn note(
    tally: &mut FamilyTally,
    published: &mut HashMap<PathBuf, String>,
    output: PathBuf,
    done: Result<RunReport, CommandError>,
    stop: &Stop,
) -> Result<(), CommandError> {
    match done {
        Ok(done) => {
            tally.seeded(&done);
            published.extend(done.manifest.publication.map(|publication| (output, publication.id)));
            Ok(())
        }
        Err(error) => tally.failed(output.display().to_string(), error, stop),
    }
}

/// The seeds of a family's targets.
struct TargetSeeds<'a> {
    targets: &'a FamilyTargets<'a>,
    source: FamilySource,
    /// Locked by the one target that has as many sessions as the whole run may have.
    own: Mutex<()>,
}

impl TargetSeeds<'_> {
    /// Seeds one target: the variant with this number, or the tileset without conditions if it is `None`.
    async fn one(&self, settings: JobSettings, variant: Option<usize>) -> Result<RunReport, CommandError> {
        let job = self.targets.job(settings)?;
        let done = match &self.source {
            FamilySource::Own => None,
            FamilySource::Cache(cache) => {
                let cache = Some(FamilyCachePart { cache: Arc::clone(cache), variant });
                match seed_target(&Job { family_cache: cache, ..job.clone() }).await {
                    // The target has a point that only the database can draw.
                    Err(CommandError::Database(crate::postgis::Error::NeedsDatabase { .. })) => None,
                    done => Some(done?),
                }
            }
            FamilySource::Sessions(sessions) => in_session(&job, sessions).await?,
        };
        let done = if let Some(done) = done {
            done
        } else {
            let _alone = self.own.lock().await;
            seed_target(&job).await?
        };
        job.purge_published(false).await?;
        budgets::complete(&done.output, &done.failed)?;
        Ok(done)
    }
}

/// Seeds a variant in one of the family's sessions; `None` if it has to start over in sessions of its own.
async fn in_session(job: &Job, sessions: &Arc<FamilySessions>) -> Result<Option<RunReport>, CommandError> {
    let done = async {
        let part = sessions.take().await?;
        let done = seed_once(&Job { session: Some(part.clone()), ..job.clone() }).await?;
        // After an error the state of the session is unknown, so it is not given back.
        part.give_back();
        Ok::<_, CommandError>(done)
    };
    match done.await {
        Err(error) if matches!(error.kind(), ErrorKind::Transient(_)) => {
            tracing::debug!("{error}: the variant is seeded in sessions of its own");
            Ok(None)
        }
        done => done.map(Some),
    }
}

/// The plan of a family's seed: a line for each target, with the values of the variant.
///
/// # Errors
/// If the values cannot be read.
pub async fn plan_family(family: &Family, options: &FamilyOptions) -> Result<String, CommandError> {
    let run = FamilyRun::begin(family, options).await?;
    let mut lines: Vec<String> = run.all.iter().map(|all| format!("{}: all\n", all.tileset.output.display())).collect();
    let table = &run.members.table;
    for (segments, row) in run.members.segments.iter().zip(&table.rows) {
        let values: Vec<String> = table
            .parameters
            .iter()
            .zip(row)
            .map(|(parameter, value)| format!("{} = {value}", parameter.name))
            .collect();
        lines.push(format!("{}: {}\n", family.output_of(segments).display(), values.join(", ")));
    }
    lines.push(format!("{} variants; nothing was written\n", table.rows.len()));
    Ok(lines.concat())
}
