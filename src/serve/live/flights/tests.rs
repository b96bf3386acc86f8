use std::num::NonZeroUsize;
use std::sync::atomic::AtomicUsize;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::*;
use crate::cursor::Cursor;
use crate::serve::change_log::LiveEpoch;
use crate::serve::live::{LiveLayer, LiveRequest, LiveTile};
use crate::serve::parameters::ParametersKey;
use crate::serve::queue::WorkerShares;
use crate::serve::shared::SharedSecret;
use crate::serve::tiles::cache::{CachedForm, CachedWay};
use crate::tile::{TileCoord, Zoom};

/// A source that waits until the test releases it; then it fails or returns one byte.
#[derive(Default)]
struct Held {
    renders: AtomicUsize,
    go: Notify,
    fails: AtomicBool,
    /// The first transaction that has not begun, and how often that was asked.
    state: AtomicU64,
    states: AtomicUsize,
}

impl LiveSource for Held {
    fn fingerprint(&self) -> &'static str {
        ""
    }

    fn layers(&self) -> &[LiveLayer] {
        &[]
    }

    fn shared_secret(&self) -> Option<SharedSecret> {
        None
    }

    fn present_state(&self) -> BoxFuture<'_, Result<Cursor, LiveError>> {
        self.states.fetch_add(1, Ordering::SeqCst);
        let state = self.state.load(Ordering::SeqCst);
        let away = || LiveError::Away("as it was told".to_owned());
        let known = (state > 0).then(|| format!("{state}:{state}:").parse().unwrap());
        Box::pin(std::future::ready(known.ok_or_else(away)))
    }

    fn sessions(&self) -> usize {
        0
    }

    fn follow(self: Arc<Self>, _: KnownChanges) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn render<'a>(&'a self, _: LiveRequest, stop: &'a Stop) -> BoxFuture<'a, Result<LiveTile, LiveError>> {
        Box::pin(async {
            self.renders.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                () = self.go.notified() => {}
                _ = stop.wait() => return Err(LiveError::Abandoned),
            }
            if self.fails.load(Ordering::SeqCst) {
                return Err(LiveError::Failed("as it was told".to_owned()));
            }
            Ok(LiveTile { stored: Some(Box::from([7])), in_database: Duration::ZERO, snapshot: Cursor::default() })
        })
    }
}

fn flights(workers: usize, queue: usize) -> (LiveFlights, Arc<Held>) {
    let (workers, source) = (NonZeroUsize::new(workers).unwrap(), Arc::new(Held::default()));
    let shares = WorkerShares::new(workers, Some(0), Some(0)).unwrap();
    let (timeout, ttl) = (Duration::from_secs(60), Duration::from_secs(60));
    let options = LiveOptions {
        queue,
        timeout,
        ttl,
        answer_within: None,
        expires: Vec::new(),
        refresh_patience: None,
        neighbours: true,
        explain_after: None,
    };
    let parts = FlightParts {
        source: Arc::clone(&source) as Arc<dyn LiveSource>,
        cache: TileCache::new(1 << 20),
        metrics: Arc::new(Metrics::new()),
        options,
        queue: WorkQueue::new(shares),
        shared: None,
        known: KnownChanges::default(),
    };
    (LiveFlights::new(parts), source)
}

fn key(x: u32) -> FlightKey {
    let tile = TileCoord::new(Zoom::new(9).unwrap(), x, 0).unwrap().into();
    FlightKey { epoch: LiveEpoch::default(), tile, parameters: ParametersKey::default() }
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

/// Lets the tasks run until the numbers of running tiles, queued tiles and requests are those given.
async fn until(flights: &LiveFlights, running: usize, queued: usize, requests: usize) {
    while flights.counts() != (FlightCounts { running, queued, requests }) {
        tokio::task::yield_now().await;
    }
}

/// The result of a request for a live tile.
struct Joined {
    landed: Result<CachedForm, LiveError>,
    is_collapsed: bool,
}

async fn tile(flights: &LiveFlights, key: FlightKey) -> Joined {
    match flights.ask(key, FlightNotes::default()) {
        Ok(mut waiter) => Joined { landed: waiter.landed().await, is_collapsed: waiter.is_collapsed },
        Err(error) => Joined { landed: Err(error), is_collapsed: false },
    }
}

fn spawned(flights: &LiveFlights, x: u32) -> tokio::task::JoinHandle<Joined> {
    let flights = flights.clone();
    tokio::spawn(async move { tile(&flights, key(x)).await })
}

#[test]
fn a_tile_is_rendered_once_however_many_ask_and_then_remembered() {
    on_runtime(async {
        let (flights, source) = flights(2, 8);
        let asked: Vec<_> = (0..100).map(|_| spawned(&flights, 1)).collect();
        until(&flights, 1, 0, 100).await;
        source.go.notify_one();
        let mut collapsed = 0;
        for joined in asked {
            let Joined { landed, is_collapsed } = joined.await.unwrap();
            assert_eq!(&*landed.unwrap().tile.unwrap().body, [7]);
            collapsed += usize::from(is_collapsed);
        }
        assert_eq!(collapsed, 99);
        until(&flights, 0, 0, 0).await;
        assert!(tile(&flights, key(1)).await.landed.is_ok());
        assert_eq!(source.renders.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_failure_answers_all_and_the_tile_is_left_alone_for_a_while() {
    on_runtime(async {
        let (flights, source) = flights(1, 8);
        source.fails.store(true, Ordering::SeqCst);
        let asked: Vec<_> = (0..5).map(|_| spawned(&flights, 1)).collect();
        until(&flights, 1, 0, 5).await;
        source.go.notify_one();
        for joined in asked {
            assert!(matches!(joined.await.unwrap().landed, Err(LiveError::Failed(_))));
        }
        assert!(matches!(tile(&flights, key(1)).await.landed, Err(LiveError::JustFailed)));
        assert_eq!(source.renders.load(Ordering::SeqCst), 1);
        // A tile that has not failed is tried.
        source.fails.store(false, Ordering::SeqCst);
        source.go.notify_one();
        assert!(tile(&flights, key(2)).await.landed.is_ok());
        source.go.notify_one();
        while tile(&flights, key(1)).await.landed.is_err() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn beyond_the_queue_requests_are_turned_away_and_who_leaves_makes_room() {
    on_runtime(async {
        let (flights, source) = flights(1, 2);
        let asked: Vec<_> = (0..3).map(|x| spawned(&flights, x)).collect();
        until(&flights, 1, 2, 3).await;
        assert!(matches!(tile(&flights, key(9)).await.landed, Err(LiveError::Overloaded { .. })));
        // A request can always join a flight that has started already.
        let joined = spawned(&flights, 2);
        until(&flights, 1, 2, 4).await;
        asked[1].abort();
        until(&flights, 1, 1, 3).await;
        // The running flight ends when the last request that waits for it leaves.
        asked[0].abort();
        until(&flights, 1, 0, 2).await;
        source.go.notify_one();
        assert!(joined.await.unwrap().is_collapsed);
        until(&flights, 0, 0, 0).await;
        assert_eq!(source.renders.load(Ordering::SeqCst), 2, "the one that left the queue was not begun");
    });
}

#[test]
fn a_neighbour_that_is_asked_for_meanwhile_becomes_a_live_request_and_one_flight_renders_it() {
    on_runtime(async {
        let (flights, source) = flights(1, 8);
        let first = spawned(&flights, 0);
        until(&flights, 1, 0, 1).await;
        for x in [1, 2, 2, 3, 4, 5] {
            flights.ask_ahead(key(x), WorkClass::Neighbour, None);
        }
        let waiting = |class| flights.0.queue.counts().waiting.of(class);
        assert_eq!(waiting(WorkClass::Neighbour), 4, "each once, and no more than four for a worker");
        // A client asks for one of them: it waits as a live request, and the other neighbours are dropped.
        let second = spawned(&flights, 1);
        until(&flights, 1, 1, 2).await;
        assert_eq!(waiting(WorkClass::Neighbour), 0);
        source.go.notify_one();
        assert!(!first.await.unwrap().is_collapsed);
        source.go.notify_one();
        let second = second.await.unwrap();
        assert!(second.is_collapsed && second.landed.unwrap().way == CachedWay::Asked);
        until(&flights, 0, 0, 0).await;
        assert_eq!(source.renders.load(Ordering::SeqCst), 2);
        // With nothing else to do a neighbour is rendered, and marked.
        flights.ask_ahead(key(5), WorkClass::Neighbour, None);
        source.go.notify_one();
        while flights.fresh(key(5)).await.is_none() {
            tokio::task::yield_now().await;
        }
        assert!(flights.fresh(key(5)).await.unwrap().way == CachedWay::Ahead);
    });
}

#[test]
fn a_request_that_joins_a_flight_which_the_queue_has_dropped_gets_its_tile() {
    on_runtime(async {
        let (flights, source) = flights(1, 8);
        let first = spawned(&flights, 0);
        until(&flights, 1, 0, 1).await;
        flights.ask_ahead(key(1), WorkClass::Neighbour, None);
        // The queue drops the neighbour before its flight is notified: nothing runs between these two lines.
        let (other, mut joined) = (
            flights.ask(key(2), FlightNotes::default()).unwrap(),
            flights.ask(key(1), FlightNotes::default()).unwrap(),
        );
        until(&flights, 1, 2, 3).await;
        for _ in 0..3 {
            source.go.notify_one();
            tokio::task::yield_now().await;
        }
        drop(first.await.unwrap());
        drop(other);
        while flights.counts().running > 0 && flights.fresh(key(1)).await.is_none() {
            source.go.notify_one();
            tokio::task::yield_now().await;
        }
        assert!(joined.landed().await.is_ok());
    });
}

#[test]
fn a_flight_that_goes_on_is_not_ended_when_its_last_request_leaves() {
    on_runtime(async {
        let (flights, source) = flights(1, 8);
        let waiter = flights.ask(key(1), FlightNotes::default()).unwrap();
        waiter.keep_going();
        drop(waiter);
        until(&flights, 1, 0, 0).await;
        source.go.notify_one();
        until(&flights, 0, 0, 0).await;
        assert!(flights.fresh(key(1)).await.is_some());
    });
}

#[tokio::test]
async fn a_shared_state_is_refused_only_beyond_what_the_database_says_now() {
    let (flights, source) = flights(1, 1);
    let reached = |xmax| flights.0.has_reached(xmax);
    assert!(!reached(7).await, "the database is away");
    source.state.store(10, Ordering::SeqCst);
    assert!(reached(7).await && reached(10).await && reached(3).await);
    assert_eq!(source.states.load(Ordering::SeqCst), 2, "what is known is not asked again");
    assert!(!reached(11).await);
    // Another server has rendered a tile a moment ago: that is no reason to refuse it.
    source.state.store(12, Ordering::SeqCst);
    assert!(reached(11).await && reached(12).await && !reached(13).await);
    // A database that was set back has not reached what it had.
    source.state.store(5, Ordering::SeqCst);
    assert!(!reached(13).await && !reached(12).await && reached(5).await);
}
