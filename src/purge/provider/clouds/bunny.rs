//! Bunny: by URL, where a `*` at the end stands for a prefix, and by tag (Bunny Core API, "Purge URL" and "Purge Cache").

use futures_util::future::BoxFuture;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::super::super::items::{CdnUrl, PurgeBy};
use super::super::super::pace::Rate;
use super::super::http::{HttpClient, empty_request, json_request};
use super::super::secret::PurgeSecret;
use super::super::{
    BatchLimits, BunnyOptions, ItemKind, ItemPrice, Provider, ProviderError, ProviderFacts, PurgeBatch, SendError,
};

const ENDPOINT: &str = "https://api.bunny.net";

/// A pull zone.
pub(in crate::purge::provider) struct Bunny {
    options: BunnyOptions,
    token: PurgeSecret,
    url: CdnUrl,
    http: HttpClient,
}

impl Bunny {
    pub(in crate::purge::provider) fn new(
        options: BunnyOptions,
        url: CdnUrl,
        http: HttpClient,
    ) -> Result<Bunny, ProviderError> {
        let token = options.token.read()?;
        Ok(Bunny { options, token, url, http })
    }
}

impl BunnyOptions {
    /// What the provider takes, and what it costs.
    pub(in crate::purge::provider) fn facts() -> ProviderFacts {
        ProviderFacts {
            name: "bunny",
            takes: &[PurgeBy::Path, PurgeBy::Tag, PurgeBy::Url, PurgeBy::All],
            takes_everything: true,
            mixes: true,
            // A burst of exact URLs.
            max_items: 120,
            price: ItemPrice::FREE,
        }
    }
}

impl Provider for Bunny {
    fn facts(&self) -> ProviderFacts {
        BunnyOptions::facts()
    }

    fn limits(&self, kind: ItemKind) -> BatchLimits {
        // "Purge rate limits" has limits by account and type of purge. It names none for tags, so the smaller limit is kept.
        let requests = match kind {
            ItemKind::Url => Rate { burst: 120.0, per_second: 5.0 },
            ItemKind::Tag | ItemKind::Prefix | ItemKind::Everything => Rate { burst: 20.0, per_second: 0.5 },
        };
        BatchLimits { max_items: 1, max_bytes: 64 << 10, bytes_around: 0, requests, items: requests }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async {
            let endpoint = self.options.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
            let headers = [("accesskey", self.token.reveal())];
            for name in &batch.names {
                let request = if batch.kind == ItemKind::Tag {
                    let url = format!("{endpoint}/pullzone/{}/purgeCache", self.options.pull_zone);
                    json_request("POST", &url, &headers, &json!({ "CacheTag": name }))?
                } else {
                    let star = if batch.kind == ItemKind::Url { "" } else { "*" };
                    let whole = format!("{}{star}", self.url.whole(name));
                    let whole = utf8_percent_encode(&whole, NON_ALPHANUMERIC);
                    empty_request("POST", &format!("{endpoint}/purge?url={whole}&async=false"), &headers)?
                };
                self.http.send(request).await?.judged(&[&self.token])?;
            }
            Ok(())
        })
    }
}
