//! How a run is shown, and the output at its end.

use std::path::{Path, PathBuf};

use oar_tiles::config::{JobSettings, Progress};
use oar_tiles::exit::Exit;
use oar_tiles::report::{ReportFile, RunMetrics, Style, print};
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

    pub(super) fn show(&self, table: &str, value: &impl Serialize) -> Result<(), CommandError> {
        if self.prints {
            print(table)?;
        }
        self.file.iter().try_for_each(|file| file.write(value))?;
        Ok(())
    }
}

/// Writes how a run ended into the file of `--metrics`, if there is one.
pub(super) fn noted(metrics: &RunMetrics, ended: Result<(), CommandError>, stop: &Stop) -> Result<(), CommandError> {
    let exit = ended.as_ref().map_or_else(|error| Exit::of(error.kind(), stop.asked()), |()| Exit::Done);
    let written = metrics.end(exit as u8);
    ended?;
    Ok(written?)
}
