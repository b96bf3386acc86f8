//! Again and again: woken by the triggers' notices, and by a slow poll in case one is lost.

use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, ReseedOptions, complete, once, told};
use crate::changes::{WATCHER_LOCK, WatchOptions};
use crate::command::CommandError;
use crate::config::Settings;
use crate::postgis::{Database, Error, Listener};
use crate::report::{Event, Report};
use crate::stop::Stop;

/// The pause after a first failure, which doubles, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Looking more often would only keep the database busy.
const SHORTEST_POLL: Duration = Duration::from_millis(100);

/// How long a run in hand may take once a stop was asked for. Supervisors wait for 30 s before they kill.
const PARTING: Duration = Duration::from_secs(20);

/// Reseeds until a stop is asked for.
pub(super) async fn watch(
    settings: &Settings,
    options: &ReseedOptions,
    how: WatchOptions,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    let database = Database::new(&settings.connect, settings.session.clone(), stop)?;
    let mut failures = 0;
    let mut listener = None;
    loop {
        // Listening comes first: a change after the look is noticed, one before it is seen.
        if listener.is_none() {
            listener = listen(&database, &settings.changes.schema).await;
        }
        match Box::pin(look(settings, options, report, stop)).await {
            Ok(outcome) => {
                failures = 0;
                if options.table {
                    told(&outcome)?;
                }
                // What could not be rendered is tried again with the next change.
                if let Err(error) = complete(&outcome) {
                    let cause =
                        std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
                    report.event(&Event::Warning { message: format!("{error}{cause}") });
                }
            }
            Err(error) if stop.asked().is_some() || !may_pass(&error) => return Err(error),
            Err(error) => {
                failures += 1;
                let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
                let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
                let message = format!("{error}{cause}: trying again in {} s", pause.as_secs());
                report.event(&Event::Warning { message });
                listener = None;
                tokio::select! {
                    () = tokio::time::sleep(pause) => continue,
                    _ = stop.wait() => return Ok(()),
                }
            }
        }
        let woken = async {
            match &mut listener {
                Some(listener) => listener.notice().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stop.wait() => return Ok(()),
            () = tokio::time::sleep(how.poll.max(SHORTEST_POLL)) => {}
            woken = woken => match woken {
                Ok(()) => {
                    tokio::select! {
                        () = tokio::time::sleep(how.debounce) => {}
                        _ = stop.wait() => return Ok(()),
                    }
                    // What came while changes were gathered is in this look.
                    if let Some(listener) = &mut listener {
                        listener.forget();
                    }
                }
                Err(error) => {
                    tracing::info!("{error}: listening again");
                    listener = None;
                }
            },
        }
    }
}

/// One reseed. A stop does not end it: it finishes what is in hand, if that does not take too long.
async fn look(
    settings: &Settings,
    options: &ReseedOptions,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<Outcome, CommandError> {
    let own = Stop::new();
    let looking = once(settings, options, report, &own);
    tokio::pin!(looking);
    tokio::select! {
        ended = &mut looking => return ended,
        signal = stop.wait() => {
            tokio::select! {
                ended = &mut looking => return ended,
                () = tokio::time::sleep(PARTING) => own.ask(signal),
            }
        }
    }
    looking.await
}

/// A listener, if the server has one to give: a standby has not, and one that is away is polled until it is back.
async fn listen(database: &Database, channel: &str) -> Option<Listener> {
    match Listener::open(database, channel, WATCHER_LOCK).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
            tracing::info!("nobody will wake this run, it looks by itself: {error}{cause}");
            None
        }
    }
}

/// Whether what failed may work later without anybody doing anything.
fn may_pass(error: &CommandError) -> bool {
    match error {
        CommandError::Database(error) => !matches!(
            error,
            Error::Setting { .. }
                | Error::Layer { .. }
                | Error::NoPostgis { .. }
                | Error::OldPostgres { .. }
                | Error::OldPostgis { .. }
        ),
        CommandError::Target(_)
        | CommandError::Read(_)
        | CommandError::Restarts { .. }
        | CommandError::Pipeline(_)
        | CommandError::Unfit { .. } => true,
        _ => false,
    }
}
