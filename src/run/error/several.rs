//! Errors of one command for several tilesets, or for the variants of one.

use std::path::PathBuf;

use crate::error::ErrorKind;

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
    /// `--variant` names a variant that is not there.
    #[error("{tileset} has no variant \"{wanted}\"{hint}")]
    UnknownVariant {
        /// The name.
        wanted: String,
        /// The tileset.
        tileset: String,
        /// A similar name, or how to list them.
        hint: String,
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
    /// What kind of failure this is.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            SeveralError::Tilesets { kind, .. } | SeveralError::Variants { kind, .. } => *kind,
            SeveralError::NoVariant { .. }
            | SeveralError::NotForVariants { .. }
            | SeveralError::UnknownVariant { .. }
            | SeveralError::NoVariantFolder { .. } => ErrorKind::Usage,
            SeveralError::NotRemoved { .. } => ErrorKind::Failed,
        }
    }
}

/// The flags that choose tilesets.
fn again(tilesets: &[String]) -> String {
    tilesets.iter().map(|name| format!("--tileset {name}")).collect::<Vec<_>>().join(" ")
}
