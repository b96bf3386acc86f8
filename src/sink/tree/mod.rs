//! Targets that keep each tile under a name of its own, directories and buckets: how names are built, and what of the
//! tileset is there already.

mod intent;
mod inventory;
pub(super) mod notes;
mod options;
mod publish;
mod template;

pub(super) use intent::OpenIntents;
pub use intent::{Intent, IntentKind};
pub use inventory::Scope;
pub(super) use inventory::{Doomed, Inventory, Tag};
pub use options::{Publish, TreeOptions};
pub use publish::{Latest, SwitchError, Version, new_version};
pub(super) use template::OWN_FOLDER;
pub use template::{Template, TemplateError, is_own_name};
