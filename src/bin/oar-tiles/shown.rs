//! How a run is shown, and the output at its end.

use std::path::{Path, PathBuf};

use oar_tiles::config::{JobSettings, Progress};
use oar_tiles::exit::Exit;
use oar_tiles::report::{ReportFile, RunMetrics, Style, print, say_problem};
use oar_tiles::run::CommandError;
use oar_tiles::stop::Stop;
use serde::Serialize;

/// The style in which the run is shown.
pub(super) fn style(settings: &JobSettings, quiet: bool) -> Style {
    match settings.run.progress {
        _ if quiet => Style::Quiet,
        Progress::Auto => Style::Auto,
        Progress::Bar => Style::Bar,
        Progress::Lines => Style::Lines,
        Progress::Json => Style::Json,
        Progress::None => Style::Warnings,
    }
}

/// The output at the end of a run: a table, and a file.
pub(super) struct Closing {
    prints: bool,
    file: Option<ReportFile>,
}

impl Closing {
    /// Checks before the work that the file can be written.
    pub(super) fn new(prints: bool, file: Option<&PathBuf>, output: &Path) -> Result<Closing, CommandError> {
        let file = file.map(|path| ReportFile::new(path, output)).transpose()?;
        Ok(Closing { prints, file })
    }

    /// Prints the table and writes the file: the one also if the other fails.
    pub(super) fn show(&self, table: &str, value: &impl Serialize) -> Result<(), CommandError> {
        let printed = if self.prints { print(table).map_err(CommandError::from) } else { Ok(()) };
        let written = self.file.iter().try_for_each(|file| file.write(value)).map_err(CommandError::from);
        first_failure([printed, written])
    }
}

/// Writes how a run ended into the file of `--metrics`, if there is one.
pub(super) fn noted(metrics: &RunMetrics, ended: Result<(), CommandError>, stop: &Stop) -> Result<(), CommandError> {
    let exit = ended.as_ref().map_or_else(|error| Exit::of(error.kind(), stop.asked()), |()| Exit::Done);
    first_failure([ended, metrics.end(exit as u8).map_err(CommandError::from)])
}

/// The first failure of steps that were all tried. The others are reported here.
pub(super) fn first_failure<const N: usize>(ended: [Result<(), CommandError>; N]) -> Result<(), CommandError> {
    let mut first = Ok(());
    for step in ended {
        match (step, &first) {
            (Err(error), Ok(())) => first = Err(error),
            (Err(error), Err(_)) => say_problem(&error),
            (Ok(()), _) => {}
        }
    }
    first
}
