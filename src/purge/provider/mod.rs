//! Providers: the CDNs and caches that purge tiles, and how each one is asked.
//!
//! | file | what |
//! |---|---|
//! | `options` | what the user sets |
//! | `batch` | items in portions that a provider takes in one request |
//! | `http`, `secret`, `error` | requests, keys, refusals |
//! | `clouds/` | CloudFront, Fastly, Cloudflare |
//! | `caches/` | Varnish, nginx, a program that the user provides |

mod batch;
mod caches;
mod clouds;
mod error;
mod http;
mod options;
mod secret;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::items::PurgeBy;
use caches::{Nginx, UserProgram, Varnish};
#[cfg(feature = "s3")]
use clouds::CloudFront;
use clouds::{Cloudflare, Fastly};
use http::HttpClient;

pub use batch::{BatchLimits, ItemKind, PurgeBatch, PurgeName, batches, names};
pub use error::{ProviderError, SendError};
pub use options::{
    CloudFrontOptions, CloudflareOptions, CloudflarePlan, CommandOptions, FastlyOptions, NginxOptions, ProviderOptions,
    PurgeOptions, VarnishOptions,
};
pub use secret::{PurgeSecret, SecretSource};

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
    /// What an item costs.
    pub price: ItemPrice,
}

/// What items cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemPrice {
    /// The items per month and account that cost nothing.
    pub free_per_month: u64,
    /// The price of each further item, in US dollars.
    pub dollars: f64,
}

impl ItemPrice {
    /// Items cost nothing.
    pub const FREE: ItemPrice = ItemPrice { free_per_month: u64::MAX, dollars: 0.0 };

    /// What a month with this many items costs, in US dollars.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "dollars are shown with cents")]
    pub fn dollars_of(&self, items: u64) -> f64 {
        items.saturating_sub(self.free_per_month) as f64 * self.dollars
    }
}

/// A CDN or cache that can be asked to forget tiles.
///
/// The contract:
/// - [`Provider::send`] returns `Ok` only if the provider has accepted every name of the batch. After an error it may have accepted some: the whole
///   batch is sent again, with the same reference.
/// - It neither retries a request nor waits for the rates ([`Provider::limits`]): its caller does both.
/// - No error text holds a secret.
pub trait Provider: Send + Sync {
    /// What it takes, and what it costs.
    fn facts(&self) -> ProviderFacts;

    /// The documented limits of a kind of names.
    fn limits(&self, kind: ItemKind) -> BatchLimits;

    /// Asks the provider to forget the names of a batch.
    ///
    /// # Errors
    /// If the provider does not accept the batch: for the moment, or until somebody changes something.
    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>>;
}

/// The provider that the options name. Reads its secrets.
///
/// # Errors
/// If the secrets cannot be read.
pub async fn provider(options: &PurgeOptions) -> Result<Box<dyn Provider>, ProviderError> {
    let (url, http) = (options.url.clone(), HttpClient::new()?);
    Ok(match options.provider.clone() {
        #[cfg(feature = "s3")]
        ProviderOptions::CloudFront(options) => Box::new(CloudFront::new(options, http).await?),
        #[cfg(not(feature = "s3"))]
        ProviderOptions::CloudFront(_) => return Err(ProviderError::NotBuilt { provider: "cloudfront" }),
        ProviderOptions::Fastly(options) => Box::new(Fastly::new(options, url, http)?),
        ProviderOptions::Cloudflare(options) => Box::new(Cloudflare::new(options, url, http)?),
        ProviderOptions::Varnish(options) => Box::new(Varnish::new(options, url, http)?),
        ProviderOptions::Nginx(options) => Box::new(Nginx::new(options, url, http)?),
        ProviderOptions::Command(options) => Box::new(UserProgram::new(options, url)),
    })
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
