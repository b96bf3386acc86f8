//! One reseed on one snapshot: plan, render, store, write the manifest last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::prepared::{CountingWorker, Counts};
use super::{ReseedOptions, ReseedOutcome, ReseedRun};
use crate::draw::patch::{PatchLayer, Patches, Patching, PositionsInTiles};
use crate::draw::{LiveRows, PreparedLayer, RunLayers, Worker};
use crate::encode::TileFormat;
use crate::error::ErrorKind;
use crate::manifest::Publication;
use crate::pipeline;
use crate::pipeline::BatchKind;
use crate::plan::{DrawnLayer, batches};
use crate::postgis::{Error, Layer};
use crate::report::{DirtyReport, DirtyZoom, Event, ReseedReport};
use crate::run::describe::names;
use crate::run::dirty::{DirtyTiles, Look, Work, drawn};
use crate::run::dirty_file::DirtyScope;
use crate::run::finish::{FinishedRun, StoredRun, StoredTiles};
use crate::run::render::{render_batches, unless_outdated};
use crate::run::seed::seed_target;
use crate::run::target::{AnySink, refuse_shrink};
use crate::run::{ChangedOut, CommandError, Target, TilesWanted, TilesetRun, describe, dirty_file};
use crate::target::{Described, OpenMode, Sink as _, Tileset};
use crate::tile::{Batch, LonLatBox, Order, SearchBox, TileCoord, TileRectList};

/// How often a run looks at the target again because another run has changed it meanwhile.
const MAX_LOOKS: u32 = 3;

/// At most this many batches are rendered by the session that holds the snapshot. They are done before another session
/// would be open.
const MAX_BATCHES_OF_ONE_SESSION: usize = 2;

struct OpenedTarget {
    sink: AnySink,
    /// What it says about itself.
    before: Described,
    /// The number of its tiles.
    held: u64,
}

/// What only the run itself knows of its rendering, for the report.
struct RenderFigures {
    dirty: u64,
    patched: u64,
    /// How long it took to plan.
    planned: Duration,
    /// How long it took to render and store.
    rendered: Duration,
}

/// The dirty tiles of a run, in the target's order, and what is known of the changes in them.
struct TilesToRender<'a> {
    tiles: &'a [TileCoord],
    changed: &'a DirtyTiles,
    /// What patches need; `None` if no tile can be patched.
    patches: Option<&'a Arc<Patches>>,
}

/// One complete run on one snapshot.
pub(crate) async fn attempt(
    tileset_run: &TilesetRun,
    options: &ReseedOptions,
    restarts: u32,
) -> Result<ReseedOutcome, CommandError> {
    // Another run may change the target meanwhile. Then the plan of this run is not valid any more, and it looks again.
    for _ in 0..MAX_LOOKS {
        let (begun, started) = (Instant::now(), SystemTime::now());
        let mut look = Look::begin(tileset_run, &options.filter, !options.dry_run).await?;
        if options.has_warned || restarts > 0 {
            look.superuser = None;
        }
        let publication = Publication::after(look.state.manifest.publication.as_ref());
        let run = ReseedRun { options, look, begun, started, publication, restarts };
        if let Some(outcome) = Box::pin(run.through()).await? {
            return Ok(outcome);
        }
        tracing::info!("another run has brought {} forward: looking again", tileset_run.target);
    }
    Err(CommandError::Contended { target: tileset_run.target.to_string() })
}

impl ReseedRun<'_> {
    /// Plans and runs the reseed; `None` if another run has changed the target meanwhile.
    async fn through(self) -> Result<Option<ReseedOutcome>, CommandError> {
        let work = self.look.work(self.rows_that_are_shown()).await?;
        let (report, dirty_out) = (&self.look.run.report, self.options.dirty_out.as_deref());
        // A seed reports this warning itself.
        let seeds = matches!(work, Work::All(_)) && !self.options.dry_run;
        for message in self.look.superuser.iter().filter(|_| !seeds) {
            report.warn(message.clone());
        }
        let everything = || dirty_file::write_everything(dirty_out, &DirtyScope::of(&self.look.run.settings, &[]));
        match work {
            Work::Nothing if self.has_repairs() => {
                let nothing = DirtyTiles::nothing(&self.look.state);
                Box::pin(self.publish(nothing)).await
            }
            Work::Nothing => Ok(Some(ReseedOutcome::Nothing)),
            Work::All(reasons) if self.options.dry_run => {
                everything()?;
                Ok(Some(ReseedOutcome::Planned(DirtyReport::all(reasons))))
            }
            Work::All(reasons) => {
                let rows: u64 = reasons.iter().map(|reason| reason.rows).sum();
                everything()?;
                tracing::info!(
                    "changed rows: {rows}; a seed is cheaper than their tiles one by one: rendering every tile"
                );
                Box::pin(self.seed()).await.map(Some)
            }
            Work::Some(changed) if self.options.dry_run => {
                if let Some(path) = dirty_out {
                    dirty_file::write(path, &changed.dirty.in_order(Order::ZoomColumnTmsRow))?;
                }
                Ok(Some(ReseedOutcome::Planned(plan(&changed))))
            }
            Work::Some(changed) => Box::pin(self.publish(changed)).await,
        }
    }

    /// Seeds the whole target instead.
    async fn seed(self) -> Result<ReseedOutcome, CommandError> {
        self.notify_dirty(None);
        if let Some(live) = &self.options.live {
            // The seed needs their memory.
            live.clear(&self.look.run).await;
        }
        // The seed takes a snapshot of its own.
        let Look { run: tileset_run, snapshot, .. } = self.look;
        drop(snapshot);
        let done = Box::pin(seed_target(&tileset_run)).await?;
        Ok(ReseedOutcome::Seeded(Box::new(done)))
    }

    /// The rows that the watch keeps, if all tiles show the target's publication: an interrupted run may have left others.
    fn rows_that_are_shown(&self) -> Option<&LiveRows> {
        let live = self.options.live.as_deref().filter(|_| !self.look.state.needs_repair());
        live.map(|live| &live.kept)
    }

    fn notify_dirty(&self, tiles: Option<&TileRectList>) {
        if let Some(listener) = &self.options.on_dirty {
            listener.notify(tiles);
        }
    }

    /// True if the run has something to do though nothing changed: to count what an interrupted run left and to remove
    /// its note, to give the target another address, to write the first witness of its history, or to write an archive
    /// anew of which too many bytes are dead.
    fn has_repairs(&self) -> bool {
        let filter = &self.look.filter;
        let is_whole = matches!(filter.tiles, TilesWanted::Changed) && !filter.is_narrowed() && !self.options.dry_run;
        let is_without_witness = self.look.log.is_some() && self.look.state.manifest.witness.is_none();
        let Look { state, run: tileset_run, .. } = &self.look;
        let is_readdressed = state.is_readdressed(&tileset_run.settings, &tileset_run.target);
        is_whole && (state.needs_repair() || is_readdressed || is_without_witness || self.is_wasteful())
    }

    /// True if too many bytes of the archive are dead.
    fn is_wasteful(&self) -> bool {
        self.options.compaction.is_due(self.look.state.described.dead)
    }

    /// True if the run writes the archive anew because of its dead bytes.
    fn compacts(&self, changed: &DirtyTiles) -> bool {
        self.is_wasteful() && self.max_dead_percent(changed).is_some()
    }

    /// Says that a watch writes its archive anew at an hour that nobody has chosen.
    fn say_compaction(&self) {
        if self.options.compaction.is_unasked {
            let message = format!(
                "more than half of the bytes of {} belong to no tile any more: it is written anew as a whole, and changes wait until that is done. With quiet hours in compact_between in [changes], that is done there, beyond 30 %",
                self.look.run.target
            );
            self.look.run.report.warn(message);
        }
    }

    /// Renders the dirty tiles and publishes them. The error of a run that could not write its archive anew says so:
    /// one that does not try that may succeed.
    async fn publish(self, changed: DirtyTiles) -> Result<Option<ReseedOutcome>, CommandError> {
        let compacts = self.compacts(&changed);
        let published = Box::pin(self.render(changed)).await;
        published.map_err(|error| match error {
            CommandError::Target(_)
                if compacts && !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::NeedsSeed) =>
            {
                CommandError::NotCompacted(Box::new(error))
            }
            error => error,
        })
    }

    /// Renders the dirty tiles and brings the manifest forward; `None` if another run has changed the target meanwhile.
    async fn render(self, changed: DirtyTiles) -> Result<Option<ReseedOutcome>, CommandError> {
        let tileset = self.tileset(&changed)?;
        let compacts = self.compacts(&changed);
        let has_put_off_compaction = self.is_wasteful() && !compacts;
        if compacts {
            self.say_compaction();
        }
        let rows = self.rows(&changed).await?;
        self.notify_dirty(changed.changed().as_ref());
        let Some(OpenedTarget { sink, before, held }) = self.open(tileset).await? else { return Ok(None) };
        let planned = self.begun.elapsed();

        let tiles = changed.dirty.in_order(sink.needs().order);
        let (batches, workers) = self.batches(&changed, &tiles).await?;
        let rendering = Instant::now();
        let spots = spots_in_tiles(&changed, &self.look.layers, &self.look.run.target);
        let layers = self.with_neighbourhoods(&workers, &spots, &changed).await?;
        let layers = self.with_all_rows(&workers, layers, &tiles, &batches).await?;
        let whole = changed.rendered_whole(&self.look.state);
        let format = self.look.run.settings.run.limits.packing.format;
        let patches = patches(spots, &layers, &whole, format, sink.needs().layers_apart);
        let work = TilesToRender { tiles: &tiles, changed: &changed, patches: patches.as_ref() };
        let running = Box::pin(self.rendered(&work, &layers, batches, workers, sink));
        let Look { run: tileset_run, snapshot, reads, .. } = &self.look;
        let (sink, outcome) = unless_outdated(tileset_run, running.await, snapshot, reads).await?;
        let rendered = rendering.elapsed();
        let left = (held + outcome.written.added).saturating_sub(outcome.written.deleted);
        refuse_shrink(&self.look.run.target, self.look.run.settings.tileset.max_shrink, held, left)?;

        // Written before the manifest moves on, because afterwards nothing could tell again which tiles were dirty.
        // Of a watch that publishes no change they stay as the last publish has written them.
        let stays = tiles.is_empty() && self.options.is_watch;
        if let Some(path) = self.options.dirty_out.as_ref().filter(|_| !stays) {
            dirty_file::write(path, &tiles)?;
        }
        let silent = stays.then(|| TilesetRun { changed_out: ChangedOut::default(), ..self.look.run.clone() });
        let tileset_run = silent.as_ref().unwrap_or(&self.look.run);
        let provenance = self.provenance(&changed, rows);
        let stored = StoredTiles {
            written: outcome.written,
            record: describe::record(&outcome, &names(&self.look.layers)),
            bounds: changed.bounds().or(before.bounds).unwrap_or(LonLatBox::from_sides([-180.0, -85.0, 180.0, 85.0])),
            warnings: self.look.superuser.iter().cloned().collect(),
        };
        let run = StoredRun { tileset_run, layers: &self.look.layers, provenance, tiles: stored };
        let finished = run.finish(sink, self.base_manifest(&changed, left), Some(&before)).await?;
        if let Some(live) = self.options.live.as_deref().filter(|_| changed.complete) {
            live.kept.note_shown(self.look.live_step(""), &self.publication.id).await;
        }
        if let Some(queue) = &self.options.write_back {
            queue.stored(&changed.beyond.wanted);
        }
        let figures = RenderFigures {
            dirty: tiles.len() as u64,
            patched: patches.map_or(0, |patches| patches.patched()),
            planned,
            rendered,
        };
        let done = ReseedReport { has_put_off_compaction, ..self.report(&changed, &outcome, finished, &figures) };
        self.look.run.report.event(&done.event());
        Ok(Some(ReseedOutcome::Done(Box::new(done))))
    }

    /// Opens the target; `None` if it is no longer as this run has seen it.
    async fn open(&self, tileset: Tileset) -> Result<Option<OpenedTarget>, CommandError> {
        let (state, target) = (&self.look.state, self.look.run.target.clone());
        // An interrupted run may have added and deleted tiles that no manifest counts.
        let counts = state.needs_repair() || !state.manifest.kept.is_empty();
        let (sink, before, counted) = spawn_blocking(move || {
            let (sink, before) = target.sink(OpenMode::Edit)?.begin(&tileset)?;
            let counted = if counts { Some(target.reader()?.list()?.len() as u64) } else { None };
            Ok::<_, CommandError>((sink, before, counted))
        })
        .await??;
        let is_as_known = |before: &Described| {
            before.manifest == state.described.manifest && before.unfinished == state.described.unfinished
        };
        let held = counted.unwrap_or(state.manifest.stored);
        Ok(before.filter(is_as_known).map(|before| OpenedTarget { sink, before, held }))
    }

    /// The batches of the dirty tiles, and the workers that render them.
    async fn batches(
        &self,
        changed: &DirtyTiles,
        tiles: &[TileCoord],
    ) -> Result<(Vec<Batch>, Vec<Worker>), CommandError> {
        let drawn: Vec<DrawnLayer> = self.look.layers.iter().map(|layer| drawn(layer)).collect();
        let run = &self.look.run.settings.run;
        // If others wait for a session while a batch is rendered, batches are small.
        let max_weight = self.look.run.gate.as_ref().map(|_| self.look.run.batch_features(BatchKind::Reseed).get());
        let mut batches = batches(tiles, &drawn, run.workers, max_weight, |_layer, _rect| SearchBox::Area);
        // The workers take their locks before any row is read. A session that opened later would queue behind a
        // statement that already waits for the first session's lock.
        let workers = self.workers(batches.len()).await?;
        self.look.search(&mut batches, tiles, &drawn, &changed.dirty).await?;
        self.mark_counted_cells(&mut batches).await;
        self.look.run.report.event(&Event::Planned {
            tiles: tiles.len() as u64,
            features: batches.iter().map(Batch::features).sum(),
            batches: batches.len() as u64,
        });
        Ok((batches, workers))
    }

    fn report(
        &self,
        changed: &DirtyTiles,
        outcome: &pipeline::PipelineOutcome,
        finished: FinishedRun,
        figures: &RenderFigures,
    ) -> ReseedReport {
        let FinishedRun { manifest, target, written, record, warnings, seconds, .. } = finished;
        let DirtyReport { zooms, reasons } = plan(changed);
        let largest = outcome.zooms.iter().max_by_key(|zoom| zoom.largest.map(|largest| largest.bytes));
        ReseedReport {
            output: target.place,
            written_anew: target.anew.map(|why| why.to_string()),
            dirty: figures.dirty,
            patched: figures.patched,
            reasons,
            zooms,
            written: written.stored,
            added: written.added,
            unchanged: written.unchanged,
            deleted: written.deleted,
            empty: written.removed - written.deleted,
            bytes: outcome.zooms.iter().map(|zoom| zoom.bytes).sum(),
            complete: changed.complete && manifest.unrendered.is_empty(),
            since: Some(self.look.state.cursor.to_string()),
            manifest: Some(manifest),
            largest: largest.and_then(|zoom| zoom.largest),
            largest_layer: largest.and_then(|zoom| describe::largest_layer(zoom, &names(&self.look.layers))),
            budgets: record.budgets,
            failed: record.failed,
            warnings,
            plan_seconds: figures.planned.as_secs_f64(),
            render_seconds: figures.rendered.as_secs_f64(),
            finish_seconds: seconds,
            seconds: self.begun.elapsed().as_secs_f64(),
            latency_seconds: changed.oldest(),
            restarts: self.restarts,
            has_put_off_compaction: false,
        }
    }

    /// Renders the batches and stores the tiles.
    async fn rendered(
        &self,
        work: &TilesToRender<'_>,
        layers: &[PreparedLayer],
        batches: Vec<Batch>,
        workers: Vec<Worker>,
        sink: AnySink,
    ) -> Result<(AnySink, pipeline::PipelineOutcome), CommandError> {
        // Counting cells reads all rows. Batches that do not need the counts do not wait for it.
        let (tell, counts) = watch::channel(Counts::Waiting);
        let counting = async {
            let counted = self.counted(layers, work.tiles, work.changed).await;
            tell.send_replace(counted.as_ref().map_or(Counts::Failed, |layers| Counts::Known(RunLayers::new(layers))));
            counted.map(drop)
        };
        let (alone, limits) = (batches.len() <= MAX_BATCHES_OF_ONE_SESSION, self.look.run.settings.run.limits);
        let running = async {
            let sources = self.sources(workers, &RunLayers::new(layers), &counts, work.patches).await?;
            let turns = self.look.run.turns(BatchKind::Reseed);
            render_batches(&self.look.run, batches, sources, sink, limits, turns).await
        };
        if alone {
            // One session does both, one after the other.
            counting.await?;
            return running.await;
        }
        let (counted, ran) = tokio::join!(counting, running);
        counted?;
        ran
    }
}

fn plan(changed: &DirtyTiles) -> DirtyReport {
    let mut zooms: BTreeMap<u8, u64> = BTreeMap::new();
    for tile in changed.dirty.iter() {
        *zooms.entry(tile.zoom().get()).or_default() += 1;
    }
    let zooms = zooms.into_iter().map(|(zoom, tiles)| DirtyZoom { zoom, tiles }).collect();
    DirtyReport { zooms: Some(zooms), reasons: changed.reasons.clone() }
}

// Which layers can be patched at changed positions, and how.

/// The changed positions by tile; empty if no tile can be patched.
fn spots_in_tiles(changed: &DirtyTiles, layers: &[Arc<Layer>], target: &Target) -> PositionsInTiles {
    // Of an archive in a bucket each tile would be a request, or is downloaded with all others anyway: drawing it takes
    // less time.
    if target.url.is_archive() && target.url.is_in_bucket() {
        return PositionsInTiles::default();
    }
    let drawn: Vec<DrawnLayer> = layers.iter().map(|layer| drawn(layer)).collect();
    changed.spots.in_tiles(&changed.dirty, &drawn)
}

/// The data that a patch needs about the changes; `None` if no tile can be patched.
fn patches(
    spots: PositionsInTiles,
    layers: &[PreparedLayer],
    unrendered: &[TileCoord],
    format: TileFormat,
    layers_apart: bool,
) -> Option<Arc<Patches>> {
    if !spots.are_known() || !format.keeps_mvt {
        return None;
    }
    let (layers, whole) = (layers.iter().map(patch_layer).collect(), unrendered.iter().copied().collect());
    Some(Arc::new(Patches::new(layers, spots, whole, format, layers_apart)))
}

/// A source that patches tiles, with its own reader of the target. May wait for a server.
fn patching(source: CountingWorker, patches: Option<&Arc<Patches>>, target: &Target) -> Patching<CountingWorker> {
    let reader = patches.and_then(|patches| match target.reader() {
        Ok(reader) => Some((reader, Arc::clone(patches))),
        Err(error) => {
            // Without a reader, tiles are rendered instead of patched. If the target is damaged, the sink will report
            // it.
            tracing::info!("{error}: rendering every tile whole");
            None
        }
    });
    Patching::new(source, reader)
}

fn patch_layer(prepared: &PreparedLayer) -> PatchLayer {
    let layer = prepared.layer();
    PatchLayer {
        id: layer.id(),
        name: layer.name().to_owned(),
        zooms: layer.zooms().clone(),
        margin: layer.margin(),
        points: layer.as_points(),
        cached_from: prepared.cached_from(),
        most_bytes: layer.max_bytes().clone(),
    }
}

// The sources of a reseed: sessions, and readers of the tiles that the target holds.

impl ReseedRun<'_> {
    /// As many workers as the batches need, with their locks. For one or two batches the session that holds the
    /// snapshot suffices.
    async fn workers(&self, batches: usize) -> Result<Vec<Worker>, CommandError> {
        if batches <= MAX_BATCHES_OF_ONE_SESSION {
            return Ok(vec![self.keeper().await?]);
        }
        let (workers, packing) =
            (self.look.run.settings.run.workers.get().min(batches), self.look.run.settings.run.limits.packing);
        Ok(Worker::open(&self.look.database, &self.look.snapshot, &self.look.locks, packing, workers).await?)
    }

    /// A worker on the session that holds the snapshot.
    pub(crate) async fn keeper(&self) -> Result<Worker, Error> {
        Worker::alone(
            &self.look.database,
            &self.look.snapshot,
            &self.look.locks,
            self.look.run.settings.run.limits.packing,
        )
        .await
    }

    /// The sources of the workers. Their layers have no cell counts yet.
    async fn sources(
        &self,
        workers: Vec<Worker>,
        layers: &Arc<RunLayers>,
        counts: &watch::Receiver<Counts>,
        patches: Option<&Arc<Patches>>,
    ) -> Result<Vec<Patching<CountingWorker>>, CommandError> {
        let counting = |worker| CountingWorker { worker, layers: Arc::clone(layers), counts: Some(counts.clone()) };
        let counting: Vec<CountingWorker> = workers.into_iter().map(counting).collect();
        // Each source has a reader of the target for the tiles to patch.
        let (target, patches) = (self.look.run.target.clone(), patches.cloned());
        let patching = spawn_blocking(move || {
            let each = counting.into_iter().map(|source| patching(source, patches.as_ref(), &target));
            each.collect()
        });
        Ok(patching.await?)
    }
}
