//! The sections `[[purge]]`, checked.

use std::time::Duration;

use super::error::ConfigError;
use super::settings::{Check, TilesetSettings};
use crate::cdn::{
    CdnUrl, CdnUrlError, ItemPrice, ProviderOptions, PurgeBudget, PurgeBy, PurgeKeyError, PurgeOptions, PurgeProvider,
    PurgeSection,
};

/// The default delay after which items that cost nothing are purged again: an edge may have fetched the old tile again
/// from a shield that was purged after the edge.
const REBOUND: Duration = Duration::from_secs(10);

/// The default of the least time between two purges that cost money.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

impl TilesetSettings {
    /// True if publications purge, by tag, every tile of which a row has changed, also if only its columns for filters
    /// have. Then CDNs may keep tiles with a filter.
    pub(crate) fn purges_filtered(&self) -> bool {
        // Objects of a bucket carry tags of their own, not those of a server.
        !self.filters.parameters.is_empty()
            && !self.purges.is_empty()
            && self.purges.iter().all(|purge| purge.section.by == Some(PurgeBy::Tag))
            && !self.bucket.has_band()
            && !self.tree.template.is_versioned()
    }
}

impl Check<'_> {
    pub(crate) fn purges(&self, given: &[PurgeSection]) -> Result<Vec<PurgeOptions>, ConfigError> {
        let mut purges = given.iter().map(|section| self.purge(section)).collect::<Result<Vec<_>, _>>()?;
        let variables = given.iter().map(|section| (section.provider, section.token_variable.clone()));
        let secrets: Vec<String> = variables
            .filter(|(provider, _)| *provider != PurgeProvider::Command)
            .filter_map(|(_, variable)| variable)
            .collect();
        for purge in &mut purges {
            if let ProviderOptions::Command(options) = &mut purge.provider {
                options.others_variables.clone_from(&secrets);
            }
        }
        Ok(purges)
    }

    fn purge(&self, given: &PurgeSection) -> Result<PurgeOptions, ConfigError> {
        let url: CdnUrl = given
            .url
            .parse()
            .map_err(|error: CdnUrlError| self.wrong("purge.url", format!("{:?} {error}", given.url)))?;
        let unfit = |error: PurgeKeyError| self.wrong(&format!("purge.{}", error.key), error.what);
        given.keys_fit().map_err(unfit)?;
        let provider = ProviderOptions::of(given).map_err(unfit)?;
        let costs = provider.facts().price != ItemPrice::FREE;
        let rebound = given.rebound.map_or(if costs { Duration::ZERO } else { REBOUND }, Duration::from);
        Ok(PurgeOptions {
            section: given.clone(),
            provider,
            url,
            budget: PurgeBudget {
                items_per_month: given.budget_per_month,
                min_interval: given
                    .min_interval
                    .map_or(if costs { MIN_INTERVAL } else { Duration::ZERO }, Duration::from),
            },
            rebound: (rebound > Duration::ZERO).then_some(rebound),
        })
    }
}
