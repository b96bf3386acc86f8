//! What the clients of one server see of a tile while the database, the log and the target go on, step by step.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::{Condvar, Mutex};

use super::cache::{CacheSource, TileCache};
use super::served::ServedTiles;
use super::{AskedBy, TileError};
use crate::cursor::{Cursor, NewestLogged, StateInHistory};
use crate::encode::{Gzip, Level};
use crate::serve::http::address::ClientKey;
use crate::serve::http::answer::Encoding;
use crate::serve::http::unread::{AnswerMemory, UnreadAnswers};
use crate::serve::known_changes::last_changed::TargetMemory;
use crate::serve::known_changes::{KnownChanges, LogLook};
use crate::serve::live::{
    FlightContext, LiveError, LiveFlights, LiveLayer, LiveRequest, LiveSource, LiveTile, StateCheck,
};
use crate::serve::observe::metrics::Metrics;
use crate::serve::options::LiveOptions;
use crate::serve::queue::{WorkQueue, WorkerShares};
use crate::serve::target::live_only::live_only;
use crate::serve::target::served::{ServedSource, ServedTarget, TargetOpener};
use crate::serve::target::watch::ChangeDetection;
use crate::stop::Stop;
use crate::target::{Described, ReadError, TileReader};
use crate::tile::{LayerId, TileCoord, TileId, ZoomList};

/// What the target stores: a database state, its zooms, and the one byte of the tile.
struct Stored {
    snapshot: &'static str,
    zooms: &'static str,
    body: u8,
    /// True if a reader that begins now waits with what it has read, until `lets_go`.
    holds_readers: bool,
    lets_go: bool,
    held: usize,
}

#[derive(Clone)]
struct StubTarget(Arc<(Mutex<Stored>, Condvar)>);

impl TileReader for StubTarget {
    fn describe(&mut self) -> Result<Described, ReadError> {
        let stored = self.0.0.lock();
        let (snapshot, zooms) = (stored.snapshot, stored.zooms);
        drop(stored);
        let manifest = serde_json::json!({
            "version": 1, "generator": "", "snapshot": snapshot, "fingerprint": "", "zooms": zooms, "bbox": [],
            "planned": 0, "stored": 0, "empty": 0, "started": 0, "seconds": 0.0,
        });
        Ok(Described { manifest: Some(manifest.to_string()), ..Described::default() })
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        Ok(Vec::new())
    }

    fn read(&mut self, _: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        let (stored, changed) = &*self.0;
        let mut stored = stored.lock();
        let is_held = stored.zooms.parse::<ZoomList>().unwrap().contains(tile().zoom());
        let read = stored.body;
        if stored.holds_readers {
            stored.held += 1;
            while !stored.lets_go {
                changed.wait(&mut stored);
            }
        }
        Ok(vec![is_held.then(|| packed(read))])
    }
}

/// A database whose states follow each other; the last one stays.
struct StubDatabase {
    layers: Vec<LiveLayer>,
    states: Mutex<VecDeque<(&'static str, u8)>>,
    /// A rendering takes a permit before it ends.
    lets_go: tokio::sync::Semaphore,
}

impl LiveSource for StubDatabase {
    fn fingerprint(&self) -> &'static str {
        ""
    }

    fn layers(&self) -> &[LiveLayer] {
        &self.layers
    }

    fn ask_about<'a>(&'a self, _: &'a Cursor) -> BoxFuture<'a, Result<StateCheck, LiveError>> {
        Box::pin(std::future::ready(Ok(StateCheck { present: Cursor::default(), newest: NewestLogged::Nothing })))
    }

    fn render<'a>(&'a self, _: LiveRequest, _: &'a Stop) -> BoxFuture<'a, Result<LiveTile, LiveError>> {
        let mut states = self.states.lock();
        let (snapshot, body) = *states.front().unwrap();
        if states.len() > 1 {
            states.pop_front();
        }
        let (stored, in_database) = (Some(packed(body)), Duration::ZERO);
        let shown = StateInHistory { state: snapshot.parse().unwrap(), newest: NewestLogged::Nothing };
        Box::pin(async move {
            self.lets_go.acquire().await.unwrap().forget();
            Ok(LiveTile { stored, in_database, shown })
        })
    }
}

impl StubDatabase {
    /// Waits until a number of states is left for further renderings.
    async fn states_left(&self, number: usize) {
        while self.states.lock().len() > number {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A tile as it is stored.
fn packed(body: u8) -> Box<[u8]> {
    Gzip::new(Level::ONCE).pack(&[body]).unwrap()
}

fn tile() -> TileCoord {
    "3/1/2".parse().unwrap()
}

/// A server of that target and that database.
struct World {
    stored: StubTarget,
    database: Arc<StubDatabase>,
    known: KnownChanges,
    tiles: ServedTiles,
    unread: UnreadAnswers,
}

impl World {
    /// The target of zooms 0 to 5 shows `snapshot` with the tile `body`.
    fn new(snapshot: &'static str, body: u8) -> World {
        World::of_zooms("0-5", snapshot, body)
    }

    fn of_zooms(zooms: &'static str, snapshot: &'static str, body: u8) -> World {
        let stored = Stored { snapshot, zooms, body, holds_readers: false, lets_go: false, held: 0 };
        let stored = StubTarget(Arc::new((Mutex::new(stored), Condvar::new())));
        let of_opener = stored.clone();
        let open: TargetOpener = Arc::new(move || Ok(Box::new(of_opener.clone())));
        let notes = live_only(Described::default()).notes;
        let known = KnownChanges::default();
        let source = ServedSource { open, watched: ChangeDetection::Description, notes };
        let target = Arc::new(ServedTarget::open(source, known.clone(), TargetMemory::Usual).unwrap());
        let layer = LiveLayer { name: "l".to_owned(), id: LayerId(0), zooms: ZoomList::all() };
        let database = Arc::new(StubDatabase {
            layers: vec![layer],
            states: Mutex::default(),
            lets_go: tokio::sync::Semaphore::new(1_000),
        });
        let cache = TileCache::new(1 << 20);
        let (timeout, ttl) = (Duration::from_secs(60), Duration::from_secs(60));
        let options = LiveOptions {
            queue: 8,
            timeout,
            ttl,
            answer_within: None,
            expires: Vec::new(),
            refresh_patience: None,
            neighbours: false,
            explain_after: None,
        };
        let flights = LiveFlights::new(FlightContext {
            source: Arc::clone(&database) as Arc<dyn LiveSource>,
            cache: cache.clone(),
            metrics: Arc::new(Metrics::new()),
            options,
            queue: WorkQueue::new(WorkerShares::new(NonZeroUsize::MIN, Some(0), Some(0)).unwrap()),
            shared: None,
            known: known.clone(),
        });
        let unread = UnreadAnswers::new(1_000);
        World { stored, database, known, tiles: ServedTiles::new(target, cache, unread.clone(), Some(flights)), unread }
    }

    fn renders(&self, states: &[(&'static str, u8)]) {
        *self.database.states.lock() = states.iter().copied().collect();
    }

    /// A look finds a transaction that changed the tile.
    fn looked(&self, since: &str, seen: &str, transaction: u64) {
        let (since, seen): (Cursor, Cursor) = (since.parse().unwrap(), seen.parse().unwrap());
        let (transactions, dirty) = (vec![transaction], Some(vec![tile()]));
        std::thread::sleep(Duration::from_millis(1));
        self.known.record_look(LogLook {
            since,
            seen,
            transactions,
            dirty,
            is_other_history: false,
            begun: Instant::now(),
        });
    }

    /// The target has more zooms from its next publication on.
    fn grows_to(&self, zooms: &'static str) {
        self.stored.0.0.lock().zooms = zooms;
    }

    async fn publishes(&self, snapshot: &'static str, body: u8) {
        {
            let mut stored = self.stored.0.0.lock();
            (stored.snapshot, stored.body) = (snapshot, body);
        }
        self.tiles.poll().await;
    }

    /// A run replaces the tile, before it publishes.
    fn replaces(&self, body: u8) {
        self.stored.0.0.lock().body = body;
    }

    /// Sets whether the next readers of the target wait with what they have read.
    fn holds_readers(&self, holds: bool) {
        self.stored.0.0.lock().holds_readers = holds;
    }

    fn lets_readers_go(&self) {
        self.stored.0.0.lock().lets_go = true;
        self.stored.0.1.notify_all();
    }

    /// What a client gets.
    async fn asked(&self) -> u8 {
        asked(&self.tiles).await
    }

    async fn asked_until(&self, body: u8) {
        while self.asked().await != body {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn asked(tiles: &ServedTiles) -> u8 {
    let state = tiles.state().await.unwrap();
    let reserved = AnswerMemory::default();
    let by = AskedBy { encoding: Encoding::Identity, client: ClientKey::of(None), reserved: &reserved };
    tiles.tile(&state, TileId::from(tile()), by).await.0.unwrap().unwrap().body[0]
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap().block_on(work)
}

/// A tile is rendered from a state that shows more than the log has told so far. A publication that shows less must not
/// take it back.
#[test]
fn a_publication_does_not_take_back_what_a_refreshed_tile_showed_before_the_log_told_it() {
    on_runtime(async {
        let world = World::new("100:100:", 1);
        assert_eq!(world.asked().await, 1);
        world.renders(&[("111:111:", 2)]);
        world.looked("100:100:", "110:110:", 105);
        world.asked_until(2).await;
        // The next state shows transaction 115, too, which no look has found yet.
        world.renders(&[("120:120:", 4)]);
        world.looked("110:110:", "113:113:", 112);
        world.asked_until(4).await;
        world.publishes("114:114:", 3).await;
        for _ in 0..20 {
            assert_eq!(world.asked().await, 4, "a client has seen it");
        }
        world.looked("113:113:", "121:121:", 115);
        world.publishes("121:121:", 4).await;
        assert_eq!(world.asked().await, 4);
    });
}

/// A request that reads its tile slowly, across a publication, began after a client had seen the refreshed tile.
#[test]
fn a_request_that_began_before_a_publication_is_not_answered_with_less_than_others_have_seen() {
    on_runtime(async {
        let world = World::new("100:100:", 1);
        assert_eq!(world.asked().await, 1);
        world.renders(&[("111:111:", 2)]);
        world.looked("100:100:", "110:110:", 105);
        world.asked_until(2).await;
        let (since, tile) = (world.tiles.last().number, TileId::from(tile()));
        world.tiles.cache.forget(CacheSource::State { since, tile }).await;
        world.holds_readers(true);
        let tiles = world.tiles.clone();
        let slow = tokio::spawn(async move { asked(&tiles).await });
        while world.stored.0.0.lock().held == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.holds_readers(false);
        world.publishes("112:112:", 3).await;
        assert_eq!(world.asked().await, 3);
        world.lets_readers_go();
        assert_eq!(slow.await.unwrap(), 3);
    });
}

/// A run replaces the tiles of a directory or prefix one by one, so that a stale tile may be sent in a later state than
/// the target's. A live tile whose snapshot was taken before must not follow it.
#[test]
fn a_stale_tile_that_a_run_has_replaced_is_not_followed_by_a_live_tile_that_shows_less() {
    on_runtime(async {
        let world = World::new("100:100:", 1);
        world.renders(&[("111:111:", 2), ("125:125:", 4)]);
        world.looked("100:100:", "110:110:", 105);
        let rendering = world.database.lets_go.forget_permits(1_000);
        assert_eq!(world.asked().await, 1, "stale, and rendered meanwhile");
        world.database.states_left(1).await;
        world.replaces(3);
        world.tiles.evict_all();
        assert_eq!(world.asked().await, 3, "stale, as it is stored");
        world.database.lets_go.add_permits(rendering);
        let mut after = Vec::new();
        while after.last() != Some(&4) {
            after.push(world.asked().await);
            assert!(!after.contains(&2), "{after:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// A live tile is rendered below the target's zooms from a state that is later than that of a publication which reaches
/// these zooms.
#[test]
fn a_target_that_grows_to_a_tile_does_not_take_back_what_clients_have_seen_of_it() {
    on_runtime(async {
        let world = World::of_zooms("0-2", "100:100:", 1);
        world.renders(&[("120:120:", 4)]);
        assert_eq!(world.asked().await, 4);
        world.grows_to("0-5");
        world.publishes("110:110:", 3).await;
        assert_eq!(world.asked().await, 4, "a client has seen it");
        world.publishes("121:121:", 5).await;
        assert_eq!(world.asked().await, 5);
    });
}

/// In a bucket each tile is replaced before the manifest. Memory may have evicted the stored form of the tile before,
/// and not the unpacked one.
#[test]
fn while_a_tile_is_replaced_no_encoding_is_older_than_another_that_was_sent() {
    on_runtime(async {
        let world = World::new("100:100:", 1);
        assert_eq!(world.asked().await, 1);
        let (since, tile) = (world.tiles.last().number, TileId::from(tile()));
        world.tiles.cache.forget_form(CacheSource::State { since, tile }, Encoding::Gzip).await;
        world.stored.0.0.lock().body = 2;
        let state = world.tiles.state().await.unwrap();
        let reserved = AnswerMemory::default();
        let by = AskedBy { encoding: Encoding::Gzip, client: ClientKey::of(None), reserved: &reserved };
        let sent = world.tiles.tile(&state, tile, by).await.0.unwrap().unwrap();
        assert_eq!(*sent.body, *packed(2));
        assert_eq!(world.asked().await, 2);
    });
}

/// Requests for one tile share a read and its error.
#[test]
fn a_client_with_too_much_unread_is_refused_where_its_tile_is_read_and_others_get_the_tile() {
    on_runtime(async {
        let world = World::new("100:100:", 7);
        let state = world.tiles.state().await.unwrap();
        let asks = |number: u8| {
            let client = ClientKey::of(Some([192, 0, 2, number].into()));
            let (tiles, state) = (world.tiles.clone(), Arc::clone(&state));
            let asked = tokio::spawn(async move {
                let reserved = AnswerMemory::default();
                let by = AskedBy { encoding: Encoding::Gzip, client, reserved: &reserved };
                tiles.tile(&state, TileId::from(tile()), by).await.0
            });
            (client, asked)
        };
        // All of them wait until nobody else reads: the first one's request is the one that reads for all.
        let all = u32::try_from(world.tiles.reads.available_permits()).unwrap();
        let others_read = world.tiles.reads.acquire_many(all).await.unwrap();
        let (greedy, first) = asks(1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let waiting: Vec<_> = (2..5).map(asks).collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Meanwhile the first one leaves nearly all unread that it may have.
        let (unread, bytes) = (world.unread.clone(), Bytes::from(vec![7; 490]));
        let filled = tokio::spawn(async move { unread.while_held(greedy, &bytes, std::future::pending::<()>()).await });
        while world.unread.counts().held == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(others_read);
        assert!(matches!(first.await.unwrap(), Err(TileError::TooMuchUnread(client)) if client == greedy));
        for (_, asked) in waiting {
            assert_eq!(*asked.await.unwrap().unwrap().unwrap().body, *packed(7));
        }
        filled.abort();
    });
}

/// Clients of HTTP/2 may reset their requests as fast as they send them.
#[test]
fn a_read_whose_request_was_reset_keeps_its_permit_until_it_ends() {
    on_runtime(async {
        let world = World::new("100:100:", 7);
        let all = world.tiles.reads.available_permits();
        world.holds_readers(true);
        let tiles = world.tiles.clone();
        let reset = tokio::spawn(async move { asked(&tiles).await });
        while world.stored.0.0.lock().held == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        reset.abort();
        assert!(reset.await.unwrap_err().is_cancelled());
        let meanwhile = world.tiles.reads.available_permits();
        // A runtime waits for its readers, also if a test fails.
        world.lets_readers_go();
        assert_eq!(meanwhile, all - 1);
        while world.tiles.reads.available_permits() < all {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
