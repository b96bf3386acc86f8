//! nginx with the module `ngx_cache_purge`: `PURGE` of exact URLs; prefixes only with a version that knows `*`.
//!
//! nginx must keep one copy of a tile (`proxy_ignore_headers Vary`, as `examples/nginx-purge.conf` has it). If it keeps
//! one for each `Accept-Encoding`, it finds the others through the copy that was cached first. Once a purge has removed
//! that copy, no further purge finds the others, and nginx serves them again as soon as there is a new first copy.

use futures_util::future::BoxFuture;
use http::StatusCode;

use super::http::{HttpClient, empty_request};
use super::options::{ProviderKeys, PurgeKeyError, PurgeSection, SecretSource, provider_keys};
use super::{
    Asked, BatchLimits, ItemKind, ItemPrice, OWN_RATE, Provider, ProviderError, ProviderFacts, ProviderKind,
    PurgeBatch, PurgeProvider, SendError, many_at_once,
};
use crate::cdn::items::{CdnUrl, PurgeBy};
use crate::suggested::PURGE;

impl Asked<NginxOptions> {
    async fn ask(&self, path: String) -> Result<(), SendError> {
        let bearer = self.bearer();
        for cache in &self.options.caches {
            let url = format!("{}{path}", cache.trim_end_matches('/'));
            let headers: Vec<_> =
                [("host", self.url.host())].into_iter().chain(Self::authorization(bearer.as_ref())).collect();
            let answer = self.http.send(empty_request("PURGE", &url, &headers)?).await?;
            // For an address that is not cached, version 2.3 of the module answers 404, and versions since 2.5
            // answer 412.
            if !matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED) {
                answer.judged(self.token.as_ref())?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
pub struct NginxOptions {
    pub caches: Vec<String>,
    /// The token, as of [`VarnishOptions`](super::VarnishOptions).
    pub token: Option<SecretSource>,
    /// True if the purge module takes `*` at the end of a key.
    pub wildcards: bool,
}

impl ProviderKind for NginxOptions {
    const KEYS: ProviderKeys =
        ProviderKeys { own: provider_keys!(caches, wildcards, token_file, token_variable), token_variable: None };

    fn of(given: &PurgeSection) -> Result<NginxOptions, PurgeKeyError> {
        Ok(NginxOptions {
            caches: given.servers()?,
            token: given.token()?,
            wildcards: given.wildcards.unwrap_or(false),
        })
    }

    fn facts(&self) -> ProviderFacts {
        ProviderFacts {
            name: PurgeProvider::Nginx.name(),
            takes: if self.wildcards {
                &[PurgeBy::Path, PurgeBy::Url, PurgeBy::All]
            } else {
                &[PurgeBy::Url, PurgeBy::All]
            },
            takes_everything: self.wildcards,
            mixes: false,
            max_items: if self.wildcards { 20_000 } else { usize::MAX },
            price: ItemPrice::FREE,
        }
    }

    async fn provider(self, url: CdnUrl, http: HttpClient) -> Result<Box<dyn Provider>, ProviderError> {
        let token = self.token.clone();
        Ok(Box::new(Asked::new(self, token.as_ref(), url, http)?))
    }
}

impl Provider for Asked<NginxOptions> {
    fn limits(&self, kind: ItemKind) -> BatchLimits {
        let max_items = if kind == ItemKind::Url { 1_000 } else { 1 };
        BatchLimits { max_items, max_bytes: usize::MAX, bytes_around: 0, requests: OWN_RATE, items: OWN_RATE }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            match batch.kind {
                ItemKind::Url => many_at_once(batch.names.iter().map(|name| self.ask(name.clone())).collect()).await,
                ItemKind::Prefix | ItemKind::Everything if self.options.wildcards => {
                    many_at_once(batch.names.iter().map(|name| self.ask(format!("{name}*"))).collect()).await
                }
                ItemKind::Tag | ItemKind::Prefix | ItemKind::Everything => Err(SendError::refused(format!(
                    "everything is to be purged, and this nginx takes exact addresses only: empty its cache folder, then run {PURGE} --forget; or set wildcards = true if its purge module is 2.4 or later"
                ))),
            }
        })
    }
}
