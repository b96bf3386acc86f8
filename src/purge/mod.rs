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
//! | `provider` | who is asked, and how |
//! | `sender` | batches sent within the rates, until a deadline |
//! | `outbox` | what providers have not been told yet, kept with the target |
//! | `delivery` | from the outbox to the provider, until it is confirmed |

mod delivery;
mod items;
mod outbox;
mod pace;
mod provider;
mod sender;

pub use delivery::{AllTiles, Delivered, DeliveryEnd, PlannedPurge, PurgeTarget, deliver, planned, queue_name};
pub use items::{
    BandTags, CdnPath, CdnUrl, CdnUrlError, Cover, FullPyramid, ListedCounts, MAX_TILES_TOLD_APART, PlanRules, PurgeBy,
    PurgeItem, PurgePlan, TileAddresses, TileCounts, TilesToPurge, TilesetTag, band_tags, cheapest_cover, plan,
};
pub use outbox::{Outbox, OutboxEntry, OutboxError, OutboxWriter, PurgeQueue, tiles_of};
pub use pace::{PurgeAllowance, PurgeBackoff, PurgeBudget, Rate, SpentItems, TokenBucket, retry_after};
pub use provider::{
    AkamaiOptions, BatchLimits, BunnyOptions, CloudFrontOptions, CloudflareOptions, CloudflarePlan, CommandOptions,
    EdgeGridSource, FastlyOptions, ItemKind, ItemPrice, NginxOptions, Provider, ProviderError, ProviderFacts,
    ProviderOptions, PurgeBatch, PurgeName, PurgeOptions, PurgeSecret, SecretSource, SendError, VarnishOptions,
    batches, names, provider,
};
pub use sender::{SendEnd, Sent, send};

#[cfg(test)]
mod simulation;
