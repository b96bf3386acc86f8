//! The common part of directories and S3 prefixes: each tile has a name of its own, and a run synchronizes the stored
//! tiles.
//!
//! | file | what is in it |
//! |---|---|
//! | `template` | the names of tiles, built and read back |
//! | `publish` | what the user sets; versions and the current one |
//! | `inventory` | the tiles that the target holds at the beginning of a run |
//! | `intent` | runs that have begun to change the target and have not finished |
//! | `run` | what a run may do with a target, and what becomes of each edit |
//! | `store` | what a run needs of a kind of target |
//! | `begin` | the beginning of a run: whose target it is, its tiles, the note of the run |
//! | `end` | the end of a run: deletions, notes with the manifest last, versions |
//! | `notes` | the files next to the tiles: TileJSON, metadata, `latest.json` |

mod begin;
mod end;
mod intent;
mod inventory;
pub(crate) mod notes;
mod publish;
mod run;
mod store;
mod template;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::setting::{TimeSpan, no_key_is_required};

pub(crate) use begin::begin;
pub(crate) use end::{end, switch};
pub(crate) use intent::OpenIntents;
pub use intent::{Intent, IntentKind};
pub use inventory::PartialScope;
pub(crate) use inventory::Tag;
pub(crate) use inventory::{Doomed, Inventory};
pub(crate) use notes::documents;
pub(crate) use publish::unused_version;
pub use publish::{Latest, SwitchError, Version, new_version};
pub(crate) use run::{TreeRefusal, TreeRun, TreeState, template_of_run};
pub(crate) use store::{BEGUN, TreeStore, VERSIONS};
pub(crate) use template::OWN_FOLDER;
pub use template::{Template, TemplateError, is_own_name};

// What the user sets for a directory or an S3 prefix.

// The section `[target]`; `sample-config.toml` says what each key means.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub struct TargetSection {
    pub template: String,
    pub compression: Compression,
    pub publish: PublishMode,
    pub keep_versions: usize,
    pub keep_for: TimeSpan,
    pub public_url: Option<String>,
}

/// How a directory or a bucket stores tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    Gzip,
    None,
}

/// How clients get to see a run's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PublishMode {
    #[default]
    InPlace,
    Versioned,
}

/// How a directory or an S3 prefix is written.
#[derive(Debug, Clone)]
pub struct TreeOptions {
    pub section: TargetSection,
    /// The names of tiles below the target.
    pub template: Template,
    /// How clients get to see a run's tiles.
    pub publish: Publishing,
    /// True to write into a target that holds another tileset, or files of other programs.
    pub force: bool,
    /// The URL under which clients find the target, for TileJSON. Empty: the TileJSON has relative addresses on
    /// purpose. `None`: the URL that an earlier run was given, or relative addresses if there is none.
    pub public_url: Option<String>,
}

impl TreeOptions {
    /// True if tiles are stored as gzip.
    pub(crate) fn packs(&self) -> bool {
        self.section.compression == Compression::Gzip
    }

    /// The relative address of tiles that the TileJSON will have, if no public URL is known. Map clients do not resolve
    /// it.
    pub(crate) fn relative_address(&self) -> Option<String> {
        // `{layer}` and `{version}` stay placeholders in this text, which is shown in a warning.
        self.public_url.is_none().then(|| self.template.text().to_owned())
    }
}

/// How clients get to see a run's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publishing {
    /// Tiles that differ are replaced one by one.
    InPlace,
    /// All tiles are written under the name of a new version; when they are complete, TileJSON and `latest.json` are
    /// switched to it.
    Versioned {
        /// How many old versions stay, at least.
        keep: usize,
        /// How long an old version stays, at least.
        keep_for: Duration,
    },
}
