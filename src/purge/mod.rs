//! Purging CDNs: which cached tiles a publish made stale, and how a provider is asked to forget them.
//!
//! ```text
//!  changed tiles ─► outbox ─► items (tags, paths, prefixes) ─► batches ─► provider ─► confirmed: out of the outbox
//!                   outbox    items                            pace, provider, sender
//! ```
//!
//! | folder | what |
//! |---|---|
//! | `items` | from changed tiles to the fewest items that hit them, within a limit |
//! | `pace` | providers' rates, the user's budget, pauses after a refusal |
//! | `provider` | the CDNs and caches, and how each one is asked |
//! | `sender` | batches sent within the rates, until a deadline |
//! | `outbox`, `queue` | what providers have not confirmed yet, kept with the target |
//! | `target`, `planning` | what is known of the target; from waiting entries to items |
//! | `delivery` | from the outbox to the provider, until it is confirmed |
//! | `dry_run`, `metrics` | what would be sent; what waits, for Prometheus |

mod delivery;
mod dry_run;
mod items;
mod metrics;
mod outbox;
mod pace;
mod planning;
mod provider;
mod queue;
mod sender;
mod target;

pub use delivery::{Delivered, DeliveryEnd, DeliveryPatience, deliver, queue_name};
pub use dry_run::{PlannedPurge, planned};
pub use items::{
    BandTags, CdnPath, CdnUrl, CdnUrlError, Cover, FullPyramid, ListedCounts, MAX_TILES_TOLD_APART, PlanRules, PurgeBy,
    PurgeItem, PurgePlan, TileAddresses, TileCounts, TilesToPurge, band_tags, cheapest_cover, plan,
};
pub use metrics::purge_metrics;
pub use outbox::{Outbox, OutboxEntry, OutboxError, OutboxWriter};
pub use pace::{PurgeAllowance, PurgeBackoff, PurgeBudget, Rate, SpentItems, TokenBucket, retry_after};
pub use provider::{
    BatchLimits, CloudFrontOptions, CloudflareOptions, CloudflarePlan, CommandOptions,
    FastlyOptions, ItemKind, ItemPrice, NginxOptions, Provider, ProviderError, ProviderFacts,
    ProviderOptions, PurgeBatch, PurgeName, PurgeOptions, PurgeSecret, SecretSource, SendError, VarnishOptions,
    batches, names, provider,
};
pub use queue::{PurgeQueue, Rebound, SentEntries, tiles_of};
pub use sender::{SendEnd, Sent, send};
pub use target::{AllTiles, PurgeTarget, TagSender};

#[cfg(test)]
mod simulation;
