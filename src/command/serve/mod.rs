//! `oar-tiles serve` and `oar-tiles preview`: a target over HTTP.
//!
//! | file | what |
//! |---|---|
//! | `live` | tiles that the target does not know, rendered on request |
//! | `snapshot` | the database state that live tiles show for some seconds, and the sessions on it |
//! | `search` | where the features of a live tile are searched |

mod live;
mod search;
mod shared_work;
mod snapshot;

use std::sync::Arc;

use crate::run::{CommandError, Job, TargetUrl};
use crate::serve::{
    LiveSource, ServeError, ServeOptions, TargetOpener, TargetWatch, TileServer, files_of_archive, files_of_directory,
};
use crate::sink::ReadError;

use live::DatabaseTiles;

/// Opens the job's target and begins to listen.
///
/// # Errors
/// If the target cannot be read, an address cannot be used, or live tiles are wanted and cannot be rendered.
pub async fn start(job: &Job, options: &ServeOptions) -> Result<TileServer, CommandError> {
    let watched = match &job.target.url {
        TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => files_of_archive(path),
        TargetUrl::Directory(path) => files_of_directory(path),
        TargetUrl::S3Prefix { .. } | TargetUrl::S3Pmtiles { .. } => TargetWatch::Description,
    };
    let target = job.target.clone();
    let open: TargetOpener = Arc::new(move || target.reader().map_err(into_read_error));
    let starting = async {
        let live: Option<Arc<dyn LiveSource>> = match &options.live {
            Some(live) => Some(Arc::new(DatabaseTiles::open(job, live).await?)),
            None => None,
        };
        TileServer::start(options.clone(), open, watched, live).await.map_err(|error| match error {
            ServeError::Target(error) => CommandError::Read(error),
            other => CommandError::Serve(other),
        })
    };
    tokio::select! {
        started = starting => started,
        signal = job.stop.wait() => Err(CommandError::Interrupted(signal)),
    }
}

/// A target that cannot be opened, as an error of reading.
fn into_read_error(error: CommandError) -> ReadError {
    match error {
        CommandError::Read(error) => error,
        other => ReadError::Remote { what: "the target cannot be opened".to_owned(), source: Box::new(other) },
    }
}
