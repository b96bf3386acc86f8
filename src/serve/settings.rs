//! Settings that are read again while the server runs.

use std::sync::Arc;

use crate::serve::error::ServeError;
use crate::serve::observe::notify::{ServerState, tell};
use crate::serve::options::ServeOptions;
use crate::serve::public::freshness::TileFreshness;
use crate::serve::public::{Site, SiteSettings};

/// Reads the options again; the error is a message for the log.
pub type SettingsReader = Arc<dyn Fn() -> Result<ServeOptions, String> + Send + Sync>;

/// Reads the settings again at each SIGHUP: how long caches may keep tiles, the status of empty ones, `Server-Timing`. If they have an
/// error, it is logged and the old settings stay. Listeners, memory and workers never change while the server runs.
#[cfg(unix)]
pub(crate) async fn reread_at_hangup(site: Arc<Site>, reread: SettingsReader) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return tracing::warn!("SIGHUP cannot be listened to ({error})"),
    };
    while hangups.recv().await.is_some() {
        tell(ServerState::Reloading);
        let (site, reread) = (Arc::clone(&site), Arc::clone(&reread));
        match tokio::task::spawn_blocking(move || replaced(&site, &reread)).await {
            Ok(Ok(())) => tracing::warn!("the settings were read again"),
            Ok(Err(why)) => tracing::warn!("the settings stay as they were: {why}"),
            Err(error) => tracing::warn!("a thread died ({error})"),
        }
        tell(ServerState::Ready);
    }
}

/// This platform has no SIGHUP.
#[cfg(not(unix))]
pub(crate) async fn reread_at_hangup(_site: Arc<Site>, _reread: SettingsReader) {
    std::future::pending().await
}

fn replaced(site: &Site, reread: &SettingsReader) -> Result<(), String> {
    let options = reread()?;
    if TileFreshness::is_immutable(&options) && !site.tiles.last().template.is_versioned() {
        return Err(ServeError::Immutable.to_string());
    }
    site.replace_settings(SiteSettings::new(&options).map_err(|error| error.to_string())?);
    Ok(())
}
