//! Follows the change log for a server with live tiles. Like `reseed --watch`, it is woken by the triggers'
//! notifications, or polls.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::change_log::{Cursor, LogGap, StateInHistory, Waking, newest_logged};
use crate::error::{ErrorKind, with_causes};
use crate::manifest::Witness;
use crate::plan::Dirty;
use crate::postgis::{Database, SessionOptions};
use crate::run::dirty::{Look, drawn};
use crate::run::identity::LogIdentity;
use crate::run::{CommandError, DirtyFilter, TilesetRun};
use crate::serve::{KnownChanges, LogFailure, LogLook};
use crate::stop::Stop;
use crate::tile::{Coverage, Scope, TileCoord, ZoomList};

/// The longest time for which changes are gathered after the first one. The writer waits for as long as it is
/// configured to, and publishes later.
const MAX_DEBOUNCE: Duration = Duration::from_millis(50);

/// The interval at which the server is asked whether there is anything new, also if no notification has come: about a
/// quarter of the time for which a look is trusted.
const CHECK: Duration = Duration::from_millis(500);

/// The pause between two looks if no notifications come.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// The pauses between failures whose cause may pass by itself. The first is so short that a standby which cancels one
/// look is asked again before the last look counts as old.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(8));

/// The pause after a failure whose cause does not pass by itself.
const PAUSE_WITHOUT_LOG: Duration = Duration::from_secs(30);

/// Bounds the share of the time that is spent in looks: a look begins at the earliest after this many times the
/// duration of the previous one, but after [`LOOK_PAUSE`] at the latest, because what is known grows old.
const SHARE_OF_LOOKS: u32 = 4;

/// The number of sessions that following needs: one that looks, one that listens.
pub(crate) const LOG_SESSIONS: usize = 2;

/// The interval at which it is checked whether the log is followed. Only two checks in a row that find it is not are
/// reported: after a pause of this process the first one may come before the next look.
const REPORT: Duration = Duration::from_secs(1);

/// How long the log is not followed before that is reported: on a busy machine a look may take some seconds.
const UNREAD_UNTIL_REPORTED: Duration = Duration::from_secs(5);

/// Follows the log of a run's database while the future is polled.
pub(crate) async fn follow(run: &TilesetRun, known: &KnownChanges) {
    tokio::join!(follow_always(run, known), report(run, known));
}

/// Says in the log, once each time, that the change log is not followed and why, and that it is followed again.
async fn report(run: &TilesetRun, known: &KnownChanges) {
    let (mut is_reported, mut is_second) = (false, false);
    loop {
        tokio::time::sleep(REPORT).await;
        let now = Instant::now();
        let is_long = known.unread_for(now).is_some_and(|time| time >= UNREAD_UNTIL_REPORTED);
        match known.unread(now).filter(|_| is_long) {
            Some(why) if !is_reported && is_second => {
                tracing::warn!(
                    "{}: {why}. Until it is read again, nobody may keep tiles for longer than 5 s (CDNs in a long outage: outage_cdn_max_age), and live tiles age by live_ttl",
                    run.target
                );
                is_reported = true;
            }
            Some(_) => is_second = true,
            None => {
                if is_reported {
                    tracing::warn!("{}: the change log is followed again", run.target);
                }
                (is_reported, is_second) = (false, false);
            }
        }
    }
}

/// Why a look failed.
fn failure(error: &CommandError) -> LogFailure {
    match error {
        CommandError::LogGap {
            why: LogGap::NotInstalled { .. } | LogGap::Layer { .. } | LogGap::Undeclared { .. },
            ..
        } => LogFailure::NoLog,
        error if matches!(error.kind(), ErrorKind::Transient(_)) => LogFailure::Passing,
        _ => LogFailure::Lost,
    }
}

async fn follow_always(run: &TilesetRun, known: &KnownChanges) {
    let (mut follower, mut pauses, mut said) = (LogFollower::new(), PAUSES, String::new());
    loop {
        let error = match followed(run, known, &mut follower, &mut pauses).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let failure = failure(&error);
        if failure != LogFailure::Passing && follower.begin_anew() && is_of_another_history(&error) {
            // Cached live tiles may show what never happened there.
            known.evict_live();
        }
        let text = with_causes(&error);
        known.record_failed_look(text.clone(), failure);
        if said != text {
            tracing::info!("the change log cannot be followed, so that live tiles age by live_ttl: {text}");
            said = text;
        }
        let pause = pauses.next_pause();
        tokio::time::sleep(if failure == LogFailure::Passing { pause } else { PAUSE_WITHOUT_LOG }).await;
    }
}

/// True if the database is not the continuation of the one that the target shows.
fn is_of_another_history(error: &CommandError) -> bool {
    matches!(
        error,
        CommandError::OtherHistory { .. }
            | CommandError::NeedsSeed { .. }
            | CommandError::LogGap { why: LogGap::Older { .. }, .. }
    )
}

/// Follows until something fails.
async fn followed(
    run: &TilesetRun,
    known: &KnownChanges,
    follower: &mut LogFollower,
    pauses: &mut Backoff,
) -> Result<std::convert::Infallible, CommandError> {
    let settings = &run.settings;
    let session = SessionOptions { connections: 1, ..settings.database.session.clone() };
    let own = Stop::new();
    let run = run.with_report_and_stop(std::sync::Arc::clone(&run.report), own.clone());
    let database = Database::new(&settings.database.connect, session, &own)?;
    let mut waking: Option<Waking> = None;
    loop {
        if let Some(waking) = &mut waking {
            // The next look sees everything that has changed until now.
            waking.forget().await?;
        }
        let begun = Instant::now();
        let kept = known.unconfirmed();
        let look = Box::pin(follower.look(&run, &kept)).await?;
        let took = begun.elapsed();
        let mut confirmed = look.begun;
        known.record_look(look);
        known.remove_unconfirmed(&kept);
        pauses.reset();
        let Some(heard) = &mut waking else {
            // Listens only after a look has found a log. The look that follows at once finds what changed in between.
            waking = Some(Waking::begin(&database, &settings.database.changes.schema).await?);
            continue;
        };
        let until = Instant::now() + *settings.database.changes.poll;
        loop {
            tokio::select! {
                change = heard.change(LOOK_PAUSE) => {
                    change?;
                    let debounce = *settings.database.changes.debounce;
                    let pause = debounce.min(MAX_DEBOUNCE).max((took * SHARE_OF_LOOKS).min(LOOK_PAUSE));
                    tokio::time::sleep(pause).await;
                    break;
                }
                // The target shows changes that this follower has not seen.
                () = known.look_wanted() => break,
                () = tokio::time::sleep(CHECK) => {}
            }
            let asked = Instant::now();
            if asked >= until || heard.has_grown().await? {
                break;
            }
            // The notification of a commit may come a little after it, so this answer vouches for what was committed
            // before the last one.
            known.record_nothing_new(confirmed);
            confirmed = asked;
        }
    }
}

// Each look finds the tiles that have changed since the last one, at every zoom of the layers and not only of the
// target.

/// The most tiles that one look lists.
const MAX_LISTED: usize = 50_000;

/// Where the last look ended.
struct LogFollower {
    /// The database state of the last look.
    seen: Option<Cursor>,
    witness: Option<Witness>,
    /// What the target showed at the last look.
    shown: Cursor,
}

impl LogFollower {
    /// Nothing is seen yet.
    fn new() -> LogFollower {
        LogFollower { seen: None, witness: None, shown: Cursor::default() }
    }

    /// Finds what has changed since the last look; the first time, since the state that the target shows. If the
    /// database has another history than at the last look, or than the live tiles that show the states `kept`, any tile
    /// may differ, also those of which the target shows nothing. Fails if the log cannot be trusted, or the database or
    /// the target cannot be reached.
    async fn look(&mut self, run: &TilesetRun, kept: &[StateInHistory]) -> Result<LogLook, CommandError> {
        let (filter, begun) = (DirtyFilter::default(), Instant::now());
        let look = Look::followed(run, &filter, self.witness.as_ref()).await?;
        let shown = look.state.cursor.clone();
        let is_other = look
            .log
            .as_ref()
            .zip(self.witness.as_ref())
            .is_some_and(|(log, witness)| log.contradicts([witness]) || log.is_behind([witness]).is_some());
        let is_other = is_other || !look.has_all_of(kept).await?;
        // If the target went back to an older state, it may lack changes that looks before the last one have seen.
        let last = self.seen.take().filter(|_| shown.sees_all_of(&self.shown) && !is_other);
        let mut found = look.since(last.unwrap_or_else(|| shown.clone()), begun).await?;
        if is_other {
            (found.dirty, found.is_other_history) = (None, true);
        }
        (self.seen, self.shown) = (Some(found.seen.clone()), shown);
        self.witness = look.log.as_ref().map(LogIdentity::own).cloned();
        Ok(found)
    }

    /// Forgets where the last look ended, because changes may have been missed since. True if there was one.
    fn begin_anew(&mut self) -> bool {
        self.seen = None;
        self.witness.take().is_some()
    }
}

impl Look<'_> {
    /// True if the database's history has these states.
    async fn has_all_of(&self, states: &[StateInHistory]) -> Result<bool, CommandError> {
        let schema = &self.run.settings.database.changes.schema;
        let now: Cursor = self.snapshot.cursor().parse()?;
        let cursors: Vec<Cursor> = states.iter().map(|kept| kept.state.clone()).collect();
        let newest = newest_logged(&self.snapshot, schema, &cursors).await?;
        Ok(states.iter().zip(newest).all(|(kept, newest)| now.sees_all_of(&kept.state) && kept.newest == newest))
    }

    /// What has changed since a database state. The look was begun at the moment `begun`.
    async fn since(&self, since: Cursor, begun: Instant) -> Result<LogLook, CommandError> {
        let watches = self.watches(&since).await?;
        let seen = self.snapshot.cursor().parse()?;
        let transactions = self.unseen(&since).transactions().await?;
        let mut found = LogLook { since, seen, transactions, dirty: Some(Vec::new()), is_other_history: false, begun };
        let zooms = ZoomList::of(self.layers.iter().flat_map(|layer| layer.zooms().iter()));
        let Some(zooms) = zooms.filter(|_| !found.transactions.is_empty()) else { return Ok(found) };
        let mut dirty = Dirty::new(&[Scope { zooms, coverage: Coverage::new(&[]) }], MAX_LISTED);
        for (layer, watches) in self.layers.iter().zip(&watches) {
            let drawn = drawn(layer);
            for watch in watches {
                let mark = |spot| match dirty.mark(&drawn, &spot) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_too_many) => ControlFlow::Break(()),
                };
                if !self.unseen(&found.since).positions(watch, layer, mark).await? {
                    found.dirty = None;
                    return Ok(found);
                }
            }
        }
        found.dirty = Some(dirty.iter().collect::<Vec<TileCoord>>());
        Ok(found)
    }
}
