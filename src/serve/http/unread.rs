//! The memory of answers that clients are slow to read: how much all clients, and each of them, may make the server
//! hold.
//!
//! An answer counts from the moment at which its client accepts no more of it for now, and while it waits to be
//! unpacked. A large tile counts before: from the moment at which it is read or unpacked, with the size that it claims,
//! until its answer is sent or counts by itself. Otherwise all tiles that one client asks for at once would be unpacked
//! before the first of them counts. Most answers are small and accepted at once: they never count, and take no lock
//! here. Answers that share their bytes, such as those of one cached tile, count once.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::address::ClientKey;

/// One client may hold one part in this many of the memory.
const CLIENT_PART: u64 = 2;

/// Once the memory is full, answers are ended until one part in this many is free, so that not every further answer
/// ends another one.
const FREED_PART: u64 = 16;

/// Tiles of fewer bytes do not count before their answers wait: what an HTTP/2 connection queues at a time.
const MIN_RESERVED: usize = 64 << 10;

/// What is being sent on a connection of HTTP/1.1 or on a stream of HTTP/2.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// Where the bytes of the body are in memory, which tells them apart from others.
    place: AtomicUsize,
    bytes: AtomicU64,
    client: AtomicU64,
    is_cut: AtomicBool,
    /// True while the client accepts no more for now.
    is_waiting: AtomicBool,
    /// Wakes the task that sends.
    sender: AtomicWaker,
}

impl Sending {
    /// Notes the answer that is sent to a client from now on: its bytes; none for a stream of events.
    pub(crate) fn begins(&self, bytes: Option<&Bytes>, client: ClientKey) {
        self.place.store(bytes.map_or(0, |bytes| bytes.as_ptr().addr()), Ordering::Relaxed);
        self.bytes.store(bytes.map_or(0, |bytes| bytes.len() as u64), Ordering::Relaxed);
        self.client.store(client.number(), Ordering::Relaxed);
    }

    /// Notes that pieces of answers to a client are queued on a connection of HTTP/2 from now on; so far there are
    /// none.
    pub(crate) fn queues_for(&self, client: ClientKey) {
        self.place.store(std::ptr::from_ref(self).addr(), Ordering::Relaxed);
        self.client.store(client.number(), Ordering::Relaxed);
    }

    pub(crate) fn queued(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A queued piece was sent or dropped.
    pub(crate) fn unqueued(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// True if the answer has to end, because others need the memory. Otherwise the task is woken once it has to.
    pub(crate) fn is_cut(&self, context: &std::task::Context<'_>) -> bool {
        self.sender.register(context.waker());
        self.is_cut.load(Ordering::Relaxed)
    }

    /// True while the client accepts no more for now.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    /// Notes whether the client accepts no more for now.
    pub(crate) fn waits(&self, is_waiting: bool) {
        self.is_waiting.store(is_waiting, Ordering::Relaxed);
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.sender.wake();
    }
}

/// Bytes in memory, by their place: how many answers share them, and how many bytes they are.
#[derive(Debug, Default)]
struct Places {
    bytes: u64,
    held: HashMap<usize, (usize, u64)>,
}

impl Places {
    fn add(&mut self, place: usize, bytes: u64) {
        let (answers, _) = self.held.entry(place).or_insert_with(|| {
            self.bytes += bytes;
            (0, bytes)
        });
        *answers += 1;
    }

    fn remove(&mut self, place: usize) {
        let Some((answers, bytes)) = self.held.get_mut(&place) else { return };
        *answers -= 1;
        if *answers == 0 {
            self.bytes -= *bytes;
            self.held.remove(&place);
        }
    }
}

#[derive(Debug)]
struct UnreadAnswer {
    client: ClientKey,
    place: usize,
    sending: Arc<Sending>,
}

#[derive(Debug, Default)]
struct UnreadTable {
    /// The answers by number, the oldest first.
    answers: BTreeMap<u64, UnreadAnswer>,
    all: Places,
    clients: HashMap<ClientKey, Places>,
    numbers: u64,
}

impl UnreadTable {
    fn remove(&mut self, number: u64) -> Option<UnreadAnswer> {
        let answer = self.answers.remove(&number)?;
        self.all.remove(answer.place);
        if let Some(places) = self.clients.get_mut(&answer.client) {
            places.remove(answer.place);
            if places.held.is_empty() {
                self.clients.remove(&answer.client);
            }
        }
        Some(answer)
    }

    fn bytes_of(&self, client: ClientKey) -> u64 {
        self.clients.get(&client).map_or(0, |places| places.bytes)
    }

    /// The other client that holds most, and how much.
    fn largest_but(&self, client: ClientKey) -> Option<(ClientKey, u64)> {
        let others = self.clients.iter().filter(|(other, _)| **other != client);
        others.max_by_key(|(_, places)| places.bytes).map(|(other, places)| (*other, places.bytes))
    }

    fn oldest_of(&self, client: ClientKey) -> Option<u64> {
        self.answers.iter().find(|(_, answer)| answer.client == client).map(|(number, _)| *number)
    }
}

/// Why an answer ends before its client has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The client reads too slowly.
    Slow,
    /// The memory was needed.
    Memory,
}

#[derive(Debug)]
struct UnreadShared {
    limit: u64,
    /// The bytes of all answers in the table, for readers without a lock.
    held: AtomicU64,
    cut_as_slow: AtomicU64,
    cut_for_memory: AtomicU64,
    table: Mutex<UnreadTable>,
}

/// The answers that clients are slow to read. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct UnreadAnswers(Arc<UnreadShared>);

/// The numbers of answers that ended before their clients had read them, and the memory of those that clients are
/// reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnreadCounts {
    pub(crate) held: u64,
    /// Answers that ended because their clients read too slowly.
    pub(crate) cut_as_slow: u64,
    /// Answers that ended because the memory was needed.
    pub(crate) cut_for_memory: u64,
}

/// An answer in the table, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnreadHold {
    of: UnreadAnswers,
    number: u64,
}

impl Drop for UnreadHold {
    fn drop(&mut self) {
        let mut table = self.of.0.table.lock();
        if table.remove(self.number).is_some() {
            self.of.0.held.store(table.all.bytes, Ordering::Relaxed);
        }
    }
}

/// The memory of a tile that is read or unpacked for a client, from before the work until its answer is sent or counts
/// by itself.
#[derive(Debug)]
pub(crate) struct ReservedMemory {
    of: UnreadAnswers,
    client: ClientKey,
    hold: Option<UnreadHold>,
}

impl ReservedMemory {
    /// Reserves `bytes` instead of what was reserved so far. False if the client must not have as much; then nothing is
    /// reserved.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let sending = Arc::new(Sending::default());
        sending.queues_for(self.client);
        self.replace(&sending, bytes)
    }

    /// Counts the bytes of a body, by their place, instead of what was reserved so far. False if the client must not
    /// have as much.
    pub(crate) fn becomes(&mut self, body: &Bytes) -> bool {
        let sending = Sending::default();
        sending.begins(Some(body), self.client);
        self.replace(&Arc::new(sending), body.len())
    }

    fn replace(&mut self, sending: &Arc<Sending>, bytes: usize) -> bool {
        let before = self.hold.take();
        if bytes < MIN_RESERVED {
            return true;
        }
        sending.bytes.store(bytes as u64, Ordering::Relaxed);
        let (hold, is_counted) = self.of.counted(sending, Counting::Reserved { instead_of: before.as_ref() });
        self.hold = is_counted.then_some(hold);
        is_counted
    }

    /// The entry that counts it; `None` if it is small.
    pub(crate) fn into_hold(self) -> Option<UnreadHold> {
        self.hold
    }
}

/// What a request holds of the memory, between the work for its tile and the answer.
#[derive(Debug, Default)]
pub(crate) struct AnswerMemory(Mutex<Option<UnreadHold>>);

impl AnswerMemory {
    /// Keeps an entry instead of the one before, which counts no more.
    pub(crate) fn keep(&self, hold: Option<UnreadHold>) {
        let before = std::mem::replace(&mut *self.0.lock(), hold);
        drop(before);
    }

    /// The entry, for the answer's body.
    pub(crate) fn into_hold(self) -> Option<UnreadHold> {
        self.0.into_inner()
    }
}

/// Why bytes are counted.
#[derive(Clone, Copy)]
enum Counting<'a> {
    /// Their client accepts no more of them for now.
    Waiting,
    /// They are read or unpacked for a client, which may have a tile of any size if it holds nothing else.
    Reserved { instead_of: Option<&'a UnreadHold> },
}

impl UnreadAnswers {
    /// No answers, which may hold `limit` bytes.
    pub(crate) fn new(limit: u64) -> UnreadAnswers {
        UnreadAnswers(Arc::new(UnreadShared {
            limit,
            held: AtomicU64::new(0),
            cut_as_slow: AtomicU64::new(0),
            cut_for_memory: AtomicU64::new(0),
            table: Mutex::default(),
        }))
    }

    /// The most bytes that one client may hold.
    fn limit_of_client(&self) -> u64 {
        self.0.limit / CLIENT_PART
    }

    /// True if a client has nearly all unread that it may have: its next answer would have to end at once.
    pub(crate) fn refuses(&self, client: ClientKey) -> bool {
        let nearly = self.limit_of_client() - self.limit_of_client() / FREED_PART;
        self.0.held.load(Ordering::Relaxed) >= nearly && self.0.table.lock().bytes_of(client) >= nearly
    }

    /// Counts the answer that is being sent. If its client holds more than its part then, the answer ends. If all
    /// answers take more than the limit, the oldest ones of the client that holds most end, or this one if no other
    /// client holds as much.
    pub(crate) fn hold(&self, sending: &Arc<Sending>) -> Option<UnreadHold> {
        let is_empty = sending.bytes.load(Ordering::Relaxed) == 0;
        (!is_empty).then(|| self.counted(sending, Counting::Waiting).0)
    }

    /// Nothing yet, for a tile that will be read or unpacked for a client.
    pub(crate) fn reserved_for(&self, client: ClientKey) -> ReservedMemory {
        ReservedMemory { of: self.clone(), client, hold: None }
    }

    /// Counts what is noted in `sending`, as [`UnreadAnswers::hold`] says; false if it has to end itself.
    fn counted(&self, sending: &Arc<Sending>, counting: Counting<'_>) -> (UnreadHold, bool) {
        let bytes = sending.bytes.load(Ordering::Relaxed);
        let place = sending.place.load(Ordering::Relaxed);
        let client = ClientKey::from_number(sending.client.load(Ordering::Relaxed));
        let mut cut = Vec::new();
        let mut table = self.0.table.lock();
        if let Counting::Reserved { instead_of: Some(before) } = counting {
            table.remove(before.number);
        }
        table.numbers += 1;
        let number = table.numbers;
        table.answers.insert(number, UnreadAnswer { client, place, sending: Arc::clone(sending) });
        table.all.add(place, bytes);
        table.clients.entry(client).or_default().add(place, bytes);
        let is_reserved = matches!(counting, Counting::Reserved { .. });
        let holds_no_more = table.clients.get(&client).is_some_and(|places| places.held.len() == 1);
        if table.bytes_of(client) > self.limit_of_client() && !(is_reserved && holds_no_more) {
            cut.extend(table.remove(number));
        }
        let is_alone = is_reserved && table.all.held.len() == 1;
        let limit = self.0.limit;
        let enough = if table.all.bytes > limit { limit - limit / FREED_PART } else { limit };
        while table.all.bytes > enough {
            let (own, is_full) = (table.bytes_of(client), table.all.bytes > limit);
            let victim = match table.largest_but(client) {
                Some((other, bytes)) if bytes > own || (bytes == own && is_full) => table.oldest_of(other),
                _ if is_full && !is_alone => Some(number),
                _ => None,
            };
            let Some(ended) = victim.and_then(|victim| table.remove(victim)) else { break };
            cut.push(ended);
        }
        self.0.held.store(table.all.bytes, Ordering::Relaxed);
        let is_counted = table.answers.contains_key(&number);
        drop(table);
        for ended in cut {
            ended.sending.cut();
        }
        (UnreadHold { of: self.clone(), number }, is_counted)
    }

    /// Waits; the bytes of an answer to a client count meanwhile, unless the wait ends at once. `None` if the answer
    /// has to end, because others need the memory or the client has its part.
    pub(crate) async fn while_held<T>(
        &self,
        client: ClientKey,
        bytes: &Bytes,
        wait: impl Future<Output = T>,
    ) -> Option<T> {
        let mut wait = pin!(wait);
        if let Some(done) = wait.as_mut().now_or_never() {
            return Some(done);
        }
        let sending = Arc::new(Sending::default());
        sending.begins(Some(bytes), client);
        let _hold = self.hold(&sending);
        let cut = poll_fn(|context| if sending.is_cut(context) { Poll::Ready(()) } else { Poll::Pending });
        tokio::select! {
            biased;
            () = cut => None,
            done = wait => Some(done),
        }
    }

    /// Counts an answer that ends before its client has read it.
    pub(crate) fn count(&self, cut: Cut) {
        let counter = match cut {
            Cut::Slow => &self.0.cut_as_slow,
            Cut::Memory => &self.0.cut_for_memory,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The present numbers.
    pub(crate) fn counts(&self) -> UnreadCounts {
        UnreadCounts {
            held: self.0.held.load(Ordering::Relaxed),
            cut_as_slow: self.0.cut_as_slow.load(Ordering::Relaxed),
            cut_for_memory: self.0.cut_for_memory.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(client: u8, bytes: &Bytes) -> Arc<Sending> {
        let sending = Sending::default();
        sending.begins(Some(bytes), ClientKey::of(Some([192, 0, 2, client].into())));
        Arc::new(sending)
    }

    fn is_cut(sending: &Sending) -> bool {
        sending.is_cut(&std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn shared_bytes_count_once_and_what_is_read_counts_no_more() {
        let unread = UnreadAnswers::new(1_000);
        let tile = Bytes::from(vec![7; 400]);
        let holds: Vec<_> = (0..90).map(|_| unread.hold(&sending(1, &tile))).collect();
        assert_eq!(unread.counts().held, 400);
        let other = unread.hold(&sending(2, &tile));
        assert_eq!(unread.counts().held, 400);
        drop(holds);
        assert_eq!(unread.counts().held, 400);
        drop(other);
        assert_eq!(unread.counts().held, 0);
        let table = unread.0.table.lock();
        assert!(table.answers.is_empty() && table.clients.is_empty() && table.all.held.is_empty());
    }

    #[test]
    fn who_holds_most_makes_room_for_others_and_none_holds_more_than_half() {
        let unread = UnreadAnswers::new(1_600);
        let tiles: Vec<Bytes> = (0..20).map(|_| Bytes::from(vec![7; 200])).collect();
        let held = |client: u8, tile: usize| {
            let sending = sending(client, &tiles[tile]);
            (unread.hold(&sending), sending)
        };
        let first: Vec<_> = (0..4).map(|tile| held(1, tile)).collect();
        assert!(unread.refuses(ClientKey::of(Some([192, 0, 2, 1].into()))));
        assert!(!unread.refuses(ClientKey::of(Some([192, 0, 2, 2].into()))));
        let beyond = held(1, 4);
        assert!(is_cut(&beyond.1) && first.iter().all(|(_, sending)| !is_cut(sending)), "its half is full");
        let second: Vec<_> = (5..7).map(|tile| held(2, tile)).collect();
        let (third, last) = (held(3, 7), held(4, 8));
        assert_eq!(unread.counts().held, 1_600);
        // Full: the oldest ones of the first client end for the newcomer.
        let newcomer = held(5, 9);
        let cut: Vec<bool> = first.iter().map(|(_, sending)| is_cut(sending)).collect();
        assert_eq!(cut, [true, true, false, false]);
        assert!(second.iter().chain([&third, &last, &newcomer]).all(|(_, sending)| !is_cut(sending)));
        assert_eq!(unread.counts().held, 1_400);
    }

    #[test]
    fn a_tile_counts_from_before_the_work_until_its_answer_counts_and_is_refused_before_it() {
        const MEGABYTE: usize = 1 << 20;
        let unread = UnreadAnswers::new(16 << 20);
        let client = |number: u8| ClientKey::of(Some([192, 0, 2, number].into()));
        let held = || usize::try_from(unread.counts().held).unwrap() / MEGABYTE;
        // Whoever holds nothing gets a tile of any size, but nothing more.
        let (mut large, mut more) = (unread.reserved_for(client(1)), unread.reserved_for(client(1)));
        assert!(large.grow_to(40 * MEGABYTE) && !more.grow_to(MEGABYTE) && held() == 40);
        drop(large);
        let mut tile = unread.reserved_for(client(1));
        assert!(tile.grow_to(5 * MEGABYTE) && !more.grow_to(4 * MEGABYTE) && held() == 5);
        assert!(more.grow_to(3 * MEGABYTE) && held() == 8);
        // It has less than it claims. The answer counts the same bytes.
        let body = Bytes::from(vec![7; 4 * MEGABYTE]);
        assert!(tile.becomes(&body) && held() == 7);
        let sending = sending(1, &body);
        let waits = unread.hold(&sending);
        assert_eq!(held(), 7);
        drop(tile);
        assert_eq!(held(), 7);
        assert!(!is_cut(&sending));
        drop((waits, more));
        assert_eq!(held(), 0);
        // A small tile takes no entry.
        let mut small = unread.reserved_for(client(2));
        assert!(small.grow_to(MIN_RESERVED - 1) && small.into_hold().is_none());
    }

    #[test]
    fn who_holds_most_makes_room_for_a_tile_that_another_client_needs() {
        let unread = UnreadAnswers::new(1 << 20);
        let tiles: Vec<Bytes> = (0..6).map(|_| Bytes::from(vec![7; 170 << 10])).collect();
        let greedy: Vec<_> = (0..6_u8)
            .map(|tile| {
                let sending = sending(1 + tile / 3, &tiles[usize::from(tile)]);
                (unread.hold(&sending), sending)
            })
            .collect();
        let mut wanted = unread.reserved_for(ClientKey::of(Some([192, 0, 2, 9].into())));
        assert!(wanted.grow_to(100 << 10));
        assert_eq!(greedy.iter().filter(|(_, sending)| is_cut(sending)).count(), 1);
    }
}
