//! `oar-tiles verify`: is a target what it should be, and does it show what the database holds now?

mod database;
mod look;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::target::{Place, Reach};
use super::{CommandError, interrupted, seed};
use crate::config::Settings;
use crate::encode::Packing;
use crate::report::{Findings, Report, print, render_findings};
use crate::stop::Stop;

/// How many tiles are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// All up to a hundred thousand, else a sample of ten thousand.
    Fitting,
    /// A sample of so many.
    Sample(NonZeroU64),
    /// Every one.
    All,
}

/// What `verify` was asked for.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// The target.
    pub target: String,
    /// How many tiles are looked into.
    pub amount: Amount,
    /// Compare the target with the database.
    pub database: bool,
    /// Where to write the findings as JSON.
    pub report: Option<PathBuf>,
}

impl Amount {
    /// How many of so many.
    fn of(self, total: u64) -> u64 {
        match self {
            Amount::Fitting if total > 100_000 => 10_000,
            Amount::Sample(count) => count.get().min(total),
            Amount::Fitting | Amount::All => total,
        }
    }
}

/// Runs `verify`.
///
/// # Errors
/// If the target cannot be read, or something is wrong with it: all of it was printed then.
pub async fn verify(
    options: &VerifyOptions,
    settings: &Settings,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    if let Some(path) = &options.report {
        seed::writable(path, Path::new(&options.target))?;
    }
    let place = Place::parse(&options.target)?;
    let mut settings = settings.clone();
    let (amount, asked, reach) = (options.amount, stop.clone(), Reach::new(&settings, false, stop));
    if !reach.packed(&place) {
        settings.limits.packing = Packing::Plain;
    }
    let looking = tokio::task::spawn_blocking(move || look::look(&place, &reach, amount, &asked));
    let mut looked = tokio::select! {
        looked = looking => looked.map_err(|error| CommandError::Died(error.to_string()))??,
        signal = stop.wait() => return Err(CommandError::Interrupted(signal)),
    };
    if options.database {
        looked = database::compare(looked, amount, &settings, report, stop).await.map_err(|e| interrupted(e, stop))?;
    }
    tell(&looked.findings, options)
}

fn tell(found: &Findings, options: &VerifyOptions) -> Result<(), CommandError> {
    print(&render_findings(found))?;
    if let Some(path) = &options.report {
        serde_json::to_vec_pretty(found)
            .map_err(std::io::Error::from)
            .and_then(|json| std::fs::write(path, json))
            .map_err(|source| CommandError::NoReport { path: path.clone(), source })?;
    }
    if found.findings.is_empty() {
        return Ok(());
    }
    Err(CommandError::Unsound { place: found.target.clone(), findings: found.counted() })
}
