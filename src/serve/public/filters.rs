//! `POST /filters`: takes a filter that is too long for an address, and answers with its id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{ClientRequest, LabeledAnswer, Site, SiteSettings, not_allowed_here};
use crate::serve::http::address::ClientKey;
use crate::serve::http::answer::{self, Answer, BodyRefusal, JSON_TYPE, RequestBody, media_type_of, received};
use crate::serve::http::route::FILTERS;
use crate::serve::observe::metrics::RouteLabel;
use crate::serve::parameters::{KeyCost, KeyGate, TooManyKeys, of_form, of_json};
use crate::serve::tilesets::{NamedByPath, SiteTileset};
use crate::threads::blocking;

const FORM_TYPE: &str = "application/x-www-form-urlencoded";

const MAX_BODY_BYTES: usize = 256 << 10;

/// The limit for the time in which it has to come.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The most filters that are received at once: they take at most 32 MiB.
const MAX_POSTS: usize = 128;

/// How many of them may be of one client.
const MAX_POSTS_OF_CLIENT: usize = 4;

/// The new filters of a minute. Clients share them as they share `parameter_keys`.
const MAX_NEW: usize = 1_000;

/// The `Retry-After` while too many are received.
const RETRY_POSTING: Duration = Duration::from_secs(1);

/// The filters that are being received, by their clients.
#[derive(Clone)]
pub(crate) struct FilterPosts {
    receiving: Arc<Mutex<HashMap<ClientKey, usize>>>,
    /// One is read at a time, so that reading takes one core at most.
    reading: Arc<Semaphore>,
    gate: Arc<KeyGate>,
}

impl Default for FilterPosts {
    fn default() -> FilterPosts {
        let (receiving, reading) = (Arc::default(), Arc::new(Semaphore::new(1)));
        FilterPosts { receiving, reading, gate: Arc::new(KeyGate::new(MAX_NEW)) }
    }
}

/// A filter that is being received.
struct Post {
    of: FilterPosts,
    client: ClientKey,
}

impl FilterPosts {
    /// The right of a client to send a filter; `None` if it sends too many at once, or all together do.
    fn begin(&self, client: ClientKey) -> Option<Post> {
        let mut receiving = self.receiving.lock();
        let own = receiving.get(&client).copied().unwrap_or_default();
        if own >= MAX_POSTS_OF_CLIENT || receiving.values().sum::<usize>() >= MAX_POSTS {
            return None;
        }
        receiving.insert(client, own + 1);
        Some(Post { of: self.clone(), client })
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        let mut receiving = self.of.receiving.lock();
        if let Some(own) = receiving.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                receiving.remove(&self.client);
            }
        }
    }
}

impl Site {
    /// The answer to a request whose path ends with [`FILTERS`].
    pub(crate) async fn respond_to_filter(
        &self,
        path: &str,
        body: RequestBody,
        asked: ClientRequest<'_>,
        settings: &SiteSettings,
    ) -> LabeledAnswer {
        let named = self.tilesets.find(path, settings.options.template.as_ref());
        let NamedByPath::Tileset { tileset, rest } = named else {
            return LabeledAnswer::own(not_allowed_here(asked), RouteLabel::Other);
        };
        if rest.strip_prefix('/') != Some(FILTERS) || tileset.parameters.declared.0.is_empty() {
            return LabeledAnswer::own(not_allowed_here(asked), RouteLabel::Other);
        }
        let answer = match answer::of_posting_method(asked.request.method()) {
            Some(answer) => answer,
            None => self.posted(&tileset, body, asked, settings).await.unwrap_or_else(|refused| refused),
        };
        LabeledAnswer { tileset: Some(tileset), ..LabeledAnswer::own(answer, RouteLabel::Other) }
    }

    async fn posted(
        &self,
        tileset: &Arc<SiteTileset>,
        body: RequestBody,
        ClientRequest { request, client }: ClientRequest<'_>,
        settings: &SiteSettings,
    ) -> Result<Answer, Answer> {
        let headers = request.headers();
        if settings.keys.is_some() && !settings.token.as_ref().is_some_and(|token| token.is_in(headers)) {
            let what = "addresses have to be signed here: who signs them posts filters with the token";
            return Err(answer::error(StatusCode::FORBIDDEN, what));
        }
        let media_type = media_type_of(headers);
        let is_json = media_type == JSON_TYPE;
        if !is_json && media_type != FORM_TYPE {
            let what = format!("the Content-Type must be {JSON_TYPE} or {FORM_TYPE}");
            return Err(answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &what));
        }
        let busy = || answer::too_many("too many filters are being posted", RETRY_POSTING);
        let post = self.posts.begin(client).ok_or_else(busy)?;
        let body = received(body, MAX_BODY_BYTES, BODY_TIME).await;
        let body = body.map_err(|BodyRefusal { status, what }| answer::error(status, &what))?;
        let right = Arc::clone(&self.posts.reading).acquire_owned().await.map_err(|_closed| busy())?;
        let of = Arc::clone(tileset);
        let given = blocking(move || {
            // A client that goes away does not end this.
            let _held = (right, post);
            let declared = &of.parameters.declared;
            if is_json { of_json(declared, &body) } else { of_form(declared, &body) }
        })
        .await;
        let given = given.map_err(|error| answer::error(StatusCode::BAD_REQUEST, &error.to_string()))?;
        let given =
            given.ok_or_else(|| answer::error(StatusCode::BAD_REQUEST, "the body gives no parameter a value"))?;
        let key = given.key;
        if tileset.parameters.posted.get(&tileset.name, key).is_none() {
            let new =
                self.posts.gate.admits(key, KeyCost::Statement, client).map_err(|TooManyKeys { retry_after }| {
                    answer::too_many("too many new filters were posted within a minute", retry_after)
                })?;
            new.begins();
            tileset.parameters.posted.keep(&tileset.name, given, client);
        }
        Ok(answer::uncached_json(&json!({ "filter": key.id() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_sends_few_filters_at_once_and_leaves_room_for_others() {
        let client = |number: u8| ClientKey::of(Some([192, 0, 2, number].into()));
        let posts = FilterPosts::default();
        let mut own: Vec<Post> = std::iter::from_fn(|| posts.begin(client(0))).collect();
        assert_eq!(own.len(), MAX_POSTS_OF_CLIENT);
        let others: Vec<Post> = (1..=u8::MAX)
            .flat_map(|number| std::iter::from_fn(move || Some(number)).take(4))
            .map_while(|number| posts.begin(client(number)))
            .collect();
        assert_eq!(own.len() + others.len(), MAX_POSTS);
        assert!(posts.begin(client(200)).is_none());
        own.pop();
        assert!(posts.begin(client(200)).is_some());
        drop((own, others));
        assert!(posts.receiving.lock().is_empty());
    }
}
