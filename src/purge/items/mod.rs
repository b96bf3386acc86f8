//! What is purged: from changed tiles to the items that a CDN is asked to forget. Pure values.
//!
//! | file | what |
//! |---|---|
//! | `changes` | the tiles to forget, merged |
//! | `item` | one thing to forget: a tile, a prefix, a tag |
//! | `cover`, `counts` | the cheapest items by address |
//! | `tags` | the tags of tiles, by bands of zooms |
//! | `plan` | which of them, by the rules of a provider |
//! | `address` | what an item is called at a CDN |

mod address;
mod changes;
mod counts;
mod cover;
mod item;
mod plan;
mod tags;

pub use address::{CdnPath, CdnUrl, CdnUrlError, TileAddresses};
pub use changes::{MAX_TILES_TOLD_APART, TilesToPurge};
pub use counts::{FullPyramid, ListedCounts, TileCounts};
pub use cover::{Cover, cheapest_cover};
pub use item::PurgeItem;
pub use plan::{PlanRules, PurgeBy, PurgePlan, plan};
pub use tags::{BandTags, band_tags};
