//! `oar-tiles serve` and `oar-tiles preview`: a target over HTTP.
//!
//! | file | what |
//! |---|---|
//! | `page` | the map as a file (`preview --html`) |
//! | `live` | tiles that the target does not know, rendered on request |
//! | `follow` | the change log, followed for stale tiles and for live ones |
//! | `snapshot` | the database state that live tiles show for some seconds, and the sessions on it |
//! | `batch`, `search` | the batch of one live tile; what was found out about where its features are |
//! | `shared_work` | work that is done once for all who wait for it |

mod batch;
mod follow;
mod live;
mod page;
mod search;
mod shared_work;
mod snapshot;

use std::sync::Arc;

use crate::report::{print, say_warning};
use crate::run::{CommandError, Job, TargetUrl};
use crate::serve::{
    LiveSource, Rereader, ServeError, ServeOptions, ServedSource, SettingsReader, TargetOpener, TargetWatch,
    TargetWriter, TileServer, WorkQueue, files_of_archive, files_of_directory,
};
use crate::sink::ReadError;

use live::DatabaseTiles;
pub use page::{write_page, write_style};

/// What happens once the server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnceReady {
    /// Its addresses are printed.
    SayWhere,
    /// Its addresses are printed, and the desktop is asked to open the map in a browser.
    OpenBrowser,
}

/// Serves the job's target until a stop is asked for, and prints where clients find it. The result is always an error: of the start, or
/// [`CommandError::Stopped`] once the server has ended. `writer` keeps the target up to date meanwhile; `reread` reads the options again, at SIGHUP.
///
/// # Errors
/// If the target cannot be read, an address cannot be used, live tiles are wanted and cannot be rendered, or the server was stopped.
pub async fn run(
    job: &Job,
    options: &ServeOptions,
    then: OnceReady,
    writer: Option<Arc<dyn TargetWriter>>,
    reread: Option<SettingsReader>,
) -> Result<(), CommandError> {
    // Before anybody is told where the server is: from then on, somebody may send it a signal.
    let rereader = reread.and_then(Rereader::listening);
    let server = start(job, options, writer).await?;
    let (target, url) = (&job.target, server.public_url());
    let shown = if options.preview { "a map of it at" } else { "its tiles at" };
    print(&format!("{target}: {shown} {url} (TileJSON: {url}tiles.json)\n"))?;
    if let Some(admin) = server.admin_url() {
        print(&format!("metrics and health: {admin}metrics, {admin}readyz\n"))?;
    }
    if then == OnceReady::OpenBrowser && !is_opened_by_desktop(&url) {
        say_warning("the desktop could not be asked to show the map: open the address above in a browser");
    }
    Err(CommandError::Stopped(server.run(&job.stop, rereader).await))
}

/// Asks the desktop to open a page; false if there is no program to ask.
fn is_opened_by_desktop(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    std::process::Command::new(program).arg(url).spawn().is_ok()
}

/// Opens the job's target and begins to listen.
///
/// # Errors
/// If the target cannot be read, an address cannot be used, or live tiles are wanted and cannot be rendered.
pub async fn start(
    job: &Job,
    options: &ServeOptions,
    writer: Option<Arc<dyn TargetWriter>>,
) -> Result<TileServer, CommandError> {
    let watched = match &job.target.url {
        TargetUrl::Mbtiles(path) | TargetUrl::Pmtiles(path) => files_of_archive(path),
        TargetUrl::Directory(path) => files_of_directory(path),
        TargetUrl::S3Prefix { .. } | TargetUrl::S3Pmtiles { .. } => TargetWatch::Description,
    };
    if options.live.is_some() && options.writer.is_some_and(|writer| writer.write_back) && job.target.is_pmtiles() {
        return Err(CommandError::WrittenAsAWhole { target: job.target.to_string() });
    }
    let target = job.target.clone();
    let open: TargetOpener = Arc::new(move || target.reader().map_err(into_read_error));
    let source = ServedSource { open, watched, notes: job.target.notes()? };
    let starting = async {
        let live: Option<Arc<dyn LiveSource>> = match &options.live {
            Some(_) => Some(Arc::new(DatabaseTiles::open(job, options.shares).await?)),
            None => None,
        };
        let queue = WorkQueue::new(options.shares);
        TileServer::start(options.clone(), source, live, queue, writer).await.map_err(|error| match error {
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
        other => ReadError::Remote { what: "the target cannot be opened".to_owned(), source: Some(Box::new(other)) },
    }
}
