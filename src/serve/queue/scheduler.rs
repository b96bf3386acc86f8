//! The queue of work for the database, and its workers: live requests and background work ask the queue for a permit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};

use super::admission::{NextStart, QueueLoad, WorkerShares, next_start};
use super::background::{BackgroundQueue, WorkClass};
use crate::serve::http::address::ClientKey;

/// Numbers of tasks by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassCounts([usize; WorkClass::ALL.len()]);

impl ClassCounts {
    pub const fn of(self, class: WorkClass) -> usize {
        self.0[class as usize]
    }

    /// The number of all classes.
    pub fn total(self) -> usize {
        self.0.iter().sum()
    }

    /// The number of all classes but [`WorkClass::Live`].
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

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    pub running: ClassCounts,
    /// Tasks that wait for a worker.
    pub waiting: ClassCounts,
}

/// A function that is called with the time that a task of a class waited for its worker.
pub(crate) type WaitObserver = Box<dyn Fn(WorkClass, Duration) + Send + Sync>;

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
        client.displaces(self.clients.iter().map(|(client, turns)| (*client, turns.waiting)))
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
/// The promise: [`WorkTicket::permit`] gives permits by the admission rule; no more than [`WorkerShares::workers`]
/// permits exist at a time. Dropping a ticket removes it from the queue. Tasks of [`WorkClass::Neighbour`] are dropped
/// from the queue as soon as other work waits. Dropping a permit frees its worker for the next task.
#[derive(Clone)]
pub struct WorkQueue(Arc<QueueShared>);

/// A task's place in the queue, until it has its permit.
pub struct WorkTicket {
    queue: WorkQueue,
    /// The number by which the ticket can be promoted.
    pub(crate) number: u64,
    granted: oneshot::Receiver<WorkPermit>,
}

/// The right to use one worker. Dropping it gives the worker back.
pub struct WorkPermit {
    queue: WorkQueue,
    class: WorkClass,
}

impl Drop for WorkPermit {
    fn drop(&mut self) {
        let mut state = self.queue.0.state.lock();
        state.counts.running.take(self.class);
        self.queue.admit(state);
    }
}

impl Drop for WorkTicket {
    fn drop(&mut self) {
        let mut state = self.queue.0.state.lock();
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
    /// Waits for a worker. It may be called again after an earlier wait was given up. `None` if the task was dropped
    /// from the queue, which happens to [`WorkClass::Neighbour`], when other work waits, and to live requests of a
    /// client with more than its share.
    pub async fn permit(&mut self) -> Option<WorkPermit> {
        (&mut self.granted).await.ok()
    }

    /// True if the task was a live request that made room for one of another client.
    pub(crate) fn was_displaced(&self) -> bool {
        self.queue.0.state.lock().displaced.contains(&self.number)
    }
}

impl WorkPermit {
    pub const fn class(&self) -> WorkClass {
        self.class
    }
}

impl WorkQueue {
    /// An empty queue with free workers.
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

    pub fn shares(&self) -> WorkerShares {
        self.0.shares
    }

    /// Calls `observe` for each wait from now on. Only the first observer is used.
    pub(crate) fn observe_waits(&self, observe: WaitObserver) {
        self.0.observe.get_or_init(|| observe);
    }

    /// The numbers of tasks that run and wait.
    pub fn counts(&self) -> QueueCounts {
        self.0.state.lock().counts
    }

    /// Puts a task into the queue. It starts at once if the rule allows it.
    pub fn enter(&self, class: WorkClass) -> WorkTicket {
        self.enter_at(self.0.state.lock(), class, ClientKey::default(), Instant::now())
    }

    /// Puts a live request of a client into the queue. If `limit` of them wait already, the last one of the client with
    /// the most is displaced for it, unless this client has as many.
    pub(crate) fn enter_for(&self, client: ClientKey, limit: usize) -> WorkTicket {
        let mut state = self.0.state.lock();
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
        let mut state = self.0.state.lock();
        let Some(waiting) = state.background.remove(number) else { return state.live.join(number, client) };
        state.counts.waiting.take(waiting.class);
        state.counts.waiting.add(WorkClass::Live);
        state.live.push_earlier(number, WaitingTask { class: WorkClass::Live, client, ..waiting });
        self.admit(state);
    }

    /// The number of live requests that start before the next one of a client.
    pub(crate) fn ahead_of(&self, client: ClientKey) -> usize {
        self.0.state.lock().live.ahead_of(client)
    }

    /// True if a further live request of a client would start at once, fewer than `limit` of them wait, or it may
    /// displace one of another client.
    pub(crate) fn has_room(&self, limit: usize, client: ClientKey) -> bool {
        let state = self.0.state.lock();
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

    /// Starts the tasks that the rule allows. A permit whose task is gone is dropped after the lock is released; that
    /// applies the rule again.
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
mod tests {
    use std::num::NonZeroUsize;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn queue(workers: usize, reserved: usize, guaranteed: usize) -> WorkQueue {
        let shares = WorkerShares::new(NonZeroUsize::new(workers).unwrap(), Some(reserved), Some(guaranteed));
        WorkQueue::new(shares.unwrap())
    }

    fn granted(ticket: &mut WorkTicket) -> Option<WorkPermit> {
        match pin!(ticket.permit()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => permit,
            Poll::Pending => None,
        }
    }

    /// Running and waiting tasks, live and background each.
    fn counts(queue: &WorkQueue) -> [usize; 4] {
        let QueueCounts { running, waiting } = queue.counts();
        let live = WorkClass::Live;
        [running.of(live), running.background(), waiting.of(live), waiting.background()]
    }

    #[test]
    fn who_leaves_the_queue_holds_nobody_back() {
        let queue = queue(2, 1, 1);
        let first = queue.enter(WorkClass::Live);
        let seed = queue.enter(WorkClass::Seed);
        let (mut second, third) = (queue.enter(WorkClass::Live), queue.enter(WorkClass::Seed));
        assert_eq!(counts(&queue), [1, 1, 1, 1]);
        drop(third);
        assert_eq!(counts(&queue), [1, 1, 1, 0]);
        // The running seed was granted and never asked for its permit.
        drop(seed);
        assert_eq!(counts(&queue), [2, 0, 0, 0]);
        assert!(granted(&mut second).is_some());
        assert_eq!(counts(&queue), [1, 0, 0, 0]);
        drop(first);
        assert_eq!(counts(&queue), [0; 4]);
    }

    #[test]
    fn a_background_task_that_a_client_waits_for_is_a_live_request_from_then_on() {
        let queue = queue(2, 1, 0);
        let (first, _second) = (queue.enter(WorkClass::Live), queue.enter(WorkClass::Live));
        let (mut refresh, mut live) = (queue.enter(WorkClass::Refresh), queue.enter(WorkClass::Live));
        queue.promote(refresh.number, ClientKey::default());
        queue.promote(live.number, ClientKey::default());
        assert_eq!(counts(&queue), [2, 0, 2, 0]);
        drop(first);
        let permit = granted(&mut refresh).unwrap();
        assert_eq!(permit.class(), WorkClass::Live);
        assert!(granted(&mut live).is_none());
        // A task that runs already is not promoted.
        queue.promote(refresh.number, ClientKey::default());
        drop(permit);
        assert!(granted(&mut live).is_some());
    }

    #[test]
    fn a_single_worker_gives_every_other_turn_to_background_work_that_is_due() {
        let queue = queue(1, 0, 0);
        let mut running = queue.enter(WorkClass::Live);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let mut refreshes: Vec<_> = (0..2)
            .map(|_| queue.enter_at(queue.0.state.lock(), WorkClass::Refresh, ClientKey::default(), long_ago))
            .collect();
        let mut live: Vec<_> = (0..3).map(|_| queue.enter(WorkClass::Live)).collect();
        drop(granted(&mut running).unwrap());
        drop(granted(&mut refreshes[0]).unwrap());
        assert!(granted(&mut refreshes[1]).is_none());
        drop(granted(&mut live[0]).unwrap());
        drop(granted(&mut refreshes[1]).unwrap());
        drop(granted(&mut live[1]).unwrap());
        drop(granted(&mut live[2]).unwrap());
        assert_eq!(counts(&queue), [0; 4]);
    }

    #[test]
    fn neighbours_leave_the_queue_as_soon_as_other_work_waits() {
        let queue = queue(2, 1, 0);
        let _neighbours: Vec<_> = (0..3).map(|_| queue.enter(WorkClass::Neighbour)).collect();
        assert_eq!(counts(&queue), [0, 1, 0, 2]);
        let _live = queue.enter(WorkClass::Live);
        assert_eq!(counts(&queue), [1, 1, 0, 2], "the live request has not to wait");
        let mut refresh = queue.enter(WorkClass::Refresh);
        assert_eq!(counts(&queue), [1, 1, 0, 1]);
        assert!(granted(&mut refresh).is_none());
        let mut late = queue.enter(WorkClass::Neighbour);
        assert_eq!(counts(&queue), [1, 1, 0, 1]);
        let dropped = pin!(late.permit()).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(dropped, Poll::Ready(None)));
    }

    #[test]
    fn there_is_room_while_a_worker_is_free_or_few_wait() {
        let queue = queue(2, 1, 1);
        let has_room = |limit| queue.has_room(limit, ClientKey::default());
        assert!(has_room(0));
        let _live = queue.enter(WorkClass::Live);
        let _seeds = [queue.enter(WorkClass::Seed), queue.enter(WorkClass::Seed)];
        assert!(!has_room(0) && has_room(1));
        let _waits = queue.enter(WorkClass::Live);
        assert!(!has_room(1) && has_room(2));
    }

    fn client(number: u8) -> ClientKey {
        ClientKey::of(Some([192, 0, 2, number].into()))
    }

    #[test]
    fn clients_take_turns_and_one_alone_is_served_in_the_order_of_its_requests() {
        let queue = queue(1, 0, 0);
        let mut running = queue.enter_for(client(1), 64);
        let mut greedy: Vec<_> = (0..4).map(|_| queue.enter_for(client(1), 64)).collect();
        let (second, third) = (queue.enter_for(client(2), 64), queue.enter_for(client(2), 64));
        assert_eq!([1, 2, 3].map(|number| queue.ahead_of(client(number))), [6, 5, 2]);
        let mut waiting: Vec<Option<WorkTicket>> = greedy.drain(..).chain([second, third]).map(Some).collect();
        let (mut order, mut permit) = (Vec::new(), granted(&mut running));
        while permit.take().is_some() {
            for (number, ticket) in waiting.iter_mut().enumerate() {
                if let Some(next) = ticket.as_mut().and_then(granted) {
                    (permit, *ticket) = (Some(next), None);
                    order.push(number);
                }
            }
        }
        assert_eq!(order, [0, 4, 1, 5, 2, 3]);
    }

    #[test]
    fn a_full_queue_makes_room_for_the_client_with_fewer_requests() {
        let queue = queue(1, 0, 0);
        let _running = queue.enter_for(client(1), 4);
        let mut greedy: Vec<_> = (0..4).map(|_| queue.enter_for(client(1), 4)).collect();
        assert!(!queue.has_room(4, client(1)) && queue.has_room(4, client(2)));
        let other = queue.enter_for(client(2), 4);
        assert_eq!(counts(&queue), [1, 0, 4, 0]);
        assert!(pin!(greedy[3].permit()).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(greedy[3].was_displaced() && !greedy[2].was_displaced());
        let _another = queue.enter_for(client(2), 4);
        assert!(greedy[2].was_displaced() && !queue.has_room(4, client(2)) && queue.has_room(4, client(3)));
        drop((greedy, other));
        assert!(queue.0.state.lock().displaced.is_empty() && queue.0.state.lock().live.clients.len() == 1);
    }

    #[test]
    fn who_joins_the_request_of_another_client_waits_no_longer_than_for_its_own() {
        let queue = queue(1, 0, 0);
        let running = queue.enter_for(client(1), 64);
        let mut greedy: Vec<_> = (0..4).map(|_| queue.enter_for(client(1), 64)).collect();
        queue.promote(greedy[3].number, client(2));
        drop(running);
        let first = granted(&mut greedy[0]).unwrap();
        drop(first);
        assert!(granted(&mut greedy[1]).is_none() && granted(&mut greedy[3]).is_some());
    }

    #[test]
    fn with_many_threads_never_more_run_than_there_are_workers_and_all_get_their_turn() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        let queue = queue(4, 1, 1);
        let most = Arc::new(Mutex::new((0_usize, 0_usize)));
        runtime.block_on(async {
            let tasks: Vec<_> = (0..2_000_usize)
                .map(|number| {
                    let (queue, most) = (queue.clone(), Arc::clone(&most));
                    tokio::spawn(async move {
                        let class = WorkClass::ALL[number % WorkClass::ALL.len()];
                        let mut ticket = queue.enter(class);
                        if number % 7 == 0 {
                            queue.promote(ticket.number, ClientKey::default());
                        }
                        if number % 11 == 0 {
                            return;
                        }
                        let Some(permit) = ticket.permit().await else {
                            assert_eq!(class, WorkClass::Neighbour);
                            return;
                        };
                        let running = queue.counts().running;
                        {
                            let mut most = most.lock();
                            *most = (most.0.max(running.total()), most.1.max(running.background()));
                        }
                        tokio::task::yield_now().await;
                        drop(permit);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            queue.idle(&WorkClass::ALL).await;
        });
        assert_eq!(counts(&queue), [0; 4]);
        let (all, background) = *most.lock();
        assert!(all <= 4 && background <= 3 && all > 1, "{all} {background}");
    }
}
