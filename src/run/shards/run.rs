//! `shards run`: renders one shard into a sorted run in the work folder, and notes that the shard is done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::{Places, ShardRun, slot};
use crate::clock::milliseconds_now;
use crate::hex::random_hex;
use crate::postgis::{Database, Snapshot};
use crate::report::Event;
use crate::run::describe::names;
use crate::run::identity::LogIdentity;
use crate::run::prepare::prepare_on;
use crate::run::render::{Rendered, render};
use crate::run::{CommandError, RunPart, TilesetRun, describe, restarting};
use crate::shards::{
    AddingNote, AttemptNote, DoneNote, DoneZoom, FinishedShard, RunEnd, RunSink, ShardPlan, ShardSink, ShardsError,
    StateKind, WorkFolder,
};
use crate::target::{TargetError, host};
use crate::tile::ColumnRanges;

/// Renders the shard `number`, counted from 1. Fails if it could not be rendered, the settings are not those of the
/// plan, or the run was given up.
pub(crate) async fn run(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    plan: &ShardPlan,
    number: u32,
) -> Result<ShardEnd, CommandError> {
    let of = ShardRun { tileset_run, work, plan };
    of.check_settings()?;
    let own = OwnShard { tileset_run, work, run: &plan.run, number };
    let shard = Shard { of, number, own };
    let places = Places { run: &plan.run, connections: plan.connections, shards: plan.count() };
    own.attempted(places, async |attempt| shard.rendered(attempt).await).await
}

/// The same by the only process that works on the run: it takes no place among the connections, and others see no
/// heartbeat of it.
pub(crate) async fn run_alone(of: ShardRun<'_>, number: u32) -> Result<ShardEnd, CommandError> {
    let own = OwnShard { tileset_run: of.tileset_run, work: of.work, run: &of.plan.run, number };
    if let Some(end) = own.late().await? {
        return Ok(end);
    }
    Shard { of, number, own }.rendered(&own.new_attempt()).await
}

struct Shard<'a> {
    of: ShardRun<'a>,
    number: u32,
    own: OwnShard<'a>,
}

impl Shard<'_> {
    async fn rendered(&self, attempt: &AttemptNote) -> Result<ShardEnd, CommandError> {
        let tileset_run = self.of.tileset_run;
        let render = async |_restarts| Box::pin(self.attempt(attempt)).await;
        restarting(&tileset_run.settings.database, &tileset_run.report, &tileset_run.stop, render).await
    }

    async fn attempt(&self, attempt: &AttemptNote) -> Result<ShardEnd, CommandError> {
        let Shard { of, number, .. } = *self;
        let ShardRun { tileset_run, work, plan } = of;
        let begun = Instant::now();
        let (columns, rows) = plan.shard(number).map(|shard| (shard.columns.clone(), shard.rows)).unwrap_or_default();
        let database = tileset_run.database()?;
        let snapshot = Arc::new(self.snapshot(&database, attempt).await?);
        let seen = snapshot.exported().seen().to_owned();
        // Layers are probed with the zooms of the whole tileset, but tiles are planned only for the zooms of the shard.
        let mut part = tileset_run.clone();
        if let Some(zooms) = columns.zooms() {
            part.settings.tileset.zooms = zooms;
        }
        part.part = RunPart::Shard { columns: columns.clone(), rows, reads_most: reads_most(rows, &plan.rows) };
        let (order, workers) = (plan.needs().order, tileset_run.settings.run.workers.get());
        let mut prepared = prepare_on(&part, &database, Arc::clone(&snapshot), order, workers, begun).await?;
        of.check_database(&prepared.layers, &prepared.reads, &prepared.server.identity)?;
        let asked = plan.witness.iter().map(|witness| witness.snapshot.as_str());
        let log = LogIdentity::read(&snapshot, &tileset_run.settings.database.changes.schema, asked).await?;
        of.check_history(log.as_ref(), &plan.witness)?;
        let witness = log.as_ref().map(LogIdentity::own).cloned();
        let tiles: u64 = prepared.zooms.iter().map(|zoom| zoom.tiles).sum();

        let name = WorkFolder::run_name(&plan.run, number, &random_hex(1));
        let names = names(&prepared.layers);
        let adding = plan.shared_version.as_ref().map(|_| AddingNote {
            shard: number,
            id: random_hex(1),
            cursor: snapshot.cursor().to_owned(),
            witness: witness.clone(),
            has_ended: false,
        });
        if let Some(end) = self.begin_adding(adding.as_ref()).await? {
            return Ok(end);
        }
        let sink = self.sink(&name, columns, names.clone(), adding.clone());
        let rendered = async {
            let rendered = render(&part, &mut prepared, sink.await?, tiles).await?;
            tileset_run.report.event(&Event::Finishing);
            let Rendered { sink, outcome, reading, reading_sessions, rendering, workers, .. } = rendered;
            let finished = spawn_blocking(move || sink.end()).await??;
            Ok::<_, CommandError>((finished, outcome, (reading, reading_sessions), rendering, workers))
        };
        let rendered = Box::pin(rendered).await;
        // All of its requests have been answered, or given up with their connections.
        self.end_adding(adding.as_ref()).await?;
        let (FinishedShard { run: finished, is_exact }, outcome, (reading, reading_sessions), rendering, workers) =
            rendered?;
        let done = DoneNote {
            shard: number,
            attempt: attempt.attempt.clone(),
            file: (finished.edits > 0).then(|| name.clone()),
            bytes: finished.bytes,
            crc32: finished.crc32,
            edits: finished.edits,
            adding: adding.map(|adding| adding.id),
            is_exact,
            tiles,
            // Without a feature the bounds are those of the whole area.
            bounds: (tiles > 0).then_some(prepared.bounds),
            cursor: snapshot.cursor().to_owned(),
            witness,
            seen,
            zooms: outcome.zooms.iter().map(done_zoom).collect(),
            layers: describe::record(&outcome, &names),
            plan_seconds: (prepared.took + reading).as_secs_f64(),
            reading_seconds: reading.as_secs_f64(),
            reading_sessions,
            render_seconds: rendering.as_secs_f64(),
            seconds: begun.elapsed().as_secs_f64(),
            workers,
        };
        let (folder, run) = (work.clone(), plan.run.clone());
        spawn_blocking(move || store(&folder, &run, &done, finished.file)).await?
    }

    /// The sink of the shard: its run, which will have the name `name`, and the tiles of a new version, if the shard
    /// adds them itself. `layers` are the names of the layers.
    async fn sink(
        &self,
        name: &str,
        columns: ColumnRanges,
        layers: Vec<String>,
        adding: Option<AddingNote>,
    ) -> Result<ShardSink, CommandError> {
        let (files, run, needs) = (self.of.work.files.clone(), self.of.plan.run.clone(), self.of.plan.needs());
        let (place, folder) = (files.place(name), self.of.work.clone());
        let (target, version) = (self.of.tileset_run.target.clone(), self.of.plan.shared_version.clone());
        let opened = spawn_blocking(move || {
            let mut tiles = version.map(|version| target.version_tiles(&version, &layers)).transpose()?;
            if let (Some(tiles), Some(own)) = (&mut tiles, &adding)
                && folder.was_adding(&run, own)?
            {
                tiles.list(&columns).map_err(TargetError::from)?;
            }
            let file = files.begin(&run).map_err(ShardsError::from)?;
            Ok(ShardSink::new(RunSink::begin(file, needs, place)?, tiles))
        });
        opened.await?
    }

    /// Notes that this shard is going to add tiles of a snapshot to the target. Returns how the shard ends if another
    /// attempt has already done it. The commit lists these notes once all shards are done. So either it sees this note,
    /// or this attempt sees that its shard is done.
    async fn begin_adding(&self, adding: Option<&AddingNote>) -> Result<Option<ShardEnd>, CommandError> {
        let Some(adding) = adding.cloned() else { return Ok(None) };
        let (folder, run) = (self.of.work.clone(), self.of.plan.run.clone());
        spawn_blocking(move || folder.note_adding(&run, &adding)).await??;
        self.own.late().await
    }

    /// Notes that no request for tiles of the snapshot is pending any more.
    async fn end_adding(&self, adding: Option<&AddingNote>) -> Result<(), CommandError> {
        let Some(adding) = adding.cloned() else { return Ok(()) };
        let (folder, run) = (self.of.work.clone(), self.of.plan.run.clone());
        let ended = AddingNote { has_ended: true, ..adding };
        Ok(spawn_blocking(move || folder.note_adding(&run, &ended)).await??)
    }

    async fn snapshot(&self, database: &Database, attempt: &AttemptNote) -> Result<Snapshot, CommandError> {
        let ShardRun { work, plan, .. } = self.of;
        match plan.state {
            StateKind::Tracked => Ok(database.snapshot().await?),
            StateKind::Frozen => {
                let snapshot = database.snapshot().await?;
                if snapshot.exported().seen() == plan.seen {
                    return Ok(snapshot);
                }
                let (now, then) = (snapshot.exported().seen().to_owned(), plan.seen.clone());
                Err(ShardsError::Thawed { run: plan.run.clone(), now, then }.into())
            }
            StateKind::Held => {
                let (folder, run) = (work.clone(), plan.run.clone());
                for exported in spawn_blocking(move || folder.snapshots(&run)).await?? {
                    match database.imported_snapshot(&exported).await {
                        Ok(snapshot) => {
                            let snapshot = snapshot.known_since(plan.cursor.clone());
                            let (folder, run, id) = (work.clone(), plan.run.clone(), attempt.attempt.clone());
                            let own = snapshot.exported().clone();
                            spawn_blocking(move || folder.add_snapshot(&run, &id, &own)).await??;
                            return Ok(snapshot);
                        }
                        // The session that exported this snapshot has ended. The session of another snapshot may still
                        // be there.
                        Err(error) if error.is_snapshot_gone() => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(ShardsError::SnapshotGone { run: plan.run.clone() }.into())
            }
        }
    }
}

/// True if a shard reads at least three quarters of all rows. `all` has the numbers of rows of the layers, where they
/// are known.
fn reads_most(rows: u64, all: &[Option<u64>]) -> bool {
    let all: Option<u64> = all.iter().copied().sum();
    all.is_some_and(|all| rows.saturating_mul(4) >= all.saturating_mul(3))
}

fn done_zoom(zoom: &crate::pipeline::ZoomStats) -> DoneZoom {
    DoneZoom { zoom: zoom.zoom.get(), features: zoom.features, worker_seconds: zoom.busy.as_secs_f64() }
}

/// Stores the run of a shard, and notes last that the shard is done, unless another attempt has done so.
fn store(
    work: &WorkFolder,
    run: &str,
    done: &DoneNote,
    file: tempfile::NamedTempFile,
) -> Result<ShardEnd, CommandError> {
    let goes_on = |work: &WorkFolder| match work.end_of(run)? {
        Some(RunEnd::Committed) => Ok(false),
        Some(RunEnd::Aborted) => Err(ShardsError::Aborted { work: work.name.clone(), run: run.to_owned() }),
        None => Ok(true),
    };
    if !goes_on(work)? || work.done(run, done.shard)?.is_some() {
        return Ok(ShardEnd::AlreadyDone);
    }
    if let Some(name) = &done.file {
        work.files.store(name, file).map_err(ShardsError::from)?;
    }
    // The run may have ended during the upload. Files that are stored after this check are removed with the run, or
    // stay and are never read.
    let is_first = goes_on(work)? && work.write_done(run, done)?;
    if is_first {
        return Ok(ShardEnd::Done { tiles: done.tiles });
    }
    if let Some(name) = &done.file {
        work.files.remove(name).map_err(ShardsError::from)?;
    }
    Ok(ShardEnd::AlreadyDone)
}

// An attempt at a shard. It holds a slot of the connections, sends a heartbeat, and ends in order if another attempt or
// the commit was faster.

/// The interval at which an attempt sends a heartbeat, and checks whether its run goes on.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The outcome of `shards run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShardEnd {
    Done {
        tiles: u64,
    },
    /// Another attempt has done it, or the run was committed.
    AlreadyDone,
}

#[derive(Clone, Copy)]
pub(crate) struct OwnShard<'a> {
    pub(crate) tileset_run: &'a TilesetRun,
    pub(crate) work: &'a WorkFolder,
    /// The run's id.
    pub(crate) run: &'a str,
    /// The shard, counted from 1.
    pub(crate) number: u32,
}

impl OwnShard<'_> {
    fn new_attempt(&self) -> AttemptNote {
        AttemptNote {
            shard: self.number,
            attempt: random_hex(1),
            holder: format!("process {} on {}", std::process::id(), host()),
            began: milliseconds_now(),
            alive: milliseconds_now(),
        }
    }

    /// Renders the shard with `render`, unless it is already done.
    pub(crate) async fn attempted(
        &self,
        places: Places<'_>,
        render: impl AsyncFnOnce(&AttemptNote) -> Result<ShardEnd, CommandError>,
    ) -> Result<ShardEnd, CommandError> {
        if let Some(end) = self.late().await? {
            return Ok(end);
        }
        let attempt = self.new_attempt();
        let lease = match slot(self.tileset_run, self.work, places).await {
            Ok(lease) => lease,
            Err(error) => return self.unless_late(error).await,
        };
        let mut lease = lease;
        let ended = tokio::select! {
            done = Box::pin(render(&attempt)) => done,
            why = lease.renew_until_lost() => Err(ShardsError::LostSlot { why }.into()),
            error = self.watched(&attempt) => Err(error),
        };
        lease.release().await;
        let (folder, run, own) = (self.work.clone(), self.run.to_owned(), attempt.clone());
        let forgotten = spawn_blocking(move || {
            folder.forget_snapshot(&run, &own.attempt)?;
            folder.forget_attempt(&run, &own)
        });
        if let Err(error) = forgotten.await? {
            tracing::warn!("the note of this attempt stays in the work folder: {error}");
        }
        let ended = match ended {
            Ok(end) => Ok(end),
            Err(error) => self.unless_late(error).await,
        };
        if !matches!(ended, Ok(ShardEnd::Done { .. })) {
            self.clear_if_over().await;
        }
        ended
    }

    /// Removes the files that this attempt has left in the work folder after the run ended and was cleared.
    async fn clear_if_over(&self) {
        let (folder, run) = (self.work.clone(), self.run.to_owned());
        let cleared = spawn_blocking(move || if folder.end_of(&run)?.is_some() { folder.clear(&run) } else { Ok(()) });
        if let Ok(Err(error)) = cleared.await {
            tracing::warn!("files of this attempt stay in the work folder: {error}");
        }
    }

    /// How the shard ends if there is nothing left to do; `None` if there is. An error if its run was given up.
    pub(crate) async fn late(&self) -> Result<Option<ShardEnd>, CommandError> {
        let (folder, run, number) = (self.work.clone(), self.run.to_owned(), self.number);
        let looked =
            spawn_blocking(move || Ok::<_, ShardsError>((folder.end_of(&run)?, folder.done(&run, number)?.is_some())));
        match looked.await?? {
            (Some(RunEnd::Aborted), _) => Err(self.aborted()),
            (Some(RunEnd::Committed), _) | (None, true) => Ok(Some(ShardEnd::AlreadyDone)),
            (None, false) => Ok(None),
        }
    }

    fn aborted(&self) -> CommandError {
        ShardsError::Aborted { work: self.work.name.clone(), run: self.run.to_owned() }.into()
    }

    /// Returns `error`, unless the shard is done without this attempt, or its run was given up.
    async fn unless_late(&self, error: CommandError) -> Result<ShardEnd, CommandError> {
        if self.tileset_run.stop.asked().is_some() {
            return Err(error);
        }
        match self.late().await {
            Ok(Some(end)) => Ok(end),
            Ok(None) => Err(error),
            Err(CommandError::Shards(aborted @ ShardsError::Aborted { .. })) => Err(aborted.into()),
            Err(_unreadable) => Err(error),
        }
    }

    /// Sends heartbeats; returns once the run has ended.
    async fn watched(&self, attempt: &AttemptNote) -> CommandError {
        loop {
            let (folder, run, own) = (self.work.clone(), self.run.to_owned(), attempt.clone());
            let looked = spawn_blocking(move || {
                let end = folder.end_of(&run)?;
                if end.is_none() {
                    folder.note_attempt(&run, &own)?;
                }
                Ok::<_, ShardsError>(end)
            });
            match looked.await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(_end))) => return self.aborted(),
                Ok(Err(error)) => tracing::warn!("the work folder cannot be written yet: {error}"),
                Err(error) => return error.into(),
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }
}
