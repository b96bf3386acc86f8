//! Taking several locks without a deadlock. A session that holds one lock and waits for a second makes a deadlock if the holder of the second waits
//! for the first. After `deadlock_timeout` PostgreSQL ends one of the two sessions, which may be the other one. So this session waits only briefly,
//! then releases all its locks and tries again, within `lock_timeout`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::super::Session;
use super::super::error::Error;

/// The longest wait for one lock while others may be held, in milliseconds. It is also at most half of `deadlock_timeout` (1 s by default).
const MAX_WAIT: f64 = 200.0;

/// The limit of a wait: $1 milliseconds, or half of `deadlock_timeout`.
const BRIEF_WAIT: &str = "
    SELECT least($1, extract(epoch FROM pg_catalog.current_setting('deadlock_timeout')::interval)::float8 * 500)::float8";

/// Attempts of a session to take locks. From [`LockAttempts::begin`] until the last attempt ends, the session's statements wait only briefly for each
/// lock.
pub(in crate::postgis) struct LockAttempts<'a> {
    session: &'a Session,
    begun: Instant,
    wait: Duration,
}

impl<'a> LockAttempts<'a> {
    /// Begins the first attempt.
    pub(in crate::postgis) async fn begin(session: &'a Session) -> Result<LockAttempts<'a>, Error> {
        let limit = session.database.options.lock_limit();
        let row = session.one("opening a session", BRIEF_WAIT, &[(&MAX_WAIT, Type::FLOAT8)]).await?;
        let wait = Duration::from_secs_f64(row.get::<_, f64>(0).max(1.0) / 1000.0).min(limit);
        let sql = format!("SET LOCAL lock_timeout = {}; SAVEPOINT oar_tiles_locks", wait.as_millis().max(1));
        session.transaction_control(&sql, "while taking locks").await?;
        session.waits_briefly.store(true, Ordering::Relaxed);
        Ok(LockAttempts { session, begun: Instant::now(), wait })
    }

    /// Ends an attempt and returns its result. `None` if a lock was not granted: then all locks are released, and there is time for another attempt.
    pub(in crate::postgis) async fn ended<T>(&self, attempt: Result<T, Error>) -> Result<Option<T>, Error> {
        let limit = self.session.database.options.lock_limit();
        let over = format!("RELEASE SAVEPOINT oar_tiles_locks; SET LOCAL lock_timeout = {}", limit.as_millis());
        let error = match attempt {
            Ok(done) => {
                self.session.waits_briefly.store(false, Ordering::Relaxed);
                self.session.transaction_control(&over, "while taking locks").await?;
                return Ok(Some(done));
            }
            Err(error) => error,
        };
        let is_locked = matches!(error, Error::Locked { .. });
        // Rounded to the nearest attempt: the last attempt is the one that ends nearest to the limit.
        if is_locked && self.begun.elapsed() + self.wait / 2 < limit {
            let again = "ROLLBACK TO SAVEPOINT oar_tiles_locks";
            self.session.transaction_control(again, "while taking locks").await?;
            return Ok(None);
        }
        self.session.waits_briefly.store(false, Ordering::Relaxed);
        if error.is_lost() || error.kind() == crate::error::ErrorKind::Interrupted {
            return Err(error);
        }
        let error = if is_locked { self.session.with_holder(error).await } else { error };
        let over = format!("ROLLBACK TO SAVEPOINT oar_tiles_locks; {over}");
        self.session.transaction_control(&over, "while taking locks").await?;
        Err(error)
    }
}
