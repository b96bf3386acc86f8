//! Wakes `reseed --watch` when there are changes, by the triggers' notifications, or by polling with a small query.
//!
//! | server | woken by |
//! |---|---|
//! | any other server | notifications, and polling after each for a while ([`Hearing`]) |
//! | `max_prepared_transactions` is set: a transaction with a notification cannot be prepared, so the triggers send none | polling |
//! | a standby, which has no notifications | polling |
//! | another session holds the advisory lock, so notifications may not come | both; each poll tries the lock again |

use std::fmt;
use std::time::{Duration, Instant};

use super::log::{WATCHER_LOCK, literal};
use crate::postgis::{Database, Error, Listener, Snapshot, quoted};

const CONTEXT: &str = "waiting for changes";

/// How long the advisory lock is tried before polling begins. Each writer holds it for a moment.
const LOCK_TRIAL: Duration = Duration::from_secs(1);

/// The pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How long changes must have stayed away until notifications are wanted again.
const QUIET: Duration = Duration::from_secs(5);

/// The pause between two polls while notifications are not wanted.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// The least pause between two polls, as a multiple of the time that the last one took.
const SHARE_OF_POLLS: u32 = 4;

/// The longest pause between two polls because they take long.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// Takes a transaction number, in a transaction of its own: the end of a snapshot (`pg_snapshot_xmax`) leaves out
/// transactions that run and began after all that have ended. The message to logical decoding, which nobody reads, has
/// the server write the number to its disk. Without it a crash of the server would give the number to another
/// transaction, and a target whose snapshot sees the number would need a full seed. `local`: no standby is waited for.
const TAKE_NUMBER: &str = "SELECT pg_current_xact_id(), set_config('synchronous_commit', 'local', true),
    pg_logical_emit_message(true, 'oar_tiles', '')";

/// Why notifications may not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotifyObstacle {
    /// `max_prepared_transactions` is not 0.
    Prepared { limit: String },
    /// The server is a standby.
    Standby,
    /// Another session holds the advisory lock exclusively.
    Held,
}

impl fmt::Display for NotifyObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotifyObstacle::Prepared { limit } => write!(
                f,
                "max_prepared_transactions is {limit} in this server, and a transaction with a notification cannot be prepared, so the triggers send none"
            ),
            NotifyObstacle::Standby => f.write_str("this server is a standby, which has no notifications"),
            NotifyObstacle::Held => {
                let (class, object) = WATCHER_LOCK;
                write!(
                    f,
                    "another session holds the advisory lock ({class}, {object}), by which the triggers see that somebody waits (pg_locks shows it)"
                )
            }
        }
    }
}

/// The settings that decide whether notifications come.
const FACTS: &str = "SELECT current_setting('max_prepared_transactions'), pg_is_in_recovery()::text";

impl NotifyObstacle {
    fn of(limit: &str, in_recovery: &str) -> Option<NotifyObstacle> {
        match (limit, in_recovery) {
            (_, "true") => Some(NotifyObstacle::Standby),
            ("0", _) => None,
            (limit, _) => Some(NotifyObstacle::Prepared { limit: limit.to_owned() }),
        }
    }
}

/// The reason why the triggers of this database send no notifications; `None` if they send them.
pub(crate) async fn notify_obstacle(snapshot: &Snapshot) -> Result<Option<NotifyObstacle>, Error> {
    let rows = snapshot.all(CONTEXT, FACTS, &[]).await?;
    Ok(rows.first().and_then(|row| NotifyObstacle::of(row.get(0), row.get(1))))
}

/// The part of the log that may still grow, as the last poll found it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LogTail {
    /// Transactions before this one had ended, so all of their entries were visible.
    xmin: String,
    /// The number of visible entries of transactions from `xmin` on.
    rows: u64,
}

/// What a change is heard by.
///
/// A transaction with a notification holds a lock of the whole server while it commits, so sessions that commit all the
/// time would wait for each other's `fsync`. So the advisory lock, without which the triggers send no notification, is
/// given up while changes keep coming:
///
/// ```text
/// Settling ─────────► Notified ────────► Busy ───────► Settling
///    the transactions           a             no change
///    of before have ended   notification     for `QUIET`
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hearing {
    /// Each commit sends a notification.
    Notified,
    /// The lock is held, but transactions before this one may have looked for it earlier, and commit without a
    /// notification: both.
    Settling { horizon: u64 },
    /// Polling, and the lock is not held; when the last change came.
    Busy { last_change: Instant },
    /// Polling.
    Without(NotifyObstacle),
}

/// Waits for changes. Dropping it closes its connection.
#[derive(Debug)]
pub(crate) struct Waking {
    listener: Listener,
    schema: String,
    hearing: Hearing,
    /// What the last poll found; `None` before the first.
    tail: Option<LogTail>,
    /// How long the last poll took.
    took: Duration,
}

impl Waking {
    /// Opens a connection that waits for changes. [`Waking::change`] returns for changes that are committed from now
    /// on. Fails if the database cannot be reached, there is no log, or a stop is requested.
    pub(crate) async fn begin(database: &Database, schema: &str) -> Result<Waking, Error> {
        let listener = Listener::open(database).await?;
        let facts = listener.ask(CONTEXT, FACTS).await?;
        let fact = |column| facts.first().and_then(|row| row.get(column)).unwrap_or_default();
        let hearing = Hearing::Without(NotifyObstacle::of(fact(0), fact(1)).unwrap_or(NotifyObstacle::Held));
        let mut waking = Waking { listener, schema: schema.to_owned(), hearing, tail: None, took: Duration::ZERO };
        if waking.hearing == Hearing::Without(NotifyObstacle::Held) {
            waking.listener.ask(CONTEXT, &format!("LISTEN {}", quoted(schema))).await?;
            let begun = Instant::now();
            while !waking.try_lock().await? && begun.elapsed() < LOCK_TRIAL {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
        }
        waking.poll().await?;
        Ok(waking)
    }

    /// Why notifications may not come; `None` if they do, or are not wanted for a while.
    pub(crate) fn obstacle(&self) -> Option<&NotifyObstacle> {
        match &self.hearing {
            Hearing::Without(obstacle) => Some(obstacle),
            Hearing::Notified | Hearing::Settling { .. } | Hearing::Busy { .. } => None,
        }
    }

    /// Waits for the next change. `every` is the pause between two polls if notifications may not come.
    pub(crate) async fn change(&mut self, every: Duration) -> Result<(), Error> {
        loop {
            let pause = if matches!(self.hearing, Hearing::Busy { .. }) { every.min(BUSY_PAUSE) } else { every };
            let poll = tokio::time::sleep(pause.max((self.took * SHARE_OF_POLLS).min(MAX_PAUSE)));
            match self.hearing {
                Hearing::Notified => {
                    self.listener.notification().await?;
                    return self.give_up_notifications().await;
                }
                Hearing::Settling { .. } => tokio::select! {
                    heard = self.listener.notification() => {
                        heard?;
                        return self.give_up_notifications().await;
                    }
                    () = poll => {}
                },
                // If the triggers cannot take the lock either, they send notifications.
                Hearing::Without(NotifyObstacle::Held) => tokio::select! {
                    heard = self.listener.notification() => return heard,
                    () = poll => {}
                },
                Hearing::Busy { .. } | Hearing::Without(_) => poll.await,
            }
            if self.has_grown().await? {
                return Ok(());
            }
        }
    }

    /// Gives up the lock, because changes have begun to come. Whoever waits for [`Waking::change`] may drop it at the
    /// request: then the lock stays held, which does no harm but to writers.
    async fn give_up_notifications(&mut self) -> Result<(), Error> {
        self.hearing = Hearing::Busy { last_change: Instant::now() };
        // All locks of this session: a request whose answer nobody waited for may have taken it once more.
        self.listener.ask(CONTEXT, "SELECT pg_advisory_unlock_all()").await.map(drop)
    }

    /// Checks that the connection still answers.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        self.listener.ask(CONTEXT, "SELECT").await.map(drop)
    }

    /// Discards the changes until now. A snapshot that is taken after this sees them.
    pub(crate) async fn forget(&mut self) -> Result<(), Error> {
        self.listener.forget();
        // What came since the last poll need not be counted.
        self.tail = None;
        self.poll().await.map(drop)
    }

    /// Takes the lock by which the triggers see that a process waits, if it is free immediately. If this waited, any
    /// session that holds the lock could block this run.
    async fn try_lock(&mut self) -> Result<bool, Error> {
        let (class, object) = WATCHER_LOCK;
        let rows =
            self.listener.ask(CONTEXT, &format!("SELECT pg_try_advisory_lock_shared({class}, {object})")).await?;
        let is_held = rows.first().and_then(|row| row.get(0)) == Some("t");
        if is_held {
            let rows = self.listener.ask(CONTEXT, TAKE_NUMBER).await?;
            let horizon = rows.first().and_then(|row| row.get(0)?.parse().ok());
            self.hearing = Hearing::Settling { horizon: horizon.unwrap_or(u64::MAX) };
        }
        Ok(is_held)
    }

    /// Asks the server whether the log has grown since the last call, and since [`Waking::forget`], also where
    /// notifications come: that of a commit may come some milliseconds after it, or never (a pooler of transactions).
    /// Then sees whether notifications can be relied on from now on, or are wanted again.
    pub(crate) async fn has_grown(&mut self) -> Result<bool, Error> {
        let has_grown = self.poll().await?;
        let xmin = self.tail.as_ref().and_then(|tail| tail.xmin.parse::<u64>().ok());
        match &mut self.hearing {
            Hearing::Settling { horizon } if xmin.is_some_and(|xmin| xmin >= *horizon) => {
                self.hearing = Hearing::Notified;
            }
            Hearing::Busy { last_change } if has_grown => *last_change = Instant::now(),
            Hearing::Busy { last_change } if last_change.elapsed() >= QUIET => drop(self.try_lock().await?),
            // A change is told before anything is asked.
            Hearing::Without(NotifyObstacle::Held) if !has_grown => {
                if self.try_lock().await? {
                    tracing::info!("the advisory lock is free: notifications wake this run from now on");
                }
            }
            Hearing::Notified | Hearing::Settling { .. } | Hearing::Busy { .. } | Hearing::Without(_) => {}
        }
        Ok(has_grown)
    }

    /// Polls. True if the log has grown since the last call. Reads the few entries of the index on `change.xid` from
    /// the oldest transaction on that was running at that call, which takes 0.1 ms on an idle server.
    async fn poll(&mut self) -> Result<bool, Error> {
        let from = self.tail.as_ref().map(|tail| literal(&tail.xmin));
        // The first poll has nothing to compare with. The snapshot of the reseed that follows sees all earlier entries.
        let from = from.unwrap_or_else(|| "pg_snapshot_xmin(pg_current_snapshot())".to_owned());
        let sql = format!(
            "SELECT pg_snapshot_xmin(pg_current_snapshot()), count(*),
                 count(*) FILTER (WHERE noted.xid >= pg_snapshot_xmin(pg_current_snapshot()))
             FROM {}.change AS noted WHERE noted.xid >= ({from})::xid8",
            quoted(&self.schema)
        );
        let begun = Instant::now();
        let rows = self.listener.ask(CONTEXT, &sql).await?;
        self.took = begun.elapsed();
        let Some(row) = rows.first() else { return Ok(false) };
        let count = |column| row.get(column).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let (found, left) = (count(1), count(2));
        let now = LogTail { xmin: row.get(0).unwrap_or_default().to_owned(), rows: left };
        let before = self.tail.replace(now);
        // Fewer entries count as a change, too: the log was pruned, and may have grown as well.
        Ok(before.is_some_and(|before| before.rows != found))
    }
}
