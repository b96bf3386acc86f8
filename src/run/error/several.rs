//! Errors of one command for several tilesets, or for the variants of one.

use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::suggested::RESEED;

/// Why a command for several tilesets or variants ended without success.
#[derive(Debug, thiserror::Error)]
pub enum SeveralError {
    /// Some of several tilesets failed.
    #[error("tilesets that failed: {} of {of} ({}), each for the reason given above. Run the command again for them alone, with {}",
        tilesets.len(), tilesets.join(", "), again(tilesets))]
    Tilesets {
        /// Their names.
        tilesets: Vec<String>,
        /// How many tilesets the command was run for.
        of: usize,
        /// What kind of failure this is altogether.
        kind: ErrorKind,
    },
    /// Some variants of a tileset failed.
    #[error("variants of {tileset} that failed: {failed} of {of}, each for the reason given above: {}{}. Run the command again",
        outputs.join(", "), if outputs.len() < *failed { ", …" } else { "" })]
    Variants {
        /// The tileset.
        tileset: String,
        /// The outputs of the first ones.
        outputs: Vec<String>,
        /// How many failed.
        failed: usize,
        /// How many variants there are.
        of: usize,
        /// What kind of failure this is altogether.
        kind: ErrorKind,
    },
    /// Some targets of a run of shards failed. The run is committed all the same.
    #[error(
        "the run is committed, but {failed} of {of} {what} failed, each for the reason given above: {named}. Once the causes are gone, {RESEED}{flags} makes up for it"
    )]
    Committed {
        /// What failed: "tilesets" or "variants".
        what: &'static str,
        /// How many failed.
        failed: usize,
        /// How many there are.
        of: usize,
        /// The names or outputs of the first ones.
        named: String,
        /// The flags that choose them, with a space before them.
        flags: String,
        /// What kind of failure this is altogether.
        kind: ErrorKind,
    },
    /// A target is no variant.
    #[error(
        "{target} is no output of a variant of {tileset}: its variants go to {output}, for the values that its query gives now"
    )]
    NoVariant {
        /// The target.
        target: String,
        /// The tileset.
        tileset: String,
        /// The output, with `{name}` for the values.
        output: String,
    },
    /// A flag or command that does not work with variants.
    #[error("{what} is not for a tileset with variants ({tileset}): {next}")]
    NotForVariants {
        /// The flag or command.
        what: &'static str,
        /// The tileset.
        tileset: String,
        /// What to do instead.
        next: &'static str,
    },
    /// The folder of a variant cannot be made.
    #[error("cannot make the folder {} of a variant: choose another output below [tileset.variants]", path.display())]
    NoVariantFolder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A target of a vanished variant cannot be deleted.
    #[error("{} cannot be deleted: look into the cause, then run the command again with --prune-variants", path.display())]
    NotRemoved {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl SeveralError {
    /// The same error for a run of shards that is committed: the run cannot be committed again.
    #[must_use]
    pub fn after_commit(self) -> SeveralError {
        match self {
            SeveralError::Tilesets { tilesets, of, kind } => SeveralError::Committed {
                what: "tilesets",
                failed: tilesets.len(),
                of,
                named: tilesets.join(", "),
                flags: format!(" {}", again(&tilesets)),
                kind,
            },
            SeveralError::Variants { outputs, failed, of, kind, .. } => {
                let more = if outputs.len() < failed { ", …" } else { "" };
                let named = format!("{}{more}", outputs.join(", "));
                SeveralError::Committed { what: "variants", failed, of, named, flags: String::new(), kind }
            }
            other => other,
        }
    }

    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            SeveralError::Tilesets { kind, .. }
            | SeveralError::Variants { kind, .. }
            | SeveralError::Committed { kind, .. } => *kind,
            SeveralError::NoVariant { .. }
            | SeveralError::NotForVariants { .. }
            | SeveralError::NoVariantFolder { .. } => ErrorKind::Usage,
            SeveralError::NotRemoved { .. } => ErrorKind::Failed,
        }
    }
}

/// The flags that choose tilesets.
fn again(tilesets: &[String]) -> String {
    tilesets.iter().map(|name| format!("--tileset {name}")).collect::<Vec<_>>().join(" ")
}
