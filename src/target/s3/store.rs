//! Requests for objects below a prefix: read, write, list, delete. Each failure comes with its meaning.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, ByteStreamError};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::flight::Flights;
use super::refusal::{Meaning, Refusal, RequestContext};
use super::{Action, S3Cause, S3Error, S3Location, S3Options};
use crate::target::read::MAX_NOTE;
use crate::target::tree::Tag;

/// The most names in one `DeleteObjects` request (Amazon S3 API Reference).
pub(crate) const MAX_NAMES_PER_DELETE: usize = 1_000;

/// The objects below a prefix of a bucket. Names are relative to the prefix.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) location: S3Location,
    pub(crate) options: S3Options,
    pub(crate) client: Client,
    pub(crate) requests: RequestContext,
    pub(crate) flights: Flights,
}

/// An object that was read.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) body: Vec<u8>,
    pub(crate) tag: String,
}

/// The condition under which an object is written (RFC 9110, section 13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    /// There is no such object.
    Absent,
    /// The object still has this `ETag`.
    Still(String),
}

impl Condition {
    /// The object is as it was when it had this `ETag`; `None`: when there was none.
    pub(crate) fn as_seen(tag: Option<&String>) -> Condition {
        tag.map_or(Condition::Absent, |tag| Condition::Still(tag.clone()))
    }
}

/// A page of a listing.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Names and `ETag`s.
    pub(crate) found: Vec<(String, Option<String>)>,
    /// The continuation token of the next page; `None` after the last.
    pub(crate) next: Option<String>,
}

impl Store {
    pub(crate) async fn open(location: S3Location, options: S3Options) -> Result<Arc<Store>, S3Error> {
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
    pub(crate) fn error(&self, action: Action, name: &str, refusal: Refusal) -> S3Error {
        self.requests.error(action, &self.key(name), refusal)
    }

    /// Reads a note; `None` if there is none.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Object>, S3Error> {
        match self.read(name, None, MAX_NOTE).await {
            Ok(object) => Ok(Some(object)),
            Err(Refusal { meaning: Meaning::Missing, .. }) => Ok(None),
            Err(refusal) => Err(self.error(Action::Get, name, refusal)),
        }
    }

    /// Reads an object, or a range of it (RFC 9110, section 14.1.2). Refuses more than `most` bytes, whatever length
    /// the server announces. Repeats a request whose answer breaks off: the SDK repeats only requests that fail before
    /// the first byte of the body.
    pub(crate) async fn read(&self, name: &str, range: Option<&str>, most: usize) -> Result<Object, Refusal> {
        let mut attempt = 1;
        loop {
            let request = self.client.get_object().bucket(&self.location.bucket).key(self.key(name));
            let answer = request.set_range(range.map(str::to_owned)).send().await.map_err(Refusal::from)?;
            let tag = answer.e_tag().unwrap_or_default().to_owned();
            if answer.content_length().is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > most)) {
                return Err(too_large(most));
            }
            match body(answer.body, most).await {
                Ok(Some(body)) => return Ok(Object { body, tag }),
                Ok(None) => return Err(too_large(most)),
                Err(_broken) if attempt < self.options.attempts => attempt += 1,
                Err(broken) => {
                    let cause = S3Cause(format!("the answer broke off: {}", super::error::chain(&broken)));
                    return Err(Refusal { meaning: Meaning::Server, cause });
                }
            }
        }
    }

    /// Writes an object; returns its new `ETag`.
    pub(crate) async fn put(&self, request: PutObjectFluentBuilder, name: &str) -> Result<String, Refusal> {
        let answer = request.bucket(&self.location.bucket).key(self.key(name)).send().await.map_err(Refusal::from)?;
        Ok(answer.e_tag().unwrap_or_default().to_owned())
    }

    /// Writes a note if the condition holds; returns its new `ETag`.
    pub(crate) async fn put_note(&self, name: &str, body: Vec<u8>, condition: &Condition) -> Result<String, Refusal> {
        let request = self.client.put_object().body(ByteStream::from(body));
        let request = super::headers::of_note(request, &self.options.headers);
        let request = match condition {
            Condition::Always => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Still(tag) => request.if_match(tag),
        };
        self.put(request, name).await
    }

    /// Lists one page of the objects whose names start with `begin`; `from` is the continuation token of the page
    /// before.
    pub(crate) async fn list(&self, begin: &str, from: Option<String>) -> Result<Page, S3Error> {
        let request = self.client.list_objects_v2().bucket(&self.location.bucket).prefix(self.key(begin));
        let answer = request.set_continuation_token(from.clone()).send().await;
        let answer = answer.map_err(|error| self.error(Action::List, begin, error.into()))?;
        let name = |key: &str| key.strip_prefix(&self.location.prefix).map(str::to_owned);
        let found = answer.contents().iter().filter_map(|object| {
            let tag = object.e_tag().map(|tag| tag.trim_matches('"').to_owned());
            Some((name(object.key()?)?, tag))
        });
        let next = answer.next_continuation_token().filter(|_| answer.is_truncated() == Some(true));
        if next.is_some() && next == from.as_deref() {
            let cause = S3Cause("the next page of the list is the same one again".to_owned());
            return Err(self.error(Action::List, begin, Refusal { meaning: Meaning::Server, cause }));
        }
        Ok(Page { found: found.collect(), next: next.map(str::to_owned) })
    }

    /// Deletes up to [`MAX_NAMES_PER_DELETE`](super::MAX_NAMES_PER_DELETE) objects by one request; returns those that
    /// could not be deleted.
    pub(crate) async fn delete(&self, names: &[String]) -> Vec<(String, Refusal)> {
        let mut objects = Vec::with_capacity(names.len());
        for name in names {
            match ObjectIdentifier::builder().key(self.key(name)).build() {
                Ok(object) => objects.push(object),
                Err(error) => {
                    return all(names, &Refusal { meaning: Meaning::Other, cause: S3Cause(error.to_string()) });
                }
            }
        }
        let delete = match Delete::builder().set_objects(Some(objects)).quiet(true).build() {
            Ok(delete) => delete,
            Err(error) => return all(names, &Refusal { meaning: Meaning::Other, cause: S3Cause(error.to_string()) }),
        };
        let request = self.client.delete_objects().bucket(&self.location.bucket).delete(delete);
        match request.send().await.map_err(Refusal::from) {
            Ok(answer) => {
                let left = answer.errors().iter().map(|error| {
                    let key = error.key().unwrap_or_default();
                    let name = key.strip_prefix(&self.location.prefix).unwrap_or(key).to_owned();
                    (name, Refusal::of_code(error.code().unwrap_or_default(), error.message().unwrap_or_default()))
                });
                left.filter(|(_, refusal)| refusal.meaning != Meaning::Missing).collect()
            }
            // Google's S3 interface has no DeleteObjects.
            Err(refusal) if refusal.meaning == Meaning::Unknown => self.delete_each(names).await,
            Err(refusal) => all(names, &refusal),
        }
    }

    async fn delete_each(&self, names: &[String]) -> Vec<(String, Refusal)> {
        let mut left = Vec::new();
        for name in names {
            let request = self.client.delete_object().bucket(&self.location.bucket).key(self.key(name));
            match request.send().await.map_err(Refusal::from) {
                Ok(_) | Err(Refusal { meaning: Meaning::Missing, .. }) => {}
                Err(refusal) => left.push((name.clone(), refusal)),
            }
        }
        left
    }
}

/// The body of an answer; `None` if it has more than `most` bytes.
async fn body(mut stream: ByteStream, most: usize) -> Result<Option<Vec<u8>>, ByteStreamError> {
    let mut body = Vec::new();
    while let Some(bytes) = stream.try_next().await? {
        if bytes.len() > most - body.len() {
            return Ok(None);
        }
        body.extend_from_slice(&bytes);
    }
    Ok(Some(body))
}

fn too_large(most: usize) -> Refusal {
    let cause = S3Cause(format!("it has more than {most} bytes, the most that are read of such an object"));
    Refusal { meaning: Meaning::TooLarge, cause }
}

fn all(names: &[String], refusal: &Refusal) -> Vec<(String, Refusal)> {
    names.iter().map(|name| (name.clone(), refusal.clone())).collect()
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
