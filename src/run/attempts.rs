//! Restarts of a run on a new snapshot, and work on threads that may block.

use std::sync::Arc;
use std::time::Duration;

use super::target::{Target, TargetUrl};
use super::{CommandError, interrupted};
use crate::config::DatabaseSettings;
use crate::error::{ErrorKind, Obstacle};
use crate::report::{Event, Report};
use crate::stop::Stop;

/// The longest pause before an attempt: 2^5 s.
const MAX_DOUBLINGS: u32 = 5;

/// Runs `attempt`, and runs it again if the database goes away or other sessions hold the run up. `attempt` gets the number of earlier attempts.
pub(crate) async fn restarting<T>(
    database: &DatabaseSettings,
    report: &Arc<dyn Report>,
    stop: &Stop,
    attempt: impl AsyncFn(u32) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let (mut restarts, mut last) = (0, None);
    loop {
        let (error, obstacle) = match attempt(restarts).await.map_err(|error| interrupted(error, stop)) {
            Err(CommandError::Database(error)) => match obstacle(error.kind(), last) {
                Some(obstacle) => (error, obstacle),
                None => return Err(error.into()),
            },
            ended => return ended,
        };
        let attempts = restarts + 1;
        if restarts == database.restarts {
            return Err(match obstacle {
                Obstacle::Lost | Obstacle::Unreachable => CommandError::Restarts { attempts, source: error },
                Obstacle::HeldUp | Obstacle::GaveWay => CommandError::HeldUp { attempts, source: error },
            });
        }
        (restarts, last) = (attempts, Some(obstacle));
        report.event(&Event::Restarting { attempt: restarts, of: database.restarts, cause: error.to_string() });
        tokio::select! {
            () = tokio::time::sleep(pause(database.session.lock_limit(), restarts, obstacle)) => {}
            signal = stop.wait() => return Err(CommandError::Interrupted(signal)),
        }
    }
}

/// The obstacle that makes a run start over after an error of this kind; `None` if the run does not start over. `last` is the obstacle of the
/// previous attempt. An unreachable server is a reason to start over only if it has answered before. A missing table is one only if a lock
/// stopped the previous attempt, because others may be replacing the table at this moment.
const fn obstacle(kind: ErrorKind, last: Option<Obstacle>) -> Option<Obstacle> {
    match (kind, last) {
        (ErrorKind::Transient(Obstacle::Unreachable), None) => None,
        (ErrorKind::Transient(obstacle), _) => Some(obstacle),
        (ErrorKind::Usage, Some(Obstacle::HeldUp | Obstacle::GaveWay)) => Some(Obstacle::HeldUp),
        _ => None,
    }
}

/// How long to wait before a run starts over.
fn pause(lock_limit: Duration, restarts: u32, obstacle: Obstacle) -> Duration {
    let doubling = Duration::from_secs(1 << restarts.min(MAX_DOUBLINGS));
    match obstacle {
        // The session that waited has its lock by now. If not, the run's first lock waits for that session.
        Obstacle::GaveWay => Duration::ZERO,
        Obstacle::Lost | Obstacle::Unreachable => doubling,
        Obstacle::HeldUp => doubling.min(lock_limit),
    }
}

/// Adds to the error of an interrupted run what the run leaves in a synchronized target.
pub(crate) fn with_what_remains(error: CommandError, target: &Target) -> CommandError {
    match (error, &target.url) {
        (CommandError::Interrupted(signal), TargetUrl::Directory(_) | TargetUrl::S3Prefix { .. }) => {
            CommandError::InterruptedSynchronized { target: target.to_string(), signal }
        }
        (error, _) => error,
    }
}

/// Runs blocking work on a thread that may block.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CommandError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| CommandError::Died(error.to_string()))
}

/// Runs blocking reads on a thread that may block. Returns as soon as a stop is asked for, because a read leaves nothing to undo.
pub(crate) async fn reading<T: Send + 'static>(
    stop: &Stop,
    work: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    tokio::select! {
        read = aside(work) => read.flatten(),
        signal = stop.wait() => Err(CommandError::Interrupted(signal)),
    }
}
