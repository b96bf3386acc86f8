//! Servers of one target notify each other of new publications, so that readers need not wait for their next poll.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::RedisCache;
use crate::backoff::Backoff;
use crate::manifest::Publication;
use crate::serve::tiles::served::ServedTiles;

/// The Redis channel in which publications are announced. A message is the fingerprint of the target's configuration
/// and the id of the publication.
const CHANNEL: &str = "oar-tiles:published";

/// The shortest pause between two looks at the target because of announcements: other programs may write into the
/// channel.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// The pauses before listening to the channel again after failures.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));

/// The most messages that wait to be read; further ones are dropped, because a look finds everything that was announced
/// before it.
const MAX_WAITING_MESSAGES: usize = 16;

impl RedisCache {
    /// Announces a publication to the other servers. Without Redis they find it by their next poll.
    pub(crate) async fn announce(&self, fingerprint: &str, publication: &Publication) {
        let message = format!("{fingerprint} {}", publication.id);
        // A failure is logged by `noted`.
        drop(self.noted(super::BUDGET, self.0.link.publish(CHANNEL, &message)).await);
    }

    /// Looks at the target whenever a publication of it is announced that is not known yet. Runs as long as the future
    /// is polled.
    pub(crate) async fn follow(self, tiles: ServedTiles) {
        let (send, mut heard) = mpsc::channel(MAX_WAITING_MESSAGES);
        let listening = self.listen(send);
        tokio::pin!(listening);
        loop {
            let message: Option<String> = tokio::select! {
                () = &mut listening => return,
                Some(message) = heard.recv() => message,
            };
            let before = tiles.last();
            if message.as_deref().is_some_and(|message| {
                let known = before.manifest.as_ref().zip(before.publication());
                known.is_some_and(|(manifest, publication)| {
                    message
                        .split_once(' ')
                        .is_none_or(|(fingerprint, id)| fingerprint != manifest.fingerprint || id == publication.id)
                })
            }) {
                continue;
            }
            tiles.refresh().await;
            if message.is_some() && tiles.last().number != before.number {
                self.0.announced.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(MIN_PAUSE).await;
        }
    }

    /// Listens to the channel, and reconnects after failures: sends `None` whenever messages may have been missed, then
    /// each message.
    async fn listen(&self, heard: mpsc::Sender<Option<String>>) {
        let mut pauses = PAUSES;
        loop {
            let take = |message: Option<String>| {
                self.0.is_heard.store(true, Ordering::Relaxed);
                // If the channel is full, a look follows after this message anyway.
                drop(heard.try_send(message));
            };
            let error = self.0.link.listen(CHANNEL, take).await;
            if self.0.is_heard.swap(false, Ordering::Relaxed) {
                pauses.reset();
            }
            tracing::debug!("announcements of Redis are not heard: {error}");
            tokio::time::sleep(pauses.next_pause()).await;
        }
    }

    /// The state of the announcements, for `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "listens": self.0.is_heard.load(Ordering::Relaxed),
            "publications_announced": self.0.announced.load(Ordering::Relaxed),
        })
    }
}
