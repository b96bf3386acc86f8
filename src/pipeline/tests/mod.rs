//! The pipeline's own promises, with sources and sinks that misbehave on purpose.

mod pace;

use std::num::NonZeroU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::Semaphore;

use super::*;
use crate::encode::{Level, TileCompression};
use crate::source::RenderedLayer;
use crate::target::{Described, Finished, Metadata, Needs, TileEdit, Tileset};
use crate::tile::{Area, LayerCount, Order, PlannedTiles, SearchBox, TileRect};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The source fails at the batch of this column.
    Source(u32),
    /// The source loses a tile of the batch of this column.
    Lost(u32),
    /// The sink fails at the batch of this column.
    Sink(u32),
    /// The sink does not count the batch of this column.
    Forgotten(u32),
}

#[derive(Debug, thiserror::Error)]
#[error("on purpose, at {0}")]
struct OnPurpose(u32);

/// Renders two tiles a batch, one of them empty; the earlier batches take longest.
struct Slow {
    fault: Fault,
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Source for Slow {
    type Error = OnPurpose;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, OnPurpose> {
        let is_first = batch.areas[0].rect.x0 == 0;
        self.most.fetch_max(self.waiting.fetch_add(1, SeqCst) + 1, SeqCst);
        tokio::time::sleep(Duration::from_millis(if is_first { 60 } else { 1 })).await;
        self.rendered(batch)
    }
}

impl Slow {
    fn rendered(&self, batch: &Batch) -> Result<Vec<RenderedTile>, OnPurpose> {
        let rect = batch.areas[0].rect;
        let tile = |y| TileCoord::new(rect.zoom, rect.x0, y).unwrap();
        let mut tiles = vec![
            RenderedTile {
                mvt: vec![1, 2, 3],
                layers: vec![RenderedLayer { layer: LayerId(0), bytes: 3 }],
                features: 1,
                ..RenderedTile::empty(tile(1))
            },
            RenderedTile {
                layers: vec![RenderedLayer { layer: LayerId(0), bytes: 0 }],
                ..RenderedTile::empty(tile(0))
            },
        ];
        match self.fault {
            Fault::Source(column) if column == rect.x0 => return Err(OnPurpose(column)),
            Fault::Lost(column) if column == rect.x0 => drop(tiles.pop()),
            _ => {}
        }
        Ok(tiles)
    }
}

/// Keeps the tiles in the order in which they come.
struct MemorySink {
    fault: Fault,
    waiting: Arc<AtomicUsize>,
    edits: Vec<TileEdit>,
}

impl Sink for MemorySink {
    type Error = OnPurpose;

    fn needs(&self) -> Needs {
        Needs { order: Order::ZoomColumnTmsRow, layers_apart: false }
    }

    fn begin(&mut self, _tileset: &Tileset) -> Result<Option<Described>, OnPurpose> {
        Ok(None)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, OnPurpose> {
        self.waiting.fetch_sub(1, SeqCst);
        let TileEdit::Put(id, _) = &edits[0] else { panic!("the first tile is not empty") };
        let column = id.coord.x();
        self.edits.extend(edits);
        match self.fault {
            Fault::Sink(bad) if bad == column => Err(OnPurpose(column)),
            Fault::Forgotten(bad) if bad == column => Ok(Written::default()),
            _ => Ok(Written { stored: 1, removed: 1, ..Written::default() }),
        }
    }

    fn finish(self, _metadata: &Metadata) -> Result<Finished, OnPurpose> {
        Err(OnPurpose(0))
    }
}

const COLUMNS: u32 = 60;
const WINDOW: usize = 4;

type Ended = Result<(MemorySink, PipelineOutcome), PipelineError<OnPurpose, OnPurpose>>;

/// Runs sixty batches over three sources. Returns how the run ended, and the largest number of batches between
/// rendering and storing.
fn run_with(fault: Fault) -> (Ended, usize) {
    run_limited(fault, NonZeroU64::MAX)
}

fn batch(x: u32) -> Batch {
    let zoom = Zoom::new(6).unwrap();
    Batch {
        areas: vec![Area { rect: TileRect { zoom, x0: x, y0: 0, x1: x, y1: 1 }, search: vec![SearchBox::Area] }],
        repeats: Vec::new(),
        planned: PlannedTiles::Occupied,
        tiles: 2,
        layers: vec![LayerCount { tiles: 2, features: 2 }],
        needs_cell_counts: x.is_multiple_of(3),
    }
}

fn rendered(tile: TileCoord) -> RenderedTile {
    let layers = vec![RenderedLayer { layer: LayerId(0), bytes: 1 }];
    RenderedTile { mvt: vec![1], layers, features: 1, ..RenderedTile::empty(tile) }
}

/// The end of a run, which comes within a minute.
fn ended<T>(running: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), running).await });
    ended.expect("the pipeline hangs")
}

/// The same with a limit for features; each batch has two.
fn run_limited(fault: Fault, features: NonZeroU64) -> (Ended, usize) {
    let (waiting, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let source = |_| Slow { fault, waiting: Arc::clone(&waiting), most: Arc::clone(&most) };
    let sink = MemorySink { fault, waiting: Arc::clone(&waiting), edits: Vec::new() };
    let limits = Limits {
        window: NonZeroUsize::new(WINDOW).unwrap(),
        features,
        packing: Packing::mvt(TileCompression::Gzip(Level::new(1).unwrap())),
    };
    let running = run((0..COLUMNS).map(batch).collect(), (0..3).map(source).collect(), sink, limits, None, |_| ());
    (ended(running), most.load(SeqCst))
}

#[test]
fn tiles_reach_the_sink_in_the_order_of_the_plan_and_the_window_holds() {
    let (ended, most) = run_with(Fault::None);
    let (sink, outcome) = ended.unwrap();
    let columns: Vec<u32> = sink.edits.iter().map(|edit| edit.id().coord.x()).collect();
    assert!(columns.is_sorted() && columns.len() == 2 * COLUMNS as usize);
    assert_eq!(outcome.written, Written { stored: COLUMNS.into(), removed: COLUMNS.into(), ..Written::default() });
    assert_eq!((outcome.zooms[0].tiles, outcome.zooms[0].features), (COLUMNS.into(), COLUMNS.into()));
    assert!(most <= WINDOW, "{most} batches were on their way");
}

#[test]
fn batches_in_flight_have_few_enough_features_and_one_that_has_more_is_alone() {
    for (features, expected) in [(1, 1), (4, 2), (8, WINDOW)] {
        let (ended, most) = run_limited(Fault::None, NonZeroU64::new(features).unwrap());
        assert_eq!(ended.unwrap().1.written.total(), 2 * u64::from(COLUMNS));
        assert!(most <= expected, "{features} features: {most} batches were on their way");
    }
    assert!(run_limited(Fault::Sink(7), NonZeroU64::MIN).0.is_err());
}

#[test]
fn whatever_fails_ends_the_run_with_its_own_error_and_never_with_success() {
    for (fault, message) in [
        (Fault::Source(0), "on purpose, at 0"),
        (Fault::Source(31), "on purpose, at 31"),
        (Fault::Source(COLUMNS - 1), "on purpose, at 59"),
        (Fault::Sink(0), "on purpose, at 0"),
        (Fault::Sink(COLUMNS - 1), "on purpose, at 59"),
        (
            Fault::Lost(7),
            "a batch of zoom 6 came back with 1 tiles for 2 planned: the result is not complete, nothing was published. Please report this",
        ),
        (
            Fault::Forgotten(COLUMNS - 1),
            "118 of 120 planned tiles were stored: the result is not complete, nothing was published. Please report this",
        ),
    ] {
        let (ended, _) = run_with(fault);
        let Err(error) = ended else { panic!("{fault:?} went unnoticed") };
        assert_eq!(error.to_string(), message, "{fault:?}");
    }
}

#[test]
fn a_run_on_one_thread_ends_as_a_run_on_several() {
    for fault in [Fault::None, Fault::Source(31), Fault::Lost(7), Fault::Sink(3), Fault::Forgotten(COLUMNS - 1)] {
        let (waiting, most) = (Arc::new(AtomicUsize::new(COLUMNS as usize)), Arc::default());
        let source = Slow { fault, waiting: Arc::clone(&waiting), most };
        let sink = MemorySink { fault, waiting, edits: Vec::new() };
        let batches: Vec<Batch> = (0..COLUMNS).map(batch).collect();
        let packing = Packing::mvt(TileCompression::Gzip(Level::new(1).unwrap()));
        let here = run_here(&batches, |batch| source.rendered(batch), sink, packing, |_| ());
        match (here, run_with(fault).0) {
            (Ok((here, outcome)), Ok((several, expected))) => {
                assert_eq!(here.edits, several.edits);
                assert_eq!((outcome.written, outcome.tiles), (expected.written, expected.tiles));
            }
            (Err(here), Err(several)) => assert_eq!(here.to_string(), several.to_string()),
            _ => panic!("{fault:?}"),
        }
    }
}

#[test]
fn a_tile_that_another_target_has_packed_is_copied() {
    let shared = Arc::new(crate::source::PackedOnce::new(1_000));
    let packed = || {
        let render = |batch: &Batch| {
            let tile = |y| TileCoord::new(batch.areas[0].rect.zoom, 0, y).unwrap();
            let mvt = if shared.packed().is_some() { Vec::new() } else { vec![1; 90] };
            let full =
                RenderedTile { mvt, features: 1, shared: Some(Arc::clone(&shared)), ..RenderedTile::empty(tile(1)) };
            Ok::<_, OnPurpose>(vec![full, RenderedTile::empty(tile(0))])
        };
        let sink = MemorySink { fault: Fault::None, waiting: Arc::new(AtomicUsize::new(1)), edits: Vec::new() };
        let packing = Packing::mvt(TileCompression::Gzip(Level::new(1).unwrap()));
        run_here(&[batch(0)], render, sink, packing, |_| ()).unwrap()
    };
    let (first, second) = (packed(), packed());
    assert!(shared.packed().is_some());
    assert_eq!(first.0.edits, second.0.edits);
    assert_eq!(first.1.zooms[0].bytes, second.1.zooms[0].bytes);
}

/// Renders batches that need cell counts only once all others are rendered.
struct Patient {
    others: Arc<AtomicUsize>,
}

impl Source for Patient {
    type Error = OnPurpose;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, OnPurpose> {
        while batch.needs_cell_counts && self.others.load(SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.others.fetch_sub(usize::from(!batch.needs_cell_counts), SeqCst);
        Ok(batch.areas[0].rect.iter().map(rendered).collect())
    }
}

#[test]
fn batches_that_have_to_wait_are_rendered_last_and_stored_in_their_order() {
    let batches: Vec<Batch> = (0..30).map(|x| Batch { needs_cell_counts: x < 9, ..batch(x) }).collect();
    let others = Arc::new(AtomicUsize::new(batches.iter().filter(|batch| !batch.needs_cell_counts).count()));
    let sink = MemorySink { fault: Fault::None, waiting: Arc::new(AtomicUsize::new(100)), edits: Vec::new() };
    let limits = Limits {
        window: NonZeroUsize::new(30).unwrap(),
        features: NonZeroU64::MAX,
        packing: Packing::mvt(TileCompression::None),
    };
    // It hangs if a batch that waits is rendered before the others.
    let ended = ended(run(batches, vec![Patient { others }], sink, limits, None, |_| ()));
    // The sink counts two tiles a batch, one of them empty; these batches have no empty tile.
    let columns: Vec<u32> = ended.map(|(sink, _)| sink.edits.iter().map(|edit| edit.id().coord.x()).collect()).unwrap();
    assert!(columns.is_sorted() && columns.len() == 60);
}
