//! Settings that are read again while the server runs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::with_causes;
use crate::serve::error::ServeError;
use crate::serve::http::accept::AddressLimits;
use crate::serve::observe::notify::{ServerState, tell};
use crate::serve::options::ServeOptions;
use crate::serve::public::freshness::TileFreshness;
use crate::serve::public::{Site, SiteSettings, TilesetHeaders};
use crate::serve::tilesets::tileset::SiteTileset;

/// The settings that were read again.
pub struct RereadSettings {
    /// The options of the server.
    pub options: ServeOptions,
    /// The further headers of each tileset's tiles.
    pub headers: Vec<TilesetHeaders>,
}

/// Reads the settings again; the error is a message for the log.
pub type SettingsReader = Arc<dyn Fn() -> Result<RereadSettings, String> + Send + Sync>;

/// Settings that are read again at each SIGHUP. Once this value exists, SIGHUP no longer ends the program, and a SIGHUP that comes before the server
/// runs is not lost.
pub struct Rereader {
    read: SettingsReader,
    #[cfg(unix)]
    hangups: tokio::signal::unix::Signal,
}

impl Rereader {
    /// Listens to SIGHUP, on platforms that have it. `None`, with a warning in the log, if the system does not let the program listen.
    #[must_use]
    pub fn listening(read: SettingsReader) -> Option<Rereader> {
        #[cfg(unix)]
        let hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
            .inspect_err(|error| tracing::warn!("SIGHUP cannot be listened to ({error})"))
            .ok()?;
        Some(Rereader {
            read,
            #[cfg(unix)]
            hangups,
        })
    }

    /// The next request to read the settings again.
    #[cfg(unix)]
    async fn next(&mut self) -> Option<()> {
        self.hangups.recv().await
    }

    /// This platform has no SIGHUP.
    #[cfg(not(unix))]
    async fn next(&mut self) -> Option<()> {
        std::future::pending().await
    }
}

/// The places in which settings that were read again are stored.
#[derive(Clone)]
pub(crate) struct Rereading {
    pub(crate) site: Arc<Site>,
    /// The limits that the listeners apply to connections from now on.
    pub(crate) address_limits: watch::Sender<AddressLimits>,
    /// The address of the public listener as a URL without a path; `None` if clients cannot name it.
    pub(crate) own_url: Option<String>,
    /// The path of all URLs, which does not change while the server runs.
    pub(crate) base_path: String,
}

/// Reads the settings again at each SIGHUP: [`SiteSettings`] and [`AddressLimits`]. If they have an error, it is logged and the old settings
/// stay. Listeners, paths, memory, workers and the number of all connections never change while the server runs.
pub(crate) async fn reread_at_hangup(mut rereader: Rereader, rereading: Rereading) {
    while rereader.next().await.is_some() {
        tell(ServerState::Reloading);
        let (rereading, read) = (rereading.clone(), Arc::clone(&rereader.read));
        match tokio::task::spawn_blocking(move || rereading.replace(&read)).await {
            Ok(Ok(())) => tracing::warn!("the settings were read again"),
            Ok(Err(why)) => tracing::warn!("the settings stay as they were: {why}"),
            Err(error) => tracing::warn!("a thread died ({error})"),
        }
        tell(ServerState::Ready);
    }
}

impl Rereading {
    fn replace(&self, read: &SettingsReader) -> Result<(), String> {
        let RereadSettings { options, headers } = read()?;
        let options = ServeOptions { base_path: self.base_path.clone(), ..options };
        let is_versioned = |tileset: &Arc<SiteTileset>| tileset.tiles.last().template.is_versioned();
        if TileFreshness::is_immutable(&options) && !self.site.tilesets.all().iter().all(is_versioned) {
            return Err(ServeError::Immutable.to_string());
        }
        let settings =
            SiteSettings::new(&options, headers, self.own_url.as_deref()).map_err(|error| with_causes(&error))?;
        self.site.replace_settings(settings);
        self.address_limits.send_replace(options.address_limits());
        Ok(())
    }
}
