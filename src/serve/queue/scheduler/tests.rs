use std::num::NonZeroUsize;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

fn queue(workers: usize, reserved: usize, guaranteed: usize) -> WorkQueue {
    let shares = WorkerShares::new(NonZeroUsize::new(workers).unwrap(), Some(reserved), Some(guaranteed));
    WorkQueue::new(shares.unwrap())
}

/// The permit of a ticket, if it was granted.
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
fn renderds_example_runs_as_it_is_told() {
    let queue = queue(10, 4, 0);
    let mut seeds: Vec<_> = (0..20).map(|_| queue.enter(WorkClass::Seed)).collect();
    assert_eq!(counts(&queue), [0, 6, 0, 14]);
    let mut live: Vec<_> = (0..8).map(|_| queue.enter(WorkClass::Live)).collect();
    assert_eq!(counts(&queue), [4, 6, 4, 14]);
    let mut permits: Vec<_> = live.iter_mut().map_while(granted).collect();
    assert_eq!(permits.len(), 4);
    // A seed ends: the next live request takes its worker.
    drop(granted(&mut seeds[0]).unwrap());
    assert_eq!(counts(&queue), [5, 5, 3, 14]);
    permits.clear();
    assert_eq!(counts(&queue), [4, 5, 0, 14], "no seed starts while fewer than five workers are free");
    drop(live);
    assert_eq!(counts(&queue), [0, 6, 0, 13]);
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
    queue.promote(refresh.number(), ClientKey::default());
    queue.promote(live.number(), ClientKey::default());
    assert_eq!(counts(&queue), [2, 0, 2, 0]);
    drop(first);
    let permit = granted(&mut refresh).unwrap();
    assert_eq!(permit.class(), WorkClass::Live);
    assert!(granted(&mut live).is_none());
    // A task that runs already is not promoted.
    queue.promote(refresh.number(), ClientKey::default());
    drop(permit);
    assert!(granted(&mut live).is_some());
}

#[test]
fn a_single_worker_gives_every_other_turn_to_background_work_that_is_due() {
    let queue = queue(1, 0, 0);
    let mut running = queue.enter(WorkClass::Live);
    let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    let mut refreshes: Vec<_> =
        (0..2).map(|_| queue.enter_at(queue.state(), WorkClass::Refresh, ClientKey::default(), long_ago)).collect();
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
    assert!(queue.state().displaced.is_empty() && queue.state().live.clients.len() == 1);
}

#[test]
fn who_joins_the_request_of_another_client_waits_no_longer_than_for_its_own() {
    let queue = queue(1, 0, 0);
    let running = queue.enter_for(client(1), 64);
    let mut greedy: Vec<_> = (0..4).map(|_| queue.enter_for(client(1), 64)).collect();
    queue.promote(greedy[3].number(), client(2));
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
                        queue.promote(ticket.number(), ClientKey::default());
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
                        let mut most = most.lock().unwrap();
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
    let (all, background) = *most.lock().unwrap();
    assert!(all <= 4 && background <= 3 && all > 1, "{all} {background}");
}
