//! How a run is shown, and the output at its end.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tilesets::file_of;
use crate::config::{Progress, Settings};
use crate::exit::Exit;
use crate::report::{ReportFile, RunMetrics, Style, print, say_problem};
use crate::run::CommandError;
use crate::stop::Stop;

/// The style in which the run is shown.
pub(crate) fn style(settings: &Settings, quiet: bool) -> Style {
    match settings.run.section.progress {
        _ if quiet => Style::Quiet,
        Progress::Auto => Style::Auto,
        Progress::Bar => Style::Bar,
        Progress::Lines => Style::Lines,
        Progress::Json => Style::Json,
        Progress::None => Style::Warnings,
    }
}

/// The output at the end of a run: a table, and a file.
pub(crate) struct Closing {
    prints: bool,
    file: Option<ReportFile>,
}

impl Closing {
    /// Checks before the work that the file can be written.
    pub(crate) fn new(prints: bool, file: Option<&PathBuf>, output: &Path) -> Result<Closing, CommandError> {
        let file = file.map(|path| ReportFile::new(path, output)).transpose()?;
        Ok(Closing { prints, file })
    }

    /// Prints the table and writes the file: the one also if the other fails.
    pub(crate) fn show(&self, table: &str, value: &impl Serialize) -> Result<(), CommandError> {
        let printed = if self.prints { print(table).map_err(CommandError::from) } else { Ok(()) };
        let written = self.file.iter().try_for_each(|file| file.write(value)).map_err(CommandError::from);
        first_failure([printed, written])
    }
}

/// The files that the flags of a run name.
pub(crate) struct ClosingFiles<'a> {
    pub(crate) report: &'a Option<PathBuf>,
    pub(crate) metrics: &'a Option<PathBuf>,
}

impl ClosingFiles<'_> {
    /// Checks before the work that the files of this tileset can be written. `output` is its output in metrics.
    pub(crate) fn begin(
        &self,
        verb: &'static str,
        settings: &Settings,
        style: Style,
        output: &Path,
    ) -> Result<(Closing, RunMetrics), CommandError> {
        let own = |path: &Option<PathBuf>| file_of(path.as_ref(), &settings.tileset.name);
        let prints = !matches!(style, Style::Json | Style::Quiet);
        let closing = Closing::new(prints, own(self.report).as_ref(), &settings.tileset.output)?;
        Ok((closing, RunMetrics::begin(own(self.metrics).as_deref(), verb, output)?))
    }
}

/// Writes how a run ended into the file of `--metrics`, if there is one.
pub(crate) fn noted(metrics: &RunMetrics, ended: Result<(), CommandError>, stop: &Stop) -> Result<(), CommandError> {
    let exit = ended.as_ref().map_or_else(|error| Exit::of(error.kind(), stop.asked()), |()| Exit::Done);
    first_failure([ended, metrics.end(exit as u8).map_err(CommandError::from)])
}

/// The first failure of steps that were all tried. The others are reported here.
pub(crate) fn first_failure<const N: usize>(ended: [Result<(), CommandError>; N]) -> Result<(), CommandError> {
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
