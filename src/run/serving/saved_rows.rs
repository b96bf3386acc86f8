//! The file in which a server leaves its live rows for the next one, so that a restart reads no table.
//!
//! ```text
//!  rows were read, or changed ─► file beside the target, with the state that they are of
//!  next start ─► same configuration? same database and history? ─► what changed since, by the change log ─► rows
//! ```
//!
//! A file is used only if it is signed by a key of the database's change log, and the database is a continuation of the
//! state that its rows are of. Otherwise it is ignored, and the rows are read from the table as without it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::rows::{FEW_TILES, NotKept, RowsStage, RowsState, ServedRows};
use super::saved_rows_file::{About, SavedRowsFile};
use crate::cursor::{NewestLogged, StateInHistory};
use crate::draw::{MAX_AGE, SavedLayer, SavedRows};
use crate::postgis::{Database, Layer, Snapshot, server_of, shows_rows_as_written};
use crate::run::CommandError;
use crate::run::identity::{LogIdentity, SameDatabase, compare};
use crate::run::kept_rows::{RowsSnapshot, is_in_history};

/// The purpose for which the key of the signature is derived from the change log's key.
const PURPOSE: &str = "live rows";

/// The longest time for which the end of the server waits for the file.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Why a file is not used.
enum NotUsed {
    /// In words.
    Unfit(String),
    Failed(NotKept),
}

impl<E: Into<NotKept>> From<E> for NotUsed {
    fn from(error: E) -> NotUsed {
        NotUsed::Failed(error.into())
    }
}

fn unfit<T>(why: &str) -> Result<T, NotUsed> {
    Err(NotUsed::Unfit(why.to_owned()))
}

impl ServedRows {
    /// True for one caller, who has to take the rows of an earlier server over.
    pub(crate) async fn have_to_be_loaded(self: &Arc<ServedRows>) -> bool {
        if self.memory == 0 || self.file.is_none() {
            return false;
        }
        let rows = Arc::clone(self);
        let asking = tokio::task::spawn_blocking(move || rows.file.as_ref().map_or(Ok(false), SavedRowsFile::is_there));
        match asking.await {
            Ok(Ok(true)) => {}
            Ok(Err(why)) => {
                self.note_ignored(why);
                return false;
            }
            Ok(Ok(false)) | Err(_) => return false,
        }
        let mut kept = self.kept.lock().await;
        if !matches!(&*kept, RowsStage::Due(..)) {
            return false;
        }
        self.note_reading("the rows of an earlier server are being taken over");
        *kept = RowsStage::Reading;
        true
    }

    fn note_ignored(&self, why: String) {
        tracing::info!("the rows for live tiles of an earlier server are ignored: {why}");
        self.report.lock().why_not_loaded = Some(why);
    }

    /// Takes the rows of an earlier server over, on a snapshot that nobody else uses.
    pub(crate) async fn load(self: &Arc<ServedRows>, on: Result<RowsSnapshot<'_>, CommandError>, schema: &str) {
        let begun = Instant::now();
        let loaded = match on {
            Ok(on) => self.try_load(&on, schema).await,
            Err(error) => Err(error.into()),
        };
        let mut kept = self.kept.lock().await;
        let why = match loaded {
            Ok(state) => {
                self.note_shown(&state.shown, |report| report.loads += 1).await;
                let report = self.report();
                tracing::info!(
                    "{} rows for live tiles were taken over from an earlier server in {:.1} s, and no table was read",
                    report.rows,
                    begun.elapsed().as_secs_f64()
                );
                *kept = RowsStage::Rows(state);
                return;
            }
            Err(NotUsed::Unfit(why) | NotUsed::Failed(NotKept::Lost(why))) => why,
            Err(NotUsed::Failed(NotKept::NotNow)) => "the change log is locked".to_owned(),
        };
        self.drop_rows().await;
        self.note_ignored(why);
        self.note_why_not(FEW_TILES);
        *kept = RowsStage::not_yet();
    }

    async fn try_load(self: &Arc<ServedRows>, on: &RowsSnapshot<'_>, schema: &str) -> Result<RowsState, NotUsed> {
        if on.shown.newest == NewestLogged::NoLog || on.reads.row_security.is_some() {
            return unfit("there is no change log, or a table has row level security");
        }
        let Some(log) = LogIdentity::read(on.snapshot, schema, []).await? else {
            return unfit("this role may not read the change log's key");
        };
        self.owners.find(on.snapshot, on.layers).await?;
        // Of layers of cells that share rows an earlier version has saved the own ones, too.
        let of_cells = on.layers.iter().filter_map(|layer| Some(Arc::clone(&self.owners.members_of(layer)?.rows)));
        let layers: Vec<Arc<Layer>> = self.saved_layers(on.layers).into_iter().chain(of_cells).collect();
        let (rows, key) = (Arc::clone(self), log.key().derived(PURPOSE));
        let reading = tokio::task::spawn_blocking(move || match &rows.file {
            Some(file) => file.read(&layers, key.as_bytes(), rows.memory),
            None => Err("there is no place for it".to_owned()),
        });
        let mut saved = reading.await.map_err(CommandError::from)?.map_err(NotUsed::Unfit)?;
        self.owners.share_only_with(|points| saved.layers.iter().any(|layer| layer.definition == points));
        let kept = self.saved_layers(on.layers);
        saved.layers.retain(|saved| kept.iter().any(|layer| layer.definition() == saved.definition));
        let before = self.of_this_database(on, schema, &saved.about).await?;
        let ages = ages(on.snapshot, &kept, &saved.layers).await?;
        let age = |layer: &SavedLayer| {
            let known = ages.iter().find(|(definition, _)| *definition == layer.definition);
            known.map_or(MAX_AGE, |(_, age)| *age)
        };
        if saved.layers.is_empty() || saved.layers.iter().any(|layer| age(layer) >= MAX_AGE) {
            return unfit(
                "they were read more than ten minutes ago, and a condition or an expression may give something else by now",
            );
        }
        self.rows.replace(saved.layers, &before.state.to_string(), age).await;
        self.brought(on.database, on.snapshot, on.layers, on.reads, &before, schema).await?;
        for (number, layer) in on.layers.iter().enumerate().filter(|(_, layer)| layer.grid().is_none()) {
            let step = self.step(on.snapshot, "");
            if let Some(points) = self.rows.points(step, layer, None).await?
                && !on.draws_alike(number, &points).await?
            {
                return unfit("the database draws other tiles");
            }
        }
        for layer in &kept {
            self.rows.read_facets(self.step(on.snapshot, ""), layer).await?;
        }
        self.compare_cells(on).await?;
        if self.rows.point_layers().await == 0 {
            return unfit("the database counts other cells");
        }
        self.sets.note_rows_read();
        on.snapshot.check_partitions(on.reads).await?;
        self.offer(self.pool_step(on.database, on.snapshot, schema), on.layers, on.shown).await;
        if let Some(file) = &self.file {
            let mut last = file.last.lock();
            (last.tried, last.shown) = (Some(Instant::now()), Some(before));
        }
        Ok(RowsState::new(on.shown, on.reads))
    }

    /// The layers as which rows are read, each once.
    fn saved_layers(&self, all: &[Arc<Layer>]) -> Vec<Arc<Layer>> {
        self.owners.own_rows_layers(all).into_iter().map(|rows| rows.layer).collect()
    }

    /// The state that the rows of a file are of, if the database has reached it by the same history.
    async fn of_this_database(
        &self,
        on: &RowsSnapshot<'_>,
        schema: &str,
        about: &About,
    ) -> Result<StateInHistory, NotUsed> {
        let own = self.file.as_ref().map(|file| &file.fingerprint);
        if own != Some(&about.fingerprint) {
            return unfit("they are of another configuration, or another version of the program");
        }
        if about.reads != on.reads.digest {
            return unfit("a table or a view is another one");
        }
        let Some(shown) = about.shown() else { return unfit("its state cannot be read") };
        let log = LogIdentity::read(on.snapshot, schema, [about.witness.snapshot.as_str()]).await?;
        let Some(log) = log else { return unfit("this role may not read the change log's key") };
        let identity = server_of(on.snapshot).await?.identity;
        match compare(Some(&about.database), &identity, Some(log.key())) {
            Ok(SameDatabase::Yes) => {}
            Ok(SameDatabase::Unsaid | SameDatabase::OtherKey) | Err(_) => {
                return unfit("they are of another database, or of another version of PostGIS");
            }
        }
        if log.vouches(&about.witness) != Some(true) || !is_in_history(on.snapshot, schema, &shown).await? {
            return unfit("the database has another history, or its change log does not reach back so far");
        }
        Ok(shown)
    }

    /// True for one caller, who has to write the rows to the file.
    pub(crate) fn have_to_be_saved(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let Ok(kept) = self.kept.try_lock() else { return false };
        let RowsStage::Rows(state) = &*kept else { return false };
        let is_due = file.is_due(&state.shown);
        if is_due {
            file.last.lock().tried = Some(Instant::now());
        }
        is_due
    }

    /// Writes the rows to the file, if it holds others.
    pub(crate) async fn save(self: &Arc<ServedRows>, database: &Database, schema: &str) {
        let Some(file) = &self.file else { return };
        let _writing = file.writing.lock().await;
        let why = match self.try_save(file, database, schema).await {
            Ok(None) => return,
            Ok(Some(shown)) => {
                let mut last = file.last.lock();
                (last.written, last.shown, last.is_failure_logged) = (Some(Instant::now()), Some(shown), false);
                self.report.lock().why_not_saved = None;
                return;
            }
            Err(NotKept::Lost(why)) => why,
            Err(NotKept::NotNow) => "the change log is locked".to_owned(),
        };
        let is_failure_logged = std::mem::replace(&mut file.last.lock().is_failure_logged, true);
        if !is_failure_logged {
            tracing::warn!("rows for live tiles are not kept for the next start: {why}");
        }
        self.report.lock().why_not_saved = Some(why);
    }

    /// The state of the rows that were written; `None` if there was nothing to write, or another server is writing.
    async fn try_save(
        self: &Arc<ServedRows>,
        file: &SavedRowsFile,
        database: &Database,
        schema: &str,
    ) -> Result<Option<StateInHistory>, NotKept> {
        let (RowsState { shown, reads }, layers) = {
            let kept = self.kept.lock().await;
            let RowsStage::Rows(state) = &*kept else { return Ok(None) };
            (state.clone(), self.rows.saved().await)
        };
        if file.last.lock().shown.as_ref() == Some(&shown) || layers.is_empty() {
            return Ok(None);
        }
        let (about, key) = {
            let snapshot = database.snapshot().await?;
            let state = shown.state.to_string();
            if !is_in_history(&snapshot, schema, &shown).await? {
                return Err(NotKept::Lost("the database has another history".to_owned()));
            }
            let log = LogIdentity::read(&snapshot, schema, [state.as_str()]).await?;
            let server = server_of(&snapshot).await?;
            if server.in_recovery {
                return Err(NotKept::Lost("a standby shows more than the name of its state says".to_owned()));
            }
            let mark = server.identity;
            let Some((log, witness)) = log.as_ref().and_then(|log| Some((log, log.witness(&state)?))) else {
                return Err(NotKept::Lost("this role may not read the change log's key".to_owned()));
            };
            let about = About {
                fingerprint: file.fingerprint.clone(),
                reads,
                database: log.mark(&mark),
                witness: witness.clone(),
                newest: shown.newest.to_string(),
            };
            (about, log.key().derived(PURPOSE))
        };
        let rows = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || match &rows.file {
            Some(file) => file.write(&SavedRows { about, layers }, key.as_bytes()),
            None => Ok(false),
        });
        let is_written = writing.await.map_err(CommandError::from)??;
        Ok(is_written.then_some(shown))
    }

    /// Writes the rows to the file before the process ends.
    pub(crate) async fn end(self: &Arc<ServedRows>, database: &Database, schema: &str) {
        if tokio::time::timeout(END_LIMIT, self.save(database, schema)).await.is_err() {
            tracing::warn!("rows for live tiles are not kept for the next start: it takes too long");
        }
    }
}

/// For each of some layers of a file, the time since its rows were read, as far as it matters: rows that are shown as
/// they were written are as good as the change log.
async fn ages(
    snapshot: &Snapshot,
    layers: &[Arc<Layer>],
    saved: &[SavedLayer],
) -> Result<Vec<(String, Duration)>, CommandError> {
    let now = SystemTime::now();
    let mut ages = Vec::new();
    for layer in layers {
        let definition = layer.definition();
        let Some(saved) = saved.iter().find(|saved| saved.definition == definition) else { continue };
        let is_as_written = shows_rows_as_written(snapshot, layer, &[]).await?;
        ages.push((definition, age(saved.read, now, is_as_written)));
    }
    Ok(ages)
}

/// The time since rows were read, as far as it matters.
fn age(read: SystemTime, now: SystemTime, are_as_written: bool) -> Duration {
    match now.duration_since(read) {
        _ if are_as_written => Duration::ZERO,
        Ok(age) => age,
        // The clock was set back.
        Err(_) => MAX_AGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_may_look_different_by_now_are_as_old_as_their_reading() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(age(at(1_000), at(1_090), false), Duration::from_secs(90));
        assert_eq!(age(at(1_000), at(9_000), true), Duration::ZERO);
        assert!(age(at(1_000), at(1_600), false) >= MAX_AGE);
        assert!(age(at(1_001), at(1_000), false) >= MAX_AGE);
    }
}
