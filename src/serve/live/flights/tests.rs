use std::num::NonZeroUsize;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::histories::Judgement;
use super::*;
use crate::cursor::{Cursor, NewestLogged, StateInHistory};
use crate::serve::change_log::{LiveEpoch, LogFailure, LogLook};
use crate::serve::live::{LiveLayer, LiveRequest, LiveTile, StateNow};
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
    /// The database states that it shows, one after the other; then the default.
    snapshots: std::sync::Mutex<std::collections::VecDeque<&'static str>>,
    /// The first transaction that has not begun, when the log's one transaction was, and how often both were asked.
    state: AtomicU64,
    history: AtomicU64,
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

    fn ask_about<'a>(&'a self, _: &'a Cursor) -> BoxFuture<'a, Result<StateNow, LiveError>> {
        self.states.fetch_add(1, Ordering::SeqCst);
        let (state, at) = (self.state.load(Ordering::SeqCst), self.history.load(Ordering::SeqCst));
        let away = || LiveError::Away("as it was told".to_owned());
        let present = (state > 0).then(|| format!("{state}:{state}:").parse().unwrap());
        let newest = NewestLogged::Transaction { xid: 3, at };
        Box::pin(std::future::ready(present.map(|present| StateNow { present, newest }).ok_or_else(away)))
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
            let snapshot = self.snapshots.lock().unwrap().pop_front().map(|text| text.parse().unwrap());
            let shown = StateInHistory { state: snapshot.unwrap_or_default(), newest: NewestLogged::Nothing };
            Ok(LiveTile { stored: Some(Box::from([7])), in_database: Duration::ZERO, shown })
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

/// Snapshots are taken by several tasks at once, so a later flight may get an earlier one.
#[test]
fn no_flight_lands_with_an_older_state_than_a_flight_before_it() {
    on_runtime(async {
        let (flights, source) = flights(1, 8);
        *source.snapshots.lock().unwrap() = ["120:120:", "110:110:", "130:130:"].into();
        source.go.notify_one();
        assert!(tile(&flights, key(1)).await.landed.is_ok());
        let shows = |form: &CachedForm| form.snapshot().unwrap().to_string();
        let (coord, epochs) = (key(1).tile.coord, flights.0.known.epochs());
        epochs.evicted(&[coord]);
        let next = FlightKey { epoch: epochs.of(coord, &crate::serve::change_log::LiveSince::default()), ..key(1) };
        let asked = tokio::spawn({
            let flights = flights.clone();
            async move { tile(&flights, next).await }
        });
        for renders in [2, 3] {
            while source.renders.load(Ordering::SeqCst) < renders {
                tokio::task::yield_now().await;
            }
            source.go.notify_one();
        }
        assert_eq!(shows(&asked.await.unwrap().landed.unwrap()), "130:130:");
        // A flight that nobody waits for any more may end late.
        let late = CachedForm::of_live(None, next, "125:125:".parse().unwrap());
        assert_eq!(shows(&flights.0.cache.keep_live(next, late).await), "130:130:");
        // One of an older epoch may have got a later state.
        let early = CachedForm::of_live(None, key(1), "140:140:".parse().unwrap());
        let kept = flights.0.cache.keep_live(key(1), early).await;
        assert_eq!((shows(&kept), kept.epoch()), ("140:140:".to_owned(), Some(next.epoch)));
    });
}

#[tokio::test]
async fn a_shared_state_is_taken_only_if_the_database_has_reached_it_in_this_history() {
    use Judgement::{Ahead, Other, Ours};
    let (flights, source) = flights(1, 1);
    let (flights, known) = (&flights.0, flights.0.known.clone());
    let judged = async |xmax: u64, at| {
        let (state, newest) = (format!("{xmax}:{xmax}:").parse().unwrap(), NewestLogged::Transaction { xid: 3, at });
        flights.judged(&StateInHistory { state, newest }).await
    };
    assert_eq!(judged(7, 0).await, Ahead, "the database is away");
    source.state.store(10, Ordering::SeqCst);
    assert_eq!((judged(7, 0).await, judged(7, 1).await, judged(11, 0).await), (Ours, Other, Ahead));
    // Another server has rendered a tile a moment ago: that is no reason to refuse it.
    source.state.store(12, Ordering::SeqCst);
    assert_eq!((judged(11, 0).await, judged(13, 0).await), (Ours, Ahead));
    // What is known is not asked again, unless the database was found to be another one.
    let (since, seen, transactions, dirty) =
        (Cursor::default(), "12:12:".parse().unwrap(), Vec::new(), Some(Vec::new()));
    known.looked(LogLook { since, seen, transactions, dirty, is_other_history: false, begun: Instant::now() });
    let asked = source.states.load(Ordering::SeqCst);
    source.history.store(1, Ordering::SeqCst);
    assert_eq!((judged(11, 0).await, source.states.load(Ordering::SeqCst)), (Ours, asked));
    known.evict_live();
    assert_eq!((judged(11, 0).await, judged(11, 1).await), (Other, Ours));
    // A database that was set back has not reached what it had.
    source.state.store(5, Ordering::SeqCst);
    assert_eq!((judged(13, 1).await, judged(5, 1).await), (Ahead, Ours));
    source.state.store(0, Ordering::SeqCst);
    known.failed("away".to_owned(), LogFailure::Passing);
    assert_eq!((judged(5, 1).await, judged(4, 1).await), (Ours, Ahead), "the database is away");
}

#[tokio::test]
async fn a_flight_from_before_another_history_is_not_kept() {
    let (flights, source) = flights(1, 1);
    let first = spawned(&flights, 1);
    until(&flights, 1, 0, 1).await;
    flights.0.known.evict_live();
    source.go.notify_one();
    assert!(first.await.unwrap().landed.is_ok());
    assert!(flights.0.cache.get(key(1).cached(), Encoding::Gzip).await.is_none());
}
