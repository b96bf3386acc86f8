//! What wakes `reseed --watch`: the triggers' notifications, or, where those do not come, a small query again and again.
//!
//! | what holds | what wakes |
//! |---|---|
//! | an ordinary server | the triggers' notifications |
//! | `max_prepared_transactions` is set: the triggers send no notifications, for a transaction with one cannot be prepared | the query |
//! | a standby, which has no notifications | the query |
//! | somebody else holds the advisory lock, so whether notifications come is not known | both; the lock is tried again each time |

use std::fmt;
use std::time::{Duration, Instant};

use crate::changes::log::{WATCHER_LOCK, literal};
use crate::postgis::{Database, Error, Listener, Snapshot, quoted};

const PLACE: &str = "waiting for changes";

/// The time for which the advisory lock is tried before the query takes over. Each writer holds it for a moment.
const LOCK_TRIAL: Duration = Duration::from_secs(1);

/// The pause between two trials.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why notifications may not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyObstacle {
    /// `max_prepared_transactions` is not 0.
    Prepared {
        /// Its value.
        limit: String,
    },
    /// The server is a standby.
    Standby,
    /// Another session holds the advisory lock alone.
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

/// The facts that decide whether notifications come.
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

/// Why the triggers of this database send no notifications, if they do not.
///
/// # Errors
/// If the database is lost.
pub async fn quiet(snapshot: &Snapshot) -> Result<Option<NotifyObstacle>, Error> {
    let rows = snapshot.all(PLACE, FACTS, &[]).await?;
    Ok(rows.first().and_then(|row| NotifyObstacle::of(row.get(0), row.get(1))))
}

/// The part of the log that may still grow, as a query found it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LogTail {
    /// Transactions before this one have ended: whatever they noted was counted before.
    xmin: String,
    /// Rows of the log that transactions from `xmin` on have noted and committed.
    rows: u64,
}

/// What wakes a watch. Dropped, its connection is closed.
#[derive(Debug)]
pub struct Waking {
    listener: Listener,
    schema: String,
    quiet: Option<NotifyObstacle>,
    tail: Option<LogTail>,
}

impl Waking {
    /// Begins to wait for changes: those that are committed from now on are told by [`Waking::change`].
    ///
    /// # Errors
    /// If the database cannot be reached, there is no log to look into, or a stop is asked for.
    pub async fn begin(database: &Database, schema: &str) -> Result<Waking, Error> {
        let listener = Listener::open(database).await?;
        let facts = listener.ask(PLACE, FACTS).await?;
        let fact = |column| facts.first().and_then(|row| row.get(column)).unwrap_or_default();
        let quiet = NotifyObstacle::of(fact(0), fact(1));
        let mut waking = Waking { listener, schema: schema.to_owned(), quiet, tail: None };
        if waking.quiet.is_none() {
            waking.listener.ask(PLACE, &format!("LISTEN {}", quoted(schema))).await?;
            let begun = Instant::now();
            while !waking.takes_lock().await? {
                if begun.elapsed() >= LOCK_TRIAL {
                    waking.quiet = Some(NotifyObstacle::Held);
                    break;
                }
                tokio::time::sleep(LOCK_PAUSE).await;
            }
        }
        if waking.quiet.is_some() {
            waking.has_grown().await?;
        }
        Ok(waking)
    }

    /// Why notifications may not come, if so.
    #[must_use]
    pub fn quiet(&self) -> Option<&NotifyObstacle> {
        self.quiet.as_ref()
    }

    /// Waits for the next change. `every` is the pause between two looks into the log, where notifications may not come.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn change(&mut self, every: Duration) -> Result<(), Error> {
        loop {
            match &self.quiet {
                None => return self.listener.notification().await,
                // The triggers cannot take the lock either: then they send notifications.
                Some(NotifyObstacle::Held) => tokio::select! {
                    heard = self.listener.notification() => return heard,
                    () = tokio::time::sleep(every) => {}
                },
                Some(NotifyObstacle::Prepared { .. } | NotifyObstacle::Standby) => tokio::time::sleep(every).await,
            }
            if self.quiet == Some(NotifyObstacle::Held) && self.takes_lock().await? {
                tracing::info!("the advisory lock is free: notifications wake this run from now on");
                self.quiet = None;
                // What came since the last look sent no notification.
                return Ok(());
            }
            if self.has_grown().await? {
                return Ok(());
            }
        }
    }

    /// Makes sure that the connection still answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn check(&self) -> Result<(), Error> {
        self.listener.ask(PLACE, "SELECT").await.map(drop)
    }

    /// Forgets the changes that came until now: a look that begins after this sees them.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn forget(&mut self) -> Result<(), Error> {
        self.listener.forget();
        if self.quiet.is_some() {
            self.has_grown().await?;
        }
        Ok(())
    }

    /// Takes the lock by which the triggers see that somebody waits, if it is free at once: whoever holds it alone could
    /// otherwise hold this run up for as long as they like.
    async fn takes_lock(&self) -> Result<bool, Error> {
        let (class, object) = WATCHER_LOCK;
        let rows = self.listener.ask(PLACE, &format!("SELECT pg_try_advisory_lock_shared({class}, {object})")).await?;
        Ok(rows.first().and_then(|row| row.get(0)) == Some("t"))
    }

    /// Whether the log has grown since this was asked the last time. Reads the few entries of the index on `change.xid` that
    /// belong to transactions from the oldest on that was running then: 0.1 ms on a server with nothing to do.
    async fn has_grown(&mut self) -> Result<bool, Error> {
        let from = self.tail.as_ref().map(|tail| literal(&tail.xmin));
        // At first nothing is known: the look that follows sees what there is.
        let from = from.unwrap_or_else(|| "pg_snapshot_xmin(pg_current_snapshot())".to_owned());
        let sql = format!(
            "SELECT pg_snapshot_xmin(pg_current_snapshot()), count(*),
                 count(*) FILTER (WHERE noted.xid >= pg_snapshot_xmin(pg_current_snapshot()))
             FROM {}.change AS noted WHERE noted.xid >= ({from})::xid8",
            quoted(&self.schema)
        );
        let rows = self.listener.ask(PLACE, &sql).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let count = |column| row.get(column).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let (found, left) = (count(1), count(2));
        let now = LogTail { xmin: row.get(0).unwrap_or_default().to_owned(), rows: left };
        let before = self.tail.replace(now);
        // Fewer: the log was pruned, and may have grown beside that.
        Ok(before.is_some_and(|before| before.rows != found))
    }
}
