//! A seed of all variants of a tileset, on one snapshot.

use crate::config::JobSettings;
use crate::run::describe::budgets;
use crate::run::seed::seed_target;
use crate::run::variants::FamilyRun;
use crate::run::{CommandError, Family, FamilyOptions, FamilyOutcome};

/// Seeds every variant of a tileset.
///
/// # Errors
/// If the values cannot be read, or the database is lost. Variants that fail are part of the outcome.
pub async fn seed_family(family: &Family, options: &FamilyOptions) -> Result<FamilyOutcome, CommandError> {
    let mut run = FamilyRun::begin(family, options).await?;
    if let Some(all) = run.all.take() {
        one(&mut run, all).await?;
    }
    for number in 0..run.members.table.rows.len() {
        let table = &run.members.table;
        let settings = family.variant(&table.parameters, &table.rows[number])?;
        one(&mut run, settings).await?;
    }
    run.finish().await
}

/// Seeds one target. That it fails does not stop the others.
async fn one(run: &mut FamilyRun<'_>, settings: JobSettings) -> Result<(), CommandError> {
    let path = settings.tileset.output.clone();
    let output = path.display().to_string();
    let seeded = async {
        let job = run.job(settings)?;
        let done = seed_target(&job).await?;
        job.purge_published(false).await?;
        budgets::complete(&done.output, &done.failed)?;
        Ok(done)
    };
    match seeded.await {
        Ok(done) => {
            run.published(path, done.manifest.publication.as_ref());
            run.tally.seeded(&done);
        }
        Err(error) => run.tally.failed(output, error, &run.options.stop)?,
    }
    Ok(())
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
