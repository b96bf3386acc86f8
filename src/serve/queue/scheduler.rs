//! The queue of work for the database, and its workers: live requests and background work ask the queue for a permit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::admission::{NextStart, QueueLoad, WorkerShares, next_start};
use super::background::{BackgroundQueue, WorkClass};
use crate::serve::http::peers::ClientKey;

/// Numbers of tasks by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassCounts([usize; WorkClass::ALL.len()]);

impl ClassCounts {
    /// The number of a class.
    #[must_use]
    pub const fn of(self, class: WorkClass) -> usize {
        self.0[class as usize]
    }

    /// The number of all classes.
    #[must_use]
    pub fn total(self) -> usize {
        self.0.iter().sum()
    }

    /// The number of all classes but [`WorkClass::Live`].
    #[must_use]
    pub fn background(self) -> usize {
        self.total() - self.of(WorkClass::Live)
    }

    fn add(&mut self, class: WorkClass) {
        self.0[class as usize] += 1;
    }

    fn take(&mut self, class: WorkClass) {
        self.0[class as usize] -= 1;
    }
}

/// The tasks of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Tasks that run.
    pub running: ClassCounts,
    /// Tasks that wait for a worker.
    pub waiting: ClassCounts,
}

/// A function that is called with the time that a task of a class waited for its worker.
pub(crate) type WaitObserver = Box<dyn Fn(WorkClass, Duration) + Send + Sync>;

/// A task that waits.
struct WaitingTask {
    class: WorkClass,
    /// The client that waits for a live request.
    client: ClientKey,
    enqueued: Instant,
    grant: oneshot::Sender<WorkPermit>,
}

/// The live requests that wait. Clients take turns: each request has the next turn of its client, so that one with many
/// requests does not keep others waiting for all of them. A single client's requests start in the order of their
/// arrival.
#[derive(Default)]
struct LiveQueue {
    /// The requests by turn, then by number, which is the order of their arrival.
    order: BTreeMap<(u64, u64), WaitingTask>,
    /// The turn of each request, by its number.
    turns: HashMap<u64, u64>,
    /// The requests of each client that waits: how many, and the turn of the last one.
    clients: HashMap<ClientKey, ClientTurns>,
    /// The turn of the request that started last.
    now: u64,
}

#[derive(Debug, Clone, Copy)]
struct ClientTurns {
    waiting: usize,
    last: u64,
}

impl LiveQueue {
    /// The turn of a client's next request.
    fn next_turn(&self, client: ClientKey) -> u64 {
        self.clients.get(&client).map_or(self.now, |turns| self.now.max(turns.last + 1))
    }

    fn push(&mut self, number: u64, task: WaitingTask) {
        let turn = self.next_turn(task.client);
        self.push_at(turn, number, task);
    }

    /// Adds a task that arrived before the last one of its client, perhaps: it goes before those that arrived later.
    fn push_earlier(&mut self, number: u64, task: WaitingTask) {
        let later = self.order.iter().find(|((_, other), waiting)| *other > number && waiting.client == task.client);
        let turn = later.map_or_else(|| self.next_turn(task.client), |((turn, _), _)| *turn);
        self.push_at(turn, number, task);
    }

    fn push_at(&mut self, turn: u64, number: u64, task: WaitingTask) {
        let of_client = self.clients.entry(task.client).or_insert(ClientTurns { waiting: 0, last: turn });
        *of_client = ClientTurns { waiting: of_client.waiting + 1, last: of_client.last.max(turn) };
        self.turns.insert(number, turn);
        self.order.insert((turn, number), task);
    }

    fn remove(&mut self, number: u64) -> Option<WaitingTask> {
        let turn = self.turns.remove(&number)?;
        let task = self.order.remove(&(turn, number))?;
        if let Some(of_client) = self.clients.get_mut(&task.client) {
            of_client.waiting -= 1;
            if of_client.waiting == 0 {
                self.clients.remove(&task.client);
            }
        }
        Some(task)
    }

    fn pop(&mut self) -> Option<WaitingTask> {
        let (turn, number) = *self.order.first_key_value()?.0;
        self.now = turn;
        self.remove(number)
    }

    /// Another client waits for a request, too: it starts at that client's turn if that is earlier.
    fn join(&mut self, number: u64, client: ClientKey) {
        let Some(turn) = self.turns.get(&number) else { return };
        if self.next_turn(client) < *turn
            && let Some(task) = self.remove(number)
        {
            self.push(number, WaitingTask { client, ..task });
        }
    }

    /// The number of requests that start before the next one of a client.
    fn ahead_of(&self, client: ClientKey) -> usize {
        self.order.range(..(self.next_turn(client), u64::MAX)).count()
    }

    /// The client with the most requests, if a further one of `client` may displace one of them.
    fn displaceable(&self, client: ClientKey) -> Option<ClientKey> {
        let own = self.clients.get(&client).map_or(0, |turns| turns.waiting);
        let (most, turns) = self.clients.iter().max_by_key(|(_, turns)| turns.waiting)?;
        (turns.waiting > own + 1).then_some(*most)
    }

    /// Removes the last request of a client; returns it with its number.
    fn remove_last_of(&mut self, client: ClientKey) -> Option<(u64, WaitingTask)> {
        let number = self.order.iter().rev().find(|(_, task)| task.client == client)?.0.1;
        Some((number, self.remove(number)?))
    }
}

struct QueueState {
    live: LiveQueue,
    /// The numbers of live requests that were displaced, until their tickets are dropped.
    displaced: HashSet<u64>,
    background: BackgroundQueue<WaitingTask>,
    counts: QueueCounts,
    arrivals: u64,
    /// True if the task that started last was a background task.
    was_background: bool,
}

struct QueueShared {
    shares: WorkerShares,
    state: Mutex<QueueState>,
    /// The numbers of tasks that run.
    running: watch::Sender<ClassCounts>,
    observe: OnceLock<WaitObserver>,
}

/// The queue and its workers. Clones share them.
///
/// The promise: [`WorkTicket::permit`] gives permits by the admission rule; no more than [`WorkerShares::workers`] permits exist at a time. Dropping
/// a ticket removes it from the queue. Tasks of [`WorkClass::Neighbour`] are dropped from the queue as soon as other work waits. Dropping a permit
/// frees its worker for the next task.
#[derive(Clone)]
pub struct WorkQueue(Arc<QueueShared>);

/// A task's place in the queue, until it has its permit.
pub struct WorkTicket {
    queue: WorkQueue,
    number: u64,
    granted: oneshot::Receiver<WorkPermit>,
}

/// The right to use one worker. Dropping it gives the worker back.
pub struct WorkPermit {
    queue: WorkQueue,
    class: WorkClass,
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.counts.running.take(self.class);
        self.queue.admit(state);
    }
}

impl Drop for WorkTicket {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.displaced.remove(&self.number);
        let waiting = state.live.remove(self.number).or_else(|| state.background.remove(self.number));
        if let Some(waiting) = waiting {
            state.counts.waiting.take(waiting.class);
            // Other tasks may have been held back for the task that was removed.
            self.queue.admit(state);
        }
        // Otherwise a permit was granted; if nobody received it, it is dropped with the channel.
    }
}

impl WorkTicket {
    /// Waits for a worker. It may be called again after an earlier wait was given up. `None` if the task was dropped from the queue, which happens
    /// to [`WorkClass::Neighbour`], when other work waits, and to live requests of a client with more than its share.
    pub async fn permit(&mut self) -> Option<WorkPermit> {
        (&mut self.granted).await.ok()
    }

    /// True if the task was a live request that made room for one of another client.
    pub(crate) fn was_displaced(&self) -> bool {
        self.queue.state().displaced.contains(&self.number)
    }

    /// The number by which the ticket can be promoted.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }
}

impl WorkPermit {
    /// What the permit was granted for.
    #[must_use]
    pub const fn class(&self) -> WorkClass {
        self.class
    }
}

impl WorkQueue {
    /// An empty queue with free workers.
    #[must_use]
    pub fn new(shares: WorkerShares) -> WorkQueue {
        let state = QueueState {
            live: LiveQueue::default(),
            displaced: HashSet::new(),
            background: BackgroundQueue::new(),
            counts: QueueCounts::default(),
            arrivals: 0,
            was_background: false,
        };
        WorkQueue(Arc::new(QueueShared {
            shares,
            state: Mutex::new(state),
            running: watch::Sender::new(ClassCounts::default()),
            observe: OnceLock::new(),
        }))
    }

    /// How the workers are shared.
    #[must_use]
    pub fn shares(&self) -> WorkerShares {
        self.0.shares
    }

    /// Calls `observe` for each wait from now on. Only the first observer is used.
    pub(crate) fn observe_waits(&self, observe: WaitObserver) {
        self.0.observe.get_or_init(|| observe);
    }

    /// The numbers of tasks that run and wait.
    #[must_use]
    pub fn counts(&self) -> QueueCounts {
        self.state().counts
    }

    /// Puts a task into the queue. It starts at once if the rule allows it.
    #[must_use]
    pub fn enter(&self, class: WorkClass) -> WorkTicket {
        self.enter_at(self.state(), class, ClientKey::default(), Instant::now())
    }

    /// Puts a live request of a client into the queue. If `limit` of them wait already, the last one of the client with
    /// the most is displaced for it, unless this client has as many.
    pub(crate) fn enter_for(&self, client: ClientKey, limit: usize) -> WorkTicket {
        let mut state = self.state();
        if state.counts.waiting.of(WorkClass::Live) >= limit
            && let Some(most) = state.live.displaceable(client)
            && let Some((number, _displaced)) = state.live.remove_last_of(most)
        {
            state.counts.waiting.take(WorkClass::Live);
            state.displaced.insert(number);
        }
        self.enter_at(state, WorkClass::Live, client, Instant::now())
    }

    fn enter_at(
        &self,
        mut state: MutexGuard<'_, QueueState>,
        class: WorkClass,
        client: ClientKey,
        enqueued: Instant,
    ) -> WorkTicket {
        let (grant, granted) = oneshot::channel();
        state.arrivals += 1;
        let number = state.arrivals;
        let waiting = WaitingTask { class, client, enqueued, grant };
        match class {
            WorkClass::Live => state.live.push(number, waiting),
            _ => state.background.push(number, class, enqueued, waiting),
        }
        state.counts.waiting.add(class);
        self.admit(state);
        WorkTicket { queue: self.clone(), number, granted }
    }

    /// A client waits for a task, too. A waiting background task becomes a live request; a live request of another
    /// client starts at this client's turn if that is earlier. Does nothing if the task runs already.
    pub(crate) fn promote(&self, number: u64, client: ClientKey) {
        let mut state = self.state();
        let Some(waiting) = state.background.remove(number) else { return state.live.join(number, client) };
        state.counts.waiting.take(waiting.class);
        state.counts.waiting.add(WorkClass::Live);
        state.live.push_earlier(number, WaitingTask { class: WorkClass::Live, client, ..waiting });
        self.admit(state);
    }

    /// The number of live requests that start before the next one of a client.
    pub(crate) fn ahead_of(&self, client: ClientKey) -> usize {
        self.state().live.ahead_of(client)
    }

    /// True if a further live request of a client would start at once, fewer than `limit` of them wait, or it may
    /// displace one of another client.
    pub(crate) fn has_room(&self, limit: usize, client: ClientKey) -> bool {
        let state = self.state();
        let waiting = state.counts.waiting.of(WorkClass::Live);
        let load = QueueLoad { waiting_live: waiting + 1, ..state.load(Instant::now()) };
        waiting < limit
            || state.live.displaceable(client).is_some()
            || (waiting == 0 && next_start(self.0.shares, load) == Some(NextStart::Live))
    }

    /// Waits until no task of these classes runs.
    pub(crate) async fn idle(&self, classes: &[WorkClass]) {
        let mut running = self.0.running.subscribe();
        if running.wait_for(|running| classes.iter().all(|class| running.of(*class) == 0)).await.is_err() {
            // The sender lives in `self`.
            std::future::pending::<()>().await;
        }
    }

    /// Locks the state. A lock poisoned by a panic is still used: no thread leaves the state half changed.
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the tasks that the rule allows. A permit whose task is gone is dropped after the lock is released; that applies the rule again.
    fn admit(&self, mut state: MutexGuard<'_, QueueState>) {
        let (now, mut granted) = (Instant::now(), Vec::new());
        while let Some(waiting) = state.start_next(self.0.shares, now) {
            if let Some(observe) = self.0.observe.get() {
                observe(waiting.class, now.saturating_duration_since(waiting.enqueued));
            }
            granted.push((waiting.grant, WorkPermit { queue: self.clone(), class: waiting.class }));
        }
        let dropped = state.drop_neighbours();
        self.0.running.send_replace(state.counts.running);
        drop(state);
        drop(dropped);
        for (grant, permit) in granted {
            drop(grant.send(permit));
        }
    }
}

impl QueueState {
    fn load(&self, now: Instant) -> QueueLoad {
        let QueueCounts { running, waiting } = self.counts;
        QueueLoad {
            running_live: running.of(WorkClass::Live),
            running_background: running.background(),
            waiting_live: waiting.of(WorkClass::Live),
            waiting_background: waiting.background(),
            is_background_due: !self.was_background && self.background.is_due(now),
        }
    }

    /// Removes the neighbours from the queue if other work waits.
    fn drop_neighbours(&mut self) -> Vec<WaitingTask> {
        let neighbours = self.counts.waiting.of(WorkClass::Neighbour);
        if neighbours == 0 || self.counts.waiting.total() == neighbours {
            return Vec::new();
        }
        let dropped = self.background.drop_where(|task| task.class == WorkClass::Neighbour);
        for task in &dropped {
            self.counts.waiting.take(task.class);
        }
        dropped
    }

    /// Removes the task that starts next from the queue; `None` if none may start.
    fn start_next(&mut self, shares: WorkerShares, now: Instant) -> Option<WaitingTask> {
        let next = next_start(shares, self.load(now))?;
        let waiting = match next {
            NextStart::Live => self.live.pop(),
            NextStart::Background => self.background.pop(),
        }?;
        self.was_background = next == NextStart::Background;
        self.counts.waiting.take(waiting.class);
        self.counts.running.add(waiting.class);
        Some(waiting)
    }
}

#[cfg(test)]
mod tests;
