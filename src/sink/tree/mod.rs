//! The common part of directories and S3 prefixes: each tile has a name of its own, and a run synchronizes the stored tiles.
//!
//! | file | what is in it |
//! |---|---|
//! | `template` | the names of tiles, built and read back |
//! | `options`, `publish` | what the user sets; versions and the current one |
//! | `inventory` | the tiles that the target holds at the beginning of a run |
//! | `intent` | runs that have begun to change the target and have not finished |
//! | `notes` | the files next to the tiles: TileJSON, metadata, `latest.json` |

mod intent;
mod inventory;
pub(super) mod notes;
mod options;
mod publish;
mod template;

pub(super) use intent::OpenIntents;
pub use intent::{Intent, IntentKind};
#[cfg(feature = "s3")]
pub(super) use inventory::Tag;
pub(super) use inventory::{Doomed, Inventory};
pub use inventory::{PartialScope, Scope};
pub use options::{Publishing, TreeOptions};
pub use publish::{Latest, SwitchError, Version, new_version};
pub(super) use template::OWN_FOLDER;
pub use template::{Template, TemplateError, is_own_name};
