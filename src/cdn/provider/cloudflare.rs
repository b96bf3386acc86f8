//! Cloudflare: `purge_cache` of a zone by tag, prefix or file (Cloudflare API, "Purge Cached Content"; all plans since
//! April 2025).

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{HttpAnswer, HttpClient, json_request};
use super::options::{ProviderKeys, PurgeKeyError, PurgeSection, SecretSource, name_in_path, provider_keys};
use super::{
    Asked, BatchLimits, ItemKind, ItemPrice, Provider, ProviderError, ProviderFacts, ProviderKind, PurgeBatch,
    PurgeProvider, SendError,
};
use crate::cdn::items::{CdnUrl, PurgeBy};
use crate::cdn::pace::Rate;
use crate::setting::Secret;

const ENDPOINT: &str = "https://api.cloudflare.com";

/// The most tags, prefixes or files in a request.
const MAX_NAMES: usize = 100;

impl Asked<CloudflareOptions> {
    /// The body of the request.
    ///
    /// Exact addresses are also sent as prefixes: the default cache key holds the client's `Origin`, which map clients
    /// on other sites send, and purging a file hits only the key without an origin. A prefix hits all keys. If
    /// `origins` are set, each file is purged once without an origin and once for each of them.
    fn body(&self, batch: &PurgeBatch) -> Value {
        let prefix = |name: &String| format!("{}{}", self.url.host(), name.trim_end_matches('/'));
        match batch.kind {
            ItemKind::Tag => json!({ "tags": batch.names }),
            ItemKind::Url if !self.options.origins.is_empty() => {
                let urls = batch.names.iter().map(|name| self.url.whole(name));
                let of_origins = |url: String| {
                    let with = |origin: &String| json!({ "url": url, "headers": { "Origin": origin } });
                    let all: Vec<Value> =
                        std::iter::once(json!(url)).chain(self.options.origins.iter().map(with)).collect();
                    all
                };
                json!({ "files": urls.flat_map(of_origins).collect::<Vec<_>>() })
            }
            ItemKind::Url | ItemKind::Prefix | ItemKind::Everything => {
                json!({ "prefixes": batch.names.iter().map(prefix).collect::<Vec<_>>() })
            }
        }
    }
}

/// Classifies an answer: in some cases the API answers `"success": false` with status 200.
fn judge(answer: &HttpAnswer, token: Option<&Secret>) -> Result<(), SendError> {
    answer.judged(token)?;
    let says = serde_json::from_str::<Value>(&answer.text).ok();
    match says.and_then(|says| says["success"].as_bool()) {
        Some(true) => Ok(()),
        Some(false) => Err(SendError::refused(answer.shown(token))),
        None => Err(SendError::later(answer.shown(token))),
    }
}

#[derive(Debug, Clone)]
pub struct CloudflareOptions {
    pub zone: String,
    /// An API token with the permission "Cache Purge".
    pub token: SecretSource,
    /// The plan, which decides the rates.
    pub plan: CloudflarePlan,
    /// Sites on which maps show these tiles. If there are any, exact addresses are purged as files, once for each site.
    pub origins: Vec<String>,
    /// The API, if it is not Cloudflare's.
    pub endpoint: Option<String>,
}

/// Cloudflare's plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloudflarePlan {
    #[default]
    Free,
    Pro,
    Business,
    Enterprise,
}

impl ProviderKind for CloudflareOptions {
    const KEYS: ProviderKeys = ProviderKeys {
        own: provider_keys!(zone, plan, origins, token_file, token_variable, endpoint),
        token_variable: Some("CLOUDFLARE_API_TOKEN"),
    };

    fn of(given: &PurgeSection) -> Result<CloudflareOptions, PurgeKeyError> {
        let endpoint = given.api()?;
        Ok(CloudflareOptions {
            zone: name_in_path("zone", given.zone.as_deref())?,
            token: given.needed_token()?,
            plan: given.plan.unwrap_or_default(),
            origins: given.origins.clone().unwrap_or_default(),
            endpoint,
        })
    }

    fn facts(&self) -> ProviderFacts {
        ProviderFacts {
            name: PurgeProvider::Cloudflare.name(),
            takes: &[PurgeBy::Path, PurgeBy::Tag, PurgeBy::Url, PurgeBy::All],
            takes_everything: true,
            mixes: true,
            // As many as the request burst of a free plan allows.
            max_items: 25 * MAX_NAMES,
            price: ItemPrice::FREE,
        }
    }

    async fn provider(self, url: CdnUrl, http: HttpClient) -> Result<Box<dyn Provider>, ProviderError> {
        let token = self.token.clone();
        Ok(Box::new(Asked::new(self, Some(&token), url, http)?))
    }
}

impl Provider for Asked<CloudflareOptions> {
    fn limits(&self, kind: ItemKind) -> BatchLimits {
        let files = kind == ItemKind::Url && !self.options.origins.is_empty();
        let (requests, urls) = match self.options.plan {
            CloudflarePlan::Free => (Rate { burst: 25.0, per_second: 5.0 / 60.0 }, 800.0),
            CloudflarePlan::Pro => (Rate { burst: 25.0, per_second: 5.0 }, 1_500.0),
            CloudflarePlan::Business => (Rate { burst: 50.0, per_second: 10.0 }, 1_500.0),
            CloudflarePlan::Enterprise => (Rate { burst: 500.0, per_second: 50.0 }, 3_000.0),
        };
        let items = Rate { burst: urls, per_second: urls };
        BatchLimits {
            max_items: if files { (MAX_NAMES / (1 + self.options.origins.len())).max(1) } else { MAX_NAMES },
            max_bytes: 256 << 10,
            bytes_around: self.url.whole("").len() + 3,
            // Files are limited by files per second, not by requests.
            requests: if files { items } else { requests },
            items,
        }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async {
            let endpoint = self.options.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
            let url = format!("{endpoint}/client/v4/zones/{}/purge_cache", self.options.zone);
            let bearer = self.bearer();
            let headers: Vec<_> = Self::authorization(bearer.as_ref()).into_iter().collect();
            let request = json_request("POST", &url, &headers, &self.body(batch))?;
            judge(&self.http.send(request).await?, self.token.as_ref())
        })
    }
}
