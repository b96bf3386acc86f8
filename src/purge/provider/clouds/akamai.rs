//! Akamai: Fast Purge v3 by URL, cache tag or CP code (Akamai TechDocs, "Purge Cache").

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::super::super::items::{CdnUrl, PurgeBy};
use super::super::super::pace::Rate;
use super::super::http::{HttpClient, json_request};
use super::super::{
    AkamaiOptions, BatchLimits, ItemKind, ItemPrice, Provider, ProviderError, ProviderFacts, PurgeBatch, SendError,
};
use super::edgegrid::{EdgeGridKeys, SignedMoment};

/// The most bytes of names in a request, with the JSON around each name. The body of a request has at most 50,000 bytes; the rest is for the
/// enclosing JSON.
const MAX_BYTES: usize = 49_000;

/// A property.
pub(in crate::purge::provider) struct Akamai {
    options: AkamaiOptions,
    keys: EdgeGridKeys,
    url: CdnUrl,
    http: HttpClient,
}

impl Akamai {
    pub(in crate::purge::provider) fn new(
        options: AkamaiOptions,
        url: CdnUrl,
        http: HttpClient,
    ) -> Result<Akamai, ProviderError> {
        let keys = EdgeGridKeys::read(&options.credentials)?;
        Ok(Akamai { options, keys, url, http })
    }

    /// The kind of objects and the objects themselves.
    fn objects(&self, batch: &PurgeBatch) -> Result<(&'static str, Value), SendError> {
        match (batch.kind, self.options.cp_code) {
            (ItemKind::Tag, _) => Ok(("tag", json!(batch.names))),
            (ItemKind::Url, _) => {
                Ok(("url", json!(batch.names.iter().map(|name| self.url.whole(name)).collect::<Vec<_>>())))
            }
            (ItemKind::Prefix | ItemKind::Everything, Some(code)) => Ok(("cpcode", json!([code]))),
            (ItemKind::Prefix | ItemKind::Everything, None) => Err(SendError::refused(
                "Akamai has no prefixes, and everything is to be purged: set cp_code, or purge by = \"tag\"".to_owned(),
            )),
        }
    }
}

impl AkamaiOptions {
    /// What the provider takes, and what it costs.
    pub(in crate::purge::provider) fn facts(&self) -> ProviderFacts {
        ProviderFacts {
            name: "akamai",
            takes: &[PurgeBy::Url, PurgeBy::Tag, PurgeBy::All],
            takes_everything: self.cp_code.is_some(),
            mixes: false,
            max_items: 10_000,
            price: ItemPrice::FREE,
        }
    }
}

impl Provider for Akamai {
    fn facts(&self) -> ProviderFacts {
        self.options.facts()
    }

    fn limits(&self, kind: ItemKind) -> BatchLimits {
        BatchLimits {
            max_items: 5_000,
            max_bytes: MAX_BYTES,
            bytes_around: self.url.whole("").len() + 3,
            requests: Rate { burst: 100.0, per_second: 50.0 },
            items: match kind {
                ItemKind::Url => Rate { burst: 10_000.0, per_second: 200.0 },
                ItemKind::Tag => Rate { burst: 5_000.0, per_second: 500.0 / 60.0 },
                ItemKind::Prefix | ItemKind::Everything => Rate { burst: 300.0, per_second: 0.5 },
            },
        }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async {
            let (kind, objects) = self.objects(batch)?;
            let action = if self.options.soft { "invalidate" } else { "delete" };
            let path = format!("/ccu/v3/{action}/{kind}/{}", self.options.network);
            let body = json!({ "objects": objects });
            let host = self.keys.host();
            let endpoint = self.options.endpoint.clone().unwrap_or_else(|| format!("https://{host}"));
            let authorization = self.keys.authorization("POST", &path, &body.to_string(), &SignedMoment::now());
            let url = format!("{}{path}", endpoint.trim_end_matches('/'));
            let request = json_request("POST", &url, &[("authorization", &authorization)], &body)?;
            self.http.send(request).await?.judged(&self.keys.secrets())
        })
    }
}
