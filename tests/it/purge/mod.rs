//! CDNs are told what changed.

mod bucket_tags;
mod clouds;
mod command_line;
mod copies_and_versions;
mod delivery;
mod example_programs;
mod filtered;
mod killed;
mod moto_cloudfront;
mod planning;
mod real_caches;
mod refusing_provider;
mod simulated_month;
mod tiers;
mod tls;

use oar_tiles::cdn::{ProviderOptions, PurgeBudget, PurgeOptions, PurgeSection};

/// Options for a provider, with nothing but defaults.
fn options(provider: ProviderOptions) -> PurgeOptions {
    PurgeOptions {
        section: PurgeSection { settle: Some(std::time::Duration::ZERO.into()), ..PurgeSection::default() },
        provider,
        url: "https://tiles.example.org/facilities/".parse().unwrap(),
        budget: PurgeBudget { items_per_month: None, min_interval: std::time::Duration::ZERO },
        rebound: None,
    }
}
