//! Shards that are whole targets: several tilesets of one configuration, and the variants of a tileset.
//!
//! Each target is seeded by one shard into its final place, as `seed` does. The commit brings all of them to one state, as `reseed` does, and
//! writes a family's manifest last.
//!
//! | file | what |
//! |---|---|
//! | `check` | checks that the configuration is that of the plan, and can be divided |
//! | `begin` | the plan |
//! | `run` | seeds the targets of one shard |
//! | `commit` | collects what the shards have seeded, and takes a snapshot that has seen all of it |

mod begin;
mod check;
mod commit;
mod run;

pub use begin::begin_targets;
pub use check::of_targets_plan;
pub use commit::{ReadyTargets, end_targets, ready_targets};
pub use run::run_targets;
