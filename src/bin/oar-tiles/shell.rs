//! `completions` and `man`: the help in the form for a shell and for `man`.

use oar_tiles::cli::{Completions, Man, command};
use oar_tiles::report::print_script;
use oar_tiles::run::{CommandError, WrittenFileError};

pub(super) fn run_completions(arguments: &Completions) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "oar-tiles", &mut script);
    // If the program's name has a hyphen, clap_complete 4.6 writes two different labels for bash, and nothing after a verb would be completed.
    let script = String::from_utf8_lossy(&script).replace("oar__subcmd__tiles", "oar__tiles");
    Ok(print_script(&script)?)
}

pub(super) fn run_man(arguments: &Man) -> Result<(), CommandError> {
    let Some(folder) = &arguments.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command()).render(&mut page)?;
        return Ok(print_script(&String::from_utf8_lossy(&page))?);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command(), folder))
        .map_err(|source| WrittenFileError::NoManualPages { path: folder.clone(), source }.into())
}
