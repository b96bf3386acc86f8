//! The walk over a directory: every file that may be a tile.

use std::io;

use rustix::fs::FileType;

use super::folder::{OpenFolder, Unreachable, split};
use crate::sink::tree::Template;
use crate::stop::Stop;

/// Calls `each` with the name of every file in the folders below `root` that may hold tiles of the template. Opens no file, follows no link
/// to a folder, and leaves out names that are not UTF-8, which no tile has.
///
/// # Errors
/// The outer result: if a folder cannot be read, or a stop was asked for. The inner result: what `each` returned.
pub(super) fn walk<E>(
    root: &OpenFolder,
    template: &Template,
    stop: &Stop,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<Result<(), E>, Unreachable> {
    // Folders that have not been read yet, as names below the root.
    let mut waiting = vec![split(&template.prefix()).0.to_owned()];
    while let Some(name) = waiting.pop() {
        let folder = match root.find(&name) {
            Err(missing) if missing.is_missing() => continue,
            // There are no tiles below a file or a link. A run that has to write one there reports what is in the way.
            Err(Unreachable::NoFolder(_) | Unreachable::Link(_)) => continue,
            found => found?,
        };
        if stop.asked().is_some() {
            return Err(Unreachable::Io(folder.path().to_owned(), io::Error::from(io::ErrorKind::Interrupted)));
        }
        let mut found = Ok(());
        let read = folder.each(|part, kind| {
            let name = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
            if kind == FileType::Directory {
                if template.may_hold(&name) {
                    waiting.push(name);
                }
            } else if found.is_ok() {
                found = each(&name);
            }
        });
        match read {
            Err(missing) if missing.is_missing() => {}
            read => read?,
        }
        if found.is_err() {
            return Ok(found);
        }
    }
    Ok(Ok(()))
}
