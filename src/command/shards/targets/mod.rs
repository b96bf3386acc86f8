//! Shards that are whole targets: several tilesets of one configuration, and the variants of a tileset.
//!
//! Each target is seeded by one shard into its own place, as `seed` does. The commit brings all of them to one state, as `reseed` does, and a family's
//! manifest is written last.
//!
//! | file | what |
//! |---|---|
//! | `check` | whether the configuration is that of the plan, and can be divided so |
//! | `begin` | the plan |
//! | `run` | seeds the targets of one shard |
//! | `commit` | what the shards have seeded, and the snapshot that has seen all of it |

mod begin;
mod check;
mod commit;
mod run;

pub use begin::begin_targets;
pub use check::of_targets_plan;
pub use commit::{ReadyTargets, end_targets, ready_targets};
pub use run::run_targets;
