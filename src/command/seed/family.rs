//! A seed of all variants of a tileset, on one snapshot.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::config::JobSettings;
use crate::report::RunReport;
use crate::run::describe::budgets;
use crate::run::seed::seed_target;
use crate::run::variants::{FamilyRun, FamilyTargets, StockPart};
use crate::run::{CommandError, Family, FamilyOptions, FamilyOutcome};

/// Seeds every variant of a tileset.
///
/// # Errors
/// If the values cannot be read, or the database is lost. Variants that fail are part of the outcome.
pub async fn seed_family(family: &Family, options: &FamilyOptions) -> Result<FamilyOutcome, CommandError> {
    let mut run = FamilyRun::begin(family, options).await?;
    let stock = Box::pin(run.stock()).await?.map(Arc::new);
    let (targets, table) = (&run.targets, &run.members.table);
    let all = run.all.clone();
    let numbers = all.iter().map(|_| None).chain((0..table.rows.len()).map(Some));
    let each = numbers.map(|variant| {
        let stock = stock.clone().map(|stock| StockPart { stock, variant });
        let settings = match (variant, &all) {
            (Some(number), _) => family.variant(&table.parameters, &table.rows[number]),
            (None, Some(all)) => Ok(all.clone()),
            (None, None) => Ok(family.settings().clone()),
        };
        async move {
            let settings = settings?;
            let output = settings.tileset.output.clone();
            Ok::<_, CommandError>((output, Box::pin(one(targets, settings, stock)).await))
        }
    });
    // Without the rows of all, each has as many sessions as the whole run may have.
    let side_by_side = if stock.is_some() { family.settings().run.workers.get() } else { 1 };
    let mut ended = Box::pin(futures_util::stream::iter(each).buffer_unordered(side_by_side));
    while let Some(target) = ended.next().await {
        let (output, done): (PathBuf, _) = target?;
        match done {
            Ok(done) => {
                run.tally.seeded(&done);
                run.published.extend(done.manifest.publication.map(|publication| (output, publication.id)));
            }
            Err(error) => run.tally.failed(output.display().to_string(), error, &options.stop)?,
        }
    }
    drop(ended);
    run.finish().await
}

/// Seeds one target.
async fn one(
    targets: &FamilyTargets<'_>,
    settings: JobSettings,
    stock: Option<StockPart>,
) -> Result<RunReport, CommandError> {
    let job = targets.job(settings)?;
    let with_stock = crate::run::Job { stock: stock.clone(), ..job.clone() };
    let done = match seed_target(&with_stock).await {
        // A point that only the database can draw.
        Err(CommandError::Database(crate::postgis::Error::NeedsDatabase { .. })) => seed_target(&job).await?,
        done => done?,
    };
    job.purge_published(false).await?;
    budgets::complete(&done.output, &done.failed)?;
    Ok(done)
}

/// What a seed of a family would make: a line for each target, with the values of the variant.
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
