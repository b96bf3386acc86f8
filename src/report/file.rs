//! The closing table as JSON, in the file of `--report`.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::document::JsonDocument;

/// The report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the report {}: choose another --report", path.display())]
pub struct ReportFileError {
    /// The path of the file.
    pub path: PathBuf,
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
            Err(source) => Err(ReportFileError { path: path.to_owned(), source }),
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
            .map_err(|source| ReportFileError { path: self.0.clone(), source })
    }
}

/// Writes a document into a file that the user has named. `output` is the target from which the document was made.
///
/// # Errors
/// If the file cannot be written, or is the target.
pub(crate) fn write_document(path: &Path, output: &Path, document: &[u8]) -> io::Result<()> {
    check_writable(path, output)?;
    std::fs::write(path, document)
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
