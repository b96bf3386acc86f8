//! What Amazon CloudFront takes and needs. `cloudfront_api` sends the requests.

use super::http::HttpClient;
use super::options::{ProviderKeys, PurgeKeyError, PurgeSection, name_in_path, provider_keys};
use super::{ItemPrice, Provider, ProviderError, ProviderFacts, ProviderKind, PurgeProvider};
use crate::cdn::items::{CdnUrl, PurgeBy};

/// The most paths and tags of invalidations in progress (Developer Guide, "Concurrent invalidation request maximum").
const MAX_PATHS: usize = 3_000;

/// A distribution of CloudFront; credentials come from the AWS SDK's chain.
#[derive(Debug, Clone)]
pub struct CloudFrontOptions {
    pub distribution: String,
    /// The profile of the shared AWS configuration.
    pub profile: Option<String>,
    /// The API, if it is not Amazon's.
    pub endpoint: Option<String>,
}

impl ProviderKind for CloudFrontOptions {
    const KEYS: ProviderKeys =
        ProviderKeys { own: provider_keys!(distribution, profile, endpoint), token_variable: None };

    fn of(given: &PurgeSection) -> Result<CloudFrontOptions, PurgeKeyError> {
        let endpoint = given.api()?;
        Ok(CloudFrontOptions {
            distribution: name_in_path("distribution", given.distribution.as_deref())?,
            profile: given.profile.clone(),
            endpoint,
        })
    }

    fn facts(&self) -> ProviderFacts {
        ProviderFacts {
            name: PurgeProvider::CloudFront.name(),
            // Tags need CacheTagConfig in the distribution, so they are not the default.
            takes: &[PurgeBy::Path, PurgeBy::Tag, PurgeBy::Url, PurgeBy::All],
            takes_everything: true,
            mixes: true,
            max_items: MAX_PATHS,
            price: ItemPrice { free_per_month: 1_000, dollars: 0.005 },
        }
    }

    #[cfg(feature = "s3")]
    async fn provider(self, _: CdnUrl, http: HttpClient) -> Result<Box<dyn Provider>, ProviderError> {
        Ok(Box::new(super::cloudfront_api::CloudFront::new(self, http).await?))
    }

    #[cfg(not(feature = "s3"))]
    async fn provider(self, _: CdnUrl, _: HttpClient) -> Result<Box<dyn Provider>, ProviderError> {
        Err(ProviderError::NotBuilt { provider: PurgeProvider::CloudFront.name() })
    }
}
