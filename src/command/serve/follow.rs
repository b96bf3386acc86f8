//! Follows the change log for a server with live tiles. Like `reseed --watch`, it is woken by the triggers' notifications, or polls.

use std::time::{Duration, Instant};

use crate::changes::{Untracked, Waking};
use crate::error::{ErrorKind, with_causes};
use crate::postgis::{Database, SessionOptions};
use crate::run::look::LogFollower;
use crate::run::{CommandError, Job};
use crate::serve::KnownChanges;
use crate::stop::Stop;

/// The longest time for which changes are gathered after the first one. The writer waits for as long as it is configured to, and publishes later.
const LONGEST_DEBOUNCE: Duration = Duration::from_millis(50);

/// The interval at which the listening connection is checked. After three intervals without an answer its silence is not trusted any more.
const CHECK: Duration = Duration::from_secs(5);

/// The pause between two looks if no notifications come.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// The pause after a first failure, which doubles with each further one; the longest pause if the cause may pass by itself; and the pause if it
/// does not.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
const PAUSE_WITHOUT_LOG: Duration = Duration::from_secs(30);

/// Bounds the share of the time that is spent in looks: a look begins at the earliest after this many times the duration of the previous one.
const SHARE_OF_LOOKS: u32 = 4;

/// The number of sessions that following needs: one that looks, one that listens.
pub(super) const LOG_SESSIONS: usize = 2;

/// Follows the log of a job's database while the future is polled.
pub(super) async fn follow(job: &Job, known: &KnownChanges) {
    let (mut follower, mut failures, mut said) = (LogFollower::new(), 0, String::new());
    loop {
        let error = match followed(job, known, &mut follower, &mut failures).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        failures += 1;
        let may_pass = matches!(error.kind(), ErrorKind::Transient(_));
        if !may_pass && follower.begin_anew() && is_of_another_history(&error) {
            // Cached live tiles may show what never happened there.
            known.evict_live();
        }
        let text = with_causes(&error);
        known.failed(text.clone(), !may_pass);
        if said != text {
            tracing::info!("the change log cannot be followed, so that live tiles age by live_ttl: {text}");
            said = text;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(5_u32)).min(LONGEST_PAUSE);
        tokio::time::sleep(if may_pass { pause } else { PAUSE_WITHOUT_LOG }).await;
    }
}

/// True if the database is not the continuation of the one that the target shows.
fn is_of_another_history(error: &CommandError) -> bool {
    matches!(
        error,
        CommandError::OtherHistory { .. }
            | CommandError::NeedsSeed { .. }
            | CommandError::Untracked { why: Untracked::Older { .. }, .. }
    )
}

/// Follows until something fails.
async fn followed(
    job: &Job,
    known: &KnownChanges,
    follower: &mut LogFollower,
    failures: &mut u32,
) -> Result<std::convert::Infallible, CommandError> {
    let settings = &job.settings;
    let session = SessionOptions { connections: 1, ..settings.database.session.clone() };
    let own = Stop::new();
    let job = job.under(std::sync::Arc::clone(&job.report), own.clone());
    let database = Database::new(&settings.database.connect, session, &own)?;
    let mut waking: Option<Waking> = None;
    loop {
        if let Some(waking) = &mut waking {
            // The next look sees everything that has changed until now.
            waking.forget().await?;
        }
        let begun = Instant::now();
        let look = Box::pin(follower.look(&job)).await?;
        let took = begun.elapsed();
        known.looked(look);
        *failures = 0;
        let Some(heard) = &mut waking else {
            // Listens only after a look has found a log. The look that follows at once finds what changed in between.
            waking = Some(Waking::begin(&database, &settings.database.changes.schema).await?);
            continue;
        };
        let until = Instant::now() + settings.tileset.watch.poll;
        loop {
            tokio::select! {
                change = heard.change(LOOK_PAUSE) => {
                    change?;
                    let pause = settings.tileset.watch.debounce.min(LONGEST_DEBOUNCE).max(took * SHARE_OF_LOOKS);
                    tokio::time::sleep(pause).await;
                    break;
                }
                // The target shows changes that this follower has not seen.
                () = known.look_wanted() => break,
                () = tokio::time::sleep(CHECK) => heard.check().await?,
            }
            known.confirmed();
            if Instant::now() >= until {
                break;
            }
        }
    }
}
