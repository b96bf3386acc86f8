//! What a server knows of the change log: which stored tiles are stale, and since when each live tile may be cached.
//!
//! ```text
//! a server with live tiles looks into the log ─► looked ──────► stored tiles are stale, live ones leave memory and Redis
//! the writer of this process finds dirty tiles ─► found_dirty ─► stored tiles are stale until it has published
//! the target shows another publication ─────────► shows ───────► stored tiles that it has brought up to date are fresh
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `dirty` | the stored tiles that are dirty by the log |
//! | `epochs` | since when a live tile may be cached, and which database state a shared one must show |

mod dirty;
mod epochs;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::cursor::Cursor;
use crate::sink::Scope;
use crate::tile::{TileCoord, TileRectList};

use dirty::DirtyByLog;
use epochs::LiveEpochs;

pub(crate) use epochs::{LiveEpoch, LiveSince};

/// How long a look into the log is trusted: if the database has not answered for this long, changes may have been missed.
const LONGEST_SILENCE: Duration = Duration::from_secs(15);

/// A look into the change log.
#[derive(Debug, Clone)]
pub struct LogLook {
    /// The database state from which on the look found changes.
    pub since: Cursor,
    /// The database state up to which the look found changes.
    pub seen: Cursor,
    /// The transactions of these changes.
    pub transactions: Vec<u64>,
    /// The tiles at every zoom of the layers in which one of the changes can be seen; `None` if there are too many to list.
    pub dirty: Option<Vec<TileCoord>>,
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
    /// When the database last confirmed that the looks have found every change.
    confirmed: Option<Instant>,
    /// Why the log is not followed.
    failure: Option<String>,
    by_log: DirtyByLog,
    by_writer: Option<(WritersTiles, Instant)>,
}

struct ChangeLogParts {
    state: Mutex<ChangeLogState>,
    /// True if a stored tile may be dirty. While it is false, requests do not have to lock the state.
    any_is_dirty: AtomicBool,
    epochs: LiveEpochs,
    look_wanted: Notify,
}

/// What a server knows of the change log. Clones share it.
#[derive(Clone)]
pub struct KnownChanges(Arc<ChangeLogParts>);

impl Default for KnownChanges {
    /// Nothing is known.
    fn default() -> KnownChanges {
        KnownChanges::with(LiveEpochs::new())
    }
}

impl KnownChanges {
    /// Nothing is known yet. This is for a target without live tiles and without a writer; it takes little memory.
    pub(crate) fn small() -> KnownChanges {
        KnownChanges::with(LiveEpochs::small())
    }

    fn with(epochs: LiveEpochs) -> KnownChanges {
        KnownChanges(Arc::new(ChangeLogParts {
            state: Mutex::default(),
            any_is_dirty: AtomicBool::new(false),
            epochs,
            look_wanted: Notify::new(),
        }))
    }
}

impl KnownChanges {
    fn state(&self) -> MutexGuard<'_, ChangeLogState> {
        // Each update leaves consistent values.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and updates `any_is_dirty`.
    fn change(&self, change: impl FnOnce(&mut ChangeLogState)) {
        let mut state = self.state();
        change(&mut state);
        let any = !state.by_log.is_empty() || state.by_writer.is_some();
        self.0.any_is_dirty.store(any, Ordering::Release);
    }

    /// Adds the changes that a look into the log has found. Each look begins at the state of the previous look, or at the target's.
    pub fn looked(&self, look: LogLook) {
        let seen = Arc::new(look.seen.clone());
        if !look.transactions.is_empty() || look.dirty.is_none() {
            self.0.epochs.changed(look.dirty.as_deref(), &seen);
        }
        self.change(|state| {
            state.by_log.add(&look);
            (state.seen, state.confirmed, state.failure) = (Some(look.seen), Some(Instant::now()), None);
        });
        self.0.epochs.log_reached(&seen);
    }

    /// Notes that the database answered and had nothing new.
    pub fn confirmed(&self) {
        self.state().confirmed = Some(Instant::now());
    }

    /// Evicts every live tile, because the database is not the one that they show.
    pub fn evict_live(&self) {
        self.0.epochs.evict();
    }

    /// Notes that the log cannot be followed. `is_lost` is true if changes may be missed that no later look finds.
    pub fn failed(&self, why: String, is_lost: bool) {
        let mut state = self.state();
        (state.confirmed, state.failure) = (None, Some(why));
        if is_lost {
            state.seen = None;
        }
    }

    /// True if the log is followed: tiles that no look has found dirty have not changed.
    pub(crate) fn is_followed(&self) -> bool {
        let state = self.state();
        state.seen.is_some() && state.confirmed.is_some_and(|confirmed| confirmed.elapsed() < LONGEST_SILENCE)
    }

    /// True if the log is followed, and a look has seen everything that a database state shows.
    fn has_seen(&self, cursor: &Cursor) -> bool {
        self.is_followed() && self.state().seen.as_ref().is_some_and(|seen| seen.sees_all_of(cursor))
    }

    /// Notes that the target shows the database state `snapshot` within `scopes` from now on. Call this once requests see that state.
    pub(crate) fn shows(&self, snapshot: Option<Cursor>, scopes: &[Scope]) {
        self.change(|state| state.by_log.shows(snapshot, scopes));
    }

    /// The least epoch of live tiles that are served together with a publication that requests are about to see. Cached live tiles stay valid if the
    /// log has been read up to the database state of the publication; otherwise they are evicted until it has.
    pub(crate) fn beside(&self, snapshot: Option<&Cursor>, last: &LiveSince) -> LiveSince {
        if snapshot.is_some_and(|snapshot| self.has_seen(snapshot)) {
            return last.clone();
        }
        let is_followed = self.is_followed();
        let since = self.0.epochs.published(snapshot, last, is_followed);
        self.0.look_wanted.notify_one();
        since
    }

    /// Waits until a look into the log is wanted, because the target shows changes that no look has seen.
    pub async fn look_wanted(&self) {
        self.0.look_wanted.notified().await;
    }

    /// The epochs of live tiles.
    pub(crate) fn epochs(&self) -> &LiveEpochs {
        &self.0.epochs
    }

    /// Notes that the writer of this process is about to render these tiles; `None` if it may render every tile.
    pub(crate) fn found_dirty(&self, tiles: Option<&TileRectList>) {
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
    pub(crate) fn is_clean(&self) {
        self.change(|state| state.by_writer = None);
    }

    /// How long the writer of this process has known dirty tiles that are not published; `None` if there are none.
    pub(crate) fn writers_lag(&self) -> Option<Duration> {
        self.state().by_writer.as_ref().map(|(_, since)| since.elapsed())
    }

    /// How long a stored tile has been known to be dirty; `None` if it is not dirty.
    pub(crate) fn dirty_for(&self, tile: TileCoord) -> Option<Duration> {
        if !self.0.any_is_dirty.load(Ordering::Acquire) {
            return None;
        }
        let state = self.state();
        let by_writer = state.by_writer.as_ref().and_then(|(tiles, since)| match tiles {
            WritersTiles::These(tiles) => tiles.contains(&tile).then(|| since.elapsed()),
            WritersTiles::Everything => Some(since.elapsed()),
        });
        state.by_log.since(tile).map(|since| since.elapsed()).max(by_writer)
    }

    /// True if a tile has not changed between the database states `stored` and `later`, so that the stored tile is still fresh. False if `stored` is
    /// older than the state that the target shows.
    pub(crate) fn is_unchanged(&self, tile: TileCoord, stored: &Cursor, later: &Cursor) -> bool {
        if !self.has_seen(later) {
            return false;
        }
        let state = self.state();
        state.by_log.is_shown_by(stored) && state.by_log.since(tile).is_none()
    }

    /// True if a client may have seen a tile in a later database state than the stored one, as a live tile before it was stored.
    pub(crate) fn was_seen_later(&self, tile: TileCoord, stored: Option<&Cursor>) -> bool {
        let Some(seen) = self.0.epochs.least_state(tile) else { return false };
        !stored.is_some_and(|stored| stored.sees_all_of(&seen) || self.is_unchanged(tile, stored, &seen))
    }

    /// What is known of the change log, for `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let is_followed = self.is_followed();
        let state = self.state();
        serde_json::json!({
            "followed": is_followed,
            "snapshot": state.seen.as_ref().map(ToString::to_string),
            "dirty_tiles": state.by_log.count(),
            "failure": state.failure,
        })
    }
}

#[cfg(test)]
mod tests;
