//! CDNs are told what changed.

mod bucket_tags;
mod clouds;
mod command_line;
mod copies_and_versions;
mod delivery;
mod example_programs;
mod killed;
mod moto_cloudfront;
mod planning;
mod real_caches;
mod refusing_provider;
mod simulated_month;
mod tiers;
mod tls;

use oar_tiles::cdn::{ProviderOptions, PurgeBudget, PurgeOptions};

/// Options for a provider, with nothing but defaults.
fn options(provider: ProviderOptions) -> PurgeOptions {
    PurgeOptions {
        provider,
        url: "https://tiles.example.org/facilities/".parse().unwrap(),
        by: None,
        budget: PurgeBudget { items_per_month: None, min_interval: std::time::Duration::ZERO },
        wait: std::time::Duration::from_secs(30),
        required: false,
        rebound: None,
        settle: Some(std::time::Duration::ZERO),
    }
}
