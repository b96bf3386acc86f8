//! Varnish: `PURGE` of exact URLs, xkey, and bans for prefixes, with the VCL that `examples/varnish.vcl` shows.

use futures_util::future::BoxFuture;

use super::http::{HttpClient, empty_request};
use super::options::{ProviderKeys, PurgeKeyError, PurgeSection, SecretSource, provider_keys};
use super::{
    Asked, BatchLimits, ItemKind, ItemPrice, OWN_RATE, Provider, ProviderError, ProviderFacts, ProviderKind,
    PurgeBatch, PurgeProvider, SendError, many_at_once,
};
use crate::cdn::items::{CdnUrl, PurgeBy};

/// The most tags in a request: Varnish's header limit is 8 kB (`http_req_hdr_len`), and a tag has at most 60 bytes.
const MAX_TAGS: usize = 100;

impl Asked<VarnishOptions> {
    async fn ask(&self, method: &str, path: &str, header: (&'static str, &str)) -> Result<(), SendError> {
        let bearer = self.bearer();
        let fixed = [("host", self.url.host()), header].into_iter();
        let headers: Vec<_> = fixed.chain(Self::authorization(bearer.as_ref())).collect();
        let headers = &headers;
        let requests = self.options.caches.iter().map(|cache| {
            let url = format!("{}{path}", cache.trim_end_matches('/'));
            async move { self.http.send(empty_request(method, &url, headers)?).await?.judged(self.token.as_ref()) }
        });
        futures_util::future::try_join_all(requests).await.map(drop)
    }
}

#[derive(Debug, Clone)]
pub struct VarnishOptions {
    /// Their addresses, such as `http://10.0.0.5:6081`.
    pub caches: Vec<String>,
    /// The token by which they know who may purge; `None` if they go by addresses alone.
    pub token: Option<SecretSource>,
    /// True to mark tiles as stale rather than remove them.
    pub soft: bool,
}

impl ProviderKind for VarnishOptions {
    const KEYS: ProviderKeys =
        ProviderKeys { own: provider_keys!(caches, soft, token_file, token_variable), token_variable: None };

    fn of(given: &PurgeSection) -> Result<VarnishOptions, PurgeKeyError> {
        Ok(VarnishOptions { caches: given.servers()?, token: given.token()?, soft: given.soft.unwrap_or(true) })
    }

    fn facts(&self) -> ProviderFacts {
        ProviderFacts {
            name: PurgeProvider::Varnish.name(),
            takes: &[PurgeBy::Path, PurgeBy::Tag, PurgeBy::Url, PurgeBy::All],
            takes_everything: true,
            mixes: true,
            // Varnish compares a ban with every object, so exact addresses are used for as long as purging them takes
            // seconds.
            max_items: 20_000,
            price: ItemPrice::FREE,
        }
    }

    async fn provider(self, url: CdnUrl, http: HttpClient) -> Result<Box<dyn Provider>, ProviderError> {
        let token = self.token.clone();
        Ok(Box::new(Asked::new(self, token.as_ref(), url, http)?))
    }
}

impl Provider for Asked<VarnishOptions> {
    fn limits(&self, kind: ItemKind) -> BatchLimits {
        let max_items = match kind {
            ItemKind::Tag => MAX_TAGS,
            ItemKind::Url => 1_000,
            ItemKind::Prefix | ItemKind::Everything => 1,
        };
        BatchLimits { max_items, max_bytes: usize::MAX, bytes_around: 0, requests: OWN_RATE, items: OWN_RATE }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        let mode = ("x-purge", if self.options.soft { "soft" } else { "hard" });
        Box::pin(async move {
            match batch.kind {
                ItemKind::Tag => {
                    let header = if self.options.soft { "xkey-softpurge" } else { "xkey-purge" };
                    self.ask("PURGE", self.url.path(), (header, &batch.names.join(" "))).await
                }
                ItemKind::Url => {
                    many_at_once(batch.names.iter().map(|name| self.ask("PURGE", name, mode)).collect()).await
                }
                ItemKind::Prefix | ItemKind::Everything => {
                    many_at_once(batch.names.iter().map(|name| self.ask("BAN", name, mode)).collect()).await
                }
            }
        })
    }
}
