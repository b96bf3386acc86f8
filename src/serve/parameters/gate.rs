//! A rate limit for new sets of values. Each new set is a tile that was not rendered yet and takes room in the caches,
//! so a client that makes up values could fill the caches with useless tiles.
//!
//! A set counts when the rendering of its first tile begins: requests that are refused or answered from memory take
//! nothing from others. One client may use up the whole limit as long as nobody else needs it. When it is used up,
//! clients with fewer sets displace those of the client with the most. A set that is found in memory counts a tenth of
//! one about which the database is asked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::given::ParametersKey;
use crate::serve::http::address::ClientKey;

/// The time within which the sets are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// What it takes to find the rows of a set of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyCost {
    /// The database is asked.
    Statement,
    /// They are found in memory.
    Memory,
}

impl KeyCost {
    /// How much of the limit a set takes, in tenths of a set.
    const fn tenths(self) -> usize {
        match self {
            KeyCost::Statement => 10,
            KeyCost::Memory => 1,
        }
    }
}

/// A set of values was not seen within the last minutes, and too many others were seen in this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyKeys {
    /// The time after which there is room.
    pub(crate) retry_after: Duration,
}

#[derive(Debug)]
struct SeenKeys {
    begun: Instant,
    now: HashSet<ParametersKey>,
    /// What the sets of `now` take of the limit, in tenths of a set.
    taken: usize,
    /// The sets of `now` by the client whose request was the first.
    clients: HashMap<ClientKey, KeysOfClient>,
    before: HashSet<ParametersKey>,
}

#[derive(Debug, Default)]
struct KeysOfClient {
    keys: Vec<(ParametersKey, KeyCost)>,
    tenths: usize,
}

impl SeenKeys {
    /// Begins the next minute if this one is over.
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.begun);
        if age >= WINDOW {
            let last = std::mem::take(&mut self.now);
            self.before = if age < 2 * WINDOW { last } else { HashSet::new() };
            self.clients.clear();
            self.taken = 0;
            self.begun = now;
        }
    }

    /// The client with the most, if a further set of `client` may displace one of its sets.
    fn displaceable(&self, client: ClientKey, cost: KeyCost) -> Option<ClientKey> {
        client.displaces(self.clients.iter().map(|(client, keys)| (*client, keys.tenths / cost.tenths())))
    }

    /// Forgets the last set of a client; false if it has none.
    fn displace(&mut self, client: ClientKey) -> bool {
        let Some((of, (key, cost))) = self.clients.get_mut(&client).and_then(|of| of.keys.pop().map(|key| (of, key)))
        else {
            return false;
        };
        of.tenths -= cost.tenths();
        self.taken -= cost.tenths();
        self.now.remove(&key)
    }
}

/// Admits sets of values that were seen a short while ago, and a limited number of new sets in each minute.
#[derive(Debug)]
pub(crate) struct KeyGate {
    most: usize,
    seen: Mutex<SeenKeys>,
}

/// A set of values that was admitted, and counts once its rendering begins.
#[derive(Debug)]
pub(crate) struct NewKey {
    gate: Arc<KeyGate>,
    key: ParametersKey,
    cost: KeyCost,
    client: ClientKey,
}

impl NewKey {
    pub(crate) fn begins(self) {
        self.gate.count_at(self.key, self.cost, self.client, Instant::now());
    }
}

impl KeyGate {
    /// A gate that lets `most` new sets pass in a minute.
    pub(crate) fn new(most: usize) -> KeyGate {
        let (now, before, clients) = (HashSet::new(), HashSet::new(), HashMap::new());
        KeyGate { most, seen: Mutex::new(SeenKeys { begun: Instant::now(), now, taken: 0, clients, before }) }
    }

    /// Lets a set of a client pass.
    /// Fails if the set is new, too many others were seen within the minute, and no client has more of them than this
    /// one.
    pub(crate) fn admits(
        self: &Arc<Self>,
        key: ParametersKey,
        cost: KeyCost,
        client: ClientKey,
    ) -> Result<NewKey, TooManyKeys> {
        self.check_at(key, cost, client, Instant::now())?;
        Ok(NewKey { gate: Arc::clone(self), key, cost, client })
    }

    fn check_at(&self, key: ParametersKey, cost: KeyCost, client: ClientKey, now: Instant) -> Result<(), TooManyKeys> {
        let mut seen = self.seen.lock();
        seen.turn(now);
        // A set of the previous minute stays known as long as clients ask for it.
        let is_known = seen.now.contains(&key) || seen.before.contains(&key);
        let has_room = seen.taken + cost.tenths() <= self.most_tenths();
        if is_known || has_room || seen.displaceable(client, cost).is_some() {
            return Ok(());
        }
        Err(TooManyKeys { retry_after: WINDOW.saturating_sub(now.saturating_duration_since(seen.begun)) })
    }

    fn most_tenths(&self) -> usize {
        self.most.saturating_mul(KeyCost::Statement.tenths())
    }

    fn count_at(&self, key: ParametersKey, cost: KeyCost, client: ClientKey, now: Instant) {
        let mut seen = self.seen.lock();
        seen.turn(now);
        if !seen.now.insert(key) {
            return;
        }
        seen.before.remove(&key);
        seen.taken += cost.tenths();
        // Sets that waited for a worker while others were counted may be a few too many.
        if seen.taken > self.most_tenths()
            && let Some(most) = seen.displaceable(client, cost)
        {
            while seen.taken > self.most_tenths() && seen.displace(most) {}
        }
        let own = seen.clients.entry(client).or_default();
        own.keys.push((key, cost));
        own.tenths += cost.tenths();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> ClientKey {
        ClientKey::of(Some([192, 0, 2, number].into()))
    }

    #[test]
    fn new_sets_are_counted_by_the_minute_and_known_ones_pass() {
        let (gate, begun) = (KeyGate::new(3), Instant::now());
        let at = |key: u128, seconds| {
            let (key, now) = (ParametersKey(key), begun + Duration::from_secs(seconds));
            let cost = KeyCost::Statement;
            gate.check_at(key, cost, client(1), now).map(|()| gate.count_at(key, cost, client(1), now))
        };
        for key in [1, 2, 3, 1, 2, 3] {
            assert_eq!(at(key, 0), Ok(()));
        }
        let refused = at(4, 10).unwrap_err();
        assert!((49..=50).contains(&refused.retry_after.as_secs()), "{refused:?}");
        assert_eq!(at(1, 20), Ok(()));
        // The next minute: the sets of the last minute are known, and make room for others only when clients no longer
        // ask for them.
        assert_eq!((at(4, 61), at(1, 62), at(2, 63)), (Ok(()), Ok(()), Ok(())));
        assert!(at(5, 64).is_err());
        assert_eq!(at(3, 65), Ok(()), "known from the minute before");
        // Nobody has asked for any of them for two minutes.
        assert_eq!((at(6, 300), at(7, 300), at(8, 300)), (Ok(()), Ok(()), Ok(())));
        assert!(at(1, 300).is_err());
    }

    #[test]
    fn ten_sets_that_are_found_in_memory_count_as_one() {
        let (gate, now) = (Arc::new(KeyGate::new(2)), Instant::now());
        let asks = |key: u128, cost, of: u8| {
            let key = ParametersKey(key);
            gate.check_at(key, cost, client(of), now).map(|()| gate.count_at(key, cost, client(of), now)).is_ok()
        };
        assert!((0..20).all(|key| asks(key, KeyCost::Memory, 1)));
        assert!(!asks(20, KeyCost::Memory, 1) && !asks(21, KeyCost::Statement, 1));
        // Another client takes what ten of them took.
        assert!(asks(30, KeyCost::Statement, 2));
        let seen = |key: u128| gate.seen.lock().now.contains(&ParametersKey(key));
        assert!((0..10).all(seen) && !(10..20).any(seen) && seen(30));
        assert_eq!(gate.seen.lock().taken, 20);
        assert!(!asks(31, KeyCost::Statement, 2), "both have as much");
        assert!(asks(40, KeyCost::Memory, 3));
    }

    #[test]
    fn a_set_counts_when_it_is_rendered_and_one_client_leaves_others_their_share() {
        let (gate, now) = (Arc::new(KeyGate::new(4)), Instant::now());
        let asks = |key: u128, of: u8| gate.check_at(ParametersKey(key), KeyCost::Statement, client(of), now);
        for key in 0..100 {
            assert_eq!(asks(key, 1), Ok(()), "none of them was rendered");
        }
        for key in 0..4 {
            gate.count_at(ParametersKey(key), KeyCost::Statement, client(1), now);
        }
        assert!(asks(4, 1).is_err(), "alone it has the whole limit, and no more");
        assert_eq!(asks(10, 2), Ok(()));
        gate.count_at(ParametersKey(10), KeyCost::Statement, client(2), now);
        assert_eq!(asks(11, 2), Ok(()));
        gate.count_at(ParametersKey(11), KeyCost::Statement, client(2), now);
        assert!(asks(12, 2).is_err(), "both have two");
        assert!(asks(2, 1).is_err() && asks(3, 1).is_err() && asks(0, 1).is_ok(), "the last ones were displaced");
        assert_eq!(asks(20, 3), Ok(()));
        gate.count_at(ParametersKey(20), KeyCost::Statement, client(3), now);
        assert!(gate.seen.lock().now.len() == 4 && asks(21, 3).is_err());
    }
}
