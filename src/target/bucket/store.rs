//! Requests for objects below a prefix: read, write, list, delete. Each failure comes with its meaning.

use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;

use super::client::{Head, Listed, MAX_NAMES_PER_DELETE, Object, ObjectClient, Page, Put, WriteCondition};
use super::flight::Flights;
use super::refusal::{Meaning, Refusal, RequestContext};
use super::{Action, BucketCause, BucketError, BucketLocation, BucketOptions, wait};
use crate::target::read::MAX_NOTE;
use crate::target::tree::Tag;

/// The objects below a prefix of a bucket. Names are relative to the prefix.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) location: BucketLocation,
    pub(crate) options: BucketOptions,
    pub(crate) client: Arc<dyn ObjectClient>,
    pub(crate) requests: RequestContext,
    pub(crate) flights: Flights,
}

impl Store {
    pub(crate) async fn open(location: BucketLocation, options: BucketOptions) -> Result<Arc<Store>, BucketError> {
        let (client, requests) = options.shared.client(&location, &options).await?;
        Ok(Arc::new(Store { location, options, client, requests, flights: Flights::default() }))
    }

    /// The object's key in the bucket.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.location.prefix)
    }

    /// The object's URL.
    pub(crate) fn place(&self, name: &str) -> String {
        format!("{}{name}", self.location)
    }

    /// The error of a request for an object.
    pub(crate) fn error(&self, action: Action, name: &str, refusal: Refusal) -> BucketError {
        self.requests.error(action, &self.key(name), refusal)
    }

    /// The error of a note that cannot be parsed or written as JSON.
    pub(crate) fn note_error(&self, name: &str, source: serde_json::Error) -> BucketError {
        BucketError::Note { place: self.place(name), source }
    }

    /// Reads a note; `None` if there is none.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Object>, BucketError> {
        match self.read(name, None, MAX_NOTE).await {
            Ok(object) => Ok(Some(object)),
            Err(Refusal { meaning: Meaning::Missing, .. }) => Ok(None),
            Err(refusal) => Err(self.error(Action::Get, name, refusal)),
        }
    }

    /// Reads an object, or a range of it (RFC 9110, section 14.1.2). Refuses more than `most` bytes, whatever length
    /// the server announces.
    pub(crate) async fn read(&self, name: &str, range: Option<Range<u64>>, most: usize) -> Result<Object, Refusal> {
        self.client.get(&self.key(name), range, most).await
    }

    /// What the server says of an object; `None` if there is none.
    pub(crate) async fn head(&self, name: &str) -> Result<Option<Head>, BucketError> {
        match self.client.head(&self.key(name)).await {
            Ok(head) => Ok(Some(head)),
            Err(refusal) if refusal.meaning == Meaning::Missing => Ok(None),
            Err(refusal) => Err(self.error(Action::Get, name, refusal)),
        }
    }

    /// Writes an object; returns its new `ETag`.
    pub(crate) async fn put(&self, name: &str, put: Put) -> Result<String, Refusal> {
        self.client.put(&self.key(name), put).await
    }

    /// Writes a note if the condition holds; returns its new `ETag`.
    pub(crate) async fn put_note(
        &self,
        name: &str,
        body: Vec<u8>,
        condition: &WriteCondition,
    ) -> Result<String, Refusal> {
        let headers = super::headers::of_note(&self.options);
        let line_time = std::time::Duration::ZERO;
        self.put(name, Put { body, headers, digest: None, condition: condition.clone(), line_time }).await
    }

    /// Lists one page of the objects whose names start with `begin`; `from` is the continuation token of the page
    /// before.
    pub(crate) async fn list(&self, begin: &str, from: Option<String>) -> Result<Page, BucketError> {
        let page = self.client.list(&self.key(begin), from.clone()).await;
        let Page { found, next } = page.map_err(|refusal| self.error(Action::List, begin, refusal))?;
        if next.is_some() && next == from {
            let cause = BucketCause("the next page of the list is the same one again".to_owned());
            return Err(self.error(Action::List, begin, Refusal { meaning: Meaning::Server, cause }));
        }
        let found = found.into_iter().filter_map(|mut object| {
            object.name = object.name.strip_prefix(&self.location.prefix)?.to_owned();
            Some(object)
        });
        Ok(Page { found: found.collect(), next })
    }

    /// Lists the objects whose names start with `begin`, page by page.
    pub(crate) fn pages<'s>(&'s self, begin: &'s str) -> BoxStream<'s, Result<Vec<Listed>, BucketError>> {
        let page = move |from: Option<Option<String>>| async move {
            let Some(from) = from else { return Ok(None) };
            let page = self.list(begin, from).await?;
            Ok(Some((page.found, page.next.map(Some))))
        };
        stream::try_unfold(Some(None), page).boxed()
    }

    pub(crate) async fn names(&self, begin: &str) -> Result<Vec<String>, BucketError> {
        let names = |found: Vec<Listed>| found.into_iter().map(|object| object.name).collect::<Vec<_>>();
        self.pages(begin).map_ok(names).try_concat().await
    }

    /// Deletes up to [`MAX_NAMES_PER_DELETE`] objects; returns those that could not be deleted.
    pub(crate) async fn delete(&self, names: &[String]) -> Vec<(String, Refusal)> {
        let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        let left = self.client.delete(&keys).await.into_iter();
        left.map(|(key, refusal)| {
            let name = key.strip_prefix(&self.location.prefix).unwrap_or(&key).to_owned();
            (name, refusal)
        })
        .collect()
    }

    /// Deletes any number of objects.
    pub(crate) async fn remove(&self, names: &[String]) -> Result<(), BucketError> {
        for names in names.chunks(MAX_NAMES_PER_DELETE) {
            if let Some((name, refusal)) = self.delete(names).await.into_iter().next() {
                return Err(self.error(Action::Delete, &name, refusal));
            }
        }
        Ok(())
    }
}

/// Deletes every object below a prefix. May wait for the server.
pub fn remove_prefix(location: BucketLocation, options: BucketOptions, runtime: &Handle) -> Result<(), BucketError> {
    wait(runtime, async {
        let store = Store::open(location, options).await?;
        store.remove(&store.names("").await?).await
    })
}

pub(crate) fn too_large(most: usize) -> Refusal {
    let cause = BucketCause(format!("it has more than {most} bytes, the most that are read of such an object"));
    Refusal { meaning: Meaning::TooLarge, cause }
}

/// The MD5 of an object's bytes, if its `ETag` looks like one (Amazon S3 API Reference, "Object"). The `ETag` of an
/// object that was uploaded in parts contains a `-`. The `ETag` of an object encrypted by KMS looks like an MD5 but is
/// not one; it never equals a tile's.
pub(crate) fn digest(tag: &str) -> Tag {
    if tag.len() != 32 || !tag.is_ascii() {
        return None;
    }
    let mut digest = [0; 16];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(tag.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_a_digest_only_if_it_looks_like_one() {
        let plain = "d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(digest(plain).unwrap()[..3], [0xd4, 0x1d, 0x8c]);
        for tag in [
            "",
            "d41d8cd98f00b204e9800998ecf8427e-2",
            "x41d8cd98f00b204e9800998ecf8427e",
            "ü1d8cd98f00b204e9800998ecf8427",
        ] {
            assert_eq!(digest(tag), None, "{tag}");
        }
    }
}
