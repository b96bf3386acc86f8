//! The closing table as JSON, in the file of `--report`.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::document::JsonDocument;

/// When a file that a command writes beside its work could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMoment {
    /// Before the work: nothing was begun.
    Before,
    /// After the work, which stays done.
    After,
}

impl FileMoment {
    /// What is done, and what to do, for the file that `flag` names. `work` is what is done, or is not, after the work.
    #[must_use]
    pub fn advice(self, flag: &str, work: &str) -> String {
        match self {
            FileMoment::Before => format!("choose another {flag}; nothing was begun"),
            FileMoment::After => format!("{work}. Make room for the file, or choose another {flag}"),
        }
    }
}

/// What a run has done when one of its files cannot be written.
pub(crate) const WORK_IS_DONE: &str = "what the command stored is stored and published, and only this file is missing";

/// The report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {}: {}", path.display(), moment.advice("--report", WORK_IS_DONE))]
pub struct ReportFileError {
    /// The path of the file.
    pub path: PathBuf,
    /// When.
    pub moment: FileMoment,
    /// The cause.
    pub source: io::Error,
}

/// A file to which a report will be written.
#[derive(Debug, Clone)]
pub struct ReportFile(PathBuf);

impl ReportFile {
    /// Checks before the run that the report can be written after it.
    ///
    /// # Errors
    /// If the file cannot be written, or if it is the output of the run.
    pub fn new(path: &Path, output: &Path) -> Result<ReportFile, ReportFileError> {
        match check_writable(path, output) {
            Ok(()) => Ok(ReportFile(path.to_owned())),
            Err(source) => Err(ReportFileError { path: path.to_owned(), moment: FileMoment::Before, source }),
        }
    }

    /// Writes a value, which has to be an object, as JSON with the version of its form.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, value: &impl Serialize) -> Result<(), ReportFileError> {
        serde_json::to_vec_pretty(&JsonDocument::new(value))
            .map_err(io::Error::from)
            .and_then(|json| std::fs::write(&self.0, json))
            .map_err(|source| ReportFileError { path: self.0.clone(), moment: FileMoment::After, source })
    }
}

/// Writes a document into a file that the user has named. `output` is the target from which the document was made.
///
/// # Errors
/// If the file cannot be written, or is the target: the error that `failed` makes.
pub(crate) fn write_document<E>(
    path: &Path,
    output: &Path,
    document: &[u8],
    failed: impl Fn(FileMoment, io::Error) -> E,
) -> Result<(), E> {
    check_writable(path, output).map_err(|source| failed(FileMoment::Before, source))?;
    std::fs::write(path, document).map_err(|source| failed(FileMoment::After, source))
}

/// Checks that a file can be written and is not the output of the run. Leaves no file behind, because the run may still fail.
pub(crate) fn check_writable(path: &Path, output: &Path) -> io::Result<()> {
    let is_output = matches!((path.canonicalize(), output.canonicalize()), (Ok(path), Ok(output)) if path == output);
    if is_output || path == output {
        return Err(io::Error::other("it would replace the output"));
    }
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    }
}
