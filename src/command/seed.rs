//! `oar-tiles seed`: render every occupied tile of the pyramid into the output.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use md5::{Digest as _, Md5};

use super::CommandError;
use super::survey::{Prepared, prepare};
use crate::config::Settings;
use crate::manifest::{MANIFEST_VERSION, Manifest};
use crate::pipeline::{self, Outcome, PipelineError, Stored};
use crate::postgis::{Layer, Renderer};
use crate::report::{Event, Report, RunReport, RunZoom, print, render_run};
use crate::sink::{Mbtiles, MbtilesError, Metadata, Sink as _, VectorLayer};
use crate::stop::Stop;
use crate::tile::{Batch, LonLatBox};

/// What `seed` was asked for, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct SeedOptions {
    /// Print the plan and write nothing.
    pub dry_run: bool,
    /// Where to write the closing table as JSON.
    pub report: Option<PathBuf>,
    /// Print the closing table.
    pub table: bool,
}

/// Runs `seed`.
///
/// # Errors
/// If anything at all is missing from the result; the target is unchanged then.
pub async fn seed(
    settings: &Settings,
    options: &SeedOptions,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    if let Some(path) = &options.report {
        writable(path, &settings.tileset.output)?;
    }
    if options.dry_run {
        let plan = super::dry_run::dry_run(settings, report, stop).await.map_err(|error| interrupted(error, stop))?;
        return close(options, &crate::report::render_plan(&plan), serde_json::to_vec_pretty(&plan));
    }
    let mut restarts = 0;
    let done = loop {
        match attempt(settings, restarts, report, stop).await.map_err(|error| interrupted(error, stop)) {
            Err(CommandError::Database(error)) if error.is_lost() || restarts > 0 && error.is_unreachable() => {
                if restarts == settings.restarts {
                    return Err(CommandError::Restarts { attempts: restarts + 1, source: error });
                }
                restarts += 1;
                report.event(&Event::Restarting { attempt: restarts, of: settings.restarts, cause: error.to_string() });
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1 << restarts.min(5))) => {}
                    signal = stop.wait() => return Err(CommandError::Interrupted(signal)),
                }
            }
            ended => break ended?,
        }
    };
    let (tiles, bytes, seconds) = (done.manifest.stored, done.bytes, done.manifest.seconds);
    report.event(&Event::Done { output: done.output.clone(), tiles, bytes, seconds });
    close(options, &render_run(&done), serde_json::to_vec_pretty(&done))
}

/// One whole run on one snapshot.
async fn attempt(
    settings: &Settings,
    restarts: u32,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<RunReport, CommandError> {
    let (begun, started) = (Instant::now(), SystemTime::now());
    // The target first: an hour of work must not end at a folder that is not there.
    let sink = Mbtiles::create(&settings.tileset.output, stop)?;
    let mut prepared = prepare(settings, report, stop).await?;
    let batches: Vec<Batch> = prepared.zooms.iter_mut().flat_map(|zoom| std::mem::take(&mut zoom.batches)).collect();
    let planned = prepared.zooms.iter().map(|zoom| zoom.tiles).sum();
    let features = prepared.zooms.iter().map(|zoom| zoom.features).sum();
    report.event(&Event::Planned { tiles: planned, features, batches: batches.len() as u64 });

    let rendering = Instant::now();
    let mut renderers = Vec::new();
    for _ in 0..settings.workers.get().min(batches.len()) {
        renderers.push(Renderer::open(&prepared.database, &prepared.snapshot, &prepared.layers).await?);
    }
    let stored = stored_events(report);
    let (sink, outcome) =
        pipeline::run(batches, renderers, sink, settings.limits, stored).await.map_err(pipeline_error)?;
    // The last batch may have been rendered before the stop was asked for.
    if let Some(signal) = stop.asked() {
        return Err(CommandError::Interrupted(signal));
    }
    let render_seconds = rendering.elapsed().as_secs_f64();

    report.event(&Event::Finishing);
    let finishing = Instant::now();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        generator: concat!("oar-tiles ", env!("CARGO_PKG_VERSION")).to_owned(),
        snapshot: prepared.snapshot.cursor().to_owned(),
        database: prepared.server.identity.clone(),
        fingerprint: fingerprint(settings, &prepared.layers),
        zooms: settings.tileset.zooms.to_string(),
        bbox: settings.tileset.bbox.iter().map(LonLatBox::to_string).collect(),
        planned,
        stored: outcome.written.stored,
        empty: outcome.written.removed,
        started: started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    let metadata = metadata(settings, &prepared, &manifest)?;
    let finished = tokio::task::spawn_blocking(move || sink.finish(&metadata))
        .await
        .map_err(|error| CommandError::Died(error.to_string()))??;
    Ok(RunReport {
        output: finished.place,
        manifest: Manifest { seconds: begun.elapsed().as_secs_f64(), ..manifest },
        features: outcome.zooms.iter().map(|zoom| zoom.features).sum(),
        bytes: outcome.zooms.iter().map(|zoom| zoom.bytes).sum(),
        plan_seconds: prepared.took.as_secs_f64(),
        render_seconds,
        finish_seconds: finishing.elapsed().as_secs_f64(),
        restarts,
        zooms: zooms(&outcome),
        skipped: prepared.skipped,
        warnings: prepared.warnings,
    })
}

fn stored_events(report: &Arc<dyn Report>) -> impl Fn(&Stored) + Send + 'static {
    let report = Arc::clone(report);
    move |stored| {
        report.event(&Event::Stored {
            zoom: stored.zoom,
            tiles: stored.written.total(),
            features: stored.planned_features,
            bytes: stored.bytes,
        });
    }
}

/// Errors of the parts keep their kind, so that a lost database can be told from a defect.
fn pipeline_error(error: PipelineError<crate::postgis::Error, MbtilesError>) -> CommandError {
    match error {
        PipelineError::Source(error) => error.into(),
        PipelineError::Sink(error) => error.into(),
        other => CommandError::Pipeline(other.to_string()),
    }
}

/// After a stop was asked for, whatever failed because of it is the interruption.
pub(super) fn interrupted(error: CommandError, stop: &Stop) -> CommandError {
    match (stop.asked(), &error) {
        (
            Some(signal),
            CommandError::Database(crate::postgis::Error::Interrupted | crate::postgis::Error::Lost { .. })
            | CommandError::Target(MbtilesError::Interrupted { .. }),
        ) => CommandError::Interrupted(signal),
        _ => error,
    }
}

/// A hash of everything in the configuration that decides a tile's bytes.
pub(super) fn fingerprint(settings: &Settings, layers: &[Layer]) -> String {
    let mut hash = Md5::new();
    for layer in layers {
        hash.update(layer.definition());
        hash.update("\n");
    }
    hash.update(format!("{:?}", settings.limits.packing));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn metadata(settings: &Settings, prepared: &Prepared, manifest: &Manifest) -> Result<Metadata, CommandError> {
    let tileset = &settings.tileset;
    let drawn = |layer: &Layer| {
        let zooms = || tileset.zooms.iter().filter(|zoom| layer.zooms().contains(*zoom));
        Some((zooms().next()?.get(), zooms().next_back()?.get()))
    };
    let vector_layer = |layer: &Layer| {
        let (minzoom, maxzoom) = drawn(layer)?;
        let fields = layer.fields().map(|(name, kind)| (name.to_owned(), kind.into())).collect();
        Some(VectorLayer { id: layer.name().to_owned(), description: String::new(), minzoom, maxzoom, fields })
    };
    Ok(Metadata {
        name: tileset.name.clone(),
        description: tileset.description.clone(),
        attribution: tileset.attribution.clone(),
        version: tileset.version.clone(),
        zooms: tileset.zooms.clone(),
        bounds: prepared.bounds,
        vector_layers: prepared.layers.iter().filter_map(vector_layer).collect(),
        manifest: serde_json::to_string(manifest).map_err(std::io::Error::from)?,
    })
}

fn zooms(outcome: &Outcome) -> Vec<RunZoom> {
    let zoom = |zoom: &pipeline::ZoomStats| RunZoom {
        zoom: zoom.zoom.get(),
        tiles: zoom.tiles,
        features: zoom.features,
        bytes: zoom.bytes,
        median: zoom.sizes.quantile(0.5),
        p95: zoom.sizes.quantile(0.95),
        largest: zoom.largest,
        worker_seconds: zoom.busy.as_secs_f64(),
    };
    outcome.zooms.iter().map(zoom).collect()
}

/// Finds out before the work whether the report can be written after it. Leaves nothing behind: the run may yet fail.
pub(super) fn writable(path: &Path, output: &Path) -> Result<(), CommandError> {
    let refused = |source| CommandError::NoReport { path: path.to_owned(), source };
    let same = matches!((path.canonicalize(), output.canonicalize()), (Ok(path), Ok(output)) if path == output);
    if same || path == output {
        return Err(refused(std::io::Error::other("it would replace the output")));
    }
    match OpenOptions::new().create_new(true).write(true).open(path) {
        Ok(_) => std::fs::remove_file(path).map_err(refused),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map(drop).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

/// Prints the table and writes the report.
fn close(options: &SeedOptions, table: &str, json: serde_json::Result<Vec<u8>>) -> Result<(), CommandError> {
    if options.table {
        print(table)?;
    }
    if let Some(path) = &options.report {
        json.map_err(std::io::Error::from)
            .and_then(|json| std::fs::write(path, json))
            .map_err(|source| CommandError::NoReport { path: path.clone(), source })?;
    }
    Ok(())
}
