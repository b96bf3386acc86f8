//! Providers: the CDNs and caches that purge tiles, and how each one is asked. The code of those with an API of their
//! own was checked against the documented APIs, not with live accounts.
//!
//! | file | what |
//! |---|---|
//! | `batch` | items in portions that a provider takes in one request |
//! | `options`, `http` | what the user sets; requests, keys, refusals |
//! | `cloudflare` | Cloudflare: `purge_cache` of a zone by tag, prefix or file (Cloudflare API, "Purge Cached Content"; all plans since April 2025) |
//! | `cloudfront`, `cloudfront_api` | Amazon CloudFront: what it takes, in every program; `CreateInvalidation` (API version 2020-05-31), signed with Signature Version 4, in a program with S3 |
//! | `command` | a program that the user provides: for webhooks, and for CDNs that are not built in |
//! | `fastly` | Fastly: batch purges by surrogate key, single purges by URL, purge all (Fastly API reference, "Purging") |
//! | `nginx` | nginx with the module `ngx_cache_purge`: `PURGE` of exact URLs; prefixes only with a version that knows `*` |
//! | `varnish` | Varnish: `PURGE` of exact URLs, xkey, and bans for prefixes, with the VCL that `examples/varnish.vcl` shows |

mod batch;
mod cloudflare;
mod cloudfront;
#[cfg(feature = "s3")]
mod cloudfront_api;
mod command;
mod fastly;
mod http;
mod nginx;
mod options;
mod varnish;

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::HttpClient;
use options::ProviderKeys;
use schemars::JsonSchema;
use serde::Deserialize;

use super::items::{CdnUrl, PurgeBy};
use super::pace::Rate;
use crate::setting::Secret;

pub(crate) use batch::{BatchLimits, PurgeName};
pub use batch::{ItemKind, PurgeBatch, batches, names};
pub use cloudflare::{CloudflareOptions, CloudflarePlan};
pub use cloudfront::CloudFrontOptions;
pub use command::CommandOptions;
pub use fastly::FastlyOptions;
pub use nginx::NginxOptions;
pub(crate) use options::{PurgeKeyError, has_program};
pub use options::{PurgeOptions, PurgeSection, SecretSource};
pub use varnish::VarnishOptions;

/// What a provider takes, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProviderFacts {
    /// Its name in the configuration, in metrics and in messages.
    pub name: &'static str,
    /// The kinds of items by which it can purge. The first is the default.
    pub takes: &'static [PurgeBy],
    /// True if one item stands for everything below the target's URL.
    pub takes_everything: bool,
    /// True if a purge by tag may use addresses and prefixes instead where there are too many tags.
    pub mixes: bool,
    /// The most items of one purge. A purge that would need more uses fewer items that each hit more tiles.
    pub max_items: usize,
    pub price: ItemPrice,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemPrice {
    /// The items per month and account that cost nothing.
    pub free_per_month: u64,
    /// The price of each further item, in US dollars.
    pub dollars: f64,
}

impl ItemPrice {
    pub const FREE: ItemPrice = ItemPrice { free_per_month: u64::MAX, dollars: 0.0 };

    /// What a month with this many items costs, in US dollars.
    pub fn dollars_of(&self, items: u64) -> f64 {
        items.saturating_sub(self.free_per_month) as f64 * self.dollars
    }
}

/// A CDN or cache that can be asked to forget tiles.
///
/// The contract:
/// - [`Provider::send`] returns `Ok` only if the provider has accepted every name of the batch. After an error it may
///   have accepted some: the whole batch is sent again, with the same reference.
/// - It neither retries a request nor waits for the rates ([`Provider::limits`]): its caller does both.
/// - No error text holds a secret.
pub trait Provider: Send + Sync {
    /// The documented limits of a kind of names.
    fn limits(&self, kind: ItemKind) -> BatchLimits;

    /// Asks the provider to forget the names of a batch.
    /// Fails if the provider does not accept the batch: for the moment, or until somebody changes something.
    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>>;
}

/// What the user sets for a provider.
trait ProviderKind: Sized {
    /// What it reads of its section.
    const KEYS: ProviderKeys;

    /// The options that a section gives.
    fn of(given: &PurgeSection) -> Result<Self, PurgeKeyError>;

    /// What the provider takes, and what it costs.
    fn facts(&self) -> ProviderFacts;

    /// The provider, which purges what is below `url`. Reads its secrets.
    async fn provider(self, url: CdnUrl, http: HttpClient) -> Result<Box<dyn Provider>, ProviderError>;
}

/// Defines all providers: the name of each in the code, in the configuration, metrics and messages, and its options. To
/// add one, write a file with its options and its [`Provider`], and a row here. New keys go into `PurgeSection` and
/// `sample-config.toml`.
macro_rules! providers {
    ($($(#[$attribute:meta])? $variant:ident $name:literal $options:ident,)+) => {
        /// Who is asked.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
        pub enum PurgeProvider {
            $($(#[$attribute])? #[serde(rename = $name)] $variant,)+
        }

        impl PurgeProvider {
            const ALL: &[PurgeProvider] = &[$(PurgeProvider::$variant,)+];

            /// Its name in the configuration, in metrics and in messages.
            const fn name(self) -> &'static str {
                match self {
                    $(PurgeProvider::$variant => $name,)+
                }
            }

            /// What it reads of its section.
            const fn keys(self) -> ProviderKeys {
                match self {
                    $(PurgeProvider::$variant => $options::KEYS,)+
                }
            }
        }

        #[derive(Debug, Clone)]
        pub enum ProviderOptions {
            $($variant($options),)+
        }

        impl ProviderOptions {
            /// The options that a section gives.
            pub(crate) fn of(given: &PurgeSection) -> Result<ProviderOptions, PurgeKeyError> {
                Ok(match given.provider {
                    $(PurgeProvider::$variant => ProviderOptions::$variant($options::of(given)?),)+
                })
            }

            /// What the provider takes, and what it costs.
            pub fn facts(&self) -> ProviderFacts {
                match self {
                    $(ProviderOptions::$variant(options) => options.facts(),)+
                }
            }
        }

        /// The provider that the options name. Reads its secrets.
        pub async fn provider(options: &PurgeOptions) -> Result<Box<dyn Provider>, ProviderError> {
            let (url, http) = (options.url.clone(), HttpClient::new()?);
            match options.provider.clone() {
                $(ProviderOptions::$variant(options) => options.provider(url, http).await,)+
            }
        }
    };
}

providers! {
    #[default]
    CloudFront "cloudfront" CloudFrontOptions,
    Fastly "fastly" FastlyOptions,
    Cloudflare "cloudflare" CloudflareOptions,
    Varnish "varnish" VarnishOptions,
    Nginx "nginx" NginxOptions,
    Command "command" CommandOptions,
}

impl ProviderOptions {
    /// Its name in the configuration, in metrics and in messages.
    pub fn name(&self) -> &'static str {
        self.facts().name
    }
}

/// The most requests in flight of a batch in which each name takes one request.
const MAX_REQUESTS_IN_FLIGHT: usize = 64;

/// Sends many requests, a bounded number at once; ends at the first error.
async fn many_at_once<F>(requests: Vec<F>) -> Result<(), SendError>
where
    F: Future<Output = Result<(), SendError>>,
{
    futures_util::stream::iter(requests).buffer_unordered(MAX_REQUESTS_IN_FLIGHT).try_collect::<()>().await
}

// Errors: why a provider cannot be asked, or does not accept a request.

/// Why a provider cannot be asked at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    #[error("no secret can be read from {place}: {what}")]
    Secret { place: String, what: String },
    #[error(
        "{provider} cannot be asked: this oar-tiles was built without S3. Use a released program, or build one with --features s3"
    )]
    NotBuilt { provider: &'static str },
    #[error("TLS cannot be set up: {what}")]
    Tls { what: String },
}

/// Why a provider did not accept a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The provider may accept the same request later.
    #[error("{what}")]
    Later {
        /// The text of its answer, or what went wrong; without secrets.
        what: String,
        retry_after: Option<Duration>,
    },
    /// The provider refuses the same request until somebody changes something: a key, a right, the configuration.
    #[error("{what}")]
    Refused {
        /// The text of its answer, or what went wrong; without secrets.
        what: String,
    },
}

impl SendError {
    pub const fn later(what: String) -> SendError {
        SendError::Later { what, retry_after: None }
    }

    pub const fn refused(what: String) -> SendError {
        SendError::Refused { what }
    }
}

// Caches that users run themselves, and a program that users provide.

/// A provider that is asked over HTTP, with what it needs for a request.
struct Asked<K> {
    options: K,
    token: Option<Secret>,
    url: CdnUrl,
    http: HttpClient,
}

impl<K> Asked<K> {
    fn new(options: K, token: Option<&SecretSource>, url: CdnUrl, http: HttpClient) -> Result<Asked<K>, ProviderError> {
        Ok(Asked { token: token.map(SecretSource::read).transpose()?, options, url, http })
    }

    /// The value of `Authorization` (RFC 6750, section 2.1), if there is a token.
    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {}", token.0))
    }

    /// The header of a request, of what [`Asked::bearer`] returned.
    fn authorization(bearer: Option<&String>) -> Option<(&'static str, &str)> {
        bearer.map(|bearer| ("authorization", bearer.as_str()))
    }
}

/// The rate of providers that have no limit.
const OWN_RATE: Rate = Rate { burst: 1_000_000.0, per_second: 1_000_000.0 };
