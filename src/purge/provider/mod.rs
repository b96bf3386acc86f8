//! Providers: who is asked to forget, and how.
//!
//! | file | what |
//! |---|---|
//! | `options` | what the user sets |
//! | `batch` | items as portions that a provider takes at once |
//! | `http`, `secret`, `error` | requests, keys, refusals |
//! | `clouds/` | CloudFront, Fastly, Cloudflare, Bunny, Akamai |
//! | `caches/` | Varnish, nginx, a program of the user's |

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
use clouds::{Akamai, Bunny, Cloudflare, Fastly};
use http::HttpClient;

pub use batch::{BatchLimits, ItemKind, PurgeBatch, PurgeName, batches, names};
pub use clouds::EdgeGridSource;
pub use error::{ProviderError, SendError};
pub use options::{
    AkamaiOptions, BunnyOptions, CloudFrontOptions, CloudflareOptions, CloudflarePlan, CommandOptions, FastlyOptions,
    NginxOptions, ProviderOptions, PurgeOptions, VarnishOptions,
};
pub use secret::{PurgeSecret, SecretSource};

/// What a provider takes, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProviderFacts {
    /// Its name in the configuration, in metrics and in messages.
    pub name: &'static str,
    /// By what it can purge. The first is taken if the user says nothing.
    pub takes: &'static [PurgeBy],
    /// True if one item stands for everything below the target's URL.
    pub takes_everything: bool,
    /// True if tags and prefixes may be sent side by side.
    pub mixes: bool,
    /// The most items that are sent one by one; for more, fewer and larger ones are.
    pub max_items: usize,
    /// What an item costs.
    pub price: ItemPrice,
}

/// What items cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemPrice {
    /// Items of a month and an account that cost nothing.
    pub free_per_month: u64,
    /// Each further one, in US dollars.
    pub dollars: f64,
}

impl ItemPrice {
    /// Nothing.
    pub const FREE: ItemPrice = ItemPrice { free_per_month: u64::MAX, dollars: 0.0 };

    /// What a month with this many items costs, in US dollars.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "dollars are shown with cents")]
    pub fn dollars_of(&self, items: u64) -> f64 {
        items.saturating_sub(self.free_per_month) as f64 * self.dollars
    }
}

/// Who can be asked to forget.
///
/// The contract:
/// - [`Provider::send`] returns `Ok` only if the provider has taken every name of the batch. After an error it may have taken some: the
///   batch is sent again as a whole, with the same reference.
/// - It neither repeats a request nor waits for rates by itself: its caller does ([`Provider::limits`]).
/// - No error text holds a secret.
pub trait Provider: Send + Sync {
    /// What it takes, and what it costs.
    fn facts(&self) -> ProviderFacts;

    /// The documented limits of a kind of names.
    fn limits(&self, kind: ItemKind) -> BatchLimits;

    /// Asks it to forget.
    ///
    /// # Errors
    /// If it does not take the batch: for the moment, or until somebody changes something.
    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>>;
}

/// The provider that the options name. Reads its secrets.
///
/// # Errors
/// If they cannot be read.
pub async fn provider(options: &PurgeOptions) -> Result<Box<dyn Provider>, ProviderError> {
    let (url, http) = (options.url.clone(), HttpClient::new()?);
    Ok(match options.provider.clone() {
        #[cfg(feature = "s3")]
        ProviderOptions::CloudFront(options) => Box::new(CloudFront::new(options, http).await?),
        #[cfg(not(feature = "s3"))]
        ProviderOptions::CloudFront(_) => return Err(ProviderError::NotBuilt { provider: "cloudfront" }),
        ProviderOptions::Fastly(options) => Box::new(Fastly::new(options, url, http)?),
        ProviderOptions::Cloudflare(options) => Box::new(Cloudflare::new(options, url, http)?),
        ProviderOptions::Bunny(options) => Box::new(Bunny::new(options, url, http)?),
        ProviderOptions::Akamai(options) => Box::new(Akamai::new(options, url, http)?),
        ProviderOptions::Varnish(options) => Box::new(Varnish::new(options, url, http)),
        ProviderOptions::Nginx(options) => Box::new(Nginx::new(options, url, http)),
        ProviderOptions::Command(options) => Box::new(UserProgram::new(options, url)),
    })
}

/// Requests in flight of a batch whose names take a request each.
const MAX_REQUESTS_IN_FLIGHT: usize = 64;

/// Sends many requests, a bounded number at once; ends at the first error.
async fn many_at_once<F>(requests: Vec<F>) -> Result<(), SendError>
where
    F: Future<Output = Result<(), SendError>>,
{
    futures_util::stream::iter(requests).buffer_unordered(MAX_REQUESTS_IN_FLIGHT).try_collect::<()>().await
}
