//! One reseed on one snapshot: plan, render, store, write the manifest last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use super::counts::{Counts, counted};
use super::patches::{patches, spots_in_tiles};
use super::{ReseedOptions, ReseedOutcome};
use crate::manifest::{Manifest, Publication};
use crate::patch::Patches;
use crate::pipeline::{self, BatchKind};
use crate::plan::{DrawnLayer, batches};
use crate::postgis::{Layer, PreparedLayer, RunLayers, Worker};
use crate::report::{DirtyReport, DirtyZoom, Event, ReseedReport};
use crate::run::attempts::aside;
use crate::run::describe::{budgets, metadata, names};
use crate::run::look::dirty_file::{self, DirtyScope};
use crate::run::look::{DirtyTiles, Look, Work, drawn};
use crate::run::seed::{check_tables_unchanged, pipeline_error, seed_target, stored_events};
use crate::run::target::{AnySink, refuse_shrink};
use crate::run::{CommandError, Job, TilesWanted};
use crate::sink::{Described, OpenMode, Sink as _};
use crate::tile::{Batch, LayerCount, LonLatBox, Order, SearchBox, TileCoord, TileRectList};

/// How often a run looks at the target again because another run has changed it meanwhile.
const MAX_LOOKS: u32 = 3;

/// At most this many batches are rendered by the session that holds the snapshot. They are done before another session would be open.
pub(super) const MAX_BATCHES_OF_ONE_SESSION: usize = 2;

/// A reseed under way.
pub(super) struct ReseedRun<'a> {
    pub(super) options: &'a ReseedOptions,
    pub(super) look: Look<'a>,
    pub(super) begun: Instant,
    pub(super) started: SystemTime,
    /// The publication that this run makes.
    pub(super) publication: Publication,
    restarts: u32,
}

/// One complete run on one snapshot.
pub(super) async fn attempt(job: &Job, options: &ReseedOptions, restarts: u32) -> Result<ReseedOutcome, CommandError> {
    // Another run may change the target meanwhile. Then the plan of this run is not valid any more, and it looks again.
    for _ in 0..MAX_LOOKS {
        let (begun, started) = (Instant::now(), SystemTime::now());
        let mut look = Look::begin(job, &options.filter, !options.dry_run).await?;
        if options.has_warned || restarts > 0 {
            look.superuser = None;
        }
        let publication = Publication::after(look.state.manifest.publication.as_ref());
        let run = ReseedRun { options, look, begun, started, publication, restarts };
        if let Some(outcome) = Box::pin(run.through()).await? {
            return Ok(outcome);
        }
        tracing::info!("another run has brought {} forward: looking again", job.target);
    }
    Err(CommandError::Contended { target: job.target.to_string() })
}

impl ReseedRun<'_> {
    /// Plans and runs the reseed; `None` if another run has changed the target meanwhile.
    async fn through(self) -> Result<Option<ReseedOutcome>, CommandError> {
        let work = self.look.work().await?;
        let (report, dirty_out) = (&self.look.job.report, self.options.dirty_out.as_deref());
        // A seed reports this warning itself.
        let seeds = matches!(work, Work::All(_)) && !self.options.dry_run;
        for message in self.look.superuser.iter().filter(|_| !seeds) {
            report.event(&Event::Warning { message: message.clone() });
        }
        let everything = || dirty_file::write_everything(dirty_out, &DirtyScope::of(&self.look.job.settings, &[]));
        match work {
            Work::Nothing if self.has_repairs() => {
                let nothing = DirtyTiles::nothing(&self.look.state);
                Box::pin(self.render(nothing)).await
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
                self.seed().await.map(Some)
            }
            Work::Some(changed) if self.options.dry_run => {
                if let Some(path) = dirty_out {
                    dirty_file::write(path, &changed.dirty.in_order(Order::ZoomColumnTmsRow))?;
                }
                Ok(Some(ReseedOutcome::Planned(plan(&changed))))
            }
            Work::Some(changed) => Box::pin(self.render(changed)).await,
        }
    }

    /// Seeds the whole target instead.
    async fn seed(self) -> Result<ReseedOutcome, CommandError> {
        self.tell_dirty(None);
        // The seed takes a snapshot of its own.
        let Look { job, snapshot, .. } = self.look;
        drop(snapshot);
        let done = Box::pin(seed_target(&job)).await?;
        Ok(ReseedOutcome::Seeded(Box::new(done)))
    }

    fn tell_dirty(&self, tiles: Option<&TileRectList>) {
        if let Some(listener) = &self.options.on_dirty {
            listener.tell(tiles);
        }
    }

    /// True if the run has something to do though nothing changed: to count what an interrupted run left and to remove its note, to give the
    /// target another address, or to write the first witness of its history.
    fn has_repairs(&self) -> bool {
        let filter = &self.look.filter;
        let is_whole = matches!(filter.tiles, TilesWanted::Changed) && !filter.is_narrowed() && !self.options.dry_run;
        let is_without_witness = self.look.log.is_some() && self.look.state.manifest.witness.is_none();
        is_whole && (self.look.state.needs_repair() || self.is_readdressed() || is_without_witness)
    }

    /// True if the public address in the settings differs from the one that a directory or a prefix has.
    fn is_readdressed(&self) -> bool {
        let Job { settings, target, .. } = &self.look.job;
        let wanted = settings.tileset.tree.public_url.as_ref();
        !target.is_archive() && wanted.is_some() && wanted != self.look.state.described.public_url.as_ref()
    }

    /// Marks the batches that may draw cells which the survey counts.
    fn mark_counted_cells(&self, batches: &mut [Batch]) {
        for batch in batches {
            let (layers, counts) = (self.look.layers.iter(), batch.layers.iter());
            let may_be_counted = |layer: &Layer| batch.areas.iter().any(|area| layer.may_be_counted(area.rect.zoom));
            let waits = |(layer, count): (&Arc<Layer>, &LayerCount)| count.tiles > 0 && may_be_counted(layer);
            batch.needs_cell_counts = layers.zip(counts).any(waits);
        }
    }

    async fn render(self, changed: DirtyTiles) -> Result<Option<ReseedOutcome>, CommandError> {
        let tileset = self.tileset(&changed)?;
        let rows = self.rows(&changed).await?;
        self.tell_dirty(changed.changed().as_ref());
        let (report, state) = (Arc::clone(&self.look.job.report), &self.look.state);
        let (target, counts) = (self.look.job.target.clone(), state.needs_repair() || !state.manifest.kept.is_empty());
        let (sink, before, held) = aside(move || {
            let mut sink = target.sink(OpenMode::Edit)?;
            let before = sink.begin(&tileset)?;
            // An interrupted run may have added and deleted tiles that no manifest counts.
            let held = if counts { Some(target.reader()?.list()?.len() as u64) } else { None };
            Ok::<_, CommandError>((sink, before, held))
        })
        .await??;
        let is_as_known = |before: &Described| {
            before.manifest == state.described.manifest && before.unfinished == state.described.unfinished
        };
        let Some(before) = before.filter(is_as_known) else {
            return Ok(None);
        };
        let planned = self.begun.elapsed();

        let tiles = changed.dirty.in_order(sink.needs().order);
        let drawn: Vec<DrawnLayer> = self.look.layers.iter().map(|layer| drawn(layer)).collect();
        let run = &self.look.job.settings.run;
        // If others wait for a session while a batch is rendered, batches are small.
        let max_weight = self.look.job.gate.as_ref().map(|_| self.look.job.batch_features(BatchKind::Reseed).get());
        let mut batches = batches(&tiles, &drawn, run.workers, max_weight, |_layer, _rect| SearchBox::Area);
        // The workers take their locks before any row is read. A session that opened later would queue behind a statement that already
        // waits for the first session's lock.
        let workers = self.workers(batches.len()).await?;
        self.look.search(&mut batches, &tiles, &drawn, &changed.dirty).await?;
        self.mark_counted_cells(&mut batches);
        report.event(&Event::Planned {
            tiles: tiles.len() as u64,
            features: batches.iter().map(Batch::features).sum(),
            batches: batches.len() as u64,
        });
        let rendering = Instant::now();
        let spots = spots_in_tiles(&changed, &self.look.layers, &self.look.job.target);
        let layers = self.with_neighbourhoods(&workers, &spots).await?;
        let patches = patches(spots, &layers, &changed.rendered_whole(state), sink.needs().layers_apart);
        let running = Box::pin(self.rendered(&tiles, &layers, batches, workers, sink, patches.as_ref()));
        let (sink, outcome) = check_tables_unchanged(running.await, &self.look.snapshot, &self.look.reads).await?;
        if let Some(signal) = self.look.job.stop.asked() {
            return Err(CommandError::Interrupted(signal));
        }
        let rendered = rendering.elapsed();
        let held_before = held.unwrap_or(state.manifest.stored);
        let left = (held_before + outcome.written.added).saturating_sub(outcome.written.deleted);
        refuse_shrink(&self.look.job.target, self.look.job.settings.tileset.max_shrink, held_before, left)?;

        report.event(&Event::Finishing);
        let finishing = Instant::now();
        let names = names(&self.look.layers);
        let budgets = budgets::budgets(&outcome, &names);
        let mut warnings: Vec<String> = self.look.superuser.iter().cloned().collect();
        let mut warned = state.manifest.warned.clone();
        warnings.append(&mut budgets::warn(&budgets, &mut warned, &report));
        let witness = self.witness(&changed).await?;
        let manifest = Manifest { warned, ..self.manifest(&changed, &outcome, held, witness, rows) };
        let bounds = changed.bounds().or(before.bounds).unwrap_or(LonLatBox::from_sides([-180.0, -85.0, 180.0, 85.0]));
        let metadata = metadata(&self.look.job.settings, &self.look.layers, bounds, &manifest, Some(&before))?;
        // Written before the manifest moves on, because afterwards nothing could tell again which tiles were dirty.
        if let Some(path) = &self.options.dirty_out {
            dirty_file::write(path, &tiles)?;
        }
        let finished = aside(move || sink.finish(&metadata)).await??;
        self.look.job.write_changed(finished.changed.as_ref(), &DirtyScope::of(&self.look.job.settings, &[]));
        if let Some(desk) = &self.options.write_back {
            desk.stored(&changed.beyond.wanted);
        }
        let plan = plan(&changed);
        let largest = outcome.zooms.iter().max_by_key(|zoom| zoom.largest.map(|largest| largest.bytes));
        let done = ReseedReport {
            output: finished.place,
            dirty: tiles.len() as u64,
            patched: patches.map_or(0, |patches| patches.patched()),
            reasons: plan.reasons,
            zooms: plan.zooms,
            written: outcome.written.stored,
            added: outcome.written.added,
            unchanged: outcome.written.unchanged,
            deleted: outcome.written.deleted,
            empty: outcome.written.removed - outcome.written.deleted,
            bytes: outcome.zooms.iter().map(|zoom| zoom.bytes).sum(),
            complete: changed.complete && manifest.unrendered.is_empty(),
            since: Some(state.cursor.to_string()),
            manifest: Some(manifest),
            largest: largest.and_then(|zoom| zoom.largest),
            largest_layer: largest.and_then(|zoom| budgets::largest_layer(zoom, &names)),
            budgets,
            failed: budgets::failed(&outcome, &names),
            warnings,
            plan_seconds: planned.as_secs_f64(),
            render_seconds: rendered.as_secs_f64(),
            finish_seconds: finishing.elapsed().as_secs_f64(),
            seconds: self.begun.elapsed().as_secs_f64(),
            latency_seconds: changed.oldest(),
            restarts: self.restarts,
        };
        report.event(&done.event());
        Ok(Some(ReseedOutcome::Done(Box::new(done))))
    }

    /// Renders the batches and stores the tiles.
    async fn rendered(
        &self,
        tiles: &[TileCoord],
        layers: &[PreparedLayer],
        batches: Vec<Batch>,
        workers: Vec<Worker>,
        sink: AnySink,
        patches: Option<&Arc<Patches>>,
    ) -> Result<(AnySink, pipeline::PipelineOutcome), CommandError> {
        // Counting cells reads all rows. Batches that do not need the counts do not wait for it.
        let (tell, counts) = watch::channel(Counts::Waiting);
        let counting = async {
            let counted = counted(&self.look.snapshot, layers, tiles).await;
            tell.send_replace(counted.as_ref().map_or(Counts::Failed, |layers| Counts::Known(RunLayers::new(layers))));
            counted.map(drop)
        };
        let (alone, limits) = (batches.len() <= MAX_BATCHES_OF_ONE_SESSION, self.look.job.settings.run.limits);
        let running = async {
            let sources = self.sources(workers, &RunLayers::new(layers), &counts, patches).await?;
            let turns = self.look.job.turns(BatchKind::Reseed);
            pipeline::run(batches, sources, sink, limits, turns, stored_events(&self.look.job.report))
                .await
                .map_err(pipeline_error)
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
