//! Targets that keep each tile under a name of its own, directories and buckets: how names are built, and what of the
//! tileset is there already.

mod inventory;
mod template;

pub(super) use inventory::{Inventory, Tag};
pub use inventory::{InventoryError, Scope};
pub use template::{Template, TemplateError};
