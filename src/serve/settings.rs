//! Settings that are read again while the server runs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::serve::error::ServeError;
use crate::serve::http::accept::AddressLimits;
use crate::serve::observe::notify::{ServerState, tell};
use crate::serve::options::ServeOptions;
use crate::serve::public::freshness::TileFreshness;
use crate::serve::public::{Site, SiteSettings};

/// Reads the options again; the error is a message for the log.
pub type SettingsReader = Arc<dyn Fn() -> Result<ServeOptions, String> + Send + Sync>;

/// What is read again, and where it goes.
#[derive(Clone)]
pub(crate) struct Rereading {
    pub(crate) site: Arc<Site>,
    pub(crate) reread: SettingsReader,
    /// The limits that the listeners apply to connections from now on.
    pub(crate) address_limits: watch::Sender<AddressLimits>,
    /// The address of the public listener as a URL without a path; `None` if clients cannot name it.
    pub(crate) own_url: Option<String>,
    /// The path of all URLs, which does not change while the server runs.
    pub(crate) base_path: String,
}

/// Reads the settings again at each SIGHUP: [`SiteSettings`] and [`AddressLimits`]. If they have an error, it is logged and the old settings
/// stay. Listeners, paths, memory, workers and the number of all connections never change while the server runs.
#[cfg(unix)]
pub(crate) async fn reread_at_hangup(rereading: Rereading) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return tracing::warn!("SIGHUP cannot be listened to ({error})"),
    };
    while hangups.recv().await.is_some() {
        tell(ServerState::Reloading);
        let rereading = rereading.clone();
        match tokio::task::spawn_blocking(move || rereading.replace()).await {
            Ok(Ok(())) => tracing::warn!("the settings were read again"),
            Ok(Err(why)) => tracing::warn!("the settings stay as they were: {why}"),
            Err(error) => tracing::warn!("a thread died ({error})"),
        }
        tell(ServerState::Ready);
    }
}

/// This platform has no SIGHUP.
#[cfg(not(unix))]
pub(crate) async fn reread_at_hangup(_rereading: Rereading) {
    std::future::pending().await
}

impl Rereading {
    fn replace(&self) -> Result<(), String> {
        let options = ServeOptions { base_path: self.base_path.clone(), ..(self.reread)()? };
        if TileFreshness::is_immutable(&options) && !self.site.tiles.last().template.is_versioned() {
            return Err(ServeError::Immutable.to_string());
        }
        let settings = SiteSettings::new(&options, self.own_url.as_deref()).map_err(|error| error.to_string())?;
        self.site.replace_settings(settings);
        self.address_limits.send_replace(options.address_limits());
        Ok(())
    }
}
