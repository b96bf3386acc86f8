//! `oar-tiles verify`: checks a target's structure, counts and tiles, and compares it with the database.

mod database;
mod look;

use std::num::NonZeroU64;

use crate::report::Findings;
use crate::run::{CommandError, Job, interrupted};
use crate::tile::{AreaPart, Coverage};

/// How many tiles are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TilesToCheck {
    /// All of up to 100,000 tiles, else a sample of 10,000.
    Fitting,
    /// A sample of this many tiles.
    Sample(NonZeroU64),
    /// Every tile.
    All,
}

/// The options of `verify`.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// How many tiles are decoded and compared.
    pub amount: TilesToCheck,
    /// Compare the target with the database.
    pub database: bool,
    /// Decode and compare only tiles that these parts of the world touch; all if empty.
    pub area: Vec<AreaPart>,
}

impl TilesToCheck {
    /// The number of tiles to decode, if there are `total` tiles.
    fn of(self, total: u64) -> u64 {
        match self {
            TilesToCheck::Fitting if total > 100_000 => 10_000,
            TilesToCheck::Sample(count) => count.get().min(total),
            TilesToCheck::Fitting | TilesToCheck::All => total,
        }
    }
}

/// Checks the job's target.
///
/// # Errors
/// If the target cannot be read.
pub async fn verify(job: &Job, options: &VerifyOptions) -> Result<Findings, CommandError> {
    let (amount, target, stop) = (options.amount, job.target.clone(), job.stop.clone());
    let area = Coverage::new(&options.area);
    let looking = tokio::task::spawn_blocking(move || look::look(&target, amount, area, &stop));
    let mut looked = tokio::select! {
        looked = looking => looked.map_err(|error| CommandError::Died(error.to_string()))??,
        signal = job.stop.wait() => return Err(CommandError::Interrupted(signal)),
    };
    if options.database {
        looked = database::compare(looked, amount, &options.area, job)
            .await
            .map_err(|error| interrupted(error, &job.stop))?;
    }
    Ok(looked.findings)
}

/// # Errors
/// If there are findings.
pub fn sound(found: &Findings) -> Result<(), CommandError> {
    if found.findings.is_empty() {
        return Ok(());
    }
    Err(CommandError::Unsound { target: found.target.clone(), findings: found.counted() })
}
