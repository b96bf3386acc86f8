//! `GET /changes`: which tiles changed, as server-sent events (HTML Standard, section 9.2), so that a map can fetch
//! them again.
//!
//! ```text
//! event: state      the publication at the moment of subscribing; a client that knew an older one has missed events
//! event: changed    a publication, with its tiles as a list such as "3/5/2 14/8712-8713/5333"; null: every tile may have changed
//! : comment         every 15 s, so that proxies keep the connection open
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::json::JSON_VERSION;
use crate::manifest::Publication;
use crate::serve::http::address::ClientKey;
use crate::serve::parameters::PublicationName;
use crate::serve::target::served::NoticedChange;
use crate::serve::target::state::ServedState;
use crate::serve::tiles::served::ServedTiles;

/// The most subscribers at once. If there are as many, a client with fewer subscriptions takes the place of one of the
/// client with the most.
const MAX_SUBSCRIBERS: usize = 256;

/// The most events that wait for a subscriber. A slower subscriber is dropped, and may subscribe again.
const MAX_WAITING_EVENTS: usize = 16;

/// The pause between two comments.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The interval at which the files of a target are checked while there are subscribers and no requests.
const LOOK: Duration = Duration::from_millis(250);

/// The data of the event `state`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StateEvent {
    /// The version of this form: 1.
    schema_version: u32,
    /// The number of the publication that is served; `None` if the target names none.
    publication: Option<u64>,
    /// The value of `g` in addresses of tiles that show this publication.
    g: Option<String>,
}

/// The data of the event `changed`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChangedEvent {
    /// The version of this form: 1.
    schema_version: u32,
    /// The number of the publication; `None` if the target names none.
    publication: Option<u64>,
    /// The value of `g` in addresses of tiles that show this publication.
    g: Option<String>,
    /// The database state that the tiles show (`pg_current_snapshot()`).
    snapshot: Option<String>,
    /// When the server noticed it (RFC 3339, UTC).
    time: String,
    /// The tiles that changed, such as `3/5/2 14/8712-8713/5333`; `None` if every tile may have changed.
    tiles: Option<String>,
}

/// The subscribers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangeEvents(Arc<Mutex<Subscribers>>);

#[derive(Debug, Default)]
struct Subscribers {
    /// The subscriptions with their clients, the oldest first.
    senders: Vec<(ClientKey, Sender<Bytes>)>,
    /// True once the server ends: nobody may subscribe any more.
    is_over: bool,
}

impl Subscribers {
    /// True if there is room for a further subscription of a client. If all places are taken, one is made free, if a
    /// client has more subscriptions than this one would have.
    fn has_room(&mut self, client: ClientKey) -> bool {
        if self.senders.len() < MAX_SUBSCRIBERS {
            return true;
        }
        let mut counts: HashMap<ClientKey, usize> = HashMap::new();
        for (of, _) in &self.senders {
            *counts.entry(*of).or_default() += 1;
        }
        let Some(most) = client.displaces(counts.iter().map(|(client, count)| (*client, *count))) else { return false };
        let oldest = self.senders.iter().position(|(of, _)| *of == most);
        oldest.map(|oldest| self.senders.remove(oldest)).is_some()
    }
}

impl ChangeEvents {
    /// The events from now on for a client; the first one names the state. `None` if there are too many subscribers,
    /// and no client has more subscriptions than this one.
    pub(crate) fn subscribe(&self, state: &ServedState, client: ClientKey) -> Option<Receiver<Bytes>> {
        let (sender, receiver) = channel(MAX_WAITING_EVENTS);
        let mut subscribers = self.0.lock();
        subscribers.senders.retain(|(_, sender)| !sender.is_closed());
        if subscribers.is_over || !subscribers.has_room(client) {
            return None;
        }
        let publication = state.publication();
        let data = StateEvent {
            schema_version: JSON_VERSION,
            publication: publication.map(|publication| publication.number),
            g: name_of(publication),
        };
        sender.try_send(event("state", publication, &data)).ok()?;
        subscribers.senders.push((client, sender));
        Some(receiver)
    }

    /// How many subscribers there are.
    pub(crate) fn count(&self) -> usize {
        let mut subscribers = self.0.lock();
        subscribers.senders.retain(|(_, sender)| !sender.is_closed());
        subscribers.senders.len()
    }

    /// Sends an event to all subscribers; drops those for which too many events wait.
    fn send(&self, text: &Bytes) {
        self.0.lock().senders.retain(|(_, sender)| sender.try_send(text.clone()).is_ok());
    }

    /// Ends all subscriptions, so that the connections can be closed.
    pub(crate) fn end(&self) {
        let mut subscribers = self.0.lock();
        (subscribers.is_over, subscribers.senders) = (true, Vec::new());
    }

    /// Sends changes to the subscribers as long as the future is polled.
    pub(crate) async fn run(self, tiles: ServedTiles) {
        let mut changes = tiles.changes();
        let (mut heartbeat, mut look) = (tokio::time::interval(HEARTBEAT), tokio::time::interval(LOOK));
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(change) => self.send(&changed(&change)),
                    Err(RecvError::Lagged(_)) => self.send(&changed(&missed(&tiles))),
                    Err(RecvError::Closed) => return,
                },
                _ = heartbeat.tick() => self.send(&Bytes::from_static(b": still here\n\n")),
                _ = look.tick() => {
                    // A target in a bucket is polled anyway.
                    if !tiles.is_polled() && self.count() > 0 {
                        tiles.refresh().await;
                    }
                }
            }
        }
    }
}

/// The change that replaces missed ones: every tile may have changed.
fn missed(tiles: &ServedTiles) -> NoticedChange {
    let state = tiles.last();
    let snapshot = state.manifest.as_ref().map(|manifest| manifest.snapshot.clone());
    NoticedChange { publication: state.publication().cloned(), snapshot, tiles: None, time: SystemTime::now() }
}

/// What addresses call a publication.
fn name_of(publication: Option<&Publication>) -> Option<String> {
    Some(PublicationName::of(publication?)?.to_string())
}

fn changed(change: &NoticedChange) -> Bytes {
    let publication = change.publication.as_ref();
    let data = ChangedEvent {
        schema_version: JSON_VERSION,
        publication: publication.map(|publication| publication.number),
        g: name_of(publication),
        snapshot: change.snapshot.clone(),
        time: humantime::format_rfc3339_millis(change.time).to_string(),
        tiles: change.tiles.as_ref().map(ToString::to_string),
    };
    event("changed", publication, &data)
}

fn event(name: &str, publication: Option<&Publication>, data: &impl Serialize) -> Bytes {
    // This does not fail: all keys are texts.
    let data = serde_json::to_string(data).unwrap_or_default();
    // A manifest is not trusted: a line break in the id would begin another field.
    let id =
        publication.map(|publication| &*publication.id).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    Bytes::from(format!("event: {name}\n{id}data: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slow_subscriber_is_dropped_and_the_others_stay() {
        let events = ChangeEvents::default();
        let (slow, mut of_slow) = channel(2);
        let (quick, mut of_quick) = channel(2);
        events.0.lock().senders.extend([slow, quick].map(|sender| (ClientKey::default(), sender)));
        for number in 0..3 {
            events.send(&Bytes::from(format!("{number}")));
            assert_eq!(of_quick.try_recv().unwrap(), format!("{number}"));
        }
        assert_eq!(events.count(), 1);
        assert!(of_slow.try_recv().is_ok() && of_slow.try_recv().is_ok() && of_slow.try_recv().is_err());
        events.end();
        assert_eq!(events.count(), 0);
    }

    #[test]
    fn clients_share_the_places_once_all_are_taken() {
        let client = |number: u8| ClientKey::of(Some([192, 0, 2, number].into()));
        let mut subscribers = Subscribers::default();
        let mut kept = Vec::new();
        let mut subscribe = |subscribers: &mut Subscribers, of: u8| {
            let (sender, receiver) = channel(1);
            let has_room = subscribers.has_room(client(of));
            if has_room {
                subscribers.senders.push((client(of), sender));
                kept.push(receiver);
            }
            has_room
        };
        for _ in 0..MAX_SUBSCRIBERS {
            assert!(subscribe(&mut subscribers, 1), "alone it may have all");
        }
        assert!(!subscribe(&mut subscribers, 1));
        for _ in 0..MAX_SUBSCRIBERS / 2 {
            assert!(subscribe(&mut subscribers, 2));
        }
        assert!(!subscribe(&mut subscribers, 2) && !subscribe(&mut subscribers, 1), "both have half");
        assert!(subscribe(&mut subscribers, 3) && subscribers.senders.len() == MAX_SUBSCRIBERS);
    }

    #[test]
    fn an_event_is_one_event_whatever_a_manifest_says() {
        let odd = Publication { number: 7, id: "a\n\ndata: x".to_owned() };
        let text = event("state", Some(&odd), &json!({ "publication": 7 }));
        assert_eq!(text, "event: state\ndata: {\"publication\":7}\n\n");
        let good = Publication { id: "0af3".to_owned(), ..odd };
        assert_eq!(event("x", Some(&good), &json!(null)), "event: x\nid: 0af3\ndata: null\n\n");
    }
}
