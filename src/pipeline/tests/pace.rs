//! The gate at which each batch waits for its turn, and batches whose size follows the server's pace.

use parking_lot::Mutex;

use super::*;

/// Lets one batch through at a time, and counts.
struct OneAtATime {
    turn: Arc<Semaphore>,
    entered: AtomicUsize,
    pace: BatchPace,
}

impl BatchGate for OneAtATime {
    fn enter(&self, kind: BatchKind) -> futures_util::future::BoxFuture<'_, BatchTurn> {
        assert_eq!(kind, BatchKind::Reseed);
        Box::pin(async {
            let turn = Arc::clone(&self.turn).acquire_owned().await.unwrap();
            self.entered.fetch_add(1, SeqCst);
            BatchTurn::holding(turn)
        })
    }

    fn pace(&self, _kind: BatchKind) -> &BatchPace {
        &self.pace
    }
}

/// Counts how many batches are rendered at once.
struct CountingSource {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Source for CountingSource {
    type Error = OnPurpose;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, OnPurpose> {
        self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.now.fetch_sub(1, SeqCst);
        Ok(batch.areas[0].rect.iter().map(rendered).collect())
    }
}

#[test]
fn each_batch_waits_for_its_turn_at_the_gate_and_its_pace_is_noted() {
    let batch = |x| Batch { needs_cell_counts: false, ..batch(x) };
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let source = |_| CountingSource { now: Arc::clone(&now), most: Arc::clone(&most) };
    let sink = MemorySink { fault: Fault::None, waiting: Arc::new(AtomicUsize::new(100)), edits: Vec::new() };
    // The window is smaller than the number of sources: a batch that waits at the gate never waits for the window.
    let limits = Limits {
        window: NonZeroUsize::new(2).unwrap(),
        features: NonZeroU64::MAX,
        packing: Packing::mvt(TileCompression::None),
    };
    let gate = Arc::new(OneAtATime {
        turn: Arc::new(Semaphore::new(1)),
        entered: AtomicUsize::new(0),
        pace: BatchPace::default(),
    });
    // No batch is joined with another.
    let batch_features = NonZeroU64::new(2).unwrap();
    let turns = BatchTurns { gate: Arc::<OneAtATime>::clone(&gate), kind: BatchKind::Reseed, batch_features };
    let running = run((0..30).map(batch).collect(), (0..4).map(source).collect(), sink, limits, Some(turns), |_| ());
    assert!(ended(running).is_ok());
    assert_eq!((most.load(SeqCst), gate.entered.load(SeqCst)), (1, 30));
    assert_ne!(gate.pace.features(u64::MAX), BatchPace::default().features(u64::MAX));
}

/// A gate that is always open, and a pace that is known.
struct OpenGate(BatchPace);

impl BatchGate for OpenGate {
    fn enter(&self, _kind: BatchKind) -> futures_util::future::BoxFuture<'_, BatchTurn> {
        Box::pin(async { BatchTurn::free() })
    }

    fn pace(&self, _kind: BatchKind) -> &BatchPace {
        &self.0
    }
}

/// Keeps the number of features of each batch that it renders.
struct MeasuredSource(Arc<Mutex<Vec<u64>>>);

impl Source for MeasuredSource {
    type Error = OnPurpose;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, OnPurpose> {
        self.0.lock().push(batch.features());
        Ok(batch.areas.iter().flat_map(|area| area.rect.iter()).map(rendered).collect())
    }
}

/// Keeps the edits that it is given.
struct KeptEdits(Vec<TileEdit>);

impl Sink for KeptEdits {
    type Error = OnPurpose;

    fn needs(&self) -> Needs {
        Needs { order: Order::ZoomColumnTmsRow, layers_apart: false }
    }

    fn begin(&mut self, _tileset: &Tileset) -> Result<Option<Described>, OnPurpose> {
        Ok(None)
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, OnPurpose> {
        let stored = edits.len() as u64;
        self.0.extend(edits);
        Ok(Written { stored, ..Written::default() })
    }

    fn finish(self, _metadata: &Metadata) -> Result<Finished, OnPurpose> {
        Err(OnPurpose(0))
    }
}

/// The features of each batch that one worker renders, if a feature takes `each` and the plan has `count` batches of
/// some tiles with a number of features.
fn rendered_at_a_pace(each: Duration, planned: PlannedTiles, count: u32, tiles: u32, features: u64) -> Vec<u64> {
    let zoom = Zoom::new(12).unwrap();
    let batch = |x| Batch {
        areas: vec![Area {
            rect: TileRect { zoom, x0: x, y0: 0, x1: x, y1: tiles - 1 },
            search: vec![SearchBox::Area],
        }],
        planned,
        tiles: tiles.into(),
        layers: vec![LayerCount { tiles: tiles.into(), features }],
        needs_cell_counts: false,
        ..batch(x)
    };
    let pace = BatchPace::default();
    pace.note(1, each);
    let batch_features = NonZeroU64::new(1_000).unwrap();
    let turns = BatchTurns { gate: Arc::new(OpenGate(pace)), kind: BatchKind::Seed, batch_features };
    let sizes: Arc<Mutex<Vec<u64>>> = Arc::default();
    let limits = Limits {
        window: NonZeroUsize::new(4).unwrap(),
        features: NonZeroU64::MAX,
        packing: Packing::mvt(TileCompression::None),
    };
    let sources = vec![MeasuredSource(Arc::clone(&sizes))];
    let running = run((0..count).map(batch).collect(), sources, KeptEdits(Vec::new()), limits, Some(turns), |_| ());
    let (sink, _) = ended(running).unwrap();
    let places: Vec<u64> = sink.0.iter().map(|edit| Order::ZoomColumnTmsRow.sort_key(edit.id().coord)).collect();
    assert!(places.is_sorted_by(|one, next| one < next) && places.len() == (count * tiles) as usize);
    sizes.lock().clone()
}

#[test]
fn batches_of_a_seed_are_joined_as_long_as_the_server_is_fast_enough() {
    let (slow, fast) = (Duration::from_secs(1), Duration::from_micros(1));
    assert_eq!(rendered_at_a_pace(slow, PlannedTiles::Occupied, 30, 7, 100), [100; 30]);
    assert_eq!(rendered_at_a_pace(fast, PlannedTiles::Occupied, 30, 7, 100), [1_000; 3]);
    // 500 features take a quarter of a second.
    assert_eq!(rendered_at_a_pace(Duration::from_micros(500), PlannedTiles::Occupied, 30, 7, 100)[0], 500);
}

#[test]
fn batches_of_a_reseed_are_cut_where_the_server_is_slow() {
    let (slow, fast) = (Duration::from_secs(1), Duration::from_micros(1));
    assert_eq!(rendered_at_a_pace(fast, PlannedTiles::Every, 3, 40, 800), [800; 3]);
    assert_eq!(rendered_at_a_pace(slow, PlannedTiles::Every, 3, 40, 800), [100; 24]);
    // A tile cannot be cut.
    assert_eq!(rendered_at_a_pace(slow, PlannedTiles::Every, 2, 1, 800), [800; 2]);
}
