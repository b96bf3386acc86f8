//! Purging CDNs: which cached tiles a publish made stale, and how a provider is asked to forget them.
//!
//! ```text
//!  changed tiles ─► outbox ─► items (tags, paths, prefixes) ─► batches ─► provider ─► confirmed: out of the outbox
//!                   outbox    items                            pace, delivery, provider
//! ```
//!
//! | folder | what |
//! |---|---|
//! | `items/` | from changed tiles to the fewest items that hit them, within a limit |
//! | `pace` | providers' rates, the user's budget, pauses after a refusal |
//! | `provider/` | the CDNs and caches, and how each one is asked |
//! | `planning` | what is known of the target; from waiting entries to items |
//! | `delivery` | batches sent within the rates, until a deadline; from the outbox to the provider, until it is confirmed |
//! | `outbox` | what providers have not confirmed yet, kept with the target; the same for Prometheus |

mod delivery;
mod items;
mod outbox;
mod pace;
mod planning;
mod provider;

pub use delivery::{
    Delivered, DeliveryEnd, DeliveryPatience, PlannedPurge, SendEnd, Sent, deliver, planned, queue_name, send,
};
pub use items::{CdnUrl, CdnUrlError, FullPyramid, PlanRules, PurgeBy, PurgeItem, TileAddresses, TilesToPurge, plan};
pub use outbox::{LabelledOutbox, Outbox, OutboxEntry, OutboxError, OutboxWriter, PurgeQueue, purge_metrics, tiles_of};
pub(crate) use pace::{PAUSES, pause, retry_after};
pub use pace::{PurgeAllowance, PurgeBudget, SpentItems, TokenBucket};
pub use planning::{AllTiles, PurgeTarget, TagSender};
pub use provider::{
    CloudFrontOptions, CloudflareOptions, CloudflarePlan, CommandOptions, FastlyOptions, ItemKind, ItemPrice,
    NginxOptions, Provider, ProviderError, ProviderFacts, ProviderOptions, PurgeBatch, PurgeOptions, PurgeProvider,
    PurgeSection, SecretSource, VarnishOptions, batches, names, provider,
};
pub(crate) use provider::{PurgeKeyError, has_program};
