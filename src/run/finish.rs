//! The end of a run: the manifest makes visible what the sink has stored, and the report says what was done.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::task::spawn_blocking;

use super::describe::{metadata, names, warn, with_failed};
use super::dirty_file::DirtyScope;
use super::target::AnySink;
use super::{CommandError, TilesetRun};
use crate::clock::seconds;
use crate::manifest::{DatabaseMark, Manifest, Publication, RowCounts, Witness};
use crate::postgis::Layer;
use crate::report::{Event, Requests, RunReport};
use crate::shards::LayerRecord;
use crate::target::{Described, Finished, GENERATOR, Sink as _, Written};
use crate::tile::LonLatBox;

/// What the manifest of a run says, whatever tiles it covers.
pub(crate) struct Provenance {
    /// The mark of the database that its tiles show.
    pub(crate) database: Option<DatabaseMark>,
    /// The witness of the newest state that its tiles show.
    pub(crate) witness: Option<Witness>,
    /// The hash of the tables and views that the layers read.
    pub(crate) reads: String,
    pub(crate) rows: Option<RowCounts>,
    pub(crate) started: SystemTime,
    /// The publication that its manifest makes.
    pub(crate) publication: Publication,
}

pub(crate) struct StoredTiles {
    pub(crate) written: Written,
    /// The budgets of layers, and the tiles that could not be rendered.
    pub(crate) record: LayerRecord,
    /// The box around the features that the run has seen.
    pub(crate) bounds: LonLatBox,
    /// The warnings so far.
    pub(crate) warnings: Vec<String>,
}

pub(crate) struct StoredRun<'a> {
    pub(crate) tileset_run: &'a TilesetRun,
    pub(crate) layers: &'a [Arc<Layer>],
    pub(crate) provenance: Provenance,
    pub(crate) tiles: StoredTiles,
}

/// A run whose manifest is visible.
pub(crate) struct FinishedRun {
    pub(crate) manifest: Manifest,
    pub(crate) target: Finished,
    /// The names of the layers, by their ids.
    pub(crate) layers: Vec<String>,
    pub(crate) written: Written,
    pub(crate) record: LayerRecord,
    pub(crate) warnings: Vec<String>,
    pub(crate) started: SystemTime,
    /// How long it took to finish, in seconds.
    pub(crate) seconds: f64,
}

impl StoredRun<'_> {
    /// Makes visible what `sink` has stored, and writes the list of changed tiles. `base` has the parts of the
    /// manifest that depend on which tiles the run covers: snapshots, zooms and boxes, regions, counts, the tiles that
    /// earlier runs could not render, and when layers were warned of. `kept` is what the target said about itself, if
    /// the run keeps some of its earlier tiles.
    pub(crate) async fn finish(
        self,
        sink: AnySink,
        base: Manifest,
        kept: Option<&Described>,
    ) -> Result<FinishedRun, CommandError> {
        let StoredRun { tileset_run, layers, provenance, tiles } = self;
        let StoredTiles { written, record, bounds, mut warnings } = tiles;
        let Provenance { database, witness, reads, rows, started, publication } = provenance;
        tileset_run.report.event(&Event::Finishing);
        let finishing = Instant::now();
        let mut manifest = Manifest {
            version: Manifest::version_with(&base.partial),
            generator: GENERATOR.to_owned(),
            database,
            witness,
            reads: Some(reads),
            rows,
            unrendered: with_failed(base.unrendered, &record.failed),
            started: seconds(started),
            seconds: started.elapsed().unwrap_or_default().as_secs_f64(),
            publication: Some(publication),
            ..base
        };
        warnings.append(&mut warn(&record.budgets, &mut manifest.warned, &tileset_run.report));
        let metadata = metadata(&tileset_run.settings, layers, bounds, &manifest, kept)?;
        let target = spawn_blocking(move || sink.finish(&metadata)).await??;
        tileset_run.changed_out.write(target.changed.as_ref(), &DirtyScope::of(&tileset_run.settings, &[]));
        let (layers, seconds) = (names(layers), finishing.elapsed().as_secs_f64());
        Ok(FinishedRun { manifest, target, layers, written, record, warnings, started, seconds })
    }
}

impl FinishedRun {
    /// The report of a seed. `figures` has what only the run itself knows.
    pub(crate) fn seed_report(self, figures: RunReport) -> RunReport {
        let FinishedRun { manifest, target, layers, written, record, warnings, started, seconds } = self;
        RunReport {
            output: target.place,
            written: written.stored,
            unchanged: written.unchanged,
            deleted: target.deleted,
            requests: target.in_flight.map(|seen| Requests {
                mean_in_flight: seen.mean,
                most_in_flight: seen.peak,
                requests: seen.requests,
            }),
            layers,
            manifest: Manifest { seconds: started.elapsed().unwrap_or_default().as_secs_f64(), ..manifest },
            features: figures.zooms.iter().map(|zoom| zoom.features).sum(),
            finish_seconds: seconds,
            budgets: record.budgets,
            failed: record.failed,
            warnings,
            ..figures
        }
    }
}
