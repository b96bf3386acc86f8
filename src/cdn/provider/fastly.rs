//! Fastly: batch purges by surrogate key, single purges by URL, purge all (Fastly API reference, "Purging").

use futures_util::future::BoxFuture;
use serde_json::json;

use super::http::{HttpClient, empty_request, json_request};
use super::options::{ProviderKeys, PurgeKeyError, PurgeSection, SecretSource, name_in_path, provider_keys};
use super::{
    Asked, BatchLimits, ItemKind, ItemPrice, Provider, ProviderError, ProviderFacts, ProviderKind, PurgeBatch,
    PurgeProvider, SendError, many_at_once,
};
use crate::cdn::items::{CdnUrl, PurgeBy};
use crate::cdn::pace::Rate;

const ENDPOINT: &str = "https://api.fastly.com";

/// The most keys in a batch.
const MAX_KEYS: usize = 256;

impl Asked<FastlyOptions> {
    async fn send_one(&self, path: String, body: Option<serde_json::Value>) -> Result<(), SendError> {
        let endpoint = self.options.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
        let url = format!("{endpoint}{path}");
        let key = self.token.as_ref().map(|token| ("fastly-key", token.0.as_str()));
        let mut headers: Vec<_> = key.into_iter().chain([("accept", "application/json")]).collect();
        if self.options.soft {
            // Stale objects may be served while they are fetched again.
            headers.push(("fastly-soft-purge", "1"));
        }
        let request = match body {
            Some(body) => json_request("POST", &url, &headers, &body)?,
            None => empty_request("POST", &url, &headers)?,
        };
        self.http.send(request).await?.judged(self.token.as_ref())
    }
}

#[derive(Debug, Clone)]
pub struct FastlyOptions {
    pub service: String,
    /// An API token with the scope `purge_select` (and `purge_all`).
    pub token: SecretSource,
    /// True to mark tiles as stale rather than remove them.
    pub soft: bool,
    /// The API, if it is not Fastly's.
    pub endpoint: Option<String>,
}

impl ProviderKind for FastlyOptions {
    const KEYS: ProviderKeys = ProviderKeys {
        own: provider_keys!(service, soft, token_file, token_variable, endpoint),
        token_variable: Some("FASTLY_API_TOKEN"),
    };

    fn of(given: &PurgeSection) -> Result<FastlyOptions, PurgeKeyError> {
        let endpoint = given.api()?;
        Ok(FastlyOptions {
            service: name_in_path("service", given.service.as_deref())?,
            token: given.needed_token()?,
            soft: given.soft.unwrap_or(true),
            endpoint,
        })
    }

    fn facts(&self) -> ProviderFacts {
        ProviderFacts {
            name: PurgeProvider::Fastly.name(),
            takes: &[PurgeBy::Url, PurgeBy::Tag, PurgeBy::All],
            takes_everything: true,
            mixes: false,
            max_items: 10_000,
            price: ItemPrice::FREE,
        }
    }

    async fn provider(self, url: CdnUrl, http: HttpClient) -> Result<Box<dyn Provider>, ProviderError> {
        let token = self.token.clone();
        Ok(Box::new(Asked::new(self, Some(&token), url, http)?))
    }
}

impl Provider for Asked<FastlyOptions> {
    fn limits(&self, kind: ItemKind) -> BatchLimits {
        BatchLimits {
            max_items: if kind == ItemKind::Tag { MAX_KEYS } else { 64 },
            // A header with keys has at most 16,384 bytes; a body with keys has no documented limit.
            max_bytes: 256 << 10,
            bytes_around: 3,
            // A customer may send 100,000 purges by URL and 100,000 by key an hour.
            requests: Rate { burst: 1_000.0, per_second: 27.0 },
            items: Rate { burst: 10_000.0, per_second: 27.0 },
        }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        let service = &self.options.service;
        Box::pin(async move {
            match batch.kind {
                ItemKind::Tag => {
                    let keys = json!({ "surrogate_keys": batch.names });
                    self.send_one(format!("/service/{service}/purge"), Some(keys)).await
                }
                // Fastly has no prefixes, so the whole service is purged.
                ItemKind::Prefix | ItemKind::Everything => {
                    self.send_one(format!("/service/{service}/purge_all"), None).await
                }
                ItemKind::Url => {
                    let paths = batch.names.iter().map(|name| format!("/purge/{}{name}", self.url.host()));
                    many_at_once(paths.map(|path| self.send_one(path, None)).collect()).await
                }
            }
        })
    }
}
