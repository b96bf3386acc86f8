//! `oar-tiles completions` and `oar-tiles man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::command;
use crate::report::print_script;
use crate::run::{CommandError, WrittenFileError};

/// `oar-tiles completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// `oar-tiles man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write a page for each command into this folder, which is made if it is missing
    #[arg(long, short, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

// `completions` and `man`: the help in the form for a shell and for `man`.

pub(crate) fn run_completions(arguments: &Completions) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "oar-tiles", &mut script);
    // If the program's name has a hyphen, clap_complete 4.6 writes two different labels for bash, and nothing after a
    // verb would be completed.
    let script = String::from_utf8_lossy(&script).replace("oar__subcmd__tiles", "oar__tiles");
    Ok(print_script(&script)?)
}

pub(crate) fn run_man(arguments: &Man) -> Result<(), CommandError> {
    let Some(folder) = &arguments.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command()).render(&mut page)?;
        return Ok(print_script(&String::from_utf8_lossy(&page))?);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command(), folder))
        .map_err(|source| WrittenFileError::NoManualPages { path: folder.clone(), source }.into())
}
