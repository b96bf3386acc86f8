//! A seed of all variants of a tileset, on one snapshot.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt as _;

use super::family::{FamilyCache, FamilyCachePart, FamilyRun, FamilySessions, FamilyTally, FamilyTargets};
use super::seed::{seed_once, seed_target};
use super::{CommandError, Family, FamilyOptions, FamilyOutcome, RowSource, TilesetRun, describe};
use crate::config::Settings;
use crate::error::ErrorKind;
use crate::postgis;
use crate::report::RunReport;
use crate::stop::Stop;

/// What the targets of a family are drawn from.
pub(crate) enum FamilySource {
    /// Rows that were read once for all targets.
    Cache(FamilyCachePart),
    /// Sessions that draw one variant after the other.
    Sessions(Arc<FamilySessions>),
    /// The target's own sessions, as many as the whole run may have.
    Own,
}

/// Seeds every variant of a tileset. Fails if the values cannot be read, or the database is lost. Variants that fail
/// are part of the outcome.
pub(crate) async fn seed_family(family: &Family, options: &FamilyOptions) -> Result<FamilyOutcome, CommandError> {
    let mut run = FamilyRun::begin(family, options).await?;
    let cache = Box::pin(run.cache()).await?.map(Arc::new);
    let cached =
        |cache: &Arc<FamilyCache>, variant| FamilySource::Cache(FamilyCachePart { cache: Arc::clone(cache), variant });
    let whole = async {
        let all = run.all.clone()?;
        let output = all.tileset.output.clone();
        // Without cached rows the tileset without conditions uses all sessions: it may have as many as all variants
        // together.
        let source = cache.as_ref().map_or(FamilySource::Own, |cache| cached(cache, None));
        Some((output, Box::pin(seed_family_target(&run.targets, all, source)).await))
    };
    let members = async {
        match &cache {
            Some(cache) => run.read_members(cache).await,
            None => Ok(false),
        }
    };
    let (whole, has_members) = futures_util::join!(whole, members);
    if let Some((output, done)) = whole {
        note(&mut run.tally, output, done, &options.stop)?;
    }
    let has_members = has_members?;
    let cache = cache.filter(|_| has_members);
    let sessions = match cache {
        Some(_) => None,
        None => Box::pin(run.sessions()).await?.map(Arc::new),
    };
    let source = |number| match (&cache, &sessions) {
        (Some(cache), _) => cached(cache, Some(number)),
        (None, Some(sessions)) => FamilySource::Sessions(Arc::clone(sessions)),
        (None, None) => FamilySource::Own,
    };
    // Without cached rows and shared sessions, each variant has as many sessions as the whole run may have, so only one
    // runs at a time.
    let side_by_side = match (&cache, &sessions) {
        (Some(_), _) => family.settings().run.workers.get(),
        (None, Some(sessions)) => sessions.count,
        (None, None) => 1,
    };
    let (targets, table) = (&run.targets, &run.members.table);
    let each = table.rows.iter().enumerate().map(|(number, row)| {
        let (settings, source) = (family.variant(&table.parameters, row), source(number));
        async move {
            let settings = settings?;
            let output = settings.tileset.output.clone();
            Ok::<_, CommandError>((output, Box::pin(seed_family_target(targets, settings, source)).await))
        }
    });
    let mut ended = Box::pin(futures_util::stream::iter(each).buffer_unordered(side_by_side));
    while let Some(target) = ended.next().await {
        let (output, done): (PathBuf, _) = target?;
        note(&mut run.tally, output, done, &options.stop)?;
    }
    drop(ended);
    run.finish().await
}

/// Notes the outcome of a target's seed.
fn note(
    tally: &mut FamilyTally,
    output: PathBuf,
    done: Result<RunReport, CommandError>,
    stop: &Stop,
) -> Result<(), CommandError> {
    match done {
        Ok(done) => {
            tally.seeded(output, &done);
            Ok(())
        }
        Err(error) => tally.failed(&output, error, stop),
    }
}

/// Seeds one target of a family, and tells CDNs.
pub(crate) async fn seed_family_target(
    targets: &FamilyTargets<'_>,
    settings: Settings,
    source: FamilySource,
) -> Result<RunReport, CommandError> {
    let tileset_run = targets.tileset_run(settings)?;
    let done = match source {
        FamilySource::Own => None,
        FamilySource::Cache(part) => {
            match seed_target(&tileset_run.clone().with_rows(RowSource::FamilyCache(part))).await {
                // The target has a point that only the database can draw.
                Err(CommandError::Database(postgis::Error::NeedsDatabase { .. })) => None,
                done => Some(done?),
            }
        }
        FamilySource::Sessions(sessions) => in_session(&tileset_run, &sessions).await?,
    };
    let done = if let Some(done) = done {
        done
    } else {
        let _alone = targets.alone.lock().await;
        seed_target(&tileset_run).await?
    };
    tileset_run.purge_published(false).await?;
    describe::check_complete(&done.output, &done.failed)?;
    Ok(done)
}

/// Seeds a variant in one of the family's sessions; `None` if it has to start over in sessions of its own.
async fn in_session(
    tileset_run: &TilesetRun,
    sessions: &Arc<FamilySessions>,
) -> Result<Option<RunReport>, CommandError> {
    let done = async {
        let part = sessions.take().await?;
        let done = seed_once(&tileset_run.clone().with_rows(RowSource::FamilySession(part.clone()))).await?;
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
pub(crate) async fn plan_family(family: &Family, options: &FamilyOptions) -> Result<String, CommandError> {
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
