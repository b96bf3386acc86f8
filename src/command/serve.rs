//! `oar-tiles serve` and `oar-tiles preview`: a target over HTTP.

use std::sync::Arc;

use crate::run::{CommandError, Job, TargetUrl};
use crate::serve::{
    ServeError, ServeOptions, TargetOpener, TargetWatch, TileServer, files_of_archive, files_of_directory,
};
use crate::sink::ReadError;

/// Opens the job's target and begins to listen.
///
/// # Errors
/// If the target cannot be read or an address cannot be used.
pub async fn start(job: &Job, options: &ServeOptions) -> Result<TileServer, CommandError> {
    let watched = match &job.target.url {
        TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => files_of_archive(path),
        TargetUrl::Directory(path) => files_of_directory(path),
        TargetUrl::S3Prefix { .. } | TargetUrl::S3Pmtiles { .. } => TargetWatch::Description,
    };
    let target = job.target.clone();
    let open: TargetOpener = Arc::new(move || target.reader().map_err(into_read_error));
    let started = tokio::select! {
        started = TileServer::start(options.clone(), open, watched) => started,
        signal = job.stop.wait() => return Err(CommandError::Interrupted(signal)),
    };
    started.map_err(|error| match error {
        ServeError::Target(error) => CommandError::Read(error),
        other => CommandError::Serve(other),
    })
}

/// A target that cannot be opened, as an error of reading.
fn into_read_error(error: CommandError) -> ReadError {
    match error {
        CommandError::Read(error) => error,
        other => ReadError::Remote { what: "the target cannot be opened".to_owned(), source: Box::new(other) },
    }
}
