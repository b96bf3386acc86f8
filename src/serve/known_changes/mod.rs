//! What a server knows of changes that the target may not show yet: which stored tiles are stale, and since when each
//! live tile may be cached.
//!
//! ```text
//! a server with live tiles looks into the log ─► record_look ──────► stored tiles are stale, live ones leave memory and Redis
//! the writer of this process finds dirty tiles ─► add_writer_dirty ─► stored tiles are stale until it has published
//! the target shows another publication ─────────► set_target_state ─► stored tiles that it has brought up to date are fresh
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `dirty` | the stored tiles that are dirty by the change log |
//! | `epochs` | how new a live tile must be to be cached, and which database state a tile of another server must show |
//! | `last_changed` | when each tile changed last: in counters that tiles share by their hash |

mod dirty;
mod epochs;
pub(crate) mod last_changed;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dirty::DirtyByLog;
use last_changed::TargetMemory;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cursor::{Cursor, StateInHistory};
use crate::tile::{Scope, TileCoord, TileRectList};

pub(crate) use epochs::{LiveEpoch, LiveEpochs, LiveSince};

/// How long a look into the log is trusted by the caches in this server: if the database has not answered for this
/// long, changes may have been missed.
const MAX_SILENCE: Duration = Duration::from_secs(15);

/// The age of the last look up to which the caches of clients may keep tiles for as long as the settings say.
const CURRENT: Duration = Duration::from_secs(2);

/// How long `/readyz` waits for the first look.
const MAX_START: Duration = Duration::from_secs(5);

/// After this time without a look, CDNs may keep tiles longer again, because their questions would come to this server
/// all the time.
const LONG_OUTAGE: Duration = Duration::from_secs(60);

/// The most database states of live tiles that wait for the next look. If there are more, because no look succeeds for
/// minutes, every live tile is rendered again.
const MAX_UNCONFIRMED: usize = 300;

#[derive(Debug, Clone)]
pub struct LogLook {
    /// The database state from which on the look found changes.
    pub since: Cursor,
    /// The database state up to which the look found changes.
    pub seen: Cursor,
    /// The transactions of these changes.
    pub transactions: Vec<u64>,
    /// The tiles at every zoom of the layers in which one of the changes can be seen; `None` if there are too many to
    /// list.
    pub dirty: Option<Vec<TileCoord>>,
    /// True if the database has another history than at the last look, or than a live tile shows that was drawn since.
    pub is_other_history: bool,
    /// When it began: it has found what was committed before.
    pub begun: Instant,
}

/// How old the last look is, for the caches of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogAge {
    /// At most [`CURRENT`], or there is no log to follow.
    Current,
    /// Older, or there was none yet.
    Old,
    /// Older than [`LONG_OUTAGE`].
    LongOutage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFailure {
    /// There is no log of these tiles' tables. If it was followed before, this counts as `Lost`.
    NoLog,
    /// Changes may be missed that no later look finds.
    Lost,
    /// The next look may find everything.
    Passing,
}

/// When the log was read last, as one number, which each request loads: the microseconds since a server's start, and
/// whether a look began then or changes may be missed since then.
#[derive(Debug)]
struct LastLook(AtomicU64);

impl LastLook {
    /// Nobody follows a log.
    const NO_LOG: u64 = u64::MAX;

    fn set(&self, micros: u64, is_look: bool) {
        self.0.store(micros.min(u64::MAX >> 2) << 1 | u64::from(is_look), Ordering::Release);
    }

    /// When a look began, or since when there is none; false for the latter. `None` if nobody follows a log.
    fn get(&self) -> Option<(u64, bool)> {
        let value = self.0.load(Ordering::Acquire);
        (value != LastLook::NO_LOG).then_some((value >> 1, value & 1 == 1))
    }
}

/// The tiles that the writer of this process is about to render.
#[derive(Debug)]
enum WritersTiles {
    These(HashSet<TileCoord>),
    Everything,
}

#[derive(Debug, Default)]
struct ChangeLogState {
    /// The state of the last look; `None` while the log is not followed.
    seen: Option<Cursor>,
    /// When the database was last asked whether the looks have found every change; `None` if it did not answer since.
    confirmed: Option<Instant>,
    /// True once a look has succeeded.
    has_looked: bool,
    /// Why the log is not followed.
    failure: Option<String>,
    by_log: DirtyByLog,
    /// The states of live tiles of which no look has said yet whether the database's history has them.
    unconfirmed: Vec<StateInHistory>,
    by_writer: Option<(WritersTiles, Instant)>,
}

struct ChangeLogParts {
    state: Mutex<ChangeLogState>,
    /// True if a stored tile may be dirty. While it is false, requests do not have to lock the state.
    any_is_dirty: AtomicBool,
    begun: Instant,
    last_look: LastLook,
    epochs: LiveEpochs,
    look_wanted: Notify,
}

/// What a server knows of the change log. Clones share it.
#[derive(Clone)]
pub struct KnownChanges(Arc<ChangeLogParts>);

impl Default for KnownChanges {
    fn default() -> KnownChanges {
        KnownChanges::new(TargetMemory::Usual)
    }
}

impl KnownChanges {
    /// Nothing is known yet.
    pub(crate) fn new(memory: TargetMemory) -> KnownChanges {
        KnownChanges(Arc::new(ChangeLogParts {
            state: Mutex::default(),
            any_is_dirty: AtomicBool::new(false),
            begun: Instant::now(),
            last_look: LastLook(AtomicU64::new(LastLook::NO_LOG)),
            epochs: LiveEpochs::new(memory),
            look_wanted: Notify::new(),
        }))
    }

    /// Changes the state, and updates `any_is_dirty`.
    fn change(&self, change: impl FnOnce(&mut ChangeLogState)) {
        let mut state = self.0.state.lock();
        change(&mut state);
        let any = !state.by_log.is_empty() || state.by_writer.is_some();
        self.0.any_is_dirty.store(any, Ordering::Release);
    }

    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.0.begun).as_micros()).unwrap_or(u64::MAX)
    }

    /// Notes that the log is about to be followed, so that tiles are not trusted until it was read. Call this before
    /// the first request.
    pub(crate) fn expect_log(&self) {
        self.0.last_look.set(self.micros(Instant::now()), false);
    }

    /// How old the last look is at the moment `now`, in which a tile is answered. The clock decides, not a flag: a
    /// process that was paused does not know it.
    pub(crate) fn log_age(&self, now: impl FnOnce() -> Instant) -> LogAge {
        let Some((micros, is_look)) = self.0.last_look.get() else { return LogAge::Current };
        let age = Duration::from_micros(self.micros(now()).saturating_sub(micros));
        match (is_look, age) {
            (true, age) if age <= CURRENT => LogAge::Current,
            (_, age) if age <= LONG_OUTAGE => LogAge::Old,
            _ => LogAge::LongOutage,
        }
    }

    /// How long the log that should be followed is not; `None` if it is.
    pub fn unread_for(&self, now: Instant) -> Option<Duration> {
        if self.log_age(|| now) == LogAge::Current {
            return None;
        }
        let (micros, _) = self.0.last_look.get()?;
        Some(Duration::from_micros(self.micros(now).saturating_sub(micros)))
    }

    /// Why a log that should be followed is not; `None` if it is.
    pub fn unread(&self, now: Instant) -> Option<String> {
        let time = self.unread_for(now)?;
        let state = self.0.state.lock();
        let why = state.failure.as_deref().unwrap_or("the database has not answered");
        let what = if state.has_looked { "has not been read for" } else { "could not be read for" };
        Some(format!("the change log {what} {} s: {why}", time.as_secs()))
    }

    /// True if the server may be said to be not ready, because the log was not read yet.
    pub(crate) fn is_starting(&self, now: Instant) -> bool {
        self.unread_for(now).is_some_and(|time| time <= MAX_START) && !self.0.state.lock().has_looked
    }

    /// Adds the changes that a look into the log has found. Each look begins at the state of the previous look, or at
    /// the target's.
    pub fn record_look(&self, look: LogLook) {
        let (seen, begun) = (Arc::new(look.seen.clone()), look.begun);
        if look.is_other_history {
            self.0.epochs.evict_all();
        }
        if !self.0.state.lock().seen.as_ref().is_some_and(|before| before.sees_all_of(&look.since)) {
            // Nobody knows what has changed before.
            self.0.epochs.lost(&look.since);
        }
        if !look.transactions.is_empty() || look.dirty.is_none() {
            self.0.epochs.mark_changed(look.dirty.as_deref(), &seen);
        }
        self.change(|state| {
            state.by_log.add(&look);
            (state.seen, state.confirmed, state.failure) = (Some(look.seen), Some(begun), None);
            state.has_looked = true;
        });
        self.0.epochs.record_log_reached(&seen);
        self.0.last_look.set(self.micros(begun), true);
    }

    /// Notes that the database had nothing new when it was asked at the moment `begun`, and that the looks have found
    /// everything else.
    pub fn record_nothing_new(&self, begun: Instant) {
        self.0.state.lock().confirmed = Some(begun);
        self.0.last_look.set(self.micros(begun), true);
    }

    /// Notes that live tiles of this database state are kept: the next look must find out whether the database's
    /// history has it. It may be a state after the last look that a crash or a failover has lost since.
    pub(crate) fn add_unconfirmed(&self, shown: &StateInHistory) {
        let mut state = self.0.state.lock();
        // Without a look, the first one evicts every live tile.
        if state.seen.is_none() || state.unconfirmed.contains(shown) {
            return;
        }
        if state.unconfirmed.len() >= MAX_UNCONFIRMED {
            state.unconfirmed.clear();
            drop(state);
            return self.0.epochs.lost(&shown.state);
        }
        state.unconfirmed.push(shown.clone());
    }

    /// The states of live tiles that the next look has to examine.
    pub fn unconfirmed(&self) -> Vec<StateInHistory> {
        self.0.state.lock().unconfirmed.clone()
    }

    /// Notes that a look has examined these states.
    pub fn remove_unconfirmed(&self, states: &[StateInHistory]) {
        self.0.state.lock().unconfirmed.retain(|state| !states.contains(state));
    }

    /// Evicts every live tile, because the database is not the one that they show.
    pub fn evict_live(&self) {
        self.0.epochs.evict_all();
    }

    pub fn record_failed_look(&self, why: String, failure: LogFailure) {
        let mut state = self.0.state.lock();
        (state.confirmed, state.failure) = (None, Some(why));
        match failure {
            LogFailure::Passing => return,
            LogFailure::NoLog if !state.has_looked => self.0.last_look.0.store(LastLook::NO_LOG, Ordering::Release),
            // The first failure says since when.
            _ if self.0.last_look.get().is_none_or(|(_, is_look)| is_look) => {
                self.0.last_look.set(self.micros(Instant::now()), false);
            }
            _ => {}
        }
        state.seen = None;
    }

    /// True if the log is followed: tiles that no look has found dirty have not changed.
    pub(crate) fn is_followed(&self) -> bool {
        let state = self.0.state.lock();
        state.seen.is_some() && state.confirmed.is_some_and(|confirmed| confirmed.elapsed() < MAX_SILENCE)
    }

    /// True if the log is followed, and a look has seen everything that a database state shows.
    fn has_seen(&self, cursor: &Cursor) -> bool {
        self.is_followed() && self.0.state.lock().seen.as_ref().is_some_and(|seen| seen.sees_all_of(cursor))
    }

    /// True if a live tile that is fresh shows at least the database state `published`: it was drawn from a state that
    /// sees all of it, or a look has seen all of that and has not found the tile changed.
    pub(crate) fn shows_at_least(&self, shown: &Cursor, published: Option<&Cursor>) -> bool {
        published.is_some_and(|published| shown.sees_all_of(published) || self.has_seen(published))
    }

    /// Notes that the target shows the database state `snapshot` within `scopes` from now on. Call this once requests
    /// see that state.
    pub(crate) fn set_target_state(&self, snapshot: Option<Cursor>, scopes: &[Scope]) {
        self.change(|state| state.by_log.shows(snapshot, scopes));
    }

    /// The least epoch of live tiles that are served together with a publication that requests are about to see. Cached
    /// live tiles stay valid if the log has been read up to the database state of the publication; otherwise they are
    /// evicted until it has.
    pub(crate) fn live_since_for(&self, snapshot: Option<&Cursor>, last: &LiveSince) -> LiveSince {
        if snapshot.is_some_and(|snapshot| self.has_seen(snapshot)) {
            return last.clone();
        }
        let is_followed = self.is_followed();
        let since = self.0.epochs.begin_publication(snapshot, last, is_followed);
        self.0.look_wanted.notify_one();
        since
    }

    /// Waits until a look into the log is wanted, because the target shows changes that no look has seen.
    pub async fn look_wanted(&self) {
        self.0.look_wanted.notified().await;
    }

    pub(crate) fn epochs(&self) -> &LiveEpochs {
        &self.0.epochs
    }

    /// Notes that the writer of this process is about to render these tiles; `None` if it may render every tile.
    pub(crate) fn add_writer_dirty(&self, tiles: Option<&TileRectList>) {
        self.change(|state| {
            let since = state.by_writer.as_ref().map_or_else(Instant::now, |(_, since)| *since);
            let all = match (tiles, state.by_writer.take()) {
                (None, _) | (_, Some((WritersTiles::Everything, _))) => WritersTiles::Everything,
                (Some(tiles), None) => WritersTiles::These(tiles.tiles().collect()),
                (Some(tiles), Some((WritersTiles::These(mut all), _))) => {
                    all.extend(tiles.tiles());
                    WritersTiles::These(all)
                }
            };
            state.by_writer = Some((all, since));
        });
    }

    /// Forgets the dirty tiles of this process's writer: they are published, or another process writes.
    pub(crate) fn clear_writer_dirty(&self) {
        self.change(|state| state.by_writer = None);
    }

    /// How long the writer of this process has known dirty tiles that are not published; `None` if there are none.
    pub(crate) fn writers_lag(&self) -> Option<Duration> {
        self.0.state.lock().by_writer.as_ref().map(|(_, since)| since.elapsed())
    }

    /// How long a stored tile has been known to be dirty; `None` if it is not dirty.
    pub(crate) fn dirty_for(&self, tile: TileCoord) -> Option<Duration> {
        if !self.0.any_is_dirty.load(Ordering::Acquire) {
            return None;
        }
        let state = self.0.state.lock();
        let by_writer = state.by_writer.as_ref().and_then(|(tiles, since)| match tiles {
            WritersTiles::These(tiles) => tiles.contains(&tile).then(|| since.elapsed()),
            WritersTiles::Everything => Some(since.elapsed()),
        });
        state.by_log.since(tile).map(|since| since.elapsed()).max(by_writer)
    }

    /// True if a tile has not changed between the database states `stored` and `later`, so that the stored tile is
    /// still fresh. False if `stored` is older than the state that the target shows.
    pub(crate) fn is_unchanged(&self, tile: TileCoord, stored: &Cursor, later: &Cursor) -> bool {
        if !self.has_seen(later) {
            return false;
        }
        let state = self.0.state.lock();
        state.by_log.is_shown_by(stored) && state.by_log.since(tile).is_none()
    }

    /// True if a client may have seen a tile in a later database state than the stored one, as a live tile before it
    /// was stored.
    pub(crate) fn was_seen_later(&self, tile: TileCoord, stored: Option<&Cursor>) -> bool {
        let Some(seen) = self.0.epochs.least_state(tile) else { return false };
        !stored.is_some_and(|stored| stored.sees_all_of(&seen) || self.is_unchanged(tile, stored, &seen))
    }

    /// What is known of the change log, for `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let is_followed = self.is_followed();
        let state = self.0.state.lock();
        serde_json::json!({
            "followed": is_followed,
            "last_look_seconds": state.confirmed.map(|confirmed| confirmed.elapsed().as_secs_f64()),
            "snapshot": state.seen.as_ref().map(ToString::to_string),
            "dirty_tiles": state.by_log.count(),
            "failure": state.failure,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cursor::NewestLogged;
    use crate::tile::{Scope, Zoom};

    fn tile(zoom: u8, x: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, 0).unwrap()
    }

    fn cursor(text: &str) -> Cursor {
        text.parse().unwrap()
    }

    fn look(seen: &str, transactions: &[u64], dirty: Option<&[TileCoord]>) -> LogLook {
        let dirty = dirty.map(<[TileCoord]>::to_vec);
        let (since, begun) = (Cursor::default(), Instant::now());
        LogLook {
            since,
            seen: cursor(seen),
            transactions: transactions.to_vec(),
            dirty,
            is_other_history: false,
            begun,
        }
    }

    /// The known changes for a target of zooms 0 to 5 that shows the database state `shown`.
    fn beside(shown: &str) -> KnownChanges {
        let known = KnownChanges::default();
        known.set_target_state(Some(cursor(shown)), &[Scope::read("0-5", &[]).unwrap()]);
        known
    }

    #[test]
    fn a_tile_that_is_dirty_to_the_writer_is_so_until_it_has_published() {
        let known = beside("100:100:");
        known.add_writer_dirty(Some(&"3/1/0".parse().unwrap()));
        known.add_writer_dirty(Some(&"3/2/0".parse().unwrap()));
        assert!(known.dirty_for(tile(3, 1)).is_some() && known.dirty_for(tile(3, 2)).is_some());
        assert!(known.dirty_for(tile(3, 3)).is_none() && known.writers_lag().is_some());
        known.add_writer_dirty(None);
        assert!(known.dirty_for(tile(3, 3)).is_some());
        known.clear_writer_dirty();
        assert!(known.dirty_for(tile(3, 1)).is_none() && known.writers_lag().is_none());
    }

    #[test]
    fn live_tiles_outlive_a_publication_whose_changes_the_log_tells_and_no_other() {
        let known = beside("100:100:");
        let first = LiveSince::default();
        let is_same = |since: &LiveSince, other: &LiveSince| since.get() == other.get();
        let unfollowed = known.live_since_for(Some(&cursor("101:101:")), &first);
        assert!(!is_same(&unfollowed, &first), "nobody follows the log");
        known.record_look(look("110:110:", &[105], Some(&[tile(9, 9)])));
        assert!(!is_same(&unfollowed, &first), "what changed before it was followed is not known");
        assert!(
            is_same(&known.live_since_for(Some(&cursor("109:109:")), &first), &first),
            "the log has been read up to it"
        );
        // Two publications that show more than was read of the log; it is read up to both, one after the other.
        let second = known.live_since_for(Some(&cursor("112:112:")), &first);
        let third = known.live_since_for(Some(&cursor("115:115:")), &second);
        assert!(second.get() > first.get() && third.get() >= second.get());
        known.record_look(look("113:113:", &[111], Some(&[tile(9, 9)])));
        assert!(is_same(&second, &first) && !is_same(&third, &first));
        known.record_look(look("116:116:", &[], Some(&[])));
        assert!(is_same(&third, &first));
        assert!(!is_same(&known.live_since_for(None, &first), &first), "nobody knows what it shows");
        known.record_failed_look("away".to_owned(), LogFailure::Passing);
        assert!(!known.is_followed() && !is_same(&known.live_since_for(Some(&cursor("109:109:")), &first), &first));
    }

    #[test]
    fn in_another_history_nothing_counts_as_seen_and_no_tile_as_fresh() {
        let known = beside("100:100:");
        let (epochs, state) = (known.epochs(), |text: &str| Arc::new(cursor(text)));
        let kept = |text: &str, at| StateInHistory {
            state: cursor(text),
            newest: NewestLogged::Transaction { xid: 99, at, digest: 7 },
        };
        known.add_unconfirmed(&kept("108:108:", 1));
        assert_eq!(known.unconfirmed(), [], "the first look evicts every live tile");
        known.record_look(look("110:110:", &[], Some(&[])));
        for shown in [kept("112:112:", 1), kept("112:112:", 1), kept("115:115:", 1)] {
            known.add_unconfirmed(&shown);
        }
        let (examined, before) = (known.unconfirmed(), epochs.of(tile(9, 1), &LiveSince::default()));
        assert_eq!(examined, [kept("112:112:", 1), kept("115:115:", 1)]);
        assert!(
            epochs.try_record_answer(tile(9, 1), &state("115:115:"))
                && !epochs.try_record_answer(tile(9, 1), &state("105:105:"))
        );
        known.add_unconfirmed(&kept("116:116:", 1));
        known.record_look(LogLook { is_other_history: true, ..look("105:105:", &[], None) });
        known.remove_unconfirmed(&examined);
        assert_eq!(known.unconfirmed(), [kept("116:116:", 1)]);
        assert!(epochs.of(tile(9, 1), &LiveSince::default()) > before && epochs.of_this_history() > before);
        assert!(
            epochs.try_record_answer(tile(9, 1), &state("106:106:")) && epochs.takes(tile(9, 2), &state("106:106:"))
        );
        // Too many to examine.
        let before = epochs.of(tile(9, 1), &LiveSince::default());
        std::thread::sleep(Duration::from_millis(1));
        (0..=u64::try_from(MAX_UNCONFIRMED).unwrap())
            .for_each(|number| known.add_unconfirmed(&kept("120:120:", number)));
        assert!(known.unconfirmed().len() < MAX_UNCONFIRMED && epochs.of(tile(9, 1), &LiveSince::default()) > before);
    }

    #[test]
    fn the_clock_says_whether_the_log_was_read_a_moment_ago_and_no_log_is_not_missed() {
        let (known, start) = (KnownChanges::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let age = |seconds: u64| known.log_age(|| after(seconds));
        assert_eq!((age(0), age(900)), (LogAge::Current, LogAge::Current), "nobody is to follow a log");
        known.expect_log();
        assert_eq!((age(0), age(59), age(62)), (LogAge::Old, LogAge::Old, LogAge::LongOutage));
        assert!(
            known.is_starting(after(4)) && !known.is_starting(after(7)),
            "for 5 s a server says that it is not ready"
        );
        let begun = |seconds: u64| LogLook { begun: after(seconds), ..look("110:110:", &[], Some(&[])) };
        known.record_look(begun(10));
        assert_eq!((age(11), age(13), age(90)), (LogAge::Current, LogAge::Old, LogAge::LongOutage));
        known.record_nothing_new(after(20));
        assert_eq!((age(21), age(23)), (LogAge::Current, LogAge::Old), "the process was paused");
        assert!(
            !known.is_starting(after(23))
                && known.unread(after(23)).unwrap().ends_with("the database has not answered")
        );
        known.record_failed_look("away".to_owned(), LogFailure::Passing);
        assert_eq!((age(21), age(23)), (LogAge::Current, LogAge::Old), "until then everything was read");
        known.record_failed_look("gone".to_owned(), LogFailure::NoLog);
        assert_eq!(age(0), LogAge::Old, "it was followed before");
        let without = KnownChanges::default();
        without.expect_log();
        without.record_failed_look("not installed".to_owned(), LogFailure::NoLog);
        assert_eq!((without.log_age(|| after(900)), without.unread(after(900))), (LogAge::Current, None));
    }

    #[test]
    fn a_live_tile_is_not_fresh_after_changes_were_missed() {
        let (known, since) = (beside("100:100:"), LiveSince::default());
        known.record_look(look("110:110:", &[], Some(&[])));
        let before = known.epochs().of(tile(9, 1), &since);
        std::thread::sleep(Duration::from_millis(1));
        let next = |from: &str, to: &str| LogLook { since: cursor(from), ..look(to, &[], Some(&[])) };
        known.record_look(next("110:110:", "120:120:"));
        assert_eq!(known.epochs().of(tile(9, 1), &since), before, "it goes on where the last look ended");
        // The target was written meanwhile, and the look begins at what it shows.
        known.record_failed_look("the target was replaced".to_owned(), LogFailure::Lost);
        known.record_look(next("130:130:", "131:131:"));
        assert!(known.epochs().of(tile(9, 1), &since) > before);
        assert!(!known.epochs().takes(tile(9, 1), &Arc::new(cursor("125:125:"))));
    }
}
