//! One reseed on one snapshot: plan, render, hand over, the manifest last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use super::changed::{Changed, Work, drawn, from_log, from_user};
use super::counts::{Counts, counted};
use super::known::{Known, needs_seed};
use super::patches::{patches, spots_in_tiles};
use super::sources::FEW_BATCHES;
use super::{Outcome, ReseedOptions, What, touched};
use crate::changes::{self, TrackedLayer, tracked};
use crate::command::describe::{fingerprint, metadata, names};
use crate::command::identity::{IdentityKey, SameDatabase};
use crate::command::seed::{aside, on_what_stood_still, pipeline_error, reading, seeded, stored_events};
use crate::command::shrink::allows;
use crate::command::target::{AnySink, Place, Reach};
use crate::command::{CommandError, budgets};
use crate::config::Settings;
use crate::patch::Patches;
use crate::pipeline;
use crate::plan::{DrawnLayer, FeatureSearch, batches};
use crate::postgis::{
    Database, Layer, LayerLocks, PreparedLayer, Reads, RunLayers, Server, Snapshot, Worker, probe, survey,
};
use crate::report::{DirtyReport, DirtyZoom, Event, Report, ReseedReport};
use crate::sink::{Described, OpenMode, Sink as _};
use crate::stop::Stop;
use crate::tile::{Batch, Coverage, LayerCount, LonLatBox, Order, SearchBox, TileCoord, ZoomList};

/// A run in the making.
pub(super) struct Run<'a> {
    pub(super) settings: Settings,
    pub(super) options: &'a ReseedOptions,
    pub(super) place: &'a Place,
    pub(super) reach: &'a Reach,
    pub(super) known: Known,
    pub(super) database: Database,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) server: Server,
    pub(super) key: Option<IdentityKey>,
    same: SameDatabase,
    pub(super) layers: Vec<Arc<Layer>>,
    pub(super) locks: LayerLocks,
    pub(super) reads: Reads,
    /// The warning that the role is a superuser, unless it was given.
    superuser: Option<String>,
    pub(super) begun: Instant,
    pub(super) started: SystemTime,
    restarts: u32,
}

/// One whole run on one snapshot.
pub(super) async fn attempt(
    settings: &Settings,
    options: &ReseedOptions,
    (place, reach): (&Place, &Reach),
    restarts: u32,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<Outcome, CommandError> {
    // Another run may bring the target forward meanwhile; then what this one has planned is not what is needed.
    for _ in 0..3 {
        let run = Run::begin(settings, options, (place, reach), restarts, stop).await?;
        if let Some(outcome) = Box::pin(run.through(report, stop)).await? {
            return Ok(outcome);
        }
        tracing::info!("another run has brought {place} forward: looking again");
    }
    Err(CommandError::Contended { place: place.to_string() })
}

/// What there is to do for a target.
pub(super) async fn look(
    settings: &Settings,
    options: &ReseedOptions,
    (place, reach): (&Place, &Reach),
    stop: &Stop,
) -> Result<Work, CommandError> {
    Run::begin(settings, options, (place, reach), 0, stop).await?.work().await
}

impl<'a> Run<'a> {
    async fn begin(
        settings: &Settings,
        options: &'a ReseedOptions,
        (place, reach): (&'a Place, &'a Reach),
        restarts: u32,
        stop: &Stop,
    ) -> Result<Run<'a>, CommandError> {
        let (begun, started) = (Instant::now(), SystemTime::now());
        let database = Database::new(&settings.connect, settings.session.clone(), stop)?;
        // Both take their time: the target may be a server, too.
        let known = {
            let (place, reach) = (place.clone(), reach.clone());
            reading(stop, move || Known::read(&place, &reach))
        };
        let (known, snapshot) = tokio::join!(known, database.snapshot());
        let mut known = known?;
        let snapshot = snapshot?;
        let settings = known.settings(settings, place, reach)?;
        if let Some(since) = &options.since {
            if !known.cursor.sees_all_of(since) {
                let what = format!(
                    "--since {since} is younger than what it shows ({}): changes in between would be lost. Leave --since out, or name an older snapshot",
                    known.cursor
                );
                return Err(CommandError::Unfit { place: place.to_string(), what });
            }
            known.cursor = since.clone();
        }
        let layers: Vec<_> = settings.layers.iter().map(|layer| layer.options.clone()).collect();
        let probed = probe(&snapshot, &layers).await?;
        if known.unmendable().is_some() && !options.dry_run {
            // If the run is under way, there is nothing to mend: it holds the target, and whoever asks for that is told so.
            let (place, reach) = (place.clone(), reach.clone());
            drop(aside(move || reach.sink(&place, OpenMode::Edit)).await??);
        }
        let key = IdentityKey::of_log(&snapshot, &settings.changes.schema).await?;
        let now = (&probed.server.identity, key.as_ref());
        let same = known.fits(place, now, &fingerprint(&settings, &probed.layers), &probed.reads)?;
        let (snapshot, server, reads) = (Arc::new(snapshot), probed.server, probed.reads);
        let (layers, locks) = (probed.layers, probed.locks);
        let superuser = probed.superuser.filter(|_| !options.has_warned && restarts == 0);
        Ok(Run {
            settings,
            options,
            place,
            reach,
            known,
            database,
            snapshot,
            server,
            key,
            same,
            layers,
            locks,
            reads,
            superuser,
            begun,
            started,
            restarts,
        })
    }

    /// `None` if the target was changed by another run meanwhile.
    async fn through(self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Option<Outcome>, CommandError> {
        let work = self.work().await?;
        // A seed warns by itself.
        let seeds = matches!(work, Work::All(_)) && !self.options.dry_run;
        for message in self.superuser.iter().filter(|_| !seeds) {
            report.event(&Event::Warning { message: message.clone() });
        }
        match work {
            Work::Nothing if self.mends() => {
                let nothing = Changed::nothing(&self.known);
                Box::pin(self.render(nothing, report, stop)).await
            }
            Work::Nothing => Ok(Some(Outcome::Nothing)),
            Work::All(reasons) if self.options.dry_run => {
                touched::write_everything(self.options.dirty_out.as_deref(), &self.settings.tileset)?;
                Ok(Some(Outcome::Planned(DirtyReport::all(reasons))))
            }
            Work::All(reasons) => {
                let rows: u64 = reasons.iter().map(|reason| reason.rows).sum();
                touched::write_everything(self.options.dirty_out.as_deref(), &self.settings.tileset)?;
                tracing::info!("{rows} changes are more than are worth telling apart: rendering every tile");
                let Run { settings, options, snapshot, place, reach, .. } = self;
                drop(snapshot);
                let changed_out = options.changed_out.as_deref();
                let done = seeded(&settings, (place, reach), changed_out, report, stop).await?;
                Ok(Some(Outcome::Seeded(Box::new(done))))
            }
            Work::Some(changed) if self.options.dry_run => {
                if let Some(path) = &self.options.dirty_out {
                    touched::write(path, &changed.dirty.in_order(Order::ZoomColumnTmsRow))?;
                }
                Ok(Some(Outcome::Planned(plan(&changed))))
            }
            Work::Some(changed) => Box::pin(self.render(changed, report, stop)).await,
        }
    }

    /// Refuses a target of which nobody can tell whether it shows this database. What the log itself says against it comes first.
    fn is_of_this_database(&self) -> Result<(), CommandError> {
        let why = match (self.same, &self.options.what, &self.key) {
            (SameDatabase::Unsaid, What::Log, Some(_)) => {
                "its manifest does not say which database it shows: it was seeded without the change log, or by a role that may not read it"
            }
            (SameDatabase::OtherKey, _, Some(_)) => {
                "it shows another database, or the change log was removed and installed anew since: the key by which its manifest says which database it shows is not the one of this log"
            }
            _ => return Ok(()),
        };
        Err(needs_seed(self.place, why))
    }

    /// Whether the run has something to do though nothing changed: to count what an interrupted run left and to take out its note, or to give
    /// the target another address.
    fn mends(&self) -> bool {
        let ReseedOptions { what, zoom, bbox, dry_run, .. } = self.options;
        let is_whole = matches!(what, What::Log) && zoom.is_none() && bbox.is_empty() && !dry_run;
        is_whole && (self.known.is_to_be_mended() || self.is_readdressed())
    }

    /// Whether the settings give a directory or a prefix another address than its notes do.
    fn is_readdressed(&self) -> bool {
        let has_address = matches!(self.place, Place::Directory(_) | Place::S3Prefix { .. });
        let wanted = self.settings.tree.public_url.as_ref();
        has_address && wanted.is_some() && wanted != self.known.described.public_url.as_ref()
    }

    async fn work(&self) -> Result<Work, CommandError> {
        let Run { options, known, snapshot, layers, settings, .. } = self;
        match &options.what {
            What::Log => {
                let schema = &settings.changes.schema;
                let reading: Vec<TrackedLayer<'_>> = (layers.iter().zip(&settings.layers))
                    .map(|(layer, settings)| TrackedLayer { layer, track: &settings.track })
                    .collect();
                let watches = tracked(&self.database, snapshot, schema, &reading, &known.cursor).await;
                let watches = watches.map_err(|error| match error {
                    changes::Error::Untracked(why) => CommandError::Untracked { place: self.place.to_string(), why },
                    other => other.into(),
                })?;
                self.is_of_this_database()?;
                from_log(snapshot, schema, known, (layers, &watches), options).await
            }
            what => {
                self.is_of_this_database()?;
                from_user(snapshot, known, layers, what, (self.place, self.reach)).await
            }
        }
    }

    async fn render(
        self,
        changed: Changed,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<Option<Outcome>, CommandError> {
        let tileset = self.tileset(&changed);
        let (place, reach) = (self.place.clone(), self.reach.clone());
        let counts = self.known.is_to_be_mended() || !self.known.manifest.kept.is_empty();
        let (sink, before, held) = aside(move || {
            let mut sink = reach.sink(&place, OpenMode::Edit)?;
            let before = sink.begin(&tileset)?;
            // An interrupted run added and deleted tiles that no manifest has counted, and one of a part counted that part.
            let held = if counts { Some(reach.reader(&place)?.list()?.len() as u64) } else { None };
            Ok::<_, CommandError>((sink, before, held))
        })
        .await??;
        let is_as_known = |before: &Described| {
            before.manifest == self.known.described.manifest && before.unfinished == self.known.described.unfinished
        };
        let Some(before) = before.filter(is_as_known) else {
            return Ok(None);
        };
        let planned = self.begun.elapsed();

        let tiles = changed.dirty.in_order(sink.needs().order);
        let drawn: Vec<DrawnLayer> = self.layers.iter().map(|layer| drawn(layer)).collect();
        let mut batches = batches(&tiles, &drawn, self.settings.workers, |_layer, _rect| SearchBox::Area);
        // Before rows are read, which may take long: a session that comes later may wait for whoever waits for the first one.
        let workers = self.workers(batches.len()).await?;
        self.search(&mut batches, &tiles, &drawn, &changed).await?;
        for batch in &mut batches {
            let (layers, counts) = (self.layers.iter(), batch.layers.iter());
            let may_be_counted = |layer: &Layer| batch.areas.iter().any(|area| layer.may_be_counted(area.rect.zoom));
            let waits = |(layer, count): (&Arc<Layer>, &LayerCount)| count.tiles > 0 && may_be_counted(layer);
            batch.needs_cell_counts = layers.zip(counts).any(waits);
        }
        report.event(&Event::Planned {
            tiles: tiles.len() as u64,
            features: batches.iter().map(Batch::features).sum(),
            batches: batches.len() as u64,
        });
        let rendering = Instant::now();
        let spots = spots_in_tiles(&changed, &self.layers, self.place);
        let layers = self.with_neighbourhoods(&workers, &spots).await?;
        let patches = patches(spots, &layers, &self.known.unrendered, sink.needs().layers_apart);
        let running = Box::pin(self.rendered((&tiles, &layers), (batches, workers), sink, patches.as_ref(), report));
        let (sink, outcome) = on_what_stood_still(running.await, &self.snapshot, &self.reads).await?;
        if let Some(signal) = stop.asked() {
            return Err(CommandError::Interrupted(signal));
        }
        let rendered = rendering.elapsed();
        let held_before = held.unwrap_or(self.known.manifest.stored);
        let left = (held_before + outcome.written.added).saturating_sub(outcome.written.deleted);
        allows(self.place, self.settings.tileset.max_shrink, held_before, left)?;

        report.event(&Event::Finishing);
        let finishing = Instant::now();
        let names = names(&self.layers);
        let budgets = budgets::budgets(&outcome, &names);
        let mut warnings: Vec<String> = self.superuser.iter().cloned().collect();
        warnings.append(&mut budgets::warn(&budgets, report));
        let manifest = self.manifest(&changed, &outcome, held);
        let bounds = changed.bounds().or(before.bounds).unwrap_or(LonLatBox::from_sides([-180.0, -85.0, 180.0, 85.0]));
        let metadata = metadata(&self.settings, &self.layers, bounds, &manifest, Some(&before))?;
        // Before the target moves on: nobody could find out again which tiles these were.
        if let Some(path) = &self.options.dirty_out {
            touched::write(path, &tiles)?;
        }
        let finished = aside(move || sink.finish(&metadata)).await??;
        let changed_out = self.options.changed_out.as_deref();
        touched::write_changed(changed_out, finished.changed.as_ref(), &self.settings.tileset)?;
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
            since: Some(self.known.cursor.to_string()),
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
            restarts: self.restarts,
        };
        let (tiles, bytes, seconds) = (done.written, done.bytes, done.seconds);
        report.event(&Event::Done { output: done.output.clone(), tiles, bytes, seconds });
        Ok(Some(Outcome::Done(Box::new(done))))
    }

    /// Renders the batches of some tiles and hands them over.
    async fn rendered(
        &self,
        (tiles, layers): (&[TileCoord], &[PreparedLayer]),
        (batches, workers): (Vec<Batch>, Vec<Worker>),
        sink: AnySink,
        patches: Option<&Arc<Patches>>,
        report: &Arc<dyn Report>,
    ) -> Result<(AnySink, pipeline::PipelineOutcome), CommandError> {
        // Counting cells takes a look at all rows: other batches need not wait for it.
        let (tell, counts) = watch::channel(Counts::Waiting);
        let counting = async {
            let counted = counted(&self.snapshot, layers, tiles).await;
            tell.send_replace(counted.as_ref().map_or(Counts::Failed, |layers| Counts::Known(RunLayers::new(layers))));
            counted.map(drop)
        };
        let (alone, limits) = (batches.len() <= FEW_BATCHES, self.settings.limits);
        let running = async {
            let sources = self.sources(workers, &RunLayers::new(layers), &counts, patches).await?;
            pipeline::run(batches, sources, sink, limits, stored_events(report)).await.map_err(pipeline_error)
        };
        if alone {
            // One session for both.
            counting.await?;
            return running.await;
        }
        let (counted, ran) = tokio::join!(counting, running);
        counted?;
        ran
    }

    /// Says where the features of batches are searched. Layers in a reference system without a closed formula are looked through for them.
    async fn search(
        &self,
        batches: &mut [Batch],
        tiles: &[TileCoord],
        drawn: &[DrawnLayer],
        changed: &Changed,
    ) -> Result<(), CommandError> {
        // The zooms of every part of the target, not only those of its last seed.
        let Some(zooms) = ZoomList::of(tiles.iter().map(|tile| tile.zoom())) else { return Ok(()) };
        for (index, (layer, drawn)) in self.layers.iter().zip(drawn).enumerate() {
            if layer.is_found_by_area() {
                continue;
            }
            let surveyed = survey(&self.snapshot, layer, None, &Coverage::new(&[]), &zooms).await?;
            let found = FeatureSearch::new(&changed.dirty, drawn, &surveyed.places);
            for area in batches.iter_mut().flat_map(|batch| &mut batch.areas) {
                if area.search[index] == SearchBox::Area {
                    area.search[index] = found.search(&area.rect);
                }
            }
        }
        Ok(())
    }
}

fn plan(changed: &Changed) -> DirtyReport {
    let mut zooms: BTreeMap<u8, u64> = BTreeMap::new();
    for tile in changed.dirty.iter() {
        *zooms.entry(tile.zoom().get()).or_default() += 1;
    }
    let zooms = zooms.into_iter().map(|(zoom, tiles)| DirtyZoom { zoom, tiles }).collect();
    DirtyReport { zooms: Some(zooms), reasons: changed.reasons.clone() }
}
