//! The flags of `oar-tiles completions` and `oar-tiles man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `oar-tiles completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// `oar-tiles man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write a page for each command into this folder, which is made if it is missing
    #[arg(long, short, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}
